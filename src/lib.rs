//! Boots a machine without a disk from an iSCSI LUN, and stays alive as its storage daemon.
//!
//! # The map
//!
//! ```text
//!  floor 4   bin/                          arguments, exit codes
//!               |
//!  floor 3   agent   daemon   server       the journeys: where rooms meet, where the clock is read
//!               |                          and random bytes are drawn
//!  floor 2   net  block  boot  store        the machine we run on; rooms that know no other
//!            secrets
//!               |
//!  floor 1   proto                         the rules, as state machines without input or output
//!               |
//!  floor 0   wire                          bytes to values and back
//! ```
//!
//! Code uses its own room and the floors below it, never a floor above and never another room of
//! floor 2. `tests/tidy.rs` checks it, together with the few files that may contain `unsafe`.
//!
//! - [`wire`]: PDUs, text segments, CDBs, DHCP, netlink, NBD, root paths. No state, no clock, no
//!   log.
//! - [`proto`]: login, sessions, the target, logical units, DHCP. Time is an argument; the one
//!   driving contract of all machines stands at the head of the room.
//! - [`net`], [`block`], [`boot`]: links and sockets; ublk and NBD; modules, mounts, survival.
//! - [`store`]: what the target keeps its blocks in.
//! - [`secrets`]: files that only their owner may read, and the random source.
//! - `agent`, `daemon`, `server`: the three programs.
//!
//! The image builder, `lunboot-mkinitramfs`, is a program of its own in `mkinitramfs/`; the hooks
//! for distributions' own images are in `initramfs-hooks/`.
//!
//! # Journey 1: from the kernel command line to the new root
//!
//! `agent::init` is process 1 of the initramfs, and reads top to bottom. It mounts `/dev`, `/proc`,
//! `/sys` and `/run`, types the command line ([`boot::cmdline`]), and loads the drivers of the
//! devices that are there ([`boot::modules`]). `agent::network` raises every link at once and runs
//! a DHCP client ([`proto::dhcp`]) on each that has carrier; the first lease that leads to a disk
//! wins. The target comes from the command line or from DHCP option 17 ([`wire::root_path`]).
//!
//! Then it starts itself once more as `@lunboot`, the storage daemon, which gets what it needs over
//! a socket and moves into a mount namespace of its own ([`boot::survive`]). It is two processes: a
//! supervisor, and the server that it forks, which logs in, looks at the logical unit, makes a
//! block device, and reports its path. The agent finds and mounts the root ([`boot::find_root`],
//! [`boot::mount`]), checks the guards and becomes the real init ([`boot::switch_root`]). The
//! daemon lives on until reboot(2); if its server dies, the supervisor forks another, which takes
//! the device over. Beside it lives the keeper (`daemon::keeper`), which renews the lease and puts
//! back whatever is taken away from the link. At the end systemd leaves the root for this program
//! once more ([`boot::exitrd`]), which unmounts it and has the daemon log out.
//!
//! A step that fails is reported in one line and tried again, for ever.
//!
//! # Journey 2: one READ from the block layer to TCP and back
//!
//! `daemon` is one thread around one `poll(2)`. The kernel hands over a request with the buffer of
//! its tag ([`block::BlockDevice::poll_request`]); [`proto::session::Session::submit`] puts it into
//! the task table. When the session is logged in and the command window is open, the request
//! becomes a CDB ([`proto::command`]), gets a task tag, and its 48 bytes are staged
//! ([`wire::frame`]). One `writev` sends everything that was staged in this turn.
//!
//! Bytes that come back go where [`proto::session::Session::recv_space`] says: into a stream buffer
//! while headers are expected, straight into the request's own buffer while its data is. The status
//! ends the task; the completion, with the buffer, goes back to the device, and one
//! `io_uring_enter` hands all completions of the turn to the kernel.
//!
//! If the connection breaks anywhere in between, the session puts what was in flight back in order,
//! logs in anew under the same ISID, makes sure that it is the same disk, writes again what was
//! complete but not flushed, and sends everything again. The block layer sees only latency, also
//! when the target has lost its cache.
//!
//! # Journey 3: one SCSI command at the target
//!
//! `server` gives each connection a [`proto::target::Target`], which answers the login by itself,
//! and each session a thread. A command opens a task in the order of its CmdSN; data of a write
//! lands at its place in the task's buffer, R2Ts ask for what is missing. Only when all of it is
//! there is the command handed out, to be executed by [`proto::logical_unit`] against a
//! [`store::Store`]. The answer leaves as Data-In with the status in its last PDU, or as a SCSI
//! Response; all answers of a turn leave with one system call. A flush, or a write with FUA,
//! reaches `fdatasync` before it is answered.

#[cfg(feature = "agent")]
pub mod agent;
#[cfg(feature = "agent")]
pub mod block;
#[cfg(any(feature = "agent", feature = "builder"))]
pub mod boot;
#[cfg(feature = "agent")]
pub mod daemon;
pub mod net;
pub mod proto;
pub mod secrets;
#[cfg(feature = "target")]
pub mod server;
pub mod store;
pub mod wire;
