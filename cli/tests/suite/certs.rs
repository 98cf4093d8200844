use std::path::Path;

use crate::support::{Ran, command, names, ran, run, workshop};

fn certs(folder: &Path, words: &str) -> Ran {
    let words: Vec<&str> = words.split(' ').collect();
    run(folder, &[&["certs"], &words[..]].concat())
}

#[test]
fn nothing_listens_beyond_this_machine_without_encryption() {
    let folder = workshop();
    let coordinator = "coordinator job.toml --listen 0.0.0.0:0";
    let worker = "worker --coordinator http://127.0.0.1:1 --host 0.0.0.0";
    for line in [coordinator, worker] {
        let line: Vec<&str> = line.split(' ').collect();
        let sentence = run(folder.path(), &line).refused(1);
        assert!(sentence.contains("--tls-ca"), "{sentence}");
        assert!(sentence.contains("--insecure"), "{sentence}");
    }
    assert!(!folder.path().join("perennial-store/tiny").exists());
}

#[test]
fn certificates_are_made_for_every_role_and_never_overwritten() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path();
    certs(path, "init ca").ok();
    certs(
        path,
        "issue ca coordinator worker operator viewer --host node1",
    )
    .ok();
    certs(path, "issue ca ann --role operator --days 7").ok();
    certs(path, "token ca bob --role view --job flowers").ok();
    let made = names(&path.join("ca"));
    for name in [
        "ca.key",
        "coordinator.pem",
        "ann.key",
        "bob.token",
        "tokens",
    ] {
        assert!(made.contains(&name.to_string()), "{name} in {made:?}");
    }
    for again in ["init ca", "issue ca worker", "token ca bob --role view"] {
        let sentence = certs(path, again).refused(1);
        assert!(sentence.contains("is there already"), "{sentence}");
    }
    let sentence = certs(path, "issue ca carol").refused(1);
    assert!(sentence.contains("--role"), "{sentence}");
    let sentence = certs(path, "issue ca ../carol --role viewer").refused(1);
    assert!(sentence.contains("`../carol` is no name"), "{sentence}");
    let sentence = certs(path, "issue ca dave --role coordinator --host a_b").refused(1);
    assert!(sentence.contains("`a_b` is no host"), "{sentence}");
    let token = std::fs::read_to_string(path.join("ca/bob.token")).unwrap();
    let kept = std::fs::read_to_string(path.join("ca/tokens")).unwrap();
    assert!(
        !kept.contains(token.trim()) && kept.contains("flowers"),
        "{kept}"
    );
}

#[test]
fn a_certificate_is_replaced_when_asked_and_revoked_by_name() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path();
    certs(path, "init ca").ok();
    certs(path, "issue ca worker").ok();
    let text = || std::fs::read_to_string(path.join("ca/worker.pem")).unwrap();
    let first = text();
    certs(path, "issue ca worker --replace").ok();
    assert_ne!(first, text());
    let told = certs(path, "revoke ca worker").ok();
    assert!(told.starts_with("2 certificates revoked"), "{told}");
    let list = std::fs::read_to_string(path.join("ca/ca.crl")).unwrap();
    assert!(list.contains("BEGIN X509 CRL"), "{list}");
    let told = certs(path, "revoke ca worker --json").json();
    assert_eq!(told["revoked"].as_array().map(Vec::len), Some(0), "{told}");
    let sentence = certs(path, "revoke ca nobody").refused(1);
    assert!(sentence.contains("`nobody`"), "{sentence}");
    let left = names(&path.join("ca"));
    let half_written = left.iter().filter(|name| name.ends_with(".new"));
    assert_eq!(half_written.count(), 0, "{left:?}");
}

#[test]
fn a_certificate_is_read_before_anything_begins() {
    let folder = workshop();
    let path = folder.path();
    certs(path, "init ca").ok();
    certs(path, "issue ca worker coordinator").ok();
    let line = |role: &str, more: &str| {
        let line = format!(
            "coordinator job.toml --listen 127.0.0.1:0 --tls-ca ca/ca.pem --tls-cert ca/{role}.pem{more}"
        );
        let line: Vec<&str> = line.split(' ').collect();
        run(path, &line).refused(1)
    };
    let sentence = line("worker", " --tls-key ca/worker.key");
    assert!(sentence.contains("that of a worker"), "{sentence}");
    let sentence = line("coordinator", " --tls-key ca/worker.key");
    assert!(sentence.contains("does not belong to"), "{sentence}");
    let sentence = line("coordinator", "");
    assert!(sentence.contains("--tls-key"), "{sentence}");
    let words = ["coordinator", "job.toml", "--tokens", "ca/tokens"];
    let sentence = run(path, &words).refused(1);
    assert!(sentence.contains("readable for everybody"), "{sentence}");
}

#[test]
fn what_holds_no_token_is_named_and_not_told() {
    let folder = workshop();
    let mut status = command(folder.path());
    status
        .args(["status", "--coordinator", "127.0.0.1:9"])
        .env("PERENNIAL_TOKEN", "perennial-marked");
    let sentence = ran(status.output().unwrap()).refused(1);
    assert!(sentence.contains("PERENNIAL_TOKEN"), "{sentence}");
    assert!(!sentence.contains("marked"), "{sentence}");
}
