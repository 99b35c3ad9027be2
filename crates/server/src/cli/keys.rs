//! `stagesub keys`: the keys that seal secrets, and the one that reports are verified with.

use secrecy::ExposeSecret;
use serde_json::json;
use stagesub_storage::seal::KeyRing;

use super::args::KeysCommand;
use super::{Failure, output};
use crate::config::{ConfigError, RawConfig};
use crate::prove::signing::ReportSigner;

/// Runs the command. `raw` is read for the keys that are in use, and for those alone.
pub fn run(command: &KeysCommand, raw: impl FnOnce() -> Result<RawConfig, Failure>) -> Result<(), Failure> {
    match command {
        KeysCommand::Generate(arguments) => {
            let text = KeyRing::generate(&arguments.id).to_text_secret();
            if arguments.json {
                output::json(&json!({ "id": arguments.id, "keys": text.expose_secret() }))
            } else {
                output::line(text.expose_secret())
            }
        }
        KeysCommand::Public(arguments) => {
            let ring = raw()?.key_ring()?.ok_or(ConfigError::Missing(vec!["STAGESUB_KEYS"]))?;
            let signer = ReportSigner::new(&ring);
            let key = signer.public_key().to_string();
            if arguments.json {
                output::json(&json!({ "keyId": signer.key_id(), "publicKey": key }))
            } else {
                output::line(&key)
            }
        }
    }
}
