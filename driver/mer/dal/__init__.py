"""The data-access layer: the only code that speaks SQL or SurrealQL."""
