//! Tests of the watched folder.

use std::os::unix::fs::symlink;

use super::*;

/// Looks that find nothing before that counts.
const PATIENCE: u32 = 3;

struct Folder(tempfile::TempDir, Scan);

impl Folder {
    fn new() -> Self {
        Self(tempfile::tempdir().unwrap(), Scan::default())
    }

    fn path(&self, name: &str) -> PathBuf {
        self.0.path().join(name)
    }

    fn write(&self, name: &str, text: &str) {
        fs::write(self.path(name), text).unwrap();
    }

    /// One look with these entries and this shipped folder.
    fn look_with(&mut self, configured: Vec<ProcessEntry>, shipped: Option<&Path>) -> Desired {
        let configured = configured.into_iter().map(Arc::new).collect();
        let shipped = shipped.into_iter().map(Path::to_owned).collect();
        let folder = Some(self.0.path().to_owned());
        let places = Places { configured, shipped, folder, quiet: Duration::from_secs(3600), patience: PATIENCE };
        let (scan, desired) = scan(&places, &self.1);
        self.1 = scan;
        desired
    }

    fn look(&mut self) -> Vec<(String, String)> {
        self.look_with(vec![], None).items.iter().map(|item| (item.name.clone(), shown(item))).collect()
    }

    /// Looks while what is gone does not count yet, and answers the look at which it does.
    fn look_until_gone(&mut self) -> Vec<(String, String)> {
        let before: Vec<_> = self.1.items.values().map(|item| item.name.clone()).collect();
        for _ in 0..PATIENCE {
            let found: Vec<_> = self.look().into_iter().map(|(name, _)| name).collect();
            assert!(before.iter().all(|name| found.contains(name)), "{before:?} became {found:?} too soon");
        }
        self.look()
    }

    /// One look; the first item's entry, as far as the tests set it.
    fn look_at_entry(&mut self) -> (Option<bool>, bool) {
        let desired = self.look_with(vec![], None);
        let entry = &desired.items[0].entry;
        (entry.config.get("check_auth").and_then(serde_json::Value::as_bool), entry.authorize_reads)
    }
}

fn shown(item: &Item) -> String {
    match &item.component {
        Wanted::File { path, stamp } => format!("{} {}", path.file_name().unwrap().to_str().unwrap(), stamp.size),
        Wanted::Digest(digest) => digest.to_string(),
        Wanted::Nowhere(trouble) => format!("{trouble:?}"),
    }
}

fn pairs(expected: &[(&str, &str)]) -> Vec<(String, String)> {
    expected.iter().map(|(name, text)| ((*name).to_owned(), (*text).to_owned())).collect()
}

#[test]
fn a_file_counts_when_it_stands_still() {
    let mut folder = Folder::new();
    assert_eq!(folder.look(), []);
    folder.write("a.wasm", "1");
    folder.write("notes.txt", "");
    folder.write(".hidden.wasm", "1");
    assert_eq!(folder.look(), [], "it is new");
    folder.write("a.wasm", "12");
    assert_eq!(folder.look(), [], "it grows");
    assert_eq!(folder.look(), pairs(&[("a.wasm", "a.wasm 2")]));
    folder.write("a.wasm", "123");
    assert_eq!(folder.look(), pairs(&[("a.wasm", "a.wasm 2")]), "what it was counts until it stands still again");
    assert_eq!(folder.look(), pairs(&[("a.wasm", "a.wasm 3")]));
    // Replaced by another of the same size.
    folder.write("b", "456");
    let before = folder.look_with(vec![], None);
    fs::rename(folder.path("b"), folder.path("a.wasm")).unwrap();
    folder.look();
    assert_ne!(folder.look_with(vec![], None), before);
    fs::remove_file(folder.path("a.wasm")).unwrap();
    assert_eq!(folder.look_until_gone(), []);
    folder.write("a.wasm", "1");
    assert_eq!(folder.look(), [], "it is a new one");
}

/// Editors and `git checkout` remove a file and make it anew, or empty it and write it.
#[test]
fn a_configuration_that_is_missing_for_a_moment_stays_in_force() {
    let mut folder = Folder::new();
    folder.write("a.wasm", "1");
    folder.write("a.yaml", "config: {check_auth: true}\nauthorize_reads: true\n");
    folder.look();
    let closed = (Some(true), true);
    assert_eq!(folder.look_at_entry(), closed);
    fs::remove_file(folder.path("a.yaml")).unwrap();
    for _ in 0..PATIENCE {
        assert_eq!(folder.look_at_entry(), closed, "it is missing");
    }
    folder.write("a.yaml", "config: {check_auth: true}\n");
    assert_eq!(folder.look_at_entry(), closed, "it is back and new");
    assert_eq!(folder.look_at_entry(), (Some(true), false));

    folder.write("a.yaml", "");
    for _ in 0..PATIENCE {
        assert_eq!(folder.look_at_entry(), (Some(true), false), "it is empty");
    }
    folder.write("a.yaml", "config: {check_auth: true}\nauthorize_reads: true\n");
    folder.look();
    assert_eq!(folder.look_at_entry(), closed);

    // With the component, as when a branch is changed.
    fs::remove_file(folder.path("a.wasm")).unwrap();
    fs::remove_file(folder.path("a.yaml")).unwrap();
    assert_eq!(folder.look_at_entry(), closed);
    folder.write("a.wasm", "12");
    assert_eq!(folder.look_at_entry(), closed);
    folder.write("a.yaml", "config: {check_auth: true}\n");
    assert_eq!(folder.look_at_entry(), closed);
    assert_eq!(folder.look_at_entry(), (Some(true), false));
    assert_eq!(folder.look(), pairs(&[("a.wasm", "a.wasm 2")]));

    // Renamed: at no look there is no configuration.
    fs::rename(folder.path("a.yaml"), folder.path("a.yml")).unwrap();
    for _ in 0..2 * PATIENCE + 2 {
        assert_eq!(folder.look_at_entry(), (Some(true), false));
    }
    fs::remove_file(folder.path("a.yml")).unwrap();
    assert_eq!(folder.look_until_gone().len(), 1);
    assert_eq!(folder.look_at_entry(), (None, false), "without a configuration for good");
}

#[test]
fn an_entry_is_read_whole_or_not_at_all() {
    let folder = Folder::new();
    folder.write("a.yaml", "authorize_reads: true\n");
    let stamp = Stamp::of(&fs::metadata(folder.path("a.yaml")).unwrap());
    let read = read_entry(&folder.path("a.yaml"), stamp).unwrap().unwrap();
    assert!(read.unwrap().authorize_reads);
    fs::File::create(folder.path("a.yaml")).unwrap();
    assert!(read_entry(&folder.path("a.yaml"), stamp).unwrap().is_none(), "it was emptied after it was looked at");
    fs::remove_file(folder.path("a.yaml")).unwrap();
    assert!(read_entry(&folder.path("a.yaml"), stamp).is_err());
}

/// The one that ships has the same name, and is another.
#[test]
fn what_an_entry_names_is_not_another_for_a_moment() {
    let (mut folder, shipped) = (Folder::new(), tempfile::tempdir().unwrap());
    fs::write(shipped.path().join("own.wasm"), "12345").unwrap();
    folder.write("own.wasm", "1");
    folder.write("p.yaml", "processor: own\n");
    let look = |folder: &mut Folder| {
        let desired = folder.look_with(vec![], Some(shipped.path()));
        desired.items.iter().find(|item| item.name == "p.yaml").map(shown)
    };
    look(&mut folder);
    look(&mut folder);
    assert_eq!(look(&mut folder).as_deref(), Some("own.wasm 1"));
    fs::remove_file(folder.path("own.wasm")).unwrap();
    for _ in 0..PATIENCE {
        assert_eq!(look(&mut folder).as_deref(), Some("own.wasm 1"));
    }
    let then: Vec<_> = (0..3).filter_map(|_| look(&mut folder)).collect();
    assert_eq!(then, ["own.wasm 1", "own.wasm 5", "own.wasm 5"], "it is new, and at no look there is none");
}

#[test]
fn at_the_start_only_old_files_count_at_once() {
    let mut folder = Folder::new();
    folder.write("fresh.wasm", "1");
    folder.write("old.wasm", "1");
    let file = fs::File::options().write(true).open(folder.path("old.wasm")).unwrap();
    file.set_modified(SystemTime::now() - Duration::from_secs(7200)).unwrap();
    assert_eq!(folder.look(), pairs(&[("old.wasm", "old.wasm 1")]));
    assert_eq!(folder.look().len(), 2);
}

#[test]
fn a_component_and_its_configuration_are_one() {
    let mut folder = Folder::new();
    folder.write("a.wasm", "1");
    folder.write("a.yaml", "config: {x: 1}\n");
    folder.look();
    let desired = folder.look_with(vec![], None);
    assert_eq!(desired.items.len(), 1);
    assert_eq!(desired.items[0].entry.config.get("x"), Some(&1.into()));
    folder.write("a.yaml", "config: {x: 2}\n");
    assert_eq!(folder.look_with(vec![], None).items[0].entry.config.get("x"), Some(&1.into()));
    assert_eq!(folder.look_with(vec![], None).items[0].entry.config.get("x"), Some(&2.into()));
    folder.write("a.yaml", "confi");
    folder.look();
    let broken = folder.look();
    assert!(broken[0].1.contains("Entry"), "{broken:?}");
    folder.write("b.wasm", "1");
    folder.look();
    folder.look();
    folder.write("b.yaml", "id: other\n");
    assert_eq!(folder.look().len(), 2, "a configuration that is being written does not take the process away");
}

#[test]
fn any_number_of_processes_of_one_processor() {
    let (mut folder, shipped) = (Folder::new(), tempfile::tempdir().unwrap());
    fs::write(shipped.path().join("generic.wasm"), "12345").unwrap();
    folder.write("own.wasm", "1");
    folder.write("p.yaml", "processor: generic\nid: p\n");
    folder.write("q.yaml", "processor: own.wasm\n");
    folder.write("r.yml", "processor: nothing\n");
    folder.write("s.yaml", "id: s\n");
    folder.write("t.wasm", "1");
    folder.write("t.yaml", "processor: own\n");
    let digest = crate::core::Digest::of(b"x");
    folder.write("u.yaml", &format!("processor: {digest}\n"));
    // Twice for the entries, once more for what they name.
    folder.look_with(vec![], Some(shipped.path()));
    folder.look_with(vec![], Some(shipped.path()));
    let desired = folder.look_with(vec![], Some(shipped.path()));
    let shown: Vec<_> = desired.items.iter().map(|item| (item.name.as_str(), shown(item), item.shared)).collect();
    assert_eq!(shown[0], ("own.wasm", "own.wasm 1".to_owned(), true));
    assert_eq!(shown[1], ("p.yaml", "generic.wasm 5".to_owned(), false));
    assert_eq!(shown[2], ("q.yaml", "own.wasm 1".to_owned(), false));
    assert!(shown[3].1.contains("NoSuchProcessor"));
    assert!(shown[4].1.contains("names no `processor`"));
    assert!(shown[5].1.contains("another `processor`"));
    assert_eq!(desired.missing_digests(), [digest]);
}

#[test]
fn entries_of_the_configuration_come_first() {
    let mut folder = Folder::new();
    folder.write("a.wasm", "1");
    let entry = |id: Option<&str>, processor: &str| ProcessEntry {
        id: id.map(|id| id.parse().unwrap()),
        processor: Some(processor.into()),
        ..ProcessEntry::default()
    };
    let configured = vec![entry(Some("one"), "a"), entry(None, "/nowhere/x.wasm")];
    folder.look_with(configured.clone(), None);
    let desired = folder.look_with(configured, None);
    let names: Vec<_> = desired.items.iter().map(|item| (item.source, item.name.as_str())).collect();
    assert_eq!(names, [(Source::Config, "one"), (Source::Config, "processes[1]"), (Source::Folder, "a.wasm")]);
    assert!(matches!(desired.items[1].component, Wanted::Nowhere(_)));
}

/// A ConfigMap volume: names are links through `..data`, which is replaced as a whole.
#[test]
fn links_of_a_config_map_are_followed() {
    let mut folder = Folder::new();
    for (version, text, reads) in [("..1", "1", true), ("..2", "22", false)] {
        fs::create_dir(folder.path(version)).unwrap();
        folder.write(&format!("{version}/a.wasm"), text);
        folder
            .write(&format!("{version}/a.yaml"), &format!("config: {{check_auth: true}}\nauthorize_reads: {reads}\n"));
    }
    symlink("..1", folder.path("..data")).unwrap();
    for name in ["a.wasm", "a.yaml"] {
        symlink(format!("..data/{name}"), folder.path(name)).unwrap();
    }
    folder.look();
    assert_eq!(folder.look(), pairs(&[("a.wasm", "a.wasm 1")]));
    // A look between falls on links that lead nowhere.
    fs::remove_file(folder.path("..data")).unwrap();
    assert_eq!(folder.look_at_entry(), (Some(true), true));
    symlink("..2", folder.path("..new")).unwrap();
    fs::rename(folder.path("..new"), folder.path("..data")).unwrap();
    assert_eq!(folder.look_at_entry(), (Some(true), true));
    assert_eq!(folder.look_at_entry(), (Some(true), false));
    assert_eq!(folder.look(), pairs(&[("a.wasm", "a.wasm 2")]));
}

#[test]
fn trouble_is_told_and_nothing_else() {
    let mut folder = Folder::new();
    fs::create_dir(folder.path("dir.wasm")).unwrap();
    symlink("nowhere", folder.path("dangling.wasm")).unwrap();
    folder.write("good.wasm", "1");
    folder.write("large.yaml", &" ".repeat(usize::try_from(YAML_BYTES).unwrap() + 1));
    folder.look();
    let found = folder.look();
    assert!(found[0].1.contains("Unreadable") && found[1].1.contains("not a file"), "{found:?}");
    assert_eq!(found[2].1, "good.wasm 1");
    assert!(found[3].1.contains("more than"), "{found:?}");
    let path = folder.0.path().to_owned();
    fs::remove_dir_all(&path).unwrap();
    let desired = folder.look_with(vec![], None);
    assert!(
        desired.items.len() == 3 && desired.trouble.is_some(),
        "a folder that is mounted anew is away for a moment"
    );
    for _ in 1..PATIENCE {
        folder.look();
    }
    let desired = folder.look_with(vec![], None);
    assert!(desired.items.is_empty() && desired.trouble.is_some());
    fs::create_dir(&path).unwrap();
    assert!(folder.look_with(vec![], None).trouble.is_none());
}
