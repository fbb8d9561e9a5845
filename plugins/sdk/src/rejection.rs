//! What is wrong with a request's inputs, collected so that the client reads all of it at once.

use crate::{Rejection, Violation};

/// Collects violations: [`Violations::add`] each, then [`Violations::check`].
#[derive(Debug, Clone, Default)]
pub struct Violations(Vec<Violation>);

impl Violations {
    /// None so far.
    #[must_use]
    pub fn new() -> Self {
        Self::default()
    }

    /// Notes that this input (empty: the request as a whole) is wrong: one sentence, what is wrong and what is expected.
    pub fn add(&mut self, input: &str, message: impl Into<String>) {
        self.0.push(Violation { input: input.to_owned(), message: message.into(), extensions: String::new() });
    }

    /// Whether nothing is wrong so far.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.0.is_empty()
    }

    /// Ends with the rejection if anything is wrong.
    ///
    /// # Errors
    /// The rejection with everything that was noted.
    pub fn check(self) -> Result<(), Rejection> {
        if self.0.is_empty() { Ok(()) } else { Err(self.into()) }
    }
}

impl From<Violations> for Rejection {
    fn from(violations: Violations) -> Self {
        Self { violations: violations.0, extensions: String::new() }
    }
}

impl Rejection {
    /// A rejection for one reason.
    #[must_use]
    pub fn of(input: &str, message: impl Into<String>) -> Self {
        let mut wrong = Violations::new();
        wrong.add(input, message);
        wrong.into()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn nothing_noted_is_no_rejection() {
        assert!(Violations::new().check().is_ok());
        let mut wrong = Violations::new();
        wrong.add("a", "is too long");
        wrong.add("", "makes no sense");
        assert!(!wrong.is_empty());
        assert_eq!(wrong.check().unwrap_err().violations.len(), 2);
        assert_eq!(Rejection::of("a", "is too long").violations.len(), 1);
    }
}
