//! Who owns the schema and who may do what in it. Each question's rows are statements, made and quoted by Postgres.

use sqlx::PgConnection;

use super::{AdoptError, Adoption, Step, during};
use crate::doctor::acl;

/// Everything belongs to the one who cannot log in: an owner may lift each fence of what it owns.
const OWNERS: &str = "
    SELECT object, format('ALTER %s %s OWNER TO stagesub_owner;', kind, object) FROM (
        SELECT 1 AS place, 'SCHEMA' AS kind, quote_ident(n.nspname) AS object, n.nspowner AS owner
        FROM pg_namespace AS n WHERE n.nspname = $1
        UNION ALL
        SELECT 2, CASE c.relkind WHEN 'v' THEN 'VIEW' ELSE 'TABLE' END, format('%I.%I', n.nspname, c.relname), c.relowner
        FROM pg_class AS c JOIN pg_namespace AS n ON n.oid = c.relnamespace
        WHERE n.nspname = $1 AND c.relkind IN ('r', 'v')
        UNION ALL
        SELECT 3, 'ROUTINE', p.oid::regprocedure::text, p.proowner
        FROM pg_proc AS p JOIN pg_namespace AS n ON n.oid = p.pronamespace WHERE n.nspname = $1
    ) AS owned
    WHERE pg_get_userbyid(owner) <> 'stagesub_owner'
    ORDER BY place, object";

/// What the application and the mover need. A table on which the application has something already keeps what it has:
/// somebody decided that.
const NEEDED: &str = "
    WITH roles AS (
        SELECT oid, rolname FROM pg_roles WHERE rolname IN ('stagesub_app', 'stagesub_mover')
    ), held AS (
        SELECT c.oid, x.grantee, x.privilege_type
        FROM pg_class AS c JOIN pg_namespace AS n ON n.oid = c.relnamespace, aclexplode(c.relacl) AS x
        WHERE n.nspname = $1
        UNION ALL
        SELECT a.attrelid, x.grantee, 'COLUMN ' || x.privilege_type
        FROM pg_attribute AS a JOIN pg_class AS c ON c.oid = a.attrelid JOIN pg_namespace AS n ON n.oid = c.relnamespace,
            aclexplode(a.attacl) AS x
        WHERE n.nspname = $1
    ), relations AS (
        SELECT c.oid, c.relkind, format('%I.%I', n.nspname, c.relname) AS name, c.relname = ANY ($2::text[]) AS reference,
            (SELECT string_agg(quote_ident(a.attname), ', ' ORDER BY a.attnum)
                FROM pg_attribute AS a
                WHERE a.attrelid = c.oid AND a.attnum > 0 AND NOT a.attisdropped AND a.attname <> 'tenant_id'
                    AND a.attgenerated = '' AND a.attidentity = ''
                    AND NOT EXISTS (SELECT FROM pg_index AS i
                        WHERE i.indrelid = c.oid AND i.indisprimary AND a.attnum = ANY (i.indkey))) AS changing,
            EXISTS (SELECT FROM held, roles WHERE held.oid = c.oid AND held.grantee = roles.oid AND roles.rolname = 'stagesub_app')
                AS decided,
            EXISTS (SELECT FROM held, roles WHERE held.oid = c.oid AND held.grantee = roles.oid AND roles.rolname = 'stagesub_app'
                AND held.privilege_type = 'UPDATE') AS too_much,
            (SELECT count(*) FROM held, roles WHERE held.oid = c.oid AND held.grantee = roles.oid AND roles.rolname = 'stagesub_mover'
                AND held.privilege_type IN ('SELECT', 'INSERT', 'UPDATE', 'DELETE')) = 4 AS movable
        FROM pg_class AS c JOIN pg_namespace AS n ON n.oid = c.relnamespace
        WHERE n.nspname = $1 AND c.relkind IN ('r', 'v')
    ), needed AS (
        SELECT 1 AS place, quote_ident(n.nspname) AS object,
            format('GRANT USAGE ON SCHEMA %I TO %I;', n.nspname, roles.rolname) AS sql
        FROM pg_namespace AS n, roles
        WHERE n.nspname = $1 AND NOT EXISTS (
            SELECT FROM aclexplode(n.nspacl) AS x WHERE x.grantee = roles.oid AND x.privilege_type = 'USAGE')
        UNION ALL
        SELECT 2, name, format('GRANT %s ON %s TO stagesub_app;',
            CASE WHEN reference OR relkind = 'v' THEN 'SELECT' ELSE 'SELECT, INSERT, DELETE' END, name)
        FROM relations WHERE NOT decided
        UNION ALL
        SELECT 3, name, format('GRANT UPDATE (%s) ON %s TO stagesub_app;', changing, name)
        FROM relations WHERE relkind = 'r' AND NOT reference AND changing IS NOT NULL AND (NOT decided OR too_much)
        UNION ALL
        SELECT 4, name, format('GRANT SELECT, INSERT, UPDATE, DELETE ON %s TO stagesub_mover;', name)
        FROM relations WHERE relkind = 'r' AND NOT movable
        UNION ALL
        -- A column that counts by a sequence of its own; identity columns need no privilege.
        SELECT 5, format('%I.%I', n.nspname, c.relname), format('GRANT USAGE ON SEQUENCE %I.%I TO stagesub_app;', n.nspname, c.relname)
        FROM pg_class AS c JOIN pg_namespace AS n ON n.oid = c.relnamespace
        JOIN pg_depend AS d ON d.classid = 'pg_class'::regclass AND d.objid = c.oid AND d.deptype = 'a'
        JOIN relations ON relations.oid = d.refobjid
        WHERE n.nspname = $1 AND c.relkind = 'S' AND NOT reference AND NOT EXISTS (
            SELECT FROM held, roles WHERE held.oid = c.oid AND held.grantee = roles.oid AND roles.rolname = 'stagesub_app'
                AND held.privilege_type = 'USAGE')
        UNION ALL
        -- Checks, defaults and indexes call them as whoever writes.
        SELECT 6, p.oid::regprocedure::text, format('GRANT EXECUTE ON ROUTINE %s TO stagesub_app;', p.oid::regprocedure)
        FROM pg_proc AS p JOIN pg_namespace AS n ON n.oid = p.pronamespace
        WHERE n.nspname = $1 AND p.prorettype <> 'trigger'::regtype AND NOT EXISTS (
            SELECT FROM aclexplode(p.proacl) AS x, roles
            WHERE x.grantee = roles.oid AND roles.rolname = 'stagesub_app' AND x.privilege_type = 'EXECUTE')
    )
    SELECT object, sql FROM needed ORDER BY place, object, sql";

/// What is made in the schema from now on is granted by whoever makes it, and to nobody as it is made.
const DEFAULTS: &str = "
    SELECT DISTINCT quote_ident(n.nspname),
        format('ALTER DEFAULT PRIVILEGES FOR ROLE %I IN SCHEMA %I REVOKE ALL ON %s FROM %s;', o.rolname, n.nspname,
            CASE a.defaclobjtype WHEN 'r' THEN 'TABLES' WHEN 'S' THEN 'SEQUENCES' WHEN 'f' THEN 'ROUTINES' ELSE 'TYPES' END,
            CASE WHEN x.grantee = 0 THEN 'PUBLIC' ELSE quote_ident(g.rolname) END)
    FROM pg_default_acl AS a JOIN pg_namespace AS n ON n.oid = a.defaclnamespace JOIN pg_roles AS o ON o.oid = a.defaclrole,
        aclexplode(a.defaclacl) AS x LEFT JOIN pg_roles AS g ON g.oid = x.grantee
    WHERE n.nspname = $1 AND x.grantee <> a.defaclrole AND NOT coalesce(g.rolsuper OR g.rolname = ANY ($2::text[]), false)
    ORDER BY 2";

/// What belongs to somebody who can log in.
pub(super) async fn owners(conn: &mut PgConnection, adoption: &Adoption) -> Result<Vec<Step>, AdoptError> {
    let rows = sqlx::query_as(OWNERS).bind(&adoption.schema).fetch_all(conn).await;
    Ok(steps(rows.map_err(during("reading the owners"))?))
}

/// What is granted beyond the design, and what it lacks.
pub(super) async fn privileges(
    conn: &mut PgConnection,
    adoption: &Adoption,
) -> Result<Vec<Step>, AdoptError> {
    let doing = "reading the privileges";
    let beyond = acl::beyond(&mut *conn, &adoption.schema, &adoption.expectations()).await;
    let mut found = steps(beyond.map_err(during(doing))?);
    let needed = sqlx::query_as(NEEDED).bind(&adoption.schema).bind(&adoption.reference);
    found.extend(steps(needed.fetch_all(&mut *conn).await.map_err(during(doing))?));
    let defaults = sqlx::query_as(DEFAULTS).bind(&adoption.schema).bind(&adoption.trusted);
    found.extend(steps(defaults.fetch_all(conn).await.map_err(during(doing))?));
    Ok(found)
}

fn steps(rows: Vec<(String, String)>) -> Vec<Step> {
    rows.into_iter().map(|(object, sql)| Step { object, sql }).collect()
}
