//! What a loss of power, a kill, a full medium and other programs may leave of a write, and what
//! becomes of it.

use std::os::unix::fs::PermissionsExt;

use super::super::memory::MemoryStore;
use super::*;

const AT: u64 = 4096;
const BYTES: usize = 4 * SECTOR_BYTES;

fn new(path: &Path) -> Journaled<MemoryStore> {
    Journaled::open(MemoryStore::with_volatile_cache(1 << 16), path).unwrap()
}

/// The target was killed: what it has written is there, and so is the journal.
fn again(journaled: Journaled<MemoryStore>, path: &Path) -> Journaled<MemoryStore> {
    Journaled::open(journaled.store, path).unwrap()
}

/// What the sectors are full of.
fn content(store: &impl Store) -> [u8; 4] {
    let mut content = vec![0; BYTES];
    store.read_at(&mut content, AT).unwrap();
    let mut sectors = content.chunks(SECTOR_BYTES);
    std::array::from_fn(|_| {
        let sector = sectors.next().unwrap();
        assert!(sector.iter().all(|byte| *byte == sector[0]), "{sector:?}");
        sector[0]
    })
}

/// Sectors full of these bytes.
fn sectors(bytes: [u8; 4]) -> Vec<u8> {
    bytes.iter().flat_map(|byte| [*byte; SECTOR_BYTES]).collect()
}

fn size(path: &Path) -> u64 {
    std::fs::metadata(path).unwrap().len()
}

#[test]
fn a_write_that_was_torn_is_done_again() {
    let directory = tempfile::tempdir().unwrap();
    let path = directory.path().join("journal");
    for survivors in 0..16_u8 {
        let journaled = new(&path);
        // Not yet stable when it is written over.
        journaled.write_at(&sectors([1; 4]), AT).unwrap();
        journaled.write_atomically(&sectors([7; 4]), AT).unwrap();
        let mut sector = 0;
        journaled.store.tear_cache(SECTOR_BYTES, || {
            sector += 1;
            survivors >> (sector - 1) & 1 == 1
        });
        assert_eq!(sector, 4);
        let journaled = again(journaled, &path);
        let expected = if survivors == 0 { [1; 4] } else { [7; 4] };
        assert_eq!(content(&journaled), expected, "{survivors:04b}");
        journaled.store.lose_cache(|| false);
        assert_eq!(content(&journaled), expected, "{survivors:04b}");
        assert_eq!(size(&path), 0);
    }
}

#[test]
fn what_was_written_over_it_stays_although_it_was_not_flushed() {
    let directory = tempfile::tempdir().unwrap();
    let path = directory.path().join("journal");
    let journaled = new(&path);
    journaled.write_atomically(&sectors([7; 4]), AT).unwrap();
    journaled.write_at(&sectors([9; 4])[..512], AT + 512).unwrap();
    let journaled = again(journaled, &path);
    assert_eq!(content(&journaled), [7, 9, 7, 7]);
    journaled.write_atomically(&sectors([5; 4]), AT).unwrap();
    journaled.write_zeroes(AT - 511, 512).unwrap();
    let journaled = again(journaled, &path);
    let mut first = [0; 1];
    journaled.read_at(&mut first, AT).unwrap();
    assert_eq!(first, [0]);
    journaled.write_atomically(&sectors([6; 4]), AT).unwrap();
    journaled.discard(AT + 1024, 512).unwrap();
    let journaled = again(journaled, &path);
    assert_eq!(content(&journaled), [6, 6, 0, 6]);
}

#[test]
fn another_disk_under_the_same_name_is_not_written_to() {
    let directory = tempfile::tempdir().unwrap();
    let path = directory.path().join("journal");
    let journaled = new(&path);
    journaled.write_atomically(&sectors([7; 4]), AT).unwrap();
    // A backup from before the write.
    journaled.store.write_at(&sectors([0; 4]), AT).unwrap();
    let journaled = again(journaled, &path);
    assert_eq!(content(&journaled), [0; 4]);
    assert_eq!(size(&path), 0);
    // Something else.
    journaled.write_atomically(&sectors([7; 4]), AT).unwrap();
    journaled.store.write_at(&sectors([7, 3, 0, 0]), AT).unwrap();
    let held = std::fs::read(&path).unwrap();
    let error = Journaled::open(journaled.store, &path).unwrap_err();
    assert!(matches!(error, JournalError::Changed { offset: AT, bytes: BYTES }), "{error}");
    assert!(error.to_string().contains("2048 bytes at byte 4096"), "{error}");
    assert_eq!(std::fs::read(&path).unwrap(), held, "somebody has to decide");
}

#[test]
fn nothing_stays_behind_when_all_is_stable() {
    let directory = tempfile::tempdir().unwrap();
    let path = directory.path().join("journal");
    let journaled = new(&path);
    journaled.write_atomically(&sectors([7; 4]), AT).unwrap();
    assert!(size(&path) > BYTES as u64);
    // Somewhere else.
    journaled.write_at(&[9; 16], AT - 16).unwrap();
    journaled.write_at(&[9; 16], AT + BYTES as u64).unwrap();
    assert!(size(&path) > BYTES as u64);
    journaled.flush().unwrap();
    assert_eq!(size(&path), 0);
    journaled.store.lose_cache(|| false);
    assert_eq!(content(&again(journaled, &path)), [7; 4]);
}

#[test]
fn one_follows_the_other() {
    let directory = tempfile::tempdir().unwrap();
    let path = directory.path().join("journal");
    let journaled = new(&path);
    journaled.write_atomically(&[1; 16], 0).unwrap();
    journaled.write_atomically(&sectors([2; 4]), AT).unwrap();
    journaled.store.lose_cache(|| false);
    let journaled = again(journaled, &path);
    let mut first = [0; 16];
    journaled.read_at(&mut first, 0).unwrap();
    assert_eq!((first, content(&journaled)), ([1; 16], [0; 4]));
}

#[test]
fn a_journal_is_private_and_bounded() {
    let directory = tempfile::tempdir().unwrap();
    let path = directory.path().join("journal");
    let store = MemoryStore::new(4 << 20);
    let journaled = Journaled::open(store, &path).unwrap();
    for number in 1..4 {
        journaled.write_atomically(&[number; BYTES_MAX as usize], 512).unwrap();
        assert!(size(&path) <= BODY_AT + u64::from(BYTES_MAX) + 4 * 2048);
    }
    assert_eq!(std::fs::metadata(&path).unwrap().permissions().mode() & 0o777, 0o600);
}

#[test]
fn a_write_that_never_left_the_journal_is_dropped() {
    let directory = tempfile::tempdir().unwrap();
    let path = directory.path().join("journal");
    let mut journaled = new(&path);
    journaled.write_atomically(&sectors([7; 4]), AT).unwrap();
    let whole = std::fs::read(&path).unwrap();
    let body = BODY_AT as usize;
    journaled.store.write_at(&sectors([7, 1, 1, 1]), AT).unwrap();
    let cut = (body..whole.len()).step_by(97).map(|length| whole[..length].to_vec());
    let damaged = (body..whole.len()).step_by(61).map(|at| {
        let mut damaged = whole.clone();
        damaged[at] ^= 0x10;
        damaged
    });
    let no_header = [vec![0; HEADER_BYTES], whole[HEADER_BYTES..].to_vec()].concat();
    for text in cut.chain(damaged).chain([no_header, Vec::new(), vec![0; 20]]) {
        std::fs::write(&path, &text).unwrap();
        journaled = again(journaled, &path);
        assert_eq!(content(&journaled), [7, 1, 1, 1]);
        assert_eq!(size(&path), 0, "of what was dropped nothing stays behind");
    }
}

#[test]
fn what_is_no_journal_is_left_alone() {
    let directory = tempfile::tempdir().unwrap();
    let path = directory.path().join("journal");
    let journaled = new(&path);
    journaled.write_atomically(&sectors([7; 4]), AT).unwrap();
    let whole = std::fs::read(&path).unwrap();
    let damaged = (0..HEADER_BYTES).map(|at| {
        let mut damaged = whole.clone();
        damaged[at] ^= 0x10;
        damaged
    });
    let beside = |offset, length| {
        let mut other = whole.clone();
        other[..HEADER_BYTES].copy_from_slice(&emit_header(offset, length, 0));
        other
    };
    let beside = [
        beside(1 << 16, 512),
        beside(u64::MAX, 512),
        beside(0, u64::from(BYTES_MAX) + 1),
        beside(0, u64::MAX),
    ];
    let foreign = [b"notes".to_vec(), vec![b'x'; 5000], whole[..HEADER_BYTES - 1].to_vec()];
    for text in damaged.chain(beside).chain(foreign) {
        std::fs::write(&path, &text).unwrap();
        let store = MemoryStore::new(1 << 16);
        let error = Journaled::open(store, &path).unwrap_err();
        assert!(matches!(error, JournalError::Foreign(_)), "{error}");
        assert!(error.to_string().contains("remove the file"), "{error}");
        assert_eq!(std::fs::read(&path).unwrap(), text);
    }
}

#[test]
fn without_room_for_the_journal_nothing_is_written() {
    let directory = tempfile::tempdir().unwrap();
    let journaled = new(&directory.path().join("journal"));
    let full = File::options().read(true).write(true).open("/dev/full").unwrap();
    let journaled = Journaled { journal: full, ..journaled };
    journaled.write_at(&sectors([1; 4]), AT).unwrap();
    let error = journaled.write_atomically(&sectors([7; 4]), AT).unwrap_err();
    assert_eq!(error.kind(), io::ErrorKind::StorageFull);
    assert_eq!(content(&journaled), [1; 4]);
}

#[test]
fn without_room_for_all_of_it_nothing_is_written() {
    let directory = tempfile::tempdir().unwrap();
    let path = directory.path().join("journal");
    let full = Full { store: MemoryStore::with_volatile_cache(1 << 16), end: AT + 1024 };
    full.store.write_at(&sectors([1; 4]), AT).unwrap();
    let journaled = Journaled::open(full, &path).unwrap();
    let error = journaled.write_atomically(&sectors([7; 4]), AT).unwrap_err();
    assert_eq!(error.kind(), io::ErrorKind::StorageFull);
    assert_eq!(content(&journaled), [1; 4]);
    assert_eq!(size(&path), 0);
    journaled.store.store.lose_cache(|| false);
    assert_eq!(content(&journaled), [1; 4]);
}

/// A store on a medium that is full: what lies behind `end` cannot be written.
#[derive(Debug)]
struct Full {
    store: MemoryStore,
    end: u64,
}

impl Store for Full {
    fn size_bytes(&self) -> u64 {
        self.store.size_bytes()
    }

    fn is_read_only(&self) -> bool {
        false
    }

    fn read_at(&self, buffer: &mut [u8], offset: u64) -> io::Result<()> {
        self.store.read_at(buffer, offset)
    }

    fn write_at(&self, data: &[u8], offset: u64) -> io::Result<()> {
        let room = self.end.saturating_sub(offset).min(data.len() as u64) as usize;
        self.store.write_at(&data[..room], offset)?;
        if room == data.len() { Ok(()) } else { Err(io::ErrorKind::StorageFull.into()) }
    }

    fn flush(&self) -> io::Result<()> {
        self.store.flush()
    }

    fn prefetch(&self, _offset: u64, _length: u64) {}

    fn can_discard(&self) -> bool {
        false
    }

    fn discard(&self, offset: u64, length: u64) -> io::Result<()> {
        self.write_zeroes(offset, length)
    }

    fn write_zeroes(&self, offset: u64, length: u64) -> io::Result<()> {
        self.write_at(&vec![0; length as usize], offset)
    }

    fn allocation(&self, _offset: u64) -> io::Result<Allocation> {
        Ok(Allocation { mapped: true, end: self.size_bytes() })
    }
}
