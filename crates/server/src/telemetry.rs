//! Logs: `tracing` to standard error, for people or as JSON.
//!
//! Standard output belongs to the lines that scripts read (`listening …`, `ready`).

use std::io;

use tracing_subscriber::EnvFilter;

use crate::config::{Log, LogFormat};

/// Starts logging for the whole process; a second call changes nothing.
pub fn start(log: &Log) {
    let filter = EnvFilter::try_new(&log.level).unwrap_or_else(|_| EnvFilter::new("info"));
    let builder = tracing_subscriber::fmt().with_env_filter(filter).with_writer(io::stderr);
    let started = match log.format {
        LogFormat::Text => {
            use std::io::IsTerminal;
            builder.with_ansi(io::stderr().is_terminal()).try_init()
        }
        LogFormat::Json => builder.json().flatten_event(true).try_init(),
    };
    if started.is_err() {
        tracing::debug!("logging was started before");
    }
}

/// Whether a text is a level or a list of directives.
///
/// # Errors
///
/// A sentence about what is wrong.
pub fn check_filter(text: &str) -> Result<(), String> {
    EnvFilter::try_new(text)
        .map(drop)
        .map_err(|error| format!("is neither a level nor directives: {error}"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn levels_and_directives_are_accepted() {
        for good in ["off", "info", "info,server::door=debug"] {
            assert_eq!(check_filter(good), Ok(()));
        }
        assert!(check_filter("info=loud=quiet").is_err());
    }
}
