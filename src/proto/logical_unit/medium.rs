//! Whether the unit is ready: its medium, START STOP UNIT, SEND DIAGNOSTIC (SBC-3 §5.19,
//! SPC-4 §6.42).

use std::sync::atomic::{AtomicBool, Ordering};

use super::{LogicalUnit, NexusId, Outcome, illegal, invalid_field};
use crate::wire::scsi::{Sense, SenseKey, asc};

/// What holds the blocks. An ejected medium stays open and locked here: it is only out of reach.
#[derive(Debug)]
pub(super) struct Medium {
    removable: bool,
    ejected: AtomicBool,
}

impl Medium {
    /// A medium that is there.
    pub(super) fn new(removable: bool) -> Medium {
        Medium { removable, ejected: AtomicBool::new(false) }
    }

    pub(super) fn is_removable(&self) -> bool {
        self.removable
    }

    /// It must be there for what comes.
    pub(super) fn check(&self) -> Result<(), Sense> {
        if self.ejected.load(Ordering::Relaxed) {
            return Err(Sense::new(SenseKey::NotReady, asc::MEDIUM_NOT_PRESENT));
        }
        Ok(())
    }
}

impl LogicalUnit {
    /// The unit is shared, so it never really stops; but what was written before is stable then.
    /// Ejecting is for all: whoever has loaded the medium again, the others are told so.
    pub(super) fn start_stop(
        &self,
        nexus: NexusId,
        power_condition: u8,
        load_eject: bool,
        start: bool,
        no_flush: bool,
    ) -> Result<Outcome, Sense> {
        if power_condition != 0 {
            // There is no power to save here, and LOEJ and START mean nothing then.
            return Ok(Outcome::Good);
        }
        if load_eject && !self.medium.removable {
            return Err(invalid_field(4, Some(1)));
        }
        // Whoever prevents it is not asked which way the medium would go.
        if load_eject && self.nexuses.is_removal_prevented() {
            return Err(illegal(asc::MEDIUM_REMOVAL_PREVENTED));
        }
        if !start && !no_flush {
            self.flush()?;
        }
        if load_eject {
            let was_ejected = self.medium.ejected.swap(!start, Ordering::Relaxed);
            if was_ejected && start {
                self.nexuses.tell_others(nexus, asc::MEDIUM_MAY_HAVE_CHANGED);
            }
        }
        Ok(Outcome::Good)
    }

    /// The default self-test, which finds nothing: a store that fails says so at each command.
    pub(super) fn send_diagnostic(
        &self,
        self_test_code: u8,
        page_format: bool,
        self_test: bool,
        parameter_bytes: u16,
    ) -> Result<Outcome, Sense> {
        if self_test_code != 0 {
            return Err(invalid_field(1, Some(7)));
        }
        if parameter_bytes != 0 {
            // There are no diagnostic pages.
            return Err(invalid_field(3, None));
        }
        if page_format && !self_test {
            return Err(invalid_field(1, Some(4)));
        }
        Ok(Outcome::Good)
    }
}
