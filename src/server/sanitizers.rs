//! The threads that carry out sanitize operations, one for each logical unit that has one.
//!
//! Nothing that an initiator can do ends an operation, so the person at the server has a moment to
//! do it: nothing is overwritten in the first [`GRACE`].

use std::sync::{Arc, Condvar, Mutex, PoisonError};
use std::thread::{self, JoinHandle};
use std::time::Duration;

use super::sessions::Sessions;
use crate::proto::logical_unit::{LogicalUnit, Sanitized};
use crate::proto::target::TargetConfig;
use crate::wire::scsi::Lun;

/// How long an operation waits before it overwrites anything.
pub(super) const GRACE: Duration = Duration::from_secs(10);

/// All of them.
#[derive(Debug)]
pub(super) struct Sanitizers {
    config: Arc<TargetConfig>,
    /// Who waits for an operation to be over.
    sessions: Arc<Sessions>,
    threads: Mutex<Vec<JoinHandle<()>>>,
    stopping: Mutex<bool>,
    stopped: Condvar,
}

impl Sanitizers {
    /// Also goes on with what a restart has interrupted.
    pub(super) fn new(config: Arc<TargetConfig>, sessions: Arc<Sessions>) -> Arc<Sanitizers> {
        let sanitizers = Arc::new(Sanitizers {
            config,
            sessions,
            threads: Mutex::default(),
            stopping: Mutex::new(false),
            stopped: Condvar::new(),
        });
        for (number, unit) in sanitizers.config.units.iter().enumerate() {
            if unit.has_sanitize_failed() {
                log::warn!("LUN {number}: the last SANITIZE has failed; it wants another one");
            } else if unit.is_sanitizing() && unit.is_read_only() {
                log::warn!("LUN {number}: SANITIZE was interrupted; read-only it cannot go on");
            } else if unit.is_sanitizing() {
                log::warn!("LUN {number}: SANITIZE was interrupted and goes on");
                sanitizers.begin(Lun::from_number(number as u16));
            }
        }
        sanitizers
    }

    /// An operation has begun at this unit, which has none yet.
    pub(super) fn begin(self: &Arc<Sanitizers>, lun: Lun) {
        let (Some(number), Some(unit)) = (lun.to_number(), self.config.units.get(lun)) else {
            return;
        };
        let grace = GRACE.as_secs();
        log::warn!("LUN {number}: all of it is overwritten, beginning in {grace} s");
        let this = self.clone();
        let thread = thread::Builder::new().name(format!("sanitize {number}"));
        match thread.spawn(move || this.run(lun, number)) {
            Ok(thread) => {
                let mut threads = self.threads.lock().unwrap_or_else(PoisonError::into_inner);
                threads.retain(|thread| !thread.is_finished());
                threads.push(thread);
            }
            Err(error) => {
                log::error!("LUN {number}: SANITIZE has no thread: {error}");
                unit.give_up_sanitizing();
                self.sessions.wake_all();
            }
        }
    }

    fn run(&self, lun: Lun, number: u16) {
        let Some(unit) = self.config.units.get(lun) else { return };
        self.wait(GRACE);
        while !self.is_stopping() {
            match unit.sanitize() {
                Sanitized::Piece => continue,
                Sanitized::All => log::info!("LUN {number}: SANITIZE is over"),
                Sanitized::Failed => log::error!("LUN {number}: SANITIZE has failed"),
                Sanitized::Nothing => {}
            }
            return self.sessions.wake_all();
        }
        Self::tell_of_the_rest(unit, number);
    }

    fn tell_of_the_rest(unit: &LogicalUnit, number: u16) {
        if unit.has_sanitize_record() {
            log::warn!("LUN {number}: SANITIZE is not over and goes on at the next start");
        } else {
            log::warn!("LUN {number}: SANITIZE is not over, and nothing will remember it");
        }
    }

    /// Lets what is under way come to the end of its piece, and waits for that.
    pub(super) fn stop(&self) {
        *self.stopping.lock().unwrap_or_else(PoisonError::into_inner) = true;
        self.stopped.notify_all();
        let threads =
            std::mem::take(&mut *self.threads.lock().unwrap_or_else(PoisonError::into_inner));
        for thread in threads {
            // One that panicked has said so.
            let _ = thread.join();
        }
    }

    fn is_stopping(&self) -> bool {
        *self.stopping.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Waits for this time, or until the server stops.
    fn wait(&self, time: Duration) {
        let stopping = self.stopping.lock().unwrap_or_else(PoisonError::into_inner);
        let _ = self.stopped.wait_timeout_while(stopping, time, |stopping| !*stopping);
    }
}
