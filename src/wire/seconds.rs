//! Durations as people read them, without the 20 KB that printing floating-point numbers takes.

use std::fmt;

/// Milliseconds, shown as seconds with one digit behind the point: `0.3`.
#[derive(Clone, Copy, Debug)]
pub struct Tenths(pub u128);

/// Milliseconds, shown as seconds with two digits behind the point: `0.34`.
#[derive(Clone, Copy, Debug)]
pub struct Hundredths(pub u128);

impl fmt::Display for Tenths {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let tenths = (self.0 + 50) / 100;
        write!(f, "{}.{}", tenths / 10, tenths % 10)
    }
}

impl fmt::Display for Hundredths {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let hundredths = (self.0 + 5) / 10;
        write!(f, "{}.{:02}", hundredths / 100, hundredths % 100)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn they_are_rounded() {
        let shown = |ms| format!("{} {}", Tenths(ms), Hundredths(ms));
        assert_eq!(shown(0), "0.0 0.00");
        assert_eq!(shown(49), "0.0 0.05");
        assert_eq!(shown(1255), "1.3 1.26");
        assert_eq!(shown(59_999), "60.0 60.00");
    }
}
