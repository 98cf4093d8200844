//! Certificates and tokens as a person has them: files.

use std::fs;
use std::net::SocketAddr;
use std::ops::Range;
use std::path::{Path, PathBuf};

use perennial_secure::{
    Authority, Credentials, Role, Security, SecurityError, Token, Tokens, Wanted, in_words,
};
use rustls::pki_types::ServerName;
use rustls::{ClientConnection, Connection, ServerConnection};
use tempfile::TempDir;

struct Installation {
    folder: TempDir,
    authority: Authority,
}

impl Installation {
    fn new() -> Self {
        let folder = tempfile::tempdir().unwrap();
        let authority = Authority::init(folder.path()).unwrap();
        Self { folder, authority }
    }

    fn file(&self, name: &str) -> PathBuf {
        self.folder.path().join(name)
    }

    fn issue(&self, role: Role, name: &str, days: Range<i64>) {
        let wanted = Wanted {
            role,
            name: name.into(),
            hosts: Vec::new(),
            days,
        };
        (self.authority.issue_into(self.folder.path(), &wanted)).unwrap();
    }

    /// Another worker's certificate in place of the one that is there.
    fn replace(&self, name: &str) {
        let wanted = Wanted {
            role: Role::Worker,
            name: name.into(),
            hosts: Vec::new(),
            days: 0..1,
        };
        (self.authority.replace_in(self.folder.path(), &wanted)).unwrap();
    }

    fn text(&self, name: &str) -> String {
        fs::read_to_string(self.file(name)).unwrap()
    }

    fn read(&self, name: &str) -> Result<Credentials, SecurityError> {
        let (certificate, key) = (
            self.file(&format!("{name}.pem")),
            self.file(&format!("{name}.key")),
        );
        Credentials::read(&self.file("ca.pem"), Some((&certificate, &key)))
    }
}

/// Who the other ends are, as two workers know them that meet, the first one dialing; or what the first to refuse says.
fn meet(dialing: &Credentials, dialed: &Credentials) -> Result<[Vec<u8>; 2], String> {
    let name = ServerName::try_from("worker.perennial").unwrap();
    let client = ClientConnection::new(dialing.to_worker(), name).unwrap();
    let server = ServerConnection::new(dialed.worker().unwrap()).unwrap();
    let mut ends = [Connection::from(client), Connection::from(server)];
    for turn in 0..8 {
        let mut said = Vec::new();
        while ends[turn % 2].wants_write() {
            ends[turn % 2].write_tls(&mut said).unwrap();
        }
        let other = &mut ends[(turn + 1) % 2];
        let mut heard = &said[..];
        while !heard.is_empty() {
            other.read_tls(&mut heard).unwrap();
            let processed = other.process_new_packets();
            processed.map_err(|error| in_words(&error))?;
        }
    }
    assert!(ends.iter().all(|end| !end.is_handshaking()));
    Ok(ends.map(|end| end.peer_certificates().unwrap()[0].to_vec()))
}

fn refusal(result: Result<Credentials, SecurityError>) -> String {
    result.map(|_| ()).unwrap_err().to_string()
}

#[test]
fn an_issued_certificate_is_of_its_role_and_no_other() {
    let installation = Installation::new();
    installation.issue(Role::Worker, "w", 0..1);
    let worker = installation.read("w").unwrap();
    worker.worker().unwrap();
    let refused = worker.coordinator().unwrap_err().to_string();
    assert!(refused.contains("that of a worker"), "{refused}");
}

#[test]
fn an_authority_opened_again_signs_as_before() {
    let installation = Installation::new();
    let again = Authority::open(installation.folder.path()).unwrap();
    let wanted = Wanted {
        role: Role::Operator,
        name: "ann".into(),
        hosts: Vec::new(),
        days: 0..1,
    };
    again
        .issue_into(installation.folder.path(), &wanted)
        .unwrap();
    installation.read("ann").unwrap();
    assert!(matches!(
        Authority::init(installation.folder.path()),
        Err(SecurityError::Exists(_))
    ));
}

#[test]
fn what_could_not_be_used_later_is_told_at_once() {
    let installation = Installation::new();
    installation.issue(Role::Worker, "old", -2..-1);
    let expired = refusal(installation.read("old"));
    assert!(expired.contains("has expired"), "{expired}");

    installation.issue(Role::Worker, "w", 0..1);
    let other = Installation::new();
    other.issue(Role::Worker, "w", 0..1);
    fs::copy(other.file("w.key"), installation.file("w.key")).unwrap();
    let key = refusal(installation.read("w"));
    assert!(key.contains("does not belong"), "{key}");

    fs::copy(other.file("w.pem"), installation.file("w.pem")).unwrap();
    let stranger = refusal(installation.read("w"));
    assert!(
        stranger.contains("not signed by the authority"),
        "{stranger}"
    );

    fs::write(installation.file("w.pem"), "nothing").unwrap();
    let empty = refusal(installation.read("w"));
    assert!(empty.contains("no certificate in PEM"), "{empty}");
}

#[cfg(unix)]
#[test]
fn keys_are_readable_for_their_owner_alone() {
    use std::os::unix::fs::PermissionsExt;
    let installation = Installation::new();
    installation.issue(Role::Worker, "w", 0..1);
    for name in ["ca.key", "w.key"] {
        let mode = fs::metadata(installation.file(name)).unwrap().permissions();
        assert_eq!(mode.mode() & 0o077, 0, "{name}");
    }
}

#[test]
fn no_secret_shows_in_debug() {
    let installation = Installation::new();
    installation.issue(Role::Worker, "w", 0..1);
    let token = Token::new().unwrap();
    let security = Security::tls(installation.read("w").unwrap()).with_token(Some(token.clone()));
    let shown = format!("{security:?} {token:?}");
    let key = fs::read_to_string(installation.file("w.key")).unwrap();
    let line = key.lines().nth(1).unwrap();
    assert!(
        !shown.contains(line) && !shown.contains(token.reveal()),
        "{shown}"
    );
}

fn lines(path: &Path, entries: &[&perennial_secure::TokenEntry]) {
    let lines = entries
        .iter()
        .map(|entry| serde_json::to_string(entry).unwrap());
    fs::write(path, lines.collect::<Vec<_>>().join("\n")).unwrap();
}

#[test]
fn a_token_is_known_until_its_line_is_gone() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("tokens");
    let (ann, bob) = (Token::new().unwrap(), Token::new().unwrap());
    let of_ann = ann
        .entry("ann", Role::Operator, Some("flowers".into()))
        .unwrap();
    let of_bob = bob.entry("bob", Role::Viewer, None).unwrap();
    lines(&path, &[&of_ann, &of_bob]);
    let tokens = Tokens::open(&path).unwrap();
    let caller = tokens.caller(ann.reveal()).unwrap();
    assert_eq!((caller.role, caller.name.as_str()), (Role::Operator, "ann"));
    assert!(caller.may_touch("flowers") && !caller.may_touch("leaves"));
    assert_eq!(tokens.caller(bob.reveal()).unwrap().role, Role::Viewer);
    assert_eq!(tokens.caller(Token::new().unwrap().reveal()), None);
    assert_eq!(tokens.caller(&of_bob.sha256), None);

    lines(&path, &[&of_bob]);
    assert_eq!(tokens.caller(ann.reveal()), None);
    fs::remove_file(&path).unwrap();
    assert_eq!(tokens.caller(bob.reveal()), None);
}

#[test]
fn a_broken_token_is_refused_without_being_told() {
    let secret = "perennial-0123";
    let refused = Token::parse(secret, "PERENNIAL_TOKEN")
        .unwrap_err()
        .to_string();
    assert!(
        refused.contains("PERENNIAL_TOKEN") && !refused.contains("0123"),
        "{refused}"
    );
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("tokens");
    fs::write(&path, secret).unwrap();
    let refused = Tokens::open(&path).unwrap_err().to_string();
    assert!(
        refused.contains("line 1") && !refused.contains("0123"),
        "{refused}"
    );
    let worker = Token::new().unwrap().entry("w", Role::Worker, None);
    assert!(matches!(
        worker,
        Err(SecurityError::TokenRole(Role::Worker))
    ));
}

#[test]
fn nothing_is_said_in_plain_text_beyond_this_machine() {
    let here: SocketAddr = "127.0.0.1:7400".parse().unwrap();
    let there: SocketAddr = "10.0.0.1:7400".parse().unwrap();
    let everywhere: SocketAddr = "[::]:7400".parse().unwrap();
    let plain = Security::default();
    plain.may_listen(here).unwrap();
    plain.may_dial_plainly(here).unwrap();
    for address in [there, everywhere] {
        let refused = plain.may_listen(address).unwrap_err().to_string();
        assert!(
            refused.contains("--tls-ca") && refused.contains("--insecure"),
            "{refused}"
        );
    }
    assert!(plain.may_dial_plainly(there).is_err());
    Security::insecure().may_listen(everywhere).unwrap();
    Security::insecure().may_dial_plainly(there).unwrap();

    let installation = Installation::new();
    installation.issue(Role::Worker, "w", 0..1);
    let tls = Security::tls(installation.read("w").unwrap());
    tls.may_listen(everywhere).unwrap();
    assert!(tls.may_dial_plainly(there).is_err());
}

#[test]
fn files_that_were_replaced_count_from_the_next_connection_on() {
    let installation = Installation::new();
    for name in ["w1", "w2"] {
        installation.issue(Role::Worker, name, 0..1);
    }
    let (first, second) = (
        installation.read("w1").unwrap(),
        installation.read("w2").unwrap(),
    );
    let [second_before, first_before] = meet(&first, &second).unwrap();
    installation.replace("w1");
    installation.replace("w2");
    let [second_after, first_after] = meet(&first, &second).unwrap();
    assert_ne!(second_before, second_after);
    assert_ne!(first_before, first_after);
    assert_eq!(meet(&first, &second).unwrap(), [second_after, first_after]);
}

#[test]
fn files_that_cannot_be_used_change_nothing() {
    let installation = Installation::new();
    installation.issue(Role::Worker, "w1", 0..1);
    installation.issue(Role::Worker, "w2", 0..1);
    installation.issue(Role::Operator, "ann", 0..1);
    let (first, second) = (
        installation.read("w1").unwrap(),
        installation.read("w2").unwrap(),
    );
    let before = meet(&first, &second).unwrap();
    for wrong in ["", "nothing", &installation.text("ann.pem")] {
        fs::write(installation.file("w1.pem"), wrong).unwrap();
        assert_eq!(meet(&first, &second).unwrap(), before, "{wrong}");
    }
    // Another person's certificate with its key is whole, and no worker's.
    fs::copy(installation.file("ann.key"), installation.file("w1.key")).unwrap();
    assert_eq!(meet(&first, &second).unwrap(), before);
    fs::remove_file(installation.file("ca.pem")).unwrap();
    assert_eq!(meet(&first, &second).unwrap(), before);
    fs::write(
        installation.file("ca.pem"),
        installation.authority.certificate(),
    )
    .unwrap();
    installation.replace("w1");
    assert_ne!(meet(&first, &second).unwrap(), before);
}

#[test]
fn what_was_revoked_opens_nothing_at_either_end_and_does_not_come_back() {
    let installation = Installation::new();
    installation.issue(Role::Worker, "w1", 0..1);
    installation.issue(Role::Worker, "lost", 0..1);
    let own = installation.read("w1").unwrap();
    // Of a machine that does not have the list.
    let elsewhere = tempfile::tempdir().unwrap();
    let copied = |name: &str| {
        let to = elsewhere.path().join(name);
        fs::copy(installation.file(name), &to).unwrap();
        to
    };
    let files = ["ca.pem", "lost.pem", "lost.key"].map(copied);
    let lost = Credentials::read(&files[0], Some((&files[1], &files[2]))).unwrap();
    meet(&own, &lost).unwrap();

    let folder = installation.folder.path();
    let lost_name = ["lost".to_string()];
    let revoked = (installation.authority).revoke(folder, &lost_name).unwrap();
    assert_eq!(revoked.len(), 1, "{revoked:?}");
    let again = (installation.authority).revoke(folder, &lost_name).unwrap();
    assert_eq!(again, [], "it is revoked already");
    for (dialing, dialed) in [(&own, &lost), (&lost, &own)] {
        let refused = meet(dialing, dialed).unwrap_err();
        assert!(refused.contains("was revoked"), "{refused}");
    }
    let refused = refusal(installation.read("lost"));
    assert!(refused.contains("it was revoked"), "{refused}");

    fs::remove_file(installation.file("ca.crl")).unwrap();
    assert!(meet(&own, &lost).is_err(), "its list is not there any more");
    let nobody = installation
        .authority
        .revoke(folder, &["nobody".to_string()]);
    let refused = nobody.unwrap_err().to_string();
    assert!(refused.contains("no certificate of `nobody`"), "{refused}");
    installation.replace("lost");
    meet(&own, &installation.read("lost").unwrap()).unwrap();
}

#[test]
fn a_list_of_another_authority_is_refused_and_its_own_is_told_apart() {
    let (installation, other) = (Installation::new(), Installation::new());
    for one in [&installation, &other] {
        one.issue(Role::Worker, "w1", 0..1);
    }
    let names = ["w1".to_string()];
    other.authority.revoke(other.folder.path(), &names).unwrap();
    fs::copy(other.file("ca.crl"), installation.file("ca.crl")).unwrap();
    let refused = refusal(installation.read("w1"));
    assert!(refused.contains("is of another authority"), "{refused}");
    // Where both are trusted, as while one takes the other's place, the list is of one of them.
    let both = installation.text("ca.pem") + &other.text("ca.pem");
    fs::write(installation.file("ca.pem"), both).unwrap();
    let own = installation.read("w1").unwrap();
    meet(&own, &own).unwrap();
    fs::write(installation.file("ca.crl"), "nothing").unwrap();
    let refused = refusal(installation.read("w1"));
    assert!(
        refused.contains("no list of revoked certificates"),
        "{refused}"
    );
}
