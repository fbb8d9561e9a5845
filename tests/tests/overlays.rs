//! Every overlay and component renders, says what it promises, and an API server takes it; the README's overlay too.
//!
//! The manifests on a running cluster: `manifests.rs`.

use std::collections::BTreeSet;
use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;

use serde_json::{Value, json};
use vespiary_tests::{Cluster, Namespace, kubectl, try_kubectl, workspace};

/// A copy of `k8s-manifests`, in which a test may write overlays.
struct Tree(tempfile::TempDir);

impl Tree {
    /// `None`, and it says so, where there is no `kubectl`; with `VESPIARY_TEST_ALL=1` that is a failure.
    fn copy() -> Option<Self> {
        if Command::new("kubectl").args(["version", "--client"]).output().is_err() {
            let must = std::env::var("VESPIARY_TEST_ALL").is_ok_and(|all| all == "1");
            assert!(!must, "VESPIARY_TEST_ALL is set, and there is no kubectl");
            eprintln!("not tried: there is no kubectl");
            return None;
        }
        let folder = tempfile::tempdir().unwrap();
        copy(&workspace::root().join("k8s-manifests"), &folder.path().join("k8s-manifests"));
        Some(Self(folder))
    }

    fn path(&self, name: &str) -> PathBuf {
        self.0.path().join("k8s-manifests").join(name)
    }

    /// Writes an overlay.
    fn write(&self, name: &str, kustomization: &str) -> &Self {
        fs::create_dir_all(self.path(name)).unwrap();
        fs::write(self.path(name).join("kustomization.yaml"), kustomization).unwrap();
        self
    }

    fn render(&self, name: &str) -> Vec<Value> {
        let rendered = kubectl(&["kustomize", &self.path(name).to_string_lossy()]);
        let objects: Vec<Value> = rendered.split("\n---\n").map(|one| serde_saphyr::from_str(one).unwrap()).collect();
        whole(name, &objects);
        objects
    }
}

fn copy(from: &Path, to: &Path) {
    fs::create_dir_all(to).unwrap();
    for entry in fs::read_dir(from).unwrap() {
        let entry = entry.unwrap();
        match entry.file_type().unwrap().is_dir() {
            true => copy(&entry.path(), &to.join(entry.file_name())),
            false => drop(fs::copy(entry.path(), to.join(entry.file_name())).unwrap()),
        }
    }
}

/// One namespace, and no ConfigMap that is named and not there.
fn whole(name: &str, objects: &[Value]) {
    let namespaces: BTreeSet<_> =
        objects.iter().map(|one| &one["metadata"]["namespace"]).map(Value::to_string).collect();
    assert_eq!(namespaces.len(), 1, "{name}: {namespaces:?}");
    let made: BTreeSet<_> = objects
        .iter()
        .filter(|one| one["kind"] == "ConfigMap")
        .map(|one| one["metadata"]["name"].as_str().unwrap())
        .collect();
    for pod in objects.iter().filter_map(|one| one.pointer("/spec/template/spec")) {
        let volumes = pod["volumes"].as_array().unwrap().iter();
        for named in volumes.filter_map(|volume| volume.pointer("/configMap/name").and_then(Value::as_str)) {
            assert!(made.contains(named), "{name}: no ConfigMap '{named}' in {made:?}");
        }
    }
}

fn of<'o>(objects: &'o [Value], kind: &str, name: &str) -> Option<&'o Value> {
    objects.iter().find(|one| one["kind"] == kind && one["metadata"]["name"] == name)
}

fn pod<'o>(objects: &'o [Value], kind: &str, name: &str) -> &'o Value {
    &of(objects, kind, name).unwrap()["spec"]["template"]["spec"]
}

/// An overlay of these resources and components, and what else it says.
fn overlay(resource: &str, component: &str, rest: Value) -> String {
    let mut wanted = rest;
    wanted["apiVersion"] = json!("kustomize.config.k8s.io/v1beta1");
    wanted["kind"] = json!("Kustomization");
    wanted["resources"] = json!([format!("../{resource}")]);
    wanted["components"] = json!([format!("../components/{component}")]);
    // JSON is YAML.
    wanted.to_string()
}

/// The block of a page of Markdown that begins with this line.
fn block(page: &str, first: &str) -> String {
    let start = page.find(&format!("\n{first}\n")).unwrap_or_else(|| panic!("no block begins with {first}")) + 1;
    page[start..].split("```").next().unwrap().to_owned()
}

#[test]
fn every_overlay_renders_and_says_what_it_promises() {
    let Some(tree) = Tree::copy() else { return };
    let kind = tree.render("overlays/kind");
    assert!(of(&kind, "StatefulSet", "postgres").is_some() && of(&kind, "Ingress", "vespiary").is_none());
    assert_eq!(pod(&kind, "Deployment", "vespiary")["containers"].as_array().unwrap().len(), 1);

    let sqlite = tree.render("overlays/sqlite");
    assert!(of(&sqlite, "Ingress", "vespiary").is_none() && of(&sqlite, "PodDisruptionBudget", "vespiary").is_none());
    let egress = of(&sqlite, "NetworkPolicy", "vespiary").unwrap()["spec"]["egress"].to_string();
    assert!(!egress.contains("5432") && !egress.contains("9000") && egress.contains("6443"), "{egress}");
    let server = pod(&sqlite, "Deployment", "vespiary");
    let container = &server["containers"][0];
    assert!(container["lifecycle"].is_null() && container["envFrom"].is_null(), "{container}");
    assert!(!container["env"].to_string().contains("VESPIARY_STORE_URL"));
    let data = server["volumes"].as_array().unwrap().iter().find(|one| one["name"] == "data").unwrap();
    assert_eq!(data, &json!({ "name": "data", "persistentVolumeClaim": { "claimName": "vespiary" } }));

    // What takes a pod out of the Service is not what all pods share.
    let base = tree.render("base");
    let container = &pod(&base, "Deployment", "vespiary")["containers"][0];
    assert_eq!(container["readinessProbe"]["httpGet"]["path"], "/readyz?exclude=archive&exclude=runner");
    assert_eq!(container["startupProbe"]["httpGet"]["path"], "/readyz");
    // Processes get neither the server's Secrets nor its claim.
    let config = objects_named(&base, "ConfigMap", "vespiary-");
    let config: Value = serde_saphyr::from_str(config["data"]["vespiary.yaml"].as_str().unwrap()).unwrap();
    assert_eq!((&config["policy"]["secrets"], &config["policy"]["claims"]), (&json!(["job-*"]), &json!(["job-*"])));
}

fn objects_named<'o>(objects: &'o [Value], kind: &str, beginning: &str) -> &'o Value {
    let named = |one: &&Value| one["metadata"]["name"].as_str().is_some_and(|name| name.starts_with(beginning));
    objects.iter().filter(|one| one["kind"] == kind).find(named).unwrap()
}

#[test]
fn the_pages_overlay_and_its_patches_render() {
    let Some(tree) = Tree::copy() else { return };
    let page = fs::read_to_string(tree.path("README.md")).unwrap();
    tree.write("overlays/mine", &block(&page, "# k8s-manifests/overlays/mine/kustomization.yaml"));
    fs::copy(tree.path("base/vespiary.yaml"), tree.path("overlays/mine/vespiary.yaml")).unwrap();
    // A component of one's own is a copy.
    copy(&tree.path("components/processors"), &tree.path("overlays/mine/processors"));
    let mine = tree.render("overlays/mine");
    assert_eq!(of(&mine, "Ingress", "vespiary").unwrap()["spec"]["rules"][0]["host"], "jobs.lab.example");
    assert_eq!(pod(&mine, "Deployment", "vespiary")["containers"][0]["image"], "registry.example/vespiary:0.1.0");
    assert!(of(&mine, "ConfigMap", "vespiary-processors").is_some());

    // The image of the processors, which `images:` does not reach.
    let patch = block(&page, "# in the kustomization.yaml of your overlay");
    let head = overlay("base", "oci-plugins", json!({}));
    let head: Value = serde_json::from_str(&head).unwrap();
    let mut lines: Vec<String> =
        head.as_object().unwrap().iter().map(|(key, value)| format!("{key}: {value}")).collect();
    lines.push(patch);
    let plugins = tree.write("plugins", &lines.join("\n")).render("plugins");
    let volumes = pod(&plugins, "Deployment", "vespiary")["volumes"].to_string();
    assert!(volumes.contains(r#""reference":"registry.example/processors:2""#), "{volumes}");
}

#[test]
fn a_command_runs_with_all_that_the_server_has() {
    let Some(tree) = Tree::copy() else { return };
    let repair =
        json!([{ "op": "replace", "path": "/spec/template/spec/containers/0/args", "value": ["doctor", "--fix"] }]);
    let patch =
        json!({ "patches": [{ "target": { "kind": "Job", "name": "vespiary-once" }, "patch": repair.to_string() }] });
    tree.write("repair", &overlay("overlays/sqlite", "once", patch));
    for (name, args) in [("uninstall", json!(["uninstall", "--release"])), ("repair", json!(["doctor", "--fix"]))] {
        let objects = tree.render(name);
        let (once, server) = (pod(&objects, "Job", "vespiary-once"), pod(&objects, "Deployment", "vespiary"));
        for field in ["serviceAccountName", "securityContext", "volumes", "enableServiceLinks"] {
            assert_eq!(once[field], server[field], "{name}: {field}");
        }
        let (container, served) = (&once["containers"][0], &server["containers"][0]);
        for field in ["image", "env", "envFrom", "volumeMounts", "securityContext", "readinessProbe"] {
            assert_eq!(container[field], served[field], "{name}: {field}");
        }
        assert_eq!((&container["args"], &once["restartPolicy"]), (&args, &json!("Never")));
        for field in ["livenessProbe", "startupProbe", "lifecycle"] {
            assert!(container[field].is_null(), "{name}: {field}");
        }
    }
    assert_eq!(of(&tree.render("uninstall"), "Deployment", "vespiary").unwrap()["spec"]["replicas"], 0);
}

#[test]
fn an_api_server_takes_every_overlay() {
    let Some(tree) = Tree::copy() else { return };
    if !Namespace::is_possible() {
        let must = std::env::var("VESPIARY_TEST_ALL").is_ok_and(|all| all == "1");
        assert!(!must, "VESPIARY_TEST_ALL is set, and KUBECONFIG not");
        eprintln!("not tried: KUBECONFIG not set");
        return;
    }
    let namespace = Namespace::create();
    for (name, resource, component) in [
        ("try-base", "base", "processors"),
        ("try-plugins", "base", "oci-plugins"),
        ("try-kind", "overlays/kind", "once"),
        ("try-sqlite", "overlays/sqlite", "processors"),
        ("try-uninstall", "uninstall", ""),
    ] {
        let here = json!({ "namespace": namespace.name() });
        let wanted = overlay(resource, component, here);
        let wanted = if component.is_empty() { wanted.replace(r#""../components/""#, "") } else { wanted };
        tree.write(name, &wanted);
        let folder = tree.path(name).to_string_lossy().into_owned();
        let taken = try_kubectl(&["apply", "--server-side", "--dry-run=server", "--validate=strict", "-k", &folder]);
        assert!(taken.is_ok(), "{name}: {taken:?}");
    }
}

/// As the README has it: the Job lets go what the servers left.
#[test]
fn the_job_of_an_uninstall_runs() {
    let image = std::env::var("TEST_IMAGE").unwrap_or_default();
    let (Some(tree), Some(cluster)) = (Tree::copy(), Cluster::with_kubernetes()) else { return };
    let must = std::env::var("VESPIARY_TEST_ALL").is_ok_and(|all| all == "1");
    let Some((name, tag)) = image.rsplit_once(':') else {
        assert!(!must, "VESPIARY_TEST_ALL is set, and TEST_IMAGE not");
        eprintln!("not tried: TEST_IMAGE not set");
        return;
    };
    let namespace = cluster.namespace().unwrap().name();
    let (url, bucket) = cluster.for_pods();
    let bucket: Vec<String> = bucket.iter().map(|(key, value)| format!("{key}={value}")).collect();
    let release = json!([{ "op": "replace", "path": "/spec/template/spec/containers/0/args", "value": ["uninstall", "--release"] }]);
    let rest = json!({
        "namespace": namespace,
        "images": [{ "name": "vespiary", "newName": name, "newTag": tag }],
        "replicas": [{ "name": "vespiary", "count": 0 }],
        "secretGenerator": [
            { "name": "k8s-job-manager", "literals": ["token=none"] },
            { "name": "vespiary-database", "literals": [format!("url={url}")] },
            { "name": "vespiary-bucket", "literals": bucket },
        ],
        "patches": [{ "target": { "kind": "Job", "name": "vespiary-once" }, "patch": release.to_string() }],
    });
    tree.write("leave", &overlay("base", "once", rest));
    let folder = tree.path("leave").to_string_lossy().into_owned();
    let _ = kubectl(&["apply", "-k", &folder]);
    let done =
        try_kubectl(&["-n", namespace, "wait", "--for=condition=complete", "job/vespiary-once", "--timeout=120s"]);
    let log = try_kubectl(&["-n", namespace, "logs", "job/vespiary-once"]);
    let _ = kubectl(&["delete", "--wait=false", "-k", &folder]);
    assert!(done.is_ok(), "{done:?}: {log:?}");
    let log = log.unwrap();
    assert!(
        log.contains(&format!("namespace '{namespace}' (of the service account): our finalizer is on nothing")),
        "{log}"
    );
}
