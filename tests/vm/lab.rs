//! What a boot test is made of: the Debian root and our images of it (`Lab`), a disk and a folder
//! of its own (`Scratch`), a network namespace with a DHCP server (`Network`), `lunboot-target` as
//! a process (`Target`) and a virtual machine with its console (`Machine`).
//!
//! Every process started here dies with the test. Waiting is always for an event, a console line or
//! the end of a process, with a limit; a limit that passes fails the test with the last lines of
//! the console.
#![allow(unreachable_pub)] // All of it is for the tests beside it.

use std::ffi::OsStr;
use std::fs::{self, File, Permissions};
use std::io::{BufRead, BufReader, Read, Write};
use std::net::TcpListener;
use std::os::unix::fs::PermissionsExt as _;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::sync::mpsc::{Receiver, RecvTimeoutError, channel};
use std::sync::{Mutex, OnceLock};
use std::thread;
use std::time::{Duration, Instant};

/// The name of the target in every test.
pub const TARGET_NAME: &str = "iqn.2026-11.example.lunboot:debian";
/// File system UUID of the root, given by `debian-root`.
pub const ROOT_UUID: &str = "6c756e62-6f6f-7400-8000-000000000001";
/// Partition UUID of the root on a partitioned disk.
pub const ROOT_PARTUUID: &str = "6c756e62-6f6f-7400-8000-0000000000a1";
/// Of [`Scratch::secrets`].
pub const SECRETS: [&str; 2] =
    ["initiator firmware correct-horse-7", "target root battery-staple-9"];
/// All of the kernel's lines, and no login prompt: it hangs up the terminal under the steps' own.
pub const CONSOLE_WORDS: &str = "loglevel=7 systemd.mask=serial-getty@ttyS0.service";
/// Longest wait for one event. A boot takes 20 s on a quiet machine; this is for one that is not.
const PATIENCE: Duration = Duration::from_secs(240);

/// The Debian roots, their kernels and our programs: the same for all tests, made once.
pub struct Lab {
    /// Debian 12.
    pub bookworm: Root,
    /// Linux 6.1: no ublk.
    pub old_kernel: Kernel,
    /// Linux 6.12 from backports: ublk.
    pub new_kernel: Kernel,
    programs: PathBuf,
    images: Mutex<Vec<(String, PathBuf)>>,
}

/// What `debian-root` has made.
pub struct Root {
    folder: PathBuf,
}

/// A kernel of a root.
#[derive(Clone)]
pub struct Kernel {
    /// What `uname -r` says.
    pub version: String,
    tree: PathBuf,
}

impl Root {
    fn make(name: &str) -> Root {
        Root { folder: PathBuf::from(prepare("debian-root", &[name.as_ref()])) }
    }

    /// Debian 13, with its kernel.
    pub fn trixie() -> &'static Root {
        static ROOT: OnceLock<Root> = OnceLock::new();
        ROOT.get_or_init(|| Root::make("trixie"))
    }

    /// Debian 12 with sysvinit in place of systemd; without a kernel.
    pub fn sysvinit() -> &'static Root {
        static ROOT: OnceLock<Root> = OnceLock::new();
        ROOT.get_or_init(|| Root::make("sysvinit"))
    }

    /// The root as a folder.
    pub fn tree(&self) -> PathBuf {
        self.folder.join("tree")
    }

    /// Its kernels, the oldest first.
    pub fn kernels(&self) -> Vec<Kernel> {
        let versions = fs::read_to_string(self.folder.join("kernels")).expect("debian-root's list");
        let kernel = |line: &str| Kernel { version: line.to_owned(), tree: self.tree() };
        versions.lines().map(kernel).collect()
    }
}

impl Kernel {
    /// The kernel itself.
    pub fn vmlinuz(&self) -> PathBuf {
        self.tree.join("boot").join(format!("vmlinuz-{}", self.version))
    }
}

/// The lab, made on first use by `setup` and `debian-root`.
pub fn lab() -> &'static Lab {
    static LAB: OnceLock<Lab> = OnceLock::new();
    LAB.get_or_init(|| {
        prepare("setup", &[]);
        let bookworm = Root::make("bookworm");
        let [old_kernel, new_kernel] = bookworm.kernels().try_into().ok().expect("two kernels");
        let (old, new) = (&old_kernel.version, &new_kernel.version);
        assert!(old.starts_with("6.1."), "first kernel is {old}");
        assert!(new.starts_with("6.12."), "second kernel is {new}");
        let images = Mutex::new(Vec::new());
        Lab { bookworm, old_kernel, new_kernel, programs: programs(), images }
    })
}

impl Lab {
    /// An image by `lunboot-mkinitramfs` for a kernel of the root; made once.
    pub fn image(&self, kernel: &Kernel) -> PathBuf {
        self.made_once(&kernel.version, "ours", |path| {
            run(self.mkinitramfs(kernel).arg("--output").arg(path));
        })
    }

    fn mkinitramfs(&self, kernel: &Kernel) -> Command {
        let mut command = Command::new(self.programs.join("lunboot-mkinitramfs"));
        command.arg("--root").arg(&kernel.tree).args(["--kernel", &kernel.version]);
        command
    }

    /// The same for one test, with what its machine proves itself with.
    pub fn image_with_secrets(
        &self,
        scratch: &Scratch,
        kernel: &Kernel,
        secrets: &Path,
    ) -> PathBuf {
        let path = scratch.path("secrets.img");
        let mut command = self.mkinitramfs(kernel);
        run(command.arg("--secrets").arg(secrets).arg("--output").arg(&path));
        path
    }

    /// Debian's own initramfs with our hook and these secrets in it, installed as `make install`
    /// does.
    pub fn image_of_initramfs_tools(
        &self,
        scratch: &Scratch,
        kernel: &Kernel,
        secrets: &Path,
    ) -> PathBuf {
        let path = scratch.path("initramfs-tools.img");
        let root = self.bookworm.folder.as_os_str();
        let arguments = [root, kernel.version.as_ref(), secrets.as_os_str(), path.as_os_str()];
        prepare("initramfs-tools-image", &arguments);
        path
    }

    /// Debian's own initramfs with open-iscsi in it, which knows nothing of us.
    pub fn image_of_open_iscsi(&self, kernel: &Kernel) -> PathBuf {
        let arguments = [self.bookworm.folder.as_os_str(), kernel.version.as_ref()];
        PathBuf::from(prepare("open-iscsi-image", &arguments))
    }

    /// The agent, to be used by hand.
    pub fn agent(&self) -> PathBuf {
        self.programs.join("lunboot")
    }

    fn made_once(&self, kernel: &str, kind: &str, make: impl FnOnce(&Path)) -> PathBuf {
        let name = format!("{kernel}.{kind}.img");
        let mut images = self.images.lock().expect("no test panics while it holds this");
        if let Some((_, path)) = images.iter().find(|(known, _)| *known == name) {
            return path.clone();
        }
        let path = scratch_folder().join(&name);
        make(&path);
        images.push((name, path.clone()));
        path
    }
}

/// Where `make` puts the release binaries; `LUNBOOT_PROGRAMS` says otherwise.
fn programs() -> PathBuf {
    let path = match std::env::var_os("LUNBOOT_PROGRAMS") {
        Some(path) => PathBuf::from(path),
        // The test's own program lies in TARGET/debug/deps.
        None => std::env::current_exe()
            .expect("a running program has a path")
            .ancestors()
            .nth(3)
            .expect("cargo runs tests from TARGET/debug/deps")
            .join("x86_64-unknown-linux-musl/release"),
    };
    for program in ["lunboot", "lunboot-target", "lunboot-mkinitramfs"] {
        assert!(path.join(program).exists(), "no {program} in {}: run make first", path.display());
    }
    path
}

/// A file of this folder.
pub fn recipe(name: &str) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/vm").join(name)
}

fn scratch_folder() -> PathBuf {
    let path = Path::new(env!("CARGO_TARGET_TMPDIR")).join("vm");
    fs::create_dir_all(&path).expect("cargo's folder for tests is writable");
    path
}

/// Runs a command to its end and returns what it printed; its errors are shown if it fails.
pub fn run(command: &mut Command) -> String {
    let output = command.stdin(Stdio::null()).output();
    let output = output.unwrap_or_else(|error| panic!("{command:?}: {error}"));
    let errors = String::from_utf8_lossy(&output.stderr);
    assert!(output.status.success(), "{command:?}: {}\n{errors}", output.status);
    String::from_utf8_lossy(&output.stdout).into_owned()
}

/// The same for the recipes, which take minutes and say what they do on standard error.
fn prepare(name: &str, arguments: &[&OsStr]) -> String {
    let mut command = Command::new(recipe(name));
    let output = command.args(arguments).stdin(Stdio::null()).stderr(Stdio::inherit()).output();
    let output = output.unwrap_or_else(|error| panic!("{command:?}: {error}"));
    assert!(output.status.success(), "{command:?}: {}", output.status);
    String::from_utf8_lossy(&output.stdout).trim().to_owned()
}

/// The folder of one test, with its disk: removed when the test passed, but for the console's log.
pub struct Scratch {
    folder: PathBuf,
}

impl Scratch {
    /// An empty folder under cargo's target folder.
    pub fn new(test: &str) -> Scratch {
        let folder = scratch_folder().join(test);
        if folder.exists() {
            fs::remove_dir_all(&folder).expect("the folder of the last run can be removed");
        }
        fs::create_dir_all(&folder).expect("a test can make its folder");
        Scratch { folder }
    }

    /// A path in the test's folder.
    pub fn path(&self, name: &str) -> PathBuf {
        self.folder.join(name)
    }

    /// Writes a file of the test, in a folder of its own if the name says so.
    pub fn write(&self, name: &str, text: &str) -> PathBuf {
        let path = self.path(name);
        fs::create_dir_all(path.parent().expect("it is in the test's folder")).expect("a folder");
        fs::write(&path, text).expect("a test can write its folder");
        path
    }

    /// Names and secrets of both sides, in a file for its owner alone.
    pub fn secrets(&self) -> PathBuf {
        let path = self.write("secrets", &SECRETS.map(|line| line.to_owned() + "\n").concat());
        fs::set_permissions(&path, Permissions::from_mode(0o600)).expect("it is ours");
        path
    }

    /// A file that a program of this test has written.
    pub fn read(&self, name: &str) -> String {
        fs::read_to_string(self.folder.join(name)).unwrap_or_else(|error| panic!("{name}: {error}"))
    }

    /// A fresh copy of Debian 12's file system, without a partition table.
    pub fn disk(&self) -> PathBuf {
        self.disk_of(&lab().bookworm)
    }

    /// A fresh copy of a root's file system, without a partition table.
    pub fn disk_of(&self, root: &Root) -> PathBuf {
        let disk = self.folder.join("disk.img");
        run(Command::new("cp").arg(root.folder.join("root.ext4")).arg(&disk));
        disk
    }

    /// Puts a file into the file system of the disk, for everybody to execute.
    pub fn put(&self, file: &Path, path: &str) {
        let write = format!("write {} {path}", file.display());
        let mode = format!("sif {path} mode 0100755");
        for request in [&write, &mode] {
            let mut debugfs = Command::new("debugfs");
            run(debugfs.args(["-w", "-R", request]).arg(self.path("disk.img")));
        }
    }

    /// What is in a file on the disk.
    pub fn read_from_disk(&self, path: &str) -> String {
        let request = format!("cat {path}");
        run(Command::new("debugfs").args(["-R", &request]).arg(self.path("disk.img")))
    }

    /// A fresh copy of the root as the only partition, of `ROOT_PARTUUID`, behind 1 MiB of a GPT
    /// disk.
    pub fn partitioned_disk(&self) -> PathBuf {
        let disk = self.folder.join("disk.img");
        let source = lab().bookworm.folder.join("root.ext4");
        let bytes = fs::metadata(&source).expect("debian-root made it").len();
        let file = File::create(&disk).expect("a test can make its disk");
        file.set_len(bytes + (2 << 20)).expect("sparse files are possible");
        let mut sfdisk = Command::new("sfdisk");
        let mut child =
            sfdisk.arg("--quiet").arg(&disk).stdin(Stdio::piped()).spawn().expect("sfdisk");
        let table = format!("label: gpt\nstart=2048, size={}, uuid={ROOT_PARTUUID}\n", bytes / 512);
        child.stdin.take().expect("piped").write_all(table.as_bytes()).expect("sfdisk reads");
        assert!(child.wait().expect("sfdisk ends").success(), "sfdisk refused {table:?}");
        let mut copy = Command::new("dd");
        copy.arg(format!("if={}", source.display())).arg(format!("of={}", disk.display()));
        run(copy.args(["bs=1M", "seek=1", "conv=sparse,notrunc", "status=none"]));
        disk
    }

    /// Fails unless the file system that begins `offset` bytes into the disk was unmounted and is
    /// sound.
    pub fn check_disk(&self, offset: u64) {
        let device = format!("{}?offset={offset}", self.folder.join("disk.img").display());
        let header = run(Command::new("dumpe2fs").args(["-h", &device]));
        assert!(!header.contains("needs_recovery"), "the journal was not closed: {header}");
        run(Command::new("e2fsck").args(["-f", "-n", &device]));
    }
}

impl Drop for Scratch {
    fn drop(&mut self) {
        if !thread::panicking() {
            // Half a gigabyte for each test; what failed stays to be looked at.
            for name in ["disk.img", "secrets.img", "initramfs-tools.img"] {
                let _ = fs::remove_file(self.folder.join(name));
            }
        }
    }
}

/// A network namespace with a tap for the machine and, if wanted, dnsmasq as its DHCP server.
pub struct Network {
    name: String,
    dhcp: Option<Child>,
}

impl Network {
    /// The host's end of the tap.
    pub const HOST: &str = "192.0.2.1";
    /// The tap's name inside the namespace.
    const TAP: &str = "tap0";

    /// A namespace of its own: nothing of it is visible outside, and two runs do not meet.
    pub fn new(test: &str) -> Network {
        let network =
            Network { name: format!("lunboot-{}-{test}", std::process::id()), dhcp: None };
        let ip = |words: &str| {
            run(Command::new("ip").args(words.replace("NS", &network.name).split(' ')));
        };
        ip("netns add NS");
        ip("-n NS link set lo up");
        ip("-n NS tuntap add tap0 mode tap");
        ip("-n NS addr add 192.0.2.1/24 dev tap0");
        ip("-n NS link set tap0 up");
        network
    }

    /// Starts dnsmasq with a configuration; where it listens and what it writes is added.
    pub fn serve_dhcp(&mut self, scratch: &Scratch, configuration: &str) {
        let path = scratch.write("dnsmasq.conf", configuration);
        let log = File::create(scratch.path("dnsmasq.log")).expect("a test can write its folder");
        let mut command = mortal_in(Some(self), Path::new("dnsmasq"));
        // dnsmasq takes the values of these only behind an equals sign.
        command.arg("--keep-in-foreground").arg(format!("--conf-file={}", path.display()));
        command.args(["--interface=tap0", "--leasefile-ro", "--log-dhcp", "--log-facility=-"]);
        command.args(["--user=root", "--pid-file="]).stdin(Stdio::null()).stderr(log);
        self.dhcp = Some(command.spawn().expect("dnsmasq is installed"));
    }
}

impl Drop for Network {
    fn drop(&mut self) {
        if let Some(mut child) = self.dhcp.take() {
            let _ = child.kill();
            let _ = child.wait();
        }
        let _ = Command::new("ip").args(["netns", "del", &self.name]).status();
    }
}

/// A command that is killed when the test's thread ends, however that comes about.
fn mortal_in(network: Option<&Network>, program: &Path) -> Command {
    let mut command;
    if let Some(network) = network {
        command = Command::new("ip");
        command.args(["netns", "exec", &network.name, "setpriv"]);
    } else {
        command = Command::new("setpriv");
    }
    command.args(["--pdeathsig", "KILL", "--"]).arg(program);
    command
}

/// `lunboot-target serve` on a disk.
pub struct Target<'a> {
    network: Option<&'a Network>,
    disk: PathBuf,
    /// Where it listens; chosen by the kernel at the first start, the same ever after.
    pub port: u16,
    log: PathBuf,
    child: Option<Child>,
}

impl<'a> Target<'a> {
    /// A target that is not running yet, on a port of the loopback or of the namespace's tap.
    pub fn new(scratch: &Scratch, network: Option<&'a Network>, disk: PathBuf) -> Target<'a> {
        let port = match network {
            Some(_) => 3260,
            None => {
                let listener =
                    TcpListener::bind("127.0.0.1:0").expect("the loopback has a free port");
                listener.local_addr().expect("a bound socket has an address").port()
            }
        };
        Target { network, disk, port, log: scratch.folder.join("target.log"), child: None }
    }

    /// Starts it and waits until it listens.
    pub fn start(&mut self, name: &str) {
        self.start_with(name, &[]);
    }

    /// The same with options of its own.
    pub fn start_with(&mut self, name: &str, options: &[&OsStr]) {
        assert!(self.child.is_none(), "the target is running");
        let address = self.network.map_or("127.0.0.1", |_| Network::HOST);
        let mut command = mortal_in(self.network, &lab().programs.join("lunboot-target"));
        command.args(["serve", "--listen", &format!("{address}:{}", self.port), "--name", name]);
        command.args(options);
        let log = File::options().create(true).append(true).open(&self.log).expect("its log");
        command.arg(&self.disk).stdin(Stdio::null()).stdout(Stdio::piped()).stderr(log);
        let mut child = command.spawn().expect("lunboot-target starts");
        let mut lines = BufReader::new(child.stdout.take().expect("piped")).lines();
        let listening =
            lines.by_ref().map_while(Result::ok).any(|line| line.contains("listening on"));
        assert!(listening, "lunboot-target ended before it listened: see {}", self.log.display());
        // Keep reading, or its next line would meet a closed pipe.
        thread::spawn(move || lines.map_while(Result::ok).for_each(drop));
        self.child = Some(child);
    }

    /// Kills it without a word, as a crash would.
    pub fn kill(&mut self) {
        let mut child = self.child.take().expect("the target is running");
        child.kill().expect("a running child can be killed");
        child.wait().expect("a killed child ends");
    }

    /// Asks it to stop and fails unless it does so with success.
    pub fn stop(mut self) {
        let mut child = self.child.take().expect("the target is running");
        run(Command::new("kill").args(["-TERM", &child.id().to_string()]));
        let status = child.wait().expect("a target that was asked to stop ends");
        assert!(status.success(), "lunboot-target on SIGTERM: {status}");
    }
}

impl Drop for Target<'_> {
    fn drop(&mut self) {
        if let Some(mut child) = self.child.take() {
            let _ = child.kill();
            let _ = child.wait();
        }
    }
}

/// A running virtual machine and everything its console has said.
pub struct Machine {
    child: Child,
    lines: Receiver<String>,
    seen: Vec<String>,
    /// How far `expect` has read.
    next: usize,
    log: PathBuf,
    started: Instant,
}

impl Machine {
    /// Starts a machine without a disk: a kernel of the root, an image, words for the command line.
    pub fn boot(
        scratch: &Scratch,
        network: Option<&Network>,
        kernel: &Kernel,
        image: &Path,
        words: &str,
    ) -> Machine {
        let mut command = mortal_in(network, &recipe("machine"));
        command.arg("--kernel").arg(kernel.vmlinuz()).arg("--initrd").arg(image);
        command.arg("--append").arg(format!("{CONSOLE_WORDS} {words}"));
        match network {
            Some(_) => command.args(["--net", &format!("tap={}", Network::TAP)]),
            None => command.args(["--net", "user"]),
        };
        Machine::start(scratch, &mut command)
    }

    /// Starts a machine without a disk and without a kernel: its firmware asks the network.
    pub fn boot_from_firmware(scratch: &Scratch, network: &Network) -> Machine {
        let mut command = mortal_in(Some(network), &recipe("machine"));
        command.args(["--firmware", "--net", &format!("tap={}", Network::TAP)]);
        Machine::start(scratch, &mut command)
    }

    /// The same on QEMU's user network, which gives it a file of the test's folder `tftp`.
    pub fn boot_from_tftp(scratch: &Scratch, file: &str) -> Machine {
        let mut command = mortal_in(None, &recipe("machine"));
        let folder = scratch.path("tftp");
        let net = format!("user,tftp={},bootfile={file}", folder.display());
        command.args(["--firmware", "--net", &net]);
        Machine::start(scratch, &mut command)
    }

    fn start(scratch: &Scratch, command: &mut Command) -> Machine {
        command.stdin(Stdio::null()).stdout(Stdio::piped());
        let mut child = command.spawn().expect("QEMU starts");
        let console = child.stdout.take().expect("piped");
        let log = scratch.path("console.log");
        let (sender, lines) = channel();
        let mut copy = File::create(&log).expect("a test can write its folder");
        thread::spawn(move || {
            let mut console = BufReader::new(console);
            let mut line = Vec::new();
            while console.read_until(b'\n', &mut line).is_ok_and(|n| n > 0) {
                let text = printable(&line);
                let _ = writeln!(copy, "{text}");
                let _ = sender.send(text);
                line.clear();
            }
        });
        Machine { child, lines, seen: Vec::new(), next: 0, log, started: Instant::now() }
    }

    /// Waits for a line that contains `text`, after the one found last, and returns it.
    pub fn expect(&mut self, text: &str) -> String {
        let deadline = Instant::now() + PATIENCE;
        loop {
            while self.next < self.seen.len() {
                self.next += 1;
                let line = &self.seen[self.next - 1];
                if line.contains(text) {
                    return line.clone();
                }
                let failed = line.contains("VMTEST") && line.contains("failed:");
                let died = line.contains("Kernel panic") || line.contains("Oops:");
                if failed || died {
                    self.give_up(&format!("waited for {text:?}, the machine said: {line}"));
                }
            }
            match self.lines.recv_timeout(deadline.saturating_duration_since(Instant::now())) {
                Ok(line) => self.seen.push(line),
                Err(RecvTimeoutError::Timeout) => self.give_up(&format!("{text:?} did not come")),
                Err(RecvTimeoutError::Disconnected) => {
                    self.give_up(&format!("the machine ended before {text:?}"))
                }
            }
        }
    }

    /// The same for a line of the agent's log.
    pub fn expect_agent(&mut self, text: &str) -> String {
        loop {
            let line = self.expect(text);
            // And not the kernel's own copy of the command line.
            if line.contains("] lunboot: ") {
                return line;
            }
        }
    }

    /// All lines so far that contain `text`.
    pub fn said(&self, text: &str) -> Vec<&str> {
        self.seen.iter().map(String::as_str).filter(|line| line.contains(text)).collect()
    }

    /// The value of a fact that a step has told: `VMTEST step key=value`.
    pub fn fact(&self, step: &str, key: &str) -> &str {
        let prefix = format!("VMTEST {step} {key}=");
        let line = self.seen.iter().rev().find(|line| line.contains(&prefix));
        let line = line.unwrap_or_else(|| self.give_up(&format!("no fact {prefix:?}")));
        &line[line.find(&prefix).expect("just found") + prefix.len()..]
    }

    /// Waits until all steps are done and the machine has powered off; returns the seconds since
    /// its start.
    pub fn finish(mut self) -> (Machine, Duration) {
        self.expect("VMTEST all ok");
        self.end("reboot: Power down");
        let took = self.started.elapsed();
        (self, took)
    }

    /// Waits for the kernel's last words, and for the end.
    pub fn end(&mut self, last_words: &str) {
        self.expect(last_words);
        let status = self.child.wait().expect("QEMU ends after power down");
        assert!(status.success(), "QEMU: {status}");
    }

    fn give_up(&self, reason: &str) -> ! {
        let tail = self.seen[self.seen.len().saturating_sub(50)..].join("\n");
        panic!("{tail}\n\n{reason}\n(the whole console: {})", self.log.display());
    }
}

impl Drop for Machine {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

/// A console line without terminal control sequences.
fn printable(line: &[u8]) -> String {
    let mut text = String::new();
    let mut bytes = line.bytes().map_while(Result::ok).peekable();
    while let Some(byte) = bytes.next() {
        match byte {
            0x1b => {
                // CSI: up to a letter. Anything else: one byte.
                if bytes.next() == Some(b'[') {
                    while bytes.next().is_some_and(|byte| !byte.is_ascii_alphabetic()) {}
                }
            }
            b' '..=b'~' | b'\t' => text.push(char::from(byte)),
            b'\r' | b'\n' => {}
            _ => text.push('.'),
        }
    }
    text
}
