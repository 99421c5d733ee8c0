//! Somebody on the line who keeps back, changes or adds whole PDUs, and leaves the numbers right:
//! StatSN goes on without a gap, so that a receiver sees only what was meant to be wrong.

use lunboot::wire::frame::Digests;
use lunboot::wire::pdu::{
    AsyncMessage, BHS_BYTES, DataIn, Itt, LoginResponse, LogoutResponse, NopIn, Reject, Response,
    ScsiResponse, TaskManagementResponse, TextResponse,
};
use lunboot::wire::serial::Sn;

use super::tap::{is_login, pdu_bytes};
use super::{Direction, Pair};

/// What a meddler makes of a PDU: any number of them, in this order.
pub type Rule = Box<dyn FnMut(Direction, &[u8]) -> Option<Vec<Vec<u8>>>>;

const STAT_SN: usize = 24;
const EXP_STAT_SN: usize = 28;

/// Puts a meddler on the line. `rule` gives what is sent instead, or `None` for the PDU as it is;
/// logins are not shown to it. Works without digests.
pub fn meddle(pair: &mut Pair, mut rule: Rule) {
    // What the receiver expects next, and what the target has given out.
    let (mut next, mut theirs) = (None, Sn(0));
    pair.taps.tamper = Some(Box::new(move |direction, mut pdu, _, _| {
        if is_login(&pdu) {
            if pdu[0] & 0x3f == LoginResponse::OPCODE {
                theirs = Sn(word(&pdu, STAT_SN)).next();
                next = Some(theirs);
            }
            return pdu;
        }
        match direction {
            // Before the first word of the target nothing has been changed.
            Direction::Up if next.is_some() => set(&mut pdu, EXP_STAT_SN, theirs.0),
            Direction::Up => {}
            Direction::Down => {
                let sent = Sn(word(&pdu, STAT_SN));
                next = next.or(Some(sent));
                theirs = if has_stat_sn(&pdu) { sent.next() } else { sent };
            }
        }
        let mut out = Vec::new();
        for mut pdu in rule(direction, &pdu).unwrap_or_else(|| vec![pdu]) {
            if let (Direction::Down, Some(next)) = (direction, &mut next) {
                // A number that the rule has set itself stays.
                if word(&pdu, STAT_SN) != WRONG {
                    set(&mut pdu, STAT_SN, next.0);
                }
                if has_stat_sn(&pdu) {
                    *next = next.next();
                }
            }
            out.extend(pdu);
        }
        out
    }));
}

/// A StatSN that is meant to be wrong.
pub const WRONG: u32 = 0xdead_beef;

/// A whole PDU: header, data, padding.
pub fn pdu(header: &[u8; BHS_BYTES], data: &[u8]) -> Vec<u8> {
    let mut pdu = header.to_vec();
    pdu.extend_from_slice(data);
    pdu.resize(pdu.len().next_multiple_of(4), 0);
    assert_eq!(pdu_bytes(&pdu, Digests::default()), Some(pdu.len()), "the length is another");
    pdu
}

/// The header of a PDU, read.
pub fn response(pdu: &[u8]) -> Response {
    Response::parse(pdu.first_chunk().expect("a whole PDU")).expect("what our target sends")
}

fn has_stat_sn(pdu: &[u8]) -> bool {
    match pdu[0] & 0x3f {
        DataIn::OPCODE => pdu[1] & 1 != 0,
        NopIn::OPCODE => word(pdu, 16) != Itt::RESERVED.0,
        ScsiResponse::OPCODE
        | TaskManagementResponse::OPCODE
        | TextResponse::OPCODE
        | LogoutResponse::OPCODE
        | AsyncMessage::OPCODE
        | Reject::OPCODE => true,
        _ => false,
    }
}

fn word(pdu: &[u8], at: usize) -> u32 {
    u32::from_be_bytes(pdu[at..at + 4].try_into().expect("four bytes"))
}

fn set(pdu: &mut [u8], at: usize, value: u32) {
    pdu[at..at + 4].copy_from_slice(&value.to_be_bytes());
}
