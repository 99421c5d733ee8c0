//! Network namespaces that a test makes: one for itself, one for the DHCP server at the far end of
//! a virtual cable. Needs root, `unshare`, `ip` and `dnsmasq`; without them a test is skipped with
//! a printed reason, except in CI, where that is a failure.

#![allow(dead_code, missing_docs, unreachable_pub)]

use std::fs;
use std::io::{BufRead, BufReader, Write};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use lunboot::net::link::{Event as LinkEvent, Link, Links};
use rustix::event::{PollFd, PollFlags, Timespec, poll};

const INSIDE: &str = "LUNBOOT_TEST_INSIDE";
pub const ROOT_PATH: &str = "iscsi:192.0.2.1::3260:0:iqn.2004-10.example:root";
pub const PATIENCE: Duration = Duration::from_secs(30);

/// Waits for the event that a link can be used.
pub fn wait_ready(links: &mut Links, index: u32) -> Link {
    if let Some(link) = links.list().unwrap().into_iter().find(|l| l.index == index && l.is_ready())
    {
        return link;
    }
    wait_event(links, |event| match event {
        LinkEvent::Changed(link) if link.index == index && link.is_ready() => Some(link),
        _ => None,
    })
}

pub fn wait_event<T>(links: &mut Links, mut wanted: impl FnMut(LinkEvent) -> Option<T>) -> T {
    let end = Instant::now() + PATIENCE;
    loop {
        while let Some(event) = links.poll_event().unwrap() {
            if let Some(found) = wanted(event) {
                return found;
            }
        }
        let left = end.saturating_duration_since(Instant::now());
        assert!(!left.is_zero(), "no such event in {PATIENCE:?}");
        let fd = links.fd();
        let mut polled = [PollFd::new(&fd, PollFlags::IN)];
        poll(&mut polled, Some(&Timespec::try_from(left).unwrap())).unwrap();
    }
}

/// A virtual cable. The near end has its name, the far end is called `peer`.
pub struct Cable {
    pub link: Link,
}

impl Cable {
    pub fn new(links: &mut Links, name: &str) -> Cable {
        run(&format!("ip link add {name} type veth peer name {name}-peer"));
        let link = wait_event(links, |event| match event {
            LinkEvent::Changed(link) if link.name == name => Some(link),
            _ => None,
        });
        Cable { link }
    }
}

/// A network namespace at the far end of a cable, and the one process in it.
pub struct Namespace(Child);

impl Namespace {
    pub fn start(cable: &Cable, script: &str) -> Namespace {
        let mut child = Command::new("unshare")
            .args(["--net", "sh", "-ec", &format!("echo ready; read go; {script}")])
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .spawn()
            .unwrap();
        let mut line = String::new();
        BufReader::new(child.stdout.as_mut().unwrap()).read_line(&mut line).unwrap();
        assert_eq!(line, "ready\n");
        let (pid, name) = (child.id(), &cable.link.name);
        run(&format!("ip link set {name}-peer netns {pid} name peer"));
        child.stdin.as_mut().unwrap().write_all(b"go\n").unwrap();
        Namespace(child)
    }
}

impl Drop for Namespace {
    fn drop(&mut self) {
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

/// A dnsmasq in a namespace of its own.
pub struct Server {
    namespace: Namespace,
    pub directory: tempfile::TempDir,
}

impl Server {
    /// Runs `setup` in the namespace and then the server on whatever has the address.
    pub fn start(cable: &Cable, setup: &str) -> Server {
        Server::start_with(cable, setup, "")
    }

    /// The same, with more lines of configuration.
    pub fn start_with(cable: &Cable, setup: &str, more: &str) -> Server {
        let directory = tempfile::tempdir().unwrap();
        let path = |name: &str| directory.path().join(name).display().to_string();
        let text = server_configuration(directory.path());
        fs::write(path("dnsmasq.conf"), format!("{text}{more}")).unwrap();
        fs::write(path("hosts"), "").unwrap();
        let configuration = path("dnsmasq.conf");
        let server = format!("exec dnsmasq --keep-in-foreground --conf-file={configuration}");
        let script = format!("{setup}; {server}");
        Server { namespace: Namespace::start(cable, &script), directory }
    }

    /// From now on the client of this MAC has this address and no other.
    pub fn assign(&self, mac: &str, address: &str) {
        let path = |name: &str| self.directory.path().join(name);
        fs::write(path("hosts"), format!("{mac},{address}\n")).unwrap();
        // dnsmasq(8): it reads dhcp-hostsfile again.
        let pid = fs::read_to_string(path("pid")).unwrap();
        run(&format!("kill -HUP {pid}"));
    }

    /// Ends the server; what it has logged.
    pub fn stop(self) -> String {
        drop(self.namespace);
        fs::read_to_string(self.directory.path().join("log")).unwrap()
    }
}

fn server_configuration(directory: &Path) -> String {
    let path = |name: &str| -> PathBuf { directory.join(name) };
    format!(
        "port=0
user=root
no-ping
dhcp-authoritative
log-dhcp
log-facility={}
dhcp-leasefile={}
dhcp-hostsfile={}
pid-file={}
dhcp-range=192.0.2.50,192.0.2.99,255.255.255.0,2m
dhcp-option=option:root-path,{ROOT_PATH}
dhcp-option=203,iqn.2004-10.example:node7
dhcp-option=option:mtu,1400
dhcp-option=option:router,192.0.2.9
dhcp-option=option:dns-server,192.0.2.53
dhcp-option=option:domain-search,example.com,rack.example.com
dhcp-option=option:classless-static-route,198.51.100.0/24,192.0.2.2,0.0.0.0/0,192.0.2.1
",
        path("log").display(),
        path("leases").display(),
        path("hosts").display(),
        path("pid").display(),
    )
}

/// Runs `body` in a network namespace that ends with it.
pub fn in_namespace(test: &str, body: impl FnOnce()) {
    if std::env::var_os(INSIDE).is_some() {
        return body();
    }
    if let Some(reason) = missing() {
        assert!(std::env::var_os("CI").is_none(), "cannot be tested here: {reason}");
        println!("skipped: {test}: {reason}");
        return;
    }
    let status = Command::new("unshare")
        // Whatever a test leaves running ends with it.
        .args(["--net", "--mount", "--pid", "--fork", "--kill-child", "--mount-proc"])
        .arg(std::env::current_exe().unwrap())
        .args(["--exact", test, "--nocapture"])
        .env(INSIDE, "1")
        .status()
        .unwrap();
    assert!(status.success(), "{status}");
}

fn missing() -> Option<String> {
    if !rustix::process::geteuid().is_root() {
        return Some("needs root".into());
    }
    let found = |name: &str| {
        let path = std::env::var_os("PATH").unwrap_or_default();
        std::env::split_paths(&path)
            .chain(["/usr/sbin".into(), "/sbin".into()])
            .any(|directory| directory.join(name).exists())
    };
    for (tool, package) in
        [("unshare", "util-linux"), ("ip", "iproute2"), ("dnsmasq", "dnsmasq-base")]
    {
        if !found(tool) {
            return Some(format!("needs {tool} (package {package})"));
        }
    }
    let cable = "ip link add x type veth peer name y";
    let made = Command::new("unshare").args(["--net", "sh", "-c", cable]).status();
    (!made.is_ok_and(|status| status.success())).then(|| "the kernel makes no veth pair".into())
}

/// Runs a command line; what it has printed.
pub fn run(command: &str) -> String {
    let output = Command::new("sh").args(["-c", command]).output().unwrap();
    assert!(output.status.success(), "{command}: {}", String::from_utf8_lossy(&output.stderr));
    String::from_utf8(output.stdout).unwrap()
}
