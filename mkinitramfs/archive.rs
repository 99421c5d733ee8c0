//! The newc archive that the kernel unpacks into its first root (`initramfs buffer format` in the
//! kernel's documentation, `cpio(5)`).
//!
//! The same entries give the same bytes: sorted by path, owned by root, all times zero, inode
//! numbers counted. Directories above an entry are made by adding it.

use std::collections::BTreeMap;
use std::io::{self, Write};

/// A tree of files to be written as one archive.
#[derive(Debug, Default)]
pub(crate) struct Archive {
    entries: BTreeMap<String, Entry>,
}

#[derive(Debug)]
enum Entry {
    Directory,
    File { permissions: u32, bytes: Vec<u8> },
    Symlink { to: String },
    CharacterDevice { permissions: u32, major: u32, minor: u32 },
}

const S_IFREG: u32 = 0o100_000;
const S_IFDIR: u32 = 0o040_000;
const S_IFLNK: u32 = 0o120_000;
const S_IFCHR: u32 = 0o020_000;

/// Name of the entry that ends an archive.
const TRAILER: &str = "TRAILER!!!";

impl Archive {
    pub(crate) fn directory(&mut self, path: &str) {
        self.insert(path, Entry::Directory);
    }

    pub(crate) fn file(&mut self, path: &str, permissions: u32, bytes: Vec<u8>) {
        self.insert(path, Entry::File { permissions, bytes });
    }

    pub(crate) fn symlink(&mut self, path: &str, to: &str) {
        self.insert(path, Entry::Symlink { to: to.to_owned() });
    }

    pub(crate) fn character_device(&mut self, path: &str, major: u32, minor: u32) {
        self.insert(path, Entry::CharacterDevice { permissions: 0o600, major, minor });
    }

    /// Bytes of all regular files.
    pub(crate) fn content_bytes(&self) -> u64 {
        self.files().map(|(_, length)| length).sum()
    }

    /// Every regular file with its length in bytes.
    pub(crate) fn files(&self) -> impl Iterator<Item = (&str, u64)> {
        self.entries.iter().filter_map(|(path, entry)| match entry {
            Entry::File { bytes, .. } => Some((path.as_str(), bytes.len() as u64)),
            _ => None,
        })
    }

    /// Writes the archive with its trailer.
    pub(crate) fn emit(&self, out: &mut impl Write) -> io::Result<()> {
        for (inode, (path, entry)) in (1..).zip(&self.entries) {
            let (mode, links, device, bytes): (u32, u32, (u32, u32), &[u8]) = match entry {
                Entry::Directory => (S_IFDIR | 0o755, 2, (0, 0), b""),
                Entry::File { permissions, bytes } => (S_IFREG | permissions, 1, (0, 0), bytes),
                Entry::Symlink { to } => (S_IFLNK | 0o777, 1, (0, 0), to.as_bytes()),
                Entry::CharacterDevice { permissions, major, minor } => {
                    (S_IFCHR | permissions, 1, (*major, *minor), b"")
                }
            };
            emit_entry(out, Header { inode, mode, links, device }, path, bytes)?;
        }
        emit_entry(out, Header { inode: 0, mode: 0, links: 1, device: (0, 0) }, TRAILER, b"")
    }

    fn insert(&mut self, path: &str, entry: Entry) {
        debug_assert!(!path.starts_with('/') && !path.is_empty(), "{path}");
        for (at, _) in path.match_indices('/') {
            self.entries.entry(path[..at].to_owned()).or_insert(Entry::Directory);
        }
        self.entries.insert(path.to_owned(), entry);
    }
}

/// The fields of an entry that are not zero for us.
struct Header {
    inode: u32,
    mode: u32,
    links: u32,
    /// Major and minor number of a device.
    device: (u32, u32),
}

fn emit_entry(out: &mut impl Write, header: Header, path: &str, bytes: &[u8]) -> io::Result<()> {
    let length = u32::try_from(bytes.len())
        .map_err(|_| io::Error::other(format!("{path}: larger than 4 GiB, the limit of newc")))?;
    let Header { inode, mode, links, device: (major, minor) } = header;
    let name_length = path.len() as u32 + 1;
    // Magic; inode, mode, owner, group, links, time, length; device of the file system; device;
    // length of the name with its NUL; checksum, which newc leaves 0.
    write!(
        out,
        "070701{inode:08x}{mode:08x}{:08x}{:08x}{links:08x}{:08x}{length:08x}{:08x}{:08x}\
         {major:08x}{minor:08x}{name_length:08x}{:08x}",
        0, 0, 0, 0, 0, 0
    )?;
    out.write_all(path.as_bytes())?;
    // The header has 110 bytes; name and content each end on a multiple of four.
    out.write_all(&[0; 4][..1 + padding(110 + name_length)])?;
    out.write_all(bytes)?;
    out.write_all(&[0; 4][..padding(length)])
}

fn padding(length: u32) -> usize {
    (length.wrapping_neg() & 3) as usize
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Written out by hand from the format description.
    #[test]
    fn one_file_is_these_bytes() {
        let mut archive = Archive::default();
        archive.file("init", 0o755, b"hello".to_vec());
        let mut out = Vec::new();
        archive.emit(&mut out).unwrap();
        let expected = concat!(
            "070701",
            "00000001",
            "000081ed",
            "00000000",
            "00000000",
            "00000001",
            "00000000",
            "00000005",
            "00000000",
            "00000000",
            "00000000",
            "00000000",
            "00000005",
            "00000000",
            "init\0\0",
            "hello\0\0\0",
            "070701",
            "00000000",
            "00000000",
            "00000000",
            "00000000",
            "00000001",
            "00000000",
            "00000000",
            "00000000",
            "00000000",
            "00000000",
            "00000000",
            "0000000b",
            "00000000",
            "TRAILER!!!\0\0\0\0",
        );
        assert_eq!(String::from_utf8(out).unwrap(), expected);
    }

    #[test]
    fn parents_come_before_children_whatever_the_order_of_adding() {
        let mut archive = Archive::default();
        archive.character_device("dev/console", 5, 1);
        archive.symlink("bin/lunboot", "../init");
        archive.directory("a/b/c");
        archive.file("a-file", 0o644, Vec::new());
        let paths: Vec<&str> = archive.entries.keys().map(String::as_str).collect();
        let expected = ["a", "a-file", "a/b", "a/b/c", "bin", "bin/lunboot", "dev", "dev/console"];
        assert_eq!(paths, expected);
    }
}
