//! Who speaks with whom, and how nobody else does.
//!
//! Invariants:
//! * Nothing listens beyond this machine's loopback, and nothing is dialed there, without TLS, unless a
//!   person said [`Security::insecure`].
//! * A certificate says who its holder is by a URI name `perennial://ROLE/NAME`. One without it may do
//!   nothing, whoever signed it.
//! * A secret (a key, a token) has no `Display`, and a `Debug` that hides it. Of tokens only hashes are kept.
//!
//! The authority is one for a whole installation: whom its certificates call a worker is trusted with every
//! job's gradients and replicas.

mod authority;
mod credentials;
mod error;
mod exposure;
mod files;
mod peers;
mod role;
mod token;

pub use authority::{Authority, Wanted};
pub use credentials::Credentials;
pub use error::{SecurityError, in_words};
pub use exposure::Security;
pub use files::write_new;
pub use role::{Caller, Role};
pub use token::{Token, TokenEntry, Tokens};
