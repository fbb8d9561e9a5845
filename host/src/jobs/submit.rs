//! From a request to a launched run: validate, authorize, shape, policy, one write, one launch.

use std::sync::Arc;
use std::time::Duration;

use serde_json::{Map, Value};
use sha2::{Digest as _, Sha256};
use tokio::sync::oneshot;

use super::launching::Held;
use super::shape::{Shaped, raw, shape};
use super::{DryRun, Error, Jobs, Submission};
use crate::core::job::{Idempotency, Inserted, StoredRequest, Transition};
use crate::core::{EndReason, ExecuteRequest, Job, JobId, JobPlan, JobStatus, NewJob, Role, Timestamp, secrets};
use crate::failpoint;
use crate::processor::Process;
use crate::runner::{Launch, Masked, RunnerError};
use crate::store::StoreError;

/// Attempts to launch a job whose secrets are nowhere but in memory, before it is given up.
const LAUNCH_ATTEMPTS: u32 = 12;

/// A request that passed every check.
struct Prepared {
    process: Arc<Process>,
    /// What was asked; its inputs without what must not be kept.
    request: ExecuteRequest,
    caller: String,
    launch: Launch,
}

impl Prepared {
    /// The plan without what must not be kept.
    fn plan(&self) -> JobPlan {
        JobPlan::clone(self.launch.masked.as_ref().map_or(&self.launch.plan, |masked| &masked.plan))
    }
}

/// What makes two requests the same: what the client asked for, and nothing that the process says of itself. Of what is kept: the
/// digest must not be a way to guess a secret.
fn fingerprint(request: &StoredRequest) -> Result<String, Error> {
    let mut asked = serde_json::to_value((&request.inputs, &request.outputs, request.response)).map_err(Error::Json)?;
    // A client may send members in any order (RFC 8259, section 4).
    asked.sort_all_objects();
    Ok(hex::encode(Sha256::digest(serde_json::to_vec(&asked).map_err(Error::Json)?)))
}

impl Jobs {
    /// Validates, authorizes, shapes, checks the policy, writes the row and launches the run. Answers the job, or the one of an earlier
    /// request with the same `Idempotency-Key`, when the row is durable and the run was launched or will be: while launches pile up, the
    /// answer does not wait for its own. `held` is dropped when the launch has ended: what the request takes of the memory is taken until
    /// then, whether its client waits or not.
    pub async fn submit(self: &Arc<Self>, submission: Submission<'_>, held: impl Send + 'static) -> Result<Job, Error> {
        let prepared = self.prepare(&submission).await?;
        let plan = prepared.plan();
        let Prepared { process, request, caller, launch } = prepared;
        let request = StoredRequest {
            inputs: Value::Object(request.inputs),
            outputs: request.outputs,
            response: request.response,
            declared: process.description.declared_outputs(),
            guarded: process.entry.authorize_reads,
        };
        let keyed =
            |key: &str| fingerprint(&request).map(|request_sha256| Idempotency { key: key.to_owned(), request_sha256 });
        let idempotency = submission.idempotency_key.map(keyed).transpose()?;
        let new = NewJob {
            id: launch.job_id,
            process_id: process.id.clone(),
            process_version: process.description.version.clone(),
            processor_digest: process.digest,
            caller,
            idempotency,
            request,
            plan,
            nonce: launch.nonce.clone(),
            // With anything taken out, row and plan are not enough to launch from.
            relaunchable: launch.masked.is_none(),
            runner: self.runner.scope().to_owned(),
            created: launch.created,
        };
        self.start(new, launch, held).await
    }

    /// Writes and launches in a task of its own: a client that goes away must not leave a row without a launch.
    async fn start(self: &Arc<Self>, new: NewJob, launch: Launch, held: impl Send + 'static) -> Result<Job, Error> {
        let place = Arc::clone(&self.starting).try_acquire_owned().map_err(|_| Error::Overloaded)?;
        let (written, is_written) = oneshot::channel();
        let jobs = Arc::clone(self);
        let begun = self.tasks.spawn(async move {
            let begun = jobs.begin(new, launch, written).await;
            drop((place, held));
            begun
        });
        let unlaunched = async {
            match is_written.await {
                Ok(job) => {
                    self.launching.patience().await;
                    job
                }
                Err(_) => std::future::pending().await,
            }
        };
        tokio::select! {
            biased;
            begun = begun => begun.unwrap_or_else(|failed| Err(Error::Task(failed))),
            job = unlaunched => Ok(job),
        }
    }

    /// All of [`Jobs::submit`] up to the plan; nothing is written. What the operator wrote into it is for operators to see.
    pub async fn dry_run(&self, submission: Submission<'_>) -> Result<DryRun, Error> {
        let prepared = self.prepare(&submission).await?;
        let mut plan = prepared.plan();
        if !submission.principal.has(Role::Deploy) {
            secrets::mask_literals(&mut plan);
        }
        let Prepared { process, caller, .. } = prepared;
        Ok(DryRun { process_id: process.id.clone(), processor_digest: process.digest, caller, plan })
    }

    /// Everything that can refuse a request, and what its run would be launched from. Nothing is written.
    async fn prepare(&self, submission: &Submission<'_>) -> Result<Prepared, Error> {
        let process = self
            .registry
            .get(submission.process_id)
            .ok_or_else(|| Error::NoSuchProcess(submission.process_id.chars().take(64).collect()))?;
        let shaped = shape(process, &self.policy, &self.settings.secret_names, submission).await?;
        let inputs = if shaped.request.inputs.is_empty() { None } else { Some(raw(&shaped.request.inputs)?) };
        let (kept, masked) = self.mask(&shaped)?;
        let Shaped { process, request, caller, plan } = shaped;
        let launch = Launch {
            job_id: JobId::new(),
            process_id: process.id.clone(),
            inputs,
            nonce: plan.results.nonce.then(|| uuid::Uuid::new_v4().simple().to_string()),
            plan: Arc::new(plan),
            created: Timestamp::now(),
            masked,
        };
        self.runner.check(&launch).map_err(|refused| match refused {
            RunnerError::Refused(why) => Error::NotRunnable(why),
            RunnerError::TooLarge { what, bytes, limit } => {
                Error::TooLarge { what, bytes: bytes as u64, limit: limit as u64 }
            }
            other => Error::Runner(other),
        })?;
        Ok(Prepared { process, request: ExecuteRequest { inputs: kept, ..request }, caller, launch })
    }

    /// The inputs without their secrets, and what may be seen of the launch where that is not all.
    fn mask(&self, shaped: &Shaped) -> Result<(Map<String, Value>, Option<Masked>), Error> {
        let names: Vec<String> =
            self.settings.secret_names.iter().chain(&shaped.process.entry.secret_inputs).cloned().collect();
        let inputs = secrets::mask_inputs(&shaped.process.description, &shaped.request.inputs, &names);
        if inputs.values.is_empty() && inputs.inputs == shaped.request.inputs {
            return Ok((inputs.inputs, None));
        }
        let (plan, in_plan) = secrets::mask_plan(&shaped.plan, &inputs.values);
        let is_lossy = in_plan || inputs.inputs != shaped.request.inputs;
        let masked = match is_lossy {
            true => Some(Masked { plan: Arc::new(plan), inputs: raw(&inputs.inputs)? }),
            false => None,
        };
        Ok((inputs.inputs, masked))
    }

    /// Intent first, then the side effect. `written` is told in between, unless the launch is all that keeps the run's secrets.
    async fn begin(self: Arc<Self>, new: NewJob, launch: Launch, written: oneshot::Sender<Job>) -> Result<Job, Error> {
        let mut job = Job {
            id: new.id,
            process_id: new.process_id.clone(),
            status: JobStatus::Accepted,
            message: None,
            progress: None,
            caller: new.caller.clone(),
            created: new.created,
            started: None,
            finished: None,
            updated: new.created,
            removed: None,
            guarded: new.request.guarded,
        };
        let lossy = !new.relaunchable;
        // The same request again finds this very job by its key, and repair launches it.
        let comes_again = new.idempotency.is_some() && new.relaunchable;
        let (held, _under_way) = (self.launching.hold(new.id), self.launching.under_way());
        match self.store.insert(new).await {
            Ok(Inserted::New) => metrics::counter!("vespiary_jobs_accepted_total").increment(1),
            Ok(Inserted::Existing(existing)) if existing.removed.is_some() => {
                return Err(Error::KeySpent(existing.id));
            }
            Ok(Inserted::Existing(existing)) => return Ok(*existing),
            Ok(Inserted::KeyReused) => return Err(Error::IdempotencyKeyReused),
            Err(cause) => {
                if matches!(cause, StoreError::Timeout(_) | StoreError::Unconfirmed(_)) && !comes_again {
                    // The row may appear yet, and the client is about to be told that it is not there.
                    let jobs = Arc::clone(&self);
                    self.tasks.spawn(async move { jobs.give_up(launch.job_id, held).await });
                }
                return Err(cause.into());
            }
        }
        failpoint::hit("submit-inserted");
        if !lossy {
            // From here on nothing but time is needed. Nobody listens when the client is gone.
            drop(written.send(job.clone()));
        }
        match self.runner.launch(&launch).await {
            Ok(()) => failpoint::hit("submit-launched"),
            Err(RunnerError::Refused(why)) => {
                match self.refuse(job.id, why).await {
                    Ok(failed) => job = failed.unwrap_or(job),
                    // Repair launches it once more, and is refused.
                    Err(cause) => {
                        tracing::warn!(job.id = %job.id, error = &cause as &dyn std::error::Error, "could not end a job whose launch was refused");
                    }
                }
            }
            Err(cause) => {
                tracing::warn!(job.id = %job.id, error = &cause as &dyn std::error::Error, "could not launch; tried again later");
                let message = "waiting: the runner is not available; the job is launched when it is".to_owned();
                // The answer may have been lost alone: the run may have started, and its job says so.
                if let Ok(Some(noted)) = self.store.wait(job.id, Some(message), Timestamp::now()).await {
                    job = noted;
                }
                if lossy {
                    let jobs = Arc::clone(&self);
                    self.tasks.spawn(async move { jobs.keep_launching(launch, held).await });
                }
            }
        }
        Ok(job)
    }

    /// Ends a job that can never be launched.
    pub(super) async fn fail_unlaunched(&self, id: JobId, why: String) -> Result<Option<Job>, Error> {
        let change = Transition {
            job_id: id,
            status: JobStatus::Failed,
            message: Some(why),
            reason: Some(EndReason::StartError),
            at: Timestamp::now(),
        };
        Ok(self.store.transition(change).await?.map(|(job, _)| job))
    }

    /// Ends a job whose launch is refused for good, and stops what may be there of its run all the same: what a launch has begun, or what
    /// somebody has let go.
    pub(super) async fn refuse(&self, id: JobId, why: String) -> Result<Option<Job>, Error> {
        let failed = self.fail_unlaunched(id, why).await?;
        if let Err(cause) = self.stop_stray(id).await {
            tracing::warn!(job.id = %id, error = &cause as &dyn std::error::Error, "could not stop what may be there of a run that was refused");
        }
        Ok(failed)
    }

    /// Ends a job whose insertion was not confirmed in time, should its row be there: its client was told to send it again.
    async fn give_up(&self, id: JobId, _held: Held) {
        let mut pause = Duration::from_millis(500);
        for _ in 0..LAUNCH_ATTEMPTS {
            let why = "the database did not confirm the job in time, and its client was told so".to_owned();
            let given_up = match self.fail_unlaunched(id, why).await {
                // Another replica may have found the row and launched it.
                Ok(Some(_)) => self.stop_stray(id).await.map(|()| true),
                // One writer does all in order: the row never comes. From elsewhere it may yet, out of a network that was silent.
                Ok(None) => Ok(!self.store.is_shared()),
                Err(cause) => Err(cause),
            };
            match given_up {
                Ok(true) => return,
                Ok(false) => {}
                Err(cause) => {
                    tracing::warn!(job.id = %id, error = &cause as &dyn std::error::Error, "could not give up a job");
                }
            }
            tokio::time::sleep(pause).await;
            pause = (pause * 2).min(Duration::from_secs(60));
        }
    }

    /// Launches a job whose secrets are kept nowhere, so that [`super::repair`] cannot do it. Other replicas see by the claim that
    /// somebody still tries.
    async fn keep_launching(&self, launch: Launch, _held: Held) {
        let id = launch.job_id;
        let owner = format!("{}/launch", self.owner);
        for _ in 0..LAUNCH_ATTEMPTS {
            match self.claim(id, &owner).await {
                Ok(Some(_)) => break,
                // Whoever looks after it now finds it too young to be given up.
                Ok(None) | Err(_) => tokio::time::sleep(Duration::from_millis(500)).await,
            }
        }
        // Without a database nobody else gives the job up, and nobody else can launch it.
        self.holding(id, &owner, None, self.try_launching(launch)).await;
        // Who finalizes the job need not wait for the claim to run out.
        let _ = self.store.unclaim(id, &owner).await;
    }

    async fn try_launching(&self, launch: Launch) {
        let mut pause = Duration::from_millis(500);
        for _ in 0..LAUNCH_ATTEMPTS {
            tokio::time::sleep(pause).await;
            pause = (pause * 2).min(Duration::from_secs(60));
            match self.store.job(launch.job_id).await {
                Ok(Some(job)) if job.status != JobStatus::Accepted => return,
                _ => {}
            }
            match self.runner.launch(&launch).await {
                Ok(()) => return,
                Err(RunnerError::Refused(why)) => {
                    let _ = self.refuse(launch.job_id, why).await;
                    return;
                }
                Err(cause) => {
                    tracing::warn!(job.id = %launch.job_id, error = &cause as &dyn std::error::Error, "could not launch; tried again later");
                }
            }
        }
        let why = "the runner was not available for too long; send the request again".to_owned();
        let _ = self.refuse(launch.job_id, why).await;
    }
}

#[cfg(test)]
mod tests {
    use std::time::Instant;

    use futures::future::join_all;

    use super::*;
    use crate::jobs::testing::{Bench, Log, SOON, new_job, request, well};
    use crate::jobs::{Pulse, Settings};
    use crate::store::JobStore as _;

    /// A network that was silent may deliver what was sent long ago.
    #[tokio::test]
    async fn a_row_that_comes_after_its_client_was_refused_is_given_up() {
        let bench = Bench::open(Settings::default()).await;
        let new = new_job();
        let id = new.id;
        let held = bench.jobs.launching.hold(id);
        let jobs = Arc::clone(&bench.jobs);
        let given_up = tokio::spawn(async move { jobs.give_up(id, held).await });
        tokio::time::sleep(Duration::from_millis(200)).await;
        assert!(!given_up.is_finished(), "it looks again");
        bench.store.insert(new).await.unwrap();
        tokio::time::timeout(SOON, given_up).await.unwrap().unwrap();
        assert_eq!(bench.store.job(id).await.unwrap().unwrap().status, JobStatus::Failed);
        assert_eq!(*bench.runs.cancelled.lock().unwrap(), [id]);
        // Where one writer does all in order there is nothing to wait for.
        bench.store.is_left_alone();
        let unknown = JobId::new();
        let soon = Duration::from_millis(400);
        tokio::time::timeout(soon, bench.jobs.give_up(unknown, bench.jobs.launching.hold(unknown))).await.unwrap();
    }

    #[tokio::test]
    async fn what_may_be_there_of_a_refused_run_is_stopped() {
        let bench = Bench::open(Settings::default()).await;
        let (id, done) = (bench.accepted().await.id, bench.ran(Log::Whole("")).await);
        bench.jobs.finish(done, &well(), Pulse::default(), ()).await.unwrap();
        let refused = async |id| bench.jobs.refuse(id, "somebody has let it go".to_owned()).await.unwrap().unwrap();
        assert_eq!(refused(id).await.status, JobStatus::Failed);
        assert_eq!(refused(done).await.status, JobStatus::Successful, "it was captured meanwhile");
        assert_eq!(*bench.runs.cancelled.lock().unwrap(), [id]);
        let other = bench.accepted().await.id;
        bench.runs.cancels_that_fail.store(1, std::sync::atomic::Ordering::Relaxed);
        assert_eq!(refused(other).await.message.as_deref(), Some("somebody has let it go"));
    }

    fn launch_of(new: &NewJob) -> Launch {
        Launch {
            job_id: new.id,
            process_id: new.process_id.clone(),
            plan: Arc::new(new.plan.clone()),
            inputs: None,
            nonce: None,
            created: new.created,
            masked: None,
        }
    }

    /// Starts a job: how long its answer took.
    async fn started(bench: &Bench, relaunchable: bool) -> Duration {
        let new = NewJob { relaunchable, ..new_job() };
        let (launch, began) = (launch_of(&new), Instant::now());
        assert_eq!(bench.jobs.start(new, launch, ()).await.unwrap().status, JobStatus::Accepted);
        began.elapsed()
    }

    #[tokio::test]
    async fn answers_do_not_wait_for_launches_that_pile_up() {
        const LAUNCH: Duration = Duration::from_secs(2);
        let bench = Bench::open(Settings::default()).await;
        *bench.runs.launch_takes.lock().unwrap() = LAUNCH;
        assert!(started(&bench, true).await >= LAUNCH, "the answer tells what became of a single launch");
        let took = join_all((0..60).map(|_| started(&bench, true))).await;
        let waited = took.iter().filter(|took| **took >= LAUNCH).count();
        assert!(waited < 8, "{waited} of {} waited", took.len());
        // What is kept nowhere but here is not promised before it is launched.
        assert!(started(&bench, false).await >= LAUNCH);
        bench.jobs.drain(SOON).await;
        assert_eq!(bench.runs.launched.lock().unwrap().len(), 62, "each was launched, once");
    }

    #[tokio::test]
    async fn a_launch_that_is_refused_behind_its_answer_fails_the_job() {
        let bench = Bench::open(Settings::default()).await;
        *bench.runs.launch_takes.lock().unwrap() = Duration::from_secs(1);
        bench.runs.launches_are_refused.store(true, std::sync::atomic::Ordering::Relaxed);
        join_all((0..20).map(|_| started(&bench, true))).await;
        bench.jobs.drain(SOON).await;
        let launched = bench.runs.launched.lock().unwrap().clone();
        assert_eq!(launched.len(), 20);
        for id in launched {
            assert_eq!(bench.stands(id).await, (JobStatus::Failed, Some("a test said so".to_owned())));
        }
    }

    #[tokio::test]
    async fn a_key_whose_job_was_removed_makes_no_other() {
        let bench = Bench::open(Settings::default()).await;
        let idempotency = Some(Idempotency { key: "once".to_owned(), request_sha256: "same".to_owned() });
        let again = || NewJob { idempotency: idempotency.clone(), ..new_job() };
        let start = async |new: NewJob| {
            let launch = launch_of(&new);
            bench.jobs.start(new, launch, ()).await
        };
        let id = start(again()).await.unwrap().id;
        bench.runs.set(id, Log::Whole(""));
        bench.jobs.finish(id, &well(), Pulse::default(), ()).await.unwrap();
        assert_eq!(start(again()).await.unwrap().id, id);
        bench.store.remove(id, Timestamp::now()).await.unwrap();
        assert!(matches!(start(again()).await, Err(Error::KeySpent(removed)) if removed == id));
        assert_eq!(*bench.runs.launched.lock().unwrap(), [id]);
    }

    #[tokio::test]
    async fn an_answer_waits_for_a_launch_that_hangs_for_a_while_only() {
        let bench = Bench::open(Settings::default()).await;
        *bench.runs.launch_takes.lock().unwrap() = SOON;
        let took = started(&bench, true).await;
        assert!(took < SOON / 2, "{took:?}");
    }

    #[test]
    fn a_request_is_the_same_whatever_became_of_the_process() {
        let asked = fingerprint(&request()).unwrap();
        let redeployed = StoredRequest { declared: serde_json::json!({ "other": {} }), guarded: true, ..request() };
        assert_eq!(fingerprint(&redeployed).unwrap(), asked);
        let of = |inputs: Value| fingerprint(&StoredRequest { inputs, ..request() }).unwrap();
        assert_ne!(of(serde_json::json!({ "n": 1 })), asked);
        let ordered = of(serde_json::json!({ "a": [{ "b": 1, "c": [2, 3] }], "d": "e" }));
        assert_eq!(of(serde_json::json!({ "d": "e", "a": [{ "c": [2, 3], "b": 1 }] })), ordered);
        assert_ne!(of(serde_json::json!({ "a": [{ "b": 1, "c": [3, 2] }], "d": "e" })), ordered);
        assert_ne!(of(serde_json::json!({ "a": [{ "b": 1 }, { "c": [2, 3] }], "d": "e" })), ordered);
    }
}
