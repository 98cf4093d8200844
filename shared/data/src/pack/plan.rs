//! Which samples go into which shard: a function of their order and sizes alone.

use std::ops::Range;

use super::rows::MOST_ROWS;
use super::shard::room;

/// Cuts a side into shards of up to `shard_bytes` bytes; a sample that is larger has one to itself. `sizes`
/// are those of the files, in order.
pub(super) fn plan(sizes: &[u64], shard_bytes: u64) -> Vec<Range<usize>> {
    let mut shards = Vec::new();
    let (mut start, mut bytes) = (0, 0u64);
    for (place, size) in sizes.iter().enumerate() {
        let room = room(*size);
        let full = bytes.saturating_add(room) > shard_bytes || place - start == MOST_ROWS as usize;
        if full && place > start {
            shards.push(start..place);
            (start, bytes) = (place, 0);
        }
        bytes = bytes.saturating_add(room);
    }
    if start < sizes.len() {
        shards.push(start..sizes.len());
    }
    shards
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_sample_is_in_one_shard_and_no_shard_is_too_large() {
        // A sample of 100 bytes takes a header and a block, twice.
        assert_eq!(room(100), 2048);
        let sizes = [100; 7];
        assert_eq!(plan(&sizes, 3 * 2048), [0..3, 3..6, 6..7]);
        assert_eq!(plan(&sizes, 3 * 2048 - 1), [0..2, 2..4, 4..6, 6..7]);
        assert_eq!(plan(&sizes, 1), [0..1, 1..2, 2..3, 3..4, 4..5, 5..6, 6..7]);
        assert_eq!(plan(&[100, 1 << 30, 100], 1 << 20), [0..1, 1..2, 2..3]);
        assert_eq!(plan(&[], 1 << 20), []);
        let many = vec![0; MOST_ROWS as usize + 1];
        assert_eq!(plan(&many, u64::MAX).len(), 2);
    }
}
