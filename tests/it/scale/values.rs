//! Values for a statement's parameters, drawn from the rows that there are.
//!
//! What a parameter is compared with, the text tells: `status = $3` gets a status of the table. A plan for known
//! values depends on how many rows have them, so each is drawn twice: what most rows have and what fewest have; from
//! the low and from the high end where it is a bound. What may be left out is left out, by itself and together.

use std::collections::HashMap;

use regex::Regex;
use sqlx::{AssertSqlSafe, PgConnection};
use uuid::Uuid;

use super::statements::Statement;

/// Which of a column's values.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub(crate) enum Drawn {
    /// What most rows have; the lowest of bounds.
    Common,
    /// What fewest rows have; the highest of bounds.
    Rare,
}

/// How a parameter is compared with a column.
struct Comparison {
    column: String,
    operator: String,
}

/// Draws values from a database and remembers them.
#[derive(Default)]
pub(crate) struct Values {
    drawn: HashMap<Asked, Option<String>>,
}

/// What was drawn for.
#[derive(Clone, PartialEq, Eq, Hash)]
struct Asked {
    table: String,
    column: String,
    tenant: Option<Uuid>,
    which: Drawn,
    /// Whether it is a bound.
    bound: bool,
}

impl Values {
    /// Argument lists for `EXECUTE`; `$1` of a tenant's statement is the tenant.
    pub(crate) async fn of(
        &mut self,
        statement: &Statement,
        tenant: Option<Uuid>,
        which: Drawn,
        conn: &mut PgConnection,
    ) -> Vec<String> {
        let mut given = Vec::new();
        let mut optional = Vec::new();
        for at in 0..statement.types.len() {
            let value = self.one(statement, at, tenant, which, conn).await;
            if may_be_left_out(&statement.sql, at + 1) {
                optional.push(at);
            }
            given.push(value);
        }
        let with = |kept: &dyn Fn(usize) -> bool| {
            let values = given
                .iter()
                .enumerate()
                .map(|(at, value)| if optional.contains(&at) && !kept(at) { "NULL" } else { value.as_str() });
            values.collect::<Vec<_>>().join(", ")
        };
        let mut lists = vec![with(&|_| true)];
        if !optional.is_empty() {
            lists.push(with(&|_| false));
        }
        if optional.len() > 1 {
            lists.extend(optional.iter().map(|only| with(&|at| at == *only)));
        }
        lists
    }

    /// A literal with its type.
    async fn one(
        &mut self,
        statement: &Statement,
        at: usize,
        tenant: Option<Uuid>,
        which: Drawn,
        conn: &mut PgConnection,
    ) -> String {
        let of = &statement.types[at];
        if let (0, Some(tenant), "uuid") = (at, tenant, of.as_str()) {
            return literal(&tenant.to_string(), of);
        }
        let (scalar, is_array) = of.strip_suffix("[]").map_or((of.as_str(), false), |scalar| (scalar, true));
        let value = match comparison(&statement.sql, at + 1) {
            Some(compared) => self.draw(statement, &compared, (tenant, which, is_array), conn).await,
            None => None,
        };
        let value = value.unwrap_or_else(|| {
            let one = usual(scalar, &statement.sql, at + 1);
            if is_array { format!("{{{one},{one}}}") } else { one }
        });
        literal(&value, of)
    }

    /// A value of the column in the first table of the statement that has it.
    async fn draw(
        &mut self,
        statement: &Statement,
        compared: &Comparison,
        (tenant, which, is_array): (Option<Uuid>, Drawn, bool),
        conn: &mut PgConnection,
    ) -> Option<String> {
        let column = &compared.column;
        for table in &statement.tables {
            let has: bool = sqlx::query_scalar(
                "SELECT EXISTS (SELECT FROM pg_attribute
                    WHERE attrelid = to_regclass($1) AND attname = $2 AND attnum > 0 AND NOT attisdropped)",
            )
            .bind(table)
            .bind(column)
            .fetch_one(&mut *conn)
            .await
            .expect("the catalogue can be read");
            if !has {
                continue;
            }
            let bound = compared.operator.starts_with(['<', '>']) && compared.operator != "<>";
            // Who asks for what is new knows what is old: nobody asks from the beginning.
            let which = if column == "version" && bound { Drawn::Rare } else { which };
            let key = Asked { table: table.clone(), column: column.clone(), tenant, which, bound };
            if !self.drawn.contains_key(&key) {
                let order = match (bound, which) {
                    (true, Drawn::Common) => column.clone(),
                    (true, Drawn::Rare) => format!("{column} DESC"),
                    (false, Drawn::Common) => format!("count(*) DESC, {column}"),
                    (false, Drawn::Rare) => format!("count(*), {column} DESC"),
                };
                let of_tenant = match tenant {
                    Some(tenant) if table.starts_with("tenant.") => format!("AND tenant_id = '{tenant}'"),
                    _ => String::new(),
                };
                let sql = format!(
                    "SELECT {column}::text FROM {table} WHERE {column} IS NOT NULL {of_tenant}
                     GROUP BY {column} ORDER BY {order} LIMIT 1"
                );
                let value: Option<String> = sqlx::query_scalar(AssertSqlSafe(sql))
                    .fetch_optional(&mut *conn)
                    .await
                    .unwrap_or_else(|error| panic!("{table}.{column}: {error}"));
                self.drawn.insert(key.clone(), value);
            }
            // A column that is always empty has no value to draw.
            let value = self.drawn[&key].as_ref()?;
            return Some(match compared.operator.as_str() {
                "ILIKE" | "LIKE" => format!("%{value}%"),
                _ if is_array => format!("{{{value}}}"),
                _ => value.clone(),
            });
        }
        None
    }
}

fn literal(value: &str, of: &str) -> String {
    format!("'{}'::{of}", value.replace('\'', "''"))
}

/// What the text compares the parameter with.
fn comparison(sql: &str, n: usize) -> Option<Comparison> {
    let pattern = format!(
        r"(?x) \b([a-z_]+)\)? \s* (=|<>|<=|>=|<|>|ILIKE|LIKE) \s*
            (?:ANY\s*\(|ALL\s*\(|lower\(|coalesce\()? \s* \${n}\b",
    );
    let found = Regex::new(&pattern).expect("a pattern").captures(sql)?;
    Some(Comparison { column: found[1].to_owned(), operator: found[2].to_owned() })
}

/// Whether it may be NULL, which asks for everything.
pub(crate) fn may_be_left_out(sql: &str, n: usize) -> bool {
    Regex::new(&format!(r"\${n}(::[a-z0-9_\[\]]+)?\s+IS\s+NULL")).expect("a pattern").is_match(sql)
}

/// A value where none is compared.
fn usual(of: &str, sql: &str, n: usize) -> String {
    let value = match of {
        "boolean" => "true",
        "bytea" => "\\x00",
        "date" => "2025-03-01",
        "bigint" | "integer" | "smallint" => "21",
        "inet" => "192.0.2.1",
        "interval" => "20 s",
        "json" | "jsonb" => "{}",
        "numeric" | "double precision" => "1.5",
        "text" | "varchar" | "name" if sql.contains(&format!("${n}::text::inet")) => "192.0.2.1",
        "text" | "varchar" | "name" if sql.contains(&format!("${n}::text::pg_lsn")) => "0/16B3748",
        "text" | "varchar" | "name" => "orkester",
        "time" => "12:00",
        "timestamptz" => "2025-03-01T12:00:00Z",
        "uuid" => "01932c07-0000-7000-8000-000000000001",
        other => panic!("say what a usual {other} is"),
    };
    value.to_owned()
}
