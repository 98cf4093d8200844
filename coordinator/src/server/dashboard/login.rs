//! A person signs in with a token, which the browser keeps where no script reads it.
//!
//! The cookie is the token itself: nothing has to be remembered here, another coordinator that takes over knows
//! it as well, and a token whose line is taken out of the file opens nothing from then on.

use axum::body::Bytes;
use axum::http::StatusCode;
use axum::http::header::SET_COOKIE;
use axum::response::{IntoResponse, Response};
use perennial_secure::Token;
use serde::Deserialize;

use super::super::admission::TOKEN_COOKIE;
use super::Failure;

/// Of this host and no other, encrypted, sent with what this page asks alone, gone with the browser.
const LIMITS: &str = "Path=/; Secure; HttpOnly; SameSite=Strict";

#[derive(Deserialize)]
struct Login {
    token: String,
}

/// Keeps what has the form of a token. Whether it is known shows when something is asked for.
pub async fn login(body: Bytes) -> Result<Response, Failure> {
    // What was sent is not told: it may be a token.
    let not_a_token = || Failure::bad("that is no token; it begins with `perennial-`");
    let login: Login = serde_json::from_slice(&body).map_err(|_| not_a_token())?;
    let token = Token::parse(&login.token, "the form").map_err(|_| not_a_token())?;
    let cookie = format!("{TOKEN_COOKIE}={}; {LIMITS}", token.reveal());
    Ok((StatusCode::NO_CONTENT, [(SET_COOKIE, cookie)]).into_response())
}

pub async fn logout() -> Response {
    let cookie = format!("{TOKEN_COOKIE}=; Max-Age=0; {LIMITS}");
    (StatusCode::NO_CONTENT, [(SET_COOKIE, cookie)]).into_response()
}
