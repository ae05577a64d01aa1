"""Pure parts: they take bytes or records and give bytes or records, and import nothing else of mer."""
