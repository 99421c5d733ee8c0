//! How often each kind of thing has happened, over all seeds of a run: a simulation must not cease
//! silently to test something.

use std::collections::BTreeMap;
use std::fmt;

/// Everything that has to happen in a run of a thousand seeds.
const KINDS: [&str; 69] = [
    // What the block layer asks for, and what it gets.
    "reads",
    "writes",
    "forced writes",
    "discards",
    "zeroes",
    "forced zeroes",
    "flushes",
    "failed requests",
    // What is agreed on.
    "no digests",
    "header digests",
    "data digests",
    "both digests",
    // What happens to connections.
    "cuts",
    "cuts seen by one side",
    "silences",
    "refusals",
    "damaged headers",
    "damaged data",
    // What happens to portals.
    "portals that refuse",
    "portals that say nothing",
    "portals that need long",
    "portals lost",
    "portals lost downwards",
    "portals back",
    "connections too late",
    "portals with another disk",
    "other disks refused",
    "fail-overs",
    // Where logins are sent.
    "redirections of a first login",
    "redirections of a later login",
    "temporary redirections",
    "permanent redirections",
    "redirections to nobody",
    "redirections in circles",
    "redirections too long",
    // What happens to the target.
    "slow logins",
    "logouts wanted",
    "sessions dropped",
    "other asynchronous events",
    "targets that close",
    "crashes",
    "crashes of the unit alone",
    "crashes before a logout",
    "slow restarts",
    "caches lost",
    "caches torn",
    "crashes during a rewrite",
    "resets",
    "store faults",
    "slow commands",
    // What the target answers.
    "BUSY",
    "TASK SET FULL",
    "TASK ABORTED",
    "ABORTED COMMAND",
    "NOT READY",
    "bus reset attentions",
    "mode parameters attentions",
    // What follows from it.
    "reconnects",
    "failed attempts",
    "time-outs",
    "ABORT TASK",
    "LOGICAL UNIT RESET",
    "digest errors",
    "sessions reinstated",
    "late bytes",
    "writes written again",
    "own flushes",
    "writes held back",
    "writes lost",
];

/// The counts, by kind.
#[derive(Clone)]
pub(crate) struct Coverage(BTreeMap<&'static str, u64>);

impl Coverage {
    pub(crate) fn new() -> Coverage {
        Coverage(KINDS.map(|kind| (kind, 0)).into())
    }

    pub(crate) fn add(&mut self, kind: &'static str, times: u64) {
        *self.0.get_mut(kind).unwrap_or_else(|| panic!("{kind} is no kind")) += times;
    }

    pub(crate) fn count(&mut self, kind: &'static str) {
        self.add(kind, 1);
    }

    pub(crate) fn add_all(&mut self, other: &Coverage) {
        for (kind, times) in &other.0 {
            self.add(kind, *times);
        }
    }

    /// What has never happened.
    pub(crate) fn missing(&self) -> Vec<&'static str> {
        self.0.iter().filter(|(_, times)| **times == 0).map(|(kind, _)| *kind).collect()
    }
}

impl fmt::Display for Coverage {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for (index, kind) in KINDS.iter().enumerate() {
            let comma = if index == 0 { "" } else { ", " };
            write!(f, "{comma}{kind} {}", self.0[kind])?;
        }
        Ok(())
    }
}
