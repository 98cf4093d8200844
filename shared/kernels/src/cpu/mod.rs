//! The operations on slices, each on the calling thread.

pub mod context;
pub mod conv;
pub mod depthwise;
pub mod gelu;
pub mod linear;
pub mod math;
pub mod matmul;
pub mod norm;
pub mod rounding;
#[cfg_attr(not(target_arch = "x86_64"), path = "no_tiles.rs")]
pub mod tiles;
mod vectors;

/// The shape of a channels-last activation.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Image {
    pub batch: usize,
    pub height: usize,
    pub width: usize,
    pub channels: usize,
}

// === impl Image ===

impl Image {
    /// Values in the whole activation.
    pub fn len(self) -> usize {
        self.batch * self.height * self.width * self.channels
    }

    /// Whether it holds no value.
    pub fn is_empty(self) -> bool {
        self.len() == 0
    }

    /// Values in one picture.
    pub fn picture(self) -> usize {
        self.height * self.width * self.channels
    }
}

/// Runs the body for blocks of 32 channels, then 16, 8, 4 and 1, so that what belongs to the channels of a block is read once, and
/// that the sums of several vectors need not wait for each other: `for_blocks!(channels, first, N => { .. })`.
macro_rules! for_blocks {
    ($channels:expr, $first:ident, $n:ident => $body:block) => {{
        let mut $first = 0;
        for_blocks!(@ $channels, $first, $n, 32, $body);
        for_blocks!(@ $channels, $first, $n, 16, $body);
        for_blocks!(@ $channels, $first, $n, 8, $body);
        for_blocks!(@ $channels, $first, $n, 4, $body);
        for_blocks!(@ $channels, $first, $n, 1, $body);
    }};
    (@ $channels:expr, $first:ident, $n:ident, $width:literal, $body:block) => {
        while $channels - $first >= $width {
            const $n: usize = $width;
            $body
            $first += $width;
        }
    };
}
use for_blocks;

/// `values[first..first + N]`.
#[inline(always)]
fn lanes<const N: usize>(values: &[f32], first: usize) -> [f32; N] {
    values[first..][..N].try_into().expect("N values")
}

/// `len` values, made in tiles of `tile_len`: `make(start, tile)` writes the values from `start` on into memory
/// that is in the cache, from where they are copied. Zeroing all of the result first would take longer.
#[inline(always)]
fn tiled(len: usize, tile_len: usize, mut make: impl FnMut(usize, &mut [f32])) -> Vec<f32> {
    let mut values = Vec::with_capacity(len);
    let mut tile = vec![0.0; tile_len.min(len)];
    while values.len() < len {
        let start = values.len();
        let tile = &mut tile[..tile_len.min(len - start)];
        make(start, tile);
        values.extend_from_slice(tile);
    }
    values
}

/// The larger one, unlike `max` with NaN where `value` is NaN.
#[inline(always)]
fn at_least(value: f32, floor: f32) -> f32 {
    if value < floor { floor } else { value }
}

/// What an activation that may be a ReLU lets pass at the least.
fn floor(relu: bool) -> f32 {
    if relu { 0.0 } else { f32::NEG_INFINITY }
}

/// Pixels of a tile.
const TILE_ROWS: usize = 64;

/// Runs `work` compiled for the widest vector unit of this processor.
#[inline(always)]
fn vectorized<R>(work: impl FnOnce() -> R) -> R {
    struct Work<F>(F);
    impl<R, F: FnOnce() -> R> pulp::NullaryFnOnce for Work<F> {
        type Output = R;
        #[inline(always)]
        fn call(self) -> R {
            (self.0)()
        }
    }
    pulp::Arch::new().dispatch(Work(work))
}

#[cfg(test)]
mod tests {
    use perennial_plan::random::{Domain, Draw, Stream};
    use pulp::{Simd, WithSimd};

    /// So many random values, others for each call with another number of them.
    pub(super) fn values(len: usize) -> Vec<f32> {
        let mut stream = Stream::new(len as u64, Domain::Init, &[]);
        (0..len)
            .map(|_| stream.uniform() as f32 * 2.0 - 1.0)
            .collect()
    }

    /// By itself, not inside of the test: of all kernels for all vector units in one function the compiler makes minutes.
    #[inline(never)]
    pub(super) fn run<S: Simd, W: WithSimd>(simd: S, work: W) -> W::Output {
        simd.vectorize(work)
    }

    /// A matrix of so many columns, by columns.
    pub(super) fn turned(values: &[f32], columns: usize) -> Vec<f32> {
        let column = |at| values.iter().skip(at).step_by(columns).copied();
        (0..columns).flat_map(column).collect()
    }

    pub(super) fn bits(values: &[f32]) -> Vec<u32> {
        values.iter().map(|value| value.to_bits()).collect()
    }

    /// What the body makes of a vector unit, which is expected to be equal for all that this processor has, and for loops over as
    /// many lanes as those of others have.
    macro_rules! on_each_vector_unit {
        ($simd:ident => $body:block) => {{
            let mut found = Vec::new();
            {
                let $simd = pulp::Scalar128b;
                found.push($body);
            }
            {
                let $simd = pulp::Scalar256b;
                found.push($body);
            }
            {
                let $simd = pulp::Scalar512b;
                found.push($body);
            }
            #[cfg(target_arch = "x86_64")]
            if let Some($simd) = pulp::x86::V3::try_new() {
                found.push($body);
            }
            #[cfg(target_arch = "x86_64")]
            if let Some($simd) = pulp::x86::V4::try_new() {
                found.push($body);
            }
            for other in &found {
                assert_eq!(*other, found[0]);
            }
            found.swap_remove(0)
        }};
    }
    pub(super) use on_each_vector_unit;
}
