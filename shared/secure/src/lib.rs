//! Who speaks with whom, and how nobody else does.
//!
//! Invariants:
//! * Nothing listens beyond this machine's loopback, and nothing is dialed there, without TLS, unless a
//!   person said [`Security::insecure`].
//! * A certificate says who its holder is by a URI name `perennial://ROLE/NAME`. One without it may do
//!   nothing, whoever signed it.
//! * Files that were replaced count from the next connection on; files that cannot be used change nothing. What the
//!   authority has revoked opens no connection, keeps none to a coordinator, and does not come back because a file is missing.
//! * A secret (a key, a token) has no `Display`, and a `Debug` that hides it. Of tokens only hashes are kept.
//!
//! The authority is one for a whole installation: whom its certificates call a worker is trusted with every
//! job's gradients and replicas.

mod authority;
mod credentials;
mod error;
mod exposure;
mod files;
mod identity;
mod peers;
mod register;
mod role;
mod token;

pub use authority::{Authority, REVOKED, Wanted};
pub use credentials::Credentials;
pub use error::{SecurityError, in_words, text_in_words};
pub use exposure::Security;
pub use files::write_new;
pub use register::Issued;
pub use role::{Caller, Role};
pub use token::{Token, TokenEntry, Tokens};
