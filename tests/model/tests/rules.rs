//! Every state within bounds keeps every rule, and each rule is needed: without it some state breaks an
//! invariant.

use std::collections::BTreeSet;

use perennial_model_check::properties::{ROLLBACK, TAKEOVER};
use perennial_model_check::{Bounds, Broken, Cluster};
use perennial_plan::invariants::Invariant;
use stateright::{Checker, HasDiscoveries, Model};

/// Two coordinators, three workers, and one change of rule and of membership in any order.
const SMALL: Bounds = Bounds {
    coordinators: 2,
    workers: 3,
    terms: 2,
    generations: 2,
    steps: 2,
    checkpoint_every: 1,
};

/// One more generation, so that a worker comes back after a generation without it; one worker less.
const LONG: Bounds = Bounds {
    workers: 2,
    generations: 3,
    checkpoint_every: 2,
    ..SMALL
};

const THREADS: usize = 2;

#[track_caller]
fn assert_all_rules_hold(bounds: Bounds) {
    let cluster = Cluster {
        bounds,
        broken: None,
    };
    let checker = cluster.checker().threads(THREADS).spawn_bfs().join();
    println!(
        "{} states, {} transitions, depth {}: {bounds:?}",
        checker.unique_state_count(),
        checker.state_count(),
        checker.max_depth()
    );
    checker.assert_properties();
    for reachable in [TAKEOVER, ROLLBACK] {
        checker.assert_any_discovery(reachable);
    }
}

/// The shortest way to break `invariant`, in transitions, once `rule` is left out.
#[track_caller]
fn assert_breaks(rule: Broken, bounds: Bounds, invariant: Invariant) {
    let (name, _) = invariant.describe();
    let cluster = Cluster {
        bounds,
        broken: Some(rule),
    };
    let wanted = HasDiscoveries::AllOf(BTreeSet::from([name]));
    let checker = cluster
        .checker()
        .threads(THREADS)
        .finish_when(wanted)
        .spawn_bfs()
        .join();
    let path = checker.discovery(name);
    let path = path.unwrap_or_else(|| panic!("{name} holds without the rule {rule:?}"));
    let actions = path.into_actions();
    println!(
        "without {rule:?}, {name} is broken after {} of {} states: {actions:?}",
        actions.len(),
        checker.unique_state_count(),
    );
}

#[test]
fn every_state_of_two_coordinators_and_three_workers_keeps_the_rules() {
    assert_all_rules_hold(SMALL);
}

#[test]
fn every_state_of_three_generations_keeps_the_rules() {
    assert_all_rules_hold(LONG);
}

#[test]
fn without_the_generation_check_a_step_sums_shares_of_two_generations() {
    assert_breaks(Broken::GenerationCheck, SMALL, Invariant::Ex1);
    assert_breaks(Broken::GenerationCheck, SMALL, Invariant::Gen2);
    assert_breaks(Broken::GenerationCheck, SMALL, Invariant::Rep1);
}

#[test]
fn a_manifest_written_before_its_parts_names_what_is_not_there() {
    assert_breaks(Broken::ManifestBeforeParts, SMALL, Invariant::Ck1);
}

#[test]
fn a_manifest_written_before_the_ledger_is_of_steps_that_are_not_counted() {
    assert_breaks(Broken::ManifestBeforeLedger, SMALL, Invariant::Ck1);
}

#[test]
fn two_coordinators_that_append_at_one_position_know_different_logs() {
    assert_breaks(Broken::CreateOnly, SMALL, Invariant::Log1);
}

#[test]
fn two_coordinators_that_write_equal_bytes_both_rule() {
    assert_breaks(Broken::TermNamesItsWriter, SMALL, Invariant::Log1);
}

#[test]
fn a_worker_that_ignores_terms_obeys_a_coordinator_that_lost() {
    assert_breaks(Broken::WorkersObeyHighestTerm, SMALL, Invariant::Gen2);
}

#[test]
fn a_start_at_the_least_step_takes_a_replica_back() {
    assert_breaks(Broken::FurthestStep, SMALL, Invariant::Ex2);
}

#[test]
fn a_start_before_the_log_entry_makes_a_generation_that_never_was() {
    assert_breaks(Broken::LogBeforeStart, SMALL, Invariant::Gen1);
}

#[test]
fn a_survivor_from_before_the_counted_steps_takes_the_ledger_back() {
    assert_breaks(Broken::SurvivorsHoldTheLedger, SMALL, Invariant::Ex2);
}
