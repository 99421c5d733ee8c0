//! `ip=` in the forms of the kernel and klibc (`nfsroot.rst`) and of dracut (`dracut.cmdline(7)`).
//!
//! ```text
//! ip=dhcp                         every interface
//! ip=eth0                         DHCP there (klibc)
//! ip=eth0:dhcp[:[mtu][:mac]]      DHCP there (dracut)
//! ip=client:server:gateway:mask:host:device:method[:dns0[:dns1[:ntp]]]
//! ip=client:server:gateway:mask:host:device:method[:[mtu][:mac]]
//! ```
//!
//! The mask may be a prefix length. A static address without one is refused: the dialects guess
//! three different ones. IPv6 addresses stand in brackets.

use std::fmt;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

/// What one `ip=` asks for.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct IpArgument {
    /// Where; `None` is any interface.
    pub device: Option<Device>,
    /// How it gets its address.
    pub method: Method,
    /// The storage or boot server, if the third dialect's "peer" or the kernel's "server" is given.
    pub server: Option<IpAddr>,
    /// Our host name.
    pub hostname: Option<String>,
    /// Name servers.
    pub nameservers: Vec<IpAddr>,
    /// Link MTU in bytes.
    pub mtu: Option<u16>,
    /// The hardware address to set.
    pub mac: Option<Mac>,
}

/// How an interface is named.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Device {
    /// By its kernel name, at most 15 bytes.
    Name(String),
    /// By its hardware address.
    Mac(Mac),
}

/// How an interface gets its address.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Method {
    /// Ask DHCP.
    Dhcp,
    /// Use this.
    Static {
        /// Our address.
        address: IpAddr,
        /// Length of its prefix in bits.
        prefix_length: u8,
        /// The default router.
        gateway: Option<IpAddr>,
    },
    /// Leave it alone.
    Off,
}

/// A hardware address of Ethernet.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct Mac(pub [u8; 6]);

impl IpArgument {
    /// Reads what stands after `ip=`; the error names the field, its value and the rule.
    pub fn parse(text: &str) -> Result<IpArgument, String> {
        let fields = split_fields(text);
        match fields.as_slice() {
            [] | [""] => Err("must have a value: ip=dhcp".into()),
            [word] => parse_word(word),
            [device, method, rest @ ..] if is_short(device, method, rest) => {
                let method = match Autoconf::parse(method)? {
                    Autoconf::Off => Method::Off,
                    // `ip=eth0:` with nothing behind it means what `ip=eth0` means.
                    Autoconf::Any | Autoconf::Dhcp => Method::Dhcp,
                };
                let mut argument = IpArgument::new(method);
                argument.device = parse_device(device)?;
                argument.take_link(rest)?;
                Ok(argument)
            }
            _ => parse_long(&fields),
        }
    }

    fn new(method: Method) -> IpArgument {
        IpArgument {
            device: None,
            method,
            server: None,
            hostname: None,
            nameservers: Vec::new(),
            mtu: None,
            mac: None,
        }
    }

    /// dracut's `[mtu][:mac]`; the colons of the hardware address have been split as well.
    fn take_link(&mut self, fields: &[&str]) -> Result<(), String> {
        let (mtu, mac) = match fields {
            [] => return Ok(()),
            [mtu, mac @ ..] => (*mtu, mac.join(":")),
        };
        if !mtu.is_empty() {
            let bytes = mtu.parse().ok().filter(|bytes| *bytes >= 68);
            self.mtu = Some(bytes.ok_or_else(|| bad("mtu", mtu, "must be from 68 to 65535"))?);
        }
        let mac = mac.trim_end_matches(':');
        if !mac.is_empty() {
            let parsed = Mac::parse(mac);
            self.mac = Some(parsed.ok_or_else(|| bad("hardware address", mac, MAC_RULE))?);
        }
        Ok(())
    }
}

/// One word alone: a method, a device, or an address that lacks everything else.
fn parse_word(word: &str) -> Result<IpArgument, String> {
    match Autoconf::parse(word) {
        Ok(Autoconf::Off) => return Ok(IpArgument::new(Method::Off)),
        Ok(_) => return Ok(IpArgument::new(Method::Dhcp)),
        Err(error) if Autoconf::is_known(word) => return Err(error),
        Err(_) => {}
    }
    if parse_address("address", word).is_ok() {
        let rule = "needs a mask: ip=192.0.2.9::192.0.2.254:24::eth0:off";
        return Err(bad("address", word, rule));
    }
    let mut argument = IpArgument::new(Method::Dhcp);
    argument.device = parse_device(word)?;
    Ok(argument)
}

/// `device:method`, as against `client:server`: the first is no address, the second a method.
fn is_short(first: &str, second: &str, rest: &[&str]) -> bool {
    !first.is_empty()
        && parse_address("", first).is_err()
        && !first.contains('/')
        && if second.is_empty() { rest.is_empty() } else { Autoconf::is_known(second) }
}

fn parse_long(fields: &[&str]) -> Result<IpArgument, String> {
    let field = |index: usize| fields.get(index).copied().unwrap_or("");
    let address = |name, index| match field(index) {
        // The kernel writes an address that is not known as zeroes.
        "" | "0.0.0.0" => Ok(None),
        text => parse_address(name, text).map(Some),
    };
    let (client, prefix_in_client) = match field(0).trim_matches(['[', ']']).split_once('/') {
        Some((client, prefix)) => (Some(parse_address("address", client)?), prefix.to_owned()),
        None => (address("address", 0)?, String::new()),
    };
    let gateway = address("gateway", 2)?;
    let mask = if field(3).is_empty() { prefix_in_client.as_str() } else { field(3) };
    let method = match (client, Autoconf::parse(field(6))?) {
        (Some(address), Autoconf::Off | Autoconf::Any) => {
            if gateway.is_some_and(|gateway| gateway.is_ipv4() != address.is_ipv4()) {
                return Err(bad("gateway", field(2), "must be of the same family as the address"));
            }
            let prefix_length = parse_mask(mask, address)?;
            Method::Static { address, prefix_length, gateway }
        }
        (None, Autoconf::Off) => Method::Off,
        (_, Autoconf::Dhcp) | (None, Autoconf::Any) => Method::Dhcp,
    };
    let mut argument = IpArgument::new(method);
    argument.server = address("server", 1)?;
    argument.device = parse_device(field(5))?;
    let hostname = field(4);
    if hostname.len() > 64 || !hostname.bytes().all(is_host_byte) {
        return Err(bad("hostname", hostname, "must be letters, digits, - and ."));
    }
    argument.hostname = (!hostname.is_empty()).then(|| hostname.to_owned());

    let rest = fields.get(7..).unwrap_or_default();
    // A number, or a hardware address after an empty field, is dracut; addresses are the kernel.
    let is_mtu = |text: &&str| text.bytes().all(|byte| byte.is_ascii_digit());
    let is_dracut = match rest {
        [first, ..] if !first.is_empty() => is_mtu(first),
        [_, second, ..] => !second.is_empty() && parse_address("", second).is_err(),
        _ => false,
    };
    if is_dracut {
        argument.take_link(rest)?;
    } else {
        // The last of the three is a time server, of no use to us.
        for text in rest.iter().take(2).filter(|text| !matches!(**text, "" | "0.0.0.0")) {
            argument.nameservers.push(parse_address("name server", text)?);
        }
        if rest.len() > 3 {
            return Err(bad(
                "ip=",
                &rest[3..].join(":"),
                "is more than the ten fields it can have",
            ));
        }
    }
    Ok(argument)
}

#[derive(Clone, Copy)]
enum Autoconf {
    Off,
    Any,
    Dhcp,
}

impl Autoconf {
    fn parse(text: &str) -> Result<Autoconf, String> {
        // The kernel: dhcp,<id type>,<id>.
        match text.split(',').next().unwrap_or("") {
            "off" | "none" | "static" => Ok(Autoconf::Off),
            "" | "on" | "any" => Ok(Autoconf::Any),
            "dhcp" | "both" | "single-dhcp" | "either" => Ok(Autoconf::Dhcp),
            "dhcp4" => Ok(Autoconf::Dhcp),
            "dhcp6" | "auto6" | "auto" | "either6" | "link6" | "link-local" => {
                Err(bad("method", text, "is IPv6, which is not supported yet: dhcp or off"))
            }
            "bootp" | "rarp" | "ibft" | "fw" => {
                Err(bad("method", text, "is not supported: dhcp or off"))
            }
            _ => Err(bad("method", text, "must be dhcp, on, any, off, none or static")),
        }
    }

    /// True for the words of all dialects, also those that we refuse.
    fn is_known(text: &str) -> bool {
        const REFUSED: [&str; 10] = [
            "dhcp6",
            "auto6",
            "auto",
            "either6",
            "link6",
            "link-local",
            "bootp",
            "rarp",
            "ibft",
            "fw",
        ];
        let head = text.split(',').next().unwrap_or("");
        Autoconf::parse(text).is_ok() || REFUSED.contains(&head)
    }
}

/// Splits at colons that are not inside brackets.
fn split_fields(text: &str) -> Vec<&str> {
    let mut in_brackets = false;
    let separates = |c: char| {
        match c {
            '[' => in_brackets = true,
            ']' => in_brackets = false,
            _ => {}
        }
        c == ':' && !in_brackets
    };
    text.split(separates).collect()
}

fn parse_address(name: &str, text: &str) -> Result<IpAddr, String> {
    let v6 = text.strip_prefix('[').and_then(|text| text.strip_suffix(']'));
    let parsed = match v6 {
        Some(inner) => inner.parse::<Ipv6Addr>().ok().map(IpAddr::V6),
        None if text.contains(':') => text.parse::<Ipv6Addr>().ok().map(IpAddr::V6),
        None => text.parse::<Ipv4Addr>().ok().map(IpAddr::V4),
    };
    parsed.ok_or_else(|| bad(name, text, "must be an IP address (IPv6 in brackets)"))
}

/// A prefix length, or the mask of an IPv4 network.
fn parse_mask(text: &str, address: IpAddr) -> Result<u8, String> {
    let bits_max = if address.is_ipv4() { 32 } else { 128 };
    if text.is_empty() {
        return Err(bad("mask", "", "must be given with a static address: 24 or 255.255.255.0"));
    }
    if let Ok(bits) = text.parse::<u8>() {
        if (1..=bits_max).contains(&bits) {
            return Ok(bits);
        }
    } else if let (Ok(mask), IpAddr::V4(_)) = (text.parse::<Ipv4Addr>(), address) {
        let bits = u32::from(mask);
        if bits.leading_ones() + bits.trailing_zeros() == 32 && bits != 0 {
            return Ok(bits.leading_ones() as u8);
        }
    }
    Err(bad("mask", text, "must be a prefix length or a mask of leading ones"))
}

fn parse_device(text: &str) -> Result<Option<Device>, String> {
    if matches!(text, "" | "all" | "any") {
        return Ok(None);
    }
    if let Some(mac) = Mac::parse(text) {
        return Ok(Some(Device::Mac(mac)));
    }
    // What the kernel takes for a name (dev_valid_name).
    let valid = text.len() <= 15
        && !matches!(text, "." | "..")
        && text.bytes().all(|byte| byte.is_ascii_graphic() && !b"/:[]".contains(&byte));
    match valid {
        true => Ok(Some(Device::Name(text.to_owned()))),
        false => {
            Err(bad("device", text, "must be the name of an interface, or its hardware address"))
        }
    }
}

fn is_host_byte(byte: u8) -> bool {
    byte.is_ascii_alphanumeric() || b"-._".contains(&byte)
}

fn bad(field: &str, value: &str, rule: &str) -> String {
    let shown: String = value.chars().filter(|c| !c.is_control()).take(64).collect();
    format!("{field} \"{shown}\" {rule}")
}

const MAC_RULE: &str = "must be like 52:54:00:12:34:56";

impl Mac {
    /// Reads six pairs of hex digits with colons or hyphens between.
    pub fn parse(text: &str) -> Option<Mac> {
        let separator = if text.contains('-') { '-' } else { ':' };
        let mut mac = [0; 6];
        let mut pairs = text.split(separator);
        for byte in &mut mac {
            let pair = pairs.next()?;
            if pair.len() != 2 || !pair.bytes().all(|digit| digit.is_ascii_hexdigit()) {
                return None;
            }
            *byte = u8::from_str_radix(pair, 16).ok()?;
        }
        pairs.next().is_none().then_some(Mac(mac))
    }

    /// Reads `BOOTIF=`, where pxelinux puts the hardware type (01 is Ethernet) before the address.
    pub fn parse_bootif(text: &str) -> Option<Mac> {
        let without_type = |head: &str| text.strip_prefix(head).and_then(Mac::parse);
        let mac =
            Mac::parse(text).or_else(|| without_type("01-")).or_else(|| without_type("01:"))?;
        // A group address is a cut-off text: its first byte is the hardware type.
        (mac.0[0] & 1 == 0).then_some(mac)
    }
}

impl fmt::Display for Mac {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let [a, b, c, d, e, g] = self.0;
        write!(f, "{a:02x}:{b:02x}:{c:02x}:{d:02x}:{e:02x}:{g:02x}")
    }
}

impl fmt::Display for Device {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Device::Name(name) => f.write_str(name),
            Device::Mac(mac) => write!(f, "{mac}"),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// A short text of the result, so that a row is one line.
    fn describe(argument: &IpArgument) -> String {
        let mut text = match argument.method {
            Method::Dhcp => "dhcp".to_owned(),
            Method::Off => "off".to_owned(),
            Method::Static { address, prefix_length, gateway } => {
                let gateway = gateway.map_or(String::new(), |gateway| format!(" via {gateway}"));
                format!("{address}/{prefix_length}{gateway}")
            }
        };
        let mut add = |name: &str, value: Option<String>| {
            text += &value.map_or(String::new(), |value| format!(" {name} {value}"));
        };
        add("dev", argument.device.as_ref().map(Device::to_string));
        add("server", argument.server.map(|server| server.to_string()));
        add("host", argument.hostname.clone());
        argument.nameservers.iter().for_each(|server| add("dns", Some(server.to_string())));
        add("mtu", argument.mtu.map(|mtu| mtu.to_string()));
        add("mac", argument.mac.map(|mac| mac.to_string()));
        text
    }

    #[rustfmt::skip]
    const GOOD: &[(&str, &str)] = &[
        ("dhcp", "dhcp"),
        ("on", "dhcp"),
        ("any", "dhcp"),
        ("both", "dhcp"),
        ("single-dhcp", "dhcp"),
        ("off", "off"),
        ("none", "off"),
        ("dhcp,1,abc", "dhcp"),
        ("eth0", "dhcp dev eth0"),
        ("enp0s3", "dhcp dev enp0s3"),
        ("eth0:dhcp", "dhcp dev eth0"),
        ("eth0:on", "dhcp dev eth0"),
        ("eth0:any", "dhcp dev eth0"),
        ("eth0:off", "off dev eth0"),
        ("eth0:", "dhcp dev eth0"),
        ("eth0:dhcp:1400", "dhcp dev eth0 mtu 1400"),
        ("eth0:dhcp::52:54:00:12:34:56", "dhcp dev eth0 mac 52:54:00:12:34:56"),
        ("eth0:dhcp:9000:52:54:00:12:34:56", "dhcp dev eth0 mtu 9000 mac 52:54:00:12:34:56"),
        ("52-54-00-12-34-56:dhcp", "dhcp dev 52:54:00:12:34:56"),
        (":::::eth0:dhcp", "dhcp dev eth0"),
        ("::::host:eth0:dhcp", "dhcp dev eth0 host host"),
        (":::::eth0:", "dhcp dev eth0"),
        (":::::eth0", "dhcp dev eth0"),
        (":::::eth0:none", "off dev eth0"),
        ("::::::dhcp", "dhcp"),
        (":::::all:dhcp", "dhcp"),
        ("192.0.2.9::192.0.2.254:255.255.255.0:client:eth0:off", "192.0.2.9/24 via 192.0.2.254 dev eth0 host client"),
        ("192.0.2.9:192.0.2.1:192.0.2.254:24:client:eth0:off", "192.0.2.9/24 via 192.0.2.254 dev eth0 server 192.0.2.1 host client"),
        ("192.0.2.9::192.0.2.254:24::eth0:none", "192.0.2.9/24 via 192.0.2.254 dev eth0"),
        ("192.0.2.9::192.0.2.254:24::eth0:static", "192.0.2.9/24 via 192.0.2.254 dev eth0"),
        ("192.0.2.9::192.0.2.254:24::eth0", "192.0.2.9/24 via 192.0.2.254 dev eth0"),
        ("192.0.2.9:::24", "192.0.2.9/24"),
        ("192.0.2.9:::255.255.0.0::eth0:", "192.0.2.9/16 dev eth0"),
        ("192.0.2.9:::32:::off", "192.0.2.9/32"),
        ("192.0.2.9/25::192.0.2.1:::eth0:off", "192.0.2.9/25 via 192.0.2.1 dev eth0"),
        ("192.0.2.9:::24::eth0:on", "192.0.2.9/24 dev eth0"),
        ("192.0.2.9:::24::eth0:any", "192.0.2.9/24 dev eth0"),
        ("192.0.2.9:::24::eth0:dhcp", "dhcp dev eth0"),
        ("192.0.2.9:0.0.0.0:0.0.0.0:24::eth0:off:0.0.0.0", "192.0.2.9/24 dev eth0"),
        ("192.0.2.9:::24::eth0:off:192.0.2.53", "192.0.2.9/24 dev eth0 dns 192.0.2.53"),
        ("192.0.2.9:::24::eth0:off:192.0.2.53:192.0.2.54:192.0.2.123", "192.0.2.9/24 dev eth0 dns 192.0.2.53 dns 192.0.2.54"),
        ("192.0.2.9:::24::eth0:off::192.0.2.54", "192.0.2.9/24 dev eth0 dns 192.0.2.54"),
        ("192.0.2.9:::24::eth0:off:1400", "192.0.2.9/24 dev eth0 mtu 1400"),
        ("192.0.2.9:::24::eth0:off:1400:52-54-00-12-34-56", "192.0.2.9/24 dev eth0 mtu 1400 mac 52:54:00:12:34:56"),
        ("192.0.2.9:::24::eth0:off::52:54:00:12:34:56", "192.0.2.9/24 dev eth0 mac 52:54:00:12:34:56"),
        ("192.0.2.9:::24::52-54-00-12-34-56:off", "192.0.2.9/24 dev 52:54:00:12:34:56"),
        ("[2001:db8::9]::[2001:db8::1]:64::eth0:off", "2001:db8::9/64 via 2001:db8::1 dev eth0"),
        ("[2001:db8::9/64]::[2001:db8::1]:::eth0:none", "2001:db8::9/64 via 2001:db8::1 dev eth0"),
    ];

    #[rustfmt::skip]
    const BAD: &[(&str, &str)] = &[
        ("", "must have a value"),
        ("192.0.2.9", "address \"192.0.2.9\" needs a mask"),
        ("192.0.2.9::::::off", "mask \"\" must be given"),
        ("192.0.2.9:::0::eth0:off", "mask \"0\" must be"),
        ("192.0.2.9:::33::eth0:off", "mask \"33\" must be"),
        ("192.0.2.9:::255.0.255.0::eth0:off", "mask \"255.0.255.0\" must be"),
        ("192.0.2.9:::0.0.0.0::eth0:off", "mask \"0.0.0.0\" must be"),
        ("192.0.2.300:::24::eth0:off", "address \"192.0.2.300\" must be"),
        ("192.0.2.9::gateway:24::eth0:off", "gateway \"gateway\" must be"),
        ("192.0.2.9::[2001:db8::1]:24::eth0:off", "same family"),
        ("192.0.2.9:server::24::eth0:off", "server \"server\" must be"),
        ("192.0.2.9:::24:my host:eth0:off", "hostname \"my host\" must be"),
        ("192.0.2.9:::24::an-interface-name-too-long:off", "device \"an-interface"),
        ("192.0.2.9:::24::eth/0:off", "device \"eth/0\" must be"),
        ("192.0.2.9:::24::eth0:maybe", "method \"maybe\" must be"),
        ("192.0.2.9:::24::eth0:off:dns.example", "name server \"dns.example\" must be"),
        ("192.0.2.9:::24::eth0:off:1.1.1.1:1.1.1.2:1.1.1.3:4", "more than the ten fields"),
        ("dhcp6", "not supported yet"),
        ("auto6", "not supported yet"),
        ("eth0:dhcp6", "not supported yet"),
        ("eth0:ibft", "not supported"),
        ("ibft", "not supported"),
        ("bootp", "not supported"),
        ("eth0:dhcp:67", "mtu \"67\" must be"),
        ("eth0:dhcp:99999", "mtu \"99999\" must be"),
        ("eth0:dhcp::52:54:00", "hardware address \"52:54:00\" must be"),
        ("2001:db8::9:::64::eth0:off", "\"2001\" must be"),
    ];

    #[test]
    fn each_dialect_gives_its_one_reading() {
        for (text, expected) in GOOD {
            let argument = IpArgument::parse(text).map(|argument| describe(&argument));
            assert_eq!(argument.as_deref(), Ok(*expected), "{text}");
        }
    }

    #[test]
    fn an_error_names_field_value_and_rule() {
        for (text, expected) in BAD {
            let error = IpArgument::parse(text).map(|argument| describe(&argument)).unwrap_err();
            assert!(error.contains(expected), "{text}: {error}");
        }
    }

    #[test]
    fn bootif_has_the_hardware_type_before_the_address() {
        let mac = Some(Mac([0x52, 0x54, 0, 0x12, 0x34, 0x56]));
        for text in ["01-52-54-00-12-34-56", "52:54:00:12:34:56", "01:52:54:00:12:34:56"] {
            assert_eq!(Mac::parse_bootif(text), mac, "{text}");
        }
        for text in ["", "01-", "01-52-54-00-12-34", "20-52-54-00-12-34-56", "01-52-54-00-12-34-5g"]
        {
            assert_eq!(Mac::parse_bootif(text), None, "{text}");
        }
    }
}
