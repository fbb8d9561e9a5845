//! Reading the configuration: file, then variables, then the command line; checked as a whole.

use std::path::{Path, PathBuf};

use schemars::generate::SchemaSettings;
use serde_json::{Map, Value, json};

use super::{Config, form, original};

/// Variables that are not keys of the configuration: they speak to the command line or to tests.
const OTHER_VARIABLES: [&str; 5] =
    ["VESPIARY_CONFIG", "VESPIARY_URL", "VESPIARY_TOKEN", "VESPIARY_E2E", "VESPIARY_PORT"];

/// Beginnings of such variables. In a pod beside a Service named `vespiary` the kubelet sets the last two, and `VESPIARY_PORT`.
const OTHER_BEGINNINGS: [&str; 3] = ["VESPIARY_TEST_", "VESPIARY_SERVICE_", "VESPIARY_PORT_"];

/// Why there is no configuration to start with.
#[derive(Debug, thiserror::Error)]
pub enum ConfigError {
    /// The file cannot be read.
    #[error("cannot read the configuration file {}", path.display())]
    Unreadable {
        /// Which file.
        path: PathBuf,
        /// Why.
        #[source]
        source: std::io::Error,
    },
    /// The file is not YAML.
    #[error("{} is not YAML: {reason}", path.display())]
    NotYaml {
        /// Which file.
        path: PathBuf,
        /// Where and why.
        reason: String,
    },
    /// Everything that is wrong with it.
    #[error("the configuration is not valid:\n{}", .0.iter().map(|one| format!("  - {one}")).collect::<Vec<_>>().join("\n"))]
    Invalid(Vec<String>),
}

/// What the command line says; it wins over the file and the variables.
#[derive(Debug, Clone, Default)]
pub struct Overrides {
    /// `--listen`.
    pub listen: Option<String>,
    /// `--data`.
    pub data_dir: Option<PathBuf>,
    /// `--plugins`.
    pub plugins: Option<PathBuf>,
}

/// Reads file and variables. The second part of the answer is worth a line in the log each.
pub fn load(
    file: Option<&Path>,
    env: &[(String, String)],
    overrides: &Overrides,
) -> Result<(Config, Vec<String>), ConfigError> {
    let mut document = match file {
        Some(path) => read(path)?,
        None => Map::new(),
    };
    let schema = schema();
    let (mut wrong, mut notes) = (Vec::new(), Vec::new());
    original::apply(&mut document, env, &mut wrong, &mut notes);
    for (name, value) in env {
        if let Some(key) = name.strip_prefix("VESPIARY_")
            && !OTHER_VARIABLES.contains(&name.as_str())
            && !OTHER_BEGINNINGS.iter().any(|beginning| name.starts_with(beginning))
        {
            set_variable(&mut document, &schema, name, &key.to_ascii_lowercase(), value, &mut wrong);
        }
    }
    original::complete(&mut document, env, &mut wrong, &mut notes);
    let text = |path: &PathBuf| Value::from(path.to_string_lossy().into_owned());
    if let Some(listen) = &overrides.listen {
        set(&mut document, "server", "listen", Value::from(listen.as_str()));
    }
    if let Some(folder) = &overrides.plugins {
        set(&mut document, "plugins", "folder", text(folder));
    }
    if let Some(folder) = &overrides.data_dir {
        document.insert("data_dir".to_owned(), text(folder));
    }
    // What has the right form is looked at even where something else has not.
    let document = form::check(&schema, Value::Object(document), &mut wrong);
    match serde_json::from_value::<Config>(document) {
        Ok(config) => {
            wrong.extend(config.violations());
            if wrong.is_empty() {
                return Ok((config, notes));
            }
        }
        // It has the form that the schema asks for: what is wrong then is a value that its type refuses.
        Err(error) => wrong.push(error.to_string()),
    }
    Err(ConfigError::Invalid(wrong))
}

fn read(path: &Path) -> Result<Map<String, Value>, ConfigError> {
    let text =
        std::fs::read_to_string(path).map_err(|source| ConfigError::Unreadable { path: path.to_owned(), source })?;
    let not_yaml = |reason: String| ConfigError::NotYaml { path: path.to_owned(), reason };
    if text.trim().is_empty() {
        return Ok(Map::new());
    }
    match serde_saphyr::from_str::<Value>(&text).map_err(|error| not_yaml(error.to_string()))? {
        Value::Object(document) => Ok(document),
        Value::Null => Ok(Map::new()),
        _ => Err(not_yaml("the document must be a mapping of sections".to_owned())),
    }
}

/// The schema of [`Config`], without references, so that a variable's type can be looked up in it.
fn schema() -> Value {
    let generator = SchemaSettings::draft2020_12().with(|settings| settings.inline_subschemas = true).into_generator();
    serde_json::to_value(generator.into_root_schema_for::<Config>()).unwrap_or_default()
}

fn set(document: &mut Map<String, Value>, section: &str, key: &str, value: Value) {
    if let Some(section) = document.entry(section).or_insert_with(|| json!({})).as_object_mut() {
        section.insert(key.to_owned(), value);
    }
}

/// Finds the key that `VESPIARY_<name>` names and sets it.
fn set_variable(
    document: &mut Map<String, Value>,
    schema: &Value,
    variable: &str,
    name: &str,
    text: &str,
    wrong: &mut Vec<String>,
) {
    let Some(sections) = schema.pointer("/properties").and_then(Value::as_object) else { return };
    if let Some(kind) = sections.get(name) {
        match typed(kind, text) {
            Ok(value) => {
                document.insert(name.to_owned(), value);
            }
            Err(reason) => wrong.push(format!("{variable}: {reason}")),
        }
        return;
    }
    for (section, kind) in sections {
        let Some(key) = name.strip_prefix(section.as_str()).and_then(|rest| rest.strip_prefix('_')) else { continue };
        if let Some(kind) = kind.get("properties").and_then(|properties| properties.get(key)) {
            match typed(kind, text) {
                Ok(value) => set(document, section, key, value),
                Err(reason) => wrong.push(format!("{variable}: {reason}")),
            }
            return;
        }
    }
    let section = sections.iter().find(|(section, _)| name.starts_with(&format!("{section}_")));
    let keys = section.and_then(|(section, kind)| Some((section.as_str(), kind.get("properties")?.as_object()?)));
    let (place, known) = keys.unwrap_or(("the configuration", sections));
    let known: Vec<&str> = known.keys().map(String::as_str).collect();
    wrong.push(format!("{variable} names no key: the keys of {place} are {}", known.join(", ")));
}

/// The value that a variable's text means where this type is expected: text where text may stand, YAML elsewhere.
fn typed(kind: &Value, text: &str) -> Result<Value, String> {
    let may_be_text = |kind: &Value| match kind.get("type") {
        Some(Value::String(name)) => name == "string",
        Some(Value::Array(names)) => names.iter().any(|name| name == "string"),
        _ => kind.get("enum").is_some() || kind.get("const").is_some(),
    };
    let alternatives = ["anyOf", "oneOf"].iter().filter_map(|key| kind.get(*key)?.as_array()).flatten();
    if may_be_text(kind) || alternatives.into_iter().any(may_be_text) {
        return Ok(Value::from(text));
    }
    serde_saphyr::from_str(text).map_err(|error| format!("not a value in YAML: {error}"))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn env(pairs: &[(&str, &str)]) -> Vec<(String, String)> {
        pairs.iter().map(|(name, value)| ((*name).to_owned(), (*value).to_owned())).collect()
    }

    fn wrong(file: &str, variables: &[(&str, &str)]) -> Vec<String> {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("c.yaml");
        std::fs::write(&path, file).unwrap();
        match load(Some(&path), &env(variables), &Overrides::default()) {
            Err(ConfigError::Invalid(wrong)) => wrong,
            other => panic!("{other:?}"),
        }
    }

    #[test]
    fn nothing_at_all_is_a_configuration() {
        let (config, notes) = load(None, &[], &Overrides::default()).unwrap();
        assert_eq!(config.database(), PathBuf::from("vespiary-data/vespiary.db"));
        assert!(notes.is_empty());
    }

    #[test]
    fn all_violations_are_told_at_once() {
        let wrong = wrong(
            "server: {listn: 1}\njobs: {finish_concurrency: many}\nnonsense: 1\n",
            &[("VESPIARY_JOBS_NONSENSE", "1")],
        );
        let all = wrong.join("\n");
        for word in ["listn", "jobs.finish_concurrency", "nonsense", "VESPIARY_JOBS_NONSENSE"] {
            assert!(all.contains(word), "{word} in {all}");
        }
    }

    #[test]
    fn what_has_the_right_form_is_checked_where_the_rest_has_not() {
        let wrong = wrong(
            "server: {listn: x, max_body_mib: 0, title: 7}\n\
             access: {anonymous: [guest], tokens: [{name: a, sha256: short, roles: [read]}]}\n\
             policy: {max_memory: lots}\n\
             processes: [{processr: x}, {processor: ' '}]\n\
             telemetry: {log: 'a=b=c'}\n\
             nonsense: {}\n",
            &[("VESPIARY_JOBS_NONSENSE", "1"), ("VESPIARY_NONSENSE", "1"), ("VESPIARY_CAPTURE_STALL_MS", "soon")],
        );
        for (place, words) in [
            ("server: ", "'listn' is not a key of it; its keys are"),
            ("server.title: ", "string"),
            ("server.max_body_mib ", "at least 1"),
            ("access.anonymous.0: ", "must be one of read, execute, deploy, admin"),
            ("access.tokens[0] ", "sha256"),
            ("policy.max_memory: ", "quantity"),
            ("processes.0: ", "'processr' is not a key of it; its keys are"),
            ("processes.1.processor: ", "empty"),
            ("telemetry.log: ", "level"),
            ("the document: ", "'nonsense' is not a key of it; its keys are"),
            ("VESPIARY_JOBS_NONSENSE ", "the keys of jobs are"),
            ("VESPIARY_NONSENSE ", "the keys of the configuration are"),
            ("capture.stall_ms: ", "integer"),
        ] {
            let found = wrong.iter().any(|one| one.starts_with(place) && one.contains(words));
            assert!(found, "{place} … {words} in {wrong:#?}");
        }
        let listed = wrong.iter().find(|one| one.contains("'listn'")).unwrap();
        assert!(listed.contains("listen") && listed.contains("max_body_mib"), "{listed}");
        assert_eq!(wrong.len(), 13, "and nothing else: {wrong:#?}");
    }

    #[test]
    fn a_wrong_word_in_an_entry_is_told_once() {
        let wrong = wrong("access: {tokens: [{name: a, sha256: x, roles: [reed]}], anonymous: [guest]}\n", &[]);
        assert_eq!(wrong.len(), 2, "{wrong:?}");
        assert!(wrong.iter().any(|one| one.starts_with("access.tokens.0.roles.0: must be one of read")), "{wrong:?}");
    }

    #[test]
    fn an_unknown_key_in_an_entry_hides_nothing() {
        let wrong = wrong(
            "access: {tokens: [{name: a, sha256: x, roles: [read], note: hi}, {name: b, sha256: short, roles: []}]}\n",
            &[],
        );
        for place in ["access.tokens.0: 'note' is not a key", "access.tokens[0] ", "access.tokens[1] "] {
            assert!(wrong.iter().any(|one| one.starts_with(place)), "{place} in {wrong:?}");
        }
    }

    #[test]
    fn variables_win_over_the_file_and_have_the_key_s_type() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("c.yaml");
        std::fs::write(&path, "jobs: {finish_concurrency: 3, secret_names: [a]}\ndata_dir: x\n").unwrap();
        let variables = env(&[
            ("VESPIARY_JOBS_FINISH_CONCURRENCY", "5"),
            ("VESPIARY_JOBS_SECRET_NAMES", "[b, c]"),
            ("VESPIARY_DATA_DIR", "123"),
        ]);
        let (config, _) = load(Some(&path), &variables, &Overrides::default()).unwrap();
        assert_eq!(config.jobs.finish_concurrency, 5);
        assert_eq!(config.jobs.secret_names, ["b", "c"]);
        assert_eq!(config.data_dir, PathBuf::from("123"));
    }

    #[test]
    fn the_original_s_empty_token_is_refused() {
        let wrong = wrong("", &[("PYGEOAPI_K8S_MANAGER_API_TOKEN", " ")]);
        assert!(wrong.join("").contains("PYGEOAPI_K8S_MANAGER_API_TOKEN is empty"), "{wrong:?}");
    }

    #[test]
    fn a_wrong_secret_is_not_repeated_in_the_error() {
        let wrong = wrong("access: {api_token: [hunter2]}\n", &[]);
        assert!(!wrong.join("").contains("hunter2"), "{wrong:?}");
    }
}
