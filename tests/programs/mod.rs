//! The real programs, as a person runs them: a target with its files, `lunboot` with its words.
//!
//! They run inside a kernel of their own (see `kernel`), so a device that is left over, or a daemon
//! that hangs, ends with the test.

// Each test binary uses its part.
#![allow(dead_code, unreachable_pub)]

use std::fs::{self, File, OpenOptions};
use std::io::{BufRead as _, BufReader, Write as _};
use std::os::unix::fs::{FileExt as _, OpenOptionsExt as _};
use std::path::{Path, PathBuf};
use std::process::{Child, ChildStdout, Command, Output, Stdio};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::thread::{self, JoinHandle};

use rustix::process::{Pid, Signal, kill_process};

use super::kernel::{Aligned, O_DIRECT, Random, skip, wait_until};

pub const LUNBOOT: &str = env!("CARGO_BIN_EXE_lunboot");
pub const TARGET: &str = env!("CARGO_BIN_EXE_lunboot-target");
pub const NAME: &str = "iqn.2026-11.example:disk";

/// A place for files that is gone with the kernel; holes can be made in them.
pub const SCRATCH: &str = "/run";

/// What a program said and how it ended.
#[derive(Debug)]
pub struct Said {
    pub ok: bool,
    pub out: String,
    pub err: String,
}

impl From<Output> for Said {
    fn from(output: Output) -> Said {
        let text = |bytes: &[u8]| String::from_utf8_lossy(bytes).trim_end().to_owned();
        Said { ok: output.status.success(), out: text(&output.stdout), err: text(&output.stderr) }
    }
}

/// Runs it to its end, whatever that is.
pub fn try_run(program: &str, words: &[&str]) -> Said {
    let output = Command::new(program).args(words).stdin(Stdio::null()).output();
    output.unwrap_or_else(|error| panic!("{program}: {error}")).into()
}

/// Runs it; it must succeed. Returns what it printed.
pub fn run(program: &str, words: &[&str]) -> String {
    let said = try_run(program, words);
    assert!(said.ok, "{program} {words:?}: {said:?}");
    said.out
}

pub fn lunboot(words: &[&str]) -> String {
    run(LUNBOOT, words)
}

/// `lunboot` must refuse; returns what it said about it.
pub fn refused(words: &[&str]) -> String {
    let said = try_run(LUNBOOT, words);
    assert!(!said.ok && said.out.is_empty(), "lunboot {words:?}: {said:?}");
    said.err
}

/// A running `lunboot-target serve`.
pub struct Target {
    child: Child,
    // What it says later must not break the pipe.
    _stdout: BufReader<ChildStdout>,
    pub address: String,
    words: Vec<String>,
    /// Where its log goes, if not to the test's.
    log: Option<PathBuf>,
    namespace: Option<String>,
}

impl Target {
    /// Serves `files` as [`NAME`] at a free port.
    pub fn start(options: &[&str], files: &[&Path]) -> Target {
        let files = files.iter().map(|file| file.to_str().unwrap());
        let words: Vec<String> = options.iter().copied().chain(files).map(str::to_owned).collect();
        Target::listen("127.0.0.1:0", words)
    }

    /// The same for a test with thousands of logins, which nobody wants to read of.
    pub fn start_quietly(options: &[&str], files: &[&Path]) -> Target {
        let files = files.iter().map(|file| file.to_str().unwrap());
        let words = options.iter().copied().chain(files).map(str::to_owned).collect();
        Target::listen_with("127.0.0.1:0", words, Stdio::null())
    }

    /// Serves `files`; what it logs, now and when it is started again, goes to the file `log`.
    pub fn start_logging(log: &Path, files: &[&Path]) -> Target {
        let words = files.iter().map(|file| file.to_str().unwrap().to_owned()).collect();
        let mut target = Target::listen_with("127.0.0.1:0", words, append(log).into());
        target.log = Some(log.to_owned());
        target
    }

    fn listen(address: &str, words: Vec<String>) -> Target {
        Target::listen_with(address, words, Stdio::inherit())
    }

    /// The same in another network namespace, at one address or, with `--listen`, several of it.
    pub fn start_in(namespace: &str, address: &str, words: &[&str]) -> Target {
        let words = words.iter().copied().map(str::to_owned).collect();
        Target::run(Some(namespace.into()), address, words, Stdio::inherit())
    }

    fn listen_with(address: &str, words: Vec<String>, stderr: Stdio) -> Target {
        Target::run(None, address, words, stderr)
    }

    fn run(namespace: Option<String>, address: &str, words: Vec<String>, stderr: Stdio) -> Target {
        let mut command = Command::new(if namespace.is_some() { "ip" } else { TARGET });
        if let Some(namespace) = &namespace {
            command.args(["netns", "exec", namespace, TARGET]);
        }
        let mut child = command
            .args(["serve", "--name", NAME, "--listen", address])
            .args(&words)
            .stdin(Stdio::null())
            .stdout(Stdio::piped())
            .stderr(stderr)
            .spawn()
            .expect("the target starts");
        let mut stdout = BufReader::new(child.stdout.take().unwrap());
        let mut line = String::new();
        let address = loop {
            line.clear();
            assert_ne!(stdout.read_line(&mut line).unwrap(), 0, "the target ended: {words:?}");
            if let Some(address) = line.trim_end().strip_prefix("listening on ") {
                break address.to_owned();
            }
        };
        Target { child, _stdout: stdout, address, words, log: None, namespace }
    }

    pub fn uri(&self, lun: u32) -> String {
        format!("iscsi://{}/{NAME}/{lun}", self.address)
    }

    pub fn signal(&self, signal: Signal) {
        kill_process(Pid::from_child(&self.child), signal).unwrap();
    }

    /// Its process.
    pub fn pid(&self) -> u32 {
        self.child.id()
    }

    /// It was told to end.
    pub fn wait(mut self) {
        assert!(self.child.wait().unwrap().success(), "the target stops cleanly");
    }

    /// As a person ends it. The value can be started again.
    pub fn end(&mut self) {
        self.signal(Signal::TERM);
        assert!(self.child.wait().unwrap().success(), "the target stops cleanly");
    }

    /// As a crash would end it. The value can be started again.
    pub fn kill(&mut self) {
        self.child.kill().unwrap();
        self.child.wait().unwrap();
    }

    /// Starts it again at the same address.
    pub fn start_again(&mut self) {
        let stderr = self.log.as_deref().map_or(Stdio::inherit(), |log| append(log).into());
        let (log, namespace) = (self.log.take(), self.namespace.take());
        *self = Target::run(namespace, &self.address, self.words.clone(), stderr);
        self.log = log;
    }

    /// Starts it again at the same address with other files.
    pub fn start_with(&mut self, file: &Path) {
        self.words = vec![file.to_str().unwrap().to_owned()];
        self.start_again();
    }

    /// For good.
    pub fn stop(mut self) {
        self.end();
    }
}

fn append(path: &Path) -> File {
    OpenOptions::new().create(true).append(true).open(path).unwrap()
}

/// A disk that `lunboot attach` has made.
pub struct Attached {
    pub path: PathBuf,
}

impl Attached {
    /// Attaches LUN `lun` of `target` with these options of `lunboot attach`.
    pub fn new(target: &Target, lun: u32, options: &[&str]) -> Attached {
        Attached::from_uri(&target.uri(lun), options)
    }

    pub fn from_uri(uri: &str, options: &[&str]) -> Attached {
        Attached::by(Path::new(LUNBOOT), uri, options)
    }

    /// The same by another build of the program.
    pub fn by(program: &Path, uri: &str, options: &[&str]) -> Attached {
        let mut words = vec!["attach"];
        words.extend(options);
        words.push(uri);
        let path = PathBuf::from(run(program.to_str().unwrap(), &words));
        assert!(path.starts_with("/dev"), "{path:?}");
        Attached { path }
    }

    pub fn text(&self) -> &str {
        self.path.to_str().unwrap()
    }

    /// A row of what `lunboot status` says of it.
    pub fn status(&self, row: &str) -> String {
        let text = lunboot(&["status"]);
        let device = format!("device          {}\n", self.text());
        let mine = text.split("\n\n").find(|part| part.starts_with(&device));
        let mine = mine.unwrap_or_else(|| panic!("{} is not in {text}", self.text()));
        let found = mine.lines().find_map(|line| line.strip_prefix(row)?.strip_prefix(' '));
        found.unwrap_or_else(|| panic!("no {row} in {mine}")).trim().to_owned()
    }

    pub fn sysfs(&self, file: &str) -> String {
        let name = self.path.file_name().unwrap().to_str().unwrap();
        let path = format!("/sys/block/{name}/{file}");
        fs::read_to_string(&path).unwrap_or_else(|error| panic!("{path}: {error}")).trim().into()
    }

    /// Detaches it; nothing of it may be left.
    pub fn detach(self) {
        lunboot(&["detach", self.text()]);
        if self.text().contains("nbd") {
            assert_eq!(self.sysfs("size"), "0");
        } else {
            assert!(!self.path.exists(), "{:?} is still there", self.path);
        }
        // Its answer comes before the daemon's last breath.
        wait_until("the end of the daemon", || daemons() == 0);
        assert_eq!(lunboot(&["status"]), "nothing is attached");
    }
}

/// Four threads that write and read at random past the page cache, each its share of a disk of
/// 16 MiB or more, and compare every answer with what they know must be there.
pub struct Load {
    count: Arc<AtomicU64>,
    enough: Arc<AtomicBool>,
    threads: Vec<JoinHandle<()>>,
}

impl Load {
    pub fn new(disk: &Attached) -> Load {
        let sectors: u64 = disk.sysfs("size").parse().expect("a number");
        let share = (sectors * 512 / 5 / 4096 * 4096).min(12 << 20);
        let (count, enough) = (Arc::new(AtomicU64::new(0)), Arc::new(AtomicBool::new(false)));
        let worker = |number: u64| {
            let (count, enough) = (Arc::clone(&count), Arc::clone(&enough));
            let device = open(&disk.path, O_DIRECT);
            thread::spawn(move || {
                let mut random = Random(number + 11);
                let mut model = Aligned::new(share as usize);
                device.read_exact_at(model.get(), number * share).expect("no I/O error");
                while !enough.load(Ordering::Relaxed) {
                    let most = if random.below(8) == 0 { 128 } else { 16 };
                    let blocks = 1 + random.below(most);
                    let at = random.below(share / 4096 - blocks) * 4096;
                    let range = at as usize..(at + blocks * 4096) as usize;
                    let mut data = Aligned::new(range.len());
                    let place = number * share + at;
                    if random.below(2) == 0 {
                        random.fill(data.get());
                        model.get()[range].copy_from_slice(data.get());
                        device.write_all_at(data.get(), place).expect("no I/O error");
                    } else {
                        device.read_exact_at(data.get(), place).expect("no I/O error");
                        assert!(data.get() == &model.get()[range], "wrong data at {place}");
                    }
                    count.fetch_add(1, Ordering::Relaxed);
                }
            })
        };
        let threads = (0..4).map(worker).collect();
        Load { count, enough, threads }
    }

    /// Requests have begun and ended since.
    pub fn goes_on(&self) {
        let before = self.count();
        wait_until("I/O", || self.count() > before + 20);
    }

    /// How many have ended.
    pub fn count(&self) -> u64 {
        self.count.load(Ordering::Relaxed)
    }

    pub fn end(self) {
        self.enough.store(true, Ordering::Relaxed);
        for thread in self.threads {
            thread.join().expect("no I/O error and no wrong data");
        }
        no_io_error();
    }
}

/// A thread that writes all of a disk through the page cache and flushes it, over and over: as many
/// and as long writes at once as the disk takes.
pub struct WriteBack {
    enough: Arc<AtomicBool>,
    thread: JoinHandle<()>,
}

impl WriteBack {
    pub fn new(disk: &Attached) -> WriteBack {
        let enough = Arc::new(AtomicBool::new(false));
        let (path, is_enough) = (disk.path.clone(), Arc::clone(&enough));
        let bytes = disk.sysfs("size").parse::<usize>().expect("a number") * 512;
        let thread = thread::spawn(move || {
            let device = open(&path, 0);
            let mut data = vec![0; bytes];
            for pass in 1.. {
                Random(pass).fill(&mut data);
                device.write_all_at(&data, 0).expect("no I/O error");
                device.sync_all().expect("no I/O error");
                if is_enough.load(Ordering::Relaxed) {
                    break;
                }
            }
            run("blockdev", &["--flushbufs", path.to_str().unwrap()]);
            let mut back = vec![0; bytes];
            device.read_exact_at(&mut back, 0).expect("no I/O error");
            assert!(back == data, "wrong data");
        });
        WriteBack { enough, thread }
    }

    pub fn end(self) {
        self.enough.store(true, Ordering::Relaxed);
        self.thread.join().expect("no I/O error and no wrong data");
    }
}

/// The program as people have it, static, where `make` has put it or in the folder that
/// `LUNBOOT_PROGRAMS` names. In CI it must be there.
pub fn static_lunboot() -> Option<PathBuf> {
    let folder = std::env::var_os("LUNBOOT_PROGRAMS").map(PathBuf::from).unwrap_or_else(|| {
        let target = Path::new(LUNBOOT).ancestors().nth(2).expect("target/debug/lunboot");
        target.join(format!("{}-unknown-linux-musl/release", std::env::consts::ARCH))
    });
    let program = folder.join("lunboot");
    if program.exists() {
        return Some(program);
    }
    skip(&format!("{} is not there: make builds it", program.display()));
    None
}

/// How many processes of storage daemons run.
pub fn daemons() -> usize {
    servers().len() + supervisors().len()
}

/// The storage servers that run.
pub fn servers() -> Vec<Pid> {
    processes(true)
}

/// Their supervisors.
pub fn supervisors() -> Vec<Pid> {
    processes(false)
}

fn processes(serving: bool) -> Vec<Pid> {
    let mut found = Vec::new();
    for entry in fs::read_dir("/proc").unwrap() {
        let path = entry.unwrap().path();
        let Ok(cmdline) = fs::read(path.join("cmdline")) else { continue };
        let Ok(name) = fs::read(path.join("comm")) else { continue };
        if cmdline.starts_with(b"@lunboot\0") && (name == b"lunboot-server\n") == serving {
            let number = path.file_name().unwrap().to_str().unwrap().parse().unwrap();
            found.push(Pid::from_raw(number).unwrap());
        }
    }
    found
}

/// The kernel must not have seen an I/O error: what it says to everybody would tell.
pub fn no_io_error() {
    let log = run("dmesg", &[]);
    let bad: Vec<&str> = log
        .lines()
        .filter(|line| line.contains("I/O error") || line.contains("EXT4-fs error"))
        .collect();
    assert!(bad.is_empty(), "{bad:?}");
}

pub fn open(path: &Path, flags: i32) -> File {
    OpenOptions::new().read(true).write(true).custom_flags(flags).open(path).unwrap()
}

/// A sparse file for a disk.
pub fn sparse(name: &str, mib: u64) -> PathBuf {
    let path = Path::new(SCRATCH).join(name);
    File::create(&path).unwrap().set_len(mib << 20).unwrap();
    path
}

/// A file of random bytes.
pub fn random_file(name: &str, mib: usize, seed: u64) -> PathBuf {
    let path = Path::new(SCRATCH).join(name);
    let mut bytes = vec![0; mib << 20];
    Random(seed).fill(&mut bytes);
    fs::write(&path, bytes).unwrap();
    path
}

/// A file of secrets, readable for its owner alone.
pub fn secrets(name: &str, lines: &str) -> PathBuf {
    let path = Path::new(SCRATCH).join(name);
    let mut options = OpenOptions::new();
    let mut file = options.write(true).create_new(true).mode(0o600).open(&path).unwrap();
    file.write_all(lines.as_bytes()).unwrap();
    path
}

/// The space that a file takes, in KiB.
pub fn used_kib(path: &Path) -> u64 {
    use std::os::unix::fs::MetadataExt as _;
    fs::metadata(path).unwrap().blocks() / 2
}

/// Makes a file system on it, fills it, and looks whether all of it is right.
pub fn file_system_works(device: &str) {
    let source = concat!(env!("CARGO_MANIFEST_DIR"), "/src");
    run("mkfs.ext4", &["-q", "-F", device]);
    fs::create_dir_all("/run/mnt").unwrap();
    run("mount", &[device, "/run/mnt"]);
    run("cp", &["-r", source, "/run/mnt"]);
    run("umount", &["/run/mnt"]);
    run("mount", &["-o", "ro", device, "/run/mnt"]);
    run("diff", &["-r", source, "/run/mnt/src"]);
    run("umount", &["/run/mnt"]);
    run("e2fsck", &["-f", "-n", device]);
}
