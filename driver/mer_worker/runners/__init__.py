"""Adapters, one file a framework: each loads one kind of package and answers for it."""
