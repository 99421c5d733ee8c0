//! Operational keys: defaults, what we propose, what holds after login (RFC 7143 §13).
//!
//! One [`Negotiation`] serves either side. The initiator calls [`Negotiation::propose`] once and
//! [`Negotiation::handle_answer`] for each pair that comes back; the target calls
//! [`Negotiation::handle_proposal`] for each pair that comes in, and [`Negotiation::declare`] once.
//! What a value means is the same for both and stands in one place, [`Negotiation::combine`]. A key
//! that was never talked about keeps the standard's default.
//!
//! Not here: names, session type and authentication, which decide who talks and not how.

use crate::wire::Malformed;
pub use crate::wire::digest_choice::{DigestChoice, DigestChoices};
use crate::wire::frame::Digests;
use crate::wire::text::{self, Text};

/// MaxRecvDataSegmentLength as long as nothing else was declared (RFC 7143 §13.12), also the
/// longest data segment of a login PDU.
pub const LOGIN_DATA_SEGMENT_BYTES_MAX: u32 = 8192;

/// What one side wants.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Offer {
    /// HeaderDigest.
    pub header_digest: DigestChoice,
    /// DataDigest.
    pub data_digest: DigestChoice,
    /// MaxRecvDataSegmentLength: the longest data segment that we take, 512 to 2^24-1 bytes.
    pub max_recv_bytes: u32,
    /// MaxBurstLength: the most data of one R2T or one Data-In sequence, 512 to 2^24-1 bytes.
    pub max_burst_bytes: u32,
    /// FirstBurstLength: the most unsolicited data of a command, at most `max_burst_bytes`.
    pub first_burst_bytes: u32,
    /// InitialR2T: wait for an R2T before any Data-Out.
    pub initial_r2t: bool,
    /// ImmediateData: data in the command PDU.
    pub immediate_data: bool,
    /// MaxOutstandingR2T of one task, 1 to 65535.
    pub max_outstanding_r2t: u32,
    /// DefaultTime2Wait in seconds, 0 to 3600.
    pub default_time2wait: u32,
    /// DefaultTime2Retain in seconds, 0 to 3600.
    pub default_time2retain: u32,
}

impl Offer {
    /// The usual offer with a choice of digests.
    pub fn with_digests(choices: DigestChoices) -> Offer {
        Offer { header_digest: choices.header, data_digest: choices.data, ..Offer::default() }
    }
}

impl Default for Offer {
    /// What lunboot wants on both sides: large segments and bursts, and no round trip that can be
    /// saved. The lengths are measured (`make bench`, bursts):
    ///
    /// - For requests of 1 MiB segments of 256 KiB cost two thirds of the processor time of those
    ///   of 8 KiB in writes, and a seventh of it in reads; longer ones save nothing more, and a
    ///   short answer waits behind them.
    /// - A FirstBurstLength of 256 KiB saves a round trip for writes up to there: on a gigabit line
    ///   with 0.2 ms they get 0.92 of it instead of 0.85, with 2 ms 0.53 instead of 0.36. With
    ///   1 MiB only single writes of 1 MiB gain (0.98 instead of 0.96; 0.82 instead of 0.69), and
    ///   the target may have to hold 128 MiB of each session.
    /// - A MaxBurstLength of 1 MiB lets one R2T ask for the rest of the longest transfer. Several
    ///   R2Ts at once do the same where the other side wants shorter bursts.
    fn default() -> Offer {
        let DigestChoices { header, data } = DigestChoices::default();
        Offer {
            header_digest: header,
            data_digest: data,
            max_recv_bytes: 256 * 1024,
            max_burst_bytes: 1024 * 1024,
            first_burst_bytes: 256 * 1024,
            initial_r2t: false,
            immediate_data: true,
            max_outstanding_r2t: 8,
            default_time2wait: 0,
            default_time2retain: 0,
        }
    }
}

/// What holds between the two sides.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Negotiated {
    /// HeaderDigest and DataDigest.
    pub digests: Digests,
    /// The longest data segment that we may send.
    pub max_send_bytes: u32,
    /// The longest data segment that we take.
    pub max_recv_bytes: u32,
    /// MaxBurstLength in bytes.
    pub max_burst_bytes: u32,
    /// FirstBurstLength in bytes; never more than `max_burst_bytes`.
    pub first_burst_bytes: u32,
    /// InitialR2T.
    pub initial_r2t: bool,
    /// ImmediateData.
    pub immediate_data: bool,
    /// MaxOutstandingR2T of one task.
    pub max_outstanding_r2t: u32,
    /// DefaultTime2Wait in seconds.
    pub default_time2wait: u32,
    /// DefaultTime2Retain in seconds.
    pub default_time2retain: u32,
}

impl Default for Negotiated {
    /// The defaults of RFC 7143 §13.
    fn default() -> Negotiated {
        Negotiated {
            digests: Digests { header: false, data: false },
            max_send_bytes: LOGIN_DATA_SEGMENT_BYTES_MAX,
            max_recv_bytes: LOGIN_DATA_SEGMENT_BYTES_MAX,
            max_burst_bytes: 262_144,
            first_burst_bytes: 65_536,
            initial_r2t: true,
            immediate_data: true,
            max_outstanding_r2t: 1,
            default_time2wait: 2,
            default_time2retain: 20,
        }
    }
}

/// The course of one negotiation.
#[derive(Clone, Debug)]
pub struct Negotiation {
    offer: Offer,
    agreed: Negotiated,
    /// Keys that were settled, by their place in [`KEYS`]: none may come twice.
    settled: u32,
    /// Keys that we have proposed: what comes for them is an answer.
    proposed: u32,
    declared: bool,
}

impl Negotiation {
    /// Nothing was said yet.
    pub fn new(offer: Offer) -> Negotiation {
        let agreed = Negotiated::default();
        Negotiation { offer, agreed, settled: 0, proposed: 0, declared: false }
    }

    /// What we want.
    pub fn offer(&self) -> &Offer {
        &self.offer
    }

    /// Initiator: writes down every key we want to talk about. For a discovery session only those
    /// that mean something there (RFC 7143 §13, column "Use").
    pub fn propose(&mut self, discovery: bool, text: &mut Text) {
        let offer = &self.offer;
        text.push("HeaderDigest", offer.header_digest.list());
        text.push("DataDigest", offer.data_digest.list());
        text.push_number("MaxRecvDataSegmentLength", offer.max_recv_bytes);
        text.push_number("DefaultTime2Wait", offer.default_time2wait);
        text.push_number("DefaultTime2Retain", offer.default_time2retain);
        text.push_number("ErrorRecoveryLevel", 0);
        if !discovery {
            text.push_number("MaxConnections", 1);
            text.push_boolean("InitialR2T", offer.initial_r2t);
            text.push_boolean("ImmediateData", offer.immediate_data);
            text.push_number("MaxBurstLength", offer.max_burst_bytes);
            text.push_number("FirstBurstLength", offer.first_burst_bytes);
            text.push_number("MaxOutstandingR2T", offer.max_outstanding_r2t);
            text.push_boolean("DataPDUInOrder", true);
            text.push_boolean("DataSequenceInOrder", true);
        }
        self.agreed.max_recv_bytes = offer.max_recv_bytes;
        let proposed = text::pairs(text.as_bytes()).filter_map(Result::ok);
        self.proposed = proposed.filter_map(|(key, _)| place(key)).fold(0, |all, at| all | 1 << at);
    }

    /// Initiator: takes one pair of the target. What has to be said to it goes into `reply`: the
    /// outcome if the target has proposed the key, nothing if it has answered.
    pub fn handle_answer(
        &mut self,
        key: &str,
        value: &str,
        reply: &mut Text,
    ) -> Result<(), Malformed> {
        let Some(at) = place(key) else {
            not_understood(key, value, reply);
            return Ok(());
        };
        self.settle(at, value)?;
        if self.proposed & 1 << at == 0 {
            return self.combine(KEYS[at], value, reply);
        }
        if matches!(value, "NotUnderstood" | "Irrelevant" | "Reject") {
            // The default holds.
            return Ok(());
        }
        if value.contains(',') {
            let rule = "must be one value, as the answer to a list";
            return Err(Malformed::text("login text", KEYS[at], value.as_bytes(), rule));
        }
        self.combine(KEYS[at], value, &mut Text::new())
    }

    /// Target: takes one pair of the initiator and writes the answer, if it wants one.
    pub fn handle_proposal(
        &mut self,
        key: &str,
        value: &str,
        reply: &mut Text,
    ) -> Result<(), Malformed> {
        let Some(at) = place(key) else {
            not_understood(key, value, reply);
            return Ok(());
        };
        self.settle(at, value)?;
        self.combine(KEYS[at], value, reply)
    }

    /// Combines a value of the other side with what we want, keeps the outcome, and writes it down;
    /// a declaration has none.
    fn combine(
        &mut self,
        key: &'static str,
        value: &str,
        outcome: &mut Text,
    ) -> Result<(), Malformed> {
        let offer = self.offer;
        let agreed = &mut self.agreed;
        match key {
            "HeaderDigest" => {
                agreed.digests.header = digest(key, value, offer.header_digest, outcome)?;
            }
            "DataDigest" => {
                agreed.digests.data = digest(key, value, offer.data_digest, outcome)?;
            }
            "MaxRecvDataSegmentLength" => agreed.max_send_bytes = segment_bytes(key, value)?,
            "MaxBurstLength" => {
                agreed.max_burst_bytes = segment_bytes(key, value)?.min(offer.max_burst_bytes);
                outcome.push_number(key, agreed.max_burst_bytes);
            }
            "FirstBurstLength" => {
                agreed.first_burst_bytes = segment_bytes(key, value)?.min(offer.first_burst_bytes);
                outcome.push_number(key, agreed.first_burst_bytes);
            }
            "InitialR2T" => {
                agreed.initial_r2t = text::boolean(key, value)? || offer.initial_r2t;
                outcome.push_boolean(key, agreed.initial_r2t);
            }
            "ImmediateData" => {
                agreed.immediate_data = text::boolean(key, value)? && offer.immediate_data;
                outcome.push_boolean(key, agreed.immediate_data);
            }
            "MaxOutstandingR2T" => {
                let theirs = bounded(key, value, 1, 65535)?;
                agreed.max_outstanding_r2t = theirs.min(offer.max_outstanding_r2t);
                outcome.push_number(key, agreed.max_outstanding_r2t);
            }
            "DefaultTime2Wait" => {
                let theirs = bounded(key, value, 0, 3600)?;
                agreed.default_time2wait = theirs.max(offer.default_time2wait);
                outcome.push_number(key, agreed.default_time2wait);
            }
            "DefaultTime2Retain" => {
                let theirs = bounded(key, value, 0, 3600)?;
                agreed.default_time2retain = theirs.min(offer.default_time2retain);
                outcome.push_number(key, agreed.default_time2retain);
            }
            _ => combine_fixed(key, value, outcome)?,
        }
        Ok(())
    }

    /// Target: declares the longest data segment that it takes; once for a login.
    pub fn declare(&mut self, reply: &mut Text) {
        if !self.declared {
            self.declared = true;
            reply.push_number("MaxRecvDataSegmentLength", self.offer.max_recv_bytes);
            self.agreed.max_recv_bytes = self.offer.max_recv_bytes;
        }
    }

    /// Whether the login may end: a digest that we insist on must have come out of it, and silence
    /// about it means that there is none.
    pub fn check(&self) -> Result<(), Malformed> {
        let demanded = |choice, agreed: bool| choice == DigestChoice::Always && !agreed;
        let (offer, digests) = (&self.offer, &self.agreed.digests);
        let key = if demanded(offer.header_digest, digests.header) {
            "HeaderDigest"
        } else if demanded(offer.data_digest, digests.data) {
            "DataDigest"
        } else {
            return Ok(());
        };
        Err(Malformed::text("login text", key, b"None", "must be CRC32C, which is demanded here"))
    }

    /// What holds from the end of the login on.
    pub fn outcome(&self) -> Negotiated {
        let mut agreed = self.agreed;
        // §13.14 forbids a first burst longer than a burst, but defaults on one side can add up to
        // it.
        agreed.first_burst_bytes = agreed.first_burst_bytes.min(agreed.max_burst_bytes);
        agreed
    }

    fn settle(&mut self, index: usize, value: &str) -> Result<(), Malformed> {
        let bit = 1 << index;
        if self.settled & bit != 0 {
            let rule = "must not be negotiated twice in a login";
            return Err(Malformed::text("login text", KEYS[index], value.as_bytes(), rule));
        }
        self.settled |= bit;
        Ok(())
    }
}

/// Keys whose outcome is the same whatever the other side wants.
fn combine_fixed(key: &'static str, value: &str, outcome: &mut Text) -> Result<(), Malformed> {
    match key {
        // The smaller value holds (§13.2, §13.20), and ours is the smallest.
        "MaxConnections" => {
            bounded(key, value, 1, 65535)?;
            outcome.push_number(key, 1);
        }
        "ErrorRecoveryLevel" => {
            bounded(key, value, 0, 2)?;
            outcome.push_number(key, 0);
        }
        // Yes if either side says so (§13.18, §13.19), and we do.
        "DataPDUInOrder" | "DataSequenceInOrder" => {
            text::boolean(key, value)?;
            outcome.push(key, "Yes");
        }
        // What RFC 7143 is itself, and no more (§13.24, RFC 7144 §4).
        "iSCSIProtocolLevel" => {
            let theirs = bounded(key, value, 0, 31)?;
            outcome.push_number(key, theirs.min(1));
        }
        // The way of aborting that is the default (§13.23).
        "TaskReporting" if text::list(value).any(|item| item == "RFC3720") => {
            outcome.push(key, "RFC3720");
        }
        // Markers are gone from RFC 7143: No for the switch, Reject for the rest (§13.25).
        "IFMarker" | "OFMarker" => outcome.push(key, "No"),
        _ => outcome.push(key, "Reject"),
    }
    Ok(())
}

/// A proposal that we do not know must be answered, an answer must not be (§6.2).
fn not_understood(key: &str, value: &str, reply: &mut Text) {
    if !matches!(value, "NotUnderstood" | "Irrelevant" | "Reject") {
        reply.push(key, "NotUnderstood");
    }
}

fn place(key: &str) -> Option<usize> {
    KEYS.iter().position(|known| *known == key)
}

/// Every key that can be settled once in a login.
const KEYS: [&str; 20] = [
    "HeaderDigest",
    "DataDigest",
    "MaxRecvDataSegmentLength",
    "MaxBurstLength",
    "FirstBurstLength",
    "InitialR2T",
    "ImmediateData",
    "MaxOutstandingR2T",
    "DefaultTime2Wait",
    "DefaultTime2Retain",
    "MaxConnections",
    "ErrorRecoveryLevel",
    "DataPDUInOrder",
    "DataSequenceInOrder",
    "IFMarker",
    "OFMarker",
    "IFMarkInt",
    "OFMarkInt",
    "TaskReporting",
    "iSCSIProtocolLevel",
];

/// The first of a list that we accept (RFC 7143 §6.2.1); an answer is a list of one.
fn digest(
    key: &'static str,
    value: &str,
    choice: DigestChoice,
    outcome: &mut Text,
) -> Result<bool, Malformed> {
    for item in text::list(value) {
        let digest = match item {
            "CRC32C" => true,
            "None" => false,
            _ => continue,
        };
        if choice.allows(digest) {
            outcome.push(key, item);
            return Ok(digest);
        }
    }
    let rule = "must contain a digest that this side accepts";
    Err(Malformed::text("login text", key, value.as_bytes(), rule))
}

fn segment_bytes(key: &'static str, value: &str) -> Result<u32, Malformed> {
    bounded(key, value, 512, (1 << 24) - 1)
}

fn bounded(key: &'static str, value: &str, min: u32, max: u32) -> Result<u32, Malformed> {
    let number = text::number(key, value)?;
    if (min..=max).contains(&number) {
        return Ok(number);
    }
    let rule = match (min, max) {
        (512, _) => "must be 512 to 16777215",
        (_, 3600) => "must be 0 to 3600",
        (1, _) => "must be 1 to 65535",
        (_, 2) => "must be 0 to 2",
        (_, 31) => "must be 0 to 31",
        _ => "must be at most 65535",
    };
    Err(Malformed::number("login text", key, number, rule))
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Lets an initiator and a target talk until nothing is left to say.
    fn negotiate(initiator: Offer, target: Offer) -> Result<(Negotiated, Negotiated), Malformed> {
        let (mut ours, mut theirs) = (Negotiation::new(initiator), Negotiation::new(target));
        let (mut proposal, mut answer, mut reply) = (Text::new(), Text::new(), Text::new());
        ours.propose(false, &mut proposal);
        for pair in text::pairs(proposal.as_bytes()) {
            let (key, value) = pair?;
            theirs.handle_proposal(key, value, &mut answer)?;
        }
        theirs.declare(&mut answer);
        for pair in text::pairs(answer.as_bytes()) {
            let (key, value) = pair?;
            ours.handle_answer(key, value, &mut reply)?;
        }
        assert!(reply.is_empty(), "an answer must not be answered");
        Ok((ours.outcome(), theirs.outcome()))
    }

    #[test]
    fn both_sides_come_to_the_same_result() {
        let target = Offer {
            max_recv_bytes: 65_536,
            max_burst_bytes: 512 * 1024,
            first_burst_bytes: 128 * 1024,
            max_outstanding_r2t: 4,
            default_time2wait: 2,
            ..Offer::default()
        };
        let (ours, theirs) = negotiate(Offer::default(), target).unwrap();
        assert_eq!(ours.max_send_bytes, 65_536);
        assert_eq!(ours.max_recv_bytes, 262_144);
        assert_eq!(ours.max_burst_bytes, 512 * 1024);
        assert_eq!(ours.first_burst_bytes, 128 * 1024);
        assert_eq!(ours.max_outstanding_r2t, 4);
        assert_eq!(ours.default_time2wait, 2);
        assert_eq!(ours.digests, Digests { header: true, data: false });
        assert!(!ours.initial_r2t && ours.immediate_data);
        let mirrored = Negotiated {
            max_send_bytes: theirs.max_recv_bytes,
            max_recv_bytes: theirs.max_send_bytes,
            ..theirs
        };
        assert_eq!(ours, mirrored);
    }

    #[test]
    fn every_pair_of_digest_wishes_has_the_outcome_of_the_standard() {
        use DigestChoice::*;
        for (initiator, target, expected) in [
            (Never, IfPossible, Some(false)),
            (Never, Always, None),
            (IfAsked, Never, Some(false)),
            (IfAsked, IfPossible, Some(false)),
            (IfAsked, Always, Some(true)),
            (IfPossible, IfAsked, Some(true)),
            (IfPossible, Never, Some(false)),
            (Always, Never, None),
            (Always, IfAsked, Some(true)),
        ] {
            let ours = Offer { data_digest: initiator, ..Offer::default() };
            let theirs = Offer { data_digest: target, ..Offer::default() };
            let outcome = negotiate(ours, theirs).ok().map(|(agreed, _)| agreed.digests.data);
            assert_eq!(outcome, expected, "{initiator:?} meets {target:?}");
        }
    }

    #[test]
    fn a_silent_target_leaves_the_defaults() {
        let mut ours = Negotiation::new(Offer::default());
        ours.propose(false, &mut Text::new());
        let expected = Negotiated { max_recv_bytes: 262_144, ..Negotiated::default() };
        assert_eq!(ours.outcome(), expected);
    }

    #[test]
    fn an_unknown_key_is_answered_and_an_unknown_answer_is_not() {
        let mut ours = Negotiation::new(Offer::default());
        let mut reply = Text::new();
        ours.handle_answer("X-com.example.Speed", "11", &mut reply).unwrap();
        ours.handle_answer("X-com.example.Colour", "NotUnderstood", &mut reply).unwrap();
        assert_eq!(reply.as_bytes(), b"X-com.example.Speed=NotUnderstood\0");
    }

    #[test]
    fn a_key_that_comes_twice_is_refused() {
        let mut theirs = Negotiation::new(Offer::default());
        let mut reply = Text::new();
        theirs.handle_proposal("InitialR2T", "No", &mut reply).unwrap();
        let error = theirs.handle_proposal("InitialR2T", "No", &mut reply).unwrap_err();
        assert_eq!(
            error.to_string(),
            "login text: InitialR2T \"No\": must not be negotiated twice in a login"
        );
    }

    #[test]
    fn values_outside_their_range_are_refused_by_name() {
        for (key, value) in [
            ("MaxBurstLength", "511"),
            ("MaxBurstLength", "16777216"),
            ("MaxRecvDataSegmentLength", "0"),
            ("MaxOutstandingR2T", "0"),
            ("MaxOutstandingR2T", "65536"),
            ("DefaultTime2Wait", "3601"),
            ("ErrorRecoveryLevel", "3"),
            ("MaxConnections", "0"),
            ("InitialR2T", "yes"),
            ("HeaderDigest", "MD5"),
        ] {
            let mut theirs = Negotiation::new(Offer::default());
            let error = theirs.handle_proposal(key, value, &mut Text::new()).unwrap_err();
            assert_eq!(error.field, key);
        }
    }

    #[test]
    fn markers_are_declined() {
        let mut theirs = Negotiation::new(Offer::default());
        let mut reply = Text::new();
        theirs.handle_proposal("IFMarker", "Yes", &mut reply).unwrap();
        theirs.handle_proposal("OFMarkInt", "1~65535", &mut reply).unwrap();
        assert_eq!(reply.as_bytes(), b"IFMarker=No\0OFMarkInt=Reject\0");
    }

    #[test]
    fn a_digest_that_the_initiator_did_not_offer_is_refused() {
        let offer = Offer { header_digest: DigestChoice::Never, ..Offer::default() };
        let mut ours = Negotiation::new(offer);
        assert!(ours.handle_answer("HeaderDigest", "CRC32C", &mut Text::new()).is_err());
    }

    #[test]
    fn a_digest_that_is_demanded_is_missed_however_it_is_left_out() {
        for (choice, key) in [("HeaderDigest", true), ("DataDigest", false)] {
            let mut offer = Offer { header_digest: DigestChoice::Never, ..Offer::default() };
            let place = if key { &mut offer.header_digest } else { &mut offer.data_digest };
            *place = DigestChoice::Always;
            for answer in [None, Some("NotUnderstood"), Some("Irrelevant"), Some("Reject")] {
                let mut ours = Negotiation::new(offer);
                ours.propose(false, &mut Text::new());
                if let Some(answer) = answer {
                    ours.handle_answer(choice, answer, &mut Text::new()).unwrap();
                }
                assert_eq!(ours.check().unwrap_err().field, choice, "{answer:?}");
            }
            let mut ours = Negotiation::new(offer);
            ours.propose(false, &mut Text::new());
            ours.handle_answer(choice, "CRC32C", &mut Text::new()).unwrap();
            ours.check().unwrap();
        }
    }

    #[test]
    fn what_the_target_proposes_is_answered_and_what_it_answers_is_not() {
        let mut ours = Negotiation::new(Offer::default());
        ours.propose(true, &mut Text::new());
        let mut reply = Text::new();
        // Not proposed for discovery, so these are proposals of the target.
        ours.handle_answer("MaxBurstLength", "65536", &mut reply).unwrap();
        ours.handle_answer("InitialR2T", "Yes", &mut reply).unwrap();
        ours.handle_answer("OFMarker", "Yes", &mut reply).unwrap();
        ours.handle_answer("TaskReporting", "FastAbort,RFC3720", &mut reply).unwrap();
        ours.handle_answer("iSCSIProtocolLevel", "2", &mut reply).unwrap();
        // Proposed, so these are answers.
        ours.handle_answer("HeaderDigest", "None", &mut reply).unwrap();
        ours.handle_answer("DefaultTime2Wait", "2", &mut reply).unwrap();
        assert_eq!(
            reply.as_bytes(),
            b"MaxBurstLength=65536\0InitialR2T=Yes\0OFMarker=No\0TaskReporting=RFC3720\0\
              iSCSIProtocolLevel=1\0"
        );
        let agreed = ours.outcome();
        assert_eq!((agreed.max_burst_bytes, agreed.default_time2wait), (65_536, 2));
    }

    #[test]
    fn an_answer_that_leaves_the_choice_to_us_is_refused() {
        let mut ours = Negotiation::new(Offer::default());
        ours.propose(false, &mut Text::new());
        let error = ours.handle_answer("HeaderDigest", "CRC32C,None", &mut Text::new());
        assert_eq!(error.unwrap_err().field, "HeaderDigest");
    }

    #[test]
    fn a_key_that_the_target_rejects_keeps_its_default() {
        let mut ours = Negotiation::new(Offer::default());
        ours.propose(false, &mut Text::new());
        for key in ["InitialR2T", "MaxBurstLength", "MaxOutstandingR2T", "HeaderDigest"] {
            ours.handle_answer(key, "Reject", &mut Text::new()).unwrap();
        }
        let expected = Negotiated { max_recv_bytes: 262_144, ..Negotiated::default() };
        assert_eq!(ours.outcome(), expected);
    }
}
