//! `vespiary uninstall`: lets every Job and pod of ours go, so that nothing stays `Terminating` when no server is left.
//!
//! Invariant: our finalizer is all that is taken away. What runs goes on, what is deleted goes.

use std::collections::HashSet;
use std::time::Duration;

use serde::Serialize;

use super::{Subject, within};
use crate::core::JobId;
use crate::runner::inspection::{FoundObject, Inspector, ObjectKind, PlaceFrom, Stage};

/// Looks, at most: a Job that runs makes pods that are held again.
const PASSES: usize = 5;

/// The pause between two looks.
const PAUSE: Duration = Duration::from_millis(500);

/// One object of ours that is or was held.
#[derive(Debug, Clone, Serialize)]
pub struct Held {
    /// What it is.
    pub kind: ObjectKind,
    /// Its name.
    pub name: String,
    /// Whose it is.
    pub job_id: JobId,
    /// What its job's state means for letting it go.
    pub state: HeldState,
    /// Whether our finalizer was taken off.
    pub released: bool,
    /// Why it was not.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub why_not: Option<String>,
}

/// How far the job of a held object is.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
#[serde(rename_all = "lowercase")]
pub enum HeldState {
    /// It waits or runs.
    Unfinished,
    /// It has ended; its log and result are not recorded.
    Unrecorded,
    /// Nothing is lost with it.
    Recorded,
}

impl HeldState {
    /// `unfinished`, `unrecorded` or `recorded`.
    #[must_use]
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Unfinished => "unfinished",
            Self::Unrecorded => "unrecorded",
            Self::Recorded => "recorded",
        }
    }
}

/// What was found and done.
#[derive(Debug, Clone, Serialize)]
pub struct Leaving {
    /// Where.
    pub place: String,
    /// Who said so.
    pub place_from: PlaceFrom,
    /// Every object that was held.
    pub held: Vec<Held>,
    /// Names of Jobs that have not ended. A pod that they make later is held again, and then by nobody let go.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub unfinished: Vec<String>,
    /// Why nothing was let go, where that was asked for.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub refused: Option<String>,
}

impl Leaving {
    /// Whether nothing is held any more.
    #[must_use]
    pub fn is_free(&self) -> bool {
        self.held.iter().all(|one| one.released)
    }

    /// Whether nothing of ours is there, in a place that nobody has named: perhaps the wrong one.
    #[must_use]
    pub fn is_doubtful(&self) -> bool {
        self.held.is_empty() && self.unfinished.is_empty() && self.place_from == PlaceFrom::Kubeconfig
    }
}

/// Lists what is held; with `release` lets it go, unless jobs are unfinished and `force` is not given.
///
/// # Errors
/// Why the runner's objects cannot be seen.
pub async fn leave(subject: &Subject, release: bool, force: bool) -> Result<Leaving, String> {
    let inspector = subject.inspector.as_deref().map_err(|unopened| format!("{}: {}", unopened.place, unopened.why))?;
    let (place, place_from) = (inspector.place(), inspector.place_from());
    let mut leaving = Leaving { place, place_from, held: Vec::new(), unfinished: Vec::new(), refused: None };
    let all = look(subject, inspector).await?;
    leaving.unfinished = unfinished(&all);
    let seen = held(all);
    // Without the database everything that has ended counts as not recorded.
    let recorded = recorded(subject, &seen).await;
    leaving.held = seen.iter().map(|object| entry(object, recorded.as_ref().ok())).collect();
    if !release {
        return Ok(leaving);
    }
    let open: HashSet<JobId> =
        leaving.held.iter().filter(|one| one.state != HeldState::Recorded).map(|one| one.job_id).collect();
    if !open.is_empty() && !force {
        let unasked =
            recorded.err().map(|why| format!(" (the database could not be asked: {why})")).unwrap_or_default();
        leaving.refused = Some(format!(
            "{} jobs are not finished and recorded{unasked}: their logs and results would be lost. Let a server finish them, or say --force",
            open.len()
        ));
        return Ok(leaving);
    }
    let mut next = seen;
    for pass in 0..PASSES {
        if pass > 0 {
            tokio::time::sleep(PAUSE).await;
            let all = look(subject, inspector).await?;
            leaving.unfinished = unfinished(&all);
            next = held(all);
        }
        if next.is_empty() {
            break;
        }
        // Jobs first: one that is let go while it is being deleted makes no pod any more.
        next.sort_by_key(|object| object.kind);
        for object in &next {
            let outcome = within(subject.limits.deadline, inspector.let_go(object)).await;
            let mut one = entry(object, None);
            one.released = outcome.is_ok();
            one.why_not = outcome.err();
            match leaving.held.iter_mut().find(|held| held.kind == one.kind && held.name == one.name) {
                Some(known) => (known.released, known.why_not) = (one.released, one.why_not),
                None => leaving.held.push(one),
            }
        }
    }
    Ok(leaving)
}

async fn look(subject: &Subject, inspector: &dyn Inspector) -> Result<Vec<FoundObject>, String> {
    Ok(within(subject.limits.deadline, inspector.look()).await?.objects)
}

fn held(mut seen: Vec<FoundObject>) -> Vec<FoundObject> {
    seen.retain(|object| object.held && matches!(object.kind, ObjectKind::Job | ObjectKind::Pod));
    seen
}

/// Suspended, waiting for a pod, or to be tried again: our finalizer stands in their pods' template, which cannot be changed.
fn unfinished(seen: &[FoundObject]) -> Vec<String> {
    let goes_on = |object: &&FoundObject| {
        object.kind == ObjectKind::Job && matches!(object.stage, Stage::Alive | Stage::Incomplete)
    };
    seen.iter().filter(goes_on).map(|job| job.name.clone()).collect()
}

/// The jobs of these objects whose record is complete.
async fn recorded(subject: &Subject, seen: &[FoundObject]) -> Result<HashSet<JobId>, String> {
    let mut ids: Vec<JobId> = seen.iter().map(|object| object.job_id).collect();
    ids.sort_unstable();
    ids.dedup();
    let mut found = HashSet::new();
    for some in ids.chunks(500) {
        let store = subject.store.as_ref().map_err(|unopened| unopened.why.clone())?;
        found.extend(within(subject.limits.deadline, store.finalized(some)).await?);
    }
    Ok(found)
}

fn entry(object: &FoundObject, recorded: Option<&HashSet<JobId>>) -> Held {
    let state = match object.stage {
        _ if recorded.is_some_and(|recorded| recorded.contains(&object.job_id)) => HeldState::Recorded,
        Stage::Ended(_) | Stage::Lost(_) => HeldState::Unrecorded,
        Stage::Alive | Stage::Incomplete => HeldState::Unfinished,
    };
    let (name, job_id) = (object.name.clone(), object.job_id);
    Held { kind: object.kind, name, job_id, state, released: false, why_not: None }
}
