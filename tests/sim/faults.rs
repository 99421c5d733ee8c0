//! What goes wrong with links, the target and its disk. What goes wrong with portals stands in
//! `portals`, what happens to single PDUs in `trouble`.

use lunboot::proto::random::Random;

use super::Simulation;
use super::common::Pair;
use super::draw::rate;
use super::trouble::Tampering;

/// Faults that may come in a run, each one time in so many rounds; 0 for never.
pub(crate) struct Faults {
    cut: u64,
    cut_for_initiator: u64,
    silence: u64,
    refuse: u64,
    crash: u64,
    unit_crash: u64,
    reset: u64,
    store: u64,
    /// How many faults there may still be: a link that never holds for as long as a request takes
    /// lets nothing through.
    left: u32,
    /// How many resets there may still be: a command that is aborted 20 times fails, as it should.
    resets_left: u32,
}

impl Faults {
    pub(crate) fn new(random: &mut Random) -> Faults {
        Faults {
            cut: rate(random, 60),
            cut_for_initiator: rate(random, 60),
            silence: rate(random, 200),
            refuse: rate(random, 200),
            crash: rate(random, 60),
            unit_crash: rate(random, 100),
            reset: rate(random, 60),
            store: rate(random, 200),
            left: random.below(30) as u32,
            resets_left: 8,
        }
    }
}

impl Simulation {
    pub(crate) fn comes(&mut self, one_in: u64) -> bool {
        let comes = one_in != 0 && self.faults.left > 0 && self.random.below(one_in) == 0;
        self.faults.left -= u32::from(comes);
        comes
    }

    pub(crate) fn strike(&mut self) {
        if self.ways.is_failing_over() {
            return;
        }
        if self.comes(self.faults.cut) {
            self.happens("the link is cut", "cuts");
            self.pair.cut();
        }
        if self.comes(self.faults.cut_for_initiator) {
            self.happens("the link is cut for the initiator", "cuts seen by one side");
            self.pair.cut_for_initiator();
        }
        if self.comes(self.faults.silence) {
            self.happens("the link falls silent", "silences");
            self.pair.silence();
        }
        if self.comes(self.faults.refuse) {
            self.pair.refusing = true;
            self.happens("connections are refused", "refusals");
        }
        // What is being written again is lost again.
        let crash = self.faults.crash.min(if self.is_rewriting() { 16 } else { u64::MAX });
        if self.comes(crash) {
            self.crash();
            if self.random.below(3) == 0 {
                self.happens("it takes a while to come back", "slow restarts");
                self.pair.refusing = true;
            }
        }
        if self.pair.session.is_logged_in() && self.comes(self.faults.unit_crash) {
            self.crash_unit();
        }
        if self.pair.refusing && self.random.below(20) == 0 {
            self.pair.refusing = false;
        }
        if self.faults.resets_left > 0 && self.comes(self.faults.reset) {
            self.faults.resets_left -= 1;
            self.happens("the unit is reset from elsewhere", "resets");
            self.pair.server.reset_from_elsewhere();
        }
        if self.comes(self.faults.store) {
            let one_in = self.random.below(2) * (2 + self.random.below(20));
            self.tell("the store begins or ceases to fail");
            self.pair.server.store.fail_one_in(one_in);
        }
        // The last, because nothing else goes wrong during a fail-over.
        self.strike_ways();
    }

    fn is_rewriting(&self) -> bool {
        let rewritten = self.pair.session.upkeep().rewritten;
        !self.pair.session.is_logged_in() && rewritten > self.rewritten
    }

    pub(crate) fn crash(&mut self) {
        if self.is_rewriting() {
            self.count("crashes during a rewrite");
        }
        self.happens("the target loses power", "crashes");
        self.lose_power(|pair, survives| pair.restart_target(survives));
    }

    pub(crate) fn crash_unit(&mut self) {
        self.tell("the disk behind the target loses power");
        self.lose_power(|pair, survives| pair.server.unit_loses_power(survives));
        self.tampering.set(Tampering { power_was_lost: true, ..self.tampering.get() });
    }

    fn lose_power(&mut self, lose: impl FnOnce(&mut Pair, &mut dyn FnMut() -> bool)) {
        // All of the cache may be lost, some of it or nothing.
        let how = self.random.below(4);
        let random = &mut self.random;
        let (mut lost, mut kept) = (false, false);
        lose(&mut self.pair, &mut || {
            let survives = match how {
                0 => false,
                1 => true,
                _ => random.below(2) == 0,
            };
            (lost, kept) = (lost || !survives, kept || survives);
            survives
        });
        match (lost, kept) {
            (true, true) => self.count("caches torn"),
            (true, false) => self.count("caches lost"),
            _ => {}
        }
        self.model.lose_power(&self.pair.server.store.memory.contents());
    }

    /// No more faults from now on.
    pub(crate) fn calm_down(&mut self) {
        let power_was_lost = self.tampering.get().power_was_lost;
        self.tampering.set(Tampering { status_one_in: 0, flip_one_in: 0, power_was_lost });
        self.pair.refusing = false;
        self.open_all_ways();
        self.pair.server.store.fail_one_in(0);
        (self.faults.crash, self.faults.unit_crash) = (0, 0);
    }
}
