//! Firmware that the chosen drivers name in their `firmware` modinfo field.
//!
//! The kernel asks for it by that name below `/lib/firmware`; a distribution may ship it compressed
//! and with links. It is stored plain, so that any kernel can read it.

use std::io;
use std::path::{Path, PathBuf};

use crate::compress::read_decoded;
use crate::error::Error;

/// Where firmware lies below the root, in the order in which the kernel looks.
pub(crate) struct FirmwareTree {
    directories: Vec<PathBuf>,
}

impl FirmwareTree {
    pub(crate) fn new(root: &Path, version: &str) -> FirmwareTree {
        let below = |library: &str| {
            let firmware = root.join(library).join("firmware");
            [
                firmware.join("updates").join(version),
                firmware.join("updates"),
                firmware.join(version),
                firmware,
            ]
        };
        FirmwareTree { directories: [below("lib"), below("usr/lib")].concat() }
    }

    /// The plain content of a firmware file; `None` if this machine does not have it.
    pub(crate) fn read(&self, name: &str) -> Result<Option<Vec<u8>>, Error> {
        // Modules are written by others: no way out of the directory.
        if name.starts_with('/') || name.split('/').any(|part| part == "..") {
            return Ok(None);
        }
        for directory in &self.directories {
            for suffix in ["", ".zst", ".xz"] {
                let path = directory.join(format!("{name}{suffix}"));
                match read_decoded(&path) {
                    Ok(bytes) => return Ok(Some(bytes)),
                    Err(e) if is_absent(&e) => {}
                    Err(source) => {
                        let doing = format!("reading firmware {}", path.display());
                        return Err(Error::Io { doing, source });
                    }
                }
            }
        }
        Ok(None)
    }
}

fn is_absent(error: &io::Error) -> bool {
    use io::ErrorKind::{IsADirectory, NotADirectory, NotFound};
    matches!(error.kind(), NotFound | NotADirectory | IsADirectory)
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::fs;

    #[test]
    fn firmware_is_found_plain_or_compressed_and_only_inside() {
        let root = tempfile::tempdir().unwrap();
        let directory = root.path().join("lib/firmware/vendor");
        fs::create_dir_all(&directory).unwrap();
        fs::write(directory.join("plain.fw"), "plain").unwrap();
        let packed = zstd::encode_all(&b"packed"[..], 1).unwrap();
        fs::write(directory.join("packed.fw.zst"), packed).unwrap();
        fs::write(root.path().join("secret"), "secret").unwrap();
        let updates = root.path().join("lib/firmware/updates/6.0");
        fs::create_dir_all(&updates).unwrap();
        fs::write(updates.join("newer.fw"), "newer").unwrap();
        fs::write(root.path().join("lib/firmware/newer.fw"), "older").unwrap();
        let tree = FirmwareTree::new(root.path(), "6.0");
        let read = |name: &str| tree.read(name).unwrap();
        assert_eq!(read("vendor/plain.fw").as_deref(), Some(&b"plain"[..]));
        assert_eq!(read("vendor/packed.fw").as_deref(), Some(&b"packed"[..]));
        assert_eq!(read("newer.fw").as_deref(), Some(&b"newer"[..]));
        assert_eq!(read("vendor/absent.fw"), None);
        assert_eq!(read("../../secret"), None);
        assert_eq!(read("vendor"), None);
    }
}
