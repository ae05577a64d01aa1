-- name: add
-- Two of one name or id violate model_name_unique or model_pkey.
INSERT INTO mer.model (id, name, description, labels, created_at, retired_at)
VALUES (%(id)s, %(name)s, %(description)s, %(labels)s, %(created_at)s, %(retired_at)s);

-- name: get
-- A model by name, retired or not.
SELECT id::text, name, description, labels, created_at, retired_at
FROM mer.model WHERE name = %(name)s;

-- name: get_for_change
-- The same inside a transaction: whoever reads it there means to change it, and waits for who was first.
SELECT id::text, name, description, labels, created_at, retired_at
FROM mer.model WHERE name = %(name)s FOR NO KEY UPDATE;

-- name: replace
-- The whole record of that id anew.
UPDATE mer.model SET name = %(name)s, description = %(description)s, labels = %(labels)s, created_at = %(created_at)s, retired_at = %(retired_at)s
WHERE id = %(id)s RETURNING id;

-- name: page
-- By name, after a name; retired ones where they are wanted.
SELECT id::text, name, description, labels, created_at, retired_at
FROM mer.model
WHERE (%(after)s::text IS NULL OR name > %(after)s) AND (%(retired)s OR retired_at IS NULL)
ORDER BY name LIMIT %(limit)s;

-- name: add_version
-- A number that is taken violates version_pkey.
INSERT INTO mer.version (model, number, spec, package, weights, created_at)
VALUES (%(model)s, %(number)s, %(spec)s, %(package)s, %(weights)s, %(created_at)s);

-- name: version
-- One version.
SELECT model::text, number, spec, package, weights, created_at FROM mer.version
WHERE model = %(model)s AND number = %(number)s;

-- name: latest_version
-- The highest number, 0 where there is none.
SELECT coalesce(max(number), 0) AS number FROM mer.version WHERE model = %(model)s;

-- name: versions
-- Newest first, below a number.
SELECT model::text, number, spec, package, weights, created_at FROM mer.version
WHERE model = %(model)s AND (%(after)s::bigint IS NULL OR number < %(after)s)
ORDER BY number DESC LIMIT %(limit)s;

-- name: retire_version
-- Retiring twice keeps the first; a version that is not there violates retirement_of_version.
INSERT INTO mer.retirement (model, number, at) VALUES (%(model)s, %(number)s, %(at)s)
ON CONFLICT (model, number) DO NOTHING;

-- name: retirements
-- Of all versions of a model, by number.
SELECT model::text, number, at FROM mer.retirement WHERE model = %(model)s ORDER BY number;

-- name: move_alias
-- A move that is taken violates alias_move_pkey.
INSERT INTO mer.alias_move (model, alias, move, version, at, actor)
VALUES (%(model)s, %(alias)s, %(move)s, %(version)s, %(at)s, %(actor)s);

-- name: last_move
-- The newest move of one alias, whatever it means.
SELECT model::text, alias, move, version, at, actor FROM mer.alias_move
WHERE model = %(model)s AND alias = %(alias)s ORDER BY move DESC LIMIT 1;

-- name: aliases
-- The newest move of every alias that means something, by name.
SELECT model::text, alias, move, version, at, actor FROM (
    SELECT DISTINCT ON (alias) * FROM mer.alias_move WHERE model = %(model)s ORDER BY alias, move DESC
) AS newest WHERE version IS NOT NULL ORDER BY alias;

-- name: alias_history
-- All moves of a model's aliases, newest first, before a move.
SELECT model::text, alias, move, version, at, actor FROM mer.alias_move
WHERE model = %(model)s AND (%(at)s::timestamptz IS NULL OR (at, alias, move) < (%(at)s, %(alias)s, %(move)s::int))
ORDER BY at DESC, alias DESC, move DESC LIMIT %(limit)s;
