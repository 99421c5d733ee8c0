//! Floor 2: the network of this machine: links, addresses, routes, sockets.

pub mod link;
pub mod resolver;
pub mod setting;
pub mod tcp;
pub mod udp;
