//! [`ByHand`]: a login whose every step says what a test wants, and what a target makes of it.

use std::ops::{Deref, DerefMut};

use lunboot::proto::chap::{Algorithm, Challenge, Secret};
use lunboot::proto::target::{End, Event};
use lunboot::wire::pdu::{Itt, LoginRequest, LoginResponse, Response, Stage};
use lunboot::wire::serial::Sn;
use lunboot::wire::text;

use super::Settings;
use super::client::{Client, Disks, INITIATOR, ISID, NAME};

/// The bits of a login request that lead somewhere.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Flags {
    /// Stay in the stage.
    Stay,
    /// More text follows (C bit).
    Continues,
    /// Go on to the next stage (T bit).
    To(Stage),
}

/// One connection, to a target of its own.
pub struct ByHand {
    client: Client,
    /// The stage that the next request claims to be in.
    pub stage: Stage,
}

impl Deref for ByHand {
    type Target = Client;

    fn deref(&self) -> &Client {
        &self.client
    }
}

impl DerefMut for ByHand {
    fn deref_mut(&mut self) -> &mut Client {
        &mut self.client
    }
}

impl ByHand {
    pub fn new(settings: &Settings) -> ByHand {
        ByHand::with_challenge(settings, super::challenge(7))
    }

    pub fn with_challenge(settings: &Settings, challenge: Challenge) -> ByHand {
        let disks = Disks::with(|config| {
            config.offer = settings.target;
            config.secrets.clone_from(&settings.secrets);
        });
        ByHand::to(&disks, challenge)
    }

    pub fn to(disks: &Disks, challenge: Challenge) -> ByHand {
        let client = Client::challenging(disks, challenge);
        ByHand { client, stage: Stage::SecurityNegotiation }
    }

    /// Whether the target has let us in.
    pub fn is_logged_in(&self) -> bool {
        self.events.iter().any(|event| matches!(event, Event::Claim { .. }))
    }

    /// Why the target has ended the connection, if it has.
    pub fn end(&self) -> Option<&End> {
        self.events.iter().find_map(|event| match event {
            Event::Ended(end) => Some(end),
            _ => None,
        })
    }

    /// A login request with these fields.
    pub fn request(&self, flags: Flags, text: &[u8]) -> Vec<u8> {
        let next_stage = match flags {
            Flags::To(stage) => Some(stage),
            Flags::Stay | Flags::Continues => None,
        };
        let request = LoginRequest {
            transit: next_stage.is_some(),
            continues: flags == Flags::Continues,
            stage: self.stage,
            next_stage,
            version_max: 0,
            version_min: 0,
            isid: ISID,
            tsih: 0,
            itt: Itt(1),
            cid: 0,
            cmd_sn: Sn(1),
            exp_stat_sn: Sn(0),
            data_bytes: text.len() as u32,
        };
        let mut bytes = request.emit().to_vec();
        bytes.extend_from_slice(text);
        bytes.resize(bytes.len().next_multiple_of(4), 0);
        bytes
    }

    /// One step of a login: its one response, with its text.
    pub fn step(&mut self, flags: Flags, text: &[u8]) -> (LoginResponse, String) {
        let request = self.request(flags, text);
        self.send_bytes(&request);
        let (Response::Login(response), data) = self.receive() else { panic!("no login response") };
        assert!(self.inbox.is_empty(), "more than one response");
        assert_eq!(data.len() as u32, response.data_bytes);
        assert!(data.len() <= 8192, "a login response carries at most 8192 bytes");
        if let Some(stage) = response.next_stage {
            self.stage = stage;
        }
        (response, String::from_utf8(data).expect("text"))
    }

    /// The same for a step that must be refused: Status-Class and Status-Detail as one number. The
    /// connection is over after it.
    pub fn refused(&mut self, flags: Flags, text: &[u8]) -> u16 {
        let (response, text) = self.step(flags, text);
        let status = u16::from_be_bytes([response.status_class, response.status_detail]);
        assert_ne!(status, 0, "the login goes on with {text:?}");
        assert!(matches!(self.end(), Some(End::Refused(_))), "{:?}", self.end());
        assert!(text.is_empty() && !response.transit && !response.continues);
        assert!(self.target.recv_space().is_empty(), "nothing more is taken");
        status
    }

    /// The first step: names, and AuthMethod.
    pub fn introduce(&mut self, flags: Flags, methods: &str) -> (LoginResponse, String) {
        self.step(flags, &introduction(methods))
    }

    /// CHAP up to the challenge of the target.
    pub fn challenged(&mut self, algorithms: &str) -> Challenged {
        let (response, text) = self.introduce(Flags::Stay, "CHAP,None");
        assert_eq!(value(&text, "AuthMethod"), Some("CHAP"), "{response:?}");
        let text = self.step(Flags::Stay, format!("CHAP_A={algorithms}\0").as_bytes()).1;
        let found = |key| value(&text, key).unwrap_or_else(|| panic!("no {key} in {text}"));
        Challenged {
            algorithm: Algorithm::parse(found("CHAP_A")).expect("an algorithm"),
            identifier: found("CHAP_I").parse().expect("a number"),
            challenge: text::binary("CHAP_C", found("CHAP_C"), 1024).expect("bytes"),
        }
    }
}

/// What the target has asked.
pub struct Challenged {
    pub algorithm: Algorithm,
    pub identifier: u8,
    pub challenge: Vec<u8>,
}

impl Challenged {
    /// CHAP_R for a secret.
    pub fn response(&self, secret: &str) -> String {
        let secret = Secret::new(secret);
        hexadecimal(self.algorithm.response(self.identifier, &secret, &self.challenge).as_bytes())
    }
}

/// The text of the first request.
pub fn introduction(methods: &str) -> Vec<u8> {
    let names = format!("InitiatorName={INITIATOR}\0TargetName={NAME}\0SessionType=Normal\0");
    format!("{names}AuthMethod={methods}\0").into_bytes()
}

/// The value of a key in a text.
pub fn value<'a>(text: &'a str, key: &str) -> Option<&'a str> {
    let mut values = text.split('\0').filter_map(|pair| pair.split_once('='));
    values.find(|(found, _)| *found == key).map(|(_, value)| value)
}

pub fn hexadecimal(bytes: &[u8]) -> String {
    let digits: String = bytes.iter().map(|byte| format!("{byte:02x}")).collect();
    format!("0x{digits}")
}
