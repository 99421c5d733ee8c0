//! What is on a block device: file system, UUID, label, partition table.
//!
//! Pure functions over bytes that the caller has read ([`SUPERBLOCK_READS`] says which), and one
//! look at all devices in /sys ([`scan`]). Layouts are those of the kernel's headers, named at each
//! probe. Every length is checked; a field that makes no sense makes the probe answer "not this
//! one".

use std::fs::{self, File};
use std::io;
use std::ops::Range;
use std::os::unix::fs::FileExt;
use std::path::{Path, PathBuf};

use super::partition_table;
pub use super::partition_table::Partition;

/// The parts of a device that the probes look at, in bytes: all but btrfs lie in the first 4 KiB.
pub const SUPERBLOCK_READS: [Range<u64>; 2] = [0..4096, 65536..65536 + 4096];

/// A file system, or swap space, on a device.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct FileSystem {
    /// Its type as mount(8) calls it: `ext4`, `xfs`, `btrfs`, `vfat`, `swap`, …
    pub kind: &'static str,
    /// UUID in the form of blkid: lower case with hyphens, `1234-ABCD` for vfat.
    pub uuid: Option<String>,
    /// Label.
    pub label: Option<String>,
}

impl FileSystem {
    /// True for what can be mounted as the root of a system.
    pub fn is_root_candidate(&self) -> bool {
        !matches!(self.kind, "swap" | "vfat")
    }
}

/// One disk or partition, as the kernel and its own bytes describe it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Device {
    /// Its node: `/dev/ublkb0p1`.
    pub path: PathBuf,
    /// Size in bytes.
    pub bytes: u64,
    /// The node of the disk that it is a part of.
    pub disk: Option<PathBuf>,
    /// Its entry in the partition table of that disk.
    pub partition: Option<Partition>,
    /// What is on it.
    pub file_system: Option<FileSystem>,
}

/// Finds out what `head`, the first 4 KiB, and `at_64k`, 4 KiB from 64 KiB on, are the beginning
/// of. Either may be shorter, or empty if the device is.
pub fn file_system(head: &[u8], at_64k: &[u8]) -> Option<FileSystem> {
    // Superblocks with the strongest marks first: mkfs.ext4 leaves old ones elsewhere alone.
    probe_btrfs(at_64k)
        .or_else(|| probe_xfs(head))
        .or_else(|| probe_ext(head))
        .or_else(|| probe_f2fs(head))
        .or_else(|| probe_erofs(head))
        .or_else(|| probe_squashfs(head))
        .or_else(|| probe_swap(head))
        .or_else(|| probe_vfat(head))
}

/// ext2, ext3, ext4 (fs/ext4/ext4.h, struct ext4_super_block).
fn probe_ext(head: &[u8]) -> Option<FileSystem> {
    let superblock = head.get(1024..2048)?;
    if le16(superblock, 0x38)? != 0xef53 {
        return None;
    }
    const HAS_JOURNAL: u32 = 0x4;
    const JOURNAL_DEVICE: u32 = 0x8;
    // What ext3 knows: filetype, recover, meta_bg; sparse_super, large_file, btree_dir.
    const EXT3_INCOMPAT: u32 = 0x2 | 0x4 | 0x10;
    const EXT3_RO_COMPAT: u32 = 0x1 | 0x2 | 0x4;
    let (compat, incompat) = (le32(superblock, 0x5c)?, le32(superblock, 0x60)?);
    let ro_compat = le32(superblock, 0x64)?;
    if incompat & JOURNAL_DEVICE != 0 {
        return None;
    }
    let is_ext4 = incompat & !EXT3_INCOMPAT != 0 || ro_compat & !EXT3_RO_COMPAT != 0;
    let kind = match (is_ext4, compat & HAS_JOURNAL != 0) {
        (true, _) => "ext4",
        (false, true) => "ext3",
        (false, false) => "ext2",
    };
    found(kind, uuid(superblock, 0x68), label(superblock, 0x78, 16))
}

/// XFS (fs/xfs/libxfs/xfs_format.h, struct xfs_dsb), big-endian.
fn probe_xfs(head: &[u8]) -> Option<FileSystem> {
    let block_bytes = head.get(4..8)?;
    let block_bytes = u32::from_be_bytes(block_bytes.try_into().ok()?);
    if head.get(..4)? != b"XFSB" || !(512..=65536).contains(&block_bytes) {
        return None;
    }
    found("xfs", uuid(head, 32), label(head, 108, 12))
}

/// btrfs (include/uapi/linux/btrfs_tree.h, struct btrfs_super_block).
fn probe_btrfs(at_64k: &[u8]) -> Option<FileSystem> {
    if at_64k.get(64..72)? != b"_BHRfS_M" {
        return None;
    }
    found("btrfs", uuid(at_64k, 32), label(at_64k, 299, 256))
}

/// f2fs (include/linux/f2fs_fs.h, struct f2fs_super_block).
fn probe_f2fs(head: &[u8]) -> Option<FileSystem> {
    let superblock = head.get(1024..)?;
    if le32(superblock, 0)? != 0xf2f5_2010 {
        return None;
    }
    let name = superblock.get(124..124 + 1024).map(|name| {
        let units = name.chunks_exact(2).map(|unit| u16::from_le_bytes([unit[0], unit[1]]));
        char::decode_utf16(units.take_while(|unit| *unit != 0))
            .map(|c| c.unwrap_or('\u{fffd}'))
            .collect::<String>()
    });
    found("f2fs", uuid(superblock, 108), name.filter(|name| !name.is_empty()))
}

/// EROFS (fs/erofs/erofs_fs.h, struct erofs_super_block).
fn probe_erofs(head: &[u8]) -> Option<FileSystem> {
    let superblock = head.get(1024..)?;
    if le32(superblock, 0)? != 0xe0f5_e1e2 {
        return None;
    }
    found("erofs", uuid(superblock, 48), label(superblock, 64, 16))
}

/// squashfs 4 (fs/squashfs/squashfs_fs.h): it has neither UUID nor label.
fn probe_squashfs(head: &[u8]) -> Option<FileSystem> {
    if head.get(..4)? != b"hsqs" || le16(head, 28)? != 4 {
        return None;
    }
    found("squashfs", None, None)
}

/// Swap space (include/linux/swap.h, union swap_header), with the usual page size of 4 KiB.
fn probe_swap(head: &[u8]) -> Option<FileSystem> {
    if head.get(4086..4096)? != b"SWAPSPACE2" {
        return None;
    }
    found("swap", uuid(head, 1036), label(head, 1052, 16))
}

/// FAT12, FAT16, FAT32 (include/uapi/linux/msdos_fs.h, struct fat_boot_sector).
fn probe_vfat(head: &[u8]) -> Option<FileSystem> {
    if head.get(510..512)? != [0x55, 0xaa] {
        return None;
    }
    // A partition table ends in the same two bytes; the type text tells them apart.
    let (serial, name) = match (head.get(82..90)?, head.get(54..62)?) {
        (b"FAT32   ", _) => (0x43, 0x47),
        (_, b"FAT12   " | b"FAT16   " | b"FAT     ") => (0x27, 0x2b),
        _ => return None,
    };
    let serial = le32(head, serial)?;
    let uuid = format!("{:04X}-{:04X}", serial >> 16, serial & 0xffff);
    let label = label(head, name, 11).filter(|label| label != "NO NAME");
    found("vfat", Some(uuid).filter(|_| serial != 0), label)
}

fn found(kind: &'static str, uuid: Option<String>, label: Option<String>) -> Option<FileSystem> {
    Some(FileSystem { kind, uuid, label })
}

/// Sixteen bytes as a UUID; all zero is none.
fn uuid(bytes: &[u8], offset: usize) -> Option<String> {
    let bytes: &[u8; 16] = bytes.get(offset..offset + 16)?.try_into().ok()?;
    (*bytes != [0; 16]).then(|| partition_table::uuid_text(*bytes))
}

/// A label that ends at a zero byte or the end of its field; blanks at its end are padding.
fn label(bytes: &[u8], offset: usize, length: usize) -> Option<String> {
    let field = bytes.get(offset..offset + length)?;
    let end = field.iter().position(|byte| *byte == 0).unwrap_or(length);
    let text = String::from_utf8_lossy(&field[..end]);
    let text = text.trim_end();
    (!text.is_empty()).then(|| text.to_owned())
}

fn le16(bytes: &[u8], offset: usize) -> Option<u16> {
    Some(u16::from_le_bytes(bytes.get(offset..offset + 2)?.try_into().ok()?))
}

fn le32(bytes: &[u8], offset: usize) -> Option<u32> {
    Some(u32::from_le_bytes(bytes.get(offset..offset + 4)?.try_into().ok()?))
}

/// Looks at every block device of the machine that has a size. A device that cannot be read is
/// listed without what is on it.
pub fn scan() -> io::Result<Vec<Device>> {
    let mut devices = Vec::new();
    let mut tables: Vec<(PathBuf, Vec<Partition>)> = Vec::new();
    let mut names: Vec<_> = fs::read_dir("/sys/class/block")?.flatten().collect();
    names.sort_by_key(|entry| entry.file_name());
    for entry in names {
        let name = entry.file_name().to_string_lossy().into_owned();
        let number = |file: &str| -> Option<u64> {
            fs::read_to_string(entry.path().join(file)).ok()?.trim().parse().ok()
        };
        let Some(sectors) = number("size").filter(|sectors| *sectors > 0) else { continue };
        // The kernel's names have a `!` where the node's path has a slash.
        let node = |name: &str| Path::new("/dev").join(name.replace('!', "/"));
        let path = node(&name);
        let disk = number("partition").and_then(|number| {
            let target = fs::canonicalize(entry.path()).ok()?;
            Some((node(target.parent()?.file_name()?.to_str()?), u32::try_from(number).ok()?))
        });
        let partition = disk.as_ref().and_then(|(disk, number)| {
            if !tables.iter().any(|(known, _)| known == disk) {
                tables.push((disk.clone(), read_partitions(disk).unwrap_or_default()));
            }
            let (_, table) = tables.iter().find(|(known, _)| known == disk)?;
            table.iter().find(|partition| partition.number == *number).cloned()
        });
        let file_system = read_file_system(&path).ok().flatten();
        let disk = disk.map(|(disk, _)| disk);
        devices.push(Device { path, bytes: sectors * 512, disk, partition, file_system });
    }
    Ok(devices)
}

/// Reads what the probes need from a device or image file.
pub fn read_file_system(path: &Path) -> io::Result<Option<FileSystem>> {
    let file = File::open(path)?;
    let [head, at_64k] = SUPERBLOCK_READS.map(|range| read_at(&file, range));
    Ok(file_system(&head?, &at_64k?))
}

/// Reads the partition table of a disk or image file.
pub fn read_partitions(path: &Path) -> io::Result<Vec<Partition>> {
    let file = File::open(path)?;
    partition_table::read(|range| read_at(&file, range))
}

/// As much of a range as the file has.
fn read_at(file: &File, range: Range<u64>) -> io::Result<Vec<u8>> {
    let mut buffer = vec![0; (range.end - range.start) as usize];
    let mut filled = 0;
    while filled < buffer.len() {
        match file.read_at(&mut buffer[filled..], range.start + filled as u64) {
            Ok(0) => break,
            Ok(length) => filled += length,
            Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
            Err(error) => return Err(error),
        }
    }
    buffer.truncate(filled);
    Ok(buffer)
}

#[cfg(test)]
mod tests {
    use std::process::{Command, Stdio};

    use proptest::prelude::*;

    use super::*;

    const UUID: &str = "3f5a8f26-11c8-4a2e-9d43-6f1b2c3d4e5f";

    /// Makes a file system with its own tool and looks at it; `None` if the tool is not here.
    fn made_by(tool: &str, arguments: &[&str], bytes: u64) -> Option<FileSystem> {
        let file = tempfile::NamedTempFile::new().unwrap();
        file.as_file().set_len(bytes).unwrap();
        let mut command = Command::new(tool);
        command.args(arguments).arg(file.path()).stdout(Stdio::null()).stderr(Stdio::null());
        match command.status() {
            Ok(status) => assert!(status.success(), "{tool} failed"),
            Err(_) => {
                eprintln!("skipped: {tool} is not installed");
                return None;
            }
        }
        Some(read_file_system(file.path()).unwrap().expect("a file system"))
    }

    #[test]
    fn file_systems_as_their_own_tools_make_them() {
        let mib = 1 << 20;
        type Row = (&'static str, &'static [&'static str], u64, &'static str, &'static str);
        let table: &[Row] = &[
            ("mkfs.ext2", &["-F", "-q", "-L", "root", "-U", UUID], 8 * mib, "ext2", UUID),
            ("mkfs.ext3", &["-F", "-q", "-L", "root", "-U", UUID], 16 * mib, "ext3", UUID),
            ("mkfs.ext4", &["-F", "-q", "-L", "root", "-U", UUID], 16 * mib, "ext4", UUID),
            ("mkfs.btrfs", &["-q", "-L", "root", "-U", UUID], 128 * mib, "btrfs", UUID),
            (
                "mkfs.xfs",
                &["-q", "-L", "root", "-m", "uuid=3f5a8f26-11c8-4a2e-9d43-6f1b2c3d4e5f"],
                320 * mib,
                "xfs",
                UUID,
            ),
            ("mkfs.vfat", &["-n", "root", "-i", "1234ABCD"], 8 * mib, "vfat", "1234-ABCD"),
            (
                "mkfs.vfat",
                &["-F", "32", "-n", "root", "-i", "1234ABCD"],
                64 * mib,
                "vfat",
                "1234-ABCD",
            ),
            ("mkswap", &["-q", "-L", "root", "-U", UUID], mib, "swap", UUID),
        ];
        for (tool, arguments, bytes, kind, uuid) in table {
            let Some(found) = made_by(tool, arguments, *bytes) else { continue };
            assert_eq!(found.kind, *kind);
            assert_eq!(found.uuid.as_deref(), Some(*uuid), "{kind}");
            // mkfs.vfat writes labels in capitals in newer versions.
            assert_eq!(found.label.unwrap().to_lowercase(), "root", "{kind}");
        }
    }

    /// A superblock with its magic, UUID bytes 1 to 16 and the label `root`, by hand from the
    /// headers that each probe names.
    fn written(magic: (usize, &[u8]), uuid: usize, label: usize) -> Vec<u8> {
        let mut bytes = vec![0; 4096];
        bytes[magic.0..magic.0 + magic.1.len()].copy_from_slice(magic.1);
        bytes[uuid..uuid + 16].copy_from_slice(&std::array::from_fn::<u8, 16, _>(|i| i as u8 + 1));
        bytes[label..label + 4].copy_from_slice(b"root");
        bytes
    }

    #[test]
    fn file_systems_by_hand() {
        let ext = written((1024 + 0x38, &[0x53, 0xef]), 1024 + 0x68, 1024 + 0x78);
        let xfs = written((0, b"XFSB\0\0\x10\0"), 32, 108);
        let btrfs = written((64, b"_BHRfS_M"), 32, 299);
        let erofs = written((1024, &[0xe2, 0xe1, 0xf5, 0xe0]), 1024 + 48, 1024 + 64);
        let swap = written((4086, b"SWAPSPACE2"), 1036, 1052);
        let rows = [("ext2", &ext), ("xfs", &xfs), ("erofs", &erofs), ("swap", &swap)];
        let rows = rows.map(|(kind, head)| (kind, file_system(head, &[])));
        for (kind, found) in rows.into_iter().chain([("btrfs", file_system(&[], &btrfs))]) {
            let found = found.unwrap_or_else(|| panic!("{kind} is not seen"));
            assert_eq!(found.kind, kind);
            let uuid = "01020304-0506-0708-090a-0b0c0d0e0f10";
            assert_eq!((found.uuid.as_deref(), found.label.as_deref()), (Some(uuid), Some("root")));
        }
        let mut f2fs = written((1024, &[0x10, 0x20, 0xf5, 0xf2]), 1024 + 108, 2048);
        f2fs[1024 + 124..1024 + 132].copy_from_slice(b"r\0o\0o\0t\0");
        assert_eq!(file_system(&f2fs, &[]).unwrap().label.as_deref(), Some("root"));
        assert_eq!(file_system(&[0; 4096], &[0; 4096]), None);
    }

    proptest! {
        #[test]
        fn any_bytes_are_survived(
            mut head in proptest::collection::vec(any::<u8>(), 0..4097),
            magic in 0usize..6,
        ) {
            let (offset, magic): (usize, &[u8]) = [
                (0x438, &[0x53u8, 0xef][..]),
                (0, b"XFSB"),
                (64, b"_BHRfS_M"),
                (1024, &[0x10, 0x20, 0xf5, 0xf2]),
                (1024, &[0xe2, 0xe1, 0xf5, 0xe0]),
                (510, &[0x55, 0xaa]),
            ][magic];
            if let Some(place) = head.get_mut(offset..offset + magic.len()) {
                place.copy_from_slice(magic);
            }
            let _ = file_system(&head, &head);
            let _ = file_system(&head, &[]);
        }
    }
}
