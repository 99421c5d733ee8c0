//! Whom sysvinit must not kill when the machine goes down.
//!
//! Debian's /etc/init.d/sendsigs knows no `@` in argv[0]. It stops and kills everybody but those
//! whose numbers are in the files of [`DIRECTORY`] (initscripts, README.Debian). Other inits do not
//! look there.

use std::fmt::Write as _;
use std::fs;
use std::io;
use std::path::{Path, PathBuf};

use rustix::process::Pid;

/// Where sendsigs looks.
const DIRECTORY: &str = "/run/sendsigs.omit.d";

/// The numbers of the processes that serve a device, in a file for sendsigs.
#[derive(Debug)]
pub struct Omission {
    file: PathBuf,
    owner: Pid,
}

impl Omission {
    /// For the processes of `device` (`ublkb0`), in the name of one of them.
    pub fn new(device: &str, owner: Pid) -> Omission {
        Omission::in_directory(Path::new(DIRECTORY), device, owner)
    }

    fn in_directory(directory: &Path, device: &str, owner: Pid) -> Omission {
        Omission { file: directory.join(format!("lunboot-{device}")), owner }
    }

    /// Writes the owner's number and that of `server`, in place of what was there.
    pub fn write(&self, server: Option<Pid>) -> io::Result<()> {
        let mut text = String::new();
        for pid in [Some(self.owner), server].into_iter().flatten() {
            writeln!(text, "{}", pid.as_raw_nonzero()).expect("writing to memory");
        }
        let directory = self.file.parent().expect("it lies in one");
        fs::create_dir_all(directory)?;
        // A reader finds the old numbers or the new ones. It does not look at hidden files.
        let new = directory.join(".lunboot");
        fs::write(&new, text)?;
        fs::rename(new, &self.file)
    }
}

/// The numbers of the dead may become those of others.
impl Drop for Omission {
    fn drop(&mut self) {
        if rustix::process::getpid() != self.owner {
            // A copy in a process that the owner has made.
            return;
        }
        let text = fs::read_to_string(&self.file).unwrap_or_default();
        // If not, a supervisor of another version has written its own.
        if text.lines().next() == Some(&self.owner.as_raw_nonzero().to_string()) {
            let _ = fs::remove_file(&self.file);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn pid(number: i32) -> Pid {
        Pid::from_raw(number).unwrap()
    }

    #[test]
    fn the_numbers_are_there_until_the_owner_ends() {
        let directory = std::env::temp_dir().join(format!("lunboot-omit-{}", std::process::id()));
        let _ = fs::remove_dir_all(&directory);
        let read = || fs::read_to_string(directory.join("lunboot-ublkb0")).ok();
        let us = rustix::process::getpid();
        let first = Omission::in_directory(&directory, "ublkb0", us);
        first.write(Some(pid(101))).unwrap();
        assert_eq!(read(), Some(format!("{us}\n101\n")));
        // Another server.
        first.write(Some(pid(102))).unwrap();
        assert_eq!(read(), Some(format!("{us}\n102\n")));
        // As in that server, which was forked.
        drop(Omission { owner: pid(102), file: first.file.clone() });
        assert_eq!(read(), Some(format!("{us}\n102\n")), "only its owner takes it away");
        // A supervisor that does not know the number of its server.
        let second = Omission::in_directory(&directory, "ublkb0", pid(200));
        second.write(None).unwrap();
        drop(first);
        assert_eq!(read().as_deref(), Some("200\n"), "the first has left what is not its own");
        Omission::in_directory(&directory, "ublkb0", us).write(None).unwrap();
        drop(Omission::in_directory(&directory, "ublkb0", us));
        assert_eq!(read(), None);
        assert_eq!(fs::read_dir(&directory).unwrap().count(), 0, "nothing hidden is left");
        fs::remove_dir_all(&directory).unwrap();
    }
}
