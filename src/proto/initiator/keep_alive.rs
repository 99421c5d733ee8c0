//! Is the target still there? Silence is answered with a ping, and a ping without an answer ends
//! the connection (RFC 7143 §11.18).

use std::time::Instant;

use super::Patience;

/// When the target was last heard, and whether it was asked.
#[derive(Debug)]
pub(super) struct KeepAlive {
    heard: Option<Instant>,
    pinged: Option<Instant>,
    /// The ping waits behind data.
    waits: bool,
    /// Some of that data has gone since the last look.
    moved: bool,
}

/// What is to be done at a deadline.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Due {
    /// Nothing, for now.
    Nothing,
    /// Ask the target whether it is there.
    Ping,
    /// It was asked and has not answered.
    Silent,
}

impl KeepAlive {
    /// Of no connection.
    pub(super) const NONE: KeepAlive =
        KeepAlive { heard: None, pinged: None, waits: false, moved: false };

    /// A new connection.
    pub(super) fn begin(&mut self, now: Instant) {
        *self = KeepAlive { heard: Some(now), ..KeepAlive::NONE };
    }

    /// Bytes came.
    pub(super) fn heard(&mut self, now: Instant) {
        (self.heard, self.pinged) = (Some(now), None);
    }

    /// Bytes went out; is there nothing left to send?
    pub(super) fn sent(&mut self, is_empty: bool) {
        if self.waits {
            (self.moved, self.waits) = (true, !is_empty);
        }
    }

    /// A ping has had no answer for a while: whether anybody is there will be known soon.
    pub(super) fn is_asking(&self, now: Instant) -> bool {
        self.pinged.is_some_and(|pinged| pinged < now)
    }

    pub(super) fn deadline(&self, patience: &Patience) -> Option<Instant> {
        match (self.pinged, self.heard) {
            (Some(pinged), _) => Some(pinged + patience.ping),
            (None, Some(heard)) => Some(heard + patience.idle),
            (None, None) => None,
        }
    }

    /// What is due now. `is_empty`: nothing waits to be sent, so that a ping goes out at once.
    pub(super) fn handle_timeout(
        &mut self,
        patience: &Patience,
        is_empty: bool,
        now: Instant,
    ) -> Due {
        if self.deadline(patience).is_none_or(|deadline| now < deadline) {
            return Due::Nothing;
        }
        let was_asked = self.pinged.is_some();
        if was_asked && !std::mem::take(&mut self.moved) {
            return Due::Silent;
        }
        self.pinged = Some(now);
        if was_asked {
            // Much data on a slow line: the ping stands behind it.
            return Due::Nothing;
        }
        (self.waits, self.moved) = (!is_empty, false);
        Due::Ping
    }
}
