-- name: acquire
-- Both times by this server's clock; clock_timestamp() goes on within a transaction, now() stands still.
INSERT INTO mer.lease (id, host, boot_id, pid_namespace, pid, process_started, actor, acquired_at, last_seen)
SELECT %(id)s, %(host)s, %(boot_id)s, %(pid_namespace)s, %(pid)s, %(process_started)s, %(actor)s, clock.now, clock.now
FROM (SELECT clock_timestamp() AS now) AS clock;

-- name: renew
-- Gives back the id where the lease is still held.
UPDATE mer.lease SET last_seen = clock_timestamp() WHERE id = %(id)s RETURNING id;

-- name: release
-- Removing it twice is no fault.
DELETE FROM mer.lease WHERE id = %(id)s;

-- name: all
-- Oldest first.
SELECT id::text, host, boot_id, pid_namespace, pid, process_started, actor, acquired_at, last_seen
FROM mer.lease ORDER BY acquired_at, id;

-- name: now
-- The clock that last_seen is set by.
SELECT clock_timestamp() AS now;
