//! Workers with certificates, and who is none.

use perennial_collective::MeshTls;
use perennial_secure::{Authority, Credentials, Role, Security, Wanted};
use tempfile::TempDir;

/// An authority in a folder of its own.
pub struct Certificates(TempDir, Authority);

impl Certificates {
    pub fn new() -> Self {
        let folder = tempfile::tempdir().unwrap();
        let authority = Authority::init(folder.path()).unwrap();
        Self(folder, authority)
    }

    /// What a worker of this name encrypts with.
    pub fn worker(&self, name: &str) -> Option<MeshTls> {
        let wanted = Wanted {
            role: Role::Worker,
            name: name.to_owned(),
            hosts: Vec::new(),
            days: 0..1,
        };
        self.1.issue_into(self.0.path(), &wanted).unwrap();
        let file = |end: &str| self.0.path().join(format!("{name}.{end}"));
        let own = (file("pem"), file("key"));
        let credentials = Credentials::read(&file_of_authority(&self.0), Some((&own.0, &own.1)));
        MeshTls::of(&Security::tls(credentials.unwrap())).unwrap()
    }
}

fn file_of_authority(folder: &TempDir) -> std::path::PathBuf {
    folder.path().join("ca.pem")
}
