//! TensorBoard's event files: records of TFRecord's framing (a length and the bytes, each with its masked
//! CRC-32C), every one an `Event` of TensorFlow's `event.proto`.

use std::io::{self, Write};

use prost::{Message, Oneof};

/// The part of `event.proto` and `summary.proto` that scalars need, with its names and numbers.
#[derive(Clone, PartialEq, Message)]
pub struct Event {
    /// Seconds since 1970.
    #[prost(double, tag = "1")]
    pub wall_time: f64,
    #[prost(int64, tag = "2")]
    pub step: i64,
    #[prost(oneof = "What", tags = "3, 5, 7")]
    pub what: Option<What>,
}

#[derive(Clone, PartialEq, Oneof)]
pub enum What {
    /// The first event of a file.
    #[prost(string, tag = "3")]
    FileVersion(String),
    #[prost(message, tag = "5")]
    Summary(Summary),
    /// What other files of the folder have from this step on is void.
    #[prost(message, tag = "7")]
    SessionLog(SessionLog),
}

#[derive(Clone, PartialEq, Message)]
pub struct Summary {
    #[prost(message, repeated, tag = "1")]
    pub value: Vec<SummaryValue>,
}

#[derive(Clone, PartialEq, Message)]
pub struct SummaryValue {
    #[prost(string, tag = "1")]
    pub tag: String,
    #[prost(float, optional, tag = "2")]
    pub simple_value: Option<f32>,
}

#[derive(Clone, PartialEq, Message)]
pub struct SessionLog {
    #[prost(int32, tag = "1")]
    pub status: i32,
}

const VERSION: &str = "brain.Event:2";
/// `SessionLog.SessionStatus.START`.
const START: i32 = 1;

/// Writes an event file.
pub struct EventWriter<W> {
    out: W,
}

// === impl EventWriter ===

impl<W: Write> EventWriter<W> {
    /// A new file, at `wall_time` seconds since 1970.
    pub fn new(out: W, wall_time: f64) -> io::Result<Self> {
        let mut writer = Self { out };
        writer.event(wall_time, 0, What::FileVersion(VERSION.to_string()))?;
        Ok(writer)
    }

    /// What was written before for this step and later ones, also in other files of the folder, is void.
    pub fn restart(&mut self, wall_time: f64, step: u64) -> io::Result<()> {
        self.event(
            wall_time,
            step,
            What::SessionLog(SessionLog { status: START }),
        )
    }

    /// One value for each of these tags. Event files hold them as `f32`.
    pub fn scalars(&mut self, wall_time: f64, step: u64, values: &[(&str, f64)]) -> io::Result<()> {
        let value = |(tag, value): &(&str, f64)| SummaryValue {
            tag: tag.to_string(),
            simple_value: Some(*value as f32),
        };
        let value = values.iter().map(value).collect();
        self.event(wall_time, step, What::Summary(Summary { value }))
    }

    pub fn flush(&mut self) -> io::Result<()> {
        self.out.flush()
    }

    pub fn into_inner(self) -> W {
        self.out
    }

    fn event(&mut self, wall_time: f64, step: u64, what: What) -> io::Result<()> {
        let event = Event {
            wall_time,
            step: step as i64,
            what: Some(what),
        };
        let data = event.encode_to_vec();
        let length = (data.len() as u64).to_le_bytes();
        for part in [&length, data.as_slice()] {
            self.out.write_all(part)?;
            self.out.write_all(&masked_crc(part).to_le_bytes())?;
        }
        Ok(())
    }
}

/// TFRecord's mask: a CRC over data that holds CRCs would be weak.
fn masked_crc(data: &[u8]) -> u32 {
    let crc = crc32c::crc32c(data);
    crc.rotate_right(15).wrapping_add(0xa282_ead8)
}

#[cfg(test)]
mod tests {
    use super::*;

    /// The events of a file, whose checksums must be right.
    fn read(mut file: &[u8]) -> Vec<Event> {
        let mut events = Vec::new();
        while !file.is_empty() {
            let (head, rest) = file.split_at(12);
            let length = u64::from_le_bytes(head[..8].try_into().unwrap()) as usize;
            assert_eq!(masked_crc(&head[..8]).to_le_bytes(), head[8..]);
            let (data, rest) = rest.split_at(length);
            assert_eq!(masked_crc(data).to_le_bytes(), rest[..4]);
            events.push(Event::decode(data).unwrap());
            file = &rest[4..];
        }
        events
    }

    #[test]
    fn what_is_written_can_be_read() {
        let mut writer = EventWriter::new(Vec::new(), 10.5).unwrap();
        writer.restart(10.5, 7).unwrap();
        let values = [("train/loss", 1.25), ("train/top1", f64::NAN)];
        writer.scalars(11.0, 7, &values).unwrap();
        let events = read(&writer.into_inner());
        assert_eq!(events.len(), 3);
        assert_eq!(
            events[0].what,
            Some(What::FileVersion("brain.Event:2".into()))
        );
        assert_eq!(
            events[1].what,
            Some(What::SessionLog(SessionLog { status: 1 }))
        );
        assert_eq!((events[2].wall_time, events[2].step), (11.0, 7));
        let Some(What::Summary(summary)) = &events[2].what else {
            panic!("no summary: {events:?}");
        };
        assert_eq!(summary.value[0].tag, "train/loss");
        assert_eq!(summary.value[0].simple_value, Some(1.25));
        assert!(summary.value[1].simple_value.unwrap().is_nan());
    }

    /// The first record of every event file that TensorFlow 2 writes has this length and this checksum of it.
    #[test]
    fn the_framing_is_tensorflows() {
        let mut writer = EventWriter::new(Vec::new(), 1.0).unwrap();
        writer.flush().unwrap();
        let file = writer.into_inner();
        assert_eq!(file[..8], 24u64.to_le_bytes());
        assert_eq!(file[8..12], [0xa3, 0x7f, 0x4b, 0x22]);
    }
}
