//! Tokens: who may do what, kept as hashes and compared in constant time.

use std::sync::Arc;

use serde::{Deserialize, Serialize};
use serde_json::{Map, Value};
use subtle::ConstantTimeEq as _;

use super::{Digest, Principal, Role};

/// The longest token that is looked at, in bytes.
const MAX_TOKEN_BYTES: usize = 4096;

/// Who may do what.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, schemars::JsonSchema)]
#[serde(deny_unknown_fields, default)]
pub struct Settings {
    /// Tokens that clients send as `Authorization: Bearer TOKEN`.
    pub tokens: Vec<TokenSettings>,
    /// What a request without a token may do; empty: nothing.
    pub anonymous: Vec<Role>,
    /// The one token that processors accept in the input `token`, as the original's `PYGEOAPI_K8S_MANAGER_API_TOKEN`. It gives no role.
    /// As it is, or as `sha256:` and 64 hexadecimal digits.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub api_token: Option<String>,
}

impl Default for Settings {
    fn default() -> Self {
        Self { tokens: Vec::new(), anonymous: vec![Role::Read, Role::Execute], api_token: None }
    }
}

/// One token. The token itself stands nowhere.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, schemars::JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct TokenSettings {
    /// Who holds it: 1 to 63 letters, digits, `.`, `_`, `-` or `@`. It stands in the history as the caller.
    pub name: String,
    /// SHA-256 of the token's bytes: `sha256:` and 64 lower-case hexadecimal digits.
    pub sha256: String,
    /// What it allows; at least one role.
    pub roles: Vec<Role>,
}

/// The principal of a token.
#[derive(Debug, Clone)]
pub struct TokenGrant {
    /// Whom the token makes of its sender.
    pub principal: Arc<Principal>,
}

/// The tokens, ready to be compared.
#[derive(Debug)]
pub struct TokenTable {
    entries: Vec<(String, TokenGrant)>,
    anonymous: Arc<Principal>,
    /// Hexadecimal SHA-256 of the one that the input `token` may match.
    api_token: Option<String>,
}

impl TokenTable {
    /// Checks the settings. All that is wrong is answered at once, one sentence each.
    pub fn new(settings: &Settings) -> Result<Self, Vec<String>> {
        let mut wrong = Vec::new();
        let mut entries: Vec<(String, TokenGrant)> = Vec::new();
        for (number, token) in settings.tokens.iter().enumerate() {
            let who = format!("tokens[{number}] ('{}')", token.name.escape_debug());
            if !is_name(&token.name) {
                wrong.push(format!(
                    "{who}: name must be 1 to 63 letters, digits, '.', '_', '-' or '@', and not 'anonymous'"
                ));
            }
            if entries.iter().any(|(_, grant)| grant.principal.subject == token.name) {
                wrong.push(format!("{who}: another token has this name"));
            }
            if token.roles.is_empty() {
                wrong.push(format!("{who}: roles must name at least one of read, execute, deploy, admin"));
            }
            match token.sha256.parse::<Digest>() {
                Ok(digest) if digest == Digest::of(b"") => {
                    wrong.push(format!("{who}: sha256 is that of an empty token"));
                }
                Ok(digest) if entries.iter().any(|(hex, _)| *hex == digest.hex()) => {
                    wrong.push(format!("{who}: another token has this sha256"));
                }
                Ok(digest) => {
                    let principal = Principal {
                        subject: token.name.clone(),
                        roles: token.roles.clone(),
                        authenticated: true,
                        claims: Value::Object(Map::new()),
                    };
                    entries.push((digest.hex(), TokenGrant { principal: Arc::new(principal) }));
                }
                Err(error) => wrong.push(format!("{who}: sha256: {error}")),
            }
        }
        let anonymous = Arc::new(Principal::anonymous(settings.anonymous.clone()));
        if settings.api_token.as_deref().is_some_and(|token| token.trim().is_empty()) {
            wrong.push("api_token is empty: set it to the token that callers must send, or leave it out".to_owned());
        }
        let digest = |token: &str| token.parse::<Digest>().unwrap_or_else(|_| Digest::of(token.as_bytes())).hex();
        let api_token = settings.api_token.as_deref().map(digest);
        if wrong.is_empty() { Ok(Self { entries, anonymous, api_token }) } else { Err(wrong) }
    }

    /// The table for a server without configured tokens: one that was generated, of which `sha256` is kept, may do everything.
    pub fn with_generated(settings: &Settings, sha256: &str) -> Result<Self, Vec<String>> {
        let generated =
            TokenSettings { name: "generated".to_owned(), sha256: sha256.to_owned(), roles: vec![Role::Admin] };
        Self::new(&Settings { tokens: vec![generated], ..settings.clone() })
    }

    /// What stands in the configuration in the place of a token: `sha256:` and 64 hexadecimal digits.
    #[must_use]
    pub fn hash(token: &str) -> String {
        Digest::of(token.as_bytes()).to_string()
    }

    /// The principal of a request without a credential.
    #[must_use]
    pub fn anonymous(&self) -> &Arc<Principal> {
        &self.anonymous
    }

    /// Whether this is the API token or a token with the role `execute`: what a processor's `verify-token` answers. The time that it takes
    /// says nothing about which one.
    #[must_use]
    pub fn may_execute(&self, token: &str) -> bool {
        if token.is_empty() || token.len() > MAX_TOKEN_BYTES {
            return false;
        }
        let hex = Digest::of(token.as_bytes()).hex();
        let is_api_token = self.api_token.as_ref().is_some_and(|held| held.as_bytes().ct_eq(hex.as_bytes()).into());
        let granted = self.find(token).is_some_and(|grant| grant.principal.has(Role::Execute));
        is_api_token | granted
    }

    /// The grant of this token, if it is one of ours. The time that this takes says nothing about which one.
    #[must_use]
    pub fn find(&self, token: &str) -> Option<&TokenGrant> {
        if token.is_empty() || token.len() > MAX_TOKEN_BYTES {
            return None;
        }
        let hex = Digest::of(token.as_bytes()).hex();
        self.entries.iter().fold(None, |found, (held, grant)| {
            let equal = bool::from(held.as_bytes().ct_eq(hex.as_bytes()));
            if equal { Some(grant) } else { found }
        })
    }
}

fn is_name(name: &str) -> bool {
    let allowed = |c: char| c.is_ascii_alphanumeric() || matches!(c, '.' | '_' | '-' | '@');
    (1..=63).contains(&name.len()) && name.chars().all(allowed) && name != "anonymous"
}

#[cfg(test)]
mod tests {
    use super::*;

    fn token(name: &str, token: &str) -> TokenSettings {
        TokenSettings { name: name.into(), sha256: TokenTable::hash(token), roles: vec![Role::Deploy] }
    }

    #[test]
    fn what_a_processor_may_verify() {
        let mut runner = token("ann", "t-1");
        runner.roles = vec![Role::Execute];
        let settings = Settings {
            tokens: vec![runner, token("bob", "t-2")],
            api_token: Some("api".into()),
            ..Settings::default()
        };
        let table = TokenTable::new(&settings).unwrap();
        assert!(table.may_execute("t-1") && table.may_execute("api"));
        assert!(!table.may_execute("t-2") && !table.may_execute("") && !table.may_execute("ap"));
        assert!(table.find("api").is_none(), "the API token gives no role");
        assert!(!TokenTable::new(&Settings::default()).unwrap().may_execute(""));
        let hashed = Settings { api_token: Some(TokenTable::hash("api")), ..Settings::default() };
        assert!(TokenTable::new(&hashed).unwrap().may_execute("api"));
        let empty = Settings { api_token: Some(String::new()), ..Settings::default() };
        assert!(TokenTable::new(&empty).is_err());
        let generated = TokenTable::with_generated(&Settings::default(), &TokenTable::hash("g")).unwrap();
        assert!(generated.find("g").unwrap().principal.has(Role::Admin) && generated.may_execute("g"));
    }

    #[test]
    fn everything_wrong_is_told_at_once() {
        let mut no_roles = token("ann", "t-3");
        no_roles.roles.clear();
        let mut no_digest = token("eve", "t-4");
        no_digest.sha256 = "t-4".into();
        let tokens = vec![
            token("ann", "t-1"),
            token("bob", ""),
            token("bob", "t-1"),
            token("anonymous", "t-9"),
            no_roles,
            no_digest,
        ];
        let wrong = TokenTable::new(&Settings { tokens, anonymous: Vec::new(), api_token: None }).unwrap_err();
        assert_eq!(wrong.len(), 6, "{wrong:#?}");
        assert!(!format!("{wrong:?}").contains(&Digest::of(b"t-1").hex()));
        assert!(serde_json::from_str::<Settings>(r#"{"anonymous":["reed"]}"#).is_err());
    }
}
