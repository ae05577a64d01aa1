-- The chain's name: in every body, so that a record of one log cannot stand in another.

CREATE TABLE mer.chain (
    id uuid NOT NULL DEFAULT gen_random_uuid(),
    only_one boolean PRIMARY KEY DEFAULT true CHECK (only_one)
);

INSERT INTO mer.chain DEFAULT VALUES;

-- `body` is the very text that was hashed: jsonb would give other bytes (order of keys, spaces, 1e16).

CREATE TABLE mer.access (
    seq bigint PRIMARY KEY,
    previous text COLLATE "C" NOT NULL,
    digest text COLLATE "C" NOT NULL,
    body text NOT NULL,
    kind text COLLATE "C" NOT NULL,
    at timestamptz NOT NULL,
    invocation uuid,
    lease uuid,
    actor text COLLATE "C",
    model text COLLATE "C",
    version integer,
    server text COLLATE "C",
    outcome text COLLATE "C",
    action text COLLATE "C",
    CONSTRAINT access_once UNIQUE (invocation, kind),
    CONSTRAINT access_kind CHECK (kind IN ('started', 'finished', 'refused', 'late', 'change'))
);

CREATE INDEX access_at ON mer.access (at, seq);

CREATE INDEX access_model ON mer.access (model, at, seq);

CREATE INDEX access_actor ON mer.access (actor, at, seq);

-- What went wrong is rare and often asked for; what went well needs no index to be found.

CREATE INDEX access_failures ON mer.access (outcome, seq) WHERE outcome <> 'succeeded';

-- As many rows as runs are under way: an index more would cost each run more than it saves.

CREATE TABLE mer.open_invocation (
    invocation uuid PRIMARY KEY,
    lease uuid NOT NULL,
    started_seq bigint NOT NULL,
    model text COLLATE "C" NOT NULL,
    server text COLLATE "C" NOT NULL
);

-- Nothing is ever in it. Appending locks it, and since the driver may not, nobody can hold up the log but by appending.

CREATE TABLE mer.access_lock ();

-- The only ways into the log: many bodies, or one. docs/decisions/02-append-function.md has the reasons. `other` tells that a
-- record of that invocation and kind stood there before, with another body.

CREATE FUNCTION mer.append(bodies text[]) RETURNS TABLE (seq bigint, digest text, other boolean)
LANGUAGE plpgsql SECURITY DEFINER SET search_path = pg_catalog, pg_temp AS $append$
#variable_conflict use_column
DECLARE
    last record := mer.last_place();
    next_digest text := last.digest;
    body text;
    place bigint := last.seq;
    digests text[];
BEGIN
    FOREACH body IN ARRAY bodies LOOP
        place := place + 1;
        next_digest := mer.digest(next_digest, body, place);
        digests := digests || next_digest;
    END LOOP;
    BEGIN
        PERFORM mer.insert_records(bodies, last.digest || digests, last.seq);
        RETURN QUERY SELECT last.seq + n, d, false FROM unnest(digests) WITH ORDINALITY AS u(d, n);
        RETURN;
    EXCEPTION WHEN unique_violation THEN
        -- some of them are there already: their writer was not told, and appends them again
    END;
    FOREACH body IN ARRAY bodies LOOP
        RETURN QUERY SELECT one.seq, one.digest, one.other FROM mer.append_one(body) AS one;
    END LOOP;
END
$append$;

-- What a lone caller waits for, twice a run: half of what a group of one takes. It relies on nothing but the lock, too.

CREATE FUNCTION mer.append_one(body text, OUT seq bigint, OUT digest text, OUT other boolean)
LANGUAGE plpgsql SECURITY DEFINER SET search_path = pg_catalog, pg_temp AS $append_one$
DECLARE
    last record := mer.last_place();
    added mer.access;
BEGIN
    seq := last.seq + 1;
    digest := mer.digest(last.digest, body, seq);
    other := false;
    INSERT INTO mer.access
        (seq, previous, digest, body, kind, at, invocation, lease, actor, model, version, server, outcome, action)
    SELECT append_one.seq, last.digest, append_one.digest, append_one.body, d.* FROM mer.derived(append_one.body) AS d
    ON CONFLICT ON CONSTRAINT access_once DO NOTHING
    RETURNING * INTO added;
    IF added.seq IS NULL THEN
        -- it is there already: its writer was not told, and appends it again; or somebody else's is there
        SELECT a.seq, a.digest, a.body <> append_one.body INTO seq, digest, other
        FROM mer.derived(append_one.body) AS d JOIN mer.access a USING (invocation, kind);
    ELSIF added.kind = 'started' THEN
        INSERT INTO mer.open_invocation (invocation, lease, started_seq, model, server)
        VALUES (added.invocation, added.lease, added.seq, added.model, added.server);
    ELSIF added.kind = 'finished' THEN
        DELETE FROM mer.open_invocation AS o WHERE o.invocation = added.invocation;
    END IF;
END
$append_one$;

-- The place of the last record, which stays the last one until the transaction ends.

CREATE FUNCTION mer.last_place(OUT seq bigint, OUT digest text)
LANGUAGE plpgsql AS $last$
BEGIN
    -- with an older snapshot the last row would be one that others have followed already
    IF current_setting('transaction_isolation') <> 'read committed' THEN
        RAISE EXCEPTION 'mer.append needs READ COMMITTED, not %', upper(current_setting('transaction_isolation'))
            USING ERRCODE = 'invalid_transaction_state';
    END IF;
    -- a session can set it off, and would then be told of records that a crash takes back
    PERFORM set_config('synchronous_commit', 'on', true);
    LOCK TABLE mer.access_lock IN EXCLUSIVE MODE;
    -- 5-filling.sql
    IF EXISTS (SELECT FROM mer.filling) <> (current_setting('mer.fills', true) IS NOT DISTINCT FROM 'on') THEN
        IF current_setting('mer.fills', true) = 'on' THEN
            RAISE EXCEPTION 'what filled the database was given up' USING ERRCODE = 'restrict_violation';
        END IF;
        RAISE EXCEPTION 'the database is being filled' USING ERRCODE = 'MER01';
    END IF;
    -- a statement of its own: together with the lock it would read as of before the wait
    SELECT a.seq, a.digest INTO seq, digest FROM mer.access a ORDER BY a.seq DESC LIMIT 1;
    IF NOT FOUND THEN
        seq := 0;
        digest := repeat('0', 64);
    END IF;
END
$last$;

-- core.chain.digest, byte for byte.

CREATE FUNCTION mer.digest(previous text, body text, seq bigint) RETURNS text
LANGUAGE sql IMMUTABLE AS $digest$
    SELECT encode(sha256(convert_to(
        '{"previous":"' || previous || '","record":' || body || ',"seq":' || seq || '}', 'UTF8')), 'hex')
$digest$;

-- Columns, derived from a body as core.chain.derived does. What does not fit its column, a time that is not written as
-- bodies write it among that, is refused.

CREATE FUNCTION mer.derived(body text) RETURNS TABLE (
    kind text, at timestamptz, invocation uuid, lease uuid, actor text, model text, version integer, server text,
    outcome text, action text)
LANGUAGE sql STABLE AS $derived$
    SELECT f.kind,
        CASE to_char(f.at::timestamptz AT TIME ZONE 'UTC', 'YYYY-MM-DD"T"HH24:MI:SS.US"Z"')
            WHEN f.at THEN f.at::timestamptz END,
        f.invocation, f.lease, CASE json_typeof(f.actor) WHEN 'object' THEN f.actor ->> 'user' END,
        f.model, f.version, f.server, f.outcome, f.action
    FROM json_to_record(body::json) AS f(
        kind text, at text, invocation uuid, lease uuid, actor json, model text, version integer, server text,
        outcome text, action text)
$derived$;

-- `digests` begins with the one before the first.

CREATE FUNCTION mer.insert_records(bodies text[], digests text[], last_seq bigint) RETURNS void
LANGUAGE plpgsql AS $insert$
#variable_conflict use_column
BEGIN
    WITH added AS (
        INSERT INTO mer.access
            (seq, previous, digest, body, kind, at, invocation, lease, actor, model, version, server, outcome, action)
        SELECT last_seq + given.n, digests[given.n], digests[given.n + 1], given.body, d.*
        FROM unnest(bodies) WITH ORDINALITY AS given(body, n)
        CROSS JOIN LATERAL mer.derived(given.body) AS d
        RETURNING seq, kind, invocation, lease, model, server
    ), opened AS (
        INSERT INTO mer.open_invocation (invocation, lease, started_seq, model, server)
        SELECT invocation, lease, seq, model, server FROM added
        WHERE kind = 'started'
            AND invocation NOT IN (SELECT invocation FROM added WHERE kind = 'finished' AND invocation IS NOT NULL)
    )
    DELETE FROM mer.open_invocation WHERE invocation IN (SELECT invocation FROM added WHERE kind = 'finished');
END
$insert$;
