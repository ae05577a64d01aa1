-- name: describe
-- What the server says of itself and of this login. Superusers may do everything and are nobody's role here.
SELECT current_setting('server_version') AS version,
    current_user AS login,
    pg_catalog.pg_database_size(current_database()) AS size,
    (SELECT count(*) FROM pg_stat_activity WHERE backend_type = 'client backend') AS connections,
    current_setting('max_connections')::int AS connection_limit,
    (SELECT CASE WHEN ssl THEN version ELSE 'no' END FROM pg_stat_ssl WHERE pid = pg_backend_pid()) AS encrypted;

-- name: roles
-- Who owns the schema, who may append, and who may read: by name.
SELECT role.rolname AS name,
    role.oid = schema.nspowner AS owner,
    has_function_privilege(role.oid, 'mer.append(text[])', 'EXECUTE') AS driver
FROM pg_roles AS role JOIN pg_namespace AS schema ON schema.nspname = 'mer'
WHERE role.rolcanlogin AND NOT role.rolsuper
    AND has_schema_privilege(role.oid, schema.oid, 'USAGE')
    AND has_table_privilege(role.oid, 'mer.access', 'SELECT')
ORDER BY role.rolname;
