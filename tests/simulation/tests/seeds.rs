//! Whole clusters under seeded faults. A seed that fails prints the command that replays it.

use perennial_simulation::{Options, simulate, simulate_all};

#[test]
fn two_thousand_seeds_keep_every_invariant() {
    let count = std::env::var("PERENNIAL_SEEDS").map_or(2_000, |count| count.parse().unwrap());
    let threads = std::thread::available_parallelism().map_or(1, usize::from);
    let (summary, failures) = simulate_all(0..count, threads);
    println!("{summary}");
    let sentences: Vec<String> = failures.iter().map(ToString::to_string).collect();
    assert!(failures.is_empty(), "{}", sentences.join("\n"));
    // The faults really happened.
    if count >= 2_000 {
        assert_eq!(summary.faults.len(), perennial_simulation::Fault::ALL.len());
    }
}

#[test]
fn a_seed_gives_the_same_world_every_time() {
    for seed in 0..20 {
        let once = simulate(seed, &Options::default());
        assert_eq!(once, simulate(seed, &Options::default()));
    }
}

#[test]
fn nothing_is_computed_twice_where_nothing_goes_wrong() {
    for seed in 0..50 {
        let options = Options {
            undisturbed: true,
            ..Options::default()
        };
        let summary = simulate(seed, &options).unwrap_or_else(|failure| panic!("{failure}"));
        assert_eq!(summary.recomputed, 0, "seed {seed}");
    }
}
