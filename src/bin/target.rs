//! `lunboot-target`: serves files and block devices as iSCSI LUNs.

use std::error::Error;
use std::io::Write;
use std::path::PathBuf;
use std::process::ExitCode;

use argh::FromArgs;
use lunboot::server::{Server, Setup};

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

/// serve files or block devices as LUN 0, 1, ... until SIGTERM or Ctrl-C
#[derive(FromArgs)]
#[argh(subcommand, name = "serve")]
struct Serve {
    /// address and port to listen on; may be given more than once; port 0 takes a free one
    /// (default: [::]:3260, which takes IPv4 as well)
    #[argh(option, arg_name = "address:port")]
    listen: Vec<String>,
    /// iSCSI name of the target (default: made of host name and first file, always the same)
    #[argh(option, arg_name = "iqn")]
    name: Option<String>,
    /// refuse all writes
    #[argh(switch)]
    read_only: bool,
    /// initiators may eject the disks, and load them again
    #[argh(switch)]
    removable: bool,
    /// bytes of a logical block, 512 or 4096 (default: 512)
    #[argh(option, default = "512", arg_name = "bytes")]
    block_size: u32,
    /// bytes of a physical block: a power of two, not less than a logical block (default: the bytes
    /// of a logical block; partitions and file systems are aligned to 4096 all the same)
    #[argh(option, arg_name = "bytes")]
    physical_block_size: Option<u32>,
    /// initiators may have the disks sanitized: all that is on them is destroyed, and nothing but a
    /// stop of the target within ten seconds prevents it
    #[argh(switch)]
    allow_sanitize: bool,
    /// directory where persistent reservations survive a restart, if initiators want that, and
    /// sanitize operations, and where atomic writes have their journal (default: there are none)
    #[argh(option, arg_name = "directory")]
    state: Option<PathBuf>,
    /// file with the names and secrets of those who may log in, of mode 0600 (default: everybody
    /// may)
    #[argh(option, arg_name = "file")]
    secrets: Option<PathBuf>,
    /// with --secrets: tell the target's name and addresses to whoever asks
    #[argh(switch)]
    open_discovery: bool,
    /// send every login to this address, where the target is now; nothing needs to be served then
    #[argh(option, arg_name = "address:port[,tag]")]
    redirect: Option<String>,
    /// with --redirect: the target will not come back
    #[argh(switch)]
    redirect_for_good: bool,
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
    match run(serve) {
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

fn run(serve: Serve) -> Result<(), Box<dyn Error>> {
    let setup = Setup {
        listen: serve.listen,
        name: serve.name,
        read_only: serve.read_only,
        removable: serve.removable,
        block_bytes: serve.block_size,
        physical_block_bytes: serve.physical_block_size,
        allow_sanitize: serve.allow_sanitize,
        state: serve.state,
        secrets: serve.secrets,
        open_discovery: serve.open_discovery,
        redirect: serve.redirect,
        redirect_for_good: serve.redirect_for_good,
        files: serve.files,
    };
    let server = Server::listen(&setup.addresses()?, setup.target()?)?;
    let mut stdout = std::io::stdout();
    stdout.write_all(setup.introduction(&server).as_bytes())?;
    stdout.flush()?;
    server.run()?;
    Ok(())
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
