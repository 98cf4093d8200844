//! A coordinator that says anything at any time: the worker's session stands.

#![no_main]

use std::time::Duration;

use libfuzzer_sys::fuzz_target;
use perennial_fuzz::orders;
use perennial_proto::v1::Hello;
use perennial_session::Report;
use perennial_session::machine::{Config, Event, Session};

fuzz_target!(|bytes: &[u8]| {
    let config = Config {
        urls: vec!["http://one:1".into(), "http://other:2".into()],
        hello: Hello::default(),
        patience: Duration::from_secs(30),
    };
    let (mut session, _) = Session::new(config, Duration::ZERO);
    let mut now = Duration::ZERO;
    for (what, _, message) in orders(bytes) {
        let event = match what % 8 {
            0 => Event::Opened,
            1 => Event::Closed(String::new()),
            2 => Event::Tick,
            3 => Event::Report(Report::Drain),
            4 => Event::OpenFailed("refused".into()),
            _ => match message() {
                Some(message) => Event::Received(message),
                None => continue,
            },
        };
        now += Duration::from_millis(u64::from(what) * 4);
        session.handle(now, event);
    }
});
