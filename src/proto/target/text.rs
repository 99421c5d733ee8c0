//! Text requests in the full feature phase: SendTargets, and the one key that may be declared there
//! (RFC 7143 §11.10, §11.11, appendix C).

use std::net::SocketAddr;
use std::ops::Range;

use crate::proto::params::Negotiated;
use crate::wire::pdu::{DATA_SEGMENT_BYTES_MAX, Itt, TextRequest, Ttt};
use crate::wire::text::{self, Text};

/// Most text of one request over all its PDUs, in bytes.
const TEXT_BYTES_MAX: usize = 8 * 1024;
/// Most text that answers one request, in bytes: what our own addresses can make of it.
const ANSWER_BYTES_MAX: usize = 64 * 1024;

/// The transfer tag of an exchange that goes on; there is only one at a time.
const EXCHANGE: Ttt = Ttt(0xffff_fffd);

/// Keys that this target knows and that can only be used in a login (RFC 7143 §13).
const LOGIN_ONLY: &[&str] = &[
    "AuthMethod",
    "DataDigest",
    "DataPDUInOrder",
    "DataSequenceInOrder",
    "DefaultTime2Retain",
    "DefaultTime2Wait",
    "ErrorRecoveryLevel",
    "FirstBurstLength",
    "HeaderDigest",
    "ImmediateData",
    "InitialR2T",
    "InitiatorName",
    "MaxBurstLength",
    "MaxConnections",
    "MaxOutstandingR2T",
    "SessionType",
    "TargetName",
    "TaskReporting",
    "iSCSIProtocolLevel",
];

/// An exchange of text requests and responses.
#[derive(Debug, Default)]
pub(super) struct Texts {
    /// The exchange that goes on.
    open: Option<Itt>,
    received: Vec<u8>,
    answer: Vec<u8>,
    /// Bytes of `answer` that were sent.
    told: usize,
    /// MaxRecvDataSegmentLength of the initiator, once the exchange ends well.
    declared: Option<u32>,
}

/// What an answer is made of beside the question.
#[derive(Clone, Copy, Debug)]
pub(super) struct Known<'a> {
    pub(super) target_name: &'a str,
    /// In the order in which they are told, and all of the same portal group.
    pub(super) portals: &'a [SocketAddr],
    pub(super) portal_group: u16,
    pub(super) discovery: bool,
}

/// What a response says beside its text.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Answer {
    pub(super) final_pdu: bool,
    pub(super) continues: bool,
    pub(super) ttt: Ttt,
}

/// Why a text request is rejected. The exchange is over, and what it has declared is forgotten.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Refusal {
    /// It breaks the order of requests: it continues no exchange, names a key twice, or says that
    /// it ends and goes on.
    Exchange,
    /// Its text breaks the format.
    Text,
    /// A value that cannot be, or a limit.
    Negotiation,
}

impl Texts {
    /// Takes a request and gives the next part of the answer.
    pub(super) fn handle(
        &mut self,
        request: &TextRequest,
        data: &[u8],
        known: Known<'_>,
        negotiated: &mut Negotiated,
    ) -> Result<(Answer, &[u8]), Refusal> {
        let most = negotiated.max_send_bytes as usize;
        match self.advance(request, data, known, most) {
            Ok((answer, part)) => {
                if answer.final_pdu {
                    self.open = None;
                    let declared = self.declared.take();
                    negotiated.max_send_bytes = declared.unwrap_or(negotiated.max_send_bytes);
                }
                Ok((answer, &self.answer[part]))
            }
            Err(refusal) => {
                *self = Texts::default();
                Err(refusal)
            }
        }
    }

    /// The answer, and which part of its text.
    fn advance(
        &mut self,
        request: &TextRequest,
        data: &[u8],
        known: Known<'_>,
        most: usize,
    ) -> Result<(Answer, Range<usize>), Refusal> {
        if request.ttt == Ttt::RESERVED {
            // A new exchange, which makes an older one void (§7.10).
            *self = Texts { open: Some(request.itt), ..Texts::default() };
        } else if request.ttt != EXCHANGE || self.open != Some(request.itt) {
            return Err(Refusal::Exchange);
        }
        if request.final_pdu && request.continues {
            return Err(Refusal::Exchange);
        }
        if self.received.len() + data.len() > TEXT_BYTES_MAX {
            return Err(Refusal::Negotiation);
        }
        self.received.extend_from_slice(data);
        if request.continues {
            let answer = Answer { final_pdu: false, continues: false, ttt: EXCHANGE };
            return Ok((answer, 0..0));
        }
        let received = std::mem::take(&mut self.received);
        self.read(&received, known)?;
        let start = self.told;
        self.told = self.answer.len().min(start + most);
        let continues = self.told < self.answer.len();
        let final_pdu = request.final_pdu && !continues;
        let ttt = if final_pdu { Ttt::RESERVED } else { EXCHANGE };
        Ok((Answer { final_pdu, continues, ttt }, start..self.told))
    }

    /// Takes the keys of a whole request, and adds to the answer.
    fn read(&mut self, received: &[u8], known: Known<'_>) -> Result<(), Refusal> {
        let mut reply = Text::new();
        let mut seen: Vec<&str> = Vec::new();
        for pair in text::pairs(received) {
            let (key, value) = pair.map_err(|_| Refusal::Text)?;
            // At most 8 KiB, so that looking at each before stays cheap.
            if seen.contains(&key) {
                return Err(Refusal::Exchange);
            }
            seen.push(key);
            match (key, value) {
                ("SendTargets", wanted) => known.tell(wanted, &mut reply),
                // A discovery session has nothing else to talk about (§4.3).
                ("MaxRecvDataSegmentLength", _) if known.discovery => reply.push(key, "Irrelevant"),
                ("MaxRecvDataSegmentLength", value) => self.declare(value)?,
                ("InitiatorAlias", _) | (_, "NotUnderstood" | "Irrelevant" | "Reject") => {}
                (key, _) if LOGIN_ONLY.contains(&key) => reply.push(key, "Reject"),
                (key, _) => reply.push(key, "NotUnderstood"),
            }
        }
        self.answer.extend_from_slice(reply.as_bytes());
        if self.answer.len() - self.told > ANSWER_BYTES_MAX {
            return Err(Refusal::Negotiation);
        }
        Ok(())
    }

    /// MaxRecvDataSegmentLength, once in an exchange (§13.12).
    fn declare(&mut self, value: &str) -> Result<(), Refusal> {
        if self.declared.is_some() {
            return Err(Refusal::Exchange);
        }
        let bytes = text::number("MaxRecvDataSegmentLength", value).map_err(|_| Refusal::Text)?;
        if !(512..=DATA_SEGMENT_BYTES_MAX).contains(&bytes) {
            return Err(Refusal::Negotiation);
        }
        self.declared = Some(bytes);
        Ok(())
    }
}

impl Known<'_> {
    /// The record of this target (RFC 7143 appendix C).
    fn tell(&self, wanted: &str, reply: &mut Text) {
        match wanted {
            // "All" is for discovery sessions alone.
            "All" if !self.discovery => return reply.push("SendTargets", "Reject"),
            "All" | "" => {}
            name if name.eq_ignore_ascii_case(self.target_name) => {}
            _ => return,
        }
        reply.push("TargetName", self.target_name);
        for portal in self.portals {
            reply.push("TargetAddress", &format!("{portal},{}", self.portal_group));
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::wire::serial::Sn;

    const NAME: &str = "iqn.2026-11.io.lunboot:test";

    fn request(ttt: Ttt, continues: bool, text: &[u8]) -> TextRequest {
        TextRequest {
            immediate: true,
            final_pdu: !continues,
            continues,
            lun: 0,
            itt: Itt(5),
            ttt,
            cmd_sn: Sn(0),
            exp_stat_sn: Sn(0),
            data_bytes: text.len() as u32,
        }
    }

    fn known(portals: &[SocketAddr]) -> Known<'_> {
        Known { target_name: NAME, portals, portal_group: 1, discovery: true }
    }

    fn handle(texts: &mut Texts, ttt: Ttt, continues: bool, text: &[u8]) -> (Answer, Vec<u8>) {
        let mut negotiated = Negotiated { max_send_bytes: 40, ..Negotiated::default() };
        let request = request(ttt, continues, text);
        let portals = ["192.0.2.1:3260".parse().unwrap()];
        let (answer, text) =
            texts.handle(&request, text, known(&portals), &mut negotiated).unwrap();
        (answer, text.to_vec())
    }

    #[test]
    fn an_answer_is_cut_to_what_the_initiator_takes() {
        let mut texts = Texts::default();
        let mut whole = Vec::new();
        let (mut answer, mut part) = handle(&mut texts, Ttt::RESERVED, false, b"SendTargets=All\0");
        loop {
            assert!(part.len() <= 40);
            whole.extend(part);
            if answer.final_pdu {
                break;
            }
            assert!(answer.continues);
            (answer, part) = handle(&mut texts, answer.ttt, false, b"");
        }
        let expected = b"TargetName=iqn.2026-11.io.lunboot:test\0TargetAddress=192.0.2.1:3260,1\0";
        assert_eq!(whole, expected);
        assert_eq!(answer.ttt, Ttt::RESERVED);
    }

    #[test]
    fn a_request_may_come_in_parts() {
        let mut texts = Texts::default();
        let (answer, part) = handle(&mut texts, Ttt::RESERVED, true, b"SendTargets=iqn.2026-11");
        assert!(!answer.final_pdu && part.is_empty());
        let (_, part) = handle(&mut texts, answer.ttt, false, b".io.lunboot:nobody\0X-a=1\0");
        assert_eq!(part, b"X-a=NotUnderstood\0");
    }

    #[test]
    fn parts_for_ever_and_foreign_exchanges_are_refused() {
        let mut texts = Texts::default();
        let mut negotiated = Negotiated::default();
        let mut text = |ttt, data: &[u8]| {
            let request = request(ttt, true, data);
            texts.handle(&request, data, known(&[]), &mut negotiated).map(|_| ())
        };
        assert_eq!(text(EXCHANGE, b""), Err(Refusal::Exchange));
        assert_eq!(text(Ttt::RESERVED, &[b'a'; 8000]), Ok(()));
        assert_eq!(text(EXCHANGE, &[b'a'; 8000]), Err(Refusal::Negotiation));
        assert_eq!(text(EXCHANGE, b""), Err(Refusal::Exchange), "that was the end of it");
    }
}
