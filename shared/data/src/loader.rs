//! Slots of the training set and portions of the validation set, ready for the network.

use std::sync::Arc;

use bytes::Bytes;
use perennial_plan::Spec;
use perennial_plan::random::{Domain, Stream};

use crate::augment::{ByteValues, Transform};
use crate::cache::PictureCache;
use crate::data_set::{DataSet, Sample, Side, Skipped};
use crate::decode::Picture;
use crate::error::DataError;
use crate::mix::{MixPlan, Mixer};
use crate::prefetch::Prefetcher;

/// The samples of one slot, or of one portion of an evaluation.
#[derive(Debug, Clone, PartialEq, Default)]
pub struct SlotBatch {
    pub images: Images,
    /// `[n, classes]`: what the loss is taken against; each row sums to 1.
    pub targets: Vec<f32>,
    /// `[n]`: each sample's own class.
    pub labels: Vec<u32>,
}

/// The pictures of a batch.
#[derive(Debug, Clone, PartialEq)]
pub enum Images {
    /// `[n, size, size, 3]`, normalised and mixed.
    Ready(Vec<f32>),
    /// Of a pipeline that [leaves that](Pipeline::raw) to others.
    Raw(RawImages),
}

/// Pictures that are neither normalised nor mixed.
#[derive(Debug, Clone, PartialEq)]
pub struct RawImages {
    /// `[n, size, size, 3]`.
    pub bytes: Vec<u8>,
    /// What normalising makes of a byte.
    pub values: Arc<ByteValues>,
    /// As [`Mixer::apply`] does it; none: they are not mixed.
    pub plan: Option<MixPlan>,
}

/// What to prepare.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Request {
    /// One slot of one step, augmented and mixed.
    Train {
        epoch: u32,
        global_step: u64,
        slot: u32,
        /// Places in [`DataSet::train`].
        samples: Vec<u32>,
    },
    /// Pictures as evaluation sees them: resized and normalised; targets are one-hot.
    Eval {
        side: Side,
        /// Places in that side's list.
        samples: Vec<u32>,
    },
}

/// What was read for a request: a file for each of its samples, none for those whose picture is kept.
type Files = Vec<Option<Result<Bytes, DataError>>>;

/// Threads that wait for a store while others decode.
const READERS: usize = 4;
/// Bytes that are read of a store ahead of their decoding.
const READ_AHEAD: u64 = 64 << 20;

/// A data set with a job's transforms. Every batch is a pure function of its arguments.
#[derive(Debug)]
pub struct Pipeline {
    data: DataSet,
    seed: u64,
    max_pixels: u64,
    transform: Transform,
    mixer: Mixer,
    cache: PictureCache,
    /// Samples of a slot, at most.
    slot_samples: u64,
    /// Whether pictures are left as they are before they are normalised.
    raw: bool,
}

// === impl Images ===

impl Images {
    fn push(&mut self, transform: &Transform, picture: &Picture) {
        match self {
            Self::Ready(values) => transform.normalise(picture, values),
            Self::Raw(raw) => raw.bytes.extend_from_slice(&picture.pixels),
        }
    }
}

impl Default for Images {
    fn default() -> Self {
        Self::Ready(Vec::new())
    }
}

// === impl Pipeline ===

impl Pipeline {
    /// Opens the data set of a job. Pictures in files are decoded once, so that one that cannot be used is
    /// found before training; those that fit into `data.cache_mib` stay. Of a pack, which knows what can be
    /// used, nothing is read yet. Returns what was left out.
    pub fn open(spec: &Spec) -> Result<(Self, Vec<Skipped>), DataError> {
        let mut pipeline = Self::new(DataSet::open(&spec.data)?, spec);
        let mut data = pipeline.data.clone();
        let keep = |sample: &Sample, side, picture| {
            pipeline.keep(sample, side, picture);
        };
        let skipped = data.verify(spec.data.on_bad_image, spec.data.max_pixels, keep)?;
        pipeline.data = data;
        Ok((pipeline, skipped))
    }

    /// Without looking at the pictures: each is decoded when it is first needed.
    pub fn new(data: DataSet, spec: &Spec) -> Self {
        let ids = data.train.iter().chain(&data.val).map(|sample| sample.id);
        let count = ids.max().map_or(0, |most| most as usize + 1);
        Self {
            seed: spec.seed,
            slot_samples: u64::from(spec.train.batch_size.div_ceil(spec.train.slots.max(1))),
            max_pixels: spec.data.max_pixels,
            transform: Transform::new(&spec.data, &spec.augment),
            mixer: Mixer::new(&spec.mix, data.classes.len()),
            cache: PictureCache::new(count, spec.data.cache_mib.saturating_mul(1 << 20)),
            data,
            raw: false,
        }
    }

    /// Leaves it to whoever takes the batches to normalise and mix the pictures, if `raw` is set.
    #[must_use]
    pub fn raw(self, raw: bool) -> Self {
        Self { raw, ..self }
    }

    pub fn data(&self) -> &DataSet {
        &self.data
    }

    /// Height and width of the pictures that come out.
    pub fn image_size(&self) -> u32 {
        self.transform.size()
    }

    /// Bytes of decoded pictures that are kept.
    pub fn cached_bytes(&self) -> u64 {
        self.cache.used()
    }

    /// The training samples at places `samples`, augmented by (seed, epoch, sample) and mixed by (seed,
    /// step, slot).
    ///
    /// # Panics
    /// When a place is not in [`DataSet::train`].
    pub fn train_slot(
        &self,
        epoch: u32,
        global_step: u64,
        slot: u32,
        samples: &[u32],
    ) -> Result<SlotBatch, DataError> {
        let files = self.read(Side::Train, samples);
        self.train_slot_of(epoch, global_step, slot, samples, files)
    }

    fn train_slot_of(
        &self,
        epoch: u32,
        global_step: u64,
        slot: u32,
        samples: &[u32],
        files: Files,
    ) -> Result<SlotBatch, DataError> {
        let mut batch = self.empty_batch(samples.len());
        for (place, file) in samples.iter().zip(files) {
            let sample = &self.data.train[*place as usize];
            let picture = self.picture(sample, Side::Train, file)?;
            let key = [u64::from(epoch), u64::from(*place)];
            let mut random = Stream::new(self.seed, Domain::Augment, &key);
            let augmented = self.transform.augmented(&picture, &mut random);
            batch.images.push(&self.transform, &augmented);
            batch.labels.push(sample.class);
        }
        let size = self.transform.size() as usize;
        let key = [global_step, u64::from(slot)];
        let mut random = Stream::new(self.seed, Domain::Mix, &key);
        let plan = self.mixer.draw(&mut random, size, size);
        batch.targets = match &mut batch.images {
            Images::Ready(values) => self.mixer.apply(&plan, values, size, &batch.labels),
            Images::Raw(raw) => {
                let targets = self.mixer.targets(&plan, &batch.labels);
                raw.plan = (plan.sampled_lam < 1.0).then_some(plan);
                targets
            }
        };
        Ok(batch)
    }

    /// The samples at places `samples` of `side`, resized and normalised.
    ///
    /// # Panics
    /// When a place is not in that side's list.
    pub fn eval_batch(&self, side: Side, samples: &[u32]) -> Result<SlotBatch, DataError> {
        let files = self.read(side, samples);
        self.eval_batch_of(side, samples, files)
    }

    fn eval_batch_of(
        &self,
        side: Side,
        samples: &[u32],
        files: Files,
    ) -> Result<SlotBatch, DataError> {
        let mut batch = self.empty_batch(samples.len());
        let classes = self.data.classes.len() as u32;
        for (place, file) in samples.iter().zip(files) {
            let sample = &self.data.side(side)[*place as usize];
            let picture = self.picture(sample, side, file)?;
            let resized = self.transform.resized(&picture);
            batch.images.push(&self.transform, &resized);
            batch.labels.push(sample.class);
            let one_hot = (0..classes).map(|class| if class == sample.class { 1.0 } else { 0.0 });
            batch.targets.extend(one_hot);
        }
        Ok(batch)
    }

    /// Answers one request.
    pub fn answer(&self, request: &Request) -> Result<SlotBatch, DataError> {
        self.answer_of(request, self.read_for(request))
    }

    fn answer_of(&self, request: &Request, files: Files) -> Result<SlotBatch, DataError> {
        match request {
            Request::Train {
                epoch,
                global_step,
                slot,
                samples,
            } => self.train_slot_of(*epoch, *global_step, *slot, samples, files),
            Request::Eval { side, samples } => self.eval_batch_of(*side, samples, files),
        }
    }

    /// Answers `requests` in order on `threads` threads, up to `look_ahead` batches ahead of their use. What
    /// comes from a store is read further ahead, on threads that wait while these decode.
    pub fn prefetch(
        self: &Arc<Self>,
        threads: usize,
        look_ahead: usize,
        requests: impl Iterator<Item = Request> + Send + 'static,
    ) -> Prefetcher<Result<SlotBatch, DataError>> {
        let pipeline = self.clone();
        let Some(batches) = self.read_ahead() else {
            return Prefetcher::new(threads, look_ahead, requests, move |request| {
                pipeline.answer(&request)
            });
        };
        let reader = self.clone();
        let read = Prefetcher::new(READERS, batches, requests, move |request| {
            let files = reader.read_for(&request);
            (request, files)
        });
        Prefetcher::new(threads, look_ahead, read, move |(request, files)| {
            pipeline.answer_of(&request, files)
        })
    }

    /// How many requests are read ahead of their decoding, where that is worth while.
    fn read_ahead(&self) -> Option<usize> {
        let sample = self.data.mean_packed_bytes()?;
        let batches = READ_AHEAD / (sample * self.slot_samples).max(1);
        Some(batches.clamp(2, 256) as usize)
    }

    fn read_for(&self, request: &Request) -> Files {
        match request {
            Request::Train { samples, .. } => self.read(Side::Train, samples),
            Request::Eval { side, samples } => self.read(*side, samples),
        }
    }

    /// The files of the samples at places `samples` whose pictures are not kept.
    fn read(&self, side: Side, samples: &[u32]) -> Files {
        let samples = samples
            .iter()
            .map(|place| self.data.side(side)[*place as usize]);
        let kept = |sample: &Sample| self.cache.get(sample.id).is_some();
        let wanted: Vec<Sample> = samples.clone().filter(|sample| !kept(sample)).collect();
        let mut files = wanted.iter().zip(self.data.read_all(&wanted)).peekable();
        let mut file = |sample: &Sample| {
            let (_, file) = files.next_if(|(wanted, _)| wanted.id == sample.id)?;
            Some(file)
        };
        samples.map(|sample| file(&sample)).collect()
    }

    fn empty_batch(&self, samples: usize) -> SlotBatch {
        let size = self.transform.size() as usize;
        let values = samples * size * size * 3;
        SlotBatch {
            images: match self.raw {
                false => Images::Ready(Vec::with_capacity(values)),
                true => Images::Raw(RawImages {
                    bytes: Vec::with_capacity(values),
                    values: self.transform.byte_values().clone(),
                    plan: None,
                }),
            },
            targets: Vec::new(),
            labels: Vec::with_capacity(samples),
        }
    }

    /// The picture from which the side's transforms start: decoded for random crops, else resized.
    fn picture(
        &self,
        sample: &Sample,
        side: Side,
        file: Option<Result<Bytes, DataError>>,
    ) -> Result<Arc<Picture>, DataError> {
        if let Some(picture) = self.cache.get(sample.id) {
            return Ok(picture);
        }
        let picture = match file {
            Some(file) => self.data.decoded(sample, &file?, self.max_pixels)?,
            None => self.data.picture(sample, self.max_pixels)?,
        };
        Ok(self.keep(sample, side, picture))
    }

    fn keep(&self, sample: &Sample, side: Side, picture: Picture) -> Arc<Picture> {
        let whole = side == Side::Train && self.transform.crops();
        let picture = if whole {
            picture
        } else {
            self.transform.resized(&picture)
        };
        self.cache.offer(sample.id, picture)
    }
}
