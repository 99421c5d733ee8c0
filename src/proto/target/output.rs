//! What a connection has to send: PDUs in their order, with the buffers that their data is in.

use super::buffers::{BufferName, Buffers};
use crate::wire::frame::{Digests, Writer};
use crate::wire::pdu::{Bhs, DATA_SEGMENT_BYTES_MAX};

/// Queue, and the memory of the connection.
#[derive(Debug)]
pub(super) struct Output {
    writer: Writer<Payload>,
    pub(super) buffers: Buffers,
    /// Bytes of payload that are queued.
    payload_bytes: usize,
    /// A ping waits behind other PDUs.
    ping_waits: bool,
    /// Something of them has gone since that was last asked.
    moved: bool,
}

/// A part of a buffer, as it goes out.
#[derive(Clone, Copy, Debug)]
pub(super) struct Payload {
    buffer: BufferName,
    start: u32,
    length: u32,
    /// The buffer is free when this part has gone.
    last: bool,
}

/// Room for headers and small data: about 2000 answers.
const STAGE_BYTES: usize = 160 * 1024;
/// Pieces of the queue: with digests two for each Data-In.
const PIECES: usize = 4096;
/// The same before the end of a login, when nothing but its answers is sent, one at a time.
const LOGIN_STAGE_BYTES: usize = 24 * 1024;
const LOGIN_PIECES: usize = 8;
/// No further command is executed while more payload than this waits.
const PAYLOAD_BYTES_MAX: usize = 4 << 20;
/// Commands are executed only while so much of the stage is free: the Data-In headers of the
/// longest transfer (8 MiB) to an initiator that takes 8 KiB at a time, or sense data.
const COMMAND_STAGE_BYTES: usize = 64 * 1024;
/// An answer to anything else: the echo of a NOP-Out or a text.
const ANSWER_STAGE_BYTES: usize = 16 * 1024;

impl Output {
    /// For a login.
    pub(super) fn new() -> Output {
        Output {
            writer: Writer::new(LOGIN_STAGE_BYTES, LOGIN_PIECES),
            buffers: Buffers::default(),
            payload_bytes: 0,
            ping_waits: false,
            moved: false,
        }
    }

    /// For the session that the login has led to.
    pub(super) fn agree(&mut self, digests: Digests) {
        self.writer.enlarge(STAGE_BYTES, PIECES);
        self.writer.agree(digests);
    }

    /// A command may be executed.
    pub(super) fn has_room(&self) -> bool {
        self.payload_bytes < PAYLOAD_BYTES_MAX && self.writer.has_room(COMMAND_STAGE_BYTES)
    }

    /// A PDU may be handled that is answered at once.
    pub(super) fn has_room_for_answer(&self) -> bool {
        self.writer.has_room(ANSWER_STAGE_BYTES)
    }

    /// Queues a PDU with data that is copied.
    pub(super) fn push(&mut self, bhs: &Bhs, data: &[u8]) {
        self.writer.push(bhs, data);
    }

    /// Queues a ping, and watches whether what stands before it moves.
    pub(super) fn push_ping(&mut self, bhs: &Bhs) {
        (self.ping_waits, self.moved) = (!self.writer.is_empty(), false);
        self.writer.push(bhs, &[]);
    }

    /// Whether a ping could not yet be answered, because what stands before it is still going.
    pub(super) fn take_moved(&mut self) -> bool {
        std::mem::take(&mut self.moved)
    }

    /// Queues a PDU with a part of a buffer; with the last part the buffer is given up.
    pub(super) fn push_part(
        &mut self,
        bhs: &Bhs,
        buffer: BufferName,
        start: u32,
        length: u32,
        last: bool,
    ) {
        debug_assert!(length <= DATA_SEGMENT_BYTES_MAX);
        let data = &self.buffers.get(buffer)[start as usize..][..length as usize];
        self.writer.push_payload(bhs, Payload { buffer, start, length, last }, data);
        self.payload_bytes += length as usize;
    }

    pub(super) fn is_empty(&self) -> bool {
        self.writer.is_empty()
    }

    pub(super) fn gather<'a>(&'a self, slices: &mut [&'a [u8]]) -> usize {
        self.writer.gather(slices, |payload| {
            &self.buffers.get(payload.buffer)[payload.start as usize..][..payload.length as usize]
        })
    }

    pub(super) fn sent(&mut self, count: usize) {
        let Output { writer, buffers, payload_bytes, .. } = self;
        writer.sent(count, |payload| {
            *payload_bytes -= payload.length as usize;
            if payload.last {
                buffers.release(payload.buffer);
            }
        });
        if self.ping_waits && count > 0 {
            (self.moved, self.ping_waits) = (true, !self.writer.is_empty());
        }
    }
}
