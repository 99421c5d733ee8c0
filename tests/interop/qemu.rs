//! QEMU's iSCSI driver, by its tools for images.

use std::fs;

use crate::kernel::{have, skip};
use crate::programs::{NAME, Said, Target, random_file, run, secrets, sparse, try_run};
use crate::{INITIATOR, WRONG, initiator_line, inside};

/// An image as QEMU's tools name it: with a digest, and a name of the initiator's own.
fn image(target: &Target, digest: &str) -> String {
    format!(
        "driver=iscsi,transport=tcp,portal={},target={NAME},lun=0,header-digest={digest},\
         initiator-name=iqn.2026-11.example:qemu",
        target.address
    )
}

/// Runs commands of qemu-io on an image.
fn qemu_io(image: &str, commands: &[&str]) -> Said {
    let mut words = vec!["--image-opts"];
    for command in commands {
        words.extend(["-c", command]);
    }
    words.push(image);
    try_run("qemu-io", &words)
}

const MIB: u64 = 1 << 20;

/// What the commands of the test have given back.
const HOLES: [(u64, u64); 2] = [(4 * MIB, MIB), (8 * MIB, 4 * MIB)];

/// Where there is nothing, from and how much.
fn holes(image: &str) -> Vec<(u64, u64)> {
    let map = run("qemu-img", &["map", "--image-opts", "--output=json", image]);
    let number = |line: &str, key: &str| {
        let (_, rest) = line.split_once(key).expect("each line has all keys");
        let digits = rest.trim_start().split(',').next().expect("a number follows");
        digits.parse().expect("a number")
    };
    map.lines()
        .filter(|line| line.contains("\"zero\": true, \"data\": false"))
        .map(|line| (number(line, "\"start\":"), number(line, "\"length\":")))
        .collect()
}

#[test]
fn we_serve_qemu() {
    let name = "qemu::we_serve_qemu";
    if !have_qemu(name) {
        return;
    }
    inside(name, || {
        let source = random_file("source", 32, 28);
        let back = sparse("back", 32);
        for block_size in ["512", "4096"] {
            let file = sparse("disk", 32);
            let target = Target::start(&["--block-size", block_size], &[&file]);
            for digest in ["none", "crc32c"] {
                let image = image(&target, digest);
                // A new disk has nothing; after the first round it has what that left.
                let empty = if digest == "none" { &[(0, 32 * MIB)][..] } else { &HOLES };
                assert_eq!(holes(&image), empty);
                let (source, back) = (source.to_str().unwrap(), back.to_str().unwrap());
                let there = ["convert", "-n", "-f", "raw", "--target-image-opts", source, &image];
                run("qemu-img", &there);
                run("cmp", &[source, file.to_str().unwrap()]);
                run("qemu-img", &["convert", "--image-opts", "-O", "raw", &image, back]);
                run("cmp", &[source, back]);

                let written = [
                    "write -P 0x5a 64k 128k",
                    "write -f -P 0x11 1M 64k",
                    "write -P 0x77 8M 12M",
                    "write -z 2M 1M",
                    "write -z -u 4M 1M",
                    "discard 8M 4M",
                    "flush",
                ];
                let read = [
                    "read -P 0x5a 64k 128k",
                    "read -P 0x11 1M 64k",
                    "read -P 0 2M 1M",
                    "read -P 0 4M 1M",
                    "read -P 0x77 12M 8M",
                ];
                let said = qemu_io(&image, &written);
                assert!(said.ok && said.err.is_empty(), "{said:?}");
                run("qemu-img", &["convert", "--image-opts", "-O", "raw", &image, back]);
                run("cmp", &[file.to_str().unwrap(), back]);
                if block_size != "512" {
                    // A read of 32 KiB ends there in an assertion of QEMU's own: before it, its
                    // driver asks where 2 GiB - 512 bytes are, which are no whole blocks.
                    continue;
                }
                let said = qemu_io(&image, &read);
                assert!(said.ok && said.err.is_empty(), "{said:?}");
                assert!(!said.out.contains("failed"), "{said:?}");
                // The eye that sees it when it is not so.
                let said = qemu_io(&image, &["read -P 0x5b 64k 128k"]);
                assert!(said.out.contains("Pattern verification failed"), "{said:?}");
            }
            target.stop();
        }
    });
}

/// Whether QEMU has its tools and its iSCSI driver, which has a package of its own.
fn have_qemu(name: &str) -> bool {
    let driver = "/usr/lib/x86_64-linux-gnu/qemu/block-iscsi.so";
    if !have(name, &["qemu-img", "qemu-io"]) {
        return false;
    }
    let is_there = fs::exists(driver).unwrap();
    if !is_there {
        skip(&format!("{name}: QEMU has no iSCSI driver: {driver}"));
    }
    is_there
}

/// Its driver proves who it is, and asks for no proof.
#[test]
fn we_serve_qemu_with_chap() {
    let name = "qemu::we_serve_qemu_with_chap";
    if !have_qemu(name) {
        return;
    }
    inside(name, || {
        let secrets = secrets("secrets", &initiator_line(INITIATOR[1]));
        let options = ["--secrets", secrets.to_str().unwrap()];
        let target = Target::start(&options, &[&sparse("disk", 16)]);
        let image = format!("{},user={},password-secret=s", image(&target, "crc32c"), INITIATOR[0]);
        let log_in = |secret: &str| {
            let secret = format!("secret,id=s,data={secret}");
            let commands = ["-c", "write -P 7 0 64k", "-c", "read -P 7 0 64k"];
            let words = [&["--object", &secret, "--image-opts"], &commands[..], &[&image]];
            try_run("qemu-io", &words.concat())
        };
        let said = log_in(INITIATOR[1]);
        assert!(said.ok && said.err.is_empty(), "{said:?}");
        let said = log_in(WRONG);
        assert!(!said.ok && said.err.contains("Authentication failure(513)"), "{said:?}");
        target.stop();
    });
}
