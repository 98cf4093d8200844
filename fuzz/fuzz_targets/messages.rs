//! What coordinator and workers send to each other: an error, or a message that survives a round trip.

#![no_main]

use libfuzzer_sys::fuzz_target;
use perennial_proto::v1::{CoordinatorMessage, StatusReply, WorkerMessage};
use prost::Message;

fn round_trip<M: Message + Default>(bytes: &[u8]) {
    let Ok(message) = M::decode(bytes) else {
        return;
    };
    let written = message.encode_to_vec();
    let read = M::decode(&written[..]).expect("what was written can be read");
    // Compared as bytes, for NaN is not itself.
    assert_eq!(read.encode_to_vec(), written);
}

fuzz_target!(|bytes: &[u8]| {
    round_trip::<WorkerMessage>(bytes);
    round_trip::<CoordinatorMessage>(bytes);
    round_trip::<StatusReply>(bytes);
});
