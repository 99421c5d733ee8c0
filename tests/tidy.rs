//! The rules of the house, as a test: who may use what, where `unsafe` may be, how long things get.
//!
//! The tables below are the rules; the functions after them only look. A rule that a file breaks
//! for a good reason has that file in its table of exceptions, together with the reason. Nothing is
//! compiled here: the sources are read as text, with comments and string literals blanked where a
//! rule is about code.

use std::fmt::Write as _;
use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;

/// A part of the sources and what it may use.
struct Room {
    /// Files whose path begins so belong to it, unless a longer prefix elsewhere fits better.
    files: &'static [&'static str],
    /// What of this crate it may name, by the beginning of the path.
    uses: &'static [&'static str],
    /// Other crates that it may name.
    crates: &'static [&'static str],
    /// Lists of words that its code must not contain.
    never: &'static [&'static [&'static str]],
}

/// Sockets, files and threads, and whatever reads a clock or draws a random number: what `wire` and
/// `proto` never touch. A hash map draws one when it is made.
const OUTSIDE_WORLD: &[&str] = &[
    "Instant::now",
    "SystemTime",
    "TcpStream",
    "TcpListener",
    "UdpSocket",
    "UnixStream",
    "UnixListener",
    "UnixDatagram",
    "std::fs",
    "std::os",
    "std::env",
    "std::process",
    "std::thread",
    "RandomState",
    "HashMap",
    "HashSet",
    "getrandom",
    "unsafe",
];

/// What threads need to share something, and what may make them wait.
const LOCKS: &[&str] = &["Mutex", "RwLock", "Condvar", "mpsc"];

/// The import table. Longer prefixes win, so that one file can have its own row.
const ROOMS: &[Room] = &[
    Room {
        files: &["src/wire/"],
        uses: &["wire"],
        crates: &["crc32c"],
        never: &[OUTSIDE_WORLD, LOCKS, &["std::io", "std::time", "Instant"]],
    },
    // What both sides of the protocol share, and the clients that belong to neither.
    Room {
        files: &["src/proto/"],
        uses: &["proto", "wire"],
        crates: &["log"],
        never: &[OUTSIDE_WORLD, LOCKS, &["std::io"]],
    },
    Room {
        files: &["src/proto/chap"],
        uses: &["proto::chap", "wire"],
        crates: &["md5", "sha1", "sha2", "sha3", "subtle", "zeroize"],
        never: &[OUTSIDE_WORLD, &["std::io", "log"]],
    },
    // The target side. `Store` is its one call outward, and fails with an `io::Error`.
    Room {
        files: &["src/proto/target", "src/proto/logical_unit"],
        uses: TARGET_SIDE,
        crates: &["log"],
        never: &[OUTSIDE_WORLD, LOCKS],
    },
    // Where the sessions of a target, which are threads, meet.
    Room {
        files: &["src/proto/logical_unit/nexuses"],
        uses: TARGET_SIDE,
        crates: &["log"],
        never: &[OUTSIDE_WORLD],
    },
    // Where they meet the thread that carries out a sanitize operation.
    Room {
        files: &["src/proto/logical_unit/sanitize"],
        uses: TARGET_SIDE,
        crates: &["log"],
        never: &[OUTSIDE_WORLD],
    },
    Room {
        files: &["src/net/"],
        uses: &["net", "wire"],
        crates: &["rustix", "nix", "socket2", "linux_raw_sys", "log"],
        never: &[&["TargetName", "LoginRequest"]],
    },
    Room {
        files: &["src/block/"],
        uses: &[
            "block",
            "proto::disk",
            "wire::nbd",
            "wire::ublk",
            "wire::netlink",
            "wire::Malformed",
        ],
        crates: &["rustix", "nix", "io_uring", "linux_raw_sys", "log"],
        never: &[&[
            "iscsi", "Iscsi", "Scsi", "scsi", "Pdu", "pdu", "Cdb", "cdb", "Lun", "lun", "Sense",
        ]],
    },
    Room {
        files: &["src/store/"],
        uses: &["store"],
        crates: &["rustix", "nix", "linux_raw_sys", "log", "crc32c"],
        never: &[&["unsafe"]],
    },
    Room {
        files: &["src/secrets"],
        uses: &["secrets", "proto::chap", "wire::Malformed", "wire::text"],
        crates: &["rustix", "zeroize", "log"],
        never: &[&["unsafe"]],
    },
    Room {
        files: &["src/boot/"],
        uses: &["boot", "wire"],
        crates: &["rustix", "nix", "linux_raw_sys", "log"],
        never: &[&["wire::pdu", "wire::scsi", "wire::frame", "wire::text"]],
    },
    Room {
        files: &["src/agent"],
        uses: &["agent", "daemon", "boot", "net", "block", "secrets", "proto", "wire"],
        crates: &["rustix", "nix", "log"],
        never: &[JOURNEYS_NEVER],
    },
    Room {
        files: &["src/daemon"],
        uses: &["daemon", "boot", "net", "block", "secrets", "proto", "wire"],
        crates: &["rustix", "nix", "log", "zeroize"],
        never: &[JOURNEYS_NEVER],
    },
    Room {
        files: &["src/server"],
        uses: SERVER_USES,
        crates: &["rustix", "nix", "log", "crc32c"],
        never: &[JOURNEYS_NEVER],
    },
    Room {
        files: &["src/bin/"],
        uses: &[
            "agent",
            "daemon",
            "server",
            "boot",
            "net::tcp",
            "secrets",
            "wire::root_path",
            "wire::digest_choice",
            "wire::time_limit",
            // What a target is made of is put together from its arguments.
            "store",
            "proto::target::TargetConfig",
            "proto::logical_unit",
            "proto::params::Offer",
            "proto::chap::Chap",
        ],
        crates: &["argh", "log", "lunboot"],
        never: &[&["unsafe", "Instant::now", "TcpStream", "TcpListener", "UdpSocket"]],
    },
    Room {
        files: &["mkinitramfs/"],
        uses: &["boot::modules_dep", "secrets"],
        crates: &["argh", "log", "lunboot", "rustix", "flate2", "lzma_rust2", "zstd"],
        never: &[&["unsafe"]],
    },
];

/// No PDU field and no CDB byte is seen on the floor of the journeys.
const JOURNEYS_NEVER: &[&str] = &[
    "wire::frame",
    "wire::scsi::cdb",
    "Bhs",
    "Opcode",
    "ScsiCommand",
    "DataIn",
    "DataOut",
    "R2t",
    "LoginRequest",
    "LoginResponse",
    "unsafe",
];

/// What the two sides share is listed by name: whatever is not here belongs to one of them.
const TARGET_SIDE: &[&str] = &[
    "proto::target",
    "proto::logical_unit",
    "proto::chap",
    "proto::params",
    "proto::window",
    "proto::random",
    "proto::Error",
    "proto::LoginStatus",
    "proto::error",
    "store::Store",
    "store::Record",
    "wire",
];

const SERVER_USES: &[&str] = &[
    "server",
    "store",
    "net",
    "boot::kmsg",
    "secrets",
    "proto::chap",
    "proto::target",
    "proto::logical_unit",
    "proto::params",
    "proto::random",
    "proto::Error",
    "proto::LoginStatus",
    "wire",
];

/// The target side, which nothing on the initiator's side may name.
const TARGET_ONLY: &[&str] = &["proto::target", "proto::logical_unit", "server", "store"];

/// The initiator's side.
const INITIATOR_FILES: &[&str] = &[
    "src/proto/initiator",
    "src/proto/session",
    "src/proto/login",
    "src/proto/command",
    "src/proto/disk",
    "src/proto/task",
    "src/proto/unflushed",
    "src/proto/probe",
    "src/daemon",
    "src/agent",
    "src/block/",
];

/// Where `unsafe` may be, and for what.
const UNSAFE_FILES: &[(&str, &str)] = &[
    ("src/block/uring.rs", "the memory of the ring"),
    ("src/block/ublk/queue.rs", "the descriptors that the kernel maps, buffers in its hands"),
    ("src/block/ublk/control.rs", "the memory of a control command, in the kernel's hands"),
    ("src/block/nbd.rs", "requests of the nbd module"),
    ("src/boot/mount.rs", "mounts"),
    ("src/boot/modules.rs", "loading of modules"),
    ("src/boot/survive.rs", "fork, prctl and the name of the process"),
    ("src/net/link.rs", "the answer to an interface's ioctl"),
    ("src/net/udp.rs", "the packet filter of a socket"),
];

/// Longest file without its tests, in lines.
const FILE_LINES_MAX: usize = 500;

/// Files that may be longer: up to how many lines, and why they are not two files.
const LONG_FILES: &[(&str, usize, &str)] = &[
    ("src/proto/logical_unit/opcodes.rs", 550, "one table with a row for each command"),
    ("src/wire/pdu/response.rs", 700, "one struct per opcode, in the order of the standard"),
    ("src/wire/pdu/request.rs", 700, "one struct per opcode, in the order of the standard"),
    ("src/proto/dhcp.rs", 550, "one client from discover to renewal: its transitions in one match"),
    ("src/wire/root_path.rs", 650, "three dialects of one text, which share every field"),
    ("src/proto/initiator.rs", 700, "one connection: what comes in, what goes out, its timers"),
    ("src/proto/session.rs", 650, "one machine: every place that a request can be in"),
    ("src/daemon/mod.rs", 550, "one loop over everything that can happen"),
    ("src/block/nbd.rs", 650, "tags and the socket share the life of the device"),
    ("src/proto/target/mod.rs", 570, "the driving contract with its reasons"),
    ("src/proto/target/full_feature.rs", 700, "one dispatch over everything an initiator sends"),
];

/// Longest function, in lines from its signature to its closing brace.
const FUNCTION_LINES_MAX: usize = 70;

/// Functions that may be longer, and why they are not two functions.
const LONG_FUNCTIONS: &[(&str, &str, &str)] =
    &[("src/boot/cmdline.rs", "take", "one match with an arm for each word")];

/// Longest line, in characters.
const COLUMNS_MAX: usize = 100;

/// Files from this many lines on say in three lines or more what they are; for smaller ones, one
/// line may be all there is to say.
const HEADER_FROM_LINES: usize = 400;

/// Longest header of a file, in lines.
const HEADER_LINES_MAX: usize = 15;

/// Headers that may be longer, and why.
const LONG_HEADERS: &[(&str, &str)] = &[
    ("src/lib.rs", "the architecture page"),
    ("src/proto/mod.rs", "the table of the driving contract"),
    ("src/proto/target/mod.rs", "what its owner has to do, and the limits of a connection"),
    ("src/block/ublk.rs", "who owns a buffer, and which thread may do what"),
];

/// File names that say nothing.
const NAMES_NEVER: &[&str] = &["utils", "util", "common", "helpers", "misc", "types"];

/// Where the program may sleep instead of waiting for an event, and why.
const SLEEPS: &[(&str, &str)] = &[
    ("src/agent/mod.rs", "the pause between two tries of a whole step of the boot"),
    ("src/daemon/control.rs", "nobody tells when a name in the abstract namespace is taken"),
    ("src/daemon/supervisor.rs", "servers that die one after the other are made less often"),
    ("src/block/ublk/control.rs", "the driver tells nobody when it has noticed a death"),
    ("src/block/nbd/control.rs", "the driver tells nobody when it has noticed a death"),
];

/// Most crates that the boot agent is made of, beside itself and those that only help to compile
/// it (procedural macros).
const AGENT_CRATES_MAX: usize = 26;

/// What the build of a crate in C brings along.
const C_CRATES: &[&str] =
    &["cc", "cmake", "bindgen", "pkg-config", "vcpkg", "zstd-sys", "autotools"];

/// A file of the repository.
struct Source {
    /// From the top of the repository, with slashes.
    path: String,
    text: String,
    /// The text without comments and string literals; lines stay where they are.
    code: String,
}

impl Source {
    fn read(top: &Path, path: &Path) -> Source {
        let text = fs::read(path).expect("the file was listed");
        let text = String::from_utf8_lossy(&text).into_owned();
        let path = path.strip_prefix(top).expect("below the top").to_string_lossy().into();
        let code = blank(&text);
        Source { path, text, code }
    }

    /// The code before the test module.
    fn program(&self) -> &str {
        self.code.split("\nmod tests {").next().expect("split gives one at least")
    }

    fn is_program(&self) -> bool {
        let tests = self.path.ends_with("/tests.rs");
        !tests && (self.path.starts_with("src/") || self.path.starts_with("mkinitramfs/"))
    }

    /// The path of the module, for `super`.
    fn module(&self) -> Vec<String> {
        let inner = self.path.trim_start_matches("src/").trim_end_matches(".rs");
        inner.split('/').filter(|part| *part != "mod" && *part != "lib").map(Into::into).collect()
    }
}

/// Collects what is wrong, so that one run shows all of it.
#[derive(Default)]
struct Complaints(String);

impl Complaints {
    fn add(&mut self, path: &str, line: usize, what: impl std::fmt::Display) {
        writeln!(self.0, "{path}:{line}: {what}").expect("a string takes everything");
    }

    fn finish(self) {
        assert!(self.0.is_empty(), "\n{}", self.0);
    }
}

#[test]
fn rooms_use_only_what_is_below_them() {
    let mut complaints = Complaints::default();
    let dependencies = dependencies();
    for source in rust_sources().iter().filter(|source| source.is_program()) {
        let Some(room) = room_of(&source.path) else { continue };
        for (line, path) in paths_used(source) {
            let fits = |allowed: &&str| path == **allowed || path.starts_with(*allowed);
            if !path.is_empty() && !room.uses.iter().any(fits) {
                complaints.add(&source.path, line, format!("must not use crate::{path}"));
            }
            let initiator = INITIATOR_FILES.iter().any(|file| source.path.starts_with(file));
            if initiator && TARGET_ONLY.iter().any(|theirs| path.starts_with(theirs)) {
                let what = format!("the initiator's side must not use crate::{path}");
                complaints.add(&source.path, line, what);
            }
        }
        for (number, line) in source.program().lines().enumerate() {
            for name in &dependencies {
                let used = has_word(line, &format!("{name}::"));
                if used && !room.crates.contains(&name.as_str()) {
                    complaints.add(&source.path, number + 1, format!("must not use {name}"));
                }
            }
            for word in room.never.concat().iter().filter(|word| has_word(line, word)) {
                complaints.add(&source.path, number + 1, format!("must not contain {word}"));
            }
        }
    }
    complaints.finish();
}

#[test]
fn every_program_file_is_in_a_room() {
    let mut complaints = Complaints::default();
    for source in rust_sources().iter().filter(|source| source.is_program()) {
        if source.path != "src/lib.rs" && room_of(&source.path).is_none() {
            complaints.add(&source.path, 1, "belongs to no room of the import table");
        }
    }
    complaints.finish();
}

#[test]
fn protocol_logs_only_for_those_who_debug_it() {
    let mut complaints = Complaints::default();
    for source in rust_sources().iter().filter(|source| source.path.starts_with("src/proto/")) {
        for (number, line) in source.program().lines().enumerate() {
            let loud = ["info!", "warn!", "error!"];
            for word in loud.iter().filter(|word| has_word(line, word)) {
                complaints.add(&source.path, number + 1, format!("{word} belongs to the driver"));
            }
        }
    }
    complaints.finish();
}

#[test]
fn unsafe_code_is_where_it_was_agreed() {
    let mut complaints = Complaints::default();
    for source in rust_sources().iter().filter(|source| source.is_program()) {
        if UNSAFE_FILES.iter().any(|(path, _)| *path == source.path) {
            continue;
        }
        for (number, line) in source.code.lines().enumerate() {
            if has_word(line, "unsafe") || has_word(line, "unsafe_code") {
                complaints.add(&source.path, number + 1, "unsafe code belongs to other files");
            }
        }
    }
    complaints.finish();
}

#[test]
fn files_say_what_they_are() {
    let mut complaints = Complaints::default();
    for source in rust_sources() {
        let header = source.text.lines().take_while(|line| line.starts_with("//!")).count();
        let small = source.text.lines().count() < HEADER_FROM_LINES;
        let needed = if small { 1 } else { 3 };
        let long = LONG_HEADERS.iter().any(|(path, _)| *path == source.path);
        if header < needed {
            complaints.add(&source.path, 1, format!("header of {header} lines, not {needed}"));
        }
        if header > HEADER_LINES_MAX && !long {
            let what = format!("header of {header} lines, more than {HEADER_LINES_MAX}");
            complaints.add(&source.path, 1, what);
        }
    }
    complaints.finish();
}

#[test]
fn lines_files_and_functions_have_an_end() {
    let mut complaints = Complaints::default();
    for source in rust_sources() {
        for (number, line) in source.text.lines().enumerate() {
            let columns = line.chars().count();
            // A row of a table in a test is read better in one piece.
            let row = number > source.program().lines().count() && line.starts_with("        (\"");
            if columns > COLUMNS_MAX && !row {
                complaints.add(&source.path, number + 1, format!("{columns} columns"));
            }
        }
        if !source.is_program() {
            continue;
        }
        let lines = source.program().lines().count();
        let exception = LONG_FILES.iter().find(|(path, ..)| *path == source.path);
        let most = exception.map_or(FILE_LINES_MAX, |(_, most, _)| *most);
        if lines > most {
            complaints.add(&source.path, lines, format!("{lines} lines, more than {most}"));
        }
        for (name, line, length) in functions(source.program()) {
            let known = LONG_FUNCTIONS
                .iter()
                .any(|(path, function, _)| *path == source.path && *function == name);
            if length > FUNCTION_LINES_MAX && !known {
                complaints.add(&source.path, line, format!("fn {name} has {length} lines"));
            }
        }
    }
    complaints.finish();
}

#[test]
fn exceptions_are_about_files_that_exist() {
    let known: Vec<String> = rust_sources().into_iter().map(|source| source.path).collect();
    let named = LONG_FILES.iter().map(|(path, ..)| path);
    let named = named.chain(LONG_FUNCTIONS.iter().map(|(path, ..)| path));
    let named = named.chain(LONG_HEADERS.iter().map(|(path, _)| path));
    let named = named.chain(UNSAFE_FILES.iter().map(|(path, _)| path));
    for path in named.chain(SLEEPS.iter().map(|(path, _)| path)) {
        assert!(known.iter().any(|file| file == path), "{path} is gone: delete its exception");
    }
}

#[test]
fn names_say_something_and_nothing_is_left_over() {
    let mut complaints = Complaints::default();
    // Put together here, so that this file does not complain about itself.
    let markers = ["TO_DO", "FIX_ME", "X_XX", "HA_CK"].map(|marker| marker.replace('_', ""));
    for source in rust_sources() {
        let stem = source.path.rsplit('/').next().unwrap_or_default().trim_end_matches(".rs");
        if source.is_program() && NAMES_NEVER.contains(&stem) {
            complaints.add(&source.path, 1, "a name that says nothing");
        }
        for (number, line) in source.text.lines().enumerate() {
            for marker in markers.iter().filter(|marker| has_word(line, marker)) {
                complaints.add(&source.path, number + 1, format!("{marker} is left over"));
            }
        }
        for (number, line) in source.code.lines().enumerate() {
            for word in ["todo!", "dbg!", "unimplemented!"] {
                if has_word(line, word) {
                    complaints.add(&source.path, number + 1, format!("{word} is left over"));
                }
            }
        }
        let may_sleep = SLEEPS.iter().any(|(path, _)| *path == source.path);
        for (number, line) in source.program().lines().enumerate() {
            let sleeps = ["sleep(", "nanosleep(", "clock_nanosleep("];
            if source.is_program() && !may_sleep && sleeps.iter().any(|w| has_word(line, w)) {
                complaints.add(&source.path, number + 1, "waits for time instead of an event");
            }
        }
    }
    complaints.finish();
}

#[test]
fn nothing_points_at_the_machine_it_was_written_on() {
    let mut complaints = Complaints::default();
    let words = [
        "/wo|rk/",
        "crates|.io",
        "npmjs|.org",
        "py|pi.org",
        "pythonhosted|.org",
        "proxy.golang|.org",
    ]
    .map(|word| word.replace('|', ""));
    for source in sources().iter().filter(|source| !source.path.ends_with("Cargo.lock")) {
        for (number, line) in source.text.lines().enumerate() {
            for word in words.iter().filter(|word| line.contains(word.as_str())) {
                complaints.add(&source.path, number + 1, format!("names {word}"));
            }
        }
    }
    complaints.finish();
}

#[test]
fn papers_are_there() {
    for (name, word) in [
        ("CHANGELOG.md", "## Unreleased"),
        ("LICENSE-MIT", "Permission is hereby granted, free of charge"),
        ("LICENSE-APACHE", "Version 2.0, January 2004"),
    ] {
        let text = fs::read_to_string(top().join(name)).unwrap_or_default();
        assert!(text.contains(word), "{name} is missing or not what it should be");
    }
}

#[test]
fn the_agent_is_made_of_few_crates_and_no_c() {
    let crates = |edges| {
        let mut command = Command::new(env!("CARGO"));
        command.args(["tree", "--locked", "--offline", "--prefix", "none", "--format", "{p}"]);
        command.args(["--edges", edges, "--no-default-features", "--features", "agent"]);
        command.args(["--target", "x86_64-unknown-linux-musl"]).current_dir(top());
        let output = command.output().expect("cargo runs this test");
        let errors = String::from_utf8_lossy(&output.stderr);
        assert!(output.status.success(), "cargo tree: {errors}");
        let list = String::from_utf8_lossy(&output.stdout);
        let mut names: Vec<String> =
            list.lines().filter_map(|line| line.split(' ').next()).map(Into::into).collect();
        names.sort();
        names.dedup();
        names.retain(|name| name != env!("CARGO_PKG_NAME"));
        names
    };
    let normal = crates("normal,no-proc-macro");
    assert!(normal.len() <= AGENT_CRATES_MAX, "{} crates: {normal:?}", normal.len());
    for name in crates("normal,build") {
        assert!(!C_CRATES.contains(&name.as_str()), "{name} brings C into the agent");
    }
}

fn top() -> PathBuf {
    PathBuf::from(env!("CARGO_MANIFEST_DIR"))
}

/// Every text file of the repository.
fn sources() -> Vec<Source> {
    let top = top();
    let mut found = Vec::new();
    let mut folders = vec![top.clone()];
    while let Some(folder) = folders.pop() {
        for entry in fs::read_dir(&folder).expect("a folder of the repository can be read") {
            let path = entry.expect("an entry can be read").path();
            let name = path.file_name().unwrap_or_default().to_string_lossy().into_owned();
            if path.is_symlink() || name == ".git" || name.starts_with("target") && folder == top {
                continue;
            }
            if path.is_dir() {
                folders.push(path);
            } else {
                found.push(Source::read(&top, &path));
            }
        }
    }
    found.sort_by(|a, b| a.path.cmp(&b.path));
    assert!(found.iter().any(|source| source.path == "src/lib.rs"), "the sources are not here");
    found
}

fn rust_sources() -> Vec<Source> {
    sources().into_iter().filter(|source| source.path.ends_with(".rs")).collect()
}

/// The room with the longest prefix that fits.
fn room_of(path: &str) -> Option<&'static Room> {
    let fits = |room: &&Room| {
        let prefixes = room.files.iter().filter(|prefix| path.starts_with(**prefix));
        prefixes.map(|prefix| prefix.len()).max()
    };
    ROOMS.iter().filter(|room| fits(room).is_some()).max_by_key(|room| fits(room))
}

/// The dependencies of the package, as they are written in code.
fn dependencies() -> Vec<String> {
    let manifest = fs::read_to_string(top().join("Cargo.toml")).expect("the manifest is here");
    let (_, section) = manifest.split_once("\n[dependencies]\n").expect("there are dependencies");
    let section = section.split("\n[").next().unwrap_or_default();
    let names = section.lines().filter_map(|line| line.split_once(" = "));
    names.map(|(name, _)| name.replace('-', "_")).collect()
}

/// Whether `word` is in `line` and is not a part of a longer word.
fn has_word(line: &str, word: &str) -> bool {
    let is_part = |c: char| c.is_alphanumeric() || c == '_';
    line.match_indices(word).any(|(at, _)| {
        let before = line[..at].chars().next_back().is_some_and(is_part);
        let after = line[at + word.len()..].chars().next().is_some_and(is_part);
        !(before || after && word.ends_with(is_part))
    })
}

/// The items of this crate that the code of a file names, with their lines.
fn paths_used(source: &Source) -> Vec<(usize, String)> {
    let code = source.program();
    let mut found = Vec::new();
    // The programs are crates of their own: what they name in themselves is in the same room.
    let library = source.path.starts_with("src/") && !source.path.starts_with("src/bin/");
    let starts = if library { ["crate::", "super::"].as_slice() } else { &["lunboot::"] };
    for start in starts {
        for (at, _) in code.match_indices(start) {
            let before = code[..at].chars().next_back();
            if before.is_some_and(|c| c.is_alphanumeric() || c == '_' || c == ':') {
                continue;
            }
            let line = code[..at].matches('\n').count() + 1;
            let mut base = if *start == "super::" { source.module() } else { Vec::new() };
            let mut rest = &code[at..];
            while let Some(after) = rest.strip_prefix("super::") {
                base.pop();
                rest = after;
            }
            let rest = rest.trim_start_matches("crate::").trim_start_matches("lunboot::");
            use_tree(&base, rest, &mut |path| found.push((line, path)));
        }
    }
    found
}

/// Reads one tree of a `use` (or a plain path), gives each path in it, and returns what follows.
fn use_tree<'a>(base: &[String], code: &'a str, found: &mut dyn FnMut(String)) -> &'a str {
    let mut path = base.to_vec();
    let mut rest = code;
    loop {
        let end = rest.find(|c: char| !c.is_alphanumeric() && c != '_').unwrap_or(rest.len());
        let (name, after) = rest.split_at(end);
        if !name.is_empty() && name != "self" {
            path.push(name.into());
        }
        rest = after.strip_prefix("::").unwrap_or(after);
        if !rest.starts_with('{') && (rest.len() == after.len() || name.is_empty()) {
            break;
        }
        if let Some(mut inner) = rest.strip_prefix('{') {
            loop {
                inner = use_tree(&path, inner.trim_start(), found);
                // What is left of an item: `as name`, blanks.
                let next = inner.find([',', '}']).unwrap_or(inner.len());
                let more = inner[next..].starts_with(',');
                inner = inner.get(next + 1..).unwrap_or_default();
                if !more {
                    return inner;
                }
                if let Some(after) = inner.trim_start().strip_prefix('}') {
                    return after;
                }
            }
        }
    }
    found(path.join("::"));
    rest
}

/// Name, first line and length of each function.
fn functions(code: &str) -> Vec<(String, usize, usize)> {
    let mut found = Vec::new();
    for (at, _) in code.match_indices("fn ") {
        let name: String =
            code[at + 3..].chars().take_while(|c| c.is_alphanumeric() || *c == '_').collect();
        let body = code[at..].find(['{', ';']);
        let Some(body) = body.filter(|body| code[at + body..].starts_with('{')) else { continue };
        if name.is_empty() {
            continue;
        }
        let mut depth = 0;
        let end = code[at + body..].find(|c| {
            depth += i32::from(c == '{') - i32::from(c == '}');
            depth == 0
        });
        let length = code[at..at + body + end.unwrap_or(0)].matches('\n').count() + 1;
        found.push((name, code[..at].matches('\n').count() + 1, length));
    }
    found
}

/// Replaces comments, string and character literals by blanks.
fn blank(text: &str) -> String {
    let mut code = String::with_capacity(text.len());
    let mut rest = text;
    while let Some(first) = rest.chars().next() {
        let literal = match first {
            '/' if rest.starts_with("//") => rest.find('\n').unwrap_or(rest.len()),
            '/' if rest.starts_with("/*") => rest.find("*/").map_or(rest.len(), |end| end + 2),
            '"' => string_end(rest),
            'r' | 'b' if !code.ends_with(|c: char| c.is_alphanumeric() || c == '_') => {
                raw_string_end(rest)
            }
            '\'' => character_end(rest),
            _ => 0,
        };
        if literal == 0 {
            code.push(first);
            rest = &rest[first.len_utf8()..];
        } else {
            code.extend(rest[..literal].chars().map(|c| if c == '\n' { '\n' } else { ' ' }));
            rest = &rest[literal..];
        }
    }
    code
}

/// Length of the string literal at the beginning of `text`.
fn string_end(text: &str) -> usize {
    let mut escaped = false;
    let end = text[1..].find(|c| {
        let ends = c == '"' && !escaped;
        escaped = c == '\\' && !escaped;
        ends
    });
    end.map_or(text.len(), |end| end + 2)
}

/// Length of the raw string at the beginning of `text`, or 0.
fn raw_string_end(text: &str) -> usize {
    let prefix = text.len() - text.trim_start_matches(['b', 'r']).len();
    let after = &text[prefix..];
    let hashes = after.len() - after.trim_start_matches('#').len();
    if prefix > 2 || !text[..prefix].contains('r') || !after[hashes..].starts_with('"') {
        return 0;
    }
    let end = format!("\"{}", "#".repeat(hashes));
    let inner = prefix + hashes + 1;
    text[inner..].find(&end).map_or(text.len(), |at| inner + at + end.len())
}

/// Length of the character literal at the beginning of `text`, or 0 for a lifetime.
fn character_end(text: &str) -> usize {
    let mut characters = text.char_indices().skip(1);
    match (characters.next(), characters.next()) {
        (Some((_, '\\')), Some(_)) => text[3..].find('\'').map_or(0, |at| at + 4),
        (Some(_), Some((at, '\''))) => at + 1,
        _ => 0,
    }
}

/// The rules would hold vacuously if what they look with were blind.
mod the_eyes {
    use super::*;

    #[test]
    fn code_is_told_from_comments_and_literals() {
        let text = "a /* b */ \"c\\\"d\" r#\"e\"f\"# 'g' '\\'' &'h i // j\nk";
        let code: String = blank(text).split_whitespace().collect();
        assert_eq!(code, "a&'hik");
        assert_eq!(blank(text).chars().count(), text.chars().count());
    }

    #[test]
    fn every_branch_of_a_use_is_seen() {
        let text = "use crate::{wire::{self, pdu::{Itt, Sn as S}}, net};\nuse super::x::Y;\n\
                    fn f() { super::super::block::g(crate::boot::H) }\n";
        let source = Source { path: "src/a/b/c.rs".into(), text: text.into(), code: text.into() };
        let mut paths: Vec<String> =
            paths_used(&source).into_iter().map(|(_, path)| path).collect();
        paths.sort();
        assert_eq!(
            paths,
            [
                "a::b::x::Y",
                "a::block::g",
                "boot::H",
                "net",
                "wire",
                "wire::pdu::Itt",
                "wire::pdu::Sn"
            ]
        );
    }

    #[test]
    fn functions_are_measured_to_their_closing_brace() {
        let code = "fn a() -> u8;\nfn b() {\n    if c {\n    }\n}\nfn d() {}\n";
        assert_eq!(functions(code), [("b".into(), 2, 4), ("d".into(), 6, 1)]);
    }

    #[test]
    fn words_are_whole_words() {
        assert!(has_word("a unsafe {", "unsafe"));
        assert!(!has_word("a unsafe_code {", "unsafe"));
        assert!(has_word("x = log::debug!(", "log::"));
        assert!(!has_word("x = catalog::y", "log::"));
    }
}
