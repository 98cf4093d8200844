//! The exact sum between members, beside a plain ring of the same gradient, over TCP on this machine.

use std::io::{self, Read, Write};
use std::net::{TcpListener, TcpStream};
use std::thread;
use std::time::{Duration, Instant};

use perennial_collective::{
    AbortHandle, Collective, Contribution, MeshConfig, MeshTls, Partial, SlotSum, TcpEndpoint,
};
use perennial_plan::order::slot_range;

use crate::error::WorkerError;

/// Longer than any sum takes.
const DEADLINE: Duration = Duration::from_secs(60);

/// What is timed: the sum of a vector of so many numbers.
#[derive(Debug, Clone)]
pub struct CollectiveBench {
    pub members: usize,
    pub slots: u32,
    pub elements: usize,
    pub rounds: usize,
    /// With it the exact sum is timed encrypted as well, between members who know each other by it.
    pub tls: Option<MeshTls>,
}

#[derive(Debug, Clone, Default)]
pub struct CollectiveTimes {
    /// By the fixed tree, every slot's gradient apart until it is added.
    pub exact: Vec<Duration>,
    /// The same over mutual TLS, where that was asked for.
    pub encrypted: Vec<Duration>,
    /// In the order of the ring, one gradient a member.
    pub ring: Vec<Duration>,
}

// === impl CollectiveBench ===

impl CollectiveBench {
    /// All in turn, in each round.
    pub fn run(&self) -> Result<CollectiveTimes, WorkerError> {
        let meshes = [Some(None), self.tls.clone().map(Some)];
        let meshes = meshes
            .into_iter()
            .flatten()
            .map(|tls| Endpoints::bind(self.members, tls));
        let meshes = meshes.collect::<Result<Vec<_>, _>>()?;
        let ring = Ring::all(self.members).map_err(no_ring)?;
        let members: Vec<Result<CollectiveTimes, WorkerError>> = thread::scope(|scope| {
            let meshes = &meshes;
            let members = ring.into_iter().enumerate();
            let members: Vec<_> = members
                .map(|(rank, ring)| scope.spawn(move || self.member(rank, meshes, ring)))
                .collect();
            members
                .into_iter()
                .map(|member| member.join().expect("a member does not panic"))
                .collect()
        });
        let mut members = members.into_iter().collect::<Result<Vec<_>, _>>()?;
        Ok(members.swap_remove(0))
    }

    fn member(
        &self,
        rank: usize,
        meshes: &[Endpoints],
        mut ring: Ring,
    ) -> Result<CollectiveTimes, WorkerError> {
        let meshes = meshes.iter().map(|endpoints| endpoints.connect(rank));
        let mut meshes = meshes.collect::<Result<Vec<_>, _>>()?;
        let value = vec![1.0f32; self.elements];
        let mut times = CollectiveTimes::default();
        for round in 0..=self.rounds {
            let mut sums = Vec::new();
            for mesh in &mut meshes {
                let contribution = self.contribution(rank, &value)?;
                together(mesh)?;
                let began = Instant::now();
                let reduced = mesh.all_reduce(contribution)?;
                together(mesh)?;
                sums.push(began.elapsed());
                drop(reduced);
            }

            let plain = &mut meshes[0];
            let mut summed = value.clone();
            together(plain)?;
            let began = Instant::now();
            ring.all_reduce(&mut summed).map_err(no_ring)?;
            together(plain)?;
            if round > 0 {
                times.ring.push(began.elapsed());
                times.exact.push(sums[0]);
                times.encrypted.extend(sums.get(1));
            }
            if summed.iter().any(|sum| *sum != self.members as f32) {
                return Err(no_ring(io::ErrorKind::InvalidData.into()));
            }
        }
        Ok(times)
    }

    fn contribution(&self, rank: usize, value: &[f32]) -> Result<Contribution, WorkerError> {
        let owned = slot_range(0..self.slots as usize, self.members as u32, rank as u32);
        let owned = owned.start as u32..owned.end as u32;
        let gradients = SlotSum::new(self.slots, owned.clone());
        let statistics = SlotSum::new(self.slots, owned.clone());
        for slot in owned {
            gradients.add(slot, Some(value.to_vec()))?;
            statistics.add(slot, Some(vec![1.0]))?;
        }
        Ok(Contribution {
            slots: self.slots,
            gradients: Partial {
                len: value.len(),
                nodes: gradients.finish()?,
            },
            statistics: Partial {
                len: 1,
                nodes: statistics.finish()?,
            },
            control: 0,
        })
    }
}

/// Where the members of a mesh listen, by rank.
struct Endpoints {
    members: Vec<TcpEndpoint>,
    addresses: Vec<String>,
}

// === impl Endpoints ===

impl Endpoints {
    fn bind(members: usize, tls: Option<MeshTls>) -> Result<Self, WorkerError> {
        let bound = (0..members).map(|_| TcpEndpoint::bind("127.0.0.1:0"));
        let bound = bound.collect::<Result<Vec<_>, _>>()?;
        let (members, addresses): (Vec<TcpEndpoint>, Vec<_>) = bound.into_iter().unzip();
        let encrypted = |endpoint: TcpEndpoint| endpoint.encrypted(tls.clone());
        Ok(Self {
            members: members.into_iter().map(encrypted).collect(),
            addresses: addresses.iter().map(ToString::to_string).collect(),
        })
    }

    /// Returns once all members do the same.
    fn connect(&self, rank: usize) -> Result<impl Collective, WorkerError> {
        let config = MeshConfig {
            job: "bench".into(),
            generation: 1,
            rank,
            addresses: self.addresses.clone(),
            deadline: DEADLINE,
            timeout: DEADLINE,
            silence: DEADLINE,
        };
        Ok(self.members[rank].connect(config, &AbortHandle::new())?)
    }
}

/// Waits for all members. One that has failed is found missing, where a barrier would wait for it for ever.
fn together(mesh: &mut impl Collective) -> Result<(), WorkerError> {
    mesh.all_reduce(Contribution {
        slots: 1,
        ..Contribution::default()
    })?;
    Ok(())
}

fn no_ring(error: io::Error) -> WorkerError {
    WorkerError::Inference(format!("the ring to compare with failed: {error}"))
}

/// A member of the textbook's ring: in N-1 rounds each sums the chunk that comes by, in N-1 more the sums go
/// round.
struct Ring {
    rank: usize,
    members: usize,
    previous: TcpStream,
    next: TcpStream,
}

// === impl Ring ===

impl Ring {
    fn all(members: usize) -> io::Result<Vec<Self>> {
        let mut nexts = Vec::new();
        let mut previouses = Vec::new();
        for _ in 0..members {
            let listener = TcpListener::bind("127.0.0.1:0")?;
            let next = TcpStream::connect(listener.local_addr()?)?;
            let (previous, _) = listener.accept()?;
            next.set_nodelay(true)?;
            nexts.push(next);
            previouses.push(previous);
        }
        // Member `rank` reads what the one before it writes.
        previouses.rotate_right(1);
        let links = previouses.into_iter().zip(nexts).enumerate();
        Ok(links
            .map(|(rank, (previous, next))| Self {
                rank,
                members,
                previous,
                next,
            })
            .collect())
    }

    fn all_reduce(&mut self, values: &mut [f32]) -> io::Result<()> {
        let members = self.members;
        let chunk =
            |index: usize| slot_range(0..values.len(), members as u32, (index % members) as u32);
        let chunks: Vec<_> = (0..members).map(chunk).collect();
        let mut incoming = vec![0.0f32; values.len().div_ceil(members)];
        for round in 0..2 * (members - 1) {
            let summing = round < members - 1;
            // Each half begins with the chunk that is its own, or that it has just finished.
            let first = match summing {
                true => self.rank + members - round,
                false => self.rank + 2 * members - round,
            };
            let sent = chunks[first % members].clone();
            let received = chunks[(first + members - 1) % members].clone();
            let incoming = &mut incoming[..received.len()];
            let (next, previous) = (&mut self.next, &mut self.previous);
            let outgoing = bytemuck::cast_slice(&values[sent]);
            thread::scope(|scope| {
                let writing = scope.spawn(move || next.write_all(outgoing));
                previous.read_exact(bytemuck::cast_slice_mut(incoming))?;
                writing.join().expect("writing does not panic")
            })?;
            for (value, incoming) in values[received].iter_mut().zip(incoming) {
                *value = if summing {
                    *value + *incoming
                } else {
                    *incoming
                };
            }
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_ring_sums_what_its_members_bring() {
        for members in 1..5 {
            let ring = Ring::all(members).unwrap();
            let sums: Vec<Vec<f32>> = thread::scope(|scope| {
                let members: Vec<_> = ring
                    .into_iter()
                    .map(|mut member| {
                        scope.spawn(move || {
                            let mut values: Vec<f32> =
                                (0..7).map(|at| (10 * member.rank + at) as f32).collect();
                            member.all_reduce(&mut values).unwrap();
                            values
                        })
                    })
                    .collect();
                members.into_iter().map(|it| it.join().unwrap()).collect()
            });
            let ranks = 0..members;
            let tens: usize = ranks.map(|rank| 10 * rank).sum();
            let expected: Vec<f32> = (0..7).map(|at| (tens + members * at) as f32).collect();
            assert!(sums.iter().all(|sum| *sum == expected), "{sums:?}");
        }
    }

    #[test]
    fn both_ways_are_timed_in_every_round() {
        let bench = CollectiveBench {
            members: 3,
            slots: 4,
            elements: 1000,
            rounds: 2,
            tls: None,
        };
        let times = bench.run().unwrap();
        assert_eq!((times.exact.len(), times.ring.len()), (2, 2));
        assert!(times.encrypted.is_empty());
    }
}
