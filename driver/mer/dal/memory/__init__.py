"""The store in this process's memory: for tests, and the measure of what the others must do."""
