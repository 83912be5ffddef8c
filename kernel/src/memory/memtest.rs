//! `memtest=N`: patterns over all free memory before anybody uses it; pages
//! that fail are kept out for good. Calls the pure `memtest`, `mm::early`.

use crate::vm;
use core::ops::Range;
use mm::early::EarlyMem;
use mm::firmware::Mem;
use mm::types::{PAGE_SIZE, Pfn, PfnRange};
use quarry_kernel::memtest::{Pattern, Words, check};

/// Name of bad pages in early memory.
const BAD: &str = "bad memory";

/// Pages tested at a time: their words' numbers have less than 32 bits.
const CHUNK: u64 = 1 << 18;

/// Free frames, seen as words.
struct Frames {
    first: *mut u64,
    len: usize,
}

impl Frames {
    /// The words of `range`, which must be free.
    fn new(range: PfnRange) -> Self {
        let words = range.pages() as usize * (PAGE_SIZE / size_of::<u64>());
        Self { first: vm::frame_ptr(range.start).cast(), len: words }
    }

    fn word(&self, index: usize) -> *mut u64 {
        debug_assert!(index < self.len);
        self.first.wrapping_add(index)
    }
}

impl Words for Frames {
    fn len(&self) -> usize {
        self.len
    }

    fn read(&self, index: usize) -> u64 {
        // SAFETY: a word of free RAM, which is mapped and nobody's else.
        unsafe { self.word(index).read_volatile() }
    }

    fn write(&mut self, index: usize, value: u64) {
        // SAFETY: as for reading.
        unsafe { self.word(index).write_volatile(value) };
    }
}

/// Runs the first `patterns` patterns (each once for [`u32::MAX`]), zero last, over all memory that is free
/// in `early`, and reserves the pages that fail. Returns how many those are.
pub(crate) fn memtest(early: &mut EarlyMem<'_>, patterns: u32) -> u64 {
    let patterns = if patterns == u32::MAX { Pattern::COUNT } else { patterns };
    log::info!("memtest: {patterns} patterns over {}K", early.free_pages() * 4);
    for n in (0..patterns).rev() {
        let pattern = Pattern::numbered(n);
        let mut at = Pfn(0);
        loop {
            let next = early.free_ranges().find(|free| free.end > at);
            let Some(free) = next else { break };
            let start = free.start.max(at);
            let part = PfnRange::new(start, free.end.min(start.add(CHUNK)));
            let mut bad = |words: Range<usize>| keep_out(early, part, words, pattern);
            check(&mut Frames::new(part), pattern, &mut bad);
            at = part.end;
        }
    }
    let bad = early.reserved_by(BAD);
    log::info!("memtest: {bad} bad pages");
    bad
}

/// Reserves the pages that hold the bad `words` of `part`.
fn keep_out(early: &mut EarlyMem<'_>, part: PfnRange, words: Range<usize>, pattern: Pattern) {
    let byte = |word: usize| part.start.addr() + (word * size_of::<u64>()) as u64;
    let (start, end) = (byte(words.start), byte(words.end));
    log::warn!("memtest: {} does not keep {pattern:x?}, kept out", Mem { start, end });
    early.reserve(PfnRange::new(Pfn::containing(start), Pfn::containing(end - 1).add(1)), BAD);
}
