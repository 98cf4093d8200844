//! The collective among the members of a generation: sums to which all contribute.
//!
//! A sum is done once all have contributed; each member gets it in its own time, so a death in between
//! leaves some a step further than others. A peer that closes is seen at once, a silent one after
//! [`SILENCE`].

use std::collections::BTreeMap;
use std::rc::Rc;

use perennial_plan::{Cursor, Generation};

use crate::job::SlotGradient;
use crate::queue::{Happening, MILLISECOND, Process, SECOND, Time, WorkerId};
use crate::world::World;

const SILENCE: Time = 5 * SECOND;
/// How long a member waits for the others to connect.
const CONNECT: Time = 15 * SECOND;
const WATCH: Time = 500 * MILLISECOND;

/// What a sum is about; the same for all who take part in it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Subject {
    Step(Cursor),
    /// Of the epoch that ends at this cursor.
    Evaluation(Cursor),
}

/// What one member adds.
#[derive(Debug, Clone)]
pub struct Contribution {
    pub subject: Subject,
    pub flags: u64,
    pub gradients: Vec<SlotGradient>,
    /// Validation samples.
    pub samples: u64,
}

/// The sum.
#[derive(Debug, Clone)]
pub struct Reduced {
    pub round: u64,
    pub flags: u64,
    /// In the order of slots.
    pub gradients: Vec<SlotGradient>,
    pub samples: u64,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Part {
    Absent,
    Present,
    /// It has left after the last sum, in agreement with the others.
    Done,
    Gone,
}

pub struct Mesh {
    generation: Generation,
    /// By rank; none: no such process is there.
    members: Vec<Option<WorkerId>>,
    parts: Vec<Part>,
    rounds: BTreeMap<u64, Vec<Option<Contribution>>>,
    /// Results on their way that will not arrive.
    lost: Vec<(u64, usize)>,
    /// Results on their way, by round and rank.
    under_way: Vec<(u64, usize)>,
    /// When the member of the second rank last heard of the first.
    heard: Vec<Vec<Time>>,
    since: Vec<Time>,
    connected: bool,
}

impl World {
    /// A member is ready to connect with the others.
    pub fn mesh_connect(&mut self, generation: &Generation, rank: usize) {
        let id = generation.id;
        if !self.meshes.contains_key(&id) {
            let size = generation.members.len();
            let process = |incarnation| {
                self.workers
                    .iter()
                    .position(|worker| worker.incarnation == incarnation)
            };
            let mesh = Mesh {
                members: generation
                    .members
                    .iter()
                    .map(|member| process(member.incarnation))
                    .collect(),
                generation: generation.clone(),
                parts: vec![Part::Absent; size],
                rounds: BTreeMap::new(),
                lost: Vec::new(),
                under_way: Vec::new(),
                heard: vec![vec![self.now; size]; size],
                since: vec![self.now; size],
                connected: false,
            };
            self.meshes.insert(id, mesh);
            self.queue.push(self.now + WATCH, Happening::MeshWatch(id));
        }
        let now = self.now;
        let Some(mesh) = self.meshes.get_mut(&id) else {
            return;
        };
        if mesh.generation != *generation {
            let message = format!("two memberships are generation {id}");
            return self.violated("GEN-1", message);
        }
        mesh.parts[rank] = Part::Present;
        mesh.since[rank] = now;
        for other in 0..mesh.parts.len() {
            mesh.heard[other][rank] = now;
        }
        let gone = mesh.parts.iter().position(|part| *part == Part::Gone);
        let all = mesh.parts.iter().all(|part| *part == Part::Present);
        if let Some(gone) = gone {
            self.lose_peer(id, rank, gone, false);
        } else if all {
            mesh.connected = true;
            for worker in mesh.members.clone().into_iter().flatten() {
                let at = self.now + self.latency();
                self.queue.push(at, Happening::MeshConnected(worker, id));
            }
        }
    }

    pub fn mesh_contribute(&mut self, id: u64, rank: usize, round: u64, given: Contribution) {
        let Some(mesh) = self.meshes.get_mut(&id) else {
            return;
        };
        let size = mesh.parts.len();
        let round_given = mesh.rounds.entry(round).or_insert_with(|| vec![None; size]);
        let differs = round_given
            .iter()
            .flatten()
            .find(|other| other.subject != given.subject);
        if let Some(other) = differs {
            let message = format!(
                "members of generation {id} sum {:?} and {:?} together",
                other.subject, given.subject
            );
            return self.violated("REP-1", message);
        }
        round_given[rank] = Some(given);
        if round_given.iter().any(Option::is_none) {
            return;
        }
        let given: Vec<Contribution> = mesh
            .rounds
            .remove(&round)
            .into_iter()
            .flatten()
            .flatten()
            .collect();
        let mut gradients: Vec<SlotGradient> = given
            .iter()
            .flat_map(|contribution| contribution.gradients.clone())
            .collect();
        gradients.sort_by_key(|gradient| gradient.slot);
        let reduced = Rc::new(Reduced {
            round,
            flags: given.iter().fold(0, |flags, given| flags | given.flags),
            gradients,
            samples: given.iter().map(|given| given.samples).sum(),
        });
        let members = mesh.members.clone();
        for (rank, worker) in members.into_iter().enumerate() {
            let at = self.now + self.latency();
            if let (Some(worker), Some(mesh)) = (worker, self.meshes.get_mut(&id)) {
                mesh.under_way.push((round, rank));
                let result = Happening::MeshResult(worker, id, Rc::clone(&reduced));
                self.queue.push(at, result);
            }
        }
    }

    /// Whether the result arrives now; else it was lost, or is on its way again.
    pub fn mesh_result_arrives(&mut self, worker: WorkerId, id: u64, result: &Rc<Reduced>) -> bool {
        let Some(mesh) = self.meshes.get(&id) else {
            return false;
        };
        let Some(rank) = mesh
            .members
            .iter()
            .position(|member| *member == Some(worker))
        else {
            return false;
        };
        let key = (result.round, rank);
        if mesh.parts[rank] != Part::Present || mesh.lost.contains(&key) {
            return false;
        }
        let ours = self.workers[worker].node;
        let nodes: Vec<usize> = mesh
            .members
            .iter()
            .flatten()
            .map(|other| self.workers[*other].node)
            .collect();
        if nodes.iter().any(|node| self.network.is_cut(*node, ours)) {
            let at = self.now + 100 * MILLISECOND;
            let again = Happening::MeshResult(worker, id, Rc::clone(result));
            self.queue.push(at, again);
            return false;
        }
        if let Some(mesh) = self.meshes.get_mut(&id) {
            mesh.under_way.retain(|other| *other != key);
        }
        true
    }

    /// A member leaves: after its last sum, or because its generation broke.
    pub fn mesh_leave(&mut self, worker: WorkerId, id: u64, done: bool) {
        let Some(mesh) = self.meshes.get_mut(&id) else {
            return;
        };
        let Some(rank) = mesh
            .members
            .iter()
            .position(|member| *member == Some(worker))
        else {
            return;
        };
        if matches!(mesh.parts[rank], Part::Gone | Part::Done) {
            return;
        }
        if done {
            mesh.parts[rank] = Part::Done;
            return;
        }
        mesh.parts[rank] = Part::Gone;
        let size = mesh.parts.len();
        for key in mesh.under_way.clone() {
            if self.chance.happens(0.5)
                && let Some(mesh) = self.meshes.get_mut(&id)
            {
                mesh.lost.push(key);
            }
        }
        for other in 0..size {
            self.lose_peer(id, other, rank, false);
        }
    }

    /// A process died, and its machine says so to the others.
    pub fn leave_meshes(&mut self, worker: WorkerId, silent: bool) {
        if silent {
            return;
        }
        let ids: Vec<u64> = self.meshes.keys().copied().collect();
        for id in ids {
            self.mesh_leave(worker, id, false);
        }
    }

    /// The member `rank` learns that it lost `peer`.
    fn lose_peer(&mut self, id: u64, rank: usize, peer: usize, silent: bool) {
        let at = self.now + self.latency();
        let Some(mesh) = self.meshes.get(&id) else {
            return;
        };
        let Some(worker) = mesh.members[rank] else {
            return;
        };
        let cut = !silent
            && mesh.members[peer].is_some_and(|peer| {
                let (theirs, ours) = (self.workers[peer].node, self.workers[worker].node);
                self.network.is_cut(theirs, ours)
            });
        if mesh.parts[rank] != Part::Present || cut {
            return;
        }
        self.queue.push(
            at,
            Happening::MeshLost {
                worker,
                generation: id,
                rank: peer,
                silent,
            },
        );
    }

    /// Looks for peers that have been silent for too long.
    pub fn mesh_watch(&mut self, id: u64) {
        let now = self.now;
        let Some(mesh) = self.meshes.get(&id) else {
            return;
        };
        let mut heard = Vec::new();
        let mut silent = Vec::new();
        let mut anybody = false;
        for rank in 0..mesh.parts.len() {
            let Some(worker) = mesh.members[rank].filter(|worker| self.workers[*worker].alive)
            else {
                continue;
            };
            if mesh.parts[rank] != Part::Present {
                continue;
            }
            anybody = true;
            if self.workers[worker].paused {
                // It holds nobody's silence against them.
                heard.extend((0..mesh.parts.len()).map(|peer| (peer, rank)));
                continue;
            }
            for peer in (0..mesh.parts.len()).filter(|peer| *peer != rank) {
                let speaks = mesh.parts[peer] == Part::Present
                    && mesh.members[peer].is_some_and(|peer| {
                        self.reaches(Process::Worker(peer), Process::Worker(worker))
                    });
                if speaks {
                    heard.push((peer, rank));
                    continue;
                }
                let waited = match mesh.connected || mesh.parts[peer] != Part::Absent {
                    true => now - mesh.heard[peer][rank] > SILENCE,
                    false => now - mesh.since[rank] > CONNECT,
                };
                if waited {
                    silent.push((rank, peer));
                }
            }
        }
        if let Some(mesh) = self.meshes.get_mut(&id) {
            for (peer, rank) in heard {
                mesh.heard[peer][rank] = now;
            }
        }
        for (rank, peer) in silent {
            self.lose_peer(id, rank, peer, true);
        }
        if anybody {
            self.queue.push(now + WATCH, Happening::MeshWatch(id));
        } else {
            self.meshes.remove(&id);
        }
    }
}
