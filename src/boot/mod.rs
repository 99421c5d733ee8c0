//! Floor 2: what a machine needs before it has a root: arguments, modules, mounts, survival.

pub mod cmdline;
#[cfg(feature = "agent")]
pub mod ending;
#[cfg(feature = "agent")]
pub mod exitrd;
pub mod find_root;
pub mod ip_argument;
pub mod kmsg;
pub mod modules;
pub mod modules_dep;
pub mod mount;
#[cfg(feature = "agent")]
pub mod omit;
pub mod partition_table;
pub mod probe;
#[cfg(feature = "agent")]
pub mod survive;
pub mod switch_root;
pub mod udev_rules;
pub mod uevent;
