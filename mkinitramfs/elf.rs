//! What the builder wants to know of an ELF file: for which machine it is, whether it is static,
//! what stands in its `.modinfo` section (`elf(5)`, the kernel's `moduleparam.h`).
//!
//! Reads 32 and 64 bit files of either byte order. Every offset is checked; a file that lies about
//! itself is an error, never a panic.

use std::fmt;

/// A file whose ELF header was read.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Elf<'a> {
    bytes: &'a [u8],
    wide: bool,
    big_endian: bool,
}

/// Why a file is not what it should be.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct NotElf(&'static str);

impl fmt::Display for NotElf {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.0)
    }
}

const TRUNCATED: NotElf = NotElf("ELF file ends too early");

/// Program header of the dynamic loader's path.
const PT_INTERP: u64 = 3;

impl<'a> Elf<'a> {
    pub(crate) fn parse(bytes: &'a [u8]) -> Result<Elf<'a>, NotElf> {
        if bytes.get(..4) != Some(b"\x7fELF") {
            return Err(NotElf("not an ELF file"));
        }
        let wide = match bytes.get(4) {
            Some(1) => false,
            Some(2) => true,
            _ => return Err(NotElf("ELF class is neither 32 nor 64 bit")),
        };
        let big_endian = match bytes.get(5) {
            Some(1) => false,
            Some(2) => true,
            _ => return Err(NotElf("ELF byte order is unknown")),
        };
        Ok(Elf { bytes, wide, big_endian })
    }

    /// `e_machine`: 62 is x86-64, 183 is aarch64.
    pub(crate) fn machine(&self) -> Result<u64, NotElf> {
        self.number(18, 2)
    }

    /// Whether a dynamic loader is asked for. A static position-independent file has none.
    pub(crate) fn has_interpreter(&self) -> Result<bool, NotElf> {
        let (offset, size, count) = if self.wide {
            (self.number(32, 8)?, self.number(54, 2)?, self.number(56, 2)?)
        } else {
            (self.number(28, 4)?, self.number(42, 2)?, self.number(44, 2)?)
        };
        for at in 0..count {
            let header = offset.checked_add(at * size).ok_or(TRUNCATED)?;
            if self.number(header, 4)? == PT_INTERP {
                return Ok(true);
            }
        }
        Ok(false)
    }

    /// The `KEY=VALUE` texts of a kernel module; those that are not UTF-8 are left out.
    pub(crate) fn modinfo(&self) -> Result<impl Iterator<Item = (&'a str, &'a str)>, NotElf> {
        let section = self.section(b".modinfo")?.unwrap_or(b"");
        let texts = section.split(|&byte| byte == 0).filter_map(|t| std::str::from_utf8(t).ok());
        Ok(texts.filter_map(|text| text.split_once('=')))
    }

    fn section(&self, name: &[u8]) -> Result<Option<&'a [u8]>, NotElf> {
        let (offset, size, count, names) = if self.wide {
            (self.number(40, 8)?, self.number(58, 2)?, self.number(60, 2)?, self.number(62, 2)?)
        } else {
            (self.number(32, 4)?, self.number(46, 2)?, self.number(48, 2)?, self.number(50, 2)?)
        };
        let header = |at: u64| offset.checked_add(at * size).ok_or(TRUNCATED);
        let content = |header: u64| -> Result<&'a [u8], NotElf> {
            let (start, length) = if self.wide {
                (self.number_at(header, 24, 8)?, self.number_at(header, 32, 8)?)
            } else {
                (self.number_at(header, 16, 4)?, self.number_at(header, 20, 4)?)
            };
            self.slice(start, length)
        };
        let names = content(header(names)?)?;
        for at in 0..count {
            let header = header(at)?;
            let name_at = usize::try_from(self.number(header, 4)?).map_err(|_| TRUNCATED)?;
            let found = names.get(name_at..).ok_or(TRUNCATED)?;
            if found.strip_prefix(name).is_some_and(|rest| rest.first() == Some(&0)) {
                return content(header).map(Some);
            }
        }
        Ok(None)
    }

    fn number_at(&self, base: u64, offset: u64, length: u64) -> Result<u64, NotElf> {
        self.number(base.checked_add(offset).ok_or(TRUNCATED)?, length)
    }

    fn number(&self, offset: u64, length: u64) -> Result<u64, NotElf> {
        let bytes = self.slice(offset, length)?.iter();
        let add = |value: u64, &byte: &u8| value << 8 | u64::from(byte);
        Ok(if self.big_endian { bytes.fold(0, add) } else { bytes.rev().fold(0, add) })
    }

    fn slice(&self, offset: u64, length: u64) -> Result<&'a [u8], NotElf> {
        let start = usize::try_from(offset).map_err(|_| TRUNCATED)?;
        let length = usize::try_from(length).map_err(|_| TRUNCATED)?;
        let end = start.checked_add(length).ok_or(TRUNCATED)?;
        self.bytes.get(start..end).ok_or(TRUNCATED)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// A 64-bit little-endian file with a `.modinfo` section, laid out by hand.
    fn module() -> Vec<u8> {
        let mut file = b"\x7fELF\x02\x01\x01".to_vec();
        file.resize(64, 0);
        file[18] = 62;
        let modinfo = b"license=GPL\0firmware=rtl_nic/a.fw\0firmware=b.fw\0";
        let names = b"\0.modinfo\0.shstrtab\0";
        file.extend(modinfo);
        file.extend(names);
        let table = file.len();
        file[40..48].copy_from_slice(&(table as u64).to_le_bytes());
        file[58..64].copy_from_slice(&[64, 0, 3, 0, 2, 0]);
        let section = |name: u32, at: usize, length: usize| {
            let mut header = vec![0; 64];
            header[..4].copy_from_slice(&name.to_le_bytes());
            header[24..32].copy_from_slice(&(at as u64).to_le_bytes());
            header[32..40].copy_from_slice(&(length as u64).to_le_bytes());
            header
        };
        file.extend(section(0, 0, 0));
        file.extend(section(1, 64, modinfo.len()));
        file.extend(section(10, 64 + modinfo.len(), names.len()));
        file
    }

    #[test]
    fn modinfo_is_found() {
        let file = module();
        let elf = Elf::parse(&file).unwrap();
        assert_eq!(elf.machine(), Ok(62));
        let info: Vec<_> = elf.modinfo().unwrap().collect();
        let expected = [("license", "GPL"), ("firmware", "rtl_nic/a.fw"), ("firmware", "b.fw")];
        assert_eq!(info, expected);
    }

    #[test]
    fn this_test_program_is_read() {
        let bytes = std::fs::read(std::env::current_exe().unwrap()).unwrap();
        let elf = Elf::parse(&bytes).unwrap();
        assert!(elf.has_interpreter().is_ok());
    }

    #[test]
    fn cut_and_changed_files_are_survived() {
        let whole = module();
        for length in 0..whole.len() {
            if let Ok(elf) = Elf::parse(&whole[..length]) {
                let _ = (elf.machine(), elf.has_interpreter(), elf.modinfo().map(Iterator::count));
            }
        }
        for at in 0..whole.len() {
            for value in [0, 1, 0x7f, 0xff] {
                let mut changed = whole.clone();
                changed[at] = value;
                if let Ok(elf) = Elf::parse(&changed) {
                    let _ = (elf.has_interpreter(), elf.modinfo().map(Iterator::count));
                }
            }
        }
    }
}
