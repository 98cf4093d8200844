//! The first words on a connection: who dials, and whether the other one wants that.
//!
//! Hello: magic, version u32, generation u64, rank u32, world size u32, job length u32, job. Reply:
//! magic, verdict u32, generation u64. The dialer then confirms with one byte, so that a connection
//! whose dialer has gone is not counted. Numbers are little-endian.

use std::io::{self, Write};

use super::patience::Patience;
use crate::stream::Stream;

const MAGIC: [u8; 8] = *b"PERENMSH";
const VERSION: u32 = 2;
const MAX_JOB: usize = 1024;
const CONFIRM: u8 = b'!';

/// What both ends of a connection must agree on.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Identity {
    pub job: String,
    pub generation: u64,
    pub world_size: u32,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[repr(u32)]
enum Verdict {
    Welcome = 0,
    OtherVersion = 1,
    OtherJob = 2,
    OtherGeneration = 3,
    OtherMembership = 4,
}

/// Why a dialer was not let in.
#[derive(Debug)]
pub(super) enum Refusal {
    /// It may go better a little later.
    Retry(String),
    /// The other end is in this later generation.
    Stale(u64),
    Final(String),
}

// === impl Refusal ===

impl Refusal {
    /// What failed on the way. Who is not believed will not be a little later either.
    pub fn of(error: io::Error) -> Self {
        match error.kind() {
            io::ErrorKind::PermissionDenied if error.raw_os_error().is_none() => {
                Self::Final(error.to_string())
            }
            _ => Self::Retry(error.to_string()),
        }
    }
}

/// Introduces the member of rank `rank` to the one that accepted `stream`.
pub(super) fn introduce(
    mut stream: &Stream,
    identity: &Identity,
    rank: u32,
    patience: &Patience<'_>,
) -> Result<(), Refusal> {
    let retry = Refusal::of;
    let mut hello = Vec::new();
    hello.extend(MAGIC);
    hello.extend(VERSION.to_le_bytes());
    hello.extend(identity.generation.to_le_bytes());
    hello.extend(rank.to_le_bytes());
    hello.extend(identity.world_size.to_le_bytes());
    hello.extend((identity.job.len() as u32).to_le_bytes());
    hello.extend(identity.job.as_bytes());
    stream.write_all(&hello).map_err(retry)?;

    patience.read_magic(stream, MAGIC).map_err(retry)?;
    let verdict = patience.read_u32(stream).map_err(retry)?;
    let theirs = patience.read_u64(stream).map_err(retry)?;
    match verdict {
        0 => stream.write_all(&[CONFIRM]).map_err(retry),
        1 => Err(Refusal::Final(
            "it speaks another version; run the same program everywhere".to_owned(),
        )),
        2 => Err(Refusal::Final(format!(
            "it works on another job than `{}`",
            identity.job
        ))),
        3 if theirs > identity.generation => Err(Refusal::Stale(theirs)),
        3 => Err(Refusal::Retry(format!("it is in generation `{theirs}`"))),
        _ => Err(Refusal::Final(
            "it knows other members in this generation".to_owned(),
        )),
    }
}

/// Hears who dialed and answers; the rank of a member that is welcome, or why it is not.
pub(super) fn greet(
    mut stream: &Stream,
    identity: &Identity,
    own_rank: u32,
    patience: &Patience<'_>,
) -> io::Result<usize> {
    patience.read_magic(stream, MAGIC)?;
    let version = patience.read_u32(stream)?;
    let verdict;
    let mut rank = 0;
    if version == VERSION {
        let generation = patience.read_u64(stream)?;
        rank = patience.read_u32(stream)?;
        let world_size = patience.read_u32(stream)?;
        let job = patience.read_name(stream, MAX_JOB)?;
        verdict = if job != identity.job.as_bytes() {
            Verdict::OtherJob
        } else if generation != identity.generation {
            Verdict::OtherGeneration
        } else if world_size != identity.world_size || rank <= own_rank || rank >= world_size {
            Verdict::OtherMembership
        } else {
            Verdict::Welcome
        };
    } else {
        verdict = Verdict::OtherVersion;
    }

    let mut reply = Vec::new();
    reply.extend(MAGIC);
    reply.extend((verdict as u32).to_le_bytes());
    reply.extend(identity.generation.to_le_bytes());
    stream.write_all(&reply)?;
    if verdict != Verdict::Welcome {
        return Err(io::Error::other(format!("refused: {verdict:?}")));
    }
    let mut confirm = [0];
    patience.read_exact(stream, &mut confirm)?;
    if confirm != [CONFIRM] {
        return Err(io::Error::other("it did not confirm"));
    }
    Ok(rank as usize)
}
