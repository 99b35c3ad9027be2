//! What is not adopted as it is: each with what to do about it first. All of it is said before anything is done.

use std::fmt;

use serde::Serialize;
use sqlx::{AssertSqlSafe, PgConnection};

use super::{AdoptError, Adoption, during};
use crate::doctor::tables::{TENANT_ID, is_fence};

/// Something that is not adopted as it is.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Refusal {
    /// A stable name of what is wrong, for programs.
    pub reason: &'static str,
    /// What it is about.
    pub object: String,
    /// Why it cannot be.
    pub why: &'static str,
    /// What to do first: SQL, or words as an SQL comment.
    pub remedy: String,
}

impl fmt::Display for Refusal {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} ({}: {}); {}", self.object, self.reason, self.why, self.remedy)
    }
}

/// A question whose rows are refusals: what it is about, and what to do.
struct Question {
    reason: &'static str,
    why: &'static str,
    sql: &'static str,
}

/// Each begins with `given`: the schema, the tables of no tenant, the column that says whose a row is. `tables` are
/// the tenant tables.
const GIVEN: &str = "WITH given AS (
    SELECT n.oid AS schema, n.nspname, $2::text[] AS reference, $3::text AS tenant_column
    FROM pg_namespace AS n WHERE n.nspname = $1
), tables AS (
    SELECT c.oid, c.relname, c.relkind, c.relispartition FROM pg_class AS c, given
    WHERE c.relnamespace = given.schema AND c.relkind IN ('r', 'p') AND NOT c.relname = ANY (given.reference)
)";

const QUESTIONS: &[Question] = &[
    Question {
        reason: "partitioned-table",
        why: "its partitions are tables of their own, and each would need the fence as well",
        sql: "SELECT t.oid::regclass::text,
                '-- Adopt it as one table: copy its rows into one that is not partitioned.'
            FROM tables AS t WHERE t.relkind = 'p' OR t.relispartition ORDER BY 1",
    },
    Question {
        reason: "inheritance",
        why: "through a parent its children's rows are seen by the parent's policies alone",
        sql: "SELECT format('%s, child of %s', i.inhrelid::regclass, i.inhparent::regclass),
                format('ALTER TABLE %s NO INHERIT %s;', i.inhrelid::regclass, i.inhparent::regclass)
            FROM pg_inherits AS i JOIN pg_class AS c ON c.oid = i.inhrelid JOIN pg_class AS p ON p.oid = i.inhparent, given
            WHERE c.relkind = 'r' AND NOT c.relispartition AND given.schema IN (c.relnamespace, p.relnamespace) ORDER BY 1",
    },
    Question {
        reason: "foreign-table",
        why: "its rows are another server's, and row-level security does not hold on it",
        sql: "SELECT c.oid::regclass::text, format('DROP FOREIGN TABLE %s;', c.oid::regclass)
            FROM pg_class AS c, given WHERE c.relnamespace = given.schema AND c.relkind = 'f' ORDER BY 1",
    },
    Question {
        reason: "materialized-view",
        why: "it keeps rows of tenants, and row-level security does not hold on it",
        sql: "SELECT c.oid::regclass::text, format('DROP MATERIALIZED VIEW %s;', c.oid::regclass)
            FROM pg_class AS c, given WHERE c.relnamespace = given.schema AND c.relkind = 'm' ORDER BY 1",
    },
    Question {
        reason: "view-not-invoker",
        why: "without security_invoker it reads with its owner's privileges and not the caller's",
        sql: "SELECT c.oid::regclass::text, format('ALTER VIEW %s SET (security_invoker = true);', c.oid::regclass)
            FROM pg_class AS c, given
            WHERE c.relnamespace = given.schema AND c.relkind = 'v' AND NOT EXISTS (
                SELECT FROM pg_options_to_table(c.reloptions)
                WHERE option_name = 'security_invoker' AND option_value::boolean) ORDER BY 1",
    },
    Question {
        reason: "trigger",
        why: "its function sees every row that is written, and what happens to a row is to be read in the statement",
        sql: "SELECT format('trigger %I on %s', t.tgname, t.tgrelid::regclass),
                format('DROP TRIGGER %I ON %s;', t.tgname, t.tgrelid::regclass)
            FROM pg_trigger AS t JOIN pg_class AS c ON c.oid = t.tgrelid, given
            WHERE NOT t.tgisinternal AND c.relnamespace = given.schema ORDER BY 1",
    },
    Question {
        reason: "rule",
        why: "a rule's statements run with the privileges of the table's owner",
        sql: "SELECT format('rule %I on %s', r.rulename, c.oid::regclass), format('DROP RULE %I ON %s;', r.rulename, c.oid::regclass)
            FROM pg_rewrite AS r JOIN pg_class AS c ON c.oid = r.ev_class, given
            WHERE r.rulename <> '_RETURN' AND c.relnamespace = given.schema ORDER BY 1",
    },
    Question {
        reason: "security-definer",
        why: "it runs with its owner's privileges and not the caller's",
        sql: "SELECT p.oid::regprocedure::text, format('ALTER ROUTINE %s SECURITY INVOKER;', p.oid::regprocedure)
            FROM pg_proc AS p, given WHERE p.prosecdef AND p.pronamespace = given.schema ORDER BY 1",
    },
    Question {
        reason: "extension",
        why: "what an extension made is not the service's to give away",
        sql: "SELECT DISTINCT format('extension %I', e.extname),
                format('CREATE SCHEMA IF NOT EXISTS extensions; ALTER EXTENSION %I SET SCHEMA extensions;', e.extname)
            FROM pg_extension AS e, given
            WHERE e.extnamespace = given.schema OR EXISTS (
                SELECT FROM pg_depend AS d LEFT JOIN pg_class AS c ON d.classid = 'pg_class'::regclass AND c.oid = d.objid
                LEFT JOIN pg_proc AS p ON d.classid = 'pg_proc'::regclass AND p.oid = d.objid
                WHERE d.refclassid = 'pg_extension'::regclass AND d.refobjid = e.oid AND d.deptype = 'e'
                    AND given.schema IN (c.relnamespace, p.pronamespace)) ORDER BY 1",
    },
    Question {
        reason: "sequence-of-no-column",
        why: "all tenants would count with it, and no table says what it is for",
        sql: "SELECT c.oid::regclass::text, format('ALTER SEQUENCE %s OWNED BY %I.\"a table\".\"its column\"; -- or DROP SEQUENCE', c.oid::regclass, given.nspname)
            FROM pg_class AS c, given
            WHERE c.relnamespace = given.schema AND c.relkind = 'S' AND NOT EXISTS (
                SELECT FROM pg_depend AS d WHERE d.classid = 'pg_class'::regclass AND d.objid = c.oid AND d.deptype IN ('a', 'i'))
            ORDER BY 1",
    },
    Question {
        reason: "primary-key-missing",
        why: "its rows cannot be told apart, moved or referred to",
        sql: "SELECT t.oid::regclass::text, format('ALTER TABLE %s ADD PRIMARY KEY (\"its columns\");', t.oid::regclass)
            FROM tables AS t
            WHERE t.relkind = 'r' AND NOT EXISTS (SELECT FROM pg_index AS i WHERE i.indrelid = t.oid AND i.indisprimary) ORDER BY 1",
    },
    Question {
        reason: "tenant-column-type",
        why: "a tenant is known by a uuid, and compared by nothing else",
        sql: "SELECT format('column %I of %s, %s', a.attname, t.oid::regclass, format_type(a.atttypid, a.atttypmod)),
                CASE WHEN a.atttypid IN ('text'::regtype, 'varchar'::regtype, 'bpchar'::regtype)
                    THEN format('ALTER TABLE %s ALTER COLUMN %I TYPE uuid USING %2$I::uuid; -- where its texts are the ids of tenants', t.oid::regclass, a.attname)
                    ELSE format('-- Give %s a uuid column %I of the tenants'' ids, filled from a list that says which id each old value stands for, and drop the old one.', t.oid::regclass, a.attname) END
            FROM tables AS t JOIN pg_attribute AS a ON a.attrelid = t.oid, given
            WHERE a.attnum > 0 AND NOT a.attisdropped AND a.atttypid <> 'uuid'::regtype
                AND (a.attname = 'tenant_id' OR a.attname = given.tenant_column AND NOT EXISTS (
                    SELECT FROM pg_attribute AS o WHERE o.attrelid = t.oid AND o.attname = 'tenant_id' AND NOT o.attisdropped))
            ORDER BY 1",
    },
    Question {
        reason: "tenant-column-computed",
        why: "whose a row is has to be written, and checked when it is",
        sql: "SELECT format('column %I of %s', a.attname, t.oid::regclass), format('ALTER TABLE %s ALTER COLUMN %I DROP EXPRESSION;', t.oid::regclass, a.attname)
            FROM tables AS t JOIN pg_attribute AS a ON a.attrelid = t.oid
            WHERE a.attname = 'tenant_id' AND a.attgenerated <> '' ORDER BY 1",
    },
    Question {
        reason: "reference-from-outside",
        why: "a table outside the schema, or one of no tenant, refers to a tenant's rows",
        sql: "SELECT format('foreign key %I on %s', k.conname, k.conrelid::regclass),
                format('ALTER TABLE %s DROP CONSTRAINT %I;', k.conrelid::regclass, k.conname)
            FROM pg_constraint AS k JOIN tables AS t ON t.oid = k.confrelid
            WHERE k.contype = 'f' AND NOT EXISTS (SELECT FROM tables AS own WHERE own.oid = k.conrelid) ORDER BY 1",
    },
    Question {
        reason: "reference-to-outside",
        why: "it refers to a table outside the schema, of which nobody said whose it is",
        sql: "SELECT format('foreign key %I on %s', k.conname, k.conrelid::regclass),
                format('ALTER TABLE %s DROP CONSTRAINT %I; -- or ALTER TABLE %s SET SCHEMA %I;', k.conrelid::regclass, k.conname, k.confrelid::regclass, given.nspname)
            FROM pg_constraint AS k JOIN tables AS t ON t.oid = k.conrelid JOIN pg_class AS p ON p.oid = k.confrelid, given
            WHERE k.contype = 'f' AND p.relnamespace <> given.schema ORDER BY 1",
    },
    Question {
        reason: "reference-sets-on-update",
        why: "ON UPDATE SET NULL and SET DEFAULT take no list of columns, so they would set tenant_id as well",
        sql: "SELECT format('foreign key %I on %s', k.conname, k.conrelid::regclass),
                format('-- Make foreign key %I on %s anew with another ON UPDATE.', k.conname, k.conrelid::regclass)
            FROM pg_constraint AS k JOIN tables AS t ON t.oid = k.conrelid JOIN tables AS p ON p.oid = k.confrelid
            WHERE k.contype = 'f' AND k.confupdtype IN ('n', 'd') ORDER BY 1",
    },
    Question {
        reason: "reference-match-full",
        why: "MATCH FULL would refuse rows whose other columns are NULL beside a tenant_id that is not",
        sql: "SELECT format('foreign key %I on %s', k.conname, k.conrelid::regclass),
                format('-- Make foreign key %I on %s anew with MATCH SIMPLE.', k.conname, k.conrelid::regclass)
            FROM pg_constraint AS k JOIN tables AS t ON t.oid = k.conrelid JOIN tables AS p ON p.oid = k.confrelid
            WHERE k.contype = 'f' AND k.confmatchtype = 'f' AND cardinality(k.conkey) > 1
                AND NOT EXISTS (SELECT FROM pg_attribute AS a WHERE a.attrelid = t.oid AND a.attnum = ANY (k.conkey) AND a.attname = 'tenant_id')
            ORDER BY 1",
    },
    Question {
        reason: "reference-by-tenant",
        why: "it refers by the column that says whose a row is, and to a tenant's table: of what is the same for all tenants, as a list of them, nobody said so",
        sql: "SELECT format('foreign key %I on %s', k.conname, t.oid::regclass),
                format('-- Say --reference-table %s, if each tenant may read all of it; or first ALTER TABLE %s DROP CONSTRAINT %I;', quote_ident(p.relname), t.oid::regclass, k.conname)
            FROM pg_constraint AS k JOIN tables AS t ON t.oid = k.conrelid JOIN tables AS p ON p.oid = k.confrelid, given
            WHERE k.contype = 'f' AND NOT EXISTS (
                SELECT FROM unnest(k.conkey, k.confkey) AS pair (mine, theirs)
                JOIN pg_attribute AS a ON a.attrelid = k.conrelid AND a.attnum = pair.mine
                JOIN pg_attribute AS b ON b.attrelid = k.confrelid AND b.attnum = pair.theirs
                WHERE NOT (a.attname IN ('tenant_id', coalesce(given.tenant_column, 'tenant_id'))
                        OR b.attname IN ('tenant_id', coalesce(given.tenant_column, 'tenant_id')))
                    OR a.attname IN ('tenant_id', coalesce(given.tenant_column, 'tenant_id'))
                        AND b.attname IN ('tenant_id', coalesce(given.tenant_column, 'tenant_id'))
                        AND k.confdeltype NOT IN ('n', 'd'))
            ORDER BY 1",
    },
    Question {
        reason: "exclusion-across-tenants",
        why: "it excludes rows by what their tenants are to each other, so that one learns of and blocks another's",
        sql: "SELECT format('constraint %I on %s', k.conname, t.oid::regclass),
                format('ALTER TABLE %s DROP CONSTRAINT %I;', t.oid::regclass, k.conname)
            FROM pg_constraint AS k JOIN tables AS t ON t.oid = k.conrelid, given
            WHERE k.contype = 'x' AND EXISTS (
                SELECT FROM unnest(k.conkey, k.conexclop) AS pair (attribute, operator)
                JOIN pg_attribute AS a ON a.attrelid = k.conrelid AND a.attnum = pair.attribute
                JOIN pg_operator AS o ON o.oid = pair.operator
                WHERE a.attname IN ('tenant_id', coalesce(given.tenant_column, 'tenant_id'))
                    AND NOT (o.oprname = '=' AND o.oprnamespace = 'pg_catalog'::regnamespace)) ORDER BY 1",
    },
    Question {
        reason: "index-method",
        why: "an index of this kind takes no uuid here, and tenant_id has to lead in it",
        sql: "SELECT format('index %s (%s)', i.indexrelid::regclass, am.amname),
                CASE am.amname WHEN 'gin' THEN 'CREATE SCHEMA IF NOT EXISTS extensions; CREATE EXTENSION btree_gin SCHEMA extensions;'
                    WHEN 'gist' THEN 'CREATE SCHEMA IF NOT EXISTS extensions; CREATE EXTENSION btree_gist SCHEMA extensions;'
                    ELSE format('DROP INDEX %s;', i.indexrelid::regclass) END
            FROM pg_index AS i JOIN tables AS t ON t.oid = i.indrelid JOIN pg_class AS c ON c.oid = i.indexrelid
            JOIN pg_am AS am ON am.oid = c.relam, given
            WHERE am.amname <> 'hash' AND NOT EXISTS (SELECT FROM pg_opclass AS o
                WHERE o.opcmethod = am.oid AND o.opcintype = 'uuid'::regtype AND o.opcdefault) ORDER BY 1",
    },
    Question {
        reason: "replica-identity",
        why: "the index that subscribers know its rows by would be made anew",
        sql: "SELECT i.indexrelid::regclass::text, format('ALTER TABLE %s REPLICA IDENTITY DEFAULT;', t.oid::regclass)
            FROM pg_index AS i JOIN tables AS t ON t.oid = i.indrelid WHERE i.indisreplident ORDER BY 1",
    },
    Question {
        reason: "owner",
        why: "this login may not give it to stagesub_owner, whose every tenant table is",
        sql: ", owned AS (
            SELECT format('schema %I', n.nspname) AS object, n.nspowner AS owner FROM pg_namespace AS n, given WHERE n.oid = given.schema
            UNION ALL
            SELECT c.oid::regclass::text, c.relowner FROM pg_class AS c, given WHERE c.relnamespace = given.schema AND c.relkind IN ('r', 'v', 'S')
            UNION ALL
            SELECT p.oid::regprocedure::text, p.proowner FROM pg_proc AS p, given WHERE p.pronamespace = given.schema
        )
            SELECT format('%s, owned by %I', owned.object, pg_get_userbyid(owned.owner)),
                format('-- Adopt it as a superuser, or as a login that is a member of %I and of stagesub_owner.', pg_get_userbyid(owned.owner))
            FROM owned
            WHERE NOT (SELECT rolsuper FROM pg_roles WHERE rolname = current_user)
                AND NOT (pg_has_role(owned.owner, 'USAGE')
                    AND EXISTS (SELECT FROM pg_roles AS r WHERE r.rolname = 'stagesub_owner' AND pg_has_role(r.oid, 'USAGE')))
            ORDER BY 1",
    },
];

/// Refuses what cannot be adopted, all of it at once.
pub(super) async fn check(conn: &mut PgConnection, adoption: &Adoption) -> Result<(), AdoptError> {
    refuse_reserved(&adoption.schema)?;
    refuse_missing(conn, adoption).await?;
    let mut refused = Vec::new();
    for Question { reason, why, sql } in QUESTIONS {
        // Both halves are literals of this file.
        let rows: Vec<(String, String)> = sqlx::query_as(AssertSqlSafe(format!("{GIVEN} {sql}")))
            .bind(&adoption.schema)
            .bind(&adoption.reference)
            .bind(&adoption.tenant_column)
            .fetch_all(&mut *conn)
            .await
            .map_err(during("looking for what cannot be adopted"))?;
        refused.extend(rows.into_iter().map(|(object, remedy)| Refusal { reason, object, why, remedy }));
    }
    refused.extend(policies(conn, adoption).await?);
    if refused.is_empty() { Ok(()) } else { Err(AdoptError::Refused(refused)) }
}

fn refuse_reserved(schema: &str) -> Result<(), AdoptError> {
    let why = match schema {
        "app" | "registry" | "tenant" => "it is the platform's own",
        "information_schema" => "it is the server's",
        "public" => {
            "every role may look into it, and extensions live there; give the tables a schema of their own \
             (ALTER SCHEMA public RENAME TO service_data; CREATE SCHEMA public)"
        }
        name if name.starts_with("pg_") => "it is the server's",
        _ => return Ok(()),
    };
    Err(AdoptError::Reserved { schema: schema.to_owned(), why })
}

async fn refuse_missing(conn: &mut PgConnection, adoption: &Adoption) -> Result<(), AdoptError> {
    let doing = "looking for the schema";
    let (schema, prepared): (bool, bool) = sqlx::query_as(
        "SELECT EXISTS (SELECT FROM pg_namespace WHERE nspname = $1),
            EXISTS (SELECT FROM pg_proc AS p JOIN pg_namespace AS n ON n.oid = p.pronamespace
                WHERE n.nspname = 'app' AND p.proname = 'tenant_id')",
    )
    .bind(&adoption.schema)
    .fetch_one(&mut *conn)
    .await
    .map_err(during(doing))?;
    if !prepared {
        return Err(AdoptError::NotPrepared);
    }
    if !schema {
        return Err(AdoptError::NoSchema { schema: adoption.schema.clone() });
    }
    let absent: Option<String> = sqlx::query_scalar(
        "SELECT r FROM unnest($2::text[]) AS r WHERE NOT EXISTS (
            SELECT FROM pg_class AS c JOIN pg_namespace AS n ON n.oid = c.relnamespace
            WHERE n.nspname = $1 AND c.relname = r AND c.relkind = 'r')
        ORDER BY 1 LIMIT 1",
    )
    .bind(&adoption.schema)
    .bind(&adoption.reference)
    .fetch_optional(&mut *conn)
    .await
    .map_err(during(doing))?;
    if let Some(table) = absent {
        return Err(AdoptError::NoTable { table });
    }
    if let Some(tenant) = adoption.tenant {
        let served: bool =
            sqlx::query_scalar("SELECT EXISTS (SELECT FROM app.tenant_fence WHERE tenant_id = $1)")
                .bind(tenant.as_uuid())
                .fetch_one(&mut *conn)
                .await
                .map_err(during("looking for the tenant"))?;
        if !served {
            return Err(AdoptError::UnknownTenant { tenant });
        }
    }
    Ok(())
}

/// Policies that let more through than the fence. One that narrows is the service's own affair.
async fn policies(conn: &mut PgConnection, adoption: &Adoption) -> Result<Vec<Refusal>, AdoptError> {
    let schemas = std::slice::from_ref(&adoption.schema);
    let tables = crate::catalogue::read(conn, schemas).await.map_err(during("reading the tables"))?;
    let mut refused = Vec::new();
    for table in
        tables.iter().filter(|table| table.is_table && !adoption.reference.contains(&table.name.name))
    {
        let has_tenant = table.columns.iter().any(|column| column.name == TENANT_ID);
        for policy in table.policies.iter().filter(|policy| policy.permissive) {
            if !(has_tenant && is_fence(policy)) {
                refused.push(Refusal {
                    reason: "policy-wider",
                    object: format!("policy {} on {}", policy.name, table.name),
                    why: "its condition is not the fence's, so it shows more",
                    remedy: format!(
                        "DROP POLICY {} ON {};",
                        crate::roles::quote(&policy.name),
                        crate::doctor::tables::sql_name(&table.name)
                    ),
                });
            }
        }
    }
    Ok(refused)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn schemas_of_others_are_refused_with_a_reason() {
        for schema in ["app", "registry", "tenant", "public", "pg_catalog", "pg_toast", "information_schema"]
        {
            assert!(matches!(refuse_reserved(schema), Err(AdoptError::Reserved { .. })), "{schema}");
        }
        assert!(refuse_reserved("billing").is_ok());
        assert!(refuse_reserved("Public").is_ok());
    }

    #[test]
    fn reasons_are_stable_words() {
        for question in QUESTIONS {
            assert!(
                question.reason.bytes().all(|b| b.is_ascii_lowercase() || b == b'-'),
                "{}",
                question.reason
            );
            assert!(!question.why.is_empty() && !question.why.ends_with('.'), "{}", question.reason);
        }
    }
}
