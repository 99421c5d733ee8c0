//! `lunboot-target`: serves files and block devices as iSCSI LUNs.

use std::error::Error;
use std::io::Write;
use std::net::{IpAddr, SocketAddr};
use std::path::PathBuf;
use std::process::ExitCode;
use std::sync::Arc;
use std::time::Duration;

use argh::FromArgs;
use lunboot::proto::logical_unit::{LogicalUnit, Options};
use lunboot::proto::logical_units::LogicalUnits;
use lunboot::proto::params::Offer;
use lunboot::proto::target::TargetConfig;
use lunboot::server::Server;
use lunboot::store::file::FileStore;
use lunboot::wire::root_path::{DEFAULT_PORT, IscsiName};

/// Serves files and block devices over iSCSI, for machines that boot with lunboot.
#[derive(FromArgs)]
struct Arguments {
    /// print the version and exit
    #[argh(switch)]
    version: bool,
    #[argh(subcommand)]
    command: Option<Command>,
}

#[derive(FromArgs)]
#[argh(subcommand)]
enum Command {
    Serve(Serve),
}

/// Serve files or block devices as LUN 0, 1, ... until SIGTERM or Ctrl-C.
#[derive(FromArgs)]
#[argh(subcommand, name = "serve")]
struct Serve {
    /// address and port to listen on, may be given several times (default: [::]:3260, which takes
    /// IPv4 as well); port 0 takes a free one
    #[argh(option, arg_name = "address:port")]
    listen: Vec<String>,
    /// iSCSI name of the target (default: made of host name and first file, always the same)
    #[argh(option, arg_name = "iqn")]
    name: Option<String>,
    /// refuse all writes
    #[argh(switch)]
    read_only: bool,
    /// bytes of a logical block, 512 or 4096 (default: 512)
    #[argh(option, default = "512", arg_name = "bytes")]
    block_size: u32,
    /// what to serve: regular files or block devices
    #[argh(positional, arg_name = "file")]
    files: Vec<PathBuf>,
}

fn main() -> ExitCode {
    let arguments: Arguments = argh::from_env();
    if arguments.version {
        println!("lunboot-target {}", env!("CARGO_PKG_VERSION"));
        return ExitCode::SUCCESS;
    }
    log::set_logger(&Stderr).expect("the only logger is set once");
    log::set_max_level(log::LevelFilter::Info);
    let Some(Command::Serve(serve)) = arguments.command else {
        eprintln!("lunboot-target: nothing to do: try `lunboot-target serve FILE`, or --help");
        return ExitCode::FAILURE;
    };
    match run(&serve) {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprint!("lunboot-target: {error}");
            let mut source = error.source();
            while let Some(error) = source {
                eprint!(": {error}");
                source = error.source();
            }
            eprintln!();
            ExitCode::FAILURE
        }
    }
}

fn run(serve: &Serve) -> Result<(), Box<dyn Error>> {
    if serve.files.is_empty() {
        return Err("no file to serve: name a disk image or a block device".into());
    }
    let name = match &serve.name {
        Some(name) => name.clone(),
        None => lunboot::server::default_name(&serve.files[0]),
    };
    IscsiName::parse(&name)?;
    let mut units = Vec::new();
    for (number, path) in serve.files.iter().enumerate() {
        let store = FileStore::open(path, serve.read_only)?;
        let options = Options {
            logical_block_bytes: serve.block_size,
            read_only: serve.read_only,
            ..Options::default()
        };
        let unit = LogicalUnit::new(Arc::new(store), &name, number as u16, options)
            .map_err(|unfit| format!("serve {}: {unfit}", path.display()))?;
        units.push(unit);
    }
    let addresses = listen_addresses(&serve.listen)?;
    let config = TargetConfig {
        name,
        portal_group: 1,
        offer: Offer::default(),
        ping_interval: Duration::from_secs(30),
        units: LogicalUnits::new(units),
    };
    let mut text = introduction(&config, &serve.files);
    let server = Server::listen(&addresses, config)?;
    for address in server.addresses() {
        text += &format!("listening on {address}\n");
    }
    if let Some(root_path) = server.root_path(0) {
        text += "\nTo boot from LUN 0, one line for dnsmasq or one for the kernel:\n";
        text += &format!("  dhcp-option=17,\"{root_path}\"\n");
        text += &format!("  lunboot={root_path} ip=dhcp root=...\n\n");
    }
    let mut stdout = std::io::stdout();
    stdout.write_all(text.as_bytes())?;
    stdout.flush()?;
    server.run()?;
    Ok(())
}

/// Who it is and what it serves.
fn introduction(config: &TargetConfig, files: &[PathBuf]) -> String {
    let mut text = format!("target {}\n", config.name);
    for (number, (unit, path)) in config.units.iter().zip(files).enumerate() {
        let mode = if unit.is_read_only() { ", read-only" } else { "" };
        let (size_mib, block_bytes) = (unit.size_bytes() >> 20, unit.block_bytes());
        let path = path.display();
        text += &format!("LUN {number}: {path}, {size_mib} MiB, blocks of {block_bytes}{mode}\n");
    }
    text
}

fn listen_addresses(texts: &[String]) -> Result<Vec<SocketAddr>, String> {
    let parse = |text: &String| {
        let address = text.parse::<SocketAddr>().ok();
        let bare = text.strip_prefix('[').and_then(|text| text.strip_suffix(']')).unwrap_or(text);
        let without_port = || Some(SocketAddr::new(bare.parse::<IpAddr>().ok()?, DEFAULT_PORT));
        address.or_else(without_port).ok_or_else(|| {
            format!("--listen {text}: must be an address, or ADDRESS:PORT, or [IPv6]:PORT")
        })
    };
    texts.iter().map(parse).collect()
}

/// One line of standard error for each message.
struct Stderr;

impl log::Log for Stderr {
    fn enabled(&self, metadata: &log::Metadata<'_>) -> bool {
        metadata.level() <= log::Level::Info
    }

    fn log(&self, record: &log::Record<'_>) {
        if self.enabled(record.metadata()) {
            // In one write, so that lines of several threads do not mix. If nobody can read it,
            // serving goes on.
            let level = match record.level() {
                log::Level::Error => "error: ",
                log::Level::Warn => "warning: ",
                _ => "",
            };
            let line = format!("{level}{}\n", record.args());
            let _ = std::io::stderr().write_all(line.as_bytes());
        }
    }

    fn flush(&self) {}
}
