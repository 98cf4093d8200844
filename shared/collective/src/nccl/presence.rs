//! Whether the members of a generation can sum over NCCL at all, before any of them tries.
//!
//! NCCL itself finds that out late, by an error that names nobody. All members decide on what all of them said, so they
//! come to the same answer.

use std::time::Duration;

use super::library::{NcclLibrary, Version};
use crate::error::CollectiveError;
use crate::message::Reader;
use crate::tcp::Tcp;

/// What a member says of itself.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Presence {
    /// None: it has no NCCL.
    pub version: Option<Version>,
    /// Its device among all of the cluster. NCCL refuses two members with one.
    pub place: String,
}

// === impl Presence ===

impl Presence {
    /// Of a member with this library, and the device `device` of this machine.
    pub fn new(library: Option<&NcclLibrary>, device: &str) -> Self {
        Self {
            version: library.map(NcclLibrary::version),
            place: format!("{}/{device}", machine()),
        }
    }

    fn encode(&self) -> Vec<u8> {
        let version = self.version.map_or(0, |Version(code)| code);
        let mut bytes = version.to_le_bytes().to_vec();
        bytes.extend(self.place.as_bytes());
        bytes
    }

    fn decode(bytes: &[u8]) -> Result<Self, String> {
        let code = Reader(bytes).u32()? as i32;
        Ok(Self {
            version: (code != 0).then_some(Version(code)),
            place: String::from_utf8_lossy(&bytes[4..]).into_owned(),
        })
    }
}

/// Whether the members of `mesh`, of which this one is as `own` says, can sum over NCCL; the reason where they cannot.
/// Every member must ask, and gets the same answer.
pub fn all_can(
    mesh: &mut Tcp,
    own: &Presence,
    deadline: Duration,
) -> Result<Result<(), String>, CollectiveError> {
    let asked = ask(mesh, own, deadline);
    let all = asked.map_err(|error| mesh.fail(error))?;
    Ok(decide(&all))
}

fn ask(
    mesh: &mut Tcp,
    own: &Presence,
    deadline: Duration,
) -> Result<Vec<Presence>, CollectiveError> {
    mesh.begin(1, deadline)?;
    let said = mesh.all_gather(own.encode())?;
    let said = said.iter().enumerate();
    said.map(|(rank, bytes)| {
        Presence::decode(bytes).map_err(|reason| CollectiveError::Protocol { rank, reason })
    })
    .collect()
}

fn decide(all: &[Presence]) -> Result<(), String> {
    let mut first = None;
    for (rank, presence) in all.iter().enumerate() {
        let Some(version) = presence.version else {
            return Err(format!("rank `{rank}` has no NCCL"));
        };
        let first = *first.get_or_insert(version);
        if version != first {
            return Err(format!(
                "rank `0` has NCCL {first} and rank `{rank}` has {version}"
            ));
        }
        let mut before = all[..rank].iter();
        if let Some(other) = before.position(|before| before.place == presence.place) {
            let place = &presence.place;
            return Err(format!(
                "ranks `{other}` and `{rank}` have one device, `{place}`"
            ));
        }
    }
    Ok(())
}

/// What NCCL tells machines apart by, as far as it can be known here: `NCCL_HOSTID`, else name and boot of the machine.
fn machine() -> String {
    if let Ok(id) = std::env::var("NCCL_HOSTID") {
        return id;
    }
    let read = |path: &str| std::fs::read_to_string(path).unwrap_or_default();
    let name = read("/proc/sys/kernel/hostname");
    let boot = read("/proc/sys/kernel/random/boot_id");
    format!("{}-{}", name.trim(), boot.trim())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn presence(version: i32, place: &str) -> Presence {
        let said = Presence {
            version: (version != 0).then_some(Version(version)),
            place: place.into(),
        };
        assert_eq!(Presence::decode(&said.encode()), Ok(said.clone()));
        said
    }

    #[test]
    fn members_with_one_version_and_a_device_each_can_sum_over_nccl() {
        let all = [presence(22809, "a/0"), presence(22809, "a/1")];
        assert_eq!(decide(&all), Ok(()));
    }

    #[test]
    fn who_cannot_is_named() {
        let says = |all: &[Presence], reason: &str| {
            assert_eq!(decide(all), Err(reason.to_owned()));
        };
        let first = presence(22809, "a/0");
        says(&[first.clone(), presence(0, "a/1")], "rank `1` has no NCCL");
        says(
            &[first.clone(), presence(22703, "b/0")],
            "rank `0` has NCCL 2.28.9 and rank `1` has 2.27.3",
        );
        says(
            &[first.clone(), presence(22809, "b/0"), first],
            "ranks `0` and `2` have one device, `a/0`",
        );
    }
}
