use perennial_model::Network;
use perennial_plan::Spec;
use perennial_train::statistics_len;

use super::*;

fn network() -> (Spec, Network) {
    let spec = Spec::default();
    let network = Network::new(&spec.model, 3).unwrap();
    (spec, network)
}

fn delta(network: &Network, step: usize) -> StepDelta {
    let value = |place: usize| ((place + step) as f32 * 0.37).sin();
    let mut statistics: Vec<f64> = (0..statistics_len(network))
        .map(|place| f64::from(value(place).abs()) + 1.0)
        .collect();
    statistics[0] = 8.0;
    StepDelta {
        gradient: (0..network.table.parameters_len()).map(value).collect(),
        statistics,
        learning_rate: 1e-3,
    }
}

fn begun(spec: &Spec, network: &Network) -> SharedReplica {
    begun_on(spec, network, None)
}

fn begun_on(spec: &Spec, network: &Network, device: Option<&Device>) -> SharedReplica {
    let shared = SharedReplica::default();
    let table = &network.table;
    let replica = Replica::new(spec, table, table.initial_weights(1));
    let held = Held::of(State::Training(replica), device);
    shared.replace(Some(held.unwrap()));
    shared
}

fn at_once(shared: &SharedReplica, global_step: u64) -> Delta {
    shared.delta(global_step, Duration::ZERO)
}

#[test]
fn a_member_one_step_behind_gets_the_step_and_one_further_behind_does_not() {
    let (spec, network) = network();
    let table = &network.table;
    let (source, behind) = (begun(&spec, &network), begun(&spec, &network));
    for step in 0..3 {
        source.apply(table, delta(&network, step)).unwrap();
        if step < 2 {
            behind.apply(table, delta(&network, step)).unwrap();
        }
    }
    assert_eq!(at_once(&source, 1), Delta::Gone);
    assert_eq!(at_once(&source, 3), Delta::NotYet);
    assert_eq!(
        at_once(&source, 4),
        Delta::Gone,
        "it is ahead of the source"
    );
    let Delta::Next { hash, bytes } = at_once(&source, 2) else {
        panic!("the last step is always kept");
    };
    let offered = Offered::from_bytes(&bytes, |step| StepDelta::from_bytes(table, step)).unwrap();
    assert_eq!(offered.stands_at, 3);
    behind.apply(table, offered.delta).unwrap();
    assert_eq!(behind.standing(), Some((3, hash)));
    assert_eq!(behind.standing(), source.standing());
}

#[test]
fn while_somebody_follows_the_last_steps_are_kept_up_to_a_number() {
    let (spec, network) = network();
    let source = begun(&spec, &network);
    assert_eq!(source.snapshot().unwrap().global_step, 0);
    for step in 0..=KEPT_STEPS {
        source.apply(&network.table, delta(&network, step)).unwrap();
    }
    assert_eq!(at_once(&source, 0), Delta::Gone);
    for step in 1..=KEPT_STEPS as u64 {
        assert!(matches!(at_once(&source, step), Delta::Next { .. }));
    }
}

#[test]
fn another_replica_forgets_the_steps_of_the_one_before() {
    let (spec, network) = network();
    let source = begun(&spec, &network);
    source.apply(&network.table, delta(&network, 0)).unwrap();
    assert!(matches!(at_once(&source, 0), Delta::Next { .. }));
    source.replace(None);
    assert_eq!(at_once(&source, 0), Delta::Gone);
    assert_eq!(source.snapshot(), None);
}

#[test]
fn who_waits_for_a_step_gets_it_when_it_is_taken() {
    let (spec, network) = network();
    let source = Arc::new(begun(&spec, &network));
    let waiting = source.clone();
    let follower = std::thread::spawn(move || waiting.delta(0, Duration::from_secs(60)));
    source.apply(&network.table, delta(&network, 0)).unwrap();
    assert!(matches!(follower.join().unwrap(), Delta::Next { .. }));
}

#[test]
fn what_is_read_and_copied_of_a_replica_on_a_device_is_as_new_as_its_last_step() {
    let (spec, network) = network();
    let (table, device) = (&network.table, Device::flex());
    let source = begun_on(&spec, &network, Some(&device));
    for step in 0..2 {
        source.apply(table, delta(&network, step)).unwrap();
        let snapshot = source.snapshot().unwrap();
        let copy = Replica::from_bytes(&spec, table, &snapshot.bytes).unwrap();
        let read = source.read(|held| held.unwrap().replica().weights.clone());
        assert_eq!(read.unwrap(), copy.weights);
        let held = Held::of(State::Training(copy), Some(&device)).unwrap();
        assert_eq!(
            (held.global_step, held.hash),
            (step as u64 + 1, snapshot.hash)
        );
        assert_eq!(source.standing(), Some((step as u64 + 1, snapshot.hash)));
    }
}
