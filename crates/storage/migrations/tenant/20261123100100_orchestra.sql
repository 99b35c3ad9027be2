-- An orchestra's data. Every table here is a tenant table: tenant_id first in each key, unique, foreign key
-- and index (foreign keys ignore row-level security, so a single-column one would let a tenant reference,
-- and by a cascade delete, another's rows), policies forced, no trigger.

CREATE TABLE tenant.settings (
    tenant_id uuid NOT NULL CONSTRAINT settings_pkey PRIMARY KEY,
    reminder_percentage integer NOT NULL
        CONSTRAINT settings_reminder_percentage_check CHECK (reminder_percentage BETWEEN 1 AND 99),
    ranking_conflict_strategy text NOT NULL
        CONSTRAINT settings_ranking_conflict_strategy_check CHECK (ranking_conflict_strategy IN ('simple')),
    language text NOT NULL CONSTRAINT settings_language_check CHECK (language IN ('sv', 'en')),
    timezone text NOT NULL CONSTRAINT settings_timezone_check CHECK (length(timezone) BETWEEN 1 AND 64),
    default_response_hours integer NOT NULL
        CONSTRAINT settings_default_response_hours_check CHECK (default_response_hours BETWEEN 1 AND 720),
    created_at timestamptz NOT NULL DEFAULT now(),
    updated_at timestamptz NOT NULL DEFAULT now()
);
COMMENT ON TABLE tenant.settings IS 'How an orchestra wants its requests handled. One row, made last: it says that the first contents are complete.';

CREATE TABLE tenant.quota (
    tenant_id uuid NOT NULL,
    resource text NOT NULL
        CONSTRAINT quota_resource_check CHECK (resource IN ('active_projects', 'instruments', 'musicians')),
    used integer NOT NULL CONSTRAINT quota_used_check CHECK (used >= 0),
    allowed integer CONSTRAINT quota_allowed_check CHECK (allowed >= 0),
    limits_version bigint NOT NULL,
    grace_until timestamptz,
    created_at timestamptz NOT NULL DEFAULT now(),
    updated_at timestamptz NOT NULL DEFAULT now(),
    CONSTRAINT quota_pkey PRIMARY KEY (tenant_id, resource)
);
COMMENT ON COLUMN tenant.quota.allowed IS 'NULL is unlimited. Decided in the registry and pushed here.';
COMMENT ON COLUMN tenant.quota.limits_version IS 'The registry version that decided it; an older one is never stored over it.';

CREATE TABLE tenant.id_counter (
    tenant_id uuid NOT NULL,
    kind text NOT NULL CONSTRAINT id_counter_kind_check
        CHECK (kind IN ('MUS', 'INST', 'POS', 'LIST', 'PROJ', 'NEED', 'REQ', 'FILE')),
    last bigint NOT NULL CONSTRAINT id_counter_last_check CHECK (last >= 0),
    created_at timestamptz NOT NULL DEFAULT now(),
    updated_at timestamptz NOT NULL DEFAULT now(),
    CONSTRAINT id_counter_pkey PRIMARY KEY (tenant_id, kind)
);
COMMENT ON TABLE tenant.id_counter IS 'The last number given of each kind. Counters move with the tenant; sequences would not.';

CREATE TABLE tenant.instrument (
    tenant_id uuid NOT NULL,
    no bigint NOT NULL CONSTRAINT instrument_no_check CHECK (no >= 1),
    name text NOT NULL CONSTRAINT instrument_name_check CHECK (name = btrim(name) AND length(name) BETWEEN 1 AND 100),
    display_order integer CONSTRAINT instrument_display_order_check CHECK (display_order BETWEEN 0 AND 9999),
    archived_at timestamptz,
    created_at timestamptz NOT NULL,
    updated_at timestamptz NOT NULL,
    CONSTRAINT instrument_pkey PRIMARY KEY (tenant_id, no),
    CONSTRAINT instrument_name_key UNIQUE (tenant_id, name)
);
CREATE INDEX instrument_created_at_idx ON tenant.instrument (tenant_id, created_at);

CREATE TABLE tenant.position (
    tenant_id uuid NOT NULL,
    no bigint NOT NULL CONSTRAINT position_no_check CHECK (no >= 1),
    instrument_no bigint NOT NULL,
    name text NOT NULL CONSTRAINT position_name_check CHECK (name = btrim(name) AND length(name) BETWEEN 1 AND 100),
    hierarchy_level integer NOT NULL CONSTRAINT position_hierarchy_level_check CHECK (hierarchy_level BETWEEN 1 AND 99),
    created_at timestamptz NOT NULL,
    updated_at timestamptz NOT NULL,
    CONSTRAINT position_pkey PRIMARY KEY (tenant_id, no),
    CONSTRAINT position_name_key UNIQUE (tenant_id, instrument_no, name),
    CONSTRAINT position_instrument_fkey FOREIGN KEY (tenant_id, instrument_no)
        REFERENCES tenant.instrument (tenant_id, no)
);
CREATE INDEX position_created_at_idx ON tenant.position (tenant_id, created_at);

CREATE TABLE tenant.ranking_list (
    tenant_id uuid NOT NULL,
    no bigint NOT NULL CONSTRAINT ranking_list_no_check CHECK (no >= 1),
    position_no bigint NOT NULL,
    list_type text NOT NULL CONSTRAINT ranking_list_list_type_check CHECK (list_type IN ('A', 'B', 'C')),
    description text CONSTRAINT ranking_list_description_check CHECK (length(description) <= 4000),
    created_at timestamptz NOT NULL,
    updated_at timestamptz NOT NULL,
    CONSTRAINT ranking_list_pkey PRIMARY KEY (tenant_id, no),
    CONSTRAINT ranking_list_type_key UNIQUE (tenant_id, position_no, list_type),
    CONSTRAINT ranking_list_position_fkey FOREIGN KEY (tenant_id, position_no)
        REFERENCES tenant.position (tenant_id, no) ON DELETE CASCADE
);
CREATE INDEX ranking_list_created_at_idx ON tenant.ranking_list (tenant_id, created_at);

CREATE TABLE tenant.musician (
    tenant_id uuid NOT NULL,
    no bigint NOT NULL CONSTRAINT musician_no_check CHECK (no >= 1),
    first_name text NOT NULL CONSTRAINT musician_first_name_check
        CHECK (first_name = btrim(first_name) AND length(first_name) BETWEEN 1 AND 100),
    last_name text NOT NULL CONSTRAINT musician_last_name_check
        CHECK (last_name = btrim(last_name) AND length(last_name) BETWEEN 1 AND 100),
    email text NOT NULL CONSTRAINT musician_email_check CHECK (email = btrim(email) AND length(email) BETWEEN 3 AND 254),
    phone text CONSTRAINT musician_phone_check CHECK (length(phone) BETWEEN 1 AND 40),
    preferred_language text NOT NULL CONSTRAINT musician_preferred_language_check CHECK (preferred_language IN ('sv', 'en')),
    local_residence boolean NOT NULL,
    notes text CONSTRAINT musician_notes_check CHECK (length(notes) BETWEEN 1 AND 4000),
    is_active boolean NOT NULL,
    archived_at timestamptz,
    created_at timestamptz NOT NULL,
    updated_at timestamptz NOT NULL,
    CONSTRAINT musician_pkey PRIMARY KEY (tenant_id, no)
);
CREATE UNIQUE INDEX musician_email_key ON tenant.musician (tenant_id, lower(email));
CREATE INDEX musician_created_at_idx ON tenant.musician (tenant_id, created_at);
CREATE INDEX musician_is_active_idx ON tenant.musician (tenant_id, is_active);

CREATE TABLE tenant.musician_qualification (
    tenant_id uuid NOT NULL,
    musician_no bigint NOT NULL,
    position_no bigint NOT NULL,
    created_at timestamptz NOT NULL,
    updated_at timestamptz NOT NULL,
    CONSTRAINT musician_qualification_pkey PRIMARY KEY (tenant_id, musician_no, position_no),
    CONSTRAINT musician_qualification_musician_fkey FOREIGN KEY (tenant_id, musician_no)
        REFERENCES tenant.musician (tenant_id, no) ON DELETE CASCADE,
    CONSTRAINT musician_qualification_position_fkey FOREIGN KEY (tenant_id, position_no)
        REFERENCES tenant.position (tenant_id, no)
);
CREATE INDEX musician_qualification_position_idx ON tenant.musician_qualification (tenant_id, position_no, musician_no);

CREATE TABLE tenant.project (
    tenant_id uuid NOT NULL,
    no bigint NOT NULL CONSTRAINT project_no_check CHECK (no >= 1),
    name text NOT NULL CONSTRAINT project_name_check CHECK (name = btrim(name) AND length(name) BETWEEN 1 AND 100),
    start_date date NOT NULL,
    week_number integer NOT NULL CONSTRAINT project_week_number_check CHECK (week_number BETWEEN 1 AND 53),
    rehearsal_schedule text CONSTRAINT project_rehearsal_schedule_check CHECK (length(rehearsal_schedule) BETWEEN 1 AND 4000),
    concert_info text CONSTRAINT project_concert_info_check CHECK (length(concert_info) BETWEEN 1 AND 4000),
    notes text CONSTRAINT project_notes_check CHECK (length(notes) BETWEEN 1 AND 4000),
    status text NOT NULL
        CONSTRAINT project_status_check CHECK (status IN ('planned', 'active', 'completed', 'cancelled')),
    created_at timestamptz NOT NULL,
    updated_at timestamptz NOT NULL,
    CONSTRAINT project_pkey PRIMARY KEY (tenant_id, no)
);
CREATE INDEX project_created_at_idx ON tenant.project (tenant_id, created_at);
CREATE INDEX project_status_idx ON tenant.project (tenant_id, status);

CREATE TABLE tenant.email_template (
    tenant_id uuid NOT NULL,
    mail_type text NOT NULL CONSTRAINT email_template_mail_type_check
        CHECK (mail_type IN ('request', 'reminder', 'confirmation', 'position_filled')),
    language text NOT NULL CONSTRAINT email_template_language_check CHECK (language IN ('sv', 'en')),
    subject text NOT NULL CONSTRAINT email_template_subject_check CHECK (length(subject) BETWEEN 1 AND 200),
    body text NOT NULL CONSTRAINT email_template_body_check CHECK (length(body) BETWEEN 1 AND 20000),
    created_at timestamptz NOT NULL DEFAULT now(),
    updated_at timestamptz NOT NULL DEFAULT now(),
    CONSTRAINT email_template_pkey PRIMARY KEY (tenant_id, mail_type, language)
);

CREATE TABLE tenant.audit (
    tenant_id uuid NOT NULL,
    id uuid NOT NULL,
    actor text NOT NULL CONSTRAINT audit_actor_check CHECK (actor IN ('user', 'superadmin', 'system', 'api_key')),
    user_id uuid,
    action text NOT NULL CONSTRAINT audit_action_check CHECK (length(action) BETWEEN 1 AND 64),
    model text NOT NULL CONSTRAINT audit_model_check CHECK (length(model) BETWEEN 1 AND 64),
    record_id text CONSTRAINT audit_record_id_check CHECK (length(record_id) BETWEEN 1 AND 100),
    changes jsonb,
    ip_address inet,
    user_agent text CONSTRAINT audit_user_agent_check CHECK (length(user_agent) <= 512),
    request_id text CONSTRAINT audit_request_id_check CHECK (length(request_id) <= 100),
    created_at timestamptz NOT NULL,
    updated_at timestamptz NOT NULL,
    CONSTRAINT audit_pkey PRIMARY KEY (tenant_id, id),
    CONSTRAINT audit_unchanged_check CHECK (updated_at = created_at)
);
COMMENT ON TABLE tenant.audit IS 'What was changed, by whom, from where. Written in the changing transaction, never changed.';
CREATE INDEX audit_created_at_idx ON tenant.audit (tenant_id, created_at, id);
CREATE INDEX audit_record_idx ON tenant.audit (tenant_id, model, record_id);

CALL app.protect('tenant.settings');
CALL app.protect('tenant.quota');
CALL app.protect('tenant.id_counter');
CALL app.protect('tenant.instrument');
CALL app.protect('tenant.position');
CALL app.protect('tenant.ranking_list');
CALL app.protect('tenant.musician');
CALL app.protect('tenant.musician_qualification');
CALL app.protect('tenant.project');
CALL app.protect('tenant.email_template');
CALL app.protect('tenant.audit');

-- What the application may do: rows of its tenant, never the columns that say whose and which they are.
GRANT SELECT, INSERT ON
    tenant.settings, tenant.quota, tenant.id_counter, tenant.instrument, tenant.position, tenant.ranking_list,
    tenant.musician, tenant.musician_qualification, tenant.project, tenant.email_template, tenant.audit
    TO stagesub_app;
-- Musicians are archived, never deleted; the audit log is only added to.
GRANT DELETE ON
    tenant.instrument, tenant.position, tenant.musician_qualification, tenant.project
    TO stagesub_app;
GRANT UPDATE (used, allowed, limits_version, grace_until, updated_at) ON tenant.quota TO stagesub_app;
GRANT UPDATE (last, updated_at) ON tenant.id_counter TO stagesub_app;
GRANT UPDATE (name, display_order, archived_at, updated_at) ON tenant.instrument TO stagesub_app;
GRANT UPDATE (name, hierarchy_level, updated_at) ON tenant.position TO stagesub_app;
GRANT UPDATE (first_name, last_name, email, phone, preferred_language, local_residence, notes, is_active, archived_at, updated_at)
    ON tenant.musician TO stagesub_app;
GRANT UPDATE (name, start_date, week_number, rehearsal_schedule, concert_info, notes, status, updated_at)
    ON tenant.project TO stagesub_app;
