//! A network between two members that can be cut without closing anything.

use std::io::{Read, Write};
use std::net::{TcpListener, TcpStream};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering::SeqCst};
use std::thread;
use std::time::Duration;

/// An address that takes connections but never answers, as long as the rest is kept: the queue of its
/// listener is full, so a connect waits.
pub fn black_hole() -> (String, TcpListener, Vec<TcpStream>) {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let address = listener.local_addr().unwrap();
    let mut queue = Vec::new();
    while let Ok(stream) = TcpStream::connect_timeout(&address, Duration::from_millis(300)) {
        queue.push(stream);
        assert!(queue.len() < 10_000, "the queue has no end");
    }
    (address.to_string(), listener, queue)
}

/// Forwards every connection to another address; each direction can be cut or slowed down.
#[derive(Default)]
pub struct Network {
    /// From the one that dialed.
    pub cut_there: AtomicBool,
    /// To the one that dialed.
    pub cut_back: AtomicBool,
    /// Bytes forwarded at a time with a pause behind, or 0 for all there is.
    pub trickle: AtomicUsize,
}

impl Network {
    /// Where to dial instead of `target`.
    pub fn to(target: String) -> (Arc<Self>, String) {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let address = listener.local_addr().unwrap().to_string();
        let network = Arc::new(Self::default());
        let shared = network.clone();
        thread::spawn(move || {
            for near in listener.incoming() {
                let near = Arc::new(near.unwrap());
                let far = Arc::new(TcpStream::connect(&target).unwrap());
                for back in [false, true] {
                    let (from, to) = if back { (&far, &near) } else { (&near, &far) };
                    let (from, to, network) = (from.clone(), to.clone(), shared.clone());
                    thread::spawn(move || network.forward(&from, &to, back));
                }
            }
        });
        (network, address)
    }

    pub fn cut(&self) {
        self.cut_there.store(true, SeqCst);
        self.cut_back.store(true, SeqCst);
    }

    fn forward(&self, mut from: &TcpStream, mut to: &TcpStream, back: bool) {
        let cut = if back {
            &self.cut_back
        } else {
            &self.cut_there
        };
        let mut buffer = vec![0; 1 << 16];
        loop {
            let trickle = self.trickle.load(SeqCst);
            let most = if trickle == 0 { buffer.len() } else { trickle };
            let read = from.read(&mut buffer[..most]);
            // What was on its way when the network was cut never arrives, nor does a close.
            while cut.load(SeqCst) {
                thread::park();
            }
            match read {
                Ok(count @ 1..) if to.write_all(&buffer[..count]).is_ok() => {}
                _ => break,
            }
            if trickle != 0 {
                // The network is slow: this is no wait for an event.
                thread::sleep(Duration::from_millis(20));
            }
        }
        let _ = to.shutdown(std::net::Shutdown::Write);
    }
}
