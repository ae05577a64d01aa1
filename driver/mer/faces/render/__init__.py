"""The only code that prints: results to stdout, the rest to stderr, nothing from outside unescaped on a terminal."""
