"""Blobs, packages and weights by digest, on disk."""
