//! Who may call what: one table, and what a request is held to it by. A method that is not in the table is
//! an operator's. A person in a browser shows the token in a cookie, which opens the dashboard alone.

use std::sync::Arc;

use axum::body::Body;
use axum::extract::{Request, State};
use axum::http::header::{AUTHORIZATION, CONTENT_TYPE, COOKIE, HeaderMap};
use axum::http::{HeaderValue, StatusCode};
use axum::middleware::Next;
use axum::response::{IntoResponse, Response};
use http_body_util::Limited;
use perennial_secure::{Caller, Role, Tokens};
use tonic::{Code, Status};

use super::door::{Arrival, Visitor};
use super::origin::{Here, is_for_browsers};

/// A request that is no stream of a worker is small, in bytes.
const SMALL: usize = 64 << 10;

/// Who may call a method, and how much may be said in one call.
struct Rule {
    /// `*` is any one segment.
    path: &'static str,
    /// None: anybody, which tells nothing of anybody.
    roles: Option<&'static [Role]>,
    /// None: as much as comes, each message within the limit of all messages.
    bytes: Option<usize>,
}

const LOOKING: &[Role] = &[Role::Viewer, Role::Operator, Role::Coordinator];
const CHANGING: &[Role] = &[Role::Operator];

const fn rule(path: &'static str, roles: &'static [Role], bytes: Option<usize>) -> Rule {
    Rule {
        path,
        roles: Some(roles),
        bytes,
    }
}

const fn open(path: &'static str) -> Rule {
    Rule {
        path,
        roles: None,
        bytes: Some(SMALL),
    }
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
/// Of the dashboard; whatever changes something there is in no table.
const PAGES: [Rule; 7] = [
    open("/"),
    open("/assets/*"),
    open("/api/login"),
    open("/api/logout"),
    rule("/api/overview", LOOKING, Some(SMALL)),
    rule("/api/jobs/*", LOOKING, Some(SMALL)),
    rule("/api/jobs/*/reports/*/*", LOOKING, Some(SMALL)),
];
const ANYTHING_ELSE: Rule = rule("", CHANGING, Some(SMALL));
/// Where a queue itself holds a token for one job to that job ([`held`]). Nothing else there is open to such a token.
const HELD: [&str; 14] = [
    "/perennial.v1.Coordinator/Status",
    "/perennial.v1.Coordinator/Scale",
    "/perennial.v1.Coordinator/Drain",
    "/perennial.v1.Coordinator/Stop",
    "/perennial.v1.Queue/Submit",
    "/perennial.v1.Queue/Resume",
    "/perennial.v1.Queue/Prioritize",
    "/perennial.v1.Queue/Jobs",
    "/api/overview",
    "/api/jobs",
    "/api/jobs/*",
    "/api/jobs/*/*",
    "/api/jobs/*/reports/*/*",
    "/api/workers/*/drain",
];
/// Whether this process answers: for probes, which have no certificate. It tells nothing else.
pub(super) const HEALTH: &str = "/healthz";

/// In which a browser keeps a person's token. The prefix makes it refuse one that is not of this host alone.
pub(super) const TOKEN_COOKIE: &str = "__Host-perennial-token";

/// What requests are held to.
#[derive(Debug, Clone)]
pub(super) struct Admission {
    /// The job that is served, if it is one alone. A token of another job opens nothing. A queue has many, and holds the
    /// token of one to it.
    pub job: Option<Arc<str>>,
    pub tokens: Option<Arc<Tokens>>,
    /// `HOST:PORT` under which others reach this coordinator, if it was given.
    pub advertised: Option<Arc<str>>,
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
    if request.uri().path() == HEALTH {
        // The connection stays one on which nothing was admitted, and has to go like those.
        return next.run(request).await;
    }
    let rule = rule_of(request.uri().path());
    match admission.judge(rule, &arrival.visitor, &request) {
        Ok(caller) => {
            if rule.roles.is_some() {
                arrival.admit();
            }
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
    let found = RULES.iter().chain(&PAGES).find(|rule| rule.fits(path));
    found.unwrap_or(&ANYTHING_ELSE)
}

// === impl Rule ===

impl Rule {
    fn fits(&self, path: &str) -> bool {
        is_like(path, self.path)
    }
}

/// Whether a path is like a pattern, in which `*` is any one segment.
fn is_like(path: &str, pattern: &str) -> bool {
    let fits = |(pattern, segment)| pattern == segment || pattern == "*";
    let (own, asked) = (pattern.split('/'), path.split('/'));
    own.clone().count() == asked.clone().count() && own.zip(asked).all(fits)
}

/// Refuses a request about `job` of somebody whose token is for another one; an empty name is no job, but all.
pub(super) fn held<T>(request: &tonic::Request<T>, job: &str) -> Result<(), Status> {
    let Some(caller) = request.extensions().get::<Caller>() else {
        return Ok(());
    };
    match &caller.job {
        Some(own) if job.is_empty() => Err(Status::permission_denied(format!(
            "the token of {caller} is for job `{own}` alone; name it"
        ))),
        Some(own) if own != job => Err(Status::permission_denied(format!(
            "the token of {caller} is for another job than `{job}`"
        ))),
        _ => Ok(()),
    }
}

// === impl Admission ===

impl Admission {
    fn judge(
        &self,
        rule: &Rule,
        visitor: &Visitor,
        request: &Request,
    ) -> Result<Option<Caller>, Status> {
        let here = Here {
            plain: matches!(visitor, Visitor::Plain),
            advertised: self.advertised.as_deref(),
        };
        here.refuse(request.method(), request.uri(), request.headers())
            .map_err(Status::permission_denied)?;
        let cookies = is_for_browsers(request.uri().path());
        let shown = shown(request.headers(), cookies);
        let is_held = HELD.iter().any(|path| is_like(request.uri().path(), path));
        self.caller(rule, is_held, visitor, shown)
    }

    /// Who calls and shows this token; nobody in particular in plain text, where everybody may do everything, or
    /// where anybody may come.
    fn caller(
        &self,
        rule: &Rule,
        is_held: bool,
        visitor: &Visitor,
        shown: Option<&str>,
    ) -> Result<Option<Caller>, Status> {
        let Some(roles) = rule.roles else {
            return Ok(None);
        };
        let certified = match visitor {
            Visitor::Plain => return Ok(None),
            Visitor::Known(caller) => Some(caller.clone()),
            Visitor::Anonymous | Visitor::WithoutRole => None,
        };
        if let Some(caller) = &certified
            && roles.contains(&caller.role)
        {
            return Ok(certified);
        }
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
        if !roles.contains(&caller.role) {
            let roles: Vec<&str> = roles.iter().map(|role| role.as_str()).collect();
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
            None if caller.job.is_some() && !is_held => {
                return Err(Status::permission_denied(format!(
                    "the token of {caller} is for one job, and this tells of all of them"
                )));
            }
            _ => {}
        }
        Ok(Some(caller))
    }
}

/// The token that a request shows.
fn shown(headers: &HeaderMap, cookies: bool) -> Option<&str> {
    match headers.get(AUTHORIZATION) {
        Some(value) => bearer(value),
        None if cookies => cookie(headers),
        None => None,
    }
}

/// The token that a browser keeps for a person.
pub(super) fn cookie(headers: &HeaderMap) -> Option<&str> {
    let lines = headers.get_all(COOKIE).into_iter();
    let pairs = lines
        .filter_map(|line| line.to_str().ok())
        .flat_map(|line| line.split(';'));
    let mut pairs = pairs.filter_map(|pair| pair.trim().split_once('='));
    pairs
        .find(|(name, _)| *name == TOKEN_COOKIE)
        .map(|(_, token)| token)
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
    use axum::Router;
    use axum::middleware::from_fn_with_state;
    use axum::routing::get;
    use tower::ServiceExt;

    use super::*;

    fn admission() -> Admission {
        Admission {
            job: Some("flowers".into()),
            tokens: None,
            advertised: None,
        }
    }

    fn known(role: Role) -> Visitor {
        Visitor::Known(Caller {
            role,
            name: "ann".into(),
            job: None,
        })
    }

    /// The roles whose certificate opens `path`.
    fn roles(path: &str) -> Vec<Role> {
        let opens = |role: &Role| {
            let caller = admission().caller(rule_of(path), false, &known(*role), None);
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
        for page in [
            "/api/overview",
            "/api/jobs/flowers",
            "/api/jobs/flowers/reports/7/html",
        ] {
            assert_eq!(roles(page), looking, "{page}");
        }
        for page in [
            "/api/jobs",
            "/api/jobs/flowers/stop",
            "/api/jobs/flowers/workers/w1/drain",
            "/api/workers/w1/drain",
            "/api/something/new",
        ] {
            assert_eq!(roles(page), [Role::Operator], "{page}");
        }
    }

    #[test]
    fn a_cookie_opens_the_dashboard_and_nothing_else() {
        let mut headers = HeaderMap::new();
        let line = format!("theme=dark; {TOKEN_COOKIE}=secret; x=y");
        headers.insert(COOKIE, line.parse().unwrap());
        assert_eq!(shown(&headers, true), Some("secret"));
        assert_eq!(shown(&headers, false), None);
        headers.insert(AUTHORIZATION, "Bearer other".parse().unwrap());
        assert_eq!(shown(&headers, true), Some("other"));
        assert!(!is_for_browsers("/perennial.v1.Coordinator/Stop"));
        assert!(!is_for_browsers("/metrics"));
    }

    /// Otherwise whoever asks once might keep a connection for ever, and do so many times.
    #[tokio::test]
    async fn who_asks_whether_it_is_well_is_answered_and_not_admitted() {
        let admission = Admission {
            job: None,
            ..admission()
        };
        let router = Router::new()
            .route(HEALTH, get(|| async {}))
            .route("/metrics", get(|| async {}))
            .layer(from_fn_with_state(admission, admit));
        let asked = async |path: &str, visitor: Visitor| {
            let arrival = Arrival::of(visitor);
            let mut request = Request::get(path).body(Body::empty()).unwrap();
            request.extensions_mut().insert(arrival.clone());
            let answer = router.clone().oneshot(request).await.unwrap();
            (answer.status(), arrival.is_admitted())
        };
        let well = asked(HEALTH, Visitor::Anonymous).await;
        assert_eq!(well, (StatusCode::OK, false));
        let viewer = asked("/metrics", known(Role::Viewer)).await;
        assert_eq!(viewer, (StatusCode::OK, true));
        let nobody = asked("/metrics", Visitor::Anonymous).await;
        assert_eq!(nobody, (StatusCode::UNAUTHORIZED, false));
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
        let rules = RULES.iter().chain(&PAGES).chain([&ANYTHING_ELSE]);
        let mut open = Vec::new();
        for rule in rules {
            for visitor in [Visitor::Anonymous, Visitor::WithoutRole] {
                match admission().caller(rule, false, &visitor, None) {
                    Ok(caller) => {
                        assert_eq!(caller, None);
                        open.push(rule.path);
                    }
                    Err(refused) => assert_eq!(refused.code(), Code::Unauthenticated),
                }
            }
        }
        open.dedup();
        assert_eq!(open, ["/", "/assets/*", "/api/login", "/api/logout"]);
    }
}
