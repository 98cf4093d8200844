use std::collections::BTreeSet;
use std::time::Instant;
use stateright::{Checker, HasDiscoveries, Model};
use perennial_model_check::*;

fn main_bounds() -> Bounds {
    let e = |k: &str, d: u8| std::env::var(k).ok().and_then(|v| v.parse().ok()).unwrap_or(d);
    Bounds { coordinators: e("C", 2), workers: e("W", 3), terms: e("T", 2), generations: e("G", 2), steps: e("S", 2), checkpoint_every: e("K", 1) }
}

#[test]
fn probe() {
    let t = Instant::now();
    let checker = Cluster { bounds: main_bounds(), broken: None }.checker().threads(2)
        .timeout(std::time::Duration::from_secs(100)).spawn_bfs().join();
    println!("{} unique, {} total, depth {} in {:?} done {}", checker.unique_state_count(), checker.state_count(), checker.max_depth(), t.elapsed(), checker.is_done());
    for (name, path) in checker.discoveries() {
        println!("{name}: {} actions", path.into_actions().len());
    }
}
