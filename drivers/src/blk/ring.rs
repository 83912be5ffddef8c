//! The queue and the words that go with its requests: what each is about, and
//! what the device says of it. Used under a lock; nobody waits here. Calls
//! `queue`.
//!
//! ```text
//!  words, per request:  0 type, sector (the device reads)
//!                      16 what is discarded (reads)       32 status (writes)
//! ```

use crate::queue::{MAX_CHAIN, Token};
use crate::{Buffer, Coherent, Device, Env, Error, Fault, Link, Memory, Queue};
use core::ptr::NonNull;

/// The requests' queue.
pub(super) const QUEUE: u16 = 0;
/// Descriptors of the queue.
const SIZE: usize = 128;
/// Requests that the device can have at a time: each takes three at least.
pub(super) const SLOTS: usize = SIZE / 3;
/// Pieces of memory of one request: less than there is room for, so that a
/// request does not fill the queue alone.
pub(super) const MOST_SEGMENTS: usize = 16;
const _: () = assert!(MOST_SEGMENTS + 2 <= MAX_CHAIN);

/// Bytes of a request's words.
const WORDS: usize = 64;
const RANGE: usize = 16;
const STATUS: usize = 32;
const _: () = assert!(SLOTS * WORDS <= virtio_drivers::PAGE_SIZE);

/// What no device answers.
const NO_STATUS: u8 = 0xff;

/// What is asked of the device.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) enum Op {
    Read,
    Write,
    Flush,
    /// So many sectors.
    Discard(u32),
}

impl Op {
    const fn code(self) -> u32 {
        match self {
            Self::Read => 0,
            Self::Write => 1,
            Self::Flush => 4,
            Self::Discard(_) => 11,
        }
    }
}

/// How a request has ended.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) enum Status {
    Ok,
    /// The device could not do it (`VIRTIO_BLK_S_IOERR`).
    Failed,
    /// It does not know what that is (`VIRTIO_BLK_S_UNSUPP`).
    Unsupported,
}

#[derive(Clone, Copy)]
enum State {
    Free,
    /// The device has it.
    Out(Token),
    /// The device is done with it; whoever asked has not looked.
    Done(Status),
}

/// The number of a request that the device has, or has had.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) struct Slot(u8);

/// The queue, and its requests.
pub(super) struct Ring<H: Memory> {
    queue: Queue<H, SIZE>,
    words: Coherent<H>,
    states: [State; SLOTS],
}

impl<H: Memory> Ring<H> {
    pub(super) fn new<T: Link, E: Env>(
        device: &mut Device<T, E>,
        words: Coherent<H>,
    ) -> Result<Self, Error> {
        let queue = device.queue(QUEUE)?;
        Ok(Self { queue, words, states: [State::Free; SLOTS] })
    }

    /// Puts a request in; `data` is memory that the device reads, or writes, by
    /// what is asked. The device is not told yet.
    ///
    /// # Errors
    ///
    /// [`Error::Full`], [`Error::Unreachable`], [`Error::Invalid`].
    ///
    /// # Safety
    ///
    /// The memory of `data` must stay valid, and used by nobody in a way that
    /// disturbs the device, until [`is_done`](Self::is_done), or until the device
    /// [is quiet](Device::is_quiet).
    pub(super) unsafe fn put(
        &mut self,
        op: Op,
        sector: u64,
        data: &[NonNull<u8>],
    ) -> Result<Slot, Error> {
        if data.len() > MOST_SEGMENTS {
            return Err(Error::Invalid);
        }
        let free = self.states.iter().position(|state| matches!(state, State::Free));
        let slot = free.ok_or(Error::Full)?;
        let base = slot * WORDS;
        self.words.write(base, op.code());
        self.words.write(base + 4, 0u32);
        self.words.write(base + 8, if matches!(op, Op::Discard(_)) { 0 } else { sector });
        self.words.write(base + STATUS, NO_STATUS);
        let words = self.words.as_ptr().as_ptr();
        let at = |offset: usize| {
            let ptr = words.wrapping_add(base + offset);
            NonNull::new(ptr).ok_or(Error::Invalid)
        };
        let mut chain = [Buffer::readable(at(0)?, 16); MAX_CHAIN];
        let mut len = 1;
        if let Op::Discard(sectors) = op {
            chain[len] = Buffer::readable(at(RANGE)?, 16);
            len += 1;
            self.words.write(base + RANGE, sector);
            self.words.write(base + RANGE + 8, sectors);
            self.words.write(base + RANGE + 12, 0u32);
        }
        for &ptr in data {
            let bytes = virtio_drivers::PAGE_SIZE as u32;
            chain[len] = match op {
                Op::Read => Buffer::writable(ptr, bytes),
                _ => Buffer::readable(ptr, bytes),
            };
            len += 1;
        }
        chain[len] = Buffer::writable(at(STATUS)?, 1);
        len += 1;
        // SAFETY: the words are this request's until it is done, and are abandoned
        // with a device that may use them still; for the rest the caller vouches.
        let token = unsafe { self.queue.put(&chain[..len]) }?;
        self.states[slot] = State::Out(token);
        Ok(Slot(slot as u8))
    }

    /// Whether the device wants to be told that there are requests.
    pub(super) fn wants_bell(&self) -> bool {
        self.queue.wants_bell()
    }

    /// Takes out what the device is done with.
    ///
    /// # Errors
    ///
    /// Nonsense that the device has said.
    pub(super) fn reap(&mut self) -> Result<(), Fault> {
        while let Some(done) = self.queue.take()? {
            let is = |state: &State| matches!(state, State::Out(token) if *token == done.token);
            // The queue gives back only what it has got.
            let Some(slot) = self.states.iter().position(is) else { continue };
            let status = match self.words.read::<u8>(slot * WORDS + STATUS) {
                Some(0) => Status::Ok,
                Some(1) => Status::Failed,
                Some(2) => Status::Unsupported,
                _ => return Err(Fault::Nonsense("answers with a status that there is not")),
            };
            self.states[slot] = State::Done(status);
        }
        Ok(())
    }

    /// Whether the device is done with that request.
    pub(super) fn is_done(&self, slot: Slot) -> bool {
        matches!(self.states.get(usize::from(slot.0)), Some(State::Done(_)))
    }

    /// How a request has ended that the device is done with; the slot is free.
    pub(super) fn collect(&mut self, slot: Slot) -> Option<Status> {
        let state = self.states.get_mut(usize::from(slot.0))?;
        let State::Done(status) = *state else { return None };
        *state = State::Free;
        Some(status)
    }

    /// Whether a request with one piece of memory could be put in.
    pub(super) fn has_room(&self) -> bool {
        self.queue.room() >= 3 && self.states.iter().any(|state| matches!(state, State::Free))
    }

    /// Frees all that the device, which was stopped or shut off, certainly does
    /// not know any more.
    pub(super) fn free<T: Link, E: Env>(self, device: &Device<T, E>) {
        let Self { queue, mut words, .. } = self;
        if !device.is_quiet() && words.abandon() {
            device.leak(words.pages() as u64);
        }
        queue.free(device);
    }
}
