//! iPXE's initiator at our target: what firmware does with a disk before there is a kernel.

use std::fs::{self, File};
use std::os::unix::fs::FileExt as _;
use std::path::{Path, PathBuf};

use crate::lab::{Machine, Scratch, TARGET_NAME, Target};
use crate::{USER_NETWORK_HOST, root_path};

/// A boot sector that reads the sector behind it, prints the text there, writes what it has read to
/// the sector after that, and gives back control: what a boot loader asks of INT 13h.
const BOOT_SECTOR: [u8; 51] = [
    0x31, 0xc0, 0x8e, 0xd8, 0x8e, 0xc0, // ax, ds and es are 0
    0xb8, 0x01, 0x02, // read one sector
    0xb9, 0x02, 0x00, 0x30, 0xf6, // of cylinder 0, head 0: sector 2
    0xbb, 0x00, 0x80, 0xcd, 0x13, // to 8000h
    0x72, 0x1c, // not read: to the end
    0xbe, 0x00, 0x80, // for each byte there
    0xac, 0x84, 0xc0, 0x74, 0x09, // that is not 0
    0xb4, 0x0e, 0xbb, 0x07, 0x00, 0xcd, 0x10, // print it
    0xeb, 0xf2, // and the next
    0xb8, 0x01, 0x03, 0xb9, 0x03, 0x00, // write one sector: 3
    0xbb, 0x00, 0x80, 0xcd, 0x13, // from 8000h
    0xcd, 0x18, // no boot from here: the next, please
];

const SECTOR_BYTES: usize = 512;

/// So many that there is a whole cylinder, without which iPXE finds no sector at all.
const DISK_BYTES: u64 = 64 << 20;

/// A disk with that boot sector and a text for it.
fn disk(scratch: &Scratch, name: &str, text: &str) -> PathBuf {
    let path = scratch.path(name);
    let mut bytes = vec![0; 2 * SECTOR_BYTES];
    bytes[..BOOT_SECTOR.len()].copy_from_slice(&BOOT_SECTOR);
    bytes[SECTOR_BYTES - 2..SECTOR_BYTES].copy_from_slice(&[0x55, 0xaa]);
    bytes[SECTOR_BYTES..][..text.len()].copy_from_slice(text.as_bytes());
    fs::write(&path, bytes).expect("a test can write its folder");
    let file = File::options().write(true).open(&path).expect("just written");
    file.set_len(DISK_BYTES).expect("sparse files are possible");
    path
}

/// What the boot sector has written.
fn written(disk: &Path) -> String {
    let mut sector = [0; SECTOR_BYTES];
    let file = File::open(disk).expect("the disk of this test");
    file.read_exact_at(&mut sector, 2 * SECTOR_BYTES as u64).expect("the disk is long enough");
    String::from_utf8_lossy(&sector).trim_end_matches('\0').to_owned()
}

#[test]
#[ignore = "boots a virtual machine"]
fn ipxe_boots_from_our_target() {
    let scratch = Scratch::new("ipxe");
    let disk = disk(&scratch, "disk.img", "read from the LUN\r\n");
    let mut target = Target::new(&scratch, None, disk.clone());
    target.start(TARGET_NAME);
    let good = root_path(USER_NETWORK_HOST, target.port, TARGET_NAME);
    let bad = root_path(USER_NETWORK_HOST, target.port, "iqn.2026-11.example:nobody");
    let script = format!(
        "#!ipxe\n\
         set initiator-iqn iqn.2026-11.example:firmware\n\
         sanboot --drive 0x80 {good} || echo first: ${{errno}}\n\
         sanhook --drive 0x80 {bad} && echo second: hooked || echo second: refused\n\
         echo the end\n"
    );
    scratch.write("tftp/boot.ipxe", &script);
    let mut machine = Machine::boot_from_tftp(&scratch, "boot.ipxe");
    machine.expect("Registered SAN device 0x80");
    machine.expect("read from the LUN");
    // Operation canceled: the boot sector gave back control.
    machine.expect("first: 0xb8080a0");
    machine.expect("second: refused");
    machine.expect("the end");
    target.stop();
    assert_eq!(written(&disk), "read from the LUN\r\n");
    let log = scratch.read("target.log");
    for line in [
        "login of iqn.2026-11.example:firmware at ",
        "refused: login text: TargetName \"iqn.2026-11.example:nobody\"",
    ] {
        assert!(log.contains(line), "no {line:?} in {log}");
    }
}

/// Its login sets the transit bit where it should not when it wants the target's proof.
#[test]
#[ignore = "boots a virtual machine"]
fn ipxe_boots_from_our_target_with_chap() {
    let scratch = Scratch::new("ipxe-chap");
    let disk = disk(&scratch, "disk.img", "read with CHAP\r\n");
    let secrets = scratch.secrets();
    let mut target = Target::new(&scratch, None, disk.clone());
    target.start_with(TARGET_NAME, &["--secrets".as_ref(), secrets.as_os_str()]);
    let path = root_path(USER_NETWORK_HOST, target.port, TARGET_NAME);
    let hook = |what: &str| {
        format!("sanhook --drive 0x80 {path} && echo {what}: hooked || echo {what}: refused\n")
    };
    let script = [
        "#!ipxe\nset initiator-iqn iqn.2026-11.example:firmware\n",
        &hook("nobody"),
        "set username firmware\nset password another-secret-0\n",
        &hook("wrong"),
        "set password correct-horse-7\n",
        &format!("sanboot --drive 0x80 {path} || echo one-way: ${{errno}}\n"),
        "set reverse-username root\nset reverse-password another-secret-0\n",
        &hook("wrong target"),
        "set reverse-password battery-staple-9\n",
        &format!("sanboot --drive 0x80 {path} || echo mutual: ${{errno}}\n"),
        "echo the end\n",
    ];
    scratch.write("tftp/boot.ipxe", &script.concat());
    let mut machine = Machine::boot_from_tftp(&scratch, "boot.ipxe");
    machine.expect("nobody: refused");
    machine.expect("wrong: refused");
    machine.expect("read with CHAP");
    machine.expect("one-way: 0xb8080a0");
    machine.expect("wrong target: refused");
    machine.expect("read with CHAP");
    machine.expect("mutual: 0xb8080a0");
    machine.expect("the end");
    target.stop();
    assert_eq!(written(&disk), "read with CHAP\r\n");
}
