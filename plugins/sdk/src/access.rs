//! The default rule of who may do what, and the input `token` that belongs to it.

use serde_json::{Value, json};

use crate::{Action, Caller, Denial, Input, Request, host};

/// The input that carries a token, for clients that cannot send an `Authorization` header.
pub const TOKEN_INPUT: &str = "token";

/// The `WWW-Authenticate` header for a request without a credential.
pub const CHALLENGE: &str = r#"Bearer realm="vespiary""#;

/// The `WWW-Authenticate` header for a request with a wrong token.
pub const CHALLENGE_INVALID_TOKEN: &str = r#"Bearer realm="vespiary", error="invalid_token""#;

/// The default of [`crate::Processor::authorize`].
///
/// * `check_auth` false: anyone may. The subject is the principal's, or `anonymous`.
/// * A principal with the role `execute` or `admin` may; to read a job, the role `read` is enough as well.
/// * Otherwise the input `token` decides: the host verifies it. The subject is then the principal's, or `token`.
/// * No such input: 401 with [`CHALLENGE`], or 403 for a principal, whom another try with the same credential would not help.
/// * A wrong one: 401 with [`CHALLENGE_INVALID_TOKEN`].
///
/// With `check_auth` true the input `token` is always consumed: the host drops it, whoever asks.
///
/// # Errors
/// The denial that belongs to the case.
pub fn authorize(check_auth: bool, request: &Request) -> Result<Caller, Denial> {
    let principal = request.principal.as_ref();
    let subject = |without: &str| principal.map_or(without, |principal| principal.subject.as_str()).to_owned();
    if !check_auth {
        return Ok(Caller::new(subject("anonymous")));
    }
    let may = principal
        .is_some_and(|principal| principal.has("execute") || (request.action == Action::Read && principal.has("read")));
    let token = request.inputs.get(TOKEN_INPUT);
    match token {
        None if may => Ok(Caller::new(subject("anonymous"))),
        None if principal.is_some() => {
            Err(Denial::Forbidden("this needs the role 'execute' or a valid token".to_owned()))
        }
        None => Err(Denial::Unauthenticated(CHALLENGE.to_owned())),
        Some(_) if may => Ok(Caller::new(subject("anonymous")).consume(TOKEN_INPUT)),
        Some(Value::String(token)) if host::verify_token(token) => {
            Ok(Caller::new(subject("token")).consume(TOKEN_INPUT))
        }
        Some(_) => Err(Denial::Unauthenticated(CHALLENGE_INVALID_TOKEN.to_owned())),
    }
}

/// The input `token` as a description declares it when the default rule asks for a credential: optional, and a secret by its schema, so
/// that the host masks it wherever inputs are kept.
#[must_use]
pub fn token_input() -> Input {
    Input::new(json!({"type": "string", "format": "password", "writeOnly": true}))
        .optional()
        .title("Token")
        .description("A token that may execute jobs, for clients that cannot send it as `Authorization: Bearer`.")
}

impl Caller {
    /// A caller with this subject and no consumed inputs.
    #[must_use]
    pub fn new(subject: impl Into<String>) -> Self {
        Self { subject: subject.into(), consumed_inputs: Vec::new(), extensions: String::new() }
    }

    /// Names an input that was a credential: the host drops it here.
    #[must_use]
    pub fn consume(mut self, input: &str) -> Self {
        self.consumed_inputs.push(input.to_owned());
        self
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::testing::Host;

    fn ask(check_auth: bool, request: &Request) -> Result<Caller, Denial> {
        Host::new().token("right").run(|| authorize(check_auth, request))
    }

    fn execute(inputs: Value) -> Request {
        Request::execute(inputs)
    }

    #[test]
    fn without_a_check_anyone_may() {
        assert_eq!(ask(false, &execute(json!({}))), Ok(Caller::new("anonymous")));
        let known = execute(json!({"token": "x"})).from_principal("ann", &[]);
        assert_eq!(ask(false, &known), Ok(Caller::new("ann")), "such a token is the process's own input");
    }

    #[test]
    fn a_role_is_enough_and_the_token_is_still_dropped() {
        for role in ["execute", "admin"] {
            assert_eq!(ask(true, &execute(json!({})).from_principal("ann", &[role])), Ok(Caller::new("ann")));
        }
        let both = execute(json!({"token": "wrong"})).from_principal("ann", &["execute"]);
        assert_eq!(ask(true, &both).unwrap().consumed_inputs, ["token"]);
    }

    #[test]
    fn a_token_is_verified_bare_or_qualified_and_consumed() {
        for token in [json!("right"), json!({"value": "right"})] {
            let caller = ask(true, &execute(json!({"token": token}))).unwrap();
            assert_eq!(caller, Caller::new("token").consume("token"));
        }
        let raised = execute(json!({"token": "right"})).from_principal("bob", &["read"]);
        assert_eq!(ask(true, &raised).unwrap().subject, "bob");
    }

    #[test]
    fn nobody_gets_in_without_a_right_credential() {
        assert_eq!(ask(true, &execute(json!({}))), Err(Denial::Unauthenticated(CHALLENGE.to_owned())));
        for token in [json!("wrong"), json!(""), json!(7), json!(null), json!(["right"]), json!({"href": "right"})] {
            let denial = ask(true, &execute(json!({"token": token}))).unwrap_err();
            assert_eq!(denial, Denial::Unauthenticated(CHALLENGE_INVALID_TOKEN.to_owned()), "{token}");
        }
        let denial = ask(true, &execute(json!({})).from_principal("bob", &["read"])).unwrap_err();
        assert!(matches!(denial, Denial::Forbidden(_)));
    }

    #[test]
    fn reading_needs_no_more_than_the_role_read() {
        let mut request = execute(json!({})).from_principal("bob", &["read"]);
        request.action = Action::Read;
        assert!(ask(true, &request).is_ok());
        request.action = Action::Dismiss;
        assert!(ask(true, &request).is_err());
    }
}
