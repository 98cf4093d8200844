//! The coordinator's rules, each in a sentence.

mod bench;
mod ending;
mod facts;
mod joining;
mod membership;
mod planned;
mod running;
mod takeover;
