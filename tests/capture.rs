//! What we send, as others read it: sessions of our initiator with our target, and every PDU that a
//! target must answer, opened by tshark. It must see the PDUs that were sent, in their order, and
//! have nothing to say against any of them.

mod common;
mod kernel;

use std::cell::RefCell;
use std::fs;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::rc::Rc;
use std::sync::Arc;
use std::time::Instant;

use common::capture::{Capture, SEGMENT_BYTES_MAX};
use common::tap::{header_bytes, is_login, pdu_bytes};
use common::{Direction, Pair, Settings, pattern, server};
use lunboot::proto::Patience;
use lunboot::proto::discovery::Discovery;
use lunboot::proto::disk::{Op, Tag};
use lunboot::proto::login::LoginConfig;
use lunboot::proto::params::{DigestChoice, Offer};
use lunboot::proto::random::Random;
use lunboot::proto::target::{Event, Target, TargetConfig};
use lunboot::wire::frame::{Digests, Writer};
use lunboot::wire::pdu::{
    BHS_BYTES, Bhs, DataIn, Header, Isid, Itt, LoginRequest, LoginResponse, LogoutRequest, NopOut,
    ScsiCommand, Stage, TaskAttribute, TaskManagementRequest, TextRequest, TextResponse, Ttt,
};
use lunboot::wire::scsi::{Cdb, CdbSize, TransferFlags};
use lunboot::wire::serial::Sn;
use lunboot::wire::text::Text;

/// What was sent over a connection.
#[derive(Clone)]
struct Recording {
    /// What holds for PDUs after the login.
    digests: Digests,
    /// In the order in which they were sent.
    pdus: Vec<(Direction, Vec<u8>)>,
}

impl Recording {
    fn new(digests: Digests) -> Recording {
        Recording { digests, pdus: Vec::new() }
    }

    fn opcodes(&self) -> Vec<u8> {
        self.pdus.iter().map(|(_, pdu)| pdu[0] & 0x3f).collect()
    }

    /// The text of logins and text exchanges.
    fn pairs(&self) -> Vec<String> {
        let mut pairs = Vec::new();
        for (_, pdu) in self.pdus.iter().filter(|(_, pdu)| TEXT_OPCODES.contains(&(pdu[0] & 0x3f)))
        {
            let header = Header::parse(pdu.first_chunk().expect("a whole PDU"));
            let digests = if is_login(pdu) { Digests::default() } else { self.digests };
            let text = &pdu[header_bytes(&header, digests)..][..header.data_bytes as usize];
            let text = String::from_utf8(text.to_vec()).expect("ASCII");
            pairs.extend(text.split_terminator('\0').map(str::to_owned));
        }
        pairs
    }

    /// How many digests tshark has to find. It looks at that of a Reject's data, which is a header,
    /// only where headers have digests.
    fn digests(&self) -> usize {
        let Digests { header, data } = self.digests;
        let of = |pdu: &[u8]| {
            let Header { opcode, data_bytes, .. } =
                Header::parse(pdu.first_chunk().expect("a whole PDU"));
            let data = data && data_bytes > 0 && (header || opcode != REJECT);
            if is_login(pdu) { 0 } else { usize::from(header) + usize::from(data) }
        };
        self.pdus.iter().map(|(_, pdu)| of(pdu)).sum()
    }
}

const REJECT: u8 = 0x3f;

const TEXT_OPCODES: [u8; 4] =
    [LoginRequest::OPCODE, LoginResponse::OPCODE, TextRequest::OPCODE, TextResponse::OPCODE];

const INITIATOR: &str = "iqn.2026-11.example:client";

const DIGESTS: [Digests; 4] = [
    Digests { header: false, data: false },
    Digests { header: true, data: false },
    Digests { header: false, data: true },
    Digests { header: true, data: true },
];

fn offer(digests: Digests) -> Offer {
    let choice = |wanted| if wanted { DigestChoice::Always } else { DigestChoice::Never };
    Offer {
        header_digest: choice(digests.header),
        data_digest: choice(digests.data),
        max_recv_bytes: 8192,
        first_burst_bytes: 20_000,
        max_burst_bytes: 40_000,
        max_outstanding_r2t: 2,
        ..Offer::default()
    }
}

fn settings(digests: Digests) -> Settings {
    Settings { initiator: offer(digests), target: offer(digests), ..Settings::default() }
}

// What is recorded.

/// Our initiator at our target: login, data of every way and size, silence, logout.
fn session(digests: Digests, settings: Settings) -> Recording {
    let recording = Rc::new(RefCell::new(Recording::new(digests)));
    let copy = recording.clone();
    let mut pair = Pair::new(settings);
    pair.taps.tamper = Some(Box::new(move |direction, pdu, _, _| {
        copy.borrow_mut().pdus.push((direction, pdu.clone()));
        pdu
    }));
    pair.run_until("login", |pair| pair.session.is_logged_in());
    for sectors in [1, 16, 33, 200] {
        let data = pattern(sectors, 8, sectors);
        pair.write(8, &data);
        assert!(pair.read(8, data.len()) == data);
    }
    for tag in 0..8 {
        let op = if tag % 2 == 0 { Op::Read } else { Op::Write { fua: true } };
        pair.submit(Tag(tag), op, 300 + u64::from(tag) * 50, &pattern(9, 0, 50));
    }
    (0..8).for_each(|tag| drop(pair.wait_for(Tag(tag))));
    pair.flush();
    let zeroes = Op::WriteZeroes { no_unmap: true, fua: false };
    for (op, start) in [(Op::Discard, 64), (zeroes, 128)] {
        pair.submit_length(Tag(0), op, start, 64, vec![0; 64 * 512]);
        assert_eq!(pair.wait_for(Tag(0)).result, Ok(()));
    }
    let before = recording.borrow().pdus.len();
    pair.run_until("a ping", |_| recording.borrow().pdus.len() >= before + 2);
    pair.log_out();
    recording.replace(Recording::new(digests))
}

/// Which targets are there.
fn discovery(digests: Digests) -> Recording {
    let config = LoginConfig {
        initiator: INITIATOR.into(),
        target: None,
        isid: Isid([0x80, 9, 9, 9, 9, 9]),
        offer: offer(digests),
        chap: None,
    };
    let now = Instant::now();
    let mut discovery = Discovery::new(config, Patience::default());
    discovery.handle_connected(common::challenge(0), now);
    let mut line = Line::new(digests);
    loop {
        let mut slices: [&[u8]; 8] = [&[]; 8];
        let count = discovery.poll_transmit(&mut slices);
        let bytes = slices[..count].concat();
        discovery.sent(bytes.len(), now);
        let answer = line.carry(&bytes);
        assert!(!answer.is_empty(), "silence");
        let mut rest = answer.as_slice();
        while !rest.is_empty() {
            let space = discovery.recv_space();
            let count = space.len().min(rest.len());
            space[..count].copy_from_slice(&rest[..count]);
            discovery.received(count, now).expect("a good answer");
            rest = &rest[count..];
        }
        if let Some(targets) = discovery.poll_targets() {
            assert_eq!(targets[0].name, server::NAME);
            return line.recording;
        }
    }
}

/// What our initiator does not send, or not always, and what answers it.
fn by_hand(digests: Digests) -> Recording {
    let mut client = Client::logged_in(digests);
    let none: &[u8] = &[];
    client.command(&Cdb::TestUnitReady, 0, none);
    for page in [0x00, 0x80, 0x83, 0xb0, 0xb1, 0xb2, 0xc0] {
        client.command(&Cdb::Inquiry { evpd: true, page, allocation: 252 }, 252, none);
    }
    // An allocation length that cuts the data, which is right, would be remarked on.
    client.command(&Cdb::Inquiry { evpd: false, page: 0, allocation: 252 }, 252, none);
    for (size, page) in
        [(CdbSize::Six, 0x3f), (CdbSize::Ten, 0x3f), (CdbSize::Ten, 0x08), (CdbSize::Six, 0x0a)]
    {
        let cdb = Cdb::ModeSense {
            size,
            no_block_descriptors: page == 0x08,
            long_lba: size == CdbSize::Ten,
            page_control: 0,
            page,
            subpage: 0,
            allocation: 192,
        };
        client.command(&cdb, 192, none);
    }
    client.command(&Cdb::RequestSense { descriptor: false, allocation: 18 }, 18, none);
    client.command(&Cdb::ReadCapacity10, 8, none);
    client.command(&Cdb::ReadCapacity16 { allocation: 32 }, 32, none);
    client.command(&Cdb::ReportLuns { select: 0, allocation: 64 }, 64, none);
    for size in [CdbSize::Six, CdbSize::Ten, CdbSize::Twelve, CdbSize::Sixteen] {
        let (lba, blocks, flags) = (5, 2, TransferFlags::default());
        client.command(&Cdb::Write { size, lba, blocks, flags }, 1024, &[size as u8; 1024]);
        client.command(&Cdb::Read { size, lba, blocks, flags }, 1024, none);
        // More than it gets, and less.
        client.command(&Cdb::Read { size, lba, blocks, flags }, 4096, none);
        client.command(&Cdb::Read { size, lba, blocks, flags }, 512, none);
    }
    let beyond = Cdb::Read {
        size: CdbSize::Sixteen,
        lba: 1 << 40,
        blocks: 1,
        flags: TransferFlags::default(),
    };
    client.command(&beyond, 512, none);
    client.command(&Cdb::Other { opcode: 0xa4, service_action: 0x0b }, 0, none);
    // All but the cold reset, which ends the session.
    for function in (1..=6).chain([8]) {
        client.manage(function);
    }
    // A reset is told as a unit attention.
    client.command(&Cdb::TestUnitReady, 0, none);
    let mut text = Text::new();
    text.push("SendTargets", "All");
    client.text(&text);
    let mut text = Text::new();
    text.push("X-com.example.unknown", "1");
    client.text(&text);
    client.ping(b"sixteen letters.");
    client.ping(b"odd");
    client.snack();
    client.log_out();
    client.line.recording
}

/// A connection to the target, and what goes over it.
struct Line {
    target: Target,
    now: Instant,
    recording: Recording,
}

impl Line {
    fn new(digests: Digests) -> Line {
        let config: Arc<TargetConfig> = Pair::new(settings(digests)).server.config.clone();
        let now = Instant::now();
        let portal = "192.0.2.10:3260".parse().expect("an address");
        let recording = Recording::new(digests);
        Line { target: Target::new(config, portal, common::challenge(1), now), now, recording }
    }

    /// Brings one PDU to the target; returns everything that it sends then.
    fn carry(&mut self, pdu: &[u8]) -> Vec<u8> {
        self.recording.pdus.push((Direction::Up, pdu.to_vec()));
        let mut rest = pdu;
        let mut answer = Vec::new();
        while !rest.is_empty() {
            let space = self.target.recv_space();
            let count = space.len().min(rest.len());
            assert_ne!(count, 0, "the target takes no more");
            space[..count].copy_from_slice(&rest[..count]);
            self.target.received(count, self.now);
            rest = &rest[count..];
            self.drain(&mut answer);
        }
        answer
    }

    fn drain(&mut self, answer: &mut Vec<u8>) {
        loop {
            while let Some(event) = self.target.poll_event() {
                match event {
                    Event::Claim { .. } => self.target.admit(7, self.now),
                    Event::Command { tag, .. } => self.target.execute(tag),
                    Event::Reset { .. } => self.target.reset_done(),
                    Event::Sanitize { .. } | Event::Ended(_) => {}
                }
            }
            let mut slices: [&[u8]; 64] = [&[]; 64];
            let count = self.target.poll_transmit(&mut slices);
            let bytes = slices[..count].concat();
            if bytes.is_empty() {
                return;
            }
            self.target.sent(bytes.len());
            answer.extend_from_slice(&bytes);
            let mut rest = bytes.as_slice();
            while !rest.is_empty() {
                let length = pdu_bytes(rest, self.recording.digests).expect("whole PDUs");
                self.recording.pdus.push((Direction::Down, rest[..length].to_vec()));
                rest = &rest[length..];
            }
        }
    }
}

/// An initiator that sends one thing after the other.
struct Client {
    line: Line,
    writer: Writer<()>,
    cmd_sn: Sn,
    exp_stat_sn: Sn,
    itt: u32,
}

impl Client {
    fn logged_in(digests: Digests) -> Client {
        let mut client = Client {
            line: Line::new(digests),
            writer: Writer::new(64 * 1024, 64),
            cmd_sn: Sn(1),
            exp_stat_sn: Sn(0),
            itt: 0,
        };
        let mut text = Text::new();
        text.push("InitiatorName", INITIATOR);
        text.push("SessionType", "Normal");
        text.push("TargetName", server::NAME);
        text.push("AuthMethod", "None");
        client.log_in(Stage::SecurityNegotiation, None, true, &text);
        let mut text = Text::new();
        text.push("InitiatorAlias", "by hand");
        let next = Stage::LoginOperationalNegotiation;
        client.log_in(Stage::SecurityNegotiation, Some(next), false, &text);
        let mut text = Text::new();
        let list = |wanted| if wanted { "CRC32C" } else { "None,CRC32C" };
        text.push("HeaderDigest", list(digests.header));
        text.push("DataDigest", list(digests.data));
        text.push("OFMarker", "No");
        text.push("X-com.example.unknown", "1");
        client.log_in(next, Some(Stage::FullFeaturePhase), false, &text);
        client.writer.agree(digests);
        client
    }

    fn log_in(&mut self, stage: Stage, next_stage: Option<Stage>, continues: bool, text: &Text) {
        let request = LoginRequest {
            transit: next_stage.is_some(),
            continues,
            stage,
            next_stage,
            version_max: 0,
            version_min: 0,
            isid: Isid([0x80, 8, 8, 8, 8, 8]),
            tsih: 0,
            itt: Itt(0),
            cid: 0,
            cmd_sn: self.cmd_sn,
            exp_stat_sn: self.exp_stat_sn,
            data_bytes: text.as_bytes().len() as u32,
        };
        self.send(&request.emit(), text.as_bytes());
    }

    /// Sends a PDU, which is answered.
    fn send(&mut self, bhs: &Bhs, data: &[u8]) {
        self.writer.push(bhs, data);
        let mut slices: [&[u8]; 4] = [&[]; 4];
        let count = self.writer.gather(&mut slices, |()| &[]);
        let bytes = slices[..count].concat();
        self.writer.sent(bytes.len(), |()| ());
        let answer = self.line.carry(&bytes);
        assert!(!answer.is_empty(), "no answer to {bhs:02x?}");
        let (_, last) = self.line.recording.pdus.last().expect("just recorded");
        let bhs: &[u8; BHS_BYTES] = last.first_chunk().expect("a whole PDU");
        let stat_sn = u32::from_be_bytes(bhs[24..28].try_into().expect("four bytes"));
        self.exp_stat_sn = Sn(stat_sn).next();
    }

    fn next_itt(&mut self) -> Itt {
        self.itt += 1;
        Itt(self.itt)
    }

    fn command(&mut self, cdb: &Cdb, expected_data_bytes: u32, data: &[u8]) {
        let write = !data.is_empty();
        let bhs = ScsiCommand {
            immediate: false,
            final_pdu: true,
            read: !write && expected_data_bytes > 0,
            write,
            attribute: TaskAttribute::Simple,
            lun: 0,
            itt: self.next_itt(),
            expected_data_bytes,
            cmd_sn: self.cmd_sn,
            exp_stat_sn: self.exp_stat_sn,
            cdb: cdb.emit(),
            data_bytes: data.len() as u32,
        }
        .emit();
        self.cmd_sn = self.cmd_sn.next();
        self.send(&bhs, data);
    }

    fn manage(&mut self, function: u8) {
        let request = TaskManagementRequest {
            immediate: true,
            function,
            lun: 0,
            itt: self.next_itt(),
            referenced_itt: if function == 1 { Itt(1) } else { Itt::RESERVED },
            cmd_sn: self.cmd_sn,
            exp_stat_sn: self.exp_stat_sn,
            ref_cmd_sn: Sn(1),
        };
        self.send(&request.emit(), &[]);
    }

    fn text(&mut self, text: &Text) {
        let request = TextRequest {
            immediate: false,
            final_pdu: true,
            continues: false,
            lun: 0,
            itt: self.next_itt(),
            ttt: Ttt::RESERVED,
            cmd_sn: self.cmd_sn,
            exp_stat_sn: self.exp_stat_sn,
            data_bytes: text.as_bytes().len() as u32,
        };
        self.cmd_sn = self.cmd_sn.next();
        self.send(&request.emit(), text.as_bytes());
    }

    fn ping(&mut self, data: &[u8]) {
        let request = NopOut {
            immediate: true,
            lun: 0,
            itt: self.next_itt(),
            ttt: Ttt::RESERVED,
            cmd_sn: self.cmd_sn,
            exp_stat_sn: self.exp_stat_sn,
            data_bytes: data.len() as u32,
        };
        self.send(&request.emit(), data);
    }

    /// What no target has to know at ErrorRecoveryLevel 0 is rejected (RFC 7143 §11.17).
    fn snack(&mut self) {
        let mut bhs = [0; BHS_BYTES];
        (bhs[0], bhs[1]) = (0x10, 0x81);
        bhs[16..24].copy_from_slice(&[0xff; 8]);
        bhs[28..32].copy_from_slice(&self.exp_stat_sn.0.to_be_bytes());
        self.send(&bhs, &[]);
    }

    fn log_out(&mut self) {
        let request = LogoutRequest {
            immediate: true,
            reason: 0,
            itt: self.next_itt(),
            cid: 0,
            cmd_sn: self.cmd_sn,
            exp_stat_sn: self.exp_stat_sn,
        };
        self.send(&request.emit(), &[]);
    }
}

// What tshark makes of it.

/// All recordings in one file, a connection each, in packets as `segment` says.
fn write_capture(
    name: &str,
    recordings: &[Recording],
    mut segment: impl FnMut() -> usize,
) -> PathBuf {
    let mut capture = Capture::new();
    for recording in recordings {
        capture.connection(&recording.pdus, &mut segment);
    }
    let path = Path::new(env!("CARGO_TARGET_TMPDIR")).join(name);
    fs::write(&path, capture.into_bytes()).expect("cargo's folder for tests is writable");
    path
}

/// The same connection with PDUs that follow each other joined, as long as they fit in a packet.
fn joined(recording: &Recording) -> Recording {
    let mut joined = Recording::new(recording.digests);
    for (direction, pdu) in &recording.pdus {
        match joined.pdus.last_mut() {
            Some((last, bytes))
                if last == direction && bytes.len() + pdu.len() <= SEGMENT_BYTES_MAX =>
            {
                bytes.extend_from_slice(pdu);
            }
            _ => joined.pdus.push((*direction, pdu.clone())),
        }
    }
    joined
}

/// Runs it on a file; the lines that it prints.
fn tshark(path: &Path, words: &[&str]) -> Vec<String> {
    let mut command = Command::new("tshark");
    command.arg("-r").arg(path).args(["-n", "-d", "tcp.port==3260,iscsi"]);
    command.args(["-o", "tcp.check_checksum:TRUE", "-o", "ip.check_checksum:TRUE"]);
    let output = command.args(words).stdin(Stdio::null()).output().expect("tshark starts");
    let errors = String::from_utf8_lossy(&output.stderr);
    assert!(output.status.success(), "tshark: {}: {errors}", output.status);
    String::from_utf8_lossy(&output.stdout).lines().map(str::to_owned).collect()
}

/// What it has against the packets: warnings, errors, and what it cannot read at all. Its lesser
/// remarks are that a connection begins and ends, and which SCSI status is no GOOD.
fn complaints(path: &Path) -> Vec<String> {
    const WARNING: &str = "0x600000";
    let filter = format!("_ws.malformed || _ws.short || _ws.expert.severity >= {WARNING}");
    let fields = ["-e", "frame.number", "-e", "_ws.expert.message", "-e", "_ws.col.Info"];
    tshark(path, &[&["-Y", &filter, "-T", "fields"], &fields[..]].concat())
}

/// What it reads in a field that a PDU may have more than once: by connection, in the order of the
/// file.
fn values(path: &Path, field: &str, connections: usize) -> Vec<Vec<String>> {
    const SEPARATOR: &str = "|";
    let mut values = vec![Vec::new(); connections];
    let aggregator = format!("aggregator={SEPARATOR}");
    let words = ["-Y", field, "-T", "fields", "-E", &aggregator, "-e", "tcp.stream", "-e", field];
    for line in tshark(path, &words) {
        let (stream, list) = line.split_once('\t').expect("two fields");
        let stream: usize = stream.parse().expect("a number");
        values[stream].extend(list.split(SEPARATOR).map(str::to_owned));
    }
    values
}

/// The opcodes of each connection.
fn opcodes(path: &Path, connections: usize) -> Vec<Vec<u8>> {
    let number = |text: String| {
        let digits = text.trim_start_matches("0x");
        u8::from_str_radix(digits, 16).expect("a hexadecimal number")
    };
    let own = |values: Vec<String>| {
        let mut values = values.into_iter().map(number);
        let mut own = Vec::new();
        while let Some(opcode) = values.next() {
            own.push(opcode);
            if opcode == REJECT {
                values.next().expect("the header of what was rejected");
            }
        }
        own
    };
    values(path, "iscsi.opcode", connections).into_iter().map(own).collect()
}

/// How many digests it finds right, and how many wrong.
fn digests(path: &Path) -> (usize, usize) {
    let lines = tshark(path, &["-V", "-O", "iscsi"]);
    let count = |verdict: &str| lines.iter().filter(|line| line.contains(verdict)).count();
    (count("(Good CRC32)"), count("(Bad CRC32"))
}

#[test]
fn tshark_reads_what_we_send() {
    if !kernel::have("tshark_reads_what_we_send", &["tshark"]) {
        return;
    }
    let mut recordings = Vec::new();
    for digests in DIGESTS {
        recordings.push(session(digests, settings(digests)));
        recordings.push(discovery(digests));
        recordings.push(by_hand(digests));
    }
    // An initiator that is patient, so that it is the target that asks.
    let mut asked = settings(DIGESTS[0]);
    asked.patience.idle = 10 * asked.ping_interval;
    recordings.push(session(DIGESTS[0], asked));
    // An initiator that may send nothing before it is asked.
    let mut asked = settings(DIGESTS[3]);
    (asked.initiator.initial_r2t, asked.initiator.immediate_data) = (true, false);
    recordings.push(session(DIGESTS[3], asked));

    let mut kinds: Vec<u8> = recordings.iter().flat_map(Recording::opcodes).collect();
    kinds.sort_unstable();
    kinds.dedup();
    let all = [
        0x00, 0x01, 0x02, 0x03, 0x04, 0x05, 0x06, 0x10, 0x20, 0x21, 0x22, 0x23, 0x24, 0x25, 0x26,
        0x31, 0x3f,
    ];
    assert_eq!(kinds, all, "not every kind of PDU is here");

    let joined: Vec<Recording> = recordings.iter().map(joined).collect();
    let path = write_capture("joined.pcap", &joined, || SEGMENT_BYTES_MAX);
    check(&path, &recordings);
    let count = recordings.iter().map(Recording::digests).sum();
    assert_eq!(digests(&path), (count, 0), "{}", path.display());
    // tshark loses its place where a packet ends within a header that another PDU precedes: here
    // each packet has a part of one PDU. Some digests are too far from their header for it then.
    let mut random = Random::new(7);
    let path = write_capture("crumbs.pcap", &recordings, || 1 + random.below(400) as usize);
    check(&path, &recordings);
    assert_eq!(digests(&path).1, 0, "{}", path.display());
}

/// It reads what was sent, and complains of nothing.
fn check(path: &Path, recordings: &[Recording]) {
    let complaints = complaints(path);
    assert!(complaints.is_empty(), "{}:\n{}", path.display(), complaints.join("\n"));
    let opcodes = opcodes(path, recordings.len());
    let pairs = values(path, "iscsi.keyvalue", recordings.len());
    for (stream, recording) in recordings.iter().enumerate() {
        let place = format!("connection {stream} in {}", path.display());
        assert_eq!(opcodes[stream], recording.opcodes(), "{place}");
        assert_eq!(pairs[stream], recording.pairs(), "{place}");
    }
}

/// The same eyes on sessions with one wrong byte, or without a PDU.
#[test]
fn tshark_sees_what_is_wrong() {
    if !kernel::have("tshark_sees_what_is_wrong", &["tshark"]) {
        return;
    }
    let good = discovery(DIGESTS[3]);
    let at = good.opcodes().iter().position(|opcode| *opcode == TextResponse::OPCODE);
    let at = at.expect("an answer to SendTargets");
    let wrong = |name: &str, byte: usize, value: u8| {
        let mut bad = good.clone();
        bad.pdus[at].1[byte] = value;
        write_capture(&format!("wrong-{name}.pcap"), &[bad], || SEGMENT_BYTES_MAX)
    };
    for (name, byte) in [("opcode", 0), ("length", 7)] {
        assert_ne!(opcodes(&wrong(name, byte, 0x6b), 1)[0], good.opcodes(), "wrong {name}");
    }
    for (name, byte) in [("header", 17), ("data", BHS_BYTES + 8)] {
        assert_ne!(digests(&wrong(name, byte, 0x55)).1, 0, "wrong {name}");
    }
    let equals = BHS_BYTES + 4 + "TargetName".len();
    let path = wrong("text", equals, b'-');
    assert_ne!(values(&path, "iscsi.keyvalue", 1)[0], good.pairs(), "wrong text");

    let mut bad = by_hand(DIGESTS[0]);
    let data = bad.opcodes().iter().position(|opcode| *opcode == DataIn::OPCODE);
    bad.pdus.remove(data.expect("something was read") - 1);
    let path = write_capture("without.pcap", &[bad], || SEGMENT_BYTES_MAX);
    assert_ne!(complaints(&path), [""; 0], "an answer to nothing");
}
