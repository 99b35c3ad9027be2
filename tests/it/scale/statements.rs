//! Every statement of the program: what the compiler checked, what readers enter by, and the lists that are read in one
//! message.

use std::collections::BTreeMap;
use std::fs;
use std::path::{Path, PathBuf};
use std::sync::LazyLock;

use regex::Regex;
use serde_json::Value;
use stagesub_storage::one_message::PreparedRead;
use stagesub_storage::tx::LOOK_SQL;

/// A statement with the types of its parameters, as Postgres names them.
#[derive(Debug, Clone)]
pub(crate) struct Statement {
    /// Its text.
    pub(crate) sql: String,
    /// One type a parameter.
    pub(crate) types: Vec<String>,
    /// Tables it names, with their schema, in that order and each once.
    pub(crate) tables: Vec<String>,
}

impl Statement {
    /// A statement and what its parameters are.
    pub(crate) fn new(sql: &str, types: &[&str]) -> Self {
        static TABLE: LazyLock<Regex> =
            LazyLock::new(|| Regex::new(r"\b(?:registry|tenant|app)\.[a-z_]+\b").expect("a pattern"));
        let mut tables = Vec::new();
        for table in TABLE.find_iter(sql).map(|found| found.as_str().to_owned()) {
            if !tables.contains(&table) {
                tables.push(table);
            }
        }
        let types = types.iter().map(|name| (*name).to_owned()).collect();
        Self { sql: sql.trim().to_owned(), types, tables }
    }

    /// Its text on one line, by which lists and messages call it.
    pub(crate) fn line(&self) -> String {
        self.sql.split_whitespace().collect::<Vec<_>>().join(" ")
    }

    /// Whether it is one of the registry's.
    pub(crate) fn is_of_registry(&self) -> bool {
        let of_registry = self.tables.iter().filter(|table| table.starts_with("registry.")).count();
        assert!(
            of_registry == 0 || of_registry == self.tables.len(),
            "no statement reaches two databases: {}",
            self.line()
        );
        of_registry > 0
    }
}

/// Statements that name a table of the registry, of tenants, or of what stands beside tenants.
pub(crate) fn all() -> Vec<Statement> {
    let root = Path::new(env!("CARGO_MANIFEST_DIR")).join("..");
    let mut statements = BTreeMap::new();
    for file in files(&root.join(".sqlx"), "json") {
        let data: Value = serde_json::from_str(&read(&file)).expect("query data is JSON");
        let sql = data["query"].as_str().expect("query data has the query");
        let types = data["describe"]["parameters"]["Left"].as_array().expect("and its parameters");
        let types: Vec<String> = types.iter().map(postgres_type).collect();
        let types: Vec<&str> = types.iter().map(String::as_str).collect();
        let statement = Statement::new(sql, &types);
        if !statement.tables.is_empty() {
            statements.insert(statement.line(), statement);
        }
    }
    let hot = files(&root.join("crates/storage/src/repo/hot_lists"), "sql");
    assert!(!hot.is_empty(), "there are lists that are read in one message");
    for file in hot {
        // As the one-message read prepares them: the tenant, integers and the epoch; it binds, and asks for the epoch.
        let sql: &'static str = read(&file).leak();
        let read = PreparedRead::new("scale", sql, 2);
        let statement = Statement::new(read.prepared(), &["uuid", "bigint", "bigint", "bigint"]);
        statements.insert(statement.line(), statement);
    }
    let look = Statement::new(LOOK_SQL, &["uuid", "bigint"]);
    statements.insert(look.line(), look);
    assert!(statements.len() > 100, "there are {} statements", statements.len());
    statements.into_values().collect()
}

/// A parameter's type by the name that Postgres has for what sqlx calls it.
fn postgres_type(name: &Value) -> String {
    let name = name.as_str().unwrap_or_else(|| panic!("a type of Postgres' own: {name}"));
    let (scalar, array) = name.strip_suffix("Array").map_or((name, ""), |scalar| (scalar, "[]"));
    let scalar = match scalar {
        "Bool" => "boolean",
        "Bytea" => "bytea",
        "Date" => "date",
        "Float8" => "double precision",
        "Inet" => "inet",
        "Int2" => "smallint",
        "Int4" => "integer",
        "Int8" => "bigint",
        "Interval" => "interval",
        "Json" => "json",
        "Jsonb" => "jsonb",
        "Name" => "name",
        "Numeric" => "numeric",
        "Oid" => "oid",
        "Text" => "text",
        "Time" => "time",
        "Timestamptz" => "timestamptz",
        "Uuid" => "uuid",
        "Varchar" => "varchar",
        other => panic!("say what {other} is called in Postgres"),
    };
    format!("{scalar}{array}")
}

fn files(dir: &Path, extension: &str) -> Vec<PathBuf> {
    let entries = fs::read_dir(dir).unwrap_or_else(|error| panic!("{}: {error}", dir.display()));
    let mut files: Vec<PathBuf> =
        entries.map(|entry| entry.expect("a directory can be listed").path()).collect();
    files.retain(|file| file.extension().is_some_and(|found| found == extension));
    files.sort();
    files
}

fn read(file: &Path) -> String {
    fs::read_to_string(file).unwrap_or_else(|error| panic!("{}: {error}", file.display()))
}
