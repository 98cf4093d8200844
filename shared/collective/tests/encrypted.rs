//! Workers that encrypt what they say to each other, and whoever listens or pretends.

#[path = "support/authority.rs"]
mod authority;
#[allow(dead_code)]
#[path = "support/network.rs"]
mod network;
#[allow(dead_code)]
mod support;

use std::io::{Read, Write};
use std::net::{TcpListener, TcpStream};
use std::sync::atomic::Ordering::SeqCst;
use std::sync::{Arc, Mutex};
use std::thread;
use std::time::Duration;

use bytes::Bytes;
use perennial_collective::{
    AbortHandle, Collective, CollectiveError, Delta, MeshConfig, MeshTls, ReplicaFollower,
    ReplicaServer, ReplicaSource, Snapshot, Tcp, TcpEndpoint, Update,
};

use authority::Certificates;
use network::Network;
use support::{config, contribution_of, endpoints, in_parallel};

const LONG: usize = 1_000_000;
const DEADLINE: Duration = Duration::from_secs(20);

/// A member with each of these.
fn group(
    tls: Vec<Option<MeshTls>>,
    adjust: impl Fn(&mut MeshConfig) + Sync,
) -> Vec<Result<Tcp, CollectiveError>> {
    let (endpoints, addresses) = endpoints(tls.len());
    let members = endpoints.into_iter().zip(tls).enumerate();
    in_parallel(members, |(rank, (endpoint, tls))| {
        let mut config = config(rank, &addresses);
        adjust(&mut config);
        (endpoint.encrypted(tls)).connect(config, &AbortHandle::new())
    })
}

fn sum(member: &mut Tcp) -> Result<Vec<u32>, CollectiveError> {
    let rank = member.rank() as u32;
    let owned = 2 * rank..2 * rank + 2;
    let contribution = contribution_of(6, owned, LONG, |slot| {
        Some(
            (0..LONG)
                .map(|at| ((at as u32 ^ slot) as f32).sin())
                .collect(),
        )
    });
    let reduced = member.all_reduce(contribution)?;
    Ok(reduced
        .gradients
        .iter()
        .map(|value| value.to_bits())
        .collect())
}

fn sums(group: Vec<Result<Tcp, CollectiveError>>) -> Vec<Vec<u32>> {
    in_parallel(group, |member| {
        let mut member = member.unwrap();
        sum(&mut member).unwrap();
        sum(&mut member).unwrap()
    })
}

#[test]
fn encrypted_members_get_the_bits_of_plain_ones() {
    let certificates = Certificates::new();
    let tls = ["a", "b", "c"].map(|name| certificates.worker(name));
    let encrypted = sums(group(tls.into(), |_| {}));
    let plain = sums(group(vec![None, None, None], |_| {}));
    assert_eq!(encrypted, plain);
}

#[test]
fn who_has_a_certificate_of_another_authority_is_no_member() {
    let (ours, theirs) = (Certificates::new(), Certificates::new());
    let tls = vec![ours.worker("a"), theirs.worker("b")];
    let group = group(tls, |config| config.deadline = Duration::from_secs(1));
    let error = group[1].as_ref().unwrap_err();
    assert!(
        matches!(error, CollectiveError::Refused { rank: 0, .. }),
        "{error}"
    );
    assert!(error.to_string().contains("authority"), "{error}");
    assert!(group[0].is_err());
}

#[test]
fn plain_and_encrypted_members_do_not_meet() {
    let certificates = Certificates::new();
    for tls in [
        [certificates.worker("a"), None],
        [None, certificates.worker("b")],
    ] {
        let group = group(tls.into(), |config| {
            config.deadline = Duration::from_secs(1)
        });
        assert!(group.iter().all(Result::is_err));
    }
}

#[test]
fn strangers_keep_no_member_out() {
    let certificates = Certificates::new();
    let (endpoints, addresses) = endpoints(2);
    let mut strangers = Vec::new();
    for words in [
        &b""[..],
        b"PERENMSH",
        b"GET / HTTP/1.1\r\n\r\n",
        &[0x16, 3, 1, 0xff, 0xff],
    ] {
        let mut stranger = TcpStream::connect(&addresses[0]).unwrap();
        stranger.write_all(words).unwrap();
        strangers.push(stranger);
    }
    let tls = ["a", "b"].map(|name| certificates.worker(name));
    let members = endpoints.into_iter().zip(tls).enumerate();
    for member in in_parallel(members, |(rank, (endpoint, tls))| {
        let endpoint = endpoint.encrypted(tls);
        endpoint.connect(config(rank, &addresses), &AbortHandle::new())
    }) {
        member.unwrap();
    }
}

/// What a member said when it joined, said again by somebody who listened.
#[test]
fn a_recorded_join_is_of_no_use() {
    let certificates = Certificates::new();
    let tls = ["a", "b"].map(|name| certificates.worker(name));
    let [first, second] = tls;
    let (endpoint, address) = TcpEndpoint::bind("127.0.0.1:0").unwrap();
    let endpoint = endpoint.encrypted(first);
    let (other, other_address) = TcpEndpoint::bind("127.0.0.1:0").unwrap();
    let other = other.encrypted(second);
    let (relay, said) = recorder(address.to_string());
    let join = |endpoint: &TcpEndpoint, rank, address: &str, deadline| {
        let mut config = config(rank, &[address.to_owned(), other_address.to_string()]);
        config.deadline = deadline;
        endpoint.connect(config, &AbortHandle::new())
    };
    let members = in_parallel([0, 1], |rank| match rank {
        0 => join(&endpoint, 0, &address.to_string(), DEADLINE),
        _ => join(&other, 1, &relay, DEADLINE),
    });
    for member in members {
        member.unwrap();
    }
    let said = said.lock().unwrap().clone();
    assert!(said.len() > 500, "a handshake and a greeting");

    let alone = thread::scope(|scope| {
        let waiting =
            scope.spawn(|| join(&endpoint, 0, &address.to_string(), Duration::from_secs(1)));
        let mut stranger = TcpStream::connect(address).unwrap();
        stranger.write_all(&said).unwrap();
        waiting.join().unwrap()
    });
    assert!(
        matches!(alone, Err(CollectiveError::Timeout { rank: 1, .. })),
        "{alone:?}"
    );
}

/// Where to dial instead of `target`, and what dialers say there.
fn recorder(target: String) -> (String, Arc<Mutex<Vec<u8>>>) {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let address = listener.local_addr().unwrap().to_string();
    let said: Arc<Mutex<Vec<u8>>> = Arc::default();
    let kept = said.clone();
    thread::spawn(move || {
        for near in listener.incoming() {
            let near = near.unwrap();
            let far = TcpStream::connect(&target).unwrap();
            let (mut back, mut there) = (far.try_clone().unwrap(), near.try_clone().unwrap());
            thread::spawn(move || std::io::copy(&mut back, &mut there));
            let (mut near, mut far, kept) = (near, far, kept.clone());
            thread::spawn(move || {
                let mut bytes = [0; 4096];
                while let Ok(count @ 1..) = near.read(&mut bytes) {
                    kept.lock().unwrap().extend(&bytes[..count]);
                    far.write_all(&bytes[..count]).unwrap();
                }
            });
        }
    });
    (address, said)
}

#[test]
fn an_encrypted_member_behind_a_cut_is_silent_and_a_trickle_is_not() {
    let certificates = Certificates::new();
    let tls = ["a", "b"].map(|name| certificates.worker(name));
    let (endpoints, mut addresses) = endpoints(2);
    let (network, relay) = Network::to(addresses[0].clone());
    addresses[0] = relay;
    let members = endpoints.into_iter().zip(tls).enumerate();
    let mut members: Vec<Tcp> = in_parallel(members, |(rank, (endpoint, tls))| {
        let mut config = config(rank, &addresses);
        config.silence = Duration::from_secs(1);
        let endpoint = endpoint.encrypted(tls);
        endpoint.connect(config, &AbortHandle::new()).unwrap()
    });
    // A record of 6 kB takes more than a second so, longer than anybody may be silent.
    network.trickle.store(100, SeqCst);
    let small = |member: &mut Tcp| {
        let rank = member.rank() as u32;
        let part = contribution_of(2, rank..rank + 1, 3_000, |_| Some(vec![1.0; 3_000]));
        member.all_reduce(part)
    };
    for summed in in_parallel(members.iter_mut(), small) {
        summed.unwrap();
    }
    network.cut();
    for lost in in_parallel(members.iter_mut(), small) {
        let error = lost.unwrap_err();
        assert!(matches!(error, CollectiveError::Silent { .. }), "{error}");
    }
}

/// A replica that never changes.
struct Still(Bytes);

impl ReplicaSource for Still {
    fn snapshot(&self) -> Option<Snapshot> {
        Some(Snapshot {
            global_step: 7,
            hash: 9,
            bytes: self.0.clone(),
        })
    }

    fn delta(&self, _: u64, _: Duration) -> Delta {
        Delta::NotYet
    }
}

#[test]
fn a_replica_is_handed_to_workers_alone_and_arrives_whole() {
    let (ours, theirs) = (Certificates::new(), Certificates::new());
    let bytes: Bytes = (0..8_000_000).map(|at| (at * 31) as u8).collect();
    let source = Arc::new(Still(bytes.clone()));
    let (_server, address) =
        ReplicaServer::bind_encrypted("127.0.0.1:0", "seedlings", source, ours.worker("a"))
            .unwrap();
    let address = address.to_string();
    let follow = |tls: Option<MeshTls>| {
        let abort = AbortHandle::new();
        ReplicaFollower::connect_encrypted(&address, "seedlings", None, tls.as_ref(), &abort)
            .and_then(|mut follower| follower.next_update())
    };
    let Update::Snapshot(snapshot) = follow(ours.worker("b")).unwrap() else {
        panic!("no snapshot");
    };
    assert_eq!(snapshot.bytes, bytes);
    let refused = follow(theirs.worker("c")).unwrap_err().to_string();
    assert!(refused.contains("authority"), "{refused}");
    assert!(follow(None).is_err());
}
