//! Who may do what when.

use stateright::{Model, Property};

use crate::log::{Entry, Generation, Reading};
use crate::properties;
use crate::rules::{Bounds, Broken};
use crate::state::{Coordinator, Order, State, Worker};

/// The cluster within bounds, with all rules but the broken one.
#[derive(Debug, Clone, Copy)]
pub struct Cluster {
    pub bounds: Bounds,
    pub broken: Option<Broken>,
}

/// A transition. Coordinators and workers are given by their place in the state.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Action {
    /// A coordinator that stands by, or was started again, reads the log and begins to append the next
    /// term. What it sent before is still on its way.
    Campaign(usize),
    /// An append arrives at the store.
    Land(u8, Entry),
    /// A coordinator finds out what stands at the position to which it appends.
    Learn(usize),
    /// A coordinator counts the steps that all members have reported.
    Count(usize),
    /// A coordinator counts the steps that a halted worker holds.
    Settle(usize, usize),
    /// A coordinator begins a generation of these members, one bit each.
    Begin(usize, u8),
    /// A coordinator writes the manifest of this step.
    Commit(usize, u8),
    Halt(usize, Order),
    Start(usize, Order),
    /// A worker has the sum over all members' shares and applies it.
    Apply(usize),
    /// Likewise, but some share was made for another generation, with other slots.
    ApplyMixed(usize),
}

// === impl Cluster ===

impl Cluster {
    fn is_broken(&self, rule: Broken) -> bool {
        self.broken == Some(rule)
    }

    /// What `coordinator` would append for `action`.
    fn entry(&self, state: &State, action: Action) -> Option<Entry> {
        let (Action::Campaign(index)
        | Action::Count(index)
        | Action::Settle(index, _)
        | Action::Begin(index, _)) = action
        else {
            return None;
        };
        let coordinator = &state.coordinators[index];
        if let Action::Campaign(_) = action {
            let term = Reading::of(&state.log).term + 1;
            let named = !self.is_broken(Broken::TermNamesItsWriter);
            let by = named.then_some(index as u8);
            return (term <= self.bounds.terms).then_some(Entry::Term { term, by });
        }
        if coordinator.appending.is_some() {
            return None;
        }
        let term = coordinator.term?;
        let reading = Reading::of(&coordinator.view);
        match action {
            Action::Count(_) => count(state, term, &reading),
            Action::Settle(_, worker) => settle(&state.workers[worker], term, &reading),
            Action::Begin(_, members) => {
                let generation = self.begin(state, &reading, members)?;
                Some(Entry::Generation { term, generation })
            }
            _ => None,
        }
    }

    /// The generation that follows with the answers of these members; the others are left out as dead.
    fn begin(&self, state: &State, reading: &Reading, members: u8) -> Option<Generation> {
        let id = reading.generation.id + 1;
        let candidate = Generation {
            id,
            members,
            ..Generation::default()
        };
        let have_answered = state
            .members(candidate)
            .all(|worker| worker.halted >= reading.generation.id);
        if id > self.bounds.generations || !have_answered {
            return None;
        }
        let survivors = || {
            state
                .members(candidate)
                .map(|worker| worker.step)
                .filter(|step| {
                    *step >= reading.end || self.is_broken(Broken::SurvivorsHoldTheLedger)
                })
        };
        let start = if self.is_broken(Broken::FurthestStep) {
            survivors().min()
        } else {
            survivors().max()
        };
        match start {
            // These steps are counted first.
            Some(start) if start > reading.end => None,
            Some(start) => Some(Generation { start, ..candidate }),
            None => Some(Generation {
                start: newest_checkpoint(state, reading),
                checkpoint: true,
                ..candidate
            }),
        }
    }

    /// The steps of which checkpoints are made.
    fn checkpoints(&self) -> impl Iterator<Item = u8> {
        let every = self.bounds.checkpoint_every;
        (1..=self.bounds.steps).filter(move |step| step.is_multiple_of(every))
    }

    fn may_commit(&self, state: &State, index: usize, step: u8) -> bool {
        let coordinator = &state.coordinators[index];
        if coordinator.term.is_none() || state.manifests >> step & 1 == 1 {
            return false;
        }
        let reading = Reading::of(&coordinator.view);
        let generation = reading.generation;
        let parts = self.is_broken(Broken::ManifestBeforeParts)
            || properties::parts_are_complete(state, generation, step);
        let ledger = self.is_broken(Broken::ManifestBeforeLedger) || reading.end >= step;
        generation.id > 0 && parts && ledger
    }

    fn obeys(&self, worker: &Worker, order: Order) -> bool {
        order.term >= worker.term || self.is_broken(Broken::WorkersObeyHighestTerm)
    }

    /// The replica that a worker has at the start of this generation; none while it cannot be had.
    fn replica_at_start(&self, state: &State, index: usize, generation: Generation) -> Option<u8> {
        let worker = &state.workers[index];
        if generation.checkpoint {
            return Some(0);
        }
        if worker.step == generation.start {
            return Some(worker.inexact);
        }
        let mut sources = state.members(generation);
        let source = sources.find(|source| source.step == generation.start)?;
        Some(source.inexact)
    }

    fn may_start(&self, state: &State, index: usize, order: Order) -> bool {
        let worker = &state.workers[index];
        let generation = order.generation;
        generation.members >> index & 1 == 1
            && generation.id > worker.generation.id.max(worker.halted)
            && self.obeys(worker, order)
            && self.replica_at_start(state, index, generation).is_some()
    }

    fn may_apply(&self, state: &State, index: usize) -> bool {
        let worker = &state.workers[index];
        let (id, step) = (worker.generation.id, worker.step);
        worker.is_at_work()
            && step < self.bounds.steps
            && state
                .members(worker.generation)
                .all(|member| member.has_stood(id, step))
    }

    /// Whether the sum can be completed with a share of an earlier generation, in which the member that
    /// made it held other slots.
    fn may_apply_mixed(&self, state: &State, index: usize) -> bool {
        let worker = &state.workers[index];
        let (own, step) = (worker.generation, worker.step);
        let earlier = state.log.iter().filter_map(|entry| match entry {
            Entry::Generation { generation, .. } => Some(generation),
            _ => None,
        });
        let stale: Vec<u8> = earlier
            .filter(|earlier| earlier.id < own.id && earlier.members != own.members)
            .map(|earlier| earlier.id)
            .collect();
        let is_stale = |member: &Worker| stale.iter().any(|id| member.has_stood(*id, step));
        self.is_broken(Broken::GenerationCheck)
            && worker.is_at_work()
            && step < self.bounds.steps
            && state.members(own).any(is_stale)
            && state
                .members(own)
                .all(|member| member.has_stood(own.id, step) || is_stale(member))
    }

    fn append(&self, state: &mut State, index: usize, entry: Entry) {
        let position = state.coordinators[index].view.len() as u8;
        state.coordinators[index].appending = Some(entry);
        let put = (position, entry);
        let is_taken = usize::from(position) < state.log.len();
        if is_taken && !self.is_broken(Broken::CreateOnly) {
            self.learn(state, index);
        } else if !state.puts.contains(&put) {
            state.puts.push(put);
            state.puts.sort();
        }
        if let (Entry::Generation { term, generation }, true) =
            (entry, self.is_broken(Broken::LogBeforeStart))
        {
            state.order(Order { term, generation });
        }
    }

    fn land(&self, state: &mut State, position: u8, entry: Entry) {
        let at = usize::from(position);
        if at < state.log.len() {
            state.log[at] = entry;
        } else {
            state.log.push(entry);
        }
        if self.is_broken(Broken::CreateOnly) {
            state.puts.retain(|put| *put != (position, entry));
        } else {
            // All others are for the same position and lose.
            state.puts.clear();
        }
    }

    fn learn(&self, state: &mut State, index: usize) {
        let coordinator = &mut state.coordinators[index];
        let entry = coordinator.appending.take();
        let found = state.log[coordinator.view.len()];
        if entry != Some(found) {
            *coordinator = Coordinator::default();
            return;
        }
        coordinator.view.push(found);
        if let Entry::Term { term, .. } = found {
            coordinator.term = Some(term);
        }
        let term = coordinator.term.expect("the first entry is the term");
        let generation = Reading::of(&coordinator.view).generation;
        if generation.id > 0 {
            state.order(Order { term, generation });
        }
    }

    /// Whoever lost a race, and has nothing left that it could do but to find that out, stands by.
    fn stand_down(&self, state: &mut State) {
        for index in 0..state.coordinators.len() {
            let coordinator = &state.coordinators[index];
            let Some(next) = state.log.get(coordinator.view.len()) else {
                continue;
            };
            let has_lost = coordinator.appending != Some(*next);
            let end = Reading::of(&coordinator.view).end;
            let may_write = |step: u8| step <= end && state.manifests >> step & 1 == 0;
            let may_commit = coordinator.appending.is_none() && self.checkpoints().any(may_write);
            if has_lost && !may_commit && self.broken.is_none() {
                state.coordinators[index] = Coordinator::default();
            }
        }
    }

    fn start(&self, state: &mut State, index: usize, order: Order) {
        let generation = order.generation;
        let inexact = self
            .replica_at_start(state, index, generation)
            .expect("checked before");
        let worker = &mut state.workers[index];
        let stale = order.term < worker.term;
        let back = generation.start < worker.step && !generation.checkpoint;
        worker.term = worker.term.max(order.term);
        worker.inexact = inexact;
        worker.stand(generation, generation.start);
        state.obeyed_stale |= stale;
        state.went_back |= back;
    }
}

/// The newest that is of counted steps: a manifest can appear after the ledger has gone back to an older
/// one. 0: none, and the initial weights are loaded.
fn newest_checkpoint(state: &State, reading: &Reading) -> u8 {
    let exists = |step: &u8| state.manifests >> step & 1 == 1;
    (1..=reading.end).rev().find(exists).unwrap_or(0)
}

/// The steps that all members have reported and that are not counted.
fn count(state: &State, term: u8, reading: &Reading) -> Option<Entry> {
    let id = reading.generation.id;
    let reported = state
        .members(reading.generation)
        .map(|worker| worker.furthest(id).unwrap_or(0));
    let end = reported.min()?;
    let first = reading.end;
    (end > first).then_some(Entry::Steps {
        term,
        generation: id,
        first,
        end,
    })
}

/// The steps that a halted worker holds and that are not counted.
fn settle(worker: &Worker, term: u8, reading: &Reading) -> Option<Entry> {
    let generation = reading.generation.id;
    let first = reading.end;
    let has_answered = worker.halted >= generation;
    (has_answered && worker.step > first).then_some(Entry::Steps {
        term,
        generation,
        first,
        end: worker.step,
    })
}

// === impl Model for Cluster ===

impl Model for Cluster {
    type State = State;
    type Action = Action;

    fn init_states(&self) -> Vec<State> {
        let bounds = self.bounds;
        vec![State {
            coordinators: vec![Coordinator::default(); usize::from(bounds.coordinators)],
            workers: vec![Worker::default(); usize::from(bounds.workers)],
            ..State::default()
        }]
    }

    fn actions(&self, state: &State, actions: &mut Vec<Action>) {
        for &(position, entry) in &state.puts {
            actions.push(Action::Land(position, entry));
        }
        for (index, coordinator) in state.coordinators.iter().enumerate() {
            actions.push(Action::Campaign(index));
            if coordinator.appending.is_some() {
                if state.log.len() > coordinator.view.len() {
                    actions.push(Action::Learn(index));
                }
                continue;
            }
            if coordinator.term.is_none() {
                continue;
            }
            actions.push(Action::Count(index));
            actions.extend((0..state.workers.len()).map(|worker| Action::Settle(index, worker)));
            actions
                .extend((1..1 << state.workers.len()).map(|members| Action::Begin(index, members)));
            actions.extend(
                self.checkpoints()
                    .filter(|step| self.may_commit(state, index, *step))
                    .map(|step| Action::Commit(index, step)),
            );
        }
        for (index, worker) in state.workers.iter().enumerate() {
            for &order in &state.orders {
                // A higher term alone would only make the worker refuse more.
                let news = order.generation.id > worker.halted;
                if news && self.obeys(worker, order) {
                    actions.push(Action::Halt(index, order));
                }
                if self.may_start(state, index, order) {
                    actions.push(Action::Start(index, order));
                }
            }
            if self.may_apply(state, index) {
                actions.push(Action::Apply(index));
            }
            if self.may_apply_mixed(state, index) {
                actions.push(Action::ApplyMixed(index));
            }
        }
    }

    fn next_state(&self, last: &State, action: Action) -> Option<State> {
        let mut state = last.clone();
        match action {
            Action::Campaign(index)
            | Action::Count(index)
            | Action::Settle(index, _)
            | Action::Begin(index, _) => {
                let entry = self.entry(last, action)?;
                if let Action::Campaign(_) = action {
                    let view = state.log.clone();
                    state.coordinators[index] = Coordinator {
                        view,
                        ..Coordinator::default()
                    };
                }
                self.append(&mut state, index, entry);
            }
            Action::Land(position, entry) => self.land(&mut state, position, entry),
            Action::Learn(index) => self.learn(&mut state, index),
            Action::Commit(_, step) => state.manifests |= 1 << step,
            Action::Halt(index, order) => {
                let worker = &mut state.workers[index];
                state.obeyed_stale |= order.term < worker.term;
                worker.term = worker.term.max(order.term);
                worker.halted = worker.halted.max(order.generation.id);
            }
            Action::Start(index, order) => self.start(&mut state, index, order),
            Action::Apply(index) | Action::ApplyMixed(index) => {
                let mixed = matches!(action, Action::ApplyMixed(_));
                let worker = &mut state.workers[index];
                worker.inexact |= u8::from(mixed) << worker.step;
                worker.stand(worker.generation, worker.step + 1);
                state.obeyed_stale |= mixed;
            }
        }
        self.stand_down(&mut state);
        Some(state.sorted())
    }

    fn properties(&self) -> Vec<Property<Self>> {
        properties::all()
    }
}
