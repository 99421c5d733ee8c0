//! Both sides together: what a machine does with its disk, while the fuzzer spoils the line.

use std::cell::RefCell;
use std::collections::VecDeque;
use std::rc::Rc;
use std::time::Duration;

use lunboot::proto::disk::{Op, Tag};

use super::common::{Pair, Settings, pattern};
use super::input::Input;

const REQUESTS_MAX: usize = 16;

/// Requests, faults of the network and damaged PDUs in any order; then peace. Every request
/// completes, exactly once, and the session works.
pub fn operations(bytes: &[u8]) {
    let settings =
        Settings { disk_bytes: 256 * 1024, requests_max: REQUESTS_MAX, ..Settings::default() };
    let mut pair = Pair::logged_in(settings);
    let changes: Rc<RefCell<VecDeque<(u16, u8)>>> = Rc::default();
    let pending = changes.clone();
    pair.taps.tamper = Some(Box::new(move |_, mut pdu, _, _| {
        if let Some((at, change)) = pending.borrow_mut().pop_front() {
            let at = usize::from(at) % pdu.len();
            pdu[at] ^= change;
        }
        pdu
    }));
    let mut input = Input::new(bytes);
    let mut tag = 0;
    // Each operation may cost a login or two.
    for _ in 0..64 {
        if input.is_empty() {
            break;
        }
        match input.byte() % 8 {
            0 | 1 if pair.requests_in_flight() < REQUESTS_MAX => {
                let op = match input.byte() % 5 {
                    0 => Op::Flush,
                    1 => Op::Write { fua: true },
                    2 => Op::Write { fua: false },
                    _ => Op::Read,
                };
                let sectors = if op == Op::Flush { 0 } else { 1 + u32::from(input.byte()) };
                let start = u64::from(input.byte());
                pair.submit(Tag(tag), op, start, &pattern(1, start, sectors));
                tag += 1;
            }
            2 => changes.borrow_mut().push_back((input.number() as u16, input.byte())),
            3 => pair.cut(),
            4 => pair.silence(),
            5 => pair.pass_some_time(Duration::from_millis(u64::from(input.byte()) * 100)),
            6 => pair.settle(),
            _ => {
                pair.step();
            }
        }
    }
    changes.borrow_mut().clear();
    pair.run_until("rest", |pair| pair.requests_in_flight() == 0);
    // Damage without digests may have ended a request with an error, but not the session.
    pair.write(0, &pattern(2, 0, 8));
    assert_eq!(pair.read(0, 8 * 512), pattern(2, 0, 8));
}
