//! The device's side: registers' contents, the rings as the device reads them,
//! and what a script may do to them. Calls nothing of the drivers.

use crate::Fault;
use crate::device::{MAX_QUEUES, VERSION_1};
use core::sync::atomic::{AtomicU16, Ordering};
use std::boxed::Box;
use std::string::String;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::vec::Vec;
use virtio_drivers::PhysAddr;
use virtio_drivers::transport::DeviceType;

/// What a device does.
pub trait Script: Send {
    /// The device's turn: a bell was rung ([`Board::was_rung`]), or its driver
    /// waits.
    fn work(&mut self, board: &mut Board);

    /// Before each read of the configuration.
    fn config_read(&mut self, _board: &mut Board) {}

    /// After the driver has written to the configuration.
    fn config_written(&mut self, _board: &mut Board) {}
}

/// Where a queue's rings lie.
#[derive(Clone, Copy, Debug)]
pub(super) struct Areas {
    pub(super) descriptors: PhysAddr,
    pub(super) available: PhysAddr,
    pub(super) used: PhysAddr,
}

#[derive(Clone, Copy, Default, Debug)]
struct Ring {
    /// Buffers it takes at most; 0: there is no such queue.
    max: u16,
    /// What the driver has made of it.
    size: u16,
    areas: Option<Areas>,
    /// How far the device has read and written.
    seen: u16,
    used: u16,
    rung: bool,
}

/// A simulated device: what it shows its driver. The public fields are the
/// script's and the test's to play with.
#[derive(Debug)]
pub struct Board {
    kind: DeviceType,
    rings: [Ring; MAX_QUEUES],
    status: u32,
    /// Features that it offers.
    pub offered: u64,
    /// Features that the driver has accepted.
    pub accepted: u64,
    /// Takes the driver's choice of features.
    pub takes_features: bool,
    /// The configuration's bytes.
    pub config: Vec<u8>,
    /// Changes with the configuration.
    pub generation: u32,
    /// The generation changes with each look.
    pub config_flaps: bool,
    /// How many times it has told that its configuration has changed.
    pub config_changes: u32,
    /// It says that it has failed.
    pub needs_reset: bool,
    /// It is not there any more.
    pub gone: bool,
    /// A reset has an effect.
    pub obeys_reset: bool,
    /// The bus can keep it from memory.
    pub obeys_cut_off: bool,
    /// What becomes of its bells.
    pub bell_fault: Option<Fault>,
    pub(super) cut_off: bool,
    pub(super) now_ms: u64,
    resets: u32,
}

/// A request that the driver has made: descriptors in their order.
#[derive(Clone, Debug)]
pub struct Chain {
    id: u32,
    /// Address, bytes, and whether the device may write there.
    parts: Vec<(PhysAddr, u32, bool)>,
}

impl Chain {
    /// What the device gives back when it is done.
    pub const fn id(&self) -> u32 {
        self.id
    }

    /// The descriptors: address, bytes, and whether the device may write there.
    pub fn parts(&self) -> &[(PhysAddr, u32, bool)] {
        &self.parts
    }

    /// All that the driver has sent.
    pub fn read(&self, _board: &Board) -> Vec<u8> {
        let mut bytes = Vec::new();
        for &(addr, len, _) in self.parts.iter().filter(|it| !it.2) {
            let ptr = core::ptr::with_exposed_provenance::<u8>(addr as usize);
            // SAFETY: the driver's promise: valid until the device is done.
            let part = (0..len as usize).map(|at| unsafe { ptr.add(at).read_volatile() });
            bytes.extend(part);
        }
        bytes
    }

    /// Writes `bytes` where the device may; returns how many there was room for.
    pub fn write(&self, _board: &Board, bytes: &[u8]) -> u32 {
        let mut rest = bytes;
        for &(addr, len, _) in self.parts.iter().filter(|it| it.2) {
            let (now, then) = rest.split_at(rest.len().min(len as usize));
            let ptr = core::ptr::with_exposed_provenance_mut::<u8>(addr as usize);
            for (at, byte) in now.iter().enumerate() {
                // SAFETY: the driver's promise, and inside of the part.
                unsafe { ptr.add(at).write_volatile(*byte) };
            }
            rest = then;
        }
        (bytes.len() - rest.len()) as u32
    }
}

fn load<T>(addr: PhysAddr, offset: usize) -> T {
    let ptr = core::ptr::with_exposed_provenance::<T>(addr as usize + offset);
    // SAFETY: inside of a ring that the driver keeps for the device.
    unsafe { ptr.read_volatile() }
}

fn store<T>(addr: PhysAddr, offset: usize, value: T) {
    let ptr = core::ptr::with_exposed_provenance_mut::<T>(addr as usize + offset);
    // SAFETY: as above.
    unsafe { ptr.write_volatile(value) };
}

fn index<'a>(ring: PhysAddr) -> &'a AtomicU16 {
    let ptr = core::ptr::with_exposed_provenance::<AtomicU16>(ring as usize + 2);
    // SAFETY: the second word of a ring that the driver keeps for the device.
    unsafe { &*ptr }
}

impl Board {
    fn new(kind: DeviceType, sizes: &[u16]) -> Self {
        let mut rings = [Ring::default(); MAX_QUEUES];
        for (ring, &max) in rings.iter_mut().zip(sizes) {
            ring.max = max;
        }
        Self {
            kind,
            rings,
            status: 0,
            offered: VERSION_1,
            accepted: 0,
            takes_features: true,
            config: Vec::new(),
            generation: 0,
            config_flaps: false,
            config_changes: 0,
            needs_reset: false,
            gone: false,
            obeys_reset: true,
            obeys_cut_off: true,
            bell_fault: None,
            cut_off: false,
            now_ms: 0,
            resets: 0,
        }
    }

    pub(super) const fn kind(&self) -> DeviceType {
        self.kind
    }

    /// How often it was reset.
    pub const fn resets(&self) -> u32 {
        self.resets
    }

    /// Whether its driver has said that it works.
    pub const fn is_started(&self) -> bool {
        self.status & 4 != 0
    }

    /// Whether it has access to memory. An evil one might use it without.
    pub const fn has_memory(&self) -> bool {
        !self.cut_off && self.is_started() && !self.gone
    }

    /// The device's clock (ms).
    pub const fn now_ms(&self) -> u64 {
        self.now_ms
    }

    /// Replaces the configuration, and tells the driver.
    pub fn set_config(&mut self, config: &[u8]) {
        self.config.clear();
        self.config.extend_from_slice(config);
        self.generation = self.generation.wrapping_add(1);
        self.config_changes = self.config_changes.wrapping_add(1);
    }

    /// Overwrites `bytes` of the configuration from `offset` on, and tells the
    /// driver.
    pub fn edit_config(&mut self, offset: usize, bytes: &[u8]) {
        self.config[offset..offset + bytes.len()].copy_from_slice(bytes);
        self.generation = self.generation.wrapping_add(1);
        self.config_changes = self.config_changes.wrapping_add(1);
    }

    /// Whether queue `queue` was rung since this was last asked.
    pub fn was_rung(&mut self, queue: u16) -> bool {
        self.ring(queue).is_some_and(|ring| core::mem::take(&mut ring.rung))
    }

    fn ring(&mut self, queue: u16) -> Option<&mut Ring> {
        self.rings.get_mut(usize::from(queue))
    }

    /// The rings of `queue`, if the driver has set it up and the device may use
    /// memory.
    fn areas(&mut self, queue: u16) -> Option<(&mut Ring, Areas)> {
        let works = self.has_memory();
        let ring = self.ring(queue).filter(|_| works)?;
        let areas = ring.areas?;
        Some((ring, areas))
    }

    /// The next request of `queue`, if there is one.
    pub fn next(&mut self, queue: u16) -> Option<Chain> {
        let (ring, areas) = self.areas(queue)?;
        if index(areas.available).load(Ordering::Acquire) == ring.seen {
            return None;
        }
        let slot = usize::from(ring.seen % ring.size);
        ring.seen = ring.seen.wrapping_add(1);
        let id: u16 = load(areas.available, 4 + 2 * slot);
        let (mut parts, mut at) = (Vec::new(), id);
        loop {
            assert!(at < ring.size, "the driver names descriptor {at} of {}", ring.size);
            assert!(parts.len() < usize::from(ring.size), "the driver's chain has no end");
            let base = 16 * usize::from(at);
            let addr: PhysAddr = load(areas.descriptors, base);
            let (len, flags): (u32, u16) =
                (load(areas.descriptors, base + 8), load(areas.descriptors, base + 12));
            assert!(flags & !3 == 0, "the driver sets flags {flags:#x}");
            parts.push((addr, len, flags & 2 != 0));
            if flags & 1 == 0 {
                return Some(Chain { id: id.into(), parts });
            }
            at = load(areas.descriptors, base + 14);
        }
    }

    /// Gives a request back, with word of how many bytes were written. An honest
    /// device names a request that it has, and so many bytes.
    pub fn push_used(&mut self, queue: u16, id: u32, len: u32) {
        let Some((ring, areas)) = self.areas(queue) else { return };
        let slot = ring.used;
        ring.used = ring.used.wrapping_add(1);
        let to = ring.used;
        self.write_used(queue, slot, id, len);
        index(areas.used).store(to, Ordering::Release);
    }

    /// Overwrites entry `slot` (modulo the queue's size) of the used ring.
    pub fn write_used(&mut self, queue: u16, slot: u16, id: u32, len: u32) {
        let Some((ring, areas)) = self.areas(queue) else { return };
        let offset = 4 + 8 * usize::from(slot % ring.size);
        store(areas.used, offset, id);
        store(areas.used, offset + 4, len);
    }

    /// Overwrites the used ring's index.
    pub fn set_used_index(&mut self, queue: u16, to: u16) {
        let Some((ring, areas)) = self.areas(queue) else { return };
        ring.used = to;
        index(areas.used).store(to, Ordering::Release);
    }

    /// Overwrites the used ring's flags; 1 asks not to be told of requests.
    pub fn set_used_flags(&mut self, queue: u16, flags: u16) {
        if let Some((_, areas)) = self.areas(queue) {
            store(areas.used, 0, flags);
        }
    }

    /// How many requests the device has given back, modulo 2^16.
    pub fn used_index(&mut self, queue: u16) -> u16 {
        self.ring(queue).map_or(0, |ring| ring.used)
    }

    pub(super) fn rung(&mut self, queue: u16) {
        if let Some(ring) = self.ring(queue) {
            ring.rung = true;
        }
    }

    pub(super) fn queue_size(&self, queue: u16) -> u32 {
        self.rings.get(usize::from(queue)).map_or(0, |ring| ring.max.into())
    }

    pub(super) fn queue_is_set(&self, queue: u16) -> bool {
        self.rings.get(usize::from(queue)).is_some_and(|ring| ring.areas.is_some())
    }

    pub(super) fn set_queue(&mut self, queue: u16, size: u16, areas: Areas) {
        if let Some(ring) = self.ring(queue) {
            let max = ring.max;
            *ring = Ring { max, size, areas: Some(areas), ..Ring::default() };
        }
    }

    pub(super) fn unset_queue(&mut self, queue: u16) {
        if let Some(ring) = self.ring(queue) {
            *ring = Ring { max: ring.max, ..Ring::default() };
        }
    }

    pub(super) fn read_status(&self) -> u32 {
        match (self.gone, self.needs_reset) {
            (true, _) => u8::MAX.into(),
            (false, true) if self.status != 0 => self.status | 64,
            (false, _) => self.status,
        }
    }

    pub(super) fn write_status(&mut self, status: u32) {
        if self.gone {
            return;
        }
        if status != 0 {
            let refused = if self.takes_features { 0 } else { 8 };
            self.status = status & !refused;
        } else if self.obeys_reset {
            self.reset();
        }
    }

    /// Forgets all that it was told.
    pub fn reset(&mut self) {
        self.resets += 1;
        self.status = 0;
        for queue in 0..MAX_QUEUES as u16 {
            self.unset_queue(queue);
        }
    }

    fn read_config(&self, offset: usize, to: &mut [u8]) -> bool {
        let from = self.config.get(offset..).and_then(|rest| rest.get(..to.len()));
        match from {
            Some(_) if self.gone => to.fill(0xff),
            Some(from) => to.copy_from_slice(from),
            None => return false,
        }
        true
    }

    pub(super) fn write_config(&mut self, offset: usize, bytes: &[u8]) -> bool {
        let to = self.config.get_mut(offset..).and_then(|rest| rest.get_mut(..bytes.len()));
        to.map(|to| to.copy_from_slice(bytes)).is_some()
    }
}

struct Shared {
    board: Mutex<Board>,
    script: Mutex<Box<dyn Script>>,
    log: Mutex<Vec<String>>,
}

/// The test's hand on a simulated device.
#[derive(Clone)]
pub struct Handle(Arc<Shared>);

impl core::fmt::Debug for Handle {
    fn fmt(&self, f: &mut core::fmt::Formatter<'_>) -> core::fmt::Result {
        f.debug_tuple("Handle").field(&self.0.board).finish()
    }
}

/// A test that has failed elsewhere says so there.
fn lock<T: ?Sized>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

impl Handle {
    pub(super) fn new(kind: DeviceType, sizes: &[u16], script: impl Script + 'static) -> Self {
        Self(Arc::new(Shared {
            board: Mutex::new(Board::new(kind, sizes)),
            script: Mutex::new(Box::new(script)),
            log: Mutex::new(Vec::new()),
        }))
    }

    /// Runs `f` on the device, between two of the device's own steps. Not from
    /// within a script.
    pub fn with<R>(&self, f: impl FnOnce(&mut Board) -> R) -> R {
        f(&mut lock(&self.0.board))
    }

    /// Gives the device a turn. Not from within a script.
    pub fn work(&self) {
        let mut script = lock(&self.0.script);
        script.work(&mut lock(&self.0.board));
    }

    /// Replaces what the device does.
    pub fn set_script(&self, script: impl Script + 'static) {
        *lock(&self.0.script) = Box::new(script);
    }

    /// The driver's lines so far, each with its level first.
    pub fn log(&self) -> Vec<String> {
        lock(&self.0.log).clone()
    }

    pub(super) fn push_log(&self, line: String) {
        lock(&self.0.log).push(line);
    }

    pub(super) fn read_config(&self, offset: usize, to: &mut [u8]) -> bool {
        let mut script = lock(&self.0.script);
        let mut board = lock(&self.0.board);
        script.config_read(&mut board);
        board.read_config(offset, to)
    }

    pub(super) fn write_config(&self, offset: usize, bytes: &[u8]) -> bool {
        let mut script = lock(&self.0.script);
        let mut board = lock(&self.0.board);
        let found = board.write_config(offset, bytes);
        script.config_written(&mut board);
        found
    }
}
