//! Hears the session's commands while the training thread works.

use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};
use std::thread::JoinHandle;

use perennial_collective::AbortHandle;
use perennial_plan::Spec;
use perennial_session::{Assignment, Command, SessionHandle, Source};

use crate::error::WorkerError;

/// What the training thread is to do next.
#[derive(Debug)]
pub(crate) enum Work {
    Prepare { spec: Box<Spec>, store_url: String },
    Train(Box<Assignment>, Arc<Turn>),
    Follow(Source, Arc<Turn>),
    Over(Over),
}

/// How a session ended, and with it what the training thread has to do.
#[derive(Debug, Clone)]
pub(crate) enum Over {
    /// The worker's life ends.
    Exit(Result<(), String>),
    /// It comes back to the pool under this name.
    Return {
        worker: String,
        end: Result<(), String>,
    },
}

/// One generation, or one copying of a replica: it can be broken off, and flags can be raised in it.
#[derive(Debug, Default)]
pub(crate) struct Turn {
    /// None while a replica is followed.
    generation: Option<u64>,
    abort: AbortHandle,
    flags: AtomicU64,
}

/// A thread that hears commands at once.
pub(crate) struct Ears {
    heard: Arc<Heard>,
    thread: JoinHandle<()>,
}

#[derive(Default)]
struct Heard {
    state: Mutex<State>,
    changed: Condvar,
}

#[derive(Default)]
struct State {
    /// At most one: a later one replaces it.
    next: Option<Work>,
    over: Option<Over>,
    turn: Option<Arc<Turn>>,
}

// === impl Turn ===

impl Turn {
    fn new(generation: Option<u64>) -> Arc<Self> {
        Arc::new(Self {
            generation,
            ..Self::default()
        })
    }

    /// Ends the collective and the copying that wait on it.
    pub fn abort_handle(&self) -> &AbortHandle {
        &self.abort
    }

    pub fn is_over(&self) -> bool {
        self.abort.is_aborted()
    }

    /// An error once the session has broken it off.
    pub fn check(&self) -> Result<(), WorkerError> {
        if self.is_over() {
            Err(WorkerError::told())
        } else {
            Ok(())
        }
    }

    /// The control flags that were raised.
    pub fn flags(&self) -> u64 {
        self.flags.load(Ordering::Relaxed)
    }
}

// === impl Ears ===

impl Ears {
    pub fn new(session: SessionHandle) -> Result<Self, WorkerError> {
        let heard = Arc::new(Heard::default());
        let listener = heard.clone();
        let thread = std::thread::Builder::new()
            .name("ears".into())
            .spawn(move || while listener.hear(session.recv()) {})
            .map_err(|error| WorkerError::Thread(error.to_string()))?;
        Ok(Self { heard, thread })
    }

    /// Waits for the next work. The end comes before everything else.
    pub fn next(&self) -> Work {
        let mut state = self.heard.lock();
        loop {
            if let Some(over) = &state.over {
                return Work::Over(over.clone());
            }
            if let Some(work) = state.next.take() {
                return work;
            }
            state = self
                .heard
                .changed
                .wait(state)
                .unwrap_or_else(PoisonError::into_inner);
        }
    }

    /// After [`Work::Over`]: lets the last reports leave.
    pub fn close(self) {
        // A panic of the thread has been reported by itself.
        let _ = self.thread.join();
    }
}

// === impl Heard ===

impl Heard {
    /// Whether more is to be heard.
    fn hear(&self, command: Command) -> bool {
        let mut state = self.lock();
        match command {
            Command::Prepare { spec, store_url } => {
                state.next = Some(Work::Prepare { spec, store_url });
            }
            Command::Train(assignment) => {
                let turn = state.turn(Some(assignment.generation.id));
                state.next = Some(Work::Train(assignment, turn));
            }
            Command::Follow(source) => {
                let turn = state.turn(None);
                state.next = Some(Work::Follow(source, turn));
            }
            Command::Break { generation } => {
                if let Some(turn) = state.turn_of(generation) {
                    turn.abort.abort();
                }
            }
            Command::Raise { generation, flags } => {
                if let Some(turn) = state.turn_of(generation) {
                    turn.flags.fetch_or(flags, Ordering::Relaxed);
                }
            }
            Command::Exit(end) => state.end(Over::Exit(end)),
            Command::Return { worker, end } => state.end(Over::Return { worker, end }),
        }
        let goes_on = state.over.is_none();
        drop(state);
        self.changed.notify_all();
        goes_on
    }

    fn lock(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

// === impl State ===

impl State {
    /// A new turn; the one before it is over.
    fn turn(&mut self, generation: Option<u64>) -> Arc<Turn> {
        let turn = Turn::new(generation);
        if let Some(before) = self.turn.replace(turn.clone()) {
            before.abort.abort();
        }
        turn
    }

    fn end(&mut self, over: Over) {
        self.turn(None);
        self.over = Some(over);
    }

    fn turn_of(&self, generation: u64) -> Option<&Turn> {
        let turn = self.turn.as_deref()?;
        (turn.generation == Some(generation)).then_some(turn)
    }
}

#[cfg(test)]
mod tests {
    use perennial_plan::{Cursor, Generation};

    use super::*;

    fn train(id: u64) -> Command {
        Command::Train(Box::new(Assignment {
            generation: Generation {
                id,
                members: Vec::new(),
                start: Cursor::default(),
                checkpoint: None,
            },
            rank: 0,
            evaluate: false,
            checkpoint: false,
            finish: false,
            source: None,
        }))
    }

    fn follow() -> Command {
        Command::Follow(Source {
            worker: "w1".into(),
            address: "127.0.0.1:1".into(),
            global_step: 1,
            replica_hash: 1,
        })
    }

    fn turn(heard: &Heard) -> Arc<Turn> {
        heard.lock().turn.clone().unwrap()
    }

    #[test]
    fn a_break_or_a_flag_of_another_generation_has_no_effect() {
        let heard = Heard::default();
        heard.hear(train(4));
        let generation = turn(&heard);
        heard.hear(Command::Break { generation: 3 });
        heard.hear(Command::Raise {
            generation: 3,
            flags: 1,
        });
        assert!(!generation.is_over());
        assert_eq!(generation.flags(), 0);
        heard.hear(Command::Raise {
            generation: 4,
            flags: 2,
        });
        heard.hear(Command::Raise {
            generation: 4,
            flags: 4,
        });
        heard.hear(Command::Break { generation: 4 });
        assert!(generation.is_over());
        assert_eq!(generation.flags(), 6);
    }

    #[test]
    fn a_generation_can_be_broken_off_before_the_training_took_it_up() {
        let heard = Heard::default();
        heard.hear(train(4));
        heard.hear(Command::Break { generation: 4 });
        let Some(Work::Train(_, turn)) = heard.lock().next.take() else {
            panic!("the training must still be told, so that it can answer");
        };
        assert!(turn.is_over());
    }

    #[test]
    fn a_new_generation_another_source_and_the_exit_end_a_following() {
        for command in [train(1), follow(), Command::Exit(Ok(()))] {
            let heard = Heard::default();
            heard.hear(follow());
            let following = turn(&heard);
            assert!(!following.is_over());
            let exits = matches!(command, Command::Exit(_));
            assert_eq!(heard.hear(command), !exits);
            assert!(following.is_over());
        }
    }
}
