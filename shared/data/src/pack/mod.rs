//! A folder of pictures as tar shards and an index, in another folder or in an S3 bucket.
//!
//! ```text
//! PACK.json           the header: classes, split, shards, what cannot be decoded. Written last
//! train-000000.tar    ustar: KEY.jpg with the file as it was, KEY.cls with the number of its class, ...
//! train-000000.idx    one row a sample of that shard: name, class, offset, length, size, SHA-256
//! val-000000.tar ...
//! ```
//!
//! The shards are those of the `webdataset` package, which needs nothing of the rest. A pack is the folder it
//! was made of: names, classes, order, split and fingerprint are those of the folder, so that a job ends
//! with the same weights on either. Objects are created and never overwritten, and their bytes are a
//! function of the folder and the flags: whoever packs again goes on where the first one was interrupted.
//!
//! Opening a pack reads the header alone. The rows of a shard are read when one of its samples is first
//! needed, a sample when it is first needed; either is used only after its SHA-256 was seen to be right.

mod disk;
mod error;
mod header;
mod memory;
mod open;
mod plan;
mod reader;
mod rows;
mod shard;
mod write;

pub use error::PackError;
pub use header::{Broken, Header, ShardInfo, SideIndex, Split};
pub use reader::Pack;
pub use rows::{Entry, Rows};
pub use write::{Packed, Packing, Progress, pack_folder, pack_into};

pub(crate) use open::{all_of, data_set, open};

use std::path::Path;

use crate::data_set::Side;

/// The object that makes a pack exist.
pub const HEADER: &str = "PACK.json";

/// Whether `location` is where packs are: any address such as `s3://bucket/prefix`, or a folder with a pack in
/// it, be it one that was interrupted.
pub fn is_pack(location: &str) -> bool {
    let folder = location.strip_prefix("file://").unwrap_or(location);
    let has = |name: &str| Path::new(folder).join(name).is_file();
    folder.contains("://") || has(HEADER) || has(&shard_name(Side::Train, 0))
}

/// The name of a side's shard.
fn shard_name(side: Side, number: usize) -> String {
    format!("{}-{number:06}.tar", side.folder())
}

/// The name of the rows of a side's shard.
fn rows_name(side: Side, number: usize) -> String {
    format!("{}-{number:06}.idx", side.folder())
}

/// Why a name is none of a class or of a file in its folder.
fn refuse_name(name: &str) -> Result<(), String> {
    let refused = |why: &str| Err(format!("the name `{}` {why}", name.escape_debug()));
    if name.is_empty() {
        return refused("is empty");
    }
    if name.starts_with('.') {
        return refused("begins with a dot");
    }
    if name.contains(['/', '\0']) {
        return refused("leads out of its folder");
    }
    Ok(())
}
