//! The command window: may a command be sent, and with which CmdSN (RFC 7143 §4.2.2.1).

use crate::wire::pdu::StatusSns;
use crate::wire::serial::Sn;

/// The initiator's end of the window.
#[derive(Clone, Copy, Debug)]
pub struct CommandWindow {
    /// The number of the next command that is not immediate.
    cmd_sn: Sn,
    exp_cmd_sn: Sn,
    max_cmd_sn: Sn,
}

impl CommandWindow {
    /// The window of a new session, whose first command is `cmd_sn`. One command may be sent.
    pub fn new(cmd_sn: Sn) -> CommandWindow {
        CommandWindow { cmd_sn, exp_cmd_sn: cmd_sn, max_cmd_sn: cmd_sn }
    }

    /// Takes the counters of a PDU of the target. Old ones, and those that make no sense, are
    /// ignored, as the standard wants it: they come from PDUs that overtook each other.
    pub fn update(&mut self, sns: &StatusSns) {
        let (exp, max) = (sns.exp_cmd_sn, sns.max_cmd_sn);
        // MaxCmdSN may be ExpCmdSN - 1, which closes the window, but not less.
        if max.next().is_before(exp) {
            return;
        }
        if self.max_cmd_sn.is_before(max) {
            self.max_cmd_sn = max;
        }
        if self.exp_cmd_sn.is_before(exp) && exp.is_at_or_before(self.cmd_sn) {
            self.exp_cmd_sn = exp;
        }
    }

    /// Whether a command that is not immediate may be sent now.
    pub fn is_open(&self) -> bool {
        self.cmd_sn.is_at_or_before(self.max_cmd_sn)
    }

    /// The number that the next command would get; immediate commands carry it and do not use it
    /// up.
    pub fn cmd_sn(&self) -> Sn {
        self.cmd_sn
    }

    /// Takes a number for a command that is not immediate.
    pub fn advance(&mut self) -> Sn {
        debug_assert!(self.is_open());
        let sn = self.cmd_sn;
        self.cmd_sn = sn.next();
        sn
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn sns(exp: u32, max: u32) -> StatusSns {
        StatusSns { stat_sn: Sn(0), exp_cmd_sn: Sn(exp), max_cmd_sn: Sn(max) }
    }

    #[test]
    fn a_window_of_two_lets_two_commands_through() {
        let mut window = CommandWindow::new(Sn(u32::MAX));
        window.update(&sns(u32::MAX, 0));
        assert_eq!(window.advance(), Sn(u32::MAX));
        assert!(window.is_open());
        assert_eq!(window.advance(), Sn(0));
        assert!(!window.is_open());
        window.update(&sns(0, 1));
        assert!(window.is_open());
    }

    #[test]
    fn old_counters_do_not_close_the_window_again() {
        let mut window = CommandWindow::new(Sn(10));
        window.update(&sns(10, 20));
        window.update(&sns(10, 15));
        for _ in 10..=20 {
            assert!(window.is_open());
            window.advance();
        }
        assert!(!window.is_open());
    }

    #[test]
    fn a_maximum_far_below_the_expected_number_is_nonsense() {
        let mut window = CommandWindow::new(Sn(10));
        window.update(&sns(100, 50));
        assert_eq!(window.max_cmd_sn, Sn(10));
        window.update(&sns(10, 9));
        assert!(window.is_open(), "the first command was allowed by the login");
    }
}
