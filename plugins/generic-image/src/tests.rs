//! Whole definitions, as operators write them.

use serde_json::json;
use vespiary_processor::{EnvValue, ImagePullPolicy, KeyReference, Mount, Volume, load};

use super::*;

fn processor(config: &Value) -> Result<GenericImage, String> {
    load(&config.to_string())
}

fn plan(config: &Value) -> Plan {
    processor(config).unwrap().shape(&Request::execute(json!({"a": 1})), &Caller::new("ann")).unwrap()
}

/// The least that makes a process.
fn least() -> Value {
    json!({"metadata": {"id": "p", "version": "1"}, "default_image": "registry.example/image:1"})
}

fn with(key: &str, value: Value) -> Value {
    let mut config = least();
    config[key] = value;
    config
}

fn full() -> Value {
    json!({
        "name": "pygeoapi_k8s_manager.process.GenericImageProcessor",
        "metadata": {
            "id": "ingest",
            "version": 0.1,
            "title": {"de": "Einlesen", "en": "Ingest"},
            "description": {"de": "Liest ein.", "fr": "Lit."},
            "keywords": ["a", "b"],
            "links": [{"href": "https://example.org", "rel": "about", "title": {"en": "about"}, "hreflang": null}],
            "inputs": {
                "token": {"title": "The token", "schema": {"type": "string"}, "minOccurs": 1},
                "area": {"title": {"en": "Area"}, "schema": {"type": "string"}, "minOccurs": 1, "metadata": null},
            },
            "outputs": {"table": {"schema": {"type": "string", "contentMediaType": "text/csv"}}},
            "example": {"inputs": {"area": "Alps"}},
        },
        "default_image": "registry.example/ingest:2",
        "command": ["python3", "-m", "ingest", 5],
        "image_pull_secrets": "pull",
        "env": [
            {"name": "FLAG", "value": false},
            {"name": "SIZE", "value": 1024},
            {"name": "RATIO", "value": 0.5},
            {"name": "NOTHING", "value": null},
            {"name": "KEY", "secret_name": "credentials", "secret_key": "key"},
        ],
        "resources": {"requests": {"cpu": 1, "memory": "1Gi"}, "limits": {"memory": "2Gi"}},
        "storage": [
            {"name": "archive", "mount_path": "/archive", "persistent_volume_claim_name": "archive-claim"},
            {"name": "scratch", "mount_path": "/scratch", "empty_dir": {"size_limit": "2Gi", "medium": "Memory"}},
            {"name": "plain", "mount_path": "/plain", "empty_dir": null},
        ],
        "tolerations": [{"key": "gpu", "operator": "Exists", "effect": "NoSchedule", "tolerationSeconds": 30}],
        "init_containers": [{
            "name": "fetch",
            "image": "fetch:1",
            "imagePullPolicy": "Always",
            "command": ["python3"],
            "args": ["/fetch.py"],
            "env": [
                {"name": "URL", "value": "https://example.org"},
                {"name": "KEY", "valueFrom": {"secretKeyRef": {"name": "s3", "key": "key"}}},
            ],
            "resources": {"limits": {"cpu": "1000m"}},
            "volumeMounts": [{"name": "scratch", "mountPath": "/inputs/"}],
        }],
        "node_selector": {"disk": "ssd"},
        "service_account": "runner",
        "priority_class": "low",
        "queue": "lab",
        "deadline_seconds": 3600,
        "retries": 2,
        "security": {"run_as_user": 1000, "seccomp_unconfined": true},
        "pod_patch": [{"op": "add", "path": "/spec/hostname", "value": "x"}],
        "nonce": true,
    })
}

#[test]
fn a_definition_of_the_original_becomes_a_description() {
    let processor = processor(&full()).unwrap();
    assert!(processor.check_auth());
    let description = processor.describe().unwrap();
    assert_eq!((&description["id"], &description["version"]), (&json!("ingest"), &json!("0.1")));
    assert_eq!((&description["title"], &description["description"]), (&json!("Ingest"), &json!("Liest ein.")));
    assert_eq!(description["links"], json!([{"title": "about", "href": "https://example.org", "rel": "about"}]));
    assert_eq!(description["jobControlOptions"], json!(["sync-execute", "async-execute", "dismiss"]));
    assert_eq!(description["example"]["inputs"]["area"], "Alps");
    assert_eq!(description["inputs"]["area"], json!({"title": "Area", "minOccurs": 1, "schema": {"type": "string"}}));
    let ids: Vec<_> = description["inputs"].as_object().unwrap().keys().collect();
    assert_eq!(ids, ["token", "area"]);
    let token = &description["inputs"]["token"];
    assert_eq!((&token["title"], &token["minOccurs"]), (&json!("The token"), &json!(0)));
    assert_eq!(token["schema"], json!({"type": "string", "format": "password", "writeOnly": true}));
}

#[test]
fn a_definition_of_the_original_becomes_a_plan() {
    let plan = plan(&full());
    let main = &plan.containers[0];
    assert_eq!((main.name.as_str(), main.image.as_str()), ("main", "registry.example/ingest:2"));
    assert_eq!(main.command, ["python3", "-m", "ingest", "5"]);
    let literal = |text: &str| EnvValue::Literal(text.to_owned());
    let values: Vec<_> = main.env.iter().map(|variable| &variable.value).collect();
    let key = EnvValue::SecretKey(KeyReference::new("credentials", "key"));
    assert_eq!(values, [&literal("False"), &literal("1024"), &literal("0.5"), &literal("None"), &key]);
    assert_eq!((main.resources.requests[0].value.as_str(), main.resources.limits[0].value.as_str()), ("1", "2Gi"));
    assert_eq!(main.mounts[1], Mount::new("scratch", "/scratch"));
    let scratch = Volume::empty_dir("scratch", Some("Memory".to_owned()), Some("2Gi".to_owned()));
    let archive = Volume::claim("archive", "archive-claim", false);
    assert_eq!(plan.volumes, [archive, scratch, Volume::empty_dir("plain", None, None)]);

    let init = &plan.init_containers[0];
    assert_eq!(
        (init.image_pull_policy, init.args.as_slice()),
        (Some(ImagePullPolicy::Always), ["/fetch.py".to_owned()].as_slice())
    );
    assert_eq!(init.env[1].value, EnvValue::SecretKey(KeyReference::new("s3", "key")));
    assert_eq!(init.mounts, [Mount::new("scratch", "/inputs/")]);

    assert_eq!(plan.tolerations[0].toleration_seconds, Some(30));
    assert_eq!(plan.image_pull_secrets, ["pull"]);
    assert_eq!((plan.node_selector.len(), plan.service_account.as_deref()), (1, Some("runner")));
    assert_eq!((plan.priority_class.as_deref(), plan.queue.as_deref()), (Some("low"), Some("lab")));
    assert_eq!((plan.deadline_seconds, plan.retries), (Some(3600), 2));
    assert_eq!((plan.security.run_as_user, plan.security.seccomp_unconfined), (Some(1000), true));
    assert!(plan.results.nonce && plan.pod_patch.unwrap().contains("/spec/hostname"));
    assert_eq!(plan.results.default_media_type.as_deref(), Some("text/csv"));
}

#[test]
fn the_least_is_enough_and_asks_for_a_token() {
    let least = processor(&least()).unwrap();
    let description = least.describe().unwrap();
    assert_eq!(description["outputs"], json!({}));
    assert_eq!(description["inputs"].as_object().unwrap().keys().collect::<Vec<_>>(), ["token"]);
    assert!(least.authorize(&Request::execute(json!({}))).is_err());
    assert!(processor(&with("check_auth", json!(null))).unwrap().check_auth());
    let open = processor(&with("check_auth", json!(false))).unwrap();
    assert!(open.authorize(&Request::execute(json!({}))).is_ok());
    assert_eq!(open.describe().unwrap()["inputs"], json!({}));
}

#[test]
fn the_media_type_comes_from_the_definition_or_the_outputs() {
    let of = |config: &Value| plan(config).results.default_media_type;
    let csv = json!({"schema": {"type": "string", "contentMediaType": "text/csv"}});
    let outputs = |outputs: Value| with("metadata", json!({"id": "p", "version": "1", "outputs": outputs}));
    assert_eq!(of(&least()), None);
    assert_eq!(of(&outputs(json!({"a": csv}))).as_deref(), Some("text/csv"));
    assert_eq!(of(&outputs(json!({"a": {"schema": {}}}))), None);
    assert_eq!(of(&outputs(json!({"a": csv, "b": csv}))).as_deref(), Some("application/json"));
    let mut said = outputs(json!({"a": csv}));
    said["mimetype"] = json!("image/tiff");
    assert_eq!(of(&said).as_deref(), Some("image/tiff"));
}

#[test]
fn everything_wrong_is_told_at_once_by_its_place() {
    let config = json!({
        "metadata": {"version": [], "title": 7.5, "inputs": {"a": {}}, "outputs": [], "jobControlOptions": ["later"]},
        "comand": ["x"],
        "check_auth": "no",
        "env": [
            {"name": "A", "value": {"b": 1}},
            {"name": "1A", "value": 1},
            {"name": "B"},
            {"name": "PYGEOAPI_JOB_ID", "value": "x"},
            {"name": "C", "secret_name": "s"},
            {"name": "D", "value": 1, "secret_name": "s", "secret_key": "k"},
            {"name": "VESPIARY_X", "value": 1},
            {"name": "PYGEOAPI_K8S_MANAGER_INPUTS_FILE", "value": "/x"},
        ],
        "storage": [
            {"name": "Data", "mount_path": "data", "empty_dir": {"size": 1}},
            {"name": "b", "mount_path": "data", "empty_dir": {"medium": "Disk"}},
        ],
        "init_containers": [{"name": "main", "image": "x", "volumeMounts": [{"name": "other", "mountPath": "/x"}]}],
        "resources": {"limits": {"cpu": true}},
        "tolerations": [{"operator": "Any", "value": true}],
        "deadline_seconds": 0,
        "retries": -1,
        "pod_patch": [{"op": "add"}],
        "mimetype": "csv",
        "image_pull_secrets": [{"nom": "x"}],
        "pod_security_context": {"runAsUser": 1},
    });
    let told = processor(&config).err().unwrap();
    let places = [
        "'metadata.id' is required",
        "'metadata.version' must be",
        "'metadata.inputs.a.schema' is required",
        "'metadata.outputs' must be a map",
        "'metadata.jobControlOptions' must name",
        "'default_image' is required",
        "'comand' is not a known key",
        "'check_auth' must be true or false",
        "'env[0].value' must be",
        "'env[1].name' must be",
        "'env[2].name' needs one of",
        "'env[3].name' is a variable that the server sets",
        "'env[4].secret_key' is required",
        "'env[5].name' needs one of",
        "'storage[0].name' must be",
        "'storage[0].mount_path' must be an absolute path",
        "'storage[0].empty_dir.size' is not a known key",
        "'init_containers[0].name' is the name of another",
        "'init_containers[0].volumeMounts[0].name' is not the name",
        "'resources.limits.cpu' must be",
        "'tolerations[0].operator' must be",
        "'tolerations[0].value' must be text",
        "'tolerations[0].key' is required",
        "'env[6].name' is a variable that the server sets",
        "'env[7].name' is a variable that the server sets",
        "'storage[1].mount_path' is the path of another",
        "'storage[1].empty_dir.medium' must be",
        "'deadline_seconds' must be at least 1",
        "'retries' must be",
        "'pod_patch' must be",
        "'mimetype' must be",
        "'image_pull_secrets' must be",
        "'pod_security_context' is not supported",
    ];
    for place in places {
        assert!(told.contains(place), "{place} is missing in: {told}");
    }
    assert!(!told.contains("metadata.title"), "7.5 is a title, if an odd one");
    for nothing in [json!(null), json!([]), json!({})] {
        let told = processor(&nothing).err().unwrap();
        assert!(told.contains("'metadata' is required") && told.contains("'default_image' is required"), "{told}");
    }
}

#[test]
fn an_amount_that_is_none_is_told_when_the_configuration_is_read() {
    let told = |key: &str, value: Value| processor(&with(key, value)).err().unwrap();
    let resources = json!({"limits": {"memory": "lots", "cpu": 1.5}, "requests": {"example.com/gpu": "-1"}});
    let resources = told("resources", resources);
    for place in
        ["'resources.limits.memory' must be a quantity", "'resources.requests.example.com/gpu' must be a quantity"]
    {
        assert!(resources.contains(place), "{place} is missing in: {resources}");
    }
    assert!(!resources.contains("limits.cpu"), "{resources}");
    let storage = json!([{"name": "s", "mount_path": "/s", "empty_dir": {"size_limit": "1 GB"}}]);
    assert!(told("storage", storage).contains("'storage[0].empty_dir.size_limit' must be a quantity"));
}

#[test]
fn other_forms_that_operators_write_are_read() {
    let names = |value: Value| plan(&with("image_pull_secrets", value)).image_pull_secrets;
    assert_eq!(names(json!(["a", {"name": "b"}])), ["a", "b"]);
    assert_eq!(plan(&with("command", json!("run"))).containers[0].command, ["run"]);
    let keywords = json!({"id": "p", "version": "1", "title": {"de": "x", "en-GB": "y"}, "keywords": {"en": ["k"]}});
    let description = processor(&with("metadata", keywords)).unwrap().describe().unwrap();
    assert_eq!((&description["title"], &description["keywords"]), (&json!("y"), &json!(["k"])));
}
