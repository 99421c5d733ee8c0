//! Which kernel modules go into the image, and the pruned texts of depmod that describe them.
//!
//! By default: every wired network driver, because an image that must boot unknown machines is
//! the usual one; what carries the root (ublk, nbd), the file systems, the buses between them, and
//! a keyboard for the rescue shell. All with dependencies, the soft ones too: there is no modprobe
//! in the image that the kernel could call when it misses one.

use std::collections::BTreeMap;
use std::fmt::Write;

use lunboot::boot::modules_dep::{Index, Module};

use crate::error::Error;
use crate::tree::ModuleTree;

/// What the caller asked for.
#[derive(Debug)]
pub(crate) struct Choice {
    pub(crate) drivers: Drivers,
    /// Modules of root file systems; `None` is the default set, as far as the kernel has it.
    pub(crate) filesystems: Option<Vec<String>>,
    /// Anything else.
    pub(crate) extra: Vec<String>,
}

/// Network drivers.
#[derive(Debug, PartialEq, Eq)]
pub(crate) enum Drivers {
    /// Every wired one.
    Most,
    /// These and no others.
    Named(Vec<String>),
}

/// Directories below `drivers/net` whose modules are wired network drivers.
const WIRED: [&str; 4] = ["ethernet/", "usb/", "hyperv/", "vmxnet3/"];
/// Wired drivers that lie in `drivers/net` itself.
const WIRED_MODULES: [&str; 2] = ["virtio_net", "xen_netfront"];
/// Ports of switches, not of machines that boot over them; they are large.
const SWITCHES: [&str; 4] = ["mellanox/mlxsw/", "marvell/prestera/", "mscc/", "microchip/sparx5/"];
/// Modems and cables between two machines; they bring half of the WWAN subsystem along.
const MODEMS: [&str; 12] = [
    "cdc_mbim",
    "cdc_phonet",
    "cdc_subset",
    "cx82310_eth",
    "gl620a",
    "hso",
    "huawei_cdc_ncm",
    "ipheth",
    "kalmia",
    "lg_vl600",
    "qmi_wwan",
    "sierra_net",
];

/// What a LUN is shown through; one of them must exist.
const BLOCK: [&str; 2] = ["ublk_drv", "nbd"];
const FILE_SYSTEMS: [&str; 3] = ["ext4", "xfs", "btrfs"];
/// Taken if the kernel has them as modules: buses on which network cards sit, the packet socket
/// that DHCP needs, keyboards for the rescue shell.
const SUPPORT: [&str; 14] = [
    "af_packet",
    "atkbd",
    "ehci_pci",
    "hid_generic",
    "hv_vmbus",
    "hyperv_keyboard",
    "i8042",
    "ohci_pci",
    "pci_hyperv",
    "uhci_hcd",
    "usbhid",
    "virtio_mmio",
    "virtio_pci",
    "xhci_pci",
];

/// The modules of the image, by the path of their file in the kernel's tree.
pub(crate) type Selection<'a> = BTreeMap<&'a str, &'a Module>;

/// Chooses, with dependencies.
pub(crate) fn select<'a>(tree: &'a ModuleTree, choice: &Choice) -> Result<Selection<'a>, Error> {
    let index = &tree.index;
    let known = |name: &str| index.module(name).is_some() || index.is_builtin(name);
    let mut roots: Vec<&str> = Vec::new();
    if !BLOCK.iter().any(|name| known(name)) {
        return Err(Error::Wrong {
            what: format!("kernel {}: has neither ublk_drv nor nbd", tree.version),
            advice: "choose a kernel with CONFIG_BLK_DEV_UBLK or CONFIG_BLK_DEV_NBD".into(),
        });
    }
    roots.extend(BLOCK.iter().chain(&SUPPORT).filter(|name| known(name)));
    match &choice.drivers {
        Drivers::Most => {
            roots.extend(index.modules().iter().filter(|m| is_wired(m)).map(|m| m.name.as_str()));
        }
        Drivers::Named(names) => roots.extend(names.iter().map(String::as_str)),
    }
    match &choice.filesystems {
        None => roots.extend(FILE_SYSTEMS.iter().filter(|name| known(name))),
        Some(names) => roots.extend(names.iter().map(String::as_str)),
    }
    roots.extend(choice.extra.iter().map(String::as_str));
    let mut selection = Selection::new();
    for name in roots {
        let order = index.load_order(name).map_err(|unknown| Error::Wrong {
            what: unknown.to_string(),
            advice: format!("kernel {} has no module of that name", tree.version),
        })?;
        selection.extend(order.into_iter().map(|module| (module.path.as_str(), module)));
    }
    Ok(selection)
}

fn is_wired(module: &Module) -> bool {
    if WIRED_MODULES.contains(&module.name.as_str()) {
        return true;
    }
    let Some((_, below)) = module.path.split_once("drivers/net/") else { return false };
    WIRED.iter().any(|directory| below.starts_with(directory))
        && !SWITCHES.iter().any(|directory| below.contains(directory))
        && !MODEMS.contains(&module.name.as_str())
}

/// Path of the module's file in the image, relative to its directory there: stored plain, because
/// the archive around it is compressed as a whole.
pub(crate) fn plain_path(module: &Module) -> &str {
    let compressed = [".xz", ".zst", ".gz"];
    compressed.iter().find_map(|s| module.path.strip_suffix(s)).unwrap_or(&module.path)
}

/// `modules.dep` of the image.
pub(crate) fn dep_text(index: &Index, selection: &Selection<'_>) -> String {
    let mut text = String::new();
    for module in selection.values() {
        let _ = write!(text, "{}:", plain_path(module));
        for need in index.needs(module) {
            let _ = write!(text, " {}", plain_path(need));
        }
        text.push('\n');
    }
    text
}

/// `modules.alias` of the image, in the order in which a lookup wants it sorted.
pub(crate) fn alias_text(index: &Index, selection: &Selection<'_>) -> String {
    let mut text = String::new();
    for (pattern, module) in index.aliases() {
        if selection.contains_key(module.path.as_str()) {
            let _ = writeln!(text, "alias {pattern} {}", module.name);
        }
    }
    text
}

/// `modules.softdep` of the image.
pub(crate) fn softdep_text(index: &Index, selection: &Selection<'_>) -> String {
    let mut text = String::new();
    for module in selection.values() {
        let softdeps = index.softdeps(module);
        for (list, names) in [("pre:", &softdeps.pre), ("post:", &softdeps.post)] {
            if !names.is_empty() {
                let _ = writeln!(text, "softdep {} {list} {}", module.name, names.join(" "));
            }
        }
    }
    text
}

/// `modules.builtin` of the image: names only, since only names are asked for.
pub(crate) fn builtin_text(index: &Index) -> String {
    index.builtins().into_iter().map(|name| format!("{name}.ko\n")).collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use lunboot::boot::modules_dep::Files;

    fn index() -> Index {
        Index::parse(&Files {
            dep: "kernel/drivers/net/ethernet/intel/e1000.ko.xz:\n\
                  kernel/drivers/net/ethernet/mellanox/mlxsw/mlxsw_core.ko.xz:\n\
                  kernel/drivers/net/usb/qmi_wwan.ko:\n\
                  kernel/drivers/net/usb/r8152.ko: kernel/drivers/net/mii.ko.zst\n\
                  kernel/drivers/net/mii.ko.zst:\n\
                  kernel/drivers/net/wireless/ath9k.ko:\n\
                  kernel/drivers/net/virtio_net.ko:\n\
                  kernel/fs/ext4/ext4.ko:\n"
                .into(),
            alias: "alias usb:v0BDAp8152* r8152\nalias pci:v8086* e1000\n".into(),
            softdep: "softdep ext4 pre: crc32c post: mii\n".into(),
            builtin: "kernel/drivers/block/nbd.ko\nkernel/a/b-c.ko\n".into(),
        })
    }

    #[test]
    fn wired_drivers_are_told_from_others() {
        let index = index();
        let wired: Vec<_> =
            index.modules().iter().filter(|m| is_wired(m)).map(|m| m.name.as_str()).collect();
        assert_eq!(wired, ["e1000", "r8152", "virtio_net"]);
    }

    /// What is written for the image says of its modules what the whole said.
    #[test]
    fn pruned_texts_are_read_back_equal() {
        let whole = index();
        let wanted = ["r8152", "ext4"];
        let mut selection = Selection::new();
        for name in wanted {
            let order = whole.load_order(name).unwrap();
            selection.extend(order.into_iter().map(|m| (m.path.as_str(), m)));
        }
        let pruned = Index::parse(&Files {
            dep: dep_text(&whole, &selection),
            alias: alias_text(&whole, &selection),
            softdep: softdep_text(&whole, &selection),
            builtin: builtin_text(&whole),
        });
        assert_eq!(pruned.rejected(), []);
        let names = |index: &Index, name: &str| -> Vec<String> {
            index.load_order(name).unwrap().iter().map(|m| m.name.clone()).collect()
        };
        for name in wanted {
            assert_eq!(names(&pruned, name), names(&whole, name));
        }
        assert_eq!(pruned.modules().len(), 3);
        assert_eq!(pruned.module("mii").unwrap().path, "kernel/drivers/net/mii.ko");
        assert_eq!(pruned.matching("usb:v0BDAp8152d0")[0].name, "r8152");
        assert!(pruned.matching("pci:v8086").is_empty());
        assert!(pruned.is_builtin("nbd") && pruned.is_builtin("b-c"));
    }
}
