//! Who may see and dismiss a job: the role first, then the job's process where its entry wants to be asked.

use super::shape::refused;
use super::{Error, Jobs, require};
use crate::core::{Job, Principal, Role};
use crate::processor::{Action, ProcessorRequest};

/// One who wants to see or dismiss a job.
#[derive(Debug, Clone, Copy)]
pub struct Asker<'a> {
    /// Who asks.
    pub principal: &'a Principal,
    /// As in [`super::Submission::headers`].
    pub headers: &'a [(String, String)],
}

impl Jobs {
    /// Asks the job's process where its entry wants to be asked about reading and dismissing. A job that was guarded when it was accepted
    /// stays so: where no process has its id any more, or one that is not to be asked, only administrators get through.
    pub(super) async fn ask_process(&self, job: &Job, asker: Asker<'_>, action: Action) -> Result<(), Error> {
        let process = self.registry.get(job.process_id.as_str()).filter(|process| process.entry.authorize_reads);
        let Some(process) = process else {
            return if job.guarded { require(asker.principal, Role::Admin) } else { Ok(()) };
        };
        let asked = ProcessorRequest {
            action,
            job_id: Some(job.id),
            inputs: "{}".into(),
            outputs: Vec::new(),
            principal: asker.principal.clone(),
            headers: asker.headers.to_vec(),
        };
        process.authorize(&asked).await.map(|_| ()).map_err(refused)
    }

    /// Whether the list shows a job. Its process is not asked, which would take a call a row: a guarded job is listed for administrators
    /// and for the one whose token it was accepted with.
    pub(super) fn is_listed(&self, job: &Job, principal: &Principal) -> bool {
        let asks = || self.registry.get(job.process_id.as_str()).is_some_and(|process| process.entry.authorize_reads);
        if !job.guarded && !asks() {
            return true;
        }
        // Nobody is `anonymous`: all who come without a token have that name.
        principal.has(Role::Admin) || (principal.authenticated && principal.subject == job.caller)
    }
}
