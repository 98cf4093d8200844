//! `perennial bench collective`.

use anyhow::Context;
use perennial_collective::MeshTls;
use perennial_plan::Spec;
use perennial_secure::{Authority, Credentials, Role, Security, Wanted};
use perennial_worker::bench::CollectiveBench;
use serde_json::json;
use tempfile::TempDir;

use super::{CLASSES, Times, print};
use crate::output::Output;

/// The exact sum over all slots, beside a plain ring of the same gradient
///
/// Members are threads of this process, joined by TCP.
#[derive(Debug, clap::Args)]
pub struct Args {
    #[arg(long, default_value = "casvit_t", value_name = "NAME")]
    model: String,
    #[arg(long, default_value_t = 3, value_name = "N", value_parser = clap::value_parser!(u32).range(1..=64))]
    members: u32,
    /// Slots of a step; the job file's default where it is left out
    #[arg(long, value_name = "N")]
    slots: Option<u32>,
    /// Sums that are timed, after one that is not
    #[arg(long, default_value_t = 20, value_name = "N", value_parser = clap::value_parser!(u32).range(1..))]
    rounds: u32,
    /// Time the exact sum between members who encrypt as well, as those of a job with certificates do
    #[arg(long)]
    tls: bool,
}

pub fn run(args: &Args, output: Output) -> anyhow::Result<()> {
    let mut spec = Spec::default();
    spec.data.dir = "none".into();
    spec.model.name.clone_from(&args.model);
    spec.train.slots = args.slots.unwrap_or(spec.train.slots);
    spec.validate()?;
    let slots = spec.train.slots;
    anyhow::ensure!(
        args.members <= slots,
        "`--members {}` are more than the {slots} slots: give `--slots` at least as many",
        args.members
    );
    let network = perennial_model::Network::new(&spec.model, CLASSES)?;
    let certified = if args.tls { Some(certificate()?) } else { None };
    let bench = CollectiveBench {
        members: args.members as usize,
        slots,
        elements: network.table.parameters_len(),
        rounds: args.rounds as usize,
        tls: certified.as_ref().map(|(_, tls)| tls.clone()),
    };
    let done = bench.run()?;
    let [exact, ring] = [done.exact, done.ring].map(Times::new);
    let encrypted = args.tls.then(|| Times::new(done.encrypted));
    let megabytes = bench.elements as f64 * 4.0 / 1e6;
    let ratio = exact.median_ms() / ring.median_ms();
    let mut fields = json!({
        "what": "collective",
        "model": args.model,
        "members": args.members,
        "slots": slots,
        "bytes": bench.elements * 4,
        "rounds": args.rounds,
        "tls": args.tls,
        "ratio": ratio,
    });
    let mut times = vec![("exact", &exact), ("ring", &ring)];
    let mut sentence =
        format!("{megabytes:.0} MB: exact in {exact}, a plain ring in {ring}: {ratio:.2} times");
    if let Some(encrypted) = &encrypted {
        let ratio = encrypted.median_ms() / exact.median_ms();
        fields["encrypted_ratio"] = json!(ratio);
        times.push(("encrypted", encrypted));
        sentence += &format!("; encrypted in {encrypted}: {ratio:.2} times the exact one");
    }
    print(output, fields, &times, || sentence)
}

/// A worker's certificate, and the folder in which it is looked for as long as it is used.
fn certificate() -> anyhow::Result<(TempDir, MeshTls)> {
    let folder = tempfile::tempdir()?;
    let wanted = Wanted {
        role: Role::Worker,
        name: "worker".into(),
        hosts: Vec::new(),
        days: 0..1,
    };
    Authority::init(folder.path())?.issue_into(folder.path(), &wanted)?;
    let file = |name: &str| folder.path().join(name);
    let own = (file("worker.pem"), file("worker.key"));
    let credentials = Credentials::read(&file("ca.pem"), Some((&own.0, &own.1)))?;
    let tls = MeshTls::of(&Security::tls(credentials))?;
    Ok((folder, tls.context("a worker's certificate was just made")?))
}
