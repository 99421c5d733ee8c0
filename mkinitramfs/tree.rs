//! The modules of one kernel as they lie on disk: `lib/modules/VERSION` below a root.
//!
//! What depmod wrote there is read once; files are read, and decompressed, when they are asked for.

use std::fs;
use std::path::{Path, PathBuf};

use lunboot::boot::modules_dep::{Files, Index, Module};

use crate::compress::read_decoded;
use crate::error::Error;

/// One kernel's module directory, and what depmod wrote about it.
pub(crate) struct ModuleTree {
    pub(crate) version: String,
    pub(crate) index: Index,
    directory: PathBuf,
}

impl ModuleTree {
    /// Opens the modules of `version`; without one, of the running kernel if `root` is `/`, else
    /// of the only kernel there.
    pub(crate) fn open(root: &Path, version: Option<&str>) -> Result<ModuleTree, Error> {
        // A root without merged /usr has the first, one without compatibility links the second.
        let parents = [root.join("lib/modules"), root.join("usr/lib/modules")];
        let parent = parents.iter().find(|p| p.is_dir()).ok_or_else(|| Error::Wrong {
            what: format!("{}: no such directory", parents[0].display()),
            advice: "install a kernel package there, or name another tree with --root".into(),
        })?;
        let version = match version {
            Some(version) => version.to_owned(),
            None => default_version(root, parent)?,
        };
        let directory = parent.join(&version);
        if version.contains('/') || !directory.is_dir() {
            return Err(Error::Wrong {
                what: format!("kernel {version}: no modules in {}", parent.display()),
                advice: format!("{}; choose with --kernel VERSION", listed(&versions(parent))),
            });
        }
        let dep = directory.join("modules.dep");
        if !dep.is_file() {
            return Err(Error::Wrong {
                what: format!("{}: no such file", dep.display()),
                advice: format!("run depmod -b {} {version}", root.display()),
            });
        }
        let files = Files {
            dep: read_text(&dep)?,
            alias: read_text(&directory.join("modules.alias"))?,
            softdep: read_text(&directory.join("modules.softdep"))?,
            builtin: read_text(&directory.join("modules.builtin"))?,
        };
        Ok(ModuleTree { version, index: Index::parse(&files), directory })
    }

    /// The module's file, decompressed.
    pub(crate) fn read(&self, module: &Module) -> Result<Vec<u8>, Error> {
        let path = self.directory.join(&module.path);
        read_decoded(&path).map_err(|source| Error::Io {
            doing: format!("reading kernel module {}", path.display()),
            source,
        })
    }
}

fn default_version(root: &Path, parent: &Path) -> Result<String, Error> {
    let found = versions(parent);
    if root == Path::new("/") {
        let running = rustix::system::uname().release().to_string_lossy().into_owned();
        if found.contains(&running) {
            return Ok(running);
        }
        return Err(Error::Wrong {
            what: format!(
                "kernel {running} is running, its modules are not in {}",
                parent.display()
            ),
            advice: format!("{}; choose with --kernel VERSION", listed(&found)),
        });
    }
    match found.as_slice() {
        [only] => Ok(only.clone()),
        _ => Err(Error::Wrong {
            what: format!("{}: which kernel is meant is not clear", parent.display()),
            advice: format!("{}; choose with --kernel VERSION", listed(&found)),
        }),
    }
}

/// Names of the directories there, sorted; none if they cannot be read.
fn versions(parent: &Path) -> Vec<String> {
    let entries = fs::read_dir(parent).into_iter().flatten().flatten();
    let directories = entries.filter(|e| e.path().is_dir());
    let mut names: Vec<String> =
        directories.filter_map(|e| e.file_name().into_string().ok()).collect();
    names.sort();
    names
}

fn listed(versions: &[String]) -> String {
    match versions {
        [] => "there is no kernel at all".into(),
        _ => format!("there is {}", versions.join(", ")),
    }
}

/// The text of a file; empty if it is not there. Only `modules.dep` must be.
fn read_text(path: &Path) -> Result<String, Error> {
    match fs::read(path) {
        Ok(bytes) => Ok(String::from_utf8_lossy(&bytes).into_owned()),
        Err(e) if e.kind() == std::io::ErrorKind::NotFound => Ok(String::new()),
        Err(source) => Err(Error::Io { doing: format!("reading {}", path.display()), source }),
    }
}
