//! PostgreSQL and S3 for a server under test: a database and a prefix in a bucket of their own, gone when dropped.
//!
//! With `VESPIARY_E2E=cluster` every server of the end-to-end tests gets them, and a namespace of the cluster where `KUBECONFIG` is set, from `TEST_POSTGRES_URL`, `TEST_S3_ENDPOINT`,
//! `TEST_S3_KEY`, `TEST_S3_SECRET` and `TEST_S3_REGION`.

use std::collections::BTreeMap;
use std::sync::Arc;

use aws_sdk_s3::config::{BehaviorVersion, Credentials, Region, RequestChecksumCalculation};
use sqlx::postgres::PgConnection;
use sqlx::{AssertSqlSafe, Connection as _};

use crate::Namespace;

/// Shared by all tests; each has a prefix of its own in it.
const BUCKET: &str = "vespiary-e2e";

/// Variables of the servers that tests may use.
const NEEDED: [&str; 4] = ["TEST_POSTGRES_URL", "TEST_S3_ENDPOINT", "TEST_S3_KEY", "TEST_S3_SECRET"];

/// Whether the end-to-end tests run on PostgreSQL and S3.
#[must_use]
pub fn is_wanted() -> bool {
    std::env::var("VESPIARY_E2E").is_ok_and(|wanted| wanted == "cluster")
}

/// For tests of what only one machine has (the SQLite file, the archive's folder, processes of the local runner): true when the tests run
/// on the cluster, and then the test returns.
#[must_use]
pub fn local_only() -> bool {
    if is_wanted() {
        eprintln!("not tried: it is about one machine, and VESPIARY_E2E=cluster is set");
    }
    is_wanted()
}

/// Backends of one or more servers.
pub struct Cluster {
    server: String,
    database: String,
    prefix: String,
    namespace: Option<Namespace>,
}

/// Runs it to its end, also from inside a runtime.
pub(crate) fn block_on<T: Send>(work: impl Future<Output = T> + Send) -> T {
    std::thread::scope(|scope| {
        let run = move || {
            let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().expect("a runtime");
            runtime.block_on(work)
        };
        scope.spawn(run).join().expect("the backends answer")
    })
}

pub(crate) fn variable(name: &str) -> String {
    std::env::var(name).unwrap_or_default()
}

/// A client of the S3 server.
#[must_use]
pub fn s3_client() -> aws_sdk_s3::Client {
    let credentials = Credentials::new(variable("TEST_S3_KEY"), variable("TEST_S3_SECRET"), None, None, "tests");
    let config = aws_sdk_s3::Config::builder()
        .behavior_version(BehaviorVersion::latest())
        .http_client(aws_smithy_http_client::Builder::new().build_http())
        .endpoint_url(variable("TEST_S3_ENDPOINT"))
        .region(Region::new(region()))
        .credentials_provider(credentials)
        .request_checksum_calculation(RequestChecksumCalculation::WhenRequired)
        .force_path_style(true);
    aws_sdk_s3::Client::from_conf(config.build())
}

fn region() -> String {
    Some(variable("TEST_S3_REGION")).filter(|region| !region.is_empty()).unwrap_or_else(|| "us-east-1".to_owned())
}

async fn on_server(url: &str, sql: String) {
    let mut connection = PgConnection::connect(url).await.expect("the PostgreSQL server answers");
    sqlx::raw_sql(AssertSqlSafe(sql)).execute(&mut connection).await.expect("the statement is right");
    let _ = connection.close().await;
}

impl Cluster {
    /// For tests of several replicas. `None`, and it says so, where there are no servers to try it on; with `VESPIARY_TEST_ALL=1` that is a
    /// failure.
    #[must_use]
    pub fn if_any() -> Option<Arc<Self>> {
        let missing: Vec<_> = NEEDED.into_iter().filter(|name| variable(name).is_empty()).collect();
        if missing.is_empty() {
            return Some(Self::create(None));
        }
        let must = std::env::var("VESPIARY_TEST_ALL").is_ok_and(|all| all == "1");
        assert!(!must, "VESPIARY_TEST_ALL is set, and {} not", missing.join(", "));
        eprintln!("not tried: {} not set", missing.join(", "));
        None
    }

    /// The same with the Kubernetes runner, in a namespace of its own.
    #[must_use]
    pub fn with_kubernetes() -> Option<Arc<Self>> {
        let missing: Vec<_> =
            NEEDED.into_iter().chain(["KUBECONFIG"]).filter(|name| variable(name).is_empty()).collect();
        if missing.is_empty() {
            return Some(Self::create(Some(Namespace::create())));
        }
        let must = std::env::var("VESPIARY_TEST_ALL").is_ok_and(|all| all == "1");
        assert!(!must, "VESPIARY_TEST_ALL is set, and {} not", missing.join(", "));
        eprintln!("not tried: {} not set", missing.join(", "));
        None
    }

    /// When the end-to-end tests are to run on it.
    #[must_use]
    pub fn if_wanted() -> Option<Arc<Self>> {
        if !is_wanted() {
            return None;
        }
        let missing: Vec<_> = NEEDED.into_iter().filter(|name| variable(name).is_empty()).collect();
        assert!(missing.is_empty(), "VESPIARY_E2E=cluster needs {}", missing.join(", "));
        Some(Self::create(Namespace::is_possible().then(Namespace::create)))
    }

    fn create(namespace: Option<Namespace>) -> Arc<Self> {
        let name = vespiary::core::JobId::new().to_string();
        let cluster = Self {
            server: variable("TEST_POSTGRES_URL"),
            database: format!("e2e_{name}"),
            prefix: format!("{name}/"),
            namespace,
        };
        let create = format!("create database \"{}\"", cluster.database);
        block_on(async {
            on_server(&cluster.server, create).await;
            // Another test may have made it.
            let made = s3_client().create_bucket().bucket(BUCKET).send().await;
            if made.is_err() {
                s3_client().head_bucket().bucket(BUCKET).send().await.expect("the bucket is there");
            }
        });
        Arc::new(cluster)
    }

    /// The URL of its database.
    #[must_use]
    pub fn url(&self) -> String {
        let (server, query) = self.server.split_once('?').unwrap_or((&self.server, ""));
        let (server, _) = server.rsplit_once('/').expect("TEST_POSTGRES_URL names a database");
        let query = if query.is_empty() { String::new() } else { format!("?{query}") };
        format!("{server}/{}{query}", self.database)
    }

    /// The variables of a server that uses it.
    #[must_use]
    pub fn env(&self) -> Vec<(String, String)> {
        let mut env = vec![
            ("VESPIARY_STORE_URL", self.url()),
            // Many tests share the server.
            ("VESPIARY_POSTGRES_CONNECTIONS", "6".to_owned()),
            ("VESPIARY_S3_ENDPOINT", variable("TEST_S3_ENDPOINT")),
            ("VESPIARY_S3_REGION", region()),
            ("VESPIARY_S3_ACCESS_KEY", variable("TEST_S3_KEY")),
            ("VESPIARY_S3_SECRET_KEY", variable("TEST_S3_SECRET")),
            ("VESPIARY_S3_BUCKET", BUCKET.to_owned()),
            ("VESPIARY_S3_PREFIX", self.prefix.clone()),
        ];
        env.extend(self.runner());
        env.into_iter().map(|(name, value)| (name.to_owned(), value)).collect()
    }

    /// The variables that choose the runner.
    fn runner(&self) -> Vec<(&'static str, String)> {
        match &self.namespace {
            None => vec![("VESPIARY_RUNNER_KIND", "local".to_owned())],
            Some(namespace) => vec![
                ("VESPIARY_RUNNER_KIND", "kubernetes".to_owned()),
                ("VESPIARY_KUBERNETES_NAMESPACE", namespace.name().to_owned()),
                ("VESPIARY_KUBERNETES_GRACE_SECONDS", "1".to_owned()),
            ],
        }
    }

    /// For a server in a pod: the URL of the database, and the original's five variables for the bucket.
    #[must_use]
    pub fn for_pods(&self) -> (String, [(&'static str, String); 5]) {
        let node = variable("TEST_NODE_IP");
        assert!(!node.is_empty(), "TEST_NODE_IP is not set");
        // What this machine calls itself is the pod itself, in a pod.
        let reached = |url: &str| url.replace("127.0.0.1", &node).replace("localhost", &node);
        let bucket = [
            ("PYGEOAPI_K8S_MANAGER_FINALIZER_BUCKET_ENDPOINT", reached(&variable("TEST_S3_ENDPOINT"))),
            ("PYGEOAPI_K8S_MANAGER_FINALIZER_BUCKET_KEY", variable("TEST_S3_KEY")),
            ("PYGEOAPI_K8S_MANAGER_FINALIZER_BUCKET_SECRET", variable("TEST_S3_SECRET")),
            ("PYGEOAPI_K8S_MANAGER_FINALIZER_BUCKET_NAME", BUCKET.to_owned()),
            ("PYGEOAPI_K8S_MANAGER_FINALIZER_BUCKET_PATH_PREFIX", self.prefix.clone()),
        ];
        (reached(&self.url()), bucket)
    }

    /// Where its Jobs are, with the Kubernetes runner.
    #[must_use]
    pub fn namespace(&self) -> Option<&Namespace> {
        self.namespace.as_ref()
    }

    /// Key and size of the objects whose keys begin so; keys without the prefix.
    #[must_use]
    pub fn objects(&self, beginning: &str) -> BTreeMap<String, u64> {
        let (client, mut found, mut next) = (s3_client(), BTreeMap::new(), None);
        let prefix = format!("{}{beginning}", self.prefix);
        block_on(async {
            loop {
                let call = client.list_objects_v2().bucket(BUCKET).prefix(&prefix).set_continuation_token(next);
                let page = call.send().await.expect("the bucket can be listed");
                for object in page.contents() {
                    let key = object.key().unwrap_or_default();
                    let key = key.strip_prefix(&self.prefix).unwrap_or(key).to_owned();
                    found.insert(key, object.size().and_then(|size| u64::try_from(size).ok()).unwrap_or_default());
                }
                next = page.next_continuation_token().map(str::to_owned);
                if next.is_none() {
                    return;
                }
            }
        });
        found
    }
}

impl Drop for Cluster {
    fn drop(&mut self) {
        let keys: Vec<String> = self.objects("").into_keys().collect();
        let drop = format!("drop database if exists \"{}\" with (force)", self.database);
        block_on(async {
            on_server(&self.server, drop).await;
            let client = s3_client();
            for key in keys {
                let _ = client.delete_object().bucket(BUCKET).key(format!("{}{key}", self.prefix)).send().await;
            }
        });
    }
}
