"""The store on Postgres: the only package that imports psycopg."""
