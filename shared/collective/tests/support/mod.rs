//! Groups of members and what they bring.

use std::ops::Range;
use std::thread;
use std::time::Duration;

use perennial_collective::{
    AbortHandle, CollectiveError, Contribution, MeshConfig, Partial, SlotSum, Tcp, TcpEndpoint,
};

pub const GRADIENTS: usize = 23;
pub const STATISTICS: usize = 3;

pub fn config(rank: usize, addresses: &[String]) -> MeshConfig {
    MeshConfig {
        job: "seedlings".to_owned(),
        generation: 7,
        rank,
        addresses: addresses.to_vec(),
        deadline: Duration::from_secs(20),
        timeout: Duration::from_secs(20),
        silence: Duration::from_secs(5),
    }
}

pub fn endpoints(count: usize) -> (Vec<TcpEndpoint>, Vec<String>) {
    (0..count)
        .map(|_| {
            let (endpoint, address) = TcpEndpoint::bind("127.0.0.1:0").unwrap();
            (endpoint, address.to_string())
        })
        .unzip()
}

pub fn tcp_group(
    count: usize,
    adjust: impl Fn(&mut MeshConfig) + Sync,
) -> Vec<Result<Tcp, CollectiveError>> {
    let (endpoints, addresses) = endpoints(count);
    let mut configs: Vec<MeshConfig> = (0..count).map(|rank| config(rank, &addresses)).collect();
    configs.iter_mut().for_each(adjust);
    in_parallel(endpoints.into_iter().zip(configs), |(endpoint, config)| {
        endpoint.connect(config, &AbortHandle::new())
    })
}

pub fn in_parallel<I: Send, O: Send>(
    items: impl IntoIterator<Item = I>,
    work: impl Fn(I) -> O + Sync,
) -> Vec<O> {
    thread::scope(|scope| {
        let work = &work;
        let threads: Vec<_> = (items.into_iter())
            .map(|item| scope.spawn(move || work(item)))
            .collect();
        threads
            .into_iter()
            .map(|thread| thread.join().unwrap())
            .collect()
    })
}

/// What a slot computes in a step: numbers whose sum depends on the order, or nothing.
pub fn gradients_of(slot: u32, step: u32) -> Option<Vec<f32>> {
    let empty = (slot + step) % 5 == 3;
    (!empty).then(|| {
        (0..GRADIENTS)
            .map(|i| {
                ((slot * 31 + step * 7 + i as u32) as f32).sin() * 10f32.powi((slot % 7) as i32)
            })
            .collect()
    })
}

pub fn contribution(slots: u32, owned: Range<u32>, step: u32, control: u64) -> Contribution {
    Contribution {
        control,
        ..contribution_of(slots, owned, GRADIENTS, |slot| gradients_of(slot, step))
    }
}

/// Vectors of `len` numbers for the slots that have one, and statistics made of the first of them.
pub fn contribution_of(
    slots: u32,
    owned: Range<u32>,
    len: usize,
    gradient_of: impl Fn(u32) -> Option<Vec<f32>>,
) -> Contribution {
    let gradients = SlotSum::new(slots, owned.clone());
    let statistics = SlotSum::new(slots, owned.clone());
    for slot in owned {
        let value = gradient_of(slot);
        let statistic = value.as_ref().map(|v| {
            v[..STATISTICS]
                .iter()
                .map(|x| f64::from(*x) / 3.0)
                .collect()
        });
        gradients.add(slot, value).unwrap();
        statistics.add(slot, statistic).unwrap();
    }
    Contribution {
        slots,
        gradients: Partial {
            len,
            nodes: gradients.finish().unwrap(),
        },
        statistics: Partial {
            len: STATISTICS,
            nodes: statistics.finish().unwrap(),
        },
        control: 0,
    }
}
