//! A shard: a tar file (POSIX.1-1988, ustar) in which each sample is two members with one key.

use tar::Header;

const BLOCK: u64 = 512;

/// The bytes that a sample with a file of `size` bytes takes: two headers, the file, and its class.
pub(super) fn room(size: u64) -> u64 {
    let file = size.checked_next_multiple_of(BLOCK).unwrap_or(u64::MAX);
    file.saturating_add(3 * BLOCK)
}

/// A shard in the making. Equal samples give equal bytes: no time, no owner.
#[derive(Debug, Default)]
pub(super) struct ShardFile {
    bytes: Vec<u8>,
}

// === impl ShardFile ===

impl ShardFile {
    /// One that does not grow while samples with files of these sizes are added.
    pub fn with_room_for(sizes: &[u64]) -> Self {
        let bytes = sizes.iter().map(|size| room(*size)).sum::<u64>() + 2 * BLOCK;
        Self {
            bytes: Vec::with_capacity(usize::try_from(bytes).unwrap_or_default()),
        }
    }

    /// Adds a sample and returns the offset of its file. `place` is its place on its side, which is its key,
    /// for a key must not have dots in it; `name` is its file's, of which the ending is kept.
    pub fn add(&mut self, place: usize, name: &str, file: &[u8], class: u32) -> u64 {
        let ending = name.rsplit_once('.').map_or("bin", |(_, ending)| ending);
        let ending = ending.to_ascii_lowercase();
        let offset = self.member(&format!("{place:09}.{ending}"), file);
        self.member(&format!("{place:09}.cls"), class.to_string().as_bytes());
        offset
    }

    /// The whole file.
    pub fn finish(mut self) -> Vec<u8> {
        // The end is two blocks of zeros.
        self.bytes.resize(self.bytes.len() + 2 * BLOCK as usize, 0);
        self.bytes
    }

    fn member(&mut self, name: &str, content: &[u8]) -> u64 {
        let mut header = Header::new_ustar();
        header
            .set_path(name)
            .expect("a key and an ending are a short path");
        header.set_size(content.len() as u64);
        header.set_mode(0o644);
        header.set_uid(0);
        header.set_gid(0);
        header.set_mtime(0);
        header.set_cksum();
        self.bytes.extend_from_slice(header.as_bytes());
        let offset = self.bytes.len();
        self.bytes.extend_from_slice(content);
        self.bytes
            .resize(self.bytes.len().next_multiple_of(BLOCK as usize), 0);
        offset as u64
    }
}

#[cfg(test)]
mod tests {
    use std::io::Read;

    use super::*;

    #[test]
    fn a_tar_reader_finds_what_was_added_where_it_was_said_to_be() {
        let mut shard = ShardFile::default();
        let files = [vec![7; 700], vec![8; 512], vec![9]];
        let mut offsets = Vec::new();
        let mut room_taken = 0;
        for (place, file) in files.iter().enumerate() {
            offsets.push(shard.add(place, "some.thing.JPG", file, 10 + place as u32));
            room_taken += room(file.len() as u64);
        }
        let bytes = shard.finish();
        assert_eq!(bytes.len() as u64, room_taken + 1024);
        for (offset, file) in offsets.iter().zip(&files) {
            let at = *offset as usize;
            assert_eq!(bytes[at..at + file.len()], file[..]);
        }
        let mut archive = tar::Archive::new(&bytes[..]);
        let members: Vec<(String, Vec<u8>)> = (archive.entries().unwrap())
            .map(|entry| {
                let mut entry = entry.unwrap();
                assert_eq!(entry.header().mtime().unwrap(), 0);
                assert!(entry.header().as_ustar().is_some());
                let mut content = Vec::new();
                entry.read_to_end(&mut content).unwrap();
                (entry.path().unwrap().display().to_string(), content)
            })
            .collect();
        let names: Vec<&str> = members.iter().map(|(name, _)| name.as_str()).collect();
        let expected = [
            "000000000.jpg",
            "000000000.cls",
            "000000001.jpg",
            "000000001.cls",
            "000000002.jpg",
            "000000002.cls",
        ];
        assert_eq!(names, expected);
        assert_eq!(members[2].1, files[1]);
        assert_eq!(members[5].1, b"12");
    }
}
