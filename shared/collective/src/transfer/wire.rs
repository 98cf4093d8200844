//! What goes over a connection between a follower and its source. Numbers are little-endian.
//!
//! Hello: magic, version u32, job length u32, job, whether the follower has a replica u32, its step u64.
//! Reply: magic, verdict u32. Then the follower sends single bytes, [`ASK`] or [`ALIVE`], and the server
//! one head for each `ASK`: kind u8, step u64, hash u64, length u64, xxh3 of these. A body of that length
//! follows in chunks of at most 1 MiB, each behind its xxh3 seeded with its number, and at last the xxh3 of
//! the whole.

use std::io::{self, Read, Write};

use xxhash_rust::xxh3::{Xxh3, xxh3_64, xxh3_64_with_seed};

pub(super) const MAGIC: [u8; 8] = *b"PERENREP";
pub(super) const VERSION: u32 = 1;
pub(super) const MAX_JOB: usize = 1024;

/// The follower wants what comes next.
pub(super) const ASK: u8 = b'+';
/// The follower is busy with what it has.
pub(super) const ALIVE: u8 = b'.';

/// The longest body in bytes; a longer one is refused before memory is taken for it.
pub(super) const MAX_LENGTH: u64 = 1 << 36;
const CHUNK: usize = 1 << 20;
const HEAD: usize = 1 + 3 * 8 + 8;

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[repr(u32)]
pub(super) enum Verdict {
    Welcome = 0,
    OtherVersion = 1,
    OtherJob = 2,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[repr(u8)]
pub(super) enum Kind {
    /// The answer: nothing new.
    Idle = 0,
    /// The answer is still to come.
    Wait = 1,
    Snapshot = 2,
    Delta = 3,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Head {
    pub kind: Kind,
    pub global_step: u64,
    pub hash: u64,
    pub length: u64,
}

#[derive(Debug)]
pub(super) enum ReadError {
    Connection(io::Error),
    Corrupt(String),
}

// === impl ReadError ===

impl From<io::Error> for ReadError {
    fn from(error: io::Error) -> Self {
        Self::Connection(error)
    }
}

// === impl Head ===

impl Head {
    pub fn bare(kind: Kind) -> Self {
        Self {
            kind,
            global_step: 0,
            hash: 0,
            length: 0,
        }
    }

    pub fn write(&self, stream: &mut impl Write) -> io::Result<()> {
        let mut bytes = Vec::with_capacity(HEAD);
        bytes.push(self.kind as u8);
        bytes.extend(self.global_step.to_le_bytes());
        bytes.extend(self.hash.to_le_bytes());
        bytes.extend(self.length.to_le_bytes());
        bytes.extend(xxh3_64(&bytes).to_le_bytes());
        stream.write_all(&bytes)
    }

    pub fn read(stream: &mut impl Read) -> Result<Self, ReadError> {
        let mut bytes = [0; HEAD];
        stream.read_exact(&mut bytes)?;
        let (words, _) = bytes[1..].as_chunks::<8>();
        let words = [0, 1, 2, 3].map(|word| u64::from_le_bytes(words[word]));
        let [global_step, hash, length, checksum] = words;
        let kinds = [Kind::Idle, Kind::Wait, Kind::Snapshot, Kind::Delta];
        let kind = kinds.into_iter().find(|kind| *kind as u8 == bytes[0]);
        let (Some(kind), true) = (kind, xxh3_64(&bytes[..HEAD - 8]) == checksum) else {
            return Err(ReadError::Corrupt("the head of a message".to_owned()));
        };
        if length > MAX_LENGTH {
            return Err(ReadError::Corrupt(format!(
                "a message of `{length}` bytes is above the limit of {MAX_LENGTH}"
            )));
        }
        Ok(Self {
            kind,
            global_step,
            hash,
            length,
        })
    }

    pub fn write_body(stream: &mut impl Write, body: &[u8]) -> io::Result<()> {
        let mut whole = Xxh3::new();
        for (number, chunk) in (0u64..).zip(body.chunks(CHUNK)) {
            stream.write_all(&xxh3_64_with_seed(chunk, number).to_le_bytes())?;
            stream.write_all(chunk)?;
            whole.update(chunk);
        }
        stream.write_all(&whole.digest().to_le_bytes())
    }

    /// Reads the body that belongs to this head. Memory is taken as it arrives.
    pub fn read_body(&self, stream: &mut impl Read) -> Result<Vec<u8>, ReadError> {
        let name = match self.kind {
            Kind::Delta => "change",
            _ => "snapshot",
        };
        let step = self.global_step;
        let mut left = self.length;
        let mut body = Vec::new();
        // Pages are taken only as bytes arrive in them.
        if body.try_reserve_exact(left as usize).is_err() {
            return Err(ReadError::Corrupt(format!(
                "the {name} of step `{step}` has `{left}` bytes, more than there is memory"
            )));
        }
        let mut whole = Xxh3::new();
        for number in 0u64.. {
            if left == 0 {
                break;
            }
            let expected = read_u64(stream)?;
            let start = body.len();
            let length = left.min(CHUNK as u64);
            body.resize(start + length as usize, 0);
            let chunk = &mut body[start..];
            stream.read_exact(chunk)?;
            if xxh3_64_with_seed(chunk, number) != expected {
                return Err(ReadError::Corrupt(format!(
                    "chunk `{number}` of the {name} of step `{step}`"
                )));
            }
            whole.update(chunk);
            left -= length;
        }
        if read_u64(stream)? != whole.digest() {
            return Err(ReadError::Corrupt(format!(
                "the {name} of step `{step}` as a whole"
            )));
        }
        Ok(body)
    }
}

fn read_u64(stream: &mut impl Read) -> io::Result<u64> {
    let mut bytes = [0; 8];
    stream.read_exact(&mut bytes)?;
    Ok(u64::from_le_bytes(bytes))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn message(length: usize) -> (Head, Vec<u8>, Vec<u8>) {
        let body: Vec<u8> = (0..length)
            .map(|byte| (byte * 7 + byte / 251) as u8)
            .collect();
        let head = Head {
            kind: Kind::Snapshot,
            global_step: 9,
            hash: 5,
            length: length as u64,
        };
        let mut bytes = Vec::new();
        head.write(&mut bytes).unwrap();
        Head::write_body(&mut bytes, &body).unwrap();
        (head, body, bytes)
    }

    fn read(mut bytes: &[u8]) -> Result<(Head, Vec<u8>), ReadError> {
        let head = Head::read(&mut bytes)?;
        let body = head.read_body(&mut bytes)?;
        assert!(bytes.is_empty());
        Ok((head, body))
    }

    #[test]
    fn a_message_comes_back_as_it_was_sent() {
        for length in [0, 1, CHUNK - 1, CHUNK, CHUNK + 1, 3 * CHUNK] {
            let (head, body, bytes) = message(length);
            assert!(read(&bytes).unwrap() == (head, body), "{length}");
        }
    }

    #[test]
    fn a_changed_byte_is_found_and_its_chunk_named() {
        let (_, _, bytes) = message(3 * CHUNK);
        for (place, name) in [
            (0, "head"),
            (HEAD - 1, "head"),
            (HEAD, "chunk `0`"),
            (HEAD + 8 + CHUNK / 2, "chunk `0`"),
            (HEAD + 2 * (8 + CHUNK) + 9, "chunk `2`"),
            (bytes.len() - 1, "as a whole"),
        ] {
            let mut changed = bytes.clone();
            changed[place] ^= 1;
            match read(&changed) {
                Err(ReadError::Corrupt(reason)) => assert!(reason.contains(name), "{reason}"),
                other => panic!("{other:?}"),
            }
        }
    }

    #[test]
    fn chunks_in_another_order_are_found() {
        let (_, _, bytes) = message(2 * CHUNK);
        let (head, rest) = bytes.split_at(HEAD);
        let (first, rest) = rest.split_at(8 + CHUNK);
        let (second, whole) = rest.split_at(8 + CHUNK);
        let swapped = [head, second, first, whole].concat();
        assert!(matches!(read(&swapped), Err(ReadError::Corrupt(_))));
    }

    #[test]
    fn a_message_cut_short_is_a_closed_connection() {
        let (_, _, bytes) = message(CHUNK + 5);
        for cut in [0, 1, HEAD - 1, HEAD, HEAD + 8, HEAD + 50, bytes.len() - 1] {
            let result = read(&bytes[..cut]);
            assert!(matches!(result, Err(ReadError::Connection(_))), "{cut}");
        }
    }

    #[test]
    fn an_endless_message_is_refused_before_memory_is_taken() {
        let mut bytes = Vec::new();
        let endless = Head {
            length: MAX_LENGTH + 1,
            ..Head::bare(Kind::Delta)
        };
        endless.write(&mut bytes).unwrap();
        match Head::read(&mut bytes.as_slice()) {
            Err(ReadError::Corrupt(reason)) => assert!(reason.contains("limit"), "{reason}"),
            other => panic!("{other:?}"),
        }
    }
}
