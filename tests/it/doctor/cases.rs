//! The holes that one can make in a database of tenants, lint by lint.

use stagesub_storage::doctor::Level;
use stagesub_storage::embedded::{Cluster, ClusterOptions};

use super::{Case, each_is_found_and_mended, hole, sound};
use crate::prove_sql::BIND_WITHOUT_REFUSAL;

/// As the owner, so that who owns it is not found as well.
macro_rules! as_owner {
    ($sql:literal) => {
        concat!("SET ROLE stagesub_owner; ", $sql)
    };
}

const FENCES: &[Case] = &[
    hole("rls-off", "tenant.note", "ALTER TABLE tenant.note DISABLE ROW LEVEL SECURITY"),
    hole("rls-not-forced", "tenant.note", "ALTER TABLE tenant.note NO FORCE ROW LEVEL SECURITY"),
    hole("fence-missing", "tenant.note", "DROP POLICY tenant_fence ON tenant.note"),
    hole("fence-missing", "tenant.note", "ALTER POLICY tenant_fence ON tenant.note TO stagesub_app"),
    hole("fence-missing", "tenant.note", "ALTER POLICY tenant_fence ON tenant.note USING (true)"),
    hole("fence-missing", "tenant.note", "ALTER POLICY tenant_fence ON tenant.note WITH CHECK (true)"),
    hole(
        "fence-missing",
        "tenant.note",
        "DROP POLICY tenant_fence ON tenant.note;
        CREATE POLICY tenant_fence ON tenant.note AS PERMISSIVE
            USING (tenant_id = (SELECT app.tenant_id())) WITH CHECK (tenant_id = (SELECT app.tenant_id()))",
    ),
    hole(
        "fence-missing",
        "tenant.note",
        "DROP POLICY tenant_fence ON tenant.note;
        CREATE POLICY tenant_fence ON tenant.note AS RESTRICTIVE FOR SELECT USING (tenant_id = (SELECT app.tenant_id()))",
    ),
    hole("policy-wider", "policy wide on tenant.note", "CREATE POLICY wide ON tenant.note USING (true)"),
    hole(
        "policy-wider",
        "policy wide on tenant.note",
        "CREATE POLICY wide ON tenant.note FOR INSERT TO stagesub_app WITH CHECK (no > 0)",
    ),
    hole("policy-unknown", "policy odd on tenant.note", "CREATE POLICY odd ON tenant.note AS RESTRICTIVE USING (no > 0)")
        .at(Level::Note),
    hole("rows-invisible", "tenant.note", "DROP POLICY tenant_rows ON tenant.note").at(Level::Note),
    hole("fence-table-open", "app.tenant_fence", "ALTER TABLE app.tenant_fence DISABLE ROW LEVEL SECURITY"),
    hole("fence-table-open", "app.tenant_fence", "CREATE POLICY wide ON app.tenant_fence USING (true)"),
    hole("fence-table-open", "app.tenant_fence", "DROP POLICY tenant_fence_bound ON app.tenant_fence"),
];

const COLUMNS_AND_KEYS: &[Case] = &[
    hole("tenant-column-missing", "tenant.forgotten", as_owner!("CREATE TABLE tenant.forgotten (no bigint PRIMARY KEY)"))
        .tidy("DROP TABLE tenant.forgotten"),
    hole(
        "tenant-column-nullable",
        "tenant.loose",
        as_owner!("CREATE TABLE tenant.loose (tenant_id uuid, no bigint); CALL app.protect('tenant.loose')"),
    )
    .tidy("DROP TABLE tenant.loose"),
    hole(
        "tenant-column-type",
        "tenant.texts",
        as_owner!(
            "CREATE TABLE tenant.texts (tenant_id text NOT NULL, no bigint, PRIMARY KEY (tenant_id, no));
            CREATE POLICY tenant_rows ON tenant.texts USING (tenant_id::uuid = (SELECT app.tenant_id()))"
        ),
    )
    .tidy("DROP TABLE tenant.texts"),
    hole(
        "primary-key-missing",
        "tenant.heap",
        as_owner!("CREATE TABLE tenant.heap (tenant_id uuid NOT NULL, no bigint); CALL app.protect('tenant.heap')"),
    )
    .at(Level::Partial)
    .tidy("DROP TABLE tenant.heap"),
    hole("key-without-tenant", "index note_name_key", "ALTER TABLE tenant.note ADD CONSTRAINT note_name_key UNIQUE (name)")
        .tidy("ALTER TABLE tenant.note DROP CONSTRAINT note_name_key"),
    hole("key-without-tenant", "index note_low", "CREATE UNIQUE INDEX note_low ON tenant.note (lower(name)) WHERE no > 1")
        .tidy("DROP INDEX tenant.note_low"),
    hole(
        "key-without-tenant",
        "index page_pkey",
        "ALTER TABLE tenant.page DROP CONSTRAINT page_pkey, ADD CONSTRAINT page_pkey PRIMARY KEY (no, tenant_id)",
    ),
    hole("index-without-tenant", "index note_name_idx", "CREATE INDEX note_name_idx ON tenant.note (name DESC)")
        .at(Level::Partial)
        .tidy("DROP INDEX tenant.note_name_idx"),
    hole(
        "exclusion-without-tenant",
        "index note_during_excl",
        "ALTER TABLE tenant.note ADD CONSTRAINT note_during_excl EXCLUDE USING gist (during WITH &&) WHERE (no > 3)",
    )
    .tidy("ALTER TABLE tenant.note DROP CONSTRAINT note_during_excl; DROP EXTENSION btree_gist"),
    hole(
        "exclusion-without-tenant",
        "index note_others_excl",
        "CREATE EXTENSION btree_gist;
        ALTER TABLE tenant.note ADD CONSTRAINT note_others_excl EXCLUDE USING gist (tenant_id WITH <>, no WITH =)",
    )
    .tidy("DROP EXTENSION btree_gist"),
    hole(
        "foreign-key-without-tenant",
        "foreign key page_note_fkey on tenant.page",
        "CREATE UNIQUE INDEX note_no ON tenant.note (no);
        ALTER TABLE tenant.page ADD CONSTRAINT page_note_fkey FOREIGN KEY (note_no) REFERENCES tenant.note (no) ON DELETE CASCADE",
    )
    .tidy("ALTER TABLE tenant.page DROP CONSTRAINT page_note_fkey; DROP INDEX tenant.note_no"),
    hole(
        "foreign-key-without-tenant",
        "foreign key page_word_fkey on tenant.page",
        "CREATE UNIQUE INDEX note_name ON tenant.note (name);
        ALTER TABLE tenant.page ADD CONSTRAINT page_word_fkey FOREIGN KEY (word) REFERENCES tenant.note (name)
            ON DELETE SET NULL ON UPDATE CASCADE",
    )
    .tidy(
        "ALTER TABLE tenant.page DROP CONSTRAINT page_word_fkey; DROP INDEX tenant.note_name;
        DROP INDEX tenant.note_tenant_id_name_idx",
    ),
    hole(
        "foreign-key-without-tenant",
        "foreign key page_word_fkey on tenant.page",
        "CREATE TABLE public.words (word text PRIMARY KEY);
        ALTER TABLE tenant.page ADD CONSTRAINT page_word_fkey FOREIGN KEY (word) REFERENCES public.words",
    )
    .tidy("DROP TABLE public.words"),
    hole(
        "foreign-key-forgets-tenant",
        "foreign key page_note_fkey on tenant.page",
        "ALTER TABLE tenant.page ADD CONSTRAINT page_note_fkey FOREIGN KEY (tenant_id, note_no)
            REFERENCES tenant.note (tenant_id, no) ON DELETE SET NULL",
    )
    .tidy("ALTER TABLE tenant.page DROP CONSTRAINT page_note_fkey"),
    hole("references-off", "tenant.musician_qualification", "ALTER TABLE tenant.musician_qualification DISABLE TRIGGER ALL"),
];

const RELATIONS: &[Case] = &[
    hole("view-not-invoker", "tenant.pane", as_owner!("CREATE VIEW tenant.pane AS SELECT * FROM tenant.note"))
        .tidy("DROP VIEW tenant.pane"),
    // Through a view that is sound itself.
    hole(
        "view-not-invoker",
        "public.outside",
        as_owner!(
            "CREATE VIEW tenant.pane WITH (security_invoker) AS SELECT * FROM tenant.note;
            RESET ROLE; CREATE VIEW public.outside AS SELECT * FROM tenant.pane"
        ),
    )
    .tidy("DROP VIEW tenant.pane CASCADE"),
    hole("materialized-view", "public.kept", "CREATE MATERIALIZED VIEW public.kept AS SELECT no FROM tenant.note"),
    hole(
        "foreign-table",
        "tenant.far",
        "CREATE FOREIGN DATA WRAPPER nowhere; CREATE SERVER nowhere FOREIGN DATA WRAPPER nowhere;
        CREATE FOREIGN TABLE tenant.far (tenant_id uuid) SERVER nowhere",
    )
    .tidy("DROP FOREIGN DATA WRAPPER nowhere CASCADE"),
    hole(
        "inheritance-crosses",
        "tenant.note, child of public.all_notes",
        "CREATE TABLE public.all_notes (tenant_id uuid, no bigint); ALTER TABLE tenant.note INHERIT public.all_notes",
    )
    .tidy("DROP TABLE public.all_notes"),
    hole(
        "inheritance-crosses",
        "public.split_1, child of tenant.split",
        as_owner!(
            "CREATE TABLE tenant.split (tenant_id uuid NOT NULL, no bigint, PRIMARY KEY (tenant_id, no)) PARTITION BY RANGE (no);
            CALL app.protect('tenant.split'); RESET ROLE;
            CREATE TABLE public.split_1 PARTITION OF tenant.split FOR VALUES FROM (0) TO (10)"
        ),
    )
    .tidy("DROP TABLE tenant.split, public.split_1"),
    // A partition is asked directly too, and has policies of its own or none.
    hole(
        "rls-off",
        "tenant.split_1",
        as_owner!(
            "CREATE TABLE tenant.split (tenant_id uuid NOT NULL, no bigint, PRIMARY KEY (tenant_id, no)) PARTITION BY RANGE (no);
            CALL app.protect('tenant.split');
            CREATE TABLE tenant.split_1 PARTITION OF tenant.split FOR VALUES FROM (0) TO (10)"
        ),
    )
    .tidy("DROP TABLE tenant.split"),
    hole("rule-on-table", "rule copy on tenant.note", "CREATE RULE copy AS ON INSERT TO tenant.note DO ALSO SELECT 1"),
    hole(
        "trigger-on-table",
        "trigger touch on tenant.note",
        "CREATE TRIGGER touch BEFORE UPDATE ON tenant.note FOR EACH ROW EXECUTE FUNCTION suppress_redundant_updates_trigger()",
    )
    .at(Level::Partial),
    hole("table-outside", "public.open", "CREATE TABLE public.open (name text); GRANT SELECT (name) ON public.open TO PUBLIC")
        .tidy("DROP TABLE public.open"),
];

const ROUTINES: &[Case] = &[
    hole(
        "security-definer",
        "public.wide()",
        "CREATE FUNCTION public.wide() RETURNS bigint LANGUAGE sql SECURITY DEFINER SET search_path = pg_catalog
            AS 'SELECT count(*) FROM tenant.note'",
    )
    .tidy("DROP FUNCTION public.wide"),
    hole(
        "security-definer",
        "tenant.wide()",
        as_owner!(
            "CREATE FUNCTION tenant.wide() RETURNS bigint LANGUAGE sql SECURITY DEFINER SET search_path = pg_catalog
                AS 'SELECT count(*) FROM tenant.note'; REVOKE ALL ON FUNCTION tenant.wide() FROM PUBLIC"
        ),
    )
    .tidy("DROP FUNCTION tenant.wide"),
    hole(
        "definer-search-path",
        "public.loose()",
        "CREATE FUNCTION public.loose() RETURNS integer LANGUAGE sql SECURITY DEFINER AS 'SELECT 1';
        REVOKE ALL ON FUNCTION public.loose() FROM PUBLIC",
    )
    .at(Level::Partial)
    .tidy("DROP FUNCTION public.loose"),
    hole(
        "leakproof-function",
        "public.peek(text)",
        "CREATE FUNCTION public.peek(text) RETURNS boolean LANGUAGE sql LEAKPROOF AS 'SELECT true'",
    )
    .tidy("DROP FUNCTION public.peek"),
    hole(
        "leakproof-operator",
        "public.===(text,text)",
        "CREATE OPERATOR public.=== (LEFTARG = text, RIGHTARG = text, FUNCTION = texteq)",
    ),
];

const SCHEMAS_AND_OWNERS: &[Case] = &[
    hole("schema-creatable", "schema public, role stagesub_app", "GRANT CREATE ON SCHEMA public TO PUBLIC"),
    hole("schema-creatable", "schema tenant, role stagesub_app", "GRANT CREATE ON SCHEMA tenant TO stagesub_app"),
    hole("schema-unknown", "schema beside", "CREATE SCHEMA beside; GRANT USAGE ON SCHEMA beside TO stagesub_app")
        .at(Level::Partial)
        .tidy("DROP SCHEMA beside"),
    hole("owner-foreign", "tenant.note, owned by stagesub_app", "ALTER TABLE tenant.note OWNER TO stagesub_app"),
    hole("owner-foreign", "app.enter(bigint), owned by stagesub_mover", "ALTER ROUTINE app.enter OWNER TO stagesub_mover"),
    hole("owner-foreign", "app.refuse(bigint), owned by stagesub_mover", "ALTER ROUTINE app.refuse OWNER TO stagesub_mover"),
    hole("owner-foreign", "schema tenant, owned by postgres", "ALTER SCHEMA tenant OWNER TO postgres"),
    hole("owner-foreign", "public.mine, owned by stagesub_app", "CREATE TABLE public.mine (); ALTER TABLE public.mine OWNER TO stagesub_app")
        .tidy("DROP TABLE public.mine"),
    hole("database-owner", "database shr, owned by stagesub_app", "ALTER DATABASE shr OWNER TO stagesub_app")
        .tidy("ALTER DATABASE shr OWNER TO postgres; GRANT ALL ON DATABASE shr TO stagesub_owner; GRANT CONNECT ON DATABASE shr TO stagesub_app"),
    hole(
        "default-privileges",
        "tables made by stagesub_owner, for stagesub_app",
        "ALTER DEFAULT PRIVILEGES FOR ROLE stagesub_owner GRANT SELECT, TRUNCATE ON TABLES TO stagesub_app",
    ),
    hole(
        "default-privileges",
        "tables made by postgres in tenant, for PUBLIC",
        "ALTER DEFAULT PRIVILEGES FOR ROLE postgres IN SCHEMA tenant GRANT SELECT ON TABLES TO PUBLIC",
    ),
    hole(
        "default-privileges-open",
        "routines made by stagesub_owner",
        "ALTER DEFAULT PRIVILEGES FOR ROLE stagesub_owner GRANT EXECUTE ON ROUTINES TO PUBLIC",
    )
    .at(Level::Partial),
    hole("hardening-missing", "functions open", "GRANT EXECUTE ON FUNCTION set_config(text, text, boolean) TO PUBLIC")
        .at(Level::Partial),
];

const ROLES: &[Case] = &[
    hole("role-attribute", "role stagesub_app is BYPASSRLS", "ALTER ROLE stagesub_app BYPASSRLS"),
    hole(
        "role-attribute",
        "role stagesub_control is CREATEDB, CREATEROLE",
        "ALTER ROLE stagesub_control CREATEROLE CREATEDB",
    ),
    hole(
        "role-attribute",
        "role stagesub_migrator is REPLICATION, SUPERUSER",
        "ALTER ROLE stagesub_migrator SUPERUSER REPLICATION",
    ),
    hole("role-attribute", "role stagesub_owner is LOGIN", "ALTER ROLE stagesub_owner LOGIN"),
    hole("role-attribute-missing", "moves and backups", "ALTER ROLE stagesub_mover NOBYPASSRLS")
        .at(Level::Partial),
    hole("role-attribute-missing", "dedicated databases", "ALTER ROLE stagesub_migrator NOCREATEDB")
        .at(Level::Partial),
    hole(
        "role-attribute-missing",
        "statements of clients that are gone",
        "ALTER ROLE stagesub_app RESET client_connection_check_interval",
    )
    .at(Level::Partial),
    hole(
        "role-membership",
        "role stagesub_app, member of stagesub_owner",
        "GRANT stagesub_owner TO stagesub_app",
    ),
    hole(
        "role-membership",
        "role stagesub_auth, member of pg_read_all_data",
        "GRANT pg_read_all_data TO stagesub_auth",
    ),
    hole(
        "role-member",
        "role intern, member of stagesub_mover",
        "CREATE ROLE intern; GRANT stagesub_mover TO intern",
    )
    .tidy("DROP ROLE intern"),
    hole(
        "role-member",
        "role chief, member of stagesub_owner",
        "CREATE ROLE chief CREATEROLE; GRANT stagesub_owner TO chief",
    )
    .at(Level::Note)
    .tidy("DROP ROLE chief"),
    hole("setting", "row_security of role stagesub_app", "ALTER ROLE stagesub_app SET row_security = off"),
    hole("setting", "search_path of every role in shr", "ALTER DATABASE shr SET search_path = public"),
    hole("setting", "search_path of every role", "ALTER ROLE ALL SET search_path = public"),
    hole(
        "setting",
        "app.tenant_id of role stagesub_app in shr",
        "ALTER ROLE stagesub_app IN DATABASE shr SET app.tenant_id = '00000000-0000-0000-0000-000000000001'",
    ),
    hole(
        "setting",
        "session_replication_role of role stagesub_app",
        "ALTER ROLE stagesub_app SET session_replication_role = replica",
    ),
    hole(
        "setting",
        "default_transaction_isolation of role stagesub_app",
        "ALTER ROLE stagesub_app SET default_transaction_isolation = 'serializable'",
    )
    .at(Level::Partial),
    hole(
        "parameter-grant",
        "SET on parameter session_replication_role for stagesub_app",
        "GRANT SET ON PARAMETER session_replication_role TO stagesub_app",
    ),
];

const GRANTS: &[Case] = &[
    hole("grant-beyond", "SELECT on tenant.note for PUBLIC", "GRANT SELECT ON tenant.note TO PUBLIC"),
    // The columns that the application may change are given back.
    hole(
        "grant-beyond",
        "UPDATE on tenant.musician for stagesub_app",
        "GRANT UPDATE ON tenant.musician TO stagesub_app",
    ),
    hole(
        "grant-beyond",
        "UPDATE (\"tenant_id\") on tenant.musician for stagesub_app",
        "GRANT UPDATE (tenant_id) ON tenant.musician TO stagesub_app",
    ),
    hole(
        "grant-beyond",
        "UPDATE (\"no\") on tenant.project for stagesub_app",
        "GRANT UPDATE (no) ON tenant.project TO stagesub_app",
    ),
    hole(
        "grant-beyond",
        "TRUNCATE on tenant.audit for stagesub_app",
        "GRANT TRUNCATE ON tenant.audit TO stagesub_app",
    ),
    hole(
        "grant-beyond",
        "REFERENCES on tenant.note for stagesub_app",
        "GRANT REFERENCES, TRIGGER ON tenant.note TO stagesub_app",
    )
    .tidy("REVOKE TRIGGER ON tenant.note FROM stagesub_app"),
    hole(
        "grant-beyond",
        "DELETE on tenant.audit for stagesub_app",
        "GRANT DELETE ON tenant.audit TO stagesub_app",
    ),
    hole(
        "grant-beyond",
        "UPDATE on app.tenant_fence for stagesub_app",
        "GRANT UPDATE ON app.tenant_fence TO stagesub_app",
    ),
    hole(
        "grant-beyond",
        "EXECUTE on ROUTINE app.protect(regclass) for PUBLIC",
        "GRANT EXECUTE ON PROCEDURE app.protect(regclass) TO PUBLIC",
    ),
    hole(
        "grant-beyond",
        "EXECUTE on ROUTINE app.refuse(bigint) for PUBLIC",
        "GRANT EXECUTE ON FUNCTION app.refuse(bigint) TO PUBLIC",
    ),
    hole(
        "grant-beyond",
        "EXECUTE on ROUTINE app.bind(uuid) for PUBLIC",
        "GRANT EXECUTE ON FUNCTION app.bind(uuid) TO PUBLIC",
    ),
    hole("grant-beyond", "TEMPORARY on DATABASE shr for PUBLIC", "GRANT TEMPORARY ON DATABASE shr TO PUBLIC"),
    hole("grant-beyond", "CONNECT on DATABASE shr for PUBLIC", "GRANT CONNECT ON DATABASE shr TO PUBLIC"),
    hole(
        "grant-beyond",
        "CONNECT on DATABASE shr for guest",
        "CREATE ROLE guest; GRANT CONNECT ON DATABASE shr TO guest",
    )
    .at(Level::Note)
    .tidy("DROP ROLE guest"),
    hole(
        "grant-beyond",
        "USAGE on SCHEMA tenant for guest",
        "CREATE ROLE guest; GRANT USAGE ON SCHEMA tenant TO guest",
    )
    .tidy("DROP ROLE guest"),
    hole(
        "grant-beyond",
        "SELECT on tenant.musician for stagesub_app",
        "GRANT SELECT ON tenant.musician TO stagesub_app WITH GRANT OPTION",
    ),
];

const GUARDS: &[Case] = &[
    // The epoch is not compared.
    hole(
        "guard-changed",
        "app.enter(bigint)",
        "CREATE OR REPLACE PROCEDURE app.enter(expected_epoch bigint) LANGUAGE plpgsql AS 'BEGIN END'",
    ),
    // Unset is nobody, in silence.
    hole(
        "guard-changed",
        "app.tenant_id()",
        "CREATE OR REPLACE FUNCTION app.tenant_id() RETURNS uuid LANGUAGE sql STABLE PARALLEL SAFE
            RETURN nullif(current_setting('app.tenant_id', true), '')::uuid",
    ),
    hole("guard-changed", "app.tenant_id()", "ALTER FUNCTION app.tenant_id() IMMUTABLE"),
    hole("guard-changed", "app.tenant_id()", "ALTER FUNCTION app.tenant_id() SET search_path = public"),
    hole("guard-changed", "app.enter(bigint)", "ALTER PROCEDURE app.enter(bigint) SECURITY DEFINER"),
    hole(
        "guard-changed",
        "app.enter(bigint)",
        "DROP PROCEDURE app.enter(bigint);
        CREATE FUNCTION app.enter(bigint) RETURNS void LANGUAGE sql AS 'SELECT'",
    ),
    // Nobody is refused; or only who finds a row.
    hole(
        "guard-changed",
        "app.refuse(bigint)",
        "CREATE OR REPLACE FUNCTION app.refuse(expected_epoch bigint) RETURNS boolean LANGUAGE plpgsql STABLE PARALLEL SAFE
            AS 'BEGIN RETURN true; END'",
    ),
    hole("guard-changed", "app.refuse(bigint)", "ALTER FUNCTION app.refuse(bigint) VOLATILE"),
    hole("guard-changed", "app.refuse(bigint)", "ALTER FUNCTION app.refuse(bigint) STRICT"),
    hole("guard-missing", "app.refuse(bigint)", "DROP FUNCTION app.refuse(bigint)"),
    // Whoever is bound may become another.
    hole(
        "guard-changed",
        "app.bind(uuid)",
        BIND_WITHOUT_REFUSAL,
    ),
    hole("guard-changed", "app.bind(uuid)", "ALTER FUNCTION app.bind(uuid) SECURITY DEFINER"),
    hole("guard-missing", "app.bind(uuid)", "DROP FUNCTION app.bind(uuid)"),
    hole("guard-missing", "app.protect(regclass)", "DROP PROCEDURE app.protect(regclass)"),
    // A narrower argument is found first.
    hole(
        "guard-unknown",
        "app.enter(integer)",
        as_owner!("CREATE PROCEDURE app.enter(integer) LANGUAGE plpgsql AS 'BEGIN END'"),
    ),
    hole(
        "schema-differs",
        "migration 20261123100000",
        "UPDATE app.migrations SET checksum = '\\x00' WHERE version = 20261123100000",
    ),
    hole(
        "schema-differs",
        "migration 20200101000000",
        "INSERT INTO app.migrations (version, description, success, checksum, execution_time) VALUES (20200101000000, '', true, '', 0)",
    ),
];

#[tokio::test(flavor = "multi_thread")]
async fn fences_columns_and_keys() {
    let server = sound().await;
    each_is_found_and_mended(&server, FENCES).await;
    each_is_found_and_mended(&server, COLUMNS_AND_KEYS).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn relations_routines_schemas_and_owners() {
    let server = sound().await;
    each_is_found_and_mended(&server, RELATIONS).await;
    each_is_found_and_mended(&server, ROUTINES).await;
    each_is_found_and_mended(&server, SCHEMAS_AND_OWNERS).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn roles_grants_and_guards() {
    let server = sound().await;
    each_is_found_and_mended(&server, ROLES).await;
    each_is_found_and_mended(&server, GRANTS).await;
    each_is_found_and_mended(&server, GUARDS).await;
}

/// What the administrator mends in the server's files holds from the next start on, or reload.
#[tokio::test(flavor = "multi_thread")]
async fn settings_of_the_server_itself() {
    let server = super::Server::on(
        Cluster::start(
            ClusterOptions::throwaway()
                .setting("wal_level", "replica")
                .setting("app.tenant_id", "00000000-0000-0000-0000-000000000001"),
        )
        .await
        .unwrap(),
    );
    server.create("reg").await;
    server.create("shr").await;
    server.migrate(&server.options()).await.unwrap();
    let found = super::report(&server).await;
    let find = |lint| found.findings().iter().find(|finding| finding.lint == lint).expect(lint);
    assert_eq!(find("bound-by-default").level, Level::Hole);
    let wal = find("wal-level");
    assert_eq!((wal.level, wal.object.as_str()), (Level::Partial, "wal_level is replica"));
    super::mend(&server, "shr", wal).await;
    let pending = "SELECT setting FROM pg_file_settings WHERE name = 'wal_level' AND sourcefile ~ 'auto'";
    assert_eq!(server.texts("shr", pending).await, ["logical"]);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_role_that_is_gone_and_a_schema_that_lags_or_leads() {
    let server = sound().await;
    let lints = async || {
        let report = super::report(&server).await;
        report.findings().iter().map(|finding| (finding.lint, finding.mend.clone())).collect::<Vec<_>>()
    };
    let newest = "DELETE FROM app.migrations WHERE version = (SELECT max(version) FROM app.migrations)";
    server.run("shr", &format!("CREATE TABLE public.kept AS SELECT * FROM app.migrations; {newest}")).await;
    assert!(
        lints()
            .await
            .iter()
            .any(|(lint, mend)| *lint == "schema-behind" && mend.contains("stagesub migrate"))
    );
    let ahead = "DELETE FROM app.migrations; INSERT INTO app.migrations SELECT * FROM public.kept; DROP TABLE public.kept;
        INSERT INTO app.migrations (version, description, success, checksum, execution_time) VALUES (29990101000000, '', true, '', 0)";
    server.run("shr", ahead).await;
    assert!(lints().await.iter().any(|(lint, mend)| *lint == "schema-ahead" && mend.contains("newer")));
    server.run("shr", "DELETE FROM app.migrations WHERE version = 29990101000000").await;
    server.run("shr", "DELETE FROM app.marker").await;
    assert_eq!(lints().await.iter().map(|(lint, _)| *lint).collect::<Vec<_>>(), ["marker-missing"]);

    for database in ["reg", "shr", "stagesub_template"] {
        server.run(database, "DROP OWNED BY stagesub_mover").await;
    }
    server.run("postgres", "DROP ROLE stagesub_mover").await;
    let report = super::report(&server).await;
    let missing =
        report.findings().iter().find(|finding| finding.lint == "role-missing").expect("it is told");
    assert_eq!(missing.object, "role stagesub_mover");
    super::mend(&server, "shr", missing).await;
    assert!(!lints().await.iter().any(|(lint, _)| *lint == "role-missing"));
}
