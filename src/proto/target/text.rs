//! Text requests in the full feature phase: SendTargets, and the one key that may be declared there
//! (RFC 7143 §11.10, §11.11, appendix C).

use std::net::SocketAddr;

use crate::proto::params::Negotiated;
use crate::wire::Malformed;
use crate::wire::pdu::{Itt, TextRequest, Ttt};
use crate::wire::text::{self, Text};

/// Most text of one exchange, in either direction, in bytes.
const TEXT_BYTES_MAX: usize = 8 * 1024;

/// The transfer tag of an exchange that goes on; there is only one at a time.
const EXCHANGE: Ttt = Ttt(0xffff_fffd);

/// An exchange of text requests and responses.
#[derive(Debug, Default)]
pub(super) struct Texts {
    /// The exchange that goes on.
    open: Option<Itt>,
    received: Vec<u8>,
    answer: Vec<u8>,
    /// Bytes of `answer` that were sent.
    told: usize,
}

/// What a response says beside its text.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Answer {
    pub(super) final_pdu: bool,
    pub(super) continues: bool,
    pub(super) ttt: Ttt,
}

/// Why a text request is rejected.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Refusal {
    /// It does not continue the exchange that it claims to.
    Exchange,
    /// Its text breaks the format, or a limit.
    Text,
}

impl Texts {
    /// Takes a request and gives the next part of the answer.
    pub(super) fn handle(
        &mut self,
        request: &TextRequest,
        data: &[u8],
        target_name: &str,
        portal: (SocketAddr, u16),
        negotiated: &mut Negotiated,
    ) -> Result<(Answer, &[u8]), Refusal> {
        if request.ttt == Ttt::RESERVED {
            *self = Texts { open: Some(request.itt), ..Texts::default() };
        } else if request.ttt != EXCHANGE || self.open != Some(request.itt) {
            return Err(Refusal::Exchange);
        }
        if self.received.len() + data.len() > TEXT_BYTES_MAX {
            return Err(Refusal::Text);
        }
        self.received.extend_from_slice(data);
        if request.continues {
            let answer = Answer { final_pdu: false, continues: false, ttt: EXCHANGE };
            return Ok((answer, &[]));
        }
        let received = std::mem::take(&mut self.received);
        if !received.is_empty() {
            let text = answer(&received, target_name, portal, negotiated);
            let text = text.map_err(|_| Refusal::Text)?;
            self.answer.extend_from_slice(text.as_bytes());
            if self.answer.len() - self.told > TEXT_BYTES_MAX {
                return Err(Refusal::Text);
            }
        }
        let start = self.told;
        self.told = self.answer.len().min(start + negotiated.max_send_bytes as usize);
        let continues = self.told < self.answer.len();
        let final_pdu = request.final_pdu && !continues;
        if final_pdu {
            self.open = None;
        }
        let ttt = if final_pdu { Ttt::RESERVED } else { EXCHANGE };
        Ok((Answer { final_pdu, continues, ttt }, &self.answer[start..self.told]))
    }
}

fn answer(
    received: &[u8],
    target_name: &str,
    (portal, group): (SocketAddr, u16),
    negotiated: &mut Negotiated,
) -> Result<Text, Malformed> {
    let mut reply = Text::new();
    for pair in text::pairs(received) {
        match pair? {
            ("SendTargets", wanted) => {
                let ours = wanted.eq_ignore_ascii_case(target_name);
                if wanted == "All" || wanted.is_empty() || ours {
                    reply.push("TargetName", target_name);
                    reply.push("TargetAddress", &format!("{portal},{group}"));
                }
            }
            ("MaxRecvDataSegmentLength", value) => {
                let bytes = text::number("MaxRecvDataSegmentLength", value)?;
                negotiated.max_send_bytes = bytes.clamp(512, (1 << 24) - 1);
            }
            (_, "NotUnderstood" | "Irrelevant" | "Reject") => {}
            (key, _) => reply.push(key, "NotUnderstood"),
        }
    }
    Ok(reply)
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

    fn handle(texts: &mut Texts, ttt: Ttt, continues: bool, text: &[u8]) -> (Answer, Vec<u8>) {
        let portal = ("192.0.2.1:3260".parse().unwrap(), 1);
        let mut negotiated = Negotiated { max_send_bytes: 40, ..Negotiated::default() };
        let request = request(ttt, continues, text);
        let (answer, text) = texts.handle(&request, text, NAME, portal, &mut negotiated).unwrap();
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
        let portal = ("192.0.2.1:3260".parse().unwrap(), 1);
        let mut negotiated = Negotiated::default();
        let mut text = |ttt, data: &[u8]| {
            let request = request(ttt, true, data);
            texts.handle(&request, data, NAME, portal, &mut negotiated).map(|_| ())
        };
        assert_eq!(text(EXCHANGE, b""), Err(Refusal::Exchange));
        assert_eq!(text(Ttt::RESERVED, &[b'a'; 8000]), Ok(()));
        assert_eq!(text(EXCHANGE, &[b'a'; 8000]), Err(Refusal::Text));
    }
}
