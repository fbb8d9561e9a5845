//! Who sends a request: bearer tokens from the configuration, kept as hashes.
//!
//! A token is compared with every entry in a time that does not depend on which one it is. A wrong one is refused even where a
//! request without one would be allowed: its sender believes to be someone.

use std::sync::Arc;

use axum::extract::FromRequestParts;
use http::HeaderValue;
use http::header::{AUTHORIZATION, COOKIE, HeaderMap, PROXY_AUTHORIZATION, WWW_AUTHENTICATE};
use http::request::Parts;

use super::ApiState;
use super::problem::{FORBIDDEN, INVALID_REQUEST, Problem, UNAUTHENTICATED};
use crate::core::access::TokenTable;
use crate::core::{Principal, Role};
use crate::jobs::Asker;

/// `WWW-Authenticate` where nothing better is known.
pub(super) const CHALLENGE: &str = r#"Bearer realm="vespiary""#;

/// Who sends a request with these headers.
pub(super) fn principal(table: &TokenTable, headers: &HeaderMap) -> Result<Arc<Principal>, Problem> {
    let mut sent = headers.get_all(AUTHORIZATION).iter();
    let Some(credential) = sent.next() else { return Ok(Arc::clone(table.anonymous())) };
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
    table.find(token).map(|grant| Arc::clone(&grant.principal)).ok_or_else(|| {
        let challenge = HeaderValue::from_static(r#"Bearer realm="vespiary", error="invalid_token""#);
        Problem::new(UNAUTHENTICATED, "this token is not known to this server: correct it or ask its operator for one")
            .header(WWW_AUTHENTICATE, challenge)
    })
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
        principal(state.tokens(), &parts.headers).map(Self)
    }
}

/// The one who asks for a job, with the headers that its process may be shown.
pub(super) struct Asking {
    principal: Arc<Principal>,
    headers: Vec<(String, String)>,
}

impl Asking {
    pub(super) fn asker(&self) -> Asker<'_> {
        Asker { principal: &self.principal, headers: &self.headers }
    }
}

impl FromRequestParts<ApiState> for Asking {
    type Rejection = Problem;

    async fn from_request_parts(parts: &mut Parts, state: &ApiState) -> Result<Self, Problem> {
        let principal = principal(state.tokens(), &parts.headers)?;
        Ok(Self { principal, headers: shown_headers(&parts.headers) })
    }
}

/// The headers that a process may be shown. The host has read the credentials; nobody else does.
pub(super) fn shown_headers(headers: &HeaderMap) -> Vec<(String, String)> {
    let secret = [AUTHORIZATION, PROXY_AUTHORIZATION, COOKIE];
    let shown = headers.iter().filter(|(name, _)| !secret.contains(name));
    shown.filter_map(|(name, value)| Some((name.as_str().to_owned(), value.to_str().ok()?.to_owned()))).collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::core::Digest;
    use crate::core::access::{Settings, TokenSettings};

    fn token(name: &str, token: &str) -> TokenSettings {
        TokenSettings { name: name.into(), sha256: Digest::of(token.as_bytes()).to_string(), roles: vec![Role::Deploy] }
    }

    fn headers(values: &[&str]) -> HeaderMap {
        values.iter().map(|value| (AUTHORIZATION, HeaderValue::from_str(value).unwrap())).collect()
    }

    #[test]
    fn a_table_finds_its_tokens_only() {
        let settings = Settings {
            tokens: vec![token("ann", "t-1"), token("bob", "t-2")],
            anonymous: vec![Role::Read],
            ..Settings::default()
        };
        let table = TokenTable::new(&settings).unwrap();
        assert_eq!(table.find("t-1").unwrap().principal.subject, "ann");
        assert_eq!(table.find("t-2").unwrap().principal.subject, "bob");
        for wrong in ["", "t-3", "t-", "t-1 ", &settings.tokens[0].sha256, &"x".repeat(5000)] {
            assert!(table.find(wrong).is_none(), "{wrong}");
        }
        let who = |values: &[&str]| principal(&table, &headers(values));
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
    fn credentials_are_not_shown_to_processes() {
        let sent = [("authorization", "Bearer x"), ("cookie", "a=b"), ("x-project", "p")];
        let sent = sent.map(|(name, value)| (http::HeaderName::from_static(name), HeaderValue::from_static(value)));
        assert_eq!(shown_headers(&sent.into_iter().collect()), [("x-project".to_owned(), "p".to_owned())]);
    }
}
