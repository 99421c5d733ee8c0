//! Which seeds are run, on all processors, and what is said about it.

use std::sync::Mutex;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};

use super::Simulation;
use super::coverage::Coverage;

/// Seeds of a run that says nothing else, if they fit into [`PATIENCE`].
const SEEDS: u64 = 10_000;

/// How long such a run may take.
const PATIENCE: Duration = Duration::from_secs(60);

/// From so many seeds on, everything must have happened.
const SEEDS_FOR_COVERAGE: u64 = 1000;

/// How much more memory a process may have at the end than after its first seeds, in KiB.
const GROWTH_MAX_KIB: u64 = 64 * 1024;

/// What all threads share.
struct Run {
    begun: Instant,
    first: u64,
    /// Seeds to run; none for as many as there is time for.
    count: Option<u64>,
    deadline: Option<Instant>,
    next: AtomicU64,
    done: AtomicU64,
    failed: AtomicBool,
    coverage: Mutex<Coverage>,
}

#[test]
fn seeds() {
    let begun = Instant::now();
    if let Some(seed) = number("SIM_SEED") {
        println!("{}", Simulation::new(seed, true).run());
        return;
    }
    let soak = number("SIM_SOAK").is_some_and(|on| on != 0);
    let asked = number("SIM_SEEDS");
    let (count, deadline) = match (soak, asked) {
        (true, _) => (None, None),
        (false, Some(seeds)) => (Some(seeds), None),
        (false, None) => (Some(SEEDS), Some(begun + PATIENCE)),
    };
    let run = Run {
        begun,
        first: number("SIM_FIRST").unwrap_or_else(|| if soak { new_seeds() } else { 0 }),
        count,
        deadline,
        next: AtomicU64::new(0),
        done: AtomicU64::new(0),
        failed: AtomicBool::new(false),
        coverage: Mutex::new(Coverage::new()),
    };
    let threads = std::thread::available_parallelism().map_or(1, usize::from);
    std::thread::scope(|scope| {
        for _ in 0..threads {
            scope.spawn(|| run.work());
        }
        run.watch();
    });
    run.report();
    if run.done.load(Ordering::Relaxed) >= SEEDS_FOR_COVERAGE {
        let missing = run.coverage.lock().expect("no seed has failed").missing();
        assert!(missing.is_empty(), "never happened: {missing:?}");
    }
}

impl Run {
    fn work(&self) {
        // The others end when one has failed: its seed is what counts.
        let on_panic = OnPanic(&self.failed);
        while !self.is_over() {
            let index = self.next.fetch_add(1, Ordering::Relaxed);
            if self.count.is_some_and(|count| index >= count) {
                break;
            }
            let coverage = Simulation::new(self.first.wrapping_add(index), false).run();
            self.coverage.lock().expect("no seed has failed").add_all(&coverage);
            self.done.fetch_add(1, Ordering::Relaxed);
        }
        drop(on_panic);
    }

    fn is_over(&self) -> bool {
        self.failed.load(Ordering::Relaxed)
            || self.deadline.is_some_and(|deadline| Instant::now() >= deadline)
            || self.count.is_some_and(|count| self.next.load(Ordering::Relaxed) >= count)
    }

    /// Tells once a minute how it goes, and that no memory is lost.
    fn watch(&self) {
        let (mut told, mut first_kib) = (self.begun, None);
        while !self.is_over() {
            std::thread::sleep(Duration::from_millis(100));
            if told.elapsed() >= Duration::from_secs(60) {
                told = Instant::now();
                self.report();
            }
            let Some(kib) = resident_kib() else { continue };
            if self.done.load(Ordering::Relaxed) < 200 {
                continue;
            }
            let first = *first_kib.get_or_insert(kib);
            assert!(kib < first + GROWTH_MAX_KIB, "from {first} to {kib} KiB of memory");
        }
    }

    fn report(&self) {
        let done = self.done.load(Ordering::Relaxed);
        let seconds = self.begun.elapsed().as_secs_f64();
        let kib = resident_kib().unwrap_or_default();
        let coverage = self.coverage.lock().unwrap_or_else(|poisoned| poisoned.into_inner());
        println!(
            "{done} seeds from {} on in {seconds:.0} s, {:.0} a second, {kib} KiB: {coverage}",
            self.first,
            done as f64 / seconds
        );
    }
}

/// Tells the other threads of a panic in this one.
struct OnPanic<'a>(&'a AtomicBool);

impl Drop for OnPanic<'_> {
    fn drop(&mut self) {
        if std::thread::panicking() {
            self.0.store(true, Ordering::Relaxed);
        }
    }
}

/// A setting in the environment.
fn number(name: &str) -> Option<u64> {
    let text = std::env::var(name).ok()?;
    Some(text.parse().unwrap_or_else(|_| panic!("{name}={text} is no number")))
}

/// Where nobody has been before.
fn new_seeds() -> u64 {
    let time = SystemTime::now().duration_since(UNIX_EPOCH).expect("a clock that was set");
    time.as_secs() << 24
}

/// Memory of this process.
fn resident_kib() -> Option<u64> {
    let status = std::fs::read_to_string("/proc/self/status").ok()?;
    let line = status.lines().find_map(|line| line.strip_prefix("VmRSS:"))?;
    line.split_whitespace().next()?.parse().ok()
}
