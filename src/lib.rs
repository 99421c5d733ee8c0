//! Boots a machine without a disk from an iSCSI LUN, and stays alive as its storage daemon.

pub mod agent;
pub mod block;
pub mod boot;
pub mod daemon;
pub mod net;
pub mod proto;
pub mod store;
pub mod wire;
