//! What must stay secret: files that only their owner may read, and random bytes that nobody can
//! guess.

use std::fmt;
use std::fs::File;
use std::io::{self, Read};
use std::os::unix::fs::{MetadataExt, PermissionsExt};
use std::path::{Path, PathBuf};

use rustix::io::Errno;
use rustix::rand::{GetRandomFlags, getrandom};
use zeroize::Zeroizing;

use crate::proto::chap::{Challenge, Chap, Secrets};
use crate::wire::Malformed;

/// Where the boot finds its secrets in an image.
pub const IMAGE_PATH: &str = "/etc/lunboot/secrets";

/// Most bytes of a file of secrets: enough for some hundred clients.
const FILE_BYTES_MAX: u64 = 256 * 1024;

/// Why a file of secrets is not used. Nothing that stands in it is part of this.
#[derive(Debug)]
pub struct Error {
    path: PathBuf,
    reason: Reason,
}

#[derive(Debug)]
enum Reason {
    Io(io::Error),
    /// These permissions let others read it.
    Open(u32),
    Long,
    Malformed(Malformed),
}

/// Reads a file of secrets; one that others may read or write is refused. Secrets that are easily
/// guessed are warned of in the log.
pub fn read(path: &Path) -> Result<Secrets, Error> {
    let failed = |reason| Error { path: path.to_owned(), reason };
    let text = read_private(path).map_err(failed)?;
    let secrets =
        Secrets::parse(&text).map_err(|malformed| failed(Reason::Malformed(malformed)))?;
    for name in secrets.weak() {
        let path = path.display();
        log::warn!(
            "{path}: the secret of {name} has less than 12 bytes: it can be found by trying"
        );
    }
    Ok(secrets)
}

/// The same for a client, whose file has one line for it.
pub fn read_chap(path: &Path) -> Result<Chap, Error> {
    let failed = |malformed| Error { path: path.to_owned(), reason: Reason::Malformed(malformed) };
    read(path)?.into_chap().map_err(failed)
}

/// The text of such a file, for those who only pass it on.
pub fn read_client(path: &Path) -> Result<Zeroizing<String>, Error> {
    read_chap(path)?;
    read_private(path).map_err(|reason| Error { path: path.to_owned(), reason })
}

fn read_private(path: &Path) -> Result<Zeroizing<String>, Reason> {
    let file = File::open(path).map_err(Reason::Io)?;
    // Of the file that is open, not of whatever has its name by then.
    let metadata = file.metadata().map_err(Reason::Io)?;
    let mode = metadata.permissions().mode() & 0o7777;
    if mode & 0o077 != 0 {
        return Err(Reason::Open(mode));
    }
    if metadata.size() > FILE_BYTES_MAX {
        return Err(Reason::Long);
    }
    // With room for all of it, so that no copy stays behind when it grows.
    let mut text = Zeroizing::new(String::with_capacity(FILE_BYTES_MAX as usize + 1));
    let count = file.take(FILE_BYTES_MAX + 1).read_to_string(&mut text).map_err(Reason::Io)?;
    if count as u64 > FILE_BYTES_MAX {
        return Err(Reason::Long);
    }
    Ok(text)
}

/// A challenge from the random source of the operating system, which is waited for if it is not
/// ready yet.
pub fn challenge() -> Challenge {
    let mut random = [0; Challenge::RANDOM_BYTES];
    let mut filled = 0;
    while filled < random.len() {
        match getrandom(&mut random[filled..], GetRandomFlags::empty()) {
            Ok(count) => filled += count,
            Err(Errno::INTR) => {}
            Err(errno) => panic!("every kernel that runs us has getrandom(2): {errno}"),
        }
    }
    Challenge::new(random)
}

impl fmt::Display for Error {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let path = self.path.display();
        match &self.reason {
            Reason::Io(error) => write!(f, "{path}: {error}"),
            Reason::Open(mode) => {
                write!(f, "{path}: its mode is {mode:04o}, so others can read the secrets: ")?;
                write!(f, "chmod 600 {path}")
            }
            Reason::Long => write!(f, "{path}: longer than 256 KiB is no file of secrets"),
            Reason::Malformed(malformed) => write!(f, "{path}: {malformed}"),
        }
    }
}

impl std::error::Error for Error {}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;
    use std::fs::Permissions;
    use std::io::Write;

    use super::*;

    fn file(text: &str, mode: u32) -> tempfile::NamedTempFile {
        let mut file = tempfile::NamedTempFile::new().unwrap();
        file.write_all(text.as_bytes()).unwrap();
        file.as_file().set_permissions(Permissions::from_mode(mode)).unwrap();
        file
    }

    #[test]
    fn a_file_that_others_can_read_is_refused_and_says_what_to_do() {
        for mode in [0o604, 0o640, 0o644, 0o666, 0o602, 0o610] {
            let file = file("initiator node7 hidden-secret-7\n", mode);
            let error = read(file.path()).unwrap_err().to_string();
            assert!(error.contains(&format!("mode is {mode:04o}")), "{error}");
            assert!(error.ends_with(&format!("chmod 600 {}", file.path().display())));
        }
        for mode in [0o600, 0o400, 0o700] {
            let file = file("initiator node7 hidden-secret-7\n", mode);
            assert_eq!(read(file.path()).unwrap().initiators[0].name, "node7");
        }
    }

    #[test]
    fn what_cannot_be_read_is_named_and_not_shown() {
        assert!(read(Path::new("/nonexistent")).unwrap_err().to_string().contains("nonexistent"));
        let error = read(file("hidden-secret-7\n", 0o600).path()).unwrap_err();
        assert!(error.to_string().contains("line 1"), "{error}");
        assert!(!format!("{error:?} {error}").contains("hidden"));
        let long = "# a long comment\n".repeat(20_000);
        let error = read(file(&long, 0o600).path()).unwrap_err().to_string();
        assert!(error.contains("256 KiB"), "{error}");
        assert!(read(Path::new("/dev/zero")).is_err(), "others can read it");
    }

    #[test]
    fn ten_thousand_challenges_and_no_two_are_the_same() {
        let mut seen = BTreeSet::new();
        for _ in 0..10_000 {
            let mut text = crate::wire::text::Text::new();
            challenge().push(&mut text);
            let bytes = text.as_bytes();
            let at = bytes.windows(9).position(|window| window == b"CHAP_C=0x").unwrap();
            assert!(seen.insert(bytes[at..].to_vec()), "a challenge came twice");
        }
    }
}
