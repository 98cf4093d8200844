//! A coordinator with TLS on a real port, and whoever tries the door.

mod browser;
#[path = "../common/mod.rs"]
mod common;
mod place;
mod wire;

use std::time::Duration;

use perennial_coordinator::operate::{OperateError, Ruler};
use perennial_proto::dial::Address;
use perennial_proto::v1::{JobsReply, ResumeRequest, StatusRequest, SubmitRequest};
use perennial_secure::{Role, Security, Token};
use perennial_session::{Command, Options, connect};

use common::DEADLINE;
use place::Place;
use wire::{Recorder, ask, get, get_metrics, plain, replay};

#[tokio::test(flavor = "multi_thread")]
async fn each_role_may_do_what_is_its_own_and_nothing_else() {
    let place = Place::new().await;
    let (viewer, operator) = (place.of(Role::Viewer), place.of(Role::Operator));
    let seen = place.ruler(&viewer).status("flowers").await;
    assert_eq!(seen.unwrap().job, "flowers");
    let refused = place.ruler(&viewer).scale("flowers", 3).await.unwrap_err();
    assert!(
        refused.to_string().contains("viewer `viewer` may not"),
        "{refused}"
    );
    let refused = place
        .ruler(&place.of(Role::Worker))
        .scale("flowers", 3)
        .await;
    assert!(
        refused
            .unwrap_err()
            .to_string()
            .contains("worker `worker` may not")
    );
    assert_eq!(
        place
            .ruler(&operator)
            .scale("flowers", 3)
            .await
            .unwrap()
            .wanted,
        3
    );

    assert_eq!(
        get_metrics(&place, Some("viewer"), None).await.unwrap().0,
        200
    );
    let (code, words) = get_metrics(&place, Some("worker"), None).await.unwrap();
    assert_eq!(code, 403, "{words}");
    let end = joins(&place, place.of(Role::Operator)).await.unwrap_err();
    assert!(end.contains("operator `operator` may not"), "{end}");
}

/// Whether a worker with these credentials is welcome; else why not.
async fn joins(place: &Place, security: Security) -> Result<(), String> {
    let options = Options {
        coordinators: vec![place.url.clone()],
        security,
        numerics: "none".into(),
        threads: 1,
        patience: Duration::ZERO,
        worker: String::new(),
    };
    let told = tokio::task::spawn_blocking(move || connect(options).unwrap().recv());
    match tokio::time::timeout(DEADLINE, told).await.unwrap().unwrap() {
        Command::Prepare { .. } => Ok(()),
        Command::Exit(end) => Err(end.unwrap_err()),
        other => panic!("{other:?}"),
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_worker_joins_by_its_certificate() {
    let place = Place::new().await;
    joins(&place, place.of(Role::Worker)).await.unwrap();
}

#[tokio::test(flavor = "multi_thread")]
async fn certificates_of_another_authority_and_of_another_time_open_nothing() {
    let (place, stranger) = (Place::new().await, Place::new().await);
    let end = joins(&place, stranger.of(Role::Worker)).await.unwrap_err();
    assert!(end.contains("not signed by the authority"), "{end}");
    // Who trusts the coordinator but has a certificate that the coordinator does not trust.
    for who in ["stranger", "expired"] {
        let refused = get_metrics(&place, Some(who), None).await.unwrap_err();
        let why = match who {
            "expired" => "it has expired",
            _ => "it trusts another authority",
        };
        assert!(refused.contains(why), "{who}: {refused}");
    }
    assert_eq!(place.workers().await, 0);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_certificate_without_a_role_opens_nothing() {
    let place = Place::new().await;
    let (code, words) = get_metrics(&place, Some("nobody"), None).await.unwrap();
    assert_eq!(code, 401, "{words}");
    assert!(words.contains("names no role"), "{words}");
}

/// Only Linux listens at every address of the loopback network.
#[cfg(target_os = "linux")]
#[tokio::test(flavor = "multi_thread")]
async fn a_coordinator_is_believed_for_its_hosts_alone() {
    let place = Place::new().await;
    let elsewhere = Recorder::before(&place, "127.0.0.2").await;
    let viewer = place.of(Role::Viewer);
    let refused = Ruler::given(&elsewhere.url, &viewer)
        .status("flowers")
        .await;
    let words = refused.unwrap_err().to_string();
    assert!(words.contains("is not for this host"), "{words}");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_token_opens_what_its_role_and_its_job_say() {
    let place = Place::new().await;
    let look = place.token("look", Role::Viewer, None);
    let change = place.token("change", Role::Operator, Some("flowers"));
    let other = place.token("other", Role::Operator, Some("leaves"));
    let unknown = Token::new().unwrap();
    let with = |token: &Token| place.without_certificate().with_token(Some(token.clone()));

    assert_eq!(get_metrics(&place, None, Some(&look)).await.unwrap().0, 200);
    let refused = place
        .ruler(&with(&look))
        .stop("flowers", false)
        .await
        .unwrap_err();
    assert!(
        refused.to_string().contains("viewer `look` may not"),
        "{refused}"
    );
    let refused = place
        .ruler(&with(&other))
        .stop("flowers", false)
        .await
        .unwrap_err();
    assert!(
        refused
            .to_string()
            .contains("for another job than `flowers`"),
        "{refused}"
    );
    let refused = place
        .ruler(&with(&unknown))
        .stop("flowers", false)
        .await
        .unwrap_err();
    assert!(refused.to_string().contains("not known here"), "{refused}");
    assert!(!refused.to_string().contains(unknown.reveal()));
    let refused = place
        .ruler(&place.without_certificate())
        .stop("flowers", false)
        .await;
    let words = refused.unwrap_err().to_string();
    assert!(words.contains("show a token"), "{words}");
    assert_eq!(get_metrics(&place, None, None).await.unwrap().0, 401);
    place
        .ruler(&with(&change))
        .stop("flowers", false)
        .await
        .unwrap();
}

/// Probes of an orchestrator have no certificate.
#[tokio::test(flavor = "multi_thread")]
async fn anybody_hears_that_it_is_well_and_nothing_else() {
    let place = Place::new().await;
    let answer = get(&place, "/healthz", None, None).await.unwrap();
    assert_eq!(answer, (200, "ok\n".into()));
    for path in ["/healthz/", "/healthz/../metrics", "/Healthz", "/metrics"] {
        let (code, words) = get(&place, path, None, None).await.unwrap();
        assert_eq!(code, 401, "{path}: {words}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn nothing_is_answered_in_plain_text() {
    let place = Place::new().await;
    let answer = plain(&place, b"GET /metrics HTTP/1.1\r\nHost: a\r\n\r\n").await;
    let text = String::from_utf8_lossy(&answer);
    assert!(
        !text.contains("HTTP") && !text.contains("perennial"),
        "{text}"
    );
}

/// A person's token goes nowhere where somebody on the way could read it.
#[tokio::test(flavor = "multi_thread")]
async fn a_token_is_not_told_to_a_coordinator_without_tls() {
    let token = Token::new().unwrap();
    let (url, heard) = wire::listener().await;
    let security = Security::default().with_token(Some(token));
    let address = Address::parse(&url, &security).unwrap();
    let mut client = address.client(&security, DEADLINE).await.unwrap();
    client.status(StatusRequest::default()).await.unwrap_err();
    let heard = heard.lock().unwrap();
    assert_eq!(heard.len(), 1);
    assert!(!heard[0].contains_key("authorization"), "{heard:?}");
}

/// All that a worker said when it joined, said again by somebody who listened.
#[tokio::test(flavor = "multi_thread")]
async fn a_recorded_join_is_of_no_use() {
    let place = Place::new().await;
    let recorder = Recorder::before(&place, "127.0.0.1").await;
    let options = Options {
        coordinators: vec![recorder.url.clone()],
        security: place.of(Role::Worker),
        numerics: "none".into(),
        threads: 1,
        patience: DEADLINE,
        worker: String::new(),
    };
    let session = tokio::task::spawn_blocking(move || {
        let session = connect(options).unwrap();
        let told = session.recv();
        (session, told)
    });
    let (session, told) = session.await.unwrap();
    assert!(matches!(told, Command::Prepare { .. }), "{told:?}");
    assert_eq!(place.workers().await, 1);
    let said = recorder.said();
    assert!(said.len() > 1000, "a handshake and a Hello");

    replay(&place, &said).await;
    assert_eq!(place.workers().await, 1);
    tokio::task::spawn_blocking(move || drop(session))
        .await
        .unwrap();
}

#[tokio::test(flavor = "multi_thread")]
async fn a_message_that_is_too_long_is_refused_and_harms_nobody() {
    let place = Place::new().await;
    let operator = place.of(Role::Operator);
    let endless = "w".repeat(1 << 20);
    let refused = place.ruler(&operator).drain("flowers", &endless).await;
    let words = refused.unwrap_err().to_string();
    assert!(words.len() < 1000, "the answer does not hold it");
    // One that only claims to be long.
    let worker = place.of(Role::Worker);
    wire::claims_a_long_message(&place, &worker).await;
    assert_eq!(
        place
            .ruler(&operator)
            .scale("flowers", 2)
            .await
            .unwrap()
            .wanted,
        2
    );
}

/// A queue has many jobs: the token of one opens that one, and nothing is told of the others.
#[tokio::test(flavor = "multi_thread")]
async fn a_token_for_one_job_opens_that_job_of_a_queue_and_nothing_else() {
    let place = Place::of_queue().await;
    let everything = place.token("everything", Role::Operator, None);
    let flowers = place.token("flora", Role::Operator, Some("flowers"));
    let with = |token: &Token| {
        let security = place.without_certificate();
        place.ruler(&security.with_token(Some(token.clone())))
    };
    let (all, own) = (with(&everything), with(&flowers));
    let submission = |job: &str| SubmitRequest {
        spec_json: serde_json::json!({ "name": job, "data": { "dir": "/pictures" } }).to_string(),
        ..SubmitRequest::default()
    };
    let refused = |error: OperateError| {
        let words = error.to_string();
        assert!(words.contains("the token of operator `flora`"), "{words}");
    };
    all.submit(submission("leaves")).await.unwrap();
    own.submit(submission("flowers")).await.unwrap();
    refused(own.submit(submission("roots")).await.unwrap_err());

    let names = |jobs: &JobsReply| -> Vec<String> {
        let jobs = jobs.jobs.iter();
        jobs.map(|job| job.job.clone()).collect()
    };
    assert_eq!(names(&all.jobs().await.unwrap()), ["leaves", "flowers"]);
    assert_eq!(names(&own.jobs().await.unwrap()), ["flowers"]);
    own.status("flowers").await.unwrap();
    own.prioritize("flowers", 3).await.unwrap();
    own.scale("flowers", 2).await.unwrap();
    own.stop("flowers", false).await.unwrap();
    let again = |job: &str| ResumeRequest {
        job: job.into(),
        ..ResumeRequest::default()
    };
    own.resume(again("flowers")).await.unwrap();

    refused(own.status("leaves").await.unwrap_err());
    refused(own.prioritize("leaves", 3).await.unwrap_err());
    refused(own.scale("leaves", 2).await.unwrap_err());
    refused(own.stop("leaves", false).await.unwrap_err());
    refused(own.resume(again("leaves")).await.unwrap_err());
    refused(own.drain("leaves", "w1").await.unwrap_err());
    // Of the pool, whoever has the worker.
    refused(own.drain("", "w1").await.unwrap_err());
    let metrics = get_metrics(&place, None, Some(&flowers)).await.unwrap();
    assert_eq!(metrics.0, 403, "{}", metrics.1);

    let look = |path: &'static str| get(&place, path, None, Some(&flowers));
    let (code, seen) = look("/api/overview").await.unwrap();
    assert_eq!(code, 200, "{seen}");
    assert!(
        seen.contains("flowers") && !seen.contains("leaves"),
        "{seen}"
    );
    assert_eq!(look("/api/jobs/flowers").await.unwrap().0, 200);
    assert_eq!(look("/api/jobs/leaves").await.unwrap().0, 403);
    let shown = format!("Authorization: Bearer {}", flowers.reveal());
    let headers = ["Origin: https://localhost".to_string(), shown];
    for (path, body, code) in [
        ("/api/jobs/flowers/priority", "{\"priority\": 4}", 200),
        ("/api/jobs/leaves/priority", "{\"priority\": 4}", 403),
        ("/api/jobs/leaves/stop", "{\"now\": true}", 403),
        ("/api/jobs/leaves/resume", "", 403),
        ("/api/workers/w1/drain", "", 403),
    ] {
        let request = format!("POST {path}");
        let answer = ask(&place, None, &request, &headers, body).await.unwrap();
        assert_eq!(answer.code, code, "{path}: {}", answer.body);
    }
    assert_eq!(all.status("leaves").await.unwrap().phase, "queued");
}
