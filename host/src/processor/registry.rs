//! What is offered: an immutable map behind an atomic pointer, replaced as a whole. A request that holds a process is answered by
//! that version, whatever comes after.
//!
//! A change is prepared beside what is in force (read, compiled, described) and then committed. What is bad is reported and changes
//! nothing; where something good of the same name is in force, it stays.

use std::collections::{BTreeMap, HashMap, HashSet};
use std::io::Read;
use std::path::Path;
use std::sync::{Arc, PoisonError, RwLock};

use arc_swap::ArcSwap;
use bytes::Bytes;
use tokio::sync::watch;

use super::engine::ProcessorHost;
use super::error::{ProcessorError, Refusal};
use super::folder::Stamp;
use super::load::Processor;
use super::process::Process;
use super::sources::{Desired, Fetched, Item, Offered, Source, Trouble, Wanted};
use crate::core::{Digest, ProcessId, Timestamp};

/// Whether something is offered.
#[derive(Debug, Clone, PartialEq, Eq, serde::Serialize)]
#[serde(rename_all = "camelCase", tag = "state")]
pub enum ReportState {
    /// It is.
    Active,
    /// It is not, or not in the form that it has now.
    Refused {
        /// Why, each a sentence that says what to do.
        reasons: Vec<String>,
    },
}

/// What became of one entry or file.
#[derive(Debug, Clone, PartialEq, Eq, serde::Serialize)]
#[serde(rename_all = "camelCase")]
pub struct ProcessReport {
    /// `config` or `folder`.
    pub source: &'static str,
    /// The file's name, or the entry's id or place in the configuration.
    pub name: String,
    /// The process that it makes; of a refused one, that which stays in force.
    pub id: Option<ProcessId>,
    /// Its version.
    pub version: Option<String>,
    /// Its processor.
    pub digest: Option<Digest>,
    /// Whether it is offered.
    #[serde(flatten)]
    pub state: ReportState,
    /// Since when it is so.
    pub since: Timestamp,
}

/// One process that is offered, for the history of processes.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct OfferedProcess {
    /// Its id.
    pub id: ProcessId,
    /// Its version.
    pub version: String,
    /// Its processor.
    pub digest: Digest,
    /// `config` or `folder`.
    pub source: &'static str,
    /// SHA-256 of its entry, in hexadecimal.
    pub config_sha256: String,
}

/// What became of one item, kept for the next change.
#[derive(Clone)]
struct Outcome {
    item: Item,
    /// The good version: this item's, or an earlier one that stays in force.
    process: Option<Arc<Process>>,
    refusal: Option<String>,
    /// The refusal says nothing about the item: another attempt may end otherwise.
    passing: bool,
    /// A shared processor that does not describe itself alone: no process, and nothing wrong.
    silent: bool,
}

/// One state of everything.
#[derive(Default)]
struct Snapshot {
    by_id: BTreeMap<ProcessId, Arc<Process>>,
    /// Whose each id is.
    holders: HashMap<ProcessId, (Source, String)>,
    outcomes: HashMap<(Source, String), Outcome>,
    processors: HashMap<Digest, Arc<Processor>>,
    files: HashMap<std::path::PathBuf, (Stamp, Digest)>,
    reports: Vec<ProcessReport>,
    rows: Vec<OfferedProcess>,
}

/// A change that is ready to be committed.
pub struct Prepared {
    /// Bytes of processors that the change makes use of first. They are to be kept in the store before [`Registry::commit`], so that every
    /// digest in a job's row leads to its bytes.
    pub components: Vec<(Digest, Bytes)>,
    next: Snapshot,
}

impl Prepared {
    /// The processes that will be offered, by id.
    pub fn processes(&self) -> impl Iterator<Item = &Arc<Process>> {
        self.next.by_id.values()
    }

    /// What became of every entry and file.
    #[must_use]
    pub fn reports(&self) -> &[ProcessReport] {
        &self.next.reports
    }

    /// The processes that will be offered, for the history.
    #[must_use]
    pub fn rows(&self) -> &[OfferedProcess] {
        &self.next.rows
    }
}

/// All processes that are offered.
pub struct Registry {
    host: ProcessorHost,
    current: ArcSwap<Snapshot>,
    /// The reports, apart from the map: only people read them.
    reports: RwLock<Arc<[ProcessReport]>>,
    generation: watch::Sender<u64>,
}

impl Registry {
    /// A registry that offers nothing yet.
    #[must_use]
    pub fn new(host: ProcessorHost) -> Self {
        Self {
            host,
            current: ArcSwap::default(),
            reports: RwLock::new(Arc::new([])),
            generation: watch::Sender::new(0),
        }
    }

    /// The process of this id.
    #[must_use]
    pub fn get(&self, id: &str) -> Option<Arc<Process>> {
        self.current.load().by_id.get(id).cloned()
    }

    /// All processes, sorted by id.
    #[must_use]
    pub fn all(&self) -> Vec<Arc<Process>> {
        self.current.load().by_id.values().cloned().collect()
    }

    /// What became of every entry and file, in the order of precedence.
    #[must_use]
    pub fn reports(&self) -> Arc<[ProcessReport]> {
        Arc::clone(&self.reports.read().unwrap_or_else(PoisonError::into_inner))
    }

    /// Grows with each commit: what was derived of an older one is out of date.
    #[must_use]
    pub fn generation(&self) -> u64 {
        *self.generation.borrow()
    }

    /// Tells of each commit.
    #[must_use]
    pub fn watch(&self) -> watch::Receiver<u64> {
        self.generation.subscribe()
    }

    /// Makes ready what is wanted. Only what is new is read, compiled and described; what has not changed stays the very same
    /// [`Process`]. `fetched` has the bytes of [`Desired::missing_digests`], as far as the store has them, and `offered` says whose ids are
    /// whose where this registry does not know. One task prepares and commits.
    pub async fn prepare(&self, desired: &Desired, fetched: &Fetched, offered: &Offered) -> Prepared {
        let current = self.current.load_full();
        let mut work =
            Work { host: &self.host, current: &current, fetched, next: Snapshot::default(), bytes: HashMap::new() };
        let mut outcomes = Vec::with_capacity(desired.items.len());
        for item in &desired.items {
            let outcome = work.outcome(item).await;
            if outcome.passing {
                desired.again.ask();
            }
            outcomes.push(outcome);
        }
        let Work { mut next, mut bytes, .. } = work;
        next.settle_ids(&current, outcomes, offered, desired.trouble.as_deref());
        let kept: HashSet<Digest> =
            next.outcomes.values().filter_map(|known| Some(known.process.as_ref()?.digest)).collect();
        next.processors.retain(|digest, _| kept.contains(digest));
        // One whose id is taken may have it later: then its bytes are kept already.
        bytes.retain(|digest, _| kept.contains(digest));
        let mut components: Vec<_> = bytes.into_iter().collect();
        components.sort_unstable_by_key(|(digest, _)| *digest);
        Prepared { components, next }
    }

    /// Puts a change into force, all of it at once.
    pub fn commit(&self, prepared: Prepared) {
        let next = prepared.next;
        let before = self.current.load_full();
        let known: HashSet<_> = before.reports.iter().map(|old| (old.source, &old.name, old.since)).collect();
        for report in &next.reports {
            match &report.state {
                // It has not changed since it was last told.
                _ if known.contains(&(report.source, &report.name, report.since)) => {}
                ReportState::Active => tracing::info!(
                    source = report.source,
                    name = report.name,
                    process = report.id.as_ref().map(tracing::field::display),
                    version = report.version,
                    digest = report.digest.as_ref().map(tracing::field::display),
                    "process offered"
                ),
                ReportState::Refused { reasons } => {
                    tracing::warn!(
                        source = report.source,
                        name = report.name,
                        reason = reasons.join("; "),
                        "process refused"
                    );
                }
            }
        }
        let reports: Arc<[ProcessReport]> = next.reports.clone().into();
        self.current.store(Arc::new(next));
        *self.reports.write().unwrap_or_else(PoisonError::into_inner) = reports;
        self.generation.send_modify(|generation| *generation += 1);
    }
}

/// One preparation.
struct Work<'a> {
    host: &'a ProcessorHost,
    current: &'a Snapshot,
    fetched: &'a Fetched,
    next: Snapshot,
    bytes: HashMap<Digest, Bytes>,
}

impl Work<'_> {
    async fn outcome(&mut self, item: &Item) -> Outcome {
        let before = self.current.outcomes.get(&(item.source, item.name.clone()));
        if let Some(before) = before.filter(|before| before.item == *item && before.lasts()) {
            if let Wanted::File { path, .. } = &item.component
                && let Some(known) = self.current.files.get(path)
            {
                self.next.files.insert(path.clone(), *known);
            }
            if let Some(process) = &before.process
                && let Some(processor) = self.current.processors.get(&process.digest)
            {
                self.next.processors.insert(process.digest, Arc::clone(processor));
            }
            return before.clone();
        }
        let earlier = before.and_then(|before| before.process.clone());
        let made = match self.processor(item).await {
            Ok(processor) => match &earlier {
                // Touched, or copied again: the same process.
                Some(same) if same.digest == processor.digest() && same.entry == *item.entry => Ok(Arc::clone(same)),
                _ => Process::load(self.host, &processor, item.entry.as_ref().clone()).await.map(Arc::new),
            },
            Err(refusal) => Err(refusal),
        };
        match made {
            Ok(process) => {
                Outcome { item: item.clone(), process: Some(process), refusal: None, passing: false, silent: false }
            }
            Err(refusal) => {
                let silent = item.shared && earlier.is_none() && matches!(refusal, Refusal::Configuration { .. });
                if let Some(process) = &earlier
                    && let Some(processor) = self.current.processors.get(&process.digest)
                {
                    self.next.processors.insert(process.digest, Arc::clone(processor));
                }
                // What the look at the folder found is found again by the next look.
                let passing = refusal.may_pass() && !matches!(item.component, Wanted::Nowhere(_));
                Outcome { item: item.clone(), process: earlier, refusal: Some(refusal.to_string()), passing, silent }
            }
        }
    }

    /// The item's processor: one that is compiled already, or its bytes, compiled.
    async fn processor(&mut self, item: &Item) -> Result<Arc<Processor>, Refusal> {
        match &item.component {
            Wanted::Nowhere(Trouble::NoSuchProcessor(processor)) => {
                Err(Refusal::NoSuchProcessor { processor: processor.clone() })
            }
            Wanted::Nowhere(Trouble::Unreadable { path, reason }) => {
                Err(Refusal::Unreadable { path: path.clone(), reason: reason.clone() })
            }
            Wanted::Nowhere(Trouble::Entry(reason)) => Err(Refusal::Entry { reason: reason.clone() }),
            Wanted::Digest(digest) => match self.compiled(*digest) {
                Some(processor) => Ok(processor),
                None => {
                    let bytes = self.fetched.get(digest).filter(|bytes| Digest::of(bytes) == *digest);
                    self.compile(*digest, bytes.cloned().ok_or(Refusal::NoSuchDigest(*digest))?).await
                }
            },
            Wanted::File { path, stamp } => {
                let known = self.next.files.get(path).or_else(|| self.current.files.get(path)).copied();
                if let Some((_, digest)) = known.filter(|(seen, _)| seen == stamp)
                    && let Some(processor) = self.compiled(digest)
                {
                    self.next.files.insert(path.clone(), (*stamp, digest));
                    return Ok(processor);
                }
                self.host.check_size(stamp.size)?;
                let (digest, bytes) = self.read(path).await?;
                self.next.files.insert(path.clone(), (*stamp, digest));
                match self.compiled(digest) {
                    Some(processor) => Ok(processor),
                    None => self.compile(digest, bytes).await,
                }
            }
        }
    }

    fn compiled(&mut self, digest: Digest) -> Option<Arc<Processor>> {
        let found = self.next.processors.get(&digest).or_else(|| self.current.processors.get(&digest)).cloned()?;
        self.next.processors.insert(digest, Arc::clone(&found));
        Some(found)
    }

    async fn compile(&mut self, digest: Digest, bytes: Bytes) -> Result<Arc<Processor>, Refusal> {
        let processor = self.host.compile(bytes.clone()).await?;
        self.next.processors.insert(digest, Arc::clone(&processor));
        self.bytes.insert(digest, bytes);
        Ok(processor)
    }

    /// Reads a file, to one byte over the limit at most: it may have grown since it was looked at.
    async fn read(&self, path: &Path) -> Result<(Digest, Bytes), Refusal> {
        let limit = self.host.settings().component_bytes();
        let unreadable =
            |error: std::io::Error| Refusal::Unreadable { path: path.display().to_string(), reason: error.to_string() };
        let owned = path.to_owned();
        let read = tokio::task::spawn_blocking(move || {
            let mut bytes = Vec::new();
            std::fs::File::open(owned)?.take(limit.saturating_add(1)).read_to_end(&mut bytes)?;
            Ok((Digest::of(&bytes), Bytes::from(bytes)))
        });
        read.await.map_err(|_| Refusal::Host(ProcessorError::Stopping))?.map_err(unreadable)
    }
}

impl Outcome {
    /// Whether the same item would end the same way. What the store did not have may be there by now.
    fn lasts(&self) -> bool {
        self.refusal.is_none() || !(self.passing || matches!(self.item.component, Wanted::Digest(_)))
    }
}

impl Snapshot {
    /// Gives each id to the first that asks for it. In the folder it stays with the file that has it: a new file of an earlier name, a copy
    /// that was not edited, must not take over a process that is in use. A server that starts, and another one with the same folder, knows
    /// the file by the form in which it was offered last.
    fn give_ids(&mut self, before: &Self, outcomes: &[Outcome], offered: &Offered) {
        let is_offered = |process: &Process| {
            offered
                .get(&process.id)
                .is_some_and(|(digest, config)| *digest == process.digest && *config == process.entry.sha256())
        };
        let mut kept = HashSet::new();
        for outcome in outcomes {
            let Some(process) = &outcome.process else { continue };
            let (source, name) = (outcome.item.source, &outcome.item.name);
            let keeps = match before.holders.get(&process.id) {
                Some((by, who)) => *by == source && who == name,
                None => is_offered(process),
            };
            match self.holders.get(&process.id) {
                Some((first, _)) if !keeps || *first != source || kept.contains(&process.id) => {}
                _ => drop(self.holders.insert(process.id.clone(), (source, name.clone()))),
            }
            if keeps {
                kept.insert(process.id.clone());
            }
        }
    }

    /// Gives each id to one that asks for it, and writes the reports.
    fn settle_ids(&mut self, before: &Self, outcomes: Vec<Outcome>, offered: &Offered, trouble: Option<&str>) {
        let now = Timestamp::now();
        self.give_ids(before, &outcomes, offered);
        let mut given = HashSet::new();
        for outcome in outcomes {
            let (source, name) = (outcome.item.source.as_str(), outcome.item.name.clone());
            let mut reasons: Vec<String> = outcome.refusal.iter().cloned().collect();
            if let Some(process) = &outcome.process {
                let holder = self.holders.get(&process.id);
                let is_holder = holder.is_some_and(|(by, who)| *by == outcome.item.source && *who == name);
                match holder {
                    // Of two entries of one name the first has it.
                    Some((by, who)) if !is_holder || !given.insert(process.id.clone()) => {
                        let by = format!("'{who}' ({})", by.as_str());
                        reasons.push(Refusal::IdTaken { id: process.id.clone(), by }.to_string());
                    }
                    _ => {
                        if outcome.refusal.is_some() {
                            reasons.push(format!(
                                "version {} ({}) stays in force",
                                process.description.version, process.digest
                            ));
                        }
                        self.by_id.insert(process.id.clone(), Arc::clone(process));
                        self.rows.push(OfferedProcess {
                            id: process.id.clone(),
                            version: process.description.version.clone(),
                            digest: process.digest,
                            source,
                            config_sha256: process.entry.sha256(),
                        });
                    }
                }
            }
            if !outcome.silent {
                let process = outcome.process.as_ref();
                self.reports.push(ProcessReport {
                    source,
                    name: name.clone(),
                    id: process.map(|process| process.id.clone()),
                    version: process.map(|process| process.description.version.clone()),
                    digest: process.map(|process| process.digest),
                    state: if reasons.is_empty() { ReportState::Active } else { ReportState::Refused { reasons } },
                    since: now,
                });
            }
            // Two items of one name are two entries of the configuration with one id: the first is remembered.
            self.outcomes.entry((outcome.item.source, name)).or_insert(outcome);
        }
        if let Some(trouble) = trouble {
            let state = ReportState::Refused { reasons: vec![trouble.to_owned()] };
            let source = Source::Folder.as_str();
            self.reports.push(ProcessReport {
                source,
                name: String::new(),
                id: None,
                version: None,
                digest: None,
                state,
                since: now,
            });
        }
        let old: HashMap<_, _> = before.reports.iter().map(|old| ((old.source, old.name.as_str()), old)).collect();
        for report in &mut self.reports {
            if let Some(old) = old.get(&(report.source, report.name.as_str()))
                && (&old.id, &old.version, old.digest, &old.state)
                    == (&report.id, &report.version, report.digest, &report.state)
            {
                report.since = old.since;
            }
        }
    }
}

#[cfg(test)]
#[path = "registry_tests.rs"]
mod tests;
