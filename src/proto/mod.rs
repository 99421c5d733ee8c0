//! Floor 1: the rules, as state machines without input or output.
//!
//! A machine here is told what happened and asked what to do. It opens no socket, reads no clock,
//! draws no random number and starts no thread: time and randomness are arguments. The same words
//! mean the same in all of them:
//!
//! | call | kind | meaning |
//! | --- | --- | --- |
//! | `handle_connected(now)`, `handle_disconnected(reason, now)` | input | it came, went |
//! | `recv_space()` then `received(n, now)` | input | where the next bytes go, and how many came |
//! | `handle_timeout(now)` | input | a deadline passed; a spurious call is harmless |
//! | `submit(request, now)` | command | take a block request |
//! | `respond(tag, reply, now)` | command | answer a SCSI command |
//! | `poll_transmit()` then `sent(n)` | output | the next slices, and how many bytes went |
//! | `poll_completion()` | output | a finished request with its buffer |
//! | `poll_event()` | output | connect, disconnect, logged in, a command to execute |
//! | `next_deadline()` | output | when to call `handle_timeout` at the latest |
//!
//! `recv_space()` is a stream buffer, or straight the place in a request's buffer.
//!
//! The rule for all of them: **one input, then drain every output, then sleep.**

mod error;
mod initiator;
mod lease;

pub mod chap;
pub mod command;
pub mod dhcp;
mod dhcp_request;
pub mod discovery;
pub mod disk;
pub mod logical_unit;
pub mod logical_units;
pub mod login;
pub mod params;
pub mod random;
pub mod session;
pub mod target;
pub mod window;

mod probe;
mod task;
mod unflushed;

pub use error::{Authentication, Error, LoginStatus};
pub use initiator::Patience;
pub use probe::{Disk, Identity};
