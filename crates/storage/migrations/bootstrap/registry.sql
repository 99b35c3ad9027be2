-- What is there before the first migration of the registry's set: the schema, the marker that says what
-- this database is (checked before any other DDL), and the list of applied migrations. Run as the owner,
-- any number of times.
CREATE SCHEMA IF NOT EXISTS registry;

CREATE TABLE IF NOT EXISTS registry.marker (
    one_row boolean CONSTRAINT marker_pkey PRIMARY KEY DEFAULT true CONSTRAINT marker_one_row_check CHECK (one_row),
    role text NOT NULL CONSTRAINT marker_role_check CHECK (role = 'registry'),
    database_id uuid NOT NULL,
    demo boolean NOT NULL,
    created_at timestamptz NOT NULL DEFAULT now(),
    updated_at timestamptz NOT NULL DEFAULT now()
);
COMMENT ON TABLE registry.marker IS 'What this database is. One row.';

CREATE TABLE IF NOT EXISTS registry.migrations (
    version bigint PRIMARY KEY,
    description text NOT NULL,
    installed_on timestamptz NOT NULL DEFAULT now(),
    success boolean NOT NULL,
    checksum bytea NOT NULL,
    execution_time bigint NOT NULL
);

REVOKE ALL ON SCHEMA registry FROM PUBLIC;
GRANT USAGE ON SCHEMA registry TO stagesub_auth, stagesub_control;
GRANT SELECT ON registry.marker, registry.migrations TO stagesub_auth, stagesub_control;
