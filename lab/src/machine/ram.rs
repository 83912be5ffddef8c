//! The RAM of a simulated machine: one sparse mapping for all of it, the holes
//! left out, and which frame lies where. Calls `memmap2`, and `libc` for what
//! that has no call for.

use memmap2::{MmapOptions, MmapRaw, UncheckedAdvice};
use mm::early::RamRange;
use mm::hotplug::MEMORY_BLOCK_ORDER;
use mm::types::{Order, PAGE_SIZE, Pfn, PfnRange};

/// Frames without a hole between them.
#[derive(Clone, Copy, Debug)]
struct Segment {
    frames: PfnRange,
    /// Bytes from the mapping's start to the first of them.
    offset: usize,
}

/// Frames that read as zero and are backed when they are written.
#[derive(Debug)]
pub(super) struct Ram {
    map: MmapRaw,
    /// In rising order, of frames and of offsets.
    segments: Vec<Segment>,
}

/// Memory may come from the first multiple of this on that lies above all RAM
/// and 4 GiB, as on boards with slots: 64 GiB of it.
const WINDOW_ALIGN: Order = MEMORY_BLOCK_ORDER;
const WINDOW_PAGES: u64 = 64 << 18;

/// The frames that memory may come to have later.
pub(super) fn window(ram: &[RamRange]) -> PfnRange {
    let end = ram.iter().map(|ram| ram.range.end).max().unwrap_or(Pfn(0));
    PfnRange::sized(end.max(Pfn(4 << 18)).align_up(WINDOW_ALIGN), WINDOW_PAGES)
}

/// The half of that which a device may plug memory into; the lower one is for
/// boards that have it all at once.
pub(super) fn plug_window(ram: &[RamRange]) -> PfnRange {
    let window = window(ram);
    PfnRange::new(window.start.add(window.pages() / 2), window.end)
}

impl Ram {
    /// Frames for `ram`, sorted and disjoint, and for what may come later. None
    /// if the host has no addresses for so many.
    pub(super) fn new(ram: &[RamRange]) -> Option<Self> {
        let mut segments: Vec<Segment> = Vec::new();
        let mut bytes = 0;
        for range in ram.iter().map(|ram| ram.range).chain([window(ram)]) {
            // What touches must be contiguous, whatever node it is on.
            match segments.last_mut() {
                Some(last) if last.frames.end == range.start => last.frames.end = range.end,
                _ => segments.push(Segment { frames: range, offset: bytes }),
            }
            bytes += usize::try_from(range.pages()).ok()?.checked_mul(PAGE_SIZE)?;
        }
        let map = MmapOptions::new().len(bytes.max(PAGE_SIZE)).no_reserve_swap().map_anon().ok()?;
        Some(Self { map: map.into(), segments })
    }

    /// The first byte of a frame; null for one that is not RAM.
    pub(super) fn frame(&self, pfn: Pfn) -> *mut u8 {
        let at = self.segments.partition_point(|s| s.frames.end <= pfn);
        match self.segments.get(at) {
            Some(s) if s.frames.start <= pfn => {
                let inside = (pfn.0 - s.frames.start.0) as usize * PAGE_SIZE;
                self.map.as_mut_ptr().wrapping_add(s.offset + inside)
            }
            _ => std::ptr::null_mut(),
        }
    }

    /// Gives what backs `frames` back to this host: they read as zero from now
    /// on. False if they are not all RAM, or the host would not take them.
    ///
    /// # Safety
    /// Nobody wants what is in them, or reads or writes them meanwhile.
    pub(super) unsafe fn discard(&self, frames: PfnRange) -> bool {
        let at = self.segments.partition_point(|s| s.frames.end <= frames.start);
        let Some(segment) = self.segments.get(at).filter(|s| {
            !frames.is_empty() && s.frames.start <= frames.start && frames.end <= s.frames.end
        }) else {
            return false;
        };
        let inside = (frames.start.0 - segment.frames.start.0) as usize * PAGE_SIZE;
        let (offset, len) = (segment.offset + inside, frames.pages() as usize * PAGE_SIZE);
        // SAFETY: inside of the mapping, which is private and anonymous: what was
        // there is gone, and the addresses remain. The caller's word for the rest.
        let result =
            unsafe { self.map.unchecked_advise_range(UncheckedAdvice::DontNeed, offset, len) };
        result.is_ok()
    }

    /// Pages that this host keeps memory for.
    pub(super) fn resident(&self) -> u64 {
        let mut seen = [0u8; 4096];
        let mut pages = 0;
        for at in (0..self.map.len()).step_by(seen.len() * PAGE_SIZE) {
            let len = (self.map.len() - at).min(seen.len() * PAGE_SIZE);
            // SAFETY: a part of the mapping, and room for a byte a page.
            let result = unsafe {
                libc::mincore(self.map.as_mut_ptr().add(at).cast(), len, seen.as_mut_ptr())
            };
            if result == 0 {
                let there = seen.iter().take(len.div_ceil(PAGE_SIZE)).filter(|&&b| b & 1 != 0);
                pages += there.count() as u64;
            }
        }
        pages
    }

    /// Whether there is a place for all of `frames`, in a row.
    pub(super) fn has_room_for(&self, frames: PfnRange) -> bool {
        self.segments.iter().any(|segment| segment.frames.intersect(frames) == frames)
    }

    /// The frame that holds the byte at `ptr`, if one does.
    pub(super) fn pfn_of(&self, ptr: *const u8) -> Option<Pfn> {
        let offset = ptr.addr().checked_sub(self.map.as_ptr().addr())?;
        let at = self.segments.partition_point(|s| s.offset <= offset).checked_sub(1)?;
        let segment = self.segments[at];
        let pfn = segment.frames.start.add(((offset - segment.offset) / PAGE_SIZE) as u64);
        segment.frames.contains(pfn).then_some(pfn)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use mm::types::NodeId;

    /// A hole of a TiB costs nothing, and frames on two sides of a node's
    /// border lie side by side.
    #[test]
    fn holes_and_borders() {
        let ram = |start, end, node| RamRange {
            range: PfnRange::new(Pfn(start), Pfn(end)),
            node: NodeId(node),
        };
        let far = 1 << 28;
        let ram = Ram::new(&[ram(1, 8, 0), ram(8, 16, 1), ram(far, far + 4, 0)]).unwrap();
        assert_eq!(ram.frame(Pfn(7)).wrapping_add(PAGE_SIZE), ram.frame(Pfn(8)));
        for pfn in [1, 7, 8, 15, far, far + 3] {
            let frame = ram.frame(Pfn(pfn));
            assert_eq!(ram.pfn_of(frame), Some(Pfn(pfn)));
            assert_eq!(ram.pfn_of(frame.wrapping_add(PAGE_SIZE - 1)), Some(Pfn(pfn)));
            // SAFETY: a frame of this RAM, which nobody else has.
            assert_eq!(unsafe { frame.read() }, 0);
        }
        for pfn in [0, 16, far - 1, far + 4, far + (1 << 26), u64::MAX] {
            assert!(ram.frame(Pfn(pfn)).is_null());
        }
        let end = ram.frame(Pfn(far + 3)).wrapping_add(PAGE_SIZE);
        // What comes after it is kept for memory that is added.
        assert_eq!(ram.pfn_of(end), Some(Pfn(far + 4).align_up(WINDOW_ALIGN)));
        assert_eq!(ram.pfn_of(ram.frame(Pfn(1)).wrapping_sub(1)), None);
        assert_eq!(ram.pfn_of(std::ptr::null()), None);
    }

    #[test]
    fn what_is_discarded_is_given_back() {
        let range = PfnRange::new(Pfn(16), Pfn(1040));
        let ram = Ram::new(&[RamRange { range, node: NodeId(0) }]).unwrap();
        let write = |pfn, byte| {
            // SAFETY: a frame of this RAM, which nobody else has.
            unsafe { ram.frame(Pfn(pfn)).write_bytes(byte, PAGE_SIZE) }
        };
        (16..1040).for_each(|pfn| write(pfn, 7));
        assert_eq!(ram.resident(), 1024);
        // SAFETY: as above.
        unsafe {
            assert!(ram.discard(PfnRange::new(Pfn(32), Pfn(544))));
            for bad in [(15, 17), (1039, 1041), (16, 16), (2000, 2001)] {
                assert!(!ram.discard(PfnRange::new(Pfn(bad.0), Pfn(bad.1))), "{bad:?}");
            }
            let of = |pfn| ram.frame(Pfn(pfn)).read();
            assert_eq!((of(31), of(544)), (7, 7));
            assert_eq!(ram.resident(), 512);
            assert_eq!((of(32), of(543)), (0, 0));
        }
        write(100, 9);
        assert!(ram.resident() > 512);
    }

    #[test]
    fn more_than_there_are_addresses() {
        let range = PfnRange::new(Pfn(0), Pfn(1 << 52));
        assert!(Ram::new(&[RamRange { range, node: NodeId(0) }]).is_none());
    }
}
