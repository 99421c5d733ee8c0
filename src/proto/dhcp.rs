//! The DHCPv4 client of one link, from DISCOVER to the last renewal (RFC 2131 §4.4).
//!
//! Driven like every machine of this floor: `handle_connected` when the link has carrier,
//! `handle_message` for each datagram to port 68, `handle_timeout` at `next_deadline`; after each
//! of them drain `poll_transmit` and `poll_event`. A machine with several links runs one client on
//! each and takes the first lease that it can use.
//!
//! Three rules are ours, because a root disk hangs on this lease. It asks at once and again after
//! 0.3 s, as the first frame on a young link is often lost; then at most 4 s apart and for ever, as
//! a switch may keep a port shut for a minute (spanning tree). Its client identifier is the
//! hardware type and address, as firmware uses it, so that every boot stage gets the same address.
//! And the end of a lease is an event, not an order: what happens to the address is for the caller
//! to say, while the client goes on asking for the same one.

use std::collections::VecDeque;
use std::mem;
use std::net::Ipv4Addr;
use std::time::{Duration, Instant};

use log::debug;

use super::dhcp_request::seconds_since;
use super::lease::{Answer, Held, Offer, extend_delay};
use super::random::Random;
use crate::wire::Malformed;
use crate::wire::dhcp::{Message, Op};

pub use super::dhcp_request::{Config, Transmit};
pub use super::lease::Lease;

/// What the caller has to know.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Event {
    /// An address was granted: the first one, or another than before.
    Bound(Box<Lease>),
    /// The address is ours for longer; the rest of the lease may have changed.
    Renewed(Box<Lease>),
    /// A server has refused, in its own words. The client begins anew.
    Refused {
        /// Text of option 56, control characters replaced; may be empty.
        message: String,
    },
    /// Nobody has granted an address for so long. Comes at 10, 20, 40, … seconds.
    Unanswered {
        /// Time since the first DISCOVER.
        waited: Duration,
    },
    /// The lease is over and no server has renewed it. The client asks for the same address again.
    Expired(Box<Lease>),
}

/// The client of one link.
pub struct DhcpClient {
    config: Config,
    random: Random,
    /// The link has carrier.
    connected: bool,
    state: State,
    transmit: Option<Transmit>,
    events: VecDeque<Event>,
}

/// The states of RFC 2131 §4.4, figure 5; each owns what exists only in it.
enum State {
    Init(Init),
    Selecting(Selecting),
    Requesting(Requesting),
    Bound(Held),
    Renewing(Extending),
    Rebinding(Extending),
}

/// Nothing is asked: there is no carrier, or a refusal or a conflict needs a pause.
struct Init {
    begin_at: Option<Instant>,
    wanted: Option<Ipv4Addr>,
}

/// DISCOVER is out; waits for offers.
struct Selecting {
    search: Search,
    exchange: Exchange,
    /// An offer without root path, and when to take it if nothing better has come.
    fallback: Option<(Offer, Instant)>,
}

/// REQUEST is out; waits for the server that was chosen.
struct Requesting {
    search: Search,
    exchange: Exchange,
    offer: Offer,
}

/// REQUEST for more time is out: to the server while renewing, to all of them while rebinding.
struct Extending {
    held: Held,
    exchange: Exchange,
}

/// The whole of looking for an address, over several tries.
struct Search {
    began: Instant,
    /// When to say that nobody answers.
    complain_at: Instant,
    /// The address that we had before, to ask for it again.
    wanted: Option<Ipv4Addr>,
}

/// One transaction and its retransmissions.
struct Exchange {
    xid: u32,
    began: Instant,
    attempt: usize,
    retry_at: Instant,
}

/// Pause before each retransmission of DISCOVER and REQUEST; the last one repeats.
const RETRY_DELAYS_MS: [u64; 4] = [300, 1000, 2000, 4000];
/// A REQUEST that is not answered so often goes back to DISCOVER: the server may be gone.
const REQUEST_ATTEMPTS_MAX: usize = 4;
/// From this try on, servers are asked to answer by broadcast; see [`DhcpClient::discover`].
const BROADCAST_FROM_ATTEMPT: usize = 2;
/// How long an offer without root path waits for one with it.
const FALLBACK_DELAY: Duration = Duration::from_secs(2);
/// Pause after a refusal, so that a quarrel with a server does not become a storm.
const REFUSED_DELAY: Duration = Duration::from_secs(1);
/// Pause after a conflict (RFC 2131 §3.1, step 5).
const DECLINED_DELAY: Duration = Duration::from_secs(10);
/// When to say for the first time that nobody answers.
const COMPLAINT_DELAY: Duration = Duration::from_secs(10);

impl DhcpClient {
    /// A client that waits for carrier. Transaction numbers and jitter are drawn from `seed`.
    pub fn new(config: Config, seed: u64) -> DhcpClient {
        DhcpClient {
            config,
            random: Random::new(seed),
            connected: false,
            state: State::Init(Init { begin_at: None, wanted: None }),
            transmit: None,
            events: VecDeque::new(),
        }
    }

    /// A client that holds a lease which another one has taken, whose server has granted it with
    /// the message `grant` (the payload of a UDP datagram) at `granted_at`. `None` if that message
    /// grants nothing. The link has carrier; [`DhcpClient::handle_connected`] need not say so.
    pub fn resume(
        config: Config,
        seed: u64,
        grant: &[u8],
        granted_at: Instant,
    ) -> Option<DhcpClient> {
        let mut client = DhcpClient::new(config, seed);
        let Answer::Grant(lease) = Answer::of(Message::parse(grant).ok()?)? else { return None };
        client.connected = true;
        client.state = State::Bound(Held::new(lease, granted_at, &mut client.random));
        Some(client)
    }

    /// The lease that is held now.
    pub fn lease(&self) -> Option<&Lease> {
        match &self.state {
            State::Bound(held) => Some(&held.lease),
            State::Renewing(extending) | State::Rebinding(extending) => Some(&extending.held.lease),
            State::Init(_) | State::Selecting(_) | State::Requesting(_) => None,
        }
    }

    /// The link has carrier; saying it twice is harmless. With a lease, the server is asked whether
    /// it still holds: the cable may be in another network now.
    pub fn handle_connected(&mut self, now: Instant) {
        if mem::replace(&mut self.connected, true) {
            return;
        }
        self.state = match self.take_state() {
            State::Init(init) => self.discover_anew(init.wanted, now),
            State::Bound(held) => self.renew(held, now),
            asking => asking,
        };
    }

    /// The link has lost its carrier. A lease is kept; a search stops until carrier is back.
    pub fn handle_disconnected(&mut self) {
        self.connected = false;
        self.transmit = None;
        self.state = match self.take_state() {
            State::Init(Init { wanted, .. }) => State::Init(Init { begin_at: None, wanted }),
            State::Selecting(Selecting { search, .. })
            | State::Requesting(Requesting { search, .. }) => {
                State::Init(Init { begin_at: None, wanted: search.wanted })
            }
            held => held,
        };
    }

    /// Bytes came to port 68 of this link. Messages for others are ignored without an error.
    pub fn handle_message(&mut self, bytes: &[u8], now: Instant) -> Result<(), Malformed> {
        let message = Message::parse(bytes)?;
        let ours = message.op == Op::Reply
            && message.chaddr == self.config.mac
            && self.state.xid() == Some(message.xid);
        debug!(
            "DHCP {:?} of {} for {:#010x} while {}",
            message.options.message_type,
            message.yiaddr,
            message.xid,
            self.state.name()
        );
        if !ours {
            return Ok(());
        }
        let Some(answer) = Answer::of(message) else {
            return Ok(());
        };
        self.state = match (self.take_state(), answer) {
            (State::Selecting(selecting), Answer::Offer(offer)) => {
                self.take_offer(selecting, offer, now)
            }
            (State::Requesting(requesting), Answer::Grant(lease))
                if lease.server == requesting.offer.server =>
            {
                self.bound(lease, requesting.exchange.began)
            }
            (State::Requesting(requesting), Answer::Refusal { server, message })
                if server == Some(requesting.offer.server) =>
            {
                self.refused(message, requesting.search.wanted, now)
            }
            (State::Renewing(asking) | State::Rebinding(asking), Answer::Grant(lease)) => {
                self.extended(asking, lease)
            }
            (
                State::Renewing(asking) | State::Rebinding(asking),
                Answer::Refusal { message, .. },
            ) => self.refused(message, Some(asking.held.lease.address), now),
            (state, _) => {
                debug!("which is not expected while {}", state.name());
                state
            }
        };
        Ok(())
    }

    /// Sends the DISCOVER or REQUEST that waits for an answer once more: it may have been lost, as
    /// the link became able to send only now. Its timer goes on as before.
    pub fn repeat(&mut self, now: Instant) {
        self.state = match self.take_state() {
            State::Selecting(selecting) => {
                self.discover(&selecting.search, &selecting.exchange, now);
                State::Selecting(selecting)
            }
            State::Requesting(requesting) => {
                let Requesting { search, exchange, offer } = &requesting;
                self.request_offer(search, exchange, *offer, now);
                State::Requesting(requesting)
            }
            state => state,
        };
    }

    /// A deadline passed; a spurious call is harmless.
    pub fn handle_timeout(&mut self, now: Instant) {
        if self.next_deadline().is_none_or(|deadline| now < deadline) {
            return;
        }
        self.state = match self.take_state() {
            State::Init(init) => self.discover_anew(init.wanted, now),
            State::Selecting(selecting) => self.selecting_timeout(selecting, now),
            State::Requesting(requesting) => self.requesting_timeout(requesting, now),
            State::Bound(held) => self.renew(held, now),
            State::Renewing(extending) => self.renewing_timeout(extending, now),
            State::Rebinding(extending) => self.rebinding_timeout(extending, now),
        };
    }

    /// Another machine answers for the address: gives it back as unusable and begins anew, later.
    pub fn decline(&mut self, now: Instant) {
        let Some((address, server)) = self.lease().map(|lease| (lease.address, lease.server))
        else {
            return;
        };
        let xid = self.xid();
        self.transmit = Some(self.config.decline(xid, address, server));
        self.state = State::Init(Init { begin_at: Some(now + DECLINED_DELAY), wanted: None });
    }

    /// Gives the lease back, if there is one, and stops asking until the next carrier.
    pub fn release(&mut self) {
        if let Some((address, server)) = self.lease().map(|lease| (lease.address, lease.server)) {
            let xid = self.xid();
            self.transmit = Some(self.config.release(xid, address, server));
        }
        self.state = State::Init(Init { begin_at: None, wanted: None });
    }

    /// The next message to send.
    pub fn poll_transmit(&mut self) -> Option<Transmit> {
        self.transmit.take()
    }

    /// The next thing to know.
    pub fn poll_event(&mut self) -> Option<Event> {
        self.events.pop_front()
    }

    /// When the lease that is held now ends, if nobody renews it; `None` is never.
    pub fn lease_ends_at(&self) -> Option<Instant> {
        let clock = match &self.state {
            State::Bound(held) => held.clock,
            State::Renewing(extending) | State::Rebinding(extending) => extending.held.clock,
            State::Init(_) | State::Selecting(_) | State::Requesting(_) => None,
        };
        clock.map(|clock| clock.expires_at)
    }

    /// When to call [`DhcpClient::handle_timeout`] at the latest; `None` is never.
    pub fn next_deadline(&self) -> Option<Instant> {
        match &self.state {
            State::Init(init) => init.begin_at,
            State::Selecting(Selecting { search, exchange, fallback }) => {
                let asking = exchange.retry_at.min(search.complain_at);
                Some(fallback.as_ref().map_or(asking, |(_, take_at)| asking.min(*take_at)))
            }
            State::Requesting(Requesting { search, exchange, .. }) => {
                Some(exchange.retry_at.min(search.complain_at))
            }
            State::Bound(held) => held.clock.map(|clock| clock.renew_at),
            State::Renewing(Extending { held, exchange }) => {
                Some(held.clock.map_or(exchange.retry_at, |c| c.rebind_at.min(exchange.retry_at)))
            }
            State::Rebinding(Extending { held, exchange }) => {
                Some(held.clock.map_or(exchange.retry_at, |c| c.expires_at.min(exchange.retry_at)))
            }
        }
    }
}

/// Transitions: each takes the state that it ends and returns the one that follows.
impl DhcpClient {
    fn discover_anew(&mut self, wanted: Option<Ipv4Addr>, now: Instant) -> State {
        self.discover_on(Search { began: now, complain_at: now + COMPLAINT_DELAY, wanted }, now)
    }

    /// A new transaction within a search that is already going on.
    fn discover_on(&mut self, search: Search, now: Instant) -> State {
        let exchange = self.exchange(now);
        self.discover(&search, &exchange, now);
        State::Selecting(Selecting { search, exchange, fallback: None })
    }

    fn take_offer(&mut self, mut selecting: Selecting, offer: Offer, now: Instant) -> State {
        if self.config.root_path_wanted && !offer.has_root_path {
            selecting.fallback.get_or_insert((offer, now + FALLBACK_DELAY));
            return State::Selecting(selecting);
        }
        self.request(selecting, offer, now)
    }

    fn request(&mut self, selecting: Selecting, offer: Offer, now: Instant) -> State {
        let Selecting { search, exchange: Exchange { xid, .. }, .. } = selecting;
        // The transaction number of the offer stays (RFC 2131 §4.4.1), its retries begin anew.
        let exchange = Exchange { xid, ..self.exchange(now) };
        self.request_offer(&search, &exchange, offer, now);
        State::Requesting(Requesting { search, exchange, offer })
    }

    fn selecting_timeout(&mut self, mut selecting: Selecting, now: Instant) -> State {
        self.complain(&mut selecting.search, now);
        if let Some((offer, take_at)) = selecting.fallback
            && now >= take_at
        {
            return self.request(selecting, offer, now);
        }
        if now >= selecting.exchange.retry_at {
            self.next_attempt(&mut selecting.exchange, now);
            self.discover(&selecting.search, &selecting.exchange, now);
        }
        State::Selecting(selecting)
    }

    fn requesting_timeout(&mut self, mut requesting: Requesting, now: Instant) -> State {
        self.complain(&mut requesting.search, now);
        if now >= requesting.exchange.retry_at {
            if requesting.exchange.attempt + 1 >= REQUEST_ATTEMPTS_MAX {
                return self.discover_on(requesting.search, now);
            }
            self.next_attempt(&mut requesting.exchange, now);
            let Requesting { search, exchange, offer } = &requesting;
            self.request_offer(search, exchange, *offer, now);
        }
        State::Requesting(requesting)
    }

    fn bound(&mut self, lease: Box<Lease>, requested_at: Instant) -> State {
        self.events.push_back(Event::Bound(lease.clone()));
        State::Bound(Held::new(lease, requested_at, &mut self.random))
    }

    fn extended(&mut self, extending: Extending, lease: Box<Lease>) -> State {
        if lease.address != extending.held.lease.address {
            return self.bound(lease, extending.exchange.began);
        }
        self.events.push_back(Event::Renewed(lease.clone()));
        State::Bound(Held::new(lease, extending.exchange.began, &mut self.random))
    }

    fn refused(&mut self, message: String, wanted: Option<Ipv4Addr>, now: Instant) -> State {
        self.events.push_back(Event::Refused { message });
        State::Init(Init { begin_at: Some(now + REFUSED_DELAY), wanted })
    }

    fn renew(&mut self, held: Held, now: Instant) -> State {
        let mut exchange = self.exchange(now);
        exchange.retry_at = now + extend_delay(held.clock.map(|clock| clock.rebind_at), now);
        self.request_more(&held.lease, &exchange, held.lease.server, now);
        State::Renewing(Extending { held, exchange })
    }

    fn renewing_timeout(&mut self, mut extending: Extending, now: Instant) -> State {
        let Extending { held, exchange } = &mut extending;
        let rebind_at = held.clock.map(|clock| clock.rebind_at);
        if rebind_at.is_some_and(|rebind_at| now >= rebind_at) {
            return self.rebinding_timeout(extending, now);
        }
        exchange.attempt += 1;
        exchange.retry_at = now + extend_delay(rebind_at, now);
        self.request_more(&held.lease, exchange, held.lease.server, now);
        State::Renewing(extending)
    }

    fn rebinding_timeout(&mut self, mut extending: Extending, now: Instant) -> State {
        let Extending { held, exchange } = &mut extending;
        let expires_at = held.clock.map(|clock| clock.expires_at);
        if expires_at.is_some_and(|expires_at| now >= expires_at) {
            let wanted = Some(held.lease.address);
            self.events.push_back(Event::Expired(extending.held.lease));
            return self.discover_anew(wanted, now);
        }
        exchange.attempt += 1;
        exchange.retry_at = now + extend_delay(expires_at, now);
        self.request_more(&held.lease, exchange, Ipv4Addr::BROADCAST, now);
        State::Rebinding(extending)
    }

    fn complain(&mut self, search: &mut Search, now: Instant) {
        if now >= search.complain_at {
            let waited = now - search.began;
            self.events.push_back(Event::Unanswered { waited });
            search.complain_at = now + waited;
        }
    }
}

/// Sending and its timing.
impl DhcpClient {
    /// Answers by unicast reach us before we have an address, as they are read from a packet
    /// socket. They are asked for at first: broadcasts wake every machine of the segment. Some
    /// relays and bridges cannot deliver them though, so later tries ask for a broadcast.
    fn discover(&mut self, search: &Search, exchange: &Exchange, now: Instant) {
        let secs = seconds_since(search.began, now);
        let broadcast = exchange.attempt >= BROADCAST_FROM_ATTEMPT;
        self.transmit = Some(self.config.discover(exchange.xid, secs, broadcast, search.wanted));
    }

    fn request_offer(&mut self, search: &Search, exchange: &Exchange, offer: Offer, now: Instant) {
        let secs = seconds_since(search.began, now);
        let broadcast = exchange.attempt >= BROADCAST_FROM_ATTEMPT;
        self.transmit = Some(self.config.request_offer(exchange.xid, secs, broadcast, offer));
    }

    fn request_more(&mut self, lease: &Lease, exchange: &Exchange, to: Ipv4Addr, now: Instant) {
        let secs = seconds_since(exchange.began, now);
        self.transmit = Some(self.config.request_more(exchange.xid, secs, lease.address, to));
    }

    fn exchange(&mut self, now: Instant) -> Exchange {
        let xid = self.xid();
        Exchange { xid, began: now, attempt: 0, retry_at: now + self.retry_delay(0) }
    }

    fn xid(&mut self) -> u32 {
        (self.random.bits() >> 32) as u32
    }

    fn next_attempt(&mut self, exchange: &mut Exchange, now: Instant) {
        exchange.attempt += 1;
        exchange.retry_at = now + self.retry_delay(exchange.attempt);
    }

    /// Up to a quarter shorter at random, so that a rack that got power at once spreads out.
    fn retry_delay(&mut self, attempt: usize) -> Duration {
        let milliseconds = RETRY_DELAYS_MS[attempt.min(RETRY_DELAYS_MS.len() - 1)];
        Duration::from_millis(milliseconds - self.random.below(milliseconds / 4 + 1))
    }

    /// The state, to be consumed by a transition that always puts one back.
    fn take_state(&mut self) -> State {
        mem::replace(&mut self.state, State::Init(Init { begin_at: None, wanted: None }))
    }
}

impl State {
    fn xid(&self) -> Option<u32> {
        match self {
            State::Init(_) | State::Bound(_) => None,
            State::Selecting(Selecting { exchange, .. })
            | State::Requesting(Requesting { exchange, .. })
            | State::Renewing(Extending { exchange, .. })
            | State::Rebinding(Extending { exchange, .. }) => Some(exchange.xid),
        }
    }

    fn name(&self) -> &'static str {
        match self {
            State::Init(_) => "INIT",
            State::Selecting(_) => "SELECTING",
            State::Requesting(_) => "REQUESTING",
            State::Bound(_) => "BOUND",
            State::Renewing(_) => "RENEWING",
            State::Rebinding(_) => "REBINDING",
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::wire::dhcp::{MessageType, Options, Route};

    const MAC: [u8; 6] = [0x52, 0x54, 0, 1, 2, 3];
    const SERVER: Ipv4Addr = Ipv4Addr::new(192, 0, 2, 1);
    const ADDRESS: Ipv4Addr = Ipv4Addr::new(192, 0, 2, 77);

    /// A client with a clock that is moved by hand, and what it has said and told.
    struct Lab {
        client: DhcpClient,
        start: Instant,
        now: Instant,
        sent: Vec<(Duration, Transmit)>,
        events: Vec<Event>,
    }

    impl Lab {
        fn new() -> Lab {
            Lab::with(false)
        }

        fn with(root_path_wanted: bool) -> Lab {
            let config = Config {
                mac: MAC,
                host_name: b"node7".to_vec(),
                vendor_class: b"lunboot".to_vec(),
                root_path_wanted,
            };
            let start = Instant::now();
            let client = DhcpClient::new(config, 42);
            Lab { client, start, now: start, sent: Vec::new(), events: Vec::new() }
        }

        fn drain(&mut self) {
            while let Some(transmit) = self.client.poll_transmit() {
                self.sent.push((self.now - self.start, transmit));
            }
            while let Some(event) = self.client.poll_event() {
                self.events.push(event);
            }
        }

        fn connect(&mut self) {
            self.client.handle_connected(self.now);
            self.drain();
        }

        /// Lets time pass, serving every deadline on the way.
        fn pass(&mut self, duration: Duration) {
            let end = self.now + duration;
            while let Some(deadline) = self.client.next_deadline().filter(|d| *d <= end) {
                self.now = self.now.max(deadline);
                self.client.handle_timeout(self.now);
                self.drain();
                let next = self.client.next_deadline();
                assert!(next.is_none_or(|next| next > self.now), "a deadline that does not move");
            }
            self.now = end;
        }

        fn last(&self) -> Message {
            Message::parse(&self.sent.last().expect("something was sent").1.payload).unwrap()
        }

        fn last_type(&self) -> MessageType {
            self.last().options.message_type.unwrap()
        }

        /// An answer to the last message that was sent.
        fn reply(&self, message_type: MessageType) -> Message {
            let mut reply = Message::request(message_type, self.last().xid, MAC);
            reply.op = Op::Reply;
            reply.yiaddr = ADDRESS;
            reply.options.server_identifier = Some(SERVER);
            reply.options.lease_time = Some(1000);
            reply.options.subnet_mask = Some(Ipv4Addr::new(255, 255, 255, 0));
            reply.options.root_path = b"iscsi:192.0.2.1::::iqn.2004-10.example:root".to_vec();
            reply
        }

        fn hear(&mut self, message: &Message) {
            self.client.handle_message(&message.emit(), self.now).unwrap();
            self.drain();
        }

        fn bind(&mut self) {
            self.connect();
            self.hear(&self.reply(MessageType::Offer));
            self.hear(&self.reply(MessageType::Ack));
            assert!(matches!(self.events.pop(), Some(Event::Bound(_))));
            self.sent.clear();
        }
    }

    fn seconds(seconds: u64) -> Duration {
        Duration::from_secs(seconds)
    }

    #[test]
    fn four_messages_make_a_lease() {
        let mut lab = Lab::new();
        lab.connect();
        let discover = lab.last();
        assert_eq!(discover.options.message_type, Some(MessageType::Discover));
        assert_eq!(discover.options.client_identifier, [1, 0x52, 0x54, 0, 1, 2, 3]);
        assert_eq!(discover.options.host_name, b"node7");
        assert!(!discover.broadcast);
        lab.hear(&lab.reply(MessageType::Offer));
        let request = lab.last();
        assert_eq!(request.options.message_type, Some(MessageType::Request));
        assert_eq!(request.xid, discover.xid);
        assert_eq!(request.options.requested_address, Some(ADDRESS));
        assert_eq!(request.options.server_identifier, Some(SERVER));
        assert!(request.ciaddr.is_unspecified());
        let mut ack = lab.reply(MessageType::Ack);
        ack.options.routers = vec![SERVER, ADDRESS];
        lab.hear(&ack);
        let [Event::Bound(lease)] = &lab.events[..] else { panic!("{:?}", lab.events) };
        assert_eq!((lease.address, lease.prefix_len, lease.server), (ADDRESS, 24, SERVER));
        assert_eq!(lease.broadcast, Ipv4Addr::new(192, 0, 2, 255));
        assert_eq!(lease.routes, [Route::new(Ipv4Addr::UNSPECIFIED, 0, SERVER)]);
        assert_eq!(lease.duration, Some(seconds(1000)));
        assert_eq!(lab.sent.len(), 2, "no message more than needed");
        assert_eq!(lab.now, lab.start, "and no waiting");
        assert_eq!(lab.client.lease(), Some(&**lease));
    }

    #[test]
    fn discover_is_repeated_early_and_for_ever() {
        let mut lab = Lab::new();
        assert_eq!(lab.client.next_deadline(), None, "nothing happens without carrier");
        lab.connect();
        lab.pass(seconds(3600));
        let times: Vec<Duration> = lab.sent.iter().map(|(time, _)| *time).collect();
        assert_eq!(times[0], Duration::ZERO);
        assert!((225..=300).contains(&times[1].as_millis()), "{:?}", times[1]);
        for pair in times.windows(2) {
            assert!(pair[1] - pair[0] <= seconds(4), "{pair:?}");
        }
        let tail: Vec<Duration> = times[4..].windows(2).map(|pair| pair[1] - pair[0]).collect();
        assert!(tail.iter().all(|pause| *pause >= seconds(3)));
        assert!(tail.iter().any(|pause| *pause != tail[0]), "there is jitter");
        let first = Message::parse(&lab.sent[0].1.payload).unwrap();
        for (index, (time, transmit)) in lab.sent.iter().enumerate() {
            let message = Message::parse(&transmit.payload).unwrap();
            assert_eq!(message.xid, first.xid);
            assert_eq!(u64::from(message.secs), time.as_secs());
            assert_eq!(message.broadcast, index >= 2);
            assert!(transmit.destination.is_broadcast() && transmit.source.is_unspecified());
        }
    }

    #[test]
    fn a_message_that_may_be_lost_is_repeated_without_a_timer() {
        let mut lab = Lab::new();
        lab.connect();
        let deadline = lab.client.next_deadline();
        let first = lab.sent.last().unwrap().1.clone();
        lab.client.repeat(lab.now);
        assert_eq!(lab.client.poll_transmit(), Some(first));
        assert_eq!(lab.client.next_deadline(), deadline);
        let mut idle = Lab::new();
        idle.client.repeat(idle.now);
        assert_eq!(idle.client.poll_transmit(), None, "nothing waits for an answer");
    }

    #[test]
    fn silence_is_reported_at_doubling_intervals() {
        let mut lab = Lab::new();
        lab.connect();
        lab.pass(seconds(100));
        let waited: Vec<u64> = lab
            .events
            .iter()
            .map(|event| match event {
                Event::Unanswered { waited } => waited.as_secs(),
                other => panic!("{other:?}"),
            })
            .collect();
        assert_eq!(waited, [10, 20, 40, 80]);
    }

    #[test]
    fn messages_for_others_are_ignored() {
        let mut lab = Lab::new();
        lab.connect();
        let good = lab.reply(MessageType::Offer);
        let mut other_xid = good.clone();
        other_xid.xid ^= 1;
        let mut other_mac = good.clone();
        other_mac.chaddr[5] ^= 1;
        let mut from_client = good.clone();
        from_client.op = Op::Request;
        let mut no_server = good.clone();
        no_server.options.server_identifier = None;
        let mut proxy = good.clone();
        proxy.yiaddr = Ipv4Addr::UNSPECIFIED;
        let mut no_type = good.clone();
        no_type.options.message_type = None;
        for message in [other_xid, other_mac, from_client, no_server, proxy, no_type] {
            lab.hear(&message);
            assert_eq!(lab.sent.len(), 1, "{message:?}");
        }
        // An ACK out of turn is nothing either.
        lab.hear(&lab.reply(MessageType::Ack));
        assert!(lab.events.is_empty());
        assert!(lab.client.handle_message(b"rubbish", lab.now).is_err());
        lab.hear(&good);
        assert_eq!(lab.last_type(), MessageType::Request);
    }

    #[test]
    fn an_offer_without_root_path_waits_for_a_better_one() {
        let mut lab = Lab::with(true);
        lab.connect();
        let mut poor = lab.reply(MessageType::Offer);
        poor.options.root_path.clear();
        lab.hear(&poor);
        assert_eq!(lab.sent.len(), 1);
        let mut rich = lab.reply(MessageType::Offer);
        rich.options.server_identifier = Some(Ipv4Addr::new(192, 0, 2, 2));
        lab.hear(&rich);
        assert_eq!(lab.last().options.server_identifier, Some(Ipv4Addr::new(192, 0, 2, 2)));
    }

    #[test]
    fn an_offer_without_root_path_is_taken_when_nothing_better_comes() {
        let mut lab = Lab::with(true);
        lab.connect();
        let mut poor = lab.reply(MessageType::Offer);
        poor.options.root_path.clear();
        lab.hear(&poor);
        lab.pass(FALLBACK_DELAY);
        assert_eq!(lab.last_type(), MessageType::Request);
        assert_eq!(lab.last().options.server_identifier, Some(SERVER));
    }

    #[test]
    fn an_unanswered_request_goes_back_to_discover() {
        let mut lab = Lab::new();
        lab.connect();
        lab.hear(&lab.reply(MessageType::Offer));
        lab.sent.clear();
        lab.pass(seconds(8));
        let types: Vec<MessageType> = lab
            .sent
            .iter()
            .map(|(_, transmit)| Message::parse(&transmit.payload).unwrap())
            .map(|message| message.options.message_type.unwrap())
            .collect();
        use MessageType::{Discover, Request};
        assert_eq!(types[..5], [Request, Request, Request, Discover, Discover]);
    }

    #[test]
    fn only_the_chosen_server_can_grant_or_refuse() {
        let mut lab = Lab::new();
        lab.connect();
        lab.hear(&lab.reply(MessageType::Offer));
        for message_type in [MessageType::Ack, MessageType::Nak] {
            let mut other = lab.reply(message_type);
            other.options.server_identifier = Some(Ipv4Addr::new(192, 0, 2, 9));
            lab.hear(&other);
        }
        assert!(lab.events.is_empty());
        let mut nak = lab.reply(MessageType::Nak);
        nak.options.message = b"address\x1b in use".to_vec();
        lab.hear(&nak);
        assert_eq!(lab.events, [Event::Refused { message: "address\u{fffd} in use".into() }]);
        lab.pass(REFUSED_DELAY);
        assert_eq!(lab.last_type(), MessageType::Discover);
    }

    #[test]
    fn a_lease_is_renewed_by_unicast_at_half_time() {
        let mut lab = Lab::new();
        lab.bind();
        let renew_at = lab.client.next_deadline().unwrap() - lab.now;
        assert!((seconds(468)..=seconds(500)).contains(&renew_at), "{renew_at:?}");
        lab.pass(renew_at);
        let (_, transmit) = &lab.sent[0];
        assert_eq!((transmit.source, transmit.destination), (ADDRESS, SERVER));
        let request = lab.last();
        assert_eq!(request.ciaddr, ADDRESS);
        assert_eq!(request.options.requested_address, None);
        assert_eq!(request.options.server_identifier, None);
        let mut ack = lab.reply(MessageType::Ack);
        ack.options.lease_time = Some(2000);
        lab.hear(&ack);
        let [Event::Renewed(lease)] = &lab.events[..] else { panic!("{:?}", lab.events) };
        assert_eq!(lease.duration, Some(seconds(2000)));
        assert!(lab.client.next_deadline().unwrap() - lab.now > seconds(900));
    }

    #[test]
    fn renewing_becomes_rebinding_becomes_expired_and_the_address_is_asked_for_again() {
        let mut lab = Lab::new();
        lab.bind();
        lab.pass(seconds(999));
        let t2 = seconds(875);
        for (time, transmit) in &lab.sent {
            let message = Message::parse(&transmit.payload).unwrap();
            assert_eq!(message.ciaddr, ADDRESS);
            assert_eq!(transmit.destination.is_broadcast(), *time >= t2, "at {time:?}");
        }
        assert!(lab.sent.iter().any(|(time, _)| *time == t2), "rebinding begins at T2");
        assert!(lab.sent.len() < 30, "{} messages", lab.sent.len());
        assert!(lab.client.lease().is_some());
        lab.pass(seconds(1));
        let [Event::Expired(lease)] = &lab.events[..] else { panic!("{:?}", lab.events) };
        assert_eq!(lease.address, ADDRESS);
        assert_eq!(lab.last_type(), MessageType::Discover);
        assert_eq!(lab.last().options.requested_address, Some(ADDRESS));
        assert!(lab.last().ciaddr.is_unspecified());
        lab.hear(&lab.reply(MessageType::Offer));
        lab.hear(&lab.reply(MessageType::Ack));
        assert!(matches!(lab.events.last(), Some(Event::Bound(_))));
    }

    #[test]
    fn any_server_can_extend_while_rebinding() {
        let mut lab = Lab::new();
        lab.bind();
        lab.pass(seconds(900));
        let mut ack = lab.reply(MessageType::Ack);
        ack.options.server_identifier = Some(Ipv4Addr::new(192, 0, 2, 2));
        lab.hear(&ack);
        assert!(matches!(&lab.events[..], [Event::Renewed(_)]));
        lab.sent.clear();
        lab.pass(seconds(500));
        assert_eq!(lab.sent[0].1.destination, Ipv4Addr::new(192, 0, 2, 2));
    }

    #[test]
    fn a_refused_renewal_begins_anew_with_the_same_wish() {
        let mut lab = Lab::new();
        lab.bind();
        lab.pass(seconds(500));
        lab.hear(&lab.reply(MessageType::Nak));
        assert!(matches!(&lab.events[..], [Event::Refused { .. }]));
        lab.pass(REFUSED_DELAY);
        assert_eq!(lab.last_type(), MessageType::Discover);
        assert_eq!(lab.last().options.requested_address, Some(ADDRESS));
    }

    #[test]
    fn a_lost_carrier_stops_a_search_and_keeps_a_lease() {
        let mut lab = Lab::new();
        lab.connect();
        lab.client.handle_disconnected();
        assert_eq!(lab.client.next_deadline(), None);
        lab.bind();
        lab.connect();
        assert!(lab.sent.is_empty(), "nothing has changed");
        lab.client.handle_disconnected();
        assert!(lab.client.lease().is_some());
        lab.connect();
        assert_eq!(lab.last_type(), MessageType::Request);
        assert_eq!(lab.sent[0].1.destination, SERVER, "asks whether the lease still holds");
        lab.hear(&lab.reply(MessageType::Ack));
        assert!(matches!(&lab.events[..], [Event::Renewed(_)]));
    }

    #[test]
    fn classless_routes_beat_the_router() {
        let mut lab = Lab::new();
        lab.connect();
        lab.hear(&lab.reply(MessageType::Offer));
        let mut ack = lab.reply(MessageType::Ack);
        let route = Route::new(Ipv4Addr::new(10, 0, 0, 0), 8, SERVER);
        ack.options.routers = vec![SERVER];
        ack.options.classless_routes = vec![route];
        lab.hear(&ack);
        assert_eq!(lab.client.lease().unwrap().routes, [route]);
    }

    #[test]
    fn odd_leases_have_sound_clocks() {
        // Lease time, T1, T2; when the first renewal is due at the latest.
        let cases = [
            (Some(120), None, None, Some(60)),
            (Some(0), Some(0), Some(0), Some(8)),
            (Some(1000), Some(900), Some(100), Some(500)),
            (Some(1000), Some(5000), Some(6000), Some(500)),
            (Some(1000), Some(100), Some(200), Some(100)),
            (Some(u32::MAX), Some(1), Some(2), None),
            (Some(u32::MAX - 1), None, None, Some(u32::MAX / 2)),
            (None, None, None, None),
        ];
        for (lease_time, renewal_time, rebinding_time, latest) in cases {
            let mut lab = Lab::new();
            lab.connect();
            lab.hear(&lab.reply(MessageType::Offer));
            let mut ack = lab.reply(MessageType::Ack);
            ack.options =
                Options { lease_time, renewal_time, rebinding_time, ..ack.options.clone() };
            lab.hear(&ack);
            let due = lab.client.next_deadline().map(|deadline| deadline - lab.now);
            match latest {
                None => assert_eq!(due, None),
                Some(latest) => {
                    let latest = seconds(latest.into());
                    assert!(due.is_some_and(|due| due <= latest && due >= latest * 15 / 16));
                }
            }
            lab.pass(seconds(5000));
        }
    }

    #[test]
    fn release_and_decline_say_so_and_let_go() {
        let mut lab = Lab::new();
        lab.bind();
        lab.client.release();
        lab.drain();
        assert_eq!(lab.last_type(), MessageType::Release);
        assert_eq!((lab.last().ciaddr, lab.sent[0].1.destination), (ADDRESS, SERVER));
        assert_eq!((lab.client.lease(), lab.client.next_deadline()), (None, None));

        lab.client.handle_disconnected();
        lab.bind();
        lab.client.decline(lab.now);
        lab.drain();
        let decline = lab.last();
        assert_eq!(decline.options.message_type, Some(MessageType::Decline));
        assert_eq!(decline.options.requested_address, Some(ADDRESS));
        assert_eq!(decline.options.server_identifier, Some(SERVER));
        assert!(decline.ciaddr.is_unspecified() && lab.sent[0].1.destination.is_broadcast());
        lab.pass(DECLINED_DELAY);
        assert_eq!(lab.last_type(), MessageType::Discover);
        assert_eq!(lab.last().options.requested_address, None);
    }
}
