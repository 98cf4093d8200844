//! The rows that are in memory: those used last, within a budget.

use std::collections::HashMap;
use std::sync::{Arc, Mutex, PoisonError};

use tokio::sync::OnceCell;

use super::rows::Rows;

/// Room for the rows of a million samples, so that each is read once.
pub(super) const BUDGET: usize = 80 << 20;

/// Rows by the number of their shard. What many want at once is loaded once.
#[derive(Debug)]
pub(super) struct Memory {
    budget: usize,
    state: Mutex<State>,
}

#[derive(Debug, Default)]
struct State {
    slots: HashMap<usize, Slot>,
    uses: u64,
}

#[derive(Debug, Default)]
struct Slot {
    rows: Arc<OnceCell<Arc<Rows>>>,
    last_use: u64,
}

// === impl Memory ===

impl Memory {
    pub fn new(budget: usize) -> Self {
        Self {
            budget,
            state: Mutex::default(),
        }
    }

    /// The rows of a shard, loaded where they are not there.
    pub async fn get<E>(
        &self,
        shard: usize,
        load: impl Future<Output = Result<Rows, E>>,
    ) -> Result<Arc<Rows>, E> {
        let cell = {
            let mut state = self.state.lock().unwrap_or_else(PoisonError::into_inner);
            state.uses += 1;
            let uses = state.uses;
            let slot = state.slots.entry(shard).or_default();
            slot.last_use = uses;
            slot.rows.clone()
        };
        if let Some(rows) = cell.get() {
            return Ok(rows.clone());
        }
        let rows = cell
            .get_or_try_init(|| async { Ok(Arc::new(load.await?)) })
            .await?;
        self.let_go(shard);
        Ok(rows.clone())
    }

    /// Bytes of rows in memory.
    pub fn used(&self) -> usize {
        let state = self.state.lock().unwrap_or_else(PoisonError::into_inner);
        state.used()
    }

    /// Forgets what was not used for longest until the budget is kept; never `newest`.
    fn let_go(&self, newest: usize) {
        let mut state = self.state.lock().unwrap_or_else(PoisonError::into_inner);
        let mut used = state.used();
        while used > self.budget {
            let loaded = state
                .slots
                .iter()
                .filter(|(shard, slot)| **shard != newest && slot.rows.initialized());
            let Some(oldest) = loaded
                .min_by_key(|(_, slot)| slot.last_use)
                .map(|(shard, _)| *shard)
            else {
                return;
            };
            used -= state.slots.remove(&oldest).map_or(0, |slot| slot.size());
        }
    }
}

// === impl State ===

impl State {
    fn used(&self) -> usize {
        self.slots.values().map(Slot::size).sum()
    }
}

// === impl Slot ===

impl Slot {
    fn size(&self) -> usize {
        self.rows.get().map_or(0, |rows| rows.size())
    }
}

#[cfg(test)]
mod tests {
    use super::super::rows::Entry;
    use super::*;

    fn rows() -> Rows {
        let entry = Entry {
            relative: "1.png".into(),
            class: 0,
            offset: 512,
            bytes: 7,
            width: 1,
            height: 1,
            sha256: [7; 32],
        };
        Rows::decode(Rows::encode([&entry].into_iter()).into(), 4096).unwrap()
    }

    #[tokio::test]
    async fn what_was_not_used_for_longest_is_let_go_and_loaded_again() {
        let memory = Memory::new(2 * rows().size());
        let loads = Mutex::new(Vec::new());
        let get = async |shard| {
            let load = async {
                loads.lock().unwrap().push(shard);
                Ok::<_, ()>(rows())
            };
            memory.get(shard, load).await.unwrap();
        };
        for shard in [0, 1, 0, 2, 0, 1, 0] {
            get(shard).await;
            assert!(memory.used() <= 2 * rows().size());
        }
        assert_eq!(*loads.lock().unwrap(), [0, 1, 2, 1]);
    }

    #[tokio::test]
    async fn a_load_that_failed_is_tried_again() {
        let memory = Memory::new(1000);
        let failed = memory.get(3, async { Err("gone") }).await;
        assert_eq!(failed.unwrap_err(), "gone");
        memory.get(3, async { Ok::<_, ()>(rows()) }).await.unwrap();
        assert_eq!(memory.used(), rows().size());
    }
}
