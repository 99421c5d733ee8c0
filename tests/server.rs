//! The real `lunboot-target` over 127.0.0.1 against clients made by hand: what a flood of
//! connections without a login costs, and how sessions end with the server.
//!
//! No kernel of its own is needed for it: nothing here makes a device.

mod kernel;
mod programs;

use std::fs;
use std::io::{ErrorKind, Read, Write};
use std::net::TcpStream;
use std::os::unix::fs::MetadataExt;
use std::time::Duration;

use kernel::wait_until;
use lunboot::wire::pdu::*;
use lunboot::wire::scsi::opcode::{reserve_out, sanitize};
use lunboot::wire::scsi::{
    Cdb, CdbSize, ReservationType, ReserveOutList, ScsiStatus, Sense, TransferFlags, asc,
    parse_reservation, parse_reservation_keys,
};
use lunboot::wire::serial::Sn;
use lunboot::wire::text::Text;
use programs::{NAME, TARGET, Target, lunboot, try_run};
use rustix::process::{Resource, Rlimit, Signal, getrlimit, setrlimit};

/// Longer than anything takes here.
const PATIENCE: Duration = Duration::from_secs(60);

/// A blocking connection that speaks PDUs.
struct Wire {
    stream: TcpStream,
    cmd_sn: Sn,
}

impl Wire {
    fn connect(target: &Target) -> Wire {
        let stream = TcpStream::connect(&target.address).unwrap();
        stream.set_read_timeout(Some(PATIENCE)).unwrap();
        stream.set_nodelay(true).unwrap();
        Wire { stream, cmd_sn: Sn(1) }
    }

    /// A normal session of this initiator.
    fn log_in(target: &Target, initiator: &str) -> Wire {
        let mut wire = Wire::connect(target);
        let mut text = Text::new();
        text.push("InitiatorName", initiator);
        text.push("TargetName", NAME);
        text.push("SessionType", "Normal");
        let response = wire.login(&text, Some(Stage::FullFeaturePhase));
        assert_eq!((response.status_class, response.status_detail), (0, 0));
        wire
    }

    fn login(&mut self, text: &Text, next_stage: Option<Stage>) -> LoginResponse {
        self.send_login(text.as_bytes(), next_stage);
        match self.receive() {
            Some((Response::Login(response), _)) => response,
            other => panic!("expected a Login Response, got {other:?}"),
        }
    }

    fn send_login(&mut self, text: &[u8], next_stage: Option<Stage>) {
        let request = LoginRequest {
            transit: next_stage.is_some(),
            continues: next_stage.is_none(),
            stage: Stage::LoginOperationalNegotiation,
            next_stage,
            version_max: 0,
            version_min: 0,
            isid: Isid([0x80, 0, 0, 1, 0, 0]),
            tsih: 0,
            itt: Itt(1),
            cid: 0,
            cmd_sn: self.cmd_sn,
            exp_stat_sn: Sn(0),
            data_bytes: text.len() as u32,
        };
        self.send(&request.emit(), text);
    }

    fn send(&mut self, bhs: &Bhs, data: &[u8]) {
        let mut bytes = bhs.to_vec();
        bytes.extend(data);
        bytes.resize(bytes.len().next_multiple_of(4), 0);
        self.stream.write_all(&bytes).unwrap();
    }

    /// The next PDU, or `None` at the end of the stream.
    fn receive(&mut self) -> Option<(Response, Vec<u8>)> {
        let mut bhs = [0; BHS_BYTES];
        match self.stream.read_exact(&mut bhs) {
            Ok(()) => {}
            Err(error) if error.kind() == ErrorKind::UnexpectedEof => return None,
            Err(error) => panic!("{error}"),
        }
        let length = Header::parse(&bhs).data_bytes as usize;
        let mut data = vec![0; length.next_multiple_of(4)];
        self.stream.read_exact(&mut data).unwrap();
        data.truncate(length);
        Some((Response::parse(&bhs).unwrap(), data))
    }

    fn event(&mut self) -> AsyncMessage {
        match self.receive() {
            Some((Response::AsyncMessage(message), _)) => message,
            other => panic!("expected an asynchronous message, got {other:?}"),
        }
    }

    fn test_unit_ready(&mut self) -> Option<ScsiResponse> {
        Some(self.command(&Cdb::TestUnitReady)?.0)
    }

    /// A command without data; its answer, and the sense data with its length before it.
    fn command(&mut self, cdb: &Cdb) -> Option<(ScsiResponse, Vec<u8>)> {
        self.begin(cdb, 0, &[]);
        match self.receive()? {
            (Response::ScsiResponse(response), data) => Some((response, data)),
            other => panic!("expected a SCSI Response, got {other:?}"),
        }
    }

    /// Sends a command; what it writes goes with it as far as there is any.
    fn begin(&mut self, cdb: &Cdb, expected_data_bytes: u32, data: &[u8]) -> Itt {
        let is_read = matches!(cdb, Cdb::PersistentReserveIn { .. });
        let pdu = ScsiCommand {
            immediate: false,
            final_pdu: true,
            read: is_read,
            write: !is_read && expected_data_bytes > 0,
            attribute: TaskAttribute::Simple,
            lun: 0,
            itt: Itt(self.cmd_sn.0),
            expected_data_bytes,
            cmd_sn: self.cmd_sn,
            exp_stat_sn: Sn(0),
            cdb: cdb.emit(),
            data_bytes: data.len() as u32,
        };
        self.cmd_sn = self.cmd_sn.next();
        self.send(&pdu.emit(), data);
        pdu.itt
    }

    /// How the command ended.
    fn status_of(&mut self, itt: Itt) -> ScsiStatus {
        match self.receive() {
            Some((Response::ScsiResponse(response), _)) if response.itt == itt => {
                ScsiStatus::from_code(response.status)
            }
            other => panic!("expected the response to {itt:?}, got {other:?}"),
        }
    }

    /// PERSISTENT RESERVE OUT, to survive a restart.
    fn reserve(&mut self, action: u8, key: u64, action_key: u64) -> ScsiStatus {
        let persist = action == reserve_out::REGISTER;
        let list = ReserveOutList { key, action_key, persist, ..Default::default() }.emit(&[]);
        let parameter_bytes = list.len() as u32;
        let cdb = Cdb::PersistentReserveOut { action, scope: 0, kind: 3, parameter_bytes };
        let itt = self.begin(&cdb, parameter_bytes, &list);
        self.status_of(itt)
    }

    /// What PERSISTENT RESERVE IN reads.
    fn read_reservations(&mut self, action: u8) -> Vec<u8> {
        let itt = self.begin(&Cdb::PersistentReserveIn { action, allocation: 256 }, 256, &[]);
        match self.receive() {
            Some((Response::DataIn(pdu), data)) if pdu.itt == itt && pdu.status == Some(0) => data,
            other => panic!("expected the data of {itt:?}, got {other:?}"),
        }
    }

    fn log_out(&mut self) {
        let (cmd_sn, exp_stat_sn) = (self.cmd_sn, Sn(0));
        let (itt, cid) = (Itt(0x1000), 0);
        let pdu = LogoutRequest { immediate: true, reason: 0, itt, cid, cmd_sn, exp_stat_sn };
        self.send(&pdu.emit(), &[]);
        let (response, _) = self.receive().unwrap();
        assert!(matches!(response, Response::Logout(pdu) if pdu.response == 0), "{response:?}");
        assert!(self.receive().is_none());
    }
}

/// A disk for the target; its name is the test's.
fn disk(test: &str) -> tempfile::NamedTempFile {
    let file = tempfile::Builder::new().prefix(test).tempfile().unwrap();
    file.as_file().set_len(8 << 20).unwrap();
    file
}

/// A number of /proc/PID/status.
fn status(target: &Target, field: &str) -> u64 {
    let text = fs::read_to_string(format!("/proc/{}/status", target.pid())).unwrap();
    let line = text.lines().find_map(|line| line.strip_prefix(field)).unwrap();
    line.trim_start_matches(':').split_whitespace().next().unwrap().parse().unwrap()
}

#[test]
fn three_thousand_connections_without_a_login_stop_nobody() {
    const FLOOD: usize = 3000;
    let limit = getrlimit(Resource::Nofile).maximum;
    setrlimit(Resource::Nofile, Rlimit { current: limit, maximum: limit }).unwrap();
    let file = disk("flood");
    let target = Target::start(&[], &[file.path()]);
    let mut old = Wire::log_in(&target, "iqn.2026-11.example:before");
    assert!(old.test_unit_ready().is_some());
    let (memory_before, threads_before) = (status(&target, "VmRSS"), status(&target, "Threads"));

    let mut flood = Vec::new();
    for number in 0..FLOOD {
        let mut wire = Wire::connect(&target);
        match number % 3 {
            // Silent.
            0 => {}
            // In the middle of a header.
            1 => wire.stream.write_all(&[0x43, 0, 0]).unwrap(),
            // As much text as there may be, and never an end of it.
            _ => {
                wire.send_login(&[b'a'; 8192], None);
            }
        }
        flood.push(wire);
        if number % 500 == 499 {
            // A login that needs some round trips is through in the middle of it.
            let said = lunboot(&["discover", &target.address]);
            assert_eq!(said, format!("{NAME} {},1", target.address));
        }
    }
    let mut new = Wire::log_in(&target, "iqn.2026-11.example:after");
    assert!(new.test_unit_ready().is_some());
    assert!(old.test_unit_ready().is_some());

    // 512 connections may be there, and these have sent 8 KiB of text at most: far from the 128 KiB
    // that each may cost. One session more has come.
    let grown = status(&target, "VmRSS").saturating_sub(memory_before);
    assert!(grown < 36 << 10, "{FLOOD} connections without a login cost {grown} KiB");
    assert_eq!(status(&target, "Threads"), threads_before + 1, "one for the new session");
    let descriptors = fs::read_dir(format!("/proc/{}/fd", target.pid())).unwrap().count();
    assert!(descriptors < 512 + 32, "{descriptors} file descriptors");
    println!("{FLOOD} connections without a login: {grown} KiB, {descriptors} descriptors");
    drop(flood);
    new.log_out();
    old.log_out();
    target.stop();
}

#[test]
fn sigterm_asks_for_a_logout_and_waits_for_it() {
    let file = disk("logout");
    let target = Target::start(&[], &[file.path()]);
    let mut wires =
        ["one", "two"].map(|name| Wire::log_in(&target, &format!("iqn.2026-11.example:{name}")));
    target.signal(Signal::TERM);
    for wire in &mut wires {
        let message = wire.event();
        assert_eq!((message.event, message.parameter3), (1, 3));
        assert!(wire.test_unit_ready().is_some(), "it is served until it has logged out");
    }
    for wire in &mut wires {
        wire.log_out();
    }
    drop(wires);
    target.wait();
}

#[test]
fn sigterm_ends_a_session_that_does_not_log_out() {
    let file = disk("mute");
    let target = Target::start(&[], &[file.path()]);
    let mut wire = Wire::log_in(&target, "iqn.2026-11.example:mute");
    target.signal(Signal::TERM);
    assert_eq!(wire.event().event, 1);
    let message = wire.event();
    assert_eq!((message.event, message.parameter2), (3, 2), "the session drops; Time2Wait");
    assert!(wire.receive().is_none());
    drop(wire);
    target.wait();
}

#[test]
fn a_cold_reset_ends_every_session() {
    let file = disk("reset");
    let target = Target::start(&[], &[file.path()]);
    let mut wires =
        ["one", "two"].map(|name| Wire::log_in(&target, &format!("iqn.2026-11.example:{name}")));
    let pdu = TaskManagementRequest {
        immediate: true,
        function: 7,
        lun: 0,
        itt: Itt(9),
        referenced_itt: Itt::RESERVED,
        cmd_sn: Sn(1),
        exp_stat_sn: Sn(0),
        ref_cmd_sn: Sn(0),
    };
    wires[0].send(&pdu.emit(), &[]);
    let (response, _) = wires[0].receive().unwrap();
    assert!(matches!(response, Response::TaskManagement(pdu) if pdu.response == 0));
    assert!(wires[0].receive().is_none());
    assert_eq!(wires[1].event().event, 3);
    assert!(wires[1].receive().is_none());
    // They may come back at once.
    let mut wire = Wire::log_in(&target, "iqn.2026-11.example:one");
    assert_eq!(wire.test_unit_ready().unwrap().status, 2, "a unit attention");
    wire.log_out();
    target.stop();
}

/// The code of the sense data that TEST UNIT READY ends with, if the unit is not ready. What a new
/// session is told first is passed over.
fn unreadiness(wire: &mut Wire) -> Option<(u8, u8)> {
    loop {
        let (response, data) = wire.command(&Cdb::TestUnitReady).unwrap();
        if response.status == 0 {
            return None;
        }
        match Sense::parse(&data[2..]).unwrap().code() {
            asc::POWER_ON_OR_RESET => continue,
            code => return Some(code),
        }
    }
}

#[test]
fn a_sanitize_operation_goes_on_after_a_crash_and_after_a_stop() {
    let (file, state) = (disk("sanitize"), tempfile::tempdir().unwrap());
    let secret = vec![0x5e; 8 << 20];
    fs::write(file.path(), &secret).unwrap();
    let options = ["--allow-sanitize", "--state", state.path().to_str().unwrap()];
    let mut target = Target::start(&options, &[file.path()]);
    let mut wire = Wire::log_in(&target, "iqn.2026-11.example:one");
    assert_eq!(unreadiness(&mut wire), None);
    let (action, immediate, unrestricted) = (sanitize::BLOCK_ERASE, true, false);
    let erase = Cdb::Sanitize { action, immediate, unrestricted, parameter_bytes: 0 };
    assert_eq!(wire.command(&erase).unwrap().0.status, 0);
    assert_eq!(unreadiness(&mut wire), Some(asc::NOT_READY_SANITIZE_IN_PROGRESS));
    // Whoever stops the target now still has the disk.
    target.kill();
    assert_eq!(fs::read(file.path()).unwrap(), secret);
    target.start_again();
    let mut wire = Wire::log_in(&target, "iqn.2026-11.example:one");
    assert_eq!(unreadiness(&mut wire), Some(asc::NOT_READY_SANITIZE_IN_PROGRESS));
    target.signal(Signal::TERM);
    wire.event();
    wire.log_out();
    drop(wire);
    target.wait();
    assert_eq!(fs::read(file.path()).unwrap(), secret);
    let target = Target::start(&options, &[file.path()]);
    let mut wire = Wire::log_in(&target, "iqn.2026-11.example:one");
    assert_eq!(unreadiness(&mut wire), Some(asc::NOT_READY_SANITIZE_IN_PROGRESS));
    wait_until("the disk to be sanitized", || unreadiness(&mut wire).is_none());
    assert_eq!(fs::read(file.path()).unwrap(), vec![0; 8 << 20]);
    assert_eq!(fs::metadata(file.path()).unwrap().blocks(), 0, "all of it is free");
    wire.log_out();
    drop(wire);
    target.stop();
}

fn write_one_block() -> Cdb {
    Cdb::Write { size: CdbSize::Ten, lba: 0, blocks: 1, flags: TransferFlags::default() }
}

/// What was answered is on the disk, however the target ends after that.
#[test]
fn reservations_survive_a_crash_and_a_torn_record_is_named() {
    let (file, state) = (disk("reserved"), tempfile::tempdir().unwrap());
    let options = ["--state", state.path().to_str().unwrap()];
    let mut target = Target::start(&options, &[file.path()]);
    let mut wire = Wire::log_in(&target, "iqn.2026-11.example:one");
    assert_eq!(unreadiness(&mut wire), None);
    assert_eq!(wire.reserve(reserve_out::REGISTER, 0, 0x11), ScsiStatus::Good);
    target.kill();
    target.start_again();
    let mut wire = Wire::log_in(&target, "iqn.2026-11.example:one");
    assert_eq!(unreadiness(&mut wire), None);
    assert_eq!(parse_reservation_keys(&wire.read_reservations(0)), Ok((0, vec![0x11])));
    assert_eq!(wire.reserve(reserve_out::RESERVE, 0x11, 0), ScsiStatus::Good);
    target.kill();
    target.start_again();
    let mut wire = Wire::log_in(&target, "iqn.2026-11.example:one");
    assert_eq!(unreadiness(&mut wire), None);
    let held = Some((0x11, ReservationType::ExclusiveAccess));
    assert_eq!(parse_reservation(&wire.read_reservations(1)), Ok((0, held)));
    let mut other = Wire::log_in(&target, "iqn.2026-11.example:two");
    assert_eq!(unreadiness(&mut other), None);
    let itt = other.begin(&write_one_block(), 512, &[1; 512]);
    assert_eq!(other.status_of(itt), ScsiStatus::ReservationConflict);
    let itt = wire.begin(&write_one_block(), 512, &[2; 512]);
    assert_eq!(wire.status_of(itt), ScsiStatus::Good);
    target.kill();

    let mut files = fs::read_dir(state.path()).unwrap().map(|entry| entry.unwrap().path());
    let record = files.find(|path| path.extension().is_some_and(|kind| kind == "reservations"));
    let record = &record.expect("a record of the reservations");
    let text = fs::read_to_string(record).unwrap();
    for torn in [0, text.len() / 2, text.len() - 2] {
        fs::write(record, &text[..torn]).unwrap();
        let words = ["serve", "--listen", "127.0.0.1:0", "--name", NAME, "--state"];
        let paths = [state.path(), file.path()].map(|path| path.to_str().unwrap());
        let said = try_run(TARGET, &[&words[..], &paths].concat());
        assert!(!said.ok, "{torn} of {} bytes were served", text.len());
        assert!(said.err.contains(record.to_str().unwrap()), "{}", said.err);
        assert!(said.err.contains("repair the file, or remove it"), "{}", said.err);
    }
    fs::write(record, text).unwrap();
    target.start_again();
    let mut other = Wire::log_in(&target, "iqn.2026-11.example:two");
    assert_eq!(unreadiness(&mut other), None);
    let itt = other.begin(&write_one_block(), 512, &[1; 512]);
    assert_eq!(other.status_of(itt), ScsiStatus::ReservationConflict);
    other.log_out();
    drop(other);
    target.stop();
}

/// Over two connections, each with a thread of its own in the target.
#[test]
fn preempt_and_abort_ends_what_another_connection_has_begun() {
    let (file, state) = (disk("preempted"), tempfile::tempdir().unwrap());
    let options = ["--state", state.path().to_str().unwrap()];
    let target = Target::start(&options, &[file.path()]);
    let mut first = Wire::log_in(&target, "iqn.2026-11.example:one");
    let mut victim = Wire::log_in(&target, "iqn.2026-11.example:two");
    for (wire, key) in [(&mut first, 1), (&mut victim, 2)] {
        assert_eq!(unreadiness(wire), None);
        assert_eq!(wire.reserve(reserve_out::REGISTER, 0, key), ScsiStatus::Good);
    }
    assert_eq!(victim.reserve(reserve_out::RESERVE, 2, 0), ScsiStatus::Good);
    let begun: Vec<_> = (0..8)
        .map(|_| {
            let itt = victim.begin(&write_one_block(), 512, &[]);
            match victim.receive() {
                Some((Response::R2t(r2t), _)) if r2t.itt == itt => r2t,
                other => panic!("expected an R2T for {itt:?}, got {other:?}"),
            }
        })
        .collect();
    assert_eq!(first.reserve(reserve_out::PREEMPT_AND_ABORT, 1, 2), ScsiStatus::Good);
    // They are over when the answer is there, whatever their initiator sends now.
    for r2t in &begun {
        let pdu = DataOut {
            final_pdu: true,
            lun: 0,
            itt: r2t.itt,
            ttt: r2t.ttt,
            exp_stat_sn: Sn(0),
            data_sn: Sn(0),
            buffer_offset: 0,
            data_bytes: 512,
        };
        victim.send(&pdu.emit(), &[7; 512]);
    }
    for r2t in &begun {
        assert_eq!(victim.status_of(r2t.itt), ScsiStatus::TaskAborted);
    }
    assert_eq!(unreadiness(&mut victim), Some(asc::REGISTRATIONS_PREEMPTED));
    assert_eq!(unreadiness(&mut victim), None);
    let itt = victim.begin(&write_one_block(), 512, &[7; 512]);
    assert_eq!(victim.status_of(itt), ScsiStatus::ReservationConflict);
    assert_eq!(fs::read(file.path()).unwrap(), vec![0; 8 << 20]);
    let itt = first.begin(&write_one_block(), 512, &[1; 512]);
    assert_eq!(first.status_of(itt), ScsiStatus::Good);
    for mut wire in [first, victim] {
        wire.log_out();
    }
    target.stop();
}

#[test]
fn connections_that_break_under_load_leave_nothing_behind() {
    let file = disk("break");
    let target = Target::start(&[], &[file.path()]);
    let threads_before = status(&target, "Threads");
    for number in 0..300u32 {
        let mut wire = Wire::log_in(&target, &format!("iqn.2026-11.example:n{}", number % 7));
        for tag in 0..8 {
            let mut cdb = [0; 16];
            // READ(10) of 256 KiB, of which nobody reads much; a WRITE(10) whose data is missing.
            (cdb[0], cdb[7], cdb[8]) = (if tag % 4 == 3 { 0x2a } else { 0x28 }, 2, 0);
            let pdu = ScsiCommand {
                immediate: false,
                final_pdu: true,
                read: tag % 4 != 3,
                write: tag % 4 == 3,
                attribute: TaskAttribute::Simple,
                lun: 0,
                itt: Itt(tag),
                expected_data_bytes: 256 << 10,
                cmd_sn: Sn(1 + tag),
                exp_stat_sn: Sn(0),
                cdb,
                data_bytes: 0,
            };
            wire.send(&pdu.emit(), &[]);
        }
        if number % 3 == 0 {
            wire.receive();
        }
    }
    wait_until("all sessions to end", || status(&target, "Threads") == threads_before);
    let mut wire = Wire::log_in(&target, "iqn.2026-11.example:after");
    assert!(wire.test_unit_ready().is_some());
    wire.log_out();
    target.stop();
}
