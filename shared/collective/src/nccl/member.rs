//! A member of a generation: the mesh for what is small, the communicator for gradients.

use std::collections::BTreeMap;
use std::ops::Range;
use std::sync::Arc;
use std::time::Duration;

use super::device::{DeviceSum, Place};
use super::engine::{Engine, Works};
use super::handle::Fault;
use super::layout::{Layout, Offer};
use super::library::{NcclLibrary, Version};
use super::slots::{self, Parts};
use super::{DeviceContribution, DeviceReduced, NcclConfig, raw, sum};
use crate::error::CollectiveError;
use crate::message::Reader;
use crate::slot_tree::SlotTree;
use crate::tcp::Tcp;
use crate::{Collective, Contribution, DeviceSlots, Partial, Reduced, exchange};

use perennial_plan::tree::Node;

/// How long the end of a healthy generation may take.
const CLOSING: Duration = Duration::from_secs(5);

/// A member of a generation whose gradients NCCL sums.
pub struct Nccl<D: DeviceSum> {
    mesh: Tcp,
    engine: Engine<D>,
    /// Of the device.
    place: Place,
    config: NcclConfig,
    /// The sums of the step's own slots, where they are left on the device.
    own: Option<OwnSlots<D::Buffer>>,
    /// The peers' word that they are done with the call before is still to be read.
    unread: bool,
}

/// What this member has of a step so far, on its device.
struct OwnSlots<B> {
    tree: SlotTree<B>,
    len: usize,
}

/// The own nodes of a step.
enum Gradients<B> {
    Host(BTreeMap<Node, Vec<f32>>),
    Device(BTreeMap<Node, B>),
}

/// What a sum is about besides gradients.
struct Agreed {
    layout: Layout,
    statistics: Vec<f64>,
    control: u64,
}

// === impl Nccl ===

impl<D: DeviceSum> Nccl<D> {
    /// Makes the communicator of a generation whose members `mesh` has connected. The mesh's timeout and abort
    /// handle are the sums' from here on. `device` is this member's for the generation.
    pub fn connect(
        mesh: Tcp,
        library: &Arc<NcclLibrary>,
        device: D,
        config: NcclConfig,
    ) -> Result<Self, CollectiveError> {
        let alone = mesh.world_size() == 1;
        let place = device.place();
        let engine = Engine::start(library, device, alone)?;
        let mut member = Self {
            mesh,
            engine,
            place,
            config,
            own: None,
            unread: false,
        };
        let met = member.meet(library);
        member.checked(met)?;
        let (rank, world_size) = (member.rank(), member.world_size());
        tracing::debug!(rank, world_size, ?library, "the communicator is there");
        Ok(member)
    }

    fn meet(&mut self, library: &Arc<NcclLibrary>) -> Result<(), CollectiveError> {
        let (rank, world_size) = (self.mesh.rank(), self.mesh.world_size());
        let limit = self.config.deadline;
        self.mesh.begin(2, limit)?;
        let makes_id = rank == 0 && world_size > 1;
        let source = library.clone();
        // A device that cannot be used is found out here, before the others wait for it.
        let id = self.on_device(limit, move |_| {
            makes_id.then(|| source.unique_id()).transpose()
        })?;
        if world_size > 1 {
            let mut hello = library.version().0.to_le_bytes().to_vec();
            hello.extend(id.iter().flat_map(|id| id.internal));
            let hellos = self.mesh.all_gather(hello)?;
            let id = read_hellos(&hellos, library)?;
            self.on_device(limit, move |works| {
                let made = works.communicator.init(id, rank, world_size);
                made.or_else(|fault| works.communicator.failed(fault))
            })?;
        }
        self.done()
    }

    /// Sums over all slots, gradients on the device: what [`Collective::all_reduce`] does, without copies. Node
    /// buffers are used up; the result may be one of them.
    pub fn all_reduce_on_device(
        &mut self,
        contribution: DeviceContribution<D::Buffer>,
    ) -> Result<DeviceReduced<D::Buffer>, CollectiveError> {
        let gradients = contribution.gradients;
        let nodes = gradients.nodes.keys().copied().collect();
        let statistics = Contribution {
            slots: contribution.slots,
            gradients: Partial::default(),
            statistics: contribution.statistics,
            control: contribution.control,
        };
        let summed = self.agree(nodes, gradients.len, statistics);
        let summed = summed.and_then(|agreed| {
            let (rank, config) = (self.rank(), self.config.clone());
            let (layout, nodes) = (agreed.layout, gradients.nodes);
            let gradients = self.on_device(self.mesh.timeout(), move |works| {
                let summed = sum::on_device(works, &layout, rank, &config, nodes);
                summed.map(|summed| summed.result)
            })?;
            self.done()?;
            Ok(DeviceReduced {
                gradients,
                statistics: agreed.statistics,
                control: agreed.control,
            })
        });
        self.checked(summed)
    }

    fn reduce(&mut self, contribution: Contribution) -> Result<Reduced, CollectiveError> {
        exchange::check(contribution.slots, &contribution.gradients)?;
        let Partial { len, nodes } = contribution.gradients;
        let statistics = Contribution {
            gradients: Partial::default(),
            ..contribution
        };
        let own = match self.own.take() {
            None => Gradients::Host(nodes),
            Some(own) if own.len == len && nodes.is_empty() => {
                Gradients::Device(own.tree.finish()?)
            }
            Some(own) => {
                let expected = own.len;
                return Err(CollectiveError::Input(format!(
                    "gradients of `{len}` elements on the host where `{expected}` lie on the device"
                )));
            }
        };
        let agreed = self.agree(own.nodes(), len, statistics)?;
        let (rank, config, layout) = (self.rank(), self.config.clone(), agreed.layout);
        let gradients = match len {
            // An evaluation has statistics alone.
            0 => Vec::new(),
            _ => self.on_device(self.mesh.timeout(), move |works| match own {
                Gradients::Host(nodes) => sum::from_host(works, &layout, rank, &config, nodes),
                Gradients::Device(nodes) => {
                    let result = vec![0.0; layout.len];
                    sum::to_host(works, &layout, rank, &config, nodes, result)
                }
            })?,
        };
        self.done()?;
        Ok(Reduced {
            gradients,
            statistics: agreed.statistics,
            control: agreed.control,
        })
    }

    fn add_slot(&mut self, slot: u32, parts: Option<Parts>) -> Result<(), CollectiveError> {
        let Some(mut own) = self.own.take() else {
            let reason = format!("slot `{slot}` is added before the sums are begun");
            return Err(CollectiveError::Input(reason));
        };
        if let Some(parts) = &parts {
            slots::check(slot, parts, own.len, self.place)?;
        }
        let (climb, len) = (own.tree.take(slot)?, own.len);
        let node = climb.node;
        let sum = self.on_device(self.mesh.timeout(), move |works| {
            slots::add(works, len, climb, parts)
        })?;
        let met = own.tree.put(node, sum);
        assert!(met.is_none(), "slots come one after the other");
        self.own = Some(own);
        Ok(())
    }

    /// Begins a sum: what the members tell each other of it, and all of it that is no gradient.
    fn agree(
        &mut self,
        nodes: Vec<Node>,
        len: usize,
        statistics: Contribution,
    ) -> Result<Agreed, CollectiveError> {
        let world_size = self.mesh.world_size();
        let offer = Offer {
            reduction: self.config.reduction,
            chunk: self.config.chunk,
            slots: statistics.slots,
            len,
            nodes,
        };
        // An offer, the statistics, and the word at the end.
        let messages = 2 + exchange::messages(&statistics, world_size);
        self.mesh.begin(messages, self.mesh.timeout())?;
        if self.unread {
            self.mesh.all_hear()?;
            self.unread = false;
        }
        let offers = self.mesh.all_gather(offer.encode())?;
        let layout = Layout::agree(&offer, &offers).map_err(|(rank, reason)| {
            if rank == self.mesh.rank() {
                return CollectiveError::Input(reason);
            }
            CollectiveError::Protocol { rank, reason }
        })?;
        let reduced = exchange::all_reduce(&mut self.mesh, statistics)?;
        Ok(Agreed {
            layout,
            statistics: reduced.statistics,
            control: reduced.control,
        })
    }

    /// Tells the others that this member has all of the sum, and that all it sent has left. They hear it at the
    /// next call, or at the end.
    fn done(&mut self) -> Result<(), CollectiveError> {
        self.mesh.tell_all()?;
        self.unread = true;
        Ok(())
    }

    fn on_device<T: Send + 'static>(
        &mut self,
        limit: Duration,
        job: impl FnOnce(&mut Works<D>) -> Result<T, Fault> + Send + 'static,
    ) -> Result<T, CollectiveError> {
        self.engine.run(&mut self.mesh, limit, job)
    }

    /// After an error nothing of it is used again.
    fn checked<T>(&mut self, result: Result<T, CollectiveError>) -> Result<T, CollectiveError> {
        result.map_err(|error| self.mesh.fail(error))
    }
}

impl<D: DeviceSum> Collective for Nccl<D> {
    fn rank(&self) -> usize {
        self.mesh.rank()
    }

    fn world_size(&self) -> usize {
        self.mesh.world_size()
    }

    fn device_slots(&mut self) -> Option<&mut dyn DeviceSlots> {
        Some(self)
    }

    fn all_reduce(&mut self, contribution: Contribution) -> Result<Reduced, CollectiveError> {
        let reduced = self.reduce(contribution);
        self.checked(reduced)
    }
}

impl<D: DeviceSum> DeviceSlots for Nccl<D> {
    fn begin(&mut self, slots: u32, owned: Range<u32>, len: usize) {
        self.own = Some(OwnSlots {
            tree: SlotTree::new(slots, owned),
            len,
        });
    }

    fn add(&mut self, slot: u32, parts: Option<Parts>) -> Result<(), CollectiveError> {
        let added = self.add_slot(slot, parts);
        self.checked(added)
    }
}

impl<D: DeviceSum> Drop for Nccl<D> {
    /// Once all members say that they are done nothing is under way any more, and an abort, which waits for
    /// nobody, loses nothing.
    fn drop(&mut self) {
        if self.unread && self.mesh.begin(0, CLOSING).is_ok() {
            // One that is lost by now, or not done for so long, is no reason to stay.
            let _ = self.mesh.all_hear();
        }
        let abort = |works: &mut Works<D>| works.communicator.abort();
        if let Err(error) = self.on_device(CLOSING, abort) {
            tracing::debug!(%error, "a communicator was not aborted in peace");
        }
    }
}

// === impl Gradients ===

impl<B> Gradients<B> {
    fn nodes(&self) -> Vec<Node> {
        match self {
            Self::Host(nodes) => nodes.keys().copied().collect(),
            Self::Device(nodes) => nodes.keys().copied().collect(),
        }
    }
}

/// The meeting point in the members' first words, if all of them have this version of NCCL.
fn read_hellos(
    hellos: &[Vec<u8>],
    library: &NcclLibrary,
) -> Result<raw::UniqueId, CollectiveError> {
    let broke = |rank, reason: String| CollectiveError::Protocol { rank, reason };
    for (rank, hello) in hellos.iter().enumerate() {
        let version = Reader(hello).u32().map_err(|reason| broke(rank, reason))?;
        let (theirs, ours) = (Version(version as i32), library.version());
        if theirs != ours {
            return Err(CollectiveError::Library(format!(
                "rank `{rank}` has NCCL {theirs}, this member has {ours} (`{}`); all members need the same",
                library.file()
            )));
        }
    }
    let id = hellos[0].get(4..).unwrap_or_default();
    let internal = id
        .try_into()
        .map_err(|_| broke(0, "its unique id is of another length".to_owned()))?;
    Ok(raw::UniqueId { internal })
}
