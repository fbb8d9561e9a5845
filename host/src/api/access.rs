//! Who sends a request: bearer tokens from the configuration, kept as hashes.
//!
//! A token is compared with every entry in a time that does not depend on which one it is. A wrong one is refused even where a
//! request without one would be allowed: its sender believes to be someone.

use std::sync::Arc;

use axum::extract::FromRequestParts;
use http::HeaderValue;
use http::header::{AUTHORIZATION, HeaderMap, WWW_AUTHENTICATE};
use http::request::Parts;
use serde::{Deserialize, Serialize};
use serde_json::{Map, Value};
use subtle::ConstantTimeEq as _;

use super::ApiState;
use super::problem::{FORBIDDEN, INVALID_REQUEST, Problem, UNAUTHENTICATED};
use crate::core::{Digest, Principal, Role};

/// `WWW-Authenticate` where nothing better is known.
pub(super) const CHALLENGE: &str = r#"Bearer realm="vespiary""#;

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
}

impl Default for Settings {
    fn default() -> Self {
        Self { tokens: Vec::new(), anonymous: vec![Role::Read, Role::Execute] }
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
        if wrong.is_empty() { Ok(Self { entries, anonymous }) } else { Err(wrong) }
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

    /// Who sends a request with these headers.
    pub(super) fn principal(&self, headers: &HeaderMap) -> Result<Arc<Principal>, Problem> {
        let mut sent = headers.get_all(AUTHORIZATION).iter();
        let Some(credential) = sent.next() else { return Ok(Arc::clone(&self.anonymous)) };
        if sent.next().is_some() {
            return Err(malformed("there is more than one Authorization header"));
        }
        let Ok(credential) = credential.to_str() else {
            return Err(malformed("the Authorization header is not printable ASCII"));
        };
        let (scheme, token) = credential.trim().split_once(' ').unwrap_or((credential.trim(), ""));
        if !scheme.eq_ignore_ascii_case("bearer") {
            return Err(Problem::new(UNAUTHENTICATED, "the Authorization header must be 'Bearer TOKEN'"));
        }
        let token = token.trim();
        if token.is_empty() || token.contains(' ') {
            return Err(malformed("the Authorization header must be 'Bearer TOKEN'"));
        }
        self.find(token).map(|grant| Arc::clone(&grant.principal)).ok_or_else(|| {
            let challenge = HeaderValue::from_static(r#"Bearer realm="vespiary", error="invalid_token""#);
            Problem::new(UNAUTHENTICATED, "this token is not known").header(WWW_AUTHENTICATE, challenge)
        })
    }
}

fn is_name(name: &str) -> bool {
    let allowed = |c: char| c.is_ascii_alphanumeric() || matches!(c, '.' | '_' | '-' | '@');
    (1..=63).contains(&name.len()) && name.chars().all(allowed) && name != "anonymous"
}

fn malformed(detail: &'static str) -> Problem {
    let challenge = HeaderValue::from_static(r#"Bearer realm="vespiary", error="invalid_request""#);
    Problem::new(INVALID_REQUEST, detail).header(WWW_AUTHENTICATE, challenge)
}

/// Whether the principal may do what one of these roles allows: 401 for a request without a credential, 403 with one.
pub(super) fn require(principal: &Principal, roles: &[Role]) -> Result<(), Problem> {
    if roles.iter().any(|role| principal.has(*role)) {
        return Ok(());
    }
    let names = roles.iter().map(|role| format!("'{}'", role.as_str())).collect::<Vec<_>>().join(" or ");
    let kind = if principal.authenticated { FORBIDDEN } else { UNAUTHENTICATED };
    Err(Problem::new(kind, format!("this needs a token with the role {names}")))
}

/// The one who sends the request.
pub(super) struct Caller(pub(super) Arc<Principal>);

impl FromRequestParts<ApiState> for Caller {
    type Rejection = Problem;

    async fn from_request_parts(parts: &mut Parts, state: &ApiState) -> Result<Self, Problem> {
        state.tokens().principal(&parts.headers).map(Self)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn token(name: &str, token: &str) -> TokenSettings {
        TokenSettings { name: name.into(), sha256: Digest::of(token.as_bytes()).to_string(), roles: vec![Role::Deploy] }
    }

    fn headers(values: &[&str]) -> HeaderMap {
        values.iter().map(|value| (AUTHORIZATION, HeaderValue::from_str(value).unwrap())).collect()
    }

    #[test]
    fn a_table_finds_its_tokens_only() {
        let settings = Settings { tokens: vec![token("ann", "t-1"), token("bob", "t-2")], anonymous: vec![Role::Read] };
        let table = TokenTable::new(&settings).unwrap();
        assert_eq!(table.find("t-1").unwrap().principal.subject, "ann");
        assert_eq!(table.find("t-2").unwrap().principal.subject, "bob");
        for wrong in ["", "t-3", "t-", "t-1 ", &settings.tokens[0].sha256, &"x".repeat(5000)] {
            assert!(table.find(wrong).is_none(), "{wrong}");
        }
        let who = |values: &[&str]| table.principal(&headers(values));
        assert_eq!(who(&[]).unwrap().subject, "anonymous");
        assert_eq!(who(&["bearer  t-2"]).unwrap().subject, "bob");
        assert!(who(&["Bearer t-2"]).unwrap().authenticated);
        for (values, kind) in [
            (&["Bearer t-3"][..], UNAUTHENTICATED),
            (&["Basic dDpw"], UNAUTHENTICATED),
            (&[""], UNAUTHENTICATED),
            (&["Bearer"], INVALID_REQUEST),
            (&["Bearer t-1 t-2"], INVALID_REQUEST),
            (&["Bearer t-1", "Bearer t-2"], INVALID_REQUEST),
        ] {
            assert_eq!(who(values).unwrap_err().kind(), kind, "{values:?}");
        }
        let ann = who(&["Bearer t-1"]).unwrap();
        assert!(require(&ann, &[Role::Deploy, Role::Admin]).is_ok());
        assert_eq!(require(&ann, &[Role::Read]).unwrap_err().kind(), FORBIDDEN);
        assert_eq!(require(&who(&[]).unwrap(), &[Role::Admin]).unwrap_err().kind(), UNAUTHENTICATED);
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
        let wrong = TokenTable::new(&Settings { tokens, anonymous: Vec::new() }).unwrap_err();
        assert_eq!(wrong.len(), 6, "{wrong:#?}");
        assert!(!format!("{wrong:?}").contains(&Digest::of(b"t-1").hex()));
        assert!(serde_json::from_str::<Settings>(r#"{"anonymous":["reed"]}"#).is_err());
    }
}
