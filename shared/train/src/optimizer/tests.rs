use super::*;

/// Two tensors, both longer than a block, the first with weight decay.
fn segments() -> Vec<Segment> {
    Segment::table([("weight", &[3, 1000][..]), ("bias", &[1500])])
}

fn wave(length: usize, speed: f32) -> Vec<f32> {
    (0..length).map(|i| (i as f32 * speed).sin()).collect()
}

fn specs() -> [OptimizerSpec; 3] {
    let sgd = OptimizerSpec {
        name: OptimizerName::Sgd,
        ..OptimizerSpec::default()
    };
    let plain = OptimizerSpec {
        momentum: 0.0,
        ..sgd.clone()
    };
    [OptimizerSpec::default(), sgd, plain]
}

#[test]
fn the_average_taken_along_has_the_bits_of_the_average_taken_afterwards() {
    for spec in specs() {
        let (mut fused, mut separate) = (
            Optimizer::new(&spec, segments()),
            Optimizer::new(&spec, segments()),
        );
        let mut parameters = wave(4500, 0.37);
        let mut same = parameters.clone();
        let (mut average, mut same_average) = (parameters.clone(), parameters.clone());
        for step in 1..5 {
            let gradients = wave(4500, 0.1 * step as f32);
            let decay = 1.0 - 0.8 / f64::from(step);
            let ema = Some((average.as_mut_slice(), decay));
            fused.step_with_ema(&mut parameters, &gradients, 0.25, 1e-2, ema, 1);
            separate.step(&mut same, &gradients, 0.25, 1e-2);
            ema::update(&mut same_average, &same, decay);
        }
        assert_eq!(parameters, same);
        assert_eq!(average, same_average);
        assert_ne!(average, parameters);
    }
}

#[test]
fn the_bits_do_not_depend_on_the_threads() {
    for spec in specs() {
        let trained = |threads: usize| {
            let mut optimizer = Optimizer::new(&spec, segments());
            let mut parameters = wave(4500, 0.37);
            let mut average = parameters.clone();
            for step in 1..4 {
                let gradients = wave(4500, 0.1 * step as f32);
                let ema = Some((average.as_mut_slice(), 0.7));
                optimizer.step_with_ema(&mut parameters, &gradients, 0.25, 1e-2, ema, threads);
            }
            (parameters, average, optimizer.state())
        };
        let alone = trained(1);
        for threads in [0, 2, 3, 7, 5000] {
            assert_eq!(trained(threads), alone, "{threads} threads");
        }
    }
}

#[test]
fn a_run_that_goes_on_from_a_state_has_the_bits_of_one_that_never_stopped() {
    for spec in specs() {
        let mut whole = Optimizer::new(&spec, segments());
        let mut parameters = wave(4500, 0.37);
        whole.step(&mut parameters, &wave(4500, 0.2), 1.0, 1e-2);
        let mut resumed = Optimizer::new(&spec, segments());
        resumed.load_state(whole.state()).unwrap();
        let mut same = parameters.clone();
        whole.step(&mut parameters, &wave(4500, 0.3), 1.0, 1e-2);
        resumed.step(&mut same, &wave(4500, 0.3), 1.0, 1e-2);
        assert_eq!(parameters, same);
        assert_eq!(whole.state(), resumed.state());
        assert_eq!(resumed.steps(), 2);
    }
}

#[test]
fn weight_decay_touches_only_the_segments_that_ask_for_it() {
    for spec in specs() {
        let mut optimizer = Optimizer::new(&spec, segments());
        let mut parameters = vec![1.0; 4500];
        optimizer.step(&mut parameters, &[0.0; 4500], 1.0, 1e-2);
        assert!(parameters[..3000].iter().all(|parameter| *parameter < 1.0));
        assert!(parameters[3000..].iter().all(|parameter| *parameter == 1.0));
    }
}

#[test]
fn a_scale_acts_as_if_the_gradient_had_been_multiplied_before() {
    for spec in specs() {
        let gradients = wave(4500, 0.2);
        let halves: Vec<f32> = gradients.iter().map(|gradient| gradient * 0.5).collect();
        let mut scaled = wave(4500, 0.37);
        let mut multiplied = scaled.clone();
        Optimizer::new(&spec, segments()).step(&mut scaled, &gradients, 0.5, 1e-2);
        Optimizer::new(&spec, segments()).step(&mut multiplied, &halves, 1.0, 1e-2);
        assert_eq!(scaled, multiplied);
    }
}

#[test]
fn the_state_of_another_optimizer_or_network_is_refused_and_changes_nothing() {
    let [adamw, sgd, _] = specs();
    let mut optimizer = Optimizer::new(&adamw, segments());
    optimizer.step(&mut wave(4500, 0.1), &wave(4500, 0.2), 1.0, 1e-2);
    let before = optimizer.state();

    let other = Optimizer::new(&sgd, segments()).state();
    let error = optimizer.load_state(other).unwrap_err();
    assert_eq!(
        error.to_string(),
        "the optimizer keeps `exp_avg`, `exp_avg_sq`, but the state to load has `momentum_buffer`; \
         load the state of the same optimizer"
    );
    let mut short = before.clone();
    short.moments[1].1.pop();
    let error = optimizer.load_state(short).unwrap_err();
    assert_eq!(
        error.to_string(),
        "`exp_avg_sq` has 4499 values for 4500 parameters; load the state of the same network"
    );
    assert_eq!(optimizer.state(), before);
}
