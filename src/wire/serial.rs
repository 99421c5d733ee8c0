//! 32-bit serial numbers that wrap around (RFC 1982), as iSCSI counts with them (RFC 7143 §4.2.2).
//!
//! `CmdSN`, `StatSN`, `DataSN` and `R2TSN` live on a circle: a number is before another if the way
//! forward is shorter than half of it. This is why [`Sn`] has no `Ord`.

/// A serial number.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
pub struct Sn(pub u32);

impl Sn {
    /// The number `count` steps later.
    #[must_use]
    pub fn plus(self, count: u32) -> Sn {
        Sn(self.0.wrapping_add(count))
    }

    /// The next number.
    #[must_use]
    pub fn next(self) -> Sn {
        self.plus(1)
    }

    /// Steps from `self` forward to `later`.
    pub fn steps_to(self, later: Sn) -> u32 {
        later.0.wrapping_sub(self.0)
    }

    /// Whether `self` comes before `other`; false for equal numbers, and for numbers that are
    /// exactly half a circle apart, whose order RFC 1982 §3.2 leaves undefined.
    pub fn is_before(self, other: Sn) -> bool {
        let steps = self.steps_to(other);
        steps != 0 && steps < 1 << 31
    }

    /// Whether `self` comes before `other` or is equal to it.
    pub fn is_at_or_before(self, other: Sn) -> bool {
        self == other || self.is_before(other)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn order_survives_the_wrap() {
        assert!(Sn(u32::MAX).is_before(Sn(0)));
        assert!(!Sn(0).is_before(Sn(u32::MAX)));
        assert_eq!(Sn(u32::MAX).next(), Sn(0));
        assert_eq!(Sn(0xffff_fff0).steps_to(Sn(0x10)), 0x20);
    }

    #[test]
    fn a_number_is_not_before_itself_but_at_itself() {
        assert!(!Sn(7).is_before(Sn(7)));
        assert!(Sn(7).is_at_or_before(Sn(7)));
    }

    #[test]
    fn half_a_circle_has_no_order() {
        assert!(!Sn(0).is_before(Sn(1 << 31)));
        assert!(!Sn(1 << 31).is_before(Sn(0)));
        assert!(Sn(0).is_before(Sn((1 << 31) - 1)));
    }
}
