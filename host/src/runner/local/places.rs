//! Which runs have a place and which wait for one, in the order of their jobs.
//!
//! Invariant: a run is in at most one of the two sets.

use std::collections::{BTreeMap, BTreeSet};
use std::time::Instant;

use crate::core::JobId;

/// The places of a runner.
#[derive(Debug)]
pub(super) struct Places {
    count: usize,
    live: BTreeSet<JobId>,
    /// With the time before which they are not tried.
    waiting: BTreeMap<JobId, Instant>,
}

impl Places {
    pub(super) fn new(count: usize) -> Self {
        Self { count, live: BTreeSet::new(), waiting: BTreeMap::new() }
    }

    /// What a run waits for, if all places are taken.
    pub(super) fn why_wait(&self) -> Option<String> {
        (self.live.len() >= self.count).then(|| format!("waiting for a free place: {} runs at once", self.count))
    }

    /// The runs that have one.
    pub(super) fn live(&self) -> Vec<JobId> {
        self.live.iter().copied().collect()
    }

    pub(super) fn is_idle(&self) -> bool {
        self.live.is_empty()
    }

    /// A new run takes a place if one is free and nobody waits; otherwise it waits.
    pub(super) fn enter(&mut self, id: JobId) -> bool {
        let free = self.waiting.is_empty() && self.live.len() < self.count;
        if free {
            self.live.insert(id);
        } else {
            self.waiting.insert(id, Instant::now());
        }
        free
    }

    /// A run that is alive has a place, even beyond the count: it was started under other settings.
    pub(super) fn occupy(&mut self, id: JobId) {
        self.waiting.remove(&id);
        self.live.insert(id);
    }

    /// A run waits and is not tried before this time.
    pub(super) fn wait_until(&mut self, id: JobId, time: Instant) {
        self.live.remove(&id);
        self.waiting.insert(id, time);
    }

    /// A run is over.
    pub(super) fn leave(&mut self, id: JobId) {
        self.live.remove(&id);
        self.waiting.remove(&id);
    }

    /// The next run that may start; it has a place now.
    pub(super) fn next(&mut self, now: Instant) -> Option<JobId> {
        if self.live.len() >= self.count {
            return None;
        }
        let id = self.waiting.iter().find(|(_, time)| **time <= now).map(|(id, _)| *id)?;
        self.occupy(id);
        Some(id)
    }

    /// When a run that waits may be tried, if a place is free.
    pub(super) fn next_try(&self) -> Option<Instant> {
        if self.live.len() >= self.count { None } else { self.waiting.values().min().copied() }
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;

    #[test]
    fn in_order_and_never_too_many() {
        let mut places = Places::new(2);
        let ids: Vec<_> = (0..5).map(|_| JobId::new()).collect();
        let mut sorted = ids;
        sorted.sort();
        assert!(places.enter(sorted[0]) && places.enter(sorted[1]));
        for id in [sorted[4], sorted[2], sorted[3]] {
            assert!(!places.enter(id));
        }
        let now = Instant::now();
        assert_eq!(places.next(now), None);
        places.leave(sorted[1]);
        assert_eq!(places.next(now), Some(sorted[2]));
        places.leave(sorted[0]);
        places.wait_until(sorted[3], now + Duration::from_secs(60));
        assert_eq!(places.next(now), Some(sorted[4]));
        places.leave(sorted[4]);
        assert_eq!(places.next(now), None);
        assert_eq!(places.next_try(), Some(now + Duration::from_secs(60)));
        // Whoever waits, a newcomer does not overtake.
        assert!(!places.enter(JobId::new()));
    }
}
