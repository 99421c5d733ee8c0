//! Whether the unit is ready: START STOP UNIT and SEND DIAGNOSTIC (SBC-3 §5.19, SPC-4 §6.42).

use super::{LogicalUnit, Outcome, invalid_field};
use crate::wire::scsi::Sense;

impl LogicalUnit {
    /// The unit is shared, so it never really stops; but what was written before is stable then.
    pub(super) fn start_stop(
        &self,
        power_condition: u8,
        load_eject: bool,
        start: bool,
        no_flush: bool,
    ) -> Result<Outcome, Sense> {
        if power_condition != 0 {
            return Err(invalid_field(4, Some(7)));
        }
        if load_eject {
            // Only removable media can be ejected.
            return Err(invalid_field(4, Some(1)));
        }
        if !start && !no_flush {
            self.flush()?;
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
