//! SANITIZE from its beginning to its answer, between which hours may lie (SBC-4 §5.24).
//!
//! The owner is told that an operation has begun, and tells when one is over. If the task is
//! aborted meanwhile, the operation goes on all the same.

use super::full_feature::FullFeature;
use super::output::Output;
use super::{Event, Tag};
use crate::proto::logical_unit::Outcome;
use crate::wire::scsi::{Lun, ScsiStatus};

/// What the session has to do with sanitize operations.
#[derive(Debug, Default)]
pub(super) struct Sanitizing {
    /// Units at which one has begun, of which the owner does not know yet.
    begun: Vec<Lun>,
    /// Tasks that are answered when the operation of this number at that unit is over.
    waiting: Vec<(Tag, Lun, u64)>,
}

impl Sanitizing {
    /// What the owner has not been told yet.
    pub(super) fn next_event(&mut self) -> Option<Event> {
        self.begun.pop().map(|lun| Event::Sanitize { lun })
    }

    /// The task has ended.
    pub(super) fn forget(&mut self, tag: Tag) {
        self.waiting.retain(|(waiting, ..)| *waiting != tag);
    }
}

impl FullFeature {
    /// A command has begun an operation.
    pub(super) fn start_sanitizing(
        &mut self,
        tag: Tag,
        number: u64,
        immediate: bool,
        out: &mut Output,
    ) {
        let lun = self.tasks.get(tag).lun;
        self.sanitizing.begun.push(lun);
        if immediate {
            self.respond(tag, ScsiStatus::Good, None, 0, out);
        } else {
            self.sanitizing.waiting.push((tag, lun, number));
        }
    }

    /// Operations may be over.
    pub(super) fn handle_sanitized(&mut self, out: &mut Output) {
        let outcome = |lun, number| self.config.units.get(lun)?.sanitize_outcome(number);
        let waiting = self.sanitizing.waiting.iter();
        let over = waiting.filter_map(|(tag, lun, number)| Some((*tag, outcome(*lun, *number)?)));
        for (tag, outcome) in over.collect::<Vec<_>>() {
            let sense = match &outcome {
                Outcome::CheckCondition(sense) => Some(**sense),
                _ => None,
            };
            self.respond(tag, outcome.status(), sense, 0, out);
        }
    }
}
