//! The ways to the target, and what becomes of them: portals that refuse, say nothing or need long;
//! that are lost under a session, and come back with what was on its way; that send logins
//! elsewhere, for now or for good, in circles or to nobody; that lead to another disk. And a target
//! that wants sessions to end, or is slow to let them begin.

use std::time::{Duration, Instant};

use lunboot::proto::Patience;
use lunboot::proto::random::Random;
use lunboot::proto::session::Portal;
use lunboot::proto::target::Redirect;

use super::Simulation;
use super::common::network::up_to;
use super::common::portal;
use super::draw::rate;

/// A portal that is lost while another is good costs no more than this, beside what a login takes.
const FAIL_OVER_MAX: Duration = Duration::from_secs(10);

/// Time that each portal has before the next one is tried as well.
const STAGGER: Duration = Duration::from_millis(250);

/// Most messages of a login.
const LOGIN_STEPS: u32 = 20;

pub(crate) struct Ways {
    /// The portals that the session was told.
    pub(crate) listed: Vec<Portal>,
    // What may happen, one time in so many rounds; 0 for never.
    change: u64,
    redirect: u64,
    stranger: u64,
    closing: u64,
    hesitation: u64,
    loss: u64,
    /// The portal in use was lost, and another one is good.
    lost_at: Option<Instant>,
    /// The session was sent elsewhere for good: it has another list now.
    moved: bool,
}

impl Ways {
    pub(crate) fn new(random: &mut Random) -> Ways {
        let several = random.below(2) != 0;
        let count = if several { 2 + random.below(3) as u8 } else { 1 };
        Ways {
            listed: (1..=count).map(portal).collect(),
            change: rate(random, 50),
            redirect: rate(random, 60),
            stranger: rate(random, 60),
            closing: rate(random, 100),
            hesitation: rate(random, 100),
            loss: rate(random, 60),
            lost_at: None,
            moved: false,
        }
    }

    /// Until another portal has taken over, nothing else goes wrong.
    pub(crate) fn is_failing_over(&self) -> bool {
        self.lost_at.is_some()
    }
}

impl Simulation {
    pub(crate) fn strike_ways(&mut self) {
        if self.random.below(20) == 0 {
            self.open_a_way();
        }
        if self.comes(self.ways.change) {
            self.change_a_portal();
        }
        if self.comes(self.ways.redirect) {
            self.redirect();
        }
        if self.pair.session.disk().is_some() && self.comes(self.ways.stranger) {
            // What was there first is the right disk, so there must have been one.
            let portal = self.some_portal();
            self.happens("there is another disk behind a portal", "portals with another disk");
            self.pair.server.strange.push(portal);
            if self.random.below(2) == 0 {
                self.pair.cut();
            }
        }
        if self.comes(self.ways.closing) {
            self.close_sessions();
        }
        if self.comes(self.ways.hesitation) {
            self.happens("logins are answered late", "slow logins");
            self.pair.server.hesitation = up_to(Duration::from_secs(20), &mut self.random);
        }
        if self.can_lose_a_portal() && self.comes(self.ways.loss) {
            self.lose_the_portal();
        }
    }

    fn some_portal(&mut self) -> Portal {
        // The one in use may be one that the session was sent to.
        let current = self.pair.current_portal();
        let known: Vec<_> = self.ways.listed.iter().chain(current).cloned().collect();
        known[self.random.below(known.len() as u64) as usize].clone()
    }

    fn change_a_portal(&mut self) {
        let portal = self.some_portal();
        let is_in_use = self.pair.current_portal() == Some(&portal);
        match self.random.below(4) {
            0 => {
                self.happens("a portal refuses", "portals that refuse");
                self.pair.refused.push(portal);
            }
            1 => {
                self.happens("a portal says nothing", "portals that say nothing");
                self.pair.mute.push(portal);
            }
            2 => {
                self.happens("the portals need long", "portals that need long");
                let delay =
                    |way: &Portal| (way.clone(), up_to(Duration::from_secs(1), &mut self.random));
                self.pair.tardy = self.ways.listed.iter().map(delay).collect();
            }
            _ if is_in_use => self.break_portal(portal),
            _ => {}
        }
    }

    /// The portal in use is lost with all that goes over it. What was sent before may still come
    /// to the target.
    fn break_portal(&mut self, portal: Portal) {
        let downwards = self.random.below(2) == 0;
        let kind = if downwards { "portals lost downwards" } else { "portals lost" };
        self.happens("the portal in use is lost", kind);
        for link in self.pair.links.iter_mut().filter(|link| link.portal == portal) {
            link.down.silent = true;
            link.up.silent |= !downwards;
        }
        let list =
            if self.random.below(2) == 0 { &mut self.pair.mute } else { &mut self.pair.refused };
        list.push(portal);
    }

    /// One of the things that are wrong is not any more.
    fn open_a_way(&mut self) {
        let pair = &mut self.pair;
        let server = &mut pair.server;
        let closed = pair.refused.iter().chain(&pair.mute).next().cloned();
        let wrong = [
            !server.redirects.is_empty(),
            !server.strange.is_empty(),
            !server.hesitation.is_zero(),
            !pair.tardy.is_empty(),
            closed.is_some(),
        ];
        let count = wrong.iter().filter(|wrong| **wrong).count() as u64;
        let nth = if count == 0 { return } else { self.random.below(count) };
        let choice = (0..wrong.len()).filter(|choice| wrong[*choice]).nth(nth as usize);
        match (choice, closed) {
            (Some(0), _) => server.redirects.clear(),
            (Some(1), _) => server.strange.clear(),
            (Some(2), _) => server.hesitation = Duration::ZERO,
            (Some(3), _) => pair.tardy.clear(),
            (_, Some(portal)) => self.open_portal(&portal),
            _ => {}
        }
    }

    fn open_portal(&mut self, portal: &Portal) {
        self.happens("a portal is back", "portals back");
        let pair = &mut self.pair;
        pair.refused.retain(|closed| closed != portal);
        pair.mute.retain(|closed| closed != portal);
        for link in pair.links.iter_mut().filter(|link| link.portal == *portal) {
            link.end_silence();
        }
    }

    /// No portal has any faults.
    pub(crate) fn open_all_ways(&mut self) {
        let closed: Vec<_> = self.pair.refused.iter().chain(&self.pair.mute).cloned().collect();
        for portal in closed {
            self.open_portal(&portal);
        }
        self.pair.tardy.clear();
        let server = &mut self.pair.server;
        server.redirects.clear();
        server.strange.clear();
        server.hesitation = Duration::ZERO;
        self.ways.lost_at = None;
    }

    /// The target wants the session to end: soon, or at once.
    fn close_sessions(&mut self) {
        if self.random.below(2) == 0 {
            self.happens("the target wants a logout", "logouts wanted");
            let patience = Duration::from_secs(self.random.below(20));
            self.pair.server.ask_for_logout(patience);
        } else {
            self.happens("the target drops its sessions", "sessions dropped");
            self.pair.server.leave();
        }
    }

    // Redirection.

    /// A portal sends logins to another, which may send them on.
    fn redirect(&mut self) {
        let from = self.some_portal();
        // Eight are followed.
        let hops = [1, 1, 1, 2, 8, 9][self.random.below(6) as usize];
        let mut at = from.clone();
        for hop in 1..=hops {
            let to = match self.random.below(5) {
                _ if hop < hops => portal(100 + hop),
                0 => from.clone(),
                1 => portal(100),
                2 => {
                    let nobody = portal(200);
                    self.pair.refused.push(nobody.clone());
                    nobody
                }
                _ => self.some_portal(),
            };
            let Portal::Address(address) = to else { unreachable!("all portals are addresses") };
            let permanent = self.random.below(2) == 0;
            self.tell("a portal sends logins elsewhere");
            self.pair
                .server
                .redirects
                .push((at, Redirect { address, portal_group: Some(1), permanent }));
            at = to;
        }
        if self.random.below(2) == 0 {
            self.pair.cut();
        }
    }

    pub(crate) fn count_redirection(&mut self, to: &Portal, permanent: bool) {
        self.ways.moved |= permanent;
        self.count(match self.pair.session.disk() {
            None => "redirections of a first login",
            Some(_) => "redirections of a later login",
        });
        self.count(if permanent { "permanent redirections" } else { "temporary redirections" });
        if !self.pair.is_open(to) {
            self.count("redirections to nobody");
        }
    }

    // Fail-over.

    /// The portal in use can be lost with a fail-over in time: there is another that is good, and
    /// those that are not say so at once or are passed over at once.
    fn can_lose_a_portal(&self) -> bool {
        let (pair, server) = (&self.pair, &self.pair.server);
        let is_calm = server.redirects.is_empty()
            && server.strange.is_empty()
            && server.hesitation.is_zero()
            && pair.tardy.is_empty()
            && !pair.refusing
            && !self.ways.moved;
        let good = |way: &Portal| Some(way) != pair.current_portal() && pair.is_open(way);
        let has_patience = self.login_takes() <= pair.settings.patience.login;
        is_calm && has_patience && pair.session.is_logged_in() && self.ways.listed.iter().any(good)
    }

    /// What a login takes at most: its messages, and the end of the older session.
    pub(crate) fn login_takes(&self) -> Duration {
        let weather = &self.pair.settings.weather;
        LOGIN_STEPS * weather.delay_max + weather.execution_max
    }

    fn lose_the_portal(&mut self) {
        self.pair.settle();
        let Some(portal) = self.pair.current_portal().cloned() else { return };
        if !self.pair.session.is_logged_in() {
            return;
        }
        self.break_portal(portal);
        if self.random.below(4) == 0 {
            self.pair.cut_for_initiator();
        }
        self.ways.lost_at = Some(self.pair.now);
    }

    /// Another portal takes over in time.
    pub(crate) fn watch_fail_over(&mut self) {
        let Some(lost_at) = self.ways.lost_at else { return };
        let now = self.pair.now;
        let ended = self.pair.logged_in_at.filter(|at| *at >= lost_at);
        let took = ended.unwrap_or(now) - lost_at;
        let Patience { idle, ping_with_spares: ping, .. } = self.pair.settings.patience;
        // The silence, the ping or two, and other portals that say nothing.
        let most = ping + ping.max(idle) + 3 * STAGGER;
        let most = most.min(FAIL_OVER_MAX) + self.login_takes();
        assert!(took <= most, "no other portal has taken over in {took:?}");
        if ended.is_some() {
            self.happens("another portal has taken over", "fail-overs");
            self.ways.lost_at = None;
        }
    }
}
