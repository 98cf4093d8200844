//! What was read of a pack, on the local disk within a budget.
//!
//! Each shard has a file as long as itself, with holes where nothing was read yet: a sample lies where it
//! lies in the shard. Nothing says what is there: a reader looks whether the bytes have the right SHA-256, as
//! it does with those from the store. So a cache that was cut off, damaged or removed meanwhile costs another
//! read of the store and nothing else, and processes of one machine share it without a word. As with decoded
//! pictures, what is there stays: an epoch visits all samples in a new order each time, so none deserves the
//! room more than another. Other packs make room, the one that was opened longest ago first.

use std::fs::{self, File, OpenOptions};
use std::io::{self, Read, Seek, SeekFrom, Write};
use std::path::{Path, PathBuf};
use std::sync::Once;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::SystemTime;

/// The file that says that a folder is the cache of a pack. Its time is that of the pack's last opening.
const MARK: &str = "perennial-pack";
/// After so many bytes of its own the cache looks again what all processes together have written.
const LOOK_AGAIN: u64 = 64 << 20;
/// Disks give room in pieces of this many bytes.
const BLOCK: u64 = 4096;

/// The cache of one pack.
#[derive(Debug)]
pub(super) struct Disk {
    root: PathBuf,
    folder: PathBuf,
    budget: u64,
    used: AtomicU64,
    written: AtomicU64,
    off: AtomicBool,
}

// === impl Disk ===

impl Disk {
    /// The cache of pack `id` in the folder `root`, all of which takes up to `budget` bytes. The pack has
    /// `bytes` bytes, for which others may have to go.
    pub fn open(root: &Path, id: &str, bytes: u64, budget: u64) -> io::Result<Self> {
        let folder = root.join(id);
        fs::create_dir_all(&folder)?;
        fs::write(folder.join(MARK), b"")?;
        make_room(root, &folder, budget.saturating_sub(bytes.min(budget)))?;
        let disk = Self {
            used: AtomicU64::new(0),
            written: AtomicU64::new(0),
            off: AtomicBool::new(false),
            root: root.to_path_buf(),
            folder,
            budget,
        };
        disk.measure();
        Ok(disk)
    }

    /// What is at `offset` of the file `name`, right or wrong; nothing where it ends before.
    pub fn read(&self, name: &str, offset: u64, len: u64) -> Option<Vec<u8>> {
        let mut file = File::open(self.folder.join(name)).ok()?;
        if file.metadata().ok()?.len() < offset.checked_add(len)? {
            return None;
        }
        file.seek(SeekFrom::Start(offset)).ok()?;
        let mut bytes = vec![0; usize::try_from(len).ok()?];
        file.read_exact(&mut bytes).ok()?;
        Some(bytes)
    }

    /// Keeps bytes where they fit. A disk that is full or cannot be written ends the cache, not the run.
    pub fn write(&self, name: &str, offset: u64, bytes: &[u8]) {
        let room = (bytes.len() as u64).next_multiple_of(BLOCK) + BLOCK;
        if self.off.load(Ordering::Relaxed) {
            return;
        }
        if self.used.fetch_add(room, Ordering::Relaxed) + room > self.budget {
            self.used.fetch_sub(room, Ordering::Relaxed);
            return;
        }
        if let Err(error) = self.write_at(name, offset, bytes) {
            self.off.store(true, Ordering::Relaxed);
            static ONCE: Once = Once::new();
            let folder = self.folder.display();
            ONCE.call_once(|| {
                tracing::warn!(%folder, %error, "samples are not kept on this disk any more");
            });
            return;
        }
        let before = self.written.fetch_add(room, Ordering::Relaxed);
        if before / LOOK_AGAIN != (before + room) / LOOK_AGAIN {
            self.measure();
        }
    }

    /// Bytes of the disk that the caches of all packs take.
    pub fn used(&self) -> u64 {
        self.used.load(Ordering::Relaxed)
    }

    fn write_at(&self, name: &str, offset: u64, bytes: &[u8]) -> io::Result<()> {
        let mut options = OpenOptions::new();
        options.create(true).write(true).truncate(false);
        let mut file = options.open(self.folder.join(name))?;
        file.seek(SeekFrom::Start(offset))?;
        file.write_all(bytes)
    }

    fn measure(&self) {
        let packs = packs(&self.root).unwrap_or_default();
        let used = packs.iter().map(|pack| pack.bytes).sum();
        self.used.store(used, Ordering::Relaxed);
    }
}

/// The cache of some pack.
struct Cached {
    folder: PathBuf,
    opened: SystemTime,
    bytes: u64,
}

/// Removes the caches of packs other than that in `own`, the one that was opened longest ago first, until
/// they take up to `most` bytes.
fn make_room(root: &Path, own: &Path, most: u64) -> io::Result<()> {
    let mut others = packs(root)?;
    others.retain(|pack| pack.folder != own);
    others.sort_by_key(|pack| pack.opened);
    let mut bytes: u64 = others.iter().map(|pack| pack.bytes).sum();
    for pack in others {
        if bytes <= most {
            break;
        }
        fs::remove_dir_all(&pack.folder)?;
        bytes -= pack.bytes;
    }
    Ok(())
}

/// Only folders that this module made: whatever else is there is somebody's own.
fn packs(root: &Path) -> io::Result<Vec<Cached>> {
    let mut packs = Vec::new();
    for entry in fs::read_dir(root)? {
        let folder = entry?.path();
        let Ok(mark) = fs::metadata(folder.join(MARK)) else {
            continue;
        };
        let mut bytes = 0;
        for file in fs::read_dir(&folder)? {
            // Another process may remove it meanwhile.
            bytes += file?.metadata().map_or(0, |metadata| on_disk(&metadata));
        }
        packs.push(Cached {
            folder,
            opened: mark.modified().unwrap_or(SystemTime::UNIX_EPOCH),
            bytes,
        });
    }
    Ok(packs)
}

/// Bytes that a file takes, holes left out.
#[cfg(unix)]
fn on_disk(metadata: &fs::Metadata) -> u64 {
    use std::os::unix::fs::MetadataExt;
    metadata.blocks() * 512
}

#[cfg(not(unix))]
fn on_disk(metadata: &fs::Metadata) -> u64 {
    metadata.len()
}

#[cfg(test)]
mod tests {
    use super::*;

    const MIB: u64 = 1 << 20;

    #[test]
    fn what_fits_stays_where_it_lies_in_the_shard() {
        let root = tempfile::tempdir().unwrap();
        let disk = Disk::open(root.path(), "one", 0, MIB).unwrap();
        disk.write("train-000000.tar", 512, b"first");
        disk.write("train-000000.tar", 40_000, b"second");
        let read = |offset, len| disk.read("train-000000.tar", offset, len);
        assert_eq!(read(512, 5).unwrap(), b"first");
        assert_eq!(read(40_000, 6).unwrap(), b"second");
        assert_eq!(read(1000, 3).unwrap(), [0; 3], "a hole");
        assert_eq!(read(40_000, 7), None, "behind the end");
        assert_eq!(disk.read("train-000001.tar", 0, 1), None);
        let again = Disk::open(root.path(), "one", 0, MIB).unwrap();
        assert_eq!(again.read("train-000000.tar", 512, 5).unwrap(), b"first");
    }

    #[test]
    fn the_budget_is_kept_and_the_pack_of_longest_ago_makes_room() {
        let root = tempfile::tempdir().unwrap();
        let sample = vec![7; 100_000];
        let open = |id: &str| Disk::open(root.path(), id, MIB, MIB).unwrap();
        let fill = |disk: &Disk| {
            for number in 0..20 {
                disk.write("train-000000.tar", number * 100_000, &sample);
                assert!(disk.used() <= MIB);
            }
        };
        fill(&open("old"));
        let mine = root.path().join("mine.txt");
        fs::write(&mine, "precious").unwrap();
        let new = open("new");
        assert!(!root.path().join("old").exists());
        fill(&new);
        assert_eq!(new.read("train-000000.tar", 0, 100_000).unwrap(), sample);
        assert!(new.used() > MIB / 2);
        assert_eq!(fs::read_to_string(mine).unwrap(), "precious");
    }
}
