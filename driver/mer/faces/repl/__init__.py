"""The REPL: the same tree of commands at a prompt, or line by line from a script; one file a concern."""
