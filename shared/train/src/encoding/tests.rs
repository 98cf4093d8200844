use perennial_model::Network;

use super::*;

fn job(optimizer: &str, decay: f64) -> (Spec, Network) {
    let mut spec = Spec::default();
    spec.optimizer.name = match optimizer {
        "adamw" => perennial_plan::spec::OptimizerName::Adamw,
        _ => perennial_plan::spec::OptimizerName::Sgd,
    };
    spec.ema.decay = decay;
    let network = Network::new(&spec.model, 3).unwrap();
    (spec, network)
}

fn delta(table: &Table, seed: f32) -> StepDelta {
    let wave = |length: usize| (0..length).map(move |place| (place as f32 * seed).sin());
    let mut statistics: Vec<f64> = wave(crate::slot::COUNTS + table.moments_len())
        .map(|value| f64::from(value.abs()) + 1.0)
        .collect();
    statistics[0] = 8.0;
    StepDelta {
        gradient: wave(table.parameters_len()).collect(),
        statistics,
        learning_rate: 1e-3,
    }
}

fn apply(replica: &mut Replica, table: &Table, delta: &StepDelta) -> u64 {
    let outcome = replica.apply(
        table,
        &delta.gradient,
        &delta.statistics,
        delta.learning_rate,
        1,
    );
    outcome.unwrap().hash
}

/// A replica after three steps.
fn trained(spec: &Spec, table: &Table) -> Replica {
    let mut replica = Replica::new(spec, table, table.initial_weights(7));
    for step in 1..=3 {
        apply(&mut replica, table, &delta(table, step as f32));
    }
    replica
}

#[test]
fn a_copied_replica_has_the_same_hash_and_takes_the_same_next_step() {
    for (optimizer, decay) in [("adamw", 0.99), ("adamw", 0.0), ("sgd", 0.9)] {
        let (spec, network) = job(optimizer, decay);
        let table = &network.table;
        let mut original = trained(&spec, table);
        let mut copy = Replica::from_bytes(&spec, table, &original.to_bytes()).unwrap();
        assert_eq!(copy.hash(), original.hash());
        assert_eq!(copy.steps(), 3);
        let step = delta(table, 0.37);
        let sent = StepDelta::from_bytes(table, &step.to_bytes()).unwrap();
        assert_eq!(sent, step);
        let hash = apply(&mut original, table, &step);
        assert_eq!(apply(&mut copy, table, &sent), hash);
        assert_eq!(copy.to_bytes(), original.to_bytes());
    }
}

#[test]
fn a_damaged_cut_or_foreign_copy_is_refused() {
    let (spec, network) = job("adamw", 0.99);
    let table = &network.table;
    let bytes = trained(&spec, table).to_bytes();
    let refused = |bytes: &[u8]| {
        let refusal = Replica::from_bytes(&spec, table, bytes).unwrap_err();
        refusal.to_string()
    };
    let mut damaged = bytes.clone();
    damaged[bytes.len() / 2] ^= 1;
    assert!(refused(&damaged).contains("their checksum is wrong"));
    assert!(refused(&bytes[..9]).contains("end too early"));
    assert!(refused(&bytes[..bytes.len() - 4]).contains("their checksum is wrong"));
    let step = delta(table, 1.0).to_bytes();
    assert!(refused(&step).contains("instead of"));
    let (without_average, _) = job("adamw", 0.0);
    let error = Replica::from_bytes(&without_average, table, &bytes).unwrap_err();
    assert!(error.to_string().contains("where the job's has"), "{error}");
    let other = Network::new(&spec.model, 5).unwrap();
    let error = Replica::from_bytes(&spec, &other.table, &bytes).unwrap_err();
    assert!(error.to_string().contains("where the job's has"), "{error}");
}
