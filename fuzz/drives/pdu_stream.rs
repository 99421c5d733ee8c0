//! PDUs that one side makes up, to the other side in its full feature phase.
//!
//! An input is a list of PDUs, each with a byte that says which of its fields are made right: wrong
//! numbers end a connection at once, and what lies behind them would never be reached.

use std::time::Duration;

use lunboot::proto::disk::{Op, Tag};
use lunboot::wire::pdu::{Bhs, Header};

use super::common::{Pair, Settings, pattern, portal};
use super::input::Input;

// Offsets in a basic header segment (RFC 7143 §11.2.1).
const OPCODE: usize = 0;
const TOTAL_AHS_LENGTH: usize = 4;
const DATA_SEGMENT_LENGTH: usize = 5;
const ITT: usize = 16;
const CMD_SN: usize = 24;
const STAT_SN: usize = 24;
const EXP_CMD_SN: usize = 28;

const FIX_TAG: u8 = 0x01;
const FIX_NUMBER: u8 = 0x02;
const FIX_OPCODE: u8 = 0x04;
const ACT: u8 = 0x08;
const RAW: u8 = 0x10;

const INITIATOR_OPCODES: [u8; 8] = [0x00, 0x01, 0x02, 0x04, 0x05, 0x06, 0x10, 0x41];
const TARGET_OPCODES: [u8; 10] = [0x20, 0x21, 0x22, 0x24, 0x25, 0x26, 0x31, 0x32, 0x3f, 0x23];

fn settings() -> Settings {
    Settings { disk_bytes: 64 * 512, requests_max: 8, ..Settings::default() }
}

/// A PDU as it is on the line; its lengths are made right unless they are to be raw.
fn pdu(control: u8, mut bhs: Bhs, data: &[u8]) -> Vec<u8> {
    if control & RAW == 0 {
        bhs[TOTAL_AHS_LENGTH] = 0;
        let length = (data.len() as u32).to_be_bytes();
        bhs[DATA_SEGMENT_LENGTH..DATA_SEGMENT_LENGTH + 3].copy_from_slice(&length[1..]);
    }
    let mut pdu = bhs.to_vec();
    pdu.extend(data);
    pdu.resize(pdu.len().next_multiple_of(4), 0);
    pdu
}

/// Sends a PDU to the target and lets it do what follows.
pub fn send_to_target(pair: &mut Pair, link: usize, bhs: &Bhs, data: &[u8]) {
    give_to_target(pair, link, &pdu(RAW, *bhs, data));
}

fn give_to_target(pair: &mut Pair, link: usize, mut bytes: &[u8]) -> Vec<u8> {
    let mut answers = Vec::new();
    loop {
        let weather = pair.settings.weather.clone();
        pair.server.work(pair.now, &mut pair.random, &weather);
        loop {
            let sent = pair.server.transmit(link, 1 << 20);
            if sent.is_empty() {
                break;
            }
            answers.extend(sent);
        }
        pair.server.bury();
        let Some(space) = pair.server.recv_space(link).filter(|space| !space.is_empty()) else {
            return answers;
        };
        let count = bytes.len().min(space.len());
        if count == 0 {
            return answers;
        }
        space[..count].copy_from_slice(&bytes[..count]);
        bytes = &bytes[count..];
        pair.server.received(link, count, pair.now);
    }
}

/// Our target with an initiator that sends what it likes.
pub fn target_stream(bytes: &[u8]) {
    let mut input = Input::new(bytes);
    let mut pair = if input.byte() & 7 == 0 {
        let mut pair = Pair::new(settings());
        pair.server.accept(0, &portal(10), pair.now);
        pair
    } else {
        Pair::logged_in(settings())
    };
    let mut cmd_sn = 0_u32;
    let mut exp_cmd_sn = None;
    while !input.is_empty() && pair.server.is_connected(0) {
        let control = input.byte();
        let mut bhs: Bhs = input.array();
        let data = input.segment();
        if control & FIX_OPCODE != 0 {
            let opcode = INITIATOR_OPCODES[usize::from(bhs[OPCODE]) % INITIATOR_OPCODES.len()];
            bhs[OPCODE] = opcode | bhs[OPCODE] & 0x40;
        }
        if control & FIX_TAG != 0 {
            // Few tags, so that they meet again.
            let itt = u32::from(bhs[ITT] % 4).to_be_bytes();
            bhs[ITT..ITT + 4].copy_from_slice(&itt);
        }
        if control & FIX_NUMBER != 0 {
            let number = exp_cmd_sn.unwrap_or(cmd_sn);
            bhs[CMD_SN..CMD_SN + 4].copy_from_slice(&number.to_be_bytes());
            cmd_sn = number.wrapping_add(1);
        }
        if control & ACT != 0 {
            pair.now += Duration::from_secs(u64::from(bhs[47]));
            pair.server.handle_timeouts(pair.now);
        }
        let pdu = pdu(control, bhs, data);
        let answers = give_to_target(&mut pair, 0, &pdu);
        exp_cmd_sn = last_number(&answers, EXP_CMD_SN).or(exp_cmd_sn.map(|_| cmd_sn));
    }
}

/// A number of the last whole PDU in `bytes`, which begin with one and have no digests.
fn last_number(mut bytes: &[u8], at: usize) -> Option<u32> {
    let mut number = None;
    while let Some(bhs) = bytes.first_chunk::<48>() {
        let header = Header::parse(bhs);
        let field: [u8; 4] = bhs[at..at + 4].try_into().expect("four bytes");
        number = Some(u32::from_be_bytes(field));
        let length = 48 + header.ahs_bytes as usize + header.data_bytes as usize;
        bytes = bytes.get(length.next_multiple_of(4)..).unwrap_or_default();
    }
    number
}

/// Our initiator with a target that sends what it likes. No request completes twice, and none that
/// was not submitted.
pub fn initiator_stream(bytes: &[u8]) {
    let mut input = Input::new(bytes);
    let mut pair = Pair::logged_in(settings());
    let mut stat_sn = None;
    let mut tags = Vec::new();
    let mut submitted = 0_u16;
    let mut in_flight = Vec::new();
    while !input.is_empty() {
        let control = input.byte();
        let mut bhs: Bhs = input.array();
        let data = input.segment();
        if control & ACT != 0 && in_flight.len() < 8 {
            let sectors = 1 + u32::from(bhs[46] % 8);
            let op = match bhs[47] % 4 {
                0 => Op::Read,
                1 => Op::Write { fua: false },
                2 => Op::Flush,
                _ => Op::Write { fua: true },
            };
            let sectors = if op == Op::Flush { 0 } else { sectors };
            let buffer = pattern(1, 0, 8).into();
            let request = lunboot::proto::disk::Request {
                tag: Tag(submitted),
                op,
                start_sector: u64::from(bhs[45] % 56),
                sectors,
                buffer,
            };
            in_flight.push(Tag(submitted));
            submitted = submitted.wrapping_add(1);
            pair.session.submit(request, pair.now);
        }
        // What the initiator has sent says which tags and numbers are right.
        let mut sent = Vec::new();
        loop {
            let mut slices: [&[u8]; 8] = [&[]; 8];
            let count = pair.session.poll_transmit(&mut slices);
            let chunk = slices[..count].concat();
            if chunk.is_empty() {
                break;
            }
            pair.session.sent(chunk.len(), pair.now);
            sent.extend(chunk);
        }
        stat_sn = stat_sn.or(last_number(&sent, 28));
        if let Some(itt) = last_number(&sent, ITT) {
            tags.push(itt);
        }
        if control & FIX_OPCODE != 0 {
            bhs[OPCODE] = TARGET_OPCODES[usize::from(bhs[OPCODE]) % TARGET_OPCODES.len()];
        }
        if control & FIX_TAG != 0 && !tags.is_empty() {
            let itt = tags[usize::from(bhs[ITT]) % tags.len()];
            bhs[ITT..ITT + 4].copy_from_slice(&itt.to_be_bytes());
        }
        if control & FIX_NUMBER != 0 {
            let number = stat_sn.unwrap_or(0);
            bhs[STAT_SN..STAT_SN + 4].copy_from_slice(&number.to_be_bytes());
            bhs[28..32].copy_from_slice(&[0, 0, 0, 1]);
            bhs[32..36].copy_from_slice(&[0, 0, 1, 0]);
            let has_status =
                !matches!(bhs[OPCODE] & 0x3f, 0x31) && (bhs[0] != 0x25 || bhs[1] & 1 != 0);
            if has_status {
                stat_sn = stat_sn.map(|number| number.wrapping_add(1));
            }
        }
        let pdu = pdu(control, bhs, data);
        let mut rest = &pdu[..];
        while !rest.is_empty() {
            let space = pair.session.recv_space();
            let count = rest.len().min(space.len());
            if count == 0 {
                break;
            }
            space[..count].copy_from_slice(&rest[..count]);
            rest = &rest[count..];
            pair.session.received(count, pair.now);
        }
        while let Some(completion) = pair.session.poll_completion() {
            let index = in_flight.iter().position(|tag| *tag == completion.tag);
            in_flight.swap_remove(index.expect("a request completes once"));
        }
        while pair.session.poll_event().is_some() {}
        if !pair.session.is_logged_in() {
            return;
        }
    }
}
