//! The tags of an NBD device and their buffers, and where incoming bytes wait to be sorted.

use crate::proto::disk::{Buffer, Op};
use crate::wire::nbd as abi;

/// One request of the kernel and the buffer that serves it.
pub(super) struct Slot {
    /// `None` while a request is handed out.
    pub(super) buffer: Option<Buffer>,
    pub(super) cookie: u64,
    pub(super) op: Op,
    /// Where the current piece begins.
    pub(super) offset_bytes: u64,
    /// Length of the whole request, of what is done of it, and of the current piece.
    pub(super) length: usize,
    pub(super) done: usize,
    pub(super) piece: usize,
    /// All data of a request that is longer than a piece.
    pub(super) long: Option<Box<[u8]>>,
    pub(super) header: [u8; abi::REPLY_BYTES],
    /// Bytes of data behind the header of the reply.
    pub(super) reply_data: usize,
}

impl Slot {
    pub(super) fn new(buffer_bytes: u32) -> Self {
        Slot {
            buffer: Some(vec![0; buffer_bytes as usize].into_boxed_slice()),
            cookie: 0,
            op: Op::Flush,
            offset_bytes: 0,
            length: 0,
            done: 0,
            piece: 0,
            long: None,
            header: [0; abi::REPLY_BYTES],
            reply_data: 0,
        }
    }

    /// All data of the request in one piece.
    fn data(&self) -> &[u8] {
        match (&self.long, &self.buffer) {
            (Some(long), _) => long,
            (None, Some(buffer)) => buffer,
            (None, None) => &[],
        }
    }

    pub(super) fn reply_data(&self) -> &[u8] {
        &self.data()[..self.reply_data]
    }

    /// Where the rest of the payload goes.
    pub(super) fn payload_space(&mut self, received: usize) -> &mut [u8] {
        let data = match (&mut self.long, &mut self.buffer) {
            (Some(long), _) => long,
            (None, Some(buffer)) => buffer,
            (None, None) => return &mut [],
        };
        &mut data[received..self.length]
    }
}

/// Bytes that were received before it was known where they belong: headers, and the beginning of a
/// payload.
pub(super) struct Staged {
    bytes: [u8; STAGED_BYTES],
    start: usize,
    pub(super) end: usize,
}

impl Staged {
    pub(super) fn new() -> Self {
        Staged { bytes: [0; STAGED_BYTES], start: 0, end: 0 }
    }

    pub(super) fn has_header(&self) -> bool {
        self.end - self.start >= abi::REQUEST_BYTES
    }

    /// Moves bytes out, as many as there are and fit.
    pub(super) fn take(&mut self, to: &mut [u8]) -> usize {
        let count = to.len().min(self.end - self.start);
        to[..count].copy_from_slice(&self.bytes[self.start..self.start + count]);
        self.start += count;
        count
    }

    /// Room for more; less than a header is kept when this is called.
    pub(super) fn space(&mut self) -> &mut [u8] {
        self.bytes.copy_within(self.start..self.end, 0);
        self.end -= self.start;
        self.start = 0;
        &mut self.bytes[self.end..]
    }
}

/// Some headers, so that a burst of reads costs one system call; few enough that what is copied of
/// a payload does not count.
const STAGED_BYTES: usize = 16 * abi::REQUEST_BYTES;
