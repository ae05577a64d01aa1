"""MER, a model executor runtime: run registered models on any machine you can reach, every access on record."""
