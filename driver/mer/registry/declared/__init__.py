"""The registry as a file: what it should hold, compared with what it holds, and written through the use-cases."""
