//! A state of the whole cluster.

use crate::log::{Entry, Generation};

/// A process that may rule.
#[derive(Debug, Clone, Default, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct Coordinator {
    /// The term in which it believes to rule; none: it stands by.
    pub term: Option<u8>,
    /// The log as far as it has read or written it.
    pub view: Vec<Entry>,
    /// What it is appending behind that.
    pub appending: Option<Entry>,
}

/// A worker process.
#[derive(Debug, Clone, Default, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct Worker {
    /// The highest term that it has seen.
    pub term: u8,
    /// The generation that it is in; number 0: none.
    pub generation: Generation,
    /// It takes no step in this generation or an earlier one.
    pub halted: u8,
    /// Steps that its replica has applied.
    pub step: u8,
    /// Of these, one bit for each whose sum was not over each slot once.
    pub inexact: u8,
    /// One bit for each generation and step at which it has stood: see [`Worker::has_stood`].
    pub stood: u32,
}

// === impl Worker ===

impl Worker {
    /// Enters `generation` at `step`, or comes to `step` in it. Its share of the sum of that step is on its
    /// way to the other members from now on, and so are the report of the step before, to the coordinator,
    /// and its part of a checkpoint of this step, to the store.
    pub fn stand(&mut self, generation: Generation, step: u8) {
        self.generation = generation;
        self.step = step;
        self.stood |= 1 << bit(generation.id, step);
    }

    /// Whether all that it sends at `step` in this generation is on its way.
    pub fn has_stood(&self, generation: u8, step: u8) -> bool {
        self.stood >> bit(generation, step) & 1 == 1
    }

    /// The most steps with which it has stood in this generation.
    pub fn furthest(&self, generation: u8) -> Option<u8> {
        (0..STEPS)
            .rev()
            .find(|step| self.has_stood(generation, *step))
    }

    /// Whether its replica was ever that of `step`.
    pub fn has_held(&self, step: u8) -> bool {
        (1..32 / STEPS).any(|generation| self.has_stood(generation, step))
    }

    pub fn is_at_work(&self) -> bool {
        self.generation.id > self.halted
    }
}

/// Most steps that fit [`Worker::stood`], the one after the last included.
const STEPS: u8 = 5;

fn bit(generation: u8, step: u8) -> u8 {
    debug_assert!(step < STEPS);
    generation * STEPS + step
}

/// An order to the workers, sent by the coordinator of `term` about the newest generation it has read.
/// It stands for both `Start(generation)` and `Halt(generation)`.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct Order {
    pub term: u8,
    pub generation: Generation,
}

/// All parties, the store, and what is on its way between them.
#[derive(Debug, Clone, Default, PartialEq, Eq, Hash)]
pub struct State {
    pub log: Vec<Entry>,
    pub coordinators: Vec<Coordinator>,
    pub workers: Vec<Worker>,
    /// Appends on their way to the store, as position and entry.
    pub puts: Vec<(u8, Entry)>,
    /// Ascending.
    pub orders: Vec<Order>,
    /// One bit for each step whose manifest exists.
    pub manifests: u8,
    /// Something stale had an effect.
    pub obeyed_stale: bool,
    /// A worker's replica went back without a checkpoint.
    pub went_back: bool,
}

// === impl State ===

impl State {
    pub fn order(&mut self, order: Order) {
        if let Err(at) = self.orders.binary_search(&order) {
            self.orders.insert(at, order);
        }
    }

    pub fn members(&self, generation: Generation) -> impl Iterator<Item = &Worker> {
        let is_member = move |index: &usize| generation.members >> index & 1 == 1;
        let members = self.workers.iter().enumerate();
        members
            .filter(move |(index, _)| is_member(index))
            .map(|(_, worker)| worker)
    }

    /// Parties have no names: of the states that differ in their order alone, (mostly) one is kept.
    pub fn sorted(self) -> Self {
        self.with_coordinators_sorted().with_workers_sorted()
    }

    fn with_coordinators_sorted(mut self) -> Self {
        let anonymous = |entry: Entry| match entry {
            Entry::Term { term, .. } => Entry::Term { term, by: None },
            other => other,
        };
        let key = |index: &usize| {
            let coordinator = &self.coordinators[*index];
            let appending = coordinator.appending.map(anonymous);
            (coordinator.term, coordinator.view.len(), appending)
        };
        let mut order: Vec<usize> = (0..self.coordinators.len()).collect();
        order.sort_by_key(key);
        if order.is_sorted() {
            return self;
        }
        self.coordinators = order
            .iter()
            .map(|index| self.coordinators[*index].clone())
            .collect();
        self.for_each_entry(|entry| {
            if let Entry::Term { by: Some(by), .. } = entry {
                let new = order.iter().position(|old| *old == usize::from(*by));
                *by = new.expect("each coordinator has a place") as u8;
            }
        });
        self.puts.sort();
        self
    }

    fn for_each_entry(&mut self, change: impl Fn(&mut Entry)) {
        self.log.iter_mut().for_each(&change);
        for coordinator in &mut self.coordinators {
            coordinator.view.iter_mut().for_each(&change);
            coordinator.appending.iter_mut().for_each(&change);
        }
        self.puts.iter_mut().for_each(|(_, entry)| change(entry));
    }

    fn with_workers_sorted(mut self) -> Self {
        let mut order: Vec<usize> = (0..self.workers.len()).collect();
        let key = |index: &usize| {
            let worker = &self.workers[*index];
            let own = Worker {
                generation: Generation {
                    members: 0,
                    ..worker.generation
                },
                ..worker.clone()
            };
            (own, self.memberships(*index))
        };
        order.sort_by_cached_key(key);
        if order.is_sorted() {
            return self;
        }
        self.workers = order
            .iter()
            .map(|index| self.workers[*index].clone())
            .collect();
        let rename = |members: &mut u8| {
            let renamed = order.iter().enumerate();
            *members = renamed.fold(0, |mask, (new, old)| mask | (*members >> old & 1) << new);
        };
        self.for_each_entry(|entry| {
            if let Entry::Generation { generation, .. } = entry {
                rename(&mut generation.members);
            }
        });
        self.puts.sort();
        for order in &mut self.orders {
            rename(&mut order.generation.members);
        }
        self.orders.sort();
        for worker in &mut self.workers {
            rename(&mut worker.generation.members);
        }
        self
    }

    /// In which of all generations that are written anywhere this worker is a member.
    fn memberships(&self, index: usize) -> u64 {
        let views = self.coordinators.iter().map(|c| &c.view);
        let appending = self
            .coordinators
            .iter()
            .filter_map(|c| c.appending.as_ref());
        let entries = self.log.iter().chain(views.flatten()).chain(appending);
        let entries = entries.chain(self.puts.iter().map(|(_, entry)| entry));
        let logged = entries.filter_map(|entry| match entry {
            Entry::Generation { generation, .. } => Some(generation.members),
            _ => None,
        });
        let ordered = self.orders.iter().map(|order| order.generation.members);
        logged.chain(ordered).fold(0, |bits, members| {
            bits << 1 | u64::from(members >> index & 1)
        })
    }
}
