//! What the queue leaves to tasks of their own: each job's run, its log, and the look for rivals.

use perennial_store::{Log, StoreError};
use tokio::sync::mpsc::{UnboundedReceiver, UnboundedSender, unbounded_channel};
use tokio::sync::{oneshot, watch};

use super::{Came, QueueConfig};
use crate::CoordinatorError;
use crate::log::LogRecord;
use crate::machine::Outcome;
use crate::queue::{Event, Queue, QueueEntry};
use crate::server::service::Incoming;
use crate::server::{Court, ServeConfig};
use crate::storage::Storage;

/// A job's whole run.
pub(super) async fn rule_job(
    config: QueueConfig,
    address: String,
    name: &str,
    command: Option<String>,
    (own_inbox, mut incoming): (UnboundedSender<Incoming>, UnboundedReceiver<Incoming>),
    inbox: UnboundedSender<Came>,
) -> Result<Outcome, CoordinatorError> {
    let job = config.store.job(name)?;
    let spec = job.spec().await?.ok_or_else(|| StoreError::Missing {
        path: format!("{name}/spec.json"),
    })?;
    let config = ServeConfig {
        listen: String::new(),
        advertise: None,
        access: config.access,
        workers: spec.elastic.min_workers,
        spec,
        store: config.store,
        store_url: config.store_url,
        resume: true,
        standby: false,
        resume_command: format!("perennial resume {name}"),
        command,
    };
    let opened = Storage::open(&config).await?;
    let (events, mut told) = unbounded_channel();
    let (claimed, ready) = oneshot::channel();
    let job = name.to_string();
    let (told_to, told_of) = (inbox.clone(), job.clone());
    tokio::spawn(async move {
        while let Some(event) = told.recv().await {
            let _ = told_to.send(Came::Told(told_of.clone(), event));
        }
    });
    tokio::spawn(async move {
        if ready.await.is_ok() {
            let _ = inbox.send(Came::Event(Event::Ready(job)));
        }
    });
    let court = Court {
        config: &config,
        address,
        inbox: own_inbox,
        events: &events,
        shared: true,
    };
    // It is stopped by what comes in.
    let (_stop, mut never) = watch::channel(false);
    court
        .rule(opened, &mut incoming, &mut never, Some(claimed))
        .await
}

/// Appends what the queue asks for, in its order, and says how it went.
pub(super) async fn write_log(
    log: Log,
    mut work: UnboundedReceiver<(u64, Box<LogRecord<QueueEntry>>)>,
    inbox: UnboundedSender<Came>,
) {
    while let Some((position, record)) = work.recv().await {
        let event = match log.append(position, &record).await {
            Ok(()) => Event::LogAppended,
            Err(StoreError::LogRaceLost { .. }) => Event::LogRaceLost,
            Err(error) => Event::LogFailed(error.to_string()),
        };
        let _ = inbox.send(Came::Event(event));
    }
}

/// Another coordinator that wrote to the log is noticed even when there is nothing to write.
pub(super) fn look_for_rivals(log: Log, queue: &Queue, inbox: UnboundedSender<Came>) {
    let (mut position, term) = (queue.log_position(), queue.term());
    tokio::spawn(async move {
        loop {
            match log.entry::<LogRecord<QueueEntry>>(position).await {
                Ok(Some(record)) if record.term > term => {
                    return drop(inbox.send(Came::Event(Event::LogRaceLost)));
                }
                Ok(Some(_)) => position += 1,
                Ok(None) => return,
                Err(error) => {
                    return tracing::debug!(%error, "the queue's log cannot be looked at now");
                }
            }
        }
    });
}
