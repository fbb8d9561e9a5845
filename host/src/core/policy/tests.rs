//! Tests of the policy.

use super::*;
use crate::core::plan::{EnvVariable, KeyReference, Volume};

fn plan() -> JobPlan {
    let mut container =
        Container { name: "main".into(), image: "registry.example/team/tool:1".into(), ..Container::default() };
    container.resources.limits.insert("memory".into(), "2Gi".into());
    container.resources.requests.insert("cpu".into(), "500m".into());
    JobPlan { containers: vec![container], ..JobPlan::default() }
}

fn rules(settings: &Settings, plan: &JobPlan) -> Vec<&'static str> {
    Policy::new(settings).unwrap().check(plan).into_iter().map(|violation| violation.rule).collect()
}

fn named(name: &str) -> KeyReference {
    KeyReference { name: name.into(), key: "k".into(), optional: false }
}

#[test]
fn the_defaults_let_an_ordinary_plan_through() {
    let mut plan = plan();
    plan.volumes =
        vec![Volume { name: "v".into(), source: VolumeSource::Claim { claim_name: "c".into(), read_only: false } }];
    plan.image_pull_secrets = vec!["registry".into()];
    plan.queue = Some("batch".into());
    plan.containers[0].env = vec![EnvVariable { name: "A".into(), value: EnvValue::SecretKey(named("s")) }];
    assert_eq!(Policy::default().check(&plan), []);
    assert_eq!(rules(&Settings::default(), &plan), [] as [&str; 0]);
}

#[test]
fn what_is_unsafe_needs_consent() {
    let mut plan = plan();
    plan.service_account = Some("robot".into());
    plan.priority_class = Some("high".into());
    plan.deadline_seconds = Some(86_401);
    plan.retries = 7;
    plan.security.run_as_user = Some(0);
    plan.security.privilege_escalation = true;
    plan.pod_patch = Some(serde_json::json!([]));
    plan.containers[0].env = vec![EnvVariable { name: "A".into(), value: EnvValue::Literal("x".repeat(96 * 1024)) }];
    plan.init_containers = vec![plan.containers[0].clone(); 16];
    assert_eq!(
        rules(&Settings::default(), &plan),
        [
            "policy.max_containers",
            "policy.max_literal_env_bytes",
            "policy.service_accounts",
            "policy.priority_classes",
            "policy.max_deadline_seconds",
            "policy.max_retries",
            "policy.security",
            "policy.security",
            "policy.pod_patch"
        ]
    );
    let wide = Settings {
        service_accounts: vec!["ro*".into()],
        priority_classes: vec!["*".into()],
        max_deadline_seconds: 90_000,
        max_retries: 7,
        security: vec![Relaxation::RunAsUser, Relaxation::PrivilegeEscalation],
        pod_patch: true,
        max_containers: 17,
        max_literal_env_bytes: 1024 * 1024,
        ..Settings::default()
    };
    assert_eq!(rules(&wide, &plan), [] as [&str; 0]);
}

#[test]
fn narrow_settings_bite() {
    let narrow = Settings {
        images: vec!["registry.example/other/*".into()],
        max_cpu: Some("400m".into()),
        max_memory: Some("1Gi".into()),
        volumes: vec![VolumeKind::EmptyDir],
        claims: vec![],
        secrets: vec!["job-*".into()],
        config_maps: vec!["job-*".into()],
        queues: vec![],
        ..Settings::default()
    };
    let mut plan = plan();
    plan.queue = Some("q".into());
    plan.image_pull_secrets = vec!["admin".into(), "job-pull".into()];
    plan.volumes = vec![
        Volume { name: "c".into(), source: VolumeSource::Claim { claim_name: "c".into(), read_only: true } },
        Volume { name: "e".into(), source: VolumeSource::EmptyDir { medium: None, size_limit: None } },
    ];
    plan.containers[0].env = vec![
        EnvVariable { name: "A".into(), value: EnvValue::SecretKey(named("admin")) },
        EnvVariable { name: "B".into(), value: EnvValue::ConfigMapKey(named("admin")) },
        EnvVariable { name: "C".into(), value: EnvValue::SecretKey(named("job-1")) },
    ];
    assert_eq!(
        rules(&narrow, &plan),
        [
            "policy.images",
            "policy.max_cpu",
            "policy.max_memory",
            "policy.secrets",
            "policy.config_maps",
            "policy.volumes",
            "policy.claims",
            "policy.secrets",
            "policy.queues"
        ]
    );
}

#[test]
fn open_ends_are_filled() {
    let settings = Settings { max_memory: Some("4Gi".into()), max_cpu: Some("2".into()), ..Settings::default() };
    let policy = Policy::new(&settings).unwrap();
    let mut plan = plan();
    policy.bound(&mut plan);
    assert_eq!(plan.deadline_seconds, Some(86_400));
    assert_eq!(plan.containers[0].resources.limits["cpu"], "2");
    assert_eq!(plan.containers[0].resources.limits["memory"], "2Gi");
    assert_eq!(policy.check(&plan), []);

    let settings = Settings { default_deadline_seconds: Some(60), ..Settings::default() };
    let mut plan = JobPlan::default();
    Policy::new(&settings).unwrap().bound(&mut plan);
    assert_eq!(plan.deadline_seconds, Some(60));
    plan.deadline_seconds = Some(70);
    Policy::new(&settings).unwrap().bound(&mut plan);
    assert_eq!(plan.deadline_seconds, Some(70));
}

#[test]
fn wrong_settings_are_told_together() {
    let wrong = Settings {
        max_cpu: Some("lots".into()),
        max_deadline_seconds: 10,
        default_deadline_seconds: Some(11),
        images: vec![String::new()],
        max_containers: 0,
        ..Settings::default()
    };
    let told = Policy::new(&wrong).unwrap_err();
    let keys: Vec<_> = told.iter().map(|text| text.split(':').next().unwrap()).collect();
    assert_eq!(keys, ["policy.max_cpu", "policy.default_deadline_seconds", "policy.max_containers", "policy.images"]);
    assert!(serde_json::from_str::<Settings>(r#"{"max_cpus": "1"}"#).is_err());
    let some: Settings = serde_json::from_str(r#"{"volumes": ["empty-dir"], "security": ["run-as-user"]}"#).unwrap();
    assert_eq!((some.volumes, some.max_retries), (vec![VolumeKind::EmptyDir], 6));
}
