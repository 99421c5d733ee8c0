//! Names of a LUN as people write them: RFC 4173 text and the URL form.
//!
//! ```text
//! iscsi:<server>:<protocol>:<port>:<LUN>:<target name>      RFC 4173, DHCP option 17
//! iscsi://<host>[:<port>]/<target name>[/<LUN>]             for people
//! ```
//!
//! This is the only parser of such a text in the project. The radix of the LUN depends on where the
//! text stood ([`Dialect`]); a LUN that another reader would take for a different one is remembered
//! in [`RootPath::other_lun`]. Text that cannot be read gives a [`RootPathError`], which shows it
//! with a marker under the bad field. Credentials in the text are refused and never shown.

use std::fmt;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};
use std::ops::Range;

use super::Malformed;

/// The port of iSCSI (RFC 7143 §13, IANA).
pub const DEFAULT_PORT: u16 = 3260;

/// Longest text that is looked at, in bytes: a DHCP option in three pieces, and generous.
pub const TEXT_MAX: usize = 1024;

const THING: &str = "root path";
const EXAMPLE: &str = "iscsi:192.0.2.1:6:3260:0:iqn.2004-10.example:root";
const EXAMPLE_URL: &str = "iscsi://192.0.2.1:3260/iqn.2004-10.example:root/0";

/// Which logical unit of which target, and where the target is.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct RootPath {
    /// The machine that serves it; `None` if the text leaves that to DHCP or discovery.
    pub server: Option<Host>,
    /// TCP port.
    pub port: u16,
    /// The eight bytes of the LUN field, most significant first (SAM-5 §4.7).
    pub lun: u64,
    /// What readers of the other radix understand, where that is another LUN: to be named in the
    /// error if the target has no `lun`.
    pub other_lun: Option<u64>,
    /// The target's iSCSI name.
    pub target: IscsiName,
}

/// Where a text stood, which decides how it is read.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Dialect {
    /// DHCP option 17, and our own `lunboot=`: RFC 4173 to the letter, LUN in hexadecimal groups.
    Rfc4173,
    /// `root=iscsi:` and `netroot=iscsi:`: a LUN of digits only is decimal, and dracut's fields for
    /// interface and device may stand before it (they are read and dropped).
    Netroot,
}

/// A machine: an address or a name.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Host {
    /// An IPv4 address.
    V4(Ipv4Addr),
    /// An IPv6 address, and the interface if it is a link-local one.
    V6 {
        /// The address.
        address: Ipv6Addr,
        /// The part after `%`.
        zone: Option<Box<str>>,
    },
    /// A host name, at most 253 characters.
    Name(Box<str>),
}

/// A server that is asked for its targets: `host`, `host:port`, `[IPv6]:port`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Portal {
    /// The machine.
    pub host: Host,
    /// TCP port.
    pub port: u16,
}

/// The name of an initiator or target (RFC 7143 §4.2.7), in the letters in which it was given.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct IscsiName(Box<str>);

/// A text that does not name a LUN: which field, and where in the text it stands.
///
/// Its `Display` is several lines: what is wrong, the text, a marker under the field, an example.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct RootPathError {
    /// Field, value and rule.
    pub malformed: Malformed,
    /// The text without credentials and control characters.
    shown: Box<str>,
    /// First character and number of characters to mark.
    column: usize,
    width: usize,
    example: &'static str,
}

impl RootPath {
    /// True if the text means iSCSI at all. DHCP option 17 may as well be an NFS path.
    pub fn is_iscsi(text: &str) -> bool {
        strip_prefix_ignore_case(text.trim_matches(is_padding), "iscsi:").is_some()
    }

    /// Reads DHCP option 17: like [`RootPath::parse`], but some servers end the text with zeroes.
    pub fn parse_bytes(bytes: &[u8], dialect: Dialect) -> Result<RootPath, RootPathError> {
        match std::str::from_utf8(bytes) {
            Ok(text) => RootPath::parse(text, dialect),
            Err(error) => {
                let text = String::from_utf8_lossy(&bytes[..bytes.len().min(TEXT_MAX)]);
                let at = error.valid_up_to().min(text.len());
                let field = Field { name: "text", text: &text, range: at..text.len() };
                Err(field.error("must be UTF-8", EXAMPLE))
            }
        }
    }

    /// Reads either form.
    pub fn parse(text: &str, dialect: Dialect) -> Result<RootPath, RootPathError> {
        let text = text.trim_matches(is_padding);
        let whole = Field { name: "text", text, range: 0..text.len() };
        if text.len() > TEXT_MAX {
            return Err(whole.error("must be at most 1024 bytes long", EXAMPLE));
        }
        if let Some(at) = text.find(char::is_control) {
            return Err(whole
                .part(at..text.len())
                .error("must not have control characters", EXAMPLE));
        }
        let Some(rest) = strip_prefix_ignore_case(text, "iscsi:") else {
            let end = text.find(':').unwrap_or(text.len());
            return Err(whole.part(0..end).error("must begin with iscsi:", EXAMPLE));
        };
        if let Some(at) = credentials_end(text) {
            let start = text.len() - rest.len();
            // An empty pair of credentials is how Debian and dracut protect an `@` in the name.
            if at > start {
                return Err(Field { name: "credentials", text, range: start..at }.error(
                    "are not supported in the text, it is visible to every user of the machine",
                    EXAMPLE,
                ));
            }
            return parse_fields(whole.part(at + 1..text.len()), dialect);
        }
        let start = text.len() - rest.len();
        match rest.strip_prefix("//") {
            Some(_) => parse_url(whole.part(start + 2..text.len())),
            None => parse_fields(whole.part(start..text.len()), dialect),
        }
    }
}

/// The fields of RFC 4173 after `iscsi:`.
fn parse_fields(rest: Field<'_>, dialect: Dialect) -> Result<RootPath, RootPathError> {
    let host = parse_host(&rest.cut("server", ':').0)?;
    let (server, rest) = cut_required(rest, "server")?;
    let (protocol, rest) = cut_required(rest, "protocol")?;
    let (port, rest) = cut_required(rest, "port")?;
    let (mut lun, mut name) = cut_required(rest, "LUN")?;
    name.name = "target name";

    if !matches!(protocol.str(), "" | "6") && !protocol.str().eq_ignore_ascii_case("tcp") {
        return Err(protocol.error(
            "must be empty, 6 or tcp (and an IPv6 address must stand in brackets)",
            EXAMPLE,
        ));
    }
    if dialect == Dialect::Netroot
        && !has_name_type(name.str())
        && let Some(at) = find_name(name.text, name.range.start)
    {
        let extra = Field { name: "LUN", text: name.text, range: lun.range.start..at };
        let fields: Vec<&str> = extra.str().split(':').collect();
        // netdev:LUN or iface:netdev:LUN. A bare IPv6 address falls into as many pieces.
        if fields.len() > 3 || looks_like_ipv6_group(server.str()) {
            return Err(extra.error(
                "must be one field, or interface, device and LUN (IPv6 in brackets)",
                EXAMPLE,
            ));
        }
        let lun_start = at - fields.last().map_or(0, |lun| lun.len());
        lun = extra.part(lun_start..at);
        name.range.start = at + 1;
    }
    let decimal = dialect == Dialect::Netroot;
    let (lun, other_lun) = parse_lun(&lun, decimal)?;
    Ok(RootPath {
        server: host,
        port: parse_port(&port)?,
        lun,
        other_lun,
        target: parse_name(&name, name.str(), EXAMPLE)?,
    })
}

/// What follows `iscsi://`.
fn parse_url(rest: Field<'_>) -> Result<RootPath, RootPathError> {
    if let Some(at) = rest.str().find(['?', '#']) {
        let at = rest.range.start + at;
        return Err(Field { name: "options", text: rest.text, range: at..rest.range.end }
            .error("are not supported in the text, use lunboot. arguments", EXAMPLE_URL));
    }
    let slash = rest.str().find('/').map(|at| rest.range.start + at);
    let authority =
        Field { name: "server", ..rest.part(rest.range.start..slash.unwrap_or(rest.range.end)) };
    let Some(slash) = slash else {
        return Err(Field { name: "target name", ..rest.part(rest.range.end..rest.range.end) }
            .error("is missing after the server", EXAMPLE_URL));
    };
    let (host, port) = split_authority(&authority)?;
    let path = Field { name: "target name", ..rest.part(slash + 1..rest.range.end) };
    let (name, lun) = path.cut("target name", '/');
    let lun = Field { name: "LUN", ..lun.unwrap_or(path.part(path.range.end..path.range.end)) };
    let decoded = percent_decode(name.str())
        .ok_or_else(|| name.error("has a % that is not followed by two hex digits", EXAMPLE_URL))?;
    // A slash at the very end is harmless.
    let lun = match lun.str().strip_suffix('/') {
        Some(stripped) => lun.part(lun.range.start..lun.range.start + stripped.len()),
        None => lun,
    };
    if !lun.str().bytes().all(|byte| byte.is_ascii_digit()) {
        return Err(lun.error("must be a decimal number", EXAMPLE_URL));
    }
    let (lun, other_lun) = parse_lun(&lun, true)?;
    Ok(RootPath {
        server: Some(host),
        port,
        lun,
        other_lun,
        target: parse_name(&name, &decoded, EXAMPLE_URL)?,
    })
}

impl Portal {
    /// Reads `host`, `host:port`, `[IPv6]`, `[IPv6]:port`, with or without `iscsi://` before it.
    pub fn parse(text: &str) -> Result<Portal, RootPathError> {
        let text = text.trim_matches(is_padding);
        let mut whole = Field { name: "server", text, range: 0..text.len() };
        if text.len() > TEXT_MAX || text.contains(char::is_control) {
            return Err(whole.error("must be an address or a host name", EXAMPLE_PORTAL));
        }
        if let Ok(address) = text.parse::<Ipv6Addr>() {
            return Ok(Portal { host: Host::V6 { address, zone: None }, port: DEFAULT_PORT });
        }
        if let Some(rest) = strip_prefix_ignore_case(text, "iscsi://") {
            whole.range = text.len() - rest.len()
                ..text.trim_end_matches('/').len().max(text.len() - rest.len());
        }
        let (host, port) = split_authority(&whole)?;
        Ok(Portal { host, port })
    }
}

const EXAMPLE_PORTAL: &str = "192.0.2.1:3260";

/// `host[:port]`, where the host must be there.
fn split_authority(authority: &Field<'_>) -> Result<(Host, u16), RootPathError> {
    let (host, port) = authority.cut("server", ':');
    let port = Field {
        name: "port",
        ..port.unwrap_or(authority.part(authority.range.end..authority.range.end))
    };
    if port.str().contains(':') {
        return Err(authority.error("must have an IPv6 address in brackets", EXAMPLE_URL));
    }
    match parse_host(&host)? {
        Some(parsed) => Ok((parsed, parse_port(&port)?)),
        None => Err(host.error("must not be empty in a URL", EXAMPLE_URL)),
    }
}

fn parse_host(field: &Field<'_>) -> Result<Option<Host>, RootPathError> {
    let text = field.str();
    if text.is_empty() {
        return Ok(None);
    }
    if let Some(bracketed) = text.strip_prefix('[') {
        let inner = bracketed.strip_suffix(']').unwrap_or("");
        // In a URL the percent sign is itself encoded (RFC 6874 §2).
        let (address, zone) = match inner.split_once('%') {
            Some((address, zone)) => (address, Some(zone.strip_prefix("25").unwrap_or(zone))),
            None => (inner, None),
        };
        let zone_is_sound = zone.is_none_or(|zone| !zone.is_empty() && is_host_name(zone));
        return match address.parse() {
            Ok(address) if zone_is_sound => {
                Ok(Some(Host::V6 { address, zone: zone.map(Box::from) }))
            }
            _ => Err(field.error("must be an IPv6 address between [ and ]", EXAMPLE_V6)),
        };
    }
    if let Ok(address) = text.parse() {
        return Ok(Some(Host::V4(address)));
    }
    if text.bytes().all(|byte| byte.is_ascii_digit() || byte == b'.') {
        return Err(field.error(
            "must be a complete IPv4 address, an IPv6 address in brackets, or a host name",
            EXAMPLE,
        ));
    }
    // A host that is called like a target could not be told from one in RFC 4173's text.
    if !is_host_name(text) || has_name_type(text) {
        return Err(field.error("must be an address or a host name", EXAMPLE));
    }
    Ok(Some(Host::Name(text.into())))
}

const EXAMPLE_V6: &str = "iscsi:[2001:db8::1]:6:3260:0:iqn.2004-10.example:root";

fn is_host_name(text: &str) -> bool {
    text.len() <= 253
        && text.bytes().all(|byte| byte.is_ascii_alphanumeric() || b"-._".contains(&byte))
        && !text.starts_with('.')
        && !text.contains("..")
}

fn parse_port(field: &Field<'_>) -> Result<u16, RootPathError> {
    match field.str() {
        // iPXE takes 0 for "not given"; menus made for it write that.
        "" | "0" => Ok(DEFAULT_PORT),
        text => match text.parse::<u16>() {
            Ok(port) if text.bytes().all(|byte| byte.is_ascii_digit()) && port > 0 => Ok(port),
            _ => Err(field.error("must be a number from 1 to 65535", EXAMPLE)),
        },
    }
}

/// The LUN, and the LUN that the other radix gives for the same text if it differs.
fn parse_lun(field: &Field<'_>, decimal: bool) -> Result<(u64, Option<u64>), RootPathError> {
    let text = field.str();
    if text.is_empty() {
        return Ok((0, None));
    }
    let hex = parse_lun_groups(text);
    if !text.bytes().all(|byte| byte.is_ascii_digit()) {
        // Letters or hyphens: hexadecimal in every dialect.
        return hex.map(|lun| (lun, None)).ok_or_else(|| {
            field.error(
                "must be one to four groups of up to four hex digits, like 1 or 4186-9",
                EXAMPLE,
            )
        });
    }
    let number = text.parse::<u16>().ok().and_then(lun_from_number);
    let (mine, other) = if decimal { (number, hex) } else { (hex, number) };
    let rule = if decimal {
        "must be a number from 0 to 16383, or hex groups like 4186-9"
    } else {
        "must be one to four groups of up to four hex digits, like 1 or 4186-9"
    };
    let lun = mine.ok_or_else(|| field.error(rule, EXAMPLE))?;
    Ok((lun, other.filter(|other| *other != lun)))
}

/// Four 16-bit groups; leading zeroes of a group and trailing zero groups may be absent.
fn parse_lun_groups(text: &str) -> Option<u64> {
    let mut lun = 0;
    for (index, group) in text.split('-').enumerate() {
        let is_hex = group.bytes().all(|byte| byte.is_ascii_hexdigit());
        if index >= 4 || group.is_empty() || group.len() > 4 || !is_hex {
            return None;
        }
        lun |= u64::from_str_radix(group, 16).ok()? << (48 - 16 * index);
    }
    Some(lun)
}

/// The LUN field for the number that people give a LUN: peripheral device addressing up to 255,
/// flat space addressing up to 16383 (SAM-5 §4.7.7), which is what targets do.
pub fn lun_from_number(number: u16) -> Option<u64> {
    match number {
        0..=0x00ff => Some(u64::from(number) << 48),
        0x0100..=0x3fff => Some(u64::from(number | 0x4000) << 48),
        _ => None,
    }
}

fn parse_name(
    field: &Field<'_>,
    text: &str,
    example: &'static str,
) -> Result<IscsiName, RootPathError> {
    IscsiName::parse(text).map_err(|malformed| field.error(malformed.rule, example))
}

impl IscsiName {
    /// Checks type and length, and that the name can stand in a login text. Letters outside of
    /// RFC 3722 (capitals, `_`, `@`) pass: there are targets that use them.
    pub fn parse(text: &str) -> Result<IscsiName, Malformed> {
        let fail = |rule| Err(Malformed::text("iSCSI name", "name", text.as_bytes(), rule));
        let hex_digits =
            |tail: &str| tail.bytes().all(|byte| byte.is_ascii_hexdigit()).then_some(tail.len());
        if text.len() > 223 {
            return fail("must be at most 223 bytes long");
        }
        if text.contains(|c: char| c.is_control() || c.is_whitespace() || "/\"\\,;".contains(c)) {
            return fail("must not have blanks, quotes, commas or slashes");
        }
        if let Some(tail) = strip_prefix_ignore_case(text, "iqn.") {
            if tail.is_empty() {
                return fail("must go on after iqn. with a date and a domain");
            }
        } else if let Some(tail) = strip_prefix_ignore_case(text, "eui.") {
            if hex_digits(tail) != Some(16) {
                return fail("must have 16 hex digits after eui.");
            }
        } else if let Some(tail) = strip_prefix_ignore_case(text, "naa.") {
            if !matches!(hex_digits(tail), Some(16 | 32)) {
                return fail("must have 16 or 32 hex digits after naa.");
            }
        } else {
            return fail("must begin with iqn., eui. or naa.");
        }
        Ok(IscsiName(text.into()))
    }

    /// The name as it goes into a login.
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

/// A part of the text that is being read.
#[derive(Clone)]
struct Field<'a> {
    name: &'static str,
    text: &'a str,
    range: Range<usize>,
}

impl<'a> Field<'a> {
    fn str(&self) -> &'a str {
        &self.text[self.range.clone()]
    }

    fn part(&self, range: Range<usize>) -> Field<'a> {
        Field { name: self.name, text: self.text, range }
    }

    /// Cuts at the first separator that is not inside brackets.
    fn cut(&self, name: &'static str, separator: char) -> (Field<'a>, Option<Field<'a>>) {
        let mut in_brackets = false;
        for (at, c) in self.str().char_indices() {
            match c {
                '[' => in_brackets = true,
                ']' => in_brackets = false,
                _ if c == separator && !in_brackets => {
                    let at = self.range.start + at;
                    let rest = self.part(at + separator.len_utf8()..self.range.end);
                    return (Field { name, ..self.part(self.range.start..at) }, Some(rest));
                }
                _ => {}
            }
        }
        (Field { name, ..self.clone() }, None)
    }

    fn error(&self, rule: &'static str, example: &'static str) -> RootPathError {
        let (shown, hidden) = show(self.text);
        // Bytes before the field, and in it, as characters of what is shown.
        let column_of = |byte: usize| match &hidden {
            Some(hidden) if byte >= hidden.end => {
                self.text[..hidden.start].chars().count()
                    + MASK.len()
                    + self.text[hidden.end..byte].chars().count()
            }
            Some(hidden) if byte > hidden.start => self.text[..hidden.start].chars().count(),
            _ => self.text[..byte].chars().count(),
        };
        let column = column_of(self.range.start);
        let width = column_of(self.range.end).saturating_sub(column).max(1);
        let overlaps = hidden
            .is_some_and(|hidden| hidden.start < self.range.end && self.range.start < hidden.end);
        let value = if overlaps { MASK } else { self.str() };
        RootPathError {
            malformed: Malformed::text(THING, self.name, value.as_bytes(), rule),
            shown: shown.into(),
            column,
            width,
            example,
        }
    }
}

/// Cuts off a field of RFC 4173 that must be there, together with the colon behind it.
fn cut_required<'a>(
    rest: Field<'a>,
    name: &'static str,
) -> Result<(Field<'a>, Field<'a>), RootPathError> {
    let (field, rest) = rest.cut(name, ':');
    match rest {
        Some(rest) if !has_name_type(field.str()) => Ok((field, rest)),
        _ => Err(field.error(
            "is not a full set of fields: four colons stand before the target name",
            EXAMPLE,
        )),
    }
}

fn has_name_type(text: &str) -> bool {
    ["iqn.", "eui.", "naa."].iter().any(|kind| strip_prefix_ignore_case(text, kind).is_some())
}

/// The first place from `from` on where a target name begins: the index of the separator before it.
fn find_name(text: &str, from: usize) -> Option<usize> {
    let tail = text.get(from..)?;
    let found = tail.match_indices([':', '/']).find(|(at, _)| has_name_type(&tail[at + 1..]));
    found.map(|(at, _)| from + at)
}

/// Where credentials in the text end: the last `@` before a target name. An `@` in the target name
/// itself is none; without a name every `@` is suspected.
fn credentials_end(text: &str) -> Option<usize> {
    let has_name = find_name(text, 0).is_some();
    let mut ends = text.rmatch_indices('@').map(|(at, _)| at);
    ends.find(|at| !has_name || find_name(text, *at).is_some())
}

/// The text as it may be shown, and the range of its bytes that the mask replaces.
fn show(text: &str) -> (String, Option<Range<usize>>) {
    let scheme = strip_prefix_ignore_case(text, "iscsi:").map_or(0, |rest| text.len() - rest.len());
    let hidden = credentials_end(text).filter(|end| *end > scheme).map(|end| scheme..end);
    let clean = match &hidden {
        Some(hidden) => [&text[..hidden.start], MASK, &text[hidden.end..]].concat(),
        None => text.to_owned(),
    };
    let clean = clean.chars().take(TEXT_MAX);
    (clean.map(|c| if c.is_control() { '\u{fffd}' } else { c }).collect(), hidden)
}

const MASK: &str = "***";

/// A text with credentials taken out of it, for messages: `iscsi:***@192.0.2.1::::iqn.x:y`.
pub fn without_credentials(text: &str) -> String {
    show(text).0
}

fn looks_like_ipv6_group(text: &str) -> bool {
    (1..=4).contains(&text.len()) && text.bytes().all(|byte| byte.is_ascii_hexdigit())
}

fn is_padding(c: char) -> bool {
    c == '\0' || c.is_ascii_whitespace()
}

fn strip_prefix_ignore_case<'a>(text: &'a str, prefix: &str) -> Option<&'a str> {
    let head = text.get(..prefix.len())?;
    head.eq_ignore_ascii_case(prefix).then(|| &text[prefix.len()..])
}

/// Undoes %xx (RFC 3986 §2.1).
fn percent_decode(text: &str) -> Option<String> {
    let mut decoded = Vec::with_capacity(text.len());
    let mut bytes = text.bytes();
    while let Some(byte) = bytes.next() {
        if byte != b'%' {
            decoded.push(byte);
            continue;
        }
        let high = char::from(bytes.next()?).to_digit(16)?;
        let low = char::from(bytes.next()?).to_digit(16)?;
        decoded.push((high << 4 | low) as u8);
    }
    String::from_utf8(decoded).ok()
}

impl fmt::Display for RootPath {
    /// The canonical text of RFC 4173, every field spelled out so that each reader takes it alike.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("iscsi:")?;
        if let Some(server) = &self.server {
            write!(f, "{server}")?;
        }
        write!(f, ":6:{}:{:x}", self.port, self.lun >> 48)?;
        let mut rest = self.lun << 16;
        while rest != 0 {
            write!(f, "-{:x}", rest >> 48)?;
            rest <<= 16;
        }
        write!(f, ":{}", self.target)
    }
}

impl fmt::Display for Host {
    /// With brackets around IPv6, as in a URL.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Host::V4(address) => write!(f, "{address}"),
            Host::V6 { address, zone: None } => write!(f, "[{address}]"),
            Host::V6 { address, zone: Some(zone) } => write!(f, "[{address}%{zone}]"),
            Host::Name(name) => f.write_str(name),
        }
    }
}

impl Host {
    /// The address, if it is one and not a name.
    pub fn address(&self) -> Option<IpAddr> {
        match self {
            Host::V4(address) => Some(IpAddr::V4(*address)),
            Host::V6 { address, .. } => Some(IpAddr::V6(*address)),
            Host::Name(_) => None,
        }
    }
}

impl fmt::Display for Portal {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}:{}", self.host, self.port)
    }
}

impl fmt::Display for IscsiName {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

impl fmt::Display for RootPathError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let marks_max = self.shown.chars().count().saturating_sub(self.column).max(1);
        writeln!(f, "{}", self.malformed)?;
        writeln!(f, "  {}", self.shown)?;
        writeln!(
            f,
            "  {:column$}{:^<width$}",
            "",
            "",
            column = self.column,
            width = self.width.min(marks_max)
        )?;
        write!(f, "  example: {}", self.example)
    }
}

impl std::error::Error for RootPathError {}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::Dialect::{Netroot, Rfc4173};
    use super::*;

    /// What a text must give: canonical text, or the field that the error names.
    type Row = (&'static str, Dialect, Result<&'static str, &'static str>);

    /// The vectors that were measured with the peers (each line: the reading of a human, or an
    /// error), then our own.
    #[rustfmt::skip]
    const TABLE: &[Row] = &[
        ("iscsi:192.168.50.1::::iqn.2009-06.dracut:target0", Netroot, Ok("iscsi:192.168.50.1:6:3260:0:iqn.2009-06.dracut:target0")),
        ("iscsi:192.168.50.1:6:3261:2:iqn.2009-06.dracut:a:b:c", Netroot, Ok("iscsi:192.168.50.1:6:3261:2:iqn.2009-06.dracut:a:b:c")),
        ("iscsi:192.168.50.1:6:3261:2:iqn.2009-06.dracut:a::c", Netroot, Ok("iscsi:192.168.50.1:6:3261:2:iqn.2009-06.dracut:a::c")),
        ("iscsi:u:p@192.168.50.1::::iqn.2009-06.dracut:t", Netroot, Err("credentials")),
        ("iscsi:u:p:ru:rp@192.168.50.1::::iqn.2009-06.dracut:t", Netroot, Err("credentials")),
        ("iscsi:a:b:c:d:e@192.168.50.1::::iqn.2009-06.dracut:t", Netroot, Err("credentials")),
        ("iscsi:u:p@ss@192.168.50.1::::iqn.2009-06.dracut:t", Netroot, Err("credentials")),
        ("iscsi:192.168.50.1::::iqn.2009-06.dracut:t@x", Netroot, Ok("iscsi:192.168.50.1:6:3260:0:iqn.2009-06.dracut:t@x")),
        ("iscsi:@192.168.50.1::::iqn.2009-06.dracut:t@x", Netroot, Ok("iscsi:192.168.50.1:6:3260:0:iqn.2009-06.dracut:t@x")),
        ("iscsi:[2001:DB8::1]::::iqn.2009-06.dracut:t", Netroot, Ok("iscsi:[2001:db8::1]:6:3260:0:iqn.2009-06.dracut:t")),
        ("iscsi:u:p@[2001:DB8::1]::3260:1:iqn.2009-06.dracut:t", Netroot, Err("credentials")),
        ("iscsi:[fe80::1%eth0]:::1:iqn.2009-06.x:y", Netroot, Ok("iscsi:[fe80::1%eth0]:6:3260:1:iqn.2009-06.x:y")),
        ("iscsi:2001:db8::1:::1:iqn.2009-06.x:y", Netroot, Err("server")),
        ("iscsi:192.168.50.1::3260:eth0:1:iqn.2009-06.dracut:t", Netroot, Ok("iscsi:192.168.50.1:6:3260:1:iqn.2009-06.dracut:t")),
        ("iscsi:192.168.50.1::3260:if0:eth0:1:iqn.2009-06.dracut:t", Netroot, Ok("iscsi:192.168.50.1:6:3260:1:iqn.2009-06.dracut:t")),
        ("iscsi:192.168.50.1:::::1:iqn.2009-06.dracut:t", Netroot, Ok("iscsi:192.168.50.1:6:3260:1:iqn.2009-06.dracut:t")),
        ("iscsi:192.168.50.1:17::4752-3A4F-6b7e-2F99:iqn.2009-06.dracut:t", Netroot, Err("protocol")),
        ("iscsi:192.168.50.1:6::4752-3A4F-6b7e-2F99:iqn.2009-06.dracut:t", Netroot, Ok("iscsi:192.168.50.1:6:3260:4752-3a4f-6b7e-2f99:iqn.2009-06.dracut:t")),
        ("iscsi:10.0.0.1::3260:a:iqn.2009-06.x:y", Netroot, Ok("iscsi:10.0.0.1:6:3260:a:iqn.2009-06.x:y")),
        ("iscsi:10.0.0.1::3260:10:iqn.2009-06.x:y", Netroot, Ok("iscsi:10.0.0.1:6:3260:a:iqn.2009-06.x:y")),
        ("iscsi:10.0.0.1::3260:10:iqn.2009-06.x:y", Rfc4173, Ok("iscsi:10.0.0.1:6:3260:10:iqn.2009-06.x:y")),
        ("iscsi:10.0.0.1::3260:1:iqn.2009-06.x:my_disk", Netroot, Ok("iscsi:10.0.0.1:6:3260:1:iqn.2009-06.x:my_disk")),
        ("iscsi:10.0.0.1:tcp:3260:1:iqn.2009-06.x:y", Netroot, Ok("iscsi:10.0.0.1:6:3260:1:iqn.2009-06.x:y")),
        ("iscsi:192.168.50.1::::eui.02004567A425678D", Netroot, Ok("iscsi:192.168.50.1:6:3260:0:eui.02004567A425678D")),
        ("iscsi:192.168.50.1::::IQN.2009-06.dracut:t", Netroot, Ok("iscsi:192.168.50.1:6:3260:0:IQN.2009-06.dracut:t")),
        ("iscsi:192.168.50.1:::1:plain", Netroot, Err("target name")),
        ("iscsi:host::::iqn.a.b:iqn.c.d:y", Netroot, Ok("iscsi:host:6:3260:0:iqn.a.b:iqn.c.d:y")),
        ("iscsi:::::iqn.2009-06.dracut:t", Netroot, Ok("iscsi::6:3260:0:iqn.2009-06.dracut:t")),
        ("iscsi:192.168.50.1:::iqn.2009", Netroot, Err("LUN")),
        ("iscsi:10.0.0.1:iqn.2009-06.x:y", Netroot, Err("protocol")),
        ("iscsi:", Netroot, Err("server")),
        ("iscsi", Netroot, Err("text")),
        // RFC 4173 to the letter.
        ("iscsi:192.168.50.1:6:3260:6734-9-156f-127:iqn.2009-06.x:y", Rfc4173, Ok("iscsi:192.168.50.1:6:3260:6734-9-156f-127:iqn.2009-06.x:y")),
        ("iscsi:192.168.50.1:6:3260:4186-9:iqn.2009-06.x:y", Rfc4173, Ok("iscsi:192.168.50.1:6:3260:4186-9:iqn.2009-06.x:y")),
        ("iscsi:192.168.50.1:6:3260:0001-0000-0000-0000:iqn.2009-06.x:y", Rfc4173, Ok("iscsi:192.168.50.1:6:3260:1:iqn.2009-06.x:y")),
        ("iscsi:192.168.50.1:6:3260:0-0-0-7:iqn.2009-06.x:y", Rfc4173, Ok("iscsi:192.168.50.1:6:3260:0-0-0-7:iqn.2009-06.x:y")),
        ("ISCSI:storage.example::::iqn.2009-06.x:y", Rfc4173, Ok("iscsi:storage.example:6:3260:0:iqn.2009-06.x:y")),
        ("iscsi:192.168.50.1::::iqn.2009-06.x:y\0\0", Rfc4173, Ok("iscsi:192.168.50.1:6:3260:0:iqn.2009-06.x:y")),
        (" iscsi:192.168.50.1::0::iqn.2009-06.x:y\n", Rfc4173, Ok("iscsi:192.168.50.1:6:3260:0:iqn.2009-06.x:y")),
        ("iscsi:192.168.50.1::::naa.52004567BA64678D", Rfc4173, Ok("iscsi:192.168.50.1:6:3260:0:naa.52004567BA64678D")),
        ("iscsi:192.168.50.1::::naa.62004567BA64678D0123456789ABCDEF", Rfc4173, Ok("iscsi:192.168.50.1:6:3260:0:naa.62004567BA64678D0123456789ABCDEF")),
        ("iscsi:192.168.50.1::::naa.12", Rfc4173, Err("target name")),
        ("iscsi:192.168.50.1::::eui.02004567A425678G", Rfc4173, Err("target name")),
        ("iscsi:192.168.50.1::::iqn.", Rfc4173, Err("target name")),
        ("iscsi:192.168.50.1::::iqn.2009-06.x:my disk", Rfc4173, Err("target name")),
        ("iscsi:192.168.50.1::::iqm.2009-06.x:y", Rfc4173, Err("target name")),
        ("iscsi:192.168.50.1::3260:eth0:1:iqn.2009-06.x:y", Rfc4173, Err("LUN")),
        ("iscsi:192.168.50.1:::1-2-3-4-5:iqn.2009-06.x:y", Rfc4173, Err("LUN")),
        ("iscsi:192.168.50.1:::12345:iqn.2009-06.x:y", Rfc4173, Err("LUN")),
        ("iscsi:192.168.50.1:::1--2:iqn.2009-06.x:y", Rfc4173, Err("LUN")),
        ("iscsi:192.168.50.1:::0x1:iqn.2009-06.x:y", Rfc4173, Err("LUN")),
        ("iscsi:192.168.50.1:::255:iqn.2009-06.x:y", Netroot, Ok("iscsi:192.168.50.1:6:3260:ff:iqn.2009-06.x:y")),
        ("iscsi:192.168.50.1:::256:iqn.2009-06.x:y", Netroot, Ok("iscsi:192.168.50.1:6:3260:4100:iqn.2009-06.x:y")),
        ("iscsi:192.168.50.1:::16384:iqn.2009-06.x:y", Netroot, Err("LUN")),
        ("iscsi:192.168.50.1::65536::iqn.2009-06.x:y", Rfc4173, Err("port")),
        ("iscsi:192.168.50.1::+80::iqn.2009-06.x:y", Rfc4173, Err("port")),
        ("iscsi:192.168.50.1::iscsi::iqn.2009-06.x:y", Rfc4173, Err("port")),
        ("iscsi:192.168.50.300::::iqn.2009-06.x:y", Rfc4173, Err("server")),
        ("iscsi:192.168.50::::iqn.2009-06.x:y", Rfc4173, Err("server")),
        ("iscsi:ho st::::iqn.2009-06.x:y", Rfc4173, Err("server")),
        ("iscsi:[2001:db8::1::::iqn.2009-06.x:y", Rfc4173, Err("server")),
        ("iscsi:[192.168.50.1]::::iqn.2009-06.x:y", Rfc4173, Err("server")),
        ("iscsi:[fe80::1%]::::iqn.2009-06.x:y", Rfc4173, Err("server")),
        ("iscsi:fd00:db8::1:::1:iqn.2009-06.x:y", Netroot, Err("protocol")),
        ("iscsi:fe80::1::::iqn.2009-06.x:y", Netroot, Err("LUN")),
        ("192.168.50.1:/srv/nfs", Rfc4173, Err("text")),
        ("", Rfc4173, Err("text")),
        ("iscsi:192.168.50.1:\u{7}:::iqn.2009-06.x:y", Rfc4173, Err("text")),
        // The URL form.
        ("iscsi://192.0.2.1/iqn.2009-06.x:y/1", Rfc4173, Ok("iscsi:192.0.2.1:6:3260:1:iqn.2009-06.x:y")),
        ("iscsi://192.0.2.1/iqn.2009-06.x:y/10", Rfc4173, Ok("iscsi:192.0.2.1:6:3260:a:iqn.2009-06.x:y")),
        ("iscsi://192.0.2.1:3261/iqn.2009-06.x:y", Rfc4173, Ok("iscsi:192.0.2.1:6:3261:0:iqn.2009-06.x:y")),
        ("iscsi://192.0.2.1:3261/iqn.2009-06.x:y/", Rfc4173, Ok("iscsi:192.0.2.1:6:3261:0:iqn.2009-06.x:y")),
        ("iscsi://192.0.2.1:3261/iqn.2009-06.x:y/3/", Rfc4173, Ok("iscsi:192.0.2.1:6:3261:3:iqn.2009-06.x:y")),
        ("iscsi://[2001:db8::1]:3261/iqn.2009-06.x:y/1", Rfc4173, Ok("iscsi:[2001:db8::1]:6:3261:1:iqn.2009-06.x:y")),
        ("iscsi://[fe80::1%25eth0]/iqn.2009-06.x:y/1", Rfc4173, Ok("iscsi:[fe80::1%eth0]:6:3260:1:iqn.2009-06.x:y")),
        ("iscsi://storage/iqn.2009-06.x%3ay/1", Rfc4173, Ok("iscsi:storage:6:3260:1:iqn.2009-06.x:y")),
        ("iscsi://2001:db8::1/iqn.2009-06.x:y/1", Rfc4173, Err("server")),
        ("iscsi:///iqn.2009-06.x:y/1", Rfc4173, Err("server")),
        ("iscsi://192.0.2.1", Rfc4173, Err("target name")),
        ("iscsi://192.0.2.1/", Rfc4173, Err("target name")),
        ("iscsi://192.0.2.1:port/iqn.2009-06.x:y/1", Rfc4173, Err("port")),
        ("iscsi://192.0.2.1/iqn.2009-06.x:y/a", Rfc4173, Err("LUN")),
        ("iscsi://192.0.2.1/iqn.2009-06.x:y/1/2", Rfc4173, Err("LUN")),
        ("iscsi://192.0.2.1/iqn.2009-06.x%3/1", Rfc4173, Err("target name")),
        ("iscsi://192.0.2.1/iqn.2009-06.x%ff/1", Rfc4173, Err("target name")),
        ("iscsi://192.0.2.1/iqn.2009-06.x:y/1?header_digest=crc32c", Rfc4173, Err("options")),
        ("iscsi://user%secret@192.0.2.1/iqn.2009-06.x:y/1", Rfc4173, Err("credentials")),
    ];

    #[test]
    fn each_text_gives_its_one_reading_or_names_the_field() {
        for (text, dialect, expected) in TABLE {
            let result = RootPath::parse(text, *dialect);
            match (&result, expected) {
                (Ok(path), Ok(canonical)) => assert_eq!(path.to_string(), *canonical, "{text}"),
                (Err(error), Err(field)) => assert_eq!(error.malformed.field, *field, "{text}"),
                _ => panic!("{text}: got {result:?}, expected {expected:?}"),
            }
        }
    }

    #[test]
    fn an_error_shows_the_text_with_a_marker_and_an_example() {
        let error = RootPath::parse("iscsi:192.0.2.1::99999:1:iqn.2004-10.example:root", Rfc4173);
        assert_eq!(
            error.unwrap_err().to_string(),
            "root path: port \"99999\": must be a number from 1 to 65535\n\
            \x20 iscsi:192.0.2.1::99999:1:iqn.2004-10.example:root\n\
            \x20                  ^^^^^\n\
            \x20 example: iscsi:192.0.2.1:6:3260:0:iqn.2004-10.example:root"
        );
    }

    #[test]
    fn a_password_is_never_shown() {
        for text in [
            "iscsi:user:geheim@192.0.2.1::::iqn.2004-10.example:root",
            "iscsi:user:geheim@192.0.2.1::99999::iqn.2004-10.example:root",
            "iscsi:user:gehe@geheim@192.0.2.1",
            "iscsi:user:x:iqn.geheim@192.0.2.1::::iqn.2004-10.example:root",
            "iscsi://user%geheim@192.0.2.1/iqn.2004-10.example:root/0",
            "iscsi://user:geheim@",
            "user:geheim@192.0.2.1",
            "iscsi:user:geheim@192.0.2.1::::iqn.2004-10.example:\u{1}",
        ] {
            for dialect in [Rfc4173, Netroot] {
                let error = RootPath::parse(text, dialect).unwrap_err();
                assert!(!error.to_string().contains("geheim"), "{error}");
                assert!(!format!("{error:?}").contains("geheim"), "{error:?}");
            }
            assert!(!without_credentials(text).contains("geheim"));
        }
        let error = RootPath::parse("iscsi:u:geheim@[::1]::::iqn.2004-10.x:y", Rfc4173);
        let error = error.unwrap_err().to_string();
        assert!(error.contains("\n  iscsi:***@[::1]::::iqn.2004-10.x:y\n        ^^^\n"), "{error}");
    }

    #[test]
    fn the_reading_of_the_other_radix_is_remembered() {
        let text = "iscsi:192.0.2.1:::10:iqn.2004-10.example:root";
        let rfc = RootPath::parse(text, Rfc4173).unwrap();
        assert_eq!((rfc.lun, rfc.other_lun), (0x0010 << 48, Some(0x000a << 48)));
        let netroot = RootPath::parse(text, Netroot).unwrap();
        assert_eq!((netroot.lun, netroot.other_lun), (0x000a << 48, Some(0x0010 << 48)));
        let same = RootPath::parse(&text.replace("10:iqn", "9:iqn"), Netroot).unwrap();
        assert_eq!((same.lun, same.other_lun), (0x0009 << 48, None));
    }

    #[test]
    fn bytes_from_dhcp_may_be_anything() {
        let good = b"iscsi:192.0.2.1::::iqn.2004-10.example:root\0";
        assert!(RootPath::parse_bytes(good, Rfc4173).is_ok());
        let error = RootPath::parse_bytes(b"iscsi:\xff\xfe", Rfc4173).unwrap_err();
        assert_eq!(error.malformed.field, "text");
        assert!(RootPath::parse(&"iscsi:".repeat(1000), Rfc4173).is_err());
        assert!(RootPath::is_iscsi("ISCSI:x") && !RootPath::is_iscsi("192.0.2.1:/nfs"));
    }

    #[test]
    fn a_name_has_at_most_223_bytes() {
        let name = |length: usize| format!("iqn.{}", "x".repeat(length - 4));
        assert!(IscsiName::parse(&name(223)).is_ok());
        assert!(IscsiName::parse(&name(224)).is_err());
    }

    #[test]
    fn a_server_is_not_called_like_a_target() {
        let error = RootPath::parse("iscsi://iqn./iqn.2026-11.example:root", Netroot).unwrap_err();
        assert_eq!(error.malformed.field, "server");
    }

    #[test]
    fn a_portal_is_a_host_with_or_without_port() {
        for (text, expected) in [
            ("192.0.2.1", "192.0.2.1:3260"),
            ("storage:3261", "storage:3261"),
            ("[2001:db8::1]:3261", "[2001:db8::1]:3261"),
            ("2001:db8::1", "[2001:db8::1]:3260"),
            ("iscsi://192.0.2.1:3261/", "192.0.2.1:3261"),
        ] {
            assert_eq!(Portal::parse(text).unwrap().to_string(), expected);
        }
        for text in ["", "iscsi://", ":3260", "host:0x1", "ho/st", "a b", "iscsi:///"] {
            assert!(Portal::parse(text).is_err(), "{text}");
        }
    }

    proptest! {
        #[test]
        fn any_text_gives_a_value_or_an_error(text in ".{0,80}", head in "(iscsi:|iscsi://|)") {
            for dialect in [Rfc4173, Netroot] {
                if let Err(error) = RootPath::parse(&format!("{head}{text}"), dialect) {
                    let _ = error.to_string();
                }
            }
            let _ = Portal::parse(&text).map_err(|error| error.to_string());
        }

        #[test]
        fn words_of_the_grammar_in_any_order(words in proptest::collection::vec(
            proptest::sample::select(vec![
                "iscsi:", ":", "/", "@", "[", "]", "%", "iqn.", "::", "1", "a", "eui.", "é", "//",
                "2001:db8::1", "192.0.2.1", "0x", "\0", "-", "?",
            ]), 0..16)) {
            for dialect in [Rfc4173, Netroot] {
                if let Err(error) = RootPath::parse(&words.concat(), dialect) {
                    let _ = error.to_string();
                }
            }
        }

        #[test]
        fn any_bytes_give_a_value_or_an_error(
            bytes in proptest::collection::vec(any::<u8>(), 0..64),
        ) {
            let _ = RootPath::parse_bytes(&bytes, Rfc4173).map_err(|error| error.to_string());
        }

        #[test]
        fn canonical_text_reads_back(
            host in "(|192\\.0\\.2\\.[1-9]|[a-z]{1,8}|\\[2001:db8::[1-9]\\])", port in 1u16..,
            lun in any::<u64>(), name in "iqn\\.2004-10\\.[a-z]{1,8}:[a-z0-9:._@-]{0,20}",
        ) {
            let field = Field { name: "server", text: &host, range: 0..host.len() };
            let path = RootPath {
                server: parse_host(&field).unwrap(),
                port, lun, other_lun: None, target: IscsiName::parse(&name).unwrap(),
            };
            let read = RootPath::parse(&path.to_string(), Rfc4173).unwrap();
            prop_assert_eq!(RootPath { other_lun: None, ..read }, path);
        }
    }
}
