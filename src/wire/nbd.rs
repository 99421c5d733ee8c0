//! NBD, transmission phase: requests and simple replies.
//!
//! The specification is `doc/proto.md` of the NBD project; `linux/nbd.h` has the part that the
//! kernel speaks. All fields are big-endian. The kernel asks and we answer; the payload of a write
//! follows its request, that of a read follows its reply. The handshake of the network protocol
//! does not exist here: the kernel takes sizes and flags over netlink.

use super::{Malformed, be16, be32, be64};

/// Length of a request header in bytes.
pub const REQUEST_BYTES: usize = 28;
/// Length of a simple reply header in bytes.
pub const REPLY_BYTES: usize = 16;

/// A request of the kernel (`struct nbd_request`).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Request {
    /// What to do.
    pub command: Command,
    /// `NBD_CMD_FLAG_FUA`: onto stable storage before the reply.
    pub fua: bool,
    /// `NBD_CMD_FLAG_NO_HOLE`: zeroes must be allocated.
    pub no_hole: bool,
    /// The kernel's name for the request; its reply carries the same.
    pub cookie: u64,
    /// First byte.
    pub offset_bytes: u64,
    /// Length of the range in bytes.
    pub length_bytes: u32,
}

/// The commands that the kernel sends.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Command {
    /// `NBD_CMD_READ`: the reply carries the data.
    Read,
    /// `NBD_CMD_WRITE`: the data follows.
    Write,
    /// `NBD_CMD_DISC`: the last request of a connection, without a reply.
    Disconnect,
    /// `NBD_CMD_FLUSH`.
    Flush,
    /// `NBD_CMD_TRIM`.
    Trim,
    /// `NBD_CMD_WRITE_ZEROES`.
    WriteZeroes,
    /// A command that does not exist yet. It has no payload, or the stream is lost.
    Unknown(u16),
}

impl Request {
    // Offsets of the fields, in the order of the specification.
    const MAGIC: usize = 0;
    const FLAGS: usize = 4;
    const COMMAND: usize = 6;
    const COOKIE: usize = 8;
    const OFFSET: usize = 16;
    const LENGTH: usize = 24;

    /// Reads a request header. A wrong magic means that the stream is out of step, for good.
    pub fn parse(bytes: &[u8; REQUEST_BYTES]) -> Result<Self, Malformed> {
        let magic = be32(bytes, Self::MAGIC);
        if magic != REQUEST_MAGIC {
            return Err(Malformed::number("NBD request", "magic", magic, "must be 0x25609513"));
        }
        let flags = be16(bytes, Self::FLAGS);
        Ok(Request {
            command: match be16(bytes, Self::COMMAND) {
                0 => Command::Read,
                1 => Command::Write,
                2 => Command::Disconnect,
                3 => Command::Flush,
                4 => Command::Trim,
                6 => Command::WriteZeroes,
                other => Command::Unknown(other),
            },
            fua: flags & FLAG_FUA != 0,
            no_hole: flags & FLAG_NO_HOLE != 0,
            cookie: be64(bytes, Self::COOKIE),
            offset_bytes: be64(bytes, Self::OFFSET),
            length_bytes: be32(bytes, Self::LENGTH),
        })
    }
}

/// The header of a simple reply (`struct nbd_reply`): magic, error, cookie.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Reply {
    /// 0, or an error number: no read data follows then.
    pub errno: u32,
    /// The cookie of the request.
    pub cookie: u64,
}

impl Reply {
    /// The header as it stands on the wire.
    pub fn emit(self) -> [u8; REPLY_BYTES] {
        let mut bytes = [0; REPLY_BYTES];
        bytes[..4].copy_from_slice(&REPLY_MAGIC.to_be_bytes());
        bytes[4..8].copy_from_slice(&self.errno.to_be_bytes());
        bytes[8..].copy_from_slice(&self.cookie.to_be_bytes());
        bytes
    }
}

/// `NBD_REQUEST_MAGIC`.
const REQUEST_MAGIC: u32 = 0x2560_9513;
/// `NBD_SIMPLE_REPLY_MAGIC`.
const REPLY_MAGIC: u32 = 0x6744_6698;
/// `NBD_CMD_FLAG_FUA`.
const FLAG_FUA: u16 = 1 << 0;
/// `NBD_CMD_FLAG_NO_HOLE`.
const FLAG_NO_HOLE: u16 = 1 << 1;

#[cfg(test)]
mod tests {
    use super::*;

    const WRITE: [u8; REQUEST_BYTES] = [
        0x25, 0x60, 0x95, 0x13, 0, 1, 0, 1, // magic, FUA, WRITE
        1, 2, 3, 4, 5, 6, 7, 8, // cookie
        0, 0, 0, 1, 0, 0, 2, 0, // offset
        0, 4, 0, 0, // length
    ];

    #[test]
    fn a_request_is_read_field_by_field() {
        assert_eq!(
            Request::parse(&WRITE),
            Ok(Request {
                command: Command::Write,
                fua: true,
                no_hole: false,
                cookie: 0x0102_0304_0506_0708,
                offset_bytes: 0x1_0000_0200,
                length_bytes: 0x4_0000,
            })
        );
    }

    #[test]
    fn every_command_and_flag_has_its_number() {
        for (number, command) in [
            (0, Command::Read),
            (1, Command::Write),
            (2, Command::Disconnect),
            (3, Command::Flush),
            (4, Command::Trim),
            (5, Command::Unknown(5)),
            (6, Command::WriteZeroes),
        ] {
            let mut bytes = WRITE;
            bytes[5] = 2;
            bytes[7] = number;
            let request = Request::parse(&bytes).unwrap();
            assert_eq!((request.command, request.fua, request.no_hole), (command, false, true));
        }
    }

    #[test]
    fn a_wrong_magic_is_named() {
        let mut bytes = WRITE;
        bytes[3] = 0x53;
        assert_eq!(
            Request::parse(&bytes).unwrap_err().to_string(),
            "NBD request: magic 627086675: must be 0x25609513"
        );
    }

    #[test]
    fn a_reply_has_its_bytes() {
        assert_eq!(
            Reply { errno: 5, cookie: 0x0102_0304_0506_0708 }.emit(),
            [0x67, 0x44, 0x66, 0x98, 0, 0, 0, 5, 1, 2, 3, 4, 5, 6, 7, 8]
        );
    }
}
