//! How much may be dirty: pure functions with known answers (Linux
//! mm/page-writeback.c, `domain_dirty_limits`). Units are pages unless a name
//! says otherwise. Calls nothing.

use crate::types::PAGE_SIZE;

/// `dirty_background_ratio` unless set, in per cent.
pub const BACKGROUND_RATIO: u32 = 10;
/// `dirty_ratio` unless set, in per cent.
pub const RATIO: u32 = 20;
/// `dirty_expire_centisecs` unless set: after 30 s what is dirty is written.
pub const EXPIRE_CENTISECS: u32 = 3000;
/// `dirty_writeback_centisecs` unless set: the flusher looks every 5 s.
pub const WRITEBACK_CENTISECS: u32 = 500;

/// How many pages may be dirty or on their way to their devices.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Limits {
    /// Beyond this the flusher writes.
    pub background: u64,
    /// Beyond this whoever writes more waits.
    pub most: u64,
}

impl Limits {
    /// The limits where `dirtyable` pages could be dirty. Each is a ratio in per
    /// cent and a number of bytes, which counts if it is not 0.
    pub const fn of(dirtyable: u64, background: (u32, u64), most: (u32, u64)) -> Self {
        const fn pages(of: u64, (ratio, bytes): (u32, u64)) -> u64 {
            match bytes {
                0 => of * ratio as u64 / 100,
                _ => bytes.div_ceil(PAGE_SIZE as u64),
            }
        }
        let (background, most) = (pages(dirtyable, background), pages(dirtyable, most));
        // There is to be something between the two.
        Self { background: if background >= most { most / 2 } else { background }, most }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn limits_are_ratios_or_bytes() {
        let limits = |background, most| {
            let Limits { background, most } = Limits::of(1000, background, most);
            (background, most)
        };
        assert_eq!(limits((10, 0), (20, 0)), (100, 200));
        assert_eq!(limits((10, 0), (20, 4096 * 150)), (100, 150));
        assert_eq!(limits((10, 4097), (20, 0)), (2, 200));
        assert_eq!(limits((50, 0), (20, 0)), (100, 200), "half, where it would not be less");
        assert_eq!(limits((0, 0), (0, 0)), (0, 0));
        assert_eq!(limits((10, 0), (100, 0)), (100, 1000));
    }
}
