//! Sections that choose between two implementations of a part and hold the settings of the embedded one.

use serde::{Deserialize, Serialize};
use url::Url;

use crate::{runner, store};

/// The database: an SQLite file in the data folder, or a PostgreSQL server that replicas share.
#[derive(Clone, Default, Serialize, Deserialize, schemars::JsonSchema)]
#[serde(default)]
#[schemars(deny_unknown_fields)]
pub struct Store {
    /// `postgres://user:password@host:port/database?sslmode=…`; absent: SQLite. How its connections are used stands in `postgres`.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub url: Option<String>,
    /// The same database for `vespiary sql`, with a user that may read the three views and nothing else; absent: `url`, with all that the
    /// servers may do. It can stand alone, in the configuration of somebody who only asks.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub sql_url: Option<String>,
    /// How the SQLite file is run.
    #[serde(flatten)]
    pub sqlite: store::sqlite::Settings,
}

impl std::fmt::Debug for Store {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let shown = |url: &Option<String>| url.as_deref().map(without_password);
        let (url, sql_url) = (shown(&self.url), shown(&self.sql_url));
        f.debug_struct("Store").field("url", &url).field("sql_url", &sql_url).field("sqlite", &self.sqlite).finish()
    }
}

impl Store {
    /// What is wrong, each with the key's name. The URL is not repeated: it holds a password.
    pub(super) fn violations(&self) -> Vec<String> {
        let is_right =
            |url: &String| Url::parse(url).is_ok_and(|url| matches!(url.scheme(), "postgres" | "postgresql"));
        let both = [("url", &self.url), ("sql_url", &self.sql_url)];
        let wrong = both.into_iter().filter(|(_, url)| url.as_ref().is_some_and(|url| !is_right(url)));
        wrong
            .map(|(key, _)| {
                format!("{key}: must be of the form 'postgres://user:password@host:port/database', special characters percent-encoded")
            })
            .collect()
    }
}

/// What runs plans.
#[derive(Debug, Clone, Default, Serialize, Deserialize, schemars::JsonSchema)]
#[serde(default)]
#[schemars(deny_unknown_fields)]
pub struct Runner {
    /// `local`: processes of this machine; `kubernetes`: Jobs of the cluster, with the settings in `kubernetes`. Absent: `kubernetes`
    /// in a pod, otherwise `local`.
    pub kind: RunnerKind,
    /// How the local runner works.
    #[serde(flatten)]
    pub local: runner::local::Settings,
}

/// The runners.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize, schemars::JsonSchema)]
#[serde(rename_all = "lowercase")]
pub enum RunnerKind {
    /// Processes of this machine.
    #[default]
    Local,
    /// Jobs of a Kubernetes cluster.
    Kubernetes,
}

/// The URL with every password in it masked.
pub(super) fn without_password(text: &str) -> String {
    const MASKED: &str = "***";
    let Ok(mut url) = Url::parse(text) else { return MASKED.to_owned() };
    if url.password().is_some() && url.set_password(Some(MASKED)).is_err() {
        return MASKED.to_owned();
    }
    if url.query().is_some() {
        let shown = |(key, value): (std::borrow::Cow<'_, str>, std::borrow::Cow<'_, str>)| {
            let hidden = key.eq_ignore_ascii_case("password");
            (key.into_owned(), if hidden { MASKED.to_owned() } else { value.into_owned() })
        };
        let pairs: Vec<_> = url.query_pairs().map(shown).collect();
        url.query_pairs_mut().clear().extend_pairs(pairs);
    }
    url.to_string()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn passwords_are_masked_wherever_they_stand() {
        for (url, shown) in [
            ("postgres://v:hunter2@db:5432/v?sslmode=require", "postgres://v:***@db:5432/v?sslmode=require"),
            ("postgres://v@db/v?password=hunter2&sslmode=disable", "postgres://v@db/v?password=***&sslmode=disable"),
            ("postgres:///v?host=%2Frun", "postgres:///v?host=%2Frun"),
            ("hunter2", "***"),
        ] {
            assert_eq!(without_password(url), shown);
            let both = Some(url.to_owned());
            let store = Store { url: both.clone(), sql_url: both, ..Store::default() };
            assert!(!format!("{store:?}").contains("hunter2"));
        }
    }
}
