use std::path::PathBuf;

/// Why a weights file cannot be read.
#[derive(Debug, thiserror::Error)]
pub enum ModelFileError {
    #[error("cannot read `{path}`: {source}")]
    Io {
        path: PathBuf,
        source: std::io::Error,
    },
    #[error("`{path}` is no weights file; give one that ends in `.safetensors`, `.pth` or `.pt`")]
    Extension { path: PathBuf },
    #[error("`{path}` is not a complete {format} file: {reason}; fetch it again")]
    Malformed {
        path: PathBuf,
        format: &'static str,
        reason: String,
    },
    #[error("`{path}` has no tensors; give a file with a network's state")]
    NoTensors { path: PathBuf },
    #[error(
        "tensor `{tensor}` in `{path}` has elements of type `{found}`; save it as float or int64"
    )]
    ElementType {
        path: PathBuf,
        tensor: String,
        found: String,
    },
    #[error("`{path}` holds {holds} bytes but claims tensors of {claims}; do not use it")]
    ClaimsTooMuch {
        path: PathBuf,
        holds: u64,
        claims: u64,
    },
}
