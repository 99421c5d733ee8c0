//! What a target sends.
//!
//! One struct per opcode, in the order of RFC 7143 §11; offsets that belong to one PDU alone stand
//! with its struct, those of all PDUs in the module above.

use super::*;
use crate::wire::Malformed;

/// A PDU from the target, by its opcode.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Response {
    /// 20h.
    NopIn(NopIn),
    /// 21h.
    ScsiResponse(ScsiResponse),
    /// 22h.
    TaskManagement(TaskManagementResponse),
    /// 23h.
    Login(LoginResponse),
    /// 24h.
    Text(TextResponse),
    /// 25h.
    DataIn(DataIn),
    /// 26h.
    Logout(LogoutResponse),
    /// 31h.
    R2t(R2t),
    /// 32h.
    AsyncMessage(AsyncMessage),
    /// 3fh.
    Reject(Reject),
    /// An opcode that no target may send; kept so that it can be named.
    Unknown(u8),
}

impl Response {
    /// Reads a header. Only what no receiver could make sense of is an error here; whether a PDU is
    /// allowed at this moment is the state machine's business.
    pub fn parse(bhs: &Bhs) -> Result<Response, Malformed> {
        Ok(match bhs[OPCODE] & OPCODE_MASK {
            NopIn::OPCODE => Response::NopIn(NopIn::parse(bhs)),
            ScsiResponse::OPCODE => Response::ScsiResponse(ScsiResponse::parse(bhs)),
            TaskManagementResponse::OPCODE => {
                Response::TaskManagement(TaskManagementResponse::parse(bhs))
            }
            LoginResponse::OPCODE => Response::Login(LoginResponse::parse(bhs)?),
            TextResponse::OPCODE => Response::Text(TextResponse::parse(bhs)?),
            DataIn::OPCODE => Response::DataIn(DataIn::parse(bhs)?),
            LogoutResponse::OPCODE => Response::Logout(LogoutResponse::parse(bhs)),
            R2t::OPCODE => Response::R2t(R2t::parse(bhs)),
            AsyncMessage::OPCODE => Response::AsyncMessage(AsyncMessage::parse(bhs)),
            Reject::OPCODE => Response::Reject(Reject::parse(bhs)),
            unknown => Response::Unknown(unknown),
        })
    }
}

/// What did not fit the length that the initiator expected (RFC 7143 §11.4.5).
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Residual {
    /// Exactly as expected.
    #[default]
    None,
    /// So many bytes more would have been moved (O bit).
    Overflow(u32),
    /// So many bytes fewer were moved (U bit).
    Underflow(u32),
}

impl Residual {
    fn parse(thing: &'static str, bhs: &Bhs) -> Result<Residual, Malformed> {
        let count = be32(bhs, RESIDUAL);
        match (bhs[FLAGS] & OVERFLOW != 0, bhs[FLAGS] & UNDERFLOW != 0) {
            (false, false) => Ok(Residual::None),
            (true, false) => Ok(Residual::Overflow(count)),
            (false, true) => Ok(Residual::Underflow(count)),
            (true, true) => {
                let rule = "must not be set together with O";
                Err(Malformed::number(thing, "U", 1u8, rule))
            }
        }
    }

    fn flag(self) -> u8 {
        match self {
            Residual::None => 0,
            Residual::Overflow(_) => OVERFLOW,
            Residual::Underflow(_) => UNDERFLOW,
        }
    }

    fn count(self) -> u32 {
        match self {
            Residual::None => 0,
            Residual::Overflow(count) | Residual::Underflow(count) => count,
        }
    }
}

/// SCSI Response (RFC 7143 §11.4).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct ScsiResponse {
    /// iSCSI service response: 0 completed at target, 1 target failure.
    pub response: u8,
    /// SCSI status (SAM-5 §5.3.1); only with `response` 0.
    pub status: u8,
    /// The task that it ends.
    pub itt: Itt,
    /// Counters; StatSN is that of this status.
    pub sns: StatusSns,
    /// Number of Data-In and R2T PDUs that were sent for the task.
    pub exp_data_sn: Sn,
    /// What did not fit.
    pub residual: Residual,
    /// Length of the sense data that follows, its two length bytes included.
    pub data_bytes: u32,
}

impl ScsiResponse {
    /// 21h.
    pub const OPCODE: u8 = 0x21;
    const RESPONSE: usize = 2;
    const STATUS: usize = 3;
    const EXP_DATA_SN: usize = 36;

    fn parse(bhs: &Bhs) -> Self {
        ScsiResponse {
            response: bhs[Self::RESPONSE],
            status: bhs[Self::STATUS],
            itt: itt(bhs),
            sns: sns(bhs),
            exp_data_sn: sn(bhs, Self::EXP_DATA_SN),
            // A response with both bits set is refused by no initiator that we know: count it as
            // an underflow, the reading that never trusts bytes which may not have come.
            residual: Residual::parse("SCSI Response", bhs)
                .unwrap_or(Residual::Underflow(be32(bhs, RESIDUAL))),
            data_bytes: be24(bhs, DATA_SEGMENT_LENGTH),
        }
    }

    /// The header on the wire.
    pub fn emit(&self) -> Bhs {
        Builder::new(Self::OPCODE, FINAL | self.residual.flag(), self.data_bytes)
            .byte(Self::RESPONSE, self.response)
            .byte(Self::STATUS, self.status)
            .word32(ITT, self.itt.0)
            .sns(&self.sns)
            .word32(Self::EXP_DATA_SN, self.exp_data_sn.0)
            .word32(RESIDUAL, self.residual.count())
            .0
    }
}

/// Task Management Function Response (RFC 7143 §11.6).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct TaskManagementResponse {
    /// 0 complete, 1 no such task, 2 no such LUN, 3 task still allegiant, 4 no allegiance
    /// reassignment, 5 not supported, 6 not authorized, 255 rejected.
    pub response: u8,
    /// The request that it answers.
    pub itt: Itt,
    /// Counters.
    pub sns: StatusSns,
}

impl TaskManagementResponse {
    /// 22h.
    pub const OPCODE: u8 = 0x22;
    const RESPONSE: usize = 2;

    fn parse(bhs: &Bhs) -> Self {
        TaskManagementResponse { response: bhs[Self::RESPONSE], itt: itt(bhs), sns: sns(bhs) }
    }

    /// The header on the wire.
    pub fn emit(&self) -> Bhs {
        Builder::new(Self::OPCODE, FINAL, 0)
            .byte(Self::RESPONSE, self.response)
            .word32(ITT, self.itt.0)
            .sns(&self.sns)
            .0
    }
}

/// Login Response (RFC 7143 §11.13).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct LoginResponse {
    /// The target agrees to go to `next_stage`.
    pub transit: bool,
    /// The text goes on in the next PDU.
    pub continues: bool,
    /// The stage this PDU belongs to.
    pub stage: Stage,
    /// The stage that follows; only with `transit`.
    pub next_stage: Option<Stage>,
    /// Highest version that the target speaks.
    pub version_max: u8,
    /// The version in use.
    pub version_active: u8,
    /// As in the request.
    pub isid: Isid,
    /// Target part of the session identifier; valid in the last response.
    pub tsih: u16,
    /// As in the request.
    pub itt: Itt,
    /// Counters.
    pub sns: StatusSns,
    /// 0 success, 1 redirection, 2 initiator error, 3 target error.
    pub status_class: u8,
    /// What exactly (§11.13.5).
    pub status_detail: u8,
    /// Length of the text that follows.
    pub data_bytes: u32,
}

impl LoginResponse {
    /// 23h.
    pub const OPCODE: u8 = 0x23;
    const VERSION_MAX: usize = 2;
    const VERSION_ACTIVE: usize = 3;
    const STATUS_CLASS: usize = 36;
    const STATUS_DETAIL: usize = 37;

    fn parse(bhs: &Bhs) -> Result<Self, Malformed> {
        let (status_class, status_detail) = (bhs[Self::STATUS_CLASS], bhs[Self::STATUS_DETAIL]);
        // A refusal is final whatever its stage bits say, and some targets leave them zero or odd.
        let (transit, continues, stage, next_stage) = match stages("Login Response", bhs) {
            Ok(stages) => stages,
            Err(_) if status_class != 0 => (false, false, Stage::SecurityNegotiation, None),
            Err(error) => return Err(error),
        };
        Ok(LoginResponse {
            transit,
            continues,
            stage,
            next_stage,
            version_max: bhs[Self::VERSION_MAX],
            version_active: bhs[Self::VERSION_ACTIVE],
            isid: isid(bhs),
            tsih: be16(bhs, TSIH),
            itt: itt(bhs),
            sns: sns(bhs),
            status_class,
            status_detail,
            data_bytes: be24(bhs, DATA_SEGMENT_LENGTH),
        })
    }

    /// The header on the wire.
    pub fn emit(&self) -> Bhs {
        let flags = stage_flags(self.transit, self.continues, self.stage, self.next_stage);
        Builder::new(Self::OPCODE, flags, self.data_bytes)
            .byte(Self::VERSION_MAX, self.version_max)
            .byte(Self::VERSION_ACTIVE, self.version_active)
            .bytes(ISID, &self.isid.0)
            .word16(TSIH, self.tsih)
            .word32(ITT, self.itt.0)
            .sns(&self.sns)
            .byte(Self::STATUS_CLASS, self.status_class)
            .byte(Self::STATUS_DETAIL, self.status_detail)
            .0
    }
}

/// Text Response (RFC 7143 §11.11).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct TextResponse {
    /// The target has nothing more to say.
    pub final_pdu: bool,
    /// The text goes on in the next PDU.
    pub continues: bool,
    /// The eight bytes of the LUN field; only with a transfer tag.
    pub lun: u64,
    /// As in the request.
    pub itt: Itt,
    /// To be copied into the next request of the exchange, or [`Ttt::RESERVED`] in the last.
    pub ttt: Ttt,
    /// Counters.
    pub sns: StatusSns,
    /// Length of the text that follows.
    pub data_bytes: u32,
}

impl TextResponse {
    /// 24h.
    pub const OPCODE: u8 = 0x24;

    fn parse(bhs: &Bhs) -> Result<Self, Malformed> {
        let (final_pdu, continues) = final_and_continue("Text Response", bhs)?;
        Ok(TextResponse {
            final_pdu,
            continues,
            lun: be64(bhs, LUN),
            itt: itt(bhs),
            ttt: ttt(bhs),
            sns: sns(bhs),
            data_bytes: be24(bhs, DATA_SEGMENT_LENGTH),
        })
    }

    /// The header on the wire.
    pub fn emit(&self) -> Bhs {
        let flags = bit(self.final_pdu, FINAL) | bit(self.continues, CONTINUE);
        Builder::new(Self::OPCODE, flags, self.data_bytes)
            .word64(LUN, self.lun)
            .word32(ITT, self.itt.0)
            .word32(TTT, self.ttt.0)
            .sns(&self.sns)
            .0
    }
}

/// SCSI Data-In (RFC 7143 §11.7).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct DataIn {
    /// Last PDU of this sequence.
    pub final_pdu: bool,
    /// The target asks for an acknowledgement; not at ErrorRecoveryLevel 0.
    pub acknowledge: bool,
    /// SCSI status, if this PDU ends the task (S bit).
    pub status: Option<u8>,
    /// The eight bytes of the LUN field; only with a transfer tag.
    pub lun: u64,
    /// The task that the data belongs to.
    pub itt: Itt,
    /// Only with `acknowledge`.
    pub ttt: Ttt,
    /// Counters; StatSN is valid only with `status`.
    pub sns: StatusSns,
    /// Number of this PDU in the task.
    pub data_sn: Sn,
    /// Where the data belongs in the task's buffer, in bytes.
    pub buffer_offset: u32,
    /// What did not fit; only with `status`.
    pub residual: Residual,
    /// Length of the data that follows.
    pub data_bytes: u32,
}

impl DataIn {
    /// 25h.
    pub const OPCODE: u8 = 0x25;
    const ACKNOWLEDGE: u8 = 0x40;
    const STATUS_BIT: u8 = 0x01;
    const STATUS: usize = 3;

    fn parse(bhs: &Bhs) -> Result<Self, Malformed> {
        let final_pdu = bhs[FLAGS] & FINAL != 0;
        let has_status = bhs[FLAGS] & Self::STATUS_BIT != 0;
        if has_status && !final_pdu {
            let rule = "must not be set without F";
            return Err(Malformed::number("SCSI Data-In", "S", 1u8, rule));
        }
        Ok(DataIn {
            final_pdu,
            acknowledge: bhs[FLAGS] & Self::ACKNOWLEDGE != 0,
            status: has_status.then_some(bhs[Self::STATUS]),
            lun: be64(bhs, LUN),
            itt: itt(bhs),
            ttt: ttt(bhs),
            sns: sns(bhs),
            data_sn: sn(bhs, DATA_SN),
            buffer_offset: be32(bhs, BUFFER_OFFSET),
            residual: if has_status {
                Residual::parse("SCSI Data-In", bhs)?
            } else {
                Residual::None
            },
            data_bytes: be24(bhs, DATA_SEGMENT_LENGTH),
        })
    }

    /// The header on the wire.
    pub fn emit(&self) -> Bhs {
        let mut flags = bit(self.final_pdu, FINAL) | bit(self.acknowledge, Self::ACKNOWLEDGE);
        if self.status.is_some() {
            flags |= Self::STATUS_BIT | self.residual.flag();
        }
        Builder::new(Self::OPCODE, flags, self.data_bytes)
            .byte(Self::STATUS, self.status.unwrap_or(0))
            .word64(LUN, self.lun)
            .word32(ITT, self.itt.0)
            .word32(TTT, self.ttt.0)
            .sns(&self.sns)
            .word32(DATA_SN, self.data_sn.0)
            .word32(BUFFER_OFFSET, self.buffer_offset)
            .word32(RESIDUAL, self.residual.count())
            .0
    }
}

/// Logout Response (RFC 7143 §11.15).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct LogoutResponse {
    /// 0 closed, 1 CID not found, 2 recovery not supported, 3 cleanup failed.
    pub response: u8,
    /// The request that it answers.
    pub itt: Itt,
    /// Counters.
    pub sns: StatusSns,
    /// Seconds to wait before connecting again.
    pub time2wait: u16,
    /// Seconds after which reconnecting makes no sense any more.
    pub time2retain: u16,
}

impl LogoutResponse {
    /// 26h.
    pub const OPCODE: u8 = 0x26;
    const RESPONSE: usize = 2;
    const TIME2WAIT: usize = 40;
    const TIME2RETAIN: usize = 42;

    fn parse(bhs: &Bhs) -> Self {
        LogoutResponse {
            response: bhs[Self::RESPONSE],
            itt: itt(bhs),
            sns: sns(bhs),
            time2wait: be16(bhs, Self::TIME2WAIT),
            time2retain: be16(bhs, Self::TIME2RETAIN),
        }
    }

    /// The header on the wire.
    pub fn emit(&self) -> Bhs {
        Builder::new(Self::OPCODE, FINAL, 0)
            .byte(Self::RESPONSE, self.response)
            .word32(ITT, self.itt.0)
            .sns(&self.sns)
            .word16(Self::TIME2WAIT, self.time2wait)
            .word16(Self::TIME2RETAIN, self.time2retain)
            .0
    }
}

/// Ready To Transfer (RFC 7143 §11.8).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct R2t {
    /// The eight bytes of the LUN field.
    pub lun: u64,
    /// The task that data is wanted for.
    pub itt: Itt,
    /// To be copied into every Data-Out that answers.
    pub ttt: Ttt,
    /// Counters; StatSN is the next one and is not used up.
    pub sns: StatusSns,
    /// Number of this R2T in the task.
    pub r2t_sn: Sn,
    /// First byte wanted.
    pub buffer_offset: u32,
    /// Number of bytes wanted: not zero, at most MaxBurstLength.
    pub desired_bytes: u32,
}

impl R2t {
    /// 31h.
    pub const OPCODE: u8 = 0x31;
    const DESIRED_DATA_TRANSFER_LENGTH: usize = 44;

    fn parse(bhs: &Bhs) -> Self {
        R2t {
            lun: be64(bhs, LUN),
            itt: itt(bhs),
            ttt: ttt(bhs),
            sns: sns(bhs),
            r2t_sn: sn(bhs, DATA_SN),
            buffer_offset: be32(bhs, BUFFER_OFFSET),
            desired_bytes: be32(bhs, Self::DESIRED_DATA_TRANSFER_LENGTH),
        }
    }

    /// The header on the wire.
    pub fn emit(&self) -> Bhs {
        Builder::new(Self::OPCODE, FINAL, 0)
            .word64(LUN, self.lun)
            .word32(ITT, self.itt.0)
            .word32(TTT, self.ttt.0)
            .sns(&self.sns)
            .word32(DATA_SN, self.r2t_sn.0)
            .word32(BUFFER_OFFSET, self.buffer_offset)
            .word32(Self::DESIRED_DATA_TRANSFER_LENGTH, self.desired_bytes)
            .0
    }
}

/// Asynchronous Message (RFC 7143 §11.9).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct AsyncMessage {
    /// The eight bytes of the LUN field.
    pub lun: u64,
    /// Counters.
    pub sns: StatusSns,
    /// 0 SCSI event, 1 log out, 2 connection will drop, 3 session will drop, 4 negotiate again,
    /// 255 vendor specific.
    pub event: u8,
    /// Vendor code.
    pub vcode: u8,
    /// Event 1: seconds to log out within is `parameter3`; 2 and 3: CID, Time2Wait, Time2Retain.
    pub parameter1: u16,
    /// See `parameter1`.
    pub parameter2: u16,
    /// See `parameter1`.
    pub parameter3: u16,
    /// Length of the sense data that follows.
    pub data_bytes: u32,
}

impl AsyncMessage {
    /// 32h.
    pub const OPCODE: u8 = 0x32;
    const EVENT: usize = 36;
    const VCODE: usize = 37;
    const PARAMETER1: usize = 38;
    const PARAMETER2: usize = 40;
    const PARAMETER3: usize = 42;

    fn parse(bhs: &Bhs) -> Self {
        AsyncMessage {
            lun: be64(bhs, LUN),
            sns: sns(bhs),
            event: bhs[Self::EVENT],
            vcode: bhs[Self::VCODE],
            parameter1: be16(bhs, Self::PARAMETER1),
            parameter2: be16(bhs, Self::PARAMETER2),
            parameter3: be16(bhs, Self::PARAMETER3),
            data_bytes: be24(bhs, DATA_SEGMENT_LENGTH),
        }
    }

    /// The header on the wire.
    pub fn emit(&self) -> Bhs {
        Builder::new(Self::OPCODE, FINAL, self.data_bytes)
            .word64(LUN, self.lun)
            .word32(ITT, Itt::RESERVED.0)
            .sns(&self.sns)
            .byte(Self::EVENT, self.event)
            .byte(Self::VCODE, self.vcode)
            .word16(Self::PARAMETER1, self.parameter1)
            .word16(Self::PARAMETER2, self.parameter2)
            .word16(Self::PARAMETER3, self.parameter3)
            .0
    }
}

/// Reject (RFC 7143 §11.17); the header of the PDU it is about follows as data.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Reject {
    /// See the constants of this type.
    pub reason: u8,
    /// Counters.
    pub sns: StatusSns,
    /// DataSN or R2TSN that was rejected, where that applies.
    pub data_sn: Sn,
    /// Length of the header that follows: 48.
    pub data_bytes: u32,
}

impl Reject {
    /// 3fh.
    pub const OPCODE: u8 = 0x3f;
    /// A data digest was wrong.
    pub const DATA_DIGEST_ERROR: u8 = 0x02;
    /// SNACK is not taken.
    pub const SNACK_REJECT: u8 = 0x03;
    /// The PDU is not allowed here.
    pub const PROTOCOL_ERROR: u8 = 0x04;
    /// The command is not supported.
    pub const COMMAND_NOT_SUPPORTED: u8 = 0x05;
    /// Too many immediate commands.
    pub const IMMEDIATE_COMMAND_REJECT: u8 = 0x06;
    /// The task is still running.
    pub const TASK_IN_PROGRESS: u8 = 0x07;
    /// Data acknowledgement is wrong.
    pub const INVALID_DATA_ACK: u8 = 0x08;
    /// A field of the PDU is wrong.
    pub const INVALID_PDU_FIELD: u8 = 0x09;
    /// No resources for a long operation.
    pub const LONG_OPERATION_REJECT: u8 = 0x0a;
    /// A negotiation by text failed and counts for nothing.
    pub const NEGOTIATION_RESET: u8 = 0x0b;
    /// Waiting for a logout.
    pub const WAITING_FOR_LOGOUT: u8 = 0x0c;
    const REASON: usize = 2;

    fn parse(bhs: &Bhs) -> Self {
        Reject {
            reason: bhs[Self::REASON],
            sns: sns(bhs),
            data_sn: sn(bhs, DATA_SN),
            data_bytes: be24(bhs, DATA_SEGMENT_LENGTH),
        }
    }

    /// The header on the wire.
    pub fn emit(&self) -> Bhs {
        Builder::new(Self::OPCODE, FINAL, self.data_bytes)
            .byte(Self::REASON, self.reason)
            .word32(ITT, Itt::RESERVED.0)
            .sns(&self.sns)
            .word32(DATA_SN, self.data_sn.0)
            .0
    }
}

/// NOP-In (RFC 7143 §11.19).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct NopIn {
    /// The eight bytes of the LUN field; to be copied into the answer.
    pub lun: u64,
    /// The NOP-Out that it answers, or [`Itt::RESERVED`].
    pub itt: Itt,
    /// Tag if an answer is wanted, else [`Ttt::RESERVED`].
    pub ttt: Ttt,
    /// Counters; StatSN is used up only by an answer to a NOP-Out.
    pub sns: StatusSns,
    /// Length of the ping data that follows.
    pub data_bytes: u32,
}

impl NopIn {
    /// 20h.
    pub const OPCODE: u8 = 0x20;

    fn parse(bhs: &Bhs) -> Self {
        NopIn {
            lun: be64(bhs, LUN),
            itt: itt(bhs),
            ttt: ttt(bhs),
            sns: sns(bhs),
            data_bytes: be24(bhs, DATA_SEGMENT_LENGTH),
        }
    }

    /// The header on the wire.
    pub fn emit(&self) -> Bhs {
        Builder::new(Self::OPCODE, FINAL, self.data_bytes)
            .word64(LUN, self.lun)
            .word32(ITT, self.itt.0)
            .word32(TTT, self.ttt.0)
            .sns(&self.sns)
            .0
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const SNS: StatusSns =
        StatusSns { stat_sn: Sn(0x11), exp_cmd_sn: Sn(0x22), max_cmd_sn: Sn(0x33) };

    // Bytes set by hand from the figures of RFC 7143 §11.
    const DATA_IN: Bhs = [
        0x25, 0x83, 0x00, 0x00, 0x00, 0x00, 0x02, 0x00, // F U S, 512 bytes
        0x00, 0x00, 0x00, 0x00, 0x00, 0x00, 0x00, 0x00, // LUN
        0x00, 0x00, 0x00, 0x07, 0xff, 0xff, 0xff, 0xff, // ITT, TTT
        0x00, 0x00, 0x00, 0x11, 0x00, 0x00, 0x00, 0x22, // StatSN, ExpCmdSN
        0x00, 0x00, 0x00, 0x33, 0x00, 0x00, 0x00, 0x01, // MaxCmdSN, DataSN
        0x00, 0x00, 0x20, 0x00, 0x00, 0x00, 0x0e, 0x00, // Buffer Offset, Residual
    ];

    fn data_in() -> DataIn {
        DataIn {
            final_pdu: true,
            acknowledge: false,
            status: Some(0),
            lun: 0,
            itt: Itt(7),
            ttt: Ttt::RESERVED,
            sns: SNS,
            data_sn: Sn(1),
            buffer_offset: 0x2000,
            residual: Residual::Underflow(0xe00),
            data_bytes: 512,
        }
    }

    #[test]
    fn data_in_matches_the_figure() {
        assert_eq!(data_in().emit(), DATA_IN);
        assert_eq!(Response::parse(&DATA_IN), Ok(Response::DataIn(data_in())));
    }

    #[test]
    fn data_in_with_status_must_be_final() {
        let mut bytes = DATA_IN;
        bytes[1] = 0x01;
        let error = Response::parse(&bytes).unwrap_err();
        assert_eq!(error.to_string(), "SCSI Data-In: S 1: must not be set without F");
    }

    #[test]
    fn scsi_response_matches_the_figure() {
        let response = ScsiResponse {
            response: 0,
            status: 2,
            itt: Itt(7),
            sns: SNS,
            exp_data_sn: Sn(4),
            residual: Residual::Overflow(5),
            data_bytes: 20,
        };
        let bytes = response.emit();
        assert_eq!(bytes[..8], [0x21, 0x84, 0, 2, 0, 0, 0, 20]);
        assert_eq!(bytes[24..36], [0, 0, 0, 0x11, 0, 0, 0, 0x22, 0, 0, 0, 0x33]);
        assert_eq!(bytes[36..48], [0, 0, 0, 4, 0, 0, 0, 0, 0, 0, 0, 5]);
        assert_eq!(Response::parse(&bytes), Ok(Response::ScsiResponse(response)));
    }

    #[test]
    fn r2t_matches_the_figure() {
        let r2t = R2t {
            lun: 0,
            itt: Itt(7),
            ttt: Ttt(9),
            sns: SNS,
            r2t_sn: Sn(2),
            buffer_offset: 0x1_0000,
            desired_bytes: 0x4_0000,
        };
        let bytes = r2t.emit();
        assert_eq!(bytes[..2], [0x31, 0x80]);
        assert_eq!(bytes[20..24], [0, 0, 0, 9]);
        assert_eq!(bytes[36..48], [0, 0, 0, 2, 0, 1, 0, 0, 0, 4, 0, 0]);
        assert_eq!(Response::parse(&bytes), Ok(Response::R2t(r2t)));
    }

    #[test]
    fn login_response_matches_the_figure() {
        let login = LoginResponse {
            transit: true,
            continues: false,
            stage: Stage::LoginOperationalNegotiation,
            next_stage: Some(Stage::FullFeaturePhase),
            version_max: 0,
            version_active: 0,
            isid: Isid([0x80, 1, 2, 3, 4, 5]),
            tsih: 0x1234,
            itt: Itt(3),
            sns: SNS,
            status_class: 2,
            status_detail: 1,
            data_bytes: 0,
        };
        let bytes = login.emit();
        assert_eq!(bytes[..2], [0x23, 0x87]);
        assert_eq!(bytes[8..16], [0x80, 1, 2, 3, 4, 5, 0x12, 0x34]);
        assert_eq!(bytes[36..38], [2, 1]);
        assert_eq!(Response::parse(&bytes), Ok(Response::Login(login)));
    }

    #[test]
    fn a_refused_login_is_readable_whatever_its_stage_bits_say() {
        let mut bytes = [0; BHS_BYTES];
        bytes[0] = 0x23;
        bytes[1] = 0x8a;
        bytes[36..38].copy_from_slice(&[2, 3]);
        assert!(matches!(
            Response::parse(&bytes),
            Ok(Response::Login(LoginResponse { status_class: 2, status_detail: 3, .. }))
        ));
    }

    #[test]
    fn the_small_responses_match_their_figures() {
        let reject =
            Reject { reason: Reject::PROTOCOL_ERROR, sns: SNS, data_sn: Sn(0), data_bytes: 48 };
        let bytes = reject.emit();
        assert_eq!(bytes[..8], [0x3f, 0x80, 4, 0, 0, 0, 0, 48]);
        assert_eq!(bytes[16..20], [0xff; 4]);
        assert_eq!(Response::parse(&bytes), Ok(Response::Reject(reject)));

        let nop = NopIn { lun: 0, itt: Itt::RESERVED, ttt: Ttt(5), sns: SNS, data_bytes: 0 };
        let bytes = nop.emit();
        assert_eq!(bytes[..2], [0x20, 0x80]);
        assert_eq!(bytes[16..24], [0xff, 0xff, 0xff, 0xff, 0, 0, 0, 5]);
        assert_eq!(Response::parse(&bytes), Ok(Response::NopIn(nop)));

        let message = AsyncMessage {
            lun: 0,
            sns: SNS,
            event: 2,
            vcode: 0,
            parameter1: 1,
            parameter2: 2,
            parameter3: 3,
            data_bytes: 0,
        };
        let bytes = message.emit();
        assert_eq!(bytes[36..44], [2, 0, 0, 1, 0, 2, 0, 3]);
        assert_eq!(Response::parse(&bytes), Ok(Response::AsyncMessage(message)));

        let logout =
            LogoutResponse { response: 0, itt: Itt(1), sns: SNS, time2wait: 2, time2retain: 20 };
        let bytes = logout.emit();
        assert_eq!(bytes[40..44], [0, 2, 0, 20]);
        assert_eq!(Response::parse(&bytes), Ok(Response::Logout(logout)));

        let done = TaskManagementResponse { response: 5, itt: Itt(1), sns: SNS };
        let bytes = done.emit();
        assert_eq!(bytes[..4], [0x22, 0x80, 5, 0]);
        assert_eq!(Response::parse(&bytes), Ok(Response::TaskManagement(done)));

        let text = TextResponse {
            final_pdu: false,
            continues: true,
            lun: 0,
            itt: Itt(1),
            ttt: Ttt(2),
            sns: SNS,
            data_bytes: 3,
        };
        let bytes = text.emit();
        assert_eq!(bytes[..8], [0x24, 0x40, 0, 0, 0, 0, 0, 3]);
        assert_eq!(Response::parse(&bytes), Ok(Response::Text(text)));
    }
}
