-- name: add
-- Two of one name or id violate server_name_unique or server_pkey.
INSERT INTO mer.server (id, name, kind, description, labels, parameters, created_at, retired_at)
VALUES (%(id)s, %(name)s, %(kind)s, %(description)s, %(labels)s, %(parameters)s, %(created_at)s, %(retired_at)s);

-- name: get
-- A server by name, retired or not.
SELECT id::text, name, kind, description, labels, parameters, created_at, retired_at
FROM mer.server WHERE name = %(name)s;

-- name: get_for_change
-- The same inside a transaction: whoever reads it there means to change it, and waits for who was first.
SELECT id::text, name, kind, description, labels, parameters, created_at, retired_at
FROM mer.server WHERE name = %(name)s FOR NO KEY UPDATE;

-- name: replace
-- The whole record of that id anew.
UPDATE mer.server SET name = %(name)s, kind = %(kind)s, description = %(description)s, labels = %(labels)s, parameters = %(parameters)s, created_at = %(created_at)s, retired_at = %(retired_at)s
WHERE id = %(id)s RETURNING id;

-- name: page
-- By name, after a name; retired ones where they are wanted.
SELECT id::text, name, kind, description, labels, parameters, created_at, retired_at
FROM mer.server
WHERE (%(after)s::text IS NULL OR name > %(after)s) AND (%(retired)s OR retired_at IS NULL)
ORDER BY name LIMIT %(limit)s;
