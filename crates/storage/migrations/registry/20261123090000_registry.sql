-- The registry: which tenants there are, where each one's data is, how its databases are reached, and who
-- may sign in. It holds no tenant data. The application's login has no privilege here at all; what the
-- other logins may do is granted at the end, from the table in docs/roles.md.
--
-- Every change that a cache must hear of takes the next registry.version under that row's lock, before any
-- other lock, and writes it to the row that changed. So versions are complete in commit order, and
-- `WHERE version > $1` misses nothing.

CREATE TABLE registry.version (
    one_row boolean CONSTRAINT version_pkey PRIMARY KEY DEFAULT true CONSTRAINT version_one_row_check CHECK (one_row),
    version bigint NOT NULL CONSTRAINT version_version_check CHECK (version >= 0),
    created_at timestamptz NOT NULL DEFAULT now(),
    updated_at timestamptz NOT NULL DEFAULT now()
);
COMMENT ON TABLE registry.version IS 'The version the registry stands at. One row, locked by every change.';
INSERT INTO registry.version (version) VALUES (0);

CREATE TABLE registry.codes (
    code text CONSTRAINT codes_pkey PRIMARY KEY
        CONSTRAINT codes_code_check CHECK (code ~ '^[A-Z0-9]{2,6}$'),
    tenant_id uuid NOT NULL CONSTRAINT codes_tenant_id_key UNIQUE,
    created_at timestamptz NOT NULL DEFAULT now(),
    updated_at timestamptz NOT NULL DEFAULT now()
);
COMMENT ON TABLE registry.codes IS
    'Every code a tenant has or ever had. Rows outlive their tenant, so that no code is given twice.';

CREATE TABLE registry.tenants (
    id uuid CONSTRAINT tenants_pkey PRIMARY KEY,
    code text NOT NULL CONSTRAINT tenants_code_key UNIQUE
        CONSTRAINT tenants_code_fkey REFERENCES registry.codes (code),
    name text NOT NULL CONSTRAINT tenants_name_check CHECK (name = btrim(name) AND length(name) BETWEEN 1 AND 200),
    subdomain text NOT NULL CONSTRAINT tenants_subdomain_key UNIQUE
        CONSTRAINT tenants_subdomain_check CHECK (subdomain ~ '^[a-z0-9]([a-z0-9-]{0,61}[a-z0-9])?$'),
    subscription text NOT NULL
        CONSTRAINT tenants_subscription_check CHECK (subscription IN ('small', 'medium', 'institution')),
    max_musicians integer CONSTRAINT tenants_max_musicians_check CHECK (max_musicians >= 0),
    max_active_projects integer CONSTRAINT tenants_max_active_projects_check CHECK (max_active_projects >= 0),
    max_instruments integer CONSTRAINT tenants_max_instruments_check CHECK (max_instruments >= 0),
    custom_branding jsonb CONSTRAINT tenants_custom_branding_check CHECK (jsonb_typeof(custom_branding) = 'object'),
    email_domain text CONSTRAINT tenants_email_domain_check CHECK (length(email_domain) BETWEEN 1 AND 253),
    trial_ends_at timestamptz,
    subscription_ends_at timestamptz,
    status text NOT NULL
        CONSTRAINT tenants_status_check CHECK (status IN ('provisioning', 'active', 'suspended', 'closing')),
    wants_dedicated boolean NOT NULL DEFAULT false,
    version bigint NOT NULL,
    created_at timestamptz NOT NULL DEFAULT now(),
    updated_at timestamptz NOT NULL DEFAULT now()
);
COMMENT ON COLUMN registry.tenants.max_musicians IS 'NULL is unlimited, as for the other limits.';
COMMENT ON COLUMN registry.tenants.wants_dedicated IS
    'Provisioning is to give it a database of its own; says nothing about where it is (registry.directory).';
COMMENT ON COLUMN registry.tenants.version IS 'The registry version of the last change of this row or of its placement.';
CREATE INDEX tenants_version_idx ON registry.tenants (version);
CREATE INDEX tenants_status_idx ON registry.tenants (status, id);

CREATE TABLE registry.databases (
    id uuid CONSTRAINT databases_pkey PRIMARY KEY,
    kind text NOT NULL CONSTRAINT databases_kind_check CHECK (kind IN ('registry', 'shared', 'dedicated')),
    tenant_id uuid CONSTRAINT databases_tenant_id_key UNIQUE
        CONSTRAINT databases_tenant_id_fkey REFERENCES registry.tenants (id),
    status text NOT NULL CONSTRAINT databases_status_check CHECK (status IN ('creating', 'ready')),
    server_identifier text NOT NULL,
    host text NOT NULL,
    port integer NOT NULL CONSTRAINT databases_port_check CHECK (port BETWEEN 1 AND 65535),
    name text NOT NULL CONSTRAINT databases_name_check CHECK (length(name) BETWEEN 1 AND 63),
    created_at timestamptz NOT NULL DEFAULT now(),
    updated_at timestamptz NOT NULL DEFAULT now(),
    CONSTRAINT databases_id_kind_key UNIQUE (id, kind),
    CONSTRAINT databases_tenant_check CHECK ((kind = 'dedicated') = (tenant_id IS NOT NULL))
);
COMMENT ON TABLE registry.databases IS 'Databases the platform knows. Where they are, without any secret.';
COMMENT ON COLUMN registry.databases.server_identifier IS
    'system_identifier of the server, which tells whether two databases share roles and passwords.';
-- Two rows for one database would put two tenants into it that each believe to be alone. The registry may
-- share its database with tenants, so it is told apart.
CREATE UNIQUE INDEX databases_place_key ON registry.databases (server_identifier, name, (kind = 'registry'));
CREATE UNIQUE INDEX databases_registry_key ON registry.databases (kind) WHERE kind = 'registry';

CREATE TABLE registry.database_logins (
    database_id uuid NOT NULL CONSTRAINT database_logins_database_id_fkey
        REFERENCES registry.databases (id) ON DELETE CASCADE,
    role text NOT NULL CONSTRAINT database_logins_role_check CHECK (role IN (
        'stagesub_migrator', 'stagesub_app', 'stagesub_auth', 'stagesub_control', 'stagesub_mover')),
    sealed text NOT NULL,
    created_at timestamptz NOT NULL DEFAULT now(),
    updated_at timestamptz NOT NULL DEFAULT now(),
    CONSTRAINT database_logins_pkey PRIMARY KEY (database_id, role)
);
COMMENT ON COLUMN registry.database_logins.sealed IS
    'Connection string, sealed for this database, role and tenant: it opens as no other''s.';

CREATE TABLE registry.directory (
    tenant_id uuid CONSTRAINT directory_pkey PRIMARY KEY
        CONSTRAINT directory_tenant_id_fkey REFERENCES registry.tenants (id),
    database_id uuid NOT NULL,
    placement text NOT NULL CONSTRAINT directory_placement_check CHECK (placement IN ('shared', 'dedicated')),
    epoch bigint NOT NULL CONSTRAINT directory_epoch_check CHECK (epoch >= 1),
    created_at timestamptz NOT NULL DEFAULT now(),
    updated_at timestamptz NOT NULL DEFAULT now(),
    CONSTRAINT directory_database_fkey FOREIGN KEY (database_id, placement) REFERENCES registry.databases (id, kind)
);
COMMENT ON TABLE registry.directory IS
    'Where each tenant''s data is: the only place of routing. A move is one conditional update of a row.';
CREATE INDEX directory_database_id_idx ON registry.directory (database_id);
-- A dedicated database holds one tenant.
CREATE UNIQUE INDEX directory_dedicated_key ON registry.directory (database_id) WHERE placement = 'dedicated';

CREATE TABLE registry.users (
    id uuid CONSTRAINT users_pkey PRIMARY KEY,
    email text NOT NULL CONSTRAINT users_email_check CHECK (email = btrim(email) AND length(email) BETWEEN 3 AND 254),
    password_hash text,
    first_name text NOT NULL CONSTRAINT users_first_name_check CHECK (length(first_name) <= 100),
    last_name text NOT NULL CONSTRAINT users_last_name_check CHECK (length(last_name) <= 100),
    last_login timestamptz,
    is_active boolean NOT NULL DEFAULT true,
    is_superadmin boolean NOT NULL DEFAULT false,
    auth_epoch bigint NOT NULL CONSTRAINT users_auth_epoch_check CHECK (auth_epoch >= 0),
    version bigint NOT NULL,
    created_at timestamptz NOT NULL DEFAULT now(),
    updated_at timestamptz NOT NULL DEFAULT now()
);
COMMENT ON COLUMN registry.users.password_hash IS
    'PHC string or an earlier system''s bcrypt hash; NULL for sign-in by provider only.';
COMMENT ON COLUMN registry.users.auth_epoch IS
    'Grows when the password, the account''s state or a membership changes; older access tokens are refused.';
CREATE UNIQUE INDEX users_email_key ON registry.users (lower(email));
CREATE INDEX users_version_idx ON registry.users (version);

CREATE TABLE registry.identities (
    issuer text NOT NULL CONSTRAINT identities_issuer_check CHECK (length(issuer) BETWEEN 1 AND 255),
    subject text NOT NULL CONSTRAINT identities_subject_check CHECK (length(subject) BETWEEN 1 AND 255),
    user_id uuid NOT NULL CONSTRAINT identities_user_id_fkey REFERENCES registry.users (id) ON DELETE CASCADE,
    created_at timestamptz NOT NULL DEFAULT now(),
    updated_at timestamptz NOT NULL DEFAULT now(),
    CONSTRAINT identities_pkey PRIMARY KEY (issuer, subject)
);
COMMENT ON TABLE registry.identities IS 'Sign-in by provider, linked by issuer and subject, never by address.';
CREATE INDEX identities_user_id_idx ON registry.identities (user_id);

CREATE TABLE registry.memberships (
    tenant_id uuid NOT NULL CONSTRAINT memberships_tenant_id_fkey REFERENCES registry.tenants (id) ON DELETE CASCADE,
    user_id uuid NOT NULL CONSTRAINT memberships_user_id_fkey REFERENCES registry.users (id) ON DELETE CASCADE,
    role text NOT NULL CONSTRAINT memberships_role_check CHECK (role IN ('admin', 'user', 'viewer')),
    created_at timestamptz NOT NULL DEFAULT now(),
    updated_at timestamptz NOT NULL DEFAULT now(),
    CONSTRAINT memberships_pkey PRIMARY KEY (tenant_id, user_id)
);
CREATE INDEX memberships_user_id_idx ON registry.memberships (user_id);

CREATE TABLE registry.platform_audit (
    id bigint GENERATED ALWAYS AS IDENTITY CONSTRAINT platform_audit_pkey PRIMARY KEY,
    tenant_id uuid,
    at timestamptz NOT NULL,
    actor text NOT NULL
        CONSTRAINT platform_audit_actor_check CHECK (actor IN ('user', 'superadmin', 'system', 'api_key')),
    actor_id uuid,
    actor_role text,
    action text NOT NULL CONSTRAINT platform_audit_action_check CHECK (length(action) BETWEEN 1 AND 50),
    model text NOT NULL CONSTRAINT platform_audit_model_check CHECK (length(model) BETWEEN 1 AND 50),
    record_id text,
    changes jsonb,
    ip_address inet,
    user_agent text CONSTRAINT platform_audit_user_agent_check CHECK (length(user_agent) <= 512),
    request_id text CONSTRAINT platform_audit_request_id_check CHECK (length(request_id) <= 200),
    created_at timestamptz NOT NULL DEFAULT now(),
    updated_at timestamptz NOT NULL DEFAULT now()
);
COMMENT ON TABLE registry.platform_audit IS
    'Every change in the registry and every sign-in. Written in the change''s own transaction; never changed.';
COMMENT ON COLUMN registry.platform_audit.tenant_id IS
    'The tenant it concerns, if one. No foreign key: entries outlive their tenant.';
CREATE INDEX platform_audit_tenant_id_idx ON registry.platform_audit (tenant_id, id);

-- Grants. The application's login and the mover have none.
GRANT SELECT, UPDATE ON registry.version TO stagesub_control;
GRANT SELECT, INSERT ON registry.codes TO stagesub_control;
GRANT SELECT, INSERT, UPDATE ON registry.tenants TO stagesub_control;
GRANT SELECT, INSERT, UPDATE ON registry.databases TO stagesub_control;
GRANT SELECT, INSERT, UPDATE, DELETE ON registry.database_logins TO stagesub_control;
GRANT SELECT, INSERT, UPDATE ON registry.directory TO stagesub_control;
GRANT SELECT, INSERT, UPDATE, DELETE ON registry.memberships TO stagesub_control;
GRANT SELECT, INSERT, DELETE ON registry.identities TO stagesub_control;
GRANT SELECT, INSERT ON registry.platform_audit TO stagesub_control;
-- It sets passwords and cannot read their hashes.
GRANT SELECT (id, email, first_name, last_name, last_login, is_active, is_superadmin, auth_epoch, version,
        created_at, updated_at),
    INSERT, UPDATE ON registry.users TO stagesub_control;

GRANT SELECT ON registry.users, registry.memberships, registry.identities TO stagesub_auth;
GRANT UPDATE (password_hash, last_login, updated_at) ON registry.users TO stagesub_auth;
GRANT INSERT ON registry.platform_audit TO stagesub_auth;
