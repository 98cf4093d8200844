//! What is wrong with a pack is said in one sentence that names it.

use std::fs;

use perennial_data::pack::{Entry, Header, Pack, Rows, Split};
use perennial_data::{DataError, DataSet, Side};
use proptest::prelude::*;
use sha2::{Digest, Sha256};

use super::support::{Place, SMALL_SHARD, impatient, pictures, spec};

/// A pack in a folder, to be damaged.
struct Patient {
    place: Place,
    dir: tempfile::TempDir,
    header: Header,
}

impl Patient {
    fn new() -> Self {
        let (place, dir) = (Place::folder(), pictures());
        let header = place.pack(dir.path(), SMALL_SHARD).unwrap().header;
        Self { place, dir, header }
    }

    fn change(&self, name: &str, change: impl FnOnce(&mut Vec<u8>)) {
        let path = self.place.files.join(name);
        let mut bytes = fs::read(&path).unwrap();
        change(&mut bytes);
        fs::write(path, bytes).unwrap();
    }

    /// Writes a header that says of itself that it is sound.
    fn forge(&self, change: impl FnOnce(&mut Header)) {
        let mut header = self.header.clone();
        change(&mut header);
        let (_, json) = header.encode();
        fs::write(self.place.files.join("PACK.json"), json).unwrap();
    }

    /// Writes rows for the first shard, and a header that has their hash.
    fn forge_rows(&self, change: impl FnOnce(&mut Vec<Entry>)) {
        let shard = &self.header.train.shards[0];
        let name = self.place.files.join("train-000000.idx");
        let rows = Rows::decode(fs::read(&name).unwrap().into(), shard.bytes).unwrap();
        let mut entries: Vec<Entry> = rows.entries().collect();
        change(&mut entries);
        self.forge_bytes(Rows::encode(entries.iter()));
    }

    fn forge_bytes(&self, rows: Vec<u8>) {
        fs::write(self.place.files.join("train-000000.idx"), &rows).unwrap();
        self.forge(|header| {
            let shard = &mut header.train.shards[0];
            shard.rows_bytes = rows.len() as u64;
            let digest = Sha256::digest(&rows);
            shard.rows_sha256 = digest.iter().map(|byte| format!("{byte:02x}")).collect();
        });
    }

    fn open(&self) -> Result<DataSet, DataError> {
        let store = self.place.store().with_retry(impatient());
        let pack = Pack::read(self.place.url(), store)?;
        DataSet::of_pack(pack, &spec(self.dir.path()))
    }

    /// What is said when the pack is opened.
    fn refusal(&self) -> String {
        self.sentence(self.open().unwrap_err())
    }

    /// What is said when the first training sample is read.
    fn trouble(&self) -> String {
        let data = self.open().unwrap();
        let read = data.read_all(&data.train[..1]).pop().unwrap();
        self.sentence(read.unwrap_err())
    }

    fn sentence(&self, error: DataError) -> String {
        assert!(
            !error.may_be_local(),
            "every worker meets the same: {error}"
        );
        let said = error.to_string();
        assert!(said.contains(self.place.url()), "{said}");
        assert!(!said.contains('\n') && !said.ends_with('.'), "{said}");
        said
    }
}

fn assert_says(said: &str, words: &[&str]) {
    for word in words {
        assert!(said.contains(word), "`{word}` is not in: {said}");
    }
}

#[test]
fn a_missing_or_truncated_shard_is_named_with_the_sample() {
    let patient = Patient::new();
    let data = patient.open().unwrap();
    let first = data.relative(&data.train[0]).unwrap();
    let (name, wanted) = ("train-000000.tar", format!("sample `{first}`"));
    patient.change(name, |bytes| bytes.truncate(600));
    assert_says(&patient.trouble(), &[&wanted, name, "it has 600 bytes"]);
    patient.change(name, |bytes| bytes.truncate(100));
    assert_says(&patient.trouble(), &[&wanted, name, "it has 100 bytes"]);
    fs::remove_file(patient.place.files.join(name)).unwrap();
    assert_says(&patient.trouble(), &[&wanted, name, "does not exist"]);
    // The others are there.
    let last = data.train.len() - 1;
    assert!(data.read_all(&data.train[last..])[0].is_ok());
}

#[test]
fn a_shard_cut_off_on_a_server_is_named_as_well() {
    let (place, dir) = (Place::s3(), pictures());
    place.pack(dir.path(), SMALL_SHARD).unwrap();
    let path = place.files.join("train-000000.tar");
    let bytes = fs::read(&path).unwrap();
    for (len, words) in [(600, "it has 600 bytes"), (100, "it has 100 bytes")] {
        fs::write(&path, &bytes[..len]).unwrap();
        let data = place.open(&spec(dir.path())).unwrap();
        let read = data.read_all(&data.train[..1]).pop().unwrap();
        let error = read.unwrap_err();
        assert!(!error.may_be_local());
        let said = error.to_string();
        let sample = data.relative(&data.train[0]).unwrap();
        assert_says(
            &said,
            &[words, &sample, "train-000000.tar", "s3://bucket/a/pack"],
        );
    }
}

#[test]
fn a_wrong_hash_is_named_with_the_sample_and_its_place() {
    let patient = Patient::new();
    let data = patient.open().unwrap();
    let first = data.relative(&data.train[0]).unwrap();
    patient.change("train-000000.tar", |bytes| bytes[700] ^= 1);
    let said = patient.trouble();
    let sample = format!("sample `{first}`");
    assert_says(
        &said,
        &[&sample, "byte 512 of `train-000000.tar`", "SHA-256"],
    );
}

#[test]
fn damaged_rows_are_named() {
    let patient = Patient::new();
    let name = "train-000000.idx";
    let sound = fs::read(patient.place.files.join(name)).unwrap();
    patient.change(name, |bytes| bytes[100] ^= 1);
    assert_says(&patient.trouble(), &[name, "its SHA-256 is"]);
    patient.change(name, |bytes| bytes.truncate(50));
    assert_says(&patient.trouble(), &[name, "it has 50 bytes"]);
    fs::remove_file(patient.place.files.join(name)).unwrap();
    assert_says(&patient.trouble(), &[name, "does not exist"]);

    let mut cut = sound.clone();
    cut.truncate(sound.len() - 1);
    patient.forge_bytes(cut);
    assert_says(&patient.trouble(), &[name, "bytes where its"]);
    let mut many = sound.clone();
    many[16..20].copy_from_slice(&u32::MAX.to_le_bytes());
    patient.forge_bytes(many);
    assert_says(&patient.trouble(), &[name, "4294967295 rows"]);
    let mut other = sound;
    other[0] = b'x';
    patient.forge_bytes(other);
    assert_says(&patient.trouble(), &[name, "does not begin as"]);
}

#[test]
fn rows_that_cannot_be_are_refused() {
    let patient = Patient::new();
    let path = patient.place.files.join("train-000000.idx");
    let sound = fs::read(&path).unwrap();
    let refused = |words: &[&str], change: &dyn Fn(&mut Vec<Entry>)| {
        patient.forge_rows(change);
        let said = patient.trouble();
        assert_says(&said, &["train-000000.idx"]);
        assert_says(&said, words);
        fs::write(&path, &sound).unwrap();
    };
    for name in ["../../etc/passwd", "..", ".hidden", "x\0", ""] {
        refused(&["the name"], &|rows| rows[0].relative = name.into());
    }
    refused(&["cannot be"], &|rows| rows[2].bytes = 4_000_000_000);
    refused(&["cannot be"], &|rows| rows[2].offset = u64::MAX - 10);
    refused(&["cannot be"], &|rows| rows[2].offset = rows[1].offset);
    refused(&["cannot be"], &|rows| rows[2].bytes = 0);
    refused(&["is not in order"], &|rows| rows.swap(0, 1));
    refused(&["of class 9"], &|rows| {
        rows.last_mut().unwrap().class = 9;
    });
    refused(&["rows instead of"], &|rows| drop(rows.pop()));
    refused(&["is in no shard"], &|rows| rows[0].offset = 0);
}

#[test]
fn a_damaged_header_is_named() {
    let patient = Patient::new();
    let name = "PACK.json";
    let sound = fs::read(patient.place.files.join(name)).unwrap();
    for len in [0, 1, sound.len() / 2, sound.len() - 3] {
        fs::write(patient.place.files.join(name), &sound[..len]).unwrap();
        assert_says(&patient.refusal(), &[name]);
    }
    let text = String::from_utf8(sound.clone()).unwrap();
    for (from, to, words) in [
        ("\"a-b\"", "\"a-c\"", "its SHA-256 is"),
        (
            "\"format_version\": 1",
            "\"format_version\": 2",
            "format version 2",
        ),
        ("\"classes\"", "\"klasses\"", "klasses"),
    ] {
        let changed = text.replacen(from, to, 1);
        assert_ne!(changed, text);
        fs::write(patient.place.files.join(name), changed).unwrap();
        assert_says(&patient.refusal(), &[name, words]);
    }
    fs::remove_file(patient.place.files.join(name)).unwrap();
    assert_says(&patient.refusal(), &[name, "is not there", "data pack"]);
}

#[test]
fn a_header_that_cannot_be_is_refused_before_it_costs_anything() {
    let patient = Patient::new();
    let refused = |words: &str, change: &dyn Fn(&mut Header)| {
        patient.forge(change);
        assert_says(&patient.refusal(), &["PACK.json", words]);
    };
    refused("the name `../x`", &|header| {
        header.classes[0] = "../x".into()
    });
    refused("the name `..`", &|header| header.classes[0] = "..".into());
    refused("not in order", &|header| header.classes.swap(0, 1));
    refused("4294967295 samples", &|header| {
        header.train.shards[0].samples = u32::MAX;
    });
    refused("cannot have 18446744073709551615 bytes", &|header| {
        header.train.shards[0].rows_bytes = u64::MAX;
    });
    refused("its classes another number", &|header| {
        header.train.class_counts[0] = u64::MAX;
    });
    refused("its classes another number", &|header| {
        header.val.class_counts[0] += 1
    });
    refused("4 classes where there are 3", &|header| {
        header.val.class_counts.push(0)
    });
    refused("a side has no sample", &|header| {
        header.val.shards.clear();
        header.val.class_counts.fill(0);
    });
    refused("more than", &|header| {
        let mut shard = header.train.shards[0].clone();
        (shard.samples, shard.rows_bytes) = (1 << 14, 100 << 14);
        header.train.shards = vec![shard; 5000];
        header.train.class_counts = vec![5000 << 14, 0, 0];
    });
    refused("row 31 is broken", &|header| {
        header.broken.push(perennial_data::pack::Broken {
            row: 31,
            reason: "no".into(),
        });
    });
}

#[test]
fn sides_that_no_split_gives_are_refused_when_it_is_done_again() {
    let patient = Patient::new();
    patient.forge(|header| {
        header.split = Split::Fraction {
            val_fraction: 0.5,
            seed: 1,
            stratify: false,
        };
    });
    assert_says(&patient.refusal(), &["PACK.json", "its `split`"]);
}

#[test]
fn a_store_that_is_away_is_not_the_fault_of_the_pack() {
    let (place, dir) = (Place::folder(), pictures());
    place.pack(dir.path(), SMALL_SHARD).unwrap();
    let switch = place.files.with_extension("fails");
    let faults = perennial_store::Faults {
        rate: 1.0,
        only: vec![perennial_store::FaultKind::Timeout],
        while_file: Some(switch.clone()),
        ..Default::default()
    };
    let store = place.store().with_retry(impatient()).with_faults(faults);
    let data = DataSet::of_pack(Pack::read("pack", store).unwrap(), &spec(dir.path())).unwrap();
    fs::write(&switch, "").unwrap();
    let error = data.read_all(&data.train[..1]).pop().unwrap().unwrap_err();
    assert!(error.may_be_local(), "{error}");
    fs::remove_file(&switch).unwrap();
    assert!(data.read_all(&data.train[..1])[0].is_ok());
    assert_eq!(data.side(Side::Train).len(), data.train.len());
}

proptest! {
    #[test]
    fn rows_that_are_read_are_those_that_were_written(
        samples in prop::collection::btree_map(
            (0u32..3, "[^./\0][^/\0]{0,20}"), (1u64..5000, any::<[u8; 32]>(), any::<bool>()), 1..40
        )
    ) {
        let mut offset = 512;
        let entries: Vec<Entry> = samples
            .into_iter()
            .map(|((class, relative), (bytes, sha256, broken))| {
                let size = if broken { 0 } else { 7 };
                let entry = Entry {
                    relative, class, bytes, sha256,
                    offset: if broken { 0 } else { offset },
                    width: size, height: size,
                };
                offset += bytes;
                entry
            })
            .collect();
        let encoded = Rows::encode(entries.iter());
        let rows = Rows::decode(encoded.into(), offset).unwrap();
        prop_assert_eq!(rows.entries().collect::<Vec<_>>(), entries);
    }

    #[test]
    fn bytes_that_are_no_rows_are_refused_and_never_panic(
        at in 0usize..400, byte in any::<u8>(), cut in 0usize..400
    ) {
        let entries: Vec<Entry> = (0..4u32)
            .map(|place| Entry {
                relative: format!("{place}.png"),
                class: 0,
                offset: 512 + 1000 * u64::from(place),
                bytes: 900,
                width: 3,
                height: 3,
                sha256: [9; 32],
            })
            .collect();
        let mut bytes = Rows::encode(entries.iter());
        let at = at % bytes.len();
        bytes[at] ^= byte;
        bytes.truncate(cut.max(1));
        if let Ok(rows) = Rows::decode(bytes.into(), 1 << 20) {
            let again: Vec<Entry> = rows.entries().collect();
            prop_assert_eq!(Rows::encode(again.iter()).len(), rows.size());
        }
    }
}
