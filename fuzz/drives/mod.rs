//! What the fuzzers do with the bytes that they make up.
//!
//! Each drive takes any bytes and reads from them what to do: which PDUs to send, which CDBs to
//! execute, where to spoil a stream. A drive fails by a panic: of the code, or of an assertion
//! about what must hold whatever the bytes are. The fuzzers in `fuzz_targets/` call the drives for
//! hours; `tests/fuzz_corpus.rs` for seconds, with the inputs that were worth keeping.

// A fuzzer uses one of the drives; the corpus test all of them.
#![allow(dead_code, missing_docs, unreachable_pub)]

#[path = "../../tests/common/mod.rs"]
mod common;

mod cdb;
mod input;
mod login;
mod operations;
mod parsers;
mod pdu_stream;

pub use cdb::cdb;
pub use login::{login, text_keys};
pub use operations::operations;
pub use parsers::{command_line, dhcp, ibft, root_path};
pub use pdu_stream::{initiator_stream, target_stream};

/// Takes any bytes, and panics if something is found.
pub type Drive = fn(&[u8]);

/// Every drive with the name of its fuzzer and its corpus.
pub const DRIVES: &[(&str, Drive)] = &[
    ("cdb", cdb),
    ("command_line", command_line),
    ("dhcp", dhcp),
    ("ibft", ibft),
    ("initiator_stream", initiator_stream),
    ("login", login),
    ("operations", operations),
    ("root_path", root_path),
    ("target_stream", target_stream),
    ("text_keys", text_keys),
];
