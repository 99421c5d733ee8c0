//! Records in a directory: one small file each, replaced as a whole.

use std::fs::{self, File, OpenOptions};
use std::io::{self, Read, Write};
use std::os::unix::fs::OpenOptionsExt;
use std::path::{Path, PathBuf};

use super::Record;

/// A record that is a file.
#[derive(Debug)]
pub struct FileRecord {
    directory: PathBuf,
    path: PathBuf,
    /// What is written before it takes the place of the other.
    temporary: PathBuf,
}

/// Longest text that is read.
const TEXT_BYTES_MAX: u64 = 1 << 20;

impl FileRecord {
    /// The record of this name, and its text if there is one. A directory that is not there is
    /// made; one that cannot be written to is an error now and not at the first change.
    pub fn open(directory: &Path, name: &str) -> io::Result<(FileRecord, Option<String>)> {
        fs::create_dir_all(directory)?;
        let record = FileRecord {
            directory: directory.to_owned(),
            path: directory.join(name),
            temporary: directory.join(format!("{name}.new")),
        };
        record.create_temporary()?;
        fs::remove_file(&record.temporary)?;
        let mut text = String::new();
        match File::open(&record.path) {
            Ok(file) => file.take(TEXT_BYTES_MAX + 1).read_to_string(&mut text)?,
            Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok((record, None)),
            Err(error) => return Err(error),
        };
        if text.len() as u64 > TEXT_BYTES_MAX {
            let reason = "is longer than 1048576 bytes";
            return Err(io::Error::new(io::ErrorKind::InvalidData, reason));
        }
        Ok((record, Some(text)))
    }

    /// Where it is.
    pub fn path(&self) -> &Path {
        &self.path
    }

    fn create_temporary(&self) -> io::Result<File> {
        let mut options = OpenOptions::new();
        options.write(true).create(true).truncate(true).mode(0o600);
        options.open(&self.temporary)
    }

    fn write(&self, text: &str) -> io::Result<()> {
        let mut file = self.create_temporary()?;
        file.write_all(text.as_bytes())?;
        file.sync_all()?;
        fs::rename(&self.temporary, &self.path)?;
        // The new name is on stable storage only with its directory.
        File::open(&self.directory)?.sync_all()
    }
}

impl Record for FileRecord {
    fn replace(&self, text: &str) -> io::Result<()> {
        self.write(text).inspect_err(|error| {
            log::error!("replace {}: {error}", self.path.display());
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_record_is_there_after_a_restart() {
        let top = tempfile::tempdir().unwrap();
        let directory = top.path().join("state");
        let (record, text) = FileRecord::open(&directory, "a").unwrap();
        assert_eq!(text, None);
        record.replace("first, and longer\n").unwrap();
        record.replace("second\n").unwrap();
        let (record, text) = FileRecord::open(&directory, "a").unwrap();
        assert_eq!(text.as_deref(), Some("second\n"));
        assert_eq!(FileRecord::open(&directory, "b").unwrap().1, None);
        // Nothing is left over, not even of a write that was interrupted.
        fs::write(directory.join("a.new"), "half a").unwrap();
        record.replace("third\n").unwrap();
        assert_eq!(FileRecord::open(&directory, "a").unwrap().1.as_deref(), Some("third\n"));
        assert_eq!(fs::read_dir(&directory).unwrap().count(), 1);
    }

    #[test]
    fn what_cannot_be_kept_is_an_error_and_leaves_the_old_text() {
        let directory = tempfile::tempdir().unwrap();
        let (record, _) = FileRecord::open(directory.path(), "a").unwrap();
        record.replace("old\n").unwrap();
        fs::create_dir(directory.path().join("a.new")).unwrap();
        assert!(record.replace("new\n").is_err());
        assert_eq!(fs::read_to_string(record.path()).unwrap(), "old\n");
        assert!(FileRecord::open(directory.path(), "a").is_err());
        let file = directory.path().join("a");
        assert!(FileRecord::open(&file, "b").is_err());
    }

    #[test]
    fn a_text_without_end_is_not_read() {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("a");
        File::create(&path).unwrap().set_len(TEXT_BYTES_MAX + 1).unwrap();
        let error = FileRecord::open(directory.path(), "a").unwrap_err();
        assert_eq!(error.kind(), io::ErrorKind::InvalidData);
        fs::write(&path, [0xff, 0xfe]).unwrap();
        assert!(FileRecord::open(directory.path(), "a").is_err());
    }
}
