//! Which commands a unit executes: one table, from which dispatch, the checks before each command
//! and REPORT SUPPORTED OPERATION CODES are read: they cannot disagree (SPC-4 §6.34, §6.35). A
//! command of this table is one that [`Cdb`](crate::wire::scsi::Cdb) can parse, and the reverse.

use super::{LogicalUnit, Outcome, allocated, illegal, invalid_field};
use crate::wire::scsi::opcode::{
    self, maintenance_in, reserve_in, reserve_out, sanitize, service_action_in,
};
use crate::wire::scsi::{Sense, asc};

/// A command that units execute.
#[derive(Clone, Copy, Debug)]
pub(super) struct Command {
    /// CDB USAGE DATA: the opcode and the service action as they are, and behind them a one for
    /// every bit that is looked at. As long as the CDB.
    usage: &'static [u8],
    /// Byte 1 has a service action in its lower five bits.
    has_action: bool,
    /// What it does to the medium.
    access: Access,
    /// It depends on what is there, or changes the unit for everybody: no other command may be
    /// executed at the same time.
    alone: bool,
    /// Its data has one length, and other data means that something else was meant.
    exact: bool,
    /// A bit that means nothing must be zero: what is destroyed must have been meant.
    strict: bool,
    /// Which units know it.
    units: Units,
}

/// What a command does to the medium.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Access {
    /// It is about the unit and needs no medium.
    Unit,
    /// It looks at the medium.
    Read,
    /// It changes the medium.
    Write,
}

/// Units that know a command.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Units {
    All,
    /// Those that can free blocks.
    Thin,
    /// Those that can write atomically.
    Atomic,
    /// Those whose medium can be ejected.
    Removable,
    /// Those that may be sanitized.
    Sanitizable,
    /// Those of them that can free blocks.
    Erasable,
}

/// NACA in the CONTROL byte is looked at, and refused.
const CONTROL: u8 = 0x04;

const fn unit(usage: &'static [u8]) -> Command {
    Command {
        usage,
        has_action: false,
        access: Access::Unit,
        alone: false,
        exact: false,
        strict: false,
        units: Units::All,
    }
}

const fn read(usage: &'static [u8]) -> Command {
    Command { access: Access::Read, ..unit(usage) }
}

const fn write(usage: &'static [u8]) -> Command {
    Command { access: Access::Write, ..unit(usage) }
}

const fn alone(command: Command) -> Command {
    Command { alone: true, ..command }
}

const fn exact(command: Command) -> Command {
    Command { exact: true, ..command }
}

const fn action(command: Command) -> Command {
    Command { has_action: true, ..command }
}

const fn thin(command: Command) -> Command {
    Command { units: Units::Thin, ..command }
}

const fn atomic(command: Command) -> Command {
    Command { units: Units::Atomic, ..command }
}

const fn removable(command: Command) -> Command {
    Command { units: Units::Removable, ..command }
}

const fn sanitizable(command: Command) -> Command {
    Command { strict: true, units: Units::Sanitizable, ..command }
}

/// A service action of SANITIZE.
macro_rules! sanitize {
    ($action:expr) => {
        sanitizable(action(alone(write(&[
            opcode::SANITIZE,
            IMMEDIATE_SANITIZE | $action,
            0,
            0,
            0,
            0,
            0,
            0xff,
            0xff,
            CONTROL,
        ]))))
    };
}

/// A CDB of ten bytes that names a range, with the bits of its byte 1.
macro_rules! ten {
    ($opcode:expr, $flags:expr) => {
        &[$opcode, $flags, 0xff, 0xff, 0xff, 0xff, 0, 0xff, 0xff, CONTROL]
    };
}

/// The same with twelve bytes.
macro_rules! twelve {
    ($opcode:expr, $flags:expr) => {
        &[$opcode, $flags, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0, CONTROL]
    };
}

/// The same with sixteen bytes.
macro_rules! sixteen {
    ($opcode:expr, $flags:expr) => {
        &[
            $opcode, $flags, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff,
            0xff, 0, CONTROL,
        ]
    };
}

/// A service action of PERSISTENT RESERVE IN.
macro_rules! reserve_in {
    ($action:expr) => {
        action(unit(&[opcode::PERSISTENT_RESERVE_IN, $action, 0, 0, 0, 0, 0, 0xff, 0xff, CONTROL]))
    };
}

/// A service action of PERSISTENT RESERVE OUT, with the bits of its byte 2.
macro_rules! reserve_out {
    ($action:expr, $scope_and_type:expr) => {
        action(unit(&[
            opcode::PERSISTENT_RESERVE_OUT,
            $action,
            $scope_and_type,
            0,
            0,
            0xff,
            0xff,
            0xff,
            0xff,
            CONTROL,
        ]))
    };
}

/// SCOPE and TYPE of PERSISTENT RESERVE OUT.
const SCOPE_AND_TYPE: u8 = 0xff;
/// PROTECT, DPO and FUA.
const TRANSFER: u8 = 0xf8;
/// PROTECT, DPO and BYTCHK.
const VERIFY: u8 = 0xf6;
/// IMMED.
const IMMEDIATE: u8 = 0x02;
/// IMMED and AUSE.
const IMMEDIATE_SANITIZE: u8 = 0xa0;
/// PROTECT, ANCHOR and UNMAP.
const PROVISIONING: u8 = 0xf8;
/// The same and NDOB.
const PROVISIONING_16: u8 = 0xf9;

/// All of them, in the order of their codes.
const COMMANDS: &[Command] = &[
    read(&[opcode::TEST_UNIT_READY, 0, 0, 0, 0, CONTROL]),
    unit(&[opcode::REQUEST_SENSE, 0x01, 0, 0, 0xff, CONTROL]),
    read(&[opcode::READ_6, 0x1f, 0xff, 0xff, 0xff, CONTROL]),
    write(&[opcode::WRITE_6, 0x1f, 0xff, 0xff, 0xff, CONTROL]),
    unit(&[opcode::INQUIRY, 0x01, 0xff, 0xff, 0xff, CONTROL]),
    alone(unit(&[opcode::MODE_SELECT_6, 0x11, 0, 0, 0xff, CONTROL])),
    unit(&[opcode::RESERVE_6, 0x11, 0, 0, 0, CONTROL]),
    unit(&[opcode::RELEASE_6, 0x11, 0, 0, 0, CONTROL]),
    unit(&[opcode::MODE_SENSE_6, 0x08, 0xff, 0xff, 0xff, CONTROL]),
    unit(&[opcode::START_STOP_UNIT, 0x01, 0, 0, 0xf7, CONTROL]),
    unit(&[opcode::SEND_DIAGNOSTIC, 0xf4, 0, 0xff, 0xff, CONTROL]),
    alone(removable(unit(&[opcode::PREVENT_ALLOW_MEDIUM_REMOVAL, 0, 0, 0, 0x03, CONTROL]))),
    read(&[opcode::READ_CAPACITY_10, 0, 0, 0, 0, 0, 0, 0, 0, CONTROL]),
    read(ten!(opcode::READ_10, TRANSFER)),
    write(ten!(opcode::WRITE_10, TRANSFER)),
    write(ten!(opcode::WRITE_AND_VERIFY_10, VERIFY)),
    read(ten!(opcode::VERIFY_10, VERIFY)),
    read(ten!(opcode::PRE_FETCH_10, IMMEDIATE)),
    read(ten!(opcode::SYNCHRONIZE_CACHE_10, IMMEDIATE)),
    read(&[opcode::READ_DEFECT_DATA_10, 0, 0x1f, 0, 0, 0, 0, 0xff, 0xff, CONTROL]),
    exact(write(ten!(opcode::WRITE_SAME_10, PROVISIONING))),
    thin(write(&[opcode::UNMAP, 0x01, 0, 0, 0, 0, 0, 0xff, 0xff, CONTROL])),
    sanitize!(sanitize::OVERWRITE),
    Command { units: Units::Erasable, ..sanitize!(sanitize::BLOCK_ERASE) },
    sanitize!(sanitize::EXIT_FAILURE_MODE),
    alone(unit(&[opcode::MODE_SELECT_10, 0x11, 0, 0, 0, 0, 0, 0xff, 0xff, CONTROL])),
    unit(&[opcode::RESERVE_10, 0x11, 0, 0, 0, 0, 0, 0, 0, CONTROL]),
    unit(&[opcode::RELEASE_10, 0x11, 0, 0, 0, 0, 0, 0, 0, CONTROL]),
    unit(&[opcode::MODE_SENSE_10, 0x18, 0xff, 0xff, 0, 0, 0, 0xff, 0xff, CONTROL]),
    reserve_in!(reserve_in::READ_KEYS),
    reserve_in!(reserve_in::READ_RESERVATION),
    reserve_in!(reserve_in::REPORT_CAPABILITIES),
    reserve_in!(reserve_in::READ_FULL_STATUS),
    reserve_out!(reserve_out::REGISTER, 0),
    reserve_out!(reserve_out::RESERVE, SCOPE_AND_TYPE),
    reserve_out!(reserve_out::RELEASE, SCOPE_AND_TYPE),
    reserve_out!(reserve_out::CLEAR, 0),
    reserve_out!(reserve_out::PREEMPT, SCOPE_AND_TYPE),
    reserve_out!(reserve_out::PREEMPT_AND_ABORT, SCOPE_AND_TYPE),
    reserve_out!(reserve_out::REGISTER_AND_IGNORE_EXISTING_KEY, 0),
    reserve_out!(reserve_out::REGISTER_AND_MOVE, 0),
    read(sixteen!(opcode::READ_16, TRANSFER)),
    exact(alone(write(&[
        opcode::COMPARE_AND_WRITE,
        TRANSFER,
        0xff,
        0xff,
        0xff,
        0xff,
        0xff,
        0xff,
        0xff,
        0xff,
        0,
        0,
        0,
        0xff,
        0,
        CONTROL,
    ]))),
    write(sixteen!(opcode::WRITE_16, TRANSFER)),
    alone(write(sixteen!(opcode::ORWRITE_16, TRANSFER))),
    write(sixteen!(opcode::WRITE_AND_VERIFY_16, VERIFY)),
    read(sixteen!(opcode::VERIFY_16, VERIFY)),
    read(sixteen!(opcode::PRE_FETCH_16, IMMEDIATE)),
    read(sixteen!(opcode::SYNCHRONIZE_CACHE_16, IMMEDIATE)),
    exact(write(sixteen!(opcode::WRITE_SAME_16, PROVISIONING_16))),
    atomic(exact(alone(write(&[
        opcode::WRITE_ATOMIC_16,
        TRANSFER,
        0xff,
        0xff,
        0xff,
        0xff,
        0xff,
        0xff,
        0xff,
        0xff,
        0,
        0,
        0xff,
        0xff,
        0,
        CONTROL,
    ])))),
    action(read(&[
        opcode::SERVICE_ACTION_IN_16,
        service_action_in::READ_CAPACITY_16,
        0,
        0,
        0,
        0,
        0,
        0,
        0,
        0,
        0xff,
        0xff,
        0xff,
        0xff,
        0,
        CONTROL,
    ])),
    action(read(sixteen!(opcode::SERVICE_ACTION_IN_16, service_action_in::GET_LBA_STATUS))),
    unit(&[opcode::REPORT_LUNS, 0, 0xff, 0, 0, 0, 0xff, 0xff, 0xff, 0xff, 0, CONTROL]),
    action(unit(&[
        opcode::MAINTENANCE_IN,
        maintenance_in::REPORT_SUPPORTED_OPERATION_CODES,
        0x87,
        0xff,
        0xff,
        0xff,
        0xff,
        0xff,
        0xff,
        0xff,
        0,
        CONTROL,
    ])),
    action(unit(&[
        opcode::MAINTENANCE_IN,
        maintenance_in::REPORT_SUPPORTED_TASK_MANAGEMENT_FUNCTIONS,
        0x80,
        0,
        0,
        0,
        0xff,
        0xff,
        0xff,
        0xff,
        0,
        CONTROL,
    ])),
    read(twelve!(opcode::READ_12, TRANSFER)),
    write(twelve!(opcode::WRITE_12, TRANSFER)),
    write(twelve!(opcode::WRITE_AND_VERIFY_12, VERIFY)),
    read(twelve!(opcode::VERIFY_12, VERIFY)),
    read(twelve!(opcode::READ_DEFECT_DATA_12, 0x1f)),
];

/// The task management functions that this target performs, as the first byte of their report has
/// them: ABORT TASK, ABORT TASK SET, CLEAR TASK SET, LOGICAL UNIT RESET and TARGET RESET.
const TASK_MANAGEMENT_FUNCTIONS: u8 = 0x80 | 0x40 | 0x10 | 0x08 | 0x02;

impl Command {
    fn opcode(&self) -> u8 {
        self.usage[0]
    }

    /// SERVICE ACTION; 0 where there is none.
    fn service_action(&self) -> u8 {
        if self.has_action { self.usage[1] & SERVICE_ACTION_MASK } else { 0 }
    }

    fn is_known_to(&self, unit: &LogicalUnit) -> bool {
        match self.units {
            Units::All => true,
            Units::Thin => unit.store.can_discard(),
            Units::Removable => unit.is_removable(),
            Units::Atomic => unit.store.atomic_bytes_max() > 0,
            Units::Sanitizable => unit.sanitize,
            Units::Erasable => unit.knows_block_erase(),
        }
    }

    /// What it does.
    pub(super) fn access(&self) -> Access {
        self.access
    }

    /// Whether every bit of a CDB that means nothing is as it should be.
    fn check_bits(&self, cdb: &[u8; 16]) -> Result<(), Sense> {
        let reserved = cdb.iter().zip(self.usage).skip(1).map(|(byte, usage)| byte & !usage);
        match reserved.enumerate().find(|(_, reserved)| *reserved != 0) {
            Some((index, bits)) if self.strict => {
                Err(invalid_field(index as u16 + 1, Some(bits.ilog2() as u8)))
            }
            _ => Ok(()),
        }
    }
}

const SERVICE_ACTION_MASK: u8 = 0x1f;

/// For each operation code the place in [`COMMANDS`] where its commands begin, which is where those
/// of the one before end: every READ and WRITE is looked up.
const PLACES: [u8; 257] = {
    let mut places = [0; 257];
    let (mut opcode, mut place) = (0, 0);
    while opcode < places.len() {
        while place < COMMANDS.len() && (COMMANDS[place].usage[0] as usize) < opcode {
            place += 1;
        }
        places[opcode] = place as u8;
        opcode += 1;
    }
    places
};

/// The commands of an opcode: several only where it has service actions.
fn of_opcode(opcode: u8) -> &'static [Command] {
    let opcode = usize::from(opcode);
    &COMMANDS[usize::from(PLACES[opcode])..usize::from(PLACES[opcode + 1])]
}

/// No other command may be executed at the same time as this one.
pub(in super::super) fn is_alone(cdb: &[u8; 16]) -> bool {
    of_opcode(cdb[0]).iter().any(|command| command.alone)
}

/// The initiator must announce exactly the data that the command takes.
pub(in super::super) fn is_exact(cdb: &[u8; 16]) -> bool {
    of_opcode(cdb[0]).iter().any(|command| command.exact)
}

impl LogicalUnit {
    /// The command of a CDB, if this unit knows it.
    pub(super) fn command(&self, cdb: &[u8; 16]) -> Result<&'static Command, Sense> {
        let mut commands = of_opcode(cdb[0]).iter().filter(|command| command.is_known_to(self));
        let Some(first) = commands.next() else {
            return Err(illegal(asc::INVALID_COMMAND_OPERATION_CODE));
        };
        if !first.has_action {
            return Ok(first);
        }
        let action = cdb[1] & SERVICE_ACTION_MASK;
        let mut actions = std::iter::once(first).chain(commands);
        let found = actions.find(|command| command.service_action() == action);
        let found = found.ok_or(invalid_field(1, Some(4)))?;
        found.check_bits(cdb)?;
        Ok(found)
    }

    /// SANITIZE with BLOCK ERASE.
    pub(super) fn knows_block_erase(&self) -> bool {
        self.sanitize && self.store.can_discard()
    }

    /// REPORT SUPPORTED OPERATION CODES (SPC-4 §6.34).
    pub(super) fn report_supported_operation_codes(
        &self,
        timeouts: bool,
        options: u8,
        opcode: u8,
        service_action: u16,
        allocation: u32,
    ) -> Result<Outcome, Sense> {
        const ALL: u8 = 0;
        const OPCODE: u8 = 1;
        const OPCODE_AND_ACTION: u8 = 2;
        const ANY: u8 = 3;
        let known = |command: &&Command| command.is_known_to(self);
        let has_actions = of_opcode(opcode).iter().filter(known).any(|command| command.has_action);
        let is_known = of_opcode(opcode).iter().any(|command| command.is_known_to(self));
        let found = || {
            let mut commands = of_opcode(opcode).iter().filter(known);
            commands.find(|command| u16::from(command.service_action()) == service_action)
        };
        let data = match options {
            ALL => emit_all(COMMANDS.iter().filter(known), timeouts),
            OPCODE if has_actions => return Err(invalid_field(2, Some(2))),
            OPCODE => emit_one(of_opcode(opcode).iter().find(known), timeouts),
            OPCODE_AND_ACTION if is_known && !has_actions => {
                return Err(invalid_field(2, Some(2)));
            }
            OPCODE_AND_ACTION | ANY => emit_one(found(), timeouts),
            _ => return Err(invalid_field(2, Some(2))),
        };
        Ok(allocated(data, allocation as usize))
    }
}

/// REPORT SUPPORTED TASK MANAGEMENT FUNCTIONS (SPC-4 §6.35).
pub(super) fn report_supported_task_management_functions(
    extended: bool,
    allocation: u32,
) -> Result<Outcome, Sense> {
    const BASIC_BYTES: usize = 4;
    const EXTENDED_BYTES: usize = 16;
    if allocation < BASIC_BYTES as u32 {
        return Err(invalid_field(6, None));
    }
    let mut data = vec![0; if extended { EXTENDED_BYTES } else { BASIC_BYTES }];
    data[0] = TASK_MANAGEMENT_FUNCTIONS;
    data[3] = (data.len() - BASIC_BYTES) as u8;
    Ok(allocated(data, allocation as usize))
}

/// A command timeouts descriptor that names none (SPC-4 §6.34.4).
const NO_TIMEOUTS: [u8; 12] = [0, 10, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0];

/// The all_commands parameter data (SPC-4 §6.34.2).
fn emit_all<'a>(commands: impl Iterator<Item = &'a Command>, timeouts: bool) -> Vec<u8> {
    const SERVACTV: u8 = 0x01;
    const CTDP: u8 = 0x02;
    let mut out = vec![0; 4];
    for command in commands {
        let mut flags = if command.has_action { SERVACTV } else { 0 };
        flags |= if timeouts { CTDP } else { 0 };
        let length = command.usage.len() as u8;
        out.extend([command.opcode(), 0, 0, command.service_action(), 0, flags, 0, length]);
        if timeouts {
            out.extend(NO_TIMEOUTS);
        }
    }
    let length = (out.len() - 4) as u32;
    out[..4].copy_from_slice(&length.to_be_bytes());
    out
}

/// The one_command parameter data (SPC-4 §6.34.3).
fn emit_one(command: Option<&Command>, timeouts: bool) -> Vec<u8> {
    const NOT_SUPPORTED: u8 = 1;
    const SUPPORTED: u8 = 3;
    const CTDP: u8 = 0x80;
    let Some(command) = command else { return vec![0, NOT_SUPPORTED, 0, 0] };
    let ctdp = if timeouts { CTDP } else { 0 };
    let mut out = vec![0, ctdp | SUPPORTED, 0, command.usage.len() as u8];
    out.extend(command.usage);
    if timeouts {
        out.extend(NO_TIMEOUTS);
    }
    out
}
