//! Whether lists are read in one message.

use super::{ConfigError, RawConfig};

/// Reads whether hot lists are read in one message: yes, unless that is switched off.
pub fn one_message_reads(raw: &RawConfig) -> Result<bool, ConfigError> {
    match raw.stagesub_one_message_reads.as_deref() {
        None | Some("on") => Ok(true),
        Some("off") => Ok(false),
        Some(_) => Err(ConfigError::malformed("STAGESUB_ONE_MESSAGE_READS", "it is neither on nor off")),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn reads_in_one_message_are_on_unless_switched_off() {
        let read = |text: Option<&str>| {
            let stagesub_one_message_reads = text.map(str::to_owned);
            one_message_reads(&RawConfig { stagesub_one_message_reads, ..RawConfig::default() })
        };
        assert!(matches!(read(None), Ok(true)));
        assert!(matches!(read(Some("on")), Ok(true)));
        assert!(matches!(read(Some("off")), Ok(false)));
        let error = read(Some("maybe")).unwrap_err();
        assert_eq!(error.to_string(), "STAGESUB_ONE_MESSAGE_READS is not usable");
    }
}
