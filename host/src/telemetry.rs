//! The server's own log: lines on standard error, one event a line, for people or as JSON.

use std::io::IsTerminal as _;

use serde::{Deserialize, Serialize};
use tracing_subscriber::EnvFilter;

/// The server's own log.
#[derive(Debug, Clone, Serialize, Deserialize, schemars::JsonSchema)]
#[serde(deny_unknown_fields, default)]
pub struct Settings {
    /// What is logged: `error`, `warn`, `info`, `debug`, or a filter such as `info,vespiary::jobs=debug`.
    pub log: String,
    /// How it looks.
    pub format: Format,
}

/// How the log looks.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize, schemars::JsonSchema)]
#[serde(rename_all = "lowercase")]
pub enum Format {
    /// A line for people.
    Text,
    /// A JSON object a line.
    Json,
}

impl Default for Settings {
    fn default() -> Self {
        Self { log: "info".to_owned(), format: Format::Text }
    }
}

impl Settings {
    /// The filter without blanks around its words, which its grammar takes for a part of a name.
    fn directives(&self) -> String {
        self.log.split(',').map(str::trim).collect::<Vec<_>>().join(",")
    }

    /// What is wrong with the filter, if anything.
    #[must_use]
    pub fn violation(&self) -> Option<String> {
        // The filter's own grammar takes any word for the name of a part, and then logs nothing else.
        let is_level = |word: &str| word.parse::<tracing::level_filters::LevelFilter>().is_ok();
        let directives = self.directives();
        let unknown = directives.split(',').find(|word| {
            let is_name = !word.contains(['=', '[', ']', '{', '}']);
            is_name && !word.is_empty() && !is_level(word)
        });
        if let Some(word) = unknown {
            return Some(format!(
                "telemetry.log: '{word}' is no level (off, error, warn, info, debug, trace); a part's level is written PART=LEVEL, for example info,vespiary::jobs=debug"
            ));
        }
        EnvFilter::try_new(&directives).err().map(|error| format!("telemetry.log: '{}': {error}", self.log))
    }
}

/// Starts logging, once for the process. A second call changes nothing.
pub fn start(settings: &Settings) {
    let filter = EnvFilter::try_new(settings.directives()).unwrap_or_else(|_| EnvFilter::new("info"));
    let lines = tracing_subscriber::fmt().with_env_filter(filter).with_writer(std::io::stderr);
    let started = match settings.format {
        Format::Text => lines.with_ansi(std::io::stderr().is_terminal()).try_init(),
        Format::Json => lines.json().flatten_event(true).try_init(),
    };
    if started.is_err() {
        tracing::debug!("logging was started before");
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_word_that_is_no_level_is_told() {
        let violation = |log: &str| Settings { log: log.to_owned(), ..Settings::default() }.violation();
        for log in ["info", "WARN", "off", "info,vespiary::jobs=debug", "vespiary=trace, warn", "info,[request]=debug"]
        {
            assert_eq!(violation(log), None, "{log}");
        }
        for (log, part) in
            [("loud", "'loud'"), ("info,vespiary", "'vespiary'"), ("info,vespiary::jobs=loud", "jobs=loud")]
        {
            assert!(violation(log).is_some_and(|told| told.contains(part)), "{log}");
        }
    }

    #[test]
    fn blanks_change_no_level() {
        let settings = Settings { log: "hyper=warn, info ".to_owned(), ..Settings::default() };
        assert_eq!(settings.violation(), None);
        let filter = EnvFilter::try_new(settings.directives()).unwrap();
        assert_eq!(filter.max_level_hint(), Some(tracing::level_filters::LevelFilter::INFO));
    }
}
