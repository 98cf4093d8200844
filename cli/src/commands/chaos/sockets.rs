//! Which process a connection of this machine comes from, by what Linux tells in `/proc`.

use std::fs;
use std::net::{IpAddr, SocketAddr};

/// The process among `candidates` that holds the end of a TCP connection which is bound to `address`.
/// None elsewhere than on Linux.
pub fn owner(address: SocketAddr, candidates: impl IntoIterator<Item = u32>) -> Option<u32> {
    let link = format!("socket:[{}]", inode(address)?);
    candidates
        .into_iter()
        .find(|process| holds(*process, &link))
}

/// The number under which the system knows the socket.
fn inode(address: SocketAddr) -> Option<String> {
    let IpAddr::V4(ip) = address.ip() else {
        return None;
    };
    // In the order in which the bytes lie in memory.
    let bound = format!(
        "{:08X}:{:04X}",
        u32::from_ne_bytes(ip.octets()),
        address.port()
    );
    let table = fs::read_to_string("/proc/net/tcp").ok()?;
    let mut lines = table.lines().skip(1);
    lines.find_map(|line| {
        let fields: Vec<&str> = line.split_whitespace().collect();
        let (local, state, inode) = (fields.get(1)?, fields.get(3)?, fields.get(9)?);
        (*local == bound && *state != LISTEN && *inode != "0").then(|| inode.to_string())
    })
}

const LISTEN: &str = "0A";

fn holds(process: u32, link: &str) -> bool {
    let open = fs::read_dir(format!("/proc/{process}/fd"));
    open.into_iter()
        .flatten()
        .flatten()
        .any(|file| fs::read_link(file.path()).is_ok_and(|to| to.as_os_str() == link))
}

#[cfg(all(test, target_os = "linux"))]
mod tests {
    use std::net::{TcpListener, TcpStream};

    use super::*;

    #[test]
    fn the_process_that_dialed_is_found_among_others() {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let dialed = TcpStream::connect(listener.local_addr().unwrap()).unwrap();
        let (_stream, peer) = listener.accept().unwrap();
        let own = std::process::id();
        assert_eq!(owner(peer, [1, own]), Some(own));
        assert_eq!(owner(peer, [1]), None);
        let free = TcpListener::bind("127.0.0.1:0").unwrap();
        assert_eq!(owner(free.local_addr().unwrap(), [own]), None);
        drop(dialed);
    }
}
