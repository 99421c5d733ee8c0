//! Names to addresses for a loop that must not wait: a thread asks the system's resolver.
//!
//! It takes one name after the other, each for as long as the name servers take: a few seconds if
//! they do not answer (resolv.conf(5), timeout).

use std::collections::VecDeque;
use std::fmt;
use std::io;
use std::net::SocketAddr;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};
use std::thread;

use rustix::event::{EventfdFlags, eventfd};

use super::tcp::{ResolveError, resolve};

/// Most names at once.
const NAMES_MAX: usize = 8;

/// Stack of the thread: the C library's resolver needs a few pages, and all of it is locked.
const STACK_BYTES: usize = 128 * 1024;

/// The name of a host, and a TCP port of it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Name {
    /// Host name.
    pub host: Box<str>,
    /// TCP port.
    pub port: u16,
}

impl fmt::Display for Name {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}:{}", self.host, self.port)
    }
}

/// What was asked, and what the resolver has found: best first.
pub type Answer = (Name, Result<Vec<SocketAddr>, ResolveError>);

/// The asking end. The thread ends with it, after the name that it is busy with.
#[derive(Debug)]
pub struct Resolver {
    /// Without an answer so far.
    asked: Vec<Name>,
    desk: Arc<Desk>,
}

/// Where the two meet.
#[derive(Debug)]
struct Desk {
    papers: Mutex<Papers>,
    /// There is a name to look up, or nobody who wants to know.
    work: Condvar,
    /// Counts the answers.
    count: OwnedFd,
}

#[derive(Debug, Default)]
struct Papers {
    names: VecDeque<Name>,
    answers: VecDeque<Answer>,
    is_over: bool,
}

impl Resolver {
    /// Starts the thread.
    pub fn start() -> io::Result<Resolver> {
        let flags = EventfdFlags::CLOEXEC | EventfdFlags::NONBLOCK | EventfdFlags::SEMAPHORE;
        let count = eventfd(0, flags)?;
        let desk = Arc::new(Desk { papers: Mutex::default(), work: Condvar::new(), count });
        let theirs = Arc::clone(&desk);
        let work = move || theirs.answer();
        thread::Builder::new().name("resolver".into()).stack_size(STACK_BYTES).spawn(work)?;
        Ok(Resolver { asked: Vec::with_capacity(NAMES_MAX), desk })
    }

    /// Readable when [`Resolver::poll_answer`] has something.
    pub fn fd(&self) -> BorrowedFd<'_> {
        self.desk.count.as_fd()
    }

    /// Asks for the addresses of a name, unless that is being done already. Never blocks; fails
    /// when too many names wait for an answer.
    pub fn ask(&mut self, name: &Name) -> io::Result<()> {
        if self.asked.contains(name) {
            return Ok(());
        }
        if self.asked.len() == NAMES_MAX {
            return Err(io::Error::other("too many names are being looked up"));
        }
        self.asked.push(name.clone());
        self.desk.papers().names.push_back(name.clone());
        self.desk.work.notify_one();
        Ok(())
    }

    /// The next answer that is there. Never blocks.
    pub fn poll_answer(&mut self) -> Option<Answer> {
        rustix::io::read(&self.desk.count, &mut [0; 8]).ok()?;
        let answer = self.desk.papers().answers.pop_front()?;
        self.asked.retain(|asked| *asked != answer.0);
        Some(answer)
    }
}

impl Drop for Resolver {
    fn drop(&mut self) {
        self.desk.papers().is_over = true;
        self.desk.work.notify_one();
    }
}

impl Desk {
    /// Held for a moment only.
    fn papers(&self) -> MutexGuard<'_, Papers> {
        // Both ends leave it whole wherever they may panic.
        self.papers.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// The life of the thread.
    fn answer(&self) {
        loop {
            let mut papers = self.papers();
            let name = loop {
                if papers.is_over {
                    return;
                }
                match papers.names.pop_front() {
                    Some(name) => break name,
                    None => {
                        papers = self.work.wait(papers).unwrap_or_else(PoisonError::into_inner);
                    }
                }
            };
            drop(papers);
            let addresses = resolve(&name.host, name.port);
            self.papers().answers.push_back((name, addresses));
            // It only fails when nobody has read for 2^64 answers.
            let _ = rustix::io::write(&self.count, &1u64.to_ne_bytes());
        }
    }
}

#[cfg(test)]
mod tests {
    use std::time::{Duration, Instant};

    use rustix::event::{PollFd, PollFlags, Timespec, poll};

    use super::*;

    fn name(host: &str, port: u16) -> Name {
        Name { host: host.into(), port }
    }

    fn wait_for_answer(resolver: &mut Resolver) -> Answer {
        let deadline = Instant::now() + Duration::from_secs(60);
        loop {
            let left = deadline.saturating_duration_since(Instant::now());
            let timeout = Timespec::try_from(left).unwrap();
            let fd = PollFd::from_borrowed_fd(resolver.fd(), PollFlags::IN);
            assert_eq!(poll(&mut [fd], Some(&timeout)), Ok(1), "no answer");
            if let Some(answer) = resolver.poll_answer() {
                return answer;
            }
        }
    }

    #[test]
    fn each_name_gets_one_answer_and_nobody_waits_for_it() {
        let mut resolver = Resolver::start().unwrap();
        assert!(resolver.poll_answer().is_none());
        let hosts = ["192.0.2.1", "no such host.invalid", "2001:db8::1"];
        for (port, host) in (1..).zip(hosts) {
            resolver.ask(&name(host, port)).unwrap();
        }
        for (port, host) in (1..).zip(hosts) {
            let (asked, addresses) = wait_for_answer(&mut resolver);
            assert_eq!(asked, name(host, port));
            match addresses {
                Ok(addresses) => {
                    assert_eq!(addresses, [SocketAddr::new(host.parse().unwrap(), port)]);
                }
                Err(error) => {
                    assert!(error.to_string().starts_with("look up no such host"), "{error}");
                }
            }
        }
        assert!(resolver.poll_answer().is_none());
    }

    #[test]
    fn what_waits_is_asked_once_and_has_a_bound() {
        let mut resolver = Resolver::start().unwrap();
        // Nobody takes the answers, so all of them are being looked up.
        for port in 1..=NAMES_MAX as u16 {
            for _ in 0..3 {
                resolver.ask(&name("192.0.2.1", port)).unwrap();
            }
        }
        let error = resolver.ask(&name("192.0.2.1", 99)).unwrap_err();
        assert!(error.to_string().contains("too many names"), "{error}");
        for port in 1..=NAMES_MAX as u16 {
            assert_eq!(wait_for_answer(&mut resolver).0, name("192.0.2.1", port));
        }
        resolver.ask(&name("192.0.2.1", 99)).unwrap();
        assert_eq!(wait_for_answer(&mut resolver).0, name("192.0.2.1", 99));
        assert!(resolver.poll_answer().is_none(), "more answers than names");
    }
}
