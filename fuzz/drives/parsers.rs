//! Texts and messages that are read in one go.

use std::time::{Duration, Instant};

use lunboot::boot::cmdline::BootConfig;
use lunboot::boot::ip_argument::{IpArgument, Mac};
use lunboot::proto::dhcp::{Config, DhcpClient};
use lunboot::wire::dhcp::Message;
use lunboot::wire::ibft::Ibft;
use lunboot::wire::root_path::{Dialect, RootPath, without_credentials};

use super::input::Input;

/// A root path in every dialect; what is understood can be written and read again.
pub fn root_path(bytes: &[u8]) {
    for dialect in [Dialect::Rfc4173, Dialect::Netroot] {
        if let Ok(path) = RootPath::parse_bytes(bytes, dialect) {
            // What else the LUN could have meant depends on the dialect.
            let meaning = |path: RootPath| RootPath { other_lun: None, ..path };
            let again = RootPath::parse(&path.to_string(), Dialect::Rfc4173).map(meaning);
            assert_eq!(again, Ok(meaning(path)));
        }
    }
    if let Ok(text) = str::from_utf8(bytes) {
        let _ = without_credentials(text);
    }
}

/// A kernel command line, and the words in it that have a grammar of their own.
pub fn command_line(bytes: &[u8]) {
    let text = String::from_utf8_lossy(bytes);
    let _ = BootConfig::parse(&text);
    for word in text.split(' ') {
        let _ = IpArgument::parse(word);
        let _ = (Mac::parse(word), Mac::parse_bootif(word));
    }
}

/// A firmware table, with and without a checksum and a length that are right.
pub fn ibft(bytes: &[u8]) {
    let _ = Ibft::parse(bytes);
    let mut table = bytes.to_vec();
    if table.len() < 48 {
        return;
    }
    let length = (table.len() as u32).to_le_bytes();
    table[..4].copy_from_slice(b"iBFT");
    table[4..8].copy_from_slice(&length);
    table[9] = 0;
    let sum = table.iter().fold(0_u8, |sum, byte| sum.wrapping_add(*byte));
    table[9] = sum.wrapping_neg();
    if let Ok(ibft) = Ibft::parse(&table) {
        assert!(ibft.nics.len() + ibft.targets.len() <= 32);
    }
}

/// A DHCP client that gets messages and time, in any order.
pub fn dhcp(bytes: &[u8]) {
    const XID: std::ops::Range<usize> = 4..8;
    const MAC: [u8; 6] = [0x52, 0x54, 0, 1, 2, 3];
    let _ = Message::parse(bytes);
    let mut input = Input::new(bytes);
    let mut now = Instant::now();
    let config = Config {
        mac: MAC,
        host_name: b"client".to_vec(),
        vendor_class: Vec::new(),
        root_path_wanted: true,
    };
    let mut client = DhcpClient::new(config, 7);
    client.handle_connected(now);
    let mut xid = [0; 4];
    while !input.is_empty() {
        while let Some(transmit) = client.poll_transmit() {
            xid.copy_from_slice(&transmit.payload[XID]);
        }
        while client.poll_event().is_some() {}
        match input.byte() % 8 {
            0 => {
                now += Duration::from_secs(u64::from(input.byte()));
                client.handle_timeout(now);
            }
            1 => client.handle_disconnected(),
            2 => client.handle_connected(now),
            3 => client.decline(now),
            4 => client.repeat(now),
            _ => {
                let mut message = vec![0; 240];
                message[..4].copy_from_slice(&[2, 1, 6, 0]);
                message[XID].copy_from_slice(&xid);
                message[16..24].copy_from_slice(&input.array::<8>());
                message[28..34].copy_from_slice(&MAC);
                message[236..].copy_from_slice(&[0x63, 0x82, 0x53, 0x63]);
                message.extend(input.segment());
                let _ = client.handle_message(&message, now);
            }
        }
    }
}
