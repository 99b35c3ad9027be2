//! The routines of schema `app`, which everything else stands on, compared with the migrations that made them.
//!
//! The migrations are part of this program, so what is compared with cannot go stale.

use std::collections::BTreeMap;

use sqlx::PgConnection;

use super::design::{On, RIGHTS};
use super::move_logs;
use super::report::{Finding, Level};
use crate::migrate::sets::MigrationSet;

/// Bodies of functions that are one expression, as Postgres writes them back: it keeps the expression and not the
/// text. By name.
const EXPRESSIONS: &[(&str, &str)] =
    &[("tenant_id", "RETURN (current_setting('app.tenant_id'::text))::uuid")];

/// A routine as the migrations make it.
#[derive(Debug, Clone, PartialEq, Eq)]
struct Made {
    name: String,
    /// Types of its arguments, as Postgres lists them.
    arguments: String,
    /// The statement that makes it, without the semicolon.
    statement: String,
    /// Everything that decides what it does.
    nature: Nature,
}

/// What decides what a routine does, beside its name.
#[derive(Debug, Clone, PartialEq, Eq)]
#[expect(
    clippy::struct_excessive_bools,
    reason = "each is a fact of the catalogue, and none excludes another"
)]
pub(super) struct Nature {
    pub(super) is_procedure: bool,
    pub(super) language: String,
    pub(super) volatility: String,
    pub(super) parallel: String,
    pub(super) definer: bool,
    pub(super) leakproof: bool,
    pub(super) strict: bool,
    pub(super) configured: bool,
    pub(super) body: String,
}

/// Routines of schema `app` that are not as the migrations made them, are missing, or are somebody else's.
pub(crate) async fn findings(conn: &mut PgConnection, database: &str) -> Result<Vec<Finding>, sqlx::Error> {
    let migrations: Vec<String> =
        MigrationSet::Tenant.source().iter().map(|migration| migration.sql.as_str().to_owned()).collect();
    let made = made_by(migrations.iter().map(String::as_str));
    let there = read(conn).await?;
    Ok(compare(database, &made, &there))
}

fn compare(database: &str, made: &[Made], there: &[(String, String, Nature)]) -> Vec<Finding> {
    let mut found = Vec::new();
    let mut hole = |lint, object: String, why: String, mend| {
        let database = database.to_owned();
        found.push(Finding { level: Level::Hole, lint, database, object, why, mend });
    };
    for routine in made {
        let object = format!("app.{}({})", routine.name, routine.arguments);
        let same = |(name, arguments, _): &&(String, String, Nature)| {
            *name == routine.name && *arguments == routine.arguments
        };
        match there.iter().find(same) {
            None => {
                let why = "the migrations made it and it is gone".to_owned();
                hole("guard-missing", object, why, routine.mend(false));
            }
            Some((_, _, nature)) if *nature != routine.nature => {
                let differs = routine.nature.differs_from(nature).join(", ");
                let why = format!(
                    "tenants are bound and admitted by it, and it is not what the migrations made: {differs}"
                );
                let other_kind = nature.is_procedure != routine.nature.is_procedure;
                hole("guard-changed", object, why, routine.mend(other_kind));
            }
            Some(_) => {}
        }
    }
    for (name, arguments, nature) in there {
        if arguments.is_empty() && move_logs::is_its_function(name, nature) {
            continue;
        }
        if !made.iter().any(|routine| routine.name == *name && routine.arguments == *arguments) {
            let object = format!("app.{name}({arguments})");
            let why =
                "the migrations did not make it; a call that means one of theirs may find it".to_owned();
            let mend = format!("DROP ROUTINE {object};");
            hole("guard-unknown", object, why, mend);
        }
    }
    found
}

impl Made {
    /// Makes it anew; it keeps who may call it, and is given to those who should.
    fn mend(&self, other_kind: bool) -> String {
        let signature = format!("app.{}({})", self.name, self.arguments);
        let drop = if other_kind { format!("DROP ROUTINE {signature};\n") } else { String::new() };
        let statement = if self.statement.starts_with("CREATE OR REPLACE") {
            self.statement.clone()
        } else {
            self.statement.replacen("CREATE", "CREATE OR REPLACE", 1)
        };
        let mut mend = format!(
            "{drop}{statement};\nALTER ROUTINE {signature} OWNER TO stagesub_owner;\nREVOKE ALL ON ROUTINE {signature} FROM PUBLIC;"
        );
        for right in RIGHTS {
            if let On::Routine(name) = right.on
                && name == self.name
            {
                mend.push_str("\nGRANT EXECUTE ON ROUTINE ");
                mend.extend([signature.as_str(), " TO ", right.role, ";"]);
            }
        }
        mend
    }
}

impl Nature {
    fn differs_from(&self, other: &Self) -> Vec<&'static str> {
        [
            (self.is_procedure != other.is_procedure, "its kind"),
            (self.language != other.language, "its language"),
            (self.volatility != other.volatility, "its volatility"),
            (self.parallel != other.parallel, "its parallel safety"),
            (self.definer != other.definer, "whose privileges it has"),
            (self.leakproof != other.leakproof, "that it is called leakproof"),
            (self.strict != other.strict, "what it makes of NULL"),
            (self.configured != other.configured, "its settings"),
            (self.body != other.body, "its body"),
        ]
        .into_iter()
        .filter_map(|(differs, what)| differs.then_some(what))
        .collect()
    }
}

async fn read(conn: &mut PgConnection) -> Result<Vec<(String, String, Nature)>, sqlx::Error> {
    let rows = sqlx::query!(
        r#"SELECT p.proname::text AS "name!", pg_catalog.oidvectortypes(p.proargtypes) AS "arguments!",
            p.prokind = 'p' AS "is_procedure!", l.lanname::text AS "language!", p.provolatile::text AS "volatility!",
            p.proparallel::text AS "parallel!", p.prosecdef AS "definer!", p.proleakproof AS "leakproof!",
            p.proisstrict AS "strict!", p.proconfig IS NOT NULL AS "configured!",
            coalesce(pg_catalog.pg_get_function_sqlbody(p.oid), p.prosrc) AS "body!"
        FROM pg_catalog.pg_proc AS p
        JOIN pg_catalog.pg_namespace AS n ON n.oid = p.pronamespace
        JOIN pg_catalog.pg_language AS l ON l.oid = p.prolang
        WHERE n.nspname = 'app'
        ORDER BY p.proname, 2"#
    )
    .fetch_all(conn)
    .await?;
    Ok(rows
        .into_iter()
        .map(|row| {
            let nature = Nature {
                is_procedure: row.is_procedure,
                language: row.language,
                volatility: row.volatility,
                parallel: row.parallel,
                definer: row.definer,
                leakproof: row.leakproof,
                strict: row.strict,
                configured: row.configured,
                body: row.body,
            };
            (row.name, row.arguments, nature)
        })
        .collect())
}

/// The routines of schema `app` after these migrations, the last statement about each counting.
fn made_by<'a>(migrations: impl Iterator<Item = &'a str>) -> Vec<Made> {
    let mut made = BTreeMap::new();
    for sql in migrations {
        let mut rest = sql;
        while let Some(statement) = next_statement(&mut rest) {
            if let Some(routine) = parse(statement) {
                made.insert((routine.name.clone(), routine.arguments.clone()), routine);
            } else if let Some(name) = dropped(statement) {
                made.retain(|(known, _), _| *known != name);
            }
        }
    }
    made.into_values().collect()
}

/// The next statement, without comments before it; semicolons inside dollar quotes do not end it.
fn next_statement<'a>(rest: &mut &'a str) -> Option<&'a str> {
    loop {
        *rest = rest.trim_start();
        let Some(comment) = rest.strip_prefix("--") else { break };
        *rest = comment.split_once('\n').map_or("", |(_, after)| after);
    }
    if rest.is_empty() {
        return None;
    }
    let mut at = 0;
    while at < rest.len() {
        let ahead = &rest[at..];
        if ahead.starts_with(';') {
            break;
        }
        at += if let Some(comment) = ahead.strip_prefix("--") {
            2 + comment.find('\n').unwrap_or(comment.len())
        } else if let Some(tag) = dollar_tag(ahead) {
            let inner = &ahead[tag.len()..];
            tag.len() + inner.find(tag).map_or(inner.len(), |end| end + tag.len())
        } else if let Some(text) = ahead.strip_prefix('\'') {
            // A doubled quote ends one text and begins the next.
            1 + text.find('\'').map_or(text.len(), |end| end + 1)
        } else {
            ahead.chars().next().map_or(1, char::len_utf8)
        };
    }
    let statement = &rest[..at];
    *rest = rest.get(at + 1..).unwrap_or("");
    Some(statement.trim_end())
}

/// `$name$` at the beginning of a text.
fn dollar_tag(text: &str) -> Option<&str> {
    let inner = text.strip_prefix('$')?;
    let end = inner.find('$')?;
    inner[..end].bytes().all(|b| b.is_ascii_alphanumeric() || b == b'_').then(|| &text[..end + 2])
}

fn parse(statement: &str) -> Option<Made> {
    let after = statement.strip_prefix("CREATE ")?;
    let after = after.strip_prefix("OR REPLACE ").unwrap_or(after);
    let (is_procedure, after) = match after.strip_prefix("PROCEDURE ") {
        Some(after) => (true, after),
        None => (false, after.strip_prefix("FUNCTION ")?),
    };
    let (name, after) = after.trim_start().strip_prefix("app.")?.split_once('(')?;
    let (arguments, after) = after.split_once(')')?;
    let types: Vec<&str> =
        arguments.split(',').filter_map(|argument| argument.split_whitespace().last()).collect();
    let quoted = after.find('$').and_then(|at| Some((at, dollar_tag(&after[at..])?)));
    let (header, body) = if let Some((at, tag)) = quoted {
        let body = after[at + tag.len()..].strip_suffix(tag)?;
        (&after[..at], body.to_owned())
    } else {
        let at = after.find("RETURN ")?;
        let known = EXPRESSIONS.iter().find(|(known, _)| *known == name);
        (&after[..at], known.map_or(&after[at..], |(_, text)| text).to_owned())
    };
    let header: String =
        header.lines().map(|line| line.split("--").next().unwrap_or("")).collect::<Vec<_>>().join(" ");
    let words: Vec<String> = header.split_whitespace().map(str::to_ascii_uppercase).collect();
    let has = |word: &str| words.iter().any(|found| found == word);
    let after_word = |word: &str| {
        let at = words.iter().position(|found| found == word)?;
        words.get(at + 1).map(|next| next.to_ascii_lowercase())
    };
    let letter = |options: [(&str, &str); 2], default: &str| {
        let option = options.into_iter().find(|(word, _)| has(word));
        option.map_or(default, |(_, letter)| letter).to_owned()
    };
    let parallel = after_word("PARALLEL").unwrap_or_default();
    Some(Made {
        name: name.to_owned(),
        arguments: types.join(", "),
        statement: statement.to_owned(),
        nature: Nature {
            is_procedure,
            language: after_word("LANGUAGE").unwrap_or_else(|| "sql".to_owned()),
            volatility: letter([("STABLE", "s"), ("IMMUTABLE", "i")], "v"),
            parallel: parallel.get(..1).unwrap_or("u").to_owned(),
            definer: has("DEFINER"),
            leakproof: has("LEAKPROOF"),
            strict: has("STRICT"),
            configured: has("SET"),
            body,
        },
    })
}

/// The name of a routine of schema `app` that this statement drops.
fn dropped(statement: &str) -> Option<String> {
    let after = statement.strip_prefix("DROP ")?;
    let after =
        ["FUNCTION ", "PROCEDURE ", "ROUTINE "].into_iter().find_map(|kind| after.strip_prefix(kind))?;
    let after = after.strip_prefix("IF EXISTS ").unwrap_or(after).strip_prefix("app.")?;
    Some(after.split(|c: char| c == '(' || c.is_whitespace()).next().unwrap_or(after).to_owned())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn ours() -> Vec<Made> {
        let migrations: Vec<String> =
            MigrationSet::Tenant.source().iter().map(|migration| migration.sql.as_str().to_owned()).collect();
        made_by(migrations.iter().map(String::as_str))
    }

    fn as_found(made: &[Made]) -> Vec<(String, String, Nature)> {
        made.iter().map(|m| (m.name.clone(), m.arguments.clone(), m.nature.clone())).collect()
    }

    #[test]
    fn the_guards_are_read_from_the_migrations() {
        let made = ours();
        let find = |name: &str| made.iter().find(|routine| routine.name == name).expect(name);
        let enter = find("enter");
        assert!(enter.nature.is_procedure && enter.nature.language == "plpgsql");
        assert!(enter.nature.body.contains("TN001") && enter.nature.body.ends_with("END\n"), "{enter:?}");
        assert_eq!(enter.arguments, "bigint");
        let tenant_id = find("tenant_id");
        assert_eq!((tenant_id.nature.volatility.as_str(), tenant_id.nature.parallel.as_str()), ("s", "s"));
        assert!(
            !tenant_id.nature.is_procedure && tenant_id.nature.body.starts_with("RETURN (current_setting")
        );
        assert_eq!(find("protect").arguments, "regclass");
        let refuse = find("refuse");
        assert!(refuse.nature.body.contains("TN001") && !refuse.nature.is_procedure && !refuse.nature.strict);
        assert_eq!((refuse.nature.volatility.as_str(), refuse.nature.parallel.as_str()), ("s", "s"));
        let bind = find("bind");
        assert!(bind.nature.body.contains("TN003") && !bind.nature.definer && !bind.nature.configured);
        assert_eq!((bind.arguments.as_str(), bind.nature.volatility.as_str()), ("uuid", "v"));
    }

    #[test]
    fn what_is_as_it_was_made_is_sound_and_every_change_is_told() {
        let made = ours();
        assert_eq!(compare("db", &made, &as_found(&made)), []);
        let mut there = as_found(&made);
        let enter = there.iter_mut().find(|(name, ..)| name == "enter").unwrap();
        enter.2.body = "BEGIN END".to_owned();
        enter.2.definer = true;
        let found = compare("db", &made, &there);
        assert_eq!((found.len(), found[0].lint), (1, "guard-changed"));
        assert!(found[0].why.contains("its body") && found[0].why.contains("privileges"), "{}", found[0].why);
        assert!(found[0].mend.starts_with("CREATE OR REPLACE PROCEDURE app.enter("), "{}", found[0].mend);
        assert!(found[0].mend.contains("GRANT EXECUTE ON ROUTINE app.enter(bigint) TO stagesub_app;"));
    }

    #[test]
    fn a_routine_beside_ours_is_no_guard_of_ours() {
        let made = ours();
        let mut there = as_found(&made);
        let mut narrower = there.iter().find(|(name, ..)| name == "enter").unwrap().clone();
        narrower.1 = "integer".to_owned();
        there.push(narrower);
        let found = compare("db", &made, &there);
        assert_eq!((found[0].lint, found[0].object.as_str()), ("guard-unknown", "app.enter(integer)"));
        there.clear();
        assert!(compare("db", &made, &there).iter().all(|finding| finding.lint == "guard-missing"));
    }

    #[test]
    fn the_last_statement_about_a_routine_counts() {
        let one = "-- why; so\nCREATE FUNCTION app.f(a integer, b text) RETURNS integer LANGUAGE sql IMMUTABLE STRICT AS $$ SELECT 1; $$;";
        let two = "CREATE OR REPLACE FUNCTION app.f(a integer, b text) RETURNS integer LANGUAGE sql -- STRICT\n AS $x$ SELECT '$$' $x$;\nSELECT 'a;b''c';";
        let made = made_by([one, two].into_iter());
        assert_eq!(made.len(), 1);
        assert_eq!(
            (made[0].arguments.as_str(), made[0].nature.body.as_str()),
            ("integer, text", " SELECT '$$' ")
        );
        assert!(!made[0].nature.strict);
        assert!(made_by([one, "DROP FUNCTION IF EXISTS app.f(integer, text);"].into_iter()).is_empty());
    }
}
