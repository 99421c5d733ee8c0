//! Targets that attack, each input named after what it once did to another initiator. The session
//! refuses it, says which rule it broke, and logs in again; every request is completed, with the
//! right data and nothing written outside of its buffer.

mod common;

use std::cell::Cell;
use std::rc::Rc;
use std::time::Duration;

use common::meddler::{WRONG, meddle, pdu, response};
use common::{BUFFER_BYTES, Direction, Pair, Settings, pattern};
use lunboot::proto::disk::{Op, Tag};
use lunboot::proto::params::Offer;
use lunboot::proto::session::Event;
use lunboot::wire::pdu::{
    DataIn, Itt, LogoutResponse, NopIn, R2t, Reject, Residual, Response, ScsiResponse, StatusSns,
    TaskManagementResponse, Ttt,
};
use lunboot::wire::scsi::{ScsiStatus, Sense, SenseKey, asc};
use lunboot::wire::serial::Sn;

const WRITE: Op = Op::Write { fua: false };

/// Writes need an R2T for each 1024 bytes; a read comes in Data-Ins of 512.
fn settings() -> Settings {
    let offer = Offer {
        max_recv_bytes: 512,
        max_burst_bytes: 1024,
        first_burst_bytes: 512,
        initial_r2t: true,
        immediate_data: false,
        max_outstanding_r2t: 1,
        ..Settings::default().initiator
    };
    Settings { initiator: offer, target: offer, disk_bytes: 64 * 512, ..Settings::default() }
}

/// What the attack makes of a PDU of the target: `None` if it waits for another one.
type Attack = Box<dyn Fn(&Response, &[u8]) -> Option<Vec<Vec<u8>>>>;

/// Reads and writes while the first PDU that fits the attack is replaced; returns what the session
/// said about it.
fn suffer(op: Op, attack: Attack) -> Vec<String> {
    let mut pair = Pair::logged_in(settings());
    pair.write(0, &pattern(1, 0, 32));
    pair.events.clear();
    let mut armed = true;
    meddle(
        &mut pair,
        Box::new(move |direction, bytes| {
            if direction == Direction::Up || !armed {
                return None;
            }
            let attacked = attack(&response(bytes), bytes)?;
            armed = false;
            Some(attacked)
        }),
    );
    // Eight sectors of the disk, and nothing behind them in the buffer.
    pair.submit(Tag(1), op, 8, &pattern(2, 8, 8));
    let done = pair.wait_for(Tag(1));
    assert_eq!(done.result, Ok(()));
    if op == Op::Read {
        assert!(done.buffer[..4096] == pattern(1, 8, 8), "another content");
    }
    assert!(done.buffer[4096..] == vec![0xa5; BUFFER_BYTES - 4096], "written outside");
    let now = if op == Op::Read { 1 } else { 2 };
    assert!(pair.read(8, 4096) == pattern(now, 8, 8));
    assert!(pair.read(0, 4096) == pattern(1, 0, 8));
    let trouble = |event: &Event| match event {
        Event::Trouble { error, .. } => Some(error.to_string()),
        _ => None,
    };
    pair.events.iter().filter_map(trouble).collect()
}

fn sns() -> StatusSns {
    StatusSns { stat_sn: Sn(0), exp_cmd_sn: Sn(0), max_cmd_sn: Sn(0) }
}

/// Replaces Data-In PDUs.
fn data_in(change: impl Fn(&DataIn, &[u8]) -> Option<Vec<Vec<u8>>> + 'static) -> Attack {
    Box::new(move |response, bytes| match response {
        Response::DataIn(data_in) => change(data_in, bytes),
        _ => None,
    })
}

/// Replaces R2Ts.
fn r2t(change: impl Fn(&R2t, &[u8]) -> Option<Vec<Vec<u8>>> + 'static) -> Attack {
    Box::new(move |response, bytes| match response {
        Response::R2t(r2t) => change(r2t, bytes),
        _ => None,
    })
}

/// Replaces SCSI Responses.
fn status(change: impl Fn(&ScsiResponse, &[u8]) -> Option<Vec<Vec<u8>>> + 'static) -> Attack {
    Box::new(move |response, bytes| match response {
        Response::ScsiResponse(response) => change(response, bytes),
        _ => None,
    })
}

/// Puts a PDU before whatever comes next.
fn before(inserted: Vec<u8>) -> Attack {
    Box::new(move |_, bytes| Some(vec![inserted.clone(), bytes.to_vec()]))
}

fn check(op: Op, attack: Attack, said: &[&str]) {
    assert_eq!(suffer(op, attack), said);
}

#[test]
fn cve_2026_74556_a_response_longer_than_what_we_take() {
    let attack = status(|response, _| {
        let mut header = ScsiResponse { data_bytes: 513, ..*response }.emit().to_vec();
        header.resize(48 + 516, 0xff);
        Some(vec![header])
    });
    let said = "iSCSI header: DataSegmentLength 513: must be at most the MaxRecvDataSegmentLength \
                that was declared";
    check(WRITE, attack, &[said]);
    let attack = status(|response, _| {
        let mut header = response.emit().to_vec();
        header[5..8].copy_from_slice(&[0xff; 3]);
        Some(vec![header])
    });
    assert!(suffer(WRITE, attack)[0].contains("DataSegmentLength 16777215"));
}

#[test]
fn cve_2026_74557_sense_of_an_older_response_is_never_used_again() {
    // Both end with CHECK CONDITION; the second has no sense, and must not inherit that of the
    // first, which would make it fail for good.
    let mut pair = Pair::logged_in(settings());
    let mut count = 0;
    meddle(
        &mut pair,
        Box::new(move |direction, bytes| {
            if direction == Direction::Up {
                return None;
            }
            let Response::ScsiResponse(answer) = response(bytes) else { return None };
            count += 1;
            let status = ScsiStatus::CheckCondition.code();
            let sense = Sense::new(SenseKey::MediumError, asc::WRITE_ERROR).emit_fixed();
            let mut data = vec![0, sense.len() as u8];
            data.extend_from_slice(&sense);
            match count {
                1 => {
                    let data_bytes = data.len() as u32;
                    let answer = ScsiResponse { status, data_bytes, ..answer };
                    Some(vec![pdu(&answer.emit(), &data)])
                }
                2..6 => {
                    let data = &[0, 18, 0x70, 0][..count - 2];
                    let data_bytes = data.len() as u32;
                    let answer = ScsiResponse { status, data_bytes, ..answer };
                    Some(vec![pdu(&answer.emit(), data)])
                }
                _ => None,
            }
        }),
    );
    assert!(pair.carry_out(WRITE, 0, &pattern(1, 0, 1)).result.is_err());
    assert_eq!(pair.carry_out(WRITE, 0, &pattern(1, 0, 1)).result, Ok(()));
}

#[test]
fn cve_2026_99152_99153_99154_answers_with_unknown_tags() {
    for tag in [0, 1, 0x0001_0001, 0x7fff_ffff, 0x8000_0000, 0xffff_0000, 0xffff_fffa, 0xfffb] {
        let itt = Itt(tag);
        let answer = TaskManagementResponse { response: 0, itt, sns: sns() };
        let said = suffer(WRITE, before(pdu(&answer.emit(), &[])));
        // An answer to a function that was given up may come late.
        let expected = "the peer sent a Task Management Function Response that answers a request \
                        never made";
        assert_eq!(said, if tag as u16 == 0xfffb { vec![] } else { vec![expected] }, "{tag:#x}");

        let logout = LogoutResponse { response: 0, itt, sns: sns(), time2wait: 0, time2retain: 0 };
        let said = suffer(WRITE, before(pdu(&logout.emit(), &[])));
        assert_eq!(said, ["the peer sent a Logout Response that answers a request never made"]);

        let nop = NopIn { lun: 0, itt, ttt: Ttt::RESERVED, sns: sns(), data_bytes: 0 };
        let said = suffer(WRITE, before(pdu(&nop.emit(), &[])));
        assert_eq!(said, ["the peer sent a NOP-In that answers a ping never sent"]);
    }
    // A reject of a header that we never sent, that is none, or that is not there.
    for header in [&[0xff; 48][..], &[1; 48], &[0; 48], &[0x3f; 47], &[]] {
        let data_bytes = header.len() as u32;
        for reason in [0, Reject::DATA_DIGEST_ERROR, Reject::COMMAND_NOT_SUPPORTED, 0xff] {
            let reject = Reject { reason, sns: sns(), data_sn: Sn(0), data_bytes };
            suffer(WRITE, before(pdu(&reject.emit(), header)));
        }
    }
}

#[test]
fn cve_2020_1711_more_data_than_was_asked_for() {
    let attack = data_in(|data_in, bytes| {
        // The last one, once more.
        data_in.status?;
        let more = DataIn {
            data_sn: data_in.data_sn.next(),
            buffer_offset: data_in.buffer_offset + data_in.data_bytes,
            ..*data_in
        };
        let first = DataIn { status: None, ..*data_in };
        Some(vec![pdu(&first.emit(), &bytes[48..]), pdu(&more.emit(), &bytes[48..])])
    });
    check(Op::Read, attack, &["the peer sent a SCSI Data-In that brings more than was asked for"]);
}

#[test]
fn data_that_overlaps_wraps_repeats_or_belongs_to_nothing() {
    let gap = "the peer sent a SCSI Data-In that leaves a gap or overlaps";
    let order = "the peer sent a SCSI Data-In that has a DataSN out of order";
    let changed = |change: fn(&mut DataIn)| {
        data_in(move |data_in, bytes| {
            let mut data_in = *data_in;
            change(&mut data_in);
            Some(vec![pdu(&data_in.emit(), &bytes[48..])])
        })
    };
    check(Op::Read, changed(|data| data.buffer_offset = 512), &[gap]);
    check(Op::Read, changed(|data| data.buffer_offset = u32::MAX - 511), &[gap]);
    check(Op::Read, changed(|data| data.buffer_offset = u32::MAX), &[gap]);
    check(Op::Read, changed(|data| data.data_sn = Sn(1)), &[order]);
    check(Op::Read, changed(|data| data.data_sn = Sn(u32::MAX)), &[order]);
    let nobody = "the peer sent a SCSI Data-In that belongs to no command";
    check(Op::Read, changed(|data| data.itt = Itt(0x1234_5678)), &[nobody]);
    check(Op::Read, changed(|data| data.itt = Itt::RESERVED), &[nobody]);
    let twice = data_in(|_, bytes| Some(vec![bytes.to_vec(), bytes.to_vec()]));
    check(Op::Read, twice, &[order]);
    // The data of a read for a write.
    let attack = r2t(|r2t, _| {
        let data_in = DataIn {
            final_pdu: true,
            acknowledge: false,
            status: None,
            lun: 0,
            itt: r2t.itt,
            ttt: Ttt::RESERVED,
            sns: sns(),
            data_sn: Sn(0),
            buffer_offset: 0,
            residual: Residual::None,
            data_bytes: 512,
        };
        Some(vec![pdu(&data_in.emit(), &[0xee; 512])])
    });
    let said = "the peer sent a SCSI Data-In that answers a command that reads nothing";
    check(WRITE, attack, &[said]);
}

#[test]
fn data_or_status_after_the_status() {
    let after = |residue: fn(&ScsiResponse) -> Vec<u8>| {
        status(move |response, bytes| Some(vec![bytes.to_vec(), residue(response)]))
    };
    let again = after(|response| pdu(&response.emit(), &[]));
    let said = suffer(WRITE, again);
    assert!(
        said == ["the peer sent a SCSI Response that belongs to no command"]
            || said == ["the peer sent a SCSI Response that answers a command for the second time"],
        "{said:?}"
    );
    let foreign = status(|response, bytes| {
        let foreign = ScsiResponse { itt: Itt(0x7000_0000), ..*response };
        Some(vec![pdu(&foreign.emit(), &[]), bytes.to_vec()])
    });
    check(WRITE, foreign, &["the peer sent a SCSI Response that belongs to no command"]);
}

#[test]
fn edk2_9794_9796_10863_an_r2t_outside_of_the_data() {
    let outside =
        "the peer sent a Ready To Transfer that asks for bytes outside the command's data";
    let long = "the peer sent a Ready To Transfer that asks for more than MaxBurstLength";
    let again = "the peer sent a Ready To Transfer that leaves a gap, or asks for the same bytes \
                 again";
    for (offset, bytes, said) in [
        (4096, 1, outside),
        (4095, 2, outside),
        (0, 0, outside),
        (0, 4097, outside),
        (u32::MAX, 1, outside),
        (u32::MAX - 511, 512, outside),
        (u32::MAX - 511, 1024, outside),
        (0, u32::MAX, outside),
        (512, u32::MAX - 511, outside),
        (0, 1025, long),
        (0, 4096, long),
        (512, 512, again),
        (3072, 1024, again),
    ] {
        let attack = r2t(move |r2t, _| {
            let r2t = R2t { buffer_offset: offset, desired_bytes: bytes, ..*r2t };
            Some(vec![pdu(&r2t.emit(), &[])])
        });
        check(WRITE, attack, &[said]);
    }
}

#[test]
fn an_r2t_that_repeats_overlaps_or_has_no_end() {
    let many = "the peer sent a Ready To Transfer that is one of too many at once";
    let order = "the peer sent a Ready To Transfer that has an R2TSN out of order";
    let again = "the peer sent a Ready To Transfer that leaves a gap, or asks for the same bytes \
                 again";
    let then = |change: fn(&mut R2t)| {
        r2t(move |r2t, bytes| {
            let mut next = *r2t;
            change(&mut next);
            let next = pdu(&next.emit(), &[]);
            let mut all = vec![bytes.to_vec()];
            all.extend(std::iter::repeat_n(next, 5000));
            Some(all)
        })
    };
    check(WRITE, then(|_| ()), &[order]);
    check(WRITE, then(|r2t| r2t.r2t_sn = Sn(1)), &[again]);
    check(WRITE, then(|r2t| (r2t.r2t_sn, r2t.buffer_offset) = (Sn(1), 512)), &[again]);
    check(WRITE, then(|r2t| (r2t.r2t_sn, r2t.buffer_offset) = (Sn(1), 1024)), &[many]);
    let reserved = "the peer sent a Ready To Transfer that has the reserved Target Transfer Tag";
    let attack = r2t(|r2t, _| Some(vec![pdu(&R2t { ttt: Ttt::RESERVED, ..*r2t }.emit(), &[])]));
    check(WRITE, attack, &[reserved]);
    // For a command that writes nothing.
    let attack = data_in(|data_in, _| {
        let r2t = R2t {
            lun: 0,
            itt: data_in.itt,
            ttt: Ttt(1),
            sns: sns(),
            r2t_sn: Sn(0),
            buffer_offset: 0,
            desired_bytes: 512,
        };
        Some(vec![pdu(&r2t.emit(), &[])])
    });
    let said =
        "the peer sent a Ready To Transfer that asks for the data of a command that writes nothing";
    check(Op::Read, attack, &[said]);
}

#[test]
fn openbsd_check_condition_with_next_to_no_data() {
    for data in [&[][..], &[0], &[0, 0], &[0, 18], &[0xff, 0xff], &[0, 1, 0x70], &[0, 2, 0x72, 3]] {
        let attack = status(move |response, _| {
            let response = ScsiResponse {
                status: ScsiStatus::CheckCondition.code(),
                data_bytes: data.len() as u32,
                ..*response
            };
            Some(vec![pdu(&response.emit(), data)])
        });
        // Descriptor sense of two bytes says MEDIUM ERROR all the same, and is believed.
        if data.len() < 4 {
            check(WRITE, attack, &[]);
        }
    }
}

#[test]
fn a_stat_sn_that_jumps() {
    let wrong = "the peer sent a PDU that has a StatSN out of order";
    let attack = status(|response, _| {
        let sns = StatusSns { stat_sn: Sn(WRONG), ..response.sns };
        Some(vec![pdu(&ScsiResponse { sns, ..*response }.emit(), &[])])
    });
    check(WRITE, attack, &[wrong]);
}

/// gotgt gives each answer the ExpStatSN of its command, so that two commands at once get the same.
#[test]
fn a_stat_sn_that_comes_again_does_not_stop_the_session() {
    let mut pair = Pair::logged_in(Settings::default());
    let mut first = None;
    pair.taps.tamper = Some(Box::new(move |direction, mut pdu, _, _| {
        let ends = |pdu: &[u8]| match pdu[0] & 0x3f {
            ScsiResponse::OPCODE => true,
            DataIn::OPCODE => pdu[1] & 1 != 0,
            _ => false,
        };
        if direction == Direction::Down && ends(&pdu) {
            let stat_sn = *first.get_or_insert([pdu[24], pdu[25], pdu[26], pdu[27]]);
            pdu[24..28].copy_from_slice(&stat_sn);
        }
        pdu
    }));
    for tag in 0..4 {
        pair.submit(Tag(tag), WRITE, u64::from(tag), &pattern(1, u64::from(tag), 1));
    }
    for tag in 0..4 {
        assert_eq!(pair.wait_for(Tag(tag)).result, Ok(()));
    }
    assert!(pair.read(0, 2048) == pattern(1, 0, 4));
    assert_eq!(pair.visited.len(), 1, "the session logged in again");
}

#[test]
fn command_numbers_from_nowhere_do_not_stop_the_session() {
    for (exp, max) in [(0, 0), (u32::MAX, u32::MAX), (0x8000_0000, 0x7fff_ffff), (5, 1)] {
        let attack = status(move |response, _| {
            let sns = StatusSns { exp_cmd_sn: Sn(exp), max_cmd_sn: Sn(max), ..response.sns };
            Some(vec![pdu(&ScsiResponse { sns, ..*response }.emit(), &[])])
        });
        check(WRITE, attack, &[]);
    }
}

#[test]
fn a_residual_that_says_that_not_all_was_done() {
    for residual in [Residual::Overflow(512), Residual::Underflow(1), Residual::Underflow(u32::MAX)]
    {
        let attack = status(move |response, _| {
            Some(vec![pdu(&ScsiResponse { residual, ..*response }.emit(), &[])])
        });
        check(WRITE, attack, &[]);
        let attack = data_in(move |data_in, bytes| {
            data_in.status?;
            Some(vec![pdu(&DataIn { residual, ..*data_in }.emit(), &bytes[48..])])
        });
        check(Op::Read, attack, &[]);
    }
}

/// It lets us log in and look at the disk, and falls over the first write, for ever.
#[test]
fn a_target_that_breaks_each_session_at_once_is_asked_with_pauses() {
    let mut pair = Pair::logged_in(settings());
    pair.events.clear();
    let armed = Rc::new(Cell::new(true));
    let is_armed = armed.clone();
    meddle(
        &mut pair,
        Box::new(move |direction, bytes| {
            if direction == Direction::Up || !is_armed.get() {
                return None;
            }
            let Response::R2t(r2t) = response(bytes) else { return None };
            Some(vec![pdu(&R2t { ttt: Ttt::RESERVED, ..r2t }.emit(), &[])])
        }),
    );
    let tries = |pair: &Pair| -> Vec<(u32, u64)> {
        let of = |event: &Event| match event {
            Event::Trouble { attempt, retry_after, .. } => Some((*attempt, retry_after.as_secs())),
            _ => None,
        };
        pair.events.iter().filter_map(of).collect()
    };
    pair.submit(Tag(1), WRITE, 8, &pattern(2, 8, 8));
    pair.run_until("failures", |pair| tries(pair).len() == 8);
    let expected = [(1, 0), (2, 1), (3, 2), (4, 4), (5, 5), (6, 5), (7, 5), (8, 5)];
    assert_eq!(tries(&pair), expected);
    armed.set(false);
    assert_eq!(pair.wait_for(Tag(1)).result, Ok(()));
    assert!(pair.read(8, 4096) == pattern(2, 8, 8));
    // A disk that was there for a while is asked for at once, and after a minute it is news.
    for (calm, expected) in [(2, (9, 0)), (50, (10, 0)), (60, (1, 0))] {
        pair.events.clear();
        let until = pair.elapsed() + Duration::from_secs(calm);
        pair.run_until("time to pass", |pair| pair.elapsed() >= until);
        pair.cut();
        pair.run_until("the disk", |pair| pair.session.is_logged_in());
        assert_eq!(tries(&pair), [expected]);
    }
}
