"""The command tree, one module a noun: the same for REPL, one-shots, help and completion."""
