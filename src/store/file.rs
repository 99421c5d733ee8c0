//! Regular files and block devices as stores, through the page cache of this machine.
//!
//! A flush is `fdatasync`, so what it has confirmed survives a loss of power of this machine as far
//! as its disks keep their word. `fallocate` frees and zeroes ranges of files and of devices alike
//! (`blkdev_fallocate` in the kernel's `block/fops.c`), which is why no ioctl is needed.

use std::fmt;
use std::fs::{self, File, OpenOptions};
use std::io::{self, Seek, SeekFrom};
use std::os::unix::fs::{FileExt, FileTypeExt, MetadataExt, OpenOptionsExt};
use std::path::{Path, PathBuf};

use rustix::fs::{Advice, FallocateFlags, FlockOperation};
use rustix::io::Errno;

use super::{Allocation, Store};

/// A file or block device that is open, and locked against a second server.
pub struct FileStore {
    file: File,
    path: PathBuf,
    size_bytes: u64,
    read_only: bool,
    is_file: bool,
    can_discard: bool,
}

/// Why a file or device cannot be served.
#[derive(Debug)]
pub struct OpenError {
    path: PathBuf,
    doing: &'static str,
    source: io::Error,
}

impl FileStore {
    /// Opens a file or block device, for reading and writing or for reading only.
    ///
    /// A writer excludes every other server from the same file, and from the same block device
    /// also mounts and other exclusive users; readers exclude only writers.
    pub fn open(path: &Path, read_only: bool) -> Result<FileStore, OpenError> {
        let failed = |doing| move |source| OpenError { path: path.to_owned(), doing, source };
        let metadata = fs::metadata(path).map_err(failed("open"))?;
        let kind = metadata.file_type();
        if !kind.is_file() && !kind.is_block_device() {
            let reason = "is neither a regular file nor a block device";
            return Err(failed("open")(io::Error::new(io::ErrorKind::InvalidInput, reason)));
        }
        let mut options = OpenOptions::new();
        options.read(true).write(!read_only);
        if kind.is_block_device() && !read_only {
            // On a block device O_EXCL without O_CREAT claims it: a mounted one gives EBUSY.
            options.custom_flags(rustix::fs::OFlags::EXCL.bits() as i32);
        }
        let mut file = options.open(path).map_err(failed("open"))?;
        if kind.is_file() {
            let operation = if read_only {
                FlockOperation::NonBlockingLockShared
            } else {
                FlockOperation::NonBlockingLockExclusive
            };
            rustix::fs::flock(&file, operation).map_err(explain_lock).map_err(failed("lock"))?;
        }
        let size_bytes = file.seek(SeekFrom::End(0)).map_err(failed("find the size of"))?;
        let can_discard = can_discard(&file, &metadata, size_bytes, read_only);
        let (path, is_file) = (path.to_owned(), kind.is_file());
        Ok(FileStore { file, path, size_bytes, read_only, is_file, can_discard })
    }

    /// The path it was opened by.
    pub fn path(&self) -> &Path {
        &self.path
    }

    /// Says in the log what the SCSI answer cannot: which file, where, and the operating system's
    /// reason.
    fn logged(
        &self,
        doing: &'static str,
        length: u64,
        offset: u64,
    ) -> impl Fn(io::Error) -> io::Error + '_ {
        move |error| {
            let path = self.path.display();
            log::error!("{doing} {length} bytes at {offset} of {path}: {error}");
            error
        }
    }

    fn fill_with_zeroes(&self, offset: u64, length: u64) -> io::Result<()> {
        static ZEROES: [u8; 256 * 1024] = [0; 256 * 1024];
        let end = offset + length;
        let mut position = offset;
        while position < end {
            let chunk = (end - position).min(ZEROES.len() as u64) as usize;
            self.file.write_all_at(&ZEROES[..chunk], position)?;
            position += chunk as u64;
        }
        Ok(())
    }

    fn fallocate(&self, mode: FallocateFlags, offset: u64, length: u64) -> io::Result<()> {
        loop {
            match rustix::fs::fallocate(&self.file, mode, offset, length) {
                Ok(()) => return Ok(()),
                Err(Errno::INTR) => {}
                // Not every file system and device knows every mode; devices also refuse ranges
                // that are not whole blocks of theirs.
                Err(Errno::OPNOTSUPP | Errno::NOSYS | Errno::INVAL) => {
                    return self.fill_with_zeroes(offset, length);
                }
                Err(errno) => return Err(errno.into()),
            }
        }
    }
}

/// EWOULDBLOCK alone does not tell anybody what to do.
fn explain_lock(errno: Errno) -> io::Error {
    if errno == Errno::WOULDBLOCK {
        let reason = "another program has locked it: is another target serving it?";
        return io::Error::new(io::ErrorKind::WouldBlock, reason);
    }
    errno.into()
}

/// Whether holes can be punched. Nothing is changed to find out; of a file that is only read it is
/// not asked, because nobody could tell the difference.
fn can_discard(file: &File, metadata: &fs::Metadata, size_bytes: u64, read_only: bool) -> bool {
    if metadata.file_type().is_block_device() {
        let device = metadata.rdev();
        let (major, minor) = (rustix::fs::major(device), rustix::fs::minor(device));
        let disk = PathBuf::from(format!("/sys/dev/block/{major}:{minor}"));
        // A partition has no queue directory of its own; its disk is one up.
        ["queue", "../queue"].iter().any(|queue| {
            fs::read_to_string(disk.join(queue).join("write_zeroes_max_bytes"))
                .is_ok_and(|text| text.trim() != "0")
        })
    } else {
        // Behind the end there is nothing to lose, and the size is kept.
        read_only || rustix::fs::fallocate(file, PUNCH_HOLE, size_bytes, 4096).is_ok()
    }
}

const PUNCH_HOLE: FallocateFlags = FallocateFlags::PUNCH_HOLE.union(FallocateFlags::KEEP_SIZE);
const ZERO_RANGE: FallocateFlags = FallocateFlags::ZERO_RANGE.union(FallocateFlags::KEEP_SIZE);

impl fmt::Debug for FileStore {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_tuple("FileStore").field(&self.path).finish()
    }
}

impl Store for FileStore {
    fn size_bytes(&self) -> u64 {
        self.size_bytes
    }

    fn is_read_only(&self) -> bool {
        self.read_only
    }

    fn read_at(&self, buffer: &mut [u8], offset: u64) -> io::Result<()> {
        let length = buffer.len() as u64;
        self.file.read_exact_at(buffer, offset).map_err(self.logged("read", length, offset))
    }

    fn write_at(&self, data: &[u8], offset: u64) -> io::Result<()> {
        let failed = self.logged("write", data.len() as u64, offset);
        self.file.write_all_at(data, offset).map_err(failed)
    }

    fn flush(&self) -> io::Result<()> {
        if self.read_only {
            return Ok(());
        }
        self.file.sync_data().map_err(self.logged("flush", self.size_bytes, 0))
    }

    fn prefetch(&self, offset: u64, length: u64) {
        // Whoever reads will wait for it anyway, and will be told if it fails.
        let length = std::num::NonZeroU64::new(length);
        let _ = rustix::fs::fadvise(&self.file, offset, length, Advice::WillNeed);
    }

    fn can_discard(&self) -> bool {
        self.can_discard
    }

    fn discard(&self, offset: u64, length: u64) -> io::Result<()> {
        self.fallocate(PUNCH_HOLE, offset, length).map_err(self.logged("discard", length, offset))
    }

    fn write_zeroes(&self, offset: u64, length: u64) -> io::Result<()> {
        self.fallocate(ZERO_RANGE, offset, length).map_err(self.logged("zero", length, offset))
    }

    fn allocation(&self, offset: u64) -> io::Result<Allocation> {
        // The position that these leave behind is used by nobody.
        let find = |from| match rustix::fs::seek(&self.file, from) {
            Ok(found) => Ok(Some(found.min(self.size_bytes))),
            // No data behind the offset, or a device, which does not know.
            Err(Errno::NXIO | Errno::INVAL) => Ok(None),
            Err(errno) => Err(io::Error::from(errno)),
        };
        let known = self.can_discard && self.is_file;
        if !known {
            return Ok(Allocation { mapped: true, end: self.size_bytes });
        }
        match find(rustix::fs::SeekFrom::Data(offset))? {
            Some(data) if data > offset => Ok(Allocation { mapped: false, end: data }),
            Some(_) => {
                let hole = find(rustix::fs::SeekFrom::Hole(offset))?;
                Ok(Allocation { mapped: true, end: hole.unwrap_or(self.size_bytes) })
            }
            None => Ok(Allocation { mapped: false, end: self.size_bytes }),
        }
    }
}

impl fmt::Display for OpenError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} {}", self.doing, self.path.display())
    }
}

impl std::error::Error for OpenError {
    fn source(&self) -> Option<&(dyn std::error::Error + 'static)> {
        Some(&self.source)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn scratch(size_bytes: u64) -> tempfile::NamedTempFile {
        let file = tempfile::NamedTempFile::new().unwrap();
        file.as_file().set_len(size_bytes).unwrap();
        file
    }

    #[test]
    fn reads_back_what_was_written_and_zeroed() {
        let file = scratch(1 << 20);
        let store = FileStore::open(file.path(), false).unwrap();
        assert_eq!(store.size_bytes(), 1 << 20);
        store.write_at(&[0xaa; 4096], 8192).unwrap();
        store.flush().unwrap();
        store.write_zeroes(8192 + 512, 512).unwrap();
        store.discard(8192 + 2048, 1024).unwrap();
        let mut buffer = [1; 4096];
        store.read_at(&mut buffer, 8192).unwrap();
        for (index, byte) in buffer.iter().enumerate() {
            let zero = (512..1024).contains(&index) || (2048..3072).contains(&index);
            assert_eq!(*byte, if zero { 0 } else { 0xaa }, "at {index}");
        }
        assert_eq!(file.as_file().metadata().unwrap().len(), 1 << 20);
    }

    #[test]
    fn zeroes_by_hand_are_zeroes_too() {
        let file = scratch(1 << 20);
        let store = FileStore::open(file.path(), false).unwrap();
        store.write_at(&[0xaa; 600_000], 0).unwrap();
        store.fill_with_zeroes(1, 599_998).unwrap();
        let contents = fs::read(file.path()).unwrap();
        assert_eq!((contents[0], contents[599_999]), (0xaa, 0xaa));
        assert!(contents[1..599_999].iter().all(|byte| *byte == 0));
    }

    #[test]
    fn discard_frees_space_where_it_says_it_can() {
        let file = scratch(1 << 20);
        let store = FileStore::open(file.path(), false).unwrap();
        store.write_at(&vec![0xaa; 1 << 20], 0).unwrap();
        store.flush().unwrap();
        let before = file.as_file().metadata().unwrap().blocks();
        store.discard(0, 1 << 20).unwrap();
        let after = file.as_file().metadata().unwrap().blocks();
        if store.can_discard() {
            assert!(after < before, "{after} blocks after discard, {before} before");
        }
    }

    #[test]
    fn holes_are_told_from_data() {
        let file = scratch(1 << 20);
        let store = FileStore::open(file.path(), false).unwrap();
        store.write_at(&[0xaa; 65536], 131_072).unwrap();
        store.prefetch(0, 1 << 20);
        let at = |offset| store.allocation(offset).unwrap();
        if store.can_discard() {
            assert_eq!(at(0), Allocation { mapped: false, end: 131_072 });
            assert_eq!(at(140_000), Allocation { mapped: true, end: 196_608 });
            assert_eq!(at(200_000), Allocation { mapped: false, end: 1 << 20 });
            store.discard(131_072, 65536).unwrap();
            assert_eq!(at(0), Allocation { mapped: false, end: 1 << 20 });
        }
        let reader = {
            drop(store);
            FileStore::open(file.path(), true).unwrap()
        };
        let all = Allocation { mapped: !reader.can_discard(), end: 1 << 20 };
        assert_eq!(reader.allocation(0).unwrap(), all);
    }

    #[test]
    fn a_second_writer_is_refused_with_a_reason() {
        let file = scratch(4096);
        let _first = FileStore::open(file.path(), false).unwrap();
        let error = FileStore::open(file.path(), false).unwrap_err().source.to_string();
        assert!(error.contains("is another target serving it?"), "{error}");
        assert!(FileStore::open(file.path(), true).is_err());
    }

    #[test]
    fn several_readers_share() {
        let file = scratch(4096);
        let first = FileStore::open(file.path(), true).unwrap();
        let _second = FileStore::open(file.path(), true).unwrap();
        assert!(first.is_read_only());
        assert!(first.write_at(&[1], 0).is_err());
    }

    #[test]
    fn what_is_not_a_disk_is_refused() {
        for path in ["/dev/null", "/tmp"] {
            let error = FileStore::open(Path::new(path), true).unwrap_err().source.to_string();
            assert!(error.contains("neither a regular file nor a block device"), "{error}");
        }
        let error = FileStore::open(Path::new("/no/such/file"), true).unwrap_err().to_string();
        assert_eq!(error, "open /no/such/file");
    }
}
