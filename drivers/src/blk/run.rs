//! Several blocks at a time: requests are put in as there is room, waited for
//! together, and what failed is tried once more, alone. Calls `ring`, `driver`.

use super::ring::{Op, Slot, Status};
use super::{SECTORS_PER_BLOCK, VirtioBlk};
use crate::device::ANSWER_MS;
use crate::queue::STATUS_MS;
use crate::{Coherent, Env, Error, Fault, Link, Memory};
use core::ops::Range;
use core::ptr::NonNull;
use core::slice;
use mm::types::PAGE_SIZE;

/// Blocks that are dealt with together.
pub(super) const PIECES: usize = 32;

/// What became of a block.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) enum Outcome {
    /// Nothing yet.
    Open,
    /// It failed, with others perhaps of which it was one; it is to be tried alone.
    Alone,
    Ok,
    Failed,
}

/// One block, and its memory: a page's bytes.
#[derive(Clone, Copy)]
pub(super) struct Piece {
    pub(super) block: u64,
    pub(super) ptr: NonNull<u8>,
    pub(super) outcome: Outcome,
}

/// A request that the device has, and which of the pieces it is about.
#[derive(Clone, Copy)]
struct Sent {
    slot: Slot,
    first: usize,
    len: usize,
}

/// Requests that are waited for together.
struct Flight {
    sent: [Option<Sent>; PIECES],
    len: usize,
}

impl Flight {
    const fn new() -> Self {
        Self { sent: [None; PIECES], len: 0 }
    }

    /// There is room for as many as there are pieces.
    fn push(&mut self, sent: Sent) {
        if let Some(place) = self.sent.get_mut(self.len) {
            *place = Some(sent);
            self.len += 1;
        }
    }

    fn iter(&self) -> impl Iterator<Item = Sent> + '_ {
        self.sent.iter().flatten().copied()
    }
}

/// The pieces from `from` on that one request can be about: blocks that follow
/// each other, `most` at most.
fn next_run(pieces: &[Piece], from: usize, most: usize) -> Option<Range<usize>> {
    let due = |piece: &Piece| matches!(piece.outcome, Outcome::Open | Outcome::Alone);
    let first = (from..pieces.len()).find(|&at| due(&pieces[at]))?;
    let follows = |at: &usize| {
        let since = (*at - first) as u64;
        due(&pieces[*at]) && pieces[*at].block == pieces[first].block + since
    };
    let len = (first..pieces.len()).take(most.max(1)).take_while(follows).count();
    Some(first..first + len)
}

impl<T: Link, E: Env, H: Memory> VirtioBlk<T, E, H> {
    /// Reads or writes the pieces, [`PIECES`] at most; each has an outcome then.
    ///
    /// # Safety
    ///
    /// The memory of the pieces is valid and used by nobody, or is only read by
    /// others if the device is to read it, until this returns.
    pub(super) unsafe fn run(&self, op: Op, pieces: &mut [Piece]) {
        debug_assert!(pieces.len() <= PIECES);
        let most = self.config().segments as usize;
        // SAFETY: passed on to the caller.
        let done = unsafe { self.pass(op, pieces, most) }.and_then(|()| {
            let mut again = pieces.iter_mut().filter(|piece| piece.outcome == Outcome::Alone);
            // One after the other: a device may join those it has at one time, as
            // QEMU does, and have all of them fail again.
            // SAFETY: as above.
            again.try_for_each(|piece| unsafe { self.pass(op, slice::from_mut(piece), 1) })
        });
        if done.is_err() {
            // What the device may write to yet is not the caller's until it cannot.
            if op == Op::Read {
                self.keep_until_quiet();
            }
            for piece in pieces {
                if piece.outcome != Outcome::Ok {
                    piece.outcome = Outcome::Failed;
                }
            }
        }
    }

    /// One try of all pieces that are due, up to `most` in a request.
    ///
    /// # Safety
    ///
    /// As [`run`](Self::run); if this fails, until the device is quiet.
    unsafe fn pass(&self, op: Op, pieces: &mut [Piece], most: usize) -> Result<(), Error> {
        let mut next = 0;
        while next < pieces.len() {
            self.device().check()?;
            // SAFETY: passed on to the caller.
            let (flight, goes_on) = unsafe { self.send(op, pieces, next, most) }?;
            if flight.len > 0 {
                self.land(&flight)?;
                self.collect(&flight, pieces)?;
            } else if goes_on < pieces.len() {
                self.wait_for_room()?;
            }
            next = goes_on;
        }
        Ok(())
    }

    /// Puts in what there is room for, from piece `next` on, and tells the
    /// device. Comes with where to go on.
    ///
    /// # Safety
    ///
    /// As [`pass`](Self::pass).
    unsafe fn send(
        &self,
        op: Op,
        pieces: &[Piece],
        mut next: usize,
        most: usize,
    ) -> Result<(Flight, usize), Error> {
        let mut flight = Flight::new();
        let put = self.with_ring(|ring| {
            while let Some(mut run) = next_run(pieces, next, most) {
                let sent = loop {
                    let mut data = [NonNull::dangling(); PIECES];
                    let parts = &pieces[run.clone()];
                    data.iter_mut().zip(parts).for_each(|(to, piece)| *to = piece.ptr);
                    let sector = parts[0].block * SECTORS_PER_BLOCK;
                    // SAFETY: passed on to the caller.
                    match unsafe { ring.put(op, sector, &data[..parts.len()]) } {
                        // A shorter one may fit.
                        Err(Error::Full) if run.len() > 1 => run.end = run.start + run.len() / 2,
                        other => break other,
                    }
                };
                match sent {
                    Ok(slot) => flight.push(Sent { slot, first: run.start, len: run.len() }),
                    Err(Error::Full) => return Ok(ring.wants_bell()),
                    Err(error) => return Err(error),
                }
                next = run.end;
            }
            next = pieces.len();
            Ok(ring.wants_bell())
        });
        match put {
            Some(Ok(bell)) => {
                if flight.len > 0 && bell {
                    self.ring_bell();
                }
                Ok((flight, next))
            }
            // Those before it went out, and have to come back.
            Some(Err(error)) => {
                self.ring_bell();
                self.land(&flight)?;
                self.with_ring(|ring| {
                    for sent in flight.iter() {
                        ring.collect(sent.slot);
                    }
                });
                Err(error)
            }
            None => Err(Error::Stopped),
        }
    }

    /// Waits until the device is done with all of `flight`.
    fn land(&self, flight: &Flight) -> Result<(), Error> {
        let (device, env) = (self.device(), self.device().env());
        let until = env.now_ms().saturating_add(ANSWER_MS);
        let mut late = false;
        loop {
            let mut fault = None;
            let ready = &mut || {
                let landed = self.with_ring(|ring| {
                    ring.reap()?;
                    Ok(flight.iter().all(|sent| ring.is_done(sent.slot)))
                });
                match landed {
                    _ if !device.is_working() => true,
                    Some(Ok(landed)) => landed,
                    Some(Err(found)) => {
                        fault = Some(found);
                        true
                    }
                    None => true,
                }
            };
            // Now and then a look at whether the device is there at all.
            let woken = env.wait(until.saturating_sub(env.now_ms()).min(STATUS_MS), ready);
            if let Some(fault) = fault {
                return Err(device.shut_off(fault));
            }
            if woken {
                return device.check();
            }
            device.check_status()?;
            if env.now_ms() >= until {
                // It may have answered since, if this thread did not run for a while.
                if !core::mem::replace(&mut late, true) {
                    continue;
                }
                let fault = Fault::NoAnswer { queue: super::ring::QUEUE, ms: ANSWER_MS };
                return Err(device.shut_off(fault));
            }
        }
    }

    /// Takes the outcomes of what has landed.
    fn collect(&self, flight: &Flight, pieces: &mut [Piece]) -> Result<(), Error> {
        let collected = self.with_ring(|ring| {
            for sent in flight.iter() {
                let status = ring.collect(sent.slot);
                for piece in &mut pieces[sent.first..sent.first + sent.len] {
                    piece.outcome = match (status, piece.outcome) {
                        (Some(Status::Ok), _) => Outcome::Ok,
                        (Some(_), Outcome::Open) => Outcome::Alone,
                        _ => Outcome::Failed,
                    };
                }
            }
        });
        self.tell_waiting();
        collected.ok_or(Error::Stopped)
    }

    /// One request without blocks.
    pub(super) fn ask(&self, op: Op, sector: u64) -> Result<Status, Error> {
        loop {
            self.device().check()?;
            // SAFETY: there is no memory that could be used.
            let put = self
                .with_ring(|ring| Ok((unsafe { ring.put(op, sector, &[]) }?, ring.wants_bell())));
            let (slot, bell) = match put.unwrap_or(Err(Error::Stopped)) {
                Ok(put) => put,
                Err(Error::Full) => {
                    self.wait_for_room()?;
                    continue;
                }
                Err(error) => return Err(error),
            };
            if bell {
                self.ring_bell();
            }
            let mut flight = Flight::new();
            flight.push(Sent { slot, first: 0, len: 0 });
            self.land(&flight)?;
            let status = self.with_ring(|ring| ring.collect(slot)).flatten();
            self.tell_waiting();
            return status.ok_or(Error::Stopped);
        }
    }

    /// Reads or writes one block whose memory the device does not reach, by way
    /// of a page that it does.
    pub(super) fn bounce(&self, block: u64, page: Bounced<'_>) -> Result<(), Error> {
        let env = self.device().env();
        let taken = &mut || !self.device().is_working() || self.bounce_page().take();
        while !env.wait(STATUS_MS, taken) {
            self.device().check_status()?;
        }
        self.device().check()?;
        let memory = self.bounce_page().memory();
        let mut piece = [Piece { block, ptr: memory.as_ptr(), outcome: Outcome::Open }];
        let ptr = memory.as_ptr().as_ptr();
        let op = match &page {
            Bounced::Read(_) => Op::Read,
            Bounced::Write(page) => {
                // SAFETY: a page of the driver's, which it has just taken.
                unsafe { ptr.copy_from_nonoverlapping(page.as_ptr(), PAGE_SIZE) };
                Op::Write
            }
        };
        // SAFETY: as above, until it is given back.
        unsafe { self.run(op, &mut piece) };
        let ok = piece[0].outcome == Outcome::Ok;
        if let Bounced::Read(page) = page
            && ok
        {
            // SAFETY: the device is done with it.
            unsafe { page.as_mut_ptr().copy_from_nonoverlapping(ptr, PAGE_SIZE) };
        }
        self.bounce_page().give();
        env.wake();
        if ok { Ok(()) } else { Err(Error::Unreachable) }
    }
}

/// A page that is copied, and which way.
pub(super) enum Bounced<'a> {
    Read(&'a mut [u8; PAGE_SIZE]),
    Write(&'a [u8; PAGE_SIZE]),
}

/// A page that the device reaches, for one at a time.
pub(super) struct BouncePage<H: Memory> {
    memory: Coherent<H>,
    taken: core::sync::atomic::AtomicBool,
}

impl<H: Memory> BouncePage<H> {
    pub(super) const fn new(memory: Coherent<H>) -> Self {
        Self { memory, taken: core::sync::atomic::AtomicBool::new(false) }
    }

    fn take(&self) -> bool {
        !self.taken.swap(true, core::sync::atomic::Ordering::Acquire)
    }

    fn give(&self) {
        self.taken.store(false, core::sync::atomic::Ordering::Release);
    }

    const fn memory(&self) -> &Coherent<H> {
        &self.memory
    }

    pub(super) fn into_memory(self) -> Coherent<H> {
        self.memory
    }
}
