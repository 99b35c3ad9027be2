//! The strict parser of Postgres URLs.

use std::path::PathBuf;

use percent_encoding::percent_decode_str;
use secrecy::SecretString;

use super::{ConnectionTarget, ServerHost, SslMode, TargetError};

const DEFAULT_PORT: u16 = 5432;

/// Parts as they are found, in the address or among the parameters.
#[derive(Default)]
struct Parts {
    host: Option<String>,
    port: Option<String>,
    user: Option<String>,
    password: Option<String>,
    database: Option<String>,
    ssl_mode: Option<String>,
    ssl_root_cert: Option<String>,
    channel_binding: Option<String>,
}

impl Parts {
    fn set(&mut self, name: &str, encoded: &str) -> Result<(), TargetError> {
        let (slot, part) = match name {
            "host" => (&mut self.host, "host"),
            "port" => (&mut self.port, "port"),
            "user" => (&mut self.user, "user"),
            "password" => (&mut self.password, "password"),
            "dbname" => (&mut self.database, "database"),
            "sslmode" => (&mut self.ssl_mode, "sslmode"),
            "sslrootcert" => (&mut self.ssl_root_cert, "sslrootcert"),
            "channel_binding" => (&mut self.channel_binding, "channel_binding"),
            _ => return Err(TargetError::Unsupported { name: name.chars().take(40).collect() }),
        };
        if slot.is_some() {
            return Err(TargetError::Repeated { part });
        }
        *slot = Some(decode(part, encoded)?);
        Ok(())
    }

    /// Sets a part of the address, where an empty text means that it was left out.
    fn set_unless_empty(&mut self, name: &str, encoded: &str) -> Result<(), TargetError> {
        if encoded.is_empty() { Ok(()) } else { self.set(name, encoded) }
    }
}

/// Postgres's grammar and not that of RFC 3986: `postgres://user@/db?host=/run/postgresql` is valid,
/// and `+` is a plus.
pub(super) fn target(url: &str) -> Result<ConnectionTarget, TargetError> {
    let rest = url
        .strip_prefix("postgres://")
        .or_else(|| url.strip_prefix("postgresql://"))
        .ok_or(TargetError::Scheme)?;
    let (rest, query) = rest.split_once('?').unwrap_or((rest, ""));
    let (authority, path) = rest.split_once('/').unwrap_or((rest, ""));
    let (login, address) = authority.rsplit_once('@').unwrap_or(("", authority));
    let mut parts = Parts::default();

    let (user, password) = login.split_once(':').unwrap_or((login, ""));
    parts.set_unless_empty("user", user)?;
    parts.set_unless_empty("password", password)?;
    let (host, port) = split_address(address)?;
    parts.set_unless_empty("host", host)?;
    parts.set_unless_empty("port", port)?;
    parts.set_unless_empty("dbname", path)?;
    for pair in query.split('&').filter(|pair| !pair.is_empty()) {
        let (name, value) = pair.split_once('=').unwrap_or((pair, ""));
        parts.set(name, value)?;
    }
    assemble(parts)
}

fn assemble(parts: Parts) -> Result<ConnectionTarget, TargetError> {
    let host = host(parts.host)?;
    let port = match parts.port.as_deref() {
        None => DEFAULT_PORT,
        Some(text) => text
            .parse()
            .ok()
            .filter(|port| *port != 0)
            .ok_or(TargetError::Invalid { part: "port", reason: "it is a number from 1 to 65535" })?,
    };
    let ssl_mode = match (&host, parts.ssl_mode.as_deref()) {
        (_, Some(text)) => SslMode::parse(text)?,
        (ServerHost::Tcp(_), None) => SslMode::Prefer,
        (ServerHost::Socket(_), None) => SslMode::Disable,
    };
    if matches!(host, ServerHost::Socket(_)) && !matches!(ssl_mode, SslMode::Disable | SslMode::Prefer) {
        return Err(TargetError::Invalid { part: "sslmode", reason: "a Unix socket is not encrypted" });
    }
    if let Some(text) = parts.channel_binding
        && !matches!(text.as_str(), "disable" | "prefer" | "require")
    {
        let reason = "it is one of disable, prefer and require";
        return Err(TargetError::Invalid { part: "channel_binding", reason });
    }
    let required = |part: Option<String>, name| {
        part.filter(|text| !text.is_empty()).ok_or(TargetError::Missing { part: name })
    };
    Ok(ConnectionTarget {
        ssl_mode: if matches!(host, ServerHost::Socket(_)) { SslMode::Disable } else { ssl_mode },
        host,
        port,
        user: required(parts.user, "user")?,
        password: parts.password.map(SecretString::from),
        database: required(parts.database, "database")?,
        ssl_root_cert: parts.ssl_root_cert.map(PathBuf::from),
        address: None,
    })
}

fn host(text: Option<String>) -> Result<ServerHost, TargetError> {
    let text = text.filter(|text| !text.is_empty()).ok_or(TargetError::Missing { part: "host" })?;
    if text.starts_with('/') {
        return Ok(ServerHost::Socket(PathBuf::from(text)));
    }
    if text.contains(',') {
        return Err(TargetError::SeveralHosts);
    }
    let text = text.strip_prefix('[').and_then(|text| text.strip_suffix(']')).unwrap_or(&text);
    let allowed = |c: char| c.is_ascii_alphanumeric() || matches!(c, '.' | '-' | '_' | ':');
    if !text.chars().all(allowed) {
        return Err(TargetError::Invalid { part: "host", reason: "it is a host name or an IP address" });
    }
    Ok(ServerHost::Tcp(text.to_owned()))
}

/// Splits `host:port`, `[::1]:port` and their shorter forms.
fn split_address(address: &str) -> Result<(&str, &str), TargetError> {
    if address.contains(',') {
        return Err(TargetError::SeveralHosts);
    }
    if address.starts_with('[') {
        let end = address
            .find(']')
            .ok_or(TargetError::Invalid { part: "host", reason: "an IPv6 address ends with a bracket" })?;
        let (host, rest) = address.split_at(end + 1);
        return match rest.strip_prefix(':') {
            Some(port) => Ok((host, port)),
            None if rest.is_empty() => Ok((host, "")),
            None => Err(TargetError::Invalid { part: "host", reason: "after the bracket comes the port" }),
        };
    }
    Ok(address.split_once(':').unwrap_or((address, "")))
}

/// Strict percent-decoding. A NUL would end the value early in the start-up message.
fn decode(part: &'static str, encoded: &str) -> Result<String, TargetError> {
    let valid_escape = |at: usize| {
        encoded.as_bytes().get(at + 1..at + 3).is_some_and(|hex| hex.iter().all(u8::is_ascii_hexdigit))
    };
    if encoded.match_indices('%').any(|(at, _)| !valid_escape(at)) {
        let reason = "a % is followed by two hexadecimal digits (write %25 for % itself)";
        return Err(TargetError::Invalid { part, reason });
    }
    let text = percent_decode_str(encoded)
        .decode_utf8()
        .map_err(|_| TargetError::Invalid { part, reason: "it is not UTF-8" })?;
    if text.contains('\0') {
        return Err(TargetError::Invalid { part, reason: "it contains a NUL character" });
    }
    Ok(text.into_owned())
}
