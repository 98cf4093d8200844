//! The operations on slices, each on the calling thread.

pub mod channel_gate;
pub mod conv;
pub mod depthwise;
pub mod gelu;
pub mod linear;
pub mod math;
pub mod matmul;
pub mod norm;
pub mod spatial_gate;

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

/// Runs the body for blocks of 16 channels, then 4, then 1, so that what belongs to the channels of a
/// block is read once: `for_blocks!(channels, first, N => { .. })`.
macro_rules! for_blocks {
    ($channels:expr, $first:ident, $n:ident => $body:block) => {{
        let mut $first = 0;
        for_blocks!(@ $channels, $first, $n, 16, $body);
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
