-- What is there before the first migration of the tenant set: the schema, the marker that says which
-- database this is and whose (checked before any other DDL and before any pool is used), and the list of
-- applied migrations. Run as the owner, any number of times.
CREATE SCHEMA IF NOT EXISTS app;

CREATE TABLE IF NOT EXISTS app.marker (
    one_row boolean CONSTRAINT marker_pkey PRIMARY KEY DEFAULT true CONSTRAINT marker_one_row_check CHECK (one_row),
    role text NOT NULL CONSTRAINT marker_role_check CHECK (role IN ('shared', 'dedicated')),
    database_id uuid NOT NULL,
    tenant_id uuid,
    demo boolean NOT NULL,
    created_at timestamptz NOT NULL DEFAULT now(),
    updated_at timestamptz NOT NULL DEFAULT now(),
    CONSTRAINT marker_tenant_check CHECK ((role = 'dedicated') = (tenant_id IS NOT NULL))
);
COMMENT ON TABLE app.marker IS 'Which database this is, and whose if it is dedicated. One row.';

CREATE TABLE IF NOT EXISTS app.migrations (
    version bigint PRIMARY KEY,
    description text NOT NULL,
    installed_on timestamptz NOT NULL DEFAULT now(),
    success boolean NOT NULL,
    checksum bytea NOT NULL,
    execution_time bigint NOT NULL
);

REVOKE ALL ON SCHEMA app FROM PUBLIC;
GRANT USAGE ON SCHEMA app TO stagesub_app, stagesub_mover;
GRANT SELECT ON app.marker, app.migrations TO stagesub_app, stagesub_mover;
