//! What the daemon tells people: in the log, to whoever waits for the disk, and as its status.

use std::time::Duration;

use log::warn;

use super::Daemon;
use crate::proto::Error;
use crate::proto::session::{Reason, Rung};

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

    pub(super) fn trouble(&mut self, error: &Error, attempt: u32, retry_after: Duration) {
        let whom = self.shown_disk();
        let text = match retry_after.as_secs() {
            0 => format!("disk {whom}: {error}; trying again at once"),
            seconds => format!("disk {whom}: {error}; try {attempt}, again in {seconds} s"),
        };
        if self.device.is_some() {
            // An outage of an hour must not fill the kernel's log: 1st, 2nd, 4th, 8th … failure.
            if attempt.is_power_of_two() {
                warn!("{text}; I/O waits");
            }
        } else if !self.report(|reporter| reporter.trouble(&text)) {
            warn!("{text}");
        }
    }

    pub(super) fn shown_portal(&self) -> String {
        self.session.portal().to_string()
    }

    pub(super) fn status(&self) -> String {
        let agreed = self.session.negotiated();
        let device = self.device.as_ref().and_then(|device| device.path());
        let device = device.map_or_else(|| "-".into(), |path| path.display().to_string());
        let digest = |is_on| if is_on { "CRC32C" } else { "none" };
        let rows = [
            ("device", format!("{device} ({})", self.driver)),
            ("target", self.config.target.clone()),
            ("lun", format!("{:016x}", self.config.lun)),
            ("portal", self.shown_portal()),
            ("initiator", self.config.initiator.clone()),
            (
                "state",
                if self.session.is_logged_in() { "logged in" } else { "waiting for the target" }
                    .into(),
            ),
            ("up", format!("{} s", self.began.elapsed().as_secs())),
            ("reconnects", self.session.reconnects().to_string()),
            ("recoveries", self.recoveries.to_string()),
            ("requests", self.session.requests().to_string()),
            ("header digest", digest(agreed.digests.header).into()),
            ("data digest", digest(agreed.digests.data).into()),
            ("longest PDU", {
                let (out, back) = (agreed.max_send_bytes, agreed.max_recv_bytes);
                format!("{out} bytes out, {back} bytes in")
            }),
            ("bursts", {
                let (first, max) = (agreed.first_burst_bytes, agreed.max_burst_bytes);
                format!("first {first} bytes, max {max} bytes")
            }),
        ];
        rows.iter().map(|(key, value)| format!("{key:<14} {value}\n")).collect()
    }
}
