//! The laws of sharing, for any jobs and any workers.

use proptest::prelude::*;

use super::*;

const CLASSES: [&str; 2] = ["cpu", "gpu"];

/// A claim without its name: priority, least, how many more at most, class.
type Drawn = (i32, u32, u32, Option<usize>);

fn drawn() -> impl Strategy<Value = (Vec<Drawn>, [u32; 2])> {
    let claim = (-1..2, 1u32..5, 0u32..4, proptest::option::of(0usize..2));
    (proptest::collection::vec(claim, 0..8), [0u32..12, 0u32..6])
}

fn claims(drawn: &[Drawn]) -> Vec<Claim<'static>> {
    let claim = |(priority, min, more, class): &Drawn| Claim {
        job: "job",
        priority: *priority,
        min: *min,
        max: min + more,
        numerics: class.map(|class| CLASSES[class]),
    };
    let mut claims: Vec<Claim> = drawn.iter().map(claim).collect();
    claims.sort_by_key(|claim| -claim.priority);
    claims
}

fn pool(sizes: [u32; 2]) -> BTreeMap<String, u32> {
    let classes = CLASSES.into_iter().map(String::from);
    classes.zip(sizes).filter(|(_, size)| *size > 0).collect()
}

/// Workers of each class that nobody has.
fn unused(pool: &BTreeMap<String, u32>, shares: &[Share]) -> BTreeMap<String, u32> {
    let mut left = pool.clone();
    for share in shares {
        if let Share::Runs { workers, numerics } = share {
            let class = left.get_mut(numerics).expect("a class that is there");
            *class = class.checked_sub(*workers).expect("no more than there are");
        }
    }
    left
}

fn may_use(claim: &Claim, class: &str) -> bool {
    claim.numerics.is_none_or(|own| own == class)
}

proptest! {
    #[test]
    fn a_job_that_runs_has_between_its_least_and_its_most_of_workers_that_are_there(
        (drawn, sizes) in drawn()
    ) {
        let (claims, pool) = (claims(&drawn), pool(sizes));
        let shares = share(&claims, &pool);
        prop_assert_eq!(shares.len(), claims.len());
        unused(&pool, &shares);
        for (claim, share) in claims.iter().zip(&shares) {
            if let Share::Runs { workers, numerics } = share {
                prop_assert!((claim.min..=claim.max).contains(workers));
                prop_assert!(may_use(claim, numerics));
            }
        }
    }

    #[test]
    fn no_worker_is_idle_that_a_job_could_use((drawn, sizes) in drawn()) {
        let (claims, pool) = (claims(&drawn), pool(sizes));
        let shares = share(&claims, &pool);
        for (class, left) in unused(&pool, &shares) {
            for (claim, share) in claims.iter().zip(&shares) {
                match share {
                    Share::Runs { workers, numerics } if *numerics == class => {
                        prop_assert!(left == 0 || *workers == claim.max);
                    }
                    Share::Runs { .. } => {}
                    Share::Waits(_) => prop_assert!(!may_use(claim, &class) || left < claim.min),
                }
            }
        }
    }

    /// Whatever comes after a job, in priority or in time, takes nothing from its minimum: so none starves
    /// as long as those before it end.
    #[test]
    fn whether_a_job_runs_depends_on_those_before_it_alone((drawn, sizes) in drawn()) {
        let (claims, pool) = (claims(&drawn), pool(sizes));
        let shares = share(&claims, &pool);
        for count in 0..claims.len() {
            let alone = share(&claims[..count], &pool);
            for (with, without) in shares.iter().zip(&alone) {
                prop_assert_eq!(with.workers() > 0, without.workers() > 0);
            }
        }
    }

    #[test]
    fn above_the_minimum_higher_priorities_come_first_and_equal_ones_share_alike(
        (drawn, sizes) in drawn()
    ) {
        let (claims, pool) = (claims(&drawn), pool(sizes));
        let shares = share(&claims, &pool);
        let runs = || claims.iter().zip(&shares).filter(|(_, share)| share.workers() > 0);
        for (more, rich) in runs() {
            for (less, poor) in runs() {
                let (Share::Runs { numerics: one, .. }, Share::Runs { numerics: other, .. }) = (rich, poor) else {
                    unreachable!();
                };
                if one != other {
                    continue;
                }
                let above = rich.workers() > more.min;
                if less.priority > more.priority {
                    prop_assert!(!above || poor.workers() == less.max);
                }
                if less.priority == more.priority && above && poor.workers() < less.max {
                    prop_assert!(rich.workers() <= poor.workers() + 1);
                }
            }
        }
    }
}

#[test]
fn a_job_that_waits_says_for_what() {
    let claim = |job, min, numerics| Claim {
        job,
        priority: 0,
        min,
        max: min,
        numerics,
    };
    let claims = [
        claim("a", 2, None),
        claim("b", 2, Some("cpu")),
        claim("c", 1, Some("gpu")),
        claim("d", 9, Some("cpu")),
    ];
    let why = |sizes| {
        let shares = share(&claims, &pool(sizes));
        let reasons = shares.into_iter().map(|share| match share {
            Share::Runs { workers, .. } => format!("runs with {workers}"),
            Share::Waits(reason) => reason,
        });
        reasons.collect::<Vec<_>>()
    };
    assert_eq!(why([0, 0])[0], "no worker is there");
    assert_eq!(
        why([3, 0]),
        [
            "runs with 2",
            "it needs at least 2 workers, and 1 of 3 are left after `a`",
            "its steps so far were computed with `gpu`, and no worker that computes so is there",
            "it needs at least 9 workers, and 3 are there",
        ]
    );
}
