//! Relations that are no tables, and what is attached to tables.

use super::{Lint, Of};
use crate::doctor::report::Level;

pub(super) const LINTS: &[Lint] = &[
    Lint {
        name: "view-not-invoker",
        level: Level::Hole,
        of: Of::Database,
        why: "without security_invoker it reads with its owner's privileges and not the caller's",
        sql: ", reads AS (
            SELECT r.ev_class AS reader, d.refobjid AS source
            FROM pg_rewrite AS r
            JOIN pg_depend AS d ON d.classid = 'pg_rewrite'::regclass AND d.objid = r.oid
                AND d.refclassid = 'pg_class'::regclass AND d.refobjid <> r.ev_class
        ), reaching AS (
            SELECT c.oid FROM pg_class AS c JOIN pg_namespace AS n ON n.oid = c.relnamespace, design
            WHERE n.nspname = ANY (design.ours)
            UNION SELECT reads.reader FROM reads JOIN reaching ON reaching.oid = reads.source
        )
        SELECT c.oid::regclass::text, format('ALTER VIEW %s SET (security_invoker = true);', c.oid::regclass)
        FROM pg_class AS c JOIN reaching USING (oid)
        WHERE c.relkind = 'v' AND NOT EXISTS (
            SELECT FROM pg_options_to_table(c.reloptions)
            WHERE option_name = 'security_invoker' AND option_value::boolean)
        ORDER BY 1",
    },
    Lint {
        name: "materialized-view",
        level: Level::Hole,
        of: Of::Database,
        why: "it keeps rows of tenants, and row-level security does not hold on it",
        sql: ", reads AS (
            SELECT r.ev_class AS reader, d.refobjid AS source
            FROM pg_rewrite AS r
            JOIN pg_depend AS d ON d.classid = 'pg_rewrite'::regclass AND d.objid = r.oid
                AND d.refclassid = 'pg_class'::regclass AND d.refobjid <> r.ev_class
        ), reaching AS (
            SELECT c.oid FROM pg_class AS c JOIN pg_namespace AS n ON n.oid = c.relnamespace, design
            WHERE n.nspname = ANY (design.ours)
            UNION SELECT reads.reader FROM reads JOIN reaching ON reaching.oid = reads.source
        )
        SELECT c.oid::regclass::text, format('DROP MATERIALIZED VIEW %s;', c.oid::regclass)
        FROM pg_class AS c JOIN reaching USING (oid)
        WHERE c.relkind = 'm'
        ORDER BY 1",
    },
    Lint {
        name: "foreign-table",
        level: Level::Hole,
        of: Of::Database,
        why: "its rows are another server's, and row-level security does not hold on it",
        sql: "
        SELECT c.oid::regclass::text, format('DROP FOREIGN TABLE %s;', c.oid::regclass)
        FROM pg_class AS c JOIN pg_namespace AS n ON n.oid = c.relnamespace, design
        WHERE c.relkind = 'f' AND n.nspname = ANY (design.ours)
        ORDER BY 1",
    },
    Lint {
        name: "inheritance-crosses",
        level: Level::Hole,
        of: Of::Database,
        why: "through a parent its children's rows are seen by the parent's policies alone, and one of the two is no \
              tenant table",
        sql: ", classes AS (
            SELECT c.oid, c.relispartition,
                n.nspname = ANY (design.data) AND NOT concat_ws('.', n.nspname, c.relname) = ANY (design.reference)
                    AS fenced
            FROM pg_class AS c JOIN pg_namespace AS n ON n.oid = c.relnamespace, design
            WHERE c.relkind IN ('r', 'p', 'f')
        )
        SELECT format('%s, child of %s', c.oid::regclass, p.oid::regclass),
            CASE WHEN c.relispartition
                THEN format('ALTER TABLE %s DETACH PARTITION %s;', p.oid::regclass, c.oid::regclass)
                ELSE format('ALTER TABLE %s NO INHERIT %s;', c.oid::regclass, p.oid::regclass) END
        FROM pg_inherits AS i JOIN classes AS c ON c.oid = i.inhrelid JOIN classes AS p ON p.oid = i.inhparent
        WHERE c.fenced <> p.fenced
        ORDER BY 1",
    },
    Lint {
        name: "rule-on-table",
        level: Level::Hole,
        of: Of::Database,
        why: "a rule's statements run with the privileges of the table's owner",
        sql: "
        SELECT format('rule %I on %s', r.rulename, c.oid::regclass),
            format('DROP RULE %I ON %s;', r.rulename, c.oid::regclass)
        FROM pg_rewrite AS r JOIN pg_class AS c ON c.oid = r.ev_class
        JOIN pg_namespace AS n ON n.oid = c.relnamespace, design
        WHERE r.rulename <> '_RETURN' AND n.nspname = ANY (design.ours)
        ORDER BY 1",
    },
    Lint {
        name: "trigger-on-table",
        level: Level::Partial,
        of: Of::Database,
        why: "what happens to a row is to be read in the statement; a trigger's function sees every row that is written",
        sql: "
        SELECT format('trigger %I on %s', t.tgname, c.oid::regclass),
            format('DROP TRIGGER %I ON %s;', t.tgname, c.oid::regclass)
        FROM pg_trigger AS t JOIN pg_class AS c ON c.oid = t.tgrelid
        JOIN pg_namespace AS n ON n.oid = c.relnamespace, design
        WHERE NOT t.tgisinternal AND t.tgparentid = 0 AND n.nspname = ANY (design.ours)
            -- Those that log a move's changes are told with their log.
            AND NOT EXISTS (SELECT FROM pg_proc AS p JOIN pg_namespace AS f ON f.oid = p.pronamespace
                WHERE p.oid = t.tgfoid AND f.nspname = 'app'
                    AND p.proname ~ '^stagesub_move_[0-9a-f]{32}_(fwd|rev)$')
        ORDER BY 1",
    },
    Lint {
        name: "references-off",
        level: Level::Hole,
        of: Of::Database,
        why: "the triggers that check its foreign keys are off, so rows can name what is not there, or another's",
        sql: "
        SELECT DISTINCT c.oid::regclass::text, format('ALTER TABLE %s ENABLE TRIGGER ALL;', c.oid::regclass)
        FROM pg_trigger AS t JOIN pg_class AS c ON c.oid = t.tgrelid
        JOIN pg_namespace AS n ON n.oid = c.relnamespace, design
        WHERE t.tgisinternal AND t.tgconstraint <> 0 AND t.tgenabled NOT IN ('O', 'A') AND n.nspname = ANY (design.ours)
        ORDER BY 1",
    },
];
