//! [`Client`]: one connection of the target, driven PDU by PDU by a hand-made initiator.
//!
//! It sends what our own initiator never would, and shows everything that comes back. No socket, no
//! thread: bytes go straight into [`Target::recv_space`], what the target asks of its owner is done
//! as the real server does it, and time passes only in [`Client::pass_time`].

use std::collections::VecDeque;
use std::sync::Arc;
use std::time::{Duration, Instant};

use lunboot::proto::chap::Challenge;
use lunboot::proto::logical_unit::{LogicalUnit, Options};
use lunboot::proto::logical_units::LogicalUnits;
use lunboot::proto::params::{DigestChoice, Offer};
use lunboot::proto::target::{End, Event, Tag, Target, TargetConfig};
use lunboot::store::memory::MemoryStore;
use lunboot::wire::frame::{DataEnd, Digests, Reader};
use lunboot::wire::pdu::*;
use lunboot::wire::scsi::{Cdb, CdbSize, Lun, ScsiStatus, Sense, TransferFlags};
use lunboot::wire::serial::Sn;
use lunboot::wire::text::Text;

pub const NAME: &str = "iqn.2026-11.io.lunboot:test";
pub const INITIATOR: &str = "iqn.2004-10.example:client";
pub const ISID: Isid = Isid([0x80, 1, 2, 3, 4, 5]);
pub const DISK_BYTES: u64 = 4 << 20;

/// The target's limits are small here, so that a test meets them with little data.
pub fn offer() -> Offer {
    Offer {
        header_digest: DigestChoice::IfAsked,
        data_digest: DigestChoice::IfAsked,
        max_recv_bytes: 65536,
        max_burst_bytes: 65536,
        first_burst_bytes: 16384,
        max_outstanding_r2t: 2,
        ..Offer::default()
    }
}

/// A target with two disks, for any number of clients.
#[derive(Clone)]
pub struct Disks {
    pub config: Arc<TargetConfig>,
    /// What LUN 0 is made of.
    pub store: Arc<MemoryStore>,
}

impl Disks {
    pub fn new() -> Disks {
        Disks::with(|config| config.offer = offer())
    }

    /// With settings of its own.
    pub fn with(change: impl FnOnce(&mut TargetConfig)) -> Disks {
        let store = Arc::new(MemoryStore::with_volatile_cache(DISK_BYTES));
        let other = Arc::new(MemoryStore::with_volatile_cache(DISK_BYTES));
        let unit = LogicalUnit::new(store.clone(), NAME, b"disk", Options::default()).unwrap();
        let second = LogicalUnit::new(other, NAME, b"other", Options::default()).unwrap();
        let mut config = TargetConfig::new(NAME, LogicalUnits::new(vec![unit, second]));
        change(&mut config);
        Disks { config: Arc::new(config), store }
    }
}

/// The other end of the connection: sends PDUs made by hand, and reads what comes back.
pub struct Client {
    pub target: Target,
    pub config: Arc<TargetConfig>,
    pub store: Arc<MemoryStore>,
    pub now: Instant,
    /// Tells its session from those of other clients.
    pub isid: Isid,
    reader: Reader,
    digests: Digests,
    /// What the target has sent and no test has looked at yet.
    pub inbox: VecDeque<(Response, Vec<u8>)>,
    /// What the target has asked of its owner.
    pub events: Vec<Event>,
    /// Commands are not executed and resets not confirmed before [`Client::work`].
    pub idle: bool,
    tags: VecDeque<Tag>,
    resets: usize,
    pub cmd_sn: Sn,
    pub itt: u32,
    /// The counters of the last answer to a command.
    pub last: StatusSns,
    pub login: Option<LoginResponse>,
}

/// The target's answers in the operational stage.
pub struct Negotiation(pub String);

impl Client {
    pub fn new() -> Client {
        Client::of(&Disks::new())
    }

    /// A connection to a target that others may use as well.
    pub fn of(disks: &Disks) -> Client {
        Client::challenging(disks, super::challenge(0))
    }

    /// The same with a choice of what the target asks of whoever has to prove who he is.
    pub fn challenging(disks: &Disks, challenge: Challenge) -> Client {
        let now = Instant::now();
        let portal = "192.0.2.7:3260".parse().unwrap();
        Client {
            target: Target::new(disks.config.clone(), portal, challenge, now),
            config: disks.config.clone(),
            store: disks.store.clone(),
            now,
            isid: ISID,
            reader: Reader::new(1 << 20, 1 << 20),
            digests: Digests::default(),
            inbox: VecDeque::new(),
            events: Vec::new(),
            idle: false,
            tags: VecDeque::new(),
            resets: 0,
            cmd_sn: Sn(100),
            itt: 1,
            last: StatusSns::default(),
            login: None,
        }
    }

    /// A client in the full feature phase that has been told of the power-on, with unsolicited
    /// data allowed.
    pub fn logged_in() -> Client {
        Client::logged_in_to(&Disks::new(), UNSOLICITED)
    }

    /// The same with a choice of keys.
    pub fn logged_in_to(disks: &Disks, keys: &[(&str, &str)]) -> Client {
        Client::of(disks).log_in_and_hear(keys)
    }

    /// The same for a client that has not logged in yet.
    pub fn log_in_and_hear(mut self, keys: &[(&str, &str)]) -> Client {
        let client = &mut self;
        client.log_in("Normal", keys);
        for lun in [0, 1] {
            let pdu = client.command_pdu(&Cdb::TestUnitReady, 0, &[], false);
            let pdu = ScsiCommand { lun: lun_field(lun), ..pdu };
            client.send(&pdu.emit(), &[]);
            assert_eq!(client.finish(pdu.itt).0, ScsiStatus::CheckCondition);
        }
        self
    }

    /// Both stages of a login; the second with these keys.
    pub fn log_in(&mut self, session_type: &str, keys: &[(&str, &str)]) -> Negotiation {
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
        for (key, value) in keys {
            text.push(key, value);
        }
        let (response, answer) = self.login(operational, Some(Stage::FullFeaturePhase), &text);
        assert_eq!((response.status_class, response.tsih), (0, 0x1234));
        self.digests = Digests {
            header: answer.contains("HeaderDigest=CRC32C"),
            data: answer.contains("DataDigest=CRC32C"),
        };
        self.reader.agree(self.digests, 1 << 20);
        Negotiation(answer)
    }

    pub fn login(
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
            isid: self.isid,
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
                self.login = Some(response);
                (response, String::from_utf8(data).unwrap().replace('\0', " "))
            }
            other => panic!("expected a Login Response, got {other:?}"),
        }
    }

    // Sending.

    /// A PDU as it stands on the wire.
    pub fn frame(&self, bhs: &Bhs, data: &[u8]) -> Vec<u8> {
        let mut bytes = bhs.to_vec();
        if self.digests.header {
            bytes.extend(crc32c::crc32c(bhs).to_le_bytes());
        }
        let start = bytes.len();
        bytes.extend(data);
        bytes.resize(start + data.len().next_multiple_of(4), 0);
        if self.digests.data && !data.is_empty() {
            let crc = crc32c::crc32c(&bytes[start..]);
            bytes.extend(crc.to_le_bytes());
        }
        bytes
    }

    pub fn send(&mut self, bhs: &Bhs, data: &[u8]) {
        let bytes = self.frame(bhs, data);
        self.send_bytes(&bytes);
    }

    /// A PDU whose last byte was damaged on its way: of its data digest, if there is one.
    pub fn send_damaged(&mut self, bhs: &Bhs, data: &[u8]) {
        let mut bytes = self.frame(bhs, data);
        *bytes.last_mut().unwrap() ^= 0x10;
        self.send_bytes(&bytes);
    }

    pub fn send_bytes(&mut self, mut bytes: &[u8]) {
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
    pub fn drain(&mut self) {
        loop {
            while let Some(event) = self.target.poll_event() {
                match &event {
                    Event::Claim { .. } => self.target.admit(0x1234, self.now),
                    Event::Command { tag, .. } if self.idle => self.tags.push_back(*tag),
                    Event::Command { tag, .. } => self.target.execute(*tag),
                    Event::Reset { .. } if self.idle => self.resets += 1,
                    Event::Reset { .. } => self.target.reset_done(),
                    Event::Sanitize { .. } | Event::Ended(_) => {}
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

    /// Executes the commands and confirms the resets that have waited since the client is idle.
    pub fn work(&mut self) {
        for tag in std::mem::take(&mut self.tags) {
            self.target.execute(tag);
        }
        for _ in 0..std::mem::take(&mut self.resets) {
            self.target.reset_done();
        }
        self.drain();
    }

    /// Until the next moment that the target waits for.
    pub fn pass_time(&mut self) {
        self.now = self.target.next_deadline().expect("it waits for something");
        self.target.handle_timeout(self.now);
        self.drain();
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

    // Receiving.

    pub fn receive(&mut self) -> (Response, Vec<u8>) {
        self.inbox.pop_front().expect("the target has answered")
    }

    pub fn assert_silent(&self) {
        assert!(self.inbox.is_empty(), "expected nothing, got {:?}", self.inbox);
    }

    /// Whether the target has ended the connection.
    pub fn end(&self) -> Option<&End> {
        match self.events.last() {
            Some(Event::Ended(end)) => Some(end),
            _ => None,
        }
    }

    /// The header must come back with it.
    pub fn reject(&mut self, rejected: &Bhs) -> Reject {
        match self.receive() {
            (Response::Reject(pdu), header) => {
                assert_eq!(header, rejected);
                pdu
            }
            other => panic!("expected a Reject, got {other:?}"),
        }
    }

    pub fn r2t(&mut self) -> R2t {
        match self.receive() {
            (Response::R2t(pdu), _) => pdu,
            other => panic!("expected an R2T, got {other:?}"),
        }
    }

    pub fn nop_in(&mut self) -> (NopIn, Vec<u8>) {
        match self.receive() {
            (Response::NopIn(pdu), data) => (pdu, data),
            other => panic!("expected a NOP-In, got {other:?}"),
        }
    }

    pub fn text_response(&mut self) -> (TextResponse, String) {
        match self.receive() {
            (Response::Text(pdu), data) => {
                (pdu, String::from_utf8(data).unwrap().replace('\0', " "))
            }
            other => panic!("expected a Text Response, got {other:?}"),
        }
    }

    /// Collects the answer to a command.
    pub fn finish(&mut self, itt: Itt) -> (ScsiStatus, Vec<u8>) {
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

    // PDUs.

    pub fn next_itt(&mut self) -> Itt {
        self.itt += 1;
        Itt(self.itt)
    }

    /// The next number of a command that is not immediate.
    pub fn next_cmd_sn(&mut self) -> Sn {
        let cmd_sn = self.cmd_sn;
        self.cmd_sn = cmd_sn.next();
        cmd_sn
    }

    pub fn command_pdu(
        &mut self,
        cdb: &Cdb,
        expected: u32,
        data: &[u8],
        write: bool,
    ) -> ScsiCommand {
        ScsiCommand {
            immediate: false,
            final_pdu: true,
            read: !write && expected > 0,
            write,
            attribute: TaskAttribute::Simple,
            lun: 0,
            itt: self.next_itt(),
            expected_data_bytes: expected,
            cmd_sn: self.next_cmd_sn(),
            exp_stat_sn: Sn(0),
            cdb: cdb.emit(),
            data_bytes: data.len() as u32,
        }
    }

    /// A command with all its data, if any, in its own PDU; gives its status and the data read.
    pub fn command(&mut self, cdb: &Cdb, expected: u32, data: &[u8]) -> (ScsiStatus, Vec<u8>) {
        let pdu = self.command_pdu(cdb, expected, data, !data.is_empty());
        self.send(&pdu.emit(), data);
        self.finish(pdu.itt)
    }

    /// A write of which all data is still to come.
    pub fn start_write(&mut self, lba: u64, blocks: u32) -> ScsiCommand {
        let pdu = self.command_pdu(&write(lba, blocks), blocks * 512, &[], true);
        self.send(&pdu.emit(), &[]);
        pdu
    }

    pub fn data_out(
        &mut self,
        itt: Itt,
        ttt: Ttt,
        data_sn: u32,
        offset: u32,
        data: &[u8],
        last: bool,
    ) {
        let pdu = data_out_pdu(itt, ttt, data_sn, offset, data.len() as u32, last);
        self.send(&pdu.emit(), data);
    }

    /// What an R2T asks for, in one PDU.
    pub fn answer(&mut self, r2t: &R2t, data: &[u8]) {
        let (start, end) = (r2t.buffer_offset, r2t.buffer_offset + r2t.desired_bytes);
        self.data_out(r2t.itt, r2t.ttt, 0, start, &data[start as usize..end as usize], true);
    }

    pub fn task_management_pdu(&mut self, function: u8, referenced: Itt) -> TaskManagementRequest {
        TaskManagementRequest {
            immediate: true,
            function,
            lun: 0,
            itt: self.next_itt(),
            referenced_itt: referenced,
            cmd_sn: self.cmd_sn,
            exp_stat_sn: Sn(0),
            ref_cmd_sn: Sn(0),
        }
    }

    pub fn task_management(&mut self, function: u8, referenced: Itt) -> u8 {
        let pdu = self.task_management_pdu(function, referenced);
        self.send(&pdu.emit(), &[]);
        self.task_management_response()
    }

    pub fn task_management_response(&mut self) -> u8 {
        match self.receive() {
            (Response::TaskManagement(pdu), _) => pdu.response,
            other => panic!("expected a Task Management Function Response, got {other:?}"),
        }
    }

    /// An immediate text request; its answer is to be received.
    pub fn text(&mut self, itt: Itt, ttt: Ttt, flags: TextFlags, text: &[u8]) -> Bhs {
        let pdu = TextRequest {
            immediate: true,
            final_pdu: flags.final_pdu,
            continues: flags.continues,
            lun: 0,
            itt,
            ttt,
            cmd_sn: self.cmd_sn,
            exp_stat_sn: Sn(0),
            data_bytes: text.len() as u32,
        };
        self.send(&pdu.emit(), text);
        pdu.emit()
    }

    pub fn nop_out(&mut self, immediate: bool, data: &[u8]) -> Itt {
        let cmd_sn = if immediate { self.cmd_sn } else { self.next_cmd_sn() };
        let itt = self.next_itt();
        let pdu = nop_out_pdu(immediate, itt, Ttt::RESERVED, cmd_sn, data.len() as u32);
        self.send(&pdu.emit(), data);
        itt
    }

    pub fn logout(&mut self, reason: u8, cid: u16) -> LogoutResponse {
        let itt = self.next_itt();
        let (cmd_sn, exp_stat_sn) = (self.cmd_sn, Sn(0));
        let pdu = LogoutRequest { immediate: true, reason, itt, cid, cmd_sn, exp_stat_sn };
        self.send(&pdu.emit(), &[]);
        match self.receive() {
            (Response::Logout(pdu), _) => pdu,
            other => panic!("expected a Logout Response, got {other:?}"),
        }
    }
}

/// F and C of a text request.
#[derive(Clone, Copy)]
pub struct TextFlags {
    pub final_pdu: bool,
    pub continues: bool,
}

pub const FINAL: TextFlags = TextFlags { final_pdu: true, continues: false };
pub const OPEN: TextFlags = TextFlags { final_pdu: false, continues: false };
pub const CONTINUES: TextFlags = TextFlags { final_pdu: false, continues: true };

/// Keys with which data may come unasked, and with which a burst is the target's.
pub const UNSOLICITED: &[(&str, &str)] = &[
    ("MaxRecvDataSegmentLength", "8192"),
    ("InitialR2T", "No"),
    ("ImmediateData", "Yes"),
    ("MaxBurstLength", "262144"),
    ("FirstBurstLength", "65536"),
    ("MaxOutstandingR2T", "8"),
];

/// Keys with which all data is asked for.
pub const SOLICITED: &[(&str, &str)] =
    &[("MaxRecvDataSegmentLength", "1024"), ("InitialR2T", "Yes"), ("ImmediateData", "No")];

pub fn data_out_pdu(
    itt: Itt,
    ttt: Ttt,
    data_sn: u32,
    offset: u32,
    data_bytes: u32,
    last: bool,
) -> DataOut {
    DataOut {
        final_pdu: last,
        lun: 0,
        itt,
        ttt,
        exp_stat_sn: Sn(0),
        data_sn: Sn(data_sn),
        buffer_offset: offset,
        data_bytes,
    }
}

pub fn nop_out_pdu(immediate: bool, itt: Itt, ttt: Ttt, cmd_sn: Sn, data_bytes: u32) -> NopOut {
    NopOut { immediate, lun: 0, itt, ttt, cmd_sn, exp_stat_sn: Sn(0), data_bytes }
}

pub fn read(lba: u64, blocks: u32) -> Cdb {
    Cdb::Read { size: CdbSize::Sixteen, lba, blocks, flags: TransferFlags::default() }
}

pub fn write(lba: u64, blocks: u32) -> Cdb {
    Cdb::Write { size: CdbSize::Sixteen, lba, blocks, flags: TransferFlags::default() }
}

/// The LUN field of a logical unit.
pub fn lun_field(number: u16) -> u64 {
    u64::from_be_bytes(Lun::from_number(number).0)
}

/// The sense data of a SCSI Response.
pub fn sense(data: &[u8]) -> Sense {
    assert_eq!(usize::from(data[1]) + 2, data.len());
    Sense::parse(&data[2..]).unwrap()
}

/// Bytes that tell where they are from.
pub fn pattern(length: usize) -> Vec<u8> {
    (0..length).map(|index| (index / 512 + index * 7) as u8).collect()
}

/// A moment later than any patience of the target.
pub const LONG: Duration = Duration::from_secs(3600);
