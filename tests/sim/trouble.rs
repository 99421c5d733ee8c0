//! Changes PDUs on their way: statuses that make the initiator try again, and flipped bits.

use std::cell::Cell;
use std::rc::Rc;

use lunboot::proto::random::Random;
use lunboot::wire::frame::Digests;
use lunboot::wire::pdu::{BHS_BYTES, DataIn, Request, Response, ScsiResponse};
use lunboot::wire::scsi::{ScsiStatus, Sense, SenseKey, asc};
use lunboot::wire::serial::Sn;

use super::common::Direction;
use super::common::tap::{Tamper, is_login};

/// How often something is changed, one time in so many PDUs; 0 for never.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Tampering {
    /// Answers to commands.
    pub(crate) status_one_in: u64,
    /// Bits, where digests find them.
    pub(crate) flip_one_in: u64,
}

/// `shown` prints each PDU as it was sent.
pub(crate) fn tamper(rates: Rc<Cell<Tampering>>, shown: bool) -> Tamper {
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
            return pdu;
        }
        let Tampering { status_one_in, flip_one_in } = rates.get();
        let comes = |random: &mut Random, one_in| one_in != 0 && random.below(one_in) == 0;
        if flips_left > 0 && comes(random, flip_one_in) && digests.header && digests.data {
            flips_left -= 1;
            let bit = random.below(pdu.len() as u64 * 8) as usize;
            pdu[bit / 8] ^= 1 << (bit % 8);
            return pdu;
        }
        if direction == Direction::Up {
            return pdu;
        }
        let bhs = pdu.first_chunk::<BHS_BYTES>().expect("a tap gives whole PDUs");
        match Response::parse(bhs) {
            Ok(Response::DataIn(data)) => {
                if data.data_sn == Sn(0) && comes(random, status_one_in) {
                    victim = Some(data.itt);
                }
                match victim {
                    Some(itt) if itt == data.itt && data.status.is_some() => {
                        victim = None;
                        another_status(&instead_of(&data), digests, random)
                    }
                    Some(itt) if itt == data.itt => Vec::new(),
                    _ => pdu,
                }
            }
            Ok(Response::ScsiResponse(response)) if comes(random, status_one_in) => {
                another_status(&response, digests, random)
            }
            _ => pdu,
        }
    })
}

fn show(direction: Direction, pdu: &[u8]) {
    let bhs = pdu.first_chunk().expect("a tap gives whole PDUs");
    match direction {
        Direction::Up => println!("    up {:?}", Request::parse(bhs)),
        Direction::Down => println!("    down {:?}", Response::parse(bhs)),
    }
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

fn another_status(response: &ScsiResponse, digests: Digests, random: &mut Random) -> Vec<u8> {
    let (status, sense) = match random.below(6) {
        0 => (ScsiStatus::Busy, None),
        1 => (ScsiStatus::TaskSetFull, None),
        2 => (ScsiStatus::TaskAborted, None),
        3 => {
            let sense = Sense::new(SenseKey::UnitAttention, asc::BUS_DEVICE_RESET);
            (ScsiStatus::CheckCondition, Some(sense))
        }
        4 => {
            let sense = Sense::new(SenseKey::AbortedCommand, asc::PROTOCOL_SERVICE_CRC_ERROR);
            (ScsiStatus::CheckCondition, Some(sense))
        }
        _ => (ScsiStatus::CheckCondition, Some(Sense::new(SenseKey::NotReady, (4, 1)))),
    };
    let mut data = Vec::new();
    if let Some(sense) = sense {
        let bytes = sense.emit_fixed();
        data.extend_from_slice(&(bytes.len() as u16).to_be_bytes());
        data.extend_from_slice(&bytes);
    }
    let response =
        ScsiResponse { status: status.code(), data_bytes: data.len() as u32, ..*response };
    let mut pdu = response.emit().to_vec();
    if digests.header {
        pdu.extend_from_slice(&crc32c::crc32c(&pdu).to_le_bytes());
    }
    data.resize(data.len().next_multiple_of(4), 0);
    pdu.extend_from_slice(&data);
    if digests.data && !data.is_empty() {
        pdu.extend_from_slice(&crc32c::crc32c(&data).to_le_bytes());
    }
    pdu
}
