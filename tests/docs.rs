//! What README, the pages in `docs/` and the manual pages say is true: options, kernel parameters,
//! root paths, log lines, make targets, links; and dnsmasq takes their configurations and grants
//! with them what lunboot needs.
//!
//! The texts are read as they are; the programs are asked with `--help`. A configuration is tried
//! with the real dnsmasq in a network namespace; without root, `unshare`, `ip` or `dnsmasq` that is
//! skipped with a printed reason, except in CI, where it is a failure.

#![allow(missing_docs)]

use std::collections::{BTreeMap, BTreeSet};
use std::fs;
use std::net::SocketAddrV4;
use std::path::PathBuf;
use std::process::{Child, Command};
use std::time::{Duration, Instant};

use lunboot::boot::cmdline::BootConfig;
use lunboot::net::link::Links;
use lunboot::net::udp::Port;
use lunboot::proto::dhcp::{Config, DhcpClient, Event, Lease, Transmit};
use lunboot::wire::dhcp::{CLIENT_PORT, SERVER_PORT};
use lunboot::wire::root_path::{Dialect, RootPath};
use rustix::event::{PollFd, PollFlags, Timespec, poll};

/// The programs, and the commands that they have.
const PROGRAMS: [(&str, &str, &[&str]); 3] = [
    (
        "lunboot",
        env!("CARGO_BIN_EXE_lunboot"),
        &["attach", "detach", "discover", "exitrd", "replace", "status", "version", "init"],
    ),
    ("lunboot-target", env!("CARGO_BIN_EXE_lunboot-target"), &["serve"]),
    ("lunboot-mkinitramfs", env!("CARGO_BIN_EXE_lunboot-mkinitramfs"), &[]),
];

const INSIDE: &str = "LUNBOOT_TEST_INSIDE";
const PATIENCE: Duration = Duration::from_secs(30);

#[test]
fn each_option_and_command_is_in_the_manual_and_the_other_way_round() {
    for (program, path, commands) in PROGRAMS {
        let help = help(path, &[]);
        let mut options = options_of_help(&help);
        for command in commands {
            options.extend(options_of_help(&self::help(path, &[command])));
        }
        let page = man(&format!("{program}.8"));
        assert_eq!(options_of_manual(&page), options, "options of {program} and of its manual");

        let known: BTreeSet<&str> = section(&help, "Commands:")
            .lines()
            .filter(|line| line.starts_with("  ") && !line.starts_with("   "))
            .filter_map(|line| line.split_whitespace().next())
            .collect();
        assert_eq!(known, commands.iter().copied().collect(), "commands of {program}");
        for command in commands {
            assert!(page.contains(&format!("\n.Cm {command}\n")), "{program} {command}: synopsis");
        }
    }
}

#[test]
fn commands_in_the_pages_are_those_of_the_programs() {
    let mut seen = 0;
    for (page, text) in pages() {
        for line in commands(&text) {
            let mut words = line.split_whitespace();
            let Some(name) = words.next() else { continue };
            let Some((_, path, commands)) = PROGRAMS.iter().find(|(known, ..)| *known == name)
            else {
                continue;
            };
            seen += 1;
            let mut words: Vec<&str> = words.collect();
            let mut of_command = Vec::new();
            if let Some(first) = words.first().copied().filter(|_| !commands.is_empty())
                && !first.starts_with('-')
            {
                assert!(commands.contains(&first), "{page}: no such command: {line}");
                of_command.push(words.remove(0));
            }
            let known = options_of_help(&help(path, &of_command));
            for word in words.iter().filter(|word| word.starts_with('-')) {
                assert!(known.contains(*word), "{page}: no option {word}: {line}");
            }
        }
        // Options that are spoken of without their program.
        let known: BTreeSet<String> = PROGRAMS
            .iter()
            .flat_map(|(_, path, commands)| {
                let of_commands = commands.iter().map(|command| help(path, &[command]));
                of_commands.chain([help(path, &[])]).flat_map(|help| options_of_help(&help))
            })
            .collect();
        for span in spans(&text).filter(|span| span.starts_with("--")) {
            let option = span.split_whitespace().next().unwrap_or_default();
            assert!(known.contains(option), "{page}: no program has {option}");
        }
    }
    assert!(seen > 10, "only {seen} commands were found");
}

#[test]
fn each_kernel_parameter_is_documented_and_understood() {
    let known = parameters_of_the_parser();
    assert!(known.contains("lunboot.initiator") && known.contains("ip"), "{known:?}");

    let readme = page("README.md");
    let table = heading(&readme, "## Kernel parameters");
    let mut documented = BTreeSet::new();
    for row in table.lines().filter(|line| line.starts_with("| `")) {
        let cells: Vec<&str> = row.split(" | ").collect();
        let keys: Vec<&str> = spans(cells[0]).map(|key| key.trim_end_matches('=')).collect();
        documented.extend(keys.iter().map(|key| (*key).to_owned()));
        let examples: Vec<&str> = spans(cells[2]).collect();
        assert!(!examples.is_empty(), "no example: {row}");
        for example in examples {
            let key = example.split('=').next().unwrap_or_default();
            assert!(keys.contains(&key), "{example} is no example of {keys:?}");
            let config = BootConfig::parse(example);
            assert_eq!(config.rejected, [], "{example}");
            assert_ne!(config, BootConfig::default(), "{example} has no effect");
        }
    }
    assert_eq!(documented, known, "README and src/boot/cmdline.rs");

    let manual: BTreeSet<String> = man("lunboot.cmdline.7")
        .lines()
        .filter_map(|line| line.strip_prefix(".It Cm "))
        .map(|words| words.split([' ', '=']).next().unwrap_or_default().to_owned())
        .collect();
    assert_eq!(manual, known, "lunboot.cmdline(7) and src/boot/cmdline.rs");
}

#[test]
fn command_lines_and_root_paths_can_be_read() {
    let mut lines = Vec::new();
    for (page, text) in pages() {
        lines.extend(blocks(&text, "cmdline").map(|block| (page.clone(), block)));
        for block in blocks(&text, "pxelinux") {
            let append = block.lines().find_map(|line| line.trim().strip_prefix("APPEND "));
            lines.push((page.clone(), append.expect("an APPEND line").to_owned()));
        }
        for block in blocks(&text, "ipxe") {
            let kernel = block.lines().find_map(|line| line.strip_prefix("kernel "));
            // iPXE puts the hardware address there.
            let line = kernel.expect("a kernel line").replace("${netX/mac:hexhyp}", MAC);
            lines.push((page.clone(), line));
        }
        let words = spans(&text).filter(|span| {
            let ours = ["lunboot=", "lunboot.", "ip=", "root=", "netroot="];
            let is_template = |word: &str| {
                word.ends_with(['=', '*']) || word.contains('…') || word.ends_with(".img")
            };
            ours.iter().any(|start| span.starts_with(start)) && !is_template(span)
        });
        for word in words {
            assert_eq!(BootConfig::parse(word).rejected, [], "{page}: {word}");
        }
        let iscsi = text.split([' ', '"', '`', '\n']).filter(|word| word.starts_with("iscsi:"));
        for word in iscsi.filter(|word| word.contains("iqn.")) {
            let parsed = RootPath::parse(word, Dialect::Rfc4173);
            assert!(parsed.is_ok(), "{page}: {}", parsed.unwrap_err());
        }
    }
    let examples = man("lunboot.cmdline.7");
    let examples = examples.lines().filter_map(|line| line.strip_prefix(".Dl "));
    lines.extend(examples.map(|line| ("lunboot.cmdline(7)".to_owned(), line.to_owned())));
    assert!(lines.len() >= 6, "{lines:?}");
    for (page, line) in lines {
        let config = BootConfig::parse(&line);
        assert_eq!(config.rejected, [], "{page}: {line}");
        assert!(config.asked, "{page}: does not ask for lunboot: {line}");
    }
}

/// The hardware address of the client in the pages.
const MAC: &str = "52-54-00-12-34-56";

#[test]
fn log_lines_that_are_explained_are_logged() {
    let mut sources = String::new();
    for room in ["src/agent", "src/boot", "src/block", "src/net", "src/proto", "src/daemon"] {
        for entry in fs::read_dir(top().join(room)).expect("a room") {
            let path = entry.expect("an entry").path();
            if path.is_file() {
                sources += &fs::read_to_string(path).expect("a source is text");
            }
        }
    }
    // A string that goes on in the next line is one string.
    let mut pieces = sources.split("\\\n");
    let mut joined = pieces.next().unwrap_or_default().to_owned();
    for piece in pieces {
        joined += piece.trim_start();
    }
    let readme = page("README.md");
    let table = heading(&readme, "## When it does not boot");
    let mut rows = 0;
    for row in table.lines().filter(|line| line.starts_with("| `")) {
        let cell = row.split(" | ").next().unwrap_or_default();
        for span in spans(cell) {
            let words = span.split(|c: char| !c.is_ascii_alphabetic() && c != ' ').map(str::trim);
            let longest = words.max_by_key(|words| words.len()).unwrap_or_default();
            assert!(longest.contains(' '), "{span}: no words that could be looked for");
            assert!(joined.contains(longest), "nothing logs \"{longest}\" ({span})");
            rows += 1;
        }
    }
    assert!(rows > 8, "only {rows} lines were found");
    // The time line: numbers out, placeholders in.
    let line = blocks(&readme, "text").find(|block| block.contains("lunboot: link"));
    let line = line.expect("a time line").replace("lunboot: ", "");
    let words = line.split_whitespace().map(|word| match word.parse::<f32>() {
        Ok(_) => "{}",
        Err(_) => word,
    });
    let format = words.collect::<Vec<_>>().join(" ");
    assert!(joined.contains(&format), "the agent does not write \"{format}\"");
}

#[test]
fn make_has_what_the_pages_name() {
    let makefile = page("Makefile");
    let mut seen = 0;
    for (page, text) in pages() {
        for line in commands(&text).filter(|line| line.starts_with("make ")) {
            for word in line.split_whitespace().skip(1) {
                let found = match word.split_once('=') {
                    Some((variable, _)) => makefile.contains(&format!("$({variable})")),
                    None => makefile.contains(&format!("\n{word}:")),
                };
                assert!(found, "{page}: Makefile has no {word}: {line}");
                seen += 1;
            }
        }
        for variable in spans(&text).filter(|span| span.ends_with('=')) {
            let name = variable.trim_end_matches('=');
            if name.bytes().all(|byte| byte.is_ascii_uppercase()) && name != "BOOTIF" {
                assert!(makefile.contains(&format!("$({name})")), "{page}: {variable}");
            }
        }
    }
    assert!(seen > 4, "only {seen} targets were found");
}

#[test]
fn links_and_paths_lead_somewhere() {
    let mut seen = 0;
    for (page, text) in pages() {
        let folder = top().join(&page).parent().expect("a page is in a folder").to_owned();
        let targets = text.split("](").skip(1).filter_map(|rest| rest.split(')').next());
        for target in targets.filter(|target| !target.contains("://")) {
            let file = target.split('#').next().unwrap_or_default();
            assert!(folder.join(file).exists(), "{page}: {target} leads nowhere");
            seen += 1;
        }
        for span in spans(&text) {
            let ours = ["src/", "tests/", "docs/", "initramfs-hooks/", "mkinitramfs/"];
            if ours.iter().any(|start| span.starts_with(start)) {
                assert!(top().join(span).exists(), "{page}: there is no {span}");
                seen += 1;
            }
        }
    }
    assert!(seen > 5, "only {seen} links and paths were found");
    let manifest = page("Cargo.toml");
    assert!(manifest.contains("license = \"MIT OR Apache-2.0\""));
    let readme = page("README.md");
    assert!(readme.contains("(LICENSE-MIT)") && readme.contains("(LICENSE-APACHE)"));
}

#[test]
fn manual_pages_are_well_formed() {
    if find_program("mandoc").is_none() {
        return skip("manual_pages_are_well_formed", "needs mandoc (package mandoc)");
    }
    for path in manual_files() {
        let arguments = ["-T", "lint", "-W", "warning"];
        let output = Command::new("mandoc").args(arguments).arg(&path).output();
        let output = output.expect("mandoc runs");
        let complaints = String::from_utf8_lossy(&output.stdout);
        assert!(output.status.success() && complaints.is_empty(), "{complaints}");
    }
}

#[test]
fn make_install_brings_the_manual() {
    let directory = tempfile::tempdir().expect("a scratch directory");
    let built = directory.path().join("built/none/release");
    fs::create_dir_all(&built).expect("a folder");
    for (name, path, _) in PROGRAMS {
        fs::copy(path, built.join(name)).expect("a program can be copied");
    }
    let output = Command::new("make")
        .arg("install")
        .arg(format!("CARGO_TARGET_DIR={}", directory.path().join("built").display()))
        .args(["TRIPLE=none", "PREFIX=/usr/local"])
        .arg(format!("DESTDIR={}", directory.path().join("root").display()))
        .current_dir(top())
        // Variables of a make that runs this test would go along.
        .env_remove("MAKEFLAGS")
        .env_remove("MAKEOVERRIDES")
        .output()
        .expect("make runs");
    let errors = String::from_utf8_lossy(&output.stderr);
    assert!(output.status.success(), "{errors}");
    for path in manual_files() {
        let name = path.file_name().expect("a file").to_string_lossy().into_owned();
        let section = name.rsplit('.').next().unwrap_or_default();
        let installed = format!("root/usr/local/share/man/man{section}/{name}");
        let installed = fs::read(directory.path().join(&installed)).expect(&installed);
        assert_eq!(installed, fs::read(path).expect("a page"));
    }
}

#[test]
fn dnsmasq_grants_what_the_pages_promise() {
    const TEST: &str = "dnsmasq_grants_what_the_pages_promise";
    if std::env::var_os(INSIDE).is_none() {
        if let Some(reason) = no_namespace() {
            return skip(TEST, &reason);
        }
        let status = Command::new("unshare")
            .arg("--net")
            .arg(std::env::current_exe().expect("a running program has a path"))
            .args(["--exact", TEST, "--nocapture"])
            .env(INSIDE, "1")
            .status();
        let status = status.expect("unshare runs");
        assert!(status.success(), "{status}");
        return;
    }
    let mac = MAC.replace('-', ":");
    run(&format!(
        "ip link add client address {mac} type veth peer name server &&
         ip addr add 192.0.2.1/24 dev server && ip link set server up && ip link set client up"
    ));
    let names: BTreeSet<String> = pages()
        .values()
        .flat_map(|text| commands(text).collect::<Vec<_>>())
        .filter(|line| line.starts_with("lunboot-target serve"))
        .filter_map(|line| line.split("--name ").nth(1)?.split(' ').next().map(str::to_owned))
        .collect();
    let mut seen = 0;
    for (page, text) in pages() {
        for configuration in blocks(&text, "dnsmasq") {
            let server = DhcpServer::start(&page, &configuration);
            let lease = ask(&mac, b"lunboot");
            let root_path = RootPath::parse_bytes(&lease.options.root_path, Dialect::Rfc4173);
            let root_path = root_path.unwrap_or_else(|error| panic!("{page}: {error}"));
            let target = root_path.target.as_str();
            assert!(names.contains(target), "{page}: no page serves {target}");
            let hours = lease.duration.map(|duration| duration.as_secs() / 3600);
            assert!(hours.is_none_or(|hours| hours > 0), "{page}: {:?}", lease.duration);
            if let Some(fixed) = configuration.split(&format!("dhcp-host={mac},")).nth(1) {
                let address = fixed.lines().next().and_then(|line| line.rsplit(',').next());
                assert_eq!(address, Some(lease.address.to_string().as_str()), "{page}");
            }
            // What comes from the firmware is not told of the disk.
            let lease = ask(&mac, b"PXEClient:Arch:00000:UNDI:002001");
            assert_eq!(lease.options.root_path, b"", "{page}");
            drop(server);
            seen += 1;
        }
    }
    assert!(seen >= 3, "only {seen} configurations were found");
}

/// A dnsmasq with the configuration of a page, in this network namespace.
struct DhcpServer {
    child: Child,
    _directory: tempfile::TempDir,
}

impl DhcpServer {
    fn start(page: &str, configuration: &str) -> DhcpServer {
        let directory = tempfile::tempdir().expect("a scratch directory");
        let (tftp, file) = (directory.path().join("tftp"), directory.path().join("dnsmasq.conf"));
        fs::create_dir(&tftp).expect("a folder");
        // Others than root look into it.
        run(&format!("chmod 755 {} {}", directory.path().display(), tftp.display()));
        let text = configuration.replace("/srv/tftp", &tftp.display().to_string());
        fs::write(&file, text).expect("a file");
        let argument = format!("--conf-file={}", file.display());
        let tested = Command::new("dnsmasq").args(["--test", &argument]).output();
        let tested = tested.expect("dnsmasq runs");
        let said = String::from_utf8_lossy(&tested.stderr);
        assert!(tested.status.success(), "{page}: {said}{configuration}");
        let path = |name: &str| directory.path().join(name).display().to_string();
        let child = Command::new("dnsmasq")
            .args(["--keep-in-foreground", "--user=root", &argument])
            .arg(format!("--dhcp-leasefile={}", path("leases")))
            .arg(format!("--pid-file={}", path("pid")))
            .arg(format!("--log-facility={}", path("log")))
            .spawn();
        DhcpServer { child: child.expect("dnsmasq runs"), _directory: directory }
    }
}

impl Drop for DhcpServer {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

/// Asks as the agent does, as often as it takes.
fn ask(mac: &str, vendor_class: &[u8]) -> Lease {
    let mut links = Links::open().expect("rtnetlink");
    let listed = links.list().expect("a list of links");
    let link = listed.into_iter().find(|link| link.name == "client").expect("our link");
    let mut port = Port::open(link.index, CLIENT_PORT).expect("a port");
    let address = link.mac.expect("an address");
    assert_eq!(address.map(|byte| format!("{byte:02x}")).join(":"), mac);
    let config = Config {
        mac: address,
        host_name: Vec::new(),
        vendor_class: vendor_class.to_vec(),
        root_path_wanted: false,
    };
    let mut client = DhcpClient::new(config, 1);
    client.handle_connected(Instant::now());
    let end = Instant::now() + PATIENCE;
    loop {
        while let Some(message) = port.recv().expect("a datagram") {
            client.handle_message(&message, Instant::now()).expect("a sound message");
        }
        client.handle_timeout(Instant::now());
        while let Some(Transmit { source, destination, payload }) = client.poll_transmit() {
            let destination = SocketAddrV4::new(destination, SERVER_PORT);
            port.send(source, destination, &payload).expect("the link is up");
        }
        while let Some(event) = client.poll_event() {
            if let Event::Bound(lease) = event {
                return *lease;
            }
        }
        let left = end.saturating_duration_since(Instant::now());
        assert!(!left.is_zero(), "no lease in {PATIENCE:?}");
        let deadline = client.next_deadline().unwrap_or(end).min(end);
        let timeout = Timespec::try_from(deadline.saturating_duration_since(Instant::now()));
        let fd = port.fd();
        let mut polled = [PollFd::new(&fd, PollFlags::IN)];
        poll(&mut polled, Some(&timeout.expect("a short time"))).expect("poll");
    }
}

fn top() -> PathBuf {
    PathBuf::from(env!("CARGO_MANIFEST_DIR"))
}

fn page(name: &str) -> String {
    fs::read_to_string(top().join(name)).unwrap_or_else(|error| panic!("{name}: {error}"))
}

/// README and what is in `docs/`, by path.
fn pages() -> BTreeMap<String, String> {
    let docs = fs::read_dir(top().join("docs")).expect("docs is there");
    let names = docs.map(|entry| entry.expect("an entry").file_name());
    let names = names.map(|name| format!("docs/{}", name.to_string_lossy()));
    let names = names.filter(|name| name.ends_with(".md")).chain(["README.md".to_owned()]);
    names.map(|name| (name.clone(), page(&name))).collect()
}

fn manual_files() -> Vec<PathBuf> {
    let folder = fs::read_dir(top().join("docs/man")).expect("docs/man is there");
    let paths: Vec<PathBuf> = folder.map(|entry| entry.expect("an entry").path()).collect();
    assert!(paths.len() >= 4);
    paths
}

/// A manual page, with the parts of words in one piece: `Fl Fl name` becomes `--name`.
fn man(name: &str) -> String {
    let text = page(&format!("docs/man/{name}"));
    text.replace("Fl Fl ", "--").replace("Fl ", "-").replace("\\-", "-")
}

fn options_of_manual(page: &str) -> BTreeSet<String> {
    let items = page.lines().filter_map(|line| line.strip_prefix(".It "));
    let words = items.flat_map(str::split_whitespace).filter(|word| word.starts_with('-'));
    words.map(str::to_owned).collect()
}

fn help(program: &str, commands: &[&str]) -> String {
    let output = Command::new(program).args(commands).arg("--help").output();
    let output = output.expect("the program runs");
    assert!(output.status.success(), "{program} {commands:?} --help: {}", output.status);
    String::from_utf8(output.stdout).expect("help is text")
}

fn options_of_help(help: &str) -> BTreeSet<String> {
    let lines = section(help, "Options:").lines().filter(|line| line.starts_with("  -"));
    let words = lines.flat_map(|line| line.split_whitespace().take(2));
    let words = words.map(|word| word.trim_end_matches(','));
    words.filter(|word| word.starts_with('-')).map(str::to_owned).collect()
}

/// From the line that is `title` to the next empty one.
fn section<'a>(text: &'a str, title: &str) -> &'a str {
    let after = text.split_once(&format!("\n{title}\n")).map_or("", |(_, after)| after);
    after.split("\n\n").next().unwrap_or_default()
}

/// What is between a heading and the next.
fn heading<'a>(text: &'a str, title: &str) -> &'a str {
    let after = text.split_once(&format!("\n{title}\n")).expect(title).1;
    after.split("\n## ").next().unwrap_or_default()
}

/// Blocks of code in a language.
fn blocks<'a>(text: &'a str, language: &'a str) -> impl Iterator<Item = String> + 'a {
    let opening = format!("```{language}\n");
    let parts: Vec<&str> = text.split(opening.as_str()).skip(1).collect();
    parts.into_iter().filter_map(|part| part.split("```").next().map(str::to_owned))
}

/// Code within lines of prose.
fn spans(text: &str) -> impl Iterator<Item = &str> {
    let prose = text.split("```").step_by(2);
    prose.flat_map(|prose| prose.split('`').skip(1).step_by(2))
}

/// Every command line of a page: shell blocks, with their continued lines joined, and prose.
fn commands(text: &str) -> impl Iterator<Item = String> + '_ {
    let shell = blocks(text, "sh").map(|block| block.replace("\\\n", " "));
    let lines = shell.flat_map(|block| block.lines().map(str::to_owned).collect::<Vec<_>>());
    let spans = spans(text).map(|span| span.replace('\n', " "));
    lines.chain(spans)
}

/// The words that the parser of the command line compares with: the first strings of the arms of
/// its one `match`.
fn parameters_of_the_parser() -> BTreeSet<String> {
    let source = page("src/boot/cmdline.rs");
    let arms = source.split_once("match (key, value) {").expect("the match is there").1;
    let arms = arms.split_once("_ => {}").expect("the match has an end").0;
    let mut found = BTreeSet::new();
    for line in arms.lines().map(str::trim).filter(|line| line.starts_with("(\"")) {
        let keys = line.split_once("\", ").expect("a key and a value").0;
        found.extend(keys.split('"').skip(1).step_by(2).map(str::to_owned));
    }
    found
}

fn skip(test: &str, reason: &str) {
    assert!(std::env::var_os("CI").is_none(), "cannot be tested here: {reason}");
    println!("skipped: {test}: {reason}");
}

fn find_program(name: &str) -> Option<PathBuf> {
    let path = std::env::var_os("PATH").unwrap_or_default();
    let folders = std::env::split_paths(&path).chain(["/usr/sbin".into(), "/sbin".into()]);
    folders.map(|folder| folder.join(name)).find(|path| path.exists())
}

fn no_namespace() -> Option<String> {
    if !rustix::process::geteuid().is_root() {
        return Some("needs root".into());
    }
    let tools = [("unshare", "util-linux"), ("ip", "iproute2"), ("dnsmasq", "dnsmasq-base")];
    for (tool, package) in tools {
        if find_program(tool).is_none() {
            return Some(format!("needs {tool} (package {package})"));
        }
    }
    let cable = "ip link add x type veth peer name y";
    let made = Command::new("unshare").args(["--net", "sh", "-c", cable]).status();
    (!made.is_ok_and(|status| status.success())).then(|| "the kernel makes no veth pair".into())
}

fn run(command: &str) {
    let output = Command::new("sh").args(["-c", command]).output().expect("sh runs");
    assert!(output.status.success(), "{command}: {}", String::from_utf8_lossy(&output.stderr));
}

/// The checks would hold vacuously if what they look with were blind.
mod the_eyes {
    use super::*;

    const PAGE: &str =
        "Say `lunboot status` or\n\n```sh\nmake demo \\\n    DEMO=check\n```\nthen `x`\n";

    #[test]
    fn commands_are_found_in_blocks_and_prose() {
        let found: Vec<String> = commands(PAGE).collect();
        assert_eq!(found[0].split_whitespace().collect::<Vec<_>>(), ["make", "demo", "DEMO=check"]);
        assert_eq!(found[1..], ["lunboot status", "x"]);
    }

    #[test]
    fn options_are_found_in_help_and_manual() {
        let help =
            "Usage: x\n\nOptions:\n  -o, --output      the --image\n  --root  tree\n\nMore\n";
        let page = ".It -o , --output Ar image\n.It --root Ar directory\ntext --other\n";
        let expected = ["--output", "--root", "-o"].map(str::to_owned).into();
        assert_eq!(options_of_help(help), expected);
        assert_eq!(options_of_manual(page), expected);
    }
}
