//! The coordinator's rules, each in a sentence.

mod bench;
mod ending;
mod joining;
mod membership;
mod running;
mod takeover;
