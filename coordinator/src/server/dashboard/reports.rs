//! Reports as they lie in the store.

use axum::Extension;
use axum::extract::{Path, State};
use axum::http::header::{CONTENT_SECURITY_POLICY, CONTENT_TYPE};
use axum::response::{IntoResponse, Response};
use perennial_secure::Caller;

use super::{Dashboard, Failure, may_touch};

/// A report brings its styles and pictures with it. Whoever may write to the store may have written it, so it
/// is held to that: it runs nothing and is of no origin.
const POLICY: &str = "default-src 'none'; img-src data:; style-src 'unsafe-inline'; base-uri 'none'; form-action 'none'; \
     frame-ancestors 'none'; sandbox";

pub async fn report(
    State(dashboard): State<Dashboard>,
    Path((job, step, format)): Path<(String, u64, String)>,
    caller: Option<Extension<Caller>>,
) -> Result<Response, Failure> {
    may_touch(caller.as_ref().map(|Extension(caller)| caller), &job)?;
    let kind = match format.as_str() {
        "html" => "text/html; charset=utf-8",
        "json" => "application/json",
        "txt" => "text/plain; charset=utf-8",
        _ => {
            return Err(Failure::not_found(format!(
                "a report has no format `{format}`; it has html, json and txt"
            )));
        }
    };
    let report = dashboard.store().job(&job)?.report(step, &format).await?;
    let headers = [(CONTENT_TYPE, kind), (CONTENT_SECURITY_POLICY, POLICY)];
    Ok((headers, report).into_response())
}
