-- The registry and the access log are gone after this, with what refused to change them.

DROP FUNCTION mer.append(text[]), mer.append_one(text), mer.insert_records(text[], text[], bigint), mer.last_place(),
    mer.derived(text), mer.digest(text, text, bigint);

DROP FUNCTION mer.fill(text[]), mer.begin_filling(text), mer.end_filling();

DROP TABLE mer.access_lock, mer.filling, mer.open_invocation, mer.access, mer.chain;

DROP TABLE mer.lease, mer.placement, mer.weights_version, mer.weights, mer.alias_move, mer.retirement, mer.version;

DROP TABLE mer.model, mer.server;

DROP FUNCTION mer.refuse(), mer.refuse_unless_empty(), mer.adopt_chain(uuid);
