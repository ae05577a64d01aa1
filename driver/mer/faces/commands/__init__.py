"""The commands, one module a noun: what an operator can do, the same in a one-shot and in the REPL."""
