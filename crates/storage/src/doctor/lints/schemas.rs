//! What lies beside the platform's schemas, who owns what, and what new objects are born with.

use super::{Lint, Of};
use crate::doctor::report::Level;

pub(super) const LINTS: &[Lint] = &[
    Lint {
        name: "schema-creatable",
        level: Level::Hole,
        of: Of::Database,
        why: "a login that makes objects makes functions, and functions of its own get into other statements",
        sql: "
        SELECT format('schema %I, role %I', n.nspname, r.rolname),
            format('REVOKE CREATE ON SCHEMA %I FROM PUBLIC, %I;', n.nspname, r.rolname)
        FROM pg_namespace AS n, pg_roles AS r, design
        WHERE r.rolname IN ('stagesub_app', 'stagesub_auth', 'stagesub_control') AND NOT r.rolsuper
            AND n.nspname !~ '^pg_(toast|temp)' AND has_schema_privilege(r.oid, n.oid, 'CREATE')
        ORDER BY 1",
    },
    Lint {
        name: "schema-unknown",
        level: Level::Partial,
        of: Of::Database,
        why: "the application may use it, and it is neither the platform's nor listed as a schema of tenant data",
        sql: "
        SELECT format('schema %I', n.nspname),
            format('REVOKE USAGE ON SCHEMA %I FROM PUBLIC, stagesub_app;', n.nspname)
        FROM pg_namespace AS n, design
        WHERE n.nspname !~ '^pg_' AND n.nspname NOT IN ('information_schema', 'public')
            AND NOT n.nspname = ANY (design.ours) AND NOT n.nspname = ANY (design.open)
            AND has_schema_privilege(design.app, n.oid, 'USAGE')
        ORDER BY 1",
    },
    Lint {
        name: "table-outside",
        level: Level::Hole,
        of: Of::Database,
        why: "the application reaches its rows, and no rule of tenant tables holds for it here; if they are tenant tables, \
              their schema has to be named as one of those",
        sql: "
        SELECT c.oid::regclass::text, format('REVOKE ALL ON %s FROM PUBLIC, stagesub_app;', c.oid::regclass)
        FROM pg_class AS c JOIN pg_namespace AS n ON n.oid = c.relnamespace, design
        WHERE c.relkind IN ('r', 'p', 'v', 'm', 'f') AND n.nspname !~ '^pg_' AND n.nspname <> 'information_schema'
            AND NOT n.nspname = ANY (design.ours) AND NOT n.nspname = ANY (design.open)
            AND (has_any_column_privilege(design.app, c.oid, 'SELECT, INSERT, UPDATE')
                OR has_table_privilege(design.app, c.oid, 'DELETE, TRUNCATE'))
            AND NOT EXISTS (SELECT FROM pg_depend AS e
                WHERE e.classid = 'pg_class'::regclass AND e.objid = c.oid AND e.deptype = 'e')
        ORDER BY 1",
    },
    Lint {
        name: "owner-foreign",
        level: Level::Hole,
        of: Of::Database,
        why: "an owner may lift every fence of what it owns; it is to be stagesub_owner, whom nobody can log in as",
        // Names are written out for what is found alone: there are thousands of routines.
        sql: ", owned AS (
            SELECT 'SCHEMA' AS kind, n.oid, n.nspowner AS owner, n.nspname AS schema FROM pg_namespace AS n
            UNION ALL
            SELECT 'TABLE', c.oid, c.relowner, n.nspname
            FROM pg_class AS c JOIN pg_namespace AS n ON n.oid = c.relnamespace
            WHERE c.relkind IN ('r', 'p', 'v', 'm', 'f', 'S')
            UNION ALL
            SELECT 'ROUTINE', p.oid, p.proowner, n.nspname
            FROM pg_proc AS p JOIN pg_namespace AS n ON n.oid = p.pronamespace
        ), named AS (
            SELECT o.kind, r.rolname, CASE o.kind WHEN 'SCHEMA' THEN quote_ident(o.schema)
                WHEN 'TABLE' THEN o.oid::regclass::text ELSE o.oid::regprocedure::text END AS name
            FROM owned AS o JOIN pg_roles AS r ON r.oid = o.owner, design
            WHERE (o.schema = ANY (design.ours) AND r.rolname <> 'stagesub_owner'
                    OR r.rolname IN ('stagesub_app', 'stagesub_auth', 'stagesub_control'))
                -- Sequences of columns follow their table, members their extension.
                AND NOT EXISTS (SELECT FROM pg_depend AS d WHERE d.objid = o.oid AND d.deptype IN ('a', 'i', 'e')
                    AND d.classid IN ('pg_class'::regclass, 'pg_proc'::regclass))
        )
        SELECT format('%s%s, owned by %I', CASE kind WHEN 'SCHEMA' THEN 'schema ' ELSE '' END, name, rolname),
            format('ALTER %s %s OWNER TO stagesub_owner;', kind, name)
        FROM named
        ORDER BY 1",
    },
    Lint {
        name: "database-owner",
        level: Level::Hole,
        of: Of::Database,
        why: "the owner of a database makes schemas in it and changes its settings",
        sql: "
        SELECT format('database %I, owned by %I', d.datname, r.rolname),
            format('ALTER DATABASE %I OWNER TO stagesub_owner;', d.datname)
        FROM pg_database AS d JOIN pg_roles AS r ON r.oid = d.datdba, design
        WHERE d.datname = current_database() AND r.rolname IN ('stagesub_app', 'stagesub_auth', 'stagesub_control')",
    },
    Lint {
        name: "default-privileges",
        level: Level::Hole,
        of: Of::Database,
        why: "what the platform makes from now on would be granted to others as it is made",
        sql: ", defaults AS (
            SELECT a.defaclrole, n.nspname, x.grantee, x.privilege_type,
                CASE a.defaclobjtype WHEN 'r' THEN 'TABLES' WHEN 'S' THEN 'SEQUENCES' WHEN 'f' THEN 'ROUTINES'
                    WHEN 'T' THEN 'TYPES' ELSE 'SCHEMAS' END AS kind
            FROM pg_default_acl AS a LEFT JOIN pg_namespace AS n ON n.oid = a.defaclnamespace, aclexplode(a.defaclacl) AS x
            WHERE x.grantee <> a.defaclrole
                -- What PUBLIC has of types by itself.
                AND NOT (a.defaclobjtype = 'T' AND x.grantee = 0)
        ), named AS (
            SELECT d.*, o.rolname AS maker, CASE WHEN d.grantee = 0 THEN 'PUBLIC' ELSE quote_ident(g.rolname) END AS taker
            FROM defaults AS d JOIN pg_roles AS o ON o.oid = d.defaclrole LEFT JOIN pg_roles AS g ON g.oid = d.grantee, design
            WHERE (o.rolname IN ('stagesub_owner', 'stagesub_migrator', 'stagesub_mover') OR d.nspname = ANY (design.ours))
                AND NOT coalesce(g.rolsuper OR g.rolname = ANY (design.trusted), false)
        )
        SELECT format('%s made by %I%s, for %s', lower(kind), maker, ' in ' || quote_ident(nspname), taker),
            format('ALTER DEFAULT PRIVILEGES FOR ROLE %I%s REVOKE ALL ON %s FROM %s;', maker,
                ' IN SCHEMA ' || quote_ident(nspname), kind, taker)
        FROM named GROUP BY kind, maker, nspname, taker
        ORDER BY 1",
    },
    Lint {
        name: "default-privileges-open",
        level: Level::Partial,
        of: Of::Database,
        why: "routines that the platform makes from now on could be called by every role",
        sql: "
        SELECT 'routines made by stagesub_owner',
            'ALTER DEFAULT PRIVILEGES FOR ROLE stagesub_owner REVOKE EXECUTE ON ROUTINES FROM PUBLIC;'
        FROM pg_roles AS r, design
        WHERE r.rolname = 'stagesub_owner' AND to_regnamespace('app') IS NOT NULL AND NOT EXISTS (
            SELECT FROM pg_default_acl AS a
            WHERE a.defaclrole = r.oid AND a.defaclobjtype = 'f' AND a.defaclnamespace = 0)",
    },
];
