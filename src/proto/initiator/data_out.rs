//! Data of writes on its way out: what goes unasked, and what an R2T has asked for (RFC 7143 §11.7,
//! §11.8).

use std::time::Instant;

use super::super::command::Transfer;
use super::super::task::{Chunk, Slot, TaskTable};
use super::{Error, Initiator};
use crate::wire::pdu::{DataOut, Itt, R2t, Ttt};
use crate::wire::serial::Sn;

/// Most R2Ts that may be open for all tasks together; a target that opens more is not sane.
pub(super) const BURSTS_MAX: usize = 4096;

/// Bytes that wait to be sent before data waits for a command: one that comes now, a READ perhaps,
/// goes before all data that is not among them. Enough for a fast line to stay busy for a turn.
const QUEUED_BYTES_MAX: u64 = 256 * 1024;

/// Data that the target is waiting for.
pub(super) struct Burst {
    pub(super) slot: Slot,
    pub(super) itt: Itt,
    pub(super) ttt: Ttt,
    pub(super) lun: u64,
    pub(super) data_sn: Sn,
    /// Next byte to send, from the beginning of the command's data.
    pub(super) offset: u32,
    pub(super) remaining: u32,
}

impl Initiator {
    /// Data had better wait.
    pub(super) fn is_busy(&self) -> bool {
        self.writer.queued_bytes() - self.writer.sent_bytes() >= QUEUED_BYTES_MAX
    }

    /// Turns data that the target waits for into Data-Out PDUs, as long as there is room.
    pub(in super::super) fn pump(&mut self, tasks: &mut TaskTable) {
        // A logout is the last word.
        if !self.is_logged_in() {
            return;
        }
        self.answer_ping();
        while self.writer.has_room(0) && !self.is_busy() {
            let Some(burst) = self.bursts.front_mut() else { return };
            let len = burst.remaining.min(self.negotiated.max_send_bytes);
            let final_pdu = len == burst.remaining;
            let bhs = DataOut {
                final_pdu,
                lun: burst.lun,
                itt: burst.itt,
                ttt: burst.ttt,
                exp_stat_sn: self.exp_stat_sn,
                data_sn: burst.data_sn,
                buffer_offset: burst.offset,
                data_bytes: len,
            }
            .emit();
            let slot = burst.slot;
            let task = tasks.task_mut(slot);
            let chunk = Chunk { slot, start: task.base + burst.offset, len };
            burst.data_sn = burst.data_sn.next();
            burst.offset += len;
            burst.remaining -= len;
            let is_asked = burst.ttt != Ttt::RESERVED;
            let flight = task.flight.as_mut().expect("a burst belongs to a task in flight");
            flight.unsent += 1;
            if final_pdu {
                flight.bursts -= 1;
                flight.r2ts -= u32::from(is_asked);
                self.bursts.pop_front();
            }
            self.writer.push_payload(&bhs, chunk, tasks.bytes(chunk));
        }
    }

    pub(super) fn handle_r2t(
        &mut self,
        r2t: &R2t,
        now: Instant,
        tasks: &mut TaskTable,
    ) -> Result<(), Error> {
        self.window.update(&r2t.sns);
        if self.is_void(r2t.itt, tasks) {
            return Ok(());
        }
        let misbehaved = |rule| Err(Error::PeerMisbehaved { pdu: "Ready To Transfer", rule });
        let Some(slot) = tasks.find(r2t.itt) else { return misbehaved("belongs to no command") };
        let task = tasks.task_mut(slot);
        let Transfer::Out(total) = task.command.transfer else {
            return misbehaved("asks for the data of a command that writes nothing");
        };
        let flight = task.flight.as_mut().expect("the task was found in flight");
        let end = r2t.buffer_offset.checked_add(r2t.desired_bytes);
        if r2t.desired_bytes == 0 || end.is_none_or(|end| end > total) {
            return misbehaved("asks for bytes outside the command's data");
        }
        if r2t.desired_bytes > self.negotiated.max_burst_bytes {
            return misbehaved("asks for more than MaxBurstLength");
        }
        if r2t.ttt == Ttt::RESERVED {
            return misbehaved("has the reserved Target Transfer Tag");
        }
        if flight.outcome.is_some() || r2t.r2t_sn != flight.r2t_sn {
            return misbehaved("has an R2TSN out of order");
        }
        // DataSequenceInOrder is Yes, so each begins where the one before has ended.
        if r2t.buffer_offset != flight.asked {
            return misbehaved("leaves a gap, or asks for the same bytes again");
        }
        if flight.r2ts >= self.negotiated.max_outstanding_r2t || self.bursts.len() >= BURSTS_MAX {
            return misbehaved("is one of too many at once");
        }
        flight.r2t_sn = flight.r2t_sn.next();
        flight.asked += r2t.desired_bytes;
        flight.r2ts += 1;
        flight.bursts += 1;
        self.bursts.push_back(Burst {
            slot,
            itt: r2t.itt,
            ttt: r2t.ttt,
            lun: r2t.lun,
            data_sn: Sn(0),
            offset: r2t.buffer_offset,
            remaining: r2t.desired_bytes,
        });
        self.moved(r2t.itt, now, tasks);
        Ok(())
    }
}
