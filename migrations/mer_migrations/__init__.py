"""The migrations program: it versions the schema that the driver uses."""
