//! How members of one communicator find each other: the root behind the unique id tells each where all listen.

use std::io::{self, Read, Write};
use std::net::{Ipv4Addr, SocketAddr, TcpListener, TcpStream};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread;
use std::time::{Duration, Instant};

const LOOK: Duration = Duration::from_millis(10);

/// Set when all waits are to end.
#[derive(Clone, Default)]
pub struct Ended(Arc<AtomicBool>);

impl Ended {
    pub fn set(&self) {
        self.0.store(true, Ordering::SeqCst);
    }

    pub fn is_set(&self) -> bool {
        self.0.load(Ordering::SeqCst)
    }

    pub fn check(&self) -> io::Result<()> {
        match self.is_set() {
            true => Err(io::Error::other("it was aborted")),
            false => Ok(()),
        }
    }

    /// Waits until it is set.
    pub fn wait(&self) {
        while !self.is_set() {
            thread::sleep(LOOK);
        }
    }

    /// Waits for so long, or until it is set.
    pub fn wait_for(&self, time: Duration) {
        let end = Instant::now() + time;
        while !self.is_set() && Instant::now() < end {
            thread::sleep(LOOK);
        }
    }

    pub fn read(&self, mut stream: &TcpStream, buffer: &mut [u8]) -> io::Result<()> {
        stream.set_read_timeout(Some(LOOK))?;
        let mut filled = 0;
        while filled < buffer.len() {
            self.check()?;
            match stream.read(&mut buffer[filled..]) {
                Ok(0) => return Err(io::ErrorKind::UnexpectedEof.into()),
                Ok(count) => filled += count,
                Err(error) if is_early(&error) => {}
                Err(error) => return Err(error),
            }
        }
        Ok(())
    }

    fn accept(&self, listener: &TcpListener) -> io::Result<TcpStream> {
        listener.set_nonblocking(true)?;
        loop {
            self.check()?;
            match listener.accept() {
                Ok((stream, _)) => {
                    stream.set_nonblocking(false)?;
                    return Ok(stream);
                }
                Err(error) if is_early(&error) => thread::sleep(LOOK / 10),
                Err(error) => return Err(error),
            }
        }
    }

    fn numbers<const N: usize>(&self, stream: &TcpStream) -> io::Result<[u32; N]> {
        let mut numbers = [0; N];
        for number in &mut numbers {
            let mut bytes = [0; 4];
            self.read(stream, &mut bytes)?;
            *number = u32::from_le_bytes(bytes);
        }
        Ok(numbers)
    }
}

fn is_early(error: &io::Error) -> bool {
    use io::ErrorKind::{Interrupted, TimedOut, WouldBlock};
    matches!(error.kind(), WouldBlock | TimedOut | Interrupted)
}

fn dial(port: u32) -> io::Result<TcpStream> {
    let stream = TcpStream::connect(SocketAddr::from((Ipv4Addr::LOCALHOST, port as u16)))?;
    stream.set_nodelay(true)?;
    Ok(stream)
}

/// A new unique id: the port of a root that lives as long as this process, or until all have come.
pub fn meeting_point() -> io::Result<[u8; 128]> {
    let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0))?;
    let mut id = [0; 128];
    id[..2].copy_from_slice(&listener.local_addr()?.port().to_le_bytes());
    thread::spawn(move || introduce(&listener));
    Ok(id)
}

fn introduce(listener: &TcpListener) -> io::Result<()> {
    let never = Ended::default();
    let mut members: Vec<Option<(TcpStream, u32)>> = Vec::new();
    loop {
        let stream = never.accept(listener)?;
        let [world_size, rank, port] = never.numbers(&stream)?;
        members.resize_with(world_size as usize, || None);
        members[rank as usize] = Some((stream, port));
        if members.iter().all(Option::is_some) {
            break;
        }
    }
    let members: Vec<(TcpStream, u32)> = members.into_iter().flatten().collect();
    for (stream, _) in &members {
        for (_, port) in &members {
            // One that is gone by now is missed by the others.
            let mut stream: &TcpStream = stream;
            let _ = stream.write_all(&port.to_le_bytes());
        }
    }
    Ok(())
}

/// Connects with all others; none in the own place.
pub fn connect(
    id: [u8; 128],
    rank: usize,
    world_size: usize,
    ended: &Ended,
) -> io::Result<Vec<Option<TcpStream>>> {
    let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0))?;
    let port = u32::from(listener.local_addr()?.port());
    let mut root = dial(u32::from(u16::from_le_bytes([id[0], id[1]])))?;
    for number in [world_size as u32, rank as u32, port] {
        root.write_all(&number.to_le_bytes())?;
    }
    let mut streams: Vec<Option<TcpStream>> = Vec::new();
    for peer in 0..world_size {
        let [port] = ended.numbers(&root)?;
        streams.push(None);
        if peer < rank {
            let mut stream = dial(port)?;
            stream.write_all(&(rank as u32).to_le_bytes())?;
            streams[peer] = Some(stream);
        }
    }
    for _ in rank + 1..world_size {
        let stream = ended.accept(&listener)?;
        stream.set_nodelay(true)?;
        let [peer] = ended.numbers(&stream)?;
        streams[peer as usize] = Some(stream);
    }
    Ok(streams)
}
