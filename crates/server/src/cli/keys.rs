//! `stagesub keys`: the keys that seal secrets.

use secrecy::ExposeSecret;
use serde_json::json;
use stagesub_storage::seal::KeyRing;

use super::args::KeysCommand;
use super::{Failure, output};

/// Runs the command.
pub fn run(command: &KeysCommand) -> Result<(), Failure> {
    match command {
        KeysCommand::Generate(arguments) => {
            let text = KeyRing::generate(&arguments.id).to_text_secret();
            if arguments.json {
                output::json(&json!({ "id": arguments.id, "keys": text.expose_secret() }))
            } else {
                output::line(text.expose_secret())
            }
        }
    }
}
