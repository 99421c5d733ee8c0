//! What is between the two sides: pipes that split, delay, lose and end.

use std::collections::VecDeque;
use std::time::{Duration, Instant};

use lunboot::proto::random::Random;
use lunboot::proto::session::Portal;

/// How the network, and the target's disk behind it, behave by themselves.
#[derive(Clone, Debug)]
pub struct Weather {
    /// Most bytes that move at once; 0 for no limit.
    pub split_bytes_max: usize,
    /// Longest time on the way.
    pub delay_max: Duration,
    /// Most bytes on the way in one direction.
    pub window_bytes: usize,
    /// Who comes first is drawn by lot.
    pub shuffle: bool,
    /// Commands are executed in any order, up to so much later; zero for at once and in order.
    pub execution_max: Duration,
}

impl Default for Weather {
    fn default() -> Weather {
        Weather {
            split_bytes_max: 0,
            delay_max: Duration::ZERO,
            window_bytes: 1 << 20,
            shuffle: false,
            execution_max: Duration::ZERO,
        }
    }
}

impl Weather {
    /// How many bytes move now.
    pub fn split(&self, random: &mut Random) -> usize {
        match self.split_bytes_max {
            0 => usize::MAX,
            most => 1 + random.below(most as u64) as usize,
        }
    }

    /// How many bytes a full socket would take now.
    pub fn room(&self, bytes: usize, random: &mut Random) -> usize {
        self.split(random).min(self.window_bytes.saturating_sub(bytes))
    }

    pub fn delay(&self, random: &mut Random) -> Duration {
        up_to(self.delay_max, random)
    }
}

/// The first `most` bytes of slices.
pub fn gathered(slices: &[&[u8]], most: usize) -> Vec<u8> {
    let mut bytes = Vec::new();
    for slice in slices {
        let moved = slice.len().min(most - bytes.len());
        bytes.extend_from_slice(&slice[..moved]);
    }
    bytes
}

/// A time of at most `most`.
pub fn up_to(most: Duration, random: &mut Random) -> Duration {
    Duration::from_micros(random.below(most.as_micros() as u64 + 1))
}

/// Bytes on the way.
#[derive(Debug)]
struct Chunk {
    arrival: Instant,
    bytes: Vec<u8>,
    /// So many of them were taken.
    taken: usize,
}

/// One direction of a connection: bytes in order, each with the time of its arrival.
#[derive(Debug, Default)]
pub struct Pipe {
    chunks: VecDeque<Chunk>,
    bytes: usize,
    /// Nothing arrives as long as this is set, and nobody is told.
    pub silent: bool,
}

impl Pipe {
    pub fn bytes(&self) -> usize {
        self.bytes
    }

    pub fn send(&mut self, bytes: Vec<u8>, arrival: Instant) {
        if bytes.is_empty() {
            return;
        }
        // Nothing overtakes anything.
        let arrival = self.chunks.back().map_or(arrival, |last| arrival.max(last.arrival));
        self.bytes += bytes.len();
        self.chunks.push_back(Chunk { arrival, bytes, taken: 0 });
    }

    pub fn receive(&mut self, space: &mut [u8], now: Instant) -> usize {
        if self.silent {
            return 0;
        }
        let mut count = 0;
        while let Some(chunk) = self.chunks.front_mut() {
            if chunk.arrival > now || count == space.len() {
                break;
            }
            let left = &chunk.bytes[chunk.taken..];
            let moved = left.len().min(space.len() - count);
            space[count..count + moved].copy_from_slice(&left[..moved]);
            count += moved;
            chunk.taken += moved;
            if chunk.taken == chunk.bytes.len() {
                self.chunks.pop_front();
            }
        }
        self.bytes -= count;
        count
    }

    fn clear(&mut self) {
        self.chunks.clear();
        self.bytes = 0;
    }

    /// Nothing is left that could still arrive, the end of the connection included.
    fn has_ended(&self) -> bool {
        self.bytes == 0 && !self.silent
    }
}

/// One connection.
#[derive(Debug)]
pub struct Link {
    /// Where it leads.
    pub portal: Portal,
    pub up: Pipe,
    pub down: Pipe,
    /// Bytes that are gone from the way up, of which the initiator does not know because nothing
    /// comes down: they still take room.
    unacknowledged: usize,
    initiator_gone: bool,
    target_gone: bool,
}

impl Link {
    pub fn new(portal: Portal) -> Link {
        let (up, down) = (Pipe::default(), Pipe::default());
        Link { portal, up, down, unacknowledged: 0, initiator_gone: false, target_gone: false }
    }

    /// Nothing arrives any more, and nobody is told.
    pub fn silence(&mut self) {
        (self.up.silent, self.down.silent) = (true, true);
    }

    /// What is on the way arrives after all.
    pub fn end_silence(&mut self) {
        (self.up.silent, self.down.silent) = (false, false);
        self.unacknowledged = 0;
    }

    /// Bytes that the initiator has sent and that may not have arrived, for all it knows.
    pub fn sent_bytes(&self) -> usize {
        self.up.bytes + self.unacknowledged
    }

    /// What has come to the target.
    pub fn receive_up(&mut self, space: &mut [u8], now: Instant) -> usize {
        let count = self.up.receive(space, now);
        self.unacknowledged += if self.down.silent { count } else { 0 };
        count
    }

    /// Both ends are gone, and everything on the way.
    pub fn close(&mut self) {
        (self.initiator_gone, self.target_gone) = (true, true);
        self.up.clear();
        self.down.clear();
    }

    /// The initiator has closed its end; what it has sent still arrives.
    pub fn initiator_is_gone(&mut self) {
        self.initiator_gone = true;
        self.down.clear();
    }

    /// The target has closed its end; what it has sent still arrives.
    pub fn target_is_gone(&mut self) {
        self.target_gone = true;
        self.unacknowledged += if self.down.silent { self.up.bytes } else { 0 };
        self.up.clear();
    }

    /// Nothing can happen on it any more.
    pub fn is_over(&self) -> bool {
        self.initiator_gone && self.target_gone
    }

    pub fn has_ended_for_target(&self) -> bool {
        self.initiator_gone && self.up.has_ended()
    }

    pub fn has_ended_for_initiator(&self) -> bool {
        self.target_gone && self.down.has_ended()
    }

    pub fn is_target_gone(&self) -> bool {
        self.target_gone
    }

    /// When the next bytes of either direction arrive.
    pub fn arrivals(&self) -> impl Iterator<Item = Instant> {
        let pipes = [&self.up, &self.down].into_iter().filter(|pipe| !pipe.silent);
        pipes.flat_map(|pipe| pipe.chunks.iter().map(|chunk| chunk.arrival))
    }
}
