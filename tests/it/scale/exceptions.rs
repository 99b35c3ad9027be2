//! Statements that read more than they are asked for, each with the reason why it may.

use super::plan::Finding;

/// A statement that may.
pub(crate) struct Exception {
    /// How its text begins, on one line; no other's does.
    pub(crate) begins: &'static str,
    /// Of which table.
    pub(crate) table: &'static str,
    /// Why.
    pub(crate) reason: &'static str,
}

/// Those on tenants' data.
pub(crate) const OF_TENANTS: &[Exception] = &[
    Exception {
        begins: "SELECT resource, used, allowed, grace_until FROM tenant.quota WHERE tenant_id = $1 ORDER BY",
        table: "tenant.quota",
        reason: "all of a tenant's limits are asked for; there are three",
    },
    Exception {
        begins: "SELECT m.no, m.first_name, m.last_name, m.email, m.phone, m.preferred_language, m.local_residence, m.notes, m.is_active, m.archived_at, m.created_at, m.updated_at, ARRAY(SELECT q.position_no FROM tenant.musician_qualification AS q WHERE q.tenant_id = $1 AND q.musician_no = m.no ORDER BY q.position_no) AS \"qualifications!\" FROM tenant.musician AS m WHERE m.tenant_id = $1 AND m.no > $2 AND ($3",
        table: "tenant.musician_qualification",
        reason: "who is qualified is looked up at once for all musicians that a search goes through, of one tenant",
    },
    Exception {
        begins: "SELECT no, instrument_no, name, hierarchy_level, created_at, updated_at FROM tenant.position WHERE tenant_id = $1 AND no > $2 AND ($3",
        table: "tenant.position",
        reason: "a part of a name is looked for in one tenant's positions, of which there are tens",
    },
    Exception {
        begins: "SELECT no, name, start_date, week_number, rehearsal_schedule, concert_info, notes, status, created_at, updated_at FROM tenant.project WHERE tenant_id = $1 AND no > $2 AND ($3",
        table: "tenant.project",
        reason: "a part of a name is looked for in one tenant's projects, of which there are hundreds",
    },
];

/// Those on the registry.
pub(crate) const OF_REGISTRY: &[Exception] = &[
    Exception {
        begins: "SELECT d.id, d.kind, d.tenant_id, d.status, d.server_identifier, d.host, d.port, d.name, l.sealed",
        table: "registry.databases",
        reason: "`stagesub migrate` goes through every database there is",
    },
    Exception {
        begins: "SELECT d.id, d.kind, d.tenant_id, d.status, d.server_identifier, d.host, d.port, d.name, l.sealed",
        table: "registry.database_logins",
        reason: "`stagesub migrate` goes through every database there is, with its login",
    },
    Exception {
        begins: "SELECT id, kind, tenant_id FROM registry.databases WHERE status = 'ready'",
        table: "registry.databases",
        reason: "`stagesub doctor` and `prove` list every database there is",
    },
    Exception {
        begins: "SELECT id, kind, tenant_id, server_identifier, host, port, name FROM registry.databases",
        table: "registry.databases",
        reason: "`stagesub doctor` looks into every database there is",
    },
    Exception {
        begins: "SELECT p.tenant_id AS tenant, b.tenant_id AS \"owner!\"",
        table: "registry.databases",
        reason: "`stagesub doctor` compares every placement with its database",
    },
    Exception {
        begins: "SELECT p.tenant_id AS tenant, b.tenant_id AS \"owner!\"",
        table: "registry.directory",
        reason: "`stagesub doctor` compares every placement with its database",
    },
    Exception {
        begins: "SELECT l.database_id AS \"database_id!\", l.role AS \"role!\", l.sealed AS \"sealed!\", d.tenant_id",
        table: "registry.database_logins",
        reason: "when a database is made on a server, the logins of all that are there are looked through",
    },
    Exception {
        begins: "SELECT tenant_id FROM registry.directory WHERE database_id = $1 ORDER BY tenant_id LIMIT 1",
        table: "registry.directory",
        reason: "`stagesub prove` takes any tenant of a shared database; most tenants are in one",
    },
    Exception {
        begins: "SELECT id FROM registry.moves WHERE ended_at IS NULL OR ended_at >= $1",
        table: "registry.moves",
        reason: "`stagesub doctor` goes through every move that may have left something",
    },
    Exception {
        begins: "WITH used AS ( SELECT tenant_id, sum(database_us)::bigint AS database_us, sum(pool_wait_us)",
        table: "registry.tenant_usage",
        reason: "who uses most is found by summing up what everybody used; what is kept is two days",
    },
];

/// Foreign keys that are not followed back by an index, and why not.
const KEYS: &[(&str, &str)] = &[(
    "registry.directory directory_database_fkey",
    "databases are not deleted and do not change their kind; an index has their id",
)];

/// What was found and is no exception, exceptions that are none any more, and those that are not clear.
pub(crate) fn judge(lines: &[String], found: &[(String, Finding)], exceptions: &[Exception]) -> Vec<String> {
    let excuses = |exception: &Exception, line: &str, finding: &Finding| {
        line.starts_with(exception.begins) && finding.table == exception.table
    };
    let mut complaints: Vec<String> = found
        .iter()
        .filter(|(line, finding)| !exceptions.iter().any(|exception| excuses(exception, line, finding)))
        .map(|(line, finding)| format!("{finding}\n    {line}"))
        .collect();
    complaints.sort();
    for exception in exceptions {
        let named = lines.iter().filter(|line| line.starts_with(exception.begins)).count();
        let (begins, table) = (exception.begins, exception.table);
        if named != 1 {
            complaints.push(format!("an exception names {named} statements: {begins}"));
        } else if !found.iter().any(|(line, finding)| excuses(exception, line, finding)) {
            complaints.push(format!("no exception any more ({}): {table}, {begins}", exception.reason));
        }
    }
    complaints
}

/// The same of foreign keys.
pub(crate) fn judge_keys(bare: &[String]) -> Vec<String> {
    let excused = |key: &String| KEYS.iter().any(|(listed, _)| listed == key);
    bare.iter()
        .filter(|key| !excused(key))
        .map(|key| format!("no index begins with the columns of {key}"))
        .collect()
}

#[test]
fn an_exception_is_needed_and_clear() {
    let finding = Finding { table: "tenant.project".to_owned(), what: "Seq Scan".to_owned() };
    let lines = ["SELECT a".to_owned(), "SELECT b".to_owned()];
    let found = [(lines[0].clone(), finding)];
    let exception = |begins, table| Exception { begins, table, reason: "it is a test" };

    assert_eq!(judge(&lines, &found, &[]).len(), 1);
    assert!(judge(&lines, &found, &[exception("SELECT a", "tenant.project")]).is_empty());
    let complaints = judge(&lines, &found, &[exception("SELECT a", "tenant.musician")]);
    assert_eq!(complaints.len(), 2, "another table's excuses nothing: {complaints:?}");
    let complaints = judge(&lines, &[], &[exception("SELECT a", "tenant.project")]);
    assert!(complaints.len() == 1 && complaints[0].starts_with("no exception any more"), "{complaints:?}");
    for begins in ["SELECT", "SELECT c"] {
        let complaints =
            judge(&lines, &found, &[exception("SELECT a", "tenant.project"), exception(begins, "x")]);
        assert!(complaints.len() == 1 && complaints[0].starts_with("an exception names"), "{complaints:?}");
    }
}
