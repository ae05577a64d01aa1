-- Statement triggers: a row trigger does not see TRUNCATE. They hold for the tables' owner too.

CREATE FUNCTION mer.refuse() RETURNS trigger
LANGUAGE plpgsql SET search_path = pg_catalog, pg_temp AS $refuse$
BEGIN
    RAISE EXCEPTION 'what is in mer.% is never changed or removed', TG_TABLE_NAME USING ERRCODE = 'restrict_violation';
END
$refuse$;

CREATE TRIGGER never_changed BEFORE UPDATE OR DELETE OR TRUNCATE ON mer.access
FOR EACH STATEMENT EXECUTE FUNCTION mer.refuse();

CREATE TRIGGER never_changed BEFORE UPDATE OR DELETE OR TRUNCATE ON mer.version
FOR EACH STATEMENT EXECUTE FUNCTION mer.refuse();

CREATE TRIGGER never_changed BEFORE UPDATE OR DELETE OR TRUNCATE ON mer.retirement
FOR EACH STATEMENT EXECUTE FUNCTION mer.refuse();

CREATE TRIGGER never_changed BEFORE UPDATE OR DELETE OR TRUNCATE ON mer.alias_move
FOR EACH STATEMENT EXECUTE FUNCTION mer.refuse();

CREATE TRIGGER never_changed BEFORE UPDATE OR DELETE OR TRUNCATE ON mer.weights_version
FOR EACH STATEMENT EXECUTE FUNCTION mer.refuse();
