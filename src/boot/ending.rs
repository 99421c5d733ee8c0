//! How a machine ends, and whether it is about to.

use std::ffi::{CString, OsStr};
use std::fs;
use std::io::Read;
use std::os::unix::ffi::OsStrExt;

use log::warn;
use rustix::system::RebootCommand;

use super::survive::restart_with;

/// How a machine ends.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Ending {
    /// Without power.
    PowerOff,
    /// From the start.
    Restart,
    /// It stands still.
    Halt,
    /// With the kernel that was loaded.
    Kexec,
}

impl Ending {
    /// The word of systemd-shutdown; power off, if it is one that came later.
    pub fn named(word: Option<&OsStr>) -> Ending {
        match word.and_then(OsStr::to_str) {
            Some("reboot") => Ending::Restart,
            Some("halt") => Ending::Halt,
            Some("kexec") => Ending::Kexec,
            _ => Ending::PowerOff,
        }
    }

    /// What process 1 is about to do, if it has begun: when systemd-shutdown has taken its place,
    /// which kills and unmounts, or an exitrd; or when sysvinit is in runlevel 0 or 6.
    pub fn under_way() -> Option<Ending> {
        let (mut name, mut words) = ([0; 16], [0; 64]);
        let name = read_start("/proc/1/comm", &mut name)?;
        Ending::of_process_one(name, || read_start("/proc/1/cmdline", &mut words))
    }

    /// The words are only asked for where they say something, because they are in the memory of a
    /// process, which may wait for the disk.
    fn of_process_one<'a>(name: &[u8], words: impl FnOnce() -> Option<&'a [u8]>) -> Option<Ending> {
        match name {
            b"systemd-shutdow\n" | b"shutdown\n" => {
                let word = words()?.split(|byte| *byte == 0).nth(1);
                Some(Ending::named(word.map(OsStr::from_bytes)))
            }
            b"init\n" => match words()?.get(..8) {
                Some(b"init [0]") => Some(Ending::PowerOff),
                Some(b"init [6]") => Some(Ending::Restart),
                _ => None,
            },
            _ => None,
        }
    }

    /// Ends the machine; what is not written by now is lost.
    pub fn come(self) -> ! {
        let command = match self {
            Ending::PowerOff => RebootCommand::PowerOff,
            Ending::Restart => RebootCommand::Restart,
            Ending::Halt => RebootCommand::Halt,
            Ending::Kexec => RebootCommand::Kexec,
        };
        if self == Ending::Restart {
            // What firmware is told, such as which system to start next.
            let word = fs::read_to_string("/run/systemd/reboot-param").unwrap_or_default();
            if let Some(word) = CString::new(word.trim()).ok().filter(|word| !word.is_empty()) {
                warn!("restarting with {word:?}: {}", restart_with(&word));
            }
        }
        if let Err(error) = rustix::system::reboot(command) {
            warn!("{self:?}: {error}: restarting");
        }
        let _ = rustix::system::reboot(RebootCommand::Restart);
        // The kernel panics when process 1 ends, and then does what panic= says.
        std::process::exit(1)
    }
}

/// The first bytes of a file, without asking for memory.
fn read_start<'a>(path: &str, buffer: &'a mut [u8]) -> Option<&'a [u8]> {
    let count = fs::File::open(path).and_then(|mut file| file.read(buffer)).ok()?;
    buffer.get(..count)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn systemds_words_are_known() {
        let named = |word: &str| Ending::named(Some(OsStr::new(word)));
        let words = ["poweroff", "reboot", "halt", "kexec", "exit"].map(named);
        use Ending::{Halt, Kexec, PowerOff, Restart};
        assert_eq!(words, [PowerOff, Restart, Halt, Kexec, PowerOff]);
        assert_eq!(Ending::named(None), PowerOff);
    }

    #[test]
    fn process_one_shows_what_it_does() {
        let seen = |name: &str, words: &'static str| {
            Ending::of_process_one(name.as_bytes(), || Some(words.as_bytes()))
        };
        let shutdown = "/usr/lib/systemd/systemd-shutdown\0reboot\0--timeout\090000000us\0";
        assert_eq!(seen("systemd-shutdow\n", shutdown), Some(Ending::Restart));
        assert_eq!(seen("shutdown\n", "/shutdown\0kexec\0"), Some(Ending::Kexec));
        assert_eq!(seen("init\n", "init [0]\0\0\0"), Some(Ending::PowerOff));
        assert_eq!(seen("init\n", "init [6]  \0"), Some(Ending::Restart));
        for (name, words) in
            [("init\n", "init [2]\0"), ("systemd\n", "/sbin/init\0"), ("init\n", "")]
        {
            assert_eq!(seen(name, words), None, "{name} {words}");
        }
    }
}
