//! Addresses for registers that the firmware has left without: those of a device
//! that came later, in what its port lets through. Calls `function`.

use super::{Bar, Bars, ConfigRegionAccess, Function, PciAddress, read};

/// A bridge's windows: non-prefetchable, prefetchable base and limit, and the
/// upper halves of the latter.
const MEMORY: u16 = 0x20;
const PREFETCHABLE: u16 = 0x24;
const UPPER_BASE: u16 = 0x28;
const UPPER_LIMIT: u16 = 0x2c;
/// The first base address register.
const BARS: u16 = 0x10;

/// Addresses that a bridge lets through, and how far they are in use.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Window {
    /// The first that is free.
    pub next: u64,
    /// The end.
    pub end: u64,
}

impl Window {
    const NONE: Self = Self { next: 0, end: 0 };

    /// `base` and `limit` in steps of 1 MiB, as a bridge has them.
    const fn new(base: u64, limit: u64) -> Self {
        let end = (limit | 0xf_ffff) + 1;
        if base == 0 || base >= end { Self::NONE } else { Self { next: base, end } }
    }

    /// Takes `bytes`, a power of two, below `limit`.
    fn take(&mut self, bytes: u64, limit: u64) -> Option<u64> {
        let at = self.next.checked_next_multiple_of(bytes)?;
        let end = at.checked_add(bytes).filter(|&end| end <= self.end && end <= limit)?;
        self.next = end;
        Some(at)
    }
}

/// The windows of the bridge at `bridge`: for registers of any kind, and for
/// prefetchable ones.
pub fn windows(access: &dyn ConfigRegionAccess, bridge: PciAddress) -> [Window; 2] {
    let part = |word: u32, shift: u32| u64::from(word >> shift & 0xfff0) << 16;
    let memory = read(access, bridge, MEMORY);
    let pref = read(access, bridge, PREFETCHABLE);
    // All ones: it is not there.
    if memory == u32::MAX {
        return [Window::NONE; 2];
    }
    let upper = |at| if pref & 15 == 1 { u64::from(read(access, bridge, at)) << 32 } else { 0 };
    let (base, limit) = (upper(UPPER_BASE) | part(pref, 0), upper(UPPER_LIMIT) | part(pref, 16));
    let pref = if limit >= 1 << 52 { Window::NONE } else { Window::new(base, limit) };
    [Window::new(part(memory, 0), part(memory, 16)), pref]
}

impl Function {
    /// Gives those of `bars` that have no address one of `windows`, as far as they
    /// go. True if any of them has changed.
    ///
    /// # Safety
    ///
    /// Nobody may use the function's registers, nor what lies in the windows
    /// from `next` on.
    pub unsafe fn assign(
        &self,
        access: &dyn ConfigRegionAccess,
        bars: &Bars,
        windows: &mut [Window; 2],
    ) -> bool {
        let mut changed = false;
        for (at, bar) in bars.iter().enumerate() {
            let Some(Ok(Bar::Unassigned { bytes })) = *bar else { continue };
            let offset = BARS + 4 * at as u16;
            let kind = read(access, self.address, offset);
            if kind & 1 != 0 {
                continue;
            }
            let (wide, prefetchable) = (kind & 6 == 4, kind & 8 != 0);
            let limit = if wide { u64::MAX } else { 1 << 32 };
            let [any, pref] = &mut *windows;
            let first = if prefetchable { pref.take(bytes, limit) } else { None };
            let Some(addr) = first.or_else(|| any.take(bytes, limit)) else { continue };
            // SAFETY: a register of this function, which decodes nothing yet, and
            // addresses that are nobody's: the caller's word.
            unsafe {
                access.write(self.address, offset, addr as u32 | kind & 15);
                if wide {
                    access.write(self.address, offset + 4, (addr >> 32) as u32);
                }
            }
            changed = true;
        }
        changed
    }
}
