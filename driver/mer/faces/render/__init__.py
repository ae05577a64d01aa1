"""How results look on a terminal, in a pipe and as JSON. The only code that prints."""
