//! A shell on the console, for those who asked for it with `lunboot.shell`.

use std::fs::OpenOptions;
use std::io;
use std::os::unix::process::CommandExt;
use std::path::Path;
use std::process::Command;

use log::{info, warn};

/// Where an image can have its shell.
const SHELLS: [&str; 2] = ["/bin/sh", "/bin/busybox"];

/// Says in advance whether there will be one.
pub(super) fn announce() {
    match find() {
        Some(shell) => info!("a failed step opens {shell} on the console; `exit` tries again"),
        None => warn!(
            "lunboot.shell: this image has no shell: build it with \
             `lunboot-mkinitramfs --shell /bin/busybox`"
        ),
    }
}

/// Runs the shell until it ends.
pub(super) fn shell() {
    let Some(shell) = find() else { return };
    if let Err(error) = run(shell) {
        warn!("{shell}: {error}");
    }
}

fn find() -> Option<&'static str> {
    SHELLS.into_iter().find(|shell| Path::new(shell).exists())
}

fn run(shell: &str) -> io::Result<()> {
    let console = OpenOptions::new().read(true).write(true).open("/dev/console")?;
    // The first argument is what busybox takes its role from.
    let mut command = Command::new(shell);
    command.arg0("sh").env("PATH", "/bin:/sbin:/usr/bin:/usr/sbin").current_dir("/");
    command.stdin(console.try_clone()?).stdout(console.try_clone()?).stderr(console);
    command.status().map(drop)
}
