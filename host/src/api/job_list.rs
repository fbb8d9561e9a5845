//! A page of the job list (`jobList.yaml`), written as text: the links are most of it, and those of two jobs in the same status differ in
//! the job's id alone. Making each anew would take longer than reading the jobs.

use super::links::{Base, Link};
use super::status_info::{JobLinks, StatusInfo};
use crate::core::{Job, JobStatus};

/// About what a job takes.
const JOB_BYTES: usize = 1200;

/// The links of all jobs in one status: the text before, between and behind the places of the id.
struct Template {
    status: JobStatus,
    removed: bool,
    parts: Vec<String>,
}

impl Template {
    fn of(job: &Job, base: &Base) -> serde_json::Result<Self> {
        let links = serde_json::to_string(&JobLinks { job, base })?;
        let parts = links.split(&job.id.to_string()).map(str::to_owned).collect();
        Ok(Self { status: job.status, removed: job.removed.is_some(), parts })
    }

    fn fits(&self, job: &Job) -> bool {
        self.status == job.status && self.removed == job.removed.is_some()
    }

    fn write(&self, id: &str, out: &mut Vec<u8>) {
        for (number, part) in self.parts.iter().enumerate() {
            if number > 0 {
                out.extend_from_slice(id.as_bytes());
            }
            out.extend_from_slice(part.as_bytes());
        }
    }
}

/// The document with these jobs, and these links of its own.
pub(super) fn write(jobs: &[Job], links: &[Link], base: &Base) -> serde_json::Result<Vec<u8>> {
    let mut out = Vec::with_capacity(jobs.len().saturating_mul(JOB_BYTES).saturating_add(JOB_BYTES));
    let mut templates: Vec<Template> = Vec::new();
    out.extend_from_slice(b"{\"jobs\":[");
    for (number, job) in jobs.iter().enumerate() {
        if number > 0 {
            out.push(b',');
        }
        let place = match templates.iter().position(|template| template.fits(job)) {
            Some(place) => place,
            None => {
                templates.push(Template::of(job, base)?);
                templates.len() - 1
            }
        };
        serde_json::to_writer(&mut out, &StatusInfo::without_links(job))?;
        // Its last brace, to go on behind the members.
        out.pop();
        out.extend_from_slice(b",\"links\":");
        if let Some(template) = templates.get(place) {
            template.write(&job.id.to_string(), &mut out);
        }
        out.push(b'}');
    }
    out.extend_from_slice(b"],\"links\":");
    serde_json::to_writer(&mut out, links)?;
    out.push(b'}');
    Ok(out)
}

#[cfg(test)]
mod tests {
    use serde_json::{Value, json};

    use super::*;
    use crate::api::status_info::sample;
    use crate::core::Timestamp;

    #[test]
    fn a_page_holds_what_each_job_is_alone() {
        let base = Base("https://h.example/\"base".to_owned());
        let mut jobs: Vec<Job> = JobStatus::ALL.into_iter().chain(JobStatus::ALL).map(sample).collect();
        jobs[1].message = Some("a \"message\"\n, { }".to_owned());
        jobs[2].removed = Some(Timestamp::from_millis(5));
        jobs[3].started = Some(Timestamp::from_millis(7));
        let links = [Link::json("self", base.path("/jobs?limit=10"), "This document")];
        let page: Value = serde_json::from_slice(&write(&jobs, &links, &base).unwrap()).unwrap();
        let alone: Vec<Value> = jobs.iter().map(|job| json!(StatusInfo::new(job, &base))).collect();
        assert_eq!(page, json!({ "jobs": alone, "links": links }));
        let none = write(&[], &[], &base).unwrap();
        assert_eq!(serde_json::from_slice::<Value>(&none).unwrap(), json!({ "jobs": [], "links": [] }));
    }
}
