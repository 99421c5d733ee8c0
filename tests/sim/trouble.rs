//! Changes PDUs on their way: statuses that make the initiator try again, and flipped bits.

use std::cell::{Cell, RefCell};
use std::rc::Rc;

use lunboot::proto::random::Random;
use lunboot::wire::frame::Digests;
use lunboot::wire::pdu::{
    AsyncMessage, BHS_BYTES, DataIn, Header, Request, Response, ScsiResponse,
};
use lunboot::wire::scsi::{ScsiStatus, Sense, SenseKey, asc};
use lunboot::wire::serial::Sn;

use super::common::Direction;
use super::common::tap::{Tamper, header_bytes, is_login, with_status};
use super::coverage::Coverage;

/// MODE PARAMETERS CHANGED (SPC-4 Annex F).
const MODE_PARAMETERS_CHANGED: (u8, u8) = (0x2a, 0x01);

/// How often something is changed, one time in so many PDUs; 0 for never.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Tampering {
    /// Answers to commands.
    pub(crate) status_one_in: u64,
    /// Bits, where digests find them.
    pub(crate) flip_one_in: u64,
    /// The unit has lost power, and tells with its next unit attention.
    pub(crate) power_was_lost: bool,
}

/// `shown` prints each PDU as it was sent.
pub(crate) fn tamper(
    rates: Rc<Cell<Tampering>>,
    coverage: Rc<RefCell<Coverage>>,
    shown: bool,
) -> Tamper {
    // The command whose data is being kept back, because another status will end it.
    let mut victim = None;
    // A command that is damaged 20 times fails, as it should.
    let mut flips_left = 10;
    Box::new(move |direction, mut pdu, digests, random| {
        if shown {
            show(direction, &pdu);
        }
        if is_login(&pdu) {
            victim = None;
            rates.set(Tampering { power_was_lost: false, ..rates.get() });
            return pdu;
        }
        let Tampering { status_one_in, flip_one_in, power_was_lost } = rates.get();
        let comes = |random: &mut Random, one_in| one_in != 0 && random.below(one_in) == 0;
        if flips_left > 0
            && comes(random, flip_one_in)
            && let Some(kind) = flip(&mut pdu, digests, random)
        {
            flips_left -= 1;
            coverage.borrow_mut().count(kind);
            return pdu;
        }
        if direction == Direction::Up {
            return pdu;
        }
        let bhs = pdu.first_chunk::<BHS_BYTES>().expect("a tap gives whole PDUs");
        let coverage = &mut *coverage.borrow_mut();
        match Response::parse(bhs) {
            Ok(Response::DataIn(data)) => {
                if data.data_sn == Sn(0) && comes(random, status_one_in) {
                    victim = Some(data.itt);
                }
                match victim {
                    Some(itt) if itt == data.itt && data.status.is_some() => {
                        victim = None;
                        another_status(&instead_of(&data), digests, random, coverage)
                    }
                    Some(itt) if itt == data.itt => Vec::new(),
                    _ => pdu,
                }
            }
            Ok(Response::ScsiResponse(response)) if response.status == 0 => {
                if comes(random, status_one_in) {
                    another_status(&response, digests, random, coverage)
                } else {
                    pdu
                }
            }
            Ok(Response::AsyncMessage(message)) if random.below(2) == 0 => {
                coverage.count("other asynchronous events");
                another_event(&message, digests)
            }
            Ok(Response::ScsiResponse(response)) if power_was_lost && tells_of_reset(&pdu) => {
                rates.set(Tampering { power_was_lost: false, ..rates.get() });
                coverage.count("crashes of the unit alone");
                let sense = Sense::new(SenseKey::UnitAttention, asc::POWER_ON_OR_RESET);
                with_status(&response, ScsiStatus::CheckCondition, Some(sense), digests)
            }
            _ => pdu,
        }
    })
}

/// Flips a bit that a digest covers, and says where.
fn flip(pdu: &mut [u8], digests: Digests, random: &mut Random) -> Option<&'static str> {
    let header = Header::parse(pdu.first_chunk()?);
    let (head, data) = pdu.split_at_mut(header_bytes(&header, digests));
    let in_header = digests.header && (!digests.data || data.is_empty() || random.below(2) == 0);
    let (part, kind) = match in_header {
        true => (head, "damaged headers"),
        false if digests.data && !data.is_empty() => (data, "damaged data"),
        false => return None,
    };
    let bit = random.below(part.len() as u64 * 8) as usize;
    part[bit / 8] ^= 1 << (bit % 8);
    Some(kind)
}

/// Whether the sense data in a SCSI Response is the unit attention of a reset.
fn tells_of_reset(pdu: &[u8]) -> bool {
    let (asc, ascq) = asc::BUS_DEVICE_RESET;
    let tail = &pdu[BHS_BYTES..];
    // Fixed format: key in byte 2, codes in bytes 12 and 13.
    tail.windows(14).any(|sense| {
        sense[0] & 0x7f == 0x70 && sense[2] & 0x0f == 6 && sense[12..14] == [asc, ascq]
    })
}

fn show(direction: Direction, pdu: &[u8]) {
    let bhs = pdu.first_chunk().expect("a tap gives whole PDUs");
    match direction {
        Direction::Up => println!("    up {:?}", Request::parse(bhs)),
        Direction::Down => println!("    down {:?}", Response::parse(bhs)),
    }
}

/// Another event that wants the same of the initiator (RFC 7143 §11.9.1): to negotiate again
/// instead of a logout, and the end of the connection instead of that of the session.
fn another_event(message: &AsyncMessage, digests: Digests) -> Vec<u8> {
    let event = if message.event == 1 { 4 } else { 2 };
    let mut pdu = AsyncMessage { event, ..*message }.emit().to_vec();
    if digests.header {
        pdu.extend_from_slice(&crc32c::crc32c(&pdu).to_le_bytes());
    }
    pdu
}

fn instead_of(data: &DataIn) -> ScsiResponse {
    ScsiResponse {
        response: 0,
        status: 0,
        itt: data.itt,
        sns: data.sns,
        exp_data_sn: Sn(0),
        residual: data.residual,
        data_bytes: 0,
    }
}

fn another_status(
    response: &ScsiResponse,
    digests: Digests,
    random: &mut Random,
    coverage: &mut Coverage,
) -> Vec<u8> {
    use SenseKey::{AbortedCommand, NotReady, UnitAttention};
    let (kind, status, sense) = match random.below(7) {
        0 => ("BUSY", ScsiStatus::Busy, None),
        1 => ("TASK SET FULL", ScsiStatus::TaskSetFull, None),
        2 => ("TASK ABORTED", ScsiStatus::TaskAborted, None),
        choice => {
            let (kind, key, code) = match choice {
                3 => ("bus reset attentions", UnitAttention, asc::BUS_DEVICE_RESET),
                4 => ("mode parameters attentions", UnitAttention, MODE_PARAMETERS_CHANGED),
                5 => ("ABORTED COMMAND", AbortedCommand, asc::PROTOCOL_SERVICE_CRC_ERROR),
                _ => ("NOT READY", NotReady, asc::NOT_READY_BECOMING_READY),
            };
            (kind, ScsiStatus::CheckCondition, Some(Sense::new(key, code)))
        }
    };
    coverage.count(kind);
    with_status(response, status, sense, digests)
}
