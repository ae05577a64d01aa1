-- It reads everything, writes the registry, and appends to the log by functions alone; into an empty one it may bring another's name.

GRANT USAGE ON SCHEMA mer TO {driver};

GRANT EXECUTE ON FUNCTION mer.append(text[]), mer.append_one(text), mer.adopt_chain(uuid) TO {driver};

GRANT EXECUTE ON FUNCTION mer.begin_filling(text), mer.fill(text[]), mer.end_filling() TO {driver};

GRANT SELECT ON mer.migration, mer.chain, mer.access, mer.open_invocation, mer.filling TO {driver};

GRANT SELECT, INSERT ON mer.version, mer.retirement, mer.alias_move, mer.weights_version TO {driver};

GRANT SELECT, INSERT, UPDATE ON mer.server, mer.model, mer.weights TO {driver};

GRANT SELECT, INSERT, UPDATE, DELETE ON mer.placement, mer.lease TO {driver};
