//! What the answer of a DHCP server means to a client: an offer, a grant, a refusal.
//!
//! Here a message with all its optional fields becomes a value that can be used without asking
//! again whether something is there. Where a server left a gap, the RFCs say what stands in it.

use std::net::Ipv4Addr;
use std::time::{Duration, Instant};

use log::debug;

use super::random::Random;
use crate::wire::dhcp::{Message, MessageType, Options, Route};

/// What a server has granted.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Lease {
    /// Our address.
    pub address: Ipv4Addr,
    /// Prefix length of the subnet: from the mask, or from the address class if there was none.
    pub prefix_len: u8,
    /// Broadcast address of the subnet.
    pub broadcast: Ipv4Addr,
    /// The classless routes, or else the default route by the first router (RFC 3442).
    pub routes: Vec<Route>,
    /// The server that granted it, and renews it.
    pub server: Ipv4Addr,
    /// How long it lasts from the request on; `None` is for ever.
    pub duration: Option<Duration>,
    /// Everything else as the server said it: root path, names, MTU, DNS, NTP, initiator name.
    pub options: Options,
}

/// A message of a server that a client can act on.
#[derive(Debug)]
pub(super) enum Answer {
    Offer(Offer),
    Grant(Box<Lease>),
    Refusal { server: Option<Ipv4Addr>, message: String },
}

/// What a client needs of an offer to ask for it.
#[derive(Clone, Copy, Debug)]
pub(super) struct Offer {
    pub(super) address: Ipv4Addr,
    pub(super) server: Ipv4Addr,
    pub(super) has_root_path: bool,
}

/// A lease and its clock; without deadlines if it lasts for ever.
pub(super) struct Held {
    pub(super) lease: Box<Lease>,
    pub(super) clock: Option<Clock>,
}

/// RFC 2131 §4.4.5: T1, T2 and the end.
#[derive(Clone, Copy)]
pub(super) struct Clock {
    pub(super) renew_at: Instant,
    pub(super) rebind_at: Instant,
    pub(super) expires_at: Instant,
}

/// Shorter leases are treated as this long, so that renewing never becomes a busy loop.
const LEASE_SECONDS_MIN: u32 = 16;
/// A shorter T1 is not believed, for the same reason.
const RENEWAL_TIME_MIN: Duration = Duration::from_secs(4);

impl Answer {
    /// Reads a BOOTREPLY; `None` if a client can do nothing with it.
    pub(super) fn of(reply: Message) -> Option<Answer> {
        match reply.options.message_type? {
            MessageType::Offer => Offer::of(&reply).map(Answer::Offer),
            MessageType::Ack => Lease::of(reply).map(Box::new).map(Answer::Grant),
            MessageType::Nak => Some(Answer::Refusal {
                server: reply.options.server_identifier,
                message: String::from_utf8_lossy(&reply.options.message)
                    .replace(|c: char| c.is_control(), "\u{fffd}"),
            }),
            _ => None,
        }
    }
}

impl Offer {
    fn of(reply: &Message) -> Option<Offer> {
        let address = reply.yiaddr;
        // ProxyDHCP servers offer a boot file and no address.
        if !is_host(address) {
            debug!("DHCP offer of {address} is no address");
            return None;
        }
        let server = reply.options.server_identifier?;
        Some(Offer { address, server, has_root_path: !reply.options.root_path.is_empty() })
    }
}

impl Lease {
    fn of(ack: Message) -> Option<Lease> {
        let Message { yiaddr: address, options, .. } = ack;
        let server = options.server_identifier?;
        if !is_host(address) {
            debug!("DHCP grant of {address} by {server} is no address");
            return None;
        }
        let prefix_len = match options.subnet_mask {
            Some(mask) => mask.to_bits().leading_ones() as u8,
            None => class_prefix_len(address),
        };
        let host_bits = u32::MAX.checked_shr(prefix_len.into()).unwrap_or(0);
        let broadcast = options
            .broadcast_address
            .unwrap_or_else(|| Ipv4Addr::from_bits(address.to_bits() | host_bits));
        let routes = if options.classless_routes.is_empty() {
            let default = |router: &Ipv4Addr| Route::new(Ipv4Addr::UNSPECIFIED, 0, *router);
            options.routers.first().map(default).into_iter().collect()
        } else {
            options.classless_routes.clone()
        };
        // A grant without a time is BOOTP in disguise; those last for ever.
        let seconds = options.lease_time.unwrap_or(u32::MAX);
        let duration = (seconds != u32::MAX)
            .then(|| Duration::from_secs(seconds.max(LEASE_SECONDS_MIN).into()));
        Some(Lease { address, prefix_len, broadcast, routes, server, duration, options })
    }
}

impl Held {
    /// Starts the clock. T1 comes up to a sixteenth early at random, so that machines that were
    /// switched on together do not all renew together.
    pub(super) fn new(lease: Box<Lease>, requested_at: Instant, random: &mut Random) -> Held {
        let clock = lease.duration.map(|duration| {
            let seconds = |option: Option<u32>| option.map(|s| Duration::from_secs(s.into()));
            let told = seconds(lease.options.renewal_time)
                .zip(seconds(lease.options.rebinding_time))
                .filter(|(t1, t2)| RENEWAL_TIME_MIN <= *t1 && t1 < t2 && *t2 < duration);
            let (renewal, rebinding) = told.unwrap_or((duration / 2, duration * 7 / 8));
            let early = random.below(renewal.as_millis() as u64 / 16 + 1);
            Clock {
                renew_at: requested_at + renewal - Duration::from_millis(early),
                rebind_at: requested_at + rebinding,
                expires_at: requested_at + duration,
            }
        });
        Held { lease, clock }
    }
}

/// The pause before the next request for more time: half of what is left until `limit`, but not
/// less than the minimum (RFC 2131 §4.4.5). A lease for ever has no limit; it is only asked about
/// after the carrier was away.
pub(super) fn extend_delay(limit: Option<Instant>, now: Instant) -> Duration {
    const UNLIMITED: Duration = Duration::from_secs(60);
    let half = limit.map_or(UNLIMITED, |limit| limit.saturating_duration_since(now) / 2);
    half.max(EXTEND_DELAY_MIN)
}

/// RFC 2131 §4.4.5 suggests 60 s, which loses leases of two minutes; as the pause halves the time
/// left, 4 s cost a dozen packets a lease.
const EXTEND_DELAY_MIN: Duration = Duration::from_secs(4);

/// An address that a host can have.
fn is_host(address: Ipv4Addr) -> bool {
    !(address.octets()[0] == 0
        || address.is_loopback()
        || address.is_multicast()
        || address.octets()[0] >= 240)
}

/// The prefix length that an address had before there were masks (RFC 791 §3.2).
fn class_prefix_len(address: Ipv4Addr) -> u8 {
    match address.octets()[0] {
        0..=127 => 8,
        128..=191 => 16,
        _ => 24,
    }
}
