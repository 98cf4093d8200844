//! Peers that say nothing, with connections that stay open.

#[allow(dead_code)]
#[path = "support/network.rs"]
mod network;
#[allow(dead_code)]
mod support;

use std::process::{Child, Command, Stdio};
use std::sync::Arc;
use std::sync::atomic::Ordering::SeqCst;
use std::sync::mpsc;
use std::thread;
use std::time::{Duration, Instant};

use network::Network;
use perennial_collective::{
    AbortHandle, Collective, CollectiveError, Contribution, MeshConfig, Partial, Tcp,
};
use perennial_plan::tree::Node;
use support::{config, contribution, endpoints, in_parallel};

const SILENCE: Duration = Duration::from_secs(1);
/// Far below the time-out of a sum: what ends before was not waited for.
const SOON: Duration = Duration::from_secs(10);

fn watched(rank: usize, addresses: &[String]) -> MeshConfig {
    MeshConfig {
        silence: SILENCE,
        timeout: Duration::from_secs(60),
        ..config(rank, addresses)
    }
}

/// Two members with a network between them.
fn pair() -> (Tcp, Tcp, Arc<Network>) {
    let (endpoints, mut addresses) = endpoints(2);
    let (network, address) = Network::to(addresses[0].clone());
    addresses[0] = address;
    let mut group = in_parallel([0, 1], |rank: usize| {
        (endpoints[rank].connect(watched(rank, &addresses), &AbortHandle::new())).unwrap()
    });
    let one = group.pop().unwrap();
    (group.pop().unwrap(), one, network)
}

fn sum_nothing(member: &mut Tcp) -> Result<(), CollectiveError> {
    member.all_reduce(contribution(1, 0..0, 0, 0)).map(drop)
}

/// What a member with many elements in its slot brings.
fn big(rank: usize, len: usize) -> Contribution {
    let node = Node {
        start: rank as u32,
        end: rank as u32 + 1,
    };
    let mut big = contribution(2, 0..0, 0, 0);
    big.gradients = Partial {
        len,
        nodes: [(node, vec![1.5; len])].into(),
    };
    big
}

fn assert_silent(result: Result<(), CollectiveError>, rank: usize) {
    let silence = SILENCE;
    assert_eq!(result, Err(CollectiveError::Silent { rank, silence }));
}

#[test]
fn a_peer_that_is_cut_off_is_noticed_by_both_sides() {
    let (zero, one, network) = pair();
    network.cut();
    let start = Instant::now();
    in_parallel([zero, one], |mut member| {
        let peer = 1 - member.rank();
        assert_silent(sum_nothing(&mut member), peer);
        assert_eq!(sum_nothing(&mut member), Err(CollectiveError::Broken));
    });
    assert!(start.elapsed() < SOON);
}

#[test]
fn silence_that_was_noticed_while_a_member_computed_is_named_by_its_next_sum() {
    let (mut zero, one, network) = pair();
    network.cut();
    let (_kept, computing) = mpsc::channel::<()>();
    assert!(computing.recv_timeout(3 * SILENCE).is_err());
    assert_silent(sum_nothing(&mut zero), 1);
    drop(one);
}

#[test]
fn a_network_that_is_cut_one_way_is_noticed() {
    let (zero, mut one, network) = pair();
    network.cut_back.store(true, SeqCst);
    assert_silent(sum_nothing(&mut one), 0);
    // Its close tells the other one.
    drop(one);
    let mut zero = zero;
    let error = sum_nothing(&mut zero).unwrap_err();
    assert!(
        matches!(error, CollectiveError::PeerLost { rank: 1, .. }),
        "{error}"
    );
}

#[test]
fn a_peer_that_takes_nothing_is_noticed_while_much_is_sent_to_it() {
    let (mut zero, one, network) = pair();
    network.cut();
    let start = Instant::now();
    let sum = zero.all_reduce(big(0, 10_000_000)).map(drop);
    assert_silent(sum, 1);
    drop(zero);
    assert!(start.elapsed() < SOON);
    drop(one);
}

#[test]
fn a_member_that_gave_up_leaves_at_once_whoever_is_silent() {
    let (endpoints, addresses) = endpoints(3);
    let (network, seen) = Network::to(addresses[0].clone());
    let seen = [seen, addresses[1].clone(), addresses[2].clone()];
    let mut group = in_parallel(0..3, |rank: usize| {
        let config = MeshConfig {
            silence: Duration::from_secs(60),
            ..watched(rank, if rank == 1 { &seen } else { &addresses })
        };
        (endpoints[rank].connect(config, &AbortHandle::new())).unwrap()
    });
    let _cut_off = group.remove(1);
    network.cut();
    // One member leaves; what another one will never take is still on its way to that one.
    let start = Instant::now();
    drop(group.pop());
    let mut zero = group.remove(0);
    let error = zero.all_reduce(big(0, 10_000_000)).unwrap_err();
    assert!(
        matches!(error, CollectiveError::PeerLost { rank: 2, .. }),
        "{error}"
    );
    drop(zero);
    assert!(start.elapsed() < SOON);
}

#[test]
fn a_peer_that_computes_is_not_silent() {
    let (mut zero, mut one, _network) = pair();
    let (done, computing) = mpsc::channel::<()>();
    thread::scope(|scope| {
        let waiting = scope.spawn(|| {
            let result = sum_nothing(&mut zero);
            drop(done);
            result
        });
        // It computes for three times as long as it may be silent.
        let timeout = computing.recv_timeout(3 * SILENCE);
        assert_eq!(timeout, Err(mpsc::RecvTimeoutError::Timeout));
        assert_eq!(sum_nothing(&mut one), Ok(()));
        assert_eq!(waiting.join().unwrap(), Ok(()));
    });
}

#[test]
fn a_message_that_trickles_is_not_silence() {
    let (zero, one, network) = pair();
    // 100 pieces of 4 kB each way, each followed by a pause of 20 ms: two times as long as a peer may be silent.
    network.trickle.store(4000, SeqCst);
    let sums = in_parallel([zero, one], |mut member| {
        let sum = member.all_reduce(big(member.rank(), 100_000)).map(drop);
        (sum, member)
    });
    for (sum, _member) in sums {
        assert_eq!(sum, Ok(()));
    }
}

#[test]
fn one_silent_member_of_three_is_named_by_the_others() {
    let (endpoints, addresses) = endpoints(3);
    // Rank 2 dials the others over networks of its own.
    let mut seen = addresses.clone();
    let mut networks = Vec::new();
    for rank in [0, 1] {
        let (network, address) = Network::to(addresses[rank].clone());
        seen[rank] = address;
        networks.push(network);
    }
    let mut group = in_parallel(0..3, |rank: usize| {
        let addresses = if rank == 2 { &seen } else { &addresses };
        (endpoints[rank].connect(watched(rank, addresses), &AbortHandle::new())).unwrap()
    });
    networks.iter().for_each(|network| network.cut());
    let cut_off = group.pop().unwrap();
    // Both stay until both have noticed.
    let sums = in_parallel(group, |mut member| (sum_nothing(&mut member), member));
    for (sum, _member) in sums {
        assert_silent(sum, 2);
    }
    drop(cut_off);
}

#[test]
fn a_member_is_not_silent_while_it_still_connects_with_others() {
    let (endpoints, addresses) = endpoints(3);
    thread::scope(|scope| {
        let connect = |rank: usize| {
            let (endpoint, addresses) = (&endpoints[rank], &addresses);
            let connect = move || {
                let mut tcp = endpoint.connect(watched(rank, addresses), &AbortHandle::new())?;
                sum_nothing(&mut tcp)
            };
            scope.spawn(connect)
        };
        let early = [connect(0), connect(1)];
        // The last one comes after three times the silence.
        let (_kept, never) = mpsc::channel::<()>();
        assert!(never.recv_timeout(3 * SILENCE).is_err());
        let last = connect(2);
        for member in early.into_iter().chain([last]) {
            assert_eq!(member.join().unwrap(), Ok(()));
        }
    });
}

#[test]
fn a_member_that_dies_ends_the_connect_of_the_others() {
    let (endpoints, addresses) = endpoints(3);
    let abort = AbortHandle::new();
    let error = thread::scope(|scope| {
        let zero =
            scope.spawn(|| endpoints[0].connect(watched(0, &addresses), &AbortHandle::new()));
        // It is linked to rank 0 and waits for rank 2 until it is killed.
        let one = scope.spawn(|| endpoints[1].connect(watched(1, &addresses), &abort));
        let (_kept, never) = mpsc::channel::<()>();
        assert!(never.recv_timeout(SILENCE).is_err());
        abort.abort();
        assert_eq!(one.join().unwrap().map(drop), Err(CollectiveError::Aborted));
        zero.join().unwrap().unwrap_err()
    });
    assert!(
        matches!(error, CollectiveError::PeerLost { rank: 1, .. }),
        "{error}"
    );
}

/// A member in a process of its own: this program, told by its environment to be that.
struct Process(Child);

impl Process {
    fn start(rank: usize, addresses: &[String]) -> Self {
        let child = Command::new(std::env::current_exe().unwrap())
            .args(["--exact", "a_member_in_a_process_of_its_own", "--nocapture"])
            .env("MEMBER_RANK", rank.to_string())
            .env("MEMBER_ADDRESSES", addresses.join(","))
            .stdout(Stdio::null())
            .spawn();
        Self(child.unwrap())
    }

    fn signal(&self, name: &str) {
        let pid = self.0.id().to_string();
        let killed = Command::new("kill").args([name, &pid]).status();
        assert!(killed.unwrap().success());
    }
}

impl Drop for Process {
    fn drop(&mut self) {
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

/// Sums until its peer leaves; a test of nothing unless it is started by another one.
#[test]
fn a_member_in_a_process_of_its_own() {
    let (Ok(rank), Ok(addresses)) = (
        std::env::var("MEMBER_RANK"),
        std::env::var("MEMBER_ADDRESSES"),
    ) else {
        return;
    };
    let rank: usize = rank.parse().unwrap();
    let mut addresses: Vec<String> = addresses.split(',').map(str::to_owned).collect();
    let (endpoint, address) = perennial_collective::TcpEndpoint::bind("127.0.0.1:0").unwrap();
    addresses[rank] = address.to_string();
    let mut member = (endpoint.connect(watched(rank, &addresses), &AbortHandle::new())).unwrap();
    let end = loop {
        if let Err(error) = sum_nothing(&mut member) {
            break error;
        }
    };
    // It was paused itself, so it blames nobody for silence.
    let expected = matches!(end, CollectiveError::PeerLost { rank: 0, .. });
    std::process::exit(if expected { 0 } else { 3 });
}

#[test]
fn a_process_that_is_stopped_is_noticed() {
    let (endpoints, addresses) = endpoints(1);
    let addresses = [addresses[0].clone(), "elsewhere".to_owned()];
    let process = Process::start(1, &addresses);
    let mut member = (endpoints[0].connect(watched(0, &addresses), &AbortHandle::new())).unwrap();
    sum_nothing(&mut member).unwrap();
    process.signal("-STOP");
    let start = Instant::now();
    let end = loop {
        if let Err(error) = sum_nothing(&mut member) {
            break error;
        }
    };
    assert_silent(Err(end), 1);
    drop(member);
    assert!(start.elapsed() < SOON);
}

#[test]
fn a_process_that_was_stopped_itself_blames_nobody() {
    let (endpoints, addresses) = endpoints(1);
    let addresses = [addresses[0].clone(), "elsewhere".to_owned()];
    let mut process = Process::start(1, &addresses);
    // This one is patient.
    let patient = MeshConfig {
        silence: Duration::from_secs(60),
        ..watched(0, &addresses)
    };
    let mut member = endpoints[0].connect(patient, &AbortHandle::new()).unwrap();
    sum_nothing(&mut member).unwrap();
    process.signal("-STOP");
    let (_kept, never) = mpsc::channel::<()>();
    assert!(never.recv_timeout(2 * SILENCE).is_err());
    process.signal("-CONT");
    for _ in 0..10 {
        sum_nothing(&mut member).unwrap();
    }
    drop(member);
    assert_eq!(process.0.wait().unwrap().code(), Some(0));
}
