//! Commands without an answer or without a good one, and targets that want something: whatever
//! happens, each request is completed once, with the right data, and never with an error that the
//! disk has not given.

mod common;

use std::cell::RefCell;
use std::rc::Rc;
use std::time::Duration;

use common::meddler::{Rule, meddle, pdu, response};
use common::{Direction, Pair, Settings, pattern};
use lunboot::proto::Error;
use lunboot::proto::disk::{Op, Tag};
use lunboot::proto::session::{Event, Reason, Rung};
use lunboot::wire::pdu::{
    AsyncMessage, DataIn, Itt, LogoutRequest, NopIn, NopOut, Reject, Request, Response,
    ScsiResponse, StatusSns, TaskManagementRequest, TaskManagementResponse, Ttt,
};
use lunboot::wire::scsi::{ScsiStatus, Sense, SenseKey, asc};
use lunboot::wire::serial::Sn;

const WRITE: Op = Op::Write { fua: false };
const SECOND: Duration = Duration::from_secs(1);

const ABORT_TASK: u8 = 1;

/// A pair whose disk holds `pattern(1, …)` in its first 32 sectors.
fn prepared() -> Pair {
    let mut pair = Pair::logged_in(Settings::default());
    pair.write(0, &pattern(1, 0, 32));
    pair.flush();
    pair.events.clear();
    pair
}

fn rungs(pair: &Pair) -> Vec<Rung> {
    let rung = |event: &Event| match event {
        Event::Recovering { rung, .. } => Some(*rung),
        _ => None,
    };
    pair.events.iter().filter_map(rung).collect()
}

fn troubles(pair: &Pair) -> Vec<String> {
    let trouble = |event: &Event| match event {
        Event::Trouble { error, .. } => Some(error.to_string()),
        _ => None,
    };
    pair.events.iter().filter_map(trouble).collect()
}

/// The tag of the PDU of the target.
fn itt(pdu: &[u8]) -> Itt {
    Itt(u32::from_be_bytes(pdu[16..20].try_into().unwrap()))
}

fn is_answer(pdu: &[u8]) -> bool {
    [DataIn::OPCODE, ScsiResponse::OPCODE].contains(&(pdu[0] & 0x3f))
}

/// Another answer than this one.
fn management_answer(to: TaskManagementResponse, response: u8) -> Vec<u8> {
    pdu(&TaskManagementResponse { response, ..to }.emit(), &[])
}

/// What becomes of the answer to a command, and of task management functions.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Late {
    /// It never comes.
    Never,
    /// Just before the answer to the abort.
    Before,
    /// After it, when it means nothing any more.
    After,
}

/// Keeps the answers to the first command back as `late` says. `functions` answers task management
/// functions: with the target's own answer, another one, or not at all.
fn keep_back(late: Late, functions: impl Fn(u8) -> Option<Option<u8>> + 'static) -> Rule {
    let mut victim = None;
    let mut kept: Vec<Vec<u8>> = Vec::new();
    let mut asked = Vec::new();
    Box::new(move |direction, bytes| {
        if direction == Direction::Up {
            if let Ok(Request::TaskManagement(request)) =
                Request::parse(bytes.first_chunk().unwrap())
            {
                assert!(request.immediate);
                if request.function == ABORT_TASK {
                    assert_eq!(Some(request.referenced_itt), victim);
                    assert!(request.ref_cmd_sn.is_before(request.cmd_sn));
                }
                asked.push((request.itt, request.function));
            }
            return None;
        }
        if is_answer(bytes) && *victim.get_or_insert(itt(bytes)) == itt(bytes) {
            kept.push(bytes.to_vec());
            return Some(Vec::new());
        }
        let Response::TaskManagement(answer) = response(bytes) else { return None };
        let function = asked.iter().find(|(itt, _)| *itt == answer.itt).expect("it was asked").1;
        let answer = match functions(function) {
            None => bytes.to_vec(),
            Some(None) => return Some(Vec::new()),
            Some(Some(other)) => management_answer(answer, other),
        };
        let mut kept = std::mem::take(&mut kept);
        Some(match late {
            Late::Never => vec![answer],
            Late::Before => {
                kept.push(answer);
                kept
            }
            Late::After => {
                // It must not reach anybody's buffer.
                for pdu in &mut kept {
                    pdu[48..].fill(0xee);
                }
                kept.insert(0, answer);
                kept
            }
        })
    })
}

fn requests() -> [(Op, u64, u32); 3] {
    [(Op::Read, 0, 32), (WRITE, 8, 16), (Op::Flush, 0, 0)]
}

#[test]
fn a_command_without_an_answer_is_aborted_and_sent_again() {
    for (op, start, sectors) in requests() {
        for late in [Late::Never, Late::Before, Late::After] {
            let mut pair = prepared();
            meddle(&mut pair, keep_back(late, |_| None));
            let before = pair.elapsed();
            pair.submit(Tag(1), op, start, &pattern(2, start, sectors));
            // Another one is not disturbed.
            pair.submit(Tag(2), Op::Read, 40, &[0xff; 512]);
            let done = pair.wait_for(Tag(1));
            let took = pair.elapsed() - before;
            assert_eq!(done.result, Ok(()), "{op:?} {late:?}");
            assert_eq!(took, pair.settings.patience.command, "{op:?} {late:?}");
            assert_eq!(rungs(&pair), [Rung::AbortTask], "{op:?} {late:?}");
            if op == Op::Read {
                assert!(done.buffer[..32 * 512] == pattern(1, 0, 32), "{late:?}");
            }
            assert_eq!(pair.wait_for(Tag(2)).buffer[..512], [0; 512]);
            assert_eq!(pair.session.reconnects(), 0, "{op:?} {late:?}");
            // And nothing of it is left.
            pair.write(8, &pattern(3, 8, 16));
            assert!(pair.read(8, 16 * 512) == pattern(3, 8, 16));
        }
    }
}

#[test]
fn an_abort_that_does_not_help_leads_to_a_reset_of_the_unit() {
    const NOT_SUPPORTED: u8 = 5;
    for (answer, after) in [(Some(NOT_SUPPORTED), Duration::ZERO), (None, 10 * SECOND)] {
        for (op, start, sectors) in requests() {
            let mut pair = prepared();
            let functions = move |function| (function == ABORT_TASK).then_some(answer);
            meddle(&mut pair, keep_back(Late::Never, functions));
            let before = pair.elapsed();
            pair.submit(Tag(1), op, start, &pattern(2, start, sectors));
            let done = pair.wait_for(Tag(1));
            assert_eq!(done.result, Ok(()), "{op:?}");
            assert_eq!(pair.elapsed() - before, pair.settings.patience.command + after);
            assert_eq!(rungs(&pair), [Rung::AbortTask, Rung::LogicalUnitReset], "{op:?}");
            assert_eq!(pair.session.reconnects(), 0, "{op:?}");
        }
    }
}

#[test]
fn a_reset_that_does_not_help_leads_to_another_session() {
    const REJECTED: u8 = 255;
    for answer in [Some(REJECTED), None] {
        for (op, start, sectors) in requests() {
            let mut pair = prepared();
            meddle(&mut pair, keep_back(Late::Never, move |_| Some(answer)));
            pair.submit(Tag(1), op, start, &pattern(2, start, sectors));
            let done = pair.wait_for(Tag(1));
            assert_eq!(done.result, Ok(()), "{op:?}");
            assert_eq!(rungs(&pair), [Rung::AbortTask, Rung::LogicalUnitReset], "{op:?}");
            assert_eq!(troubles(&pair), ["no answer to a task management function within 10 s"]);
            assert_eq!(pair.session.reconnects(), 1, "{op:?}");
        }
    }
}

#[test]
fn a_command_that_gets_no_answer_however_often_it_is_sent_climbs_the_ladder() {
    for (op, start, sectors) in requests() {
        let mut pair = prepared();
        // Only task management functions are answered, until a new session looks at the unit.
        const LOOKS: [u8; 2] = [0x00, 0x12];
        let mut is_dead = true;
        meddle(
            &mut pair,
            Box::new(move |direction, bytes| match Request::parse(bytes.first_chunk().unwrap()) {
                Ok(Request::ScsiCommand(command)) if direction == Direction::Up => {
                    is_dead &= !LOOKS.contains(&command.cdb[0]);
                    None
                }
                _ => (is_dead && is_answer(bytes)).then(Vec::new),
            }),
        );
        let before = pair.elapsed();
        pair.submit(Tag(1), op, start, &pattern(2, start, sectors));
        assert_eq!(pair.wait_for(Tag(1)).result, Ok(()), "{op:?}");
        let patience = pair.settings.patience.command;
        assert_eq!(pair.elapsed() - before, patience * (1 + 2 + 4), "{op:?}");
        assert_eq!(rungs(&pair), [Rung::AbortTask, Rung::LogicalUnitReset], "{op:?}");
        assert_eq!(troubles(&pair), ["no answer to a command within 120 s"]);
    }
}

#[test]
fn a_command_that_the_target_waits_for_in_vain_leads_to_another_session() {
    const IMMEDIATE: u8 = 0x40;
    let mut pair = prepared();
    let mut changed = false;
    meddle(
        &mut pair,
        Box::new(move |direction, bytes| {
            // An immediate command does not use its number up, and is answered all the same.
            let first = direction == Direction::Up && !std::mem::replace(&mut changed, true);
            first.then(|| vec![[&[bytes[0] ^ IMMEDIATE], &bytes[1..]].concat()])
        }),
    );
    let before = pair.elapsed();
    pair.submit(Tag(1), Op::Read, 0, &[0; 512]);
    assert!(pair.wait_for(Tag(1)).buffer[..512] == pattern(1, 0, 1));
    pair.submit(Tag(2), WRITE, 8, &pattern(2, 8, 16));
    assert_eq!(pair.wait_for(Tag(2)).result, Ok(()));
    assert_eq!(pair.elapsed() - before, pair.settings.patience.command);
    assert_eq!(rungs(&pair), [Rung::AbortTask]);
    assert_eq!(pair.session.reconnects(), 1);
    assert!(pair.read(8, 16 * 512) == pattern(2, 8, 16));
}

#[test]
fn all_that_was_in_flight_is_sent_again_after_a_reset() {
    let mut pair = prepared();
    // The target answers nothing at all but pings and the reset of the unit.
    let mut is_dead = true;
    meddle(
        &mut pair,
        Box::new(move |direction, bytes| {
            if direction == Direction::Up {
                return None;
            }
            if let Response::TaskManagement(answer) = response(bytes) {
                // The first is the abort.
                let refused = is_dead.then(|| vec![management_answer(answer, 255)]);
                is_dead = false;
                return refused;
            }
            (is_dead && is_answer(bytes)).then(Vec::new)
        }),
    );
    for tag in 0..16u16 {
        let start = u64::from(tag) * 4;
        let op = if tag % 2 == 0 { WRITE } else { Op::Read };
        pair.submit(Tag(tag), op, start, &pattern(5, start, 4));
    }
    pair.run_until("all", |pair| pair.completions.len() == 16);
    assert!(pair.completions.iter().all(|done| done.result.is_ok()));
    assert_eq!(rungs(&pair), [Rung::AbortTask, Rung::LogicalUnitReset]);
    assert_eq!(pair.session.reconnects(), 0);
    for tag in (0..16).step_by(2) {
        assert!(pair.read(tag * 4, 2048) == pattern(5, tag * 4, 4));
    }
}

#[test]
fn an_answer_to_an_abort_that_comes_too_late_means_nothing() {
    let mut pair = prepared();
    let held: Rc<RefCell<Vec<Vec<u8>>>> = Rc::default();
    let mut inner = keep_back(Late::Never, |function| (function == ABORT_TASK).then_some(None));
    let mut asked = None;
    meddle(
        &mut pair,
        Box::new(move |direction, bytes| {
            let mut out = inner(direction, bytes);
            if let (Direction::Up, Ok(Request::TaskManagement(request))) =
                (direction, Request::parse(bytes.first_chunk().unwrap()))
                && request.function == ABORT_TASK
            {
                let exp_cmd_sn = request.cmd_sn;
                let sns = StatusSns { stat_sn: Sn(0), exp_cmd_sn, max_cmd_sn: exp_cmd_sn };
                let answer = TaskManagementResponse { response: 0, itt: request.itt, sns };
                held.borrow_mut().push(management_answer(answer, 0));
                asked = Some(request.itt);
            }
            if direction == Direction::Down
                && let Response::TaskManagement(answer) = response(bytes)
                && Some(answer.itt) != asked
            {
                out.get_or_insert_with(|| vec![bytes.to_vec()]).extend(held.take());
            }
            out
        }),
    );
    pair.submit(Tag(1), Op::Read, 0, &[0; 512]);
    assert!(pair.wait_for(Tag(1)).buffer[..512] == pattern(1, 0, 1));
    assert_eq!(troubles(&pair), [""; 0]);
}

#[test]
fn a_slow_line_is_not_a_stuck_command() {
    for op in [Op::Read, WRITE] {
        let mut settings = Settings::default();
        settings.patience.command = 5 * SECOND;
        settings.weather.window_bytes = 2000;
        settings.weather.delay_max = SECOND / 5;
        let mut pair = Pair::logged_in(settings);
        for tag in 0..8u16 {
            pair.submit(Tag(tag), op, 64 * u64::from(tag), &pattern(1, 0, 64));
        }
        pair.run_until("all", |pair| pair.completions.len() == 8);
        assert!(pair.elapsed() > 15 * SECOND, "it was not slow: {:?}", pair.elapsed());
        assert_eq!(rungs(&pair), [], "{op:?}");
    }
}

#[test]
fn a_disk_that_needs_long_is_given_more_time() {
    let mut settings = Settings::default();
    settings.patience.command = SECOND;
    let mut pair = Pair::logged_in(settings);
    pair.settings.weather.execution_max = 12 * SECOND;
    for tag in 0..8 {
        pair.submit(Tag(tag), Op::Flush, 0, &[]);
    }
    pair.run_until("all", |pair| pair.completions.len() == 8);
    assert!(pair.completions.iter().all(|done| done.result.is_ok()));
    let reason = |event: &Event| match event {
        Event::Recovering { reason: Reason::NoProgress { after, .. }, .. } => Some(*after),
        _ => None,
    };
    let longest = pair.events.iter().filter_map(reason).max().expect("some were too slow");
    assert!(longest >= 2 * SECOND, "{longest:?}");
    assert_eq!(pair.session.reconnects(), 0);
}

// Answers that are no good.

fn status(to: &ScsiResponse, status: ScsiStatus, sense: Option<Sense>) -> Vec<u8> {
    let mut data = Vec::new();
    if let Some(sense) = sense {
        let bytes = sense.emit_fixed();
        data.extend_from_slice(&(bytes.len() as u16).to_be_bytes());
        data.extend_from_slice(&bytes);
    }
    let response = ScsiResponse { status: status.code(), data_bytes: data.len() as u32, ..*to };
    pdu(&response.emit(), &data)
}

/// Answers commands with this status instead, as long as `wanted` says so for each.
fn answer_with(
    code: ScsiStatus,
    sense: Option<Sense>,
    mut wanted: impl FnMut() -> bool + 'static,
) -> Rule {
    Box::new(move |direction, bytes| {
        if direction == Direction::Up {
            return None;
        }
        let Response::ScsiResponse(response) = response(bytes) else { return None };
        wanted().then(|| vec![status(&response, code, sense)])
    })
}

fn so_often(mut times: u32) -> impl FnMut() -> bool {
    move || {
        times = times.saturating_sub(1);
        times > 0
    }
}

#[test]
fn a_busy_target_is_asked_less_and_less_often_and_never_given_up() {
    let mut pair = prepared();
    meddle(&mut pair, answer_with(ScsiStatus::Busy, None, so_often(100)));
    let before = pair.elapsed();
    pair.write(0, &pattern(2, 0, 8));
    let took = pair.elapsed() - before;
    assert!((200 * SECOND..500 * SECOND).contains(&took), "{took:?}");
    assert_eq!((rungs(&pair), troubles(&pair)), (vec![], vec![]));
}

#[test]
fn a_full_target_gets_fewer_commands() {
    let mut pair = prepared();
    let refused = Rc::new(RefCell::new((0, 0)));
    let refused_here = refused.clone();
    let mut open = Vec::new();
    // More than three at once are too many.
    let mut victims = Vec::new();
    meddle(
        &mut pair,
        Box::new(move |direction, bytes| {
            if direction == Direction::Up {
                if let Ok(Request::ScsiCommand(command)) =
                    Request::parse(bytes.first_chunk().unwrap())
                {
                    open.push(command.itt);
                    if open.len() > 3 {
                        victims.push(command.itt);
                    }
                }
                return None;
            }
            let Response::ScsiResponse(response) = response(bytes) else { return None };
            open.retain(|itt| *itt != response.itt);
            let mut counts = refused_here.borrow_mut();
            if victims.contains(&response.itt) {
                counts.0 += 1;
                return Some(vec![status(&response, ScsiStatus::TaskSetFull, None)]);
            }
            counts.1 += 1;
            None
        }),
    );
    for round in 0..20u32 {
        for tag in 0..32u16 {
            pair.submit(Tag(tag), WRITE, u64::from(tag), &pattern(round, u64::from(tag), 1));
        }
        pair.run_until("all", |pair| pair.completions.len() == 32);
        assert!(std::mem::take(&mut pair.completions).iter().all(|done| done.result.is_ok()));
    }
    let (refused, done) = *refused.borrow();
    assert_eq!(done, 20 * 32);
    assert!(refused < done / 4, "{refused} refused of {done}");
    assert_eq!((rungs(&pair), troubles(&pair)), (vec![], vec![]));
}

#[test]
fn a_command_that_is_refused_over_and_over_is_helped_along_and_does_not_fail() {
    let aborted = Sense::new(SenseKey::AbortedCommand, asc::PROTOCOL_SERVICE_CRC_ERROR);
    for (code, sense) in [
        (ScsiStatus::CheckCondition, Some(aborted)),
        (ScsiStatus::CheckCondition, None),
        (ScsiStatus::TaskAborted, None),
        (ScsiStatus::Other(0x22), None),
    ] {
        let mut pair = prepared();
        // The probe of the next session is refused as well, a few times.
        meddle(&mut pair, answer_with(code, sense, so_often(65)));
        pair.write(0, &pattern(2, 0, 8));
        assert_eq!(rungs(&pair)[0], Rung::LogicalUnitReset, "{code:?}");
        assert_eq!(troubles(&pair).len(), 1, "{code:?}: {:?}", troubles(&pair));
        assert!(pair.read(0, 4096) == pattern(2, 0, 8));
    }
}

#[test]
fn what_the_medium_says_is_believed() {
    let mut pair = prepared();
    for (key, code, error) in [
        (SenseKey::MediumError, asc::WRITE_ERROR, "medium error"),
        (SenseKey::HardwareError, asc::INTERNAL_TARGET_FAILURE, "medium error"),
    ] {
        let sense = Some(Sense::new(key, code));
        meddle(&mut pair, answer_with(ScsiStatus::CheckCondition, sense, so_often(2)));
        let done = pair.carry_out(WRITE, 0, &pattern(2, 0, 8));
        assert_eq!(done.result.unwrap_err().to_string(), error);
    }
}

#[test]
fn a_unit_that_tells_of_a_change_is_looked_at_again() {
    const READ_CAPACITY_16: u8 = 0x9e;
    // The probe's answer is changed by so many blocks.
    for (by, told) in
        [(0i64, None), (16, Some("it has 2064 blocks now, 2048 are in use")), (-16, None)]
    {
        let mut pair = prepared();
        let mut victim = None;
        let mut left = 1;
        meddle(
            &mut pair,
            Box::new(move |direction, bytes| {
                if direction == Direction::Up {
                    if let Ok(Request::ScsiCommand(command)) =
                        Request::parse(bytes.first_chunk().unwrap())
                        && command.cdb[0] == READ_CAPACITY_16
                    {
                        victim = Some(command.itt);
                    }
                    return None;
                }
                match response(bytes) {
                    Response::ScsiResponse(response) if left > 0 => {
                        left -= 1;
                        let code = asc::CAPACITY_DATA_HAS_CHANGED;
                        let sense = Some(Sense::new(SenseKey::UnitAttention, code));
                        Some(vec![status(&response, ScsiStatus::CheckCondition, sense)])
                    }
                    Response::DataIn(data_in) if Some(data_in.itt) == victim => {
                        let mut changed = bytes.to_vec();
                        let last = u64::from_be_bytes(changed[48..56].try_into().unwrap());
                        let last = last.checked_add_signed(by).unwrap();
                        changed[48..56].copy_from_slice(&last.to_be_bytes());
                        Some(vec![changed])
                    }
                    _ => None,
                }
            }),
        );
        pair.submit(Tag(1), WRITE, 0, &pattern(2, 0, 8));
        if by < 0 {
            let until = pair.now + 100 * SECOND;
            pair.run_until("some time", |pair| pair.now >= until);
            assert!(pair.completions.is_empty(), "nothing is written to a smaller disk");
            assert!(troubles(&pair)[0].contains("smaller"), "{:?}", troubles(&pair));
            pair.taps.tamper = None;
        }
        assert_eq!(pair.wait_for(Tag(1)).result, Ok(()));
        let changes: Vec<_> = pair
            .events
            .iter()
            .filter_map(|event| match event {
                Event::Changed { what } => Some(what.split(':').next().unwrap()),
                _ => None,
            })
            .collect();
        assert_eq!(changes, told.into_iter().collect::<Vec<_>>());
    }
}

// What the target says unasked.

/// Puts PDUs before the next one that the target sends.
fn insert(pdus: Vec<Vec<u8>>) -> Rule {
    let mut pdus = Some(pdus);
    Box::new(move |direction, bytes| {
        if direction == Direction::Up {
            return None;
        }
        let mut out = pdus.take()?;
        out.push(bytes.to_vec());
        Some(out)
    })
}

fn message(event: u8, parameter2: u16, parameter3: u16, data: &[u8]) -> Vec<u8> {
    let message = AsyncMessage {
        lun: 0,
        sns: StatusSns { stat_sn: Sn(0), exp_cmd_sn: Sn(0), max_cmd_sn: Sn(0) },
        event,
        vcode: 0,
        parameter1: 0,
        parameter2,
        parameter3,
        data_bytes: data.len() as u32,
    };
    pdu(&message.emit(), data)
}

/// What the initiator sends from now on is remembered, beside what `rule` does.
fn remember(pair: &mut Pair, mut rule: Rule) -> Rc<RefCell<Vec<Request>>> {
    let sent: Rc<RefCell<Vec<Request>>> = Rc::default();
    let sent_here = sent.clone();
    meddle(
        pair,
        Box::new(move |direction, bytes| {
            if direction == Direction::Up {
                sent_here.borrow_mut().push(Request::parse(bytes.first_chunk().unwrap()).unwrap());
            }
            rule(direction, bytes)
        }),
    );
    sent
}

fn logouts(sent: &RefCell<Vec<Request>>) -> Vec<LogoutRequest> {
    let logout = |request: &Request| match request {
        Request::Logout(logout) => Some(*logout),
        _ => None,
    };
    sent.borrow().iter().filter_map(logout).collect()
}

#[test]
fn a_target_that_wants_a_logout_gets_it_when_all_is_done() {
    // 1: log out; 4: negotiate again, which a login does.
    for event in [1, 4] {
        for within in [0, 1, 5, 3600] {
            let mut pair = prepared();
            pair.settings.weather.execution_max = SECOND / 2;
            let sent = remember(&mut pair, insert(vec![message(event, 0, within, &[])]));
            for tag in 0..8u16 {
                let start = u64::from(tag) * 4;
                pair.submit(Tag(tag), Op::Read, start, &[0; 2048]);
            }
            let before = pair.elapsed();
            pair.run_until("all", |pair| pair.completions.len() == 8);
            assert!(pair.completions.iter().all(|done| done.result.is_ok()));
            let took = pair.elapsed() - before;
            assert!(took < 10 * SECOND, "{event} {within}: {took:?}");
            pair.run_until("login", |pair| pair.session.reconnects() == 1);
            assert_eq!(troubles(&pair), ["the target asked us to leave"]);
            let logouts = logouts(&sent);
            assert_eq!(logouts.len(), 1);
            assert_eq!(logouts[0].reason, 0);
            // With time enough nothing has to be sent twice.
            let commands = sent.borrow().iter().filter(|request| is_read(request)).count();
            assert_eq!(commands > 8, within <= 1, "{event} {within}: {commands}");
        }
    }
}

#[test]
fn a_session_that_waits_for_the_answer_to_its_logout_rests() {
    let mut pair = prepared();
    let mut busy = so_often(2);
    meddle(
        &mut pair,
        Box::new(move |direction, bytes| {
            if direction == Direction::Up {
                let is_logout = bytes[0] & 0x3f == LogoutRequest::OPCODE;
                return is_logout.then(Vec::new);
            }
            let Response::ScsiResponse(response) = response(bytes) else { return None };
            let busy = busy().then(|| status(&response, ScsiStatus::Busy, None));
            busy.map(|busy| vec![busy, message(1, 0, 1, &[])])
        }),
    );
    let before = pair.elapsed();
    // The write is due again while the session waits. That each moment at which the session wants
    // to be called brings it further is checked by the pair.
    pair.write(0, &pattern(2, 0, 8));
    assert_eq!(pair.elapsed() - before, Settings::default().patience.ping);
    assert_eq!(troubles(&pair), ["no answer to the logout within 5 s"]);
}

fn is_read(request: &Request) -> bool {
    matches!(request, Request::ScsiCommand(command) if command.cdb[0] == 0x28)
}

#[test]
fn a_target_that_drops_the_connection_is_left_and_come_back_to() {
    for event in [2, 3] {
        for (time2wait, waits) in [(0, 0), (7, 7), (60_000, 30)] {
            let mut pair = prepared();
            remember(&mut pair, insert(vec![message(event, time2wait, 0, &[])]));
            let before = pair.elapsed();
            pair.write(0, &pattern(2, 0, 8));
            assert_eq!(pair.elapsed() - before, waits * SECOND, "{event} {time2wait}");
            assert_eq!(pair.session.reconnects(), 1);
            assert_eq!(troubles(&pair), ["the target asked us to leave"]);
        }
    }
}

#[test]
fn other_messages_change_nothing() {
    let mut attention = vec![0, 18];
    attention.extend(Sense::new(SenseKey::UnitAttention, asc::BUS_DEVICE_RESET).emit_fixed());
    for (event, data) in
        [(0, &attention[..]), (0, &[]), (0, &[0]), (0, &[0, 18]), (5, &[]), (255, &[1])]
    {
        let mut pair = prepared();
        remember(&mut pair, insert(vec![message(event, 1, 1, data)]));
        pair.write(0, &pattern(2, 0, 8));
        assert_eq!((rungs(&pair), troubles(&pair)), (vec![], vec![]), "{event}");
        assert_eq!(pair.session.reconnects(), 0);
    }
}

#[test]
fn a_message_about_the_unit_is_a_unit_attention() {
    let mut data = vec![0, 18];
    let sense = Sense::new(SenseKey::UnitAttention, asc::CAPACITY_DATA_HAS_CHANGED);
    data.extend(sense.emit_fixed());
    let mut pair = prepared();
    let sent = remember(&mut pair, insert(vec![message(0, 0, 0, &data)]));
    pair.write(0, &pattern(2, 0, 8));
    pair.settle();
    const READ_CAPACITY_16: u8 = 0x9e;
    let looked = sent
        .borrow()
        .iter()
        .any(|request| matches!(request, Request::ScsiCommand(c) if c.cdb[0] == READ_CAPACITY_16));
    assert!(looked, "the unit was not looked at again");
    assert_eq!(pair.session.reconnects(), 0);
}

fn nop_in(itt: Itt, ttt: Ttt) -> Vec<u8> {
    let sns = StatusSns { stat_sn: Sn(0), exp_cmd_sn: Sn(0), max_cmd_sn: Sn(0) };
    pdu(&NopIn { lun: 0x0003_0000_0000_0000, itt, ttt, sns, data_bytes: 4 }.emit(), b"ping")
}

#[test]
fn a_ping_is_answered_and_only_a_ping() {
    for (ttt, answered) in [(Ttt(0x1234), true), (Ttt(0), true), (Ttt::RESERVED, false)] {
        let mut pair = prepared();
        let sent = remember(&mut pair, insert(vec![nop_in(Itt::RESERVED, ttt)]));
        pair.write(0, &pattern(2, 0, 8));
        pair.settle();
        let nop = |request: &Request| match request {
            Request::NopOut(nop) => Some(*nop),
            _ => None,
        };
        let nops: Vec<NopOut> = sent.borrow().iter().filter_map(nop).collect();
        assert_eq!(nops.len(), usize::from(answered), "{ttt:?}");
        for nop in nops {
            assert_eq!((nop.itt, nop.ttt, nop.lun), (Itt::RESERVED, ttt, 0x0003_0000_0000_0000));
            assert!(nop.immediate);
        }
        assert_eq!(pair.session.reconnects(), 0);
    }
}

#[test]
fn a_rejected_command_is_sent_again_and_a_wrong_protocol_ends_the_session() {
    for (reason, reconnects) in [
        (Reject::COMMAND_NOT_SUPPORTED, 0),
        (Reject::IMMEDIATE_COMMAND_REJECT, 0),
        (Reject::LONG_OPERATION_REJECT, 0),
        (0x0b, 0),
        (0xff, 0),
        (Reject::PROTOCOL_ERROR, 1),
        (Reject::INVALID_PDU_FIELD, 1),
        (Reject::SNACK_REJECT, 1),
        (Reject::TASK_IN_PROGRESS, 1),
        (Reject::WAITING_FOR_LOGOUT, 1),
    ] {
        let mut pair = prepared();
        let mut command = None;
        let mut is_over = false;
        meddle(
            &mut pair,
            Box::new(move |direction, bytes| {
                if direction == Direction::Up {
                    command.get_or_insert_with(|| bytes[..48].to_vec());
                    return None;
                }
                let Response::ScsiResponse(response) = response(bytes) else { return None };
                if std::mem::replace(&mut is_over, true) {
                    return None;
                }
                let data_bytes = 48;
                let reject = Reject { reason, sns: response.sns, data_sn: Sn(0), data_bytes };
                Some(vec![pdu(&reject.emit(), command.as_ref().unwrap())])
            }),
        );
        pair.write(0, &pattern(2, 0, 8));
        assert_eq!(pair.session.reconnects(), reconnects, "reason {reason:#04x}");
        assert_eq!(troubles(&pair).len() as u64, reconnects, "reason {reason:#04x}");
        assert!(pair.read(0, 4096) == pattern(2, 0, 8));
    }
}

#[test]
fn a_rejected_function_is_as_good_as_none() {
    let mut pair = prepared();
    let mut inner = keep_back(Late::Never, |_| None);
    let mut functions = Vec::new();
    meddle(
        &mut pair,
        Box::new(move |direction, bytes| {
            if direction == Direction::Up && bytes[0] & 0x3f == TaskManagementRequest::OPCODE {
                functions.push(bytes[..48].to_vec());
            }
            if direction == Direction::Down
                && let Response::TaskManagement(answer) = response(bytes)
                && bytes.len() == 48
                && functions.len() == 1
            {
                let reason = Reject::IMMEDIATE_COMMAND_REJECT;
                let reject = Reject { reason, sns: answer.sns, data_sn: Sn(0), data_bytes: 48 };
                return Some(vec![pdu(&reject.emit(), &functions[0])]);
            }
            inner(direction, bytes)
        }),
    );
    pair.write(0, &pattern(2, 0, 8));
    assert_eq!(rungs(&pair), [Rung::AbortTask, Rung::LogicalUnitReset]);
    assert_eq!(pair.session.reconnects(), 0);
}

#[test]
fn a_target_that_is_silent_is_told_from_one_that_is_slow() {
    let mut pair = prepared();
    pair.submit(Tag(1), Op::Read, 0, &[0; 512]);
    pair.silence();
    let before = pair.elapsed();
    pair.run_until("another connection", |pair| pair.links.len() > 1);
    assert!(pair.elapsed() - before <= 10 * SECOND);
    let is_silence =
        |event: &Event| matches!(event, Event::Trouble { error: Error::TimedOut { .. }, .. });
    assert!(pair.events.iter().any(is_silence));
    assert!(pair.wait_for(Tag(1)).buffer[..512] == pattern(1, 0, 1));
    assert_eq!(rungs(&pair), []);
}

#[test]
fn on_a_slow_line_commands_wait_for_each_other_and_none_is_stuck() {
    let mut settings = Settings { requests_max: 16, ..Settings::default() };
    settings.initiator.max_burst_bytes = 4096;
    settings.patience.command = 3 * SECOND;
    settings.patience.management = SECOND;
    let mut pair = Pair::logged_in(settings);
    pair.events.clear();
    // About 50 KB a second, where an R2T stands behind the data of reads: 20 s for all.
    pair.settings.weather.window_bytes = 1000;
    pair.settings.weather.delay_max = 40 * SECOND / 1000;
    for tag in 0..16 {
        let start = u64::from(tag) * 128;
        let op = if tag < 2 { WRITE } else { Op::Read };
        pair.submit(Tag(tag), op, start, &pattern(1, start, 128));
    }
    let begun = pair.elapsed();
    pair.run_until("the last completion", |pair| pair.requests_in_flight() == 0);
    assert!(pair.elapsed() - begun > 10 * SECOND, "the line was not slow");
    assert_eq!((rungs(&pair), troubles(&pair)), (vec![], vec![]));
    assert!(pair.completions.iter().all(|completion| completion.result == Ok(())));
}
