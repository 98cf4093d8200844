//! What a member leaves behind: a program of its own, because it counts what the process has.

#[allow(dead_code)]
mod support;

use std::time::{Duration, Instant};

use perennial_collective::{AbortHandle, Collective};
use support::{config, contribution, endpoints, in_parallel};

/// Threads and open files of this process.
fn resources() -> (usize, usize) {
    let count = |folder| std::fs::read_dir(folder).unwrap().count();
    (count("/proc/self/task"), count("/proc/self/fd"))
}

#[test]
fn a_hundred_generations_leave_no_thread_and_no_socket() {
    let (endpoints, addresses) = endpoints(3);
    let before = resources();
    // One handle that lives on holds nothing.
    let handle = AbortHandle::new();
    for generation in 0..100u64 {
        let results = in_parallel(0..3, |rank: usize| {
            let mut config = config(rank, &addresses);
            config.generation = generation;
            let mut member = endpoints[rank].connect(config, &handle).unwrap();
            let sum = member.all_reduce(contribution(1, 0..0, 0, 0));
            // Every other generation ends with an error for those that stay.
            let stays = generation % 2 == 0 && rank > 0;
            let after = stays.then(|| member.all_reduce(contribution(1, 0..0, 0, 0)));
            (sum.map(drop), after.map(|sum| sum.map(drop)))
        });
        for (sum, after) in results {
            assert_eq!(sum, Ok(()), "generation {generation}");
            assert!(after.is_none_or(|sum| sum.is_err()));
        }
    }
    let deadline = Instant::now() + Duration::from_secs(20);
    while resources() != before {
        assert!(Instant::now() < deadline, "{before:?} {:?}", resources());
        std::thread::yield_now();
    }
}
