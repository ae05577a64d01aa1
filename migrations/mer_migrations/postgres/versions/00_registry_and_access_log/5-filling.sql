-- A database that a copy or a restore fills is nobody else's until that has ended: who appended to it meanwhile, or after it was
-- cut, would have a log that has parted from the other. One row while it is so; mer.last_place looks for it.

CREATE TABLE mer.filling (
    source text NOT NULL,
    since timestamptz NOT NULL DEFAULT clock_timestamp(),
    only_one boolean PRIMARY KEY DEFAULT true CHECK (only_one)
);

CREATE FUNCTION mer.begin_filling(source text) RETURNS void
LANGUAGE plpgsql SECURITY DEFINER SET search_path = pg_catalog, pg_temp AS $begin$
BEGIN
    -- as appending does: what was under way is in the log when this returns
    LOCK TABLE mer.access_lock IN EXCLUSIVE MODE;
    INSERT INTO mer.filling (source) VALUES (begin_filling.source)
    ON CONFLICT (only_one) DO UPDATE SET source = excluded.source;
END
$begin$;

CREATE FUNCTION mer.end_filling() RETURNS void
LANGUAGE sql SECURITY DEFINER SET search_path = pg_catalog, pg_temp AS $end$
    DELETE FROM mer.filling
$end$;

-- What the copy itself appends by, until it is given up. It stops accidents: whoever may append to a log may fill one.

CREATE FUNCTION mer.fill(bodies text[]) RETURNS TABLE (seq bigint, digest text, other boolean)
LANGUAGE plpgsql SECURITY DEFINER SET search_path = pg_catalog, pg_temp AS $fill$
BEGIN
    PERFORM set_config('mer.fills', 'on', true);
    RETURN QUERY SELECT * FROM mer.append(bodies);
END
$fill$;
