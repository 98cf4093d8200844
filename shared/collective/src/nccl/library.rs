//! Finding NCCL on this machine, at run time.

use std::error::Error;
use std::ffi::{CStr, c_char, c_int};
use std::fmt;
use std::sync::Arc;

use super::handle::Fault;
use super::raw::{self, Status};
use crate::error::CollectiveError;

/// Names the file of NCCL, where the loader would not find it: a wheel's `nvidia/nccl/lib/libnccl.so.2`. Or says that
/// NCCL is not to be used.
const FILE: &str = "PERENNIAL_NCCL";
const NONE: &str = "none";
/// The names that NCCL has on its own and in a development package.
const NAMES: [&str; 2] = ["libnccl.so.2", "libnccl.so"];

/// The first version with communicators that do not block, which alone can be aborted at any point.
const OLDEST: Version = Version(21400);
/// The first version whose interface nobody knows yet.
const UNKNOWN: Version = Version(30000);

/// NCCL, loaded and found to have all that is used. It stays loaded: it has threads of its own.
pub struct NcclLibrary {
    file: String,
    version: Version,
    pub(super) functions: Functions,
    library: &'static libloading::Library,
}

/// What `ncclGetVersion` says: `22809` is 2.28.9.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub struct Version(pub i32);

functions! { Functions {
    get_error_string = "ncclGetErrorString": raw::GetErrorString,
    get_last_error = "ncclGetLastError": raw::GetLastError,
    get_unique_id = "ncclGetUniqueId": raw::GetUniqueId,
    init_rank = "ncclCommInitRankConfig": raw::InitRank,
    get_async_error = "ncclCommGetAsyncError": raw::GetAsyncError,
    abort = "ncclCommAbort": raw::Abort,
    group_start = "ncclGroupStart": raw::OfGroup,
    group_end = "ncclGroupEnd": raw::OfGroup,
    send = "ncclSend": raw::Send,
    receive = "ncclRecv": raw::Receive,
    all_reduce = "ncclAllReduce": raw::AllReduce,
} }

// === impl NcclLibrary ===

impl NcclLibrary {
    /// Loads the file that `PERENNIAL_NCCL` names, else what the loader finds under NCCL's names.
    pub fn load() -> Result<Arc<Self>, CollectiveError> {
        // An id from the environment is the same for every generation, and members of two of them could meet.
        if std::env::var_os("NCCL_COMM_ID").is_some() {
            return Err(CollectiveError::Library(
                "`NCCL_COMM_ID` is set, but every generation needs an id of its own; unset it"
                    .to_owned(),
            ));
        }
        match std::env::var(FILE) {
            Ok(file) if file == NONE => Err(CollectiveError::Library(format!(
                "{FILE} is `{NONE}`: NCCL is not to be used"
            ))),
            Ok(file) if !file.is_empty() => Self::open(&[&file], &format!("as {FILE} says")),
            _ => {
                let path = std::env::var("LD_LIBRARY_PATH").unwrap_or_default();
                let place = format!("where the loader looks (LD_LIBRARY_PATH is `{path}`)");
                Self::open(&NAMES, &place)
            }
        }
    }

    fn open(names: &[&str], place: &str) -> Result<Arc<Self>, CollectiveError> {
        let mut reasons = Vec::new();
        for name in names {
            // SAFETY: loading runs the library's initialisers. It is the one that the operator named, or
            // that is installed as NCCL; its own initialisers only prepare its state.
            match unsafe { libloading::Library::new(*name) } {
                Ok(library) => return Self::take_up(library, name),
                Err(error) => reasons.push(match error.source() {
                    Some(source) => source.to_string(),
                    None => error.to_string(),
                }),
            }
        }
        let names = names.join("` or `");
        Err(CollectiveError::Library(format!(
            "NCCL is needed for sums between GPUs, but there is no `{names}` {place}: {}; install it, or set \
             {FILE} to its file",
            reasons.join("; ")
        )))
    }

    fn take_up(library: libloading::Library, name: &str) -> Result<Arc<Self>, CollectiveError> {
        let lacks = |symbol: &str| {
            CollectiveError::Library(format!(
                "`{name}` has no function `{symbol}`: it is not NCCL of {OLDEST} or later; set {FILE} to one \
                 that is"
            ))
        };
        // SAFETY: the type is that of this function in every `nccl.h`.
        let get_version = unsafe { library.get::<raw::GetVersion>("ncclGetVersion") };
        let get_version = *get_version.map_err(|_| lacks("ncclGetVersion"))?;
        let mut version: c_int = 0;
        // SAFETY: the function writes one number, for which there is place.
        let status = unsafe { get_version(&mut version) };
        let version = Version(version);
        if status != raw::SUCCESS || version < OLDEST || version >= UNKNOWN {
            return Err(CollectiveError::Library(format!(
                "`{name}` is NCCL {version}, but {OLDEST} or a later 2.x is needed; set {FILE} to one"
            )));
        }
        // SAFETY: the types are those of `nccl.h`, and the library is kept below.
        let functions = unsafe { Functions::find(&library) }.map_err(lacks)?;
        Ok(Arc::new(Self {
            file: name.to_owned(),
            version,
            functions,
            // Its threads run as long as the process does.
            library: Box::leak(Box::new(library)),
        }))
    }

    /// The function `name`, if the library has it.
    ///
    /// # Safety
    /// `T` is the type of a pointer to that function.
    pub(super) unsafe fn function<T: Copy>(&self, name: &str) -> Option<T> {
        // SAFETY: the caller's promise; the library is never unloaded.
        let symbol = unsafe { self.library.get::<T>(name) }.ok()?;
        Some(*symbol)
    }

    /// The name under which it was found.
    pub fn file(&self) -> &str {
        &self.file
    }

    pub fn version(&self) -> Version {
        self.version
    }

    /// A new meeting point for one communicator.
    pub(super) fn unique_id(&self) -> Result<raw::UniqueId, Fault> {
        let mut id = raw::UniqueId {
            internal: [0; raw::UNIQUE_ID],
        };
        // SAFETY: the function writes one id, for which there is place.
        let status = unsafe { (self.functions.get_unique_id)(&mut id) };
        self.check("ncclGetUniqueId", status)?;
        Ok(id)
    }

    /// An error unless the call went well or goes on.
    pub(super) fn check(&self, call: &'static str, status: Status) -> Result<(), Fault> {
        if status == raw::SUCCESS || status == raw::IN_PROGRESS {
            return Ok(());
        }
        Err(Fault::Call {
            call,
            reason: self.explain(status),
            remote: status == raw::REMOTE_ERROR,
        })
    }

    /// What a status means, and what NCCL last complained about.
    fn explain(&self, status: Status) -> String {
        // SAFETY: both return strings that end in zero and live until the next call on this thread, or
        // null. The last error is asked for without a communicator, which may be gone.
        let (meaning, detail) = unsafe {
            let meaning = text((self.functions.get_error_string)(status));
            (
                meaning,
                text((self.functions.get_last_error)(std::ptr::null_mut())),
            )
        };
        let meaning = meaning.unwrap_or_else(|| format!("status `{status}`"));
        match detail {
            Some(detail) => format!("{meaning} ({detail})"),
            None => meaning,
        }
    }
}

/// # Safety
/// `string` is null, or ends in zero and is not changed meanwhile.
unsafe fn text(string: *const c_char) -> Option<String> {
    if string.is_null() {
        return None;
    }
    // SAFETY: the caller's promise.
    let text = unsafe { CStr::from_ptr(string) }.to_string_lossy();
    let text = text.trim();
    (!text.is_empty()).then(|| text.to_owned())
}

impl fmt::Debug for NcclLibrary {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(formatter, "{} (NCCL {})", self.file, self.version)
    }
}

// === impl Version ===

impl fmt::Display for Version {
    /// Before 2.9 there was one digit for the minor version.
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self(code) = *self;
        let (major, rest) = if code < 10_000 {
            (code / 1000, code % 1000)
        } else {
            (code / 10_000, code % 10_000)
        };
        write!(formatter, "{major}.{}.{}", rest / 100, rest % 100)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_version_is_told_as_people_write_it() {
        let written = [2708, 21400, 22809, 23007].map(|code| Version(code).to_string());
        assert_eq!(written, ["2.7.8", "2.14.0", "2.28.9", "2.30.7"]);
    }

    #[test]
    fn a_library_that_is_not_there_is_one_sentence_with_its_names_and_the_place() {
        let error = NcclLibrary::open(&["/nowhere/libnccl.so.2", "/nowhere/libnccl.so"], "there");
        let error = error.unwrap_err().to_string();
        let says = |part: &str| assert!(error.contains(part), "{error}");
        says("no `/nowhere/libnccl.so.2` or `/nowhere/libnccl.so` there");
        says("set PERENNIAL_NCCL to its file");
    }
}
