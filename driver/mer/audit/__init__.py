"""The access log over the store: append, list, verify, export."""
