//! Pages in a person's browser: the dashboard itself, and those of other sites.

use perennial_secure::{Role, Token};

use crate::place::Place;
use crate::wire::{Answer, ask};

const OURS: &str = "Origin: https://localhost";

/// What a browser is answered that has no certificate.
async fn browse(place: &Place, request: &str, headers: &[&str], body: &str) -> Answer {
    let headers: Vec<String> = headers.iter().map(|it| it.to_string()).collect();
    ask(place, None, request, &headers, body).await.unwrap()
}

/// Signs in, and returns what the browser sends from then on.
async fn sign_in(place: &Place, token: &Token) -> String {
    let body = format!("{{\"token\": \"{}\"}}", token.reveal());
    let answer = browse(place, "POST /api/login", &[OURS], &body).await;
    assert_eq!(answer.code, 204, "{}", answer.body);
    let lines = answer.head.lines();
    let mut cookies = lines.filter_map(|line| {
        let (name, value) = line.split_once(": ")?;
        name.eq_ignore_ascii_case("set-cookie").then_some(value)
    });
    let (cookie, limits) = cookies.next().unwrap().split_once("; ").unwrap();
    assert!(cookie.starts_with("__Host-"), "{cookie}");
    assert_eq!(limits, "Path=/; Secure; HttpOnly; SameSite=Strict");
    format!("Cookie: {cookie}")
}

#[tokio::test(flavor = "multi_thread")]
async fn a_person_signs_in_and_may_do_what_the_token_allows() {
    let place = Place::new().await;
    let token = |name: &str, role| place.token(name, role, None);
    let (viewer, operator) = (token("vera", Role::Viewer), token("otto", Role::Operator));
    let page = browse(&place, "GET /", &[], "").await;
    assert_eq!(page.code, 200);
    assert!(page.body.contains("<h1>Sign in</h1>"));
    assert_eq!(browse(&place, "GET /api/overview", &[], "").await.code, 401);

    let cookie = sign_in(&place, &viewer).await;
    let seen = browse(&place, "GET /api/overview", &[&cookie], "").await;
    assert_eq!(seen.code, 200, "{}", seen.body);
    let seen: serde_json::Value = serde_json::from_str(&seen.body).unwrap();
    assert_eq!(seen["me"]["name"], "vera");
    assert_eq!(seen["me"]["may_operate"], false);
    assert_eq!(seen["me"]["signed_in"], true);
    assert_eq!(seen["jobs"][0]["job"], "flowers");
    let scale = "POST /api/jobs/flowers/scale";
    let refused = browse(&place, scale, &[OURS, &cookie], "{\"workers\": 3}").await;
    assert_eq!(refused.code, 403);
    assert!(
        refused.body.contains("viewer `vera` may not"),
        "{}",
        refused.body
    );

    let cookie = sign_in(&place, &operator).await;
    let scaled = browse(&place, scale, &[OURS, &cookie], "{\"workers\": 3}").await;
    assert_eq!(
        (scaled.code, scaled.body.as_str()),
        (200, "{\"present\":0,\"wanted\":3}")
    );
    // The cookie is for the page; programs show a token or a certificate.
    assert_eq!(
        browse(&place, "GET /metrics", &[&cookie], "").await.code,
        401
    );
    let out = browse(&place, "POST /api/logout", &[OURS, &cookie], "").await;
    assert!(out.head.contains("Max-Age=0"), "{}", out.head);

    std::fs::write(place.folder.path().join("tokens"), "").unwrap();
    let late = browse(&place, scale, &[OURS, &cookie], "{\"workers\": 4}").await;
    assert_eq!(late.code, 401, "a token that was taken out opens nothing");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_token_never_comes_back_in_an_answer() {
    let place = Place::new().await;
    let token = place.token("otto", Role::Operator, None);
    let shown = token.reveal().to_string();
    let cookie = sign_in(&place, &token).await;
    let wrong = format!("{{\"token\": \"{shown}x\"}}");
    for (request, body) in [
        ("GET /api/overview", ""),
        ("GET /api/jobs/flowers", ""),
        ("POST /api/login", wrong.as_str()),
        ("POST /api/login", shown.as_str()),
        ("POST /api/jobs/flowers/scale", shown.as_str()),
        ("GET /nothing/there", ""),
    ] {
        let answer = browse(&place, request, &[OURS, &cookie], body).await;
        let said = answer.head + &answer.body;
        assert!(!said.contains(&shown), "{request}: {said}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn another_site_changes_nothing_with_a_persons_cookie_or_certificate() {
    let place = Place::new().await;
    let token = place.token("otto", Role::Operator, None);
    let cookie = sign_in(&place, &token).await;
    let body = "{\"workers\": 3}";
    for (request, said) in [
        ("POST /api/jobs/flowers/scale", body),
        ("POST /api/jobs/flowers/stop", "{\"now\": true}"),
        ("POST /api/login", "{}"),
        ("POST /api/logout", ""),
    ] {
        for origin in [
            "Origin: https://evil.example",
            "Origin: https://localhost.evil.example",
            "Origin: null",
            "X-Nothing: 1",
        ] {
            let headers = [origin.to_string(), cookie.clone()];
            for certificate in [None, Some("operator")] {
                let answer = ask(&place, certificate, request, &headers, said).await;
                let answer = answer.unwrap();
                assert_eq!(answer.code, 403, "{request} {origin}: {}", answer.body);
                assert!(answer.body.contains("(Origin)"), "{}", answer.body);
            }
        }
    }
    let ours = [OURS.to_string()];
    let own = ask(
        &place,
        Some("operator"),
        "POST /api/jobs/flowers/scale",
        &ours,
        body,
    )
    .await;
    assert_eq!(own.unwrap().code, 200);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_worker_and_a_token_of_another_job_see_nothing() {
    let place = Place::new().await;
    let token = place.token("tina", Role::Operator, Some("tulips"));
    let cookie = sign_in(&place, &token).await;
    for request in [
        "GET /api/overview",
        "GET /api/jobs/flowers",
        "GET /api/jobs/tulips",
    ] {
        let answer = browse(&place, request, &[&cookie], "").await;
        assert_eq!(answer.code, 403, "{request}");
        let answer = ask(&place, Some("worker"), request, &[], "").await.unwrap();
        assert_eq!(answer.code, 403, "{request}");
    }
    let token = place.token("fred", Role::Viewer, Some("flowers"));
    let cookie = sign_in(&place, &token).await;
    assert_eq!(
        browse(&place, "GET /api/overview", &[&cookie], "")
            .await
            .code,
        200
    );
    let other = browse(&place, "GET /api/jobs/tulips", &[&cookie], "").await;
    assert_eq!(other.code, 403, "{}", other.body);
}
