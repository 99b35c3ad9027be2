//! Lifting the fence instead of climbing it: becoming somebody else, changing what fences, reading what is
//! nobody's business.

use stagesub_tenancy::TenantId;
use stagesub_tenancy::prove::{Attack, Outcome};

use super::error::ProveError;
use super::label::{Label, not_carried_out};
use super::session::{Answer, Bound, Session, literal};
use super::subject::{Subject, sql_name};
use super::tables::NO_PRIVILEGE;
use crate::catalogue;
use crate::roles::quote;

/// The suites' names.
pub(super) const SUITE: &str = "fence-lifting";
pub(super) const HARDENING: &str = "hardening";

/// One thing that the application's login must not be able to do.
struct Lift {
    target: String,
    attempt: String,
    /// Said first; its refusal is one of the whole.
    first: Option<String>,
    sql: String,
    /// Where rows may be asked for and none come.
    may_be_empty: bool,
}

impl Lift {
    fn new(target: impl Into<String>, attempt: impl Into<String>, sql: impl Into<String>) -> Self {
        Self {
            target: target.into(),
            attempt: attempt.into(),
            first: None,
            sql: sql.into(),
            may_be_empty: false,
        }
    }

    fn after(mut self, first: impl Into<String>) -> Self {
        self.first = Some(first.into());
        self
    }

    /// No row is as good as a refusal.
    fn or_nothing(mut self) -> Self {
        self.may_be_empty = true;
        self
    }
}

/// Tries everything, bound to the attacker.
pub(super) async fn attack_all(
    app: &mut Session,
    subjects: &[Subject],
    attacker: TenantId,
    victim: TenantId,
) -> Result<Vec<Attack>, ProveError> {
    let mut lifts = becoming(app).await?;
    for subject in subjects {
        lifts.extend(of_table(subject, victim));
    }
    lifts.extend(making(app).await?);
    lifts.extend(of_the_platform(app, attacker, victim).await?);
    lifts.extend(of_the_server());
    let mut attacks = Vec::new();
    for lift in lifts {
        attacks.push(carry_out(app, attacker, SUITE, &lift, &Label::held()).await?);
    }
    Ok(attacks)
}

/// Calls what only some roles may call.
pub(super) async fn attack_functions(
    app: &mut Session,
    attacker: TenantId,
    victim: TenantId,
) -> Result<Vec<Attack>, ProveError> {
    let rebinding = Lift::new(
        "set_config",
        "binding the victim within an expression",
        format!("SELECT pg_catalog.set_config('app.tenant_id', '{victim}', true)"),
    );
    let mut attacks = vec![carry_out(app, attacker, HARDENING, &rebinding, &Label::held()).await?];
    for (signature, call) in guarded_functions(app).await? {
        // With no argument given, the functions do nothing; the right to call them is asked for first.
        let outcome = match app.attempt(Bound::To(attacker), &format!("SELECT {call}::text")).await? {
            Answer::Refused(refusal) if refusal.code == NO_PRIVILEGE => Outcome::Refused,
            _ => Outcome::Reached("the application may call it".to_owned()),
        };
        attacks.push(Label::held().attack(HARDENING, signature, "a call with no argument", outcome));
    }
    Ok(attacks)
}

/// Changes what a control of this suite changes back: for one statement with a guard removed.
pub(super) async fn attack_one(
    app: &mut Session,
    attacker: TenantId,
    (target, attempt, sql): (&str, &str, &str),
    label: &Label,
) -> Result<Attack, ProveError> {
    carry_out(app, attacker, SUITE, &Lift::new(target, attempt, sql), label).await
}

async fn carry_out(
    app: &mut Session,
    attacker: TenantId,
    suite: &str,
    lift: &Lift,
    label: &Label,
) -> Result<Attack, ProveError> {
    let mut transaction = app.begin(Bound::To(attacker)).await?;
    let answer = match &lift.first {
        Some(first) => match transaction.run(first).await? {
            Answer::Done(_) => transaction.run(&lift.sql).await?,
            refused @ Answer::Refused(_) => refused,
        },
        None => transaction.run(&lift.sql).await?,
    };
    transaction.end().await?;
    let outcome = match answer {
        Answer::Done(done) if lift.may_be_empty && done.rows == 0 => Outcome::Refused,
        Answer::Done(_) => Outcome::Reached("it was carried out".to_owned()),
        Answer::Refused(refusal) if refusal.code == NO_PRIVILEGE => Outcome::Refused,
        Answer::Refused(refusal) if refusal.by_constraint() => {
            Outcome::Reached(format!("privileges let it pass; only {refusal} stopped it"))
        }
        Answer::Refused(refusal) => not_carried_out(format!("the statement met {refusal}")),
    };
    Ok(label.attack(suite, lift.target.clone(), &lift.attempt, outcome))
}

/// Every other role of the server.
async fn becoming(app: &mut Session) -> Result<Vec<Lift>, ProveError> {
    let failed = app.failed("reading the roles");
    let roles: Vec<String> = sqlx::query_scalar(
        "SELECT rolname::text FROM pg_catalog.pg_roles WHERE rolname <> current_user ORDER BY rolname",
    )
    .fetch_all(app.catalogue())
    .await
    .map_err(failed)?;
    let mut lifts = vec![
        Lift::new(
            "the login",
            "attributes beyond those of a login",
            "SELECT rolname::text FROM pg_catalog.pg_roles WHERE rolname = session_user
             AND (rolsuper OR rolbypassrls OR rolcreaterole OR rolcreatedb OR rolreplication)",
        )
        .or_nothing(),
    ];
    for role in roles {
        let quoted = quote(&role);
        lifts.push(Lift::new(&role, "SET ROLE", format!("SET LOCAL ROLE {quoted}")));
        let sql = format!("SET LOCAL SESSION AUTHORIZATION {quoted}");
        lifts.push(Lift::new(&role, "SET SESSION AUTHORIZATION", sql));
    }
    Ok(lifts)
}

/// What fences a table.
fn of_table(subject: &Subject, victim: TenantId) -> Vec<Lift> {
    let (target, table) = (subject.table.name.to_string(), &subject.name);
    let mut lifts = Vec::new();
    if subject.has_tenant() {
        let sql = format!("SELECT 1::text FROM {table} WHERE tenant_id = '{victim}' LIMIT 1");
        lifts.push(
            Lift::new(&target, "SELECT with row_security off", sql).after("SET LOCAL row_security = off"),
        );
    }
    if !subject.table.is_table {
        return lifts;
    }
    let (schema, name) = (literal(&subject.table.name.schema), literal(&subject.table.name.name));
    lifts.push(
        Lift::new(
            &target,
            "SELECT of its most common values from pg_stats",
            format!("SELECT 1::text FROM pg_catalog.pg_stats WHERE schemaname = {schema} AND tablename = {name} LIMIT 1"),
        )
        .or_nothing(),
    );
    // Without the right to grant, GRANT is a warning. CREATE TRIGGER and CREATE RULE would take their locks first.
    let quoted = literal(table);
    let granted = format!("SELECT 1::text WHERE has_table_privilege('public', {quoted}, 'SELECT')");
    lifts.push(
        Lift::new(&target, "GRANT to everybody", granted)
            .after(format!("GRANT ALL ON {table} TO PUBLIC"))
            .or_nothing(),
    );
    let triggers = format!("SELECT 1::text WHERE has_table_privilege({quoted}, 'TRIGGER')");
    lifts.push(Lift::new(&target, "the privilege to create triggers", triggers).or_nothing());
    let statements = [
        (
            "ALTER TABLE .. DISABLE ROW LEVEL SECURITY",
            format!("ALTER TABLE {table} DISABLE ROW LEVEL SECURITY"),
        ),
        (
            "ALTER TABLE .. NO FORCE ROW LEVEL SECURITY",
            format!("ALTER TABLE {table} NO FORCE ROW LEVEL SECURITY"),
        ),
        ("ALTER TABLE .. OWNER TO", format!("ALTER TABLE {table} OWNER TO CURRENT_USER")),
        ("ALTER TABLE .. ADD COLUMN", format!("ALTER TABLE {table} ADD COLUMN prove_it integer")),
        ("CREATE POLICY", format!("CREATE POLICY prove_it ON {table} USING (true)")),
        ("CREATE INDEX", format!("CREATE INDEX prove_it ON {table} (tenant_id)")),
        ("DROP TABLE", format!("DROP TABLE {table} CASCADE")),
        ("TRUNCATE .. CASCADE", format!("TRUNCATE {table} CASCADE")),
    ];
    lifts.extend(statements.into_iter().map(|(attempt, sql)| Lift::new(&target, attempt, sql)));
    for policy in &subject.table.policies {
        let name = quote(&policy.name);
        lifts.push(Lift::new(
            &target,
            format!("DROP POLICY {name}"),
            format!("DROP POLICY {name} ON {table}"),
        ));
        let sql = format!("ALTER POLICY {name} ON {table} USING (true)");
        lifts.push(Lift::new(&target, format!("ALTER POLICY {name}"), sql));
    }
    lifts
}

/// Objects of one's own, in which a statement of somebody else may be caught.
async fn making(app: &mut Session) -> Result<Vec<Lift>, ProveError> {
    let failed = app.failed("reading the schemas");
    let usable: Vec<String> = sqlx::query_scalar(
        "SELECT nspname::text FROM pg_catalog.pg_namespace
         WHERE nspname !~ '^pg_(temp|toast)' AND nspname <> 'information_schema' AND has_schema_privilege(oid, 'USAGE')
         ORDER BY nspname",
    )
    .fetch_all(app.catalogue())
    .await
    .map_err(failed)?;
    let failed = app.failed("reading the extensions");
    let extensions: Vec<String> = sqlx::query_scalar(
        "SELECT name::text FROM pg_catalog.pg_available_extensions
         WHERE installed_version IS NULL AND name IN ('dblink', 'postgres_fdw', 'file_fdw', 'adminpack', 'lo', 'pgcrypto')
         ORDER BY name",
    )
    .fetch_all(app.catalogue())
    .await
    .map_err(failed)?;
    let failed = app.failed("reading the foreign-data wrappers");
    let wrappers: Vec<String> =
        sqlx::query_scalar("SELECT fdwname::text FROM pg_catalog.pg_foreign_data_wrapper ORDER BY fdwname")
            .fetch_all(app.catalogue())
            .await
            .map_err(failed)?;
    let mut lifts = vec![
        Lift::new("the database", "CREATE SCHEMA", "CREATE SCHEMA prove_it"),
        Lift::new(
            "the database",
            "CREATE TEMPORARY TABLE",
            "CREATE TEMPORARY TABLE prove_it (tenant_id uuid)",
        ),
        Lift::new("the database", "CREATE PUBLICATION", "CREATE PUBLICATION prove_it"),
        Lift::new("the server", "CREATE ROLE", "CREATE ROLE prove_it"),
    ];
    for schema in &usable {
        let quoted = quote(schema);
        lifts.push(Lift::new(
            schema,
            "CREATE TABLE",
            format!("CREATE TABLE {quoted}.prove_it (tenant_id uuid)"),
        ));
        lifts.push(Lift::new(
            schema,
            "CREATE VIEW",
            format!("CREATE VIEW {quoted}.prove_it AS SELECT 1 AS one"),
        ));
        let sql = format!("CREATE FUNCTION {quoted}.prove_it() RETURNS integer LANGUAGE sql AS 'SELECT 1'");
        lifts.push(Lift::new(schema, "CREATE FUNCTION", sql));
    }
    // What runs text as SQL on a connection of its own, where somebody installed it.
    let dblink = "SELECT 1::text FROM pg_catalog.pg_proc AS p
         JOIN pg_catalog.pg_depend AS d ON d.classid = 'pg_catalog.pg_proc'::regclass AND d.objid = p.oid
         JOIN pg_catalog.pg_extension AS e ON e.oid = d.refobjid AND d.deptype = 'e'
         WHERE e.extname = 'dblink' AND has_function_privilege(p.oid, 'EXECUTE') LIMIT 1";
    lifts.push(Lift::new("dblink", "calling its functions", dblink).or_nothing());
    let servers = "SELECT srvname::text FROM pg_catalog.pg_foreign_server
         WHERE has_server_privilege(oid, 'USAGE') LIMIT 1";
    lifts.push(Lift::new("foreign servers", "using them", servers).or_nothing());
    for extension in extensions {
        let sql = format!("CREATE EXTENSION {}", quote(&extension));
        lifts.push(Lift::new(extension, "CREATE EXTENSION", sql));
    }
    for wrapper in wrappers {
        let sql = format!("CREATE SERVER prove_it FOREIGN DATA WRAPPER {}", quote(&wrapper));
        lifts.push(Lift::new(wrapper, "CREATE SERVER", sql));
    }
    Ok(lifts)
}

/// What the platform itself keeps.
async fn of_the_platform(
    app: &mut Session,
    attacker: TenantId,
    victim: TenantId,
) -> Result<Vec<Lift>, ProveError> {
    let failed = app.failed("reading the catalogue");
    let kept = catalogue::read(app.catalogue(), &["app".to_owned()]).await.map_err(failed)?;
    let failed = app.failed("reading the catalogue");
    let registry = catalogue::read(app.catalogue(), &["registry".to_owned()]).await.map_err(failed)?;
    let mut lifts = vec![
        Lift::new(
            "app.tenant_fence",
            "SELECT of other tenants' rows",
            format!(
                "SELECT 1::text FROM app.tenant_fence WHERE tenant_id IS DISTINCT FROM '{attacker}' LIMIT 1"
            ),
        )
        .or_nothing(),
        Lift::new(
            "app.tenant_fence",
            "INSERT of a tenant's fence",
            format!(
                "INSERT INTO app.tenant_fence (tenant_id, state, epoch) VALUES ('{victim}', 'active', 1)"
            ),
        ),
    ];
    for table in kept.iter().filter(|table| table.is_table) {
        let (target, name) = (table.name.to_string(), sql_name(&table.name));
        let column = table.columns.first().map(|column| quote(&column.name)).unwrap_or_default();
        lifts.push(Lift::new(&target, "INSERT", format!("INSERT INTO {name} DEFAULT VALUES")));
        lifts.push(Lift::new(&target, "UPDATE", format!("UPDATE {name} SET {column} = {column}")));
        lifts.push(Lift::new(&target, "DELETE", format!("DELETE FROM {name}")));
        lifts.push(Lift::new(&target, "TRUNCATE", format!("TRUNCATE {name}")));
    }
    for table in &registry {
        let sql = format!("SELECT 1::text FROM {} LIMIT 1", sql_name(&table.name));
        lifts.push(Lift::new(table.name.to_string(), "SELECT", sql));
    }
    let functions = [
        (
            "app.tenant_id()",
            "CREATE OR REPLACE FUNCTION",
            "CREATE OR REPLACE FUNCTION app.tenant_id() RETURNS uuid LANGUAGE sql AS 'SELECT NULL::uuid'",
        ),
        ("app.tenant_id()", "ALTER FUNCTION", "ALTER FUNCTION app.tenant_id() SECURITY DEFINER"),
        ("app.tenant_id()", "DROP FUNCTION", "DROP FUNCTION app.tenant_id() CASCADE"),
        (
            "app.enter(bigint)",
            "CREATE OR REPLACE PROCEDURE",
            "CREATE OR REPLACE PROCEDURE app.enter(expected_epoch bigint) LANGUAGE sql AS 'SELECT 1'",
        ),
        ("app.enter(bigint)", "DROP PROCEDURE", "DROP PROCEDURE app.enter(bigint)"),
        (
            "app.refuse(bigint)",
            "CREATE OR REPLACE FUNCTION",
            "CREATE OR REPLACE FUNCTION app.refuse(expected_epoch bigint) RETURNS boolean LANGUAGE sql AS 'SELECT true'",
        ),
        ("app.refuse(bigint)", "ALTER FUNCTION", "ALTER FUNCTION app.refuse(bigint) VOLATILE"),
        ("app.refuse(bigint)", "DROP FUNCTION", "DROP FUNCTION app.refuse(bigint)"),
        (
            "app.bind(uuid)",
            "CREATE OR REPLACE FUNCTION",
            "CREATE OR REPLACE FUNCTION app.bind(wanted uuid) RETURNS uuid LANGUAGE sql AS 'SELECT wanted'",
        ),
        ("app.bind(uuid)", "ALTER FUNCTION", "ALTER FUNCTION app.bind(uuid) SECURITY DEFINER"),
        ("app.bind(uuid)", "DROP FUNCTION", "DROP FUNCTION app.bind(uuid)"),
        ("app.protect(regclass)", "CALL", "CALL app.protect('app.marker')"),
    ];
    lifts.extend(functions.into_iter().map(|(target, attempt, sql)| Lift::new(target, attempt, sql)));
    Ok(lifts)
}

/// What the server keeps.
fn of_the_server() -> Vec<Lift> {
    let secrets = [
        "pg_authid",
        "pg_shadow",
        "pg_statistic",
        "pg_statistic_ext_data",
        "pg_user_mapping",
        "pg_largeobject",
        "pg_hba_file_rules",
        "pg_file_settings",
    ];
    let mut lifts: Vec<Lift> = secrets
        .into_iter()
        .map(|name| {
            Lift::new(
                format!("pg_catalog.{name}"),
                "SELECT",
                format!("SELECT 1::text FROM pg_catalog.{name} LIMIT 1"),
            )
        })
        .collect();
    let statements = [
        (
            "pg_catalog.pg_subscription",
            "SELECT of connection strings",
            "SELECT subconninfo FROM pg_catalog.pg_subscription LIMIT 1",
        ),
        ("session_replication_role", "SET", "SET LOCAL session_replication_role = replica"),
        ("files of the server", "pg_read_file", "SELECT pg_catalog.pg_read_file('PG_VERSION')"),
        ("files of the server", "pg_ls_dir", "SELECT pg_catalog.pg_ls_dir('.') LIMIT 1"),
        ("files of the server", "COPY TO a file", "COPY (SELECT 1) TO '/dev/null'"),
        ("programs of the server", "COPY TO PROGRAM", "COPY (SELECT 1) TO PROGRAM 'true'"),
    ];
    lifts.extend(statements.into_iter().map(|(target, attempt, sql)| Lift::new(target, attempt, sql)));
    lifts
}

/// The functions that a superuser takes from PUBLIC, as signature and call.
async fn guarded_functions(app: &mut Session) -> Result<Vec<(String, String)>, ProveError> {
    let failed = app.failed("reading the functions");
    sqlx::query_as(
        "SELECT p.oid::regprocedure::text,
                'pg_catalog.' || quote_ident(p.proname) || '(' || coalesce(
                    (SELECT string_agg('(SELECT NULL::' || format_type(a.argument, NULL) || ')', ', ' ORDER BY a.place)
                     FROM unnest(p.proargtypes) WITH ORDINALITY AS a (argument, place)), '') || ')'
         FROM pg_catalog.pg_proc AS p
         WHERE p.pronamespace = 'pg_catalog'::regnamespace
             AND (p.proname IN ('set_config', 'pg_terminate_backend', 'pg_logical_emit_message', 'pg_notify',
                     'pg_advisory_lock', 'pg_advisory_lock_shared',
                     'pg_try_advisory_lock', 'pg_try_advisory_lock_shared', 'loread', 'lowrite')
                 OR p.proname ~ '^(lo_|(query|cursor|table|schema|database)_to_xml)')
         ORDER BY 1",
    )
    .fetch_all(app.catalogue())
    .await
    .map_err(failed)
}
