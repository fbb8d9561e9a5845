//! `statusInfo.yaml` of a job: the members of 1.0 and, beside them, those that 2.0 renamed. Absent values are left out, never null.

use serde::{Serialize, Serializer};

use super::links::{Base, JSON, REL_EXCEPTIONS, REL_LOG, REL_RESULTS};
use crate::core::{Job, JobId, JobStatus, ProcessId, Timestamp};

/// A job as clients see it.
#[derive(Debug, Serialize)]
#[serde(rename_all = "camelCase")]
pub(super) struct StatusInfo<'a> {
    #[serde(rename = "jobID")]
    job_id: JobId,
    id: JobId,
    #[serde(rename = "type")]
    kind: &'static str,
    processing_entity_type: &'static str,
    #[serde(rename = "processID")]
    process_id: &'a ProcessId,
    status: JobStatus,
    #[serde(skip_serializing_if = "Option::is_none")]
    message: Option<&'a str>,
    created: Timestamp,
    #[serde(skip_serializing_if = "Option::is_none")]
    started: Option<Timestamp>,
    #[serde(skip_serializing_if = "Option::is_none")]
    finished: Option<Timestamp>,
    updated: Timestamp,
    #[serde(skip_serializing_if = "Option::is_none")]
    progress: Option<u8>,
    #[serde(skip_serializing_if = "Option::is_none")]
    links: Option<JobLinks<'a>>,
}

impl<'a> StatusInfo<'a> {
    /// The job as it stands. One that was removed is shown as dismissed and links to the list only: nothing else is left of it.
    pub(super) fn new(job: &'a Job, base: &'a Base) -> Self {
        Self { links: Some(JobLinks { job, base }), ..Self::without_links(job) }
    }

    /// The same without its last member.
    pub(super) fn without_links(job: &'a Job) -> Self {
        let removed = job.removed.is_some();
        Self {
            job_id: job.id,
            id: job.id,
            kind: "process",
            processing_entity_type: "ogc-api-processes",
            process_id: &job.process_id,
            status: if removed { JobStatus::Dismissed } else { job.status },
            message: job.message.as_deref(),
            created: job.created,
            started: job.started,
            finished: job.finished,
            updated: job.updated,
            progress: job.progress,
            links: None,
        }
    }
}

/// The links of a job. They depend on its id and status alone.
#[derive(Debug)]
pub(super) struct JobLinks<'a> {
    pub(super) job: &'a Job,
    pub(super) base: &'a Base,
}

impl Serialize for JobLinks<'_> {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        let own = |rel, path, media_type, title| {
            let href = Href { base: self.base, job: Some(self.job.id), path };
            JobLink { href, rel, media_type, title }
        };
        let up = JobLink {
            href: Href { base: self.base, job: None, path: "" },
            rel: "up",
            media_type: Some(JSON),
            title: "All jobs",
        };
        if self.job.removed.is_some() {
            return serializer.collect_seq([up]);
        }
        let outcome = match self.job.status {
            JobStatus::Successful => Some(own(REL_RESULTS, "/results", None, "Results of this job")),
            JobStatus::Failed => {
                Some(own(REL_EXCEPTIONS, "/results", Some("application/problem+json"), "Why this job failed"))
            }
            JobStatus::Accepted | JobStatus::Running | JobStatus::Dismissed => None,
        };
        let links = [
            Some(own("self", "", Some(JSON), "This job")),
            Some(own("monitor", "", Some(JSON), "Status of this job")),
            Some(up),
            outcome,
            Some(own(REL_LOG, "/logs", Some("text/plain"), "Log of this job")),
        ];
        serializer.collect_seq(links.into_iter().flatten())
    }
}

/// A link (`link.yaml`) to a job or what belongs to it.
#[derive(Serialize)]
struct JobLink<'a> {
    href: Href<'a>,
    rel: &'static str,
    #[serde(rename = "type", skip_serializing_if = "Option::is_none")]
    media_type: Option<&'static str>,
    title: &'static str,
}

/// The list, a job, or a resource below it.
struct Href<'a> {
    base: &'a Base,
    job: Option<JobId>,
    path: &'static str,
}

impl Serialize for Href<'_> {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        match self.job {
            Some(id) => serializer.collect_str(&format_args!("{}/jobs/{id}{}", self.base.0, self.path)),
            None => serializer.collect_str(&format_args!("{}/jobs", self.base.0)),
        }
    }
}

#[cfg(test)]
pub(super) fn sample(status: JobStatus) -> Job {
    Job {
        id: JobId::new(),
        process_id: "hello".parse().unwrap(),
        status,
        message: None,
        progress: None,
        caller: "anonymous".into(),
        created: Timestamp::from_millis(0),
        started: None,
        finished: None,
        updated: Timestamp::from_millis(1),
        removed: None,
        guarded: false,
    }
}

#[cfg(test)]
mod tests {
    use serde_json::{Value, json};

    use super::*;

    fn shown(job: &Job) -> (Value, Vec<String>) {
        let base = Base("http://h".to_owned());
        let value = json!(StatusInfo::new(job, &base));
        let rels =
            value["links"].as_array().unwrap().iter().map(|link| link["rel"].as_str().unwrap().to_owned()).collect();
        (value, rels)
    }

    #[test]
    fn a_superset_without_nulls() {
        let mut job = sample(JobStatus::Running);
        let (value, rels) = shown(&job);
        assert_eq!(value["jobID"], value["id"]);
        assert_eq!((&value["type"], &value["processID"]), (&json!("process"), &json!("hello")));
        assert_eq!(value["created"], "1970-01-01T00:00:00.000Z");
        assert!(value.as_object().unwrap().values().all(|member| !member.is_null()));
        assert!(value.get("finished").is_none() && value.get("progress").is_none());
        assert_eq!(rels, ["self", "monitor", "up", REL_LOG]);
        job.status = JobStatus::Successful;
        job.progress = Some(100);
        assert!(shown(&job).1.iter().any(|rel| rel == REL_RESULTS));
        assert_eq!(shown(&job).0["progress"], 100);
        job.status = JobStatus::Failed;
        assert!(shown(&job).1.iter().any(|rel| rel == REL_EXCEPTIONS));
        job.removed = Some(Timestamp::now());
        let (value, rels) = shown(&job);
        assert_eq!(value["status"], "dismissed");
        assert_eq!(rels, ["up"]);
    }
}
