//! Boots of a real Debian 12 without a disk, in virtual machines: its kernels, its systemd, its
//! packets, our target on the other side. Each test reads as: what is served, what the command line
//! says, what the console must say.
//!
//! They need root, QEMU and what `tests/vm/setup` installs, and 20 to 60 seconds each, so that
//! plain `cargo test` leaves them out; `make test` runs them: `cargo test --test vm -- --ignored
//! --test-threads=1`.

mod ipxe;
mod lab;
mod lio;
mod network;
mod shutdown;

use std::fs;
use std::path::PathBuf;
use std::time::Duration;

use lab::{
    CONSOLE_WORDS, Machine, Network, ROOT_PARTUUID, ROOT_UUID, SECRETS, Scratch, TARGET_NAME,
    Target, lab, recipe,
};

/// Where the guests find the host's loopback on QEMU's user network.
const USER_NETWORK_HOST: &str = "10.0.2.2";

fn root_path(host: &str, port: u16, name: &str) -> String {
    format!("iscsi:{host}::{port}:0:{name}")
}

/// What must hold after every boot that ended well: the program's root was ours, and it was left
/// clean.
fn check_root(machine: &Machine, device: &str) {
    let source = machine.fact("root", "source");
    assert!(source.starts_with(device), "the root is {source}, expected {device}…");
    let options = machine.fact("root", "options");
    assert!(options.split(',').any(|option| option == "rw"), "the root is mounted {options}");
    let line = machine.said("lunboot: link ").first().copied().unwrap_or_default().to_owned();
    assert!(line.contains("root "), "no time line on the console, but {line:?}");
}

/// The booted system has every link to the partitioned disk and to its partition.
fn check_links(machine: &Machine, port: u16) {
    let has = |kind: &str, link: &str| {
        let links = machine.fact("links", kind);
        assert!(links.split(' ').any(|name| name == link), "{link} is not in {kind}: {links}");
    };
    has("by-uuid", ROOT_UUID);
    has("by-label", "lunboot-root");
    has("by-partuuid", ROOT_PARTUUID);
    let path = format!("ip-{}:{port}-iscsi-{TARGET_NAME}-lun-0", Network::HOST);
    has("by-path", &path);
    has("by-path", &format!("{path}-part1"));
    let ids = machine.fact("links", "by-id");
    let wwn = ids.split(' ').find(|name| name.starts_with("wwn-0x")).expect(ids).to_owned();
    let wwn = wwn.trim_end_matches("-part1").to_owned();
    let scsi = wwn.replace("wwn-0x", "scsi-3");
    for name in [&wwn, &scsi] {
        has("by-id", name);
        has("by-id", &format!("{name}-part1"));
    }
}

#[test]
#[ignore = "boots a virtual machine"]
fn our_image_boots_debians_6_1_kernel_through_nbd() {
    let scratch = Scratch::new("nbd");
    let mut target = Target::new(&scratch, None, scratch.disk());
    target.start(TARGET_NAME);
    let path = root_path(USER_NETWORK_HOST, target.port, TARGET_NAME);
    let words =
        format!("lunboot={path} ip=dhcp root=LABEL=lunboot-root rw vmtest=root,data,load,poweroff");
    let kernel = &lab().old_kernel;
    let mut machine = Machine::boot(&scratch, None, kernel, &lab().image(kernel), &words);
    shutdown::end_by(&mut machine, "poweroff");
    check_root(&machine, "/dev/nbd");
    assert_eq!(machine.fact("root", "kernel"), kernel.version);
    // One line says why it is not ublk.
    let reasons = machine.said("lunboot: ").into_iter().filter(|line| line.contains("ublk"));
    assert_eq!(reasons.count(), 1, "{:?}", machine.said("ublk"));
    target.stop();
    scratch.check_disk(0);
}

#[test]
#[ignore = "boots a virtual machine"]
fn our_image_boots_debians_6_12_kernel_through_ublk_and_survives_an_outage() {
    let scratch = Scratch::new("ublk");
    let mut target = Target::new(&scratch, None, scratch.disk());
    target.start(TARGET_NAME);
    let path = root_path(USER_NETWORK_HOST, target.port, TARGET_NAME);
    let words =
        format!("lunboot={path} ip=dhcp root=LABEL=lunboot-root rw vmtest=root,data,outage");
    let kernel = &lab().new_kernel;
    let mut machine = Machine::boot(&scratch, None, kernel, &lab().image(kernel), &words);
    machine.expect("VMTEST outage running");
    target.kill();
    // Not a wait for something: half a minute without a target is what the root must survive.
    std::thread::sleep(Duration::from_secs(30));
    target.start(TARGET_NAME);
    let (machine, _) = machine.finish();
    check_root(&machine, "/dev/ublkb");
    assert_eq!(machine.fact("root", "kernel"), kernel.version);
    target.stop();
    scratch.check_disk(0);
}

/// With CHAP both ways, by what the hook has put into the image.
#[test]
#[ignore = "boots a virtual machine"]
fn debians_own_initramfs_with_our_hook_boots() {
    let scratch = Scratch::new("hook");
    let secrets = scratch.secrets();
    let mut target = Target::new(&scratch, None, scratch.disk());
    target.start_with(TARGET_NAME, &["--secrets".as_ref(), secrets.as_os_str()]);
    let path = root_path(USER_NETWORK_HOST, target.port, TARGET_NAME);
    let words = format!("lunboot={path} ip=dhcp root=LABEL=lunboot-root rw vmtest=root");
    let kernel = &lab().new_kernel;
    let image = lab().image_of_initramfs_tools(&scratch, kernel, &secrets);
    let machine = Machine::boot(&scratch, None, kernel, &image, &words);
    let (machine, _) = machine.finish();
    let source = machine.fact("root", "source");
    assert!(source.starts_with("/dev/ublkb"), "the root is {source}");
    target.stop();
    scratch.check_disk(0);
    no_secret_in(&scratch.read("console.log"));
    no_secret_in(&scratch.read("target.log"));
}

/// The same by our own image. Whoever looks around in the booted machine finds no secret.
#[test]
#[ignore = "boots a virtual machine"]
fn a_machine_and_its_target_prove_themselves_and_tell_nobody_how() {
    let scratch = Scratch::new("secrets");
    let secrets = scratch.secrets();
    let disk = scratch.disk();
    scratch.put(&lab().agent(), "/usr/local/bin/lunboot");
    scratch.put(&recipe("look-around"), "/usr/local/bin/look-around");
    let mut target = Target::new(&scratch, None, disk);
    target.start_with(TARGET_NAME, &["--secrets".as_ref(), secrets.as_os_str()]);
    let path = root_path(USER_NETWORK_HOST, target.port, TARGET_NAME);
    let words = format!(
        "lunboot={path} ip=dhcp root=LABEL=lunboot-root rw lunboot.debug loglevel=8 \
         init=/usr/local/bin/look-around"
    );
    let kernel = &lab().new_kernel;
    let image = lab().image_with_secrets(&scratch, kernel, &secrets);
    let machine = Machine::boot(&scratch, None, kernel, &image, &words);
    machine.finish();
    target.stop();
    // What the machine has found is on its console, and nothing of it may be a secret.
    let console = scratch.read("console.log");
    for part in ["device          /dev/ublkb0", "@lunboot ", "files: /run/"] {
        assert!(console.contains(part), "it has not looked at {part:?}");
    }
    no_secret_in(&console);
    no_secret_in(&scratch.read("target.log"));
}

fn no_secret_in(text: &str) {
    for line in SECRETS {
        let secret = line.rsplit(' ').next().expect("the last word");
        assert!(!text.contains(secret), "{secret} is in what everybody can read");
    }
}

/// The other way round: the initiator that Debian has without us, on our target.
#[test]
#[ignore = "boots a virtual machine"]
fn open_iscsi_boots_from_our_target() {
    let scratch = Scratch::new("open-iscsi");
    let mut target = Target::new(&scratch, None, scratch.disk());
    target.start(TARGET_NAME);
    let words = format!(
        "ip=dhcp iscsi_target_ip={USER_NETWORK_HOST} iscsi_target_port={} iscsi_target_group=1 \
         iscsi_target_name={TARGET_NAME} root=LABEL=lunboot-root rw vmtest=data",
        target.port
    );
    let kernel = &lab().new_kernel;
    let image = lab().image_of_open_iscsi(kernel);
    Machine::boot(&scratch, None, kernel, &image, &words).finish();
    target.stop();
    scratch.check_disk(0);
}

/// A third of what Debian's own initramfs with open-iscsi weighs for the same kernel.
#[test]
#[ignore = "makes a Debian root"]
fn our_image_is_small() {
    let kernel = &lab().new_kernel;
    let length = |path: PathBuf| fs::metadata(path).expect("just made").len();
    let (ours, theirs) = (length(lab().image(kernel)), length(lab().image_of_open_iscsi(kernel)));
    assert!(ours * 3 <= theirs, "ours has {ours} bytes, open-iscsi's {theirs}");
}

/// The rack in its simplest form, word for word as in the README: its dnsmasq lines, its PXELINUX
/// menu. The firmware loads kernel and image; the command line names no target, option 17 does.
#[test]
#[ignore = "boots a virtual machine"]
fn the_rack_of_the_readme_boots() {
    let name = "iqn.2026-11.example:node7";
    let scratch = Scratch::new("rack");
    let mut network = Network::new("rack");
    let kernel = &lab().new_kernel;
    let menu = readme_block("pxelinux");
    let root = "root=LABEL=node7-root rw";
    assert!(menu.contains(root), "{menu}");
    let words =
        format!("root=LABEL=lunboot-root rw console=ttyS0 panic=-1 {CONSOLE_WORDS} vmtest=root");
    scratch.write("tftp/pxelinux.cfg/default", &menu.replace(root, &words));
    for (source, name) in [
        (kernel.vmlinuz(), "vmlinuz"),
        (lab().image(kernel), "lunboot.img"),
        ("/usr/lib/PXELINUX/pxelinux.0".into(), "pxelinux.0"),
        ("/usr/lib/syslinux/modules/bios/ldlinux.c32".into(), "ldlinux.c32"),
    ] {
        let copied = fs::copy(&source, scratch.path("tftp").join(name));
        copied.unwrap_or_else(|error| panic!("{}: {error}", source.display()));
    }
    let folder = scratch.path("tftp").display().to_string();
    let configuration = readme_block("dnsmasq").replace("/srv/tftp", &folder);
    assert!(configuration.contains(name) && configuration.contains(&folder), "{configuration}");
    network.serve_dhcp(&scratch, &configuration);
    let mut target = Target::new(&scratch, Some(&network), scratch.disk());
    target.start(name);
    let machine = Machine::boot_from_firmware(&scratch, &network);
    let (machine, _) = machine.finish();
    check_root(&machine, "/dev/ublkb0");
    target.stop();
    scratch.check_disk(0);
}

/// The first code block of a language in the README.
fn readme_block(language: &str) -> String {
    let readme = include_str!("../../README.md");
    let fence = format!("```{language}\n");
    let start = readme.find(&fence).unwrap_or_else(|| panic!("no {fence} in the README"));
    let block = &readme[start + fence.len()..];
    block[..block.find("```").expect("a block ends")].to_owned()
}

/// The command line names no target, the DHCP server's option 17 does. The root is a partition,
/// named by its PARTUUID.
#[test]
#[ignore = "boots a virtual machine"]
fn the_dhcp_root_path_names_the_target() {
    let scratch = Scratch::new("root-path");
    let mut network = Network::new("root-path");
    let path = root_path(Network::HOST, 3260, TARGET_NAME);
    // Without no-ping the first answer comes after a ping of three seconds.
    let configuration = format!(
        "port=0\nno-ping\ndhcp-range=192.0.2.50,192.0.2.99,1h\n\
         dhcp-option=option:root-path,{path}\n"
    );
    network.serve_dhcp(&scratch, &configuration);
    let mut target = Target::new(&scratch, Some(&network), scratch.partitioned_disk());
    target.start(TARGET_NAME);
    let words = format!("ip=dhcp root=PARTUUID={ROOT_PARTUUID} rw vmtest=root,links");
    let kernel = &lab().new_kernel;
    let image = lab().image(kernel);
    let machine = Machine::boot(&scratch, Some(&network), kernel, &image, &words);
    let (machine, _) = machine.finish();
    check_root(&machine, "/dev/ublkb0p1");
    check_links(&machine, 3260);
    assert!(machine.fact("root", "address").contains("192.0.2."));
    // Sent when the link was up: the first one did it, and nothing waited for a timer. (The kernel
    // may say later that the link was not quite ready; then it is sent once more.)
    let discovers = scratch.read("dnsmasq.log").matches("DHCPDISCOVER(").count();
    assert!((1..=2).contains(&discovers), "DISCOVER arrived {discovers} times");
    target.stop();
    scratch.check_disk(1 << 20);
}

/// No DHCP, and the machine is switched on before its target: it says so, and boots without a key
/// press when the target comes.
#[test]
#[ignore = "boots a virtual machine"]
fn a_machine_with_a_static_address_waits_for_its_target() {
    let scratch = Scratch::new("static");
    let network = Network::new("static");
    let mut target = Target::new(&scratch, Some(&network), scratch.partitioned_disk());
    let path = root_path(Network::HOST, target.port, TARGET_NAME);
    let words = format!(
        "lunboot={path} ip=192.0.2.20::192.0.2.1:255.255.255.0:diskless::off \
         root=UUID={ROOT_UUID} rw vmtest=root,links"
    );
    let kernel = &lab().old_kernel;
    let image = lab().image(kernel);
    let mut machine = Machine::boot(&scratch, Some(&network), kernel, &image, &words);
    machine.expect_agent("connect to 192.0.2.1:3260: Connection refused");
    target.start(TARGET_NAME);
    let (machine, _) = machine.finish();
    check_root(&machine, "/dev/nbd0p1");
    check_links(&machine, target.port);
    assert!(machine.fact("root", "address").contains("192.0.2.20/24"));
    target.stop();
    scratch.check_disk(1 << 20);
}

/// A failure never ends in silence: step, value, and what to check; then the next try.
#[test]
#[ignore = "boots a virtual machine"]
fn a_wrong_target_name_is_named_on_the_console() {
    let scratch = Scratch::new("wrong-name");
    let mut target = Target::new(&scratch, None, scratch.disk());
    target.start(TARGET_NAME);
    let path = root_path(USER_NETWORK_HOST, target.port, "iqn.2026-11.example.lunboot:nobody");
    let words = format!("lunboot={path} ip=dhcp root=LABEL=lunboot-root rw");
    let kernel = &lab().new_kernel;
    let mut machine = Machine::boot(&scratch, None, kernel, &lab().image(kernel), &words);
    // The second shows that it goes on trying.
    for _ in 0..2 {
        let refusal = machine.expect_agent("login refused: no target of that name");
        for part in ["iqn.2026-11.example.lunboot:nobody at 10.0.2.2:", "(0x0203)"] {
            assert!(refusal.contains(part), "no {part:?} in {refusal}");
        }
    }
}

#[test]
#[ignore = "boots a virtual machine"]
fn a_bad_root_path_is_named_on_the_console() {
    let scratch = Scratch::new("bad-path");
    let words = "lunboot=iscsi:10.0.2.2::seventy:0:iqn.2026-11.example:x ip=dhcp root=LABEL=r rw";
    let kernel = &lab().new_kernel;
    let mut machine = Machine::boot(&scratch, None, kernel, &lab().image(kernel), words);
    let complaint = machine.expect_agent("seventy");
    for part in ["lunboot=iscsi:10.0.2.2::seventy:0:iqn.2026-11.example:x", "port", "65535"] {
        assert!(complaint.contains(part), "no {part:?} in {complaint}");
    }
}
