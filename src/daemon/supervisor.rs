//! The supervisor: starts the server, and another one when it dies. It holds the configuration, and
//! what the next server must know to take over the block device, in locked memory; it touches
//! nothing else, so that it can be relied on when everything else stands still.
//!
//! ```text
//!  agent --config--> supervisor --config--> server          the agent is told until the disk is
//!        <--reports--           <--reports--                there, and then goes away
//! ```
//!
//! Each of the two notices the death of the other by the end of their socket. A server whose
//! supervisor has died starts another, which finds the server there and only watches it. A running
//! daemon is replaced by a newer version in the same way: the server starts a supervisor of that
//! version, and when this one is there it ends, as if it had died.

use std::io::{BufReader, Write};
use std::os::fd::{AsFd, AsRawFd};
use std::os::unix::net::UnixStream;
use std::path::Path;
use std::process::Child;
use std::time::Duration;

use log::{debug, error, info, warn};
use rustix::event::{PollFd, PollFlags, poll};
use rustix::io::Errno;
use rustix::net::sockopt::socket_peercred;
use rustix::process::{Pid, WaitOptions, getpid, waitpid};

use super::Role;
use super::config::Config;
use super::report::Report;
use crate::boot::omit::Omission;
use crate::boot::survive::{self, Forked};

/// What a supervisor says to a server that was there before it.
pub(super) const GREETING: &[u8] = b"here\n";

/// Pause before the next server when one has died before its device was live; doubles each time.
const PAUSE_FIRST: Duration = Duration::from_millis(100);
const PAUSE_MAX: Duration = Duration::from_secs(10);

/// Starts a program in a role, and hands it the configuration.
pub fn start(program: &Path, role: Role, config: &Config) -> Result<(UnixStream, Child), String> {
    let (mut ours, child) = spawn(program, role)?;
    ours.write_all(config.emit().as_bytes())
        .map_err(|error| format!("handing the configuration over: {error}"))?;
    Ok((ours, child))
}

/// Starts a program in a role; it waits to be told what to do.
pub(super) fn spawn(program: &Path, role: Role) -> Result<(UnixStream, Child), String> {
    let (ours, theirs) = UnixStream::pair().map_err(|error| format!("socket pair: {error}"))?;
    let number = theirs.as_raw_fd().to_string();
    let child = survive::spawn_daemon(program, &[role.word(), &number], &[theirs.as_fd()])
        .map_err(|error| error.to_string())?;
    Ok((ours, child))
}

/// Watches over the server of one disk until it ends as it should.
pub(super) struct Supervisor {
    config: Config,
    /// Who waits for the disk.
    agent: Option<UnixStream>,
    /// What the server says, if there is one.
    lines: Option<BufReader<UnixStream>>,
    /// The server, unless it was there before us.
    child: Option<Pid>,
    /// Who is not to be killed at the end; known from when there is a device.
    omission: Option<Omission>,
    /// The server has said that this is the end.
    done: bool,
    /// The server has said that it makes room for the next.
    makes_room: bool,
    /// Servers that have died since the device was last live.
    deaths: u32,
}

/// What has happened.
enum News {
    Told(Report),
    /// The server is gone.
    End,
    /// Whoever waited for the disk is gone.
    AgentGone,
}

impl Supervisor {
    /// For an agent that waits on `agent`; there is no server yet.
    pub(super) fn new(config: Config, agent: UnixStream) -> Supervisor {
        let agent = Some(agent);
        Supervisor {
            config,
            agent,
            lines: None,
            child: None,
            omission: None,
            done: false,
            makes_room: false,
            deaths: 0,
        }
    }

    /// For a server that has lost its supervisor, and tells on `lines`.
    pub(super) fn adopt(config: Config, lines: BufReader<UnixStream>) -> Supervisor {
        // It has to know that we are there and well.
        let _ = (&mut lines.get_ref()).write_all(GREETING);
        // The server has made both ends of the socket.
        let server = socket_peercred(lines.get_ref()).ok().map(|peer| peer.pid);
        let mut supervisor = Supervisor {
            config,
            agent: None,
            lines: Some(lines),
            child: None,
            omission: None,
            done: false,
            makes_room: false,
            deaths: 0,
        };
        supervisor.omit(server);
        supervisor
    }

    /// Returns when there is nothing to watch over any more; and in each server that it makes, with
    /// what that one needs.
    pub(super) fn run(mut self) -> Result<Option<(Config, UnixStream)>, String> {
        loop {
            let Some(lines) = &mut self.lines else {
                match self.fork() {
                    Ok(Some(stream)) => return Ok(Some((self.config, stream))),
                    Ok(None) => {}
                    Err(error) if self.agent.is_some() => return Err(error),
                    Err(error) => {
                        warn!("starting a storage server: {error}");
                        self.rest();
                    }
                }
                continue;
            };
            match next(lines, self.agent.as_ref())? {
                News::Told(report) => self.handle(report),
                // The server notices it as we do: by the end of the socket.
                News::AgentGone => {
                    return Err("whoever asked for the disk has gone before it was there".into());
                }
                News::End => {
                    let how = self.bury();
                    if self.done {
                        return Ok(None);
                    }
                    if self.config.takeover.is_none() {
                        let text = format!("the storage server has died ({how})");
                        self.tell_agent(&Report::Failed(text.clone()));
                        return Err(text);
                    }
                    if std::mem::take(&mut self.makes_room) {
                        info!("version {} takes over", env!("CARGO_PKG_VERSION"));
                        continue;
                    }
                    self.config.restarts += 1;
                    let number = self.config.restarts;
                    error!("the storage server has died ({how}): number {number} takes over");
                    self.rest();
                }
            }
        }
    }

    /// Makes a server. Gives its end of the socket in the server.
    fn fork(&mut self) -> Result<Option<UnixStream>, String> {
        let (ours, theirs) = UnixStream::pair().map_err(|error| format!("socket pair: {error}"))?;
        match survive::fork().map_err(|error| error.to_string())? {
            Forked::Child => Ok(Some(theirs)),
            Forked::Parent { child } => {
                (self.lines, self.child) = (Some(BufReader::new(ours)), Some(child));
                self.omit(self.child);
                Ok(None)
            }
        }
    }

    /// Has this process and the server spared by an init that would kill them at the end.
    fn omit(&mut self, server: Option<Pid>) {
        let Some(takeover) = &self.config.takeover else { return };
        let new = || Omission::new(&takeover.device, getpid());
        if let Err(error) = self.omission.get_or_insert_with(new).write(server) {
            // A system without /run has no sysvinit of that kind.
            debug!("telling sysvinit whom to spare: {error}");
        }
    }

    /// The server is gone; how.
    fn bury(&mut self) -> String {
        self.lines = None;
        let Some(child) = self.child.take() else { return "how is not known".into() };
        loop {
            return match waitpid(Some(child), WaitOptions::empty()) {
                Err(Errno::INTR) => continue,
                Err(error) => error.to_string(),
                Ok(None) => unreachable!("without WNOHANG it waits"),
                Ok(Some((_, status))) => {
                    match (status.terminating_signal(), status.exit_status()) {
                        (Some(signal), _) => format!("signal {signal}"),
                        (None, Some(code)) => format!("exit status {code}"),
                        (None, None) => format!("{status:?}"),
                    }
                }
            };
        }
    }

    /// Servers that die one after the other are made less and less often.
    fn rest(&mut self) {
        let doublings = self.deaths.checked_sub(1);
        let pause = doublings.map(|doublings| PAUSE_FIRST.saturating_mul(1 << doublings.min(16)));
        self.deaths += 1;
        std::thread::sleep(pause.unwrap_or_default().min(PAUSE_MAX));
    }

    fn handle(&mut self, report: Report) {
        match report {
            Report::Takeover(takeover) => {
                self.tell_agent(&Report::Takeover(takeover.clone()));
                self.config.takeover = Some(takeover);
                self.omit(self.child);
            }
            Report::Name(known) => drop(self.config.names.learn(known)),
            Report::Done => self.done = true,
            Report::MakingRoom => self.makes_room = true,
            Report::Ready { .. } => {
                if self.config.restarts > 0 {
                    info!("the disk is being served again");
                }
                self.deaths = 0;
                self.tell_agent(&report);
                self.agent = None;
            }
            Report::Trouble(_) | Report::LoggedIn | Report::Failed(_) => {
                self.done |= matches!(report, Report::Failed(_)) && self.config.takeover.is_none();
                self.tell_agent(&report);
            }
        }
    }

    fn tell_agent(&mut self, report: &Report) {
        if let Some(agent) = &mut self.agent {
            // One that is gone is noticed by the next wait.
            let _ = agent.write_all(report.to_string().as_bytes());
        }
    }
}

/// The next thing that happens.
fn next(lines: &mut BufReader<UnixStream>, agent: Option<&UnixStream>) -> Result<News, String> {
    while !lines.buffer().contains(&b'\n') {
        let server = PollFd::new(lines.get_ref(), PollFlags::IN);
        // Without an agent the server stands there twice.
        let agent_or_server = agent.unwrap_or(lines.get_ref());
        let mut fds = [server, PollFd::new(agent_or_server, PollFlags::IN)];
        match poll(&mut fds, None) {
            Ok(_) => {}
            Err(Errno::INTR) => continue,
            Err(error) => return Err(format!("waiting for the server: {error}")),
        }
        if !fds[0].revents().is_empty() {
            break;
        }
        if !fds[1].revents().is_empty() {
            return Ok(News::AgentGone);
        }
    }
    match Report::read(lines) {
        Ok(Some(report)) => Ok(News::Told(report)),
        // A reset is an end as well.
        Ok(None) | Err(_) => Ok(News::End),
    }
}
