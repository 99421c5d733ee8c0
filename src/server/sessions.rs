//! What the sessions of a target have to know of each other: who is logged in, who must go, and
//! which commands others have made void. Here their threads meet, so here are the locks; a gate for
//! each logical unit lets many commands pass, or one alone.

use std::collections::HashMap;
use std::io;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::sync::atomic::{AtomicBool, AtomicU8, AtomicU16, AtomicU64, Ordering};
use std::sync::{
    Arc, Condvar, Mutex, MutexGuard, PoisonError, RwLock, RwLockReadGuard, RwLockWriteGuard,
};
use std::time::{Duration, Instant};

use rustix::event::{EventfdFlags, eventfd};

use crate::proto::target::SessionName;
use crate::wire::scsi::Lun;

/// All connections, and the gates of the logical units.
#[derive(Debug)]
pub(super) struct Sessions {
    table: Mutex<Table>,
    gates: Vec<RwLock<u64>>,
    /// Counts all resets, so that a connection sees with one look whether there was one.
    resets: AtomicU64,
    next_tsih: AtomicU16,
}

#[derive(Debug, Default)]
struct Table {
    connections: Vec<Arc<Handle>>,
    by_name: HashMap<SessionName, Arc<Handle>>,
}

/// How others reach a connection.
#[derive(Debug)]
pub(super) struct Handle {
    wake: OwnedFd,
    word: AtomicU8,
    /// Units at which the commands of this connection alone are void, and that there are any.
    aborted: Mutex<Vec<Lun>>,
    has_aborted: AtomicBool,
    ended: Mutex<bool>,
    ending: Condvar,
}

/// A command may be executed while this is held.
#[derive(Debug)]
#[expect(dead_code, reason = "what it has is held, not looked at")]
pub(super) enum Pass<'a> {
    NoGate,
    Shared(RwLockReadGuard<'a, u64>),
    Alone(RwLockWriteGuard<'a, u64>),
}

/// What others want of a connection; the later weighs more.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Word {
    /// That it goes on.
    Serve,
    /// That it asks its initiator to log out.
    LogOut,
    /// That it says that it ends, and ends.
    Leave,
    /// That it ends without a word: its initiator has a newer session.
    Stop,
}

/// Which resets a connection has taken notice of.
#[derive(Debug, Default)]
pub(super) struct SeenResets {
    resets: u64,
    epochs: Vec<u64>,
}

impl Sessions {
    pub(super) fn new(units: usize) -> Sessions {
        Sessions {
            table: Mutex::default(),
            gates: (0..units).map(|_| RwLock::new(0)).collect(),
            resets: AtomicU64::new(0),
            next_tsih: AtomicU16::new(1),
        }
    }

    /// A new session, or `None` if there are too many. One that takes the place of an older one is
    /// not one too many.
    pub(super) fn enter(
        &self,
        name: &SessionName,
        sessions_max: usize,
    ) -> io::Result<Option<Arc<Handle>>> {
        let wake = eventfd(0, EventfdFlags::CLOEXEC | EventfdFlags::NONBLOCK)?;
        let handle = Arc::new(Handle {
            wake,
            word: AtomicU8::new(Word::Serve as u8),
            aborted: Mutex::default(),
            has_aborted: AtomicBool::new(false),
            ended: Mutex::new(false),
            ending: Condvar::new(),
        });
        let mut table = lock(&self.table);
        if table.connections.len() >= sessions_max && !table.by_name.contains_key(name) {
            return Ok(None);
        }
        table.connections.push(handle.clone());
        Ok(Some(handle))
    }

    /// A connection has ended and executes nothing any more.
    pub(super) fn leave(&self, handle: &Arc<Handle>) {
        let mut table = lock(&self.table);
        table.connections.retain(|other| !Arc::ptr_eq(other, handle));
        table.by_name.retain(|_, other| !Arc::ptr_eq(other, handle));
        drop(table);
        *lock(&handle.ended) = true;
        handle.ending.notify_all();
    }

    /// Claims a session name. The connection that had it is told to stop and waited for, so that
    /// none of its commands is executed after this (RFC 7143 §6.3.5). Gives whether there was one,
    /// or `Err` if it does not end in time.
    pub(super) fn claim(
        &self,
        name: &SessionName,
        handle: &Arc<Handle>,
        patience: Duration,
    ) -> Result<bool, ()> {
        let old = lock(&self.table).by_name.insert(name.clone(), handle.clone());
        let Some(old) = old else { return Ok(false) };
        old.tell(Word::Stop);
        if old.wait_ended(patience) { Ok(true) } else { Err(()) }
    }

    /// A session identifier for a new session; never 0.
    pub(super) fn tsih(&self) -> u16 {
        loop {
            let tsih = self.next_tsih.fetch_add(1, Ordering::Relaxed);
            if tsih != 0 {
                return tsih;
            }
        }
    }

    /// Tells all connections but this one what is wanted of them.
    pub(super) fn tell_others(&self, handle: &Arc<Handle>, word: Word) {
        let table = lock(&self.table);
        for other in table.connections.iter().filter(|other| !Arc::ptr_eq(other, handle)) {
            other.tell(word);
        }
    }

    /// Tells all connections what is wanted of them, and waits for their end; false if that takes
    /// longer.
    pub(super) fn tell_all(&self, word: Word, patience: Duration) -> bool {
        let connections = lock(&self.table).connections.clone();
        for connection in &connections {
            connection.tell(word);
        }
        let deadline = Instant::now() + patience;
        let remaining = || deadline.saturating_duration_since(Instant::now());
        connections.iter().all(|connection| connection.wait_ended(remaining()))
    }

    /// Lets every connection look for what has changed.
    pub(super) fn wake_all(&self) {
        for connection in &lock(&self.table).connections {
            connection.wake();
        }
    }

    /// The number of connections.
    pub(super) fn len(&self) -> usize {
        lock(&self.table).connections.len()
    }

    // Resets.

    /// Makes every command void that another session has received for these units and not executed
    /// yet. Returns when none of them is being executed.
    pub(super) fn reset(&self, lun: Option<Lun>, seen: &mut SeenResets) {
        for (number, gate) in self.gates.iter().enumerate() {
            if lun.is_none_or(|lun| lun.to_number() == Some(number as u16)) {
                // Waits for the executions that hold the gate for reading.
                let mut epoch = gate.write().unwrap_or_else(PoisonError::into_inner);
                *epoch += 1;
                seen.note(number, *epoch);
            }
        }
        self.resets.fetch_add(1, Ordering::Release);
        self.wake_all();
    }

    /// The same for the commands of some sessions to one unit.
    pub(super) fn abort(&self, lun: Lun, names: &[SessionName]) {
        let Some(gate) = lun.to_number().and_then(|number| self.gates.get(usize::from(number)))
        else {
            return;
        };
        // Until they are told, they execute nothing.
        let _gate = gate.write().unwrap_or_else(PoisonError::into_inner);
        let table = lock(&self.table);
        for handle in names.iter().filter_map(|name| table.by_name.get(name)) {
            lock(&handle.aborted).push(lun);
            handle.has_aborted.store(true, Ordering::Release);
            handle.wake();
        }
    }

    /// The units at which the commands of a connection became void since the last call.
    pub(super) fn news(&self, seen: &mut SeenResets, handle: &Handle) -> Vec<Lun> {
        let mut news = Vec::new();
        if handle.has_aborted.swap(false, Ordering::AcqRel) {
            news.append(&mut lock(&handle.aborted));
        }
        let resets = self.resets.load(Ordering::Acquire);
        if resets != seen.resets {
            seen.resets = resets;
            let epochs = self.gates.iter().map(|gate| *read(gate)).enumerate();
            let changed = epochs.filter(|(number, epoch)| seen.note(*number, *epoch));
            news.extend(changed.map(|(number, _)| Lun::from_number(number as u16)));
        }
        news
    }

    /// Takes notice of the present without being told of the past: for a new connection.
    pub(super) fn look(&self) -> SeenResets {
        let epochs = self.gates.iter().map(|gate| *read(gate));
        SeenResets { resets: self.resets.load(Ordering::Acquire), epochs: epochs.collect() }
    }

    /// Holds off resets of a unit while a command is executed, and also all other commands if it
    /// must be alone; `None` if there is news for the connection, or it has to end. Units that are
    /// not there need no gate.
    pub(super) fn pass(
        &self,
        lun: Lun,
        alone: bool,
        seen: &SeenResets,
        handle: &Handle,
    ) -> Option<Pass<'_>> {
        let number = lun.to_number().map(usize::from);
        let Some((number, gate)) =
            number.and_then(|number| Some((number, self.gates.get(number)?)))
        else {
            return Some(Pass::NoGate);
        };
        let known = seen.epochs.get(number).copied().unwrap_or(0);
        // Whoever has something to tell holds the gate until it has been told.
        let told = || handle.must_end() || handle.has_aborted.load(Ordering::Acquire);
        if alone {
            let epoch = gate.write().unwrap_or_else(PoisonError::into_inner);
            (*epoch == known && !told()).then_some(Pass::Alone(epoch))
        } else {
            let epoch = read(gate);
            (*epoch == known && !told()).then_some(Pass::Shared(epoch))
        }
    }
}

impl SeenResets {
    /// Whether this is new.
    fn note(&mut self, number: usize, epoch: u64) -> bool {
        if self.epochs.len() <= number {
            self.epochs.resize(number + 1, 0);
        }
        std::mem::replace(&mut self.epochs[number], epoch) != epoch
    }
}

impl Handle {
    /// Readable when the connection was told something.
    pub(super) fn fd(&self) -> BorrowedFd<'_> {
        self.wake.as_fd()
    }

    /// What others want of the connection.
    pub(super) fn word(&self) -> Word {
        let word = self.word.load(Ordering::Acquire);
        [Word::Serve, Word::LogOut, Word::Leave, Word::Stop][usize::from(word)]
    }

    /// The connection has to end.
    fn must_end(&self) -> bool {
        matches!(self.word(), Word::Leave | Word::Stop)
    }

    /// Makes `fd` quiet again.
    pub(super) fn hear(&self) {
        // Nothing to read means that somebody else's wake-up was read along with this one.
        let _ = rustix::io::read(&self.wake, &mut [0; 8]);
    }

    fn tell(&self, word: Word) {
        self.word.fetch_max(word as u8, Ordering::Release);
        self.wake();
    }

    fn wake(&self) {
        // A counter that is full wakes as well.
        let _ = rustix::io::write(&self.wake, &1_u64.to_ne_bytes());
    }

    fn wait_ended(&self, patience: Duration) -> bool {
        let ended = lock(&self.ended);
        let waited = self.ending.wait_timeout_while(ended, patience, |ended| !*ended);
        *waited.unwrap_or_else(PoisonError::into_inner).0
    }
}

/// A thread that panicked must not take the others with it.
fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

fn read<T>(gate: &RwLock<T>) -> RwLockReadGuard<'_, T> {
    gate.read().unwrap_or_else(PoisonError::into_inner)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::wire::pdu::Isid;

    fn name() -> SessionName {
        SessionName { initiator: "iqn.2004-10.example:client".to_owned(), isid: Isid([0; 6]) }
    }

    #[test]
    fn a_second_claim_waits_for_the_end_of_the_first() {
        let sessions = Sessions::new(1);
        let first = sessions.enter(&name(), 9).unwrap().unwrap();
        let second = sessions.enter(&name(), 9).unwrap().unwrap();
        assert_eq!(sessions.claim(&name(), &first, Duration::ZERO), Ok(false));
        assert_eq!(sessions.claim(&name(), &second, Duration::ZERO), Err(()));
        assert!(first.word() == Word::Stop && second.word() == Word::Serve);
        let third = sessions.enter(&name(), 9).unwrap().unwrap();
        std::thread::scope(|scope| {
            let claim = scope.spawn(|| sessions.claim(&name(), &third, Duration::from_secs(10)));
            // The claim has found the older session when it has told it to stop.
            while second.word() != Word::Stop {
                std::thread::yield_now();
            }
            sessions.leave(&second);
            assert_eq!(claim.join().unwrap(), Ok(true));
        });
        sessions.leave(&first);
        assert_eq!(sessions.len(), 1);
    }

    #[test]
    fn sessions_are_limited_but_for_those_that_take_a_place() {
        let sessions = Sessions::new(1);
        let other = SessionName { isid: Isid([1; 6]), ..name() };
        let first = sessions.enter(&name(), 1).unwrap().unwrap();
        sessions.claim(&name(), &first, Duration::ZERO).unwrap();
        assert!(sessions.enter(&other, 1).unwrap().is_none());
        assert!(sessions.enter(&name(), 1).unwrap().is_some());
        sessions.leave(&first);
        assert_eq!(sessions.len(), 1);
    }

    #[test]
    fn a_command_that_is_alone_waits_for_the_others() {
        let sessions = Sessions::new(1);
        let handle = sessions.enter(&name(), 1).unwrap().unwrap();
        let seen = sessions.look();
        let shared = sessions.pass(Lun::ZERO, false, &seen, &handle);
        let _beside = sessions.pass(Lun::ZERO, false, &seen, &handle);
        assert!(sessions.gates[0].try_write().is_err());
        drop((shared, _beside));
        let _alone = sessions.pass(Lun::ZERO, true, &seen, &handle);
        assert!(sessions.gates[0].try_read().is_err());
    }

    #[test]
    fn a_reset_makes_older_commands_void() {
        let sessions = Sessions::new(2);
        let handle = sessions.enter(&name(), 1).unwrap().unwrap();
        let mut mine = sessions.look();
        let mut other = sessions.look();
        let (zero, one) = (Lun::ZERO, Lun::from_number(1));
        assert!(sessions.pass(zero, false, &other, &handle).is_some());
        sessions.reset(Some(zero), &mut mine);
        assert!(sessions.pass(zero, false, &mine, &handle).is_some());
        assert!(sessions.pass(zero, false, &other, &handle).is_none());
        assert!(sessions.pass(one, false, &other, &handle).is_some());
        assert_eq!(sessions.news(&mut other, &handle), [zero]);
        assert!(sessions.pass(zero, false, &other, &handle).is_some());
        assert_eq!(sessions.news(&mut other, &handle), []);
        assert_eq!(sessions.news(&mut mine, &handle), []);
        sessions.reset(None, &mut mine);
        assert_eq!(sessions.news(&mut other, &handle), [zero, one]);
        assert!(sessions.pass(Lun::from_number(7), false, &other, &handle).is_some());
    }
    #[test]
    fn an_abort_makes_the_commands_of_one_session_void() {
        let sessions = Sessions::new(2);
        let victim = sessions.enter(&name(), 9).unwrap().unwrap();
        let bystander = sessions.enter(&name(), 9).unwrap().unwrap();
        assert_eq!(sessions.claim(&name(), &victim, Duration::ZERO), Ok(false));
        let mut seen = sessions.look();
        sessions.abort(Lun::ZERO, &[name()]);
        assert!(sessions.pass(Lun::ZERO, false, &seen, &bystander).is_some());
        assert!(sessions.pass(Lun::ZERO, false, &seen, &victim).is_none());
        assert_eq!(sessions.news(&mut seen, &victim), [Lun::ZERO]);
        assert!(sessions.pass(Lun::ZERO, false, &seen, &victim).is_some());
        assert_eq!(sessions.news(&mut seen, &victim), []);
        victim.tell(Word::Stop);
        assert!(sessions.pass(Lun::ZERO, false, &seen, &victim).is_none());
    }

    #[test]
    fn an_abort_waits_for_what_is_being_executed() {
        let sessions = Sessions::new(1);
        let victim = sessions.enter(&name(), 9).unwrap().unwrap();
        assert_eq!(sessions.claim(&name(), &victim, Duration::ZERO), Ok(false));
        let seen = sessions.look();
        let executing = sessions.pass(Lun::ZERO, false, &seen, &victim);
        std::thread::scope(|scope| {
            let abort = scope.spawn(|| sessions.abort(Lun::ZERO, &[name()]));
            assert!(!victim.has_aborted.load(Ordering::Acquire));
            drop(executing);
            abort.join().unwrap();
        });
        assert!(victim.has_aborted.load(Ordering::Acquire));
    }
}
