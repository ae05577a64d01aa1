"""What people meet: commands, the REPL, and how results are drawn."""
