//! Loads kernel modules: by name with what they need, and for devices that ask for a driver.
//!
//! `modules_dep` knows who needs whom; here the files are handed to the kernel (finit_module(2)),
//! which unpacks compressed ones itself where it can, and modprobe(8) is asked where it cannot.
//! Only modules that are in the image are ever tried, so a device without a driver here costs one
//! look-up. Devices are found on the buses in /sys once ([`Modules::coldplug`]), and then by the
//! kernel's events ([`Modules::handle`]): a bus appears after its controller, a slow NIC whenever
//! it likes.

use std::collections::{HashMap, HashSet};
use std::ffi::CString;
use std::fmt;
use std::fs::{self, File};
use std::io;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

use log::{debug, warn};
use rustix::io::Errno;

use super::cmdline;
use super::modules_dep::{self, Files, Index};
use super::uevent::{Action, Uevent};

/// The file is compressed and the kernel shall unpack it (module.h, Linux 5.17).
const MODULE_INIT_COMPRESSED_FILE: i32 = 4;

/// Where modules are: one directory for each kernel version.
const MODULES_DIRECTORY: &str = "/lib/modules";

/// The modules of the running kernel.
#[derive(Debug)]
pub struct Modules {
    directory: PathBuf,
    index: Index,
    /// `module.parameter=value` words of the command line, by module.
    parameters: HashMap<String, String>,
    /// Names that need no further attempt: loaded, or failed and reported.
    settled: HashSet<String>,
    /// Device aliases that have been looked up.
    seen_aliases: HashSet<String>,
}

/// A module that could not be loaded.
#[derive(Debug)]
pub enum Error {
    /// The image has no such module, and the kernel has it not built in.
    Unknown(modules_dep::Unknown),
    /// The image has modules, but for another kernel.
    OtherKernel {
        /// Version of the kernel that runs.
        running: String,
        /// Versions that there are modules for.
        present: Vec<String>,
    },
    /// The kernel refused the file, and modprobe did not help.
    Refused {
        /// The file.
        path: PathBuf,
        /// What the kernel said.
        source: io::Error,
    },
    /// A file of depmod could not be read.
    Unreadable {
        /// The file.
        path: PathBuf,
        /// Why.
        source: io::Error,
    },
}

impl Modules {
    /// Reads what there is for the running kernel. `command_line` is the kernel's, for module
    /// parameters. A system without any modules is no error: all may be built in.
    pub fn open(command_line: &str) -> Result<Modules, Error> {
        let release = rustix::system::uname().release().to_string_lossy().into_owned();
        Modules::open_at(Path::new(MODULES_DIRECTORY), &release, command_line)
    }

    fn open_at(root: &Path, release: &str, command_line: &str) -> Result<Modules, Error> {
        let directory = root.join(release);
        if !directory.is_dir() {
            let present: Vec<String> = fs::read_dir(root)
                .map(|entries| {
                    let names = entries.flatten().map(|entry| entry.file_name());
                    names.map(|name| name.to_string_lossy().into_owned()).collect()
                })
                .unwrap_or_default();
            if !present.is_empty() {
                return Err(Error::OtherKernel { running: release.to_owned(), present });
            }
        }
        let read = |name: &str| {
            let path = directory.join(name);
            match fs::read_to_string(&path) {
                Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(String::new()),
                result => result.map_err(|source| Error::Unreadable { path, source }),
            }
        };
        let index = Index::parse(&Files {
            dep: read("modules.dep")?,
            alias: read("modules.alias")?,
            softdep: read("modules.softdep")?,
            builtin: read("modules.builtin")?,
        });
        for rejected in index.rejected() {
            warn!("{}: {rejected}", directory.display());
        }
        Ok(Modules {
            directory,
            index,
            parameters: parameters(command_line),
            settled: HashSet::new(),
            seen_aliases: HashSet::new(),
        })
    }

    /// True if the kernel has the module now, or can get it from this image.
    pub fn has(&self, name: &str) -> bool {
        self.index.module(name).is_some() || self.index.is_builtin(name) || is_loaded(name)
    }

    /// Loads a module and what it needs. It is fine if it is there already or built in.
    pub fn load(&mut self, name: &str) -> Result<(), Error> {
        let plain = modules_dep::normalise(name);
        let order: Vec<(String, String)> = match self.index.load_order(&plain) {
            Ok(modules) => modules.iter().map(|m| (m.name.clone(), m.path.clone())).collect(),
            // Its file is not here, but the system had it before us or has it built in.
            Err(_) if is_loaded(&plain) => return Ok(()),
            Err(unknown) => return Err(Error::Unknown(unknown)),
        };
        for (module, path) in order {
            let loaded = self.load_one(&module, &path);
            match loaded {
                Ok(_) => {}
                // A soft dependency or a sibling of the same alias may fail; the one that was asked
                // for, or a hard dependency of it, shows in its own attempt.
                Err(error) if module != plain => debug!("{error}"),
                Err(error) => return Err(error),
            }
        }
        Ok(())
    }

    /// True if the module is new in the kernel by this call.
    fn load_one(&mut self, name: &str, path: &str) -> Result<bool, Error> {
        if self.settled.contains(name) {
            return Ok(false);
        }
        let path = self.directory.join(path);
        let parameters = self.parameters.get(name).map_or("", String::as_str);
        let result = match insert(&path, parameters) {
            Ok(()) => Ok(true),
            Err(error) if error.raw_os_error() == Some(Errno::EXIST.raw_os_error()) => Ok(false),
            Err(source) => match modprobe(name) {
                Ok(true) => Ok(true),
                _ => Err(Error::Refused { path, source }),
            },
        };
        if result.is_ok() {
            self.settled.insert(name.to_owned());
            debug!("kernel module {name} is loaded");
        }
        result
    }

    /// Loads every module that answers to a device alias; returns how many are new. Failures are
    /// logged: another module may still drive the device.
    pub fn load_for(&mut self, modalias: &str) -> usize {
        let modalias = modalias.trim();
        if modalias.is_empty() || !self.seen_aliases.insert(modalias.to_owned()) {
            return 0;
        }
        let matching = self.index.matching(modalias);
        let names: Vec<String> = matching.iter().map(|module| module.name.clone()).collect();
        let mut new = 0;
        for name in &names {
            let before = self.settled.len();
            if let Err(error) = self.load(name) {
                warn!("{error}");
                // Said once; the same device model may be there many times.
                self.settled.insert(name.clone());
                continue;
            }
            new += self.settled.len() - before;
        }
        new
    }

    /// Looks at every device that has no driver, until that brings nothing new. What appears later
    /// comes as an event. Returns how many modules were loaded.
    pub fn coldplug(&mut self) -> usize {
        let mut loaded = 0;
        loop {
            let aliases = waiting_devices(Path::new("/sys/bus"));
            let new: usize = aliases.iter().map(|alias| self.load_for(alias)).sum();
            loaded += new;
            if new == 0 {
                return loaded;
            }
        }
    }

    /// Serves a device that has appeared; returns how many modules were loaded for it.
    pub fn handle(&mut self, event: &Uevent) -> usize {
        match (event.action, &event.modalias) {
            (Action::Add, Some(modalias)) => self.load_for(modalias),
            (Action::Lost, _) => self.coldplug(),
            _ => 0,
        }
    }
}

/// Hands one file to the kernel.
fn insert(path: &Path, parameters: &str) -> io::Result<()> {
    let compressed = path.extension().is_some_and(|suffix| suffix != "ko");
    let flags = if compressed { MODULE_INIT_COMPRESSED_FILE } else { 0 };
    let parameters = CString::new(parameters).unwrap_or_default();
    Ok(rustix::system::finit_module(File::open(path)?, &parameters, flags)?)
}

/// Asks modprobe, where a distribution's image has it: it can unpack what this kernel cannot.
fn modprobe(name: &str) -> io::Result<bool> {
    let mut command = Command::new("/sbin/modprobe");
    command.args(["-q", "--", name]).stdin(Stdio::null());
    Ok(command.status()?.success())
}

fn is_loaded(name: &str) -> bool {
    Path::new("/sys/module").join(modules_dep::normalise(name)).is_dir()
}

/// The aliases of all devices on any bus that have no driver yet.
///
/// The buses' own lists are a tenth of the tree below /sys/devices, and have every device that can
/// ask for a driver.
fn waiting_devices(buses: &Path) -> Vec<String> {
    let entries = |path: &Path| fs::read_dir(path).into_iter().flatten().flatten();
    let mut aliases = Vec::new();
    for bus in entries(buses) {
        for device in entries(&bus.path().join("devices")) {
            let device = device.path();
            if device.join("driver").exists() {
                continue;
            }
            if let Ok(alias) = fs::read_to_string(device.join("modalias")) {
                aliases.push(alias);
            }
        }
    }
    aliases
}

/// `module.parameter=value` words: the kernel leaves those of loadable modules to the loader.
fn parameters(command_line: &str) -> HashMap<String, String> {
    let mut parameters: HashMap<String, String> = HashMap::new();
    for word in cmdline::split(command_line) {
        if word == "--" {
            break;
        }
        let Some((module, setting)) = word.split_once('.') else { continue };
        let is_name = |c: char| c.is_ascii_alphanumeric() || c == '_' || c == '-';
        if module.is_empty() || module == "lunboot" || !module.chars().all(is_name) {
            continue;
        }
        let list = parameters.entry(modules_dep::normalise(module)).or_default();
        if !list.is_empty() {
            list.push(' ');
        }
        match setting.split_once('=') {
            // The kernel splits the list at blanks again.
            Some((name, value)) if value.contains(' ') => *list += &format!("{name}=\"{value}\""),
            _ => *list += setting,
        }
    }
    parameters
}

impl fmt::Display for Error {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Error::Unknown(unknown) => write!(f, "{unknown}"),
            Error::OtherKernel { running, present } => write!(
                f,
                "kernel modules: the kernel is {running}, the image has modules for {}: build the \
                 image for this kernel",
                present.join(", ")
            ),
            Error::Refused { path, source } => {
                write!(f, "loading kernel module {}: {source}", path.display())
            }
            Error::Unreadable { path, source } => write!(f, "reading {}: {source}", path.display()),
        }
    }
}

impl std::error::Error for Error {
    fn source(&self) -> Option<&(dyn std::error::Error + 'static)> {
        match self {
            Error::Unknown(unknown) => Some(unknown),
            Error::OtherKernel { .. } => None,
            Error::Refused { source, .. } | Error::Unreadable { source, .. } => Some(source),
        }
    }
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::symlink;

    use super::*;

    #[test]
    fn parameters_go_to_their_module() {
        let line = "quiet nbd.max_part=8 snd-hda.x=\"a b\" nbd.nbds_max=2 lunboot.shell \
                    a/b.c=1 usbcore.nousb -- nbd.x=1";
        let parameters = parameters(line);
        assert_eq!(parameters.get("nbd").map(String::as_str), Some("max_part=8 nbds_max=2"));
        assert_eq!(parameters.get("snd_hda").map(String::as_str), Some("x=\"a b\""));
        assert_eq!(parameters.get("usbcore").map(String::as_str), Some("nousb"));
        assert_eq!(parameters.len(), 3);
    }

    #[test]
    fn modules_of_another_kernel_are_named() {
        let root = tempfile::tempdir().unwrap();
        assert!(Modules::open_at(root.path(), "6.1.0-44-amd64", "").is_ok());
        fs::create_dir(root.path().join("6.1.0-43-amd64")).unwrap();
        let error = Modules::open_at(root.path(), "6.1.0-44-amd64", "").unwrap_err().to_string();
        assert!(error.contains("is 6.1.0-44-amd64") && error.contains("for 6.1.0-43-amd64"));
    }

    #[test]
    fn a_module_that_is_not_there_is_an_error_and_a_built_in_one_is_not() {
        let root = tempfile::tempdir().unwrap();
        let directory = root.path().join("1.0");
        fs::create_dir(&directory).unwrap();
        fs::write(directory.join("modules.builtin"), "kernel/fs/ext4/ext4.ko\n").unwrap();
        fs::write(directory.join("modules.dep"), "kernel/broken.ko:\n").unwrap();
        fs::create_dir(directory.join("kernel")).unwrap();
        fs::write(directory.join("kernel/broken.ko"), "not a module").unwrap();
        fs::write(directory.join("modules.alias"), "alias pci:v1* broken\n").unwrap();
        let mut modules = Modules::open_at(root.path(), "1.0", "").unwrap();
        assert!(modules.load("ext4").is_ok() && modules.has("ext4"));
        let missing = modules.load("lunboot-missing").unwrap_err();
        assert!(missing.to_string().contains("lunboot_missing"), "{missing}");
        let refused = modules.load("broken").unwrap_err();
        assert!(refused.to_string().contains("kernel/broken.ko: "), "{refused}");
        assert_eq!(modules.load_for("pci:v1"), 0);
    }

    #[test]
    fn only_devices_without_a_driver_are_looked_at() {
        let buses = tempfile::tempdir().unwrap();
        for (device, has_driver) in [("one", false), ("two", true)] {
            let path = buses.path().join("virtio/devices").join(device);
            fs::create_dir_all(&path).unwrap();
            fs::write(path.join("modalias"), format!("virtio:{device}\n")).unwrap();
            if has_driver {
                symlink("..", path.join("driver")).unwrap();
            }
        }
        assert_eq!(waiting_devices(buses.path()), ["virtio:one\n"]);
        assert!(waiting_devices(Path::new("/nonexistent")).is_empty());
    }
}
