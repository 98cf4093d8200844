//! What the crate promises, against the reference libraries' numbers where these are at hand.

mod augment;
mod decode;
mod folder;
mod loader;
mod mix;
mod pack;
mod resize;
mod split;
mod stats;
mod support;
mod synth;
