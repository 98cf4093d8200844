//! Slots side by side, each on one core, and their sums.

use std::collections::BTreeMap;
use std::convert::Infallible;
use std::ops::Range;
use std::sync::{Mutex, MutexGuard, PoisonError};

use perennial_collective::{CollectiveError, Contribution, DeviceSlots, Partial, SlotSum};
use perennial_kernels::ComputeDevice;
use perennial_model::{Gradient, Network};
use perennial_train::{SlotOutcome, statistics_len};

use crate::error::WorkerError;

/// One-thread pools: what runs in one of them is computed on one core, in an order that does not depend
/// on how many there are.
pub(crate) struct Cores {
    pools: Vec<rayon::ThreadPool>,
}

// === impl Cores ===

impl Cores {
    /// Those that slots are computed on: a GPU computes them one by one.
    pub fn of(device: ComputeDevice, threads: usize) -> Result<Self, WorkerError> {
        Self::new(if device.is_gpu() { 1 } else { threads })
    }

    pub fn new(threads: usize) -> Result<Self, WorkerError> {
        perennial_kernels::memory::keep_freed_pages();
        let pools = (0..threads.max(1))
            .map(|_| rayon::ThreadPoolBuilder::new().num_threads(1).build())
            .collect::<Result<_, _>>()
            .map_err(|error| WorkerError::Thread(error.to_string()))?;
        Ok(Self { pools })
    }

    /// Runs `work` on every item that `next` gives, on all cores. Results come in no particular order.
    pub fn for_each<T, R, E>(
        &self,
        mut next: impl FnMut() -> Option<Result<T, E>> + Send,
        work: impl Fn(T) -> R + Sync,
    ) -> Result<Vec<R>, E>
    where
        T: Send,
        R: Send,
        E: Send,
    {
        let next: Mutex<&mut (dyn FnMut() -> Option<Result<T, E>> + Send)> = Mutex::new(&mut next);
        let results = Mutex::new(Ok(Vec::new()));
        std::thread::scope(|scope| {
            for pool in &self.pools {
                let (next, results, work) = (&next, &results, &work);
                scope.spawn(move || {
                    pool.install(|| {
                        loop {
                            let item = (lock(next))();
                            let result = match item {
                                None => return,
                                Some(item) => item.map(work),
                            };
                            let mut results = lock(results);
                            match result {
                                Ok(value) => {
                                    if let Ok(values) = results.as_mut() {
                                        values.push(value);
                                    }
                                }
                                Err(error) => {
                                    *results = Err(error);
                                    return;
                                }
                            }
                        }
                    });
                });
            }
        });
        into_inner(results)
    }

    /// [`Cores::for_each`] on all of `items`, none of which can fail to come.
    pub fn for_all<T: Send, R: Send>(&self, items: Vec<T>, work: impl Fn(T) -> R + Sync) -> Vec<R> {
        let mut items = items.into_iter();
        let next = || items.next().map(Ok::<T, Infallible>);
        match self.for_each(next, work) {
            Ok(results) => results,
            Err(never) => match never {},
        }
    }
}

/// The sums over the slots that a member owns. Each slot is added as soon as it is computed, by the thread that did
/// it: fewer gradients are held at once than there are slots, and the order of arrival does not matter.
pub(crate) struct SlotSums<'a> {
    slots: u32,
    gradient_len: usize,
    statistics_len: usize,
    gradients: Gradients<'a>,
    statistics: SlotSum<f64>,
}

/// Where gradients are summed.
enum Gradients<'a> {
    Host(SlotSum<f32>),
    Device(Mutex<&'a mut dyn DeviceSlots>),
}

// === impl SlotSums ===

impl<'a> SlotSums<'a> {
    /// For the owner of the slots `owned` of `slots`. Gradients stay on the device where that can sum them.
    pub fn new(
        network: &Network,
        slots: u32,
        owned: Range<u32>,
        on_device: Option<&'a mut dyn DeviceSlots>,
    ) -> Self {
        let gradient_len = network.table.parameters_len();
        let gradients = match on_device {
            None => Gradients::Host(SlotSum::new(slots, owned.clone())),
            Some(device) => {
                device.begin(slots, owned.clone(), gradient_len);
                Gradients::Device(Mutex::new(device))
            }
        };
        Self {
            slots,
            gradient_len,
            statistics_len: statistics_len(network),
            gradients,
            statistics: SlotSum::new(slots, owned),
        }
    }

    /// Adds what a slot computed.
    pub fn add(&self, slot: u32, outcome: SlotOutcome) -> Result<(), WorkerError> {
        match &self.gradients {
            Gradients::Host(sum) => {
                let Gradient { len, parts } = outcome.gradient.read()?;
                sum.add_parts(slot, len, parts)?;
            }
            Gradients::Device(sum) => {
                let parts = outcome.gradient.lend()?;
                lock(sum).add(slot, Some(parts))?;
            }
        }
        self.statistics.add(slot, Some(outcome.statistics))?;
        Ok(())
    }

    /// What the member brings to the step. A slot that was not added is empty.
    pub fn finish(self) -> Result<Contribution, CollectiveError> {
        let empty = self.statistics.missing();
        for slot in &empty {
            self.statistics.add(*slot, None)?;
        }
        let nodes = match self.gradients {
            Gradients::Host(gradients) => {
                for slot in empty {
                    gradients.add(slot, None)?;
                }
                gradients.finish()?
            }
            Gradients::Device(gradients) => {
                let gradients = into_inner(gradients);
                for slot in empty {
                    gradients.add(slot, None)?;
                }
                // They stay where they are.
                BTreeMap::new()
            }
        };
        Ok(Contribution {
            slots: self.slots,
            gradients: Partial {
                len: self.gradient_len,
                nodes,
            },
            statistics: Partial {
                len: self.statistics_len,
                nodes: self.statistics.finish()?,
            },
            control: 0,
        })
    }
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

fn into_inner<T>(mutex: Mutex<T>) -> T {
    mutex.into_inner().unwrap_or_else(PoisonError::into_inner)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_item_is_worked_on_once_and_an_error_ends_the_work() {
        let cores = Cores::new(2).unwrap();
        let mut items = 0..100u32;
        let mut results = cores
            .for_each(|| items.next().map(Ok::<_, ()>), |item| item * 2)
            .unwrap();
        results.sort_unstable();
        assert_eq!(results, (0..100).map(|item| item * 2).collect::<Vec<_>>());
        let mut items = 0..100u32;
        let failed = cores.for_each(
            || {
                items
                    .next()
                    .map(|item| if item == 7 { Err("seven") } else { Ok(item) })
            },
            |i| i,
        );
        assert_eq!(failed, Err("seven"));
    }
}
