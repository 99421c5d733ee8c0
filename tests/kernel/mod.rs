//! Tests of a block device in a real kernel: getting into one, a disk in memory that serves the
//! device, and the checks that hold for every driver.
//!
//! This machine's own kernel is left alone. A test runs itself again as the first process of a
//! User Mode Linux kernel, by the script that `LUNBOOT_UML_RUN` names (`../shared/lab/uml-run`
//! unless set).

// Each test binary uses its part.
#![allow(dead_code, unreachable_pub)]

use std::fs::{self, File, OpenOptions};
use std::io::{self, Write as _};
use std::os::fd::OwnedFd;
use std::os::unix::fs::{FileExt as _, OpenOptionsExt as _};
use std::panic::{self, AssertUnwindSafe};
use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::mpsc::{Sender, channel};
use std::sync::{Arc, Mutex};
use std::thread::{self, JoinHandle};
use std::time::{Duration, Instant};

use lunboot::block::{self, BlockDevice, Choice, Preference};
use lunboot::proto::disk::{Completion, Error, Geometry, Op, Request, UnmapLimits};
use rustix::event::{PollFd, PollFlags, poll};

/// Runs `body` inside a kernel of its own. Outside, runs the test `name` again there, and skips it
/// with a printed reason if that is not possible on this machine.
pub fn inside(name: &str, body: impl FnOnce()) {
    inside_with(name, "384M", body);
}

/// The same with so much memory (`1G`).
pub fn inside_with(name: &str, memory: &str, body: impl FnOnce()) {
    if std::env::var_os(INSIDE).is_some() {
        thread::spawn(watch_the_time);
        if panic::catch_unwind(AssertUnwindSafe(body)).is_err() {
            // A thread whose request waits for ever would keep this process from ending.
            println!("failed: the kernel ends, whatever still waits");
            fs::write("/proc/sysrq-trigger", "o").unwrap();
            thread::park();
        }
        return;
    }
    let script = std::env::var_os("LUNBOOT_UML_RUN")
        .map(PathBuf::from)
        .unwrap_or_else(|| Path::new(env!("CARGO_MANIFEST_DIR")).join("../shared/lab/uml-run"));
    if !script.exists() {
        let reason = format!("{name}: no kernel to test in: {} does not exist", script.display());
        return skip(&reason);
    }
    // Nothing of our environment is there inside.
    let programs = std::env::var("LUNBOOT_PROGRAMS").map(|path| format!("LUNBOOT_PROGRAMS={path}"));
    let output = Command::new(&script)
        .args(["-m", memory, "env", &format!("{INSIDE}=1"), "RUST_BACKTRACE=1"])
        .args(programs)
        .arg(std::env::current_exe().expect("the path of this test"))
        .args(["--exact", name, "--nocapture", "--test-threads=1"])
        .output()
        .expect("the script runs");
    let text = String::from_utf8_lossy(&output.stdout);
    assert!(
        output.status.success() && text.contains("1 passed"),
        "{name} in {}: {}\n{text}\n{}",
        script.display(),
        output.status,
        String::from_utf8_lossy(&output.stderr)
    );
}

/// Says why a test cannot run here; in CI it must, and inside it was begun already.
pub fn skip(reason: &str) {
    let must = ["CI", INSIDE].iter().any(|name| std::env::var_os(name).is_some());
    assert!(!must, "{reason}");
    // Not by the macro, whose words are swallowed when a test passes.
    io::stderr().write_all(format!("\nskipped: {reason}\n").as_bytes()).unwrap();
}

/// Whether all of these programs are there; says which is not. In CI they must be.
pub fn have(name: &str, programs: &[&str]) -> bool {
    let path = std::env::var_os("PATH").unwrap_or_default();
    let is_there = |program: &&&str| std::env::split_paths(&path).any(|d| d.join(program).exists());
    let missing: Vec<_> = programs.iter().filter(|program| !is_there(program)).collect();
    if missing.is_empty() {
        return true;
    }
    skip(&format!("{name}: these programs are not installed: {missing:?}"));
    false
}

const INSIDE: &str = "LUNBOOT_TEST_IS_INSIDE";

/// How long a test may take in its kernel.
const INSIDE_MAX: Duration = Duration::from_secs(240);

/// Ends the kernel when a test hangs: nobody outside can, a request that waits for ever cannot be
/// killed, and a kernel that was left alone would run on.
fn watch_the_time() {
    thread::sleep(INSIDE_MAX);
    println!("no end after {} s; what runs, and where it waits:", INSIDE_MAX.as_secs());
    let _ = Command::new("ps").args(["-eTo", "pid,stat,wchan:20,args"]).status();
    fs::write("/proc/sysrq-trigger", "o").unwrap();
}

/// A disk of 64 MiB with everything on it.
pub fn geometry(logical_block_bytes: u32) -> Geometry {
    Geometry {
        logical_block_bytes,
        physical_block_bytes: 4096,
        granularity_bytes: 4096,
        blocks: u64::from(DISK_BYTES / logical_block_bytes),
        read_only: false,
        write_cache: true,
        fua: true,
        rotational: false,
        transfer_bytes_max: 1 << 20,
        unmap: Some(UnmapLimits { bytes_max: 4 << 20, granularity_bytes: 4096 }),
        write_zeroes_bytes_max: 2 << 20,
    }
}

pub const DISK_BYTES: u32 = 64 << 20;

/// The disk in memory, and what was asked of it.
pub struct MemDisk {
    pub bytes: Vec<u8>,
    pub asked: Vec<(Op, u64, u32)>,
    /// Reading this sector is a medium error.
    pub bad_sector: Option<u64>,
    geometry: Geometry,
}

impl MemDisk {
    fn execute(&mut self, request: Request) -> Completion {
        let Request { tag, op, start_sector, sectors, mut buffer } = request;
        self.asked.push((op, start_sector, sectors));
        let start = usize::try_from(start_sector).unwrap() * 512;
        let length = sectors as usize * 512;
        let block = self.geometry.logical_block_bytes as usize;
        assert!(
            start.is_multiple_of(block) && length.is_multiple_of(block),
            "{op:?} {start} {length}"
        );
        let range = start..start + length;
        assert!(range.end <= self.bytes.len(), "{op:?} {range:?}");
        let mut result = Ok(());
        match op {
            Op::Read
                if self.bad_sector.is_some_and(|bad| {
                    (start_sector..start_sector + u64::from(sectors)).contains(&bad)
                }) =>
            {
                result = Err(Error::Medium);
            }
            Op::Read => {
                assert!(length <= self.geometry.transfer_bytes_max as usize);
                buffer[..length].copy_from_slice(&self.bytes[range]);
            }
            Op::Write { .. } => {
                assert!(length <= self.geometry.transfer_bytes_max as usize);
                self.bytes[range].copy_from_slice(&buffer[..length]);
            }
            Op::Flush => assert_eq!((start_sector, sectors), (0, 0)),
            Op::Discard => {
                assert!(length as u64 <= self.geometry.unmap.expect("offered").bytes_max);
                // What a disk may do at worst: anything.
                self.bytes[range].fill(0xdd);
            }
            Op::WriteZeroes { .. } => {
                assert!(length as u64 <= self.geometry.write_zeroes_bytes_max);
                self.bytes[range].fill(0);
            }
        }
        Completion { tag, result, buffer }
    }
}

/// A device that a thread serves from a [`MemDisk`].
pub struct Served {
    pub path: PathBuf,
    pub disk: Arc<Mutex<MemDisk>>,
    pub choice: Choice,
    stop: OwnedFd,
    thread: JoinHandle<()>,
}

impl Served {
    pub fn new(preference: Preference, geometry: &Geometry, queue_depth: u16) -> Served {
        let disk = MemDisk {
            bytes: vec![0; geometry.sectors() as usize * 512],
            asked: Vec::new(),
            bad_sector: None,
            geometry: geometry.clone(),
        };
        Served::with(preference, Arc::new(Mutex::new(disk)), geometry, queue_depth)
    }

    pub fn with(
        preference: Preference,
        disk: Arc<Mutex<MemDisk>>,
        geometry: &Geometry,
        queue_depth: u16,
    ) -> Served {
        let (stopped, stop) = rustix::pipe::pipe().unwrap();
        let (live, is_live) = channel();
        let (served, geometry) = (Arc::clone(&disk), geometry.clone());
        let thread = thread::spawn(move || {
            let (device, choice) = block::open(&geometry, preference, queue_depth).unwrap();
            serve(device, choice, &served, &stopped, &live);
        });
        let (path, choice) = is_live.recv_timeout(PATIENCE).expect("the device becomes live");
        Served { path, disk, choice, stop, thread }
    }

    /// Stops the device and waits until nothing of it is left.
    pub fn stop(self) -> Vec<u8> {
        drop(self.stop);
        self.thread.join().expect("the device is served to its end");
        std::mem::take(&mut self.disk.lock().unwrap().bytes)
    }

    pub fn open(&self, flags: i32) -> io::Result<File> {
        OpenOptions::new().read(true).write(true).custom_flags(flags).open(&self.path)
    }

    /// A file below the device in sysfs.
    pub fn sysfs(&self, file: &str) -> String {
        let name = self.path.file_name().unwrap().to_str().unwrap();
        let path = format!("/sys/block/{name}/{file}");
        fs::read_to_string(&path).unwrap_or_else(|error| panic!("{path}: {error}")).trim().into()
    }

    pub fn asked(&self, is_it: impl Fn(Op) -> bool) -> Vec<(Op, u64, u32)> {
        self.disk.lock().unwrap().asked.iter().copied().filter(|&(op, _, _)| is_it(op)).collect()
    }
}

/// The daemon's loop in small. Each batch is answered in the order of tags turned round, to show
/// that answers may come in any order.
fn serve(
    mut device: Box<dyn BlockDevice>,
    choice: Choice,
    disk: &Mutex<MemDisk>,
    stopped: &OwnedFd,
    live: &Sender<(PathBuf, Choice)>,
) {
    let mut choice = Some(choice);
    let mut is_stopping = false;
    let mut batch = Vec::new();
    while !device.is_stopped() {
        let mut fds = vec![PollFd::from_borrowed_fd(device.fd(), PollFlags::IN)];
        if !is_stopping {
            fds.push(PollFd::new(stopped, PollFlags::IN));
        }
        match poll(&mut fds, None) {
            Ok(_) | Err(rustix::io::Errno::INTR) => {}
            Err(error) => panic!("poll: {error}"),
        }
        if fds.get(1).is_some_and(|fd| !fd.revents().is_empty()) {
            is_stopping = true;
            device.stop().unwrap();
        }
        while let Some(request) = device.poll_request().unwrap() {
            batch.push(disk.lock().unwrap().execute(request));
        }
        for completion in batch.drain(..).rev() {
            device.complete(completion).unwrap();
        }
        device.submit().unwrap();
        if let (Some(path), true) = (device.path(), choice.is_some()) {
            live.send((path.into(), choice.take().unwrap())).unwrap();
        }
    }
}

const PATIENCE: Duration = Duration::from_secs(20);

/// Waits for something that the kernel does by itself and that nobody reports to us.
pub fn wait_until(what: &str, is_it: impl FnMut() -> bool) {
    wait_within(PATIENCE, what, is_it);
}

/// The same for what takes so long at most.
pub fn wait_within(patience: Duration, what: &str, mut is_it: impl FnMut() -> bool) {
    let deadline = Instant::now() + patience;
    while !is_it() {
        assert!(Instant::now() < deadline, "{what} does not come");
        thread::sleep(Duration::from_millis(2));
    }
}

/// A small generator (xorshift64*), so that a failure repeats itself.
pub struct Random(pub u64);

impl Random {
    pub fn next(&mut self) -> u64 {
        self.0 ^= self.0 >> 12;
        self.0 ^= self.0 << 25;
        self.0 ^= self.0 >> 27;
        self.0.wrapping_mul(0x2545_f491_4f6c_dd1d)
    }

    pub fn below(&mut self, limit: u64) -> u64 {
        self.next() % limit
    }

    pub fn fill(&mut self, bytes: &mut [u8]) {
        for chunk in bytes.chunks_mut(8) {
            chunk.copy_from_slice(&self.next().to_ne_bytes()[..chunk.len()]);
        }
    }
}

/// Memory that O_DIRECT accepts: aligned to a page.
pub struct Aligned {
    bytes: Vec<u8>,
    start: usize,
    length: usize,
}

impl Aligned {
    pub fn new(length: usize) -> Aligned {
        let bytes = vec![0; length + 4096];
        let start = bytes.as_ptr().align_offset(4096);
        Aligned { bytes, start, length }
    }

    pub fn get(&mut self) -> &mut [u8] {
        &mut self.bytes[self.start..self.start + self.length]
    }
}

pub const O_DIRECT: i32 = 0o40000;
pub const O_DSYNC: i32 = 0o10000;

/// Random writes and reads of all sizes by several threads, past the page cache and through it.
pub fn written_data_reads_back(driver: Preference, block_bytes: u32, queue_depth: u16) {
    let served = Served::new(driver, &geometry(block_bytes), queue_depth);
    let share = u64::from(DISK_BYTES) / 4;
    thread::scope(|scope| {
        for (worker, flags) in [0, 0, O_DIRECT, O_DIRECT].into_iter().enumerate() {
            let file = served.open(flags).unwrap();
            scope.spawn(move || work(&file, worker as u64 * share, share, block_bytes));
        }
    });
    served.open(0).unwrap().sync_all().unwrap();
    // Past the cache, everything is where the other way has put it.
    let direct = served.open(O_DIRECT).unwrap();
    let mut whole = Aligned::new(DISK_BYTES as usize);
    direct.read_exact_at(whole.get(), 0).unwrap();
    drop(direct);
    assert!(whole.get() == served.disk.lock().unwrap().bytes, "the disk holds something else");
    assert!(whole.get() == served.stop(), "the disk has changed with the stop");
}

fn work(file: &File, start: u64, share: u64, block_bytes: u32) {
    let mut random = Random(0x9e37_79b9_7f4a_7c15 ^ start.rotate_left(17));
    let mut model = vec![0; share as usize];
    let blocks = share / u64::from(block_bytes);
    for turn in 0..150 {
        // Mostly small, sometimes up to 1 MiB.
        let most = if turn % 8 == 0 { (1 << 20) / block_bytes } else { 65536 / block_bytes };
        let count = 1 + random.below(most.into());
        let at = random.below(blocks - count) * u64::from(block_bytes);
        let length = count as usize * block_bytes as usize;
        let range = at as usize..at as usize + length;
        let mut buffer = Aligned::new(length);
        if random.below(2) == 0 {
            random.fill(buffer.get());
            model[range].copy_from_slice(buffer.get());
            file.write_all_at(buffer.get(), start + at).unwrap();
        } else {
            file.read_exact_at(buffer.get(), start + at).unwrap();
            assert!(buffer.get() == &model[range], "turn {turn} at {at} of {start}");
        }
    }
}

/// A flush comes after the writes that it is for; FUA arrives as such.
pub fn flush_and_fua_arrive(driver: Preference) {
    let served = Served::new(driver, &geometry(512), 16);
    let mut data = Aligned::new(4096);
    data.get().fill(7);
    let cached = served.open(0).unwrap();
    cached.write_all_at(data.get(), 8192).unwrap();
    cached.sync_all().unwrap();
    let asked = served.disk.lock().unwrap().asked.clone();
    let at = |wanted: (Op, u64, u32)| asked.iter().position(|&asked| asked == wanted);
    let written = at((Op::Write { fua: false }, 16, 8)).expect("the write");
    assert!(at((Op::Flush, 0, 0)).expect("the flush") > written);

    served.open(O_DIRECT | O_DSYNC).unwrap().write_all_at(data.get(), 0).unwrap();
    assert_eq!(served.asked(|op| op == Op::Write { fua: true }), [(Op::Write { fua: true }, 0, 8)]);
    served.stop();
}

/// Discards and zeroes arrive, never longer than the unit can take.
pub fn discard_and_zeroes_arrive(driver: Preference) {
    let served = Served::new(driver, &geometry(512), 16);
    served.disk.lock().unwrap().bytes.fill(0xff);
    let blkdiscard = |words: &[&str]| {
        let status = Command::new("blkdiscard").args(words).arg(&served.path).status().unwrap();
        assert!(status.success(), "{words:?}: {status}");
    };
    blkdiscard(&["--offset", "1M", "--length", "10M"]);
    let discards = served.asked(|op| op == Op::Discard);
    assert_eq!(discards.iter().map(|&(_, _, sectors)| sectors).sum::<u32>(), 10 * 2048);
    assert_eq!(discards.iter().map(|&(_, start, _)| start).min(), Some(2048));
    blkdiscard(&["--zeroout", "--offset", "20M", "--length", "5M"]);
    let zeroes = served.asked(|op| matches!(op, Op::WriteZeroes { .. }));
    // NBD before 6.12 has no such command, and the kernel writes the zeroes itself.
    let has_zeroes = served.sysfs("queue/write_zeroes_max_bytes") != "0";
    let expected = if has_zeroes { 5 * 2048 } else { 0 };
    assert_eq!(zeroes.iter().map(|&(_, _, sectors)| sectors).sum::<u32>(), expected);
    assert!(has_zeroes || driver == Preference::Nbd);

    let file = served.open(0).unwrap();
    let mut byte = [0];
    for (mib, expected) in [(0, 0xff), (1, 0xdd), (10, 0xdd), (11, 0xff), (20, 0), (25, 0xff)] {
        file.read_exact_at(&mut byte, mib << 20).unwrap();
        assert_eq!(byte, [expected], "at {mib} MiB");
    }
    drop(file);
    served.stop();
}

/// Without UNMAP and WRITE SAME at the target, the kernel does not offer them either.
pub fn what_the_unit_lacks_is_not_offered(driver: Preference) {
    let bare = Geometry {
        write_cache: false,
        fua: false,
        unmap: None,
        write_zeroes_bytes_max: 0,
        ..geometry(512)
    };
    let served = Served::new(driver, &bare, 16);
    assert_eq!(served.sysfs("queue/discard_max_bytes"), "0");
    assert_eq!(served.sysfs("queue/write_zeroes_max_bytes"), "0");
    assert_eq!(served.sysfs("queue/write_cache"), "write through");
    served.stop();
}

/// Nobody can write to a write-protected unit.
pub fn read_only_is_kept(driver: Preference) {
    let served = Served::new(driver, &Geometry { read_only: true, ..geometry(512) }, 16);
    assert_eq!(served.sysfs("ro"), "1");
    let mut file = match served.open(0) {
        // Some kernels open it and refuse the write.
        Ok(file) => file,
        Err(error) => {
            assert!(matches!(error.raw_os_error(), Some(1 | 13 | 30)), "{error}");
            served.stop();
            return;
        }
    };
    let refused = file.write_all(&[1; 4096]).and_then(|()| file.sync_all());
    assert!(refused.is_err());
    drop(file);
    assert!(served.asked(|op| matches!(op, Op::Write { .. })).is_empty());
    served.stop();
}

/// Size, block sizes and limits are those of the unit.
pub fn shape_is_that_of_the_unit(driver: Preference, block_bytes: u32) {
    let served = Served::new(driver, &geometry(block_bytes), 16);
    assert_eq!(served.sysfs("size"), (DISK_BYTES / 512).to_string());
    assert_eq!(served.sysfs("queue/logical_block_size"), block_bytes.to_string());
    assert_eq!(served.sysfs("queue/max_sectors_kb"), "256");
    assert_eq!(served.sysfs("queue/discard_max_bytes"), (4 << 20).to_string());
    assert_eq!(served.sysfs("queue/write_cache"), "write back");
    assert_eq!(served.sysfs("queue/fua"), "1");
    assert_eq!(served.sysfs("queue/rotational"), "0");
    assert_eq!(served.sysfs("ro"), "0");
    served.stop();
}

/// A medium error fails the read that meets it and no other.
pub fn an_error_reaches_the_reader(driver: Preference) -> Option<i32> {
    let served = Served::new(driver, &geometry(512), 16);
    served.disk.lock().unwrap().bad_sector = Some(20_000);
    let file = served.open(O_DIRECT).unwrap();
    let mut data = Aligned::new(4096);
    let error = file.read_exact_at(data.get(), 20_000 * 512).unwrap_err();
    file.read_exact_at(data.get(), 30_000 * 512).unwrap();
    drop(file);
    served.stop();
    error.raw_os_error()
}

/// The kernel finds the partitions without anybody's help.
pub fn partitions_are_found(driver: Preference) {
    let geometry = geometry(512);
    let mut disk = MemDisk {
        bytes: vec![0; DISK_BYTES as usize],
        asked: Vec::new(),
        bad_sector: None,
        geometry: geometry.clone(),
    };
    // A master boot record: Linux, from sector 2048, 4096 sectors long.
    disk.bytes[446..462].copy_from_slice(&[0, 0, 0, 0, 0x83, 0, 0, 0, 0, 8, 0, 0, 0, 16, 0, 0]);
    disk.bytes[510..512].copy_from_slice(&[0x55, 0xaa]);
    let served = Served::with(driver, Arc::new(Mutex::new(disk)), &geometry, 16);
    let partition = PathBuf::from(format!("{}p1", served.path.display()));
    wait_until("the partition", || partition.exists());
    let name = partition.file_name().unwrap().to_str().unwrap().to_owned();
    let size = fs::read_to_string(format!("/sys/class/block/{name}/size")).unwrap();
    assert_eq!(size.trim(), "4096");
    served.stop();
    assert!(!partition.exists());
}

/// What is still in the page cache reaches the disk before the device goes.
pub fn stop_writes_back(driver: Preference) {
    let served = Served::new(driver, &geometry(512), 16);
    let file = served.open(0).unwrap();
    let mut data = vec![0; 3 << 20];
    Random(5).fill(&mut data);
    file.write_all_at(&data, 1 << 20).unwrap();
    // Closing writes back by itself, so it stays open over the stop.
    let bytes = served.stop();
    assert!(bytes[1 << 20..4 << 20] == data, "the cache was lost");
    drop(file);
}

/// One device after the other, each gone before the next.
pub fn devices_come_and_go(driver: Preference) {
    for round in 0..3 {
        let served = Served::new(driver, &geometry(512), 8);
        let path = served.path.clone();
        served.stop();
        match driver {
            Preference::Nbd => {
                assert_eq!(path, Path::new("/dev/nbd0"), "round {round}");
                assert_eq!(fs::read_to_string("/sys/block/nbd0/size").unwrap(), "0\n");
                assert!(!Path::new("/sys/block/nbd0/pid").exists());
            }
            Preference::Ublk | Preference::Auto => {
                // The kernel gives the number free a moment after the device, so the next may be 1.
                let name = path.file_name().unwrap().to_str().unwrap();
                let number = name.strip_prefix("ublkb").unwrap();
                assert!(!path.exists(), "round {round}: {path:?}");
                assert!(!Path::new(&format!("/dev/ublkc{number}")).exists(), "round {round}");
                assert!(!Path::new("/sys/block").join(name).exists(), "round {round}");
            }
        }
    }
}
