-- name: chain
-- The chain's UUID.
SELECT id::text FROM mer.chain;

-- name: adopt_chain
-- Another chain's name, while the log is empty.
SELECT mer.adopt_chain(%(chain)s);

-- name: append
-- The only way into the log: gives each body's place, in their order. The bodies go as bytes (%()b): in an array that is
-- text every quote of theirs is escaped, which took longer than all the rest of the client's work.
SELECT seq, digest, other FROM mer.append(%(bodies)b);

-- name: append_one
-- The same for a single body, which is libpq's own parameter: appending.py.
SELECT seq, digest, other FROM mer.append_one($1);

-- name: fill
-- The same for the copy or the restore that the database is being filled by.
SELECT seq, digest, other FROM mer.fill(%(bodies)b);

-- name: filling
-- What fills the database, and since when.
SELECT source, since FROM mer.filling;

-- name: begin_filling
-- From now on, only by this.
SELECT mer.begin_filling(%(source)s);

-- name: end_filling
-- Nothing any more.
SELECT mer.end_filling();

-- name: head
-- The last record's place.
SELECT seq, digest FROM mer.access ORDER BY seq DESC LIMIT 1;

-- name: get
-- One record.
SELECT seq, previous, digest, body, kind, at::text AS shown, invocation::text, lease::text, actor, model, version, server, outcome, action
FROM mer.access WHERE seq = %(seq)s;

-- name: of_invocation
-- Oldest first.
SELECT seq, previous, digest, body, kind, at::text AS shown, invocation::text, lease::text, actor, model, version, server, outcome, action
FROM mer.access WHERE invocation = %(invocation)s ORDER BY seq;

-- name: newest_page
-- Everything, newest first, before a place.
SELECT seq, previous, digest, body, kind, at::text AS shown, invocation::text, lease::text, actor, model, version, server, outcome, action
FROM mer.access WHERE seq < %(after)s ORDER BY seq DESC LIMIT %(limit)s;

-- name: filtered_page
-- What fits, newest first by place.
SELECT seq, previous, digest, body, kind, at::text AS shown, invocation::text, lease::text, actor, model, version, server, outcome, action
FROM mer.access
WHERE (%(kind)s::text IS NULL OR kind = %(kind)s)
    AND (%(model)s::text IS NULL OR model = %(model)s)
    AND (%(server)s::text IS NULL OR server = %(server)s)
    AND (%(actor)s::text IS NULL OR actor = %(actor)s)
    AND (%(outcome)s::text IS NULL OR outcome = %(outcome)s)
    AND (%(invocation)s::uuid IS NULL OR invocation = %(invocation)s)
    AND (%(since)s::timestamptz IS NULL OR at >= %(since)s)
    AND (%(until)s::timestamptz IS NULL OR at < %(until)s)
    AND (%(after)s::bigint IS NULL OR seq < %(after)s)
ORDER BY seq DESC LIMIT %(limit)s;

-- name: filtered_page_by_time
-- The same where a time is asked for. By place alone it would walk back through the whole log to an old day; and times do
-- not say where to begin, since writers' clocks differ. So the latest by time come first: as many stand at or after the
-- lowest of their places as the page takes, and the page is from there on. Both searches read an index and no row.
-- `seq + 0`, or the planner takes the walk, for which it expects what fits to be spread evenly.
SELECT seq, previous, digest, body, kind, at::text AS shown, invocation::text, lease::text, actor, model, version, server, outcome, action
FROM mer.access
WHERE seq IN (
    WITH latest AS MATERIALIZED (
        SELECT seq FROM mer.access
        WHERE (%(kind)s::text IS NULL OR kind = %(kind)s)
            AND (%(model)s::text IS NULL OR model = %(model)s)
            AND (%(server)s::text IS NULL OR server = %(server)s)
            AND (%(actor)s::text IS NULL OR actor = %(actor)s)
            AND (%(outcome)s::text IS NULL OR outcome = %(outcome)s)
            AND (%(invocation)s::uuid IS NULL OR invocation = %(invocation)s)
            AND (%(since)s::timestamptz IS NULL OR at >= %(since)s)
            AND (%(until)s::timestamptz IS NULL OR at < %(until)s)
            AND (%(after)s::bigint IS NULL OR seq < %(after)s)
        ORDER BY at DESC LIMIT %(limit)s
    )
    SELECT seq FROM mer.access
    WHERE (%(kind)s::text IS NULL OR kind = %(kind)s)
        AND (%(model)s::text IS NULL OR model = %(model)s)
        AND (%(server)s::text IS NULL OR server = %(server)s)
        AND (%(actor)s::text IS NULL OR actor = %(actor)s)
        AND (%(outcome)s::text IS NULL OR outcome = %(outcome)s)
        AND (%(invocation)s::uuid IS NULL OR invocation = %(invocation)s)
        AND (%(since)s::timestamptz IS NULL OR at >= %(since)s)
        AND (%(until)s::timestamptz IS NULL OR at < %(until)s)
        AND (%(after)s::bigint IS NULL OR seq < %(after)s)
        AND seq >= (SELECT min(seq) FROM latest)
    ORDER BY seq + 0 DESC LIMIT %(limit)s
)
ORDER BY seq DESC;

-- name: scan
-- Oldest first, between two places.
SELECT seq, previous, digest, body, kind, at::text AS shown, invocation::text, lease::text, actor, model, version, server, outcome, action
FROM mer.access WHERE seq > %(after)s AND seq <= %(until)s ORDER BY seq LIMIT %(limit)s;

-- name: unfinished
-- The open invocations of a lease, or of all, oldest first.
SELECT invocation::text, lease::text, started_seq, model, server FROM mer.open_invocation
WHERE (%(lease)s::uuid IS NULL OR lease = %(lease)s) ORDER BY started_seq;

-- name: unfinished_by_server
-- How many each server has of a model.
SELECT server, count(*) AS number FROM mer.open_invocation WHERE model = %(model)s GROUP BY server;
