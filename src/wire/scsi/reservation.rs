//! Persistent reservations: parameter data of PERSISTENT RESERVE IN and OUT (SPC-4 §6.15, §6.16),
//! and the TransportIDs of iSCSI initiators in them (SPC-4 §7.6.4.6).
//!
//! Lists from an initiator are read within the length that it announced, whatever the lengths
//! inside of them say. Lists to an initiator say how long they are even if the allocation length
//! cuts them short.

use super::super::pdu::Isid;
use super::super::{Malformed, be16, be32, be64};

/// TYPE of a persistent reservation (SPC-4 §6.15.3.4).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum ReservationType {
    /// One holder, and nobody else writes.
    WriteExclusive,
    /// One holder, and nobody else reads or writes.
    ExclusiveAccess,
    /// One holder; only those that have registered write.
    WriteExclusiveRegistrantsOnly,
    /// One holder; only those that have registered read or write.
    ExclusiveAccessRegistrantsOnly,
    /// All that have registered are holders, and nobody else writes.
    WriteExclusiveAllRegistrants,
    /// All that have registered are holders, and nobody else reads or writes.
    ExclusiveAccessAllRegistrants,
}

impl ReservationType {
    /// All of them, in the order of their codes.
    pub const ALL: [ReservationType; 6] = [
        ReservationType::WriteExclusive,
        ReservationType::ExclusiveAccess,
        ReservationType::WriteExclusiveRegistrantsOnly,
        ReservationType::ExclusiveAccessRegistrantsOnly,
        ReservationType::WriteExclusiveAllRegistrants,
        ReservationType::ExclusiveAccessAllRegistrants,
    ];

    /// The type of its code.
    pub fn from_code(code: u8) -> Option<ReservationType> {
        ReservationType::ALL.into_iter().find(|kind| kind.code() == code)
    }

    /// The code, four bits.
    pub fn code(self) -> u8 {
        match self {
            ReservationType::WriteExclusive => 1,
            ReservationType::ExclusiveAccess => 3,
            ReservationType::WriteExclusiveRegistrantsOnly => 5,
            ReservationType::ExclusiveAccessRegistrantsOnly => 6,
            ReservationType::WriteExclusiveAllRegistrants => 7,
            ReservationType::ExclusiveAccessAllRegistrants => 8,
        }
    }

    /// Those who are locked out may still read.
    pub fn is_write_exclusive(self) -> bool {
        matches!(self.code(), 1 | 5 | 7)
    }

    /// Having registered is enough to read and write.
    pub fn is_for_registrants(self) -> bool {
        matches!(self.code(), 5..=8)
    }

    /// Everybody who has registered is a holder.
    pub fn is_all_registrants(self) -> bool {
        matches!(self.code(), 7 | 8)
    }
}

/// A TransportID: an initiator port, or an initiator with all of its ports.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct TransportId {
    /// The iSCSI name.
    pub name: String,
    /// Of the port (format 01b); `None` names all ports of the initiator (format 00b).
    pub isid: Option<Isid>,
}

impl TransportId {
    /// Longest that one can be: names end at 223 bytes (RFC 7143 §4.2.7.1).
    pub const BYTES_MAX: usize = 4 + 244;

    /// Reads the TransportID at the beginning of a list; the rest of the list follows it.
    pub fn parse(list: &[u8]) -> Result<(TransportId, &[u8]), Malformed> {
        const PROTOCOL_ISCSI: u8 = 5;
        const HEADER_BYTES: usize = 4;
        let Some((header, rest)) = list.split_first_chunk::<HEADER_BYTES>() else {
            let rule = "must be at least 4 bytes (SPC-4 §7.6.4)";
            return Err(transport_id("length", list.len() as u64, rule));
        };
        if header[0] & 0x0f != PROTOCOL_ISCSI {
            let rule = "must be 5, iSCSI, on an iSCSI target";
            return Err(transport_id("PROTOCOL IDENTIFIER", header[0] & 0x0f, rule));
        }
        let length = be16(header, 2);
        if length < 20
            || !length.is_multiple_of(4)
            || usize::from(length) + HEADER_BYTES > Self::BYTES_MAX
        {
            let rule = "must be a multiple of 4 from 20 to 244 (SPC-4 §7.6.4.6)";
            return Err(transport_id("ADDITIONAL LENGTH", length, rule));
        }
        let Some((text, rest)) = rest.split_at_checked(usize::from(length)) else {
            let rule = "must not reach beyond the parameter list";
            return Err(transport_id("ADDITIONAL LENGTH", length, rule));
        };
        let Some(end) = text.iter().position(|byte| *byte == 0) else {
            let rule = "must end with a zero (SPC-4 §7.6.4.6)";
            return Err(Malformed::text("TransportID", "ISCSI NAME", text, rule));
        };
        let id = match header[0] >> 6 {
            0 => TransportId { name: name(&text[..end])?, isid: None },
            1 => port(&text[..end])?,
            format => {
                let rule = "must be 0 or 1 (SPC-4 §7.6.4.6)";
                return Err(transport_id("FORMAT CODE", format, rule));
            }
        };
        Ok((id, rest))
    }

    /// Reads the TransportID parameter data of REGISTER with SPEC_I_PT: its length, then one
    /// TransportID after the other, to the end of the parameter list.
    pub fn parse_list(data: &[u8]) -> Result<Vec<TransportId>, Malformed> {
        let Some((length, mut list)) = data.split_first_chunk::<4>() else {
            let rule = "must be at least 4 bytes with SPEC_I_PT (SPC-4 §6.16.3)";
            return Err(transport_id("list", data.len() as u64, rule));
        };
        let length = u32::from_be_bytes(*length);
        if length as usize != list.len() {
            let rule = "must reach to the end of the parameter list (SPC-4 §6.16.3)";
            return Err(transport_id("TRANSPORTID PARAMETER DATA LENGTH", length, rule));
        }
        let mut ids = Vec::new();
        while !list.is_empty() {
            let id;
            (id, list) = TransportId::parse(list)?;
            ids.push(id);
        }
        Ok(ids)
    }

    /// The bytes.
    pub fn emit(&self) -> Vec<u8> {
        let mut text = self.name.clone().into_bytes();
        if let Some(Isid(isid)) = self.isid {
            text.extend_from_slice(ISID_SEPARATOR.as_bytes());
            text.extend(isid.iter().flat_map(|byte| format!("{byte:02x}").into_bytes()));
        }
        text.push(0);
        text.resize(text.len().next_multiple_of(4).max(20), 0);
        let format = u8::from(self.isid.is_some());
        let mut out = vec![format << 6 | 5, 0];
        out.extend_from_slice(&(text.len() as u16).to_be_bytes());
        out.append(&mut text);
        out
    }
}

/// Between the name and the ISID of a port.
const ISID_SEPARATOR: &str = ",i,0x";

fn name(text: &[u8]) -> Result<String, Malformed> {
    const NAME_BYTES_MAX: usize = 223;
    match std::str::from_utf8(text) {
        Ok(name) if (1..=NAME_BYTES_MAX).contains(&name.len()) => Ok(name.to_owned()),
        _ => {
            let rule = "must be 1 to 223 bytes of UTF-8 (RFC 7143 §4.2.7.1)";
            Err(Malformed::text("TransportID", "ISCSI NAME", text, rule))
        }
    }
}

/// A name with the ISID behind it in twelve hexadecimal digits.
fn port(text: &[u8]) -> Result<TransportId, Malformed> {
    let separator = ISID_SEPARATOR.as_bytes();
    let at = text.windows(separator.len()).rposition(|window| window == separator);
    let digits = at.map_or(&[][..], |at| &text[at + separator.len()..]);
    let value = match std::str::from_utf8(digits) {
        Ok(digits) if digits.len() == 12 && digits.bytes().all(|c| c.is_ascii_hexdigit()) => {
            u64::from_str_radix(digits, 16).ok()
        }
        _ => None,
    };
    let (Some(at), Some(value)) = (at, value) else {
        let rule = "must end with ,i,0x and 12 hexadecimal digits (SPC-4 §7.6.4.6)";
        return Err(Malformed::text("TransportID", "ISCSI INITIATOR SESSION ID", text, rule));
    };
    let [_, _, isid @ ..] = value.to_be_bytes();
    Ok(TransportId { name: name(&text[..at])?, isid: Some(Isid(isid)) })
}

fn transport_id(field: &'static str, value: impl Into<u64>, rule: &'static str) -> Malformed {
    Malformed::number("TransportID", field, value, rule)
}

/// Parameter list of PERSISTENT RESERVE OUT but for REGISTER AND MOVE (SPC-4 §6.16.3); with
/// `spec_i_pt`, TransportIDs follow.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Default)]
pub struct ReserveOutList {
    /// RESERVATION KEY.
    pub key: u64,
    /// SERVICE ACTION RESERVATION KEY.
    pub action_key: u64,
    /// SPEC_I_PT: the list goes on with initiator ports to register.
    pub spec_i_pt: bool,
    /// ALL_TG_PT: through all ports of the target.
    pub all_target_ports: bool,
    /// APTPL: is to survive a loss of power.
    pub persist: bool,
}

impl ReserveOutList {
    /// Length without TransportIDs.
    pub const BYTES: usize = 24;

    /// Reads the list without its TransportIDs; `None` if it is too short.
    pub fn parse(list: &[u8]) -> Option<ReserveOutList> {
        let list: &[u8; ReserveOutList::BYTES] = list.first_chunk()?;
        Some(ReserveOutList {
            key: be64(list, 0),
            action_key: be64(list, 8),
            spec_i_pt: list[20] & 0x08 != 0,
            all_target_ports: list[20] & 0x04 != 0,
            persist: list[20] & 0x01 != 0,
        })
    }

    /// The list, with `ports` if SPEC_I_PT is set.
    pub fn emit(&self, ports: &[TransportId]) -> Vec<u8> {
        let mut out = vec![0; ReserveOutList::BYTES];
        out[..8].copy_from_slice(&self.key.to_be_bytes());
        out[8..16].copy_from_slice(&self.action_key.to_be_bytes());
        out[20] = u8::from(self.spec_i_pt) << 3
            | u8::from(self.all_target_ports) << 2
            | u8::from(self.persist);
        if self.spec_i_pt {
            let ids: Vec<u8> = ports.iter().flat_map(TransportId::emit).collect();
            out.extend_from_slice(&(ids.len() as u32).to_be_bytes());
            out.extend_from_slice(&ids);
        }
        out
    }
}

/// Parameter list of REGISTER AND MOVE (SPC-4 §6.16.4).
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct MoveList {
    /// RESERVATION KEY.
    pub key: u64,
    /// SERVICE ACTION RESERVATION KEY: what the new holder is registered with.
    pub action_key: u64,
    /// UNREG: whoever gives the reservation away is not registered any more.
    pub unregister: bool,
    /// APTPL: is to survive a loss of power.
    pub persist: bool,
    /// RELATIVE TARGET PORT IDENTIFIER.
    pub target_port: u16,
    /// The new holder.
    pub port: TransportId,
}

impl MoveList {
    /// Reads the list.
    pub fn parse(list: &[u8]) -> Result<MoveList, Malformed> {
        let malformed =
            |field, value, rule| Malformed::number("REGISTER AND MOVE", field, value, rule);
        let Some((head, rest)) = list.split_first_chunk::<24>() else {
            let rule = "must be at least 24 bytes (SPC-4 §6.16.4)";
            return Err(malformed("length", list.len() as u64, rule));
        };
        let length = be32(head, 20);
        let (port, behind) = TransportId::parse(rest)?;
        if length as usize != rest.len() || !behind.is_empty() {
            let rule = "must be that of one TransportID at the end of the list (SPC-4 §6.16.4)";
            return Err(malformed("TRANSPORTID LENGTH", u64::from(length), rule));
        }
        Ok(MoveList {
            key: be64(head, 0),
            action_key: be64(head, 8),
            unregister: head[17] & 0x02 != 0,
            persist: head[17] & 0x01 != 0,
            target_port: be16(head, 18),
            port,
        })
    }

    /// The list.
    pub fn emit(&self) -> Vec<u8> {
        let port = self.port.emit();
        let mut out = vec![0; 24];
        out[..8].copy_from_slice(&self.key.to_be_bytes());
        out[8..16].copy_from_slice(&self.action_key.to_be_bytes());
        out[17] = u8::from(self.unregister) << 1 | u8::from(self.persist);
        out[18..20].copy_from_slice(&self.target_port.to_be_bytes());
        out[20..24].copy_from_slice(&(port.len() as u32).to_be_bytes());
        out.extend_from_slice(&port);
        out
    }
}

/// READ KEYS data: PRGENERATION, then one key for each registration (SPC-4 §6.15.2).
pub fn emit_reservation_keys(generation: u32, keys: &[u64]) -> Vec<u8> {
    let mut out = generation.to_be_bytes().to_vec();
    out.extend_from_slice(&(keys.len() as u32 * 8).to_be_bytes());
    out.extend(keys.iter().flat_map(|key| key.to_be_bytes()));
    out
}

/// Reads READ KEYS data, as far as it goes.
pub fn parse_reservation_keys(data: &[u8]) -> Result<(u32, Vec<u64>), Malformed> {
    let (generation, list) = reserve_in("READ KEYS data", data)?;
    Ok((generation, list.chunks_exact(8).map(|key| be64(key, 0)).collect()))
}

/// READ RESERVATION data: PRGENERATION, key and type (SPC-4 §6.15.3). The key of a reservation that
/// all registrants hold is 0.
pub fn emit_reservation(generation: u32, reservation: Option<(u64, ReservationType)>) -> Vec<u8> {
    let mut out = generation.to_be_bytes().to_vec();
    let Some((key, kind)) = reservation else {
        out.extend_from_slice(&[0; 4]);
        return out;
    };
    out.extend_from_slice(&16_u32.to_be_bytes());
    out.extend_from_slice(&key.to_be_bytes());
    out.extend_from_slice(&[0, 0, 0, 0, 0, kind.code(), 0, 0]);
    out
}

/// Reads READ RESERVATION data.
#[allow(clippy::type_complexity)]
pub fn parse_reservation(data: &[u8]) -> Result<(u32, Option<(u64, ReservationType)>), Malformed> {
    let (generation, list) = reserve_in("READ RESERVATION data", data)?;
    let Some(reservation) = list.first_chunk::<16>() else { return Ok((generation, None)) };
    let code = reservation[13] & 0x0f;
    let Some(kind) = ReservationType::from_code(code) else {
        let rule = "must be 1, 3, 5, 6, 7 or 8 (SPC-4 §6.15.3.4)";
        return Err(Malformed::number("READ RESERVATION data", "TYPE", code, rule));
    };
    Ok((generation, Some((be64(reservation, 0), kind))))
}

/// REPORT CAPABILITIES data of a unit that has all types and everything else but replacing lost
/// reservations (SPC-4 §6.15.4).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct ReservationCapabilities {
    /// PTPL_C: reservations can survive a loss of power.
    pub can_persist: bool,
    /// PTPL_A: they would, now.
    pub persists: bool,
}

impl ReservationCapabilities {
    /// Length of the data.
    pub const BYTES: usize = 8;

    /// The data.
    pub fn emit(&self) -> [u8; ReservationCapabilities::BYTES] {
        const CRH_SIP_C_ATP_C: u8 = 0x1c;
        // TMV, and ALLOW COMMANDS 001b: TEST UNIT READY passes, of the others nothing is said.
        const TYPES_VALID_AND_ALLOWED: u8 = 0x80 | 1 << 4;
        let types = ReservationType::ALL.into_iter().fold(0_u16, |types, kind| {
            types | if kind.code() == 8 { 0x0001 } else { 0x0100 << kind.code() }
        });
        let [high, low] = types.to_be_bytes();
        let can_persist = u8::from(self.can_persist);
        let persists = u8::from(self.persists);
        let flags = [CRH_SIP_C_ATP_C | can_persist, TYPES_VALID_AND_ALLOWED | persists];
        [0, 8, flags[0], flags[1], high, low, 0, 0]
    }

    /// Reads the data.
    pub fn parse(data: &[u8]) -> Result<ReservationCapabilities, Malformed> {
        match data.first_chunk::<{ ReservationCapabilities::BYTES }>() {
            Some(data) => Ok(ReservationCapabilities {
                can_persist: data[2] & 0x01 != 0,
                persists: data[3] & 0x01 != 0,
            }),
            None => Err(Malformed::number(
                "REPORT CAPABILITIES data",
                "length",
                data.len() as u64,
                "must be 8 bytes (SPC-4 §6.15.4)",
            )),
        }
    }
}

/// One registration in READ FULL STATUS data (SPC-4 §6.15.5).
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct FullStatus {
    /// RESERVATION KEY.
    pub key: u64,
    /// R_HOLDER with the type of the reservation that it holds.
    pub holds: Option<ReservationType>,
    /// RELATIVE TARGET PORT IDENTIFIER.
    pub target_port: u16,
    /// Who has registered.
    pub port: TransportId,
}

const FULL_STATUS_HEAD_BYTES: usize = 24;

/// READ FULL STATUS data.
pub fn emit_full_status(generation: u32, registrations: &[FullStatus]) -> Vec<u8> {
    let mut list = Vec::new();
    for registration in registrations {
        let port = registration.port.emit();
        let mut head = [0; FULL_STATUS_HEAD_BYTES];
        head[..8].copy_from_slice(&registration.key.to_be_bytes());
        head[12] = u8::from(registration.holds.is_some());
        head[13] = registration.holds.map_or(0, ReservationType::code);
        head[18..20].copy_from_slice(&registration.target_port.to_be_bytes());
        head[20..].copy_from_slice(&(port.len() as u32).to_be_bytes());
        list.extend_from_slice(&head);
        list.extend_from_slice(&port);
    }
    let mut out = generation.to_be_bytes().to_vec();
    out.extend_from_slice(&(list.len() as u32).to_be_bytes());
    out.append(&mut list);
    out
}

/// Reads READ FULL STATUS data, as far as whole descriptors go.
pub fn parse_full_status(data: &[u8]) -> Result<(u32, Vec<FullStatus>), Malformed> {
    let (generation, mut list) = reserve_in("READ FULL STATUS data", data)?;
    let mut registrations = Vec::new();
    while let Some((head, rest)) = list.split_first_chunk::<FULL_STATUS_HEAD_BYTES>() {
        let length = be32(head, 20) as usize;
        let Some((port, rest)) = rest.split_at_checked(length) else { break };
        registrations.push(FullStatus {
            key: be64(head, 0),
            holds: ReservationType::from_code(head[13] & 0x0f).filter(|_| head[12] & 0x01 != 0),
            target_port: be16(head, 18),
            port: TransportId::parse(port)?.0,
        });
        list = rest;
    }
    Ok((generation, registrations))
}

/// PRGENERATION and what follows the ADDITIONAL LENGTH, cut to it.
fn reserve_in<'a>(thing: &'static str, data: &'a [u8]) -> Result<(u32, &'a [u8]), Malformed> {
    let Some((head, list)) = data.split_first_chunk::<8>() else {
        let rule = "must be at least 8 bytes (SPC-4 §6.15)";
        return Err(Malformed::number(thing, "length", data.len() as u64, rule));
    };
    let length = (be32(head, 4) as usize).min(list.len());
    Ok((be32(head, 0), &list[..length]))
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    const PORT_BYTES: [u8; 4 + 40] = *b"\x45\0\0\x28iqn.2026-11.example:a,i,0x80123d00ff01\0\0";

    fn port() -> TransportId {
        TransportId {
            name: "iqn.2026-11.example:a".to_owned(),
            isid: Some(Isid([0x80, 0x12, 0x3d, 0, 0xff, 1])),
        }
    }

    #[test]
    fn transport_id_of_a_port_and_of_an_initiator() {
        assert_eq!(port().emit(), PORT_BYTES);
        assert_eq!(TransportId::parse(&PORT_BYTES), Ok((port(), &[][..])));
        let initiator = TransportId { name: "iqn.a".to_owned(), isid: None };
        let bytes = *b"\x05\0\0\x14iqn.a\0\0\0\0\0\0\0\0\0\0\0\0\0\0\0";
        assert_eq!(initiator.emit(), bytes);
        assert_eq!(TransportId::parse(&bytes), Ok((initiator, &[][..])));
    }

    #[test]
    fn transport_ids_that_lie_are_refused() {
        let refuse = |change: &dyn Fn(&mut Vec<u8>), field: &str| {
            let mut bytes = PORT_BYTES.to_vec();
            change(&mut bytes);
            assert_eq!(TransportId::parse(&bytes).unwrap_err().field, field);
        };
        refuse(&|bytes| bytes[0] = 0x46, "PROTOCOL IDENTIFIER");
        refuse(&|bytes| bytes[0] = 0x85, "FORMAT CODE");
        refuse(&|bytes| bytes[3] = 0x2c, "ADDITIONAL LENGTH");
        refuse(&|bytes| bytes[3] = 0x27, "ADDITIONAL LENGTH");
        refuse(&|bytes| bytes[2] = 0xff, "ADDITIONAL LENGTH");
        refuse(&|bytes| bytes[3] = 0x10, "ADDITIONAL LENGTH");
        refuse(&|bytes| bytes[42..].fill(b'1'), "ISCSI NAME");
        refuse(&|bytes| bytes[30] = b'x', "ISCSI INITIATOR SESSION ID");
        refuse(&|bytes| bytes[41] = b'+', "ISCSI INITIATOR SESSION ID");
        refuse(&|bytes| bytes[41] = 0, "ISCSI INITIATOR SESSION ID");
        refuse(&|bytes| bytes[4] = 0, "ISCSI INITIATOR SESSION ID");
        refuse(&|bytes| bytes[4] = 0xff, "ISCSI NAME");
        refuse(&|bytes| bytes.truncate(3), "length");
    }

    #[test]
    fn lists_of_persistent_reserve_out() {
        let list = ReserveOutList {
            key: 0x0102_0304_0506_0708,
            action_key: 0xa1a2_a3a4_a5a6_a7a8,
            spec_i_pt: false,
            all_target_ports: true,
            persist: true,
        };
        let mut bytes = *b"\x01\x02\x03\x04\x05\x06\x07\x08\xa1\xa2\xa3\xa4\xa5\xa6\xa7\xa8\
            \0\0\0\0\x05\0\0\0";
        assert_eq!(list.emit(&[]), bytes);
        assert_eq!(ReserveOutList::parse(&bytes), Some(list));
        assert_eq!(ReserveOutList::parse(&bytes[..23]), None);
        bytes[20] = 0x0d;
        let list = ReserveOutList { spec_i_pt: true, ..list };
        let with_ports = [&bytes[..], &[0, 0, 0, 88], &PORT_BYTES, &PORT_BYTES].concat();
        assert_eq!(list.emit(&[port(), port()]), with_ports);
        assert_eq!(TransportId::parse_list(&with_ports[24..]), Ok(vec![port(), port()]));
        for length in [24, 27, 28, 60, 115] {
            assert!(TransportId::parse_list(&with_ports[24..length]).is_err());
        }
    }

    #[test]
    fn list_of_register_and_move() {
        let list = MoveList {
            key: 1,
            action_key: 2,
            unregister: true,
            persist: false,
            target_port: 1,
            port: port(),
        };
        let head = *b"\0\0\0\0\0\0\0\x01\0\0\0\0\0\0\0\x02\0\x02\0\x01\0\0\0\x2c";
        let bytes = [&head[..], &PORT_BYTES].concat();
        assert_eq!(list.emit(), bytes);
        assert_eq!(MoveList::parse(&bytes), Ok(list));
        for cut in 0..bytes.len() {
            assert!(MoveList::parse(&bytes[..cut]).is_err());
        }
        assert!(MoveList::parse(&[&bytes[..], &[0]].concat()).is_err());
    }

    #[test]
    fn data_of_persistent_reserve_in() {
        let keys = *b"\0\0\0\x07\0\0\0\x10\0\0\0\0\0\0\0\x01\xff\0\0\0\0\0\0\x02";
        assert_eq!(emit_reservation_keys(7, &[1, 0xff << 56 | 2]), keys);
        assert_eq!(parse_reservation_keys(&keys), Ok((7, vec![1, 0xff << 56 | 2])));
        assert_eq!(parse_reservation_keys(&keys[..17]), Ok((7, vec![1])));
        assert!(parse_reservation_keys(&keys[..7]).is_err());

        assert_eq!(emit_reservation(7, None), *b"\0\0\0\x07\0\0\0\0");
        assert_eq!(parse_reservation(b"\0\0\0\x07\0\0\0\0"), Ok((7, None)));
        let held = *b"\0\0\0\x07\0\0\0\x10\0\0\0\0\0\0\0\x09\0\0\0\0\0\x06\0\0";
        let reservation = Some((9, ReservationType::ExclusiveAccessRegistrantsOnly));
        assert_eq!(emit_reservation(7, reservation), held);
        assert_eq!(parse_reservation(&held), Ok((7, reservation)));

        let capabilities = ReservationCapabilities { can_persist: true, persists: false };
        let bytes = [0, 8, 0x1d, 0x90, 0xea, 0x01, 0, 0];
        assert_eq!(capabilities.emit(), bytes);
        assert_eq!(ReservationCapabilities::parse(&bytes), Ok(capabilities));
        assert!(ReservationCapabilities::parse(&bytes[..7]).is_err());
    }

    #[test]
    fn full_status_of_a_holder_and_another() {
        let holder = FullStatus {
            key: 5,
            holds: Some(ReservationType::WriteExclusive),
            target_port: 1,
            port: port(),
        };
        let other = FullStatus { key: 6, holds: None, ..holder.clone() };
        let first = *b"\0\0\0\0\0\0\0\x05\0\0\0\0\x01\x01\0\0\0\0\0\x01\0\0\0\x2c";
        let second = *b"\0\0\0\0\0\0\0\x06\0\0\0\0\0\0\0\0\0\0\0\x01\0\0\0\x2c";
        let head = [0, 0, 0, 3, 0, 0, 0, 136];
        let bytes = [&head[..], &first, &PORT_BYTES, &second, &PORT_BYTES].concat();
        let both = vec![holder.clone(), other];
        assert_eq!(emit_full_status(3, &both), bytes);
        assert_eq!(parse_full_status(&bytes), Ok((3, both)));
        assert_eq!(parse_full_status(&bytes[..143]), Ok((3, vec![holder])));
    }

    #[test]
    fn types_and_their_codes() {
        for code in 0..=15 {
            let kind = ReservationType::from_code(code);
            assert_eq!(kind.is_some(), [1, 3, 5, 6, 7, 8].contains(&code));
            assert!(kind.is_none_or(|kind| kind.code() == code));
        }
    }

    fn any_port() -> impl Strategy<Value = TransportId> {
        let isid = proptest::option::of(any::<[u8; 6]>().prop_map(Isid));
        ("[a-z0-9.:-]{1,223}", isid).prop_map(|(name, isid)| TransportId { name, isid })
    }

    proptest! {
        #[test]
        fn what_is_emitted_parses_to_the_same(
            ports in proptest::collection::vec(any_port(), 0..5), key in any::<u64>(),
        ) {
            let list = ReserveOutList { key, spec_i_pt: true, ..ReserveOutList::default() };
            let bytes = list.emit(&ports);
            prop_assert_eq!(ReserveOutList::parse(&bytes), Some(list));
            let ids = TransportId::parse_list(&bytes[ReserveOutList::BYTES..]);
            prop_assert_eq!(ids.as_ref(), Ok(&ports));
            let status: Vec<FullStatus> = ports
                .into_iter()
                .map(|port| FullStatus { key, holds: None, target_port: 1, port })
                .collect();
            let parsed = parse_full_status(&emit_full_status(9, &status));
            prop_assert_eq!(parsed, Ok((9, status)));
        }

        #[test]
        fn any_bytes_give_a_value_or_an_error(
            mut bytes in proptest::collection::vec(any::<u8>(), 0..600), length in 0_u16..300,
        ) {
            let _ = TransportId::parse(&bytes);
            let _ = parse_full_status(&bytes);
            // So that the beginning is mostly right.
            for (at, head) in [(0, 0x45), (2, (length >> 8) as u8), (3, length as u8)] {
                for start in [0, 24, 28] {
                    if let Some(byte) = bytes.get_mut(start + at) {
                        *byte = head;
                    }
                }
            }
            if let Ok((id, rest)) = TransportId::parse(&bytes) {
                prop_assert!(bytes.len() - rest.len() <= TransportId::BYTES_MAX);
                let emitted = id.emit();
                prop_assert_eq!(TransportId::parse(&emitted), Ok((id, &[][..])));
            }
            let _ = MoveList::parse(&bytes);
            let _ = TransportId::parse_list(bytes.get(24..).unwrap_or_default());
            let _ = parse_reservation(&bytes);
        }
    }
}
