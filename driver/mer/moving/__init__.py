"""Moving house: a registry and its access log from one database to another, into a file, and out of one."""
