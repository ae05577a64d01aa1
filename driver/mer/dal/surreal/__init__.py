"""The store on SurrealDB: the only package that imports surrealdb."""
