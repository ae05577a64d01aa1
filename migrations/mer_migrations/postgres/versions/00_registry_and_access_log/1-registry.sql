-- Names compare by code point ("C"), so that every store lists them in one order.

CREATE TABLE mer.server (
    id uuid PRIMARY KEY,
    name text COLLATE "C" NOT NULL,
    kind text NOT NULL,
    description text NOT NULL,
    labels jsonb NOT NULL,
    parameters jsonb NOT NULL,
    created_at timestamptz NOT NULL,
    retired_at timestamptz,
    CONSTRAINT server_name_unique UNIQUE (name)
);

CREATE TABLE mer.model (
    id uuid PRIMARY KEY,
    name text COLLATE "C" NOT NULL,
    description text NOT NULL,
    labels jsonb NOT NULL,
    created_at timestamptz NOT NULL,
    retired_at timestamptz,
    CONSTRAINT model_name_unique UNIQUE (name)
);

CREATE TABLE mer.version (
    model uuid NOT NULL,
    number integer NOT NULL,
    spec jsonb NOT NULL,
    package text,
    weights text,
    created_at timestamptz NOT NULL,
    PRIMARY KEY (model, number),
    CONSTRAINT version_of_model FOREIGN KEY (model) REFERENCES mer.model (id),
    CONSTRAINT version_number_from_1 CHECK (number > 0)
);

CREATE TABLE mer.retirement (
    model uuid NOT NULL,
    number integer NOT NULL,
    at timestamptz NOT NULL,
    PRIMARY KEY (model, number),
    CONSTRAINT retirement_of_version FOREIGN KEY (model, number) REFERENCES mer.version (model, number)
);

CREATE TABLE mer.alias_move (
    model uuid NOT NULL,
    alias text COLLATE "C" NOT NULL,
    move integer NOT NULL,
    version integer,
    at timestamptz NOT NULL,
    actor text NOT NULL,
    PRIMARY KEY (model, alias, move),
    CONSTRAINT move_of_model FOREIGN KEY (model) REFERENCES mer.model (id),
    CONSTRAINT move_to_version FOREIGN KEY (model, version) REFERENCES mer.version (model, number),
    CONSTRAINT move_number_from_1 CHECK (move > 0)
);

CREATE INDEX alias_move_history ON mer.alias_move (model, at, alias, move);

CREATE TABLE mer.weights (
    id uuid PRIMARY KEY,
    name text COLLATE "C" NOT NULL,
    description text NOT NULL,
    labels jsonb NOT NULL,
    created_at timestamptz NOT NULL,
    retired_at timestamptz,
    CONSTRAINT weights_name_unique UNIQUE (name)
);

CREATE TABLE mer.weights_version (
    weights uuid NOT NULL,
    number integer NOT NULL,
    digest text NOT NULL,
    tensors integer NOT NULL,
    size bigint NOT NULL,
    created_at timestamptz NOT NULL,
    PRIMARY KEY (weights, number),
    CONSTRAINT version_of_weights FOREIGN KEY (weights) REFERENCES mer.weights (id),
    CONSTRAINT weights_number_from_1 CHECK (number > 0)
);

CREATE TABLE mer.placement (
    model uuid NOT NULL,
    server uuid NOT NULL,
    version integer,
    device text,
    path text,
    created_at timestamptz NOT NULL,
    PRIMARY KEY (model, server),
    CONSTRAINT placement_of_model FOREIGN KEY (model) REFERENCES mer.model (id),
    CONSTRAINT placement_on_server FOREIGN KEY (server) REFERENCES mer.server (id),
    CONSTRAINT placement_of_version FOREIGN KEY (model, version) REFERENCES mer.version (model, number)
);

CREATE INDEX placement_server ON mer.placement (server);

-- Both times come from this server's clock, so that the drivers' own clocks need not agree.

CREATE TABLE mer.lease (
    id uuid PRIMARY KEY,
    host text NOT NULL,
    boot_id text NOT NULL,
    pid_namespace text NOT NULL,
    pid bigint NOT NULL,
    process_started text NOT NULL,
    actor text NOT NULL,
    acquired_at timestamptz NOT NULL,
    last_seen timestamptz NOT NULL
);
