//! One look at the files: which processes they ask for. It polls, since that works on every file system, over the network and
//! through the symbolic links of a mounted ConfigMap.
//!
//! A file that is being written is left alone: it counts once two looks show the same size, times and inode. Until then what it was
//! before stays wanted.

use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::fs::{self, Metadata};
use std::io::Read;
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
    /// Names in the folder, when it could last be read.
    names: BTreeSet<String>,
}

/// One file.
#[derive(Clone)]
struct Seen {
    /// As it is now.
    now: Result<Stamp, String>,
    /// As it was when it last stood still.
    settled: Option<Result<Stamp, String>>,
    /// The entry in it and the stamp that it was read at, for a `.yaml`.
    entry: Option<(Stamp, Result<Arc<ProcessEntry>, String>)>,
}

/// Looks once.
pub(super) fn scan(places: &Places, before: &Scan) -> (Scan, Desired) {
    let mut look = Look { before, now: Scan { looked: true, ..Scan::default() }, quiet: places.quiet };
    let mut desired = Desired::default();
    if let Some(folder) = &places.folder {
        desired.trouble = look.list(folder);
    }
    for (index, entry) in places.configured.iter().enumerate() {
        let name = entry.id.as_ref().map_or_else(|| format!("processes[{index}]"), ToString::to_string);
        if let Some(component) = look.named(places, Source::Config, entry) {
            desired.items.push(Item {
                source: Source::Config,
                name,
                entry: Arc::clone(entry),
                component,
                shared: false,
            });
        }
    }
    if let Some(folder) = &places.folder {
        desired.items.extend(look.folder_items(places, folder));
    }
    (look.now, desired)
}

struct Look<'a> {
    before: &'a Scan,
    now: Scan,
    quiet: Duration,
}

impl Look<'_> {
    /// Reads the names in the folder. A folder that is gone is empty; one that cannot be read now is as it was.
    fn list(&mut self, folder: &Path) -> Option<String> {
        let names = fs::read_dir(folder).and_then(|entries| {
            entries
                .take(FILES + 1)
                .map(|entry| entry.map(|entry| entry.file_name().into_string().ok()))
                .collect::<Result<Vec<_>, _>>()
        });
        match names {
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
        }
    }

    fn folder_items(&mut self, places: &Places, folder: &Path) -> Vec<Item> {
        // By stem, so that a component and its configuration are one.
        let mut stems: BTreeMap<String, (Option<String>, Option<String>)> = BTreeMap::new();
        for name in self.now.names.clone() {
            match name.rsplit_once('.') {
                Some((stem, "wasm")) => stems.entry(stem.to_owned()).or_default().0 = Some(name.clone()),
                Some((stem, "yaml" | "yml")) => {
                    stems.entry(stem.to_owned()).or_default().1.get_or_insert(name.clone());
                }
                _ => {}
            }
        }
        let mut items = Vec::new();
        let mut borrowed = BTreeSet::new();
        for (stem, (wasm, yaml)) in stems {
            let Some(name) = wasm.clone().or_else(|| yaml.clone()) else { continue };
            // Both are looked at each time, so that both stand still at the same time.
            let stood = wasm.as_ref().is_some_and(|wasm| self.looked_at(&folder.join(wasm)));
            let item =
                |entry, component| Item { source: Source::Folder, name: name.clone(), entry, component, shared: false };
            let entry = match &yaml {
                None => Arc::default(),
                Some(yaml) => match self.entry(&folder.join(yaml)) {
                    // Not yet written: a new pair waits for it, a component that is offered already stays as it is.
                    None if stood => Arc::default(),
                    None => continue,
                    Some(Ok(entry)) => entry,
                    Some(Err(trouble)) => {
                        items.push(item(Arc::default(), Wanted::Nowhere(trouble)));
                        continue;
                    }
                },
            };
            let component = match (&wasm, &entry.processor) {
                (Some(wasm), None) => self.file(&folder.join(wasm)),
                (Some(wasm), Some(named)) if *named == stem || named == wasm => self.file(&folder.join(wasm)),
                (Some(wasm), Some(_)) => {
                    let reason =
                        format!("it names another `processor` than '{wasm}', which is beside it: remove one of both");
                    Some(Wanted::Nowhere(Trouble::Entry(reason)))
                }
                (None, None) => {
                    let reason = "it names no `processor`, and there is no .wasm file of the same name beside it";
                    Some(Wanted::Nowhere(Trouble::Entry(reason.to_owned())))
                }
                (None, Some(_)) => self.named(places, Source::Folder, &entry),
            };
            let Some(component) = component else { continue };
            if let (None, Wanted::File { path, .. }) = (&wasm, &component) {
                borrowed.insert(path.clone());
            }
            items.push(item(entry, component));
        }
        for item in &mut items {
            item.shared = *item.entry == ProcessEntry::default()
                && matches!(&item.component, Wanted::File { path, .. } if borrowed.contains(path));
        }
        items
    }

    /// Looks at a file. Whether it counted at the last look.
    fn looked_at(&mut self, path: &Path) -> bool {
        self.settled(path);
        self.before.files.get(path).is_some_and(|seen| seen.settled.is_some())
    }

    /// The component that an entry names. `None` while it is being written.
    fn named(&mut self, places: &Places, source: Source, entry: &ProcessEntry) -> Option<Wanted> {
        let Some(name) = entry.processor.as_deref() else {
            return Some(Wanted::Nowhere(Trouble::Entry("it names no `processor`".to_owned())));
        };
        if name.starts_with("sha256:") {
            return Some(match name.parse() {
                Ok(digest) => Wanted::Digest(digest),
                Err(error) => Wanted::Nowhere(Trouble::Entry(format!("processor: {error}"))),
            });
        }
        let candidates = candidates(places, source, name);
        // One that is there is taken even if it cannot be read now: another of the same name is not what was meant.
        let there = candidates.iter().find(|path| fs::symlink_metadata(path).is_ok());
        match there.or_else(|| candidates.iter().find(|path| self.before.files.contains_key(*path))) {
            Some(path) => self.file(&path.clone()),
            None => Some(Wanted::Nowhere(Trouble::NoSuchProcessor(clean(name, 200)))),
        }
    }

    fn file(&mut self, path: &Path) -> Option<Wanted> {
        Some(match self.settled(path)? {
            Ok(stamp) => Wanted::File { path: path.to_owned(), stamp },
            Err(reason) => Wanted::Nowhere(unreadable(path, reason)),
        })
    }

    /// The entry in a `.yaml`. `None` while it is being written for the first time.
    fn entry(&mut self, path: &Path) -> Option<Result<Arc<ProcessEntry>, Trouble>> {
        let stamp = match self.settled(path)? {
            Ok(stamp) => stamp,
            Err(reason) => return Some(Err(unreadable(path, reason))),
        };
        let seen = self.now.files.get_mut(path)?;
        let read = match &seen.entry {
            Some((read_at, entry)) if *read_at == stamp => entry.clone(),
            // It has changed since and is not settled: what it said before still counts.
            Some((_, entry)) if seen.now != Ok(stamp) => entry.clone(),
            _ => {
                let read = read_entry(path, stamp.size);
                seen.entry = Some((stamp, read.clone()));
                read
            }
        };
        Some(read.map_err(Trouble::Entry))
    }

    /// How the file was when it last stood still. `None` for one that never did.
    fn settled(&mut self, path: &Path) -> Option<Result<Stamp, String>> {
        if let Some(seen) = self.now.files.get(path) {
            return seen.settled.clone();
        }
        let found = match fs::metadata(path) {
            Ok(found) if found.is_file() => Ok(found),
            Ok(_) => Err("it is not a file".to_owned()),
            Err(error) => Err(error.to_string()),
        };
        let now = found.as_ref().map(Stamp::of).map_err(Clone::clone);
        let seen = match self.before.files.get(path) {
            Some(seen) if seen.now == now => Seen { settled: Some(now.clone()), now, entry: seen.entry.clone() },
            Some(seen) => Seen { now, ..seen.clone() },
            None => {
                // At the start nobody waits for a file that has been there for long.
                let old = |found: &Metadata| {
                    let age = found.modified().ok().and_then(|at| SystemTime::now().duration_since(at).ok());
                    age.is_some_and(|age| age >= self.quiet)
                };
                let counts = !self.before.looked && found.as_ref().map_or(true, old);
                Seen { settled: counts.then(|| now.clone()), now, entry: None }
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

fn read_entry(path: &Path, size: u64) -> Result<Arc<ProcessEntry>, String> {
    if size > YAML_BYTES {
        return Err(format!("it has {size} bytes, more than the {YAML_BYTES} that are read"));
    }
    let mut text = String::new();
    let read = fs::File::open(path).and_then(|file| file.take(YAML_BYTES).read_to_string(&mut text));
    read.map_err(|error| error.to_string())?;
    if text.trim().is_empty() {
        return Ok(Arc::default());
    }
    serde_saphyr::from_str::<ProcessEntry>(&text).map(Arc::new).map_err(|error| clean(&error.to_string(), 1024))
}

#[cfg(test)]
#[path = "folder_tests.rs"]
mod tests;
