//! What bounds the exploration, and the rules that can be broken on purpose.

/// How far the exploration goes.
#[derive(Debug, Clone, Copy)]
pub struct Bounds {
    pub coordinators: u8,
    pub workers: u8,
    /// Highest term.
    pub terms: u8,
    /// Highest generation.
    pub generations: u8,
    /// Steps of the job.
    pub steps: u8,
    /// Steps between checkpoints.
    pub checkpoint_every: u8,
}

/// A rule that is left out.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Broken {
    /// The collective takes a member's sum whatever generation it was made for.
    GenerationCheck,
    /// The manifest is written before the members' parts are there.
    ManifestBeforeParts,
    /// The manifest is written before the ledger has the steps up to it.
    ManifestBeforeLedger,
    /// A log entry replaces the one that stands at its position.
    CreateOnly,
    /// The entry that begins a term does not say who wrote it, so that two coordinators write equal bytes.
    TermNamesItsWriter,
    /// Workers obey whatever term a message carries.
    WorkersObeyHighestTerm,
    /// A generation begins at the least step that a survivor holds instead of the furthest.
    FurthestStep,
    /// Members are told of a generation before it stands in the log.
    LogBeforeStart,
    /// A worker that stands before the ledger's end counts as a survivor.
    SurvivorsHoldTheLedger,
}
