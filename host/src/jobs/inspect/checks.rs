//! The checks. Each has its own deadline, and one that fails is a finding like any other.

use std::collections::{BTreeMap, HashMap, HashSet};
use std::time::Duration;

use futures::StreamExt as _;
use tokio::time::Instant;

use super::Severity::{Error, Note, Warning};
use super::{Finding, Remedy, Subject, chain, within};
use crate::archive::Archive;
use crate::core::job::UnfinishedJob;
use crate::core::{JobId, JobStatus, Timestamp};
use crate::jobs::read::{LOGS, RESULTS, id_in_key};
use crate::runner::inspection::{FoundObject, Inspection, Inspector, ObjectKind, Stage};
use crate::store::{JobStore, StoreError};

/// Rows and ids that are asked for at once.
const PAGE: u32 = 500;

/// How much later than it may a runner gives up a run.
const SEEN_WITHIN: Duration = Duration::from_secs(5);

/// Objects that one finding is about, at most; the next look finds the rest.
const MOST_OBJECTS: usize = 10_000;

/// Looks at everything that is not about one part alone are made of this.
struct Run<'a> {
    objects: Vec<&'a FoundObject>,
}

impl Run<'_> {
    /// Whether anything of it waits until we let it go.
    fn is_held(&self) -> bool {
        self.objects.iter().any(|object| object.held)
    }

    fn has_job(&self) -> bool {
        self.objects.iter().any(|object| matches!(object.kind, ObjectKind::Job | ObjectKind::Run))
    }

    /// Its launch was begun and not finished: as good as no run.
    fn is_incomplete(&self) -> bool {
        self.objects.iter().all(|object| object.stage == Stage::Incomplete)
    }

    /// A pod of it does not come to its end by itself.
    fn is_lost(&self) -> bool {
        self.objects.iter().any(|object| matches!(object.stage, Stage::Lost(_)))
    }

    /// Since when nothing of it runs.
    fn ended(&self) -> Option<Timestamp> {
        // A Job waits for the end of its pods before it says its own.
        let waits = |object: &FoundObject| object.kind == ObjectKind::Job && object.stage == Stage::Alive;
        let counted = self.objects.iter().filter(|object| !(self.is_lost() && waits(object)));
        let ends = counted.map(|object| match object.stage {
            Stage::Ended(since) | Stage::Lost(since) => Some(since),
            Stage::Alive | Stage::Incomplete => None,
        });
        // Of none at all: none.
        ends.collect::<Option<Vec<_>>>()?.into_iter().max()
    }

    /// `Job a, Pod b`.
    fn names(&self) -> String {
        let mut sorted = self.objects.clone();
        sorted.sort_by_key(|object| (object.kind, &object.name));
        let names: Vec<_> = sorted.iter().map(|object| format!("{} {}", object.kind.as_str(), object.name)).collect();
        names.join(", ")
    }
}

impl Subject {
    /// Everything that is found, the worst first. Nothing is changed.
    pub async fn look(&self) -> Vec<Finding> {
        let mut found = Vec::new();
        // The runner first: a row is there before its run, so that a run without one is no matter of time.
        let seen = self.look_at_runner(&mut found).await;
        let store = self.look_at_store(&mut found).await;
        let archive = self.look_at_archive(&mut found).await;
        if let Some(store) = store {
            if let (Some(seen), Ok(inspector)) = (&seen, &self.inspector) {
                if let Err(why) = within(self.limits.deadline, self.look_at_runs(store, seen, &mut found)).await {
                    found.push(unread_rows(&inspector.place(), &why));
                }
                let rows = self.look_at_rows(store, &**inspector, seen, &mut found);
                if let Err(why) = within(self.limits.deadline, rows).await {
                    found.push(unread_rows(&inspector.place(), &why));
                }
            }
            if let Some(archive) = archive {
                self.look_at_objects(store, archive, &mut found).await;
            }
        }
        found.sort_by_key(|finding| finding.severity);
        found
    }

    async fn look_at_runner(&self, found: &mut Vec<Finding>) -> Option<Inspection> {
        let inspector = match &self.inspector {
            Ok(inspector) => inspector,
            Err(unopened) => {
                found.push(unreachable("runner not reachable", &unopened.place, &unopened.why, RUNNER_DOWN));
                return None;
            }
        };
        match within(self.limits.deadline, inspector.missing_rights()).await {
            Ok(missing) => found.extend(missing.into_iter().map(|missing| {
                let meaning = format!(
                    "needed to {}; apply the Role of the manifests (k8s-manifests/base/role.yaml) for this identity",
                    missing.needed_to
                );
                Finding::new(Error, "missing right", format!("{} in {}", missing.right, inspector.place()), meaning)
            })),
            Err(why) => {
                found.push(unreachable("runner not reachable", &inspector.place(), &why, RUNNER_DOWN));
                return None;
            }
        }
        match within(self.limits.deadline, inspector.look()).await {
            Ok(seen) => {
                found.extend(
                    seen.unseen.iter().map(|why| Finding::new(Note, "not looked at", inspector.place(), why.as_str())),
                );
                Some(seen)
            }
            Err(why) => {
                found.push(unreachable("runner not reachable", &inspector.place(), &why, RUNNER_DOWN));
                None
            }
        }
    }

    async fn look_at_store(&self, found: &mut Vec<Finding>) -> Option<&dyn JobStore> {
        const WHAT: &str = "database not reachable";
        let store = match &self.store {
            Ok(store) => &**store,
            Err(unopened) => {
                found.push(unreachable(WHAT, &unopened.place, &unopened.why, STORE_DOWN));
                return None;
            }
        };
        let read = within(self.limits.deadline, store.unfinished(Timestamp::now(), None, 1)).await;
        let read = read.map(drop).map_err(|why| format!("it cannot be read: {why}"));
        let written = match read {
            // An embedded one is open for reading, beside its server.
            Ok(()) if store.is_shared() => {
                within(self.limits.deadline, store.ready()).await.map_err(|why| format!("it cannot be written: {why}"))
            }
            read => read,
        };
        match written {
            Ok(()) => Some(store),
            Err(why) => {
                found.push(unreachable(WHAT, "the database", &why, STORE_DOWN));
                None
            }
        }
    }

    async fn look_at_archive(&self, found: &mut Vec<Finding>) -> Option<&dyn Archive> {
        const WHAT: &str = "archive not reachable";
        match &self.archive {
            Ok(archive) => match within(self.limits.deadline, archive.ready()).await {
                Ok(()) => Some(&**archive),
                Err(why) => {
                    found.push(unreachable(WHAT, &archive.uri(""), &why, ARCHIVE_DOWN));
                    None
                }
            },
            Err(unopened) => {
                found.push(unreachable(WHAT, &unopened.place, &unopened.why, ARCHIVE_DOWN));
                None
            }
        }
    }

    /// Runs that nobody looks after, and Secrets that belong to none.
    async fn look_at_runs(
        &self,
        store: &dyn JobStore,
        seen: &Inspection,
        found: &mut Vec<Finding>,
    ) -> Result<(), StoreError> {
        let now = Timestamp::now();
        let runs = runs(seen);
        let ids: Vec<JobId> = runs.keys().copied().collect();
        let (mut known, mut finalized) = (HashSet::new(), HashSet::new());
        for some in ids.chunks(PAGE as usize) {
            known.extend(store.known(some).await?);
            finalized.extend(store.finalized(some).await?);
        }
        let settled = now - self.limits.settle;
        for (id, run) in &runs {
            let ended = run.ended().filter(|ended| *ended <= settled);
            let kind = if run.has_job() { "job without a row" } else { "pod without a row" };
            let (how, patience) = match run.is_lost() {
                true => (
                    "is being deleted, and its node does not say that it ended: it was to by",
                    self.inspector.as_ref().map_or(Duration::ZERO, |inspector| inspector.gives_up_after())
                        + SEEN_WITHIN,
                ),
                false => ("ended", Duration::ZERO),
            };
            match (known.contains(id), ended) {
                (false, None) if run.ended().is_some() => {}
                (false, Some(_)) if !run.is_held() => {}
                (false, None) => found.push(Finding::new(
                    Warning,
                    kind,
                    run.names(),
                    "it still runs, and this database does not know it: it is of another database (two servers with one kubernetes.job_name_prefix in a namespace), or its row was lost. \
                     Left alone while it runs; delete its Job to stop it, then look again",
                )),
                (false, Some(since)) => found.push(
                    Finding::new(
                        Warning,
                        kind,
                        run.names(),
                        format!("{how} {since}, held until a server records it, and this database does not know it: no server of this database will"),
                    )
                    .fixed_by(Remedy::Orphan(*id, patience), "store its log in the archive, then let it go"),
                ),
                (true, Some(since)) if run.is_held() => {
                    let meaning = match finalized.contains(id) {
                        true => format!("{how} {since}, and recorded, but not let go: no server is running, or it may not patch"),
                        false => format!("{how} {since}, and not recorded yet: no server is running, or it cannot store the log; its log says why"),
                    };
                    let finding = Finding::new(Warning, "run not let go", run.names(), meaning);
                    found.push(finding.fixed_by(Remedy::Finish(*id, patience), "store its log, record its end, let it go"));
                }
                (true, _) => {}
            }
        }
        let kept = now - self.limits.keep;
        let orphans = seen.objects.iter().filter(|one| one.kind == ObjectKind::Secret);
        let jobs: HashSet<JobId> = runs.iter().filter(|(_, run)| run.has_job()).map(|(id, _)| *id).collect();
        for secret in orphans.filter(|secret| !jobs.contains(&secret.job_id)) {
            let place = format!("Secret {}", secret.name);
            let meaning =
                "it holds the inputs of a job whose Job is gone; the cluster should have removed it with the Job";
            let finding = Finding::new(Warning, "secret without a job", place, meaning);
            found.push(match secret.created <= kept {
                true => finding.fixed_by(Remedy::Secret(secret.clone()), "delete it"),
                false => Finding {
                    meaning: format!("{meaning}; younger than a day, so it stays for now"),
                    severity: Note,
                    ..finding
                },
            });
        }
        Ok(())
    }

    /// Rows that wait for a run that is not there.
    async fn look_at_rows(
        &self,
        store: &dyn JobStore,
        inspector: &dyn Inspector,
        seen: &Inspection,
        found: &mut Vec<Finding>,
    ) -> Result<(), StoreError> {
        let present = runs(seen);
        let before = Timestamp::now() - self.limits.settle;
        let mut elsewhere: BTreeMap<String, usize> = BTreeMap::new();
        let mut after = None;
        loop {
            let page = store.unfinished(before, after, PAGE).await?;
            let Some(last) = page.last() else { break };
            after = Some(last.id);
            for row in page {
                if inspector.scope() != Some(row.runner.as_str()) {
                    *elsewhere.entry(row.runner).or_default() += 1;
                } else if present.get(&row.id).is_none_or(Run::is_incomplete) {
                    found.push(row_without_run(row, &inspector.place()));
                }
            }
        }
        found.extend(elsewhere.into_iter().map(|(runner, count)| {
            let meaning = format!("{count} unfinished jobs run there, which this configuration does not look at: look with the configuration of a server that does");
            Finding::new(Note, "jobs of another runner", runner, meaning)
        }));
        Ok(())
    }

    /// Objects in the archive under ids that the database does not know.
    async fn look_at_objects(&self, store: &dyn JobStore, archive: &dyn Archive, found: &mut Vec<Finding>) {
        let until = Instant::now() + self.limits.deadline;
        let kept = Timestamp::now() - self.limits.keep;
        let (mut strays, mut bytes, mut known, mut unknown, mut read) = (Vec::new(), 0_u64, 0_usize, 0_usize, 0_usize);
        let listed = archive.list(LOGS).chain(archive.list(RESULTS));
        let mut pages = listed.ready_chunks(PAGE as usize);
        loop {
            let page = match tokio::time::timeout_at(until, pages.next()).await {
                Ok(Some(page)) => page,
                Ok(None) => break,
                Err(_) => {
                    let meaning = format!(
                        "{read} objects were read in {} s, the rest was not looked at: give it more with --deadline",
                        self.limits.deadline.as_secs()
                    );
                    found.push(Finding::new(Note, "not looked at", archive.uri(""), meaning));
                    break;
                }
            };
            let mut by_job: HashMap<JobId, Vec<(String, u64, bool)>> = HashMap::new();
            for object in page {
                let object = match object {
                    Ok(object) => object,
                    Err(error) => {
                        let meaning = format!("objects without a job were not looked for: {}", chain(&error));
                        found.push(Finding::new(Note, "not looked at", archive.uri(""), meaning));
                        return;
                    }
                };
                read += 1;
                // What is not under an id is not ours.
                let Some(id) = id_in_key(&object.key) else { continue };
                by_job.entry(id).or_default().push((object.key, object.size, object.modified <= kept));
            }
            let ids: Vec<JobId> = by_job.keys().copied().collect();
            match within(self.limits.deadline, store.known(&ids)).await {
                Ok(rows) => rows.iter().for_each(|id| known += by_job.remove(id).map_or(0, |objects| objects.len())),
                Err(why) => return found.push(unread_rows(&archive.uri(""), &why)),
            }
            for (key, size, is_old) in by_job.into_values().flatten() {
                unknown += 1;
                if is_old && strays.len() < MOST_OBJECTS {
                    bytes += size;
                    strays.push(key);
                }
            }
            if strays.len() >= MOST_OBJECTS {
                break;
            }
        }
        if strays.is_empty() {
            return;
        }
        let place = format!(
            "{} objects, {bytes} bytes, the first {}",
            strays.len(),
            archive.uri(strays.first().map_or("", String::as_str))
        );
        let meaning = "logs and results of jobs that this database does not know, older than a day";
        found.push(if known < unknown && !self.limits.force {
            let meaning = format!(
                "{meaning}: {unknown} objects, but only {known} of jobs that it does know. Is this the right database? Then --fix --force removes them"
            );
            Finding::new(Warning, "objects without a job", place, meaning)
        } else {
            Finding::new(Warning, "objects without a job", place, meaning).fixed_by(Remedy::Objects(strays), "delete them")
        });
    }
}

const RUNNER_DOWN: &str = "No job starts or ends meanwhile; those that run go on, and nothing is lost";
const STORE_DOWN: &str =
    "The server answers nothing and records nothing meanwhile; jobs that run go on and are recorded later";
const ARCHIVE_DOWN: &str =
    "No job that ended is recorded or let go meanwhile; each is tried again, and nothing is lost";

fn unreachable(what: &'static str, place: &str, why: &str, consequence: &str) -> Finding {
    Finding::new(Error, what, place, format!("{why}. {consequence}"))
}

fn unread_rows(place: &str, why: &str) -> Finding {
    Finding::new(Error, "not looked at", place, format!("the database does not say which jobs it knows: {why}"))
}

fn row_without_run(row: UnfinishedJob, place: &str) -> Finding {
    let (meaning, fix) = match row.status {
        JobStatus::Running => (
            "it was running, and its run is gone: a running server records that within a minute",
            "record it as failed, its run lost",
        ),
        _ => (
            "it was accepted and not started: a running server starts it within seconds",
            "start it; or, where its secret inputs are lost, record it as failed",
        ),
    };
    let id = row.id;
    let meaning = format!("{meaning}, so no server looks after {place}");
    Finding::new(Warning, "row without a run", format!("job {id} ({})", row.status), meaning)
        .fixed_by(Remedy::Row(row), fix)
}

/// The objects of each job, Secrets left out.
fn runs(seen: &Inspection) -> BTreeMap<JobId, Run<'_>> {
    let mut runs: BTreeMap<JobId, Run<'_>> = BTreeMap::new();
    for object in seen.objects.iter().filter(|object| object.kind != ObjectKind::Secret) {
        runs.entry(object.job_id).or_insert_with(|| Run { objects: Vec::new() }).objects.push(object);
    }
    runs
}
