//! A disk of the host: blocks in its memory or in a file, and failures on demand.
//! It knows what a loss of power would leave. Needs `std`.

use super::lock;
use super::swap::{FailPlan, Operations};
use crate::block::{BlockDevice, IoFailed, PageBytes};
use crate::types::PAGE_SIZE;
use core::ops::Range;
use std::boxed::Box;
use std::collections::BTreeMap;
use std::fs::File;
use std::io;
use std::os::unix::fs::FileExt;
use std::string::String;
use std::sync::Mutex;
use std::sync::atomic::{AtomicU64, Ordering::Relaxed};

/// Where the blocks are.
#[derive(Debug)]
enum Store {
    Memory(Mutex<Blocks>),
    File(File),
}

/// Blocks in memory; what is in neither map reads as zero.
#[derive(Debug, Default)]
struct Blocks {
    /// Flushed.
    durable: BTreeMap<u64, Box<PageBytes>>,
    /// Written since the last flush.
    volatile: BTreeMap<u64, Box<PageBytes>>,
}

/// A disk for tests and simulated machines. What was never written reads as zero.
#[derive(Debug)]
pub struct RamDisk {
    name: String,
    blocks: u64,
    store: Store,
    read_only: bool,
    discards: bool,
    reads: Operations,
    writes: Operations,
    flushes: Operations,
    discarded: AtomicU64,
}

impl RamDisk {
    /// A disk of `blocks` blocks in the host's memory, sparse.
    pub fn new(name: &str, blocks: u64) -> Self {
        Self::over(name, blocks, Store::Memory(Mutex::default()))
    }

    /// A disk in a file, which gets as long as needed and holds what it held.
    ///
    /// # Errors
    /// When the file cannot be made that long.
    pub fn in_file(name: &str, blocks: u64, file: File) -> io::Result<Self> {
        let bytes = blocks * PAGE_SIZE as u64;
        if file.metadata()?.len() < bytes {
            file.set_len(bytes)?;
        }
        Ok(Self::over(name, blocks, Store::File(file)))
    }

    fn over(name: &str, blocks: u64, store: Store) -> Self {
        Self {
            name: name.into(),
            blocks,
            store,
            read_only: false,
            discards: false,
            reads: Operations::default(),
            writes: Operations::default(),
            flushes: Operations::default(),
            discarded: AtomicU64::new(0),
        }
    }

    /// The same, which cannot be written.
    #[must_use]
    pub fn read_only(mut self) -> Self {
        self.read_only = true;
        self
    }

    /// The same, wanting to be told of blocks that are not needed any more.
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

    /// Which flushes fail from now on. What one that fails should have kept is
    /// still only a flush away.
    pub fn fail_flushes(&self, plan: FailPlan) {
        self.flushes.set(plan);
    }

    /// Blocks read so far, failures included.
    pub fn reads(&self) -> u64 {
        self.reads.done()
    }

    /// Blocks written so far, failures included.
    pub fn writes(&self) -> u64 {
        self.writes.done()
    }

    /// Flushes so far, failures included.
    pub fn flushes(&self) -> u64 {
        self.flushes.done()
    }

    /// Blocks discarded so far.
    pub fn discarded(&self) -> u64 {
        self.discarded.load(Relaxed)
    }

    /// The content of a block as if by another's hands: nothing is counted, and
    /// nothing fails. A file that cannot be read holds zeros.
    pub fn peek(&self, block: u64) -> Box<PageBytes> {
        let mut page = Box::new([0; PAGE_SIZE]);
        let _ = self.fetch(block, &mut page);
        page
    }

    /// The power fails and comes back: of a disk in memory, what was written since
    /// the last flush is lost.
    pub fn cut_power(&self) {
        if let Store::Memory(blocks) = &self.store {
            lock(blocks).volatile.clear();
        }
    }

    fn fetch(&self, block: u64, page: &mut PageBytes) -> Result<(), IoFailed> {
        if block >= self.blocks {
            return Err(IoFailed);
        }
        match &self.store {
            Store::Memory(blocks) => {
                let blocks = lock(blocks);
                match blocks.volatile.get(&block).or_else(|| blocks.durable.get(&block)) {
                    Some(content) => page.copy_from_slice(&content[..]),
                    None => page.fill(0),
                }
                Ok(())
            }
            Store::File(file) => {
                file.read_exact_at(page, block * PAGE_SIZE as u64).map_err(|_| IoFailed)
            }
        }
    }
}

impl BlockDevice for RamDisk {
    fn name(&self) -> &str {
        &self.name
    }

    fn blocks(&self) -> u64 {
        self.blocks
    }

    fn read_only(&self) -> bool {
        self.read_only
    }

    fn read(&self, block: u64, page: &mut PageBytes) -> Result<(), IoFailed> {
        if self.reads.count() { Err(IoFailed) } else { self.fetch(block, page) }
    }

    fn write(&self, block: u64, page: &PageBytes) -> Result<(), IoFailed> {
        if self.writes.count() || self.read_only || block >= self.blocks {
            return Err(IoFailed);
        }
        match &self.store {
            Store::Memory(blocks) => {
                lock(blocks).volatile.insert(block, Box::new(*page));
                Ok(())
            }
            Store::File(file) => {
                file.write_all_at(page, block * PAGE_SIZE as u64).map_err(|_| IoFailed)
            }
        }
    }

    fn flush(&self) -> Result<(), IoFailed> {
        if self.flushes.count() {
            return Err(IoFailed);
        }
        match &self.store {
            Store::Memory(blocks) => {
                let Blocks { durable, volatile } = &mut *lock(blocks);
                durable.append(volatile);
                Ok(())
            }
            Store::File(file) => file.sync_data().map_err(|_| IoFailed),
        }
    }

    fn discards(&self) -> bool {
        self.discards
    }

    fn discard(&self, blocks: Range<u64>) {
        self.discarded.fetch_add(blocks.end - blocks.start, Relaxed);
        if let Store::Memory(held) = &self.store {
            let held = &mut *lock(held);
            for block in blocks {
                // As a disk may: at once, power or not.
                held.volatile.remove(&block);
                held.durable.remove(&block);
            }
        }
    }
}
