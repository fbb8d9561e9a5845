//! The OGC status of a job and the one table of its transitions.
//!
//! ```text
//! accepted ──► running ──► successful
//!    │  │         ├──────► failed
//!    │  │         └──────► dismissed
//!    │  └── (ended before anyone saw it run) ──► successful, failed
//!    └─────────────────────► dismissed
//! ```

use std::fmt;

use serde::{Deserialize, Serialize};

/// `statusCode.yaml` of OGC API - Processes 1.0.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum JobStatus {
    /// Stored, and not yet seen to run.
    Accepted,
    /// A container of it has started.
    Running,
    /// Ended well, its record is complete and its outputs are readable.
    Successful,
    /// Ended badly, or could not be started; the message says why.
    Failed,
    /// Stopped on request.
    Dismissed,
}

impl JobStatus {
    /// All of them, in the order of a job's life.
    pub const ALL: [Self; 5] = [Self::Accepted, Self::Running, Self::Successful, Self::Failed, Self::Dismissed];

    /// The word of the standard.
    #[must_use]
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Accepted => "accepted",
            Self::Running => "running",
            Self::Successful => "successful",
            Self::Failed => "failed",
            Self::Dismissed => "dismissed",
        }
    }

    /// The status that this word names, if any.
    #[must_use]
    pub fn parse(word: &str) -> Option<Self> {
        Self::ALL.into_iter().find(|status| status.as_str() == word)
    }

    /// Whether nothing can follow.
    #[must_use]
    pub const fn is_final(self) -> bool {
        matches!(self, Self::Successful | Self::Failed | Self::Dismissed)
    }

    /// The states from which a job may become `next`: the transition table. A conditional update names them in its
    /// `where status in (…)`, so that a late event cannot revive a job that has ended.
    #[must_use]
    pub const fn sources_of(next: Self) -> &'static [Self] {
        match next {
            Self::Accepted => &[],
            Self::Running => &[Self::Accepted],
            Self::Successful | Self::Failed | Self::Dismissed => &[Self::Accepted, Self::Running],
        }
    }

    /// Whether a job in this state may become `next`.
    #[must_use]
    pub fn may_become(self, next: Self) -> bool {
        Self::sources_of(next).contains(&self)
    }
}

impl fmt::Display for JobStatus {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.as_str())
    }
}

#[cfg(test)]
mod tests {
    use super::JobStatus::{self, *};

    #[test]
    fn nothing_follows_a_final_status() {
        for from in JobStatus::ALL {
            let follows = JobStatus::ALL.into_iter().any(|to| from.may_become(to));
            assert_eq!(follows, !from.is_final(), "{from}");
            assert!(!from.may_become(from) && !from.may_become(Accepted));
            assert_eq!(JobStatus::parse(from.as_str()), Some(from));
        }
        assert!(!Dismissed.may_become(Running));
        assert!(Accepted.may_become(Successful), "a short job ends before anyone sees it run");
        assert_eq!(JobStatus::parse("RUNNING"), None);
    }
}
