-- name: add
-- Two of one name or id violate weights_name_unique or weights_pkey.
INSERT INTO mer.weights (id, name, description, labels, created_at, retired_at)
VALUES (%(id)s, %(name)s, %(description)s, %(labels)s, %(created_at)s, %(retired_at)s);

-- name: get
-- Weights by name, retired or not.
SELECT id::text, name, description, labels, created_at, retired_at
FROM mer.weights WHERE name = %(name)s;

-- name: get_for_change
-- The same inside a transaction: whoever reads it there means to change it, and waits for who was first.
SELECT id::text, name, description, labels, created_at, retired_at
FROM mer.weights WHERE name = %(name)s FOR NO KEY UPDATE;

-- name: replace
-- The whole record of that id anew.
UPDATE mer.weights SET name = %(name)s, description = %(description)s, labels = %(labels)s, created_at = %(created_at)s, retired_at = %(retired_at)s
WHERE id = %(id)s RETURNING id;

-- name: page
-- By name, after a name; retired ones where they are wanted.
SELECT id::text, name, description, labels, created_at, retired_at
FROM mer.weights
WHERE (%(after)s::text IS NULL OR name > %(after)s) AND (%(retired)s OR retired_at IS NULL)
ORDER BY name LIMIT %(limit)s;

-- name: add_version
-- A number that is taken violates weights_version_pkey.
INSERT INTO mer.weights_version (weights, number, digest, tensors, size, created_at)
VALUES (%(weights)s, %(number)s, %(digest)s, %(tensors)s, %(size)s, %(created_at)s);

-- name: version
-- One version.
SELECT weights::text, number, digest, tensors, size, created_at FROM mer.weights_version
WHERE weights = %(weights)s AND number = %(number)s;

-- name: latest_version
-- The highest number, 0 where there is none.
SELECT coalesce(max(number), 0) AS number FROM mer.weights_version WHERE weights = %(weights)s;

-- name: versions
-- Newest first, below a number.
SELECT weights::text, number, digest, tensors, size, created_at FROM mer.weights_version
WHERE weights = %(weights)s AND (%(after)s::bigint IS NULL OR number < %(after)s)
ORDER BY number DESC LIMIT %(limit)s;
