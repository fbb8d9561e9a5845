//! What went wrong in a call to the API server, and whether it ever can go right: the one place that decides it.

use std::time::Duration;

use kube::core::Status;

use crate::runner::RunnerError;

/// A call that was not answered as asked.
#[derive(Debug, thiserror::Error)]
pub(super) enum CallError {
    #[error("the API server did not answer within {0:?}")]
    Deadline(Duration),
    #[error(transparent)]
    Kube(Box<kube::Error>),
}

impl From<kube::Error> for CallError {
    fn from(error: kube::Error) -> Self {
        Self::Kube(Box::new(error))
    }
}

impl CallError {
    /// The API server's answer, where there was one.
    fn status(&self) -> Option<&Status> {
        match self {
            Self::Kube(error) => match &**error {
                kube::Error::Api(status) => Some(status),
                _ => None,
            },
            Self::Deadline(_) => None,
        }
    }

    fn is(&self, test: impl Fn(&Status) -> bool) -> bool {
        self.status().is_some_and(test)
    }

    pub(super) fn is_not_found(&self) -> bool {
        self.is(Status::is_not_found)
    }

    pub(super) fn is_bad_request(&self) -> bool {
        self.is(|status| status.code == 400)
    }

    pub(super) fn is_already_exists(&self) -> bool {
        self.is(Status::is_already_exists)
    }

    /// Somebody else was faster, or a precondition does not hold.
    pub(super) fn is_conflict(&self) -> bool {
        self.is(Status::is_conflict)
    }

    /// The object or patch is not valid; what a patch whose tests fail gets.
    pub(super) fn is_invalid(&self) -> bool {
        self.is(|status| status.code == 422)
    }

    /// The API server asks to come again.
    pub(super) fn is_busy(&self) -> bool {
        self.is(|status| matches!(status.code, 429 | 503 | 504))
    }

    /// Whether the same call will never be answered otherwise: refused by validation, authorization, quota or admission.
    fn is_permanent(&self) -> bool {
        match self {
            Self::Kube(error) => match &**error {
                kube::Error::Api(status) => {
                    matches!(status.code, 400..=499) && !matches!(status.code, 401 | 408 | 409 | 429)
                }
                kube::Error::BuildRequest(_) | kube::Error::HttpError(_) => true,
                _ => false,
            },
            Self::Deadline(_) => false,
        }
    }

    /// As the jobs see it. `what` completes "could not".
    pub(super) fn into_runner(self, what: &str) -> RunnerError {
        if self.is_permanent() {
            let said = match self.status() {
                Some(status) if !status.message.is_empty() => status.message.chars().take(2000).collect(),
                Some(status) => format!("the API server answered {} {}", status.code, status.reason),
                None => self.to_string(),
            };
            return RunnerError::Refused(format!("the cluster refused: {said}"));
        }
        RunnerError::Unavailable { message: format!("could not {what}"), source: Box::new(self) }
    }

    /// As [`Self::into_runner`], for calls on what is there already: nothing about them is the plan's fault, so all of it may work later.
    pub(super) fn into_unavailable(self, what: &str) -> RunnerError {
        RunnerError::Unavailable { message: format!("could not {what}"), source: Box::new(self) }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn answered(code: u16, reason: &str, message: &str) -> CallError {
        kube::Error::Api(Status::failure(message, reason).with_code(code).boxed()).into()
    }

    #[test]
    fn what_can_never_work_is_refused_with_the_servers_words() {
        for (code, reason) in [(400, "BadRequest"), (403, "Forbidden"), (404, "NotFound"), (413, ""), (422, "Invalid")]
        {
            let refused = answered(code, reason, "exceeded quota: q").into_runner("create");
            assert!(matches!(&refused, RunnerError::Refused(why) if why.ends_with("exceeded quota: q")), "{refused}");
        }
        assert!(
            matches!(answered(403, "Forbidden", "").into_runner("create"), RunnerError::Refused(why) if why.contains("403"))
        );
    }

    #[test]
    fn what_may_work_later_is_not() {
        for code in [0, 401, 408, 409, 429, 500, 502, 503, 504, 599] {
            let error = answered(code, "", "webhook failed").into_runner("create");
            assert!(matches!(error, RunnerError::Unavailable { .. }), "{code}");
        }
        let error = CallError::Deadline(Duration::from_secs(1)).into_runner("create the Job");
        assert_eq!(error.to_string(), "the runner is not available: could not create the Job");
        let broken = kube::Error::ReadEvents(std::io::Error::other("cut"));
        assert!(matches!(CallError::from(broken).into_runner("x"), RunnerError::Unavailable { .. }));
        assert!(
            answered(409, "AlreadyExists", "").is_already_exists()
                && !answered(409, "Conflict", "").is_already_exists()
        );
    }
}
