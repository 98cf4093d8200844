//! Planned changes: newcomers copy the replica beside training, and members halt at a boundary once the
//! next membership is ready.

use std::time::Duration;

use perennial_plan::Generation;
use perennial_proto::v1;

use super::worker::{Place, Worker};
use super::{Machine, Regroup};

/// How long a newcomer that has caught up waits for others that are about to.
const JOIN_TOGETHER: Duration = Duration::from_secs(2);
/// A worker that copies a replica for longer begins anew.
const FOLLOW_PATIENCE: Duration = Duration::from_secs(300);
/// Slots are dealt anew when a step then takes less than this share of its time...
const WORTH_IT: f64 = 0.85;
/// ... and so much time has passed since they were dealt.
const DEAL_AGAIN: Duration = Duration::from_secs(15);
/// How often that is looked at: with a thousand members it takes milliseconds.
const WEIGH_AGAIN: Duration = Duration::from_secs(1);

impl Machine {
    /// Lets workers in the pool copy the replica as long as more members are wanted.
    pub(super) fn call_followers(&mut self) {
        let members = self.members();
        let leaving = members
            .iter()
            .filter(|index| self.workers[**index].draining);
        let mut present = members.len() - leaving.count();
        present += self
            .workers
            .iter()
            .filter(|worker| matches!(worker.place, Place::Following { .. }))
            .count();
        for index in 0..self.workers.len() {
            let worker = &self.workers[index];
            if let Place::Following {
                since,
                caught_up: None,
            } = worker.place
                && self.now - since > FOLLOW_PATIENCE
            {
                self.workers[index].place = Place::Pool;
                continue;
            }
            let asked = self.is_member(worker) || worker.place != Place::Pool;
            if asked || !self.is_willing(index) || present >= self.target() {
                continue;
            }
            // The youngest member: the oldest one reports and writes the most.
            let source = members.iter().rev().find(|member| {
                let worker = &self.workers[**member];
                worker.is_ready() && !worker.draining
            });
            let Some(source) = source.map(|source| &self.workers[*source]) else {
                return;
            };
            let follow = v1::Follow {
                source: Some(v1::Source {
                    worker: source.name.clone(),
                    address: source
                        .ready
                        .as_ref()
                        .map(|ready| ready.replica_address.clone())
                        .unwrap_or_default(),
                    global_step: self
                        .ledger
                        .as_ref()
                        .map_or(0, |ledger| ledger.global_step()),
                    replica_hash: 0,
                }),
            };
            self.send_to(index, follow);
            self.workers[index].place = Place::Following {
                since: self.now,
                caught_up: None,
            };
            present += 1;
        }
    }

    pub(super) fn regroup_if_worth_it(&mut self) {
        if self.regroup.is_some() {
            return;
        }
        let Some(reason) = self.why_regroup() else {
            return;
        };
        let staying = self.members().into_iter().filter(|index| {
            let worker = &self.workers[*index];
            !worker.draining
        });
        // Those that stay are too few to go on: what they know must not be lost with the others.
        let checkpoint = staying.count() < self.min_workers();
        let generation = self.generation_id();
        self.regroup = Some(Regroup { reason, checkpoint });
        for index in self.members() {
            self.send_to(
                index,
                v1::Regroup {
                    generation,
                    checkpoint,
                },
            );
        }
    }

    /// Why the membership should change at the next boundary.
    fn why_regroup(&mut self) -> Option<String> {
        let members = self.members();
        let leaving = members.iter().find(|index| self.workers[**index].draining);
        if let Some(index) = leaving {
            return Some(format!("worker `{}` leaves", self.workers[*index].name));
        }
        let target = self.target();
        if members.len() > target {
            for index in members.iter().skip(target) {
                self.start_draining(*index);
            }
            return Some(format!("{target} workers are wanted"));
        }
        let following = |worker: &Worker| match worker.place {
            Place::Following { since, caught_up } => Some((since, caught_up)),
            _ => None,
        };
        let followers: Vec<_> = self
            .workers
            .iter()
            .filter_map(|worker| Some((worker, following(worker)?)))
            .collect();
        let there = followers
            .iter()
            .filter(|(_, (_, caught_up))| caught_up.is_some());
        let names: Vec<&str> = there.map(|(worker, _)| worker.name.as_str()).collect();
        let others_soon = followers.iter().any(|(_, (since, caught_up))| {
            caught_up.is_none() && self.now - *since < JOIN_TOGETHER
        });
        if !names.is_empty() && !others_soon {
            return Some(format!("worker `{}` joins", names.join("`, `")));
        }
        self.why_deal_again(&members)
    }

    /// Whether dealing the slots anew by the speeds of late makes steps so much shorter that a halt is
    /// worth it.
    fn why_deal_again(&mut self, members: &[usize]) -> Option<String> {
        let recent = self.now - self.last_dealt < DEAL_AGAIN;
        let weighed = self.now - self.last_weighed < WEIGH_AGAIN;
        if recent || weighed || members.len() < 2 {
            return None;
        }
        self.last_weighed = self.now;
        let generation = self.generation.as_ref()?;
        let measured = members
            .iter()
            .all(|index| self.workers[*index].slot_seconds.is_some());
        if !measured {
            return None;
        }
        let seconds = |generation: &Generation| {
            let member = generation.members.iter().map(|member| {
                let index = self.find(&member.worker)?;
                let slot = self.workers[index].slot_seconds?;
                Some(slot * member.slots.len() as f64)
            });
            member.flatten().fold(0.0, f64::max)
        };
        let next = self.deal(members, generation.start, None);
        let (now, then) = (seconds(generation), seconds(&next));
        (then < WORTH_IT * now)
            .then(|| format!("slots are dealt by speed: {then:.2} s instead of {now:.2} s a step"))
    }
}
