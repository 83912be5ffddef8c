//! A virtqueue under guard: virtio-drivers' queue, which keeps the rings, and
//! round it all that a device could do wrong with them. Calls `device`, `dma`.
//!
//! The queue's own checks are few: it compares 16 bits of the number that the
//! device gives back with the one expected, takes any length and any index, and
//! panics where a caller gives it an empty buffer or other buffers than before.
//! The guard remembers what is where, reads the used ring first, and hands on
//! only what is right; what is not is the device's end ([`Device::shut_off`]).

use crate::device::SetUp;
use crate::{Coherent, Device, Env, Error, Fault, Link, Memory};
use core::mem::ManuallyDrop;
use core::ptr::NonNull;
use core::sync::atomic::{AtomicU16, Ordering};
use virtio_drivers::queue::VirtQueue;

mod capture;

use capture::Capture;

/// Buffers of one request at most.
pub const MAX_CHAIN: usize = 32;

/// Memory for a device, in one piece: what it points to is not touched by the
/// queue.
#[derive(Clone, Copy, Debug)]
pub struct Buffer {
    ptr: NonNull<u8>,
    len: u32,
    writable: bool,
}

// SAFETY: an address and a length; whoever submits it vouches for the memory.
unsafe impl Send for Buffer {}
// SAFETY: as above.
unsafe impl Sync for Buffer {}

impl Buffer {
    /// `len` bytes that the device reads.
    pub const fn readable(ptr: NonNull<u8>, len: u32) -> Self {
        Self { ptr, len, writable: false }
    }

    /// `len` bytes that the device may write.
    pub const fn writable(ptr: NonNull<u8>, len: u32) -> Self {
        Self { ptr, len, writable: true }
    }

    /// No memory, where there is none.
    const NONE: Self = Self::readable(NonNull::dangling(), 0);

    fn bytes(&self) -> NonNull<[u8]> {
        NonNull::slice_from_raw_parts(self.ptr, self.len as usize)
    }
}

/// A request that a queue has accepted.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Token(u16);

/// A request that the device is done with.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Done {
    /// Which.
    pub token: Token,
    /// Bytes that the device says it has written; never more than it could.
    pub len: u32,
}

/// What the device has of one request: `len` buffers from `first` on, linked.
#[derive(Clone, Copy)]
struct Chain {
    first: u16,
    len: u16,
    /// Bytes that the device can write.
    room: u64,
}

/// A virtqueue with room for `SIZE` buffers.
///
/// Dropped, it leaks its rings, for the device may know them still:
/// [`Queue::free`] frees them once the device stands still.
pub struct Queue<H: Memory, const SIZE: usize> {
    ring: ManuallyDrop<VirtQueue<H, SIZE>>,
    /// Where the device writes: flags, index, then `SIZE` pairs of number and
    /// length.
    used: NonNull<u8>,
    index: u16,
    /// Whose queue it is.
    device: u32,
    /// Used entries taken so far, as the device counts them.
    taken: u16,
    /// Requests that the device has.
    in_flight: u16,
    /// By token.
    chains: [Option<Chain>; SIZE],
    /// What the chains consist of, and next in the chain (or among the free).
    buffers: [(Buffer, u16); SIZE],
    free: u16,
}

impl<H: Memory, const SIZE: usize> core::fmt::Debug for Queue<H, SIZE> {
    fn fmt(&self, f: &mut core::fmt::Formatter<'_>) -> core::fmt::Result {
        let mut out = f.debug_struct("Queue");
        out.field("index", &self.index).field("in_flight", &self.in_flight).finish_non_exhaustive()
    }
}

// SAFETY: the pointers are to memory of the queue's own, or to what `submit`'s
// caller vouches for; nothing belongs to a thread.
unsafe impl<H: Memory, const SIZE: usize> Send for Queue<H, SIZE> {}

impl<H: Memory, const SIZE: usize> Queue<H, SIZE> {
    /// Sets up queue `index` of the device behind `link`.
    pub(crate) fn set_up<T: Link>(link: &mut T, index: u16, device: u32) -> Result<Self, SetUp> {
        let has = link.max_queue_size(index);
        if has == 0 {
            return Err(SetUp::Fault(Fault::NoQueue(index)));
        }
        if has < SIZE as u32 {
            let fault = Fault::QueueTooSmall { queue: index, has, needs: SIZE as u32 };
            return Err(SetUp::Fault(fault));
        }
        if link.queue_used(index) {
            return Err(SetUp::Fault(Fault::QueueState(index)));
        }
        let mut link = Capture::new(link);
        let ring = match VirtQueue::new(&mut link, index, false, false) {
            Ok(ring) => ManuallyDrop::new(ring),
            Err(virtio_drivers::Error::DmaError) => return Err(SetUp::NoMemory),
            // It has changed its mind.
            Err(_) => return Err(SetUp::Fault(Fault::QueueState(index))),
        };
        let Some(area) = link.device_area() else {
            return Err(SetUp::Fault(Fault::QueueState(index)));
        };
        Ok(Self {
            ring,
            used: H::at(area),
            index,
            device,
            taken: 0,
            in_flight: 0,
            chains: [None; SIZE],
            buffers: core::array::from_fn(|at| (Buffer::NONE, at as u16 + 1)),
            free: 0,
        })
    }

    /// Its number at the device.
    pub const fn index(&self) -> u16 {
        self.index
    }

    /// Requests that the device has.
    pub const fn in_flight(&self) -> u16 {
        self.in_flight
    }

    /// Checks a chain: the bytes that the device could write.
    fn check(chain: &[Buffer]) -> Result<u64, Error> {
        if chain.is_empty() || chain.len() > MAX_CHAIN.min(SIZE) {
            return Err(Error::Invalid);
        }
        // Readable ones come first.
        if chain.iter().any(|it| it.len == 0) || !chain.is_sorted_by_key(|it| it.writable) {
            return Err(Error::Invalid);
        }
        if chain.iter().any(|it| H::reach(it.ptr, it.len as usize).is_none()) {
            return Err(Error::Unreachable);
        }
        Ok(chain.iter().filter(|it| it.writable).map(|it| u64::from(it.len)).sum())
    }

    /// Puts a request of up to [`MAX_CHAIN`] buffers into the queue, those that
    /// the device reads first. Does not tell the device: [`Queue::notify`].
    ///
    /// # Errors
    ///
    /// [`Error::Full`] if there is no room now, [`Error::Invalid`],
    /// [`Error::Unreachable`], [`Error::Broken`]; the device has got nothing then.
    ///
    /// # Safety
    ///
    /// The buffers' memory must stay valid, unused by others (those that the
    /// device reads: unwritten), until [`Queue::poll`] or [`Queue::wait`] gives
    /// the token back, or the device [is quiet](Device::is_quiet).
    pub unsafe fn submit<T: Link, E: Env>(
        &mut self,
        device: &Device<T, E>,
        chain: &[Buffer],
    ) -> Result<Token, Error> {
        if device.number() != self.device {
            return Err(Error::Invalid);
        }
        device.check()?;
        // SAFETY: passed on to the caller.
        unsafe { self.put(chain) }
    }

    /// [`Queue::submit`] without a look at the device, which may have to be waited
    /// for: for drivers that have the queue under a lock.
    ///
    /// # Errors
    ///
    /// As [`Queue::submit`] but [`Error::Broken`].
    ///
    /// # Safety
    ///
    /// As [`Queue::submit`].
    pub(crate) unsafe fn put(&mut self, chain: &[Buffer]) -> Result<Token, Error> {
        let room = Self::check(chain)?;
        if self.ring.available_desc() < chain.len() {
            return Err(Error::Full);
        }
        // SAFETY: passed on to the caller; nothing of them was handed out yet.
        let added = unsafe { with_slices(chain, |inputs, outputs| self.ring.add(inputs, outputs)) };
        let Ok(head) = added else { return Err(Error::Full) };
        // The ring's free entries and these are the same number.
        let first = self.free;
        let mut last = first;
        for buffer in chain {
            last = self.free;
            let entry = &mut self.buffers[usize::from(last)];
            entry.0 = *buffer;
            self.free = entry.1;
        }
        debug_assert!(usize::from(last) < SIZE, "the ring has room, so this has");
        let len = chain.len() as u16;
        self.chains[usize::from(head)] = Some(Chain { first, len, room });
        self.in_flight += 1;
        Ok(Token(head))
    }

    /// Tells the device to look, unless it wants not to be told.
    pub fn notify<T: Link, E: Env>(&self, device: &Device<T, E>) {
        if device.number() == self.device && self.ring.should_notify() {
            device.ring(self.index);
        }
    }

    /// Whether the device wants to be told of what was put in.
    pub(crate) fn wants_bell(&self) -> bool {
        self.ring.should_notify()
    }

    /// Buffers that there is room for.
    pub(crate) fn room(&self) -> usize {
        self.ring.available_desc()
    }

    /// Whether the device says that it is done with something, right or wrong.
    pub fn has_used(&self) -> bool {
        self.used_index() != self.taken
    }

    /// Takes back a request that the device is done with, if there is one.
    ///
    /// # Errors
    ///
    /// [`Error::Broken`], also for nonsense in the ring.
    pub fn poll<T: Link, E: Env>(&mut self, device: &Device<T, E>) -> Result<Option<Done>, Error> {
        if device.number() != self.device {
            return Err(Error::Invalid);
        }
        device.check()?;
        self.take().map_err(|fault| device.shut_off(fault))
    }

    /// Waits for `limit_ms` at most until the device is done with a request. No
    /// lock held.
    ///
    /// # Errors
    ///
    /// [`Error::Broken`]: for nonsense in the ring, for a device that says it
    /// has failed, or when the time is up. [`Error::Invalid`] if the device has
    /// nothing.
    pub fn wait<T: Link, E: Env>(
        &mut self,
        device: &Device<T, E>,
        limit_ms: u64,
    ) -> Result<Done, Error> {
        if self.in_flight == 0 {
            return Err(Error::Invalid);
        }
        let until = device.env().now_ms().saturating_add(limit_ms);
        loop {
            if let Some(done) = self.poll(device)? {
                return Ok(done);
            }
            let now = device.env().now_ms();
            if now >= until {
                let fault = Fault::NoAnswer { queue: self.index, ms: limit_ms };
                return Err(device.shut_off(fault));
            }
            // Now and then a look at whether the device is there at all.
            let step = (until - now).min(STATUS_MS);
            let ready = &mut || self.has_used() || !device.is_working();
            if !device.env().wait(step, ready) {
                device.check_status()?;
            }
        }
    }

    /// Has the device do one thing: submits `chain`, tells the device and waits,
    /// `limit_ms` at most. Returns the bytes that it says it has written. The
    /// queue must have nothing else to do ([`Error::Full`]).
    ///
    /// # Errors
    ///
    /// As [`Queue::submit`] and [`Queue::wait`].
    ///
    /// # Safety
    ///
    /// The buffers' memory must stay valid and unused by others until this
    /// returns, and for good if the error [is not quiet](Error::is_quiet).
    pub unsafe fn transfer<T: Link, E: Env>(
        &mut self,
        device: &Device<T, E>,
        chain: &[Buffer],
        limit_ms: u64,
    ) -> Result<u32, Error> {
        device.check()?;
        if self.in_flight != 0 {
            return Err(Error::Full);
        }
        // SAFETY: passed on to the caller.
        unsafe { self.submit(device, chain) }?;
        self.notify(device);
        Ok(self.wait(device, limit_ms)?.len)
    }

    /// [`Queue::transfer`] of the first `out` bytes of `request`, for which the
    /// device may write up to `back` bytes to `answer`; either may be 0. Returns
    /// how many it has written.
    ///
    /// # Errors
    ///
    /// As [`Queue::transfer`]; if the error is not quiet, request and answer
    /// are [abandoned](Coherent::abandon).
    pub fn exchange<T: Link, E: Env>(
        &mut self,
        device: &Device<T, E>,
        (request, out): (&mut Coherent<H>, u32),
        (answer, back): (&mut Coherent<H>, u32),
        limit_ms: u64,
    ) -> Result<u32, Error> {
        let parts = &mut [(request, out, false), (answer, back, true)];
        self.transfer_own(device, parts, limit_ms)
    }

    /// [`Queue::transfer`] of the first `out` bytes of `request`, to which the
    /// device answers nothing.
    ///
    /// # Errors
    ///
    /// As [`Queue::exchange`].
    pub fn send<T: Link, E: Env>(
        &mut self,
        device: &Device<T, E>,
        request: &mut Coherent<H>,
        out: u32,
        limit_ms: u64,
    ) -> Result<(), Error> {
        self.transfer_own(device, &mut [(request, out, false)], limit_ms).map(|_| ())
    }

    /// [`Queue::transfer`] of so many of the first bytes of each of the `parts`,
    /// which the device may write where it says so. 0 bytes are left out.
    fn transfer_own<T: Link, E: Env>(
        &mut self,
        device: &Device<T, E>,
        parts: &mut [(&mut Coherent<H>, u32, bool)],
        limit_ms: u64,
    ) -> Result<u32, Error> {
        let (mut chain, mut len) = ([Buffer::NONE; 2], 0);
        for (memory, bytes, writable) in parts.iter() {
            if *bytes as usize > memory.bytes() || len == chain.len() {
                return Err(Error::Invalid);
            }
            if *bytes > 0 {
                chain[len] = Buffer { ptr: memory.as_ptr(), len: *bytes, writable: *writable };
                len += 1;
            }
        }
        // SAFETY: they are borrowed till the end, and abandoned if need be.
        let result = unsafe { self.transfer(device, &chain[..len], limit_ms) };
        if result.is_err_and(|error| !error.is_quiet()) {
            for (memory, _, _) in parts {
                if memory.abandon() {
                    device.leak(memory.pages() as u64);
                }
            }
        }
        result
    }

    /// [`Queue::transfer`] of nothing, to which the device may answer up to `back`
    /// bytes. Returns how many it has written.
    ///
    /// # Errors
    ///
    /// As [`Queue::exchange`].
    pub fn receive<T: Link, E: Env>(
        &mut self,
        device: &Device<T, E>,
        answer: &mut Coherent<H>,
        back: u32,
        limit_ms: u64,
    ) -> Result<u32, Error> {
        self.transfer_own(device, &mut [(answer, back, true)], limit_ms)
    }

    /// Frees the rings if the device certainly does not know them any more;
    /// otherwise they are leaked, and counted.
    pub fn free<T: Link, E: Env>(mut self, device: &Device<T, E>) {
        if device.number() == self.device && device.is_quiet() {
            // SAFETY: not used any more, for `self` ends here.
            unsafe { ManuallyDrop::drop(&mut self.ring) };
        } else {
            device.leak(Self::pages());
        }
    }

    /// Pages of the rings.
    const fn pages() -> u64 {
        let (driver, used) = (16 * SIZE + 2 * (3 + SIZE), 6 + 8 * SIZE);
        (driver.div_ceil(4096) + used.div_ceil(4096)) as u64
    }

    /// Where the device says it is in its ring.
    fn used_index(&self) -> u16 {
        // SAFETY: the ring's second word, aligned, in memory that lives as long
        // as the queue; the device writes it as a whole.
        let index = unsafe { self.used.cast::<AtomicU16>().add(1).as_ref() };
        index.load(Ordering::Acquire)
    }

    /// The number and the length that the device has left in entry `at`.
    fn used_entry(&self, at: u16) -> (u32, u32) {
        let slot = usize::from(at) % SIZE;
        // SAFETY: the entry lies inside of the ring, 4 bytes aligned; whatever
        // the device writes there makes numbers.
        unsafe {
            let entry = self.used.add(4 + 8 * slot).cast::<u32>();
            (entry.read_volatile(), entry.add(1).read_volatile())
        }
    }

    /// [`Queue::poll`] without a look at the device: whoever gets a fault shuts it
    /// off, when that can be waited for.
    pub(crate) fn take(&mut self) -> Result<Option<Done>, Fault> {
        let queue = self.index;
        let used = self.used_index().wrapping_sub(self.taken);
        if used == 0 {
            return Ok(None);
        }
        if used > self.in_flight {
            return Err(Fault::UsedAhead { queue, used, had: self.in_flight });
        }
        let (id, len) = self.used_entry(self.taken);
        let chain = self.chains.get_mut(id as usize).and_then(Option::take);
        let Some(chain) = chain else { return Err(Fault::UsedId { queue, id }) };
        if u64::from(len) > chain.room {
            let room = chain.room.min(u32::MAX.into()) as u32;
            return Err(Fault::UsedLen { queue, len, room });
        }
        let mut buffers = [Buffer::NONE; MAX_CHAIN];
        let buffers = &mut buffers[..usize::from(chain.len)];
        let (mut at, mut last) = (chain.first, chain.first);
        for buffer in buffers.iter_mut() {
            last = at;
            (*buffer, at) = self.buffers[usize::from(at)];
        }
        let token = id as u16;
        // SAFETY: the very buffers of `submit`, which the device is done with.
        let popped = unsafe {
            with_slices(buffers, |inputs, outputs| self.ring.pop_used(token, inputs, outputs))
        };
        // The device may write to the ring between two looks at it.
        if popped != Ok(len) {
            return Err(Fault::UsedChanged(queue));
        }
        self.buffers[usize::from(last)].1 = self.free;
        self.free = chain.first;
        self.taken = self.taken.wrapping_add(1);
        self.in_flight -= 1;
        Ok(Some(Done { token: Token(token), len }))
    }
}

/// How often a device's status is looked at while it is waited for (ms).
pub(crate) const STATUS_MS: u64 = 500;

/// Hands `f` the buffers of `chain` as slices, in the form that virtio-drivers
/// wants: it takes no more from them than address and length.
///
/// # Safety
///
/// The memory must be valid, and nobody but a device may use it meanwhile.
/// Readable buffers come before writable ones; there are [`MAX_CHAIN`] at most.
unsafe fn with_slices<R>(
    chain: &[Buffer],
    f: impl for<'a> FnOnce(&'a [&'a [u8]], &'a mut [&'a mut [u8]]) -> R,
) -> R {
    let split = chain.iter().filter(|it| !it.writable).count();
    let (readable, writable) = chain.split_at(split);
    let mut inputs: [&[u8]; MAX_CHAIN] = [&[]; MAX_CHAIN];
    for (slice, buffer) in inputs.iter_mut().zip(readable) {
        // SAFETY: the caller's word. That a device may write there too is what
        // sharing it means; nothing is read through the slice.
        *slice = unsafe { buffer.bytes().as_ref() };
    }
    let mut outputs: [&mut [u8]; MAX_CHAIN] = core::array::from_fn(|_| &mut [][..]);
    for (slice, buffer) in outputs.iter_mut().zip(writable) {
        // SAFETY: as above.
        *slice = unsafe { buffer.bytes().as_mut() };
    }
    f(&inputs[..readable.len()], &mut outputs[..writable.len()])
}
