//! A swap device of the host: pages in its memory or in a file, and failures on
//! demand. It finds out whoever does to it what the manager must not: two things
//! at a time with one slot, reading what was never written. Needs `std`.

use super::lock;
use crate::swap::{IoFailed, PageBytes, SwapDevice, SwapKind, WriteFailed};
use crate::sync::{AtomicU64, Ordering::Relaxed};
use crate::types::PAGE_SIZE;
use core::ops::Range;
use std::boxed::Box;
use std::collections::{BTreeMap, BTreeSet};
use std::fs::File;
use std::io;
use std::os::unix::fs::FileExt;
use std::string::String;
use std::sync::Mutex;

/// Where the pages are.
#[derive(Debug)]
enum Store {
    Memory(Mutex<BTreeMap<u32, Box<PageBytes>>>),
    File(File, Mutex<BTreeSet<u32>>),
}

/// Which reads, or writes, fail: counted from 1, from when it was said.
#[derive(Clone, Copy, PartialEq, Eq, Default, Debug)]
pub enum FailPlan {
    /// None.
    #[default]
    Never,
    /// The n-th; then none any more.
    Nth(u64),
    /// Each n-th.
    Every(u64),
    /// All.
    Always,
}

impl FailPlan {
    const fn strikes(self, n: u64) -> bool {
        match self {
            Self::Never => false,
            Self::Nth(nth) => n == nth,
            Self::Every(nth) => nth > 0 && n.is_multiple_of(nth),
            Self::Always => true,
        }
    }
}

/// Operations of one kind: how many there were, and which fail.
#[derive(Debug, Default)]
pub(super) struct Operations {
    done: AtomicU64,
    since: AtomicU64,
    plan: Mutex<FailPlan>,
}

impl Operations {
    pub(super) fn set(&self, plan: FailPlan) {
        *lock(&self.plan) = plan;
        self.since.store(0, Relaxed);
    }

    /// How many there were.
    pub(super) fn done(&self) -> u64 {
        self.done.load(Relaxed)
    }

    /// Counts one; whether it is to fail.
    pub(super) fn count(&self) -> bool {
        self.done.fetch_add(1, Relaxed);
        let n = self.since.fetch_add(1, Relaxed) + 1;
        lock(&self.plan).strikes(n)
    }
}

/// A swap device for tests and simulated machines.
#[derive(Debug)]
pub struct SwapDisk {
    name: String,
    slots: u32,
    store: Store,
    discards: bool,
    reads: Operations,
    writes: Operations,
    discarded: AtomicU64,
    /// Slots that somebody is at.
    busy: Mutex<BTreeSet<u32>>,
}

impl SwapDisk {
    /// A device of `slots` slots in the host's memory.
    pub fn new(name: &str, slots: u32) -> Self {
        Self::over(name, slots, Store::Memory(Mutex::default()))
    }

    /// A device in a file, which gets as long as needed.
    ///
    /// # Errors
    /// When the file cannot be made that long.
    pub fn in_file(name: &str, slots: u32, file: File) -> io::Result<Self> {
        file.set_len(u64::from(slots) * PAGE_SIZE as u64)?;
        Ok(Self::over(name, slots, Store::File(file, Mutex::default())))
    }

    fn over(name: &str, slots: u32, store: Store) -> Self {
        Self {
            name: name.into(),
            slots,
            store,
            discards: false,
            reads: Operations::default(),
            writes: Operations::default(),
            discarded: AtomicU64::new(0),
            busy: Mutex::default(),
        }
    }

    /// The same, wanting to be told of slots that are not needed any more.
    #[must_use]
    pub fn discarding(mut self) -> Self {
        self.discards = true;
        self
    }

    /// Which reads fail from now on.
    pub fn fail_reads(&self, plan: FailPlan) {
        self.reads.set(plan);
    }

    /// Which writes fail from now on.
    pub fn fail_writes(&self, plan: FailPlan) {
        self.writes.set(plan);
    }

    /// Reads so far, failed ones included.
    pub fn reads(&self) -> u64 {
        self.reads.done()
    }

    /// Writes so far, failed ones included.
    pub fn writes(&self) -> u64 {
        self.writes.done()
    }

    /// Slots that were discarded so far.
    pub fn discarded(&self) -> u64 {
        self.discarded.load(Relaxed)
    }

    /// Slots that hold something.
    pub fn held(&self) -> u64 {
        match &self.store {
            Store::Memory(pages) => lock(pages).len() as u64,
            Store::File(_, written) => lock(written).len() as u64,
        }
    }

    /// Runs `f` as the only one at these slots.
    fn alone<R>(&self, slots: Range<u32>, f: impl FnOnce() -> R) -> R {
        for slot in slots.clone() {
            assert!(slot < self.slots, "{} has no slot {slot}", self.name);
            assert!(lock(&self.busy).insert(slot), "two at slot {slot} of {}", self.name);
        }
        let result = f();
        for slot in slots {
            lock(&self.busy).remove(&slot);
        }
        result
    }
}

fn offset(slot: u32) -> u64 {
    u64::from(slot) * PAGE_SIZE as u64
}

impl SwapDevice for SwapDisk {
    fn name(&self) -> &str {
        &self.name
    }

    fn kind(&self) -> SwapKind {
        match self.store {
            Store::Memory(_) => SwapKind::Partition,
            Store::File(..) => SwapKind::File,
        }
    }

    fn slots(&self) -> u32 {
        self.slots
    }

    fn read(&self, slot: u32, page: &mut PageBytes) -> Result<(), IoFailed> {
        self.alone(slot..slot + 1, || {
            if self.reads.count() {
                return Err(IoFailed);
            }
            match &self.store {
                Store::Memory(pages) => match lock(pages).get(&slot) {
                    Some(content) => page.copy_from_slice(&content[..]),
                    None => panic!("slot {slot} of {} was never written", self.name),
                },
                Store::File(file, written) => {
                    assert!(lock(written).contains(&slot), "slot {slot} was never written");
                    file.read_exact_at(page, offset(slot)).map_err(|_| IoFailed)?;
                }
            }
            Ok(())
        })
    }

    fn write(&self, slot: u32, page: &PageBytes) -> Result<(), WriteFailed> {
        self.alone(slot..slot + 1, || {
            if self.writes.count() {
                return Err(WriteFailed::Io);
            }
            match &self.store {
                Store::Memory(pages) => {
                    lock(pages).insert(slot, Box::new(*page));
                }
                Store::File(file, written) => {
                    file.write_all_at(page, offset(slot)).map_err(|_| IoFailed)?;
                    lock(written).insert(slot);
                }
            }
            Ok(())
        })
    }

    fn discards(&self) -> bool {
        self.discards
    }

    fn discard(&self, slots: Range<u32>) {
        self.alone(slots.clone(), || {
            for slot in slots {
                self.discarded.fetch_add(1, Relaxed);
                match &self.store {
                    Store::Memory(pages) => drop(lock(pages).remove(&slot)),
                    Store::File(_, written) => drop(lock(written).remove(&slot)),
                }
            }
        });
    }
}
