//! Unit attention conditions that wait for one I_T nexus at one logical unit (SAM-5 §5.14).

/// Codes that wait to be reported, the next one first.
///
/// A reset says that everything may be different, so it takes back whatever was to be said before
/// it. Each code waits once, however often its reason came, and no more of them than
/// [`ATTENTIONS_MAX`].
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(super) struct Attentions(Vec<(u8, u8)>);

/// More kinds than one unit ever has at a time.
const ATTENTIONS_MAX: usize = 16;

impl Attentions {
    /// A condition was established.
    pub(super) fn establish(&mut self, code: (u8, u8)) {
        let new = Precedence::of(code);
        if new != Precedence::Other {
            // A reset that is not yet reported covers the smaller one.
            if self.0.iter().any(|pending| Precedence::of(*pending) < new) {
                return;
            }
            self.0.clear();
        }
        if !self.0.contains(&code) && self.0.len() < ATTENTIONS_MAX {
            self.0.push(code);
        }
    }

    /// The next one, which is cleared by being reported.
    pub(super) fn take(&mut self) -> Option<(u8, u8)> {
        (!self.0.is_empty()).then(|| self.0.remove(0))
    }

    /// The next one tells of a reset or of the loss of the nexus.
    pub(super) fn is_reset(&self) -> bool {
        self.0.first().is_some_and(|code| Precedence::of(*code) != Precedence::Other)
    }

    pub(super) fn is_empty(&self) -> bool {
        self.0.is_empty()
    }
}

/// From the largest event to the smallest (SAM-5 §5.14.2).
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
enum Precedence {
    PowerOn,
    HardReset,
    LogicalUnitReset,
    NexusLoss,
    Other,
}

impl Precedence {
    fn of(code: (u8, u8)) -> Precedence {
        const POWER_ON_RESET_OR_BUS_DEVICE_RESET: u8 = 0x29;
        match code {
            (POWER_ON_RESET_OR_BUS_DEVICE_RESET, 0x00 | 0x01 | 0x04) => Precedence::PowerOn,
            (POWER_ON_RESET_OR_BUS_DEVICE_RESET, 0x02) => Precedence::HardReset,
            (POWER_ON_RESET_OR_BUS_DEVICE_RESET, 0x03) => Precedence::LogicalUnitReset,
            (POWER_ON_RESET_OR_BUS_DEVICE_RESET, 0x07) => Precedence::NexusLoss,
            _ => Precedence::Other,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::wire::scsi::asc;

    fn all(codes: &[(u8, u8)]) -> Vec<(u8, u8)> {
        let mut attentions = Attentions::default();
        for code in codes {
            attentions.establish(*code);
        }
        std::iter::from_fn(|| attentions.take()).collect()
    }

    const CLEARED: (u8, u8) = asc::COMMANDS_CLEARED_BY_ANOTHER_INITIATOR;

    #[test]
    fn each_is_reported_once_and_in_order() {
        let capacity = asc::CAPACITY_DATA_HAS_CHANGED;
        assert_eq!(all(&[capacity, CLEARED, capacity]), [capacity, CLEARED]);
    }

    #[test]
    fn a_reset_covers_what_was_before_it() {
        assert_eq!(all(&[CLEARED, asc::BUS_DEVICE_RESET]), [asc::BUS_DEVICE_RESET]);
        assert_eq!(all(&[asc::BUS_DEVICE_RESET, CLEARED]), [asc::BUS_DEVICE_RESET, CLEARED]);
        let (power_on, reset) = (asc::POWER_ON_OR_RESET, asc::BUS_DEVICE_RESET);
        assert_eq!(all(&[power_on, reset]), [power_on]);
        assert_eq!(all(&[reset, power_on]), [power_on]);
    }

    #[test]
    fn they_are_bounded() {
        let codes: Vec<(u8, u8)> = (0..=255).map(|ascq| (0x2a, ascq)).collect();
        assert_eq!(all(&codes), codes[..ATTENTIONS_MAX]);
    }
}
