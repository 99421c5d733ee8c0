//! TargetAddress, as a redirected login and SendTargets give it: `host[:port][,group]` (RFC 7143
//! §13.8).

use super::Malformed;
use super::root_path::{Host, Portal};

/// Where a target can be reached.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct TargetAddress {
    /// The machine: an address or a name.
    pub host: Host,
    /// TCP port; 3260 if none was said.
    pub port: u16,
    /// TargetPortalGroupTag, if it was said.
    pub group: Option<u16>,
}

impl TargetAddress {
    /// Reads the value of the key. An IPv6 address stands in brackets.
    pub fn parse(text: &str) -> Result<TargetAddress, Malformed> {
        let (portal, group) = match text.split_once(',') {
            Some((portal, group)) => (portal, Some(group)),
            None => (text, None),
        };
        let Portal { host, port } = Portal::parse(portal).map_err(|error| error.malformed)?;
        let number = |group: &str| {
            let rule = "must be a number from 0 to 65535";
            let fail =
                || Malformed::text("TargetAddress", "portal group tag", group.as_bytes(), rule);
            let is_number = group.bytes().all(|byte| byte.is_ascii_digit());
            group.parse().ok().filter(|_| is_number).ok_or_else(fail)
        };
        Ok(TargetAddress { host, port, group: group.map(number).transpose()? })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_form_is_read() {
        let v6 = || Host::V6 { address: "2001:db8::1".parse().unwrap(), zone: None };
        let v4 = || Host::V4("192.0.2.1".parse().unwrap());
        for (text, host, port, group) in [
            ("192.0.2.1", v4(), 3260, None),
            ("192.0.2.1,1", v4(), 3260, Some(1)),
            ("192.0.2.1:3261", v4(), 3261, None),
            ("192.0.2.1:3261,0", v4(), 3261, Some(0)),
            ("[2001:db8::1]", v6(), 3260, None),
            ("[2001:db8::1]:3261,65535", v6(), 3261, Some(65_535)),
            ("storage.example:99,7", Host::Name("storage.example".into()), 99, Some(7)),
        ] {
            assert_eq!(
                TargetAddress::parse(text),
                Ok(TargetAddress { host, port, group }),
                "{text}"
            );
        }
    }

    #[test]
    fn nonsense_is_refused() {
        for text in [
            "",
            ",1",
            ":3260",
            "192.0.2.1:0x10",
            "192.0.2.1:70000",
            "192.0.2.1:1:2",
            "192.0.2.1,",
            "192.0.2.1,+1",
            "192.0.2.1,65536",
            "192.0.2.1,1,2",
            "a b",
            "../etc/passwd",
            "[2001:db8::1",
            "na\nme",
        ] {
            assert!(TargetAddress::parse(text).is_err(), "{text}");
        }
    }
}
