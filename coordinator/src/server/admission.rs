//! Who may call what: one table, and what a request is held to it by. A method that is not in the table is
//! an operator's.

use std::sync::Arc;

use axum::body::Body;
use axum::extract::{Request, State};
use axum::http::header::{AUTHORIZATION, CONTENT_TYPE, HeaderMap};
use axum::http::{HeaderValue, StatusCode};
use axum::middleware::Next;
use axum::response::{IntoResponse, Response};
use http_body_util::Limited;
use perennial_secure::{Caller, Role, Tokens};
use tonic::{Code, Status};

use super::door::{Arrival, Visitor};

/// A request that is no stream of a worker is small, in bytes.
const SMALL: usize = 64 << 10;

/// Who may call a method, and how much may be said in one call.
struct Rule {
    path: &'static str,
    roles: &'static [Role],
    /// None: as much as comes, each message within the limit of all messages.
    bytes: Option<usize>,
}

const LOOKING: &[Role] = &[Role::Viewer, Role::Operator, Role::Coordinator];
const CHANGING: &[Role] = &[Role::Operator];

const fn rule(path: &'static str, roles: &'static [Role], bytes: Option<usize>) -> Rule {
    Rule { path, roles, bytes }
}

const RULES: [Rule; 10] = [
    rule("/perennial.v1.Coordinator/Session", &[Role::Worker], None),
    rule("/perennial.v1.Coordinator/Status", LOOKING, Some(SMALL)),
    rule("/perennial.v1.Coordinator/Scale", CHANGING, Some(SMALL)),
    rule("/perennial.v1.Coordinator/Drain", CHANGING, Some(SMALL)),
    rule("/perennial.v1.Coordinator/Stop", CHANGING, Some(SMALL)),
    rule("/perennial.v1.Queue/Submit", CHANGING, Some(SMALL)),
    rule("/perennial.v1.Queue/Resume", CHANGING, Some(SMALL)),
    rule("/perennial.v1.Queue/Prioritize", CHANGING, Some(SMALL)),
    rule("/perennial.v1.Queue/Jobs", LOOKING, Some(SMALL)),
    rule("/metrics", LOOKING, Some(SMALL)),
];
const ANYTHING_ELSE: Rule = rule("", CHANGING, Some(SMALL));

/// What requests are held to.
#[derive(Debug, Clone)]
pub(super) struct Admission {
    /// The job that is served, if it is one alone. A token of another job opens nothing.
    pub job: Option<Arc<str>>,
    pub tokens: Option<Arc<Tokens>>,
}

/// Lets a request through, with its [`Caller`] among its extensions where it is known, or says why not.
pub(super) async fn admit(
    State(admission): State<Admission>,
    mut request: Request,
    next: Next,
) -> Response {
    let Some(arrival) = request.extensions().get::<Arrival>().cloned() else {
        return refusal(&request, &Status::internal("the connection is unknown"));
    };
    let rule = rule_of(request.uri().path());
    match admission.caller(rule, &arrival.visitor, request.headers()) {
        Ok(caller) => {
            arrival.admit();
            if let Some(caller) = caller {
                request.extensions_mut().insert(caller);
            }
        }
        Err(status) => {
            let (path, why) = (request.uri().path(), status.message());
            tracing::warn!(path, "refused: {why}");
            return refusal(&request, &status);
        }
    }
    if let Some(bytes) = rule.bytes {
        request = request.map(|body| Body::new(Limited::new(body, bytes)));
    }
    next.run(request).await
}

fn rule_of(path: &str) -> &'static Rule {
    let found = RULES.iter().find(|rule| rule.path == path);
    found.unwrap_or(&ANYTHING_ELSE)
}

// === impl Admission ===

impl Admission {
    /// Who calls; nobody in particular in plain text, where everybody may do everything.
    fn caller(
        &self,
        rule: &Rule,
        visitor: &Visitor,
        headers: &HeaderMap,
    ) -> Result<Option<Caller>, Status> {
        let certified = match visitor {
            Visitor::Plain => return Ok(None),
            Visitor::Known(caller) => Some(caller.clone()),
            Visitor::Anonymous | Visitor::WithoutRole => None,
        };
        if let Some(caller) = &certified
            && rule.roles.contains(&caller.role)
        {
            return Ok(certified);
        }
        let shown = headers.get(AUTHORIZATION).and_then(bearer);
        let known = match (&self.tokens, shown) {
            (_, None) => None,
            (None, Some(_)) => {
                return Err(Status::unauthenticated(
                    "this coordinator takes no tokens; start it with --tokens",
                ));
            }
            (Some(tokens), Some(token)) => Some(tokens.caller(token).ok_or_else(|| {
                Status::unauthenticated("the token is not known here; ask for another one")
            })?),
        };
        let Some(caller) = known.or(certified) else {
            return Err(Status::unauthenticated(match visitor {
                Visitor::WithoutRole => {
                    "the certificate names no role: it needs the URI name perennial://ROLE/NAME"
                }
                _ => "show a token (PERENNIAL_TOKEN_FILE) or a certificate (--tls-cert, --tls-key)",
            }));
        };
        if !rule.roles.contains(&caller.role) {
            let roles: Vec<&str> = rule.roles.iter().map(|role| role.as_str()).collect();
            return Err(Status::permission_denied(format!(
                "{caller} may not do this; it takes a role of `{}`",
                roles.join("`, `")
            )));
        }
        match &self.job {
            Some(job) if !caller.may_touch(job) => {
                return Err(Status::permission_denied(format!(
                    "the token of {caller} is for another job than `{job}`"
                )));
            }
            None if caller.job.is_some() => {
                return Err(Status::permission_denied(format!(
                    "the token of {caller} is for one job, and there are many here"
                )));
            }
            _ => {}
        }
        Ok(Some(caller))
    }
}

fn bearer(value: &HeaderValue) -> Option<&str> {
    value.to_str().ok()?.strip_prefix("Bearer ")
}

fn refusal(request: &Request, status: &Status) -> Response {
    let kind = request.headers().get(CONTENT_TYPE);
    let is_grpc = kind.is_some_and(|kind| kind.as_bytes().starts_with(b"application/grpc"));
    if is_grpc {
        return status.clone().into_http();
    }
    let code = match status.code() {
        Code::Unauthenticated => StatusCode::UNAUTHORIZED,
        Code::PermissionDenied => StatusCode::FORBIDDEN,
        _ => StatusCode::INTERNAL_SERVER_ERROR,
    };
    (code, status.message().to_string()).into_response()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn known(role: Role) -> Visitor {
        Visitor::Known(Caller {
            role,
            name: "ann".into(),
            job: None,
        })
    }

    /// The roles whose certificate opens `path`.
    fn roles(path: &str) -> Vec<Role> {
        let admission = Admission {
            job: Some("flowers".into()),
            tokens: None,
        };
        let opens = |role: &Role| {
            let caller = admission.caller(rule_of(path), &known(*role), &HeaderMap::new());
            caller.is_ok()
        };
        Role::ALL.into_iter().filter(opens).collect()
    }

    #[test]
    fn every_method_is_open_to_its_roles_alone() {
        let method = |name: &str| roles(&format!("/perennial.v1.Coordinator/{name}"));
        assert_eq!(method("Session"), [Role::Worker]);
        let looking = [Role::Coordinator, Role::Operator, Role::Viewer];
        assert_eq!(method("Status"), looking);
        assert_eq!(roles("/metrics"), looking);
        for changing in ["Scale", "Drain", "Stop", "SomethingNew"] {
            assert_eq!(method(changing), [Role::Operator], "{changing}");
        }
    }

    #[test]
    fn every_method_that_there_is_has_a_rule() {
        let proto = include_str!("../../../proto/perennial/v1/coordinator.proto");
        let mut service = "";
        let mut methods = 0;
        for line in proto.lines() {
            let mut words = line.trim().split([' ', '(']);
            match (words.next(), words.next()) {
                (Some("service"), Some(name)) => service = name,
                (Some("rpc"), Some(method)) => {
                    let path = format!("/perennial.v1.{service}/{method}");
                    assert_eq!(rule_of(&path).path, path);
                    methods += 1;
                }
                _ => {}
            }
        }
        assert_eq!(methods + 1, RULES.len(), "and /metrics");
    }

    #[test]
    fn without_a_certificate_or_a_role_nothing_is_open() {
        let admission = Admission {
            job: Some("flowers".into()),
            tokens: None,
        };
        for rule in RULES.iter().chain([&ANYTHING_ELSE]) {
            for visitor in [Visitor::Anonymous, Visitor::WithoutRole] {
                let refused = admission.caller(rule, &visitor, &HeaderMap::new());
                assert_eq!(refused.unwrap_err().code(), Code::Unauthenticated);
            }
        }
    }
}
