-- A database that takes over another's log takes over the chain's name, which stands in every body. While the log is empty
-- the name protects nothing; from the first record on it never changes, for the tables' owner neither.

CREATE FUNCTION mer.refuse_unless_empty() RETURNS trigger
LANGUAGE plpgsql SET search_path = pg_catalog, pg_temp AS $refuse$
BEGIN
    IF TG_OP <> 'UPDATE' OR EXISTS (SELECT FROM mer.access) THEN
        RAISE EXCEPTION 'the access log has records: its chain keeps its name' USING ERRCODE = 'restrict_violation';
    END IF;
    RETURN NULL;
END
$refuse$;

CREATE TRIGGER never_changed BEFORE UPDATE OR DELETE OR TRUNCATE ON mer.chain
FOR EACH STATEMENT EXECUTE FUNCTION mer.refuse_unless_empty();

CREATE FUNCTION mer.adopt_chain(chain uuid) RETURNS void
LANGUAGE plpgsql SECURITY DEFINER SET search_path = pg_catalog, pg_temp AS $adopt$
BEGIN
    -- with an older snapshot the log would look empty after others have written to it
    IF current_setting('transaction_isolation') <> 'read committed' THEN
        RAISE EXCEPTION 'mer.adopt_chain needs READ COMMITTED, not %', upper(current_setting('transaction_isolation'))
            USING ERRCODE = 'invalid_transaction_state';
    END IF;
    -- as appending does, so that no first record comes in between
    LOCK TABLE mer.access_lock IN EXCLUSIVE MODE;
    IF NOT EXISTS (SELECT FROM mer.chain AS c WHERE c.id = adopt_chain.chain) THEN
        UPDATE mer.chain SET id = adopt_chain.chain;
    END IF;
END
$adopt$;
