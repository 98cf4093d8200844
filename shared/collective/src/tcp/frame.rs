//! Frames: generation, sequence number, length of the head and number of bodies, the length of each body
//! in numbers, all as little-endian u64; then the head and the bodies of a message. A frame without number
//! and message is a keep-alive.

use std::io::{self, Read, Write};

use crate::message::Message;
use crate::silence::is_silence;
use crate::slice::{Buffers, Slice};

/// Bytes of the four numbers with which a frame begins.
const HEADER: usize = 32;

/// The longest frame in bytes; a longer one is refused before memory is taken for it.
pub(super) const MAX_LENGTH: usize = 1 << 30;

/// Stands in a keep-alive for the sequence number.
const NO_SEQUENCE: u64 = u64::MAX;

#[derive(Debug)]
pub(super) enum ReadError {
    Silent,
    Closed(String),
    Faulty(String),
}

/// Bytes of the frame of a message.
pub(super) fn length(message: &Message) -> usize {
    let bodies = message.bodies.iter();
    let numbers: usize = bodies.map(|body| body.values().len()).sum();
    HEADER + 8 * message.bodies.len() + message.head.len() + 4 * numbers
}

pub(super) fn write(
    stream: &mut impl Write,
    generation: u64,
    sequence: u64,
    message: &Message,
) -> io::Result<()> {
    let bodies = &message.bodies;
    let mut start = Vec::with_capacity(HEADER + 8 * bodies.len() + message.head.len());
    let numbers = [
        generation,
        sequence,
        message.head.len() as u64,
        bodies.len() as u64,
    ];
    let lengths = bodies.iter().map(|body| body.values().len() as u64);
    for number in numbers.into_iter().chain(lengths) {
        start.extend(number.to_le_bytes());
    }
    start.extend(&message.head);
    stream.write_all(&start)?;
    for body in bodies {
        stream.write_all(bytemuck::cast_slice(body.values()))?;
    }
    Ok(())
}

/// Says that the sender of `generation` is alive and has nothing to send.
pub(super) fn write_keep_alive(stream: &mut impl Write, generation: u64) -> io::Result<()> {
    let nothing = Message {
        head: Vec::new(),
        bodies: Vec::new(),
    };
    write(stream, generation, NO_SEQUENCE, &nothing)
}

/// Reads the frame with this number of this generation, and all keep-alives before it.
pub(super) fn read(
    stream: &mut impl Read,
    generation: u64,
    sequence: u64,
    buffers: &Buffers,
) -> Result<Message, ReadError> {
    let [their_generation, their_sequence, head, bodies] = loop {
        let numbers = read_numbers(stream, HEADER / 8)?;
        let numbers = [0, 1, 2, 3].map(|at| numbers[at]);
        if numbers != [generation, NO_SEQUENCE, 0, 0] {
            break numbers;
        }
    };
    if their_generation != generation || their_sequence != sequence {
        return Err(ReadError::Faulty(format!(
            "frame `{their_sequence}` of generation `{their_generation}` came instead of frame \
             `{sequence}` of generation `{generation}`"
        )));
    }
    let fits = |length: u64| {
        if length <= MAX_LENGTH as u64 {
            return Ok(());
        }
        Err(ReadError::Faulty(format!(
            "a frame of `{length}` bytes is above the limit of {MAX_LENGTH}"
        )))
    };
    let start = bodies.saturating_mul(8).saturating_add(head);
    fits(start)?;
    let lengths = read_numbers(stream, bodies as usize)?;
    let numbers = lengths
        .iter()
        .fold(0, |sum: u64, more| sum.saturating_add(*more));
    fits(numbers.saturating_mul(4).saturating_add(start))?;
    let mut message = Message {
        head: vec![0; head as usize],
        bodies: Vec::with_capacity(lengths.len()),
    };
    stream.read_exact(&mut message.head).map_err(failed)?;
    for length in lengths {
        let mut body = buffers.take(length as usize);
        stream
            .read_exact(bytemuck::cast_slice_mut(&mut body))
            .map_err(failed)?;
        message.bodies.push(Slice::new(body, Some(buffers)));
    }
    Ok(message)
}

fn read_numbers(stream: &mut impl Read, count: usize) -> Result<Vec<u64>, ReadError> {
    let mut bytes = vec![0; 8 * count];
    stream.read_exact(&mut bytes).map_err(failed)?;
    let (numbers, _) = bytes.as_chunks::<8>();
    Ok(numbers
        .iter()
        .map(|number| u64::from_le_bytes(*number))
        .collect())
}

fn failed(error: io::Error) -> ReadError {
    match error.kind() {
        _ if is_silence(&error) => ReadError::Silent,
        io::ErrorKind::UnexpectedEof => ReadError::Closed("it closed the connection".to_owned()),
        _ => ReadError::Closed(error.to_string()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn message() -> Message {
        let values = Slice::new(vec![1.5, -2.0, 3.25], None);
        Message {
            head: b"sum".to_vec(),
            bodies: vec![
                values.part(&(0..2)),
                values.part(&(2..3)),
                values.part(&(1..1)),
            ],
        }
    }

    fn written() -> Vec<u8> {
        let mut bytes = Vec::new();
        write(&mut bytes, 7, 3, &message()).unwrap();
        bytes
    }

    fn read(mut bytes: &[u8], generation: u64, sequence: u64) -> Result<Message, ReadError> {
        super::read(&mut bytes, generation, sequence, &Buffers::default())
    }

    #[track_caller]
    fn is_the_message(read: Result<Message, ReadError>) {
        let read = read.unwrap();
        assert_eq!(read.head, b"sum");
        let bodies: Vec<&[f32]> = read.bodies.iter().map(Slice::values).collect();
        assert_eq!(bodies, [&[1.5, -2.0][..], &[3.25], &[]]);
    }

    #[test]
    fn a_frame_comes_back_as_it_was_sent() {
        let bytes = written();
        assert_eq!(bytes.len(), length(&message()));
        is_the_message(read(&bytes, 7, 3));
    }

    #[test]
    fn keep_alives_are_passed_over_unless_they_are_stale() {
        let mut bytes = Vec::new();
        write_keep_alive(&mut bytes, 7).unwrap();
        write_keep_alive(&mut bytes, 7).unwrap();
        bytes.extend(written());
        is_the_message(read(&bytes, 7, 3));
        let stale = read(&bytes[..HEADER], 8, 3);
        assert!(matches!(stale, Err(ReadError::Faulty(_))));
    }

    #[test]
    fn a_stale_repeated_or_endless_frame_is_faulty() {
        #[track_caller]
        fn faulty(result: Result<Message, ReadError>) {
            assert!(matches!(result, Err(ReadError::Faulty(_))));
        }
        let bytes = written();
        faulty(read(&bytes, 8, 3));
        faulty(read(&bytes, 7, 4));
        // Of the head, of the number of bodies, and of one body.
        for place in [16, 24, HEADER] {
            for length in [u64::MAX, MAX_LENGTH as u64 + 1] {
                let mut endless = bytes.clone();
                endless[place..place + 8].copy_from_slice(&length.to_le_bytes());
                faulty(read(&endless, 7, 3));
            }
        }
    }

    #[test]
    fn a_frame_cut_short_is_a_closed_connection() {
        let bytes = written();
        for cut in 0..bytes.len() {
            let result = read(&bytes[..cut], 7, 3);
            assert!(matches!(result, Err(ReadError::Closed(_))));
        }
    }
}
