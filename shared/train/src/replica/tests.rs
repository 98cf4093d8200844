use perennial_model::Network;
use perennial_plan::spec::{OptimizerName, Precision};

use super::*;

fn job(precision: Precision, clip_grad_norm: f64) -> (Spec, Network) {
    let mut spec = Spec::default();
    spec.train.precision = precision;
    spec.train.clip_grad_norm = clip_grad_norm;
    let network = Network::new(&spec.model, 3).unwrap();
    (spec, network)
}

fn fresh(spec: &Spec, table: &Table) -> Replica {
    Replica::new(spec, table, table.initial_weights(7))
}

/// A gradient of which each value is multiplied by `factor`.
fn gradient(table: &Table, factor: f32) -> Vec<f32> {
    (0..table.parameters_len())
        .map(|place| (place as f32 * 0.1).sin() * factor)
        .collect()
}

/// Of eight samples.
fn statistics(table: &Table) -> Vec<f64> {
    let mut statistics = vec![2.0; COUNTS + table.moments_len()];
    statistics[0] = 8.0;
    statistics
}

fn apply(
    replica: &mut Replica,
    table: &Table,
    gradient: &[f32],
) -> Result<StepOutcome, TrainError> {
    replica.apply(table, gradient, &statistics(table), 1e-3, 1)
}

/// What a skipped step leaves alone.
fn untouched(replica: &Replica) -> (Weights, Option<Weights>, OptimizerState) {
    let mut state = OptimizerState::default();
    replica.optimizer.copy_state(&mut state);
    (replica.weights.clone(), replica.ema.clone(), state)
}

#[test]
fn a_gradient_that_is_not_finite_lowers_the_scale_and_changes_nothing_else() {
    let (spec, network) = job(Precision::F16, 5.0);
    let table = &network.table;
    let mut replica = fresh(&spec, table);
    apply(&mut replica, table, &gradient(table, 8192.0)).unwrap();
    for (skipped, bad) in (1..).zip([f32::INFINITY, f32::NEG_INFINITY, f32::NAN]) {
        let (before, hash) = (untouched(&replica), replica.hash());
        let mut gradient = gradient(table, 8192.0);
        gradient[table.parameters_len() - 1] = bad;
        let outcome = apply(&mut replica, table, &gradient).unwrap();
        assert_eq!(untouched(&replica), before);
        assert!(outcome.skipped && outcome.grad_norm == f64::INFINITY);
        assert_eq!(outcome.loss_scale, Some(2.0f32.powi(17 - skipped)));
        assert_eq!(replica.loss_scale(), Some(2.0f32.powi(16 - skipped)));
        assert_ne!(outcome.hash, hash, "the scale is part of the replica");
        assert_eq!(outcome.hash, replica.hash());
        assert_eq!(replica.optimizer_steps(), 1);
        assert_eq!(replica.steps(), 1 + skipped as u64, "the job goes on");
    }
    let outcome = apply(&mut replica, table, &gradient(table, 8192.0)).unwrap();
    assert!(!outcome.skipped && outcome.grad_norm.is_finite());
    assert_eq!(replica.optimizer_steps(), 2);
}

#[test]
fn a_step_changes_parameters_in_their_place_and_those_that_tensors_share_are_copied_first() {
    let (spec, network) = job(Precision::F32, 5.0);
    let table = &network.table;
    let mut replica = fresh(&spec, table);
    let on_processor = |replica: &Replica| {
        replica.bound(table, &Device::flex(), perennial_kernels::Precision::F32)
    };
    let bound = on_processor(&replica);
    let before = replica.weights.parameters.clone();
    apply(&mut replica, table, &gradient(table, 1.0)).unwrap();
    assert_ne!(replica.weights.parameters, before);
    assert_eq!(*before, table.initial_weights(7).parameters.to_vec());
    drop(bound);
    let place = replica.weights.parameters.as_ptr();
    drop(on_processor(&replica));
    apply(&mut replica, table, &gradient(table, 1.0)).unwrap();
    assert_eq!(replica.weights.parameters.as_ptr(), place);
}

#[test]
fn a_loss_that_is_not_a_number_is_the_same_one_on_every_member() {
    let (spec, network) = job(Precision::F16, 5.0);
    let table = &network.table;
    let other = f64::from_bits(f64::NAN.to_bits() ^ (1 << 63) | 1);
    let losses = [f64::NAN, other].map(|loss| {
        let mut statistics = statistics(table);
        statistics[1] = loss;
        let gradient = vec![f32::NAN; table.parameters_len()];
        let mut replica = fresh(&spec, table);
        let outcome = replica
            .apply(table, &gradient, &statistics, 1e-3, 1)
            .unwrap();
        outcome.loss_sum.to_bits()
    });
    assert_eq!(losses[0], losses[1]);
}

#[test]
fn a_scale_of_one_that_is_still_too_large_is_an_error_that_changes_nothing() {
    let (mut spec, network) = job(Precision::F16, 5.0);
    spec.train.loss_scale = Some(2.0);
    let table = &network.table;
    let mut replica = fresh(&spec, table);
    let overflow = vec![f32::INFINITY; table.parameters_len()];
    assert!(apply(&mut replica, table, &overflow).unwrap().skipped);
    let hash = replica.hash();
    let error = apply(&mut replica, table, &overflow).unwrap_err();
    assert_eq!(error, TrainError::ScaleExhausted { scale: 1.0 });
    assert!(error.to_string().contains("bf16"));
    assert_eq!(replica.hash(), hash);
}

/// The norm is taken and clipped after the scale is taken out: with powers of two that is the same to the bit.
#[test]
fn a_scaled_gradient_takes_the_step_of_one_that_is_not() {
    for clip_grad_norm in [0.0, 1e-3, 1e9] {
        let (plain_spec, network) = job(Precision::F32, clip_grad_norm);
        let (scaled_spec, _) = job(Precision::F16, clip_grad_norm);
        let table = &network.table;
        let (mut plain, mut scaled) = (fresh(&plain_spec, table), fresh(&scaled_spec, table));
        for _ in 0..3 {
            // The sum over eight samples; their mean under a scale of 65536.
            let outcome = apply(&mut plain, table, &gradient(table, 1.0)).unwrap();
            assert_eq!((outcome.loss_scale, outcome.skipped), (None, false));
            let same = apply(&mut scaled, table, &gradient(table, 8192.0)).unwrap();
            assert_eq!(same.grad_norm, outcome.grad_norm);
        }
        assert_eq!(untouched(&scaled), untouched(&plain));
    }
}

#[test]
fn the_scale_and_its_counters_come_back_from_a_copy_and_from_a_checkpoint() {
    let (spec, network) = job(Precision::F16, 5.0);
    let table = &network.table;
    let mut replica = fresh(&spec, table);
    let overflow = vec![f32::INFINITY; table.parameters_len()];
    apply(&mut replica, table, &overflow).unwrap();
    apply(&mut replica, table, &gradient(table, 1.0)).unwrap();

    let copy = Replica::from_bytes(&spec, table, &replica.to_bytes()).unwrap();
    let mut loaded = fresh(&spec, table);
    let model = table.to_named(&replica.weights);
    let ema = replica.ema.as_ref().map(|ema| table.to_named(ema));
    loaded.load_weights(table, &model, ema.as_ref()).unwrap();
    let mut state = OptimizerState::default();
    replica.copy_optimizer(&mut state);
    let named = state.to_named(table);
    assert_eq!(named, replica.optimizer_to_named(table));
    loaded.load_optimizer(table, &named).unwrap();
    for mut other in [copy, loaded] {
        assert_eq!(other.loss_scale, replica.loss_scale);
        assert_eq!((other.steps(), other.optimizer_steps()), (2, 1));
        assert_eq!(other.hash(), replica.hash());
        let next = gradient(table, 3.0);
        let hash = apply(&mut other, table, &next).unwrap().hash;
        assert_eq!(
            apply(&mut replica.clone(), table, &next).unwrap().hash,
            hash
        );
    }

    // A job without a scale has none of it, and one with a scale misses it.
    let (plain, _) = job(Precision::Bf16, 5.0);
    let without = fresh(&plain, table).optimizer_to_named(table);
    assert!(!without.keys().any(|name| name.starts_with("loss_scale")));
    let error = fresh(&spec, table).load_optimizer(table, &without);
    assert!(
        error
            .unwrap_err()
            .to_string()
            .contains("`loss_scale.scale`")
    );
}

/// The pass over the parameters of a device differs from the host's in how products and sums are joined.
#[test]
fn steps_on_a_device_come_close_to_those_on_the_host_and_go_on_after_a_copy_with_the_same_bits() {
    let close = |here: &[f32], there: &[f32]| {
        let mut pairs = here.iter().zip(there);
        here.len() == there.len() && pairs.all(|(here, there)| (here - there).abs() < 1e-5)
    };
    for (name, momentum, decay) in [
        (OptimizerName::Adamw, 0.0, 0.9),
        (OptimizerName::Adamw, 0.0, 0.0),
        (OptimizerName::Sgd, 0.9, 0.9),
        (OptimizerName::Sgd, 0.0, 0.0),
    ] {
        let (mut spec, network) = job(Precision::F16, 5.0);
        spec.optimizer.name = name;
        spec.optimizer.momentum = momentum;
        spec.optimizer.weight_decay = 0.1;
        spec.ema.decay = decay;
        let (table, device) = (&network.table, Device::flex());
        let (mut here, mut there) = (fresh(&spec, table), fresh(&spec, table));
        there.reside(&device).unwrap();
        for step in 0..3 {
            let gradient = gradient(table, 8192.0 * (step + 1) as f32);
            let outcome = apply(&mut here, table, &gradient).unwrap();
            let resident = apply(&mut there, table, &gradient).unwrap();
            assert_eq!(resident.grad_norm, outcome.grad_norm);
            assert!(!there.is_fetched());
            assert_eq!(resident.hash, there.hash());
        }
        let hash = there.hash();
        there.fetch().unwrap();
        assert_eq!((there.hash(), there.is_fetched()), (hash, true));
        let (mut mine, mut others) = (untouched(&here), untouched(&there));
        assert_eq!(others.0.statistics, mine.0.statistics);
        assert!(close(&others.0.parameters, &mine.0.parameters), "{name:?}");
        assert_ne!(others.0.parameters, table.initial_weights(7).parameters);
        if let Some((mine, others)) = mine.1.as_mut().zip(others.1.as_mut()) {
            assert!(close(&others.parameters, &mine.parameters), "{name:?}");
            assert_ne!(others.parameters, here.weights.parameters);
        }
        assert_eq!(others.2.step, mine.2.step);
        for (mine, others) in mine.2.moments.iter().zip(&others.2.moments) {
            assert!(close(&others.1, &mine.1), "{name:?} {}", mine.0);
        }

        let mut copy = Replica::from_bytes(&spec, table, &there.to_bytes()).unwrap();
        copy.reside(&device).unwrap();
        assert_eq!(copy.hash(), hash);
        let overflow = vec![f32::INFINITY; table.parameters_len()];
        for gradient in [gradient(table, 3.0), overflow] {
            let hash = apply(&mut copy, table, &gradient).unwrap().hash;
            assert_eq!(apply(&mut there, table, &gradient).unwrap().hash, hash);
        }
    }
}

/// Checkpoints that exist name this hash.
#[test]
fn the_hash_of_a_replica_without_a_scale_is_of_weights_and_average_alone() {
    for precision in [Precision::F32, Precision::Bf16] {
        let (spec, network) = job(precision, 5.0);
        let replica = fresh(&spec, &network.table);
        let mut hash = Xxh3::new();
        for weights in [&replica.weights, replica.ema.as_ref().unwrap()] {
            hash.update(bytemuck::cast_slice(&weights.parameters));
            hash.update(bytemuck::cast_slice(&weights.statistics));
        }
        assert_eq!(replica.hash(), hash.digest());
    }
}
