//! A disk that is away while the machine goes down.
//!
//! A root disk waits for ever. But when init has come to killing and unmounting, nothing of the
//! system is left that could make use of the disk, and whoever wants the machine off has to get it
//! off: from then on the disk is waited for as long as [`PATIENCE`] says, and then requests fail,
//! so that init goes on without it. Should it not get to the end even so, as sysvinit, whose
//! programs are on the disk, the end comes from here; but not on account of a disk that was
//! attached by hand.

use std::time::{Duration, Instant};

use log::{error, warn};

use super::Daemon;
use crate::boot::ending::Ending;

/// Longest time that requests wait then.
const PATIENCE: Duration = Duration::from_secs(40);
/// Longest time that init has after that.
const GRACE: Duration = Duration::from_secs(12);
/// How often is looked what init does, while the disk is away.
const LOOK: Duration = Duration::from_secs(2);

/// How far it has come.
#[derive(Debug, Default)]
pub(super) struct Farewell {
    /// When to look again.
    pub(super) look_at: Option<Instant>,
    /// How the machine goes down, and until when it may do so by itself.
    end: Option<(Ending, Instant)>,
}

impl Daemon {
    /// To be called in each turn.
    pub(super) fn look_for_the_end(&mut self, now: Instant) {
        let Some(away) = self.session.away_for(now) else {
            return self.farewell = Farewell::default();
        };
        if self.farewell.look_at.is_some_and(|at| now < at) {
            return;
        }
        self.farewell.look_at = Some(now + LOOK);
        match self.farewell.end {
            // Others may still be writing to disks of their own.
            Some((ending, at)) if now >= at && !self.config.by_hand => {
                error!("the machine does not go down by itself: that is done now");
                ending.come();
            }
            Some(_) => {}
            None => {
                let Some(ending) = Ending::under_way() else { return };
                self.farewell.end = Some((ending, now + PATIENCE + GRACE));
                self.session.limit_io(away + PATIENCE);
                let (whom, seconds) = (self.shown_disk(), PATIENCE.as_secs());
                warn!(
                    "disk {whom}: away while the machine goes down: waiting for it, but not longer \
                     than {seconds} s; what it has not got then is lost"
                );
            }
        }
    }
}
