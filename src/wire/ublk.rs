//! The structures of ublk (`linux/ublk_cmd.h`): commands, device information, parameters,
//! descriptors of requests.
//!
//! Fields stand in the byte order of the machine. Commands travel in the 80 command bytes of a
//! 128-byte io_uring submission entry; what they point to is `emit`ted here into byte arrays that
//! the caller keeps in place until the command has completed.

/// A control command (`struct ublksrv_ctrl_cmd`).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct ControlCommand {
    /// The device; [`ANY_DEVICE`] for commands that are about none.
    pub device_id: u32,
    /// Length of the buffer in bytes.
    pub length: u16,
    /// Address of the buffer, 0 if the command has none.
    pub address: u64,
    /// The argument in the command itself, such as the process id of [`START_DEV`].
    pub data: u64,
}

impl ControlCommand {
    /// The command bytes of the submission entry.
    pub fn emit(self) -> [u8; 80] {
        let mut bytes = [0; 80];
        bytes[..4].copy_from_slice(&self.device_id.to_ne_bytes());
        bytes[4..6].copy_from_slice(&NO_QUEUE.to_ne_bytes());
        bytes[6..8].copy_from_slice(&self.length.to_ne_bytes());
        bytes[8..16].copy_from_slice(&self.address.to_ne_bytes());
        bytes[16..24].copy_from_slice(&self.data.to_ne_bytes());
        bytes
    }
}

/// The command of a tag (`struct ublksrv_io_cmd`).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct IoCommand {
    /// The queue.
    pub queue_id: u16,
    /// The tag.
    pub tag: u16,
    /// For [`COMMIT_AND_FETCH_REQ`]: bytes done, or a negative error number.
    pub result: i32,
    /// Address of the tag's buffer.
    pub address: u64,
}

impl IoCommand {
    /// The command bytes of the submission entry.
    pub fn emit(self) -> [u8; 80] {
        let mut bytes = [0; 80];
        bytes[..2].copy_from_slice(&self.queue_id.to_ne_bytes());
        bytes[2..4].copy_from_slice(&self.tag.to_ne_bytes());
        bytes[4..8].copy_from_slice(&self.result.to_ne_bytes());
        bytes[8..16].copy_from_slice(&self.address.to_ne_bytes());
        bytes
    }
}

/// What a device is asked to be, and what the driver made of it (`struct ublksrv_ctrl_dev_info`).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct DeviceInfo {
    /// Number of hardware queues.
    pub queues: u16,
    /// Tags of each queue.
    pub queue_depth: u16,
    /// Longest request in bytes; the driver rounds it down to a page.
    pub io_buffer_bytes_max: u32,
    /// The number N of /dev/ublkbN; [`ANY_DEVICE`] lets the driver choose.
    pub device_id: u32,
    /// `UBLK_F_…`.
    pub flags: u64,
}

impl DeviceInfo {
    /// Length in bytes; all drivers accept exactly this.
    pub const BYTES: usize = 64;

    /// The structure in memory.
    pub fn emit(self) -> [u8; Self::BYTES] {
        let mut bytes = [0; Self::BYTES];
        bytes[..2].copy_from_slice(&self.queues.to_ne_bytes());
        bytes[2..4].copy_from_slice(&self.queue_depth.to_ne_bytes());
        bytes[8..12].copy_from_slice(&self.io_buffer_bytes_max.to_ne_bytes());
        bytes[12..16].copy_from_slice(&self.device_id.to_ne_bytes());
        bytes[24..32].copy_from_slice(&self.flags.to_ne_bytes());
        bytes
    }

    /// Reads what the driver wrote back.
    pub fn parse(bytes: &[u8; Self::BYTES]) -> Self {
        DeviceInfo {
            queues: u16_at(bytes, 0),
            queue_depth: u16_at(bytes, 2),
            io_buffer_bytes_max: u32_at(bytes, 8),
            device_id: u32_at(bytes, 12),
            flags: u64_at(bytes, 24),
        }
    }
}

/// Size and limits of a device (`struct ublk_params`, its basic and discard parts).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Params {
    /// `UBLK_ATTR_…`.
    pub attributes: u32,
    /// log2 of the logical block in bytes.
    pub logical_block_shift: u8,
    /// log2 of the physical block in bytes.
    pub physical_block_shift: u8,
    /// log2 of the optimal request in bytes.
    pub io_opt_shift: u8,
    /// log2 of the smallest good request in bytes.
    pub io_min_shift: u8,
    /// Longest request in units of 512 bytes.
    pub sectors_max: u32,
    /// Size of the disk in units of 512 bytes.
    pub device_sectors: u64,
    /// Discards and zeroes, if there are any.
    pub discard: Option<DiscardParams>,
}

/// Limits of the commands without data (`struct ublk_param_discard`).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct DiscardParams {
    /// Granularity in bytes, not 0.
    pub granularity_bytes: u32,
    /// Longest discard in units of 512 bytes; 0 for none at all.
    pub discard_sectors_max: u32,
    /// Longest write of zeroes in units of 512 bytes; 0 for none at all.
    pub write_zeroes_sectors_max: u32,
}

impl Params {
    /// Length in bytes with the parts that exist since 6.0; the driver fills up the rest itself.
    pub const BYTES: usize = 64;

    /// The structure in memory.
    pub fn emit(self) -> [u8; Self::BYTES] {
        let mut bytes = [0; Self::BYTES];
        bytes[..4].copy_from_slice(&(Self::BYTES as u32).to_ne_bytes());
        let types = PARAM_TYPE_BASIC | if self.discard.is_some() { PARAM_TYPE_DISCARD } else { 0 };
        bytes[4..8].copy_from_slice(&types.to_ne_bytes());

        // ublk_param_basic
        bytes[8..12].copy_from_slice(&self.attributes.to_ne_bytes());
        bytes[12] = self.logical_block_shift;
        bytes[13] = self.physical_block_shift;
        bytes[14] = self.io_opt_shift;
        bytes[15] = self.io_min_shift;
        bytes[16..20].copy_from_slice(&self.sectors_max.to_ne_bytes());
        bytes[24..32].copy_from_slice(&self.device_sectors.to_ne_bytes());

        // ublk_param_discard
        if let Some(discard) = self.discard {
            bytes[44..48].copy_from_slice(&discard.granularity_bytes.to_ne_bytes());
            bytes[48..52].copy_from_slice(&discard.discard_sectors_max.to_ne_bytes());
            bytes[52..56].copy_from_slice(&discard.write_zeroes_sectors_max.to_ne_bytes());
            // The driver takes no other number of segments than one.
            bytes[56..58].copy_from_slice(&1u16.to_ne_bytes());
        }
        bytes
    }
}

/// One request, as the driver describes it (`struct ublksrv_io_desc`).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct IoDescriptor {
    /// `UBLK_IO_OP_…`.
    pub operation: u8,
    /// `UBLK_IO_F_…`, at the places that they have in the header.
    pub flags: u32,
    /// Length in units of 512 bytes.
    pub sectors: u32,
    /// First sector, in units of 512 bytes.
    pub start_sector: u64,
}

impl IoDescriptor {
    /// Length in bytes, and distance from one tag's descriptor to the next.
    pub const BYTES: usize = 24;

    /// Reads a descriptor.
    pub fn parse(bytes: &[u8; Self::BYTES]) -> Self {
        let operation_flags = u32_at(bytes, 0);
        IoDescriptor {
            operation: operation_flags as u8,
            flags: operation_flags & !0xff,
            sectors: u32_at(bytes, 4),
            start_sector: u64_at(bytes, 8),
        }
    }
}

/// The `dev_id` of a command that is about no device, or about one that has no number yet.
pub const ANY_DEVICE: u32 = u32::MAX;
/// The `queue_id` of a command that is not about a queue.
const NO_QUEUE: u16 = u16::MAX;
/// The most tags that a queue can have (`UBLK_MAX_QUEUE_DEPTH`).
pub const QUEUE_DEPTH_MAX: u16 = 4096;

/// `UBLK_CMD_GET_DEV_INFO`.
pub const GET_DEV_INFO: u32 = 0x02;
/// `UBLK_CMD_ADD_DEV`.
pub const ADD_DEV: u32 = 0x04;
/// `UBLK_CMD_DEL_DEV`: answers when nobody holds the device any more.
pub const DEL_DEV: u32 = 0x05;
/// `UBLK_CMD_START_DEV`.
pub const START_DEV: u32 = 0x06;
/// `UBLK_CMD_STOP_DEV`.
pub const STOP_DEV: u32 = 0x07;
/// `UBLK_CMD_SET_PARAMS`.
pub const SET_PARAMS: u32 = 0x08;
/// `UBLK_CMD_START_USER_RECOVERY`: busy until the dead server is gone in every respect.
pub const START_USER_RECOVERY: u32 = 0x10;
/// `UBLK_CMD_END_USER_RECOVERY`: answers when every tag was fetched again.
pub const END_USER_RECOVERY: u32 = 0x11;
/// `UBLK_U_CMD_GET_FEATURES`; has no old number.
pub const GET_FEATURES: u32 = 0x13;
/// `UBLK_U_CMD_DEL_DEV_ASYNC`; has no old number.
pub const DEL_DEV_ASYNC: u32 = 0x14;
/// `UBLK_IO_FETCH_REQ`.
pub const FETCH_REQ: u32 = 0x20;
/// `UBLK_IO_COMMIT_AND_FETCH_REQ`.
pub const COMMIT_AND_FETCH_REQ: u32 = 0x21;

/// The number of a command in the form of an ioctl, as kernels with [`F_CMD_IOCTL_ENCODE`] want it.
pub const fn ioctl_number(command: u32) -> u32 {
    // Direction, size of the argument, type 'u', number.
    const READ: u32 = 2 << 30;
    const WRITE: u32 = 1 << 30;
    let (direction, bytes) = match command {
        GET_FEATURES | DEL_DEV_ASYNC | GET_DEV_INFO => (READ, 32),
        FETCH_REQ | COMMIT_AND_FETCH_REQ => (READ | WRITE, 16),
        _ => (READ | WRITE, 32),
    };
    direction | bytes << 16 | (b'u' as u32) << 8 | command
}

/// `UBLK_F_USER_RECOVERY`: the device outlives its server.
pub const F_USER_RECOVERY: u64 = 1 << 3;
/// `UBLK_F_USER_RECOVERY_REISSUE`: what a dead server held is sent again to the next.
pub const F_USER_RECOVERY_REISSUE: u64 = 1 << 4;
/// `UBLK_F_CMD_IOCTL_ENCODE`: commands have the numbers of ioctls.
pub const F_CMD_IOCTL_ENCODE: u64 = 1 << 6;

const PARAM_TYPE_BASIC: u32 = 1 << 0;
const PARAM_TYPE_DISCARD: u32 = 1 << 1;

/// `UBLK_ATTR_READ_ONLY`.
pub const ATTR_READ_ONLY: u32 = 1 << 0;
/// `UBLK_ATTR_ROTATIONAL`.
pub const ATTR_ROTATIONAL: u32 = 1 << 1;
/// `UBLK_ATTR_VOLATILE_CACHE`.
pub const ATTR_VOLATILE_CACHE: u32 = 1 << 2;
/// `UBLK_ATTR_FUA`: counts only together with the volatile cache.
pub const ATTR_FUA: u32 = 1 << 3;

/// `UBLK_IO_OP_READ`.
pub const OP_READ: u8 = 0;
/// `UBLK_IO_OP_WRITE`.
pub const OP_WRITE: u8 = 1;
/// `UBLK_IO_OP_FLUSH`.
pub const OP_FLUSH: u8 = 2;
/// `UBLK_IO_OP_DISCARD`.
pub const OP_DISCARD: u8 = 3;
/// `UBLK_IO_OP_WRITE_ZEROES`.
pub const OP_WRITE_ZEROES: u8 = 5;
/// `UBLK_IO_F_FUA`.
pub const IO_FUA: u32 = 1 << 13;
/// `UBLK_IO_F_NOUNMAP`.
pub const IO_NOUNMAP: u32 = 1 << 15;

fn u16_at(bytes: &[u8], offset: usize) -> u16 {
    u16::from_ne_bytes([bytes[offset], bytes[offset + 1]])
}

fn u32_at(bytes: &[u8], offset: usize) -> u32 {
    u32::from_ne_bytes([bytes[offset], bytes[offset + 1], bytes[offset + 2], bytes[offset + 3]])
}

fn u64_at(bytes: &[u8], offset: usize) -> u64 {
    let mut field = [0; 8];
    field.copy_from_slice(&bytes[offset..offset + 8]);
    u64::from_ne_bytes(field)
}

// The golden bytes are those of a little-endian machine, like all that we build for. Offsets were
// taken from the header by a C compiler.
#[cfg(all(test, target_endian = "little"))]
mod tests {
    use super::*;

    /// A zeroed structure with some bytes in it.
    fn with<const N: usize>(parts: &[(usize, &[u8])]) -> [u8; N] {
        let mut bytes = [0; N];
        for (offset, part) in parts {
            bytes[*offset..offset + part.len()].copy_from_slice(part);
        }
        bytes
    }

    #[test]
    fn commands_have_the_offsets_of_the_header() {
        let command = ControlCommand {
            device_id: 0x0403_0201,
            length: 0x0605,
            address: 0x0e0d_0c0b_0a09_0807,
            data: 0x0f,
        };
        assert_eq!(
            command.emit(),
            with(&[
                (0, &[1, 2, 3, 4, 0xff, 0xff, 5, 6]),
                (8, &[7, 8, 9, 10, 11, 12, 13, 14]),
                (16, &[15])
            ])
        );
        let command = IoCommand { queue_id: 0x0201, tag: 0x0403, result: -5, address: 0x0605 };
        assert_eq!(command.emit(), with(&[(0, &[1, 2, 3, 4, 0xfb, 0xff, 0xff, 0xff, 5, 6])]));
    }

    #[test]
    fn device_info_has_the_offsets_of_the_header() {
        let info = DeviceInfo {
            queues: 1,
            queue_depth: 64,
            io_buffer_bytes_max: 0x4_0000,
            device_id: 7,
            flags: 0x58,
        };
        let bytes: [u8; DeviceInfo::BYTES] =
            with(&[(0, &[1, 0, 64]), (8, &[0, 0, 4, 0, 7]), (24, &[0x58])]);
        assert_eq!(info.emit(), bytes);
        assert_eq!(DeviceInfo::parse(&bytes), info);
    }

    #[test]
    fn params_have_the_offsets_of_the_header() {
        let mut params = Params {
            attributes: ATTR_VOLATILE_CACHE | ATTR_FUA,
            logical_block_shift: 9,
            physical_block_shift: 12,
            io_opt_shift: 14,
            io_min_shift: 13,
            sectors_max: 512,
            device_sectors: 0x0102_0304_0506,
            discard: None,
        };
        let basic: &[(usize, &[u8])] = &[
            (0, &[64, 0, 0, 0, 1]),
            (8, &[0x0c, 0, 0, 0, 9, 12, 14, 13, 0, 2]),
            (24, &[6, 5, 4, 3, 2, 1]),
        ];
        assert_eq!(params.emit(), with(basic));
        params.discard = Some(DiscardParams {
            granularity_bytes: 0x1000,
            discard_sectors_max: 0x0201,
            write_zeroes_sectors_max: 0x0403,
        });
        let mut whole = basic.to_vec();
        whole.extend::<[(usize, &[u8]); 2]>([
            (4, &[3]),
            (44, &[0, 16, 0, 0, 1, 2, 0, 0, 3, 4, 0, 0, 1]),
        ]);
        assert_eq!(params.emit(), with(&whole));
    }

    #[test]
    fn a_descriptor_is_read_field_by_field() {
        let bytes = with(&[(0, &[1, 0x20, 0, 0, 8, 0, 0, 0, 1, 2, 3, 4, 5, 6])]);
        assert_eq!(
            IoDescriptor::parse(&bytes),
            IoDescriptor {
                operation: OP_WRITE,
                flags: IO_FUA,
                sectors: 8,
                start_sector: 0x0605_0403_0201
            }
        );
    }

    #[test]
    fn ioctl_numbers_are_those_of_the_header() {
        assert_eq!(ioctl_number(ADD_DEV), 0xc020_7504);
        assert_eq!(ioctl_number(GET_FEATURES), 0x8020_7513);
        assert_eq!(ioctl_number(DEL_DEV_ASYNC), 0x8020_7514);
        assert_eq!(ioctl_number(COMMIT_AND_FETCH_REQ), 0xc010_7521);
    }
}
