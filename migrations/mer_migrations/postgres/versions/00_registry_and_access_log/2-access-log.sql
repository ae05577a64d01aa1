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

CREATE TABLE mer.open_invocation (
    invocation uuid PRIMARY KEY,
    lease uuid NOT NULL,
    started_seq bigint NOT NULL,
    model text COLLATE "C" NOT NULL,
    server text COLLATE "C" NOT NULL
);

CREATE INDEX open_invocation_lease ON mer.open_invocation (lease, started_seq);

CREATE INDEX open_invocation_model ON mer.open_invocation (model);

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
    found_kind text;
    fields record;
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
    FOREACH body IN ARRAY bodies LOOP
        SELECT f.* INTO STRICT fields FROM json_to_record(body::json) AS f(
            kind text, at text, invocation uuid, lease uuid, actor json, model text, version integer, server text,
            outcome text, action text);
        IF to_char(fields.at::timestamptz AT TIME ZONE 'UTC', 'YYYY-MM-DD"T"HH24:MI:SS.US"Z"') IS DISTINCT FROM fields.at THEN
            RAISE EXCEPTION 'the time of a record is not in its form: %', fields.at USING ERRCODE = 'invalid_datetime_format';
        END IF;
        next_digest := encode(sha256(convert_to(
            '{"previous":"' || last_digest || '","record":' || body || ',"seq":' || (last_seq + 1) || '}', 'UTF8')), 'hex');
        INSERT INTO mer.access
            (seq, previous, digest, body, kind, at, invocation, lease, actor, model, version, server, outcome, action)
        VALUES (last_seq + 1, last_digest, next_digest, body, fields.kind, fields.at::timestamptz, fields.invocation,
            fields.lease, CASE json_typeof(fields.actor) WHEN 'object' THEN fields.actor ->> 'user' END, fields.model,
            fields.version, fields.server, fields.outcome, fields.action)
        ON CONFLICT ON CONSTRAINT access_once DO NOTHING;
        IF NOT FOUND THEN
            -- it is there already: the writer was not told, and asks again
            RETURN QUERY SELECT a.seq, a.digest FROM mer.access a
                WHERE a.invocation = fields.invocation AND a.kind = fields.kind;
            CONTINUE;
        END IF;
        last_seq := last_seq + 1;
        last_digest := next_digest;
        found_kind := fields.kind;
        IF found_kind = 'started' THEN
            INSERT INTO mer.open_invocation (invocation, lease, started_seq, model, server)
            VALUES (fields.invocation, fields.lease, last_seq, fields.model, fields.server);
        ELSIF found_kind = 'finished' THEN
            DELETE FROM mer.open_invocation o WHERE o.invocation = fields.invocation;
        END IF;
        seq := last_seq;
        digest := last_digest;
        RETURN NEXT;
    END LOOP;
END
$append$;
