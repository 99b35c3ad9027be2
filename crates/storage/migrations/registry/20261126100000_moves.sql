-- Tenants' moves between databases: where each one stands, who holds it, and what it has to remove one day. The decision
-- itself is the row of registry.directory; what is here is written in the same transaction, and says what was being done
-- when somebody stopped. Times of leases are this server's, so that all nodes are judged by one clock.

CREATE TABLE registry.moves (
    id uuid CONSTRAINT moves_pkey PRIMARY KEY,
    tenant_id uuid NOT NULL CONSTRAINT moves_tenant_id_fkey REFERENCES registry.tenants (id),
    source_id uuid NOT NULL,
    source_placement text NOT NULL,
    target_id uuid NOT NULL,
    target_placement text NOT NULL,
    path text NOT NULL CONSTRAINT moves_path_check CHECK (path IN ('stream', 'triggers', 'short')),
    state text NOT NULL CONSTRAINT moves_state_check CHECK (state IN (
        'prepare', 'slot', 'copy', 'catch_up', 'verify', 'fence', 'decided', 'active', 'back', 'finished', 'aborted')),
    heading text NOT NULL CONSTRAINT moves_heading_check CHECK (heading IN ('source', 'target')),
    epoch bigint NOT NULL CONSTRAINT moves_epoch_check CHECK (epoch >= 1),
    prefix text NOT NULL CONSTRAINT moves_prefix_check CHECK (prefix COLLATE "C" ~ '^[0-9a-f]{32}$'),
    fingerprint text CONSTRAINT moves_fingerprint_check CHECK (length(fingerprint) BETWEEN 1 AND 255),
    started_by uuid,
    pace_bytes bigint CONSTRAINT moves_pace_bytes_check CHECK (pace_bytes BETWEEN 1 AND 4294967295),
    attempts integer NOT NULL DEFAULT 0 CONSTRAINT moves_attempts_check CHECK (attempts >= 0),
    wanted text CONSTRAINT moves_wanted_check CHECK (wanted IN ('abort', 'back', 'finish')),
    error text CONSTRAINT moves_error_check CHECK (length(error) <= 2000),
    pause_us bigint CONSTRAINT moves_pause_us_check CHECK (pause_us >= 0),
    owner uuid,
    token bigint NOT NULL DEFAULT 0 CONSTRAINT moves_token_check CHECK (token >= 0),
    lease_until timestamptz NOT NULL DEFAULT '-infinity',
    ended_at timestamptz,
    created_at timestamptz NOT NULL DEFAULT now(),
    updated_at timestamptz NOT NULL DEFAULT now(),
    CONSTRAINT moves_source_fkey FOREIGN KEY (source_id, source_placement) REFERENCES registry.databases (id, kind),
    CONSTRAINT moves_target_fkey FOREIGN KEY (target_id, target_placement) REFERENCES registry.databases (id, kind),
    CONSTRAINT moves_elsewhere_check CHECK (source_id <> target_id),
    CONSTRAINT moves_short_check CHECK (path <> 'short' OR state NOT IN ('slot', 'copy', 'catch_up', 'verify', 'back')),
    CONSTRAINT moves_ended_check CHECK (ended_at IS NULL OR (state IN ('finished', 'aborted') AND owner IS NULL))
);
COMMENT ON TABLE registry.moves IS 'Every move of a tenant. Live until ended_at, and then the tenant''s only one.';
COMMENT ON COLUMN registry.moves.heading IS 'Where the last cutover went, or the next one goes.';
COMMENT ON COLUMN registry.moves.epoch IS
    'At which epoch the tenant is served until that cutover is decided: e of e+1 (decided) and e+2 (given up).';
COMMENT ON COLUMN registry.moves.prefix IS
    'Secret. What the move''s own transactions are told by: whoever knows it could make another look like one of them.';
COMMENT ON COLUMN registry.moves.started_by IS 'Who wanted it; NULL: the platform. No foreign key: moves outlive people.';
COMMENT ON COLUMN registry.moves.wanted IS 'What somebody asks of it. Its owner sees it at its next step.';
COMMENT ON COLUMN registry.moves.pause_us IS 'Microseconds that the last cutover held the tenant up.';
COMMENT ON COLUMN registry.moves.token IS
    'Grows with each owner. Who writes with an older one writes nothing: it was held for longer than its lease.';
COMMENT ON COLUMN registry.moves.lease_until IS 'Until then it is its owner''s; nobody''s: from then on it may be claimed.';
COMMENT ON COLUMN registry.moves.ended_at IS 'When all that it had made was removed.';
-- One move a tenant at a time. Also one that is over, as long as it has rows of the tenant to remove.
CREATE UNIQUE INDEX moves_live_key ON registry.moves (tenant_id) WHERE ended_at IS NULL;
CREATE INDEX moves_claim_idx ON registry.moves (lease_until, id) WHERE ended_at IS NULL;
CREATE INDEX moves_state_idx ON registry.moves (state, id) WHERE ended_at IS NULL;
CREATE INDEX moves_tenant_id_idx ON registry.moves (tenant_id, id);
CREATE INDEX moves_source_idx ON registry.moves (source_id, source_placement);
CREATE INDEX moves_target_idx ON registry.moves (target_id, target_placement);

CREATE TABLE registry.move_tables (
    move_id uuid NOT NULL CONSTRAINT move_tables_move_id_fkey REFERENCES registry.moves (id) ON DELETE CASCADE,
    schema_name text NOT NULL CONSTRAINT move_tables_schema_name_check CHECK (length(schema_name) BETWEEN 1 AND 63),
    table_name text NOT NULL CONSTRAINT move_tables_table_name_check CHECK (length(table_name) BETWEEN 1 AND 63),
    place integer NOT NULL CONSTRAINT move_tables_place_check CHECK (place >= 0),
    rows bigint NOT NULL CONSTRAINT move_tables_rows_check CHECK (rows >= 0),
    bytes bigint NOT NULL CONSTRAINT move_tables_bytes_check CHECK (bytes >= 0),
    done boolean NOT NULL,
    created_at timestamptz NOT NULL DEFAULT now(),
    updated_at timestamptz NOT NULL DEFAULT now(),
    CONSTRAINT move_tables_pkey PRIMARY KEY (move_id, schema_name, table_name)
);
COMMENT ON TABLE registry.move_tables IS 'How far the copy of each table is. For people to look at: nothing depends on it.';
COMMENT ON COLUMN registry.move_tables.place IS 'In which order they are copied.';

CREATE TABLE registry.move_cleanups (
    move_id uuid NOT NULL CONSTRAINT move_cleanups_move_id_fkey REFERENCES registry.moves (id) ON DELETE CASCADE,
    object text NOT NULL CONSTRAINT move_cleanups_object_check
        CHECK (object IN ('slot', 'publication', 'change_log', 'progress', 'rows')),
    database_id uuid NOT NULL CONSTRAINT move_cleanups_database_id_fkey REFERENCES registry.databases (id),
    name text NOT NULL CONSTRAINT move_cleanups_name_check CHECK (length(name) BETWEEN 1 AND 255),
    place integer NOT NULL CONSTRAINT move_cleanups_place_check CHECK (place >= 0),
    done_at timestamptz,
    created_at timestamptz NOT NULL DEFAULT now(),
    updated_at timestamptz NOT NULL DEFAULT now(),
    CONSTRAINT move_cleanups_pkey PRIMARY KEY (move_id, object, database_id, name)
);
COMMENT ON TABLE registry.move_cleanups IS
    'What a move has to remove. Committed before the object is made: nothing is left that nobody knows of.';
COMMENT ON COLUMN registry.move_cleanups.place IS 'In which order they are made; they are removed the other way round.';
COMMENT ON COLUMN registry.move_cleanups.done_at IS 'When it was removed.';
CREATE INDEX move_cleanups_database_id_idx ON registry.move_cleanups (database_id);

GRANT SELECT, INSERT, UPDATE ON registry.moves, registry.move_tables, registry.move_cleanups TO stagesub_control;
