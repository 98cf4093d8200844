//! `perennial doctor`.

use perennial_worker::{ComputeDevice, Cuda, numerics_class};
use serde_json::{Value, json};

use crate::output::Output;

/// Show what this machine can compute with, and what it lacks
#[derive(Debug, clap::Args)]
pub struct Args {}

/// A line of the answer: what it is about, and what was found or why nothing was.
struct Finding {
    name: String,
    found: Result<String, String>,
}

pub fn run(_args: &Args, output: Output) -> anyhow::Result<()> {
    let cores = std::thread::available_parallelism().map_or(1, usize::from);
    let cpu = numerics_class(ComputeDevice::Cpu)?;
    let mut findings = vec![
        finding("program", Ok(env!("CARGO_PKG_VERSION").to_string())),
        finding("cpu", Ok(format!("{cpu}, {cores} threads"))),
    ];
    match Cuda::probe() {
        None => findings.push(finding(
            "cuda",
            Err("not built in: `cargo build --release --features cuda`".to_string()),
        )),
        Some(cuda) => findings.extend(of_cuda(cuda)),
    }
    output.print(&record(&findings), || text(&findings))
}

fn finding(name: &str, found: Result<String, String>) -> Finding {
    Finding {
        name: name.to_string(),
        found,
    }
}

fn of_cuda(cuda: Cuda) -> Vec<Finding> {
    let headers = cuda.headers.map(|path| path.display().to_string());
    let mut findings = vec![
        finding("driver", cuda.driver),
        finding("nvrtc", cuda.nvrtc),
        finding("headers", headers),
        finding("nccl", cuda.nccl),
    ];
    match cuda.gpus {
        Err(reason) => findings.push(finding("gpus", Err(reason))),
        Ok(gpus) if gpus.is_empty() => {
            findings.push(finding("gpus", Err("the driver sees none".to_string())));
        }
        Ok(gpus) => findings.extend(gpus.iter().enumerate().map(|(index, gpu)| {
            let device = ComputeDevice::Cuda(index);
            let [major, minor] = gpu.capability;
            let gib = gpu.memory as f64 / f64::from(1 << 30);
            let described = format!("{}, compute {major}.{minor}, {gib:.1} GiB", gpu.name);
            let usable = device.open().map(|_| described);
            finding(
                &device.to_string(),
                usable.map_err(|error| error.to_string()),
            )
        })),
    }
    findings
}

fn record(findings: &[Finding]) -> Value {
    let parts = findings.iter().map(|Finding { name, found }| match found {
        Ok(found) => json!({"name": name, "found": found}),
        Err(reason) => json!({"name": name, "missing": reason}),
    });
    json!({"event": "doctor", "parts": parts.collect::<Vec<_>>()})
}

fn text(findings: &[Finding]) -> String {
    let width = findings.iter().map(|finding| finding.name.len()).max();
    let width = width.unwrap_or_default();
    let line = |Finding { name, found }: &Finding| match found {
        Ok(found) => format!("{name:width$}  {found}\n"),
        Err(reason) => format!("{name:width$}  - {reason}\n"),
    };
    findings.iter().map(line).collect()
}
