//! Weights files that PyTorch wrote (`make_pth.py`), and what becomes of them when they are damaged.

use std::path::{Path, PathBuf};

use perennial_model::files::{HostTensor, ModelFileError, NamedTensors, TensorData, Weights, read};

fn data(name: &str) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR"))
        .join("tests/data")
        .join(name)
}

fn floats(shape: &[usize], values: impl Into<Vec<f32>>) -> HostTensor {
    HostTensor {
        shape: shape.to_vec(),
        data: TensorData::F32(values.into()),
    }
}

fn integers(shape: &[usize], values: impl Into<Vec<i64>>) -> HostTensor {
    HostTensor {
        shape: shape.to_vec(),
        data: TensorData::I64(values.into()),
    }
}

/// What `state(shift)` of the script holds; shifts of 0 and 1 are exact in every type but the smallest.
fn state(shift: f32) -> NamedTensors {
    let conv: Vec<f32> = (0..24).map(|i| i as f32 / 8.0 + shift).collect();
    let mean = [
        (0.25 + f64::from(shift)) as f32,
        (1e-3 + f64::from(shift)) as f32,
    ];
    [
        ("conv.weight", floats(&[2, 3, 2, 2], conv)),
        ("conv.bias", floats(&[2], [0.5 + shift, -1.5 + shift])),
        ("norm.running_mean", floats(&[2], mean)),
        ("norm.num_batches_tracked", integers(&[], [7])),
        (
            "head.weight",
            floats(&[1, 3], [1.5 + shift, -2.0 + shift, 0.125 + shift]),
        ),
        ("head.bias", floats(&[1], [3.0 + shift])),
        ("index", integers(&[2, 2], [0, 1, 2, -3])),
    ]
    .into_iter()
    .map(|(name, tensor)| (name.to_string(), tensor))
    .collect()
}

#[test]
fn plain_states_are_read_in_every_container() {
    for name in ["raw.pth", "legacy.pth", "raw.safetensors"] {
        for weights in [Weights::Raw, Weights::Average] {
            assert_eq!(read(&data(name), weights).unwrap(), state(0.0), "{name}");
        }
    }
}

#[test]
fn a_training_checkpoint_gives_the_weights_or_their_average_and_nothing_else() {
    for name in ["checkpoint.pth", "timm.pth.tar"] {
        assert_eq!(
            read(&data(name), Weights::Raw).unwrap(),
            state(0.0),
            "{name}"
        );
        assert_eq!(
            read(&data(name), Weights::Average).unwrap(),
            state(1.0),
            "{name}"
        );
    }
    let only = read(&data("average_only.pt"), Weights::Raw).unwrap();
    assert_eq!(only, state(1.0));
}

#[test]
fn views_are_read_in_the_order_of_their_own_shape() {
    let tensors = read(&data("views.pth"), Weights::Raw).unwrap();
    let transposed = [0., 4., 8., 1., 5., 9., 2., 6., 10., 3., 7., 11.];
    assert_eq!(tensors["transposed"], floats(&[4, 3], transposed));
    assert_eq!(tensors["column"], floats(&[4], [4., 5., 6., 7.]));
}

#[test]
fn a_small_file_that_claims_gigabytes_is_refused() {
    let error = read(&data("inflated.pth"), Weights::Raw).unwrap_err();
    let ModelFileError::ClaimsTooMuch { claims, .. } = error else {
        panic!("{error}");
    };
    assert_eq!(claims, 4 << 30);
}

#[test]
fn files_without_usable_tensors_are_named_with_what_is_wrong() {
    let message = |name| read(&data(name), Weights::Raw).unwrap_err().to_string();
    assert!(
        message("no_tensors.pth")
            .ends_with("no_tensors.pth` has no tensors; give a file with a network's state")
    );
    let boolean = message("boolean.pth");
    assert!(boolean.starts_with("tensor `mask` in `"), "{boolean}");
    assert!(boolean.ends_with("has elements of type `Bool`; save it as float or int64"));
    assert!(message("raw.onnx").contains("is no weights file"));
    assert!(message("absent.pth").starts_with("cannot read `"));
    assert!(message("absent.safetensors").starts_with("cannot read `"));
}

#[test]
fn one_format_under_the_name_of_the_other_is_an_error() {
    let folder = tempfile::tempdir().unwrap();
    for (from, to) in [
        ("raw.safetensors", "a.pth"),
        ("raw.pth", "b.safetensors"),
        ("legacy.pth", "c.safetensors"),
    ] {
        let path = folder.path().join(to);
        std::fs::copy(data(from), &path).unwrap();
        let error = read(&path, Weights::Raw).unwrap_err();
        assert!(
            matches!(error, ModelFileError::Malformed { .. }),
            "{to}: {error}"
        );
        assert!(error.to_string().contains(to), "{error}");
    }
}

/// Reads `bytes` as a file of that name; an error must name it.
fn read_damaged(folder: &Path, name: &str, bytes: &[u8]) -> Option<NamedTensors> {
    let path = folder.join(name);
    // Some file systems flush a file that is overwritten, which takes ten times as long.
    let _ = std::fs::remove_file(&path);
    std::fs::write(&path, bytes).unwrap();
    match read(&path, Weights::Raw) {
        Ok(tensors) => Some(tensors),
        Err(error) => {
            assert!(error.to_string().contains(name), "{error}");
            None
        }
    }
}

const DAMAGED: [&str; 5] = [
    "raw.pth",
    "legacy.pth",
    "checkpoint.pth",
    "views.pth",
    "raw.safetensors",
];

#[test]
fn a_file_cut_anywhere_is_an_error() {
    let folder = tempfile::tempdir().unwrap();
    for name in DAMAGED {
        let whole = std::fs::read(data(name)).unwrap();
        for length in 0..whole.len() {
            let found = read_damaged(folder.path(), name, &whole[..length]);
            assert_eq!(found, None, "{name} cut to {length} bytes");
        }
    }
}

#[test]
fn a_flipped_bit_anywhere_never_panics_and_leaves_shapes_that_fit_their_numbers() {
    let folder = tempfile::tempdir().unwrap();
    for name in DAMAGED {
        let mut bytes = std::fs::read(data(name)).unwrap();
        let mut errors = 0;
        for index in 0..bytes.len() {
            let bit = 1 << (index % 8);
            bytes[index] ^= bit;
            match read_damaged(folder.path(), name, &bytes) {
                None => errors += 1,
                Some(tensors) => tensors.values().for_each(assert_consistent),
            }
            bytes[index] ^= bit;
        }
        assert!(errors > 0, "{name}");
    }
}

/// A zip archive has checksums; the other containers have none.
#[test]
fn a_flipped_bit_in_the_numbers_of_a_zip_archive_is_an_error() {
    let folder = tempfile::tempdir().unwrap();
    let mut bytes = std::fs::read(data("raw.pth")).unwrap();
    let last_of_conv = 2.875f32.to_le_bytes();
    let at = bytes.windows(4).position(|four| four == last_of_conv);
    bytes[at.unwrap()] ^= 1;
    assert_eq!(read_damaged(folder.path(), "raw.pth", &bytes), None);
}

fn assert_consistent(tensor: &HostTensor) {
    let elements = match &tensor.data {
        TensorData::F32(values) => values.len(),
        TensorData::I64(values) => values.len(),
    };
    assert_eq!(elements, tensor.shape.iter().product::<usize>());
}

#[test]
fn garbage_of_every_kind_is_an_error() {
    let folder = tempfile::tempdir().unwrap();
    let nested = [
        b"\x80\x02".as_slice(),
        &[b']'; 1 << 20],
        &vec![b'a'; 1 << 20],
        b".",
    ]
    .concat();
    let header_only = [u64::MAX.to_le_bytes().as_slice(), b"{}"].concat();
    let huge_shape = {
        let header =
            br#"{"a":{"dtype":"F32","shape":[4294967296,4294967296],"data_offsets":[0,0]}}"#;
        [(header.len() as u64).to_le_bytes().as_slice(), header].concat()
    };
    let garbage: [&[u8]; 7] = [
        b"",
        b"<!DOCTYPE html><title>404</title>",
        &[0; 4096],
        &[0xff; 4096],
        &nested,
        &header_only,
        &huge_shape,
    ];
    for bytes in garbage {
        for name in ["a.pth", "b.safetensors"] {
            assert_eq!(read_damaged(folder.path(), name, bytes), None);
        }
    }
}

/// A pickle may name any function and its arguments, which Python would call. Here it is data.
#[test]
fn a_pickle_that_calls_a_program_runs_nothing() {
    let folder = tempfile::tempdir().unwrap();
    let mark = folder.path().join("mark");
    let command = format!("touch {}", mark.display());
    for function in ["posix\nsystem", "os\nsystem", "subprocess\ngetoutput"] {
        let mut pickle = b"\x80\x02c".to_vec();
        pickle.extend(function.bytes());
        pickle.extend(b"\nX");
        pickle.extend((command.len() as u32).to_le_bytes());
        pickle.extend(command.bytes());
        pickle.extend(b"\x85R.");
        assert_eq!(read_damaged(folder.path(), "a.pth", &pickle), None);
        assert!(!mark.exists(), "{function}");
    }
}
