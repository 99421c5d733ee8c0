//! One connection of the target, driven PDU by PDU by a hand-made initiator.
//!
//! What our own initiator never sends is here; the two together are in `tests/`.

use super::*;
use crate::proto::logical_unit::{LogicalUnit, Options};
use crate::proto::params::DigestChoice;
use crate::store::memory::MemoryStore;
use crate::wire::pdu::*;
use crate::wire::scsi::{Cdb, CdbSize, ScsiStatus, Sense, TransferFlags, asc};
use crate::wire::serial::Sn;
use crate::wire::text::Text;

const NAME: &str = "iqn.2026-11.io.lunboot:test";
const INITIATOR: &str = "iqn.2004-10.example:client";
const ISID: Isid = Isid([0x80, 1, 2, 3, 4, 5]);
const DISK_BYTES: u64 = 4 << 20;

/// The other end of the connection: sends PDUs made by hand, and reads what comes back.
struct Client {
    target: Target,
    store: Arc<MemoryStore>,
    now: Instant,
    reader: Reader,
    inbox: VecDeque<(Response, Vec<u8>)>,
    events: Vec<Event>,
    cmd_sn: Sn,
    itt: u32,
    last: StatusSns,
}

fn offer() -> Offer {
    Offer {
        header_digest: DigestChoice::IfAsked,
        max_recv_bytes: 65536,
        max_burst_bytes: 65536,
        first_burst_bytes: 16384,
        max_outstanding_r2t: 2,
        ..Offer::default()
    }
}

impl Client {
    fn new() -> Client {
        let store = Arc::new(MemoryStore::with_volatile_cache(DISK_BYTES));
        let unit = LogicalUnit::new(store.clone(), NAME, b"disk", Options::default()).unwrap();
        let config = TargetConfig {
            name: NAME.to_owned(),
            portal_group: 1,
            offer: offer(),
            ping_interval: Duration::from_secs(30),
            units: LogicalUnits::new(vec![unit]),
        };
        let now = Instant::now();
        let portal = "192.0.2.7:3260".parse().unwrap();
        Client {
            target: Target::new(Arc::new(config), portal, now),
            store,
            now,
            reader: Reader::new(1 << 20, 1 << 20),
            inbox: VecDeque::new(),
            events: Vec::new(),
            cmd_sn: Sn(100),
            itt: 1,
            last: StatusSns::default(),
        }
    }

    /// A client in the full feature phase that has been told of the power-on.
    fn logged_in() -> Client {
        let mut client = Client::new();
        let keys = [
            ("InitialR2T", "No"),
            ("ImmediateData", "Yes"),
            ("MaxBurstLength", "262144"),
            ("FirstBurstLength", "65536"),
            ("MaxOutstandingR2T", "8"),
        ];
        client.log_in("Normal", &keys);
        let (status, _) = client.command(&Cdb::TestUnitReady, 0, &[]);
        assert_eq!(status, ScsiStatus::CheckCondition);
        client
    }

    fn log_in(&mut self, session_type: &str, keys: &[(&str, &str)]) -> Negotiation {
        let mut text = Text::new();
        text.push("InitiatorName", INITIATOR);
        text.push("SessionType", session_type);
        if session_type == "Normal" {
            text.push("TargetName", NAME);
        }
        text.push("AuthMethod", "CHAP,None");
        let security = Stage::SecurityNegotiation;
        let operational = Stage::LoginOperationalNegotiation;
        let (response, answer) = self.login(security, Some(operational), &text);
        assert_eq!((response.status_class, response.next_stage), (0, Some(operational)));
        assert!(answer.contains("AuthMethod=None"), "{answer}");
        let mut text = Text::new();
        text.push("MaxRecvDataSegmentLength", "8192");
        for (key, value) in keys {
            text.push(key, value);
        }
        let (response, answer) = self.login(operational, Some(Stage::FullFeaturePhase), &text);
        assert_eq!((response.status_class, response.tsih), (0, 0x1234));
        Negotiation(answer)
    }

    fn login(
        &mut self,
        stage: Stage,
        next_stage: Option<Stage>,
        text: &Text,
    ) -> (LoginResponse, String) {
        let request = LoginRequest {
            transit: next_stage.is_some(),
            continues: false,
            stage,
            next_stage,
            version_max: 0,
            version_min: 0,
            isid: ISID,
            tsih: 0,
            itt: Itt(7),
            cid: 9,
            cmd_sn: self.cmd_sn,
            exp_stat_sn: Sn(0),
            data_bytes: text.as_bytes().len() as u32,
        };
        self.send(&request.emit(), text.as_bytes());
        match self.receive() {
            (Response::Login(response), data) => {
                (response, String::from_utf8(data).unwrap().replace('\0', " "))
            }
            other => panic!("expected a Login Response, got {other:?}"),
        }
    }

    fn send(&mut self, bhs: &Bhs, data: &[u8]) {
        let mut bytes = bhs.to_vec();
        bytes.extend(data);
        bytes.resize(bytes.len().next_multiple_of(4), 0);
        self.send_bytes(&bytes);
    }

    fn send_bytes(&mut self, mut bytes: &[u8]) {
        while !bytes.is_empty() {
            let space = self.target.recv_space();
            let count = space.len().min(bytes.len());
            if count == 0 {
                return;
            }
            space[..count].copy_from_slice(&bytes[..count]);
            self.target.received(count, self.now);
            bytes = &bytes[count..];
            self.drain();
        }
    }

    /// Does what a server does with the outputs, and keeps what it was asked.
    fn drain(&mut self) {
        loop {
            while let Some(event) = self.target.poll_event() {
                match &event {
                    Event::Claim { .. } => self.target.admit(0x1234, self.now),
                    Event::Command { tag, .. } => self.target.execute(*tag),
                    Event::Reset { .. } => self.target.reset_done(),
                    Event::Ended(_) => {}
                }
                self.events.push(event);
            }
            let mut slices: [&[u8]; 64] = [&[]; 64];
            let count = self.target.poll_transmit(&mut slices);
            let bytes = slices[..count].concat();
            if bytes.is_empty() {
                break;
            }
            self.target.sent(bytes.len());
            self.read(&bytes);
        }
    }

    fn read(&mut self, mut bytes: &[u8]) {
        while !bytes.is_empty() {
            let space = self.reader.space();
            let count = space.len().min(bytes.len());
            space[..count].copy_from_slice(&bytes[..count]);
            self.reader.filled(count);
            bytes = &bytes[count..];
            while let Some((header, bhs)) = self.reader.poll_header().unwrap() {
                let mut data = vec![0; header.data_bytes as usize];
                let taken = self.reader.take(&mut data);
                assert_eq!(taken, data.len(), "tests send whole PDUs");
                assert_eq!(self.reader.poll_end(), Some(DataEnd::Good));
                self.inbox.push_back((Response::parse(&bhs).unwrap(), data));
            }
        }
    }

    fn receive(&mut self) -> (Response, Vec<u8>) {
        self.inbox.pop_front().expect("the target has answered")
    }

    fn command_pdu(&mut self, cdb: &Cdb, expected: u32, data: &[u8], write: bool) -> ScsiCommand {
        self.itt += 1;
        let pdu = ScsiCommand {
            immediate: false,
            final_pdu: true,
            read: !write && expected > 0,
            write,
            attribute: TaskAttribute::Simple,
            lun: 0,
            itt: Itt(self.itt),
            expected_data_bytes: expected,
            cmd_sn: self.cmd_sn,
            exp_stat_sn: Sn(0),
            cdb: cdb.emit(),
            data_bytes: data.len() as u32,
        };
        self.cmd_sn = self.cmd_sn.next();
        pdu
    }

    /// A command with all its data, if any, in its own PDU; gives its status and the data read.
    fn command(&mut self, cdb: &Cdb, expected: u32, data: &[u8]) -> (ScsiStatus, Vec<u8>) {
        let pdu = self.command_pdu(cdb, expected, data, !data.is_empty());
        self.send(&pdu.emit(), data);
        self.finish(pdu.itt)
    }

    /// Collects the answer to a command.
    fn finish(&mut self, itt: Itt) -> (ScsiStatus, Vec<u8>) {
        let mut read = Vec::new();
        loop {
            match self.receive() {
                (Response::DataIn(pdu), data) => {
                    assert_eq!((pdu.itt, pdu.buffer_offset as usize), (itt, read.len()));
                    read.extend(data);
                    if let Some(status) = pdu.status {
                        self.last = pdu.sns;
                        return (ScsiStatus::from_code(status), read);
                    }
                }
                (Response::ScsiResponse(pdu), data) => {
                    assert_eq!(pdu.itt, itt);
                    self.last = pdu.sns;
                    return (ScsiStatus::from_code(pdu.status), data);
                }
                other => panic!("expected an answer to {itt:?}, got {other:?}"),
            }
        }
    }

    fn data_out(&mut self, itt: Itt, ttt: Ttt, data_sn: u32, offset: u32, data: &[u8], last: bool) {
        let pdu = DataOut {
            final_pdu: last,
            lun: 0,
            itt,
            ttt,
            exp_stat_sn: Sn(0),
            data_sn: Sn(data_sn),
            buffer_offset: offset,
            data_bytes: data.len() as u32,
        };
        self.send(&pdu.emit(), data);
    }

    fn r2t(&mut self) -> R2t {
        match self.receive() {
            (Response::R2t(pdu), _) => pdu,
            other => panic!("expected an R2T, got {other:?}"),
        }
    }

    fn task_management(&mut self, function: u8, referenced: Itt) -> u8 {
        self.itt += 1;
        let pdu = TaskManagementRequest {
            immediate: true,
            function,
            lun: 0,
            itt: Itt(self.itt),
            referenced_itt: referenced,
            cmd_sn: self.cmd_sn,
            exp_stat_sn: Sn(0),
            ref_cmd_sn: Sn(0),
        };
        self.send(&pdu.emit(), &[]);
        match self.receive() {
            (Response::TaskManagement(pdu), _) => pdu.response,
            other => panic!("expected a Task Management Function Response, got {other:?}"),
        }
    }
}

/// The target's answers in the operational stage.
struct Negotiation(String);

fn read(lba: u64, blocks: u32) -> Cdb {
    Cdb::Read { size: CdbSize::Sixteen, lba, blocks, flags: TransferFlags::default() }
}

fn write(lba: u64, blocks: u32) -> Cdb {
    Cdb::Write { size: CdbSize::Sixteen, lba, blocks, flags: TransferFlags::default() }
}

fn sense(data: &[u8]) -> Sense {
    assert_eq!(usize::from(data[1]) + 2, data.len());
    Sense::parse(&data[2..]).unwrap()
}

/// Bytes that tell where they are from.
fn pattern(length: usize) -> Vec<u8> {
    (0..length).map(|index| (index / 512 + index * 7) as u8).collect()
}

#[test]
fn login_negotiates_and_claims_a_session() {
    let mut client = Client::new();
    let keys = [("HeaderDigest", "CRC32C,None"), ("MaxBurstLength", "1048576"), ("X-new", "1")];
    let Negotiation(answer) = client.log_in("Normal", &keys);
    for expected in
        ["HeaderDigest=CRC32C", "MaxBurstLength=65536", "X-new=NotUnderstood", "MaxRecvDataSeg"]
    {
        assert!(answer.contains(expected), "{expected} is missing in {answer}");
    }
    let session = SessionName { initiator: INITIATOR.to_owned(), isid: ISID };
    assert_eq!(client.events, [Event::Claim { session, discovery: false }]);
    assert_eq!(client.target.initiator(), Some(INITIATOR));
}

#[test]
fn logins_are_refused_with_their_status() {
    let refused = |keys: &[(&str, &str)]| {
        let mut client = Client::new();
        let mut text = Text::new();
        for (key, value) in keys {
            text.push(key, value);
        }
        let next = Some(Stage::LoginOperationalNegotiation);
        let (response, _) = client.login(Stage::SecurityNegotiation, next, &text);
        assert!(matches!(client.events[..], [Event::Ended(End::Refused(_))]), "{keys:?}");
        (response.status_class, response.status_detail)
    };
    let name = ("InitiatorName", INITIATOR);
    assert_eq!(refused(&[name, ("TargetName", "iqn.2026-11.io.lunboot:other")]), (2, 3));
    assert_eq!(refused(&[name]), (2, 7));
    assert_eq!(refused(&[("TargetName", NAME)]), (2, 7));
    assert_eq!(refused(&[name, ("TargetName", NAME), ("AuthMethod", "CHAP")]), (2, 1));
    assert_eq!(refused(&[name, ("SessionType", "Strange")]), (2, 9));
    assert_eq!(refused(&[("InitiatorName", &"a".repeat(224))]), (2, 0));
    assert_eq!(refused(&[("InitiatorName", "a\nb")]), (2, 0));
}

#[test]
fn what_comes_before_the_login_ends_the_connection() {
    let mut client = Client::new();
    let pdu = client.command_pdu(&Cdb::TestUnitReady, 0, &[], false);
    client.send(&pdu.emit(), &[]);
    assert!(matches!(client.events[..], [Event::Ended(End::Failed(_))]));
    assert!(client.inbox.is_empty());
}

#[test]
fn text_without_end_before_the_login_is_refused() {
    let mut client = Client::new();
    let request = |continues| LoginRequest {
        transit: false,
        continues,
        stage: Stage::SecurityNegotiation,
        next_stage: None,
        version_max: 0,
        version_min: 0,
        isid: ISID,
        tsih: 0,
        itt: Itt(7),
        cid: 0,
        cmd_sn: Sn(0),
        exp_stat_sn: Sn(0),
        data_bytes: 8000,
    };
    for _ in 0..3 {
        client.send(&request(true).emit(), &[b'a'; 8000]);
    }
    assert!(matches!(client.events[..], [Event::Ended(End::Refused(_))]));
}

#[test]
fn a_login_that_never_ends_times_out() {
    let mut client = Client::new();
    let deadline = client.target.next_deadline().unwrap();
    client.target.handle_timeout(deadline - Duration::from_millis(1));
    client.drain();
    assert!(client.events.is_empty());
    client.target.handle_timeout(deadline);
    client.drain();
    assert!(matches!(client.events[..], [Event::Ended(End::Failed(Error::TimedOut { .. }))]));
}

#[test]
fn a_new_session_begins_with_a_unit_attention() {
    let mut client = Client::new();
    client.log_in("Normal", &[]);
    let (status, data) = client.command(&Cdb::TestUnitReady, 0, &[]);
    assert_eq!(status, ScsiStatus::CheckCondition);
    assert_eq!(sense(&data).code(), asc::POWER_ON_OR_RESET);
    assert_eq!(client.command(&Cdb::TestUnitReady, 0, &[]).0, ScsiStatus::Good);
}

#[test]
fn data_in_is_cut_to_the_segment_length_and_bursts_are_marked() {
    let mut client = Client::logged_in();
    let data = pattern(160 * 512);
    crate::store::Store::write_at(&*client.store, &data, 512).unwrap();
    let pdu = client.command_pdu(&read(1, 160), 160 * 512, &[], false);
    client.send(&pdu.emit(), &[]);
    let pdus: Vec<_> = client
        .inbox
        .iter()
        .map(|(pdu, data)| match pdu {
            Response::DataIn(pdu) => (pdu.final_pdu, pdu.status, pdu.data_sn.0, data.len()),
            other => panic!("expected Data-In, got {other:?}"),
        })
        .collect();
    let mut expected: Vec<_> = (0..10).map(|sn| (sn == 7, None, sn, 8192)).collect();
    expected[9] = (true, Some(0), 9, 8192);
    assert_eq!(pdus, expected);
    let (status, read) = client.finish(pdu.itt);
    assert_eq!((status, read == data), (ScsiStatus::Good, true));
}

#[test]
fn immediate_data_is_written() {
    let mut client = Client::logged_in();
    let data = pattern(4096);
    assert_eq!(client.command(&write(8, 8), 4096, &data).0, ScsiStatus::Good);
    assert_eq!(client.store.contents()[4096..8192], data);
}

#[test]
fn a_long_write_comes_by_r2t_and_several_are_outstanding() {
    let mut client = Client::logged_in();
    let data = pattern(200 * 1024);
    let total = data.len() as u32;
    let pdu = ScsiCommand {
        final_pdu: false,
        ..client.command_pdu(&write(0, 400), total, &data[..4096], true)
    };
    client.send(&pdu.emit(), &data[..4096]);
    assert!(client.inbox.is_empty(), "unsolicited data comes first");
    client.data_out(pdu.itt, Ttt::RESERVED, 0, 4096, &data[4096..8192], false);
    client.data_out(pdu.itt, Ttt::RESERVED, 1, 8192, &data[8192..16384], true);
    let mut wanted: VecDeque<R2t> = [client.r2t(), client.r2t()].into();
    assert!(client.inbox.is_empty(), "MaxOutstandingR2T is 2");
    let mut offset = 16384;
    let mut r2t_sn = 0;
    while let Some(r2t) = wanted.pop_front() {
        assert_eq!((r2t.buffer_offset, r2t.r2t_sn), (offset, Sn(r2t_sn)));
        let end = offset + r2t.desired_bytes;
        let (first, second) = data[offset as usize..end as usize].split_at(10_000);
        client.data_out(pdu.itt, r2t.ttt, 0, offset, first, false);
        client.data_out(pdu.itt, r2t.ttt, 1, offset + 10_000, second, true);
        (offset, r2t_sn) = (end, r2t_sn + 1);
        if client.inbox.front().is_some_and(|(pdu, _)| matches!(pdu, Response::R2t(_))) {
            wanted.push_back(client.r2t());
        }
    }
    assert_eq!((offset, r2t_sn), (total, 3));
    assert_eq!(client.finish(pdu.itt).0, ScsiStatus::Good);
    assert!(client.store.contents()[..data.len()] == data);
}

#[test]
fn data_out_of_order_fails_the_write_and_nothing_is_written() {
    for (data_sn, offset) in [(1, 0), (0, 512), (u32::MAX, 0), (0, u32::MAX - 100)] {
        let mut client = Client::logged_in();
        let pdu = client.command_pdu(&write(0, 4), 2048, &[], true);
        client.send(&pdu.emit(), &[]);
        let r2t = client.r2t();
        client.data_out(pdu.itt, r2t.ttt, data_sn, offset, &[1; 2048], true);
        let (status, data) = client.finish(pdu.itt);
        assert_eq!(status, ScsiStatus::CheckCondition);
        assert_eq!(sense(&data).code(), asc::DATA_PHASE_ERROR);
        assert_eq!(client.store.contents()[..2048], [0; 2048]);
        assert_eq!(client.command(&Cdb::TestUnitReady, 0, &[]).0, ScsiStatus::Good);
    }
}

#[test]
fn residuals_say_what_did_not_fit() {
    let mut client = Client::logged_in();
    for (expected, residual, length) in [
        (1024, Residual::None, 1024),
        (2000, Residual::Underflow(976), 1024),
        (600, Residual::Overflow(424), 600),
    ] {
        let pdu = client.command_pdu(&read(0, 2), expected, &[], false);
        client.send(&pdu.emit(), &[]);
        match client.receive() {
            (Response::DataIn(pdu), data) => {
                assert_eq!((pdu.residual, data.len()), (residual, length));
            }
            other => panic!("expected Data-In, got {other:?}"),
        }
    }
    // A write of two blocks for which only one and a half are announced writes one.
    let pdu = client.command_pdu(&write(0, 2), 768, &[5; 768], true);
    client.send(&pdu.emit(), &[5; 768]);
    match client.receive() {
        (Response::ScsiResponse(pdu), _) => {
            assert_eq!((pdu.status, pdu.residual), (0, Residual::Overflow(256)));
        }
        other => panic!("expected a SCSI Response, got {other:?}"),
    }
    let contents = client.store.contents();
    assert_eq!((contents[511], contents[512]), (5, 0));
    // More announced than taken: the rest is thrown away.
    let pdu = client.command_pdu(&write(1, 1), 1024, &[6; 1024], true);
    client.send(&pdu.emit(), &[6; 1024]);
    match client.receive() {
        (Response::ScsiResponse(pdu), _) => assert_eq!(pdu.residual, Residual::Underflow(512)),
        other => panic!("expected a SCSI Response, got {other:?}"),
    }
    let contents = client.store.contents();
    assert_eq!((contents[512], contents[1023], contents[1024]), (6, 6, 0));
}

#[test]
fn commands_outside_the_window_are_ignored_in_silence() {
    let mut client = Client::logged_in();
    for cmd_sn in [client.last.max_cmd_sn.next(), Sn(client.cmd_sn.0 - 1), Sn(5)] {
        let pdu = client.command_pdu(&Cdb::TestUnitReady, 0, &[], false);
        client.cmd_sn = pdu.cmd_sn;
        client.send(&ScsiCommand { cmd_sn, ..pdu }.emit(), &[]);
        assert!(client.inbox.is_empty());
    }
    assert_eq!(client.command(&Cdb::TestUnitReady, 0, &[]).0, ScsiStatus::Good);
}

#[test]
fn the_window_closes_when_it_is_full_and_opens_again() {
    let mut client = Client::logged_in();
    let mut itts = Vec::new();
    let mut r2ts = Vec::new();
    for _ in 0..COMMAND_WINDOW {
        let pdu = client.command_pdu(&write(0, 1), 512, &[], true);
        client.send(&pdu.emit(), &[]);
        itts.push(pdu.itt);
        r2ts.push(client.r2t());
    }
    let last = r2ts.last().unwrap().sns;
    assert_eq!(last.max_cmd_sn.next(), last.exp_cmd_sn);
    let pdu = client.command_pdu(&write(0, 1), 512, &[], true);
    client.send(&pdu.emit(), &[]);
    assert!(client.inbox.is_empty(), "beyond the window");
    client.data_out(itts[5], r2ts[5].ttt, 0, 0, &[1; 512], true);
    assert_eq!(client.finish(itts[5]).0, ScsiStatus::Good);
    assert_eq!(client.last.max_cmd_sn, client.last.exp_cmd_sn);
}

#[test]
fn ordered_commands_wait_and_are_waited_for() {
    let mut client = Client::logged_in();
    let first = client.command_pdu(&write(0, 1), 512, &[], true);
    client.send(&first.emit(), &[]);
    let r2t = client.r2t();
    let ordered = ScsiCommand {
        attribute: TaskAttribute::Ordered,
        ..client.command_pdu(&read(0, 1), 512, &[], false)
    };
    client.send(&ordered.emit(), &[]);
    let after = client.command_pdu(&write(0, 1), 512, &[9; 512], true);
    client.send(&after.emit(), &[9; 512]);
    assert!(client.inbox.is_empty());
    client.data_out(first.itt, r2t.ttt, 0, 0, &[8; 512], true);
    assert_eq!(client.finish(first.itt).0, ScsiStatus::Good);
    assert_eq!(client.finish(ordered.itt), (ScsiStatus::Good, vec![8; 512]));
    assert_eq!(client.finish(after.itt).0, ScsiStatus::Good);
}

#[test]
fn an_aborted_write_never_happens_and_its_late_data_harms_nobody() {
    for function in [1, 2, 5, 6] {
        let mut client = Client::logged_in();
        let pdu = client.command_pdu(&write(0, 1), 512, &[], true);
        client.send(&pdu.emit(), &[]);
        let r2t = client.r2t();
        assert_eq!(client.task_management(function, pdu.itt), 0, "function {function}");
        client.data_out(pdu.itt, r2t.ttt, 0, 0, &[1; 512], true);
        assert!(client.inbox.is_empty());
        assert_eq!(client.store.contents()[..512], [0; 512]);
        if function >= 5 {
            let (_, data) = client.command(&Cdb::TestUnitReady, 0, &[]);
            assert_eq!(sense(&data).code(), asc::BUS_DEVICE_RESET);
        }
        assert_eq!(client.command(&write(0, 1), 512, &[2; 512]).0, ScsiStatus::Good);
    }
}

#[test]
fn task_management_that_is_not_done_is_not_answered_as_done() {
    let mut client = Client::logged_in();
    assert_eq!(client.task_management(1, Itt(12345)), 1);
    for (function, response) in [(3, 5), (4, 5), (7, 5), (8, 4), (77, 5)] {
        assert_eq!(client.task_management(function, Itt::RESERVED), response);
    }
}

#[test]
fn the_reset_of_another_session_ends_tasks_with_task_aborted() {
    let mut client = Client::logged_in();
    let pdu = client.command_pdu(&write(0, 1), 512, &[], true);
    client.send(&pdu.emit(), &[]);
    let r2t = client.r2t();
    client.target.handle_reset(Some(Lun::ZERO));
    client.target.config.units.reset(Some(Lun::ZERO));
    client.drain();
    assert_eq!(client.finish(pdu.itt).0, ScsiStatus::TaskAborted);
    client.data_out(pdu.itt, r2t.ttt, 0, 0, &[1; 512], true);
    assert!(client.inbox.is_empty());
    let (_, data) = client.command(&Cdb::TestUnitReady, 0, &[]);
    assert_eq!(sense(&data).code(), asc::BUS_DEVICE_RESET);
}

#[test]
fn executing_a_command_late_does_not_touch_what_has_taken_its_place() {
    let mut client = Client::logged_in();
    client.command(&Cdb::TestUnitReady, 0, &[]);
    let Some(&Event::Command { tag, .. }) = client.events.last() else {
        panic!("a command was executed")
    };
    let pdu = client.command_pdu(&write(0, 1), 512, &[], true);
    client.send(&pdu.emit(), &[]);
    let r2t = client.r2t();
    // The owner comes back with a command that is over; the write has its place and no data yet.
    client.target.execute(tag);
    client.drain();
    assert!(client.inbox.is_empty());
    client.data_out(pdu.itt, r2t.ttt, 0, 0, &[1; 512], true);
    assert_eq!(client.finish(pdu.itt).0, ScsiStatus::Good);
    assert_eq!(client.store.contents()[..512], [1; 512]);
}

#[test]
fn a_reset_in_the_middle_of_a_data_segment() {
    let mut client = Client::logged_in();
    let pdu = client.command_pdu(&write(0, 128), 65536, &[], true);
    client.send(&pdu.emit(), &[]);
    let r2t = client.r2t();
    let data = DataOut {
        final_pdu: true,
        lun: 0,
        itt: pdu.itt,
        ttt: r2t.ttt,
        exp_stat_sn: Sn(0),
        data_sn: Sn(0),
        buffer_offset: 0,
        data_bytes: 65536,
    };
    client.send_bytes(&data.emit());
    client.send_bytes(&[1; 30_000]);
    client.target.handle_reset(None);
    client.drain();
    assert_eq!(client.finish(pdu.itt).0, ScsiStatus::TaskAborted);
    client.send_bytes(&[1; 35_536]);
    client.command(&Cdb::TestUnitReady, 0, &[]);
    assert_eq!(client.command(&Cdb::TestUnitReady, 0, &[]).0, ScsiStatus::Good);
    assert_eq!(client.store.contents()[..512], [0; 512]);
}

#[test]
fn discovery_names_the_address_that_the_initiator_uses() {
    let mut client = Client::new();
    client.log_in("Discovery", &[]);
    let request = TextRequest {
        immediate: false,
        final_pdu: true,
        continues: false,
        lun: 0,
        itt: Itt(1),
        ttt: Ttt::RESERVED,
        cmd_sn: client.cmd_sn,
        exp_stat_sn: Sn(0),
        data_bytes: 16,
    };
    client.cmd_sn = client.cmd_sn.next();
    client.send(&request.emit(), b"SendTargets=All\0");
    let (response, text) = client.receive();
    assert!(matches!(response, Response::Text(pdu) if pdu.final_pdu));
    let expected = b"TargetName=iqn.2026-11.io.lunboot:test\0TargetAddress=192.0.2.7:3260,1\0";
    assert_eq!(text, expected);
    let pdu = client.command_pdu(&Cdb::TestUnitReady, 0, &[], false);
    client.send(&pdu.emit(), &[]);
    let (response, header) = client.receive();
    assert!(matches!(response, Response::Reject(pdu) if pdu.reason == Reject::PROTOCOL_ERROR));
    assert_eq!(header, pdu.emit());
}

#[test]
fn pings_in_both_directions() {
    let mut client = Client::logged_in();
    let nop = |itt, ttt, data_bytes| NopOut {
        immediate: true,
        lun: 0,
        itt,
        ttt,
        cmd_sn: Sn(0),
        exp_stat_sn: Sn(0),
        data_bytes,
    };
    client.send(&nop(Itt(77), Ttt::RESERVED, 5).emit(), b"hello");
    let (response, data) = client.receive();
    assert!(matches!(response, Response::NopIn(pdu) if pdu.itt == Itt(77)));
    assert_eq!(data, b"hello");
    client.now = client.target.next_deadline().unwrap();
    client.target.handle_timeout(client.now);
    client.drain();
    let (response, _) = client.receive();
    let Response::NopIn(ping) = response else { panic!("expected a NOP-In") };
    assert_eq!((ping.itt, ping.ttt != Ttt::RESERVED), (Itt::RESERVED, true));
    client.send(&nop(Itt::RESERVED, ping.ttt, 0).emit(), &[]);
    client.target.handle_timeout(client.now);
    client.drain();
    assert!(client.inbox.is_empty() && client.events.last().is_some());
    for _ in 0..2 {
        client.now = client.target.next_deadline().unwrap();
        client.target.handle_timeout(client.now);
        client.drain();
    }
    let end = client.events.last();
    assert!(matches!(end, Some(Event::Ended(End::Failed(Error::TimedOut { .. })))), "{end:?}");
}

#[test]
fn unknown_opcodes_are_rejected_with_their_header() {
    let mut client = Client::logged_in();
    for (opcode, reason) in [
        (0x1c, Reject::COMMAND_NOT_SUPPORTED),
        (0x10, Reject::SNACK_REJECT),
        (0x03, Reject::PROTOCOL_ERROR),
    ] {
        let mut bhs = [0; BHS_BYTES];
        bhs[0] = 0x40 | opcode;
        bhs[7] = 3;
        client.send(&bhs, b"abc");
        let (response, header) = client.receive();
        assert!(matches!(response, Response::Reject(pdu) if pdu.reason == reason), "{response:?}");
        assert_eq!(header, bhs);
    }
    assert_eq!(client.command(&Cdb::TestUnitReady, 0, &[]).0, ScsiStatus::Good);
}

#[test]
fn a_tag_in_use_is_rejected() {
    let mut client = Client::logged_in();
    let pdu = client.command_pdu(&write(0, 1), 512, &[], true);
    client.send(&pdu.emit(), &[]);
    client.r2t();
    let second = client.command_pdu(&write(0, 1), 512, &[], true);
    client.send(&ScsiCommand { itt: pdu.itt, ..second }.emit(), &[]);
    let (response, _) = client.receive();
    assert!(matches!(response, Response::Reject(pdu) if pdu.reason == Reject::TASK_IN_PROGRESS));
}

#[test]
fn logout_ends_the_session_after_its_answer() {
    let mut client = Client::logged_in();
    let logout = |reason, cid, cmd_sn| LogoutRequest {
        immediate: true,
        reason,
        itt: Itt(500),
        cid,
        cmd_sn,
        exp_stat_sn: Sn(0),
    };
    client.send(&logout(1, 8, client.cmd_sn).emit(), &[]);
    assert!(matches!(client.receive().0, Response::Logout(pdu) if pdu.response == 1));
    client.send(&logout(2, 9, client.cmd_sn).emit(), &[]);
    assert!(matches!(client.receive().0, Response::Logout(pdu) if pdu.response == 2));
    client.send(&logout(0, 9, client.cmd_sn).emit(), &[]);
    assert!(matches!(client.receive().0, Response::Logout(pdu) if pdu.response == 0));
    assert_eq!(client.events.last(), Some(&Event::Ended(End::LoggedOut)));
    assert!(client.target.recv_space().is_empty());
}

#[test]
fn too_much_unsolicited_data_fails_the_command_alone() {
    let mut client = Client::logged_in();
    let data = vec![1; 20_000];
    let pdu = client.command_pdu(&write(0, 100), 51200, &data, true);
    client.send(&pdu.emit(), &data);
    let (status, segment) = client.finish(pdu.itt);
    assert_eq!(status, ScsiStatus::CheckCondition);
    assert_eq!(sense(&segment).code(), asc::UNEXPECTED_UNSOLICITED_DATA);
    assert_eq!(client.store.contents()[..512], [0; 512]);
}

#[test]
fn random_bytes_never_panic() {
    let mut state = 0x5851_f42d_4c95_7f2d_u64;
    let mut random = move || {
        state ^= state << 13;
        state ^= state >> 7;
        state ^= state << 17;
        state
    };
    for round in 0..400 {
        let mut client = if round % 4 == 0 { Client::new() } else { Client::logged_in() };
        for _ in 0..20 {
            let mut bhs = [0; BHS_BYTES];
            for byte in &mut bhs {
                *byte = if random() % 3 == 0 { random() as u8 } else { 0 };
            }
            // Opcodes that exist, lengths and numbers that are often plausible.
            bhs[0] = [0, 1, 2, 3, 4, 5, 6, 0x10, 0x1f][random() as usize % 9] | 0x40;
            bhs[1] |= 0x80;
            (bhs[4], bhs[5]) = (0, 0);
            bhs[6] &= 0x0f;
            let length = usize::from(bhs[6]) << 8 | usize::from(bhs[7]);
            client.send(&bhs, &vec![random() as u8; length]);
            client.inbox.clear();
        }
    }
}
