//! The memory manager as the driver's [`MemorySink`]. May call: `mm`.

use super::memory::{MemoryError, MemorySink, Usage};
use mm::Mm;
use mm::hotplug::{
    BlockState, HotplugError, MEMORY_BLOCK_ORDER, MEMORY_BLOCK_PAGES, NewMemory, OnlineType,
    RangeUse,
};
use mm::platform::Platform;
use mm::types::{NodeId, PAGE_SIZE, Pfn, PfnRange};

/// The driver's memory in `/proc/iomem`, as in Linux.
const NAME: &str = "System RAM (virtio_mem)";
/// Times that memory is put out of use again that others keep putting into use.
const ATTEMPTS: u32 = 3;

const _: () = assert!(MEMORY_BLOCK_PAGES * PAGE_SIZE as u64 == super::MEMORY_BLOCK_BYTES);

impl From<HotplugError> for MemoryError {
    fn from(error: HotplugError) -> Self {
        match error {
            HotplugError::NoMemory => Self::NoMemory,
            HotplugError::Busy(obstacle) => Self::Busy(obstacle),
            HotplugError::Invalid(why) => Self::Refused(why),
            HotplugError::Already => Self::Refused("it is so already"),
            HotplugError::InUse => Self::Refused("it is in use"),
            HotplugError::NotMapped => Self::Refused("it cannot be mapped"),
        }
    }
}

/// The parts of `range` in each memory block.
fn parts(range: PfnRange) -> impl Iterator<Item = PfnRange> {
    let first = range.start.align_down(MEMORY_BLOCK_ORDER).0;
    (first..range.end.0)
        .step_by(MEMORY_BLOCK_PAGES as usize)
        .map(move |start| PfnRange::sized(Pfn(start), MEMORY_BLOCK_PAGES).intersect(range))
}

/// How to put what has just been plugged of a memory block into use; None: not
/// at all. What is in use of the block decides, and where nothing is, the wish of
/// whoever put the rest of it out of use.
fn how_to_online<P: Platform>(mm: &Mm<P>, part: PfnRange) -> Option<OnlineType> {
    let block = mm.memory_block(part.start.0 >> MEMORY_BLOCK_ORDER.0)?;
    match block.state {
        BlockState::Online(_) => Some(OnlineType::Auto),
        BlockState::Offline(_) if block.unplugged + part.pages() < block.pages => None,
        BlockState::Offline(_) => mm.default_online(),
    }
}

impl<P: Platform> MemorySink for Mm<P> {
    fn limit(&self) -> Pfn {
        self.map().limit()
    }

    fn add(&self, blocks: PfnRange, node: NodeId) -> Result<(), MemoryError> {
        Ok(self.add_memory(blocks, NewMemory { node, name: NAME, plugged: false })?)
    }

    fn provide(&self, range: PfnRange) -> Result<(), MemoryError> {
        self.set_plugged(range, true)?;
        for part in parts(range) {
            let Some(how) = how_to_online(self, part) else { continue };
            match self.online(part, how) {
                // Somebody else may have been as quick.
                Ok(_) | Err(HotplugError::Already) => {}
                Err(why) => {
                    // What of it is in use by now goes again.
                    self.withdraw(range)?;
                    return Err(why.into());
                }
            }
        }
        Ok(())
    }

    fn withdraw(&self, range: PfnRange) -> Result<(), MemoryError> {
        for _ in 0..ATTEMPTS {
            match self.offline(range) {
                Ok(_) | Err(HotplugError::Already) => {}
                Err(why) => return Err(why.into()),
            }
            match self.set_plugged(range, false) {
                // Somebody has put it into use in between.
                Err(HotplugError::InUse) => {}
                result => return Ok(result?),
            }
        }
        Err(MemoryError::Refused("somebody puts it into use"))
    }

    fn remove(&self, blocks: PfnRange) -> Result<(), MemoryError> {
        Ok(self.remove_memory(blocks)?)
    }

    fn usage(&self, range: PfnRange) -> Usage {
        match self.range_use(range) {
            RangeUse::Offline => Usage::Offline,
            RangeUse::Free => Usage::Free,
            RangeUse::Allocated => Usage::Used,
        }
    }

    fn is_movable(&self, range: PfnRange) -> bool {
        self.is_in_zone_movable(range)
    }
}
