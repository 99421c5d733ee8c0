//! TCP stream to PDUs and back: additional headers, padding, CRC32C digests, any split of the
//! bytes (RFC 7143 §11.2, §13.1).
//!
//! Contract of [`Reader`]: bytes come in through [`Reader::space`] and [`Reader::filled`]. After
//! [`Reader::poll_header`] has given a header, its owner moves the data segment with
//! [`Reader::take`], or receives it straight into its destination as long as [`Reader::direct`]
//! says that nothing is left in the stream buffer, and reports that with [`Reader::took_direct`].
//! [`Reader::poll_end`] then checks padding and digest and makes way for the next header.
//!
//! Contract of [`Writer`]: headers and small data are copied into its stage, large payloads are
//! only named (`P`) and looked up when the slices are gathered. A named payload must stay as it is
//! until [`Writer::sent`] has handed its name back.

use std::collections::VecDeque;

use super::Malformed;
use super::pdu::{BHS_BYTES, Bhs, Header};

/// Which digests are in force (RFC 7143 §13.1).
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Digests {
    /// Four bytes after the header segments.
    pub header: bool,
    /// Four bytes after the padded data segment, if there is one.
    pub data: bool,
}

/// The longest header with everything that belongs to it: basic, additional, digest.
pub const HEADER_BYTES_MAX: usize = BHS_BYTES + 255 * 4 + DIGEST_BYTES;

const DIGEST_BYTES: usize = 4;

/// Why a stream cannot be cut into PDUs any more. The connection is lost.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum FrameError {
    /// A length that was not agreed on.
    Malformed(Malformed),
    /// The header digest is wrong, so not even the length can be trusted.
    HeaderDigest,
}

/// How a data segment ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum DataEnd {
    /// As it should.
    Good,
    /// Its digest is wrong; the next header is where it should be.
    DigestError,
}

/// Cuts the received stream into PDUs.
#[derive(Debug)]
pub struct Reader {
    digests: Digests,
    data_segment_bytes_max: u32,
    stream: Box<[u8]>,
    start: usize,
    end: usize,
    state: State,
}

#[derive(Debug)]
enum State {
    Header,
    /// `digest`: a data digest follows, which an empty data segment never has.
    Data {
        remaining: u32,
        padding: u8,
        digest: bool,
        crc: u32,
    },
}

impl Reader {
    /// A reader with a stream buffer of `stream_bytes` (at least [`HEADER_BYTES_MAX`]) that accepts
    /// data segments of up to `data_segment_bytes_max`.
    pub fn new(stream_bytes: usize, data_segment_bytes_max: u32) -> Reader {
        Reader {
            digests: Digests::default(),
            data_segment_bytes_max,
            stream: vec![0; stream_bytes.max(HEADER_BYTES_MAX)].into(),
            start: 0,
            end: 0,
            state: State::Header,
        }
    }

    /// What was agreed on at login holds from the next header on.
    pub fn agree(&mut self, digests: Digests, data_segment_bytes_max: u32) {
        self.digests = digests;
        self.data_segment_bytes_max = data_segment_bytes_max;
    }

    /// More room for the stream; what is there stays.
    pub fn enlarge(&mut self, stream_bytes: usize) {
        let mut stream = vec![0; stream_bytes.max(self.stream.len())];
        let length = self.end - self.start;
        stream[..length].copy_from_slice(&self.stream[self.start..self.end]);
        self.stream = stream.into();
        (self.start, self.end) = (0, length);
    }

    /// Forgets everything: for the next connection.
    pub fn reset(&mut self, data_segment_bytes_max: u32) {
        self.digests = Digests::default();
        self.data_segment_bytes_max = data_segment_bytes_max;
        (self.start, self.end, self.state) = (0, 0, State::Header);
    }

    /// Where received bytes go. Empty only if the owner has not drained what is there.
    pub fn space(&mut self) -> &mut [u8] {
        if self.start == self.end {
            (self.start, self.end) = (0, 0);
        } else if self.stream.len() - self.end < HEADER_BYTES_MAX {
            self.stream.copy_within(self.start..self.end, 0);
            (self.start, self.end) = (0, self.end - self.start);
        }
        &mut self.stream[self.end..]
    }

    /// `count` bytes were put at the beginning of [`Reader::space`].
    pub fn filled(&mut self, count: usize) {
        assert!(count <= self.stream.len() - self.end, "more bytes than there was space for");
        self.end += count;
    }

    /// The next header, when all of it is there. Its data segment must be taken before the next.
    pub fn poll_header(&mut self) -> Result<Option<(Header, Bhs)>, FrameError> {
        debug_assert!(matches!(self.state, State::Header), "the data segment comes first");
        let available = &self.stream[self.start..self.end];
        let Some(bhs) = available.first_chunk::<BHS_BYTES>() else { return Ok(None) };
        let header = Header::parse(bhs);
        let segments_bytes = BHS_BYTES + header.ahs_bytes as usize;
        let digest_bytes = if self.digests.header { DIGEST_BYTES } else { 0 };
        let Some(whole) = available.get(..segments_bytes + digest_bytes) else { return Ok(None) };
        let (segments, digest) = whole.split_at(segments_bytes);
        if self.digests.header && crc32c::crc32c(segments).to_le_bytes() != *digest {
            return Err(FrameError::HeaderDigest);
        }
        if header.data_bytes > self.data_segment_bytes_max {
            let rule = "must be at most the MaxRecvDataSegmentLength that was declared";
            return Err(FrameError::Malformed(Malformed::number(
                "iSCSI header",
                "DataSegmentLength",
                header.data_bytes,
                rule,
            )));
        }
        let bhs = *bhs;
        self.start += whole.len();
        self.state = State::Data {
            remaining: header.data_bytes,
            padding: padding_bytes(header.data_bytes) as u8,
            digest: self.digests.data && header.data_bytes > 0,
            crc: 0,
        };
        Ok(Some((header, bhs)))
    }

    /// Bytes of the current data segment that were not taken yet.
    pub fn data_remaining(&self) -> u32 {
        match self.state {
            State::Header => 0,
            State::Data { remaining, .. } => remaining,
        }
    }

    /// Moves what is there of the data segment to the beginning of `into`; returns how much.
    pub fn take(&mut self, into: &mut [u8]) -> usize {
        let State::Data { remaining, crc, .. } = &mut self.state else { return 0 };
        let count = into.len().min(self.end - self.start).min(*remaining as usize);
        let bytes = &self.stream[self.start..self.start + count];
        into[..count].copy_from_slice(bytes);
        if self.digests.data {
            *crc = crc32c::crc32c_append(*crc, bytes);
        }
        *remaining -= count as u32;
        self.start += count;
        count
    }

    /// Drops what is there of the data segment.
    pub fn skip(&mut self) {
        let State::Data { remaining, crc, .. } = &mut self.state else { return };
        let count = (self.end - self.start).min(*remaining as usize);
        if self.digests.data {
            *crc = crc32c::crc32c_append(*crc, &self.stream[self.start..self.start + count]);
        }
        *remaining -= count as u32;
        self.start += count;
    }

    /// How many bytes of the data segment may be received past the stream buffer, straight into
    /// their destination: all that are missing, if nothing is buffered, else none.
    pub fn direct(&self) -> u32 {
        if self.start == self.end { self.data_remaining() } else { 0 }
    }

    /// The next bytes of the data segment were received straight into their destination.
    pub fn took_direct(&mut self, bytes: &[u8]) {
        let State::Data { remaining, crc, .. } = &mut self.state else {
            panic!("there is no data segment to receive");
        };
        assert!(bytes.len() <= *remaining as usize, "more bytes than the data segment has");
        if self.digests.data {
            *crc = crc32c::crc32c_append(*crc, bytes);
        }
        *remaining -= bytes.len() as u32;
    }

    /// Ends the PDU when its data segment was taken and padding and digest are there.
    pub fn poll_end(&mut self) -> Option<DataEnd> {
        let State::Data { remaining: 0, padding, digest, crc } = self.state else { return None };
        let padding = usize::from(padding);
        let digest_bytes = if digest { DIGEST_BYTES } else { 0 };
        let available = &self.stream[self.start..self.end];
        let trailer = available.get(..padding + digest_bytes)?;
        let (pad, sent) = trailer.split_at(padding);
        let good = !digest || crc32c::crc32c_append(crc, pad).to_le_bytes() == *sent;
        self.start += trailer.len();
        self.state = State::Header;
        Some(if good { DataEnd::Good } else { DataEnd::DigestError })
    }
}

/// Zero bytes after a data segment of this length (RFC 7143 §11.2.1).
fn padding_bytes(data_bytes: u32) -> usize {
    (data_bytes.wrapping_neg() & 3) as usize
}

/// Queues PDUs for sending. `P` names a payload that stays where it is until it was sent.
#[derive(Debug)]
pub struct Writer<P> {
    digests: Digests,
    stage: Vec<u8>,
    stage_bytes_max: usize,
    pieces: VecDeque<Piece<P>>,
    /// Bytes of the first piece that have gone.
    gone: usize,
    queued_bytes: u64,
    sent_bytes: u64,
}

#[derive(Debug)]
enum Piece<P> {
    Staged { start: usize, len: usize },
    Payload { name: P, len: usize },
}

impl<P> Piece<P> {
    fn len(&self) -> usize {
        match self {
            Piece::Staged { len, .. } | Piece::Payload { len, .. } => *len,
        }
    }
}

/// What one PDU may need in the stage beside its own data: header, digests, padding.
const PDU_OVERHEAD_BYTES: usize = BHS_BYTES + 2 * DIGEST_BYTES + 3;

impl<P: Copy> Writer<P> {
    /// A writer with a stage of `stage_bytes` and room for `pieces` pieces; neither grows as long
    /// as its owner asks [`Writer::has_room`] first.
    pub fn new(stage_bytes: usize, pieces: usize) -> Writer<P> {
        Writer {
            digests: Digests::default(),
            stage: Vec::with_capacity(stage_bytes),
            stage_bytes_max: stage_bytes,
            pieces: VecDeque::with_capacity(pieces),
            gone: 0,
            queued_bytes: 0,
            sent_bytes: 0,
        }
    }

    /// What was agreed on at login holds from the next PDU on.
    pub fn agree(&mut self, digests: Digests) {
        self.digests = digests;
    }

    /// More room, as in [`Writer::new`]; what is there stays.
    pub fn enlarge(&mut self, stage_bytes: usize, pieces: usize) {
        self.stage.reserve(stage_bytes.saturating_sub(self.stage.len()));
        self.stage_bytes_max = self.stage_bytes_max.max(stage_bytes);
        self.pieces.reserve(pieces.saturating_sub(self.pieces.len()));
    }

    /// Forgets everything: for the next connection. Hands back the names that were not sent.
    pub fn reset(&mut self, mut unsent: impl FnMut(P)) {
        for piece in self.pieces.drain(..) {
            if let Piece::Payload { name, .. } = piece {
                unsent(name);
            }
        }
        self.digests = Digests::default();
        self.stage.clear();
        self.gone = 0;
        (self.queued_bytes, self.sent_bytes) = (0, 0);
    }

    /// Bytes that were ever queued on this connection.
    pub fn queued_bytes(&self) -> u64 {
        self.queued_bytes
    }

    /// Bytes of them that have gone.
    pub fn sent_bytes(&self) -> u64 {
        self.sent_bytes
    }

    /// Nothing waits to be sent.
    pub fn is_empty(&self) -> bool {
        self.pieces.is_empty()
    }

    /// One more PDU with `data_bytes` of staged data fits without allocating.
    pub fn has_room(&self, data_bytes: usize) -> bool {
        let needed = PDU_OVERHEAD_BYTES + data_bytes;
        self.stage.len() + needed <= self.stage_bytes_max
            && self.pieces.len() + 3 <= self.pieces.capacity()
    }

    /// Queues a PDU whose data, if any, is copied into the stage.
    pub fn push(&mut self, bhs: &Bhs, data: &[u8]) {
        debug_assert_eq!(Header::parse(bhs).data_bytes as usize, data.len());
        self.stage_header(bhs);
        if data.is_empty() {
            return;
        }
        self.stage(data);
        self.stage_trailer(data);
    }

    /// Queues a PDU whose data stays where it is. `data` is read now only for its digest.
    pub fn push_payload(&mut self, bhs: &Bhs, name: P, data: &[u8]) {
        debug_assert_eq!(Header::parse(bhs).data_bytes as usize, data.len());
        debug_assert!(!data.is_empty());
        self.stage_header(bhs);
        self.pieces.push_back(Piece::Payload { name, len: data.len() });
        self.queued_bytes += data.len() as u64;
        self.stage_trailer(data);
    }

    /// Gathers what is to be sent next into `slices`; returns how many of them were filled.
    pub fn gather<'a>(&'a self, slices: &mut [&'a [u8]], lookup: impl Fn(P) -> &'a [u8]) -> usize {
        let mut gone = self.gone;
        let mut count = 0;
        for (slice, piece) in slices.iter_mut().zip(&self.pieces) {
            let bytes = match piece {
                Piece::Staged { start, len } => &self.stage[*start..*start + *len],
                Piece::Payload { name, .. } => lookup(*name),
            };
            *slice = &bytes[gone..];
            gone = 0;
            count += 1;
        }
        count
    }

    /// `count` bytes of the gathered slices have gone. Hands back each name whose payload is out.
    pub fn sent(&mut self, count: usize, mut done: impl FnMut(P)) {
        self.gone += count;
        self.sent_bytes += count as u64;
        while let Some(first) = self.pieces.front() {
            if self.gone < first.len() {
                return;
            }
            self.gone -= first.len();
            if let Some(Piece::Payload { name, .. }) = self.pieces.pop_front() {
                done(name);
            }
        }
        assert_eq!(self.gone, 0, "more bytes were sent than there were");
        self.stage.clear();
    }

    fn stage_header(&mut self, bhs: &Bhs) {
        self.stage(bhs);
        if self.digests.header {
            self.stage(&crc32c::crc32c(bhs).to_le_bytes());
        }
    }

    fn stage_trailer(&mut self, data: &[u8]) {
        let padding = &[0; 3][..padding_bytes(data.len() as u32)];
        self.stage(padding);
        if self.digests.data {
            let crc = crc32c::crc32c_append(crc32c::crc32c(data), padding);
            self.stage(&crc.to_le_bytes());
        }
    }

    fn stage(&mut self, bytes: &[u8]) {
        if bytes.is_empty() {
            return;
        }
        let start = self.stage.len();
        self.stage.extend_from_slice(bytes);
        self.queued_bytes += bytes.len() as u64;
        match self.pieces.back_mut() {
            // Consecutive headers become one slice, and so one entry of the system call.
            Some(Piece::Staged { len, .. }) => *len += bytes.len(),
            _ => self.pieces.push_back(Piece::Staged { start, len: bytes.len() }),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::wire::pdu::{DataIn, Itt, NopIn, Residual, StatusSns, Ttt};
    use crate::wire::serial::Sn;

    fn data_in(data_bytes: u32) -> Bhs {
        DataIn {
            final_pdu: true,
            acknowledge: false,
            status: None,
            lun: 0,
            itt: Itt(1),
            ttt: Ttt::RESERVED,
            sns: StatusSns::default(),
            data_sn: Sn(0),
            buffer_offset: 0,
            residual: Residual::None,
            data_bytes,
        }
        .emit()
    }

    fn nop_in() -> Bhs {
        let sns = StatusSns::default();
        NopIn { lun: 0, itt: Itt(1), ttt: Ttt::RESERVED, sns, data_bytes: 0 }.emit()
    }

    const BOTH: Digests = Digests { header: true, data: true };

    /// A header, seven bytes of payload, another header, in both ways of sending.
    fn stream(digests: Digests) -> Vec<u8> {
        let payload = *b"payload";
        let mut writer = Writer::new(4096, 16);
        writer.agree(digests);
        writer.push_payload(&data_in(7), 'p', &payload);
        writer.push(&nop_in(), &[]);
        writer.push(&data_in(7), b"another");
        let mut slices = [&[][..]; 8];
        let count = writer.gather(&mut slices, |name| {
            assert_eq!(name, 'p');
            &payload
        });
        slices[..count].concat()
    }

    /// Reads the stream in pieces of `step` bytes; returns the payloads and how each PDU ended.
    fn read(bytes: &[u8], digests: Digests, step: usize) -> Vec<(Vec<u8>, DataEnd)> {
        let mut reader = Reader::new(2048, 8192);
        reader.agree(digests, 8192);
        let mut pdus = Vec::new();
        let mut current: Option<(Vec<u8>, usize)> = None;
        for piece in bytes.chunks(step) {
            reader.space()[..piece.len()].copy_from_slice(piece);
            reader.filled(piece.len());
            loop {
                if current.is_none() {
                    let Some((header, _)) = reader.poll_header().unwrap() else { break };
                    current = Some((vec![0; header.data_bytes as usize], 0));
                }
                let (data, taken) = current.as_mut().unwrap();
                *taken += reader.take(&mut data[*taken..]);
                let Some(end) = reader.poll_end() else { break };
                pdus.push((current.take().unwrap().0, end));
            }
        }
        assert!(current.is_none());
        pdus
    }

    #[test]
    fn any_split_gives_the_same_pdus() {
        for digests in [Digests::default(), BOTH] {
            let bytes = stream(digests);
            for step in 1..bytes.len() {
                let pdus = read(&bytes, digests, step);
                let expected = [&b"payload"[..], b"", b"another"];
                assert_eq!(pdus.len(), 3, "in steps of {step}");
                for ((data, end), expected) in pdus.iter().zip(expected) {
                    assert_eq!((&data[..], *end), (expected, DataEnd::Good));
                }
            }
        }
    }

    #[test]
    fn padding_and_digests_stand_where_the_standard_puts_them() {
        let bytes = stream(BOTH);
        assert_eq!(bytes.len(), 3 * (48 + 4) + 2 * (7 + 1 + 4));
        assert_eq!(bytes[48..52], crc32c::crc32c(&bytes[..48]).to_le_bytes());
        assert_eq!(bytes[52..60], *b"payload\0");
        assert_eq!(bytes[60..64], crc32c::crc32c(b"payload\0").to_le_bytes());
    }

    #[test]
    fn the_digest_of_32_zero_bytes_is_that_of_rfc_7143() {
        // RFC 7143 Appendix A.4: the CRC of 32 bytes of zeroes goes onto the wire as aa 36 91 8a.
        assert_eq!(crc32c::crc32c(&[0; 32]).to_le_bytes(), [0xaa, 0x36, 0x91, 0x8a]);
    }

    #[test]
    fn one_wrong_bit_is_found_in_header_and_data() {
        let good = stream(BOTH);
        let mut reader = Reader::new(2048, 8192);
        reader.agree(BOTH, 8192);
        let mut bad = good.clone();
        bad[20] ^= 1;
        reader.space()[..bad.len()].copy_from_slice(&bad);
        reader.filled(bad.len());
        assert_eq!(reader.poll_header(), Err(FrameError::HeaderDigest));

        let mut bad = good;
        bad[54] ^= 0x80;
        let ends: Vec<_> = read(&bad, BOTH, 64).into_iter().map(|(_, end)| end).collect();
        assert_eq!(ends, [DataEnd::DigestError, DataEnd::Good, DataEnd::Good]);
    }

    #[test]
    fn a_segment_longer_than_declared_is_refused_before_any_of_it_is_taken() {
        let mut reader = Reader::new(2048, 8192);
        let bhs = data_in(8193);
        reader.space()[..48].copy_from_slice(&bhs);
        reader.filled(48);
        assert!(matches!(reader.poll_header(), Err(FrameError::Malformed(_))));
    }

    #[test]
    fn data_can_be_received_past_the_stream_buffer() {
        let bytes = stream(BOTH);
        let mut reader = Reader::new(2048, 8192);
        reader.agree(BOTH, 8192);
        reader.space()[..54].copy_from_slice(&bytes[..54]);
        reader.filled(54);
        reader.poll_header().unwrap().unwrap();
        let mut data = [0; 7];
        assert_eq!(reader.direct(), 0, "two bytes are still in the stream buffer");
        assert_eq!(reader.take(&mut data), 2);
        assert_eq!(reader.direct(), 5);
        reader.took_direct(&bytes[54..59]);
        assert_eq!(reader.poll_end(), None, "the trailer is missing");
        reader.space()[..5].copy_from_slice(&bytes[59..64]);
        reader.filled(5);
        assert_eq!(reader.poll_end(), Some(DataEnd::Good));
    }

    #[test]
    fn a_partial_send_goes_on_where_it_stopped() {
        let whole = stream(BOTH);
        let payload = *b"payload";
        for step in 1..whole.len() {
            let mut writer = Writer::new(4096, 16);
            writer.agree(BOTH);
            writer.push_payload(&data_in(7), (), &payload);
            writer.push(&nop_in(), &[]);
            writer.push(&data_in(7), b"another");
            let (mut sent, mut done) = (Vec::new(), 0);
            while !writer.is_empty() {
                let mut slices = [&[][..]; 8];
                let count = writer.gather(&mut slices, |()| &payload);
                let bytes = slices[..count].concat();
                let step = step.min(bytes.len());
                sent.extend_from_slice(&bytes[..step]);
                writer.sent(step, |()| done += 1);
            }
            assert_eq!((sent, done), (whole.clone(), 1), "in steps of {step}");
        }
    }

    #[test]
    fn the_stage_says_when_it_is_full() {
        let mut writer: Writer<()> = Writer::new(4 * PDU_OVERHEAD_BYTES, 64);
        let capacity = writer.stage.capacity();
        let mut pushed = 0;
        while writer.has_room(0) {
            writer.push(&nop_in(), &[]);
            pushed += 1;
        }
        assert!((4..=5).contains(&pushed));
        assert_eq!(writer.stage.capacity(), capacity);
    }
}
