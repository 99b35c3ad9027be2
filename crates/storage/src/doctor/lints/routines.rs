//! Routines and operators that somebody made.

use super::{Lint, Of};
use crate::doctor::report::Level;

pub(super) const LINTS: &[Lint] = &[
    Lint {
        name: "security-definer",
        level: Level::Hole,
        of: Of::Database,
        why: "it runs with its owner's privileges, and the application may call it or it stands in a schema of the \
              platform",
        sql: "
        SELECT p.oid::regprocedure::text, format('ALTER ROUTINE %s SECURITY INVOKER;', p.oid::regprocedure)
        FROM pg_proc AS p JOIN pg_namespace AS n ON n.oid = p.pronamespace, design
        WHERE p.prosecdef AND p.oid >= 16384
            AND (n.nspname = ANY (design.ours) OR has_function_privilege(design.app, p.oid, 'EXECUTE'))
            AND NOT n.nspname = ANY (design.open)
            -- What logs a move's changes: its body is compared among the routines of schema app.
            AND NOT (n.nspname = 'app' AND p.prorettype = 'trigger'::regtype AND p.pronargs = 0
                AND p.proname ~ '^stagesub_move_[0-9a-f]{32}_(fwd|rev)$')
        ORDER BY 1",
    },
    Lint {
        name: "definer-search-path",
        level: Level::Partial,
        of: Of::Database,
        why: "it runs with its owner's privileges and finds what it names by the caller's search path",
        sql: "
        SELECT p.oid::regprocedure::text, format('ALTER ROUTINE %s SET search_path = pg_catalog;', p.oid::regprocedure)
        FROM pg_proc AS p, design
        WHERE p.prosecdef AND p.oid >= 16384
            AND NOT EXISTS (SELECT FROM unnest(p.proconfig) AS s WHERE s LIKE 'search_path=%')
            AND NOT EXISTS (SELECT FROM pg_depend AS e
                WHERE e.classid = 'pg_proc'::regclass AND e.objid = p.oid AND e.deptype = 'e')
        ORDER BY 1",
    },
    Lint {
        name: "leakproof-function",
        level: Level::Hole,
        of: Of::Database,
        why: "a leakproof function is given rows before the policies have hidden them",
        sql: "
        SELECT p.oid::regprocedure::text, format('ALTER FUNCTION %s NOT LEAKPROOF;', p.oid::regprocedure)
        FROM pg_proc AS p, design
        WHERE p.proleakproof AND p.oid >= 16384
        ORDER BY 1",
    },
    Lint {
        name: "leakproof-operator",
        level: Level::Hole,
        of: Of::Database,
        why: "an operator that somebody made has a leakproof function, which is given rows before the policies have \
              hidden them",
        sql: "
        SELECT o.oid::regoperator::text, format('DROP OPERATOR %s;', o.oid::regoperator)
        FROM pg_operator AS o JOIN pg_proc AS p ON p.oid = o.oprcode, design
        WHERE o.oid >= 16384 AND p.proleakproof
            AND NOT EXISTS (SELECT FROM pg_depend AS e
                WHERE e.classid = 'pg_operator'::regclass AND e.objid = o.oid AND e.deptype = 'e')
        ORDER BY 1",
    },
];
