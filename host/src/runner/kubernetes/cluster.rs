//! The cluster as the runner's parts see it: client, namespace, names, settings, and calls that end in time.

use std::sync::Arc;
use std::time::Duration;

use http::{Method, header};
use k8s_openapi::NamespaceResourceScope;
use k8s_openapi::api::batch::v1::Job;
use k8s_openapi::api::core::v1::Pod;
use k8s_openapi::apimachinery::pkg::apis::meta::v1::ObjectMeta;
use kube::api::{DeleteParams, Preconditions};
use kube::{Api, Resource};
use serde::Deserialize;
use serde_json::Value;

use super::failure::CallError;
use super::names::Names;
use super::settings::Settings;

/// Pauses before a call is repeated that the API server was too busy for.
const PAUSES: [Duration; 3] = [Duration::from_millis(100), Duration::from_millis(300), Duration::from_millis(900)];

/// Answers are wanted without what we know already.
const METADATA_ONLY: &str = "application/json;as=PartialObjectMetadata;g=meta.k8s.io;v=v1";

/// Where the Jobs are and how they are reached.
#[derive(Clone)]
pub(super) struct Cluster {
    pub(super) client: kube::Client,
    pub(super) namespace: String,
    pub(super) names: Names,
    pub(super) settings: Arc<Settings>,
}

/// The part of an answer that is read.
#[derive(Deserialize)]
struct Answer {
    metadata: ObjectMeta,
}

impl Cluster {
    pub(super) fn jobs(&self) -> Api<Job> {
        Api::namespaced(self.client.clone(), &self.namespace)
    }

    pub(super) fn pods(&self) -> Api<Pod> {
        Api::namespaced(self.client.clone(), &self.namespace)
    }

    /// Makes a call within the configured deadline, again where the API server says that it is too busy. So it may be made twice.
    pub(super) async fn call<T, C>(&self, call: impl Fn() -> C) -> Result<T, CallError>
    where
        C: Future<Output = kube::Result<T>>,
    {
        let deadline = Duration::from_millis(u64::from(self.settings.deadline_ms));
        let repeated = async {
            for pause in PAUSES {
                match call().await.map_err(CallError::from) {
                    Err(error) if error.is_busy() => tokio::time::sleep(pause).await,
                    outcome => return outcome,
                }
            }
            Ok(call().await?)
        };
        tokio::time::timeout(deadline, repeated).await.unwrap_or(Err(CallError::Deadline(deadline)))
    }

    /// Creates an object and answers its metadata. A field that the API server does not know is an error.
    pub(super) async fn create<K>(&self, object: &Value) -> Result<ObjectMeta, CallError>
    where
        K: Resource<DynamicType = (), Scope = NamespaceResourceScope>,
    {
        let url = format!("{}?fieldValidation=Strict", K::url_path(&(), Some(&self.namespace)));
        let answer: Answer = self.send(Method::POST, &url, "application/json", object).await?;
        Ok(answer.metadata)
    }

    /// Applies a JSON patch (RFC 6902). One whose tests fail is [`CallError::is_invalid`].
    pub(super) async fn patch<K>(&self, name: &str, operations: &Value) -> Result<(), CallError>
    where
        K: Resource<DynamicType = (), Scope = NamespaceResourceScope>,
    {
        let url = format!("{}/{name}", K::url_path(&(), Some(&self.namespace)));
        let _: Answer = self.send(Method::PATCH, &url, "application/json-patch+json", operations).await?;
        Ok(())
    }

    async fn send<T>(&self, method: Method, url: &str, kind: &str, body: &Value) -> Result<T, CallError>
    where
        T: for<'de> Deserialize<'de>,
    {
        let body = body.to_string().into_bytes();
        self.call(|| {
            let request = http::Request::builder()
                .method(method.clone())
                .uri(url)
                .header(header::ACCEPT, METADATA_ONLY)
                .header(header::CONTENT_TYPE, kind)
                .body(body.clone())
                .map_err(kube::Error::HttpError);
            async move { self.client.request(request?).await }
        })
        .await
    }

    /// Deletes what has this name and uid, dependents in the background. What is not there is deleted.
    pub(super) async fn delete<K>(&self, api: &Api<K>, name: &str, uid: &str) -> Result<(), CallError>
    where
        K: Resource<DynamicType = ()> + Clone + std::fmt::Debug + for<'de> Deserialize<'de>,
    {
        let only = Preconditions { uid: Some(uid.to_owned()), resource_version: None };
        let how = DeleteParams { preconditions: Some(only), ..DeleteParams::background() };
        match self.call(|| api.delete(name, &how)).await {
            Ok(_) => Ok(()),
            // A conflict: another object has the name by now.
            Err(error) if error.is_not_found() || error.is_conflict() => Ok(()),
            Err(error) => Err(error),
        }
    }

    /// Metadata of an object, or `None` where there is none.
    pub(super) async fn metadata<K>(&self, name: &str) -> Result<Option<ObjectMeta>, CallError>
    where
        K: Resource<DynamicType = (), Scope = NamespaceResourceScope>
            + Clone
            + std::fmt::Debug
            + for<'de> Deserialize<'de>,
    {
        let api: Api<K> = Api::namespaced(self.client.clone(), &self.namespace);
        let found = self.call(|| api.get_metadata_opt(name)).await?;
        Ok(found.map(|object| object.metadata))
    }
}

#[cfg(test)]
mod tests {
    use std::convert::Infallible;
    use std::sync::atomic::{AtomicU32, Ordering};

    use kube::client::Body;
    use serde_json::json;

    use super::*;

    /// A cluster whose API server is busy so many times, then answers; and how often it was called.
    fn busy(times: u32, deadline_ms: u32) -> (Cluster, Arc<AtomicU32>) {
        let calls = Arc::new(AtomicU32::new(0));
        let count = Arc::clone(&calls);
        let service = tower::service_fn(move |request: http::Request<Body>| {
            assert_eq!(request.uri(), "/apis/batch/v1/namespaces/here/jobs?fieldValidation=Strict");
            let is_busy = count.fetch_add(1, Ordering::SeqCst) < times;
            let (code, body) = match is_busy {
                true => {
                    (429, json!({ "kind": "Status", "code": 429, "reason": "TooManyRequests", "message": "later" }))
                }
                false => (201, json!({ "kind": "Job", "metadata": { "uid": "u" }, "spec": {} })),
            };
            let answer =
                http::Response::builder().status(code).body(Body::from(body.to_string().into_bytes())).unwrap();
            async move { Ok::<_, Infallible>(answer) }
        });
        let settings = Settings { deadline_ms, ..Settings::default() };
        let cluster = Cluster {
            client: kube::Client::new(service, "here"),
            namespace: "here".to_owned(),
            names: Names::new(&settings.job_name_prefix),
            settings: Arc::new(settings),
        };
        (cluster, calls)
    }

    #[tokio::test]
    async fn a_busy_api_server_is_asked_again_within_the_deadline() {
        let (cluster, calls) = busy(3, 10_000);
        let created = cluster.create::<Job>(&json!({})).await.unwrap();
        assert_eq!((created.uid.as_deref(), calls.load(Ordering::SeqCst)), (Some("u"), 4));

        let (cluster, calls) = busy(9, 10_000);
        assert!(cluster.create::<Job>(&json!({})).await.unwrap_err().is_busy());
        assert_eq!(calls.load(Ordering::SeqCst), 4);

        let (cluster, calls) = busy(9, 200);
        assert!(matches!(cluster.create::<Job>(&json!({})).await, Err(CallError::Deadline(_))));
        assert_eq!(calls.load(Ordering::SeqCst), 2);
    }
}
