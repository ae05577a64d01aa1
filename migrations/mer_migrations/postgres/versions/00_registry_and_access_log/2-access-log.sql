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

-- The only way into the log. docs/decisions/02-append-function.md has the reasons.

CREATE FUNCTION mer.append(bodies text[]) RETURNS TABLE (seq bigint, digest text)
LANGUAGE plpgsql SECURITY DEFINER SET search_path = pg_catalog, pg_temp AS $append$
#variable_conflict use_column
DECLARE
    last_seq bigint;
    last_digest text;
    next_digest text;
    body text;
    place bigint;
    digests text[];
BEGIN
    -- with an older snapshot the last row would be one that others have followed already
    IF current_setting('transaction_isolation') <> 'read committed' THEN
        RAISE EXCEPTION 'mer.append needs READ COMMITTED, not %', upper(current_setting('transaction_isolation'))
            USING ERRCODE = 'invalid_transaction_state';
    END IF;
    -- a session can set it off, and would then be told of records that a crash takes back
    PERFORM set_config('synchronous_commit', 'on', true);
    LOCK TABLE mer.access_lock IN EXCLUSIVE MODE;
    -- a statement of its own: together with the lock it would read as of before the wait
    SELECT a.seq, a.digest INTO last_seq, last_digest FROM mer.access a ORDER BY a.seq DESC LIMIT 1;
    last_seq := coalesce(last_seq, 0);
    last_digest := coalesce(last_digest, repeat('0', 64));
    next_digest := last_digest;
    place := last_seq;
    FOREACH body IN ARRAY bodies LOOP
        place := place + 1;
        next_digest := mer.digest(next_digest, body, place);
        digests := digests || next_digest;
    END LOOP;
    BEGIN
        PERFORM mer.insert_records(bodies, last_digest || digests, last_seq);
        RETURN QUERY SELECT last_seq + n, d FROM unnest(digests) WITH ORDINALITY AS u(d, n);
        RETURN;
    EXCEPTION WHEN unique_violation THEN
        -- some of them are there already: their writer was not told, and appends them again
    END;
    FOREACH body IN ARRAY bodies LOOP
        SELECT a.seq, a.digest INTO place, next_digest
        FROM json_to_record(body::json) AS f(invocation uuid, kind text)
        JOIN mer.access a ON a.invocation = f.invocation AND a.kind = f.kind;
        IF NOT FOUND THEN
            place := last_seq + 1;
            next_digest := mer.digest(last_digest, body, place);
            PERFORM mer.insert_records(ARRAY[body], ARRAY[last_digest, next_digest], last_seq);
            last_seq := place;
            last_digest := next_digest;
        END IF;
        RETURN QUERY SELECT place, next_digest;
    END LOOP;
END
$append$;

-- core.chain.digest, byte for byte.

CREATE FUNCTION mer.digest(previous text, body text, seq bigint) RETURNS text
LANGUAGE sql IMMUTABLE AS $digest$
    SELECT encode(sha256(convert_to(
        '{"previous":"' || previous || '","record":' || body || ',"seq":' || seq || '}', 'UTF8')), 'hex')
$digest$;

-- Columns are derived as core.chain.derived does. `digests` begins with the one before the first. What does not fit its
-- column, a time that is not written as bodies write it among that, is refused.

CREATE FUNCTION mer.insert_records(bodies text[], digests text[], last_seq bigint) RETURNS void
LANGUAGE plpgsql AS $insert$
#variable_conflict use_column
BEGIN
    WITH added AS (
        INSERT INTO mer.access
            (seq, previous, digest, body, kind, at, invocation, lease, actor, model, version, server, outcome, action)
        SELECT last_seq + given.n, digests[given.n], digests[given.n + 1], given.body, f.kind,
            CASE to_char(f.at::timestamptz AT TIME ZONE 'UTC', 'YYYY-MM-DD"T"HH24:MI:SS.US"Z"')
                WHEN f.at THEN f.at::timestamptz END,
            f.invocation, f.lease, CASE json_typeof(f.actor) WHEN 'object' THEN f.actor ->> 'user' END,
            f.model, f.version, f.server, f.outcome, f.action
        FROM unnest(bodies) WITH ORDINALITY AS given(body, n)
        CROSS JOIN LATERAL json_to_record(given.body::json) AS f(
            kind text, at text, invocation uuid, lease uuid, actor json, model text, version integer, server text,
            outcome text, action text)
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
