-- name: put
-- In place of the one of that model and server, if there is one.
INSERT INTO mer.placement (model, server, version, device, path, created_at)
VALUES (%(model)s, %(server)s, %(version)s, %(device)s, %(path)s, %(created_at)s)
ON CONFLICT (model, server) DO UPDATE
SET version = excluded.version, device = excluded.device, path = excluded.path, created_at = excluded.created_at;

-- name: remove
-- Gives back what was removed, so that nothing removed shows.
DELETE FROM mer.placement WHERE model = %(model)s AND server = %(server)s RETURNING model;

-- name: of_model
-- With their servers, by the server's name.
SELECT p.model::text, p.server::text, p.version, p.device, p.path, p.created_at,
    s.id::text AS server_id, s.name, s.kind, s.description, s.labels, s.parameters,
    s.created_at AS server_created_at, s.retired_at
FROM mer.placement AS p JOIN mer.server AS s ON s.id = p.server
WHERE p.model = %(model)s ORDER BY s.name;

-- name: of_server
-- With their models, by the model's name.
SELECT p.model::text, p.server::text, p.version, p.device, p.path, p.created_at,
    m.id::text AS model_id, m.name, m.description, m.labels, m.created_at AS model_created_at, m.retired_at
FROM mer.placement AS p JOIN mer.model AS m ON m.id = p.model
WHERE p.server = %(server)s AND (%(after)s::text IS NULL OR m.name > %(after)s)
ORDER BY m.name LIMIT %(limit)s;
