//! One look at the files: which processes they ask for. It polls, since that works on every file system, over the network and
//! through the symbolic links of a mounted ConfigMap.
//!
//! A file that is being written is left alone: it counts once two looks show the same size, times and inode. One that is gone or empty
//! counts as that only after some seconds, since editors and tools that update a folder remove a file and make it anew. Until then, for
//! the file and the other of its pair, what was wanted before stays wanted: a configuration that is missing for a moment must not leave
//! its processor without the authentication that it asks for.

use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::fs::{self, Metadata};
use std::io::{self, Read};
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::{Duration, SystemTime};

use super::entry::ProcessEntry;
use super::sources::{Desired, Item, Source, Trouble, Wanted};
use super::text::clean;

/// Files of the folder that are looked at.
const FILES: usize = 10_000;
/// Largest `.yaml`, in bytes.
const YAML_BYTES: u64 = 1 << 20;

/// Where to look.
pub(super) struct Places {
    pub(super) configured: Vec<Arc<ProcessEntry>>,
    pub(super) shipped: Vec<PathBuf>,
    pub(super) folder: Option<PathBuf>,
    /// At the first look, a file that has not changed for this long counts.
    pub(super) quiet: Duration,
    /// Looks in a row, after the first, that find a file gone or empty before it counts as that; 1 or more.
    pub(super) patience: u32,
}

/// What tells one state of a file from another.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub(super) struct Stamp {
    pub(super) size: u64,
    inode: (u64, u64),
    modified: (i64, i64),
    changed: (i64, i64),
}

impl Stamp {
    fn of(found: &Metadata) -> Self {
        Self {
            size: found.size(),
            inode: (found.dev(), found.ino()),
            modified: (found.mtime(), found.mtime_nsec()),
            changed: (found.ctime(), found.ctime_nsec()),
        }
    }
}

/// What one look found, kept for the next.
#[derive(Default)]
pub(super) struct Scan {
    /// False before the first look.
    looked: bool,
    files: HashMap<PathBuf, Seen>,
    /// Names in the folder, when it could last be read, with those whose absence does not count yet.
    names: BTreeSet<String>,
    /// What was wanted, by the place in the configuration or the stem in the folder.
    items: HashMap<(Source, String), Item>,
}

/// One file.
#[derive(Clone)]
struct Seen {
    /// As it is now.
    now: Result<Stamp, Absence>,
    /// Looks in a row, after the first, that found it so.
    stood: u32,
    /// As it was when it last stood still.
    settled: Option<Result<Stamp, Absence>>,
    /// The entry in it and the stamp that it was read at, for a `.yaml`.
    entry: Option<(Stamp, Result<Arc<ProcessEntry>, String>)>,
}

impl Seen {
    /// Whether it is another than it last was when it stood still.
    fn is_moving(&self) -> bool {
        self.settled.as_ref() != Some(&self.now)
    }

    fn is_gone(&self) -> bool {
        self.settled == Some(Err(Absence::Gone))
    }
}

/// Why there is no file to read.
#[derive(Debug, Clone, PartialEq, Eq)]
enum Absence {
    /// Nothing of that name, or a link that leads nowhere.
    Gone,
    /// Not a file, or the system does not say; why.
    Other(String),
}

impl From<Absence> for String {
    fn from(absence: Absence) -> Self {
        match absence {
            Absence::Gone => "there is no such file".to_owned(),
            Absence::Other(reason) => reason,
        }
    }
}

/// Looks once.
pub(super) fn scan(places: &Places, before: &Scan) -> (Scan, Desired) {
    let mut look = Look { before, now: Scan { looked: true, ..Scan::default() }, places, missed: BTreeSet::new() };
    let mut desired = Desired::default();
    if let Some(folder) = &places.folder {
        desired.trouble = look.list(folder);
    }
    for (index, entry) in places.configured.iter().enumerate() {
        let name = entry.id.as_ref().map_or_else(|| format!("processes[{index}]"), ToString::to_string);
        let item = look.named(Source::Config, entry).map(|component| Item {
            source: Source::Config,
            name,
            entry: Arc::clone(entry),
            component,
            shared: false,
        });
        desired.items.extend(look.kept((Source::Config, index.to_string()), item));
    }
    if let Some(folder) = &places.folder {
        desired.items.extend(look.folder_items(folder));
    }
    (look.now, desired)
}

struct Look<'a> {
    before: &'a Scan,
    now: Scan,
    places: &'a Places,
    /// Names that are not in the folder any more, which may not count yet.
    missed: BTreeSet<String>,
}

impl Look<'_> {
    /// Reads the names in the folder. A folder that is gone is like one that has become empty; one that cannot be read now is as it was.
    fn list(&mut self, folder: &Path) -> Option<String> {
        let names = fs::read_dir(folder).and_then(|entries| {
            entries
                .take(FILES + 1)
                .map(|entry| entry.map(|entry| entry.file_name().into_string().ok()))
                .collect::<Result<Vec<_>, _>>()
        });
        let trouble = match names {
            Ok(names) => {
                let more = names.len() > FILES;
                self.now.names =
                    names.into_iter().take(FILES).flatten().filter(|name| !name.starts_with('.')).collect();
                more.then(|| format!("'{}' has more than {FILES} files: the rest is not looked at", folder.display()))
            }
            Err(error) => {
                if error.kind() != std::io::ErrorKind::NotFound {
                    self.now.names.clone_from(&self.before.names);
                }
                Some(format!("the folder '{}' cannot be read: {error}", folder.display()))
            }
        };
        let room = FILES.saturating_sub(self.now.names.len());
        self.missed = self.before.names.difference(&self.now.names).take(room).cloned().collect();
        trouble
    }

    fn folder_items(&mut self, folder: &Path) -> Vec<Item> {
        // By stem, so that a component and its configuration are one.
        let mut stems: BTreeMap<String, (Option<String>, Option<String>)> = BTreeMap::new();
        for name in self.now.names.union(&self.missed).cloned().collect::<Vec<_>>() {
            let Some((stem, ending @ ("wasm" | "yaml" | "yml"))) = name.rsplit_once('.') else { continue };
            // Every one is looked at each time, so that both of a pair stand still at the same time.
            let path = folder.join(&name);
            self.look_at(&path);
            if self.missed.contains(&name) {
                if self.now.files.get(&path).is_none_or(Seen::is_gone) {
                    continue;
                }
                self.now.names.insert(name.clone());
            }
            let (wasm, yaml) = stems.entry(stem.to_owned()).or_default();
            if ending == "wasm" {
                *wasm = Some(name.clone());
            } else {
                yaml.get_or_insert(name.clone());
            }
        }
        let mut items = Vec::new();
        let mut borrowed = BTreeSet::new();
        for (stem, (wasm, yaml)) in stems {
            let moves = wasm.iter().chain(&yaml).any(|name| {
                let seen = self.now.files.get(&folder.join(name));
                seen.is_none_or(Seen::is_moving)
            });
            let item = if moves { None } else { self.folder_item(folder, &stem, wasm.as_deref(), yaml.as_deref()) };
            let Some(item) = self.kept((Source::Folder, stem), item) else { continue };
            if let (None, Wanted::File { path, .. }) = (&wasm, &item.component) {
                borrowed.insert(path.clone());
            }
            items.push(item);
        }
        for item in &mut items {
            item.shared = *item.entry == ProcessEntry::default()
                && matches!(&item.component, Wanted::File { path, .. } if borrowed.contains(path));
        }
        items
    }

    /// What is wanted here: this item, or, while it is being written, what was wanted before. A new one waits until it is whole.
    fn kept(&mut self, place: (Source, String), item: Option<Item>) -> Option<Item> {
        let item = item.or_else(|| self.before.items.get(&place).cloned())?;
        self.now.items.insert(place, item.clone());
        Some(item)
    }

    /// The item of a component, its configuration, or both, which stand still. `None` where what they name does not.
    fn folder_item(&mut self, folder: &Path, stem: &str, wasm: Option<&str>, yaml: Option<&str>) -> Option<Item> {
        let name = wasm.or(yaml)?.to_owned();
        let item = |entry, component| Item { source: Source::Folder, name, entry, component, shared: false };
        let entry = match yaml {
            None => Arc::default(),
            Some(yaml) => match self.entry(&folder.join(yaml))? {
                Ok(entry) => entry,
                Err(trouble) => return Some(item(Arc::default(), Wanted::Nowhere(trouble))),
            },
        };
        let component = match (wasm, entry.processor.as_deref()) {
            (Some(wasm), None) => self.file(&folder.join(wasm))?,
            (Some(wasm), Some(named)) if named == stem || named == wasm => self.file(&folder.join(wasm))?,
            (Some(wasm), Some(_)) => {
                let reason =
                    format!("it names another `processor` than '{wasm}', which is beside it: remove one of both");
                Wanted::Nowhere(Trouble::Entry(reason))
            }
            (None, None) => {
                let reason = "it names no `processor`, and there is no .wasm file of the same name beside it";
                Wanted::Nowhere(Trouble::Entry(reason.to_owned()))
            }
            (None, Some(_)) => self.named(Source::Folder, &entry)?,
        };
        Some(item(entry, component))
    }

    /// The component that an entry names. `None` while it is being written.
    fn named(&mut self, source: Source, entry: &ProcessEntry) -> Option<Wanted> {
        let Some(name) = entry.processor.as_deref() else {
            return Some(Wanted::Nowhere(Trouble::Entry("it names no `processor`".to_owned())));
        };
        if name.starts_with("sha256:") {
            return Some(match name.parse() {
                Ok(digest) => Wanted::Digest(digest),
                Err(error) => Wanted::Nowhere(Trouble::Entry(format!("processor: {error}"))),
            });
        }
        let candidates = candidates(self.places, source, name);
        // One that is there is taken even if it cannot be read now, or is missing for a moment: another of the same name is not what was
        // meant.
        let there = candidates.iter().find(|path| fs::symlink_metadata(path).is_ok() || self.is_awaited(path));
        match there.or_else(|| candidates.iter().find(|path| self.before.files.contains_key(*path))) {
            Some(path) => self.file(&path.clone()),
            None => Some(Wanted::Nowhere(Trouble::NoSuchProcessor(clean(name, 200)))),
        }
    }

    /// Whether this file was there, and does not count as gone yet.
    fn is_awaited(&mut self, path: &Path) -> bool {
        self.before.files.contains_key(path) && {
            self.look_at(path);
            self.now.files.get(path).is_some_and(|seen| !seen.is_gone())
        }
    }

    fn file(&mut self, path: &Path) -> Option<Wanted> {
        Some(match self.look_at(path)? {
            Ok(stamp) => Wanted::File { path: path.to_owned(), stamp },
            Err(absence) => Wanted::Nowhere(unreadable(path, absence.into())),
        })
    }

    /// The entry in a `.yaml` that stands still. `None` where it is being written all the same.
    fn entry(&mut self, path: &Path) -> Option<Result<Arc<ProcessEntry>, Trouble>> {
        let stamp = match self.look_at(path)? {
            Ok(stamp) => stamp,
            Err(absence) => return Some(Err(unreadable(path, absence.into()))),
        };
        let seen = self.now.files.get_mut(path)?;
        if let Some((read_at, entry)) = &seen.entry
            && *read_at == stamp
        {
            return Some(entry.clone().map_err(Trouble::Entry));
        }
        match read_entry(path, stamp) {
            Ok(read) => {
                let read = read?;
                seen.entry = Some((stamp, read.clone()));
                Some(read.map_err(Trouble::Entry))
            }
            // The next look tries again.
            Err(error) => Some(Err(unreadable(path, error.to_string()))),
        }
    }

    /// Looks at a file, once a look. How it was when it last stood still; `None` for one that never did.
    fn look_at(&mut self, path: &Path) -> Option<Result<Stamp, Absence>> {
        if let Some(seen) = self.now.files.get(path) {
            return seen.settled.clone();
        }
        let found = match fs::metadata(path) {
            Ok(found) if found.is_file() => Ok(found),
            Ok(_) => Err(Absence::Other("it is not a file".to_owned())),
            Err(error) if error.kind() == std::io::ErrorKind::NotFound => Err(Absence::Gone),
            Err(error) => Err(Absence::Other(error.to_string())),
        };
        let now = found.as_ref().map(Stamp::of).map_err(Clone::clone);
        let seen = match self.before.files.get(path) {
            Some(seen) => {
                let stood = if seen.now == now { seen.stood.saturating_add(1) } else { 0 };
                let enough = match &now {
                    Err(Absence::Gone) | Ok(Stamp { size: 0, .. }) => self.places.patience.max(1),
                    _ => 1,
                };
                let settled = if stood >= enough { Some(now.clone()) } else { seen.settled.clone() };
                Seen { now, stood, settled, entry: seen.entry.clone() }
            }
            None => {
                // At the start nobody waits for a file that has been there for long.
                let old = |found: &Metadata| {
                    let age = found.modified().ok().and_then(|at| SystemTime::now().duration_since(at).ok());
                    age.is_some_and(|age| age >= self.places.quiet)
                };
                let counts = !self.before.looked && found.as_ref().map_or(true, old);
                Seen { settled: counts.then(|| now.clone()), now, stood: 0, entry: None }
            }
        };
        let settled = seen.settled.clone();
        self.now.files.insert(path.to_owned(), seen);
        settled
    }
}

fn unreadable(path: &Path, reason: String) -> Trouble {
    Trouble::Unreadable { path: path.display().to_string(), reason }
}

/// Where a processor of this name may be, best first.
fn candidates(places: &Places, source: Source, name: &str) -> Vec<PathBuf> {
    let is_path = name.contains('/');
    let file = if name.ends_with(".wasm") || is_path { name.to_owned() } else { format!("{name}.wasm") };
    let folder = places.folder.iter().map(|folder| folder.join(&file));
    let shipped = places.shipped.iter().map(|folder| folder.join(&file));
    match (source, is_path) {
        // Relative to the working folder, as on a command line.
        (Source::Config, true) => vec![PathBuf::from(file)],
        (Source::Folder, true) => folder.collect(),
        (Source::Config, false) => {
            let here = name.ends_with(".wasm").then(|| PathBuf::from(&file));
            shipped.chain(folder).chain(here).collect()
        }
        (Source::Folder, false) => folder.chain(shipped).collect(),
    }
}

/// Reads an entry. `None` where the file has changed since it had this stamp: half of an entry may well be valid and say less.
fn read_entry(path: &Path, stamp: Stamp) -> io::Result<Option<Result<Arc<ProcessEntry>, String>>> {
    if stamp.size > YAML_BYTES {
        let reason = format!("it has {} bytes, more than the {YAML_BYTES} that are read", stamp.size);
        return Ok(Some(Err(reason)));
    }
    let mut bytes = Vec::new();
    let mut file = fs::File::open(path)?;
    file.by_ref().take(YAML_BYTES).read_to_end(&mut bytes)?;
    // Its access time is not part of the stamp, so that reading does not change it.
    if Stamp::of(&file.metadata()?) != stamp {
        return Ok(None);
    }
    let Ok(text) = String::from_utf8(bytes) else { return Ok(Some(Err("it is not UTF-8".to_owned()))) };
    if text.trim().is_empty() {
        return Ok(Some(Ok(Arc::default())));
    }
    let read = serde_saphyr::from_str::<ProcessEntry>(&text).map(Arc::new);
    Ok(Some(read.map_err(|error| clean(&error.to_string(), 1024))))
}

#[cfg(test)]
#[path = "folder_tests.rs"]
mod tests;
