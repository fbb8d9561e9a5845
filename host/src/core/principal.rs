//! Who asks, and what a token allows.

use serde::{Deserialize, Serialize};
use serde_json::Value;

/// What a token, or nobody in particular, may do. Each role stands alone, but `admin` includes the other three.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize, schemars::JsonSchema)]
#[serde(rename_all = "lowercase")]
pub enum Role {
    /// See processes, jobs, results and logs.
    Read,
    /// Start and dismiss jobs.
    Execute,
    /// Add, replace and remove processes.
    Deploy,
    /// Everything.
    Admin,
}

impl Role {
    /// The word used in configuration and given to processors.
    #[must_use]
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Read => "read",
            Self::Execute => "execute",
            Self::Deploy => "deploy",
            Self::Admin => "admin",
        }
    }
}

/// The one who sends a request, as the host verified it.
#[derive(Debug, Clone, PartialEq)]
pub struct Principal {
    /// The token's name; `anonymous` for a request without one.
    pub subject: String,
    /// What it may do.
    pub roles: Vec<Role>,
    /// Whether a credential was presented and verified.
    pub authenticated: bool,
    /// What the identity provider says of it: an object, empty for tokens from the configuration.
    pub claims: Value,
}

impl Principal {
    /// The principal of a request without a credential.
    #[must_use]
    pub fn anonymous(roles: Vec<Role>) -> Self {
        Self {
            subject: "anonymous".to_owned(),
            roles,
            authenticated: false,
            claims: Value::Object(serde_json::Map::new()),
        }
    }

    /// Whether it may do what `role` allows.
    #[must_use]
    pub fn has(&self, role: Role) -> bool {
        self.roles.iter().any(|held| *held == role || *held == Role::Admin)
    }
}
