"""The prompt, one file a concern."""
