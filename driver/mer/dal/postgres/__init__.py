"""PostgreSQL: the only package that imports psycopg. Nothing is imported here, so that asking for a path costs no 100 ms."""
