-- It reads everything and does nothing else; mer.access_lock among that, which has no rows.

GRANT USAGE ON SCHEMA mer TO {auditor};

GRANT SELECT ON ALL TABLES IN SCHEMA mer TO {auditor};
