//! A file that appears whole or not at all: written beside its place, synced, then renamed.
//!
//! Half an image does not boot, and power may fail while one is written: what was there before
//! stays until the new file is durable.

use std::fs::{self, File, OpenOptions};
use std::io::{self, Write};
use std::os::unix::fs::OpenOptionsExt;
use std::path::{Path, PathBuf};

use crate::error::Error;

/// A file on its way. Dropped without [`Output::commit`], it leaves nothing behind.
#[derive(Debug)]
pub(crate) struct Output {
    file: File,
    temporary: PathBuf,
    path: PathBuf,
    committed: bool,
}

/// Who may read it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Access {
    /// Whoever the umask lets.
    Everybody,
    /// The owner alone, from the first byte on: it holds secrets.
    Owner,
}

impl Output {
    pub(crate) fn create(path: &Path, access: Access) -> Result<Output, Error> {
        let doing = || format!("creating {}", path.display());
        let Some(name) = path.file_name().filter(|_| !path.is_dir()) else {
            return Err(Error::Wrong {
                what: doing(),
                advice: "is a directory; name a file in it".into(),
            });
        };
        let mut hidden = std::ffi::OsString::from(".");
        hidden.push(name);
        hidden.push(format!(".{}", std::process::id()));
        let temporary = path.with_file_name(hidden);
        let file = OpenOptions::new()
            .write(true)
            .create_new(true)
            .mode(if access == Access::Owner { 0o600 } else { 0o666 })
            .open(&temporary)
            .map_err(|source| Error::Io { doing: doing(), source })?;
        Ok(Output { file, temporary, path: path.to_owned(), committed: false })
    }

    /// Makes the file durable and puts it in its place.
    pub(crate) fn commit(mut self) -> io::Result<()> {
        self.file.sync_all()?;
        fs::rename(&self.temporary, &self.path)?;
        self.committed = true;
        let parent = self.path.parent().filter(|p| !p.as_os_str().is_empty());
        File::open(parent.unwrap_or(Path::new(".")))?.sync_all()
    }
}

impl Write for Output {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        self.file.write(bytes)
    }

    fn flush(&mut self) -> io::Result<()> {
        self.file.flush()
    }
}

impl Drop for Output {
    fn drop(&mut self) {
        if !self.committed {
            // Nothing better can be done; the error that led here is the one to report.
            let _ = fs::remove_file(&self.temporary);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn names(directory: &Path) -> Vec<String> {
        let entries = fs::read_dir(directory).unwrap();
        entries.map(|e| e.unwrap().file_name().into_string().unwrap()).collect()
    }

    #[test]
    fn only_a_commit_leaves_a_file() {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("image");
        let mut output = Output::create(&path, Access::Everybody).unwrap();
        output.write_all(b"half").unwrap();
        drop(output);
        assert_eq!(names(directory.path()), [""; 0]);
        let mut output = Output::create(&path, Access::Everybody).unwrap();
        output.write_all(b"whole").unwrap();
        output.commit().unwrap();
        assert_eq!(names(directory.path()), ["image"]);
        assert_eq!(fs::read(&path).unwrap(), b"whole");
    }

    #[test]
    fn an_old_image_stays_until_the_new_one_is_whole() {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("image");
        fs::write(&path, "old").unwrap();
        let mut output = Output::create(&path, Access::Everybody).unwrap();
        output.write_all(b"half").unwrap();
        drop(output);
        assert_eq!(fs::read(&path).unwrap(), b"old");
    }
}
