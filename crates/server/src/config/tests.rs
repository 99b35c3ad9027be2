use std::collections::HashMap;

use super::*;

fn load(pairs: &[(&str, &str)]) -> Result<RawConfig, ConfigError> {
    let map: HashMap<String, String> =
        pairs.iter().map(|(name, value)| ((*name).to_owned(), (*value).to_owned())).collect();
    RawConfig::load_from(None, &|name| map.get(name).cloned())
}

fn keys() -> String {
    KeyRing::generate("k1").to_text_secret().expose_secret().to_owned()
}

#[test]
fn serve_names_every_missing_secret_at_once() {
    let error = Settings::for_serve(&load(&[("APP_DOMAIN", "stagesub.com")]).unwrap()).unwrap_err();
    assert_eq!(
        error.to_string(),
        "not set: DATABASE_URL, JWT_SECRET, STAGESUB_KEYS (each is described in docs/deployment.md)"
    );
}

#[test]
fn an_empty_variable_counts_as_missing() {
    let raw = load(&[("JWT_SECRET", ""), ("APP_DOMAIN", "stagesub.com")]).unwrap();
    assert!(raw.jwt_secret.is_none());
}

#[test]
fn a_complete_environment_is_accepted() {
    let keys = keys();
    let raw = load(&[
        ("DATABASE_URL", "postgres://u:p@db.example/registry?sslmode=require"),
        ("JWT_SECRET", "0123456789012345678901234567890123456789"),
        ("STAGESUB_KEYS", &keys),
        ("APP_DOMAIN", "stagesub.com"),
        ("STAGESUB_TRUSTED_PROXIES", "10.0.0.0/8"),
    ])
    .unwrap();
    let settings = Settings::for_serve(&raw).unwrap();
    assert_eq!(settings.serving.listen, DEFAULT_LISTEN.parse().unwrap());
    assert!(settings.databases.shared_database_url.is_none());
    assert!(!format!("{settings:?}").contains(":p@"));
}

#[test]
fn a_malformed_secret_is_named_and_not_shown() {
    let keys = keys();
    let raw = load(&[
        ("DATABASE_URL", "mysql://u:hunter2@db/registry"),
        ("JWT_SECRET", "x"),
        ("STAGESUB_KEYS", &keys),
        ("APP_DOMAIN", "stagesub.com"),
    ])
    .unwrap();
    let text = Settings::for_serve(&raw).unwrap_err().to_string();
    assert!(text.starts_with("DATABASE_URL is not usable"), "{text}");
    assert!(!text.contains("hunter2"), "{text}");
}

#[test]
fn listening_is_on_unless_it_is_switched_off() {
    let listens = |value| listens(&load(&[("STAGESUB_REGISTRY_LISTEN", value)]).unwrap());
    assert!(listens("").unwrap() && listens("on").unwrap());
    assert!(!listens("off").unwrap());
    let error = listens("no").unwrap_err().to_string();
    assert!(error.starts_with("STAGESUB_REGISTRY_LISTEN is not usable"), "{error}");
}

#[test]
fn half_a_superadmin_is_refused() {
    let raw = load(&[("SUPERADMIN_EMAIL", "ceo@example.com")]).unwrap();
    assert!(matches!(superadmin(&raw), Err(ConfigError::Missing(names)) if names == ["SUPERADMIN_PASSWORD"]));
}

#[test]
fn a_file_is_read_and_the_environment_comes_before_it() {
    let file = tempfile::NamedTempFile::new().unwrap();
    std::fs::write(file.path(), "app_domain = \"file.example\"\nstagesub_shared_pool_size = 7\n").unwrap();
    let environment = |name: &str| (name == "APP_DOMAIN").then(|| "environment.example".to_owned());
    let raw = RawConfig::load_from(Some(file.path()), &environment).unwrap();
    assert_eq!(raw.app_domain.as_deref(), Some("environment.example"));
    assert_eq!(pool_sizes(&raw).unwrap().shared, 7);
}

#[test]
fn a_file_that_cannot_be_used_is_told_without_its_secrets() {
    for (text, told) in [
        ("jwt_secret = \"hunter2\nx", "is not valid TOML"),
        ("jwt_sekret = \"hunter2\"", "unknown field"),
        ("stagesub_shared_pool_size = \"hunter2\"", "stagesub_shared_pool_size"),
        ("jwt_secret = [\"hunter2\"]", "cannot be used"),
    ] {
        let file = tempfile::NamedTempFile::new().unwrap();
        std::fs::write(file.path(), text).unwrap();
        let error = RawConfig::load_from(Some(file.path()), &|_| None).unwrap_err();
        let shown = format!("{error} {error:?}");
        assert!(shown.contains(told), "{text}: {shown}");
        assert!(!shown.contains("hunter2"), "{shown}");
    }
}

#[test]
fn a_file_that_is_not_there_is_told() {
    let missing = Path::new("/nonexistent/stagesub.toml");
    assert!(RawConfig::load_from(Some(missing), &|_| None).is_err());
}

fn migrate(pairs: &[(&str, &str)]) -> MigrateSettings {
    let keys = keys();
    let mut pairs = pairs.to_vec();
    pairs.push(("STAGESUB_KEYS", &keys));
    MigrateSettings::from_raw(&load(&pairs).unwrap()).unwrap()
}

#[test]
fn the_registrys_administrator_is_the_shared_databases_on_the_same_server() {
    let settings = migrate(&[
        ("DATABASE_URL", "postgres://u:p@db.example/registry"),
        ("SHARED_TENANT_DB_URL", "postgres://u:p@db.example/tenants"),
        ("STAGESUB_ADMIN_DATABASE_URL", "postgres://admin:a@db.example/registry"),
    ]);
    assert_eq!(settings.registry_admin.describe(), "admin@db.example:5432/registry");
    assert_eq!(settings.shared_admin.unwrap().describe(), "admin@db.example:5432/tenants");
}

#[test]
fn the_registrys_administrator_is_not_sent_to_another_server() {
    let settings = migrate(&[
        ("DATABASE_URL", "postgres://u:p@db.example/registry"),
        ("SHARED_TENANT_DB_URL", "postgres://v:p@other.example/tenants"),
        ("STAGESUB_ADMIN_DATABASE_URL", "postgres://admin:a@db.example/registry"),
    ]);
    assert_eq!(settings.shared_admin.unwrap().describe(), "v@other.example:5432/tenants");
}
