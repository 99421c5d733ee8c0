//! Puts the archive together: the agent, modules, firmware, the skeleton of a file system.
//!
//! Where each file lies in the image is decided here and nowhere else. The agent is `/init`; the
//! same input gives the same archive, so that an image can be built again and compared.

use std::collections::BTreeSet;
use std::fs;
use std::path::{Path, PathBuf};

use lunboot::secrets;

use crate::archive::Archive;
use crate::closure::{self, Choice};
use crate::elf::Elf;
use crate::error::Error;
use crate::firmware::FirmwareTree;
use crate::tree::ModuleTree;

/// What an image is made from.
pub(crate) struct Recipe {
    /// Tree that modules and firmware are taken from.
    pub(crate) root: PathBuf,
    /// The static `lunboot`.
    pub(crate) agent: PathBuf,
    /// A static shell, by preference busybox, for rescue.
    pub(crate) shell: Option<PathBuf>,
    /// The client's name and secret.
    pub(crate) secrets: Option<PathBuf>,
    pub(crate) choice: Choice,
}

/// The archive, and what the report says of it.
pub(crate) struct Image {
    pub(crate) archive: Archive,
    /// Firmware that the drivers name and this machine does not have, with the driver's name.
    pub(crate) missing_firmware: Vec<(String, String)>,
}

/// Directories that the agent mounts onto or writes into.
const DIRECTORIES: [&str; 8] = ["bin", "dev", "etc", "proc", "run", "sys", "sysroot", "tmp"];

/// What one wants to call by name in a rescue shell.
const APPLETS: [&str; 24] = [
    "cat", "cp", "df", "dmesg", "find", "free", "grep", "head", "ip", "kill", "less", "ls",
    "lsmod", "mkdir", "modprobe", "mount", "ping", "ps", "reboot", "rm", "sh", "tail", "umount",
    "vi",
];

/// Builds the archive in memory.
pub(crate) fn build(recipe: &Recipe, tree: &ModuleTree) -> Result<Image, Error> {
    let mut archive = Archive::default();
    for directory in DIRECTORIES {
        archive.directory(directory);
    }
    // The kernel opens /dev/console for PID 1 before anything is mounted.
    archive.character_device("dev/console", 5, 1);
    archive.character_device("dev/null", 1, 3);
    let agent = read_static(&recipe.agent, "agent", "build it with make")?;
    let machine = Elf::parse(&agent).and_then(|elf| elf.machine()).ok();
    archive.file("init", 0o755, agent);
    archive.symlink("bin/lunboot", "../init");
    if let Some(shell) = &recipe.shell {
        add_shell(&mut archive, shell)?;
    }
    if let Some(path) = &recipe.secrets {
        let text = secrets::read_client(path).map_err(|error| Error::Wrong {
            what: format!("secrets: {error}"),
            advice: "see lunboot(8), section Secrets".into(),
        })?;
        let name = secrets::IMAGE_PATH.trim_start_matches('/');
        archive.file(name, 0o600, text.as_bytes().to_vec());
    }
    let missing_firmware = add_modules(&mut archive, recipe, tree, machine)?;
    Ok(Image { archive, missing_firmware })
}

fn add_shell(archive: &mut Archive, path: &Path) -> Result<(), Error> {
    let bytes = read_static(path, "shell", "on Debian, install busybox-static")?;
    let name = path.file_name().and_then(|name| name.to_str()).unwrap_or("sh");
    if !name.starts_with("busybox") {
        archive.file("bin/sh", 0o755, bytes);
        return Ok(());
    }
    archive.file("bin/busybox", 0o755, bytes);
    for applet in APPLETS {
        archive.symlink(&format!("bin/{applet}"), "busybox");
    }
    Ok(())
}

/// Returns the firmware that is missing.
fn add_modules(
    archive: &mut Archive,
    recipe: &Recipe,
    tree: &ModuleTree,
    machine: Option<u64>,
) -> Result<Vec<(String, String)>, Error> {
    let selection = closure::select(tree, &recipe.choice)?;
    let firmware = FirmwareTree::new(&recipe.root, &tree.version);
    let directory = format!("lib/modules/{}", tree.version);
    let mut asked = BTreeSet::new();
    let mut missing = Vec::new();
    for module in selection.values() {
        let bytes = tree.read(module)?;
        let elf = Elf::parse(&bytes).map_err(|wrong| Error::Wrong {
            what: format!("kernel module {}", module.path),
            advice: format!("{wrong}; install the kernel package again"),
        })?;
        if let (Some(agent), Ok(kernel)) = (machine, elf.machine())
            && agent != kernel
        {
            return Err(Error::Wrong {
                what: format!("agent {}: its ELF machine is {agent}", recipe.agent.display()),
                advice: format!("kernel {} needs one for machine {kernel}", tree.version),
            });
        }
        for (_, name) in elf.modinfo().into_iter().flatten().filter(|(key, _)| *key == "firmware") {
            if !asked.insert(name.to_owned()) {
                continue;
            }
            match firmware.read(name)? {
                Some(content) => archive.file(&format!("lib/firmware/{name}"), 0o644, content),
                None => missing.push((module.name.clone(), name.to_owned())),
            }
        }
        let path = format!("{directory}/{}", closure::plain_path(module));
        archive.file(&path, 0o644, bytes);
    }
    let index = &tree.index;
    let texts = [
        ("modules.dep", closure::dep_text(index, &selection)),
        ("modules.alias", closure::alias_text(index, &selection)),
        ("modules.softdep", closure::softdep_text(index, &selection)),
        ("modules.builtin", closure::builtin_text(index)),
    ];
    for (name, text) in texts {
        archive.file(&format!("{directory}/{name}"), 0o644, text.into_bytes());
    }
    Ok(missing)
}

/// Reads a program that must run without any library.
fn read_static(path: &Path, role: &str, advice: &str) -> Result<Vec<u8>, Error> {
    let bytes = fs::read(path).map_err(|source| Error::Io {
        doing: format!("reading {role} {}", path.display()),
        source,
    })?;
    let wrong = |rule: String| Error::Wrong {
        what: format!("{role} {}: {rule}", path.display()),
        advice: format!("a static program is needed; {advice}"),
    };
    let elf = Elf::parse(&bytes).map_err(|e| wrong(e.to_string()))?;
    if elf.has_interpreter().map_err(|e| wrong(e.to_string()))? {
        return Err(wrong("is linked dynamically".into()));
    }
    Ok(bytes)
}
