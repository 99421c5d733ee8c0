//! Addresses that names had when they were last looked up: a disk that comes back needs no name
//! server, which may be as far away as the disk.

use std::fmt;
use std::net::SocketAddr;

use crate::net::resolver::Name;

/// Most names that are kept.
const NAMES_MAX: usize = 16;

/// Most addresses of one name that are kept.
const ADDRESSES_MAX: usize = 16;

/// A name with its addresses, best first.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Known {
    name: Name,
    addresses: Vec<SocketAddr>,
}

impl Known {
    /// `addresses` is what the resolver has found.
    pub(super) fn new(name: Name, mut addresses: Vec<SocketAddr>) -> Known {
        addresses.truncate(ADDRESSES_MAX);
        Known { name, addresses }
    }

    /// Reads what [`Known`] displays; `None` if it is something else.
    pub(super) fn parse(text: &str) -> Option<Known> {
        let mut words = text.split(' ');
        let (host, port) = words.next()?.rsplit_once(':')?;
        let name = Name { host: host.into(), port: port.parse().ok()? };
        let addresses: Vec<_> = words.map(str::parse).collect::<Result<_, _>>().ok()?;
        (!addresses.is_empty()).then(|| Known::new(name, addresses))
    }
}

impl fmt::Display for Known {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.name.fmt(f)?;
        self.addresses.iter().try_for_each(|address| write!(f, " {address}"))
    }
}

/// The names that are known.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Names {
    /// The one that was looked up last is the last.
    known: Vec<Known>,
}

impl Names {
    /// A name was looked up; false if that is no news. The oldest one makes room for it.
    pub(super) fn learn(&mut self, known: Known) -> bool {
        let before = self.known.iter().position(|other| other.name == known.name);
        let before = before.map(|at| self.known.remove(at));
        if self.known.len() == NAMES_MAX {
            self.known.remove(0);
        }
        let is_new = before.as_ref() != Some(&known);
        self.known.push(known);
        is_new
    }

    /// Where a name has led; empty if it is not known.
    pub(super) fn addresses(&self, name: &Name) -> &[SocketAddr] {
        let known = self.known.iter().find(|known| known.name == *name);
        known.map_or(&[], |known| &known.addresses)
    }

    pub(super) fn iter(&self) -> impl Iterator<Item = &Known> {
        self.known.iter()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn known(host: &str, addresses: &[&str]) -> Known {
        let name = Name { host: host.into(), port: 3260 };
        Known::new(name, addresses.iter().map(|text| text.parse().unwrap()).collect())
    }

    #[test]
    fn what_is_kept_comes_back() {
        let known = known("storage.example", &["192.0.2.1:3260", "[fe80::1%7]:3260"]);
        let text = known.to_string();
        assert_eq!(text, "storage.example:3260 192.0.2.1:3260 [fe80::1%7]:3260");
        assert_eq!(Known::parse(&text), Some(known));
        for text in ["", "storage.example", "storage.example:1", "a:1 192.0.2.1", "a:x 192.0.2.1:1"]
        {
            assert_eq!(Known::parse(text), None, "{text}");
        }
    }

    #[test]
    fn the_last_look_counts_and_there_is_a_bound() {
        let mut names = Names::default();
        assert!(names.learn(known("a", &["192.0.2.1:3260"])));
        assert!(!names.learn(known("a", &["192.0.2.1:3260"])));
        assert!(names.learn(known("a", &["192.0.2.2:3260"; 1000])));
        let a = Name { host: "a".into(), port: 3260 };
        assert_eq!(names.addresses(&a), ["192.0.2.2:3260".parse().unwrap(); ADDRESSES_MAX]);
        for number in 0..100 {
            names.learn(known(&format!("name{number}"), &["192.0.2.3:3260"]));
        }
        assert_eq!(names.iter().count(), NAMES_MAX);
        assert_eq!(names.addresses(&a), []);
    }
}
