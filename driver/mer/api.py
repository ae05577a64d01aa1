"""`Mer`: what the REPL, a one-shot and a Python program all call."""
