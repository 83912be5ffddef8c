//! The device as a disk. Calls `device`, `ring`, `run`.

use super::ring::{Op, QUEUE, Ring, Status};
use super::run::{BouncePage, Bounced, Outcome, PIECES, Piece};
use super::{
    BlkConfig, FEATURE_BLK_SIZE, FEATURE_DISCARD, FEATURE_FLUSH, FEATURE_RO, FEATURE_SEG_MAX,
    SECTORS_PER_BLOCK,
};
use crate::{Coherent, Device, Env, Error, Fault, Link, Memory};
use core::fmt;
use core::ops::Range;
use core::ptr::NonNull;
use core::sync::atomic::{AtomicU32, AtomicU64, Ordering::Relaxed, Ordering::SeqCst};
use mm::block::{BlockDevice, BlockRead, BlockWrite, IoFailed, PageBytes, WriteFailed};
use mm::platform::LogLevel;
use spin::mutex::SpinMutex;

/// How often a device is looked at that could not be shut off (ms).
const LOOK_AGAIN_MS: u64 = 1_000;

/// What a disk was asked for so far, in blocks; failures included.
#[derive(Clone, Copy, PartialEq, Eq, Default, Debug)]
pub struct Counts {
    /// Blocks read.
    pub reads: u64,
    /// Blocks written.
    pub writes: u64,
    /// Of both, those that failed.
    pub failed: u64,
}

/// A virtio block device. Any number of threads may use it at a time.
pub struct VirtioBlk<T: Link, E: Env, H: Memory> {
    name: &'static str,
    device: Device<T, E>,
    config: BlkConfig,
    /// Its size, which may change.
    sectors: AtomicU64,
    /// None once the device is gone and what was for it is freed.
    ring: SpinMutex<Option<Ring<H>>>,
    bounce: BouncePage<H>,
    /// Callers that wait for room in the queue.
    waiting: AtomicU32,
    reads: AtomicU64,
    writes: AtomicU64,
    failed: AtomicU64,
}

impl<T: Link, E: Env, H: Memory> fmt::Debug for VirtioBlk<T, E, H> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let mut out = f.debug_struct("VirtioBlk");
        out.field("name", &self.name).field("device", &self.device).finish_non_exhaustive()
    }
}

impl<T: Link, E: Env, H: Memory> VirtioBlk<T, E, H> {
    /// Takes the device behind `link` over; `number` is for its name as a device,
    /// `name` its path as a disk.
    ///
    /// # Errors
    /// [`Error::Broken`], [`Error::NoMemory`]; then the device does nothing.
    pub fn new(name: &'static str, number: u32, link: T, env: E) -> Result<Self, Error> {
        let words = Coherent::new(1).ok_or(Error::NoMemory)?;
        let bounce = BouncePage::new(Coherent::new(1).ok_or(Error::NoMemory)?);
        let wanted =
            FEATURE_SEG_MAX | FEATURE_RO | FEATURE_BLK_SIZE | FEATURE_FLUSH | FEATURE_DISCARD;
        let mut device = Device::new(number, link, env, wanted)?;
        let config = BlkConfig::read(&device).and_then(|config| match config.check() {
            Ok(()) => Ok(config),
            Err(why) => {
                device.env().log(LogLevel::Info, format_args!("{device} {why}"));
                Err(device.shut_off(Fault::Nonsense("is no disk that can be used")))
            }
        });
        let parts = config.and_then(|config| Ok((config, Ring::new(&mut device, words)?)));
        let (config, ring) = match parts {
            Ok(parts) => parts,
            Err(error) => {
                device.stop();
                return Err(error);
            }
        };
        if let Err(error) = device.start() {
            ring.free(&device);
            return Err(error);
        }
        Ok(Self {
            name,
            device,
            sectors: AtomicU64::new(config.sectors),
            config,
            ring: SpinMutex::new(Some(ring)),
            bounce,
            waiting: AtomicU32::new(0),
            reads: AtomicU64::new(0),
            writes: AtomicU64::new(0),
            failed: AtomicU64::new(0),
        })
    }

    /// The device.
    pub fn device(&self) -> &Device<T, E> {
        &self.device
    }

    /// What it said of itself when it was taken over.
    pub fn config(&self) -> &BlkConfig {
        &self.config
    }

    /// Its size in sectors of 512 bytes, as it was last looked at.
    pub fn sectors(&self) -> u64 {
        self.sectors.load(Relaxed)
    }

    /// Looks at the device's size, which it may change at any time; true if it has.
    /// One that has gone, or says what cannot be, keeps the size it had.
    pub fn look_at_size(&self) -> bool {
        let config = BlkConfig::read(&self.device).ok().filter(|config| config.check().is_ok());
        config.is_some_and(|config| self.sectors.swap(config.sectors, Relaxed) != config.sectors)
    }

    /// What it was asked for so far.
    pub fn counts(&self) -> Counts {
        Counts {
            reads: self.reads.load(Relaxed),
            writes: self.writes.load(Relaxed),
            failed: self.failed.load(Relaxed),
        }
    }

    /// Whether it has a cache that a flush empties.
    pub fn has_cache(&self) -> bool {
        self.device.features() & FEATURE_FLUSH != 0
    }

    /// Stops the device, and frees all that it is certain not to use any more.
    /// What others have asked for fails, and so does all from now on.
    pub fn stop(&self) {
        self.device.stop();
        let mut ring = None;
        self.device.env().exclusively(&mut || ring = self.ring.lock().take());
        if let Some(ring) = ring {
            ring.free(&self.device);
        }
    }

    /// [`stop`](Self::stop) by whoever has it alone: nothing is left.
    pub fn free(self) {
        self.stop();
        let mut bounce = self.bounce.into_memory();
        if !self.device.is_quiet() {
            bounce.abandon();
        }
    }

    /// Runs `f` on the queue, which is nobody's else meanwhile; None if it is gone.
    /// `f` must not wait.
    pub(super) fn with_ring<R>(&self, f: impl FnOnce(&mut Ring<H>) -> R) -> Option<R> {
        let (mut f, mut result) = (Some(f), None);
        self.device.env().exclusively(&mut || {
            if let (Some(f), Some(ring)) = (f.take(), self.ring.lock().as_mut()) {
                result = Some(f(ring));
            }
        });
        result
    }

    pub(super) fn ring_bell(&self) {
        self.device.ring(QUEUE);
    }

    pub(super) const fn bounce_page(&self) -> &BouncePage<H> {
        &self.bounce
    }

    /// Waits until there is room in the queue, which those have who wait for what
    /// they have asked.
    pub(super) fn wait_for_room(&self) -> Result<(), Error> {
        self.waiting.fetch_add(1, SeqCst);
        let mut fault = None;
        let waited = loop {
            let ready = &mut || {
                let room = self.with_ring(|ring| ring.reap().map(|()| ring.has_room()));
                match room {
                    _ if !self.device.is_working() => true,
                    Some(Ok(room)) => room,
                    Some(Err(found)) => {
                        fault = Some(found);
                        true
                    }
                    None => true,
                }
            };
            if self.device.env().wait(crate::queue::STATUS_MS, ready) {
                break match fault {
                    Some(fault) => Err(self.device.shut_off(fault)),
                    None => self.device.check(),
                };
            }
            if let Err(error) = self.device.check_status() {
                break Err(error);
            }
        };
        self.waiting.fetch_sub(1, SeqCst);
        waited
    }

    /// Has those look who wait for room.
    pub(super) fn tell_waiting(&self) {
        if self.waiting.load(SeqCst) > 0 {
            self.device.env().wake();
        }
    }

    /// Waits until a device that is shut off can write to memory no more: what it
    /// was given is not its caller's before. On a bus that can cut it off, that
    /// is so at once.
    pub(super) fn keep_until_quiet(&self) {
        while !self.device.look_again() {
            self.device.env().wait(LOOK_AGAIN_MS, &mut || false);
        }
    }

    /// Reads or writes blocks by `op`, `piece` being what there is of each of the
    /// `len`, and `note` what is to be told of its outcome.
    fn each<B>(
        &self,
        op: Op,
        batch: &mut [B],
        piece: impl Fn(&mut B) -> (u64, NonNull<u8>),
        mut note: impl FnMut(&mut B, bool),
        mut bounce: impl FnMut(&mut B) -> bool,
    ) {
        let nothing = Piece { block: 0, ptr: NonNull::dangling(), outcome: Outcome::Failed };
        for part in batch.chunks_mut(PIECES) {
            let mut pieces = [nothing; PIECES];
            for (to, one) in pieces.iter_mut().zip(part.iter_mut()) {
                let (block, ptr) = piece(one);
                *to = Piece { block, ptr, ..nothing };
                let reached = H::reach(ptr, size_of::<PageBytes>()).is_some();
                if block < self.blocks() && reached {
                    to.outcome = Outcome::Open;
                }
            }
            // SAFETY: the pages are borrowed until this returns.
            unsafe { self.run(op, &mut pieces[..part.len()]) };
            for (done, one) in pieces.iter().zip(part) {
                let ok = match done.outcome {
                    Outcome::Ok => true,
                    _ if done.block >= self.blocks() => false,
                    _ if H::reach(done.ptr, size_of::<PageBytes>()).is_some() => false,
                    _ => bounce(one),
                };
                self.failed.fetch_add(u64::from(!ok), Relaxed);
                note(one, ok);
            }
        }
    }
}

impl<T: Link, E: Env, H: Memory> BlockDevice for VirtioBlk<T, E, H>
where
    Self: Sync,
{
    fn name(&self) -> &str {
        self.name
    }

    fn blocks(&self) -> u64 {
        self.sectors() / SECTORS_PER_BLOCK
    }

    fn read_only(&self) -> bool {
        self.device.features() & FEATURE_RO != 0
    }

    fn read(&self, block: u64, page: &mut PageBytes) -> Result<(), IoFailed> {
        let mut one = [BlockRead::new(block, page)];
        self.read_batch(&mut one);
        one[0].result
    }

    fn write(&self, block: u64, page: &PageBytes) -> Result<(), IoFailed> {
        let mut one = [BlockWrite::new(block, page)];
        self.write_batch(&mut one);
        one[0].result.map_err(|_| IoFailed)
    }

    fn read_batch(&self, batch: &mut [BlockRead<'_>]) {
        self.reads.fetch_add(batch.len() as u64, Relaxed);
        self.each(
            Op::Read,
            batch,
            |one| (one.block, NonNull::from(&mut *one.page).cast()),
            |one, ok| one.result = if ok { Ok(()) } else { Err(IoFailed) },
            |one| self.bounce(one.block, Bounced::Read(one.page)).is_ok(),
        );
    }

    fn write_batch(&self, batch: &mut [BlockWrite<'_>]) {
        self.writes.fetch_add(batch.len() as u64, Relaxed);
        if self.read_only() {
            self.failed.fetch_add(batch.len() as u64, Relaxed);
            batch.iter_mut().for_each(|one| one.result = Err(WriteFailed::Io));
            return;
        }
        self.each(
            Op::Write,
            batch,
            |one| (one.block, NonNull::from(one.page).cast()),
            |one, ok| one.result = if ok { Ok(()) } else { Err(WriteFailed::Io) },
            |one| self.bounce(one.block, Bounced::Write(one.page)).is_ok(),
        );
    }

    fn flush(&self) -> Result<(), IoFailed> {
        if !self.has_cache() {
            return self.device.check().map_err(|_| IoFailed);
        }
        match self.ask(Op::Flush, 0) {
            Ok(Status::Ok) => Ok(()),
            _ => Err(IoFailed),
        }
    }

    fn discards(&self) -> bool {
        self.config.discard_sectors.is_some() && !self.read_only()
    }

    fn discard(&self, blocks: Range<u64>) {
        let Some(most) = self.config.discard_sectors.filter(|_| self.discards()) else { return };
        let most = u64::from(most) / SECTORS_PER_BLOCK;
        let (mut from, end) = (blocks.start, blocks.end.min(self.blocks()));
        while from < end {
            let len = most.min(end - from).min(u64::from(u32::MAX) / SECTORS_PER_BLOCK);
            let sectors = (len * SECTORS_PER_BLOCK) as u32;
            // A hint: what is refused once is refused again.
            if self.ask(Op::Discard(sectors), from * SECTORS_PER_BLOCK) != Ok(Status::Ok) {
                return;
            }
            from += len;
        }
    }
}
