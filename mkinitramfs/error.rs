//! What can go wrong while an image is built.

use std::fmt;
use std::io;

/// Said to the person who called the program; the whole sentence stands in `Display`.
#[derive(Debug)]
pub(crate) enum Error {
    /// The system refused something.
    Io { doing: String, source: io::Error },
    /// What was given or found cannot be used.
    Wrong { what: String, advice: String },
}

impl fmt::Display for Error {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Error::Io { doing, source } => write!(f, "{doing}: {source}"),
            Error::Wrong { what, advice } => write!(f, "{what}: {advice}"),
        }
    }
}
