//! What a group does, once its stream has come to it.

use std::io::{self, Write};
use std::net::{Shutdown, TcpStream};
use std::sync::Arc;
use std::sync::mpsc::{self, Sender};

use crate::communicator::{Op, Place};
use crate::mesh::Ended;

/// The connections of a communicator. Each peer has a thread that sends, so that no send waits for the peer.
pub struct Links {
    rank: usize,
    links: Vec<Option<Link>>,
    ended: Ended,
}

struct Link {
    stream: Arc<TcpStream>,
    out: Sender<Vec<u8>>,
}

impl Links {
    pub fn new(rank: usize, streams: Vec<Option<TcpStream>>, ended: &Ended) -> Self {
        let links = streams.into_iter().map(|stream| {
            let stream = Arc::new(stream?);
            let (out, queue) = mpsc::channel::<Vec<u8>>();
            let writer = stream.clone();
            std::thread::spawn(move || {
                let sent = queue
                    .into_iter()
                    .try_for_each(|bytes| (&*writer).write_all(&bytes));
                // A peer that is gone is noticed by who reads from it.
                drop(sent);
            });
            Some(Link { stream, out })
        });
        Self {
            rank,
            links: links.collect(),
            ended: ended.clone(),
        }
    }

    /// Closes all connections, which the peers notice.
    pub fn close(&self) {
        for link in self.links.iter().flatten() {
            let _ = link.stream.shutdown(Shutdown::Both);
        }
    }

    /// Waits until all peers have closed their ends.
    pub fn wait_for_all_to_close(&self) {
        let never = Ended::default();
        for link in self.links.iter().flatten() {
            let _ = link.stream.shutdown(Shutdown::Write);
            while never.read(&link.stream, &mut [0; 4096]).is_ok() {}
        }
    }

    pub fn run(&self, ops: &[Op]) -> io::Result<()> {
        for op in ops {
            if let Op::Send(place, peer) = op {
                self.send(*peer, place)?;
            }
        }
        for op in ops {
            match op {
                Op::Send(..) => {}
                Op::Receive(place, peer) => {
                    let values = self.receive(*peer, place.count())?;
                    // SAFETY: whoever put the group on the stream keeps the place until it is idle.
                    unsafe { place.values_mut() }.copy_from_slice(&values);
                }
                Op::AllReduce(place) => self.all_reduce(place)?,
            }
        }
        Ok(())
    }

    /// Blocks of the vector are summed round the ring, each from another member on: the same at every member,
    /// and not in the order of any tree.
    fn all_reduce(&self, place: &Place) -> io::Result<()> {
        let world_size = self.links.len();
        let peers = || (0..world_size).filter(|peer| *peer != self.rank);
        for peer in peers() {
            self.send(peer, place)?;
        }
        // SAFETY: whoever put the group on the stream keeps the place until it is idle.
        let values = unsafe { place.values_mut() };
        let mut all = vec![values.to_vec(); world_size];
        for peer in peers() {
            all[peer] = self.receive(peer, place.count())?;
        }
        let block = place.count().div_ceil(world_size).max(1);
        for (index, value) in values.iter_mut().enumerate() {
            let first = index / block;
            let ring = (0..world_size).map(|hop| all[(first + hop) % world_size][index]);
            *value = ring.reduce(|sum, more| sum + more).unwrap_or_default();
        }
        Ok(())
    }

    fn send(&self, peer: usize, place: &Place) -> io::Result<()> {
        let link = self.link(peer)?;
        let mut bytes = (place.count() as u64).to_le_bytes().to_vec();
        // SAFETY: whoever put the group on the stream keeps the place until it is idle.
        let values = unsafe { place.values() };
        bytes.extend(values.iter().flat_map(|value| value.to_le_bytes()));
        link.out
            .send(bytes)
            .map_err(|_| io::ErrorKind::BrokenPipe.into())
    }

    fn receive(&self, peer: usize, count: usize) -> io::Result<Vec<f32>> {
        let link = self.link(peer)?;
        let mut length = [0; 8];
        self.ended.read(&link.stream, &mut length)?;
        let found = u64::from_le_bytes(length);
        if found != count as u64 {
            let error = format!("rank {peer} sent {found} numbers where {count} were expected");
            return Err(io::Error::new(io::ErrorKind::InvalidData, error));
        }
        let mut bytes = vec![0; 4 * count];
        self.ended.read(&link.stream, &mut bytes)?;
        let (numbers, _) = bytes.as_chunks::<4>();
        Ok(numbers
            .iter()
            .map(|bytes| f32::from_le_bytes(*bytes))
            .collect())
    }

    fn link(&self, peer: usize) -> io::Result<&Link> {
        let link = self.links.get(peer).and_then(Option::as_ref);
        link.ok_or_else(|| io::Error::new(io::ErrorKind::InvalidData, "there is no such peer"))
    }
}
