//! The test suite of libiscsi, `iscsi-test-cu`, against our target: nothing fails, and what is
//! skipped is what `tests/libiscsi.allowed` says, no more and no less.
//!
//! The suite counts a test as passed when the target does not know the command that it is about,
//! and then only says so in passing. These words are what is read here. One unit cannot satisfy all
//! tests, so there are several, and together they run every test that the list does not name.

mod kernel;
mod programs;

use std::collections::BTreeMap;
use std::fs::File;
use std::path::PathBuf;
use std::process::Command;

use kernel::have;
use programs::Target;

/// What may be skipped, or fail, and why.
const ALLOWED: &str = include_str!("libiscsi.allowed");

/// Every test but one is in ALL.
const EVERYTHING: &str = "ALL,SCSI.ReportLUNs";

/// How a test ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Verdict {
    Passed,
    /// Some of it did not take place.
    Skipped,
    Failed,
}

/// A line of [`ALLOWED`].
#[derive(Debug)]
struct Exception {
    verdict: Verdict,
    personalities: &'static str,
    test: &'static str,
}

/// Blocks of 512 bytes, physical ones as well, as by default.
#[test]
fn a_thin_unit() {
    check("thin", &[], EVERYTHING);
}

/// Several logical blocks in a physical one: what makes a difference to what writes and frees.
#[test]
fn a_unit_of_large_physical_blocks() {
    const SUITES: &[&str] = &[
        "CompareAndWrite",
        "GetLBAStatus.Simple",
        "GetLBAStatus.BeyondEol",
        "Inquiry",
        "OrWrite",
        "ReadCapacity16",
        "Unmap",
        "Write10",
        "Write16",
        "WriteSame10",
        "WriteSame16",
        "WriteVerify16",
    ];
    check("large", &["--physical-block-size", "4096"], &all(SUITES));
}

/// Suites that write 512 bytes now and then, whatever a block has.
#[test]
fn a_unit_of_large_logical_blocks() {
    const SUITES: &[&str] = &[
        "GetLBAStatus",
        "Inquiry",
        "ProutReserve",
        "Read16",
        "ReadCapacity16",
        "Unmap",
        "Write16",
        "iSCSIResiduals",
    ];
    check("blocks", &["--block-size", "4096"], &all(SUITES));
}

/// With a journal, which makes atomic writes possible.
#[test]
fn a_unit_with_state() {
    let state = tempfile::tempdir().expect("a folder");
    let options = ["--state", state.path().to_str().expect("a path in UTF-8")];
    check("state", &options, &all(&["Inquiry", "WriteAtomic16", "Write16"]));
}

#[test]
fn a_removable_unit() {
    check("removable", &["--removable"], EVERYTHING);
}

/// With one path each test has a second session of its own.
#[test]
fn a_removable_unit_by_one_path() {
    check("one-path", &["--removable"], "ALL.PreventAllow,ALL.Reserve6");
}

/// With two paths its test of reservations leaves one behind.
#[test]
fn a_unit_that_may_be_sanitized() {
    let suites = ["Inquiry", "ReportSupportedOpcodes", "Sanitize"];
    check("sanitize", &["--allow-sanitize"], &all(&suites));
}

/// Most other tests take for granted that they can write.
#[test]
fn a_read_only_unit() {
    const SUITES: &[&str] = &[
        "GetLBAStatus.Simple",
        "GetLBAStatus.BeyondEol",
        "Inquiry",
        "Mandatory",
        "ModeSense6",
        "NoMedia",
        "Prefetch10",
        "Prefetch16",
        "PrinReadKeys",
        "PrinServiceactionRange",
        "PrinReportCapabilities",
        "ProutRegister",
        "ProutClear",
        "ProutPreempt",
        "Read6",
        "Read10",
        "Read12",
        "Read16",
        "ReadCapacity10",
        "ReadCapacity16",
        "ReadDefectData10",
        "ReadDefectData12",
        "ReadOnly",
        "ReportSupportedOpcodes",
        "Reserve6",
        "StartStopUnit",
        "TestUnitReady",
        "Verify10",
        "Verify12",
        "Verify16",
        "iSCSIcmdsn",
        "iSCSIdatasn",
    ];
    check("read-only", &["--read-only"], &(all(SUITES) + ",SCSI.ReportLUNs"));
}

/// These suites, or tests of them, as the program wants it said.
fn all(suites: &[&str]) -> String {
    suites.iter().map(|suite| format!("ALL.{suite}")).collect::<Vec<_>>().join(",")
}

#[test]
fn every_exception_has_a_reason() {
    for line in ALLOWED.lines().filter(|line| !line.is_empty() && !line.starts_with('#')) {
        assert!(line.split_whitespace().count() > 5, "a reason of at least three words: {line}");
    }
    let exceptions = exceptions();
    assert!(exceptions.iter().any(|exception| exception.test == "ExtendedCopy.*"));
}

/// Runs these tests against a unit of these options and compares the outcome with the list.
fn check(personality: &str, options: &[&str], tests: &str) {
    if !have(personality, &["iscsi-test-cu", "timeout"]) {
        return;
    }
    let disk = Disk::new(personality);
    let target = Target::start_quietly(options, &[&disk.0]);
    let uri = target.uri(0);
    let output = Command::new("timeout")
        .args(["300", "iscsi-test-cu", "--dataloss", "--allow-sanitize", "--Verbose-scsi"])
        .args(["--test", tests])
        // The second path is for the tests of several paths.
        .args(vec![&uri; if ["one-path", "sanitize"].contains(&personality) { 1 } else { 2 }])
        .output()
        .expect("the suite starts");
    // Before anything is asserted, so that it does not outlive a test that fails.
    target.stop();
    let output = String::from_utf8_lossy(&output.stdout).into_owned();
    let results = results(&output);
    let least = match personality {
        "one-path" => 15,
        "large" => 64,
        "read-only" => 80,
        "blocks" => 48,
        "sanitize" => 22,
        "state" => 15,
        _ => 230,
    };
    assert!(results.len() >= least, "{} tests: {output}", results.len());
    let mut complaints = String::new();
    for (test, (verdict, words)) in &results {
        let allowed = allowed(personality, test);
        if *verdict != allowed {
            complaints += &format!("{test}: {verdict:?}, expected {allowed:?}: {words:#?}\n");
        }
    }
    assert!(complaints.is_empty(), "{personality}:\n{complaints}");
    for exception in exceptions().iter().filter(|exception| exception.is_for(personality)) {
        let used = results.keys().any(|test| exception.names(test));
        assert!(used, "{personality}: no such test: {exception:?}");
    }
}

/// What the list says about a test.
fn allowed(personality: &str, test: &str) -> Verdict {
    let exceptions = exceptions();
    let found =
        exceptions.iter().find(|exception| exception.is_for(personality) && exception.names(test));
    found.map_or(Verdict::Passed, |exception| exception.verdict)
}

/// The list: `skip` or `fail`, for which units, which test or `Suite.*`, and the reason.
fn exceptions() -> Vec<Exception> {
    let lines = ALLOWED.lines().filter(|line| !line.is_empty() && !line.starts_with('#'));
    lines
        .map(|line| {
            let mut words = line.split_whitespace();
            let mut word = || words.next().unwrap_or_else(|| panic!("an incomplete line: {line}"));
            let verdict = match word() {
                "skip" => Verdict::Skipped,
                "fail" => Verdict::Failed,
                other => panic!("neither skip nor fail: {other}"),
            };
            Exception { verdict, personalities: word(), test: word() }
        })
        .collect()
}

impl Exception {
    fn is_for(&self, personality: &str) -> bool {
        self.personalities.split(',').any(|name| name == personality)
    }

    fn names(&self, test: &str) -> bool {
        match self.test.strip_suffix('*') {
            Some(suite) => test.starts_with(suite),
            None => test == self.test,
        }
    }
}

/// What the suite says of each test, and the words behind it.
fn results(output: &str) -> BTreeMap<String, (Verdict, Vec<String>)> {
    let mut results = BTreeMap::new();
    let mut suite = "";
    let mut running: Option<(String, Vec<String>)> = None;
    for line in output.lines() {
        let mut text = line;
        if let Some(name) = line.strip_prefix("Suite: ") {
            suite = name.trim();
            continue;
        }
        if let Some((name, rest)) = line.trim_start().strip_prefix("Test: ").and_then(split_name) {
            assert!(running.is_none(), "no verdict before {line}");
            running = Some((format!("{suite}.{name}"), Vec::new()));
            text = rest;
        }
        let Some((_, words)) = &mut running else { continue };
        let news = ["[SKIPPED]", "[FAILED]"].iter().any(|word| text.contains(word));
        if news {
            words.push(text.trim().to_owned());
        }
        let verdict = if text.starts_with("passed") {
            Verdict::Passed
        } else if text.starts_with("FAILED") {
            Verdict::Failed
        } else {
            continue;
        };
        let (test, words) = running.take().expect("it has just been there");
        // Behind the verdict comes what is said when the whole suite is over.
        let skipped = words.iter().any(|words| words.starts_with("[SKIPPED]"));
        let verdict =
            if skipped && verdict == Verdict::Passed { Verdict::Skipped } else { verdict };
        results.insert(test, (verdict, words));
    }
    assert!(running.is_none(), "the suite ended in the middle of {running:?}");
    results
}

/// `NAME ...REST`.
fn split_name(text: &str) -> Option<(&str, &str)> {
    text.split_once(" ...")
}

#[test]
fn verdicts_are_read_from_what_the_suite_says() {
    let output = "Suite: Alpha\n  Test: One ...passed\n  Test: Two ...    [SKIPPED] X is not \
                  implemented.\npassed    [SKIPPED] of the suite\n  Test: Three ...    [FAILED] Y\n\
                  FAILED\n    1. file.c:1 - CU_FAIL\nSuite: Beta\n  Test: One ...\n  log\n\
                  \x20   [SKIPPED] later\n  log\npassed\n";
    let verdicts: Vec<(String, Verdict)> =
        results(output).into_iter().map(|(test, (verdict, _))| (test, verdict)).collect();
    let expected = [
        ("Alpha.One", Verdict::Passed),
        ("Alpha.Three", Verdict::Failed),
        ("Alpha.Two", Verdict::Skipped),
        ("Beta.One", Verdict::Skipped),
    ];
    assert_eq!(verdicts, expected.map(|(test, verdict)| (test.to_owned(), verdict)));
}

/// A sparse file of 64 MiB, in memory where there is a place for it.
struct Disk(PathBuf);

impl Disk {
    fn new(personality: &str) -> Disk {
        let memory = PathBuf::from("/dev/shm");
        let folder = if memory.is_dir() { memory } else { std::env::temp_dir() };
        let path = folder.join(format!("lunboot-{}-{personality}.img", std::process::id()));
        File::create(&path).and_then(|file| file.set_len(64 << 20)).expect("room for a disk");
        Disk(path)
    }
}

impl Drop for Disk {
    fn drop(&mut self) {
        let _ = std::fs::remove_file(&self.0);
    }
}
