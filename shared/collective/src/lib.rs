//! The sum over all slots of a step.
//!
//! Invariants:
//! * Every member gets the same bits, and they depend on the slots' values alone: not on the number of
//!   members, on who holds which slot, on arrival order or on the transport. Sums follow the fixed tree
//!   of [`perennial_plan::tree`].
//! * GEN-2: a connection or frame of another job or generation has no effect.
//! * After an error a collective is of no further use: drop it and connect the next generation.
//!
//! A member sums the slots it owns with [`SlotSum`] and hands the resulting nodes to
//! [`Collective::all_reduce`]: [`Local`] between threads of one process, [`Tcp`] between processes. One that
//! is new or behind first gets the replica from a [`ReplicaServer`], beside training. A third
//! one is for members with a GPU each: [`nccl`].

mod element;
mod error;
mod exchange;
mod inbox;
mod local;
mod message;
pub mod nccl;
mod silence;
mod slice;
mod slot_sum;
mod stream;
mod tcp;
mod transfer;

use std::collections::BTreeMap;

use perennial_plan::tree::Node;

pub use element::Element;
pub use error::CollectiveError;
pub use local::Local;
pub use slot_sum::SlotSum;
pub use stream::MeshTls;
pub use tcp::{AbortHandle, MeshConfig, Tcp, TcpEndpoint, Traffic};
pub use transfer::{Delta, ReplicaFollower, ReplicaServer, ReplicaSource, Snapshot, Update};

/// The nodes of one vector that one member has summed: what [`SlotSum::finish`] gives. Nodes whose
/// slots are all empty are absent.
#[derive(Debug, Clone, Default)]
pub struct Partial<T> {
    /// Elements in the vector of every node, the same at every member.
    pub len: usize,
    pub nodes: BTreeMap<Node, Vec<T>>,
}

/// What one member brings to a step.
#[derive(Debug, Clone, Default)]
pub struct Contribution {
    /// Slots of the job: the tree's leaves.
    pub slots: u32,
    pub gradients: Partial<f32>,
    pub statistics: Partial<f64>,
    /// Flags for everybody; all members' flags are OR-ed.
    pub control: u64,
}

/// What every member gets from a step.
#[derive(Debug, Clone, PartialEq)]
pub struct Reduced {
    /// Sum over all slots; zeros where no slot contributed.
    pub gradients: Vec<f32>,
    /// Sum over all slots; zeros where no slot contributed.
    pub statistics: Vec<f64>,
    /// The OR of all members' words.
    pub control: u64,
}

/// A group of members that sum together. All members make the same calls in the same order.
pub trait Collective: Send {
    /// This member's place in the generation, from 0.
    fn rank(&self) -> usize;

    fn world_size(&self) -> usize;

    /// Sums over all slots by the fixed tree; every member gets the identical result.
    fn all_reduce(&mut self, contribution: Contribution) -> Result<Reduced, CollectiveError>;

    /// Bytes of sums given to connections to other members so far; 0 where there are none to count.
    fn sent_bytes(&self) -> u64 {
        0
    }
}

impl<C: Collective + ?Sized> Collective for Box<C> {
    fn rank(&self) -> usize {
        (**self).rank()
    }

    fn world_size(&self) -> usize {
        (**self).world_size()
    }

    fn all_reduce(&mut self, contribution: Contribution) -> Result<Reduced, CollectiveError> {
        (**self).all_reduce(contribution)
    }

    fn sent_bytes(&self) -> u64 {
        (**self).sent_bytes()
    }
}
