//! `stagesub prove`: attacks on the platform, and reports of them.

use std::fs::OpenOptions;
use std::io::{ErrorKind, Write};
use std::path::{Path, PathBuf};

use serde_json::json;
use stagesub_tenancy::HostPolicy;
use stagesub_tenancy::clock::Clock;

use super::args::{ProveArgs, Verification};
use super::{CLOSING, Failure, output};
use crate::clock::SystemClock;
use crate::config::{ConfigError, DatabaseSettings, LimitSettings, RawConfig, Settings};
use crate::prove::signing::{Pinned, PublicKey, ReportSigner};
use crate::prove::{self, Attacked, Extent, Remote, Report};
use crate::serving::Stop;
use crate::wiring::Platform;

/// Runs the command.
pub async fn run(arguments: ProveArgs, raw: &RawConfig) -> Result<(), Failure> {
    match arguments.verification.verify.as_deref() {
        Some(file) => verify(file, &arguments.verification, arguments.json, raw),
        None => make(arguments, raw).await,
    }
}

async fn make(arguments: ProveArgs, raw: &RawConfig) -> Result<(), Failure> {
    let out = arguments.out.unwrap_or_else(|| PathBuf::from(prove::file_name(SystemClock.now())));
    if out.exists() {
        return Err(taken(&out));
    }
    let remote = arguments.url.as_deref().map(Remote::new).transpose();
    let remote = remote.map_err(|error| Failure::wrong_use(error.to_string()))?;
    let (databases, serving, hosts) = if remote.is_some() {
        // The service has its own signing secret, and signs the attackers in.
        let databases = DatabaseSettings::from_raw(raw)?;
        let domain = raw.app_domain.as_deref().ok_or(ConfigError::Missing(vec!["APP_DOMAIN"]))?;
        (databases, None, HostPolicy::new(domain).map_err(|error| Failure::of(&error))?)
    } else {
        let Settings { databases, mut serving } = Settings::for_serve(raw)?;
        // How often it may be asked is no fence, and what was not tried for that proves nothing.
        serving.limits = LimitSettings::off();
        let hosts = serving.hosts.clone();
        (databases, Some(serving), hosts)
    };
    let signer = ReportSigner::new(&databases.keys);
    let app_domain = hosts.app_domain().to_owned();
    let stop = Stop::on_signals()?;
    let platform = Platform::open(databases, hosts).await.map_err(|error| Failure::of(&error))?;
    let attacked = match (&remote, &serving) {
        (Some(remote), _) => Attacked::Service(remote),
        (None, Some(serving)) => Attacked::InProcess(serving),
        (None, None) => unreachable!("without an address the service is wired in this process"),
    };
    let proved = match platform.check().await {
        Ok(()) => prove::run(&platform, &app_domain, attacked, Extent::Whole, &stop.asked)
            .await
            .map_err(|error| Failure::of(&error)),
        Err(error) => Err(Failure::of(&error)),
    };
    platform.close(CLOSING).await;
    let report = proved?;
    let text = report.to_json();
    write(&out, &signer.sign(&text))?;
    tell(&report, &text, &out, arguments.json)?;
    if report.holds() {
        Ok(())
    } else {
        Err(Failure::new("isolation is not proved: attacks failed the proof"))
    }
}

fn tell(report: &Report, text: &str, out: &Path, as_json: bool) -> Result<(), Failure> {
    if as_json {
        let value: serde_json::Value = serde_json::from_str(text).expect("a report is JSON");
        return output::json(&value);
    }
    output::line(&report.to_text())?;
    output::line(&format!("The report is in {}", out.display()))
}

fn taken(out: &Path) -> Failure {
    Failure::new(format!(
        "{} is there already and is left as it is; name another file with --out",
        out.display()
    ))
}

fn write(out: &Path, text: &str) -> Result<(), Failure> {
    let file = OpenOptions::new().write(true).create_new(true).open(out);
    file.and_then(|mut file| file.write_all(text.as_bytes()).and_then(|()| file.sync_all())).map_err(
        |error| {
            if error.kind() == ErrorKind::AlreadyExists {
                taken(out)
            } else {
                Failure::new(format!("the report could not be written to {}: {error}", out.display()))
            }
        },
    )
}

fn verify(file: &Path, how: &Verification, as_json: bool, raw: &RawConfig) -> Result<(), Failure> {
    let pinned = pinned(how.public_key.as_ref(), raw)?;
    let text = std::fs::read_to_string(file)
        .map_err(|error| Failure::new(format!("{} cannot be read: {error}", file.display())))?;
    let verified = pinned.verify(&text).map_err(|error| Failure::of(&error))?;
    let report: Report = serde_json::from_str(verified.report).map_err(|error| {
        Failure::new(format!("the report is signed, and of a form that this version does not know: {error}"))
    })?;
    let passed = report.holds();
    if as_json {
        output::json(&json!({
            "verified": true, "passed": passed, "endedAt": report.ended_at, "keyId": verified.key_id,
            "publicKey": verified.key.to_string(),
        }))?;
    } else {
        output::line(&report.to_text())?;
        output::line(&format!("The signature fits, with key `{}` ({})", verified.key_id, verified.key))?;
    }
    if passed { Ok(()) } else { Err(Failure::new("the report is genuine, and tells of a proof that failed")) }
}

/// The key is one that is known here, and never merely the one that the report names.
fn pinned(given: Option<&PublicKey>, raw: &RawConfig) -> Result<Pinned, Failure> {
    match (given, raw.key_ring()?) {
        (Some(key), _) => Ok(Pinned::Key(*key)),
        (None, Some(ring)) => Ok(Pinned::ring(&ring)),
        (None, None) => Err(Failure::wrong_use(
            "a report is held against a key that you know, not against the one it brings along: give the one you \
             were handed with --public-key, or set STAGESUB_KEYS (`stagesub keys public` prints the key to hand out)",
        )),
    }
}
