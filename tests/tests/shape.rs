//! The layout that the code must keep: who may know whom, how long a file may be, which words say nothing.

use std::collections::{BTreeMap, BTreeSet};
use std::path::{Path, PathBuf};

use vespiary::runner::kubernetes::RIGHTS;
use vespiary_tests::workspace::root;

/// Which top-level modules of the host each one may use, beside itself. `failpoint` is a line in tests and nothing outside.
const MAY_USE: &[(&str, &[&str])] = &[
    ("core", &[]),
    ("failpoint", &[]),
    ("telemetry", &[]),
    ("store", &["core", "failpoint"]),
    ("archive", &["core", "failpoint"]),
    ("processor", &["core", "failpoint"]),
    ("runner", &["core", "failpoint"]),
    ("jobs", &["store", "archive", "processor", "runner", "core", "failpoint"]),
    ("api", &["jobs", "core"]),
    ("finalizer", &["jobs", "core"]),
    // The configuration is made of the settings of every part, and of nothing else of them.
    ("config", &["api", "archive", "core", "jobs", "processor", "runner", "store", "telemetry"]),
    ("app", &["api", "finalizer", "jobs", "store", "archive", "processor", "runner", "core", "config"]),
    ("cli", &["app", "config", "failpoint", "telemetry", "jobs", "processor", "runner", "store", "core"]),
];

/// Crates that only some modules may name.
const CRATES: &[(&str, &[&str])] = &[
    ("axum", &["api"]),
    ("sqlx", &["store"]),
    ("aws_config", &["archive"]),
    ("aws_sdk_s3", &["archive"]),
    ("aws_smithy_http_client", &["archive"]),
    ("kube", &["runner"]),
    ("k8s_openapi", &["runner"]),
    ("wasmtime", &["processor"]),
    ("wasmtime_wasi", &["processor"]),
    ("reqwest", &["cli"]),
    ("clap", &["cli"]),
    ("tokio", &["store", "archive", "processor", "runner", "jobs", "api", "finalizer", "app", "cli"]),
];

const MOST_LINES: usize = 500;

const BARRED: &[&str] = &["manager", "helper", "helpers", "util", "utils", "common", "data", "info"];

fn sources(folder: &Path, ending: &str, into: &mut Vec<PathBuf>) {
    for entry in std::fs::read_dir(folder).unwrap().map(Result::unwrap) {
        let path = entry.path();
        let name = entry.file_name().to_string_lossy().into_owned();
        if path.is_dir() {
            if name != "target" && !name.starts_with('.') {
                sources(&path, ending, into);
            }
        } else if name.ends_with(ending) {
            into.push(path);
        }
    }
}

fn rust_files(folder: &str) -> Vec<(PathBuf, String)> {
    let mut files = Vec::new();
    sources(&root().join(folder), ".rs", &mut files);
    assert!(!files.is_empty(), "no sources in {folder}");
    files.into_iter().map(|path| (path.clone(), std::fs::read_to_string(path).unwrap())).collect()
}

/// The top-level module of the host that a file belongs to.
fn module(path: &Path) -> String {
    let inside = path.strip_prefix(root().join("host/src")).unwrap();
    let first = inside.components().next().unwrap().as_os_str().to_string_lossy().into_owned();
    first.trim_end_matches(".rs").to_owned()
}

/// Code without comments and without what follows `#[cfg(test)]` at the start of a line.
fn production(text: &str) -> String {
    let code = text.split("\n#[cfg(test)]\nmod tests").next().unwrap_or_default();
    code.lines().filter(|line| !line.trim_start().starts_with("//")).collect::<Vec<_>>().join("\n")
}

/// Whether a file holds tests alone.
fn is_test(path: &Path) -> bool {
    path.components().any(|part| matches!(part.as_os_str().to_str(), Some("tests" | "tests.rs")))
}

/// The names that follow `prefix` in the code, also inside `use crate::{a, b}`.
fn named(code: &str, prefix: &str) -> Vec<String> {
    let word = |text: &str| text.chars().take_while(|c| c.is_alphanumeric() || *c == '_').collect::<String>();
    let mut found = Vec::new();
    for (at, _) in code.match_indices(prefix) {
        if code[..at].chars().next_back().is_some_and(|c| c.is_alphanumeric() || c == '_' || c == ':') {
            continue;
        }
        let rest = &code[at + prefix.len()..];
        match rest.strip_prefix('{') {
            None => found.push(word(rest)),
            Some(list) => {
                let (mut depth, mut start) = (0, true);
                for (offset, c) in list.char_indices() {
                    match c {
                        '{' => depth += 1,
                        '}' if depth == 0 => break,
                        '}' => depth -= 1,
                        ',' if depth == 0 => start = true,
                        c if start && depth == 0 && !c.is_whitespace() => {
                            found.push(word(&list[offset..]));
                            start = false;
                        }
                        _ => {}
                    }
                }
            }
        }
    }
    found
}

#[test]
fn modules_know_only_whom_they_may() {
    let allowed: BTreeMap<&str, &[&str]> = MAY_USE.iter().copied().collect();
    let mut wrong = Vec::new();
    for (path, text) in rust_files("host/src") {
        let from = module(&path);
        if from == "lib" || from == "main" {
            continue;
        }
        let may = allowed.get(from.as_str()).unwrap_or_else(|| panic!("module {from} is not in MAY_USE"));
        for to in named(&production(&text), "crate::") {
            if allowed.contains_key(to.as_str()) && to != from && !may.contains(&to.as_str()) {
                wrong.push(format!("{}: {from} may not use {to}", path.display()));
            }
        }
    }
    assert!(wrong.is_empty(), "{}", wrong.join("\n"));
}

#[test]
fn heavy_crates_stay_in_their_rooms() {
    let mut wrong = Vec::new();
    for (path, text) in rust_files("host/src") {
        let from = module(&path);
        // The files of `host/src` lie below the root: what is above is nobody's choice.
        if is_test(path.strip_prefix(root().join("host/src")).unwrap()) {
            continue;
        }
        let code = production(&text);
        for (name, rooms) in CRATES {
            let used = code.match_indices(&format!("{name}::")).any(|(at, _)| {
                !code[..at].chars().next_back().is_some_and(|c| c.is_alphanumeric() || c == '_' || c == ':')
            });
            if used && from != "main" && !rooms.contains(&from.as_str()) {
                wrong.push(format!("{}: {from} may not use the crate {name}", path.display()));
            }
        }
    }
    assert!(wrong.is_empty(), "{}", wrong.join("\n"));
}

#[test]
fn files_are_short_and_their_names_say_something() {
    let mut wrong = Vec::new();
    for folder in ["host", "plugins", "tests"] {
        for (path, text) in rust_files(folder) {
            let lines = text.lines().count();
            if lines > MOST_LINES {
                wrong.push(format!("{}: {lines} lines, at most {MOST_LINES}", path.display()));
            }
            let stem = path.file_stem().unwrap().to_string_lossy().into_owned();
            // The standard's own word, and the folder that holds the server's data.
            let excused = ["status_info", "data_dir"].contains(&stem.as_str());
            if !excused && stem.split('_').any(|word| BARRED.contains(&word)) {
                wrong.push(format!("{}: the name says nothing", path.display()));
            }
        }
    }
    assert!(wrong.is_empty(), "{}", wrong.join("\n"));
}

#[test]
fn every_module_says_what_it_is_for() {
    for (path, text) in rust_files("host/src") {
        assert!(text.starts_with("//! "), "{} does not begin with what it is for", path.display());
    }
}

#[test]
fn the_project_speaks_of_itself_alone() {
    let mut files = Vec::new();
    for ending in [".rs", ".md", ".toml", ".yaml", ".yml", ".sh", ".sql", ".wit", "Makefile"] {
        sources(&root(), ending, &mut files);
    }
    let elsewhere =
        [["/wo", "rk/"].concat(), ["../sha", "red"].concat(), ["crates", ".io/"].concat(), ["/ro", "ot/"].concat()];
    for path in files {
        let text = std::fs::read_to_string(&path).unwrap();
        for word in &elsewhere {
            assert!(!text.contains(word.as_str()), "{} names {word}", path.display());
        }
    }
}

/// Resource (`group/resource`) and verb of each rule of a Role, as they stand in the file: lists on one line.
fn granted(role: &str) -> BTreeSet<(String, String)> {
    let list = |line: &str| {
        let inside = line.split_once('[').and_then(|(_, rest)| rest.split_once(']')).map_or("", |(inside, _)| inside);
        inside.split(',').map(|item| item.trim().trim_matches('"').to_owned()).collect::<Vec<_>>()
    };
    let (mut groups, mut resources, mut found) = (Vec::new(), Vec::new(), BTreeSet::new());
    for line in role.lines().map(|line| line.trim().trim_start_matches("- ")) {
        if line.starts_with("apiGroups:") {
            groups = list(line);
        } else if line.starts_with("resources:") {
            resources = list(line);
        } else if line.starts_with("verbs:") {
            for (group, resource) in groups.iter().flat_map(|group| resources.iter().map(move |one| (group, one))) {
                found.extend(list(line).into_iter().map(|verb| (format!("{group}/{resource}"), verb)));
            }
        }
    }
    found
}

#[test]
fn the_role_grants_what_the_runner_uses_and_nothing_else() {
    let role = std::fs::read_to_string(root().join("k8s-manifests/base/role.yaml")).unwrap();
    let used: BTreeSet<_> = RIGHTS
        .iter()
        .flat_map(|right| {
            let resource = format!("{}/{}", right.group, right.resource);
            right.verbs.iter().map(move |verb| (resource.clone(), (*verb).to_owned()))
        })
        .collect();
    assert_eq!(granted(&role), used);
    let less = role.replace("patch, ", "");
    assert_ne!(granted(&less), used, "the test can fail");
}

#[test]
fn the_test_of_edges_can_fail() {
    let code = "use crate::store::X; use crate::{jobs::{A, b::C}, core}; let y = crate::runner::z(); not_crate::api";
    assert_eq!(named(code, "crate::"), ["store", "jobs", "core", "runner"]);
}
