//! Logins, as sequences of steps that one side makes up.

use lunboot::proto::chap::Secrets;
use lunboot::proto::login::{Algorithms, Login, LoginConfig, Step};
use lunboot::proto::params::{DigestChoice, Negotiation, Offer};
use lunboot::wire::pdu::{Isid, LoginRequest, LoginResponse, Stage, StatusSns};
use lunboot::wire::serial::Sn;
use lunboot::wire::text::{self, Text};

use super::common::server::NAME;
use super::common::{Pair, Settings, challenge, portal};
use super::input::Input;
use super::pdu_stream::send_to_target;

/// The keys of a login, in any order and with any value, taken by either side.
pub fn text_keys(bytes: &[u8]) {
    let mut input = Input::new(bytes);
    let choices = [
        DigestChoice::Never,
        DigestChoice::IfAsked,
        DigestChoice::IfPossible,
        DigestChoice::Always,
    ];
    let mut choice = || choices[usize::from(input.byte() % 4)];
    let offer = Offer { header_digest: choice(), data_digest: choice(), ..Offer::default() };
    let rest = input.bytes(bytes.len());
    let (mut ours, mut theirs) = (Negotiation::new(offer), Negotiation::new(offer));
    let (mut proposal, mut reply) = (Text::new(), Text::new());
    ours.propose(false, &mut proposal);
    for pair in text::pairs(rest) {
        let Ok((key, value)) = pair else { break };
        let _ = ours.handle_answer(key, value, &mut reply);
        let _ = theirs.handle_proposal(key, value, &mut reply);
    }
    for agreed in [ours.outcome(), theirs.outcome()] {
        assert!((512..1 << 24).contains(&agreed.max_send_bytes));
        assert!((512..1 << 24).contains(&agreed.max_burst_bytes));
        assert!((512..=agreed.max_burst_bytes).contains(&agreed.first_burst_bytes));
        assert!((1..=65535).contains(&agreed.max_outstanding_r2t));
    }
}

/// Bytes to text pairs: one in three keys is chosen from those that a login knows.
fn keys(input: &mut Input<'_>) -> Vec<u8> {
    const KNOWN: [&str; 16] = [
        "InitiatorName",
        "TargetName",
        "SessionType",
        "AuthMethod",
        "CHAP_A",
        "CHAP_I",
        "CHAP_C",
        "CHAP_N",
        "CHAP_R",
        "HeaderDigest",
        "DataDigest",
        "MaxRecvDataSegmentLength",
        "FirstBurstLength",
        "InitialR2T",
        "MaxConnections",
        "TargetAddress",
    ];
    const VALUES: [&str; 8] = ["None", "CHAP", "CHAP,None", "5", "0x00", "Yes", "Discovery", NAME];
    let mut text = Vec::new();
    for _ in 0..input.byte() % 8 {
        let key = input.byte();
        match KNOWN.get(usize::from(key)) {
            Some(known) => text.extend(known.as_bytes()),
            None => text.extend(input.segment()),
        }
        text.push(b'=');
        let value = input.byte();
        match VALUES.get(usize::from(value)) {
            Some(known) => text.extend(known.as_bytes()),
            None => text.extend(input.segment()),
        }
        text.push(0);
    }
    text
}

fn stage(code: u8) -> Stage {
    Stage::from_code(code).unwrap_or(Stage::SecurityNegotiation)
}

/// Login requests of a made-up initiator to our target, or login responses of a made-up target to
/// our initiator.
pub fn login(bytes: &[u8]) {
    let mut input = Input::new(bytes);
    let control = input.byte();
    let secrets = match control >> 6 {
        0 => None,
        1 => Some("initiator node7 correct-horse-7\n"),
        _ => Some("initiator node7 correct-horse-7\ntarget root battery-staple-9\n"),
    };
    let secrets = secrets.map(|lines| Secrets::parse(lines).expect("they are good lines"));
    if control & 1 == 0 { requests(&mut input, secrets) } else { responses(&mut input, secrets) }
}

fn requests(input: &mut Input<'_>, secrets: Option<Secrets>) {
    let mut pair = Pair::new(Settings { secrets, ..Settings::default() });
    pair.server.accept(0, &portal(10), pair.now);
    let isid = Isid([0x80, 1, 2, 3, 4, 5]);
    while !input.is_empty() && pair.server.is_connected(0) {
        let control = input.byte();
        let text = keys(input);
        let transit = control & 1 != 0;
        let request = LoginRequest {
            transit,
            continues: control & 2 != 0,
            stage: stage(control >> 2),
            next_stage: transit.then(|| stage(control >> 4)),
            version_max: control >> 7,
            version_min: 0,
            isid: if control & 0x40 != 0 { Isid(input.array()) } else { isid },
            tsih: 0,
            itt: lunboot::wire::pdu::Itt(1),
            cid: 0,
            cmd_sn: Sn(1),
            exp_stat_sn: Sn(0),
            data_bytes: text.len() as u32,
        };
        send_to_target(&mut pair, 0, &request.emit(), &text);
    }
}

fn responses(input: &mut Input<'_>, secrets: Option<Secrets>) {
    let config = LoginConfig {
        initiator: "iqn.2026-11.example:client".into(),
        target: (input.byte() & 3 != 0).then(|| NAME.into()),
        isid: Isid([0x80, 1, 2, 3, 4, 5]),
        offer: Offer::default(),
        chap: secrets.map(|secrets| secrets.into_chap().expect("there is one initiator")),
    };
    let (mut login, mut request, _) = Login::start(&config, challenge(0), Algorithms::All, Sn(1));
    for stat_sn in 0.. {
        if input.is_empty() {
            return;
        }
        let control = input.byte();
        let text = keys(input);
        let follow = control & 1 != 0;
        let response = LoginResponse {
            transit: if follow { request.transit } else { control & 2 != 0 },
            continues: control & 4 != 0,
            stage: if follow { request.stage } else { stage(control >> 3) },
            next_stage: if follow { request.next_stage } else { Some(stage(control >> 5)) },
            version_max: 0,
            version_active: 0,
            isid: request.isid,
            tsih: u16::from(control >> 7),
            itt: request.itt,
            sns: StatusSns { stat_sn: Sn(stat_sn), exp_cmd_sn: Sn(1), max_cmd_sn: Sn(9) },
            status_class: if control == 0xff { input.byte() } else { 0 },
            status_detail: if control == 0xff { input.byte() } else { 0 },
            data_bytes: text.len() as u32,
        };
        match login.handle(&response, &text) {
            Ok(Step::Request(next, next_request, _)) => (login, request) = (next, next_request),
            Ok(Step::Done(_)) => return,
            Err(error) => {
                let _ = error.to_string();
                return;
            }
        }
    }
}
