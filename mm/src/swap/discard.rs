//! Telling devices which slots are not needed any more. Slots are given up where
//! locks are held and nobody may wait; the device is told later, by whoever comes
//! by without any, and then they are free. Calls the devices.

use crate::mm::Mm;
use crate::mmu::SwapEntry;
use crate::platform::Platform;
use crate::sync::Ordering::Relaxed;
use core::ops::Range;

/// Most slots that a device is told of at once.
const BATCH: u32 = 64;

impl<P: Platform> Mm<P> {
    /// Tells the devices which slots have been given up, if any have; whether
    /// there were any. Interrupts on, no lock held but maybe a page's; may wait
    /// for the devices. Costs one load when there is nothing to do.
    pub fn swap_settle(&self) -> bool {
        if self.swap.to_discard.load(Relaxed) == 0 {
            return false;
        }
        let mut any = false;
        for index in 0..SwapEntry::DEVICES {
            while let Some((device, slots)) = self.next_discard(index) {
                device.discard(slots.clone());
                self.with_swap(index, |on| {
                    on.active.map.discarding -= slots.len() as u32;
                    for slot in slots {
                        on.active.map.give(self, slot);
                    }
                });
                any = true;
            }
        }
        any
    }

    /// Slots side by side that their device is to be told of; they are the
    /// caller's for the time being.
    fn next_discard(&self, index: usize) -> Option<(&'static dyn super::SwapDevice, Range<u32>)> {
        let next = self.with_swap(index, |on| {
            let first = on.active.map.pop_freed(self)?;
            let mut slots = first..first + 1;
            while (slots.len() as u32) < BATCH {
                // Those that were given up one after the other come in reverse.
                match on.active.map.peek_freed() {
                    Some(slot) if slot == slots.end => slots.end += 1,
                    Some(slot) if slot + 1 == slots.start => slots.start = slot,
                    _ => break,
                }
                on.active.map.pop_freed(self);
            }
            self.swap.to_discard.fetch_sub(slots.len() as u64, Relaxed);
            Some((on.active.device, slots))
        });
        next.flatten()
    }
}
