//! What the dashboard's page asks of a coordinator with a queue, without a browser and in plain text.

mod common;

use std::net::SocketAddr;

use common::DEADLINE;
use perennial_coordinator::Access;
use serde_json::{Value, json};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;
use tokio::sync::watch;
use tokio::time::timeout;

/// A coordinator and nobody to work for it.
struct Place {
    address: SocketAddr,
    _stop: watch::Sender<bool>,
}

struct Answer {
    code: u16,
    head: String,
    body: String,
}

// === impl Place ===

impl Place {
    async fn new() -> Self {
        let (address, stop) = common::queue(Access::default()).await;
        Self {
            address,
            _stop: stop,
        }
    }

    async fn ask(&self, request: &str, headers: &str, body: &str) -> Answer {
        let asked = async {
            let mut stream = TcpStream::connect(self.address).await.unwrap();
            let length = body.len();
            let text = format!(
                "{request} HTTP/1.1\r\nConnection: close\r\nContent-Length: {length}\r\n{headers}\r\n{body}"
            );
            stream.write_all(text.as_bytes()).await.unwrap();
            let mut answer = String::new();
            stream.read_to_string(&mut answer).await.unwrap();
            answer
        };
        let answer = timeout(DEADLINE, asked).await.expect("an answer");
        let (head, body) = answer.split_once("\r\n\r\n").unwrap();
        Answer {
            code: head.split(' ').nth(1).unwrap().parse().unwrap(),
            head: head.to_lowercase(),
            body: body.to_string(),
        }
    }

    /// As the page itself asks.
    async fn get(&self, path: &str) -> Answer {
        let headers = format!("Host: {}\r\n", self.address);
        self.ask(&format!("GET {path}"), &headers, "").await
    }

    async fn see(&self, path: &str) -> Value {
        let answer = self.get(path).await;
        assert_eq!(answer.code, 200, "{path}: {}", answer.body);
        serde_json::from_str(&answer.body).unwrap()
    }

    async fn post(&self, path: &str, body: Value) -> Answer {
        let address = self.address;
        let headers = format!("Host: {address}\r\nOrigin: http://{address}\r\n");
        self.ask(&format!("POST {path}"), &headers, &body.to_string())
            .await
    }

    async fn submit(&self, job: &str) -> Answer {
        let file = json!({ "name": job, "data": { "dir": "/pictures" } }).to_string();
        let request = json!({ "name": "job.toml", "file": file, "priority": 2, "workers": 3 });
        self.post("/api/jobs", request).await
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_job_is_submitted_watched_scaled_stopped_and_resumed() {
    let place = Place::new().await;
    let submitted = place.submit("tulips").await;
    assert_eq!(submitted.code, 200, "{}", submitted.body);
    let seen = place.see("/api/overview").await;
    assert_eq!(seen["serves"], "queue");
    assert_eq!(
        seen["me"],
        json!({ "name": null, "role": null, "may_operate": true, "signed_in": false })
    );
    assert_eq!(seen["jobs"][0]["job"], "tulips");
    assert_eq!(seen["jobs"][0]["state"], "queued");
    assert_eq!(seen["jobs"][0]["queue"]["max_workers"], 3);
    let job = place.see("/api/jobs/tulips").await;
    assert_eq!(job["state"], "queued");
    assert_eq!(job["spec"]["data"]["dir"], "/pictures");
    assert_eq!(job["ledger"]["steps"], 0);

    let did = |path: &str, body: Value| {
        let path = format!("/api/jobs/tulips/{path}");
        let place = &place;
        async move {
            let answer = place.post(&path, body).await;
            assert_eq!(answer.code, 200, "{path}: {}", answer.body);
            place.see("/api/overview").await["jobs"][0].clone()
        }
    };
    assert_eq!(
        did("scale", json!({ "workers": 2 })).await["queue"]["max_workers"],
        2
    );
    assert_eq!(
        did("priority", json!({ "priority": 7 })).await["queue"]["priority"],
        7
    );
    assert_eq!(
        did("stop", json!({ "now": false })).await["state"],
        "stopped"
    );
    assert_eq!(did("resume", json!({})).await["state"], "queued");
}

#[tokio::test(flavor = "multi_thread")]
async fn what_cannot_be_is_refused_in_a_sentence() {
    let place = Place::new().await;
    assert_eq!(place.submit("tulips").await.code, 200);
    let stop = |body: Value| place.post("/api/jobs/tulips/stop", body);
    let scale = |workers: u32| place.post("/api/jobs/tulips/scale", json!({ "workers": workers }));
    for (answer, code, why) in [
        (place.submit("tulips").await, 409, "job `tulips` exists"),
        (
            place.submit("../tulips").await,
            400,
            "but must be letters, digits",
        ),
        (
            place
                .post("/api/jobs", json!({ "name": "a.toml", "file": "?" }))
                .await,
            400,
            "`a.toml`: expected",
        ),
        (
            place.post("/api/jobs", json!({ "file": "{}" })).await,
            400,
            "missing field `name`",
        ),
        (scale(0).await, 409, "0 workers are fewer"),
        (
            scale(99).await,
            409,
            "99 workers are more than job `tulips` can use",
        ),
        (stop(json!({})).await, 400, "missing field `now`"),
        (stop(json!("now")).await, 400, "the request cannot be read"),
        (
            place.post("/api/workers/w9/drain", json!({})).await,
            404,
            "the pool has no worker `w9`",
        ),
        (
            place.post("/api/jobs/roses/resume", json!({})).await,
            404,
            "job `roses` is not there",
        ),
        (
            place.get("/api/jobs/roses").await,
            404,
            "job `roses` is not in store",
        ),
        (
            place.get("/api/jobs/..%2Froses").await,
            400,
            "a job's name has letters",
        ),
        (
            place.get("/api/jobs/tulips/reports/7/html").await,
            404,
            "report.html",
        ),
        (
            place.get("/api/jobs/tulips/reports/7/exe").await,
            404,
            "it has html, json and txt",
        ),
        (
            place.get("/assets/..%2Fmod.rs").await,
            404,
            "the page has no file",
        ),
    ] {
        assert_eq!(answer.code, code, "{}", answer.body);
        assert!(answer.body.contains(why), "{why}: {}", answer.body);
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn every_answer_says_what_a_browser_may_do_with_it() {
    let place = Place::new().await;
    for path in [
        "/",
        "/assets/main.js",
        "/assets/none.js",
        "/api/overview",
        "/api/jobs/roses",
    ] {
        let answer = place.get(path).await;
        for header in [
            "content-security-policy: default-src 'self'; img-src 'self' data:;",
            "frame-ancestors 'none'",
            "x-content-type-options: nosniff",
            "cache-control: no-store",
            "referrer-policy: no-referrer",
        ] {
            assert!(answer.head.contains(header), "{path}: {}", answer.head);
        }
        assert!(!answer.head.contains("unsafe"), "{path}: {}", answer.head);
        assert!(
            !answer.head.contains("access-control"),
            "{path}: {}",
            answer.head
        );
    }
    assert!(
        place
            .get("/")
            .await
            .head
            .contains("content-type: text/html; charset=utf-8")
    );
    assert!(
        place
            .get("/assets/main.js")
            .await
            .head
            .contains("content-type: text/javascript")
    );
}

#[tokio::test(flavor = "multi_thread")]
async fn another_site_reaches_nothing_within_this_machine() {
    let place = Place::new().await;
    assert_eq!(place.submit("tulips").await.code, 200);
    let address = place.address;
    let stop = "POST /api/jobs/tulips/stop";
    let port = address.port();
    for headers in [
        format!("Host: {address}\r\n"),
        format!("Host: {address}\r\nOrigin: http://evil.example\r\n"),
        format!("Host: {address}\r\nOrigin: http://127.0.0.1:1\r\n"),
        // Its name leads to our address.
        format!("Host: evil.example:{port}\r\nOrigin: http://evil.example:{port}\r\n"),
    ] {
        let answer = place.ask(stop, &headers, "{\"now\": true}").await;
        assert_eq!(answer.code, 403, "{headers}: {}", answer.body);
    }
    let evil = format!("Host: evil.example:{port}\r\n");
    for request in ["GET /", "GET /api/overview", "GET /api/jobs/tulips"] {
        let answer = place.ask(request, &evil, "").await;
        assert_eq!(answer.code, 403, "{request}");
        assert!(answer.body.contains("`evil.example`"), "{}", answer.body);
    }
    assert_eq!(place.see("/api/jobs/tulips").await["state"], "queued");
}
