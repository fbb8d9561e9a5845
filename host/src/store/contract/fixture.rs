//! Values that the promises are tried with.

use serde_json::json;

use crate::core::job::{Idempotency, StoredRequest, Transition};
use crate::core::request::{OutputSelection, ResponseMode};
use crate::core::{
    CaptureReceipt, Digest, EndReason, ExitState, FinalRecord, JobId, JobPlan, JobStatus, NewJob, OutputBody,
    OutputRecord, Timestamp,
};

pub(in crate::store) fn at(millis: i64) -> Timestamp {
    Timestamp::from_millis(millis)
}

pub(in crate::store) fn job(process: &str, caller: &str, created: i64) -> NewJob {
    NewJob {
        id: JobId::new(),
        process_id: process.parse().unwrap(),
        process_version: "1.2.3".to_owned(),
        processor_digest: Digest::of(process.as_bytes()),
        caller: caller.to_owned(),
        idempotency: None,
        request: StoredRequest {
            guarded: true,
            inputs: json!({"name": "Ä \u{0}\n'; drop table jobs; --", "list": [1, 2.5, null, {"deep": true}]}),
            outputs: OutputSelection::default(),
            response: ResponseMode::Document,
            declared: json!({"result": {"schema": {"type": "string"}}}),
        },
        plan: JobPlan { retries: 3, deadline_seconds: Some(60), ..JobPlan::default() },
        nonce: Some("n0nce".to_owned()),
        relaunchable: true,
        runner: "local".to_owned(),
        created: at(created),
    }
}

pub(in crate::store) fn keyed(caller: &str, process: &str, key: &str, request: &str) -> NewJob {
    let idempotency = Some(Idempotency { key: key.to_owned(), request_sha256: request.to_owned() });
    NewJob { idempotency, ..job(process, caller, 1_000) }
}

pub(in crate::store) fn to(id: JobId, status: JobStatus, millis: i64) -> Transition {
    let reason = (status == JobStatus::Dismissed).then_some(EndReason::Cancelled);
    Transition { job_id: id, status, message: Some(format!("now {status}")), reason, at: at(millis) }
}

pub(in crate::store) fn inline(id: &str, bytes: &'static [u8]) -> OutputRecord {
    OutputRecord {
        id: id.to_owned(),
        media_type: "application/octet-stream".to_owned(),
        size: bytes.len().try_into().unwrap(),
        sha256: Digest::of(bytes).hex(),
        body: OutputBody::Inline(bytes.into()),
    }
}

pub(in crate::store) fn archived(id: &str, key: &str) -> OutputRecord {
    OutputRecord { size: 5_000_000_000, body: OutputBody::Archived { key: key.to_owned() }, ..inline(id, b"") }
}

pub(in crate::store) fn receipt(id: JobId) -> CaptureReceipt {
    CaptureReceipt {
        key: format!("logs/{id}"),
        uri: format!("file:///archive/logs/{id}"),
        bytes: 4_294_967_297,
        lines: 7,
        sha256: Digest::of(b"log").hex(),
        complete: false,
        missing: Some("rotated away".to_owned()),
        captured: at(9_000),
    }
}

/// A run that started at 2,000 and ended at 5,000, with a captured log.
pub(in crate::store) fn record(id: JobId, status: JobStatus, outputs: Vec<OutputRecord>) -> FinalRecord {
    let is_success = status == JobStatus::Successful;
    let exit = ExitState {
        reason: if is_success { EndReason::Completed } else { EndReason::OomKilled },
        container: Some("main".to_owned()),
        exit_code: Some(if is_success { 0 } else { 137 }),
        signal: None,
        message: "the container ended".to_owned(),
        started: Some(at(2_000)),
        finished: at(5_000),
    };
    FinalRecord {
        owner: None,
        job_id: id,
        status,
        message: Some(format!("ended: {status}")),
        exit: Some(exit),
        receipt: Some(receipt(id)),
        outputs,
        finished: at(5_000),
    }
}

/// Numbers that look random and are the same each time (xorshift64*).
pub(in crate::store) struct Dice(pub(in crate::store) u64);

impl Dice {
    pub(in crate::store) fn below(&mut self, bound: usize) -> usize {
        self.0 ^= self.0 >> 12;
        self.0 ^= self.0 << 25;
        self.0 ^= self.0 >> 27;
        (self.0.wrapping_mul(0x2545_F491_4F6C_DD1D) >> 33) as usize % bound
    }

    pub(in crate::store) fn one_in(&mut self, bound: usize) -> bool {
        self.below(bound) == 0
    }
}
