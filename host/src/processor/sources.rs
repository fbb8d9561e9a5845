//! What the operator wants offered: the entries of the configuration and the watched folder. This only looks; whether
//! something is good is the registry's affair.

use std::collections::HashMap;
use std::path::PathBuf;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use tokio::time::Instant;

use super::entry::ProcessEntry;
use super::folder::{self, Scan, Stamp};
use crate::core::{Digest, ProcessId};

/// How long a file must be gone, or empty, before that counts.
const GONE: Duration = Duration::from_secs(2);
/// Polls before what was refused for a passing reason is first tried again; twice as many each time.
const FIRST_PAUSE: u32 = 4;
/// The longest pause between such attempts: one may take as long as `describe` may.
const LONGEST_PAUSE: Duration = Duration::from_secs(300);

/// Where a process comes from.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Source {
    /// An entry of the configuration file.
    Config,
    /// The watched folder.
    Folder,
}

impl Source {
    /// The word in reports and history.
    #[must_use]
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Config => "config",
            Self::Folder => "folder",
        }
    }
}

/// Everything that is wanted, in the order of precedence: configuration, then the folder by file name (but see
/// `Snapshot::give_ids`).
#[derive(Debug, Clone, Default, PartialEq)]
pub struct Desired {
    pub(super) items: Vec<Item>,
    /// The folder itself cannot be read, or has more than is looked at.
    pub(super) trouble: Option<String>,
    pub(super) again: Again,
}

/// The registry's word that some of what is wanted was refused for a reason that may pass by itself.
#[derive(Debug, Clone, Default)]
pub(super) struct Again(Arc<AtomicBool>);

impl Again {
    pub(super) fn ask(&self) {
        self.0.store(true, Ordering::Relaxed);
    }

    fn is_asked(&self) -> bool {
        self.0.load(Ordering::Relaxed)
    }
}

/// What is wanted is the same, whatever became of it.
impl PartialEq for Again {
    fn eq(&self, _: &Self) -> bool {
        true
    }
}

/// One process that is wanted.
#[derive(Debug, Clone, PartialEq)]
pub(super) struct Item {
    pub(super) source: Source,
    /// The file's name, or the entry's id or place in the configuration.
    pub(super) name: String,
    pub(super) entry: Arc<ProcessEntry>,
    pub(super) component: Wanted,
    /// A `.wasm` that others name as their processor: it need not be a process by itself.
    pub(super) shared: bool,
}

/// Where an item's component is.
#[derive(Debug, Clone, PartialEq)]
pub(super) enum Wanted {
    /// In this file, as it was when it had this stamp.
    File { path: PathBuf, stamp: Stamp },
    /// It was deployed before.
    Digest(Digest),
    /// Nowhere; the file that was looked at could not be read, or the entry is not valid.
    Nowhere(Trouble),
}

/// Why an item has no component.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum Trouble {
    NoSuchProcessor(String),
    Unreadable { path: String, reason: String },
    Entry(String),
}

impl Desired {
    /// Digests that entries name: their bytes are in no file, so the caller fetches them from the store for [`super::Registry::prepare`].
    #[must_use]
    pub fn missing_digests(&self) -> Vec<Digest> {
        let mut found: Vec<_> = self
            .items
            .iter()
            .filter_map(|item| match item.component {
                Wanted::Digest(digest) => Some(digest),
                _ => None,
            })
            .collect();
        found.sort_unstable();
        found.dedup();
        found
    }
}

/// Watches what is wanted.
pub struct Sources {
    wanted: Arc<folder::Places>,
    poll: Duration,
    scan: Arc<Scan>,
    answered: Option<Desired>,
    /// When the last answer is given again if the registry asks for that, and the pause after that.
    again_at: Option<Instant>,
    pause: Duration,
}

impl Sources {
    /// `configured`: entries of the configuration. `shipped`: folders whose `NAME.wasm` an entry can name by `NAME`. `folder`: the watched
    /// one. `poll`: how often is looked; a file counts once it looks the same twice, and as gone once it has been missing for 2 s.
    #[must_use]
    pub fn new(configured: Vec<ProcessEntry>, shipped: Vec<PathBuf>, folder: Option<PathBuf>, poll: Duration) -> Self {
        let configured = configured.into_iter().map(Arc::new).collect();
        let looks = GONE.as_micros().div_ceil(poll.as_micros().max(1));
        let patience = u32::try_from(looks).unwrap_or(u32::MAX).max(4);
        let wanted = Arc::new(folder::Places { configured, shipped, folder, quiet: poll, patience });
        let pause = poll.saturating_mul(FIRST_PAUSE);
        Self { wanted, poll, scan: Arc::default(), answered: None, again_at: None, pause }
    }

    /// The first call answers at once with what is there; later ones when something has changed, or, after a growing pause, when something
    /// of it was refused for a reason that may pass. Cancel-safe.
    pub async fn changed(&mut self) -> Desired {
        loop {
            if self.answered.is_some() {
                tokio::time::sleep(self.poll).await;
            }
            let (wanted, before) = (Arc::clone(&self.wanted), Arc::clone(&self.scan));
            // A scan that was dropped (the server stops) changes nothing.
            let Ok((scan, desired)) = tokio::task::spawn_blocking(move || folder::scan(&wanted, &before)).await else {
                tokio::time::sleep(self.poll).await;
                continue;
            };
            self.scan = Arc::new(scan);
            if self.answered.as_ref() != Some(&desired) {
                self.again_at = None;
                self.pause = self.poll.saturating_mul(FIRST_PAUSE);
                return self.answered.insert(desired).clone();
            }
            if self.is_due()
                && let Some(answered) = &mut self.answered
            {
                answered.again = Again::default();
                return answered.clone();
            }
        }
    }

    /// Whether the last answer is to be given again now. The pause counts from when it was seen that it is to be.
    fn is_due(&mut self) -> bool {
        if !self.answered.as_ref().is_some_and(|answered| answered.again.is_asked()) {
            return false;
        }
        let now = Instant::now();
        if *self.again_at.get_or_insert(now + self.pause) > now {
            return false;
        }
        self.again_at = None;
        self.pause = self.pause.saturating_mul(2).min(LONGEST_PAUSE);
        true
    }
}

/// The form (digest, SHA-256 of the entry) in which each process was offered last, by this server before its start or by others.
pub type Offered = HashMap<ProcessId, (Digest, String)>;

/// Bytes by digest, as the caller fetched them from the store.
pub type Fetched = HashMap<Digest, bytes::Bytes>;
