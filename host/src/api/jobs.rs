//! `/jobs`: the list with its filters, one job, its receipt, and its dismissal.

use std::ops::RangeInclusive;
use std::sync::Arc;

use axum::extract::State;
use axum::response::Response;
use http::StatusCode;

use super::access::{Asking, Caller};
use super::links::{Base, Link};
use super::negotiate::AnswerJson;
use super::problem::Problem;
use super::query::{Path, Query};
use super::status_info::StatusInfo;
use super::{ApiState, cursor, job_list, json_answer, json_response, unwritten};
use crate::core::{JobFilter, JobStatus, Timestamp};

/// The parameters of the list.
const PARAMETERS: [&str; 8] =
    ["type", "processID", "status", "datetime", "minDuration", "maxDuration", "limit", cursor::NAME];

/// `GET /jobs` (`jobList.yaml`).
pub(super) async fn list(
    State(state): State<ApiState>,
    Caller(caller): Caller,
    base: Base,
    _: AnswerJson,
    query: Query,
) -> Result<Response, Problem> {
    query.only(&PARAMETERS)?;
    let filter = filter(&query)?;
    let limit = query.limit(state.settings().default_page_limit, state.settings().max_page_limit)?;
    let after = query.one(cursor::NAME)?.map(cursor::job).transpose()?;
    let page = state.jobs().list(&caller, &filter, after, limit).await?;
    let mut links = vec![Link::json("self", base.query("/jobs", query.all()), "This document")];
    if let Some(next) = page.next {
        let cursor = cursor::of_job(next);
        let parameters = query.without(cursor::NAME).chain([(cursor::NAME, cursor.as_str())]);
        links.push(Link::json("next", base.query("/jobs", parameters), "The next page"));
    }
    Ok(json_response(StatusCode::OK, job_list::write(&page.jobs, &links, &base).map_err(unwritten)?))
}

/// `GET /jobs/{job}` (`statusInfo.yaml`).
pub(super) async fn one(
    State(state): State<ApiState>,
    asking: Asking,
    Path(id): Path<String>,
    base: Base,
    _: AnswerJson,
) -> Result<Response, Problem> {
    let job = state.jobs().job(asking.asker(), &id).await?;
    json_answer(StatusCode::OK, &StatusInfo::new(&job, &base))
}

/// `DELETE /jobs/{job}`: stops a job that has not ended, removes one that has.
pub(super) async fn dismiss(
    State(state): State<ApiState>,
    asking: Asking,
    Path(id): Path<String>,
    base: Base,
    _: AnswerJson,
) -> Result<Response, Problem> {
    let jobs = Arc::clone(state.jobs());
    let job = state.detach(async move { jobs.dismiss(asking.asker(), &id).await }).await??;
    json_answer(StatusCode::OK, &StatusInfo::new(&job, &base))
}

/// `GET /jobs/{job}/receipt`: what was captured of the log.
pub(super) async fn receipt(
    State(state): State<ApiState>,
    asking: Asking,
    Path(id): Path<String>,
    _: AnswerJson,
) -> Result<Response, Problem> {
    json_answer(StatusCode::OK, &state.jobs().receipt(asking.asker(), &id).await?)
}

/// The filters of the list (OGC API - Processes 1.0, 11.1).
fn filter(query: &Query) -> Result<JobFilter, Problem> {
    if query.list("type")?.iter().any(|kind| *kind != "process") {
        return Err(Problem::query("type", "must be 'process'"));
    }
    let mut filter = JobFilter::default();
    for id in query.list("processID")? {
        filter.process_ids.push(id.parse().map_err(|error| Problem::query("processID", &format!("{error}")))?);
    }
    for word in query.list("status")? {
        let known = || JobStatus::ALL.map(JobStatus::as_str).join(", ");
        let status =
            JobStatus::parse(word).ok_or_else(|| Problem::query("status", &format!("must be one of {}", known())))?;
        filter.statuses.push(status);
    }
    if let Some(text) = query.one("datetime")? {
        filter.created = Some(datetime(text).ok_or_else(|| {
            Problem::query("datetime", "must be an RFC 3339 date-time 'a' or an interval 'a/b', 'a/..' or '../b' that does not end before it begins")
        })?);
    }
    filter.min_duration_seconds = query.number("minDuration")?;
    filter.max_duration_seconds = query.number("maxDuration")?;
    Ok(filter)
}

/// An instant or an interval, open at one end at most; both ends belong to it.
fn datetime(text: &str) -> Option<RangeInclusive<Timestamp>> {
    let open = |text: &str| matches!(text, "" | "..");
    let (first, last) = match text.split_once('/') {
        None => {
            let instant = instant(text)?;
            return Some(instant..=instant);
        }
        Some((first, last)) if open(first) && open(last) => return None,
        Some((first, last)) if open(first) => (Timestamp::from_millis(i64::MIN), instant(last)?),
        Some((first, last)) if open(last) => (instant(first)?, Timestamp::from_millis(i64::MAX)),
        Some((first, last)) => (instant(first)?, instant(last)?),
    };
    (first <= last).then_some(first..=last)
}

fn instant(text: &str) -> Option<Timestamp> {
    // The plus of an offset arrives as a blank where the client did not encode it.
    match text.rsplit_once(' ') {
        Some((date_time, offset)) if date_time.contains(['T', 't']) => {
            Timestamp::parse(&format!("{date_time}+{offset}"))
        }
        _ => Timestamp::parse(text),
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn of(query: &str) -> Result<JobFilter, Problem> {
        filter(&Query::parse(query)?)
    }

    #[test]
    fn filters_are_read_as_the_standard_says() {
        let read =
            of("type=process&processID=a,b&processID=c&status=running,failed&minDuration=1&maxDuration=9").unwrap();
        assert_eq!(read.process_ids.iter().map(|id| id.as_str()).collect::<Vec<_>>(), ["a", "b", "c"]);
        assert_eq!(read.statuses, [JobStatus::Running, JobStatus::Failed]);
        assert_eq!((read.min_duration_seconds, read.max_duration_seconds), (Some(1), Some(9)));
        assert_eq!(of("").unwrap(), JobFilter::default());
        for wrong in [
            "type=wps",
            "type=",
            "processID=a/b",
            "status=done",
            "status=running,,failed",
            "minDuration=-1",
            "maxDuration=1.5",
            "datetime=",
        ] {
            assert!(of(wrong).is_err(), "{wrong}");
        }
    }

    #[test]
    fn intervals_are_closed_and_open_at_one_end() {
        let (a, b) = ("2026-01-01T00:00:00Z", "2026-01-02T00:00:00Z");
        let (ta, tb) = (Timestamp::parse(a).unwrap(), Timestamp::parse(b).unwrap());
        let (first, last) = (Timestamp::from_millis(i64::MIN), Timestamp::from_millis(i64::MAX));
        assert_eq!(datetime(a), Some(ta..=ta));
        assert_eq!(datetime(&format!("{a}/{b}")), Some(ta..=tb));
        for open in ["", ".."] {
            assert_eq!(datetime(&format!("{a}/{open}")), Some(ta..=last));
            assert_eq!(datetime(&format!("{open}/{b}")), Some(first..=tb));
        }
        assert_eq!(datetime("2026-01-01T01:00:00 01:00"), Some(ta..=ta));
        for wrong in ["/", "../..", "..", &format!("{b}/{a}"), "2026-01-01", &format!("{a}/{b}/{a}"), "x/..", "now"] {
            assert_eq!(datetime(wrong), None, "{wrong}");
        }
    }

    proptest! {
        #[test]
        fn any_datetime_is_read_or_refused(text in "\\PC{0,40}") {
            let _ = datetime(&text);
        }
    }
}
