//! What holds in every state, by the numbers of the registry, and what must be within reach.

use perennial_plan::invariants::Invariant;
use stateright::Property;

use crate::log::{Entry, Generation, Reading};
use crate::model::Cluster;
use crate::state::State;

/// A later term counts steps of a generation of its own, behind steps that an earlier term counted.
pub const TAKEOVER: &str = "training goes on after a takeover";
/// Nobody is left who holds the last counted step, and a checkpoint is loaded.
pub const ROLLBACK: &str = "training goes on from a checkpoint";

pub fn all() -> Vec<Property<Cluster>> {
    let name = |invariant: Invariant| invariant.describe().0;
    vec![
        Property::always(name(Invariant::Log1), |_, state| log_1(state)),
        Property::always(name(Invariant::Gen1), |_, state| gen_1(state)),
        Property::always(name(Invariant::Gen2), |_, state: &State| {
            !state.obeyed_stale
        }),
        Property::always(name(Invariant::Ex1), |_, state| ex_1(state)),
        Property::always(name(Invariant::Ex2), |_, state| ex_2(state)),
        Property::always(name(Invariant::Rep1), |_, state| rep_1(state)),
        Property::always(name(Invariant::Ck1), |_, state| ck_1(state)),
        Property::sometimes(TAKEOVER, |_, state| is_taken_over(state)),
        Property::sometimes(ROLLBACK, |_, state| is_rolled_back(state)),
    ]
}

fn keeps(state: &State, invariant: Invariant) -> bool {
    !Reading::of(&state.log).broken.contains(&invariant)
}

/// Each entry belongs to the term in which it stands, whoever rules knows the log as it is, and nobody
/// else rules in the same term.
fn log_1(state: &State) -> bool {
    let ruling = || state.coordinators.iter().filter(|c| c.term.is_some());
    let is_prefix = ruling().all(|coordinator| state.log.starts_with(&coordinator.view));
    let mut terms: Vec<Option<u8>> = ruling().map(|coordinator| coordinator.term).collect();
    terms.sort();
    terms.dedup();
    keeps(state, Invariant::Log1) && is_prefix && terms.len() == ruling().count()
}

/// Generations follow each other in the log, each counts its own steps before the next begins, and a worker
/// is in none that does not stand there.
fn gen_1(state: &State) -> bool {
    let is_logged = |wanted: Generation| {
        state.log.iter().any(
            |entry| matches!(entry, Entry::Generation { generation, .. } if *generation == wanted),
        )
    };
    let mut entered = state.workers.iter().map(|worker| worker.generation);
    keeps(state, Invariant::Gen1)
        && entered.all(|generation| generation.id == 0 || is_logged(generation))
}

/// The ledger has each step once, somebody has applied what it has, and no replica has a step that was not
/// summed over each slot once.
fn ex_1(state: &State) -> bool {
    let furthest = Reading::of(&state.log).furthest;
    let is_held = (1..=furthest).all(|step| state.workers.iter().any(|w| w.has_held(step)));
    let is_exact = state.workers.iter().all(|worker| worker.inexact == 0);
    keeps(state, Invariant::Ex1) && is_held && is_exact
}

/// Neither the ledger nor a replica goes back, except to a checkpoint.
fn ex_2(state: &State) -> bool {
    keeps(state, Invariant::Ex2) && !state.went_back
}

/// Replicas are equal as far as they go.
fn rep_1(state: &State) -> bool {
    state.workers.iter().enumerate().all(|(index, a)| {
        state.workers[..index].iter().all(|b| {
            let common = (1u8 << a.step.min(b.step)) - 1;
            a.inexact & common == b.inexact & common
        })
    })
}

/// Behind each manifest are the parts of all members of some generation, and the ledger up to its step.
fn ck_1(state: &State) -> bool {
    let furthest = Reading::of(&state.log).furthest;
    let mut manifests = (1..8).filter(|step| state.manifests >> step & 1 == 1);
    manifests.all(|step| {
        let mut generations = state.log.iter().filter_map(|entry| match entry {
            Entry::Generation { generation, .. } => Some(*generation),
            _ => None,
        });
        step <= furthest && generations.any(|g| parts_are_complete(state, g, step))
    })
}

/// All members of the generation have stood at `step` in it, so that all their parts can be in the store.
pub fn parts_are_complete(state: &State, generation: Generation, step: u8) -> bool {
    state
        .members(generation)
        .all(|member| member.has_stood(generation.id, step))
}

fn is_taken_over(state: &State) -> bool {
    let mut began = None;
    let mut before = false;
    state.log.iter().any(|entry| match *entry {
        Entry::Term { .. } => false,
        Entry::Generation { term, generation } => {
            began = Some((term, generation.id));
            false
        }
        Entry::Steps {
            term,
            generation,
            end,
            ..
        } => {
            before |= term == 1;
            let all_applied = state
                .workers
                .iter()
                .any(|w| w.furthest(generation) == Some(end));
            before && term > 1 && began == Some((term, generation)) && all_applied
        }
    })
}

fn is_rolled_back(state: &State) -> bool {
    let mut rolled_back = false;
    state.log.iter().any(|entry| match entry {
        Entry::Generation { generation, .. } => {
            rolled_back = generation.checkpoint;
            false
        }
        Entry::Steps { .. } => rolled_back,
        Entry::Term { .. } => false,
    })
}
