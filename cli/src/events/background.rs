//! Showing on a thread of its own.

use std::sync::mpsc::{self, Sender};
use std::thread::JoinHandle;

/// Shows what it is given, in this order, on a thread of its own: a reader of stdout who does not read on, as a pager
/// or a terminal that is held, keeps nobody else waiting. What is not shown yet waits in memory; dropping this waits
/// until all is shown.
pub struct Background<T> {
    /// None once it is being dropped.
    sender: Option<Sender<T>>,
    thread: Option<JoinHandle<()>>,
}

// === impl Background ===

impl<T: Send + 'static> Background<T> {
    pub fn new(mut show: impl FnMut(T) + Send + 'static) -> Self {
        let (sender, receiver) = mpsc::channel();
        let thread = std::thread::spawn(move || receiver.into_iter().for_each(&mut show));
        Self {
            sender: Some(sender),
            thread: Some(thread),
        }
    }

    pub fn show(&self, what: T) {
        if let Some(sender) = &self.sender {
            // A thread that panicked has said so.
            let _ = sender.send(what);
        }
    }
}

impl<T> Drop for Background<T> {
    fn drop(&mut self) {
        self.sender = None;
        if let Some(thread) = self.thread.take() {
            let _ = thread.join();
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_reader_who_does_not_read_on_keeps_nobody_waiting_and_misses_nothing() {
        let (read_on, held) = mpsc::channel::<()>();
        let (shown, all) = mpsc::channel();
        let background = Background::new(move |number| {
            let _ = held.recv();
            shown.send(number).unwrap();
        });
        for number in 0..1000 {
            background.show(number);
        }
        assert!(all.try_recv().is_err(), "nothing is shown yet");
        drop(read_on);
        drop(background);
        assert_eq!(
            all.iter().collect::<Vec<_>>(),
            (0..1000).collect::<Vec<_>>()
        );
    }
}
