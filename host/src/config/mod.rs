//! The configuration: one YAML file, every key of it overridable by `VESPIARY_<SECTION>_<KEY>`, the original's variables where
//! they are set. All that is wrong with it is reported at once, before anything listens.

mod form;
mod load;
mod original;
mod sections;
#[cfg(test)]
mod tests;

use std::path::PathBuf;

use serde::{Deserialize, Serialize};

pub use self::load::{ConfigError, Overrides, load};
pub use self::sections::{Runner, RunnerKind, Store};
use crate::{api, archive, core, jobs, processor, runner, store, telemetry};

/// Everything that can be configured. JSON and YAML names are the fields' names.
#[derive(Debug, Clone, Serialize, Deserialize, schemars::JsonSchema)]
#[serde(deny_unknown_fields, default)]
pub struct Config {
    /// Folder of everything that the server keeps on disk: database, logs, runs, compiled processors.
    pub data_dir: PathBuf,
    /// The HTTP server.
    pub server: api::Settings,
    /// Tokens, and what is open to everyone.
    pub access: core::access::Settings,
    /// The processes that are offered beside those in the watched folder. Without this key: the shipped `hello-world` and `echo`.
    pub processes: Vec<processor::ProcessEntry>,
    /// The watched folder.
    pub plugins: Plugins,
    /// Limits of processors.
    pub processor: processor::Settings,
    /// What plans may ask for.
    pub policy: core::policy::Settings,
    /// How jobs are kept and finalized.
    pub jobs: jobs::Settings,
    /// How logs and results are captured.
    pub capture: jobs::capture::Settings,
    /// The database.
    pub store: Store,
    /// How the connections to a PostgreSQL server are used, where `store.url` names one.
    pub postgres: store::postgres::Settings,
    /// The folder of logs and large results, where `s3.bucket` names no bucket.
    pub archive: Archive,
    /// The bucket of logs and large results; without `s3.bucket` they are files in the data folder.
    pub s3: archive::s3::Settings,
    /// What runs plans.
    pub runner: Runner,
    /// The Kubernetes runner, where `runner.kind` asks for it.
    pub kubernetes: runner::kubernetes::Settings,
    /// The server's own log.
    pub telemetry: telemetry::Settings,
}

/// The folder `archive` in the data folder.
#[derive(Debug, Clone, Default, Serialize, Deserialize, schemars::JsonSchema)]
#[serde(deny_unknown_fields, default)]
pub struct Archive {
    /// Whether it is one folder that all servers of the database at `store.url` share and that outlives them: a network volume, or the disk
    /// of the one machine that they run on. Without a bucket, servers with `store.url` start only with this.
    pub shared_folder: bool,
}

/// The folder in which `.wasm` files become processes.
#[derive(Debug, Clone, Serialize, Deserialize, schemars::JsonSchema)]
#[serde(deny_unknown_fields, default)]
pub struct Plugins {
    /// The watched folder; absent: `plugins` in the data folder.
    pub folder: Option<PathBuf>,
    /// How often it is looked at, in milliseconds.
    pub poll_ms: u32,
    /// Where the shipped processors are; absent: beside the program, in `plugins` or `../share/vespiary/plugins`.
    pub shipped: Option<PathBuf>,
}

impl Default for Plugins {
    fn default() -> Self {
        Self { folder: None, poll_ms: 250, shipped: None }
    }
}

impl Default for Config {
    fn default() -> Self {
        let shipped = |name: &str| processor::ProcessEntry { processor: Some(name.to_owned()), ..Default::default() };
        Self {
            data_dir: PathBuf::from("vespiary-data"),
            server: api::Settings::default(),
            access: core::access::Settings::default(),
            processes: vec![shipped("hello-world"), shipped("echo")],
            plugins: Plugins::default(),
            processor: processor::Settings::default(),
            policy: core::policy::Settings::default(),
            jobs: jobs::Settings::default(),
            capture: jobs::capture::Settings::default(),
            store: Store::default(),
            postgres: store::postgres::Settings::default(),
            archive: Archive::default(),
            s3: archive::s3::Settings::default(),
            runner: Runner::default(),
            kubernetes: runner::kubernetes::Settings::default(),
            telemetry: telemetry::Settings::default(),
        }
    }
}

impl Config {
    /// What is wrong beyond the form, one sentence each with the key's name.
    pub(crate) fn violations(&self) -> Vec<String> {
        let mut wrong = Vec::new();
        let mut add =
            |section: &str, found: Vec<String>| wrong.extend(found.into_iter().map(|one| format!("{section}.{one}")));
        add("server", self.server.violations());
        add("access", core::access::TokenTable::new(&self.access).err().unwrap_or_default());
        let limits = self.processor.violations();
        add(
            "processor",
            limits.iter().map(|one| format!("{}: {}", one.pointer.trim_start_matches('/'), one.message)).collect(),
        );
        for (place, entry) in self.processes.iter().enumerate() {
            let found = entry.violations();
            add(
                "processes",
                found.iter().map(|one| format!("{place}{}: {}", one.pointer.replace('/', "."), one.message)).collect(),
            );
        }
        add("store", self.store.violations());
        if self.s3 != archive::s3::Settings::default() {
            // They begin with the key in quotes.
            add("s3", self.s3.problems().iter().map(|one| one.replacen('\'', "", 2)).collect());
        } else if self.store.url.is_some() && !self.archive.shared_folder {
            add("s3", vec![self.no_bucket()]);
        }
        add("kubernetes", self.kubernetes.violations());
        // These begin with the whole key.
        wrong.extend(core::Policy::new(&self.policy).err().unwrap_or_default());
        wrong.extend(self.telemetry.violation());
        wrong
    }

    /// Why servers that share a database do not start without a bucket.
    fn no_bucket(&self) -> String {
        let folder = self.data_dir.join("archive");
        format!(
            "bucket is missing: servers that share a database (store.url) would keep each its logs and results in a folder of its own, {}, and in a pod \
             that goes with the pod. Set s3.bucket, s3.endpoint, s3.access_key, s3.secret_key and s3.prefix, or {}; or archive.shared_folder: true, if \
             that folder is one that all of them share and that outlives them",
            folder.display(),
            original::bucket_variables()
        )
    }

    /// The watched folder.
    #[must_use]
    pub fn plugins_folder(&self) -> PathBuf {
        self.plugins.folder.clone().unwrap_or_else(|| self.data_dir.join("plugins"))
    }

    /// The database file, where `store.url` names no server.
    #[must_use]
    pub fn database(&self) -> PathBuf {
        self.data_dir.join("vespiary.db")
    }

    /// The configuration as it is in force, secrets masked.
    #[must_use]
    pub fn masked(&self) -> serde_json::Value {
        let mut shown = serde_json::to_value(self).unwrap_or_default();
        let secret = ["token", "api_token", "password", "secret", "key", "secret_key", "access_key", "sha256", "value"];
        mask(&mut shown, &secret);
        for place in ["/store/url", "/store/sql_url"] {
            if let Some(serde_json::Value::String(url)) = shown.pointer_mut(place) {
                *url = sections::without_password(url);
            }
        }
        shown
    }
}

/// Replaces the text values of these keys at any depth.
fn mask(value: &mut serde_json::Value, secret: &[&str]) {
    match value {
        serde_json::Value::Object(members) => {
            for (key, member) in members {
                if member.is_string() && secret.contains(&key.to_ascii_lowercase().as_str()) {
                    *member = serde_json::Value::from("***");
                } else {
                    mask(member, secret);
                }
            }
        }
        serde_json::Value::Array(items) => items.iter_mut().for_each(|item| mask(item, secret)),
        _ => {}
    }
}
