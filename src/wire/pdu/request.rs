//! What an initiator sends.
//!
//! One struct per opcode, in the order of RFC 7143 §11; offsets that belong to one PDU alone stand
//! with its struct, those of all PDUs in the module above.

use super::*;
use crate::wire::Malformed;

/// A PDU from the initiator, by its opcode.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Request {
    /// 00h.
    NopOut(NopOut),
    /// 01h.
    ScsiCommand(ScsiCommand),
    /// 02h.
    TaskManagement(TaskManagementRequest),
    /// 03h.
    Login(LoginRequest),
    /// 04h.
    Text(TextRequest),
    /// 05h.
    DataOut(DataOut),
    /// 06h.
    Logout(LogoutRequest),
    /// 10h: never needed at ErrorRecoveryLevel 0, so only named.
    Snack,
    /// An opcode that no initiator may send; kept so that it can be rejected by number.
    Unknown(u8),
}

impl Request {
    /// Reads a header. Only what no receiver could make sense of is an error here; whether a PDU is
    /// allowed at this moment is the state machine's business.
    pub fn parse(bhs: &Bhs) -> Result<Request, Malformed> {
        Ok(match bhs[OPCODE] & OPCODE_MASK {
            NopOut::OPCODE => Request::NopOut(NopOut::parse(bhs)),
            ScsiCommand::OPCODE => Request::ScsiCommand(ScsiCommand::parse(bhs)),
            TaskManagementRequest::OPCODE => {
                Request::TaskManagement(TaskManagementRequest::parse(bhs))
            }
            LoginRequest::OPCODE => Request::Login(LoginRequest::parse(bhs)?),
            TextRequest::OPCODE => Request::Text(TextRequest::parse(bhs)),
            DataOut::OPCODE => Request::DataOut(DataOut::parse(bhs)),
            LogoutRequest::OPCODE => Request::Logout(LogoutRequest::parse(bhs)),
            0x10 => Request::Snack,
            unknown => Request::Unknown(unknown),
        })
    }
}

/// SCSI Command (RFC 7143 §11.3).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct ScsiCommand {
    /// Deliver outside the command window.
    pub immediate: bool,
    /// No unsolicited Data-Out follows this PDU.
    pub final_pdu: bool,
    /// Data flows to the initiator.
    pub read: bool,
    /// Data flows to the target.
    pub write: bool,
    /// How the command is ordered among others.
    pub attribute: TaskAttribute,
    /// The eight bytes of the LUN field.
    pub lun: u64,
    /// Initiator task tag.
    pub itt: Itt,
    /// Bytes that the initiator expects to move, in the one direction or in the write direction.
    pub expected_data_bytes: u32,
    /// Its place in the order of commands.
    pub cmd_sn: Sn,
    /// The StatSN that the initiator expects next.
    pub exp_stat_sn: Sn,
    /// The command descriptor block, padded with zeroes.
    pub cdb: [u8; 16],
    /// Length of the immediate data that follows.
    pub data_bytes: u32,
}

/// SCSI task attribute (RFC 7143 §11.3.1, SAM-5 §8.6).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum TaskAttribute {
    /// 0: untagged.
    Untagged,
    /// 1: any order.
    Simple,
    /// 2: in order.
    Ordered,
    /// 3: first.
    HeadOfQueue,
    /// 4: auto contingent allegiance.
    Aca,
    /// 5 to 7: reserved.
    Reserved(u8),
}

impl ScsiCommand {
    /// 01h.
    pub const OPCODE: u8 = 0x01;
    const READ: u8 = 0x40;
    const WRITE: u8 = 0x20;
    const EXPECTED_DATA_TRANSFER_LENGTH: usize = 20;
    const CDB: usize = 32;

    fn parse(bhs: &Bhs) -> ScsiCommand {
        let mut cdb = [0; 16];
        cdb.copy_from_slice(&bhs[Self::CDB..][..16]);
        ScsiCommand {
            immediate: bhs[OPCODE] & IMMEDIATE != 0,
            final_pdu: bhs[FLAGS] & FINAL != 0,
            read: bhs[FLAGS] & Self::READ != 0,
            write: bhs[FLAGS] & Self::WRITE != 0,
            attribute: match bhs[FLAGS] & 7 {
                0 => TaskAttribute::Untagged,
                1 => TaskAttribute::Simple,
                2 => TaskAttribute::Ordered,
                3 => TaskAttribute::HeadOfQueue,
                4 => TaskAttribute::Aca,
                reserved => TaskAttribute::Reserved(reserved),
            },
            lun: be64(bhs, LUN),
            itt: itt(bhs),
            expected_data_bytes: be32(bhs, Self::EXPECTED_DATA_TRANSFER_LENGTH),
            cmd_sn: sn(bhs, CMD_SN),
            exp_stat_sn: sn(bhs, EXP_STAT_SN),
            cdb,
            data_bytes: be24(bhs, DATA_SEGMENT_LENGTH),
        }
    }

    /// The header on the wire.
    pub fn emit(&self) -> Bhs {
        let attribute = match self.attribute {
            TaskAttribute::Untagged => 0,
            TaskAttribute::Simple => 1,
            TaskAttribute::Ordered => 2,
            TaskAttribute::HeadOfQueue => 3,
            TaskAttribute::Aca => 4,
            TaskAttribute::Reserved(code) => code & 7,
        };
        let flags = bit(self.final_pdu, FINAL)
            | bit(self.read, Self::READ)
            | bit(self.write, Self::WRITE)
            | attribute;
        Builder::new(Self::OPCODE | bit(self.immediate, IMMEDIATE), flags, self.data_bytes)
            .word64(LUN, self.lun)
            .word32(ITT, self.itt.0)
            .word32(Self::EXPECTED_DATA_TRANSFER_LENGTH, self.expected_data_bytes)
            .word32(CMD_SN, self.cmd_sn.0)
            .word32(EXP_STAT_SN, self.exp_stat_sn.0)
            .bytes(Self::CDB, &self.cdb)
            .0
    }
}

/// Task Management Function Request (RFC 7143 §11.5).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct TaskManagementRequest {
    /// Deliver outside the command window.
    pub immediate: bool,
    /// What to do (§11.5.1), seven bits: 1 ABORT TASK, 2 ABORT TASK SET, 3 CLEAR ACA, 4 CLEAR TASK
    /// SET, 5 LOGICAL UNIT RESET, 6 TARGET WARM RESET, 7 TARGET COLD RESET, 8 TASK REASSIGN.
    pub function: u8,
    /// The eight bytes of the LUN field.
    pub lun: u64,
    /// Tag of this request.
    pub itt: Itt,
    /// Tag of the task it is about, or [`Itt::RESERVED`].
    pub referenced_itt: Itt,
    /// Its place in the order of commands.
    pub cmd_sn: Sn,
    /// The StatSN that the initiator expects next.
    pub exp_stat_sn: Sn,
    /// CmdSN of the task it is about.
    pub ref_cmd_sn: Sn,
}

impl TaskManagementRequest {
    /// 02h.
    pub const OPCODE: u8 = 0x02;
    const REFERENCED_TASK_TAG: usize = 20;
    const REF_CMD_SN: usize = 32;

    fn parse(bhs: &Bhs) -> Self {
        TaskManagementRequest {
            immediate: bhs[OPCODE] & IMMEDIATE != 0,
            function: bhs[FLAGS] & 0x7f,
            lun: be64(bhs, LUN),
            itt: itt(bhs),
            referenced_itt: Itt(be32(bhs, Self::REFERENCED_TASK_TAG)),
            cmd_sn: sn(bhs, CMD_SN),
            exp_stat_sn: sn(bhs, EXP_STAT_SN),
            ref_cmd_sn: sn(bhs, Self::REF_CMD_SN),
        }
    }

    /// The header on the wire.
    pub fn emit(&self) -> Bhs {
        let opcode = Self::OPCODE | bit(self.immediate, IMMEDIATE);
        Builder::new(opcode, FINAL | (self.function & 0x7f), 0)
            .word64(LUN, self.lun)
            .word32(ITT, self.itt.0)
            .word32(Self::REFERENCED_TASK_TAG, self.referenced_itt.0)
            .word32(CMD_SN, self.cmd_sn.0)
            .word32(EXP_STAT_SN, self.exp_stat_sn.0)
            .word32(Self::REF_CMD_SN, self.ref_cmd_sn.0)
            .0
    }
}

/// Login Request (RFC 7143 §11.12).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct LoginRequest {
    /// The initiator is ready for `next_stage`.
    pub transit: bool,
    /// The text goes on in the next PDU.
    pub continues: bool,
    /// The stage this PDU belongs to.
    pub stage: Stage,
    /// The stage that follows; only with `transit`.
    pub next_stage: Option<Stage>,
    /// Highest version that the initiator speaks: 0.
    pub version_max: u8,
    /// Lowest version that the initiator speaks: 0.
    pub version_min: u8,
    /// Initiator part of the session identifier.
    pub isid: Isid,
    /// Target part of it: 0 asks for a new session or for the reinstatement of an old one.
    pub tsih: u16,
    /// Tag, the same in all requests of a login.
    pub itt: Itt,
    /// Connection identifier.
    pub cid: u16,
    /// First CmdSN of the session (login requests are immediate and do not use it up).
    pub cmd_sn: Sn,
    /// The StatSN that the initiator expects next; no meaning in the first request.
    pub exp_stat_sn: Sn,
    /// Length of the text that follows.
    pub data_bytes: u32,
}

impl LoginRequest {
    /// 03h.
    pub const OPCODE: u8 = 0x03;
    const VERSION_MAX: usize = 2;
    const VERSION_MIN: usize = 3;
    const CID: usize = 20;

    fn parse(bhs: &Bhs) -> Result<Self, Malformed> {
        let (transit, continues, stage, next_stage) = stages("Login Request", bhs)?;
        Ok(LoginRequest {
            transit,
            continues,
            stage,
            next_stage,
            version_max: bhs[Self::VERSION_MAX],
            version_min: bhs[Self::VERSION_MIN],
            isid: isid(bhs),
            tsih: be16(bhs, TSIH),
            itt: itt(bhs),
            cid: be16(bhs, Self::CID),
            cmd_sn: sn(bhs, CMD_SN),
            exp_stat_sn: sn(bhs, EXP_STAT_SN),
            data_bytes: be24(bhs, DATA_SEGMENT_LENGTH),
        })
    }

    /// The header on the wire. Login requests are always immediate.
    pub fn emit(&self) -> Bhs {
        let flags = stage_flags(self.transit, self.continues, self.stage, self.next_stage);
        Builder::new(Self::OPCODE | IMMEDIATE, flags, self.data_bytes)
            .byte(Self::VERSION_MAX, self.version_max)
            .byte(Self::VERSION_MIN, self.version_min)
            .bytes(ISID, &self.isid.0)
            .word16(TSIH, self.tsih)
            .word32(ITT, self.itt.0)
            .word16(Self::CID, self.cid)
            .word32(CMD_SN, self.cmd_sn.0)
            .word32(EXP_STAT_SN, self.exp_stat_sn.0)
            .0
    }
}

/// Text Request (RFC 7143 §11.10).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct TextRequest {
    /// Deliver outside the command window.
    pub immediate: bool,
    /// The initiator has nothing more to say.
    pub final_pdu: bool,
    /// The text goes on in the next PDU.
    pub continues: bool,
    /// The eight bytes of the LUN field; only with a transfer tag.
    pub lun: u64,
    /// Tag, the same in all requests of an exchange.
    pub itt: Itt,
    /// As given by the target, or [`Ttt::RESERVED`] in the first request.
    pub ttt: Ttt,
    /// Its place in the order of commands.
    pub cmd_sn: Sn,
    /// The StatSN that the initiator expects next.
    pub exp_stat_sn: Sn,
    /// Length of the text that follows.
    pub data_bytes: u32,
}

impl TextRequest {
    /// 04h.
    pub const OPCODE: u8 = 0x04;

    /// F and C together, which exclude each other (RFC 7143 §11.10.2), are left to the receiver:
    /// the request has its number all the same.
    fn parse(bhs: &Bhs) -> Self {
        TextRequest {
            immediate: bhs[OPCODE] & IMMEDIATE != 0,
            final_pdu: bhs[FLAGS] & FINAL != 0,
            continues: bhs[FLAGS] & CONTINUE != 0,
            lun: be64(bhs, LUN),
            itt: itt(bhs),
            ttt: ttt(bhs),
            cmd_sn: sn(bhs, CMD_SN),
            exp_stat_sn: sn(bhs, EXP_STAT_SN),
            data_bytes: be24(bhs, DATA_SEGMENT_LENGTH),
        }
    }

    /// The header on the wire.
    pub fn emit(&self) -> Bhs {
        let flags = bit(self.final_pdu, FINAL) | bit(self.continues, CONTINUE);
        Builder::new(Self::OPCODE | bit(self.immediate, IMMEDIATE), flags, self.data_bytes)
            .word64(LUN, self.lun)
            .word32(ITT, self.itt.0)
            .word32(TTT, self.ttt.0)
            .word32(CMD_SN, self.cmd_sn.0)
            .word32(EXP_STAT_SN, self.exp_stat_sn.0)
            .0
    }
}

/// SCSI Data-Out (RFC 7143 §11.7).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct DataOut {
    /// Last PDU of this burst.
    pub final_pdu: bool,
    /// The eight bytes of the LUN field; only with a transfer tag.
    pub lun: u64,
    /// The task that the data belongs to.
    pub itt: Itt,
    /// The R2T that asked for it, or [`Ttt::RESERVED`] for unsolicited data.
    pub ttt: Ttt,
    /// The StatSN that the initiator expects next.
    pub exp_stat_sn: Sn,
    /// Number of this PDU in its burst.
    pub data_sn: Sn,
    /// Where the data belongs in the task's buffer, in bytes.
    pub buffer_offset: u32,
    /// Length of the data that follows.
    pub data_bytes: u32,
}

impl DataOut {
    /// 05h.
    pub const OPCODE: u8 = 0x05;

    fn parse(bhs: &Bhs) -> Self {
        DataOut {
            final_pdu: bhs[FLAGS] & FINAL != 0,
            lun: be64(bhs, LUN),
            itt: itt(bhs),
            ttt: ttt(bhs),
            exp_stat_sn: sn(bhs, EXP_STAT_SN),
            data_sn: sn(bhs, DATA_SN),
            buffer_offset: be32(bhs, BUFFER_OFFSET),
            data_bytes: be24(bhs, DATA_SEGMENT_LENGTH),
        }
    }

    /// The header on the wire.
    pub fn emit(&self) -> Bhs {
        Builder::new(Self::OPCODE, bit(self.final_pdu, FINAL), self.data_bytes)
            .word64(LUN, self.lun)
            .word32(ITT, self.itt.0)
            .word32(TTT, self.ttt.0)
            .word32(EXP_STAT_SN, self.exp_stat_sn.0)
            .word32(DATA_SN, self.data_sn.0)
            .word32(BUFFER_OFFSET, self.buffer_offset)
            .0
    }
}

/// Logout Request (RFC 7143 §11.14).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct LogoutRequest {
    /// Deliver outside the command window.
    pub immediate: bool,
    /// 0 close the session, 1 close the connection, 2 remove the connection for recovery.
    pub reason: u8,
    /// Tag of this request.
    pub itt: Itt,
    /// The connection it is about.
    pub cid: u16,
    /// Its place in the order of commands.
    pub cmd_sn: Sn,
    /// The StatSN that the initiator expects next.
    pub exp_stat_sn: Sn,
}

impl LogoutRequest {
    /// 06h.
    pub const OPCODE: u8 = 0x06;
    const CID: usize = 20;

    fn parse(bhs: &Bhs) -> Self {
        LogoutRequest {
            immediate: bhs[OPCODE] & IMMEDIATE != 0,
            reason: bhs[FLAGS] & 0x7f,
            itt: itt(bhs),
            cid: be16(bhs, Self::CID),
            cmd_sn: sn(bhs, CMD_SN),
            exp_stat_sn: sn(bhs, EXP_STAT_SN),
        }
    }

    /// The header on the wire.
    pub fn emit(&self) -> Bhs {
        let opcode = Self::OPCODE | bit(self.immediate, IMMEDIATE);
        Builder::new(opcode, FINAL | (self.reason & 0x7f), 0)
            .word32(ITT, self.itt.0)
            .word16(Self::CID, self.cid)
            .word32(CMD_SN, self.cmd_sn.0)
            .word32(EXP_STAT_SN, self.exp_stat_sn.0)
            .0
    }
}

/// NOP-Out (RFC 7143 §11.18).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct NopOut {
    /// Deliver outside the command window; needed when it answers a NOP-In.
    pub immediate: bool,
    /// The eight bytes of the LUN field; copied from the NOP-In that it answers.
    pub lun: u64,
    /// Tag if an answer is wanted, else [`Itt::RESERVED`].
    pub itt: Itt,
    /// Tag of the NOP-In that it answers, else [`Ttt::RESERVED`].
    pub ttt: Ttt,
    /// Its place in the order of commands.
    pub cmd_sn: Sn,
    /// The StatSN that the initiator expects next.
    pub exp_stat_sn: Sn,
    /// Length of the ping data that follows.
    pub data_bytes: u32,
}

impl NopOut {
    /// 00h.
    pub const OPCODE: u8 = 0x00;

    fn parse(bhs: &Bhs) -> Self {
        NopOut {
            immediate: bhs[OPCODE] & IMMEDIATE != 0,
            lun: be64(bhs, LUN),
            itt: itt(bhs),
            ttt: ttt(bhs),
            cmd_sn: sn(bhs, CMD_SN),
            exp_stat_sn: sn(bhs, EXP_STAT_SN),
            data_bytes: be24(bhs, DATA_SEGMENT_LENGTH),
        }
    }

    /// The header on the wire.
    pub fn emit(&self) -> Bhs {
        Builder::new(Self::OPCODE | bit(self.immediate, IMMEDIATE), FINAL, self.data_bytes)
            .word64(LUN, self.lun)
            .word32(ITT, self.itt.0)
            .word32(TTT, self.ttt.0)
            .word32(CMD_SN, self.cmd_sn.0)
            .word32(EXP_STAT_SN, self.exp_stat_sn.0)
            .0
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    // Bytes set by hand from the figures of RFC 7143 §11.
    const READ_10: Bhs = [
        0x01, 0xc1, 0x00, 0x00, 0x00, 0x00, 0x00, 0x00, // opcode, F R simple, lengths
        0x00, 0x01, 0x00, 0x00, 0x00, 0x00, 0x00, 0x00, // LUN 1
        0x00, 0x00, 0x00, 0x07, 0x00, 0x00, 0x10, 0x00, // ITT, expected length
        0x00, 0x00, 0x00, 0x2a, 0x00, 0x00, 0x00, 0x13, // CmdSN, ExpStatSN
        0x28, 0x00, 0x00, 0x00, 0x00, 0x08, 0x00, 0x00, // CDB
        0x08, 0x00, 0x00, 0x00, 0x00, 0x00, 0x00, 0x00,
    ];

    fn read_10() -> ScsiCommand {
        let mut cdb = [0; 16];
        cdb[..10].copy_from_slice(&[0x28, 0, 0, 0, 0, 8, 0, 0, 8, 0]);
        ScsiCommand {
            immediate: false,
            final_pdu: true,
            read: true,
            write: false,
            attribute: TaskAttribute::Simple,
            lun: 0x0001_0000_0000_0000,
            itt: Itt(7),
            expected_data_bytes: 4096,
            cmd_sn: Sn(42),
            exp_stat_sn: Sn(19),
            cdb,
            data_bytes: 0,
        }
    }

    #[test]
    fn scsi_command_matches_the_figure() {
        assert_eq!(read_10().emit(), READ_10);
        assert_eq!(Request::parse(&READ_10), Ok(Request::ScsiCommand(read_10())));
    }

    #[test]
    fn login_request_matches_the_figure() {
        let mut bytes = [0; BHS_BYTES];
        bytes[0] = 0x43;
        bytes[1] = 0x87; // T, CSG 1, NSG 3
        bytes[5..8].copy_from_slice(&[0x00, 0x01, 0x02]);
        bytes[8..14].copy_from_slice(&[0x80, 1, 2, 3, 4, 5]);
        bytes[14..16].copy_from_slice(&[0, 9]);
        bytes[16..20].copy_from_slice(&[0, 0, 0, 3]);
        bytes[20..22].copy_from_slice(&[0, 1]);
        bytes[24..28].copy_from_slice(&[0, 0, 0, 5]);
        bytes[28..32].copy_from_slice(&[0, 0, 0, 6]);
        let login = LoginRequest {
            transit: true,
            continues: false,
            stage: Stage::LoginOperationalNegotiation,
            next_stage: Some(Stage::FullFeaturePhase),
            version_max: 0,
            version_min: 0,
            isid: Isid([0x80, 1, 2, 3, 4, 5]),
            tsih: 9,
            itt: Itt(3),
            cid: 1,
            cmd_sn: Sn(5),
            exp_stat_sn: Sn(6),
            data_bytes: 0x102,
        };
        assert_eq!(login.emit(), bytes);
        assert_eq!(Request::parse(&bytes), Ok(Request::Login(login)));
    }

    #[test]
    fn data_out_matches_the_figure() {
        let mut bytes = [0; BHS_BYTES];
        bytes[0] = 0x05;
        bytes[1] = 0x80;
        bytes[5..8].copy_from_slice(&[0, 0x20, 0]);
        bytes[16..20].copy_from_slice(&[0, 0, 0, 7]);
        bytes[20..24].copy_from_slice(&[0, 0, 0, 8]);
        bytes[28..32].copy_from_slice(&[0, 0, 0, 9]);
        bytes[36..40].copy_from_slice(&[0, 0, 0, 2]);
        bytes[40..44].copy_from_slice(&[0, 1, 0, 0]);
        let data_out = DataOut {
            final_pdu: true,
            lun: 0,
            itt: Itt(7),
            ttt: Ttt(8),
            exp_stat_sn: Sn(9),
            data_sn: Sn(2),
            buffer_offset: 0x1_0000,
            data_bytes: 0x2000,
        };
        assert_eq!(data_out.emit(), bytes);
        assert_eq!(Request::parse(&bytes), Ok(Request::DataOut(data_out)));
    }

    #[test]
    fn task_management_nop_text_and_logout_match_their_figures() {
        let abort = TaskManagementRequest {
            immediate: true,
            function: 1,
            lun: 0,
            itt: Itt(1),
            referenced_itt: Itt(2),
            cmd_sn: Sn(3),
            exp_stat_sn: Sn(4),
            ref_cmd_sn: Sn(5),
        };
        let bytes = abort.emit();
        assert_eq!(bytes[..2], [0x42, 0x81]);
        assert_eq!(bytes[20..24], [0, 0, 0, 2]);
        assert_eq!(bytes[32..36], [0, 0, 0, 5]);
        assert_eq!(Request::parse(&bytes), Ok(Request::TaskManagement(abort)));

        let nop = NopOut {
            immediate: true,
            lun: 0,
            itt: Itt::RESERVED,
            ttt: Ttt(6),
            cmd_sn: Sn(3),
            exp_stat_sn: Sn(4),
            data_bytes: 0,
        };
        let bytes = nop.emit();
        assert_eq!(bytes[..2], [0x40, 0x80]);
        assert_eq!(bytes[16..24], [0xff, 0xff, 0xff, 0xff, 0, 0, 0, 6]);
        assert_eq!(Request::parse(&bytes), Ok(Request::NopOut(nop)));

        let text = TextRequest {
            immediate: false,
            final_pdu: true,
            continues: false,
            lun: 0,
            itt: Itt(1),
            ttt: Ttt::RESERVED,
            cmd_sn: Sn(3),
            exp_stat_sn: Sn(4),
            data_bytes: 16,
        };
        let bytes = text.emit();
        assert_eq!(bytes[..8], [0x04, 0x80, 0, 0, 0, 0, 0, 16]);
        assert_eq!(Request::parse(&bytes), Ok(Request::Text(text)));

        let logout = LogoutRequest {
            immediate: true,
            reason: 1,
            itt: Itt(1),
            cid: 0x0203,
            cmd_sn: Sn(3),
            exp_stat_sn: Sn(4),
        };
        let bytes = logout.emit();
        assert_eq!(bytes[..2], [0x46, 0x81]);
        assert_eq!(bytes[20..22], [2, 3]);
        assert_eq!(Request::parse(&bytes), Ok(Request::Logout(logout)));
    }

    #[test]
    fn a_reserved_stage_is_named() {
        let mut bytes = [0; BHS_BYTES];
        bytes[0] = 0x43;
        bytes[1] = 0x08;
        let error = Request::parse(&bytes).unwrap_err();
        assert_eq!(error.to_string(), "Login Request: CSG 2: must be 0, 1 or 3");
    }

    #[test]
    fn an_unknown_opcode_keeps_its_number() {
        let mut bytes = [0; BHS_BYTES];
        bytes[0] = 0x1d;
        assert_eq!(Request::parse(&bytes), Ok(Request::Unknown(0x1d)));
    }
}
