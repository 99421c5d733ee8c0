//! `lunboot-mkinitramfs`: builds an initial RAM file system whose `/init` is the boot agent.
//!
//! The journey: find the kernel's modules, choose, read everything into memory, write it
//! compressed beside the destination, rename. The same input gives the same bytes. Nothing of the
//! machine is changed but the file that was asked for.

mod archive;
mod closure;
mod compress;
mod elf;
mod error;
mod firmware;
mod image;
mod output;
mod report;
mod tree;

use std::io::{self, BufWriter, IsTerminal, Write};
use std::path::{Path, PathBuf};
use std::process::ExitCode;

use argh::FromArgs;

use closure::{Choice, Drivers};
use compress::{Compression, Encoder};
use error::Error;
use image::{Image, Recipe};
use output::{Access, Output};
use tree::ModuleTree;

/// Builds an initramfs that boots a machine from an iSCSI LUN.
#[derive(FromArgs)]
struct Options {
    /// the image to write (default: lunboot-initramfs-VERSION.img)
    #[argh(option, short = 'o', arg_name = "image")]
    output: Option<PathBuf>,

    /// kernel version, as in /lib/modules (default: the running one)
    #[argh(option, short = 'k', arg_name = "version")]
    kernel: Option<String>,

    /// tree to take modules and firmware from (default: /)
    #[argh(option, default = "PathBuf::from(\"/\")", arg_name = "directory")]
    root: PathBuf,

    /// the static lunboot to put in (default: the one beside this program, else in PATH)
    #[argh(option, arg_name = "file")]
    agent: Option<PathBuf>,

    /// network drivers: most (every wired one) or names with commas between (default: most)
    #[argh(option, default = "Drivers::Most", from_str_fn(parse_drivers), arg_name = "list")]
    drivers: Drivers,

    /// root file systems, with commas between (default: ext4,xfs,btrfs)
    #[argh(option, arg_name = "list")]
    filesystems: Option<String>,

    /// another kernel module to put in; may be given more than once
    #[argh(option, arg_name = "name")]
    add_module: Vec<String>,

    /// a static shell, such as busybox, for lunboot.shell (default: none)
    #[argh(option, arg_name = "file")]
    shell: Option<PathBuf>,

    /// file with the client's name and secret for CHAP, of mode 0600; the image gets that mode too
    #[argh(option, arg_name = "file")]
    secrets: Option<PathBuf>,

    /// zstd or gzip (default: zstd)
    #[argh(option, default = "Compression::Zstd", arg_name = "format")]
    compress: Compression,

    /// say nothing but errors
    #[argh(switch, short = 'q')]
    quiet: bool,

    /// name every file, with its length in bytes, and all missing firmware
    #[argh(switch, short = 'v')]
    verbose: bool,

    /// print the version and exit
    #[argh(switch)]
    version: bool,
}

fn main() -> ExitCode {
    let options: Options = argh::from_env();
    if options.version {
        println!("lunboot-mkinitramfs {}", env!("CARGO_PKG_VERSION"));
        return ExitCode::SUCCESS;
    }
    match run(options) {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("lunboot-mkinitramfs: {error}");
            ExitCode::FAILURE
        }
    }
}

fn run(options: Options) -> Result<(), Error> {
    let tree = ModuleTree::open(&options.root, options.kernel.as_deref())?;
    for rejected in tree.index.rejected() {
        eprintln!("lunboot-mkinitramfs: left out: {rejected}");
    }
    let path = options
        .output
        .unwrap_or_else(|| PathBuf::from(format!("lunboot-initramfs-{}.img", tree.version)));
    let progress = Progress { silent: options.quiet, terminal: io::stderr().is_terminal() };
    progress.line(&format!("reading modules of kernel {}", tree.version));
    let recipe = Recipe {
        agent: match options.agent {
            Some(agent) => agent,
            None => find_agent()?,
        },
        root: options.root,
        shell: options.shell,
        secrets: options.secrets,
        choice: Choice {
            drivers: options.drivers,
            filesystems: options.filesystems.as_deref().map(names),
            extra: options.add_module,
        },
    };
    let image = image::build(&recipe, &tree)?;
    let access = if recipe.secrets.is_some() { Access::Owner } else { Access::Everybody };
    let output = Output::create(&path, access)?;
    let compressed = write_image(&image, output, &path, options.compress, &progress)?;
    progress.end();
    if !options.quiet {
        let name = options.compress.name();
        let headline = format!("{}: kernel {}, {name}", path.display(), tree.version);
        print!("{}", report::report(&headline, &image, compressed, options.verbose));
    }
    Ok(())
}

/// Returns the size of the image in bytes.
fn write_image(
    image: &Image,
    output: Output,
    path: &Path,
    compression: Compression,
    progress: &Progress,
) -> Result<u64, Error> {
    let failed = |source| Error::Io { doing: format!("writing {}", path.display()), source };
    let output = Counted { inner: output, bytes: 0 };
    let encoder = Encoder::new(compression, output).map_err(failed)?;
    let total = image.archive.content_bytes();
    let mut input = Shown { inner: encoder, bytes: 0, total, percent: 0, progress };
    let mut buffered = BufWriter::with_capacity(1 << 20, &mut input);
    image.archive.emit(&mut buffered).and_then(|()| buffered.flush()).map_err(failed)?;
    drop(buffered);
    let output = input.inner.finish().map_err(failed)?;
    output.inner.commit().map_err(failed)?;
    Ok(output.bytes)
}

/// The agent that belongs to this program: installed or built beside it.
fn find_agent() -> Result<PathBuf, Error> {
    let beside = std::env::current_exe().ok().map(|exe| exe.with_file_name("lunboot"));
    let path = std::env::var_os("PATH").unwrap_or_default();
    let in_path = std::env::split_paths(&path).map(|directory| directory.join("lunboot"));
    beside.into_iter().chain(in_path).find(|agent| agent.is_file()).ok_or_else(|| Error::Wrong {
        what: "no lunboot beside this program or in PATH".into(),
        advice: "build it with make, or name it with --agent".into(),
    })
}

fn parse_drivers(text: &str) -> Result<Drivers, String> {
    Ok(if text == "most" { Drivers::Most } else { Drivers::Named(names(text)) })
}

fn names(text: &str) -> Vec<String> {
    text.split(',').map(str::trim).filter(|name| !name.is_empty()).map(str::to_owned).collect()
}

/// One line on standard error that says how far we are: rewritten on a terminal.
struct Progress {
    silent: bool,
    terminal: bool,
}

impl Progress {
    fn line(&self, text: &str) {
        if self.silent {
            return;
        }
        if self.terminal {
            eprint!("\r\x1b[K{text}");
        } else {
            eprintln!("{text}");
        }
    }

    fn end(&self) {
        if !self.silent && self.terminal {
            eprint!("\r\x1b[K");
        }
    }
}

struct Counted<W> {
    inner: W,
    bytes: u64,
}

impl<W: Write> Write for Counted<W> {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        let written = self.inner.write(bytes)?;
        self.bytes += written as u64;
        Ok(written)
    }

    fn flush(&mut self) -> io::Result<()> {
        self.inner.flush()
    }
}

/// Passes on what is written and shows how much of it has gone.
struct Shown<'a, W> {
    inner: W,
    bytes: u64,
    total: u64,
    percent: u64,
    progress: &'a Progress,
}

impl<W: Write> Write for Shown<'_, W> {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        let written = self.inner.write(bytes)?;
        self.bytes += written as u64;
        let percent = (self.bytes * 100 / self.total.max(1)).min(100);
        // A log wants a line now and then, a terminal every step.
        let step = if self.progress.terminal { 1 } else { 25 };
        if percent >= self.percent + step {
            self.percent = percent / step * step;
            self.progress.line(&format!("compressing: {} %", self.percent));
        }
        Ok(written)
    }

    fn flush(&mut self) -> io::Result<()> {
        self.inner.flush()
    }
}
