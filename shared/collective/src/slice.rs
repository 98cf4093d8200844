//! Numbers that are shared instead of copied, and memory that is used again.

use std::ops::Range;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use crate::element::add;

/// Vectors that wait to be used again; more are let go.
const SPARE: usize = 64;

/// Memory for what comes from the peers, used again from sum to sum.
#[derive(Debug, Clone, Default)]
pub(crate) struct Buffers {
    spare: Arc<Mutex<Vec<Vec<f32>>>>,
}

// === impl Buffers ===

impl Buffers {
    /// So many numbers with any values, which come back here when the last slice of them is dropped.
    pub fn take(&self, len: usize) -> Vec<f32> {
        let mut spare = self.spare();
        let fit = spare.iter().position(|vector| vector.capacity() >= len);
        let mut vector = fit.map_or_else(Vec::new, |index| spare.swap_remove(index));
        drop(spare);
        vector.resize(len, 0.0);
        vector
    }

    fn give(&self, vector: Vec<f32>) {
        let mut spare = self.spare();
        if spare.len() < SPARE {
            spare.push(vector);
        }
    }

    fn spare(&self) -> MutexGuard<'_, Vec<Vec<f32>>> {
        self.spare.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

#[derive(Debug)]
struct Vector {
    values: Vec<f32>,
    home: Option<Buffers>,
}

impl Drop for Vector {
    fn drop(&mut self) {
        if let Some(home) = &self.home {
            home.give(std::mem::take(&mut self.values));
        }
    }
}

/// A range of a shared vector.
#[derive(Debug, Clone)]
pub(crate) struct Slice {
    vector: Arc<Vector>,
    range: Range<usize>,
}

// === impl Slice ===

impl Slice {
    /// All of a vector whose memory goes back to `home`, if it has one.
    pub fn new(values: Vec<f32>, home: Option<&Buffers>) -> Self {
        Self {
            range: 0..values.len(),
            vector: Arc::new(Vector {
                values,
                home: home.cloned(),
            }),
        }
    }

    /// A range of this one.
    pub fn part(&self, range: &Range<usize>) -> Self {
        let start = self.range.start;
        Self {
            vector: self.vector.clone(),
            range: start + range.start..start + range.end,
        }
    }

    pub fn values(&self) -> &[f32] {
        &self.vector.values[self.range.clone()]
    }

    /// The sum with another one of as many numbers, in the memory of one of the two that nobody else has, or
    /// in memory of `buffers`.
    pub fn plus(mut self, mut other: Self, buffers: &Buffers) -> Self {
        if let Some(sum) = self.own() {
            add(sum, other.values());
            return self;
        }
        if let Some(sum) = other.own() {
            // To the bit the same: a sum of two numbers does not depend on their order.
            add(sum, self.values());
            return other;
        }
        let mut sum = buffers.take(self.range.len());
        sum.copy_from_slice(self.values());
        add(&mut sum, other.values());
        Self::new(sum, Some(buffers))
    }

    /// The numbers, to be changed, if nobody else has the vector.
    fn own(&mut self) -> Option<&mut [f32]> {
        let vector = Arc::get_mut(&mut self.vector)?;
        Some(&mut vector.values[self.range.clone()])
    }

    /// The whole vector, if nobody else has it.
    pub fn reclaim(self) -> Option<Vec<f32>> {
        let mut vector = Arc::into_inner(self.vector)?;
        Some(std::mem::take(&mut vector.values))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_sum_changes_no_slice_that_somebody_else_has() {
        let buffers = Buffers::default();
        let whole = Slice::new(vec![1.0, 2.0, 3.0, 4.0], None);
        let shared = || whole.part(&(1..3));
        let sum = shared().plus(shared(), &buffers);
        assert_eq!(sum.values(), [4.0, 6.0]);
        let place = sum.values().as_ptr();
        let sum = sum.plus(shared(), &buffers);
        assert_eq!(
            (sum.values(), sum.values().as_ptr()),
            (&[6.0, 9.0][..], place)
        );
        let sum = shared().plus(sum, &buffers);
        assert_eq!(
            (sum.values(), sum.values().as_ptr()),
            (&[8.0, 12.0][..], place)
        );
        let inner = sum.part(&(1..2));
        assert_eq!(inner.values(), [12.0]);
        assert_eq!(whole.reclaim(), Some(vec![1.0, 2.0, 3.0, 4.0]));
        assert_eq!(inner.reclaim(), None, "the other one still has it");
    }

    #[test]
    fn memory_is_used_again_once_nobody_has_it() {
        let buffers = Buffers::default();
        let first = Slice::new(buffers.take(100), Some(&buffers));
        let place = first.values().as_ptr();
        let other = first.clone();
        drop(first);
        let meanwhile = buffers.take(100);
        assert_ne!(meanwhile.as_ptr(), place);
        drop(other);
        let again = buffers.take(60);
        assert_eq!((again.as_ptr(), again.len()), (place, 60));
    }
}
