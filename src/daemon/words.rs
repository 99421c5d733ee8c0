//! What the daemon tells people: in the log, to whoever waits for the disk, and as its status.

use std::time::{Duration, Instant};

use log::{error, warn};

use super::outage::Outage;
use super::status::{Status, Value};
use super::{Daemon, Report};
use crate::block;
use crate::proto::session::{Portal, Reason, Rung};
use crate::proto::{Error, Patience};

impl Daemon {
    pub(super) fn tell_recovery(&mut self, rung: Rung, reason: Reason) {
        let why = match reason {
            Reason::NoProgress { op, start_sector, after } => {
                format!(
                    "{op:?} at sector {start_sector} made no progress for {} s",
                    after.as_secs()
                )
            }
            Reason::Refused { op, start_sector } => {
                format!("{op:?} at sector {start_sector} was refused many times")
            }
            Reason::NotAborted => "the target did not give a command up".into(),
        };
        let what = match rung {
            Rung::AbortTask => "it is aborted",
            Rung::LogicalUnitReset => "the unit is reset",
        };
        self.recoveries += 1;
        // A target that does so all the time must not fill the kernel's log.
        if self.recoveries.is_power_of_two() {
            warn!("disk {}: {why}: {what}, and sent again", self.shown_disk());
        }
    }

    pub(super) fn shown_disk(&self) -> String {
        format!("{} at {}", self.config.target, self.shown_portal())
    }

    pub(super) fn trouble(
        &mut self,
        error: &Error,
        at: &Portal,
        attempt: u32,
        retry_after: Duration,
    ) {
        let whom = format!("{} at {at}", self.config.target);
        let text = match retry_after.as_secs() {
            0 => format!("disk {whom}: {error}; trying again at once"),
            seconds => format!("disk {whom}: {error}; try {attempt}, again in {seconds} s"),
        };
        if self.device.is_some() {
            // After a minute in peace it is another one.
            self.outage.take_if(|outage| attempt == 1 && outage.is_over());
            let outage = self.outage.get_or_insert_with(|| Outage::begin(Instant::now()));
            if outage.note(format!("at {at}: {error}")) {
                warn!("{text}; I/O {}", self.fate_of_requests());
            }
        } else if !self.report(&Report::Trouble(text.clone())) {
            warn!("{text}");
        }
    }

    /// Says that the disk is still away, if it is time to.
    pub(super) fn tell_outage(&mut self) {
        let Some(outage) = &mut self.outage else { return };
        let Some(after) = outage.poll_line(Instant::now()) else { return };
        let seconds = after.as_secs();
        let reason = outage.reason().to_owned();
        let since = match outage.returns() {
            0 => format!("away for {seconds} s"),
            times => format!("lost {} times in {seconds} s", times + 1),
        };
        let waiting = self.session.requests();
        warn!(
            "disk {}: {since}: {reason}; I/O {} ({waiting} requests), and the target \
             is tried again and again",
            self.config.target,
            self.fate_of_requests()
        );
    }

    fn fate_of_requests(&self) -> &'static str {
        if self.session.is_failing() { "fails" } else { "waits" }
    }

    pub(super) fn tell_requests_given_up(&self, after: Duration, requests: usize) {
        error!(
            "disk {}: away for {} s: {requests} requests have failed, and others fail at once \
             until it is back",
            self.config.target,
            after.as_secs()
        );
    }

    /// Why there will be no disk; `after` if that is for lack of time.
    pub(super) fn words_of_the_end(
        &self,
        error: &Error,
        at: &Portal,
        after: Option<Duration>,
    ) -> String {
        let whom = format!("{} at {at}", self.config.target);
        match after {
            Some(after) => format!("disk {whom}: {error}; given up after {} s", after.as_secs()),
            None => format!("disk {whom}: {error}"),
        }
    }

    pub(super) fn shown_portal(&self) -> String {
        self.session.portal().to_string()
    }

    fn shown_state(&self) -> &'static str {
        if self.session.is_logged_in() {
            "logged in"
        } else if self.session.is_failing() {
            "failing until the target is back"
        } else {
            "waiting for the target"
        }
    }

    pub(super) fn status(&self) -> Status {
        let agreed = self.session.negotiated();
        let device = self.device.as_ref().and_then(|device| device.path());
        let digest = |is_on| if is_on { "CRC32C" } else { "none" };
        let Patience { idle, ping, .. } = super::patience(&self.config);
        let portals = self.config.portals.iter().map(ToString::to_string).collect();
        let mut status = Status::default();
        status
            .text("device", device.map_or_else(|| "-".into(), |path| path.display().to_string()))
            .text("driver", self.driver)
            .text("target", &*self.config.target)
            .text("lun", format!("{:016x}", self.config.lun))
            .text("portal", self.shown_portal())
            .add("portals", Value::List(portals))
            .text("initiator", &*self.config.initiator)
            .text("state", self.shown_state());
        if let Some(outage) = self.outage.as_ref().filter(|outage| !outage.is_over()) {
            status
                .seconds("away", outage.began().elapsed().as_secs())
                .text("reason", outage.reason());
        }
        status
            .seconds("up", self.began.elapsed().as_secs())
            .number("requests", self.session.requests() as u64)
            .number("requests most", block::QUEUE_DEPTH)
            .number("reconnects", self.session.reconnects())
            .number("recoveries", self.recoveries)
            .number("restarts", self.config.restarts)
            .text("version", env!("CARGO_PKG_VERSION"))
            .add("I/O timeout", Value::Seconds(self.config.limits.io.seconds().map(u64::from)))
            .seconds("ping interval", idle.as_secs())
            .seconds("ping timeout", ping.as_secs())
            .text("header digest", digest(agreed.digests.header))
            .text("data digest", digest(agreed.digests.data))
            .bytes("longest PDU out", agreed.max_send_bytes)
            .bytes("longest PDU in", agreed.max_recv_bytes)
            .bytes("first burst", agreed.first_burst_bytes)
            .bytes("max burst", agreed.max_burst_bytes);
        status
    }
}
