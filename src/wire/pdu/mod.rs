//! iSCSI protocol data units: the basic header segment, a struct for each opcode (RFC 7143 §11).
//!
//! Sections of RFC 7143 used in this room: §11.2 header, §11.3 to §11.19 the PDUs in the order of
//! the document. (It renumbers RFC 3720, where the same chapters are §10.)
//!
//! A header is 48 bytes; the additional header and the data segment travel beside the struct.
//! [`Request`] is what an initiator sends, [`Response`] what a target sends.

mod request;
mod response;

pub use request::*;
pub use response::*;

use super::serial::Sn;
use super::{be16, be24, be32, be64};

/// Length of the basic header segment (RFC 7143 §11.2.1).
pub const BHS_BYTES: usize = 48;

/// The basic header segment as it stands on the wire.
pub type Bhs = [u8; BHS_BYTES];

/// Longest data segment that the 24-bit length field can say.
pub const DATA_SEGMENT_BYTES_MAX: u32 = (1 << 24) - 1;

/// Initiator task tag (RFC 7143 §11.2.1.8).
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct Itt(pub u32);

impl Itt {
    /// No task.
    pub const RESERVED: Itt = Itt(u32::MAX);
}

/// Target transfer tag (RFC 7143 §11.7.4).
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct Ttt(pub u32);

impl Ttt {
    /// No transfer.
    pub const RESERVED: Ttt = Ttt(u32::MAX);
}

/// Initiator part of the session identifier (RFC 7143 §11.12.5): six bytes.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct Isid(pub [u8; 6]);

/// Where an exchange of login requests and responses stands (RFC 7143 §11.12.3).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Stage {
    /// Who are you (0).
    SecurityNegotiation,
    /// How do we talk (1).
    LoginOperationalNegotiation,
    /// Login is done (3).
    FullFeaturePhase,
}

impl Stage {
    /// The stage of a two-bit code; 2 is reserved.
    pub fn from_code(code: u8) -> Option<Stage> {
        match code & 3 {
            0 => Some(Stage::SecurityNegotiation),
            1 => Some(Stage::LoginOperationalNegotiation),
            3 => Some(Stage::FullFeaturePhase),
            _ => None,
        }
    }

    /// The two-bit code of the stage.
    pub fn code(self) -> u8 {
        match self {
            Stage::SecurityNegotiation => 0,
            Stage::LoginOperationalNegotiation => 1,
            Stage::FullFeaturePhase => 3,
        }
    }
}

/// What every header says, whatever its opcode (RFC 7143 §11.2.1).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Header {
    /// The six bits of the opcode.
    pub opcode: u8,
    /// The I bit: deliver at once, outside the command window.
    pub immediate: bool,
    /// Length of the additional header segments in bytes, a multiple of 4, at most 1020.
    pub ahs_bytes: u32,
    /// Length of the data segment in bytes, without padding.
    pub data_bytes: u32,
}

impl Header {
    /// Reads the fields that are common to all headers.
    pub fn parse(bhs: &Bhs) -> Header {
        Header {
            opcode: bhs[OPCODE] & OPCODE_MASK,
            immediate: bhs[OPCODE] & IMMEDIATE != 0,
            ahs_bytes: u32::from(bhs[TOTAL_AHS_LENGTH]) * 4,
            data_bytes: be24(bhs, DATA_SEGMENT_LENGTH),
        }
    }
}

/// The three counters that close most target PDUs (RFC 7143 §11.4.9 to §11.4.11).
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct StatusSns {
    /// StatSN; what it means when no status is carried depends on the PDU.
    pub stat_sn: Sn,
    /// The next CmdSN that the target expects.
    pub exp_cmd_sn: Sn,
    /// The last CmdSN that the target takes.
    pub max_cmd_sn: Sn,
}

// Byte offsets that several PDUs share, in the order of the header.
const OPCODE: usize = 0;
const FLAGS: usize = 1;
const TOTAL_AHS_LENGTH: usize = 4;
const DATA_SEGMENT_LENGTH: usize = 5;
const LUN: usize = 8;
const ISID: usize = 8;
const TSIH: usize = 14;
const ITT: usize = 16;
const TTT: usize = 20;
const CMD_SN: usize = 24;
const STAT_SN: usize = 24;
const EXP_STAT_SN: usize = 28;
const EXP_CMD_SN: usize = 28;
const MAX_CMD_SN: usize = 32;
const DATA_SN: usize = 36;
const BUFFER_OFFSET: usize = 40;
const RESIDUAL: usize = 44;

// Bits of bytes 0 and 1 that several PDUs share.
const OPCODE_MASK: u8 = 0x3f;
const IMMEDIATE: u8 = 0x40;
const FINAL: u8 = 0x80;
const TRANSIT: u8 = 0x80;
const CONTINUE: u8 = 0x40;
const OVERFLOW: u8 = 0x04;
const UNDERFLOW: u8 = 0x02;

/// A header under construction: everything that is not set stays zero, as reserved fields must.
struct Builder(Bhs);

impl Builder {
    fn new(opcode: u8, flags: u8, data_bytes: u32) -> Builder {
        debug_assert!(data_bytes <= DATA_SEGMENT_BYTES_MAX);
        let mut bhs = [0; BHS_BYTES];
        bhs[OPCODE] = opcode;
        bhs[FLAGS] = flags;
        bhs[DATA_SEGMENT_LENGTH..][..3].copy_from_slice(&data_bytes.to_be_bytes()[1..]);
        Builder(bhs)
    }

    fn byte(mut self, offset: usize, value: u8) -> Self {
        self.0[offset] = value;
        self
    }

    fn word16(self, offset: usize, value: u16) -> Self {
        self.bytes(offset, &value.to_be_bytes())
    }

    fn word32(self, offset: usize, value: u32) -> Self {
        self.bytes(offset, &value.to_be_bytes())
    }

    fn word64(self, offset: usize, value: u64) -> Self {
        self.bytes(offset, &value.to_be_bytes())
    }

    fn bytes(mut self, offset: usize, value: &[u8]) -> Self {
        self.0[offset..][..value.len()].copy_from_slice(value);
        self
    }

    fn sns(self, sns: &StatusSns) -> Self {
        self.word32(STAT_SN, sns.stat_sn.0)
            .word32(EXP_CMD_SN, sns.exp_cmd_sn.0)
            .word32(MAX_CMD_SN, sns.max_cmd_sn.0)
    }
}

fn sn(bhs: &Bhs, offset: usize) -> Sn {
    Sn(be32(bhs, offset))
}

fn itt(bhs: &Bhs) -> Itt {
    Itt(be32(bhs, ITT))
}

fn ttt(bhs: &Bhs) -> Ttt {
    Ttt(be32(bhs, TTT))
}

fn sns(bhs: &Bhs) -> StatusSns {
    StatusSns {
        stat_sn: sn(bhs, STAT_SN),
        exp_cmd_sn: sn(bhs, EXP_CMD_SN),
        max_cmd_sn: sn(bhs, MAX_CMD_SN),
    }
}

fn isid(bhs: &Bhs) -> Isid {
    let mut isid = [0; 6];
    isid.copy_from_slice(&bhs[ISID..][..6]);
    Isid(isid)
}

fn bit(set: bool, mask: u8) -> u8 {
    if set { mask } else { 0 }
}

/// Byte 1 of the two login PDUs: T, C, CSG, NSG (RFC 7143 §11.12.1 to §11.12.3).
fn stages(
    thing: &'static str,
    bhs: &Bhs,
) -> Result<(bool, bool, Stage, Option<Stage>), super::Malformed> {
    let flags = bhs[FLAGS];
    let (transit, continues) = (flags & TRANSIT != 0, flags & CONTINUE != 0);
    let (current, next) = (flags >> 2 & 3, flags & 3);
    let reserved =
        |field, code: u8| super::Malformed::number(thing, field, code, "must be 0, 1 or 3");
    let stage = Stage::from_code(current).ok_or_else(|| reserved("CSG", current))?;
    if !transit {
        return Ok((false, continues, stage, None));
    }
    if continues {
        let rule = "must not be set together with T";
        return Err(super::Malformed::number(thing, "C", 1u8, rule));
    }
    let next = Stage::from_code(next).ok_or_else(|| reserved("NSG", next))?;
    Ok((true, false, stage, Some(next)))
}

fn stage_flags(transit: bool, continues: bool, stage: Stage, next: Option<Stage>) -> u8 {
    let next = if transit { next.map_or(0, Stage::code) } else { 0 };
    bit(transit, TRANSIT) | bit(continues, CONTINUE) | stage.code() << 2 | next
}

/// Byte 1 of the two text PDUs: F and C exclude each other (RFC 7143 §11.10.2).
fn final_and_continue(thing: &'static str, bhs: &Bhs) -> Result<(bool, bool), super::Malformed> {
    let (final_pdu, continues) = (bhs[FLAGS] & FINAL != 0, bhs[FLAGS] & CONTINUE != 0);
    if final_pdu && continues {
        let rule = "must not be set together with F";
        return Err(super::Malformed::number(thing, "C", 1u8, rule));
    }
    Ok((final_pdu, continues))
}
