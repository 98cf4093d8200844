//! `perennial audit`.

mod parts;

use anyhow::bail;
use perennial_coordinator::audit::{self, Account, Audit, Finding};
use perennial_store::Job;
use serde::Serialize;

use crate::job::{Place, block_on};
use crate::output::{Output, counted, thousands};

/// Prove from what is stored that every sample was applied exactly once in each epoch
///
/// Reads the whole log, every checkpoint that is still there, and the reports, and compares them with the
/// plan and with each other, down to the hash of each stored replica. It changes nothing, and the job may
/// be running.
#[derive(Debug, clap::Args)]
pub struct Args {
    #[command(flatten)]
    place: Place,
}

#[derive(Serialize)]
struct Answer<'a> {
    event: &'static str,
    job: &'a str,
    #[serde(flatten)]
    account: &'a Account,
    /// Those that are there; retention removes older ones.
    checkpoints_audited: usize,
    reports_audited: usize,
    sound: bool,
    findings: &'a [Finding],
}

pub fn run(args: &Args, output: Output) -> anyhow::Result<()> {
    block_on(async {
        let job = args.place.open().await?;
        audit(&job, output).await
    })
}

async fn audit(job: &Job, output: Output) -> anyhow::Result<()> {
    let stored = audit::read(job).await?;
    let mut audit = Audit::of(&stored);
    let checked = parts::check(job, &stored, &audit, output).await?;
    audit.findings.extend(checked);
    let answer = Answer {
        event: "audit",
        job: job.name(),
        account: &audit.account,
        checkpoints_audited: stored.manifests.len(),
        reports_audited: stored.reports.len(),
        sound: audit.findings.is_empty(),
        findings: &audit.findings,
    };
    output.print(&answer, || answer.text())?;
    if answer.sound {
        return Ok(());
    }
    bail!(
        "job `{}` is not what its ledger says: {}",
        job.name(),
        counted(audit.findings.len() as u64, "finding")
    );
}

// === impl Answer ===

impl Answer<'_> {
    fn text(&self) -> String {
        if !self.sound {
            let findings: Vec<String> = self.findings.iter().map(Finding::to_string).collect();
            return findings.join("\n");
        }
        let account = self.account;
        let number = |value: u32| thousands(u64::from(value));
        let of = |part: String, whole: String| format!("{part} of {whole}");
        let mut rows = vec![
            ("job", self.job.to_string()),
            ("log entries", thousands(account.log_entries)),
            ("terms", thousands(account.terms)),
            ("generations", thousands(account.generations)),
            (
                "epochs",
                of(number(account.epochs), number(account.planned_epochs)),
            ),
            ("steps", self.steps()),
            ("samples applied", thousands(account.samples_applied)),
            ("confirmed", self.confirmed()),
            ("recomputed", self.recomputed()),
            ("checkpoints", self.checkpoints()),
            ("reports", thousands(self.reports_audited as u64)),
        ];
        if let Some(root) = &account.ledger_root {
            rows.push(("ledger root", root.clone()));
        }
        let mut text = String::new();
        for (label, value) in rows {
            text.push_str(&format!("{label:<17}{value}\n"));
        }
        text.push_str(&self.promise());
        text
    }

    fn steps(&self) -> String {
        let account = self.account;
        let steps = thousands(account.steps);
        let how = match &account.ended {
            Some(how) => how.as_str(),
            None => "not ended: it is running, or was cut off",
        };
        match account.planned_steps {
            0 => format!("{steps}, {how}"),
            all => format!("{steps} of {}, {how}", thousands(all)),
        }
    }

    fn confirmed(&self) -> String {
        let all = thousands(self.account.steps_confirmed_by_all);
        match self.account.steps_confirmed_by_survivors {
            0 => format!("{all} steps by all members"),
            some => format!(
                "{all} steps by all members, {} by those that reported before a generation broke",
                thousands(some)
            ),
        }
    }

    fn recomputed(&self) -> String {
        match self.account.steps_recomputed {
            0 => "no step".to_string(),
            some => format!(
                "{} after going back to a checkpoint, with the same result",
                counted(some, "step")
            ),
        }
    }

    fn checkpoints(&self) -> String {
        let count = thousands(self.checkpoints_audited as u64);
        format!("{count} verified: all that are there; retention removes older ones")
    }

    /// What is proved.
    fn promise(&self) -> String {
        let account = self.account;
        let whole = account.steps / u64::from(account.steps_per_epoch.max(1));
        let more = account.samples_applied - whole * account.train_samples;
        let all = thousands(account.train_samples);
        match (whole, more) {
            (0, 0) => "no sample was applied yet".to_string(),
            (_, 0) => "every sample was applied exactly once in each epoch".to_string(),
            (0, more) => format!(
                "{} of {all} samples of the first epoch were applied so far, each exactly once",
                thousands(more)
            ),
            (whole, more) => format!(
                "every sample was applied exactly once in each epoch, and of epoch {}, which is under way, {} of {all} so far",
                whole + 1,
                thousands(more)
            ),
        }
    }
}
