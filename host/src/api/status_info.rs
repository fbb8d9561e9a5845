//! `statusInfo.yaml` of a job: the members of 1.0 and, beside them, those that 2.0 renamed. Absent values are left out, never null.

use serde::Serialize;

use super::links::{Base, Link, REL_EXCEPTIONS, REL_LOG, REL_RESULTS};
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
    links: Vec<Link>,
}

impl<'a> StatusInfo<'a> {
    /// The job as it stands. One that was removed is shown as dismissed and links to the list only: nothing else is left of it.
    pub(super) fn new(job: &'a Job, base: &Base) -> Self {
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
            links: if removed { vec![up(base)] } else { links(job, base) },
        }
    }
}

fn up(base: &Base) -> Link {
    Link::json("up", base.path("/jobs"), "All jobs")
}

fn links(job: &Job, base: &Base) -> Vec<Link> {
    let mut links = vec![
        Link::json("self", base.job(job.id), "This job"),
        Link::json("monitor", base.job(job.id), "Status of this job"),
        up(base),
    ];
    match job.status {
        JobStatus::Successful => {
            links.push(Link {
                media_type: None,
                ..Link::json(REL_RESULTS, base.results(job.id), "Results of this job")
            });
        }
        JobStatus::Failed => links.push(Link {
            media_type: Some("application/problem+json"),
            ..Link::json(REL_EXCEPTIONS, base.results(job.id), "Why this job failed")
        }),
        JobStatus::Accepted | JobStatus::Running | JobStatus::Dismissed => {}
    }
    let log = format!("{}/logs", base.job(job.id));
    links.push(Link { media_type: Some("text/plain"), ..Link::json(REL_LOG, log, "Log of this job") });
    links
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
    }
}

#[cfg(test)]
mod tests {
    use serde_json::{Value, json};

    use super::*;

    fn shown(job: &Job) -> (Value, Vec<String>) {
        let value = json!(StatusInfo::new(job, &Base("http://h".to_owned())));
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
