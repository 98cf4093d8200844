//! Decoded pictures kept in memory within a budget.

use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, OnceLock};

use crate::decode::Picture;

/// Keeps the pictures that fit and forgets none: an epoch visits all in a new order each time, so no
/// picture deserves the room more than another.
#[derive(Debug)]
pub struct PictureCache {
    pictures: Vec<OnceLock<Arc<Picture>>>,
    budget: u64,
    used: AtomicU64,
}

// === impl PictureCache ===

impl PictureCache {
    /// Room for pictures of ids below `count` whose pixels take up to `budget` bytes in all.
    pub fn new(count: usize, budget: u64) -> Self {
        Self {
            pictures: (0..count).map(|_| OnceLock::new()).collect(),
            budget,
            used: AtomicU64::new(0),
        }
    }

    pub fn get(&self, id: u32) -> Option<Arc<Picture>> {
        self.pictures.get(id as usize)?.get().cloned()
    }

    /// Keeps the picture when it fits, and gives it back for use either way.
    pub fn offer(&self, id: u32, picture: Picture) -> Arc<Picture> {
        let picture = Arc::new(picture);
        let Some(place) = self.pictures.get(id as usize) else {
            return picture;
        };
        let size = picture.pixels.len() as u64;
        if place.get().is_some() {
            return picture;
        }
        if self.used.fetch_add(size, Ordering::Relaxed) + size > self.budget
            || place.set(picture.clone()).is_err()
        {
            self.used.fetch_sub(size, Ordering::Relaxed);
        }
        picture
    }

    /// Bytes of pixels kept.
    pub fn used(&self) -> u64 {
        self.used.load(Ordering::Relaxed)
    }
}
