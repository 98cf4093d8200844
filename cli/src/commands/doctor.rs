//! `perennial doctor`: what this machine is, and whether a training could begin on it.

use std::path::Path;

use anyhow::bail;
use perennial_data::DataSet;
use perennial_plan::spec::DataSpec;
use perennial_proto::VERSION;
use perennial_store::Store;
use perennial_worker::{ComputeDevice, Cuda, numerics_class};
use serde::Serialize;

use super::weights::MAX_PIXELS;
use crate::job::{DEFAULT_STORE, block_on};
use crate::output::{Output, bytes, counted};

/// Tell what this machine is and whether a training could begin on it, and what to do where not
#[derive(Debug, clap::Args)]
pub struct Args {
    /// The folder or s3://bucket/prefix for jobs: it must be writable and refuse to overwrite
    #[arg(long, value_name = "URL", default_value = DEFAULT_STORE)]
    store: String,
    /// A folder of pictures, of which one a class is opened
    #[arg(long, value_name = "DIR")]
    data: Option<String>,
}

/// What was looked at and found.
#[derive(Debug, Serialize)]
struct Check {
    event: &'static str,
    name: String,
    state: State,
    found: String,
    /// What to do; empty where nothing is to be done.
    advice: String,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
#[serde(rename_all = "lowercase")]
enum State {
    Ok,
    Warning,
    Failed,
}

/// With less a worker may be killed for want of memory: a replica of the largest network and the cache of pictures.
const LITTLE_MEMORY: u64 = 2 << 30;

pub fn run(args: &Args, output: Output) -> anyhow::Result<()> {
    let mut checks = vec![processor()?, cores(), memory()];
    checks.extend(gpus());
    checks.push(store(&args.store));
    checks.extend(args.data.as_deref().map(data));
    let mut failed = 0;
    for check in checks {
        failed += usize::from(check.state == State::Failed);
        output.print(&check, || check.text())?;
    }
    match failed {
        0 => Ok(()),
        failed => bail!("{} failed", counted(failed as u64, "check")),
    }
}

// === impl Check ===

impl Check {
    fn new(name: &str, state: State, found: String, advice: &str) -> Self {
        Self {
            event: "check",
            name: name.to_string(),
            state,
            found,
            advice: advice.to_string(),
        }
    }

    fn ok(name: &str, found: String) -> Self {
        Self::new(name, State::Ok, found, "")
    }

    fn text(&self) -> String {
        let state = match self.state {
            State::Ok => "ok",
            State::Warning => "warning",
            State::Failed => "FAILED",
        };
        let advice = match self.advice.as_str() {
            "" => String::new(),
            advice => format!("; {advice}"),
        };
        format!("{state:<8} {:<10} {}{advice}", self.name, self.found)
    }
}

fn processor() -> anyhow::Result<Check> {
    let class = numerics_class(ComputeDevice::Cpu)?;
    let found = format!(
        "numerics class `{class}`, perennial {VERSION}: workers of one job must have the same"
    );
    if class.contains("sse2") || class.contains("baseline") {
        let advice = "there is no AVX2, so training is several times slower than it could be";
        return Ok(Check::new("processor", State::Warning, found, advice));
    }
    Ok(Check::ok("processor", found))
}

/// The GPUs, and what is needed to compute with them. Nobody must have one.
fn gpus() -> Vec<Check> {
    let Some(cuda) = Cuda::probe() else {
        let found = "not built in: `cargo build --release --features cuda`";
        return vec![Check::ok("cuda", found.to_string())];
    };
    let check = |name: &str, found: Result<String, String>| match found {
        Ok(found) => Check::ok(name, found),
        Err(reason) => Check::new(
            name,
            State::Warning,
            reason,
            "workers on this machine compute on its cores",
        ),
    };
    let headers = cuda.headers.map(|path| path.display().to_string());
    let mut checks = vec![
        check("driver", cuda.driver),
        check("nvrtc", cuda.nvrtc),
        check("headers", headers),
        check("nccl", cuda.nccl),
    ];
    let count = cuda.gpus.as_ref().map_or(0, Vec::len);
    match cuda.gpus {
        Err(reason) => checks.push(check("gpus", Err(reason))),
        Ok(gpus) if gpus.is_empty() => {
            checks.push(check("gpus", Err("the driver sees none".to_string())));
        }
        Ok(gpus) => checks.extend(gpus.iter().enumerate().map(|(index, gpu)| {
            let device = ComputeDevice::Cuda(index);
            let [major, minor] = gpu.capability;
            let gib = gpu.memory as f64 / f64::from(1 << 30);
            let described = format!("{}, compute {major}.{minor}, {gib:.1} GiB", gpu.name);
            if let Some(errors @ 1..) = gpu.memory_errors {
                let found =
                    format!("{described}: {errors} errors of its memory (ECC) were not corrected");
                let advice = "reset it, or do not compute on it";
                return Check::new(&device.to_string(), State::Warning, found, advice);
            }
            let usable = device.open().map(|_| described);
            check(
                &device.to_string(),
                usable.map_err(|error| error.to_string()),
            )
        })),
    }
    if count > 1 {
        let links = cuda.links.map(|links| reach(&links, count));
        checks.push(check("topology", links));
    }
    checks.extend(sums(count));
    checks
}

/// Which GPUs reach each other's memory.
fn reach(links: &[[usize; 2]], count: usize) -> String {
    if links.len() == count * (count - 1) / 2 {
        return "all GPUs reach each other's memory".to_string();
    }
    if links.is_empty() {
        return "no GPU reaches another one's memory: what they send goes over the host"
            .to_string();
    }
    let links = links.iter().map(|[one, other]| format!("{one}-{other}"));
    let links = links.collect::<Vec<_>>().join(", ");
    format!("these GPUs reach each other's memory: {links}; others go over the host")
}

/// A sum between all GPUs, checked and timed.
fn sums(count: usize) -> Option<Check> {
    if count == 0 {
        return None;
    }
    let name = "sums";
    Some(match perennial_worker::test_sums(count) {
        Ok(speed) => {
            let copy = format!("copies to and from a GPU at {:.1} GB/s", speed.copy / 1e9);
            let sums = speed.all_reduce.map_or(String::new(), |speed| {
                format!(
                    ", sums between all of them over NCCL at {:.1} GB/s",
                    speed / 1e9
                )
            });
            Check::ok(name, format!("right; {copy}{sums}"))
        }
        Err(error) => {
            let advice = "workers on these GPUs sum over TCP with `PERENNIAL_NCCL=none`";
            Check::new(name, State::Warning, error.to_string(), advice)
        }
    })
}

fn cores() -> Check {
    match std::thread::available_parallelism() {
        Ok(cores) => Check::ok("cores", format!("{cores} for this process")),
        Err(error) => {
            let advice = "give --threads to workers";
            Check::new("cores", State::Warning, error.to_string(), advice)
        }
    }
}

fn memory() -> Check {
    let Some(free) = free_memory() else {
        let advice = "see that a worker has 2 GB or more";
        return Check::new("memory", State::Warning, "not known".to_string(), advice);
    };
    let found = format!("{} free", bytes(free));
    if free < LITTLE_MEMORY {
        let advice = "lower `data.cache_mib` or `train.batch_size` if workers are killed";
        return Check::new("memory", State::Warning, found, advice);
    }
    Check::ok("memory", found)
}

/// Bytes that this process may still take: of the machine, or of its control group where that has less.
fn free_memory() -> Option<u64> {
    let number =
        |path: &str| -> Option<u64> { std::fs::read_to_string(path).ok()?.trim().parse().ok() };
    let text = std::fs::read_to_string("/proc/meminfo").ok()?;
    let line = text
        .lines()
        .find_map(|line| line.strip_prefix("MemAvailable:"))?;
    let kilobytes: u64 = line.split_whitespace().next()?.parse().ok()?;
    let limit = number("/sys/fs/cgroup/memory.max");
    let taken = number("/sys/fs/cgroup/memory.current").unwrap_or(0);
    let allowed = limit.map_or(u64::MAX, |limit| limit.saturating_sub(taken));
    Some(allowed.min(kilobytes * 1024))
}

fn store(url: &str) -> Check {
    let name = "store";
    if !url.contains("://") && !Path::new(url).exists() {
        return Check::ok(
            name,
            format!("folder `{url}` is not there yet: the first job makes it"),
        );
    }
    let checked = block_on(async { Ok(Store::open(url)?.check_write().await?) });
    match checked {
        Ok(()) => Check::ok(
            name,
            format!("`{url}` can be written and overwrites nothing"),
        ),
        Err(error) => {
            let advice = if url.contains("://") {
                "look at AWS_ENDPOINT_URL, AWS_ACCESS_KEY_ID, AWS_SECRET_ACCESS_KEY and AWS_ALLOW_HTTP"
            } else {
                "name a folder that this user may write with --store"
            };
            Check::new(name, State::Failed, format!("{error:#}"), advice)
        }
    }
}

fn data(dir: &str) -> Check {
    match look_into(dir) {
        Ok(found) => Check::ok("data", found),
        Err(error) => {
            let advice = "put one folder of pictures a class there, or leave out what cannot be decoded with --on-bad-image skip";
            Check::new("data", State::Failed, format!("{error:#}"), advice)
        }
    }
}

/// How many pictures there are; the first one of each class must be readable.
fn look_into(dir: &str) -> anyhow::Result<String> {
    let spec = DataSpec {
        dir: dir.to_string(),
        ..DataSpec::default()
    };
    let data = DataSet::open(&spec)?;
    for class in 0..data.classes.len() as u32 {
        let mut samples = data.train.iter().chain(&data.val);
        if let Some(sample) = samples.find(|sample| sample.class == class) {
            data.picture(sample, MAX_PIXELS)?;
        }
    }
    let pictures = counted((data.train.len() + data.val.len()) as u64, "picture");
    let classes = counted(data.classes.len() as u64, "class");
    Ok(format!(
        "{pictures} of {classes} in `{dir}`, one of each class opened"
    ))
}
