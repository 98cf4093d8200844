//! Pictures to tensors.
//!
//! A [`data_set`], which is a folder of pictures or its [`pack`], is [`split`] into a training and a validation side; each picture is
//! [`decode`]d, [`augment`]ed by randomness keyed by (seed, epoch, sample) and [`mix`]ed within its
//! slot; the [`loader`] does so ahead of training. What a slot holds is a pure function of the job, the
//! data and the slot, whatever the number of threads. [`resize`] and the split agree with Pillow and
//! scikit-learn to the bit. [`synth`](mod@synth) draws a data set to try things on.

pub mod augment;
pub mod cache;
pub mod copy;
pub mod data_set;
pub mod decode;
mod error;
mod folder;
mod listing;
pub mod loader;
pub mod mix;
pub mod pack;
pub mod prefetch;
pub mod resize;
pub mod split;
pub mod stats;
pub mod synth;
pub mod thumbnail;

pub use augment::Transform;
pub use copy::{SplitSummary, split_folder};
pub use data_set::{DataSet, Sample, Side, Skipped};
pub use decode::{Picture, PictureError, read_picture};
pub use error::{DataError, SplitError};
pub use listing::is_picture;
pub use loader::{Images, Pipeline, RawImages, Request, SlotBatch};
pub use mix::Mixer;
pub use prefetch::Prefetcher;
pub use stats::{MeanStd, mean_std};
pub use synth::synth;
pub use thumbnail::thumbnail_jpeg;
