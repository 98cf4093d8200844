//! How a member that is new or behind gets the replica from one that is there, beside training.
//!
//! The follower asks, the server answers with what comes next: the change of one step, or all of the
//! replica when it has none or its step is too long ago. So neither holds more than one answer, and a
//! follower that is slow holds up nobody but itself. What an answer means is the caller's affair: here it
//! is bytes, whose step and hash travel along.
//!
//! Both ends say that they are alive at least every half second and give the other one up after five
//! seconds of silence.

mod follower;
mod server;
mod wire;

use std::time::Duration;

use bytes::Bytes;

pub use follower::ReplicaFollower;
pub use server::ReplicaServer;

/// How long the other end may say nothing.
const SILENCE: Duration = Duration::from_secs(5);

/// A whole replica.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Snapshot {
    /// The steps that are in it.
    pub global_step: u64,
    /// The replica's own hash, for the follower to compare with.
    pub hash: u64,
    pub bytes: Bytes,
}

/// What took a replica one step further.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Delta {
    Next {
        /// The hash of the replica after the step.
        hash: u64,
        bytes: Bytes,
    },
    /// The replica stands at that step still.
    NotYet,
    /// It is no longer kept.
    Gone,
}

/// What a member serves. Called from the server's threads while training goes on.
pub trait ReplicaSource: Send + Sync + 'static {
    /// A copy of the replica as it stands now, or none while there is none.
    fn snapshot(&self) -> Option<Snapshot>;

    /// What took the replica from `global_step` to `global_step + 1`. When it stands at `global_step`
    /// still, waits up to `patience` for the step.
    fn delta(&self, global_step: u64, patience: Duration) -> Delta;
}

/// What a follower gets.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Update {
    /// Replaces the whole replica.
    Snapshot(Snapshot),
    /// Takes the replica one step further.
    Delta {
        /// The step that it leads to.
        global_step: u64,
        /// The hash of the replica after it.
        hash: u64,
        bytes: Bytes,
    },
    /// Nothing new for half a second.
    Idle,
}
