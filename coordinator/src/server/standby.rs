//! A coordinator that waits until nobody rules.

use std::time::Duration;

use perennial_proto::dial::Address;
use perennial_proto::rules::SILENCE;
use perennial_proto::v1::StatusRequest;
use perennial_secure::Security;
use perennial_store::{Job, StoreError};
use tokio::sync::mpsc::{UnboundedReceiver, UnboundedSender};
use tokio::sync::watch;
use tokio::time::{Instant, timeout};

use super::service::Incoming;
use super::{ServeConfig, turn_away};
use crate::log::LogRecord;
use crate::machine::Outcome;
use crate::replay::Replayed;
use crate::storage::{Opened, Storage};
use crate::{CoordinatorError, JobEvent};

/// How often the ruling coordinator is asked for a sign of life, and how long it may take to answer.
pub(super) const PING: Duration = Duration::from_millis(500);
const ANSWER: Duration = Duration::from_secs(1);

/// How the waiting ended.
pub(super) enum Turn {
    Rule(Box<Opened>),
    /// There is nothing left to rule.
    Over(Outcome),
}

/// Waits until the coordinator that rules by the log is silent. Visitors are told to look elsewhere.
pub(super) async fn wait_for_turn(
    config: &ServeConfig,
    incoming: &mut UnboundedReceiver<Incoming>,
    events: &UnboundedSender<JobEvent>,
    stop: &mut watch::Receiver<bool>,
) -> Result<Turn, CoordinatorError> {
    let _ = events.send(JobEvent::Waiting {
        reason: "another coordinator rules; this one takes over when that one is silent".into(),
    });
    let mut watching = Watch {
        config,
        job: config.store.job(&config.spec.name)?,
        log: Vec::new(),
        first_look: true,
        heard: Instant::now(),
    };
    let mut pings = tokio::time::interval(PING);
    loop {
        tokio::select! {
            Some(came) = incoming.recv() => turn_away(came, &config.spec.name),
            stopped = stop.wait_for(|stop| *stop) => {
                if stopped.is_ok() {
                    return Ok(Turn::Over(stop_at(config, 0)));
                }
                // Nobody is left who could ask; the waiting goes on with the next ping.
                tokio::time::sleep(PING).await;
            }
            _ = pings.tick() => {
                if let Some(turn) = watching.look().await? {
                    return Ok(turn);
                }
            }
        }
    }
}

fn stop_at(config: &ServeConfig, global_step: u64) -> Outcome {
    Outcome::Stopped {
        global_step,
        resume: format!("`{}` goes on", config.resume_command),
        report: None,
    }
}

/// What a standby knows of the one that rules.
struct Watch<'a> {
    config: &'a ServeConfig,
    job: Job,
    log: Vec<LogRecord>,
    first_look: bool,
    /// When the ruling coordinator last gave a sign of life.
    heard: Instant,
}

// === impl Watch ===

impl Watch<'_> {
    async fn look(&mut self) -> Result<Option<Turn>, CoordinatorError> {
        if !self.read_on().await {
            return Ok(None);
        }
        let state = Replayed::of(&self.config.spec, &self.log).map_err(StoreError::from)?;
        let global_step = state.steps.len() as u64;
        // A job that was stopped before this standby was started is to go on.
        let stopped_meanwhile = !std::mem::take(&mut self.first_look);
        match state.ended.as_deref() {
            Some("finished") => {
                return Ok(Some(Turn::Over(Outcome::Finished {
                    global_step,
                    weights_sha256: String::new(),
                    ema_sha256: None,
                    report: String::new(),
                })));
            }
            Some(_) if stopped_meanwhile => {
                return Ok(Some(Turn::Over(stop_at(self.config, global_step))));
            }
            _ => {}
        }
        if is_alive(&state.address, &self.config.access.security).await {
            self.heard = Instant::now();
        }
        if self.heard.elapsed() < SILENCE {
            return Ok(None);
        }
        // The question took its time, and another standby may have taken over meanwhile.
        let known = self.log.len();
        if !self.read_on().await || self.log.len() > known {
            return Ok(None);
        }
        let opened = Storage::open(self.config).await?;
        Ok(Some(Turn::Rule(Box::new(opened))))
    }

    /// Takes in what was written since; a new entry is a sign of life. Without the store nothing can be
    /// taken over.
    async fn read_on(&mut self) -> bool {
        match self.job.read_log(self.log.len() as u64).await {
            Ok(entries) => {
                if !entries.is_empty() {
                    self.heard = Instant::now();
                }
                self.log.extend::<Vec<LogRecord>>(entries);
                true
            }
            Err(error) => {
                tracing::warn!(%error, "the job's log cannot be read now");
                false
            }
        }
    }
}

/// Whether a coordinator that rules answers at `address`.
pub(super) async fn is_alive(address: &str, security: &Security) -> bool {
    let asked = async {
        let address = Address::in_log(address).ok()?;
        let mut client = address.client(security, ANSWER).await.ok()?;
        let phase = client
            .status(StatusRequest::default())
            .await
            .ok()?
            .into_inner()
            .phase;
        (phase != "standby" && phase != "ended").then_some(())
    };
    matches!(timeout(ANSWER, asked).await, Ok(Some(())))
}

#[cfg(test)]
mod tests {
    use perennial_plan::Spec;
    use perennial_store::Store;
    use tokio::net::TcpListener;

    use super::*;
    use crate::Access;
    use crate::log::LogEntry;

    fn term(term: u64, address: &str) -> LogRecord {
        LogRecord {
            term,
            writer: format!("coordinator {term}"),
            entry: LogEntry::Term {
                address: address.into(),
                version: String::new(),
            },
        }
    }

    fn config(store: &Store) -> ServeConfig {
        ServeConfig {
            listen: "127.0.0.1:0".into(),
            advertise: None,
            access: Access::default(),
            spec: Spec::default(),
            workers: 1,
            store: store.clone(),
            store_url: "store".into(),
            resume: true,
            standby: true,
            resume_command: "resume".into(),
            command: None,
        }
    }

    /// What a standby decides that has long heard nothing of the ruling coordinator, which is asked and does
    /// not answer. Whether another one begins a term meanwhile.
    async fn decides(taken_over_meanwhile: bool) -> Option<Turn> {
        let mute = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = mute.local_addr().unwrap().to_string();
        let store = Store::in_memory();
        let config = config(&store);
        let job = store.job(&config.spec.name).unwrap();
        job.append_log(0, &term(1, &address)).await.unwrap();
        let mut watch = Watch {
            config: &config,
            job: job.clone(),
            log: Vec::new(),
            first_look: true,
            heard: Instant::now(),
        };
        watch.read_on().await;
        watch.heard -= SILENCE;
        let other = async {
            mute.accept().await.unwrap();
            if taken_over_meanwhile {
                job.append_log(1, &term(2, &address)).await.unwrap();
            }
        };
        let (looked, ()) = tokio::join!(watch.look(), other);
        looked.unwrap()
    }

    #[tokio::test]
    async fn a_standby_takes_over_from_one_that_is_silent() {
        assert!(matches!(decides(false).await, Some(Turn::Rule(_))));
    }

    #[tokio::test]
    async fn a_standby_looks_again_before_it_takes_over() {
        assert!(decides(true).await.is_none());
    }
}
