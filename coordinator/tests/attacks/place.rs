//! A job that waits for workers, its coordinator, and the authority that both sides trust.

use std::net::SocketAddr;
use std::path::Path;
use std::sync::Arc;

use perennial_coordinator::log::LogRecord;
use perennial_coordinator::operate::Ruler;
use perennial_coordinator::{Access, ServeConfig, serve};
use perennial_plan::Spec;
use perennial_secure::{Authority, Credentials, Role, Security, Token, Tokens, Wanted, write_new};
use perennial_store::Store;
use rcgen::{
    CertificateParams, DistinguishedName, DnType, ExtendedKeyUsagePurpose, Issuer, KeyPair,
};
use tempfile::TempDir;
use tokio::sync::{mpsc, oneshot, watch};

use crate::common::{DEADLINE, queue};

pub struct Place {
    pub folder: TempDir,
    pub url: String,
    pub address: SocketAddr,
    _stop: watch::Sender<bool>,
}

fn wanted(role: Role, name: &str, days: std::ops::Range<i64>) -> Wanted {
    Wanted {
        role,
        name: name.into(),
        hosts: Vec::new(),
        days,
    }
}

// === impl Place ===

impl Place {
    pub async fn new() -> Self {
        let (folder, access) = installation();
        let store = Store::in_memory();
        let spec = Spec {
            name: "flowers".into(),
            ..Spec::default()
        };
        let job = store.job(&spec.name).unwrap();
        let config = ServeConfig {
            listen: "127.0.0.1:0".into(),
            advertise: None,
            access,
            spec,
            workers: 2,
            store,
            store_url: "memory".into(),
            resume: false,
            standby: false,
            resume_command: String::new(),
            command: None,
        };
        let (bound, address) = oneshot::channel();
        let (events, mut told) = mpsc::unbounded_channel();
        let (stop, stopping) = watch::channel(false);
        std::thread::spawn(|| {
            let runtime = tokio::runtime::Runtime::new().unwrap();
            runtime.block_on(serve(config, bound, events, stopping))
        });
        let address = address.await.unwrap();
        // It rules once its term is in the log.
        let ruling = async {
            while job.log_entry::<LogRecord>(0).await.unwrap().is_none() {
                tokio::task::yield_now().await;
            }
        };
        tokio::time::timeout(DEADLINE, ruling)
            .await
            .expect("a term");
        tokio::spawn(async move { while told.recv().await.is_some() {} });
        Self {
            url: format!("https://{address}"),
            address,
            folder,
            _stop: stop,
        }
    }

    /// A queue with nobody to work for it.
    pub async fn of_queue() -> Self {
        let (folder, access) = installation();
        let (address, stop) = queue(access).await;
        Self {
            url: format!("https://{address}"),
            address,
            folder,
            _stop: stop,
        }
    }

    /// The credentials of a party with this role.
    pub fn of(&self, role: Role) -> Security {
        security(self.folder.path(), role)
    }

    /// The coordinator, asked with these credentials.
    pub fn ruler(&self, security: &Security) -> Ruler {
        Ruler::given(&self.url, security)
    }

    /// Those of a person who knows the authority and has nothing else.
    pub fn without_certificate(&self) -> Security {
        let credentials = Credentials::read(&self.folder.path().join("ca.pem"), None);
        Security::tls(credentials.unwrap())
    }

    /// A token that the coordinator takes.
    pub fn token(&self, name: &str, role: Role, job: Option<&str>) -> Token {
        let token = Token::new().unwrap();
        let entry = token.entry(name, role, job.map(str::to_string)).unwrap();
        let path = self.folder.path().join("tokens");
        let before = std::fs::read_to_string(&path).unwrap();
        let line = serde_json::to_string(&entry).unwrap();
        std::fs::write(&path, format!("{before}{line}\n")).unwrap();
        token
    }

    /// How many workers the job knows.
    pub async fn workers(&self) -> usize {
        let viewer = self.of(Role::Viewer);
        let status = self.ruler(&viewer).status("flowers").await;
        status.unwrap().workers.len()
    }
}

/// A folder with an authority, what it has issued to everybody, and what others have; and how a coordinator is reached
/// there.
fn installation() -> (TempDir, Access) {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path();
    let authority = Authority::init(path).unwrap();
    for role in Role::ALL {
        let wanted = wanted(role, role.as_str(), 0..1);
        authority.issue_into(path, &wanted).unwrap();
    }
    let expired = wanted(Role::Viewer, "expired", -2..-1);
    authority.issue_into(path, &expired).unwrap();
    issue_without_role(path, authority.name());
    let other = tempfile::tempdir().unwrap();
    let stranger = Authority::init(other.path()).unwrap();
    (stranger.issue_into(path, &wanted(Role::Viewer, "stranger", 0..1))).unwrap();

    let tokens = path.join("tokens");
    write_new(&tokens, "", true).unwrap();
    let access = Access {
        security: security(path, Role::Coordinator),
        tokens: Some(Arc::new(Tokens::open(&tokens).unwrap())),
    };
    (folder, access)
}

/// `nobody.pem`: the authority signed it and it says nothing of a role.
fn issue_without_role(folder: &Path, authority: &str) {
    let of_authority = std::fs::read_to_string(folder.join("ca.key")).unwrap();
    let mut issuer = CertificateParams::default();
    issuer.distinguished_name = DistinguishedName::new();
    (issuer.distinguished_name).push(DnType::CommonName, authority);
    let issuer = Issuer::new(issuer, KeyPair::from_pem(&of_authority).unwrap());
    let mut nobody = CertificateParams::new(vec!["localhost".to_string()]).unwrap();
    nobody.extended_key_usages = vec![ExtendedKeyUsagePurpose::ClientAuth];
    let key = KeyPair::generate().unwrap();
    let certificate = nobody.signed_by(&key, &issuer).unwrap();
    write_new(&folder.join("nobody.pem"), &certificate.pem(), false).unwrap();
    write_new(&folder.join("nobody.key"), &key.serialize_pem(), true).unwrap();
}

fn security(folder: &Path, role: Role) -> Security {
    let file = |end: &str| folder.join(format!("{role}.{end}"));
    let own = (file("pem"), file("key"));
    let credentials = Credentials::read(&folder.join("ca.pem"), Some((&own.0, &own.1)));
    Security::tls(credentials.unwrap())
}
