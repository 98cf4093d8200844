//! Pictures read, decoded, augmented and mixed as for training, with nobody to use them.

use std::sync::Arc;
use std::time::{Duration, Instant};

use perennial_data::Pipeline;
use perennial_plan::{Cursor, Spec};

use crate::error::WorkerError;
use crate::training::{look_ahead, requests};

/// What is timed: the training pictures of a job's data set, for all its epochs.
#[derive(Debug, Clone)]
pub struct LoaderBench {
    pub spec: Spec,
    pub threads: usize,
}

#[derive(Debug, Clone)]
pub struct LoaderTimes {
    /// Pictures in an epoch.
    pub pictures: usize,
    /// Until all pictures, also those for validation, were decoded once.
    pub opening: Duration,
    pub epochs: Vec<Duration>,
}

// === impl LoaderBench ===

impl LoaderBench {
    pub fn run(&self) -> Result<LoaderTimes, WorkerError> {
        let began = Instant::now();
        let (pipeline, _) = Pipeline::open(&self.spec)?;
        let opening = began.elapsed();
        let pipeline = Arc::new(pipeline);
        let pictures = pipeline.data().train.len();
        let owned = 0..self.spec.train.slots;
        let requests = requests(self.spec.clone(), pictures, owned, Cursor::default());
        let batches = pipeline.prefetch(self.threads, look_ahead(self.threads), requests);
        let mut epochs = Vec::new();
        let (mut began, mut loaded) = (Instant::now(), 0);
        for batch in batches {
            loaded += batch?.labels.len();
            if loaded == pictures {
                epochs.push(began.elapsed());
                (began, loaded) = (Instant::now(), 0);
            }
        }
        Ok(LoaderTimes {
            pictures,
            opening,
            epochs,
        })
    }
}
