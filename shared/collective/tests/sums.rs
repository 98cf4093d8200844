//! The result is the same to the bit, whoever holds which slot and whatever carries it.

mod support;

use std::ops::Range;

use perennial_collective::{Collective, Contribution, Local, Partial, Reduced};
use proptest::prelude::*;
use support::{GRADIENTS, contribution, contribution_of, in_parallel, tcp_group};

const STEPS: u32 = 3;

fn bits(reduced: &Reduced) -> (Vec<u32>, Vec<u64>) {
    (
        reduced.gradients.iter().map(|x| x.to_bits()).collect(),
        reduced.statistics.iter().map(|x| x.to_bits()).collect(),
    )
}

fn alone(slots: u32, step: u32) -> Reduced {
    let mut member = Local::group(1).remove(0);
    (member.all_reduce(contribution(slots, 0..slots, step, 0))).unwrap()
}

/// The slots cut at `cuts`, which need not be even: a member may hold none.
fn owners(slots: u32, members: usize, shift: u32) -> Vec<Range<u32>> {
    let cut = |member: usize| (member as u32 * (slots + shift) / members as u32).min(slots);
    (0..members)
        .map(|member| {
            let end = if member + 1 == members {
                slots
            } else {
                cut(member + 1)
            };
            cut(member)..end
        })
        .collect()
}

fn assert_same_bits<C: Collective>(members: Vec<C>, slots: u32, owners: &[Range<u32>]) {
    let results = in_parallel(members.into_iter().zip(owners), |(mut member, owned)| {
        (0..STEPS)
            .map(|step| {
                let control = 1 << member.rank();
                (member.all_reduce(contribution(slots, owned.clone(), step, control))).unwrap()
            })
            .collect::<Vec<_>>()
    });
    for result in results {
        for (step, reduced) in (0..STEPS).zip(&result) {
            let expected = alone(slots, step);
            assert_eq!(bits(reduced), bits(&expected), "{slots} slots, {owners:?}");
            assert_eq!(reduced.control, (1 << owners.len()) - 1);
        }
    }
}

#[test]
fn threads_get_the_bits_of_a_member_alone() {
    for members in [1, 2, 3, 5] {
        for slots in 1..=9 {
            for shift in [0, 1, 4] {
                let owners = owners(slots, members, shift);
                assert_same_bits(Local::group(members), slots, &owners);
            }
        }
    }
}

#[test]
fn processes_get_the_bits_of_a_member_alone() {
    for members in [1, 2, 3, 5] {
        for slots in 1..=9 {
            let group = tcp_group(members, |_| {});
            let group = group.into_iter().map(Result::unwrap).collect();
            assert_same_bits(group, slots, &owners(slots, members, slots % 3));
        }
    }
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 64, failure_persistence: None, ..ProptestConfig::default() })]

    #[test]
    fn any_cut_of_the_slots_gives_the_same_bits(
        slots in 1u32..20,
        mut cuts in proptest::collection::vec(0u32..20, 1..4),
    ) {
        cuts.iter_mut().for_each(|cut| *cut = (*cut).min(slots));
        cuts.extend([0, slots]);
        cuts.sort_unstable();
        let owners: Vec<Range<u32>> = cuts.windows(2).map(|cut| cut[0]..cut[1]).collect();
        assert_same_bits(Local::group(owners.len()), slots, &owners);
    }
}

#[test]
fn a_step_without_samples_sums_to_zeros() {
    let results = in_parallel(Local::group(3), |mut member| {
        let nothing = Contribution {
            slots: 4,
            gradients: Partial {
                len: 5,
                ..Partial::default()
            },
            statistics: Partial {
                len: 2,
                ..Partial::default()
            },
            control: 0,
        };
        member.all_reduce(nothing).unwrap()
    });
    for reduced in results {
        assert_eq!(reduced.gradients, vec![0.0; 5]);
        assert_eq!(reduced.statistics, vec![0.0; 2]);
    }
}

#[test]
fn big_sends_in_both_directions_do_not_wait_for_each_other() {
    const LENGTH: usize = 6_000_000;
    let group = tcp_group(2, |_| {});
    let results = in_parallel(group, |member| {
        let mut member = member.unwrap();
        let mut big = contribution(2, 0..0, 0, 0);
        let slot = member.rank() as u32;
        let node = perennial_plan::tree::Node {
            start: slot,
            end: slot + 1,
        };
        big.gradients = Partial {
            len: LENGTH,
            nodes: [(node, vec![1.5; LENGTH])].into(),
        };
        let reduced = member.all_reduce(big).unwrap();
        assert!(reduced.gradients.iter().all(|x| *x == 3.0));
        member.traffic()
    });
    for (member, peer) in [(0, 1), (1, 0)] {
        let sent = results[member].sent;
        let numbers = 4 * LENGTH as u64;
        assert!((numbers..numbers + numbers / 1000).contains(&sent));
        assert_eq!(results[peer].received, sent);
    }
}

#[test]
fn a_vector_that_goes_in_pieces_has_the_bits_of_a_member_alone() {
    // Two pieces and a bit for each of three members, and statistics of a length of their own.
    const LENGTH: usize = 3 * (2 << 18) + 17;
    const SLOTS: u32 = 5;
    let value =
        |slot: u32, i: usize| ((slot as usize * 31 + i) as f32).sin() * 10f32.powi(slot as i32);
    let gradient = |slot: u32| Some((0..LENGTH).map(|i| value(slot, i)).collect());
    let long = |owned: Range<u32>| contribution_of(SLOTS, owned, LENGTH, gradient);
    let alone = Local::group(1)
        .remove(0)
        .all_reduce(long(0..SLOTS))
        .unwrap();
    let group = tcp_group(3, |_| {}).into_iter().map(Result::unwrap);
    let results = in_parallel(group.zip([0..1, 1..4, 4..5]), |(mut member, owned)| {
        let first = member.all_reduce(long(owned.clone())).unwrap();
        let again = member.all_reduce(long(owned)).unwrap();
        [first, again]
    });
    for reduced in results.iter().flatten() {
        assert!(bits(reduced) == bits(&alone));
    }
}

#[test]
fn what_cannot_be_summed_is_refused() {
    let mut member = Local::group(1).remove(0);
    let mut wrong_length = contribution(2, 0..2, 0, 0);
    wrong_length.gradients.len = GRADIENTS + 1;
    assert!(member.all_reduce(wrong_length).is_err());
    let mut outside = contribution(4, 2..4, 0, 0);
    outside.slots = 2;
    assert!(member.all_reduce(outside).is_err());
}

#[test]
fn a_slot_that_two_members_sum_is_an_error() {
    let results = in_parallel(Local::group(2), |mut member| {
        member.all_reduce(contribution(4, 0..4, 0, 0))
    });
    for result in results {
        let error = result.unwrap_err().to_string();
        assert!(
            error.contains("another member sums too") || error.contains("lost"),
            "{error}"
        );
    }
}
