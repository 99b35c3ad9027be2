//! How one database is reached: a Postgres URL taken apart into fields.
//!
//! The driver's own parser accepts `options` (which could switch row-level security settings), warns about
//! parameters it does not know, and fills every gap from `PG*` variables of the environment. Where a
//! tenant's data is must not hang on any of that, so URLs are parsed here, strictly, and the driver gets
//! fields.

mod parse;

use std::ffi::OsString;
use std::fmt;
use std::net::IpAddr;
use std::path::{Path, PathBuf};

use percent_encoding::{NON_ALPHANUMERIC, utf8_percent_encode};
use secrecy::{ExposeSecret, SecretString};
use sqlx::postgres::{PgConnectOptions, PgSslMode};

/// Why a connection string was refused. No variant carries a part of the string that could be secret.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum TargetError {
    /// It does not begin with `postgres://` or `postgresql://`.
    #[error("a connection string begins with postgres:// or postgresql://")]
    Scheme,
    /// A required part is not there. The driver would have taken it from the environment.
    #[error("the connection string names no {part}")]
    Missing {
        /// `host`, `user` or `database`.
        part: &'static str,
    },
    /// A part is there and cannot be understood.
    #[error("the connection string's {part} is not valid: {reason}")]
    Invalid {
        /// The part, such as `port`.
        part: &'static str,
        /// What is wrong with it.
        reason: &'static str,
    },
    /// More than one host was named; which of them answers would be chance.
    #[error("the connection string names several hosts; name the one that accepts writes")]
    SeveralHosts,
    /// A parameter was given twice, or both as a part of the address and as a parameter.
    #[error("the connection string gives its {part} more than once")]
    Repeated {
        /// The part.
        part: &'static str,
    },
    /// A parameter that is not supported. `options` is refused on purpose: it could change settings that
    /// isolation relies on.
    #[error("the connection string's parameter `{name}` is not supported; supported are {SUPPORTED}")]
    Unsupported {
        /// The parameter's name.
        name: String,
    },
    /// A variable of the environment that the driver reads and that nothing can undo afterwards.
    #[error("the environment variable {variable} would change every connection; unset it")]
    Environment {
        /// The variable's name.
        variable: &'static str,
    },
}

const SUPPORTED: &str = "host, port, user, password, dbname, sslmode, sslrootcert and channel_binding";

/// The `sslmode` of a connection, with the meanings of libpq.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum SslMode {
    /// Never encrypted.
    Disable,
    /// Encrypted if the server offers it. What a URL over TCP that says nothing means.
    Prefer,
    /// Always encrypted; the certificate is not checked.
    Require,
    /// Always encrypted; the certificate's issuer is checked.
    VerifyCa,
    /// Always encrypted; the certificate's issuer and host name are checked.
    VerifyFull,
}

impl SslMode {
    /// As it is written in a URL.
    #[must_use]
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Disable => "disable",
            Self::Prefer => "prefer",
            Self::Require => "require",
            Self::VerifyCa => "verify-ca",
            Self::VerifyFull => "verify-full",
        }
    }

    fn parse(text: &str) -> Result<Self, TargetError> {
        match text {
            "disable" => Ok(Self::Disable),
            "prefer" => Ok(Self::Prefer),
            "require" => Ok(Self::Require),
            "verify-ca" => Ok(Self::VerifyCa),
            "verify-full" => Ok(Self::VerifyFull),
            _ => Err(TargetError::Invalid {
                part: "sslmode",
                reason: "it is one of disable, prefer, require, verify-ca and verify-full",
            }),
        }
    }

    const fn to_driver(self) -> PgSslMode {
        match self {
            Self::Disable => PgSslMode::Disable,
            Self::Prefer => PgSslMode::Prefer,
            Self::Require => PgSslMode::Require,
            Self::VerifyCa => PgSslMode::VerifyCa,
            Self::VerifyFull => PgSslMode::VerifyFull,
        }
    }
}

/// Where a server listens.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub enum ServerHost {
    /// A host name or an IP address (IPv6 without its brackets).
    Tcp(String),
    /// The directory of a Unix socket.
    Socket(PathBuf),
}

impl fmt::Display for ServerHost {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Tcp(host) if host.contains(':') => write!(f, "[{host}]"),
            Self::Tcp(host) => f.write_str(host),
            Self::Socket(dir) => dir.display().fmt(f),
        }
    }
}

/// Everything needed to connect to one database as one user.
///
/// `Display` and `Debug` show `host:port/database` and the user, never the password. The only way to the
/// password is [`ConnectionTarget::to_url`] and the driver's options.
///
/// `channel_binding` is accepted, because managed Postgres puts it in the URLs it hands out, and has no
/// effect: the driver does not bind channels. `sslmode=verify-full` is what protects against a forged server.
/// A pooled URL (a transaction-mode pooler between here and Postgres) parses like any other.
///
/// ```
/// use stagesub_storage::target::ConnectionTarget;
///
/// let target = ConnectionTarget::parse("postgres://app:s3cret@db.example:6432/orchestras?sslmode=require")?;
/// assert_eq!(target.to_string(), "db.example:6432/orchestras");
/// assert!(!format!("{target:?}").contains("s3cret"));
/// # Ok::<(), stagesub_storage::target::TargetError>(())
/// ```
#[derive(Clone)]
pub struct ConnectionTarget {
    host: ServerHost,
    port: u16,
    user: String,
    password: Option<SecretString>,
    database: String,
    ssl_mode: SslMode,
    ssl_root_cert: Option<PathBuf>,
    /// Where a named host is connected to, whatever its name means by then. Not part of the connection string.
    address: Option<IpAddr>,
}

impl ConnectionTarget {
    /// Takes a connection string apart.
    ///
    /// # Errors
    /// [`TargetError`], one variant for each kind of fault; [`TargetError::Environment`] if a variable is
    /// set that the driver would mix into this connection and that cannot be overridden (`PGOPTIONS`, and
    /// for encrypted connections `PGSSLROOTCERT`, `PGSSLCERT` and `PGSSLKEY`).
    pub fn parse(url: &str) -> Result<Self, TargetError> {
        let target = parse::target(url)?;
        target.refuse_ambient(|variable| std::env::var_os(variable))?;
        Ok(target)
    }

    /// A database behind a Unix socket, which needs no encryption.
    ///
    /// # Errors
    /// [`TargetError::Environment`] as for [`ConnectionTarget::parse`].
    pub fn on_socket(
        dir: &Path,
        port: u16,
        user: &str,
        password: SecretString,
        database: &str,
    ) -> Result<Self, TargetError> {
        let target = Self {
            host: ServerHost::Socket(dir.to_path_buf()),
            port,
            user: user.to_owned(),
            password: Some(password),
            database: database.to_owned(),
            ssl_mode: SslMode::Disable,
            ssl_root_cert: None,
            address: None,
        };
        target.refuse_ambient(|variable| std::env::var_os(variable))?;
        Ok(target)
    }

    /// The same server and user, another database.
    #[must_use]
    pub fn with_database(&self, database: &str) -> Self {
        Self { database: database.to_owned(), ..self.clone() }
    }

    /// The same database, another login.
    #[must_use]
    pub fn with_user(&self, user: &str, password: SecretString) -> Self {
        Self { user: user.to_owned(), password: Some(password), ..self.clone() }
    }

    /// The certificates that the server's is compared with; none: those that browsers trust.
    #[must_use]
    pub fn ssl_root_cert(&self) -> Option<&Path> {
        self.ssl_root_cert.as_deref()
    }

    /// The same server by the same name, connected to at one of its addresses. Not where the certificate is compared
    /// with the name: the driver knows one host, which is then the address.
    pub(crate) fn at_address(&self, address: IpAddr) -> Self {
        Self { address: Some(address), ..self.clone() }
    }

    /// Where the server listens.
    #[must_use]
    pub const fn host(&self) -> &ServerHost {
        &self.host
    }

    /// The server's port; for a socket the number in the socket's name.
    #[must_use]
    pub const fn port(&self) -> u16 {
        self.port
    }

    /// The login.
    #[must_use]
    pub fn user(&self) -> &str {
        &self.user
    }

    /// Whether there is a password in it.
    #[must_use]
    pub const fn has_password(&self) -> bool {
        self.password.is_some()
    }

    /// The password, for another connection string of the same login.
    pub(crate) const fn password(&self) -> Option<&SecretString> {
        self.password.as_ref()
    }

    /// The database's name.
    #[must_use]
    pub fn database(&self) -> &str {
        &self.database
    }

    /// How the connection is encrypted.
    #[must_use]
    pub const fn ssl_mode(&self) -> SslMode {
        self.ssl_mode
    }

    /// The target in words, for errors and logs: user, address and database, no secret.
    #[must_use]
    pub fn describe(&self) -> String {
        format!("{}@{self}", self.user)
    }

    /// Whether both name the same database by the same address. Two addresses of one server are not
    /// recognised; a database's own marker is what tells databases apart.
    #[must_use]
    pub fn same_database(&self, other: &Self) -> bool {
        self.host == other.host && self.port == other.port && self.database == other.database
    }

    /// The driver's options, every field of which comes from this target.
    ///
    /// The application name is `stagesub`; callers may set another. The driver starts from `PG*` variables
    /// whatever one does, so each of them is overwritten here, and those that cannot be were refused when
    /// the target was made.
    #[must_use]
    pub fn to_connect_options(&self) -> PgConnectOptions {
        let options = PgConnectOptions::new_without_pgpass()
            .port(self.port)
            .username(&self.user)
            // Without a password an empty one is sent if the server asks, never PGPASSWORD.
            .password(self.password.as_ref().map_or("", |password| password.expose_secret()))
            .database(&self.database)
            .ssl_mode(self.ssl_mode.to_driver())
            .application_name("stagesub");
        let options = match &self.host {
            ServerHost::Tcp(host) => match self.address {
                Some(address) => options.host(&address.to_string()),
                None => options.host(host),
            },
            // The host is set too, so that PGHOST does not appear in the options even unused.
            ServerHost::Socket(dir) => options.host("localhost").socket(dir),
        };
        match &self.ssl_root_cert {
            Some(path) => options.ssl_root_cert(path),
            None => options,
        }
    }

    /// The connection string with its password, for sealing. [`ConnectionTarget::parse`] reads it back to
    /// an equal target.
    #[must_use]
    pub fn to_url(&self) -> SecretString {
        let encode = |text: &str| utf8_percent_encode(text, NON_ALPHANUMERIC).to_string();
        let user = encode(&self.user);
        let password = self
            .password
            .as_ref()
            .map(|password| format!(":{}", encode(password.expose_secret())))
            .unwrap_or_default();
        let host = match &self.host {
            ServerHost::Tcp(host) if host.contains(':') => format!("[{host}]"),
            ServerHost::Tcp(host) => encode(host),
            ServerHost::Socket(dir) => encode(&dir.to_string_lossy()),
        };
        let database = encode(&self.database);
        let ssl_mode = self.ssl_mode.as_str();
        let root_cert = self
            .ssl_root_cert
            .as_ref()
            .map(|path| format!("&sslrootcert={}", encode(&path.to_string_lossy())))
            .unwrap_or_default();
        let port = self.port;
        SecretString::from(format!(
            "postgres://{user}{password}@{host}:{port}/{database}?sslmode={ssl_mode}{root_cert}"
        ))
    }

    fn refuse_ambient(&self, lookup: impl Fn(&str) -> Option<OsString>) -> Result<(), TargetError> {
        let encrypted = self.ssl_mode != SslMode::Disable;
        let harmful = [
            ("PGOPTIONS", true),
            ("PGSSLROOTCERT", encrypted && self.ssl_root_cert.is_none()),
            ("PGSSLCERT", encrypted),
            ("PGSSLKEY", encrypted),
        ];
        match harmful.iter().find(|(variable, counts)| *counts && lookup(variable).is_some()) {
            Some((variable, _)) => Err(TargetError::Environment { variable }),
            None => Ok(()),
        }
    }
}

impl fmt::Display for ConnectionTarget {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}:{}/{}", self.host, self.port, self.database)
    }
}

impl fmt::Debug for ConnectionTarget {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("ConnectionTarget")
            .field("address", &format_args!("{self}"))
            .field("user", &self.user)
            .field("ssl_mode", &self.ssl_mode)
            .finish_non_exhaustive()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn parse(url: &str) -> Result<ConnectionTarget, TargetError> {
        super::parse::target(url)
    }

    fn password(target: &ConnectionTarget) -> Option<&str> {
        target.password.as_ref().map(ExposeSecret::expose_secret)
    }

    #[test]
    fn url_is_taken_apart_and_decoded() {
        let target = parse("postgresql://app%40x:p%2Fss%20w+rd@db.example:6543/my%20db").unwrap();
        assert_eq!(target.host, ServerHost::Tcp("db.example".into()));
        assert_eq!((target.port, target.user(), target.database()), (6543, "app@x", "my db"));
        assert_eq!(password(&target), Some("p/ss w+rd"));
        assert_eq!(target.ssl_mode, SslMode::Prefer);
    }

    #[test]
    fn managed_postgres_url_with_channel_binding_is_accepted() {
        let url = "postgresql://neondb_owner:npg_x@ep-a-1-pooler.eu-central-1.aws.neon.tech/neondb?sslmode=require&channel_binding=require";
        let target = parse(url).unwrap();
        assert_eq!(target.ssl_mode, SslMode::Require);
        assert_eq!(target.to_string(), "ep-a-1-pooler.eu-central-1.aws.neon.tech:5432/neondb");
    }

    #[test]
    fn socket_directory_may_be_a_parameter_or_the_host() {
        for url in [
            "postgres://u:p@/db?host=/run/postgresql&port=5433",
            "postgres://u:p@%2Frun%2Fpostgresql:5433/db",
        ] {
            let target = parse(url).unwrap();
            assert_eq!(target.host, ServerHost::Socket("/run/postgresql".into()));
            assert_eq!((target.port, target.ssl_mode), (5433, SslMode::Disable));
        }
    }

    #[test]
    fn ipv6_address_keeps_its_port_apart() {
        let target = parse("postgres://u@[2001:db8::1]:6000/db").unwrap();
        assert_eq!(target.host, ServerHost::Tcp("2001:db8::1".into()));
        assert_eq!(target.to_string(), "[2001:db8::1]:6000/db");
    }

    #[test]
    fn options_and_unknown_parameters_are_refused_by_name() {
        for name in ["options", "options[search_path]", "application_name", "passfile"] {
            let url = format!("postgres://u:p@h/db?{name}=x");
            assert_eq!(parse(&url).unwrap_err(), TargetError::Unsupported { name: name.to_owned() });
        }
    }

    #[test]
    fn several_hosts_are_refused_wherever_they_stand() {
        for url in ["postgres://u:p@a,b/db", "postgres://u:p@a:1,b:2/db", "postgres://u:p@/db?host=a,b"] {
            assert_eq!(parse(url).unwrap_err(), TargetError::SeveralHosts);
        }
    }

    #[test]
    fn comma_in_a_password_is_no_second_host() {
        assert_eq!(password(&parse("postgres://u:a,b@h/db").unwrap()), Some("a,b"));
    }

    #[test]
    fn missing_parts_are_named_and_never_guessed() {
        let missing = |url| match parse(url).unwrap_err() {
            TargetError::Missing { part } => part,
            other => panic!("{other}"),
        };
        assert_eq!(missing("postgres://u:p@/db"), "host");
        assert_eq!(missing("postgres://h/db"), "user");
        assert_eq!(missing("postgres://u:p@h"), "database");
        assert_eq!(missing("postgres://u:p@h/"), "database");
    }

    #[test]
    fn malformed_parts_are_refused() {
        for (url, wrong) in [
            ("postgres://u:p@h:0/db", "port"),
            ("postgres://u:p@h:99999/db", "port"),
            ("postgres://u:p%zz@h/db", "password"),
            ("postgres://u:p%00@h/db", "password"),
            ("postgres://u:p@h/db%ff", "database"),
            ("postgres://u:p@h h/db", "host"),
            ("postgres://u:p@[::1/db", "host"),
            ("postgres://u:p@h/db?sslmode=maybe", "sslmode"),
            ("postgres://u:p@/db?host=/run&sslmode=require", "sslmode"),
            ("postgres://u:p@h/db?channel_binding=yes", "channel_binding"),
        ] {
            assert!(
                matches!(parse(url), Err(TargetError::Invalid { part, .. }) if part == wrong),
                "{url}: {:?}",
                parse(url)
            );
        }
        assert_eq!(parse("mysql://u@h/db").unwrap_err(), TargetError::Scheme);
        let repeated = parse("postgres://u:p@h/db?dbname=other").unwrap_err();
        assert_eq!(repeated, TargetError::Repeated { part: "database" });
    }

    #[test]
    fn secrets_stay_out_of_debug_display_and_errors() {
        let target = parse("postgres://u:hunter2@h/db").unwrap();
        assert!(!format!("{target} {target:?} {}", target.describe()).contains("hunter2"));
        assert_eq!(target.describe(), "u@h:5432/db");
        let error = parse("postgres://u:hunter2%@h/db").unwrap_err();
        assert!(!format!("{error} {error:?}").contains("hunter2"));
    }

    #[test]
    fn secret_url_reads_back_to_the_same_target() {
        for url in [
            "postgres://u%3A1:p%40%2F%3F%23%20%C3%A5@db.example:6543/n%C3%A4mn?sslmode=verify-full&sslrootcert=/etc/ca.pem",
            "postgres://u:p@/db?host=/tmp/a b",
            "postgres://u@[::1]/db",
        ] {
            let target = parse(url).unwrap();
            let again = parse(target.to_url().expose_secret()).unwrap();
            assert!(target.same_database(&again));
            assert_eq!(target.user, again.user);
            assert_eq!(password(&target), password(&again));
            assert_eq!(target.ssl_mode, again.ssl_mode);
            assert_eq!(target.ssl_root_cert, again.ssl_root_cert);
        }
    }

    #[test]
    fn derived_targets_change_only_what_they_say() {
        let target = parse("postgres://u:p@h:1/db?sslmode=require").unwrap();
        let other = target.with_database("other").with_user("app", SecretString::from("q"));
        assert_eq!((other.user(), other.database(), password(&other)), ("app", "other", Some("q")));
        assert_eq!((other.host(), other.port(), other.ssl_mode()), (target.host(), 1, SslMode::Require));
        assert!(!target.same_database(&other));
    }

    #[test]
    fn driver_options_hold_every_field() {
        let options = parse("postgres://u:p@h:1/db?sslmode=require").unwrap().to_connect_options();
        assert_eq!((options.get_host(), options.get_port()), ("h", 1));
        assert_eq!((options.get_username(), options.get_database()), ("u", Some("db")));
        assert!(matches!(options.get_ssl_mode(), PgSslMode::Require));
        assert_eq!(options.get_application_name(), Some("stagesub"));
        let socket = parse("postgres://u:p@/db?host=/run/x").unwrap().to_connect_options();
        assert_eq!(socket.get_socket(), Some(&PathBuf::from("/run/x")));
    }

    #[test]
    fn variables_that_cannot_be_overridden_are_refused() {
        let set = |name: &'static str| move |asked: &str| (asked == name).then(|| OsString::from("x"));
        let plain = parse("postgres://u:p@h/db?sslmode=disable").unwrap();
        let encrypted = parse("postgres://u:p@h/db?sslmode=require").unwrap();
        let variable = "PGOPTIONS";
        assert_eq!(plain.refuse_ambient(set(variable)), Err(TargetError::Environment { variable }));
        assert_eq!(plain.refuse_ambient(set("PGSSLCERT")), Ok(()));
        let variable = "PGSSLCERT";
        assert_eq!(encrypted.refuse_ambient(set(variable)), Err(TargetError::Environment { variable }));
        assert_eq!(encrypted.refuse_ambient(set("PGHOST")), Ok(()));
    }
}
