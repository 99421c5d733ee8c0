//! Partition tables, as far as names are concerned: GPT (UEFI 2.10 §5.3) and MBR (§5.2.1).
//!
//! The kernel has made the partitions; this only finds the UUID and the name that belong to the
//! number of each. Bytes come through a function that reads a range, so that an image file, a
//! device and a test are the same. Counts and chains on the disk are bounded.

use std::io;
use std::ops::Range;

/// An entry of a partition table.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Partition {
    /// Its number, from 1, as in the kernel's name for it.
    pub number: u32,
    /// PARTUUID: of GPT its own, of MBR `<disk signature>-<number in hex>`.
    pub uuid: String,
    /// PARTLABEL: its name in a GPT.
    pub label: Option<String>,
    /// What it is for: the type UUID of GPT, the type byte of MBR as `0x83`.
    pub kind: String,
}

/// Most entries that are read. 128 is usual; the kernel's limit for a disk is 256.
const ENTRIES_MAX: usize = 256;

/// Reads the table of a disk; no table gives no partitions. `read` gives as much of a range of
/// bytes as the disk has.
pub fn read(mut read: impl FnMut(Range<u64>) -> io::Result<Vec<u8>>) -> io::Result<Vec<Partition>> {
    // Room for the header behind a logical block of either size.
    let head = read(0..4096 + 512)?;
    for block_bytes in [512, 4096] {
        if let Some(header) = head.get(block_bytes..).and_then(GptHeader::parse) {
            let start = header.entries_lba.checked_mul(block_bytes as u64);
            let end = start.and_then(|start| start.checked_add(header.table_bytes() as u64));
            if let Some(range) = start.zip(end).map(|(start, end)| start..end) {
                return Ok(header.entries(&read(range)?));
            }
        }
    }
    let Some(sector) = head.get(..512) else { return Ok(Vec::new()) };
    read_mbr(sector, read)
}

/// What the header of a GPT says about its entries.
struct GptHeader {
    entries_lba: u64,
    entry_bytes: usize,
    entries: usize,
}

impl GptHeader {
    fn parse(bytes: &[u8]) -> Option<GptHeader> {
        if bytes.get(..8)? != b"EFI PART" {
            return None;
        }
        let entries_lba = u64::from_le_bytes(bytes.get(72..80)?.try_into().ok()?);
        let entries = le32(bytes, 80)? as usize;
        let entry_bytes = le32(bytes, 84)? as usize;
        let sound = (128..=4096).contains(&entry_bytes) && entry_bytes.is_power_of_two();
        sound.then_some(GptHeader { entries_lba, entry_bytes, entries: entries.min(ENTRIES_MAX) })
    }

    fn table_bytes(&self) -> usize {
        self.entry_bytes * self.entries
    }

    fn entries(&self, table: &[u8]) -> Vec<Partition> {
        let entries = table.chunks_exact(self.entry_bytes).take(self.entries).zip(1..);
        let parsed = entries.filter_map(|(entry, number)| {
            let kind: [u8; 16] = entry.get(..16)?.try_into().ok()?;
            let unique: [u8; 16] = entry.get(16..32)?.try_into().ok()?;
            let units = entry.get(56..128)?.chunks_exact(2);
            let units = units.map(|unit| u16::from_le_bytes([unit[0], unit[1]]));
            let name: String = char::decode_utf16(units.take_while(|unit| *unit != 0))
                .map(|c| c.unwrap_or('\u{fffd}'))
                .collect();
            (kind != [0; 16]).then(|| Partition {
                number,
                uuid: guid_text(unique),
                label: Some(name).filter(|name| !name.is_empty()),
                kind: guid_text(kind),
            })
        });
        parsed.collect()
    }
}

/// Offset of the disk signature and of the four entries in an MBR.
const SIGNATURE: usize = 440;
const ENTRIES: usize = 446;

fn read_mbr(
    sector: &[u8],
    mut read: impl FnMut(Range<u64>) -> io::Result<Vec<u8>>,
) -> io::Result<Vec<Partition>> {
    if sector.get(510..512) != Some(&[0x55, 0xaa]) {
        return Ok(Vec::new());
    }
    let Some(signature) = le32(sector, SIGNATURE) else { return Ok(Vec::new()) };
    let partition = |number: u32, kind: u8| Partition {
        number,
        uuid: format!("{signature:08x}-{number:02x}"),
        label: None,
        kind: format!("{kind:#04x}"),
    };
    let mut partitions = Vec::new();
    let mut extended = None;
    for (entry, number) in mbr_entries(sector).into_iter().zip(1..) {
        // A flag of 0 or 0x80 and nothing else: else this is the boot code of a file system.
        if !matches!(entry.flag, 0 | 0x80) {
            return Ok(Vec::new());
        }
        match entry.kind {
            0 | 0xee => {}
            kind => {
                partitions.push(partition(number, kind));
                if is_extended(kind) && extended.is_none() {
                    extended = Some(u64::from(entry.start));
                }
            }
        }
    }
    // Logical partitions: a chain of tables, each with one partition and the place of the next.
    let mut next = extended;
    for number in 5..ENTRIES_MAX as u32 {
        let (Some(base), Some(place)) = (extended, next) else { break };
        let table = read(place * 512..place * 512 + 512)?;
        if table.get(510..512) != Some(&[0x55, 0xaa]) {
            break;
        }
        let entries = mbr_entries(&table);
        let Some(logical) = entries.iter().find(|e| e.kind != 0 && !is_extended(e.kind)) else {
            break;
        };
        partitions.push(partition(number, logical.kind));
        let link = entries.iter().find(|entry| is_extended(entry.kind) && entry.start != 0);
        next = link.map(|link| base + u64::from(link.start));
    }
    Ok(partitions)
}

struct MbrEntry {
    flag: u8,
    kind: u8,
    /// First sector of 512 bytes.
    start: u32,
}

/// The four entries; fewer if the sector is cut short.
fn mbr_entries(sector: &[u8]) -> Vec<MbrEntry> {
    let entries = sector.get(ENTRIES..ENTRIES + 64).unwrap_or_default().chunks_exact(16);
    let parsed = entries.map(|entry| MbrEntry {
        flag: entry[0],
        kind: entry[4],
        start: u32::from_le_bytes([entry[8], entry[9], entry[10], entry[11]]),
    });
    parsed.collect()
}

fn is_extended(kind: u8) -> bool {
    matches!(kind, 0x05 | 0x0f | 0x85)
}

/// The first three groups of a GUID are little-endian on disk (UEFI 2.10, appendix A).
fn guid_text(mut guid: [u8; 16]) -> String {
    guid[..4].reverse();
    guid[4..6].reverse();
    guid[6..8].reverse();
    uuid_text(guid)
}

/// Sixteen bytes in the order in which they are printed, with hyphens.
pub(super) fn uuid_text(uuid: [u8; 16]) -> String {
    let mut text = String::with_capacity(36);
    for (index, byte) in uuid.iter().enumerate() {
        if matches!(index, 4 | 6 | 8 | 10) {
            text.push('-');
        }
        text += &format!("{byte:02x}");
    }
    text
}

fn le32(bytes: &[u8], offset: usize) -> Option<u32> {
    Some(u32::from_le_bytes(bytes.get(offset..offset + 4)?.try_into().ok()?))
}

#[cfg(test)]
mod tests {
    use std::io::Write;
    use std::process::{Command, Stdio};

    use proptest::prelude::*;

    use super::*;

    fn read_image(image: &[u8]) -> Vec<Partition> {
        read(|range| {
            let start = image.len().min(usize::try_from(range.start).unwrap_or(usize::MAX));
            let end = image.len().min(usize::try_from(range.end).unwrap_or(usize::MAX));
            Ok(image[start..end.max(start)].to_vec())
        })
        .unwrap()
    }

    /// The table that sfdisk makes from a script; `None` if it is not here.
    fn made_by_sfdisk(script: &str) -> Option<Vec<Partition>> {
        let file = tempfile::NamedTempFile::new().unwrap();
        file.as_file().set_len(64 << 20).unwrap();
        let mut command = Command::new("sfdisk");
        command.arg("-q").arg(file.path()).stdin(Stdio::piped()).stderr(Stdio::null());
        let Ok(mut child) = command.spawn() else {
            eprintln!("skipped: sfdisk is not installed");
            return None;
        };
        child.stdin.take().unwrap().write_all(script.as_bytes()).unwrap();
        assert!(child.wait().unwrap().success());
        Some(read_image(&std::fs::read(file.path()).unwrap()))
    }

    #[test]
    fn a_gpt_of_sfdisk() {
        let Some(partitions) = made_by_sfdisk(
            "label: gpt\n\
             size=8MiB, type=C12A7328-F81F-11D2-BA4B-00A0C93EC93B, \
             uuid=11111111-2222-3333-4444-555555555555, name=\"EFI\"\n\
             type=4F68BCE3-E8CD-4DB1-96E7-FBCAF984B709, \
             uuid=01234567-89AB-CDEF-0123-456789ABCDEF, name=\"my root\"\n",
        ) else {
            return;
        };
        assert_eq!(partitions.len(), 2);
        assert_eq!(partitions[0].uuid, "11111111-2222-3333-4444-555555555555");
        assert_eq!(
            partitions[1],
            Partition {
                number: 2,
                uuid: "01234567-89ab-cdef-0123-456789abcdef".into(),
                label: Some("my root".into()),
                kind: "4f68bce3-e8cd-4db1-96e7-fbcaf984b709".into(),
            }
        );
    }

    #[test]
    fn an_mbr_of_sfdisk_with_logical_partitions() {
        let Some(partitions) = made_by_sfdisk(
            "label: dos\nlabel-id: 0x0815cafe\nsize=4MiB, type=83\nsize=40MiB, type=5\n\
             size=4MiB, type=82\nsize=4MiB, type=83\nsize=4MiB, type=83\nsize=4MiB, type=83\n",
        ) else {
            return;
        };
        let named: Vec<(u32, &str, &str)> =
            partitions.iter().map(|p| (p.number, p.uuid.as_str(), p.kind.as_str())).collect();
        let first = (1, "0815cafe-01", "0x83");
        assert!(named.contains(&first) && named.contains(&(2, "0815cafe-02", "0x05")), "{named:?}");
        assert!(named.contains(&(5, "0815cafe-05", "0x83")), "{named:?}");
    }

    #[test]
    fn a_gpt_by_hand_with_blocks_of_4_kib() {
        let mut image = vec![0; 6 * 4096];
        image[510..512].copy_from_slice(&[0x55, 0xaa]);
        image[4096..4104].copy_from_slice(b"EFI PART");
        image[4096 + 72] = 2;
        image[4096 + 80] = 4;
        image[4096 + 84] = 128;
        let entry = 2 * 4096 + 128;
        image[entry] = 1;
        image[entry + 16..entry + 32]
            .copy_from_slice(&std::array::from_fn::<u8, 16, _>(|i| i as u8));
        image[entry + 56..entry + 60].copy_from_slice(b"a\0b\0");
        assert_eq!(
            read_image(&image),
            [Partition {
                number: 2,
                uuid: "03020100-0504-0706-0809-0a0b0c0d0e0f".into(),
                label: Some("ab".into()),
                kind: "00000001-0000-0000-0000-000000000000".into(),
            }]
        );
    }

    #[test]
    fn a_chain_of_logical_partitions_that_bites_its_tail_ends() {
        let mut image = vec![0; 4 * 512];
        image[ENTRIES + 4] = 5;
        image[ENTRIES + 8] = 1;
        image[510..512].copy_from_slice(&[0x55, 0xaa]);
        let table = 512 + ENTRIES;
        image[table + 4] = 0x83;
        image[table + 16 + 4] = 5;
        // Relative to the extended partition: three sectors on, where the same table is again.
        image[table + 16 + 8] = 2;
        image[1022..1024].copy_from_slice(&[0x55, 0xaa]);
        image.copy_within(512..1024, 3 * 512);
        // And there the chain goes on to itself.
        assert_eq!(read_image(&image).len(), 1 + ENTRIES_MAX - 5);
    }

    proptest! {
        #[test]
        fn any_bytes_are_survived(
            mut image in proptest::collection::vec(any::<u8>(), 0..16384), gpt in any::<bool>(),
        ) {
            if gpt && image.len() > 1024 {
                image[512..520].copy_from_slice(b"EFI PART");
                image[596..600].copy_from_slice(&[128, 0, 0, 0]);
            }
            if let Some(place) = image.get_mut(510..512) {
                place.copy_from_slice(&[0x55, 0xaa]);
            }
            read_image(&image);
        }
    }
}
