//! The iSCSI Boot Firmware Table: what firmware has booted from, left in memory for the operating
//! system ("iSCSI Boot Firmware Table (iBFT) as Defined in ACPI 3.0b Specification", 1.02).
//!
//! The table is little-endian and points into itself. Everything that is read borrows from it,
//! secrets too, so that no copy of them is left behind. A structure that is not valid counts as
//! absent; one that breaks the rules is an error, because half a boot configuration boots the wrong
//! machine.

use std::fmt;
use std::net::{IpAddr, Ipv6Addr};

use super::Malformed;

/// The whole table.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Ibft<'a> {
    /// The initiator, if firmware has named it.
    pub initiator: Option<Initiator<'a>>,
    /// Network interfaces, in the order of the table; most tables have one.
    pub nics: Vec<Nic<'a>>,
    /// Targets, in the order of the table.
    pub targets: Vec<Target<'a>>,
}

/// The machine that booted (§3.5).
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Initiator<'a> {
    /// Firmware booted with it.
    pub boot_selected: bool,
    /// InitiatorName; empty if firmware has none.
    pub name: &'a str,
}

/// A network interface (§3.6).
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Nic<'a> {
    /// STRUCTURE INDEX: what [`Target::nic`] refers to.
    pub index: u8,
    /// Firmware booted with it.
    pub boot_selected: bool,
    /// Its address, if it has one.
    pub address: Option<IpAddr>,
    /// Length of the network's prefix, in bits.
    pub prefix_bits: u8,
    /// Where the address came from: 1 typed in, 3 DHCP, 4 router advertisement (NL_PREFIX_ORIGIN).
    pub origin: u8,
    /// Default gateway.
    pub gateway: Option<IpAddr>,
    /// Primary and secondary name server.
    pub name_servers: [Option<IpAddr>; 2],
    /// The DHCP server that was asked.
    pub dhcp_server: Option<IpAddr>,
    /// VLAN identifier; 0 is none.
    pub vlan: u16,
    /// Ethernet address.
    pub mac: [u8; 6],
    /// PCI bus, device and function, as PCI writes them into 16 bits.
    pub pci_address: u16,
    /// Host name; empty if firmware has none.
    pub host_name: &'a str,
}

/// A target (§3.7).
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Target<'a> {
    /// Firmware booted from it.
    pub boot_selected: bool,
    /// Where it is, unless firmware left that out.
    pub address: Option<IpAddr>,
    /// TCP port.
    pub port: u16,
    /// The eight bytes of the LUN.
    pub lun: [u8; 8],
    /// [`Nic::index`] of the interface that leads to it.
    pub nic: u8,
    /// TargetName.
    pub name: &'a str,
    /// How the login proves who it is.
    pub authentication: Authentication<'a>,
}

/// CHAP as firmware used it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Authentication<'a> {
    /// No CHAP.
    None,
    /// The target asks who we are.
    Chap(Credentials<'a>),
    /// And we ask the target: ours, then the target's.
    MutualChap(Credentials<'a>, Credentials<'a>),
}

/// A CHAP name and its secret.
#[derive(Clone, PartialEq, Eq)]
pub struct Credentials<'a> {
    /// CHAP_N.
    pub name: &'a str,
    /// The secret; not always text.
    pub secret: &'a [u8],
}

const THING: &str = "iBFT";
/// The table header, which is one of ACPI with another tail (§3.3).
const HEADER_BYTES: usize = 48;
/// Of a table that is worth reading: firmware keeps it in one kilobyte or two.
const TABLE_BYTES_MAX: usize = 64 * 1024;
/// The header of every structure: id, version, length, index, flags (§3.2).
const STRUCTURE_BYTES_MIN: usize = 6;
/// RFC 7143 §4.2.7.1 for names; secrets and host names are shorter.
const STRING_BYTES_MAX: u16 = 255;
/// NICs and targets; the standard has two of each, and room for more.
const STRUCTURES_MAX: usize = 32;

const FLAG_VALID: u8 = 0x01;
const FLAG_BOOT_SELECTED: u8 = 0x02;

/// The kinds of structures that are read, by their id, with their shortest length.
const CONTROL: (u8, usize) = (1, 18);
const INITIATOR: (u8, usize) = (2, 74);
const NIC: (u8, usize) = (3, 102);
const TARGET: (u8, usize) = (4, 54);

/// Where the control structure keeps the offset of the initiator; those of NICs and targets follow.
const CONTROL_INITIATOR: usize = 8;

impl<'a> Ibft<'a> {
    /// Reads a table that begins with its signature; bytes after its end are ignored.
    pub fn parse(bytes: &'a [u8]) -> Result<Ibft<'a>, Malformed> {
        let table = Table(bounded(bytes)?);
        let control = table.structure(HEADER_BYTES as u16)?;
        control.check(CONTROL)?;
        let mut ibft = Ibft { initiator: None, nics: Vec::new(), targets: Vec::new() };
        let initiator = control.number(CONTROL_INITIATOR);
        if initiator != 0 {
            let initiator = table.structure(initiator)?;
            initiator.check(INITIATOR)?;
            ibft.initiator = initiator.is(FLAG_VALID).then(|| initiator.initiator()).transpose()?;
        }
        let offsets = control.bytes[CONTROL_INITIATOR + 2..].chunks_exact(2).take(STRUCTURES_MAX);
        for offset in offsets.map(|pair| u16::from_le_bytes([pair[0], pair[1]])) {
            if offset == 0 {
                continue;
            }
            let structure = table.structure(offset)?;
            // What is neither, is from a later version of the standard.
            if structure.bytes[0] == NIC.0 {
                structure.check(NIC)?;
                if structure.is(FLAG_VALID) {
                    ibft.nics.push(structure.nic()?);
                }
            } else if structure.bytes[0] == TARGET.0 {
                structure.check(TARGET)?;
                if structure.is(FLAG_VALID) {
                    ibft.targets.push(structure.target()?);
                }
            }
        }
        Ok(ibft)
    }
}

/// The table without what comes after it.
fn bounded(bytes: &[u8]) -> Result<&[u8], Malformed> {
    if bytes.len() < HEADER_BYTES {
        let rule = "must be at least 48 bytes";
        return Err(Malformed::number(THING, "length", bytes.len() as u64, rule));
    }
    if !bytes.starts_with(b"iBFT") {
        return Err(Malformed::text(THING, "signature", &bytes[..4], "must be iBFT"));
    }
    let length = u32::from_le_bytes([bytes[4], bytes[5], bytes[6], bytes[7]]);
    let table = usize::try_from(length).ok().filter(|length| *length >= HEADER_BYTES);
    let table = table.filter(|length| *length <= TABLE_BYTES_MAX);
    let table = table.and_then(|length| bytes.get(..length)).ok_or_else(|| {
        let rule = "must be 48 to 65536, and not beyond the memory that holds it";
        Malformed::number(THING, "length", length, rule)
    })?;
    let sum = table.iter().fold(0_u8, |sum, byte| sum.wrapping_add(*byte));
    if sum != 0 {
        let rule = "must make the sum of all bytes zero";
        return Err(Malformed::number(THING, "checksum", bytes[9], rule));
    }
    Ok(table)
}

/// The bytes that all offsets count from.
#[derive(Clone, Copy)]
struct Table<'a>(&'a [u8]);

impl<'a> Table<'a> {
    fn structure(self, offset: u16) -> Result<Structure<'a>, Malformed> {
        let rule = "must lead to a structure inside the table";
        let outside = || Malformed::number(THING, "offset", offset, rule);
        let rest = self.0.get(usize::from(offset)..).ok_or_else(outside)?;
        let header = rest.get(..STRUCTURE_BYTES_MIN).ok_or_else(outside)?;
        let length = usize::from(u16::from_le_bytes([header[2], header[3]]));
        let bytes = rest.get(..length).filter(|bytes| bytes.len() >= STRUCTURE_BYTES_MIN);
        let bytes = bytes.ok_or_else(|| {
            let rule = "must be 6 or more and end inside the table";
            Malformed::number(THING, "structure length", length as u64, rule)
        })?;
        Ok(Structure { table: self, bytes })
    }
}

/// One structure with its header.
#[derive(Clone, Copy)]
struct Structure<'a> {
    table: Table<'a>,
    bytes: &'a [u8],
}

impl<'a> Structure<'a> {
    fn check(self, (id, bytes_min): (u8, usize)) -> Result<(), Malformed> {
        if self.bytes[0] != id {
            let rule = "must be that of the structure which its offset belongs to";
            return Err(Malformed::number(THING, "structure id", self.bytes[0], rule));
        }
        if self.bytes.len() < bytes_min {
            let rule = "must be as long as its kind is in the standard";
            return Err(Malformed::number(
                THING,
                "structure length",
                self.bytes.len() as u64,
                rule,
            ));
        }
        Ok(())
    }

    fn is(self, flag: u8) -> bool {
        self.bytes[5] & flag != 0
    }

    fn number(self, at: usize) -> u16 {
        u16::from_le_bytes([self.bytes[at], self.bytes[at + 1]])
    }

    /// An IPv6 address, or an IPv4 address mapped into one; all zeroes is none (§2.1).
    fn address(self, at: usize) -> Option<IpAddr> {
        let octets: [u8; 16] = *self.bytes[at..].first_chunk().expect("the length was checked");
        let address = Ipv6Addr::from(octets);
        match address.to_canonical() {
            IpAddr::V4(address) if address.is_unspecified() => None,
            IpAddr::V6(address) if address.is_unspecified() => None,
            address => Some(address),
        }
    }

    /// What a length and an offset of the heap lead to (§2.5); the zero at its end does not count.
    fn heap(self, field: &'static str, at: usize) -> Result<&'a [u8], Malformed> {
        let (length, offset) = (self.number(at), self.number(at + 2));
        if length == 0 || offset == 0 {
            return Ok(&[]);
        }
        if length > STRING_BYTES_MAX {
            return Err(Malformed::number(THING, field, length, "must be at most 255 bytes"));
        }
        let rest = self.table.0.get(usize::from(offset)..).unwrap_or_default();
        rest.get(..usize::from(length)).ok_or_else(|| {
            Malformed::number(THING, field, offset, "must lead to bytes inside the table")
        })
    }

    fn text(self, field: &'static str, at: usize) -> Result<&'a str, Malformed> {
        let bytes = self.heap(field, at)?;
        let text = str::from_utf8(bytes).ok().filter(|text| !text.chars().any(char::is_control));
        text.ok_or_else(|| Malformed::text(THING, field, bytes, "must be text in UTF-8"))
    }

    fn initiator(self) -> Result<Initiator<'a>, Malformed> {
        Ok(Initiator {
            boot_selected: self.is(FLAG_BOOT_SELECTED),
            name: self.text("initiator name", 70)?,
        })
    }

    fn nic(self) -> Result<Nic<'a>, Malformed> {
        let prefix_bits = self.bytes[22];
        let address = self.address(6);
        let longest = if matches!(address, Some(IpAddr::V4(_))) { 32 } else { 128 };
        if prefix_bits > longest {
            let rule = "must not be longer than the address";
            return Err(Malformed::number(THING, "subnet mask prefix", prefix_bits, rule));
        }
        Ok(Nic {
            index: self.bytes[4],
            boot_selected: self.is(FLAG_BOOT_SELECTED),
            address,
            prefix_bits,
            origin: self.bytes[23],
            gateway: self.address(24),
            name_servers: [self.address(40), self.address(56)],
            dhcp_server: self.address(72),
            vlan: self.number(88),
            mac: *self.bytes[90..].first_chunk().expect("the length was checked"),
            pci_address: self.number(96),
            host_name: self.text("host name", 98)?,
        })
    }

    fn target(self) -> Result<Target<'a>, Malformed> {
        let credentials = |name, secret, at| {
            Ok(Credentials { name: self.text(name, at)?, secret: self.heap(secret, at + 4)? })
        };
        let ours = || credentials("CHAP name", "CHAP secret", 38);
        let theirs = || credentials("reverse CHAP name", "reverse CHAP secret", 46);
        let authentication = match self.bytes[32] {
            0 => Authentication::None,
            1 => Authentication::Chap(ours()?),
            2 => Authentication::MutualChap(ours()?, theirs()?),
            other => {
                return Err(Malformed::number(THING, "CHAP type", other, "must be 0, 1 or 2"));
            }
        };
        Ok(Target {
            boot_selected: self.is(FLAG_BOOT_SELECTED),
            address: self.address(6),
            port: self.number(22),
            lun: *self.bytes[24..].first_chunk().expect("the length was checked"),
            nic: self.bytes[33],
            name: self.text("target name", 34)?,
            authentication,
        })
    }
}

impl fmt::Debug for Credentials<'_> {
    /// Without the secret.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Credentials").field("name", &self.name).finish_non_exhaustive()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// A table under construction: structures first, then the heap.
    struct Builder(Vec<u8>);

    impl Builder {
        /// Header and control structure; the offsets of the latter are still zero.
        fn new() -> Builder {
            let mut bytes = vec![0; 72];
            bytes[..4].copy_from_slice(b"iBFT");
            bytes[8] = 1;
            bytes[48..54].copy_from_slice(&[1, 1, 18, 0, 0, 0]);
            Builder(bytes)
        }

        /// Adds a structure and enters it at this place of the control structure.
        fn structure(&mut self, control_at: usize, (id, length): (u8, usize), flags: u8) -> usize {
            let offset = self.0.len().next_multiple_of(8);
            self.0.resize(offset + length, 0);
            self.0[offset..offset + 6].copy_from_slice(&[id, 1, length as u8, 0, 0, flags]);
            self.set16(HEADER_BYTES + control_at, offset as u16);
            offset
        }

        fn set16(&mut self, at: usize, value: u16) {
            self.0[at..at + 2].copy_from_slice(&value.to_le_bytes());
        }

        fn string(&mut self, at: usize, text: &[u8]) {
            let offset = self.0.len() as u16;
            self.0.extend(text);
            self.0.push(0);
            self.set16(at, text.len() as u16);
            self.set16(at + 2, offset);
        }

        fn finish(mut self) -> Vec<u8> {
            let length = (self.0.len() as u32).to_le_bytes();
            self.0[4..8].copy_from_slice(&length);
            self.0[9] = 0;
            let sum = self.0.iter().fold(0_u8, |sum, byte| sum.wrapping_add(*byte));
            self.0[9] = sum.wrapping_neg();
            self.0
        }
    }

    const V4_MAPPED: [u8; 12] = [0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0xff, 0xff];

    /// What iPXE leaves after `sanboot` with CHAP both ways.
    fn table() -> Vec<u8> {
        let mut builder = Builder::new();
        let initiator = builder.structure(8, INITIATOR, 3);
        let nic = builder.structure(10, NIC, 7);
        let target = builder.structure(12, TARGET, 3);
        for (at, octets) in [(nic + 6, [192, 0, 2, 7]), (target + 6, [192, 0, 2, 1])] {
            builder.0[at..at + 12].copy_from_slice(&V4_MAPPED);
            builder.0[at + 12..at + 16].copy_from_slice(&octets);
        }
        builder.0[nic + 22] = 24;
        builder.0[nic + 23] = 3;
        builder.set16(nic + 88, 42);
        builder.0[nic + 90..nic + 96].copy_from_slice(&[0x52, 0x54, 0, 0x12, 0x34, 0x56]);
        builder.set16(target + 22, 3260);
        builder.0[target + 25] = 5;
        builder.0[target + 32] = 2;
        builder.string(initiator + 70, b"iqn.2026-11.example:client");
        builder.string(nic + 98, b"client");
        builder.string(target + 34, b"iqn.2026-11.example:root");
        builder.string(target + 38, b"us");
        builder.string(target + 42, b"our long secret");
        builder.string(target + 46, b"them");
        builder.string(target + 50, b"their long secret");
        builder.finish()
    }

    #[test]
    fn everything_that_firmware_knows_is_read() {
        let table = table();
        let ibft = Ibft::parse(&table).unwrap();
        let name = "iqn.2026-11.example:client";
        assert_eq!(ibft.initiator, Some(Initiator { boot_selected: true, name }));
        let [nic] = &ibft.nics[..] else { panic!("one NIC was entered") };
        assert_eq!(nic.address, Some("192.0.2.7".parse().unwrap()));
        assert_eq!((nic.prefix_bits, nic.origin, nic.vlan), (24, 3, 42));
        assert_eq!((nic.gateway, nic.host_name), (None, "client"));
        assert_eq!(nic.mac, [0x52, 0x54, 0, 0x12, 0x34, 0x56]);
        let [target] = &ibft.targets[..] else { panic!("one target was entered") };
        assert_eq!(target.address, Some("192.0.2.1".parse().unwrap()));
        assert_eq!((target.port, target.lun), (3260, [0, 5, 0, 0, 0, 0, 0, 0]));
        assert_eq!(target.name, "iqn.2026-11.example:root");
        let ours = Credentials { name: "us", secret: b"our long secret" };
        let theirs = Credentials { name: "them", secret: b"their long secret" };
        assert_eq!(target.authentication, Authentication::MutualChap(ours, theirs));
    }

    #[test]
    fn secrets_are_not_shown() {
        let table = table();
        let shown = format!("{:?}", Ibft::parse(&table).unwrap());
        assert!(shown.contains("them") && !shown.contains("secret"), "{shown}");
    }

    #[test]
    fn what_is_not_valid_is_absent() {
        let mut builder = Builder::new();
        builder.structure(8, INITIATOR, 0);
        builder.structure(10, NIC, 2);
        builder.structure(12, TARGET, 0);
        let table = builder.finish();
        let ibft = Ibft::parse(&table).unwrap();
        assert_eq!((ibft.initiator, ibft.nics, ibft.targets), (None, vec![], vec![]));
    }

    /// Applies a change and makes the checksum right again.
    fn changed(change: impl Fn(&mut Vec<u8>)) -> Result<(), &'static str> {
        let mut bytes = table();
        change(&mut bytes);
        let bytes = Builder(bytes).finish();
        Ibft::parse(&bytes).map(|_| ()).map_err(|malformed| malformed.field)
    }

    #[test]
    fn broken_tables_are_refused_by_name() {
        assert_eq!(changed(|_| {}), Ok(()));
        assert_eq!(changed(|bytes| bytes[48] = 2), Err("structure id"));
        assert_eq!(changed(|bytes| bytes[50] = 17), Err("structure length"));
        assert_eq!(changed(|bytes| bytes[50] = 5), Err("structure length"));
        assert_eq!(changed(|bytes| bytes[51] = 0xff), Err("structure length"));
        assert_eq!(changed(|bytes| bytes[57] = 0xff), Err("offset"));
        let [initiator, nic, target] = [72, 152, 256];
        assert_eq!(changed(|bytes| bytes[initiator + 71] = 1), Err("initiator name"));
        assert_eq!(changed(|bytes| bytes[initiator + 73] = 0xff), Err("initiator name"));
        assert_eq!(changed(|bytes| bytes[nic + 22] = 33), Err("subnet mask prefix"));
        assert_eq!(changed(|bytes| bytes[target + 32] = 3), Err("CHAP type"));
        assert_eq!(changed(|bytes| bytes[target + 45] = 0xff), Err("CHAP secret"));
        let mut spoiled = table();
        spoiled[100] ^= 1;
        assert_eq!(Ibft::parse(&spoiled).unwrap_err().field, "checksum");
        assert_eq!(Ibft::parse(b"iBFT").unwrap_err().field, "length");
        spoiled[0] = b'a';
        assert_eq!(Ibft::parse(&spoiled).unwrap_err().field, "signature");
    }

    #[test]
    fn a_table_that_ends_early_is_refused_at_every_length() {
        let table = table();
        for length in 0..table.len() {
            assert!(Ibft::parse(&table[..length]).is_err());
            // The same with a length field that agrees.
            let shorter = Builder(table[..length.max(48)].to_vec()).finish();
            let _ = Ibft::parse(&shorter);
        }
    }
}
