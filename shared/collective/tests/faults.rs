//! Dead, stale, foreign and slow peers.

#[allow(dead_code)]
#[path = "support/network.rs"]
mod network;
mod support;

use std::io::{Read, Write};
use std::net::{Shutdown, TcpStream};
use std::thread;
use std::time::{Duration, Instant};

use perennial_collective::{AbortHandle, Collective, CollectiveError, Local, MeshConfig, Tcp};
use support::{config, contribution, endpoints, in_parallel, tcp_group};

/// Lets each member make one sum of an empty contribution.
fn sum_nothing(member: &mut impl Collective) -> Result<(), CollectiveError> {
    member.all_reduce(contribution(1, 0..0, 0, 0)).map(drop)
}

fn connected(count: usize, adjust: impl Fn(&mut MeshConfig) + Sync) -> Vec<Tcp> {
    let group = tcp_group(count, adjust).into_iter();
    group.map(Result::unwrap).collect()
}

#[test]
fn a_dead_peer_is_noticed_at_once_by_all_others() {
    let mut group = connected(3, |_| {});
    drop(group.remove(1));
    let start = Instant::now();
    let errors = in_parallel(group, |mut member| {
        let error = sum_nothing(&mut member).unwrap_err();
        assert_eq!(sum_nothing(&mut member), Err(CollectiveError::Broken));
        // Stay until the others have noticed, too.
        (member, error)
    });
    assert!(start.elapsed() < Duration::from_secs(1));
    for (_, error) in errors {
        assert!(
            matches!(error, CollectiveError::PeerLost { rank: 1, .. }),
            "{error}"
        );
    }
}

#[test]
fn a_thread_that_ends_is_lost_to_the_others() {
    let mut group = Local::group(3);
    drop(group.remove(2));
    for (_, error) in in_parallel(group, |mut member| {
        let error = sum_nothing(&mut member).unwrap_err();
        (member, error)
    }) {
        assert!(
            matches!(error, CollectiveError::PeerLost { rank: 2, .. }),
            "{error}"
        );
    }
}

#[test]
fn a_member_that_leaves_after_the_last_sum_is_not_missed() {
    for _ in 0..20 {
        let group = connected(3, |_| {});
        for result in in_parallel(group, |mut member| sum_nothing(&mut member)) {
            result.unwrap();
        }
    }
}

#[test]
fn a_silent_peer_is_given_up_after_the_timeout() {
    let mut group = connected(2, |config| config.timeout = Duration::from_millis(200));
    let start = Instant::now();
    let error = sum_nothing(&mut group[0]).unwrap_err();
    assert!(
        matches!(error, CollectiveError::Timeout { rank: 1, .. }),
        "{error}"
    );
    assert!(start.elapsed() < Duration::from_secs(2));
}

#[test]
fn an_abort_ends_a_sum_that_waits() {
    for count in [1, 2] {
        let mut group = connected(count, |_| {});
        let handle = group[0].abort_handle();
        let start = Instant::now();
        let error = thread::scope(|scope| {
            let waiting = scope.spawn(|| {
                // A member alone never waits: it sums until it is aborted.
                loop {
                    if let Err(error) = sum_nothing(&mut group[0]) {
                        return error;
                    }
                }
            });
            handle.abort();
            waiting.join().unwrap()
        });
        assert_eq!(error, CollectiveError::Aborted);
        assert!(start.elapsed() < Duration::from_secs(2));
    }
}

#[test]
fn an_abort_ends_a_connect_that_waits() {
    let (endpoints, addresses) = endpoints(2);
    for (rank, endpoint) in endpoints.iter().enumerate() {
        let abort = AbortHandle::new();
        let result = thread::scope(|scope| {
            let waiting = scope.spawn(|| endpoint.connect(config(rank, &addresses), &abort));
            abort.abort();
            waiting.join().unwrap()
        });
        assert_eq!(result.unwrap_err(), CollectiveError::Aborted);
    }
}

#[test]
fn a_stale_member_is_told_so_and_the_others_do_not_notice() {
    let (mut endpoints, addresses) = endpoints(2);
    let stale = endpoints.pop().unwrap();
    let zero = endpoints.pop().unwrap();
    let (fresh, fresh_address) = perennial_collective::TcpEndpoint::bind("127.0.0.1:0").unwrap();
    let now = [addresses[0].clone(), fresh_address.to_string()];
    thread::scope(|scope| {
        let first = scope.spawn(|| zero.connect(config(0, &now), &AbortHandle::new()));
        let mut old = config(1, &addresses);
        old.generation = 6;
        let error = stale.connect(old, &AbortHandle::new()).unwrap_err();
        let expected = CollectiveError::Stale {
            ours: 6,
            theirs: 7,
            rank: 0,
        };
        assert_eq!(error, expected);
        let second = scope.spawn(|| fresh.connect(config(1, &now), &AbortHandle::new()));
        let group = [
            first.join().unwrap().unwrap(),
            second.join().unwrap().unwrap(),
        ];
        for result in in_parallel(group, |mut member| sum_nothing(&mut member)) {
            result.unwrap();
        }
    });
}

#[test]
fn a_member_ahead_waits_for_the_one_behind() {
    let (endpoints, addresses) = endpoints(2);
    thread::scope(|scope| {
        let ahead =
            scope.spawn(|| endpoints[1].connect(config(1, &addresses), &AbortHandle::new()));
        let mut behind = config(0, &addresses);
        behind.generation = 6;
        behind.deadline = Duration::from_millis(150);
        let error = (endpoints[0].connect(behind, &AbortHandle::new())).unwrap_err();
        assert!(
            matches!(error, CollectiveError::Timeout { rank: 1, .. }),
            "{error}"
        );
        let caught_up = endpoints[0].connect(config(0, &addresses), &AbortHandle::new());
        assert!(caught_up.is_ok());
        assert!(ahead.join().unwrap().is_ok());
    });
}

#[test]
fn a_member_of_another_job_is_refused() {
    let group = tcp_group(2, |config| {
        config.deadline = Duration::from_secs(1);
        if config.rank == 1 {
            config.job = "weeds".to_owned();
        }
    });
    let error = group[1].as_ref().unwrap_err().to_string();
    assert!(error.contains("another job than `weeds`"), "{error}");
    assert!(group[0].is_err());
}

#[test]
fn strangers_on_the_port_do_no_harm() {
    let (endpoints, addresses) = endpoints(2);
    let mut strangers: Vec<TcpStream> = Vec::new();
    let chatter: [&[u8]; 4] = [
        b"",
        b"GET / HTTP/1.1\r\nhost: me\r\n\r\n",
        b"PERENMSH",
        &[0xff; 64],
    ];
    for words in chatter {
        let mut stranger = TcpStream::connect(&addresses[0]).unwrap();
        stranger.write_all(words).unwrap();
        strangers.push(stranger);
    }
    // An honest greeting with an endless job name.
    let mut endless = b"PERENMSH".to_vec();
    endless.extend(1u32.to_le_bytes());
    endless.extend(7u64.to_le_bytes());
    endless.extend(1u32.to_le_bytes());
    endless.extend(2u32.to_le_bytes());
    endless.extend(u32::MAX.to_le_bytes());
    strangers.push(TcpStream::connect(&addresses[0]).unwrap());
    strangers[4].write_all(&endless).unwrap();
    // One that is gone before anybody looks.
    let gone = TcpStream::connect(&addresses[0]).unwrap();
    gone.shutdown(Shutdown::Both).unwrap();

    let group = in_parallel([0, 1], |rank: usize| {
        endpoints[rank].connect(config(rank, &addresses), &AbortHandle::new())
    });
    for result in in_parallel(group, |member| sum_nothing(&mut member.unwrap())) {
        result.unwrap();
    }
    let mut answer = Vec::new();
    assert!(matches!(
        strangers[1].read_to_end(&mut answer),
        Ok(0) | Err(_)
    ));
}

#[test]
fn an_address_where_nobody_listens_is_named() {
    let (mut endpoints, mut addresses) = endpoints(2);
    let last = endpoints.pop().unwrap();
    drop(endpoints);
    let mut alone = config(1, &addresses);
    alone.deadline = Duration::from_millis(100);
    let error = last.connect(alone, &AbortHandle::new()).unwrap_err();
    assert!(error.to_string().contains(&addresses.remove(0)), "{error}");
}

#[test]
fn an_abort_ends_every_kind_of_wait_in_a_connect() {
    // A member that takes connections and never answers.
    let deaf = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
    let address = deaf.local_addr().unwrap().to_string();
    let (black_hole, _listener, _queue) = network::black_hole();
    for lower in [address, black_hole] {
        let (endpoints, addresses) = endpoints(1);
        let addresses = [lower, addresses[0].clone()];
        let abort = AbortHandle::new();
        let (result, took) = thread::scope(|scope| {
            let waiting = scope.spawn(|| endpoints[0].connect(config(1, &addresses), &abort));
            // It is somewhere in its wait after this.
            let (_kept, never) = std::sync::mpsc::channel::<()>();
            assert!(never.recv_timeout(Duration::from_millis(100)).is_err());
            let start = Instant::now();
            abort.abort();
            (waiting.join().unwrap(), start.elapsed())
        });
        assert_eq!(result.unwrap_err(), CollectiveError::Aborted);
        // It takes 20 ms; one attempt to connect takes 2 s.
        assert!(took < Duration::from_secs(1), "{took:?}");
    }
}

#[test]
fn a_generation_connects_at_once_after_one_that_was_aborted() {
    let (endpoints, addresses) = endpoints(3);
    for generation in 0..100u64 {
        let aborted = generation % 2 == 0;
        let handles: Vec<AbortHandle> = (0..3).map(|_| AbortHandle::new()).collect();
        let results = in_parallel(0..3, |rank: usize| {
            let mut config = config(rank, &addresses);
            config.generation = generation;
            // In a generation that is given up, a member is missing, and it is rarely the same moment.
            if aborted && rank == (generation / 2 % 3) as usize {
                handles.iter().for_each(AbortHandle::abort);
                return None;
            }
            Some(endpoints[rank].connect(config, &handles[rank]))
        });
        let group: Vec<_> = results.into_iter().flatten().collect();
        if aborted {
            for result in group {
                let error = result.map(drop).unwrap_err();
                let given_up = matches!(
                    error,
                    CollectiveError::Aborted | CollectiveError::PeerLost { .. }
                );
                assert!(given_up, "generation {generation}: {error}");
            }
            continue;
        }
        for result in in_parallel(group, |member| sum_nothing(&mut member.unwrap())) {
            assert_eq!(result, Ok(()));
        }
    }
}

#[test]
fn a_member_that_fails_after_a_sum_does_not_take_that_sum_from_the_others() {
    for _ in 0..100 {
        let sums = in_parallel(connected(3, |_| {}), |mut member| {
            let sum = sum_nothing(&mut member);
            // One member leaves; the first of the others to notice gives up.
            if member.rank() > 0 {
                assert!(sum_nothing(&mut member).is_err());
            }
            sum
        });
        assert_eq!(sums, [Ok(()), Ok(()), Ok(())]);
    }
}
