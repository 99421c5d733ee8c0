//! The storage daemon: a server, one thread with one `poll(2)` between the TCP socket and the block
//! device, and its [supervisor]; beside them the [keeper] of the network. Names are
//! looked up by another thread ([`crate::net::resolver`]), as that may take its time.
//!
//! A turn of its loop: wait, take in what is there, then drain every output until nothing moves any
//! more (`settle`), so that all answers of a turn leave with one system call on each side.
//!
//! Both are programs of their own (see [`crate::boot::survive`]), and get their [`Config`] over the
//! socket on which they [`Report`]. As long as nothing is ready the end of that socket ends them:
//! whoever gave up waiting leaves nothing behind. Afterwards it means that the other has died, and
//! whoever is left starts another.

mod config;
mod control;
mod ending;
pub mod keeper;
mod names;
mod outage;
mod replace;
mod report;
mod role;
mod status;
mod supervisor;
mod takeover;
mod transport;
mod words;

use std::io::{self, ErrorKind, IoSlice, Read, Write};
use std::os::unix::net::UnixStream;
use std::time::{Duration, Instant};

use log::{error, info, warn};
use rustix::event::{PollFd, PollFlags, Timespec, poll};

use crate::block::{self, BlockDevice};
use crate::boot::survive;
use crate::proto::login::LoginConfig;
use crate::proto::params::Offer;
use crate::proto::session::{Event, Portal, Retry, Session, SessionConfig};
use crate::proto::{Disk, Patience};
use crate::secrets;
use crate::wire::seconds::Tenths;

pub use config::Config;
use control::{Control, Question};
pub use control::{NETWORK, ask, ask_when_there, devices};
use ending::Farewell;
pub use names::Names;
use outage::Outage;
pub use report::Report;
use report::Reporter;
pub use role::{Role, run};
pub use supervisor::start;
use takeover::Takeover;
use transport::Transport;

/// Most slices of one system call.
const SLICES: usize = 64;

/// Reads from the socket in one turn, so that a fast target does not starve the device.
const READS_PER_TURN: usize = 16;

/// Most descriptors of one wait: transports, device, two supervisors, and those of [`Control`].
const FDS_MAX: usize = transport::FDS_MAX + 3 + control::FDS_MAX;

/// Memory for copies of unflushed writes: at half of it a flush is sent, so that a gigabit line is
/// busy for 70 ms with what fits before the flush, and as long again while it runs.
const UNFLUSHED_BYTES_MAX: u32 = 16 << 20;

struct Daemon {
    config: Config,
    session: Session,
    transport: Transport,
    device: Option<Box<dyn BlockDevice>>,
    /// The device may have requests that were not yet taken.
    device_has_news: bool,
    driver: &'static str,
    control: Option<Control>,
    /// The supervisor, if there is one.
    reporter: Option<Reporter>,
    /// It knows that the device is live.
    reported: bool,
    /// The supervisor of another version that is being started, and who waits for it.
    replacing: Option<(Reporter, UnixStream)>,
    stopping: Stopping,
    /// Who asked to detach and waits for the end.
    detaching: Vec<UnixStream>,
    /// What to do if the machine goes down without the disk.
    farewell: Farewell,
    began: Instant,
    /// Requests that had to be helped along.
    recoveries: u64,
    /// The disk is away.
    outage: Option<Outage>,
}

/// How far the end has come.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Stopping {
    No,
    /// The kernel is letting go of the device.
    Device,
    /// The session is logging out.
    Session,
    Done,
}

/// What `poll(2)` has found.
#[derive(Clone, Copy, Debug, Default)]
struct Ready {
    transport: bool,
    device: bool,
    control: bool,
    /// The supervisor is gone, or new.
    supervisor: bool,
    /// The supervisor of another version is there, or is not to come.
    successor: bool,
}

impl Daemon {
    fn new(config: Config, reporter: Reporter) -> Daemon {
        let now = Instant::now();
        let login = LoginConfig {
            initiator: config.initiator.clone(),
            target: Some(config.target.clone()),
            isid: config.isid,
            offer: Offer::with_digests(config.digests),
            chap: config.chap.clone(),
        };
        let session = SessionConfig {
            portals: config.portals.iter().copied().map(Portal::from).collect(),
            login,
            lun: config.lun,
            patience: patience(&config),
            retry: Retry::default(),
            limits: config.session_limits(),
            requests_max: usize::from(block::QUEUE_DEPTH),
            transfer_bytes_max: block::REQUEST_BYTES_MAX,
            unflushed_bytes_max: UNFLUSHED_BYTES_MAX,
        };
        let session = match &config.takeover {
            Some(takeover) => Session::take_over(session, takeover.disk.clone(), now),
            None => Session::new(session, now),
        };
        Daemon {
            config,
            session,
            transport: Transport::default(),
            device: None,
            device_has_news: false,
            driver: "",
            control: None,
            reporter: Some(reporter),
            reported: false,
            replacing: None,
            stopping: Stopping::No,
            detaching: Vec::new(),
            farewell: Farewell::default(),
            began: now,
            recoveries: 0,
            outage: None,
        }
    }

    fn serve(&mut self) -> Result<(), String> {
        loop {
            self.session.handle_timeout(Instant::now());
            self.look_for_the_end(Instant::now());
            self.settle()?;
            self.tell_outage();
            if self.stopping == Stopping::Done {
                self.report(&Report::Done);
                return Ok(());
            }
            let ready = self.wait().map_err(|error| format!("waiting for events: {error}"))?;
            if ready.supervisor {
                self.hear_supervisor()?;
            }
            if ready.successor && self.make_room() {
                return Ok(());
            }
            self.device_has_news |= ready.device;
            if ready.control {
                self.answer_questions()?;
            }
            if ready.transport {
                self.advance_transport();
            }
        }
    }

    /// Drains every output until nothing moves any more.
    fn settle(&mut self) -> Result<(), String> {
        let lost = |error| format!("the block device is lost: {error}");
        loop {
            let mut moved = false;
            while let Some(event) = self.session.poll_event() {
                self.handle(event)?;
                moved = true;
            }
            moved |= self.serve_device().map_err(lost)?;
            moved |= self.transmit();
            if !moved {
                break;
            }
        }
        if let Some(device) = &mut self.device {
            device.submit().map_err(lost)?;
        }
        self.report_device();
        self.go_on_stopping();
        Ok(())
    }

    /// Moves completions to the device and requests to the session.
    fn serve_device(&mut self) -> io::Result<bool> {
        let Some(device) = &mut self.device else { return Ok(false) };
        let mut moved = false;
        while let Some(completion) = self.session.poll_completion() {
            device.complete(completion)?;
            moved = true;
            // A request may have had to wait for the buffer that has just come back.
            self.device_has_news = true;
        }
        if std::mem::take(&mut self.device_has_news) {
            while let Some(request) = device.poll_request()? {
                self.session.submit(request, Instant::now());
                moved = true;
            }
        }
        Ok(moved)
    }

    /// Writes what the session has to say, as long as the socket takes it.
    fn transmit(&mut self) -> bool {
        let mut moved = false;
        loop {
            let Some(stream) = &mut self.transport.stream else { return moved };
            let mut slices = [&[][..]; SLICES];
            let count = self.session.poll_transmit(&mut slices);
            if count == 0 {
                return moved;
            }
            let slices = slices.map(IoSlice::new);
            match stream.write_vectored(&slices[..count]) {
                Ok(sent) => {
                    self.session.sent(sent, Instant::now());
                    moved = true;
                }
                Err(error) if error.kind() == ErrorKind::Interrupted => {}
                Err(error) if error.kind() == ErrorKind::WouldBlock => return moved,
                Err(error) => {
                    self.lose_transport(&error);
                    return true;
                }
            }
        }
    }

    fn wait(&mut self) -> io::Result<Ready> {
        let has_more = self.session.poll_transmit(&mut [&[][..]; 1]) > 0;
        let transport_deadline = self.transport.deadline();
        let outage_deadline = self.outage.as_ref().and_then(Outage::next_deadline);
        let away = [outage_deadline, self.farewell.look_at];
        let deadlines = [self.session.next_deadline(), transport_deadline].into_iter().chain(away);
        let deadline = deadlines.flatten().min();
        let readable = |fd| PollFd::from_borrowed_fd(fd, PollFlags::IN);
        let device = self.device.as_ref().map(|device| readable(device.fd()));
        let reporter = self.reporter.as_ref().map(|reporter| readable(reporter.fd()));
        let control = self.control.iter().flat_map(Control::fds).map(readable);
        let successor = self.replacing.as_ref().map(|(successor, _)| readable(successor.fd()));
        let there = [device.is_some(), reporter.is_some(), successor.is_some()];
        // On the stack: a turn of the loop must not ask for memory. What is not used is not polled.
        let unused = PollFd::from_borrowed_fd(rustix::stdio::stdin(), PollFlags::empty());
        let mut fds: [PollFd<'_>; FDS_MAX] = std::array::from_fn(|_| unused.clone());
        let all = self.transport.fds(has_more).chain(device).chain(reporter);
        let all = all.chain(successor).chain(control);
        let count = fds.iter_mut().zip(all).map(|(place, fd)| *place = fd).count();
        let fds = &mut fds[..count];

        let timeout = deadline.map(|at| at.saturating_duration_since(Instant::now()));
        let timeout = timeout.and_then(|timeout| Timespec::try_from(timeout).ok());
        match poll(fds, timeout.as_ref()) {
            Ok(_) => {}
            // Stopped and continued, or traced: look again.
            Err(rustix::io::Errno::INTR) => return Ok(Ready::default()),
            Err(error) => return Err(error.into()),
        }
        let mut found = fds.iter().map(|fd| !fd.revents().is_empty());
        let transports = found.by_ref().take(self.transport.fds_count());
        let transport = transports.filter(|found| *found).count() > 0;
        let mut next = |there: bool| there && found.next().unwrap_or(false);
        Ok(Ready {
            // Attempts are also looked at when a deadline has passed.
            transport: transport || self.transport.is_opening(),
            device: next(there[0]),
            supervisor: next(there[1]),
            successor: next(there[2]),
            control: found.any(|found| found),
        })
    }

    /// The socket or the resolver has something for us, or an attempt to connect was decided.
    fn advance_transport(&mut self) {
        self.take_answers();
        if self.transport.stream.is_some() {
            self.receive();
        } else {
            self.advance_attempts();
        }
    }

    fn receive(&mut self) {
        for _ in 0..READS_PER_TURN {
            let Some(stream) = &mut self.transport.stream else { return };
            let space = self.session.recv_space();
            let wanted = space.len();
            match stream.read(space) {
                Ok(0) => {
                    let error = io::Error::new(ErrorKind::UnexpectedEof, "closed by the target");
                    return self.lose_transport(&error);
                }
                Ok(count) => {
                    self.session.received(count, Instant::now());
                    // Less than there was room for: nothing is left, and asking would say so.
                    if count < wanted {
                        return;
                    }
                }
                Err(error) if error.kind() == ErrorKind::Interrupted => {}
                Err(error) if error.kind() == ErrorKind::WouldBlock => return,
                Err(error) => return self.lose_transport(&error),
            }
        }
    }

    fn handle(&mut self, event: Event) -> Result<(), String> {
        match event {
            Event::Connect(attempt) => self.connect(&attempt),
            Event::Disconnect => self.transport.close(),
            Event::Redirected { from, to, permanent, attempt } => {
                let how = if permanent { "for good" } else { "for this time" };
                // Each try of an outage brings another one: 1st, 2nd, 4th, 8th …
                if attempt.is_power_of_two() {
                    info!("{}: {from} sends us to {to} {how}", self.config.target);
                }
            }
            Event::LoggedIn(_) => {
                self.report(&Report::LoggedIn);
                if self.outage.as_mut().is_none_or(Outage::note_login) {
                    info!("logged in to {} at {}", self.config.target, self.shown_portal());
                }
            }
            Event::Ready(disk) => self.make_device(&disk)?,
            Event::Resumed { .. } if self.device.is_none() => self.take_device_over()?,
            Event::Resumed { away, waiting } => {
                if self.outage.as_mut().is_none_or(Outage::note_return) {
                    info!(
                        "the disk is back after {} s; {waiting} requests were waiting",
                        Tenths(away.as_millis())
                    );
                }
            }
            Event::Trouble { error, at, attempt, retry_after } => {
                self.trouble(&error, &at, attempt, retry_after);
            }
            Event::Recovering { rung, reason } => self.tell_recovery(rung, reason),
            Event::Changed { what } => warn!("disk {}: {what}", self.shown_disk()),
            Event::RequestFailed { op, start_sector, outcome } => {
                error!("{op:?} at sector {start_sector} failed: {outcome:?}");
            }
            Event::WriteLost { start_sector, sectors, outcome } => error!(
                "a completed write of {sectors} sectors at {start_sector} was lost by the target \
                 and could not be done again ({outcome:?}): the next flush fails"
            ),
            Event::RequestsGivenUp { after, requests } => {
                self.tell_requests_given_up(after, requests);
            }
            Event::GaveUp { error, at, after } => {
                let text = self.words_of_the_end(&error, &at, after);
                self.report(&Report::Failed(text.clone()));
                return Err(text);
            }
            Event::LoggedOut => self.stopping = Stopping::Done,
        }
        Ok(())
    }

    /// The disk is known: makes its block device. It becomes live in the loop.
    fn make_device(&mut self, disk: &Disk) -> Result<(), String> {
        let mut geometry = disk.geometry.clone();
        geometry.read_only |= self.config.read_only;
        info!(
            "the LUN is {}: {} blocks of {} bytes{}",
            disk.product,
            geometry.blocks,
            geometry.logical_block_bytes,
            if geometry.read_only { ", read-only" } else { "" }
        );
        let made = block::open(&geometry, self.config.block, block::QUEUE_DEPTH);
        let (device, choice) = made.map_err(|error| {
            let text = error.to_string();
            self.report(&Report::Failed(text.clone()));
            text
        })?;
        self.driver = match choice.driver {
            block::Driver::Ublk => "ublk",
            block::Driver::Nbd => "nbd",
        };
        self.serve_from_now_on(device);
        Ok(())
    }

    /// The disk is there, and so is the device of a server that has died: takes it over. The login
    /// has made the target forget what that one had asked for.
    fn take_device_over(&mut self) -> Result<(), String> {
        let Some(Takeover { device, disk }) = &self.config.takeover else { return Ok(()) };
        self.driver = if device.starts_with("nbd") { "nbd" } else { "ublk" };
        let device = block::recover(device, &disk.geometry).map_err(|error| error.to_string())?;
        self.serve_from_now_on(device);
        Ok(())
    }

    fn serve_from_now_on(&mut self, device: Box<dyn BlockDevice>) {
        if let Err(error) = survive::lock_memory() {
            warn!("{error}");
        }
        self.device = Some(device);
        self.device_has_news = true;
    }

    /// Tells the supervisor when the device has become live, and begins to listen.
    fn report_device(&mut self) {
        let Some(path) = self.device.as_ref().and_then(|device| device.path()) else { return };
        if std::mem::replace(&mut self.reported, true) {
            return;
        }
        let path = path.to_owned();
        let device = path.file_name().unwrap_or_default().to_string_lossy().into_owned();
        match Control::listen(&device) {
            Ok(control) => self.control = Some(control),
            Err(error) => warn!("no control socket, so no status and detach: {error}"),
        }
        if self.config.takeover.is_none() {
            let mut disk = self.session.disk().expect("its device was made").clone();
            disk.geometry.read_only |= self.config.read_only;
            let takeover = Takeover { device, disk };
            self.report(&Report::Takeover(takeover.clone()));
            self.config.takeover = Some(takeover);
        }
        self.report(&Report::Ready { path, driver: self.driver.into() });
    }

    /// False if nobody is listening.
    fn report(&mut self, report: &Report) -> bool {
        self.reporter.as_mut().map(|reporter| reporter.tell(report)).is_some()
    }

    fn answer_questions(&mut self) -> Result<(), String> {
        while let Some((question, mut stream)) =
            self.control.as_mut().and_then(Control::poll_question)
        {
            match question {
                // Whoever does not read its answer misses it.
                Question::Status(format) => {
                    let _ = stream.write_all(self.status().in_format(format).as_bytes());
                }
                Question::Replace { file } => self.begin_replacement(file, stream),
                Question::Detach | Question::Abandon => {
                    if question == Question::Abandon {
                        warn!("told to let go of the disk at once: requests fail from now on");
                        self.session.give_up();
                    }
                    self.detaching.push(stream);
                    self.stop_device()?;
                }
            }
        }
        Ok(())
    }

    fn stop_device(&mut self) -> Result<(), String> {
        let Some(device) = &mut self.device else { return Ok(()) };
        if self.stopping == Stopping::No {
            self.stopping = Stopping::Device;
            self.device_has_news = true;
            device.stop().map_err(|error| format!("stopping the block device: {error}"))?;
        }
        Ok(())
    }

    fn go_on_stopping(&mut self) {
        let is_gone = self.device.as_ref().is_none_or(|device| device.is_stopped());
        if self.stopping == Stopping::Device && is_gone {
            self.device = None;
            self.stopping = Stopping::Session;
            self.session.log_out(Instant::now());
            // What it has to send, or that there is nobody to log out from, is said in this turn.
            self.transmit();
            while let Some(event) = self.session.poll_event() {
                if matches!(event, Event::LoggedOut) {
                    self.stopping = Stopping::Done;
                }
            }
        }
        if self.stopping == Stopping::Done {
            for mut stream in self.detaching.drain(..) {
                let _ = stream.write_all(b"done\n");
                // The kernel closes it when this process is gone, which is what they wait for.
                std::mem::forget(stream);
            }
        }
    }
}

fn patience(config: &Config) -> Patience {
    let mut patience = Patience::default();
    let seconds = |seconds: u32| Duration::from_secs(seconds.into());
    if let Some(interval) = config.limits.ping_interval {
        patience.idle = seconds(interval);
    }
    if let Some(timeout) = config.limits.ping_timeout {
        (patience.ping, patience.ping_with_spares) = (seconds(timeout), seconds(timeout));
    }
    patience
}
