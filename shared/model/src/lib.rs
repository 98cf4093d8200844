//! The networks, and reading PyTorch-named weights.

pub mod files;
