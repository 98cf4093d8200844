//! Workers that say anything at any time: the coordinator stands.

#![no_main]

use std::time::Duration;

use libfuzzer_sys::fuzz_target;
use perennial_coordinator::machine::{Effect, Event};
use perennial_fuzz::{machine, orders};

fuzz_target!(|bytes: &[u8]| {
    let (mut machine, mut effects) = machine(Vec::new()).expect("an empty log breaks no rule");
    let mut now = Duration::ZERO;
    let mut orders = orders(bytes);
    loop {
        let mut events: Vec<Event> = (effects.drain(..))
            .filter(|effect| matches!(effect, Effect::AppendLog { .. }))
            .map(|_| Event::LogAppended)
            .collect();
        if events.is_empty() {
            let Some((what, who, message)) = orders.next() else {
                break;
            };
            let who = u64::from(who % 4);
            events.push(match what % 8 {
                0 => Event::Connected(who),
                1 => Event::Disconnected(who, String::new()),
                2 => Event::Tick,
                3 => Event::ScaleRequested(u32::from(what) / 8),
                4 => Event::DrainRequested(format!("w{who}")),
                _ => match message() {
                    Some(message) => Event::Message(who, message),
                    None => continue,
                },
            });
            now += Duration::from_millis(u64::from(what) * 4);
        }
        for event in events {
            effects.extend(machine.handle(now, event));
        }
        machine.status();
    }
});
