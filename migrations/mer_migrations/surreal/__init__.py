"""Migrations of SurrealDB, by numbered scripts."""
