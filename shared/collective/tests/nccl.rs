//! Sums over NCCL between real processes, with a stand-in for NCCL that really computes them, and fails on demand.

#[path = "nccl/processes.rs"]
mod processes;
#[allow(dead_code)]
mod support;
#[path = "nccl/work.rs"]
mod work;

use std::ops::Range;
use std::time::{Duration, Instant};

use perennial_collective::{Collective, Local};
use processes::{Cluster, Generation, Member, library};

/// Longer than whatever is bounded here, and far shorter than a deadline of a generation that is not.
const BOUND: Duration = Duration::from_secs(15);

/// What a member alone computes on a CPU, with the words of `members`.
fn alone(slots: u32, step: u32, len: usize, members: usize) -> String {
    let mut member = Local::group(1).remove(0);
    let mut contribution = work::contribution(slots, 0..slots, step, len);
    contribution.control = (1 << members) - 1;
    work::told(&member.all_reduce(contribution).unwrap())
}

/// The slots cut at places that need not be even: a member may hold none.
fn deal(slots: u32, members: usize, shift: u32) -> Vec<Range<u32>> {
    let cut = |member: usize| (member as u32 * (slots + shift) / members as u32).min(slots);
    let start = (0..members).map(cut);
    let end = (1..members).map(cut).chain([slots]);
    start.zip(end).map(|(start, end)| start..end).collect()
}

fn gradients(told: &str) -> Vec<f32> {
    let digits = told.split(' ').nth(2).unwrap().as_bytes().chunks(8);
    digits
        .map(|digits| u32::from_str_radix(std::str::from_utf8(digits).unwrap(), 16).unwrap())
        .map(f32::from_bits)
        .collect()
}

#[track_caller]
fn assert_exact(cluster: &mut Cluster, members: &[usize], slots: u32, shift: u32, step: u32) {
    let len = 29 + step as usize;
    let way = ["host", "device", "slots"][(step as usize + members.len()) % 3];
    let owners = deal(slots, members.len(), shift);
    let sums = cluster.sum(members, slots, &owners, step, len, way);
    let expected = alone(slots, step, len, members.len());
    for sum in sums {
        assert_eq!(sum, format!("sum {expected}"), "{slots} slots, {owners:?}");
    }
}

#[test]
fn exact_sums_have_the_bits_of_a_cpu_while_members_come_and_go() {
    let mut cluster = Cluster::new(4, &[]);
    let memberships: [&[usize]; 6] = [&[0], &[0, 1], &[0, 1, 2], &[3, 0, 1, 2], &[2, 3], &[1]];
    for (generation, members) in memberships.into_iter().enumerate() {
        let generation = Generation {
            id: generation as u64,
            chunk: [1000, 3, 7][generation % 3],
            ..Generation::default()
        };
        cluster.join_all(members, &generation);
        for slots in 1..=9 {
            assert_exact(&mut cluster, members, slots, slots % 4, slots);
        }
        cluster.leave(members);
    }
}

#[test]
fn a_vector_of_many_numbers_and_a_step_without_samples_are_exact() {
    const LENGTH: usize = 300_000;
    let mut cluster = Cluster::new(3, &[]);
    let members = [0, 1, 2];
    let generation = Generation {
        chunk: 17_000,
        ..Generation::default()
    };
    cluster.join_all(&members, &generation);
    for way in ["device", "slots"] {
        let long = cluster.sum(&members, 4, &deal(4, 3, 1), 1, LENGTH, way);
        let expected = format!("sum {}", alone(4, 1, LENGTH, 3));
        assert!(long.iter().all(|sum| *sum == expected));
    }
    for way in ["host", "slots"] {
        // Slot 3 of step 0 is empty, and it is the only one.
        let nothing = cluster.sum(&members, 4, &[3..3, 3..4, 4..4], 0, 5, way);
        let zeros = gradients(&nothing[0]["sum ".len()..]);
        assert_eq!(
            zeros.iter().map(|x| x.to_bits()).collect::<Vec<_>>(),
            [0; 5]
        );
        assert!(nothing.iter().all(|sum| *sum == nothing[0]));
    }
}

#[test]
fn fast_sums_are_the_exact_ones_within_rounding_the_same_at_all_members_and_depend_on_these() {
    let mut cluster = Cluster::new(4, &[]);
    let (slots, step, len) = (4, 1, 101);
    let exact = gradients(&alone(slots, step, len, 1));
    let mut bits = Vec::new();
    for (id, members) in [&[0, 1][..], &[0, 1, 2, 3]].into_iter().enumerate() {
        let generation = Generation {
            id: id as u64,
            reduction: "fast",
            chunk: 40,
            ..Generation::default()
        };
        cluster.join_all(members, &generation);
        for owners in [deal(slots, members.len(), 0), deal(slots, members.len(), 9)] {
            let sums = cluster.sum(members, slots, &owners, step, len, "host");
            assert!(sums.iter().all(|sum| *sum == sums[0]));
            let fast = gradients(&sums[0]["sum ".len()..]);
            // Slots weigh up to a thousand, so that is what rounding is relative to.
            let near = fast
                .iter()
                .zip(&exact)
                .all(|(fast, exact)| (fast - exact).abs() < 1e-3);
            assert!(near && fast.len() == len);
            bits.push(fast.iter().map(|x| x.to_bits()).collect::<Vec<_>>());
        }
        cluster.leave(members);
    }
    assert!(bits.iter().any(|other| *other != bits[0]));
}

#[test]
fn an_abort_from_another_thread_ends_a_sum_that_hangs() {
    // Each sum is two groups: the second sum's first one.
    let mut cluster = Cluster::new(2, &[(0, "hang@3")]);
    cluster.join_all(&[0, 1], &Generation::default());
    assert_exact(&mut cluster, &[0, 1], 3, 0, 0);
    cluster.ask_sum(&[0, 1], 3, &deal(3, 2, 0), 1, 30, "host");
    cluster.members[0].hear_strike("hang@3");
    let start = Instant::now();
    cluster.members[0].say("abort");
    assert_eq!(
        cluster.members[0].hear(),
        "failed the collective was aborted"
    );
    assert!(
        cluster.members[1]
            .hear()
            .starts_with("failed member of rank `0` is lost")
    );
    assert!(start.elapsed() < BOUND);
    cluster.join_all(&[0, 1], &Generation::later());
    assert_exact(&mut cluster, &[0, 1], 3, 0, 1);
}

#[test]
fn an_abort_ends_even_a_call_into_nccl_that_does_not_return() {
    let mut cluster = Cluster::new(2, &[(1, "stuck@1")]);
    cluster.join_all(&[0, 1], &Generation::default());
    cluster.ask_sum(&[0, 1], 3, &deal(3, 2, 0), 1, 30, "host");
    cluster.members[1].hear_strike("stuck@1");
    let start = Instant::now();
    cluster.members[1].say("abort");
    assert_eq!(
        cluster.members[1].hear(),
        "failed the collective was aborted"
    );
    assert!(
        cluster.members[0]
            .hear()
            .starts_with("failed member of rank `1` is lost")
    );
    assert!(start.elapsed() < BOUND);
    cluster.join_all(&[0, 1], &Generation::later());
    assert_exact(&mut cluster, &[0, 1], 3, 0, 1);
}

#[test]
fn a_sum_that_hangs_ends_at_its_deadline() {
    let mut cluster = Cluster::new(2, &[(0, "hang@1"), (1, "hang@1")]);
    let generation = Generation {
        timeout: 2000,
        ..Generation::default()
    };
    cluster.join_all(&[0, 1], &generation);
    let start = Instant::now();
    cluster.ask_sum(&[0, 1], 3, &deal(3, 2, 0), 1, 30, "host");
    for member in &mut cluster.members {
        member.hear_strike("hang@1");
    }
    let said = [cluster.members[0].hear(), cluster.members[1].hear()];
    let overdue = "failed NCCL was not done within 2.0s, and no member is known to be the cause";
    // Who is later may see that the other one has given up.
    assert!(said.iter().any(|said| said == overdue), "{said:?}");
    assert!(
        said.iter()
            .all(|said| said == overdue || said.contains("is lost")),
        "{said:?}"
    );
    assert!(start.elapsed() < BOUND);
}

#[test]
fn a_member_that_is_killed_in_a_sum_is_found_and_the_others_go_on_without_it() {
    // Over shared memory NCCL itself would never notice: the mesh does.
    for blind in ["none", "blind"] {
        let hang = format!("hang@1,{blind}");
        let mut cluster = Cluster::new(3, &[(0, blind), (1, blind), (2, &hang)]);
        cluster.join_all(&[0, 1, 2], &Generation::default());
        cluster.ask_sum(&[0, 1, 2], 5, &deal(5, 3, 2), 1, 30, "host");
        cluster.members[2].hear_strike("hang@1");
        let start = Instant::now();
        cluster.members[2].kill();
        for member in &mut cluster.members[..2] {
            let said = member.hear();
            assert!(said.starts_with("failed member of rank `"), "{said}");
        }
        cluster.join_all(&[1, 0], &Generation::later());
        assert_exact(&mut cluster, &[1, 0], 5, 2, 1);
        assert!(start.elapsed() < BOUND);
    }
}

#[test]
fn a_member_that_vanishes_in_the_middle_of_its_group_is_found() {
    let mut cluster = Cluster::new(2, &[(1, "vanish@2")]);
    cluster.join_all(&[0, 1], &Generation::default());
    cluster.ask_sum(&[0, 1], 4, &deal(4, 2, 0), 1, 30, "device");
    assert!(
        cluster.members[0]
            .hear()
            .starts_with("failed member of rank `1` is lost")
    );
    cluster.join_all(&[0], &Generation::later());
    assert_exact(&mut cluster, &[0], 4, 0, 1);
}

#[test]
fn an_asynchronous_error_ends_the_sum_everywhere_and_the_next_generation_is_exact() {
    // Aborts that wait for each other are no reason to hang: who fails leaves the mesh meanwhile.
    for waits in ["none", "blind,abort-together"] {
        let fails = format!("error@1,{waits}");
        let mut cluster = Cluster::new(3, &[(0, waits), (1, &fails), (2, waits)]);
        cluster.join_all(&[0, 1, 2], &Generation::default());
        let start = Instant::now();
        cluster.ask_sum(&[0, 1, 2], 4, &deal(4, 3, 0), 1, 30, "host");
        cluster.members[1].hear_strike("error@1");
        let said = cluster.members[1].hear();
        assert!(said.starts_with("failed NCCL failed in "), "{said}");
        assert!(said.contains("(a network adapter failed)"), "{said}");
        for other in [0, 2] {
            let said = cluster.members[other].hear();
            assert!(said.contains("is lost"), "{said}");
        }
        cluster.join_all(&[0, 1, 2], &Generation::later());
        assert_exact(&mut cluster, &[0, 1, 2], 4, 0, 1);
        assert!(start.elapsed() < BOUND);
    }
}

#[test]
fn an_abort_that_hangs_is_left_behind() {
    let mut cluster = Cluster::new(2, &[(0, "error@1,abort-hang")]);
    cluster.join_all(&[0, 1], &Generation::default());
    let start = Instant::now();
    cluster.ask_sum(&[0, 1], 4, &deal(4, 2, 0), 1, 30, "host");
    cluster.members[0].hear_strike("error@1");
    assert!(
        cluster.members[0]
            .hear()
            .contains("(a network adapter failed)")
    );
    assert!(cluster.members[1].hear().contains("is lost"));
    assert!(start.elapsed() < BOUND);
    cluster.join_all(&[0, 1], &Generation::later());
    assert_exact(&mut cluster, &[0, 1], 4, 0, 1);
}

#[test]
fn making_a_communicator_may_be_slow_but_not_for_ever() {
    let short = Generation {
        deadline: 2000,
        ..Generation::default()
    };
    let mut slow = Cluster::new(2, &[(0, "init-slow=500")]);
    slow.join_all(&[0, 1], &Generation::default());
    assert_exact(&mut slow, &[0, 1], 3, 0, 1);

    for fault in ["init-slow=60000", "init-hang"] {
        let mut cluster = Cluster::new(2, &[(0, fault), (1, fault)]);
        let start = Instant::now();
        let said = cluster.join(&[0, 1], &short);
        assert!(
            said.iter()
                .any(|said| said.contains("was not done within 2.0s")),
            "{said:?}"
        );
        assert!(
            said.iter().all(|said| said.starts_with("failed ")),
            "{said:?}"
        );
        assert!(start.elapsed() < BOUND);
    }

    let mut cluster = Cluster::new(2, &[(0, "init-fail")]);
    let said = cluster.join(&[0, 1], &Generation::default());
    let expected = "failed NCCL failed in ncclCommInitRankConfig: unhandled system error (no network interface \
                    was found)";
    assert_eq!(said[0], expected);
    assert!(said[1].contains("member of rank `0` is lost"), "{said:?}");
}

#[test]
fn a_device_that_cannot_be_used_is_said_by_its_member() {
    let mut cluster = Cluster::new(2, &[(1, "no-device")]);
    let said = cluster.join(&[0, 1], &Generation::default());
    assert_eq!(
        said[1],
        "failed the device failed: the stand-in has no device"
    );
    assert!(said[0].contains("member of rank `1` is lost"), "{said:?}");
}

#[test]
fn a_library_that_cannot_be_used_is_one_clear_sentence() {
    let says = |environment: &[(&str, &str)], sentence: &str| {
        let mut cluster = Cluster::new(0, &[]);
        cluster.members.push(Member::start(environment));
        let said = cluster.join(&[0], &Generation::default());
        assert_eq!(said, [format!("failed {sentence}")]);
    };
    let file = library();
    for (number, version) in [("21003", "2.10.3"), ("30100", "3.1.0"), ("0", "0.0.0")] {
        let sentence = format!(
            "`{file}` is NCCL {version}, but 2.14.0 or a later 2.x is needed; set PERENNIAL_NCCL to one"
        );
        says(&[("STANDIN_NCCL_VERSION", number)], &sentence);
    }

    let folder = tempfile::tempdir().unwrap();
    let lacking = folder.path().join("libnccl.so.2");
    let mut bytes = std::fs::read(&file).unwrap();
    let symbol = b"\0ncclAllReduce\0";
    let mut places = Vec::new();
    for (place, window) in bytes.windows(symbol.len()).enumerate() {
        if window == symbol {
            places.push(place);
        }
    }
    assert!(!places.is_empty());
    for place in places {
        bytes[place + 1] = b'X';
    }
    std::fs::write(&lacking, bytes).unwrap();
    let lacking = lacking.to_str().unwrap();
    let sentence = format!(
        "`{lacking}` has no function `ncclAllReduce`: it is not NCCL of 2.14.0 or later; set PERENNIAL_NCCL to \
         one that is"
    );
    says(&[("PERENNIAL_NCCL", lacking)], &sentence);

    let sentence = "`NCCL_COMM_ID` is set, but every generation needs an id of its own; unset it";
    says(&[("NCCL_COMM_ID", "127.0.0.1:9")], sentence);
}

#[test]
fn a_library_that_is_not_there_is_named_with_where_it_was_looked_for() {
    let looks = |environment: &[(&str, &str)]| {
        let mut cluster = Cluster::new(0, &[]);
        cluster.members.push(Member::start(environment));
        cluster.join(&[0], &Generation::default()).remove(0)
    };
    let said = looks(&[("PERENNIAL_NCCL", "/nowhere/libnccl.so.2")]);
    assert!(
        said.contains("no `/nowhere/libnccl.so.2` as PERENNIAL_NCCL says"),
        "{said}"
    );
    let said = looks(&[("PERENNIAL_NCCL", ""), ("LD_LIBRARY_PATH", "/nowhere")]);
    // A machine with NCCL has it in a place where the loader always looks.
    let found = said.starts_with("failed `libnccl.so") && said.contains("is no stand-in for NCCL");
    let named = said.contains("no `libnccl.so.2` or `libnccl.so` where the loader looks");
    assert!(
        found || (named && said.contains("LD_LIBRARY_PATH is `/nowhere`")),
        "{said}"
    );
}

#[test]
fn members_with_other_versions_of_nccl_are_named_before_they_meet() {
    let mut cluster = Cluster::new(1, &[]);
    cluster
        .members
        .push(Member::start(&[("STANDIN_NCCL_VERSION", "22703")]));
    let said = cluster.join(&[0, 1], &Generation::default());
    let sentence = "rank `1` has NCCL 2.27.3, this member has 2.28.9";
    assert!(said[0].contains(sentence), "{said:?}");
    assert!(said[1].contains("rank `0` has NCCL 2.28.9"), "{said:?}");
}

#[test]
fn a_member_that_sums_something_else_is_an_error_of_all() {
    let mut cluster = Cluster::new(2, &[]);
    cluster.join_all(&[0, 1], &Generation::default());
    cluster.members[0].say("sum 4 0 2 1 30 host");
    cluster.members[1].say("sum 4 2 4 1 31 host");
    for member in &mut cluster.members {
        let said = member.hear();
        assert!(
            said.contains("broke the protocol: it sums") || said.contains("is lost"),
            "{said}"
        );
    }
}
