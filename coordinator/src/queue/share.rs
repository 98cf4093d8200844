//! How many workers each job is to have: a pure function of the jobs and the workers that are there.
//!
//! Every job first gets its minimum, in order of priority and then of submission; one for which too few are
//! left waits, and later ones may run meanwhile, for they are sent back as soon as it can. What is left goes
//! to the highest priority first, equally among its jobs, up to their maximums.

use std::collections::BTreeMap;

use perennial_report::counted;

/// A job that wants workers.
#[derive(Debug, Clone, PartialEq)]
pub struct Claim<'a> {
    pub job: &'a str,
    pub priority: i32,
    /// At least 1.
    pub min: u32,
    /// At least `min`.
    pub max: u32,
    /// The numerics class of the steps that it has; none: any class will do.
    pub numerics: Option<&'a str>,
}

/// What a job gets.
#[derive(Debug, Clone, PartialEq)]
pub enum Share {
    /// Workers of one class, between its minimum and its maximum.
    Runs { workers: u32, numerics: String },
    /// Why it gets none.
    Waits(String),
}

// === impl Share ===

impl Share {
    /// 0 for one that waits.
    pub fn workers(&self) -> u32 {
        match self {
            Self::Runs { workers, .. } => *workers,
            Self::Waits(_) => 0,
        }
    }
}

/// The share of each claim. `claims` come in the order in which they get their minimum, higher priorities
/// first; `pool` has the number of workers of each numerics class.
pub fn share(claims: &[Claim], pool: &BTreeMap<String, u32>) -> Vec<Share> {
    let mut left = pool.clone();
    let mut shares = Vec::with_capacity(claims.len());
    for (place, claim) in claims.iter().enumerate() {
        let numerics = class_for(claim, &left).filter(|class| left[class] >= claim.min);
        let share = match numerics {
            Some(numerics) => {
                left.entry(numerics.clone())
                    .and_modify(|left| *left -= claim.min);
                Share::Runs {
                    workers: claim.min,
                    numerics,
                }
            }
            None => Share::Waits(why(claim, pool, &left, &claims[..place], &shares)),
        };
        shares.push(share);
    }
    let mut first = 0;
    for level in claims.chunk_by(|one, next| one.priority == next.priority) {
        let end = first + level.len();
        level_out(level, &mut shares[first..end], &mut left);
        first = end;
    }
    shares
}

/// The class of which a job gets workers: its own, else that of which most are left.
fn class_for(claim: &Claim, left: &BTreeMap<String, u32>) -> Option<String> {
    match claim.numerics {
        Some(numerics) => left.contains_key(numerics).then(|| numerics.to_string()),
        None => {
            let most = left.iter().rev().max_by_key(|(_, left)| **left);
            most.map(|(numerics, _)| numerics.clone())
        }
    }
}

/// Deals what is left to jobs of one priority, one worker at a time to the one that has the fewest.
fn level_out(claims: &[Claim], shares: &mut [Share], left: &mut BTreeMap<String, u32>) {
    loop {
        let mut poorest: Option<(u32, usize)> = None;
        for (place, (claim, share)) in claims.iter().zip(shares.iter()).enumerate() {
            let Share::Runs { workers, numerics } = share else {
                continue;
            };
            let wants_more = *workers < claim.max && left.get(numerics).is_some_and(|it| *it > 0);
            if wants_more && poorest.is_none_or(|(fewest, _)| *workers < fewest) {
                poorest = Some((*workers, place));
            }
        }
        let Some((_, place)) = poorest else {
            return;
        };
        if let Share::Runs { workers, numerics } = &mut shares[place] {
            *workers += 1;
            left.entry(numerics.clone()).and_modify(|left| *left -= 1);
        }
    }
}

/// Why the claim gets nothing, where the ones `before` it have their minimums.
fn why(
    claim: &Claim,
    pool: &BTreeMap<String, u32>,
    left: &BTreeMap<String, u32>,
    before: &[Claim],
    shares: &[Share],
) -> String {
    let total: u32 = pool.values().sum();
    if total == 0 {
        return "no worker is there".into();
    }
    let class = class_for(claim, left);
    let Some(class) = class else {
        let numerics = claim.numerics.unwrap_or_default();
        return format!(
            "its steps so far were computed with `{numerics}`, and no worker that computes so is there"
        );
    };
    let (there, left) = (pool[&class], left[&class]);
    let of_class = if pool.len() > 1 {
        format!(" that compute with `{class}`")
    } else {
        String::new()
    };
    let needs = format!(
        "it needs at least {}",
        counted(u64::from(claim.min), "worker")
    );
    if there < claim.min {
        return format!("{needs}, and {there} are there{of_class}");
    }
    let uses = |(claim, share): (&Claim, &Share)| match share {
        Share::Runs { numerics, .. } if *numerics == class => Some(format!("`{}`", claim.job)),
        _ => None,
    };
    let others: Vec<String> = before.iter().zip(shares).filter_map(uses).collect();
    let shown = match others.len() {
        0..=3 => others.join(", "),
        more => format!("{} and {} more", others[..2].join(", "), more - 2),
    };
    format!("{needs}, and {left} of {there} are left{of_class} after {shown}")
}

#[cfg(test)]
mod tests;
