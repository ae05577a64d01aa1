"""What people see and type: one tree of commands for one-shots and the REPL, and the only code that prints."""
