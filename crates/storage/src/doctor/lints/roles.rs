//! Roles: attributes, memberships, settings. They belong to the server, settings to a database as well.

use super::{Lint, Of};
use crate::doctor::report::Level;

pub(super) const LINTS: &[Lint] = &[
    Lint {
        name: "role-attribute",
        level: Level::Hole,
        of: Of::Server,
        why: "with this attribute the role passes by row-level security, or can give itself what does",
        sql: ", attributes AS (
            SELECT r.rolname, a.word
            FROM pg_roles AS r, LATERAL (VALUES
                ('SUPERUSER', r.rolsuper, true),
                ('BYPASSRLS', r.rolbypassrls, r.rolname <> 'stagesub_mover'),
                ('CREATEROLE', r.rolcreaterole, true),
                ('CREATEDB', r.rolcreatedb, r.rolname <> 'stagesub_migrator'),
                ('REPLICATION', r.rolreplication, r.rolname <> 'stagesub_mover'),
                ('LOGIN', r.rolcanlogin, r.rolname = 'stagesub_owner')) AS a (word, has, wrong)
            WHERE r.rolname IN ('stagesub_owner', 'stagesub_migrator', 'stagesub_app', 'stagesub_auth',
                    'stagesub_control', 'stagesub_mover')
                AND a.has AND a.wrong
        )
        SELECT format('role %I is %s', rolname, string_agg(word, ', ' ORDER BY word)),
            format('ALTER ROLE %I %s;', rolname, string_agg('NO' || word, ' ' ORDER BY word))
        FROM attributes, design GROUP BY rolname
        ORDER BY 1",
    },
    Lint {
        name: "role-membership",
        level: Level::Hole,
        of: Of::Server,
        why: "a login of the platform has another role's privileges besides its own",
        sql: "
        SELECT format('role %I, member of %I', m.rolname, g.rolname), format('REVOKE %I FROM %I;', g.rolname, m.rolname)
        FROM pg_auth_members AS a JOIN pg_roles AS m ON m.oid = a.member JOIN pg_roles AS g ON g.oid = a.roleid, design
        WHERE m.rolname IN ('stagesub_owner', 'stagesub_migrator', 'stagesub_app', 'stagesub_auth', 'stagesub_control',
                'stagesub_mover')
            AND NOT (m.rolname IN ('stagesub_migrator', 'stagesub_mover') AND g.rolname = 'stagesub_owner')
            AND NOT g.rolname = ANY (design.trusted)
        ORDER BY 1",
    },
    Lint {
        name: "role-member",
        level: Level::Hole,
        of: Of::Server,
        why: "whoever is a member of one of the platform's roles does what that role may",
        sql: "
        SELECT format('role %I, member of %I', m.rolname, g.rolname), format('REVOKE %I FROM %I;', g.rolname, m.rolname)
        FROM pg_auth_members AS a JOIN pg_roles AS m ON m.oid = a.member JOIN pg_roles AS g ON g.oid = a.roleid, design
        WHERE g.rolname IN ('stagesub_owner', 'stagesub_migrator', 'stagesub_app', 'stagesub_auth', 'stagesub_control',
                'stagesub_mover')
            AND m.rolname !~ '^stagesub_(owner|migrator|app|auth|control|mover)$'
            AND NOT m.rolsuper AND NOT m.rolcreaterole AND NOT m.rolname = ANY (design.trusted)
        ORDER BY 1",
    },
    Lint {
        name: "role-member",
        level: Level::Note,
        of: Of::Server,
        why: "an administrator who makes roles is a member of one of the platform's, as setting up without a superuser \
              takes",
        sql: "
        SELECT format('role %I, member of %I', m.rolname, g.rolname), format('REVOKE %I FROM %I;', g.rolname, m.rolname)
        FROM pg_auth_members AS a JOIN pg_roles AS m ON m.oid = a.member JOIN pg_roles AS g ON g.oid = a.roleid, design
        WHERE g.rolname IN ('stagesub_owner', 'stagesub_migrator', 'stagesub_app', 'stagesub_auth', 'stagesub_control',
                'stagesub_mover')
            AND m.rolname !~ '^stagesub_(owner|migrator|app|auth|control|mover)$'
            AND m.rolcreaterole AND NOT m.rolsuper AND NOT m.rolname = ANY (design.trusted)
        ORDER BY 1",
    },
    Lint {
        name: "setting",
        level: Level::Hole,
        of: Of::Database,
        why: "sessions begin with it: bound to a tenant, with checks off, or with names and code of somebody's choosing",
        sql: ", settings AS (
            SELECT coalesce(r.rolname, '') AS role, d.datname AS db, split_part(c, '=', 1) AS name,
                substr(c, strpos(c, '=') + 1) AS value
            FROM pg_db_role_setting AS s
            LEFT JOIN pg_roles AS r ON r.oid = s.setrole LEFT JOIN pg_database AS d ON d.oid = s.setdatabase,
            unnest(s.setconfig) AS c
            WHERE (s.setdatabase = 0 OR d.datname = current_database())
                AND (s.setrole = 0 OR r.rolname ~ '^stagesub_(owner|migrator|app|auth|control|mover)$')
        )
        SELECT format('%s of %s%s', name, CASE role WHEN '' THEN 'every role' ELSE 'role ' || quote_ident(role) END,
                ' in ' || quote_ident(db)),
            CASE WHEN role = '' AND db IS NOT NULL THEN format('ALTER DATABASE %I RESET %s;', db, name)
                ELSE format('ALTER ROLE %s%s RESET %s;', CASE role WHEN '' THEN 'ALL' ELSE quote_ident(role) END,
                    ' IN DATABASE ' || quote_ident(db), name) END
        FROM settings, design
        WHERE name ~ '^app[.]'
            OR name IN ('role', 'session_authorization', 'session_replication_role', 'search_path',
                'session_preload_libraries', 'local_preload_libraries')
            OR name = 'row_security' AND NOT value::boolean
        ORDER BY 1",
    },
    Lint {
        name: "setting",
        level: Level::Partial,
        of: Of::Database,
        why: "transactions of the platform begin otherwise than they say; those that write are refused",
        sql: ", settings AS (
            SELECT coalesce(r.rolname, '') AS role, d.datname AS db, split_part(c, '=', 1) AS name
            FROM pg_db_role_setting AS s
            LEFT JOIN pg_roles AS r ON r.oid = s.setrole LEFT JOIN pg_database AS d ON d.oid = s.setdatabase,
            unnest(s.setconfig) AS c
            WHERE (s.setdatabase = 0 OR d.datname = current_database())
                AND (s.setrole = 0 OR r.rolname ~ '^stagesub_(owner|migrator|app|auth|control|mover)$')
        )
        SELECT format('%s of %s%s', name, CASE role WHEN '' THEN 'every role' ELSE 'role ' || quote_ident(role) END,
                ' in ' || quote_ident(db)),
            CASE WHEN role = '' AND db IS NOT NULL THEN format('ALTER DATABASE %I RESET %s;', db, name)
                ELSE format('ALTER ROLE %s%s RESET %s;', CASE role WHEN '' THEN 'ALL' ELSE quote_ident(role) END,
                    ' IN DATABASE ' || quote_ident(db), name) END
        FROM settings, design
        WHERE name IN ('default_transaction_isolation', 'default_transaction_read_only', 'default_transaction_deferrable')
        ORDER BY 1",
    },
    Lint {
        name: "bound-by-default",
        level: Level::Hole,
        of: Of::Database,
        why: "every session begins bound to a tenant, so a query that forgot to bind one does not fail",
        sql: "
        SELECT 'setting app.tenant_id',
            '-- Take app.tenant_id out of the configuration file of the server (or out of this session), and reload it.'
        FROM design WHERE coalesce(current_setting('app.tenant_id', true), '') <> ''",
    },
    Lint {
        name: "parameter-grant",
        level: Level::Hole,
        of: Of::Server,
        why: "it lets a login of the platform change a setting that is an administrator's, such as one that turns checks \
              off",
        sql: "
        SELECT format('%s on parameter %s for %s', x.privilege_type, p.parname, CASE x.grantee WHEN 0 THEN 'PUBLIC'
                ELSE x.grantee::regrole::text END),
            format('REVOKE %s ON PARAMETER %s FROM %s;', x.privilege_type, p.parname, CASE x.grantee WHEN 0 THEN 'PUBLIC'
                ELSE x.grantee::regrole::text END)
        FROM pg_parameter_acl AS p, aclexplode(p.paracl) AS x LEFT JOIN pg_roles AS r ON r.oid = x.grantee, design
        WHERE (x.grantee = 0 OR r.rolname ~ '^stagesub_(owner|migrator|app|auth|control|mover)$')
            -- The mover brings rows that were checked where they come from, and may be let do it without.
            AND NOT (r.rolname = 'stagesub_mover' AND p.parname = 'session_replication_role'
                AND x.privilege_type = 'SET' AND NOT x.is_grantable)
        ORDER BY 1",
    },
    Lint {
        name: "wal-level",
        level: Level::Partial,
        of: Of::Server,
        why: "without logical decoding a tenant that moves is followed by triggers, which write each of its changes twice",
        sql: "
        SELECT format('wal_level is %s', current_setting('wal_level')),
            E'ALTER SYSTEM SET wal_level = ''logical'';\\n-- It holds once the server is started again.'
        FROM design WHERE current_setting('wal_level') <> 'logical'",
    },
];
