//! What a training run hands to people: the evaluation report with its training curves.
//!
//! A [`Report`] is plain data that the trainer fills. It is written as JSON (for programs, and to read it back),
//! as text (for a terminal) and as one self-contained HTML page (to send to somebody). The page needs no
//! network and no script, and everything that came from outside is escaped in it.
//!
//! [`Curves`] are the curves alone, of a job that may still run; [`events`] hands them to TensorBoard. [`Live`]
//! is what a page shows of a job while it runs.
//!
//! [`ClassificationReport`] is scikit-learn's, to the byte.

mod classification;
mod compare;
mod confusion;
mod curves;
pub mod events;
mod format;
mod html;
mod picture;
mod report;
mod text;

pub use classification::{
    ClassScores, ClassificationReport, Overall, Scores, classification_report,
};
pub use compare::{Comparison, Fact, Row};
pub use confusion::{ConfusedPair, confusion_matrix, most_confused};
pub use curves::Curves;
pub use format::{counted, thousands};
pub use html::{Live, STYLE, Stretch};
pub use report::{
    DataSummary, EpochRecord, Evaluation, FORMAT_VERSION, Mistake, ModelSummary, Report,
    ReportError, Weights, null_is_nan,
};
