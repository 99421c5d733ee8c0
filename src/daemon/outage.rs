//! When people are told of a disk that is away: at once, after 10 s, after 1 min, then every
//! 10 min; and at once when something else is wrong than before. An outage of a night must not
//! fill the kernel's log, and must not be silent either. A disk that comes back only to be lost
//! again has one outage: its 1st, 2nd, 4th, 8th … loss and return are told.

use std::time::{Duration, Instant};

/// Times of the first lines after the first one; the last pause repeats.
const TOLD_AFTER: [Duration; 2] = [Duration::from_secs(10), Duration::from_secs(60)];
const TOLD_EVERY: Duration = Duration::from_secs(600);

/// Different reasons that are told at once; a target that finds ever new ones is told in time.
const REASONS_MAX: usize = 4;

/// An outage that goes on.
#[derive(Debug)]
pub(super) struct Outage {
    began: Instant,
    /// Lines that were due.
    lines: u32,
    /// What is wrong, as it was last seen.
    reason: String,
    /// What was told at once.
    told: Vec<String>,
    logins: u32,
    returns: u32,
    /// The disk is there.
    is_over: bool,
}

impl Outage {
    pub(super) fn begin(now: Instant) -> Outage {
        Outage {
            began: now,
            lines: 0,
            reason: String::new(),
            told: Vec::new(),
            logins: 0,
            returns: 0,
            is_over: false,
        }
    }

    /// A login is through. Whether it is to be told.
    pub(super) fn note_login(&mut self) -> bool {
        self.logins += 1;
        self.logins.is_power_of_two()
    }

    /// The disk is back. Whether it is to be told.
    pub(super) fn note_return(&mut self) -> bool {
        self.is_over = true;
        self.returns += 1;
        self.returns.is_power_of_two()
    }

    /// How often the disk came back.
    pub(super) fn returns(&self) -> u32 {
        self.returns
    }

    /// The disk is there.
    pub(super) fn is_over(&self) -> bool {
        self.is_over
    }

    /// This is wrong now. Whether it is to be told at once.
    pub(super) fn note(&mut self, reason: String) -> bool {
        let is_lost_again = std::mem::take(&mut self.is_over);
        let is_news = !self.told.contains(&reason) && self.told.len() < REASONS_MAX;
        if is_news {
            self.told.push(reason.clone());
        }
        self.reason = reason;
        is_news || is_lost_again && (self.returns + 1).is_power_of_two()
    }

    /// When it began.
    pub(super) fn began(&self) -> Instant {
        self.began
    }

    /// What is wrong, as it was last seen.
    pub(super) fn reason(&self) -> &str {
        &self.reason
    }

    /// When the next line is due, if the disk is still away then.
    pub(super) fn next_deadline(&self) -> Option<Instant> {
        (!self.is_over).then(|| self.due())
    }

    fn due(&self) -> Instant {
        let early = TOLD_AFTER.get(self.lines as usize).copied();
        let late = self.lines.saturating_sub(TOLD_AFTER.len() as u32) + 1;
        self.began + early.unwrap_or_else(|| TOLD_EVERY.saturating_mul(late))
    }

    /// How long the outage has gone on, if that is to be told now.
    pub(super) fn poll_line(&mut self, now: Instant) -> Option<Duration> {
        if self.is_over || now < self.due() {
            return None;
        }
        // Whoever was stopped for a while says it once.
        while self.due() <= now {
            self.lines += 1;
        }
        Some(now - self.began)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_long_outage_is_told_less_and_less_often() {
        let began = Instant::now();
        let mut outage = Outage::begin(began);
        let mut told = Vec::new();
        while told.len() < 5 {
            let next = outage.next_deadline().unwrap();
            assert_eq!(outage.poll_line(next - Duration::from_millis(1)), None);
            told.extend(outage.poll_line(next).map(|after| after.as_secs()));
        }
        assert_eq!(told, [10, 60, 600, 1200, 1800]);
        let late = began + Duration::from_secs(5000);
        assert_eq!(outage.poll_line(late), Some(Duration::from_secs(5000)));
        assert_eq!(outage.poll_line(late), None);
        assert_eq!(outage.next_deadline(), Some(began + Duration::from_secs(5400)));
    }

    #[test]
    fn a_disk_that_comes_and_goes_is_told_less_and_less_often() {
        let began = Instant::now();
        let mut outage = Outage::begin(began);
        for time in 1..=20_u32 {
            let is_told = time.is_power_of_two();
            assert_eq!(outage.note("reset".into()), is_told, "{time}");
            assert!(!outage.note("reset".into()));
            assert_eq!((outage.note_login(), outage.note_return()), (is_told, is_told), "{time}");
        }
        // While it is there, nobody says that it is away.
        let hour = began + Duration::from_secs(3600);
        assert_eq!((outage.next_deadline(), outage.poll_line(hour)), (None, None));
        outage.note("reset".into());
        assert_eq!(outage.poll_line(hour), Some(Duration::from_secs(3600)));
    }

    #[test]
    fn each_reason_is_told_once_and_not_too_many_of_them() {
        let mut outage = Outage::begin(Instant::now());
        let mut told = |reason: &str| outage.note(reason.into());
        assert!(told("reset") && told("refused") && !told("reset") && !told("refused"));
        assert!(told("another disk") && told("no route") && !told("something else"));
        assert_eq!(outage.reason(), "something else");
    }
}
