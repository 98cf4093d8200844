//! Frames: generation, sequence number and length as little-endian u64, then the message.
//! A frame without number and message is a keep-alive.

use std::io::{self, Read, Write};

use crate::silence::is_silence;

/// Bytes before the message.
pub(super) const HEADER: usize = 24;

/// The longest message in bytes; a longer one is refused before memory is taken for it.
pub(super) const MAX_LENGTH: usize = 1 << 30;

/// Stands in a keep-alive for the sequence number.
const NO_SEQUENCE: u64 = u64::MAX;

#[derive(Debug)]
pub(super) enum ReadError {
    Silent,
    Closed(String),
    Faulty(String),
}

pub(super) fn write(
    stream: &mut impl Write,
    generation: u64,
    sequence: u64,
    message: &[u8],
) -> io::Result<()> {
    let mut header = Vec::with_capacity(HEADER);
    header.extend(generation.to_le_bytes());
    header.extend(sequence.to_le_bytes());
    header.extend((message.len() as u64).to_le_bytes());
    stream.write_all(&header)?;
    stream.write_all(message)
}

/// Says that the sender of `generation` is alive and has nothing to send.
pub(super) fn write_keep_alive(stream: &mut impl Write, generation: u64) -> io::Result<()> {
    write(stream, generation, NO_SEQUENCE, &[])
}

/// Reads the frame with this number of this generation, and all keep-alives before it.
pub(super) fn read(
    stream: &mut impl Read,
    generation: u64,
    sequence: u64,
) -> Result<Vec<u8>, ReadError> {
    let failed = |error: io::Error| match error.kind() {
        _ if is_silence(&error) => ReadError::Silent,
        io::ErrorKind::UnexpectedEof => ReadError::Closed("it closed the connection".to_owned()),
        _ => ReadError::Closed(error.to_string()),
    };
    let [their_generation, their_sequence, length] = loop {
        let mut header = [0; HEADER];
        stream.read_exact(&mut header).map_err(failed)?;
        let (words, _) = header.as_chunks::<8>();
        let words = [0, 1, 2].map(|word| u64::from_le_bytes(words[word]));
        if words != [generation, NO_SEQUENCE, 0] {
            break words;
        }
    };
    if their_generation != generation || their_sequence != sequence {
        return Err(ReadError::Faulty(format!(
            "frame `{their_sequence}` of generation `{their_generation}` came instead of frame \
             `{sequence}` of generation `{generation}`"
        )));
    }
    if length > MAX_LENGTH as u64 {
        return Err(ReadError::Faulty(format!(
            "a frame of `{length}` bytes is above the limit of {MAX_LENGTH}"
        )));
    }
    let mut message = vec![0; length as usize];
    stream.read_exact(&mut message).map_err(failed)?;
    Ok(message)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_frame_comes_back_as_it_was_sent() {
        let mut bytes = Vec::new();
        write(&mut bytes, 7, 3, b"sum").unwrap();
        assert_eq!(read(&mut bytes.as_slice(), 7, 3).unwrap(), b"sum");
    }

    #[test]
    fn keep_alives_are_passed_over_unless_they_are_stale() {
        let mut bytes = Vec::new();
        write_keep_alive(&mut bytes, 7).unwrap();
        write_keep_alive(&mut bytes, 7).unwrap();
        write(&mut bytes, 7, 3, b"sum").unwrap();
        assert_eq!(read(&mut bytes.as_slice(), 7, 3).unwrap(), b"sum");
        let stale = read(&mut &bytes[..HEADER], 8, 3);
        assert!(matches!(stale, Err(ReadError::Faulty(_))));
    }

    #[test]
    fn a_stale_repeated_or_endless_frame_is_faulty() {
        let mut bytes = Vec::new();
        write(&mut bytes, 7, 3, b"sum").unwrap();
        let faulty =
            |result: Result<_, ReadError>| assert!(matches!(result, Err(ReadError::Faulty(_))));
        faulty(read(&mut bytes.as_slice(), 8, 3));
        faulty(read(&mut bytes.as_slice(), 7, 4));
        bytes[16..24].copy_from_slice(&u64::MAX.to_le_bytes());
        faulty(read(&mut bytes.as_slice(), 7, 3));
    }

    #[test]
    fn a_frame_cut_short_is_a_closed_connection() {
        let mut bytes = Vec::new();
        write(&mut bytes, 7, 3, b"sum").unwrap();
        for cut in 0..bytes.len() {
            let result = read(&mut &bytes[..cut], 7, 3);
            assert!(matches!(result, Err(ReadError::Closed(_))));
        }
    }
}
