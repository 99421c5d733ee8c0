//! The memory of one connection for data on its way: taken when a command needs it, kept for the
//! next one afterwards, so that the steady state allocates nothing.

/// A buffer in use.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct BufferName(u16);

/// Buffers in use by name, and idle ones by size.
#[derive(Debug, Default)]
pub(super) struct Buffers {
    in_use: Vec<Box<[u8]>>,
    unused_names: Vec<u16>,
    /// Idle buffers of `SMALLEST_BYTES << index` bytes.
    idle: [Vec<Box<[u8]>>; SIZES],
    idle_bytes: usize,
}

const SMALLEST_BYTES: usize = 4096;
/// 4 KiB to 8 MiB, the longest transfer.
const SIZES: usize = 12;
/// Idle memory that a connection may keep; more goes back to the system.
const IDLE_BYTES_MAX: usize = 16 << 20;

impl Buffers {
    /// A buffer of at least `bytes`, at most 8 MiB. Its content is what it was last used for.
    pub(super) fn acquire(&mut self, bytes: usize) -> BufferName {
        let size_bytes = bytes.next_power_of_two().max(SMALLEST_BYTES);
        let index = (size_bytes / SMALLEST_BYTES).trailing_zeros() as usize;
        let buffer = match self.idle[index].pop() {
            Some(buffer) => {
                self.idle_bytes -= size_bytes;
                buffer
            }
            None => vec![0; size_bytes].into(),
        };
        if let Some(name) = self.unused_names.pop() {
            self.in_use[usize::from(name)] = buffer;
            return BufferName(name);
        }
        let name = u16::try_from(self.in_use.len()).expect("tasks and queued PDUs are far fewer");
        self.in_use.push(buffer);
        BufferName(name)
    }

    /// The buffer is no longer needed.
    pub(super) fn release(&mut self, name: BufferName) {
        let buffer = std::mem::take(&mut self.in_use[usize::from(name.0)]);
        self.unused_names.push(name.0);
        if self.idle_bytes + buffer.len() <= IDLE_BYTES_MAX {
            let index = (buffer.len() / SMALLEST_BYTES).trailing_zeros() as usize;
            self.idle_bytes += buffer.len();
            self.idle[index].push(buffer);
        }
    }

    /// Its bytes.
    pub(super) fn get(&self, name: BufferName) -> &[u8] {
        &self.in_use[usize::from(name.0)]
    }

    /// Its bytes, for writing.
    pub(super) fn get_mut(&mut self, name: BufferName) -> &mut [u8] {
        &mut self.in_use[usize::from(name.0)]
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_released_buffer_is_used_again() {
        let mut buffers = Buffers::default();
        let first = buffers.acquire(5000);
        assert_eq!(buffers.get(first).len(), 8192);
        buffers.get_mut(first)[0] = 7;
        buffers.release(first);
        let second = buffers.acquire(8192);
        assert_eq!((second, buffers.get(second)[0]), (first, 7));
        let third = buffers.acquire(1);
        assert_eq!(buffers.get(third).len(), 4096);
    }

    #[test]
    fn idle_memory_is_bounded() {
        let mut buffers = Buffers::default();
        let names: Vec<_> = (0..4).map(|_| buffers.acquire(8 << 20)).collect();
        for name in names {
            buffers.release(name);
        }
        assert_eq!(buffers.idle_bytes, IDLE_BYTES_MAX);
    }
}
