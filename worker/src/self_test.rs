//! Whether the GPUs of this machine can sum, and how fast.

use std::thread;
use std::time::{Duration, Instant};

use perennial_collective::nccl::{
    Cuda, DeviceContribution, DeviceError, DeviceMemory, DevicePartial, Nccl, NcclConfig,
    NcclLibrary, Reduction,
};
use perennial_collective::{AbortHandle, CollectiveError, MeshConfig, Partial, TcpEndpoint};
use perennial_plan::tree::Node;

/// Numbers in the vector that is summed: 64 MiB.
const LENGTH: usize = 1 << 24;
/// Longer than anything takes that works.
const DEADLINE: Duration = Duration::from_secs(60);
/// Sums that are timed, after one that is not.
const ROUNDS: usize = 5;

/// What was measured between the GPUs of a machine, in bytes a second.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct SumSpeed {
    /// From the host to a GPU and back, the slower one.
    pub copy: f64,
    /// Of a sum by `ncclAllReduce` between all GPUs, as NCCL's own tests count it: what a ring would carry on each link.
    /// None: there is one GPU.
    pub all_reduce: Option<f64>,
}

/// Sums a vector by the tree, and by NCCL, between the first `gpus` GPUs, with a thread for each; the results are checked.
pub fn test_sums(gpus: usize) -> Result<SumSpeed, CollectiveError> {
    let library = NcclLibrary::load()?;
    let endpoints = (0..gpus).map(|_| TcpEndpoint::bind("127.0.0.1:0"));
    let endpoints = endpoints.collect::<Result<Vec<_>, _>>()?;
    let (endpoints, addresses): (Vec<_>, Vec<_>) = endpoints.into_iter().unzip();
    let addresses: Vec<String> = addresses.iter().map(ToString::to_string).collect();
    let speeds: Vec<_> = thread::scope(|scope| {
        let (library, addresses) = (&library, &addresses);
        let member = |(rank, endpoint): (usize, TcpEndpoint)| {
            scope.spawn(move || {
                let copy = sum(rank, &endpoint, addresses, 1, Reduction::Exact, library)?;
                let fast = sum(rank, &endpoint, addresses, 2, Reduction::Fast, library)?;
                Ok::<_, CollectiveError>((copy.0, fast.1))
            })
        };
        let members: Vec<_> = endpoints.into_iter().enumerate().map(member).collect();
        let ended = |member: thread::ScopedJoinHandle<'_, Result<(f64, f64), CollectiveError>>| {
            let panicked = || CollectiveError::Device("a thread of the test has ended".into());
            member.join().unwrap_or_else(|_| Err(panicked()))
        };
        members.into_iter().map(ended).collect()
    });
    let speeds = speeds.into_iter().collect::<Result<Vec<_>, _>>()?;
    let slowest = |of: fn(&(f64, f64)) -> f64| speeds.iter().map(of).fold(f64::INFINITY, f64::min);
    Ok(SumSpeed {
        copy: slowest(|speed| speed.0),
        all_reduce: (gpus > 1).then(|| slowest(|speed| speed.1)),
    })
}

/// The speeds of copies and of sums, at one member of a generation.
fn sum(
    rank: usize,
    endpoint: &TcpEndpoint,
    addresses: &[String],
    generation: u64,
    reduction: Reduction,
    library: &std::sync::Arc<NcclLibrary>,
) -> Result<(f64, f64), CollectiveError> {
    let world_size = addresses.len();
    let config = MeshConfig {
        job: "doctor".into(),
        generation,
        rank,
        addresses: addresses.to_vec(),
        deadline: DEADLINE,
        timeout: DEADLINE,
        silence: DEADLINE,
    };
    let mesh = endpoint.connect(config, &AbortHandle::new())?;
    let mut memory = Cuda::open(rank).map_err(failed)?;
    memory.bind().map_err(failed)?;
    let device = Cuda::open(rank).map_err(failed)?;
    let config = NcclConfig::new(reduction, DEADLINE);
    let mut member = Nccl::connect(mesh, library, device, config)?;
    // Two slots a member, so that a member alone has something to add.
    let slots = 2 * world_size as u32;
    let own: Vec<Node> = (2 * rank as u32..2 * rank as u32 + 2)
        .map(|start| Node {
            start,
            end: start + 1,
        })
        .collect();
    let (mut copy, mut fastest) = (f64::INFINITY, 0.0f64);
    for round in 0..=ROUNDS {
        let mut nodes = std::collections::BTreeMap::new();
        for node in &own {
            let values = vec![(node.start + 1) as f32; LENGTH];
            let mut buffer = memory.allocate(LENGTH).map_err(failed)?;
            let began = Instant::now();
            memory.upload(&values, &mut buffer).map_err(failed)?;
            wait(&mut memory)?;
            copy = copy.min(bytes_a_second(began, 1.0));
            nodes.insert(*node, buffer);
        }
        let contribution = DeviceContribution {
            slots,
            gradients: DevicePartial { len: LENGTH, nodes },
            statistics: Partial::default(),
            control: 0,
        };
        let began = Instant::now();
        let reduced = member.all_reduce_on_device(contribution)?;
        if round > 0 {
            let share = 2.0 * (world_size as f64 - 1.0) / world_size as f64;
            fastest = fastest.max(bytes_a_second(began, share));
        }
        let mut result = vec![0.0; LENGTH];
        let began = Instant::now();
        memory
            .download(&reduced.gradients, &mut result)
            .map_err(failed)?;
        copy = copy.min(bytes_a_second(began, 1.0));
        let expected = (1..=slots).sum::<u32>() as f32;
        if let Some(wrong) = result.iter().find(|value| **value != expected) {
            return Err(CollectiveError::Device(format!(
                "a sum on `cuda:{rank}` is `{wrong}` instead of `{expected}`"
            )));
        }
    }
    Ok((copy, fastest))
}

fn bytes_a_second(began: Instant, share: f64) -> f64 {
    share * (LENGTH * size_of::<f32>()) as f64 / began.elapsed().as_secs_f64()
}

fn wait(memory: &mut Cuda) -> Result<(), CollectiveError> {
    let end = Instant::now() + DEADLINE;
    while !memory.is_idle().map_err(failed)? {
        if Instant::now() > end {
            return Err(CollectiveError::Device("a copy does not end".into()));
        }
        thread::yield_now();
    }
    Ok(())
}

fn failed(error: DeviceError) -> CollectiveError {
    CollectiveError::Device(error.to_string())
}
