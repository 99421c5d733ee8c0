//! A tap on the line: cuts the streams of a connection into PDUs, and can change them on the way.
//!
//! It reads what it needs to know, the digests, from the text of the login. Login PDUs have none;
//! everything after them has what was agreed on.

use lunboot::proto::random::Random;
use lunboot::wire::frame::Digests;
use lunboot::wire::pdu::{BHS_BYTES, Bhs, Header, LoginRequest, LoginResponse, ScsiResponse};
use lunboot::wire::scsi::{ScsiStatus, Sense};

use super::Direction;

/// Changes a PDU, given with additional headers, digests and padding as it is on the line. What it
/// returns is sent instead.
pub type Tamper = Box<dyn FnMut(Direction, Vec<u8>, Digests, &mut Random) -> Vec<u8>>;

/// Both directions of the connection that the initiator uses.
#[derive(Default)]
pub struct Taps {
    pub digests: Digests,
    up: Vec<u8>,
    down: Vec<u8>,
    /// Without it the bytes go by as they are.
    pub tamper: Option<Tamper>,
}

impl Taps {
    /// A new connection.
    pub fn begin(&mut self) {
        self.digests = Digests::default();
        self.up.clear();
        self.down.clear();
    }

    /// Bytes on their way; what is left of them when they come out, in whole PDUs.
    pub fn pass(&mut self, direction: Direction, bytes: Vec<u8>, random: &mut Random) -> Vec<u8> {
        let Some(tamper) = &mut self.tamper else { return bytes };
        let held = match direction {
            Direction::Up => &mut self.up,
            Direction::Down => &mut self.down,
        };
        held.extend(bytes);
        let mut out = Vec::new();
        while let Some(length) = pdu_bytes(held, self.digests) {
            let pdu: Vec<u8> = held.drain(..length).collect();
            if is_login(&pdu) {
                if find(&pdu, b"HeaderDigest=CRC32C\0") {
                    self.digests.header = direction == Direction::Down;
                }
                if find(&pdu, b"DataDigest=CRC32C\0") {
                    self.digests.data = direction == Direction::Down;
                }
            }
            out.extend(tamper(direction, pdu, self.digests, random));
        }
        out
    }
}

/// Length of the first PDU with everything that belongs to it, if all of it is there.
pub fn pdu_bytes(bytes: &[u8], digests: Digests) -> Option<usize> {
    let bhs: &Bhs = bytes.first_chunk::<BHS_BYTES>()?;
    let header = Header::parse(bhs);
    let digests = if is_login(bytes) { Digests::default() } else { digests };
    let header_bytes = header_bytes(&header, digests);
    let data_bytes = header.data_bytes.next_multiple_of(4) as usize;
    let digest_bytes = if digests.data && data_bytes > 0 { 4 } else { 0 };
    let length = header_bytes + data_bytes + digest_bytes;
    (bytes.len() >= length).then_some(length)
}

pub fn header_bytes(header: &Header, digests: Digests) -> usize {
    BHS_BYTES + header.ahs_bytes as usize + if digests.header { 4 } else { 0 }
}

/// A SCSI Response like this one, but with another status and perhaps sense data.
pub fn with_status(
    response: &ScsiResponse,
    status: ScsiStatus,
    sense: Option<Sense>,
    digests: Digests,
) -> Vec<u8> {
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

pub fn is_login(pdu: &[u8]) -> bool {
    [LoginRequest::OPCODE, LoginResponse::OPCODE].contains(&(pdu[0] & 0x3f))
}

fn find(bytes: &[u8], what: &[u8]) -> bool {
    bytes.windows(what.len()).any(|window| window == what)
}
