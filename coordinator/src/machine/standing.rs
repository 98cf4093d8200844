//! Where workers say that they stand, and whom they could not reach.

use std::time::Duration;

use perennial_plan::Cursor;
use perennial_proto::v1::{self, Standing as Said};

use super::worker::{Place, Standing};
use super::{Failure, Machine, Phase};

/// How long a worker that could not be reached by others is left alone the first time; twice as long each
/// further time.
const SHUNNED: Duration = Duration::from_secs(10);
const SHUNNED_AT_MOST: Duration = Duration::from_secs(120);

impl Machine {
    pub(super) fn standing(&mut self, index: usize, said: &Said) -> Result<(), Failure> {
        let worker = &self.workers[index];
        let member = self.is_member(worker);
        if !said.halted {
            return self.at_work(index, said.generation, member);
        }
        let cursor = Cursor {
            epoch: said.epoch,
            step: said.step,
        };
        let standing = Standing {
            cursor: (!said.empty).then_some(cursor),
            hash: said.replica_hash,
        };
        if !member {
            if !matches!(worker.place, Place::Following { .. }) {
                self.workers[index].place = Place::Pool;
            }
            return Ok(());
        }
        if said.generation != self.generation_id() {
            self.stands_elsewhere(index, said.generation, standing);
            return Ok(());
        }
        let worker = &mut self.workers[index];
        worker.place = Place::Halted(standing);
        worker.halt_asked = None;
        let silent = said.lost.iter().filter(|lost| lost.silent);
        worker.accuses = silent.map(|lost| lost.worker.clone()).collect();
        if self.phase == Phase::Running && (self.regroup.is_none() || !said.lost.is_empty()) {
            self.regroup = None;
            let name = self.workers[index].name.clone();
            let lost: Vec<&str> = said.lost.iter().map(|lost| lost.worker.as_str()).collect();
            let why = if lost.is_empty() {
                format!("worker `{name}` halted")
            } else {
                format!("worker `{name}` lost `{}`", lost.join("`, `"))
            };
            self.break_up(why);
        }
        Ok(())
    }

    /// A worker says that it is at work in `generation`.
    fn at_work(&mut self, index: usize, generation: u64, member: bool) -> Result<(), Failure> {
        if !member {
            self.workers[index].place = Place::Stray;
        }
        let ours = self.generation_id();
        if generation != ours || !member {
            self.send_to(index, v1::Halt { generation });
        } else if self.phase == Phase::Assembling {
            self.ask_to_halt(index);
        }
        Ok(())
    }

    /// A member takes no step in an earlier generation. If the start of the one at hand cannot be on its
    /// way to it, it never heard of that.
    pub(super) fn stands_elsewhere(&mut self, index: usize, generation: u64, standing: Standing) {
        let (ours, start) = match &self.generation {
            Some(at_hand) => (at_hand.id, at_hand.start),
            None => return,
        };
        let worker = &mut self.workers[index];
        if generation > ours || worker.told == ours || worker.standing().is_some() {
            return;
        }
        // What it has from before is of use as far as the generation at hand counts it.
        worker.place = Place::Halted(Standing {
            cursor: standing.cursor.filter(|cursor| *cursor <= start),
            ..standing
        });
        worker.halt_asked = None;
        if self.phase == Phase::Running {
            let name = &worker.name;
            let why = format!("worker `{name}` did not hear of generation {ours}");
            self.break_up(why);
        }
    }

    /// Leaves alone for a while those that others could not reach though they are there: of each pair
    /// the one about whom more others complain, the higher rank where that decides nothing.
    pub(super) fn shun_the_unreachable(&mut self) {
        let mut pairs: Vec<(usize, usize)> = Vec::new();
        for accuser in self.members() {
            for name in std::mem::take(&mut self.workers[accuser].accuses) {
                if let Some(accused) = self.find(&name)
                    && self.workers[accused].connection.is_some()
                    && self.workers[accuser].connection.is_some()
                {
                    pairs.push((accuser.min(accused), accuser.max(accused)));
                }
            }
        }
        while !pairs.is_empty() {
            let complaints = |worker: usize| {
                let about = pairs.iter().filter(|(a, b)| *a == worker || *b == worker);
                about.count()
            };
            let everybody = pairs.iter().flat_map(|(a, b)| [*a, *b]);
            let Some(worst) = everybody.max_by_key(|worker| (complaints(*worker), *worker)) else {
                return;
            };
            pairs.retain(|(a, b)| *a != worst && *b != worst);
            let worker = &mut self.workers[worst];
            worker.shunned_for = (worker.shunned_for * 2).clamp(SHUNNED, SHUNNED_AT_MOST);
            worker.shunned_until = self.now + worker.shunned_for;
            let (name, seconds) = (worker.name.clone(), worker.shunned_for.as_secs());
            self.warn(format!(
                "worker `{name}` cannot be reached by the other workers; it is left out for {seconds} s"
            ));
        }
    }
}
