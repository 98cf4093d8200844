//! The rows of one shard: where each sample lies, what it is called, and what its bytes hash to.
//!
//! ```text
//! "perennial-rows-1"  rows u32  names u32 (bytes)
//! a row:  offset u64  bytes u32  width u32  height u32  class u32  end of its name u32  SHA-256 [32]
//! names, one after the other
//! ```
//!
//! Little endian. A row is looked up where it lies: what is kept in memory is what was read.

use bytes::Bytes;

use super::refuse_name;

const MAGIC: &[u8; 16] = b"perennial-rows-1";
const HEAD: usize = MAGIC.len() + 8;
const ROW: usize = 60;
/// Of a sample; file systems have no longer ones.
const LONGEST_NAME: usize = 1024;

/// Samples of a shard, at most: so the rows of one are read in one piece, and kept or let go in one piece.
pub(super) const MOST_ROWS: u32 = 1 << 14;

/// The rows of a shard, checked.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Rows {
    bytes: Bytes,
    len: usize,
}

/// A sample.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Entry {
    /// `CLASS/FILE` in what a pack says; in [`Rows`] the name of the file alone.
    pub relative: String,
    pub class: u32,
    /// Of its file within the shard; 0: it cannot be decoded and is in no shard.
    pub offset: u64,
    /// Of its file.
    pub bytes: u64,
    /// In pixels; 0 of one that cannot be decoded.
    pub width: u32,
    pub height: u32,
    pub sha256: [u8; 32],
}

// === impl Entry ===

impl Entry {
    pub fn is_broken(&self) -> bool {
        self.offset == 0
    }

    pub fn pixels(&self) -> u64 {
        u64::from(self.width) * u64::from(self.height)
    }

    fn end(&self) -> Option<u64> {
        self.offset.checked_add(self.bytes)
    }
}

// === impl Rows ===

impl Rows {
    /// # Panics
    /// When a sample has 4 GiB or more, or there are more than a shard may have.
    pub fn encode<'a>(entries: impl ExactSizeIterator<Item = &'a Entry>) -> Vec<u8> {
        let small = |number: u64| u32::try_from(number).expect("a sample is smaller than 4 GiB");
        assert!(entries.len() <= MOST_ROWS as usize);
        let count = entries.len();
        let mut rows = Vec::with_capacity(HEAD + count * (ROW + 24));
        let mut names = Vec::new();
        rows.extend_from_slice(MAGIC);
        rows.extend((count as u32).to_le_bytes());
        rows.extend(0u32.to_le_bytes());
        for entry in entries {
            names.extend_from_slice(entry.relative.as_bytes());
            rows.extend(entry.offset.to_le_bytes());
            let numbers = [
                small(entry.bytes),
                entry.width,
                entry.height,
                entry.class,
                small(names.len() as u64),
            ];
            numbers
                .iter()
                .for_each(|number| rows.extend(number.to_le_bytes()));
            rows.extend(entry.sha256);
        }
        rows[HEAD - 4..HEAD].copy_from_slice(&small(names.len() as u64).to_le_bytes());
        rows.extend(names);
        rows
    }

    /// Whether so many rows may have so many bytes.
    pub(super) fn may_have(bytes: u64, rows: u32) -> bool {
        let least = HEAD as u64 + u64::from(rows) * (ROW as u64 + 1);
        let most = HEAD as u64 + u64::from(rows) * (ROW + LONGEST_NAME) as u64;
        (least..=most).contains(&bytes)
    }

    /// Reads the rows of a shard of `shard_bytes` bytes. The reason is for the middle of a sentence.
    pub fn decode(bytes: Bytes, shard_bytes: u64) -> Result<Self, String> {
        if bytes.len() < HEAD || &bytes[..MAGIC.len()] != MAGIC {
            return Err("it does not begin as rows of a pack do".to_string());
        }
        let (rows, names) = (number(&bytes, HEAD - 8), number(&bytes, HEAD - 4));
        if rows == 0 || rows > MOST_ROWS {
            return Err(format!(
                "it says that it has {rows} rows, but 1 to {MOST_ROWS} may be"
            ));
        }
        let len = rows as usize;
        let expected = (HEAD + len * ROW) as u64 + u64::from(names);
        if bytes.len() as u64 != expected {
            let found = bytes.len();
            return Err(format!(
                "it has {found} bytes where its {rows} rows take {expected}"
            ));
        }
        let rows = Self { bytes, len };
        rows.check(shard_bytes)?;
        Ok(rows)
    }

    fn check(&self, shard_bytes: u64) -> Result<(), String> {
        let (mut name_end, mut taken) = (0, 0);
        let mut previous: Option<(u32, &str)> = None;
        for row in 0..self.len {
            let wrong = |reason: String| Err(format!("row {row}: {reason}"));
            let end = self.name_end(row);
            let longest = name_end + LONGEST_NAME;
            if end < name_end || end > longest || end > self.names().len() {
                return wrong(format!("its name ends at byte {end} of the names"));
            }
            let Ok(name) = std::str::from_utf8(&self.names()[name_end..end]) else {
                return wrong("its name is not UTF-8".to_string());
            };
            if let Err(reason) = refuse_name(name) {
                return wrong(reason);
            }
            let entry = self.fields(row);
            if previous.is_some_and(|previous| previous >= (entry.class, name)) {
                return wrong(format!("`{}` is not in order", name.escape_debug()));
            }
            if !entry.is_broken() {
                let (offset, bytes) = (entry.offset, entry.bytes);
                let fits = entry.end().is_some_and(|end| end <= shard_bytes);
                if offset < taken || !fits || bytes == 0 {
                    return wrong(format!(
                        "`{}` cannot be {bytes} bytes from byte {offset} of a shard of {shard_bytes} on",
                        name.escape_debug()
                    ));
                }
                taken = offset + bytes;
            }
            (name_end, previous) = (end, Some((entry.class, name)));
        }
        if name_end != self.names().len() {
            return Err("there are bytes behind the last name".to_string());
        }
        Ok(())
    }

    #[expect(clippy::len_without_is_empty, reason = "there is always a row")]
    pub fn len(&self) -> usize {
        self.len
    }

    /// Bytes of memory.
    pub fn size(&self) -> usize {
        self.bytes.len()
    }

    pub fn class(&self, row: usize) -> u32 {
        number(&self.bytes, HEAD + row * ROW + 20)
    }

    pub fn is_broken(&self, row: usize) -> bool {
        self.fields(row).is_broken()
    }

    /// The name of the file.
    pub fn name(&self, row: usize) -> &str {
        let start = row.checked_sub(1).map_or(0, |before| self.name_end(before));
        let name = &self.names()[start..self.name_end(row)];
        std::str::from_utf8(name).expect("names were checked")
    }

    /// # Panics
    /// When there is no such row.
    pub fn entry(&self, row: usize) -> Entry {
        Entry {
            relative: self.name(row).to_string(),
            ..self.fields(row)
        }
    }

    pub fn entries(&self) -> impl ExactSizeIterator<Item = Entry> {
        (0..self.len).map(|row| self.entry(row))
    }

    /// All of a row but its name.
    fn fields(&self, row: usize) -> Entry {
        let at = HEAD + row * ROW;
        let offset = self.bytes[at..at + 8].try_into().expect("eight bytes");
        Entry {
            relative: String::new(),
            offset: u64::from_le_bytes(offset),
            bytes: u64::from(number(&self.bytes, at + 8)),
            width: number(&self.bytes, at + 12),
            height: number(&self.bytes, at + 16),
            class: number(&self.bytes, at + 20),
            sha256: self.bytes[at + 28..at + ROW].try_into().expect("32 bytes"),
        }
    }

    fn name_end(&self, row: usize) -> usize {
        number(&self.bytes, HEAD + row * ROW + 24) as usize
    }

    fn names(&self) -> &[u8] {
        &self.bytes[HEAD + self.len * ROW..]
    }
}

fn number(bytes: &[u8], at: usize) -> u32 {
    u32::from_le_bytes(bytes[at..at + 4].try_into().expect("four bytes"))
}
