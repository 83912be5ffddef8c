//! The RAM of a simulated machine: one sparse mapping for all of it, the holes
//! left out, and which frame lies where. Calls `memmap2`.

use memmap2::{MmapOptions, MmapRaw};
use mm::early::RamRange;
use mm::types::{PAGE_SIZE, Pfn, PfnRange};

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

impl Ram {
    /// Frames for `ram`, sorted and disjoint. None if the host has no addresses
    /// for so many.
    pub(super) fn new(ram: &[RamRange]) -> Option<Self> {
        let mut segments: Vec<Segment> = Vec::new();
        let mut bytes = 0;
        for &RamRange { range, .. } in ram {
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
        for pfn in [0, 16, far - 1, far + 4, u64::MAX] {
            assert!(ram.frame(Pfn(pfn)).is_null());
        }
        let end = ram.frame(Pfn(far + 3)).wrapping_add(PAGE_SIZE);
        assert_eq!(ram.pfn_of(end), None);
        assert_eq!(ram.pfn_of(ram.frame(Pfn(1)).wrapping_sub(1)), None);
        assert_eq!(ram.pfn_of(std::ptr::null()), None);
    }

    #[test]
    fn more_than_there_are_addresses() {
        let range = PfnRange::new(Pfn(0), Pfn(1 << 52));
        assert!(Ram::new(&[RamRange { range, node: NodeId(0) }]).is_none());
    }
}
