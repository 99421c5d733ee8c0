//! The image builder as a program, on a made-up kernel tree in a scratch directory.
//!
//! What it writes is read back by another cpio reader than ours.

#![cfg(feature = "builder")]
#![allow(missing_docs)]

use std::collections::BTreeMap;
use std::fs;
use std::io::Write;
use std::path::Path;
use std::process::{Command, Output};

use lunboot::boot::modules_dep::{Files, Index};
use tempfile::TempDir;

const VERSION: &str = "6.12.0-test";

/// A root tree with a kernel of seven modules, and a static agent outside of it.
struct Scratch {
    directory: TempDir,
}

impl Scratch {
    fn new() -> Scratch {
        let scratch = Scratch { directory: tempfile::tempdir().unwrap() };
        scratch.module("drivers/net/ethernet/realtek/r8169.ko.xz", &["rtl_nic/a.fw", "absent.fw"]);
        scratch.module("drivers/net/phy/realtek.ko.zst", &[]);
        scratch.module("drivers/net/virtio_net.ko.gz", &[]);
        scratch.module("drivers/net/wireless/ath9k.ko", &["ath9k.fw"]);
        scratch.module("drivers/block/ublk_drv.ko", &[]);
        scratch.module("fs/ext4/ext4.ko", &[]);
        scratch.module("lib/crc16.ko", &[]);
        scratch.kernel_file(
            "modules.dep",
            "kernel/drivers/net/ethernet/realtek/r8169.ko.xz:\n\
             kernel/drivers/net/phy/realtek.ko.zst:\n\
             kernel/drivers/net/virtio_net.ko.gz:\n\
             kernel/drivers/net/wireless/ath9k.ko:\n\
             kernel/drivers/block/ublk_drv.ko:\n\
             kernel/fs/ext4/ext4.ko: kernel/lib/crc16.ko\n\
             kernel/lib/crc16.ko:\n",
        );
        scratch.kernel_file(
            "modules.alias",
            "alias virtio:d00000001v* virtio_net\n\
             alias pci:v000010ECd00008168sv*sd*bc*sc*i* r8169\n\
             alias pci:v0000168Cd* ath9k\n",
        );
        scratch.kernel_file("modules.softdep", "softdep r8169 pre: realtek\n");
        scratch.kernel_file("modules.builtin", "kernel/drivers/virtio/virtio_pci.ko\n");
        scratch.file("root/lib/firmware/rtl_nic/a.fw.zst", &compressed("x.zst", b"firmware"));
        scratch.file("agent", &elf(false, &[]));
        scratch
    }

    fn path(&self, path: &str) -> std::path::PathBuf {
        self.directory.path().join(path)
    }

    fn file(&self, path: &str, bytes: &[u8]) {
        let path = self.path(path);
        fs::create_dir_all(path.parent().unwrap()).unwrap();
        fs::write(path, bytes).unwrap();
    }

    fn kernel_file(&self, path: &str, text: &str) {
        self.file(&format!("root/lib/modules/{VERSION}/{path}"), text.as_bytes());
    }

    fn module(&self, path: &str, firmware: &[&str]) {
        let bytes = compressed(path, &module(path, firmware));
        self.file(&format!("root/lib/modules/{VERSION}/kernel/{path}"), &bytes);
    }

    fn run(&self, agent: &str, arguments: &[&str]) -> Output {
        Command::new(env!("CARGO_BIN_EXE_lunboot-mkinitramfs"))
            .args(["--root", "root", "--agent", agent])
            .args(arguments)
            .current_dir(self.directory.path())
            .output()
            .unwrap()
    }

    /// Builds an image and reads it back; what was printed comes along.
    fn build(&self, arguments: &[&str]) -> (BTreeMap<String, Entry>, String) {
        let output = self.run("agent", &[arguments, &["-o", "image"]].concat());
        let said = String::from_utf8_lossy(&output.stderr).into_owned();
        assert!(output.status.success(), "{said}");
        let image = fs::read(self.path("image")).unwrap();
        (entries(&image), String::from_utf8(output.stdout).unwrap())
    }

    /// Expects failure; gives what was said, and checks that nothing was left behind.
    fn refused(&self, agent: &str, arguments: &[&str]) -> String {
        let before = names(self.directory.path());
        let output = self.run(agent, arguments);
        assert!(!output.status.success(), "{arguments:?} succeeded");
        assert_eq!(names(self.directory.path()), before);
        String::from_utf8(output.stderr).unwrap()
    }
}

#[derive(Debug, PartialEq)]
struct Entry {
    mode: u32,
    device: (u32, u32),
    bytes: Vec<u8>,
}

/// A 64-bit ELF file for x86-64 with a program header and a `.modinfo` section.
fn elf(interpreter: bool, modinfo: &[u8]) -> Vec<u8> {
    let names = b"\0.modinfo\0.shstrtab\0";
    let modinfo_at = 64 + 56;
    let names_at = modinfo_at + modinfo.len();
    let table = names_at + names.len();
    let mut file = b"\x7fELF\x02\x01\x01".to_vec();
    file.resize(modinfo_at, 0);
    file[18] = 62;
    file[32] = 64;
    file[54] = 56;
    file[56] = 1;
    file[64] = if interpreter { 3 } else { 1 };
    file[40..48].copy_from_slice(&(table as u64).to_le_bytes());
    file[58..64].copy_from_slice(&[64, 0, 3, 0, 2, 0]);
    file.extend(modinfo);
    file.extend(names);
    for (name, at, length) in
        [(0, 0, 0), (1, modinfo_at, modinfo.len()), (10, names_at, names.len())]
    {
        let mut header = [0; 64];
        header[0] = name;
        header[24..32].copy_from_slice(&(at as u64).to_le_bytes());
        header[32..40].copy_from_slice(&(length as u64).to_le_bytes());
        file.extend(header);
    }
    file
}

fn module(path: &str, firmware: &[&str]) -> Vec<u8> {
    let mut modinfo = format!("description={path}\0");
    for name in firmware {
        modinfo += &format!("firmware={name}\0");
    }
    elf(false, modinfo.as_bytes())
}

/// As the suffix of `path` says.
fn compressed(path: &str, bytes: &[u8]) -> Vec<u8> {
    match path.rsplit('.').next().unwrap() {
        "zst" => zstd::encode_all(bytes, 3).unwrap(),
        "gz" => {
            let mut encoder = flate2::write::GzEncoder::new(Vec::new(), Default::default());
            encoder.write_all(bytes).unwrap();
            encoder.finish().unwrap()
        }
        "xz" => {
            let options = lzma_rust2::XzOptions::with_preset(1);
            let mut encoder = lzma_rust2::XzWriter::new(Vec::new(), options).unwrap();
            encoder.write_all(bytes).unwrap();
            encoder.finish().unwrap()
        }
        _ => bytes.to_vec(),
    }
}

/// Reads an image with an independent reader of the format.
fn entries(image: &[u8]) -> BTreeMap<String, Entry> {
    let plain = if image.starts_with(&[0x1f, 0x8b]) {
        let mut plain = Vec::new();
        let mut decoder = flate2::read::GzDecoder::new(image);
        std::io::Read::read_to_end(&mut decoder, &mut plain).unwrap();
        plain
    } else {
        zstd::decode_all(image).unwrap()
    };
    let mut found = BTreeMap::new();
    let mut rest = std::io::Cursor::new(plain);
    loop {
        let reader = cpio::NewcReader::new(rest).unwrap();
        let header = reader.entry();
        if header.is_trailer() {
            break;
        }
        assert_eq!((header.uid(), header.gid(), header.mtime()), (0, 0, 0));
        let (name, mode) = (header.name().to_owned(), header.mode());
        let device = (header.rdev_major(), header.rdev_minor());
        let mut bytes = Vec::new();
        rest = reader.to_writer(&mut bytes).unwrap();
        if let Some((parent, _)) = name.rsplit_once('/') {
            assert!(found.contains_key(parent), "{name} comes before its directory");
        }
        assert!(found.insert(name, Entry { mode, device, bytes }).is_none());
    }
    found
}

fn names(directory: &Path) -> Vec<String> {
    let entries = fs::read_dir(directory).unwrap();
    let mut names: Vec<_> =
        entries.map(|e| e.unwrap().file_name().into_string().unwrap()).collect();
    names.sort();
    names
}

fn modules(entries: &BTreeMap<String, Entry>) -> Vec<&str> {
    let ends = entries.keys().filter(|path| path.ends_with(".ko"));
    ends.map(|path| path.rsplit('/').next().unwrap()).collect()
}

#[test]
fn the_image_holds_the_agent_and_the_closure_of_its_modules() {
    let scratch = Scratch::new();
    let (entries, report) = scratch.build(&[]);
    assert_eq!(entries["init"], Entry { mode: 0o100755, device: (0, 0), bytes: elf(false, &[]) });
    assert_eq!(entries["dev/console"].device, (5, 1));
    assert_eq!(entries["dev/console"].mode, 0o020600);
    assert_eq!(entries["bin/lunboot"].bytes, b"../init");
    for directory in ["dev", "etc", "proc", "run", "sys", "sysroot"] {
        assert_eq!(entries[directory].mode, 0o040755, "{directory}");
    }
    let expected =
        ["ublk_drv.ko", "r8169.ko", "realtek.ko", "virtio_net.ko", "ext4.ko", "crc16.ko"];
    assert_eq!(modules(&entries), expected);
    let path = format!("lib/modules/{VERSION}/kernel/drivers/net/ethernet/realtek/r8169.ko");
    let source = "drivers/net/ethernet/realtek/r8169.ko.xz";
    assert_eq!(entries[&path].bytes, module(source, &["rtl_nic/a.fw", "absent.fw"]));
    assert_eq!(entries["lib/firmware/rtl_nic/a.fw"].bytes, b"firmware");
    assert!(!entries.contains_key("lib/firmware/ath9k.fw"));
    assert!(report.contains("1 firmware files: absent.fw (r8169)"), "{report}");
}

#[test]
fn the_agent_can_read_what_depmod_said_of_the_modules_inside() {
    let (entries, _) = Scratch::new().build(&[]);
    let text = |name: &str| {
        String::from_utf8(entries[&format!("lib/modules/{VERSION}/{name}")].bytes.clone()).unwrap()
    };
    let index = Index::parse(&Files {
        dep: text("modules.dep"),
        alias: text("modules.alias"),
        softdep: text("modules.softdep"),
        builtin: text("modules.builtin"),
    });
    assert_eq!(index.rejected(), []);
    let order = index.load_order("pci:v000010ECd00008168sv0sd0bc02sc00i00").unwrap();
    let paths: Vec<_> = order.iter().map(|m| m.path.as_str()).collect();
    let expected =
        ["kernel/drivers/net/phy/realtek.ko", "kernel/drivers/net/ethernet/realtek/r8169.ko"];
    assert_eq!(paths, expected);
    for module in index.modules() {
        assert!(entries.contains_key(&format!("lib/modules/{VERSION}/{}", module.path)));
    }
    assert!(index.is_builtin("virtio_pci"));
    assert!(index.matching("pci:v0000168Cd1").is_empty());
}

#[test]
fn the_same_input_gives_the_same_bytes() {
    for compression in ["zstd", "gzip"] {
        let build = || {
            let scratch = Scratch::new();
            scratch.build(&["--compress", compression]);
            fs::read(scratch.path("image")).unwrap()
        };
        assert_eq!(build(), build(), "{compression}");
    }
}

#[test]
fn both_compressions_hold_the_same_files() {
    let scratch = Scratch::new();
    let (zstd, _) = scratch.build(&["--compress", "zstd"]);
    let (gzip, _) = scratch.build(&["--compress", "gzip"]);
    assert_eq!(zstd, gzip);
}

#[test]
fn a_smaller_set_can_be_chosen_and_more_added() {
    let scratch = Scratch::new();
    let (entries, _) = scratch.build(&["--drivers", "virtio-net", "--add-module", "ath9k"]);
    let expected = ["ublk_drv.ko", "virtio_net.ko", "ath9k.ko", "ext4.ko", "crc16.ko"];
    assert_eq!(modules(&entries), expected);
}

#[test]
fn a_busybox_brings_its_names_along() {
    let scratch = Scratch::new();
    scratch.file("busybox", &elf(false, b"x"));
    let (entries, _) = scratch.build(&["--shell", "busybox"]);
    assert_eq!(entries["bin/busybox"].bytes, elf(false, b"x"));
    assert_eq!(
        entries["bin/sh"],
        Entry { mode: 0o120777, device: (0, 0), bytes: b"busybox".into() }
    );
}

#[test]
fn a_refusal_says_what_to_do_and_leaves_nothing() {
    let scratch = Scratch::new();
    scratch.file("dynamic", &elf(true, &[]));
    fs::create_dir(scratch.path("taken")).unwrap();
    let cases: [(&str, &[&str], &[&str]); 8] = [
        ("agent", &["--kernel", "5.9"], &["5.9", VERSION, "--kernel"]),
        ("dynamic", &[], &["dynamic", "static"]),
        ("nowhere", &[], &["nowhere"]),
        ("agent", &["--drivers", "e9000"], &["e9000", VERSION]),
        ("agent", &["--filesystems", "zfs"], &["zfs"]),
        ("agent", &["-o", "absent/image"], &["absent/image"]),
        ("agent", &["-o", "taken"], &["taken", "is a directory"]),
        ("agent", &["--compress", "lz4"], &["lz4", "zstd"]),
    ];
    for (agent, arguments, words) in cases {
        let said = scratch.refused(agent, arguments);
        assert!(words.iter().all(|word| said.contains(word)), "{arguments:?}: {said}");
    }
}

#[test]
fn a_tree_without_depmod_output_is_refused_with_the_command_to_run() {
    let scratch = Scratch::new();
    fs::remove_file(scratch.path(&format!("root/lib/modules/{VERSION}/modules.dep"))).unwrap();
    let said = scratch.refused("agent", &["-o", "image"]);
    assert!(said.contains(&format!("run depmod -b root {VERSION}")), "{said}");
}

#[test]
fn a_kernel_that_cannot_show_a_lun_is_refused() {
    let scratch = Scratch::new();
    scratch.kernel_file("modules.dep", "kernel/fs/ext4/ext4.ko:\n");
    let said = scratch.refused("agent", &["-o", "image"]);
    assert!(said.contains("neither ublk_drv nor nbd"), "{said}");
}

/// The disk is full in the middle of the image: the old one stays, and nothing lies beside it.
#[test]
fn a_failed_write_leaves_the_old_image_and_no_part_of_the_new() {
    let scratch = Scratch::new();
    scratch.file("out/image", b"old");
    // A limit on file size is a full disk that needs no root. The module that is too large for it
    // is made of bytes that do not compress.
    let mut noise = module("drivers/block/ublk_drv.ko", &[]);
    let mut seed = 0x2545_f491_4f6c_dd1d_u64;
    noise.extend((0..1 << 20).map(|_| {
        seed ^= seed << 13;
        seed ^= seed >> 7;
        seed ^= seed << 17;
        seed as u8
    }));
    scratch.file(&format!("root/lib/modules/{VERSION}/kernel/drivers/block/ublk_drv.ko"), &noise);
    let output = Command::new("sh")
        // The signal that comes with the limit is ignored, so that the write itself fails.
        .args(["-c", "trap '' XFSZ; ulimit -f 64; exec \"$0\" \"$@\""])
        .arg(env!("CARGO_BIN_EXE_lunboot-mkinitramfs"))
        .args(["--root", "root", "--agent", "agent", "-o", "out/image"])
        .current_dir(scratch.directory.path())
        .output()
        .unwrap();
    let said = String::from_utf8(output.stderr).unwrap();
    assert!(!output.status.success(), "{said}");
    assert!(said.contains("writing out/image"), "{said}");
    assert_eq!(names(&scratch.path("out")), ["image"]);
    assert_eq!(fs::read(scratch.path("out/image")).unwrap(), b"old");
}

#[test]
fn secrets_make_an_image_that_only_its_owner_can_read() {
    use std::os::unix::fs::PermissionsExt;
    let scratch = Scratch::new();
    let mode = |path: &str| fs::metadata(scratch.path(path)).unwrap().permissions().mode() & 0o777;
    let (entries, _) = scratch.build(&[]);
    assert!(!entries.contains_key("etc/lunboot/secrets"));
    assert_ne!(mode("image"), 0o600, "an image without secrets is for everybody");
    scratch.file("secrets", b"initiator node7 hidden-secret-7\n");
    let said = scratch.refused("agent", &["-o", "other", "--secrets", "secrets"]);
    assert!(said.contains("chmod 600 secrets") && !said.contains("hidden"), "{said}");
    fs::set_permissions(scratch.path("secrets"), fs::Permissions::from_mode(0o600)).unwrap();
    let (entries, printed) = scratch.build(&["--secrets", "secrets", "--verbose"]);
    let entry = &entries["etc/lunboot/secrets"];
    assert_eq!(
        (entry.mode, &entry.bytes[..]),
        (0o100_600, &b"initiator node7 hidden-secret-7\n"[..])
    );
    assert_eq!(mode("image"), 0o600);
    assert!(!printed.contains("hidden"));
    // What a client cannot use does not get as far as a client.
    scratch.file("secrets", b"initiator a hidden-secret-7\ninitiator b hidden-secret-8\n");
    let said = scratch.refused("agent", &["-o", "other", "--secrets", "secrets"]);
    assert!(said.contains("exactly one") && !said.contains("hidden"), "{said}");
}
