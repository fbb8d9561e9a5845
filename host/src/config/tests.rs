//! The sections of the cluster: what is chosen, what the original's variables mean, what is masked.

use super::*;

fn env(pairs: &[(&str, &str)]) -> Vec<(String, String)> {
    pairs.iter().map(|(name, value)| ((*name).to_owned(), (*value).to_owned())).collect()
}

fn read(file: &str, variables: &[(&str, &str)]) -> Result<(Config, Vec<String>), Vec<String>> {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("c.yaml");
    std::fs::write(&path, file).unwrap();
    load(Some(&path), &env(variables), &Overrides::default()).map_err(|error| match error {
        ConfigError::Invalid(wrong) => wrong,
        other => panic!("{other:?}"),
    })
}

const FIVE: [(&str, &str); 5] = [
    ("PYGEOAPI_K8S_MANAGER_FINALIZER_BUCKET_ENDPOINT", "https://s3.example.org"),
    ("PYGEOAPI_K8S_MANAGER_FINALIZER_BUCKET_KEY", "id-of-key"),
    ("PYGEOAPI_K8S_MANAGER_FINALIZER_BUCKET_SECRET", "hunter2"),
    ("PYGEOAPI_K8S_MANAGER_FINALIZER_BUCKET_NAME", "logs"),
    ("PYGEOAPI_K8S_MANAGER_FINALIZER_BUCKET_PATH_PREFIX", "jobs"),
];

#[test]
fn every_part_is_chosen_by_file_or_variables() {
    let file = "store: {url: 'postgres://v:hunter2@db/v', readers: 7}\n\
                postgres: {connections: 3}\n\
                s3: {bucket: logs, sse: AES256, checksums: when_required, path_style: true}\n\
                runner: {kind: kubernetes, grace_seconds: 3}\n\
                kubernetes: {namespace: jobs, pod_security: restricted}\n";
    let (config, notes) = read(file, &[]).unwrap();
    assert!(notes.is_empty(), "{notes:?}");
    let variables = [
        ("VESPIARY_STORE_URL", "postgres://v:hunter2@db/v"),
        ("VESPIARY_STORE_READERS", "7"),
        ("VESPIARY_POSTGRES_CONNECTIONS", "3"),
        ("VESPIARY_S3_BUCKET", "logs"),
        ("VESPIARY_S3_SSE", "AES256"),
        ("VESPIARY_S3_CHECKSUMS", "when_required"),
        ("VESPIARY_S3_PATH_STYLE", "true"),
        ("VESPIARY_RUNNER_KIND", "kubernetes"),
        ("VESPIARY_RUNNER_GRACE_SECONDS", "3"),
        ("VESPIARY_KUBERNETES_NAMESPACE", "jobs"),
        ("VESPIARY_KUBERNETES_POD_SECURITY", "restricted"),
        ("VESPIARY_PORT", "tcp://10.96.0.1:80"),
        ("VESPIARY_PORT_80_TCP_ADDR", "10.96.0.1"),
        ("VESPIARY_SERVICE_HOST", "10.96.0.1"),
    ];
    let (same, _) = read("", &variables).unwrap();
    assert_eq!(serde_json::to_value(&config).unwrap(), serde_json::to_value(&same).unwrap());
    assert_eq!((config.store.sqlite.readers, config.postgres.connections), (7, 3));
    assert_eq!((config.runner.kind, config.runner.local.grace_seconds), (RunnerKind::Kubernetes, 3));
    assert_eq!(config.kubernetes.namespace.as_deref(), Some("jobs"));
}

#[test]
fn nothing_configured_is_one_machine() {
    let (config, _) = read("", &[]).unwrap();
    assert_eq!((config.store.url, config.s3.bucket.as_str(), config.runner.kind), (None, "", RunnerKind::Local));
}

#[test]
fn unknown_keys_of_the_flat_sections_are_told() {
    let wrong = read("store: {urll: x}\nrunner: {kind: docker, knd: 1}\n", &[]).unwrap_err().join("\n");
    for words in ["store: 'urll' is not a key", "url, ", "runner.kind: must be one of local, kubernetes", "'knd'"] {
        assert!(wrong.contains(words), "{words} in {wrong}");
    }
}

#[test]
fn wrong_values_are_told_without_secrets() {
    let file = "store: {url: 'mysql://v:hunter2@db/v', sql_url: hunter2}\n\
                s3: {secret_key: hunter2, prefix: a/../b}\n\
                kubernetes: {job_name_prefix: 'Über', watch_seconds: 5}\n";
    let wrong = read(file, &[]).unwrap_err();
    for (place, words) in [
        ("store.url: ", "postgres://"),
        ("store.sql_url: ", "postgres://"),
        ("s3.bucket ", "missing"),
        ("s3.access_key ", "missing"),
        ("s3.prefix ", "segment"),
        ("kubernetes.job_name_prefix: ", "a-z"),
        ("kubernetes.watch_seconds: ", "10 to 295"),
    ] {
        assert!(wrong.iter().any(|one| one.starts_with(place) && one.contains(words)), "{place} in {wrong:#?}");
    }
    assert!(!wrong.join("").contains("hunter2"), "{wrong:?}");
}

#[test]
fn the_original_s_bucket_is_ours() {
    let (config, notes) = read("", &FIVE).unwrap();
    let s3 = &config.s3;
    assert_eq!((s3.bucket.as_str(), s3.prefix.as_str()), ("logs", "jobs/"));
    assert_eq!(s3.endpoint.as_deref(), Some("https://s3.example.org"));
    assert_eq!((s3.access_key.as_deref(), s3.secret_key.as_deref()), (Some("id-of-key"), Some("hunter2")));
    assert_eq!(notes.len(), 1, "{notes:?}");
    assert!(notes[0].contains("does not end in '/'"), "{notes:?}");
    // The file's keys win.
    assert_eq!(read("s3: {bucket: mine}", &FIVE).unwrap().0.s3.bucket, "mine");
}

#[test]
fn each_missing_one_of_the_five_is_named() {
    for (left_out, (name_left_out, _)) in FIVE.iter().enumerate() {
        let some: Vec<_> =
            FIVE.iter().enumerate().filter(|(place, _)| *place != left_out).map(|(_, one)| *one).collect();
        let wrong = read("", &some).unwrap_err().join("\n");
        assert!(wrong.contains(&format!("{name_left_out} is not set")), "{wrong}");
        assert!(some.iter().all(|(name, _)| !wrong.contains(&format!("{name} is not set"))), "{wrong}");
        assert!(!wrong.contains("hunter2"), "{wrong}");
    }
    let wrong = read("", &[FIVE[2], (FIVE[3].0, " ")]).unwrap_err().join("\n");
    assert!([0, 1, 3, 4].iter().all(|place| wrong.contains(FIVE[*place].0)), "an empty one is missing: {wrong}");
    // The rest may stand in the file.
    assert!(read("s3: {endpoint: 'https://s3.example.org', bucket: logs, prefix: ''}", &FIVE[1..3]).is_ok());
}

#[test]
fn servers_that_share_a_database_share_an_archive() {
    let database = [("VESPIARY_STORE_URL", "postgres://v:hunter2@db/v"), ("VESPIARY_DATA_DIR", "/var/lib/vespiary")];
    let wrong = read("", &database).unwrap_err();
    assert_eq!(wrong.len(), 1, "{wrong:#?}");
    assert!(wrong[0].starts_with("s3.bucket is missing: ") && !wrong[0].contains("hunter2"), "{wrong:?}");
    let keys = ["s3.endpoint", "s3.access_key", "s3.secret_key", "s3.prefix", "archive.shared_folder"];
    for name in FIVE.iter().map(|(name, _)| *name).chain(keys).chain(["/var/lib/vespiary/archive"]) {
        assert!(wrong[0].contains(name), "{name} in {wrong:?}");
    }
    assert!(read("archive: {shared_folder: true}", &database).is_ok());
    assert!(read("s3: {bucket: logs}", &database).is_ok());
    assert!(read("", &[database.as_slice(), FIVE.as_slice()].concat()).is_ok());
    // Who only asks has no archive.
    assert!(read("store: {sql_url: 'postgres://analyst@db/v'}", &[]).is_ok());
}

#[test]
fn a_pod_runs_its_jobs_in_its_cluster() {
    let cluster = [
        ("KUBERNETES_SERVICE_HOST", "10.96.0.1"),
        ("PYGEOAPI_K8S_MANAGER_NAMESPACE", "lab"),
        ("PYGEOAPI_K8S_MANAGER_JOB_NAME_PREFIX", "lab-"),
    ];
    let (config, notes) = read("", &cluster).unwrap();
    assert_eq!(config.runner.kind, RunnerKind::Kubernetes);
    assert_eq!(
        (config.kubernetes.namespace.as_deref(), config.kubernetes.job_name_prefix.as_str()),
        (Some("lab"), "lab-")
    );
    assert_eq!(notes.len(), 1, "{notes:?}");
    let (config, _) = read("runner: {kind: local}", &cluster).unwrap();
    assert_eq!(config.runner.kind, RunnerKind::Local);
    let (config, notes) = read("", &cluster[1..]).unwrap();
    assert_eq!(config.runner.kind, RunnerKind::Local, "they do not switch it on");
    assert_eq!(notes.iter().filter(|note| note.contains("no effect")).count(), 2, "{notes:?}");
}

#[test]
fn secrets_are_masked() {
    let file = "store: {url: 'postgres://v:hunter2@db/v?sslmode=require', sql_url: 'postgres://a:hunter2@db/v'}\n\
                s3: {bucket: logs, access_key: hunter2, secret_key: hunter2, kms_key: shown, sse: 'aws:kms'}\n";
    let (config, _) = read(file, &[]).unwrap();
    let shown = config.masked();
    assert!(!shown.to_string().contains("hunter2"), "{shown}");
    assert_eq!(shown["store"]["url"], "postgres://v:***@db/v?sslmode=require");
    assert_eq!(shown["store"]["sql_url"], "postgres://a:***@db/v");
    assert_eq!(shown["s3"]["kms_key"], "shown");
    assert!(!format!("{config:?}").contains("hunter2"));
}
