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
//! one is for members with a GPU each: [`nccl`]. There gradients are summed where they were computed, through
//! [`DeviceSlots`].

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
mod slot_tree;
mod stream;
mod tcp;
mod transfer;

use std::collections::BTreeMap;
use std::ops::Range;

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

    /// Where this member's gradients are summed on its device; none: on the host, with [`SlotSum`].
    fn device_slots(&mut self) -> Option<&mut dyn DeviceSlots> {
        None
    }

    /// Sums over all slots by the fixed tree; every member gets the identical result.
    fn all_reduce(&mut self, contribution: Contribution) -> Result<Reduced, CollectiveError>;

    /// Bytes of sums given to connections to other members so far; 0 where there are none to count.
    fn sent_bytes(&self) -> u64 {
        0
    }
}

/// [`SlotSum`] for gradients that lie on the member's device and stay there. The next [`Collective::all_reduce`] takes
/// what was added, in place of the nodes of its contribution's gradients, of which there must be none.
pub trait DeviceSlots: Send {
    /// Begins the sums of a step, of vectors of `len` elements, for the owner of the slots `owned` of `slots`.
    fn begin(&mut self, slots: u32, owned: Range<u32>, len: usize);

    /// Adds what a slot computed: parts where their ranges say, and zero elsewhere; `None` for an empty slot, which
    /// contributes nothing.
    fn add(
        &mut self,
        slot: u32,
        parts: Option<Vec<(Range<usize>, nccl::Lent)>>,
    ) -> Result<(), CollectiveError>;
}

impl<C: Collective + ?Sized> Collective for Box<C> {
    fn rank(&self) -> usize {
        (**self).rank()
    }

    fn world_size(&self) -> usize {
        (**self).world_size()
    }

    fn device_slots(&mut self) -> Option<&mut dyn DeviceSlots> {
        (**self).device_slots()
    }

    fn all_reduce(&mut self, contribution: Contribution) -> Result<Reduced, CollectiveError> {
        (**self).all_reduce(contribution)
    }

    fn sent_bytes(&self) -> u64 {
        (**self).sent_bytes()
    }
}
