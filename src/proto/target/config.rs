//! What a target is, for all of its connections.

use std::fmt;
use std::net::SocketAddr;
use std::time::Duration;

use crate::proto::chap::Secrets;
use crate::proto::logical_units::LogicalUnits;
use crate::proto::params::Offer;

/// A silent connection is asked for a sign of life after this time.
const PING_INTERVAL: Duration = Duration::from_secs(30);

/// What all connections of a target share.
#[derive(Debug)]
pub struct TargetConfig {
    /// TargetName.
    pub name: String,
    /// TargetPortalGroupTag.
    pub portal_group: u16,
    /// The addresses at which it is to be found, told beside the one that an initiator uses. Those
    /// that stand for all of a machine are not among them.
    pub portals: Vec<SocketAddr>,
    /// Operational keys.
    pub offer: Offer,
    /// A connection that was silent for so long is asked with a NOP-In, and given up after the same
    /// time again.
    pub ping_interval: Duration,
    /// Who may log in, and how this target proves itself; `None` lets everybody in.
    pub secrets: Option<Secrets>,
    /// What is served here may be asked for without a proof.
    pub open_discovery: bool,
    /// The target is elsewhere now: every login of a normal session is sent there.
    pub redirect: Option<Redirect>,
    /// What it serves.
    pub units: LogicalUnits,
}

/// Where a target has moved to (RFC 7143 §11.13.5, §13.8).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Redirect {
    /// Its new address.
    pub address: SocketAddr,
    /// The portal group of that address, if it is to be told.
    pub portal_group: Option<u16>,
    /// It will not come back.
    pub permanent: bool,
}

/// As TargetAddress has it: an IPv6 address stands in brackets.
impl fmt::Display for Redirect {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}", self.address)?;
        self.portal_group.map_or(Ok(()), |tag| write!(f, ",{tag}"))
    }
}

impl TargetConfig {
    /// A target with the usual operational keys and the usual patience.
    pub fn new(name: &str, units: LogicalUnits) -> TargetConfig {
        TargetConfig {
            name: name.to_owned(),
            portal_group: 1,
            portals: Vec::new(),
            offer: Offer::default(),
            ping_interval: PING_INTERVAL,
            secrets: None,
            open_discovery: false,
            redirect: None,
            units,
        }
    }
}
