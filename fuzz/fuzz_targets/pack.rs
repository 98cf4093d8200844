//! The index of a pack: an error, or one that is written and read again as the same one. What is opened with it
//! reads its samples or says why not.

#![no_main]

use libfuzzer_sys::fuzz_target;
use perennial_data::DataSet;
use perennial_data::pack::{HEADER, Header, Pack, Rows, ShardInfo, SideIndex, Split};
use perennial_fuzz::run;
use perennial_plan::spec::DataSpec;
use perennial_store::Store;
use perennial_store::tensors::sha256;

const SHARD: &[u8] = &[7; 8192];

fuzz_target!(|bytes: &[u8]| {
    let Some((what, bytes)) = bytes.split_first() else {
        return;
    };
    if what % 2 == 0 {
        header(bytes);
    } else {
        rows(bytes);
    }
});

/// A header is read as it is, and with the hash that it would have if it were ours.
fn header(bytes: &[u8]) {
    let mut read = Header::decode(bytes);
    if let Ok(header) = serde_json::from_slice::<Header>(bytes) {
        read = Header::decode(&header.encode().1);
    }
    let Ok(header) = read else { return };
    let (again, json) = header.clone().encode();
    assert_eq!(again, header);
    assert_eq!(Header::decode(&json).as_ref(), Ok(&header));
    open(&json, None);
}

fn rows(bytes: &[u8]) {
    let Ok(rows) = Rows::decode(bytes.to_vec().into(), SHARD.len() as u64) else {
        return;
    };
    let entries: Vec<_> = rows.entries().collect();
    assert_eq!(Rows::encode(entries.iter()), bytes);
    let classes = entries.iter().map(|entry| entry.class).max().map_or(1, |most| most as usize + 1);
    if classes > 1000 {
        return;
    }
    let names = (0..classes).map(|class| format!("{class:04}")).collect();
    let mut header = Header::new(names, Vec::new(), Split::Folder);
    let mut class_counts = vec![0; classes];
    entries.iter().for_each(|entry| class_counts[entry.class as usize] += 1);
    let side = SideIndex {
        class_counts,
        shards: vec![ShardInfo {
            samples: entries.len() as u32,
            bytes: SHARD.len() as u64,
            rows_sha256: sha256(bytes),
            rows_bytes: bytes.len() as u64,
        }],
    };
    (header.train, header.val) = (side.clone(), side);
    open(&header.encode().1, Some(bytes));
}

/// Opens a pack with this header and, for both sides, these rows and a shard.
fn open(header: &[u8], rows: Option<&[u8]>) {
    let store = Store::in_memory();
    let create = |name: &str, bytes: &[u8]| {
        run(store.create(name, bytes.to_vec())).expect("memory takes everything");
    };
    create(HEADER, header);
    for (side, rows) in ["train", "val"].into_iter().zip([rows; 2]) {
        let Some(rows) = rows else { continue };
        create(&format!("{side}-000000.idx"), rows);
        create(&format!("{side}-000000.tar"), SHARD);
    }
    let spec = DataSpec::default();
    let Ok(data) = Pack::read("memory", store).map_err(Into::into).and_then(|pack| DataSet::of_pack(pack, &spec)) else {
        return;
    };
    let first = &data.train[..data.train.len().min(8)];
    assert_eq!(data.read_all(first).len(), first.len());
    if rows.is_some() {
        let last = data.val.last().expect("a side has samples");
        assert!(data.relative(last).is_ok(), "rows that were checked are found again");
        assert!(data.fingerprint().is_ok());
    }
}
