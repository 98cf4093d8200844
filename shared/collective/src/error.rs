//! What can go wrong in a collective.

use std::time::Duration;

/// Why a sum or a connection did not come about.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum CollectiveError {
    /// The connection to a member closed. It may have died, or given up because of another member.
    #[error("member of rank `{rank}` is lost: {reason}")]
    PeerLost { rank: usize, reason: String },
    /// The connection to a member stands, but nothing came for [`MeshConfig::silence`](crate::MeshConfig::silence):
    /// it is stopped or cut off.
    #[error("member of rank `{rank}` was silent for {silence:.1?}")]
    Silent { rank: usize, silence: Duration },
    /// A member is alive but did not bring its part in time.
    #[error("member of rank `{rank}` kept the others waiting for `{seconds}` seconds")]
    Timeout { rank: usize, seconds: u64 },
    #[error("the collective was aborted")]
    Aborted,
    /// An earlier call failed.
    #[error("the collective has failed before; connect the next generation")]
    Broken,
    /// GEN-2: this member is behind.
    #[error("generation `{ours}` is stale: rank `{rank}` is in generation `{theirs}`")]
    Stale { ours: u64, theirs: u64, rank: usize },
    #[error("rank `{rank}` at `{address}` refused the connection: {reason}")]
    Refused {
        rank: usize,
        address: String,
        reason: String,
    },
    #[error("rank `{rank}` at `{address}` cannot be reached: {reason}")]
    Unreachable {
        rank: usize,
        address: String,
        reason: String,
    },
    /// A member sent what it must not.
    #[error("rank `{rank}` broke the protocol: {reason}")]
    Protocol { rank: usize, reason: String },
    /// The caller handed in what cannot be summed.
    #[error("cannot sum this: {0}")]
    Input(String),
    /// NCCL is not there, or is not one that can be used.
    #[error("{0}")]
    Library(String),
    /// The members are not such that NCCL could sum between them; all of them find that.
    #[error("the members cannot sum over NCCL: {0}")]
    Unfit(String),
    /// A call into NCCL failed, and no member is known to be the cause.
    #[error("NCCL failed in {call}: {reason}")]
    Nccl { call: &'static str, reason: String },
    /// The own device or its thread does not do what it should.
    #[error("the device failed: {0}")]
    Device(String),
    /// NCCL neither ended nor failed, and no member is known to be the cause.
    #[error("NCCL was not done within {limit:.1?}, and no member is known to be the cause")]
    Overdue { limit: Duration },
    #[error("slot `{0}` was never added")]
    MissingSlot(u32),
    #[error("cannot listen on `{address}`: {reason}; choose another address")]
    Listen { address: String, reason: String },
    #[error("no replica from `{address}`: it cannot be reached: {reason}")]
    SourceUnreachable { address: String, reason: String },
    /// Another attempt there is in vain.
    #[error("no replica from `{address}`: {reason}")]
    SourceRefused { address: String, reason: String },
    #[error("no more of the replica from `{address}`: {reason}")]
    SourceLost { address: String, reason: String },
    /// The connection stands, but nothing came.
    #[error("no more of the replica from `{address}`: it was silent for `{seconds}` seconds")]
    SourceSilent { address: String, seconds: u64 },
    /// What came is not what was sent.
    #[error("the replica from `{address}` is damaged: {reason}; copy it again")]
    SourceCorrupt { address: String, reason: String },
}
