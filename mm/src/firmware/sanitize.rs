//! The sanitiser: any list of entries to sorted, disjoint ranges.
//!
//! A byte is RAM only if at least one entry says so and none says anything
//! else, whatever their order. The work is done kind by kind: within a kind the
//! entries are sorted and merged, after which the kinds, each sorted and
//! disjoint, are swept together. So order and splits of the input cannot show,
//! in the result or in the warnings. O(n log n), in the buffers given.

use super::{Mem, RawRegion, RegionKind, Warning};
use crate::table::Table;
use crate::types::{PAGE_SIZE, Pfn, PfnRange};

/// A range of one kind in a clean map.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Region {
    /// First byte.
    pub start: u64,
    /// One past the last byte, greater than `start`.
    pub end: u64,
    /// What it is; never [`RegionKind::Unknown`].
    pub kind: RegionKind,
}

impl Region {
    /// An empty range, to fill a table with.
    pub const EMPTY: Self = Self { start: 0, end: 0, kind: RegionKind::Reserved };

    /// The bytes, for printing.
    pub const fn mem(self) -> Mem {
        Mem { start: self.start, end: self.end }
    }

    /// Length in bytes.
    pub const fn len(self) -> u64 {
        self.end - self.start
    }

    /// Whether there is no byte in it: not so in a clean map.
    pub const fn is_empty(self) -> bool {
        self.end <= self.start
    }

    /// The frames that lie wholly inside.
    pub const fn frames(self) -> PfnRange {
        PfnRange::new(
            Pfn::containing(self.start.saturating_add(PAGE_SIZE as u64 - 1)),
            Pfn::containing(self.end),
        )
    }
}

/// A clean map: sorted, disjoint, ranges of the same kind do not touch, and
/// RAM begins and ends at page borders.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Map<'a> {
    regions: &'a [Region],
    scraps: Scraps,
}

/// Most scraps that a map keeps.
const SCRAPS: usize = 8;

/// RAM at the ends of its ranges that is less than a page, sorted. Nobody can
/// use it; it is there to be shown. What there is no room for is not.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
struct Scraps {
    ranges: [Region; SCRAPS],
    len: usize,
}

impl Scraps {
    const NONE: Self = Self { ranges: [Region::EMPTY; SCRAPS], len: 0 };

    fn push(&mut self, start: u64, end: u64) {
        if start < end
            && let Some(place) = self.ranges.get_mut(self.len)
        {
            *place = Region { start, end, kind: RegionKind::Usable };
            self.len += 1;
        }
    }
}

impl<'a> Map<'a> {
    /// All ranges.
    pub const fn regions(&self) -> &'a [Region] {
        self.regions
    }

    /// RAM that is in none of the ranges, for it is less than a page: sorted, the
    /// first few of it.
    pub fn scraps(&self) -> &[Region] {
        &self.scraps.ranges[..self.scraps.len]
    }

    /// The RAM, lowest first: ranges that do not touch, whoever has them.
    pub fn ram(&self) -> impl Iterator<Item = PfnRange> + Clone + use<'a> {
        let regions = self.regions;
        let mut next = 0;
        core::iter::from_fn(move || {
            next += regions[next..].iter().position(|r| r.kind.is_ram())?;
            let run = ram_run(&regions[next..]);
            let (first, last) = (regions[next], regions[next + run - 1]);
            next += run;
            Some(PfnRange::new(Pfn::containing(first.start), Pfn::containing(last.end)))
        })
    }

    /// The RAM that is present but not to be managed.
    pub fn unmanaged(&self) -> impl Iterator<Item = PfnRange> + Clone + use<'a> {
        self.of_kind(RegionKind::Bootloader).map(Region::frames)
    }

    /// The ranges of one kind.
    pub fn of_kind(&self, kind: RegionKind) -> impl Iterator<Item = Region> + Clone + use<'a> {
        self.regions.iter().copied().filter(move |r| r.kind == kind)
    }

    /// Pages of RAM.
    pub fn ram_pages(&self) -> u64 {
        self.ram().map(PfnRange::pages).sum()
    }

    /// Pages of RAM inside `range`.
    pub fn ram_pages_in(&self, range: PfnRange) -> u64 {
        self.ram().map(|ram| ram.intersect(range).pages()).sum()
    }
}

/// Makes a clean map of `raw`, which is used up in the work, for a CPU whose
/// physical addresses have `phys_bits` bits. The result lies in `out`, which has
/// room for every map when it is twice as long as `raw`; each oddity goes to
/// `warn`, in an order that depends on the map alone.
pub fn sanitize<'a>(
    raw: &mut [RawRegion],
    phys_bits: u32,
    out: &'a mut [Region],
    warn: &mut dyn FnMut(Warning),
) -> Map<'a> {
    let raw = drop_impossible(raw, phys_bits, warn);
    let len = merge_kinds(raw, &mut |mem, kind| warn(Warning::Repeated { mem, kind }));
    let raw = &mut raw[..len];
    for entry in raw.iter_mut() {
        if let RegionKind::Unknown(number) = entry.kind {
            warn(Warning::UnknownKind { mem: entry.mem(), number });
            entry.kind = entry.kind.clean();
        }
    }
    let len = merge_kinds(raw, &mut |_, _| {});
    let len = cut_to_width(&mut raw[..len], phys_bits, warn);
    let mut regions = Table::new(out);
    sweep(&raw[..len], &mut regions, warn);
    let scraps = round_ram(&mut regions, warn);
    Map { regions: regions.into_slice(), scraps }
}

/// Leaves out empty entries and RAM that wraps, and clamps the rest that wraps.
fn drop_impossible<'r>(
    raw: &'r mut [RawRegion],
    phys_bits: u32,
    warn: &mut dyn FnMut(Warning),
) -> &'r mut [RawRegion] {
    raw.sort_unstable_by_key(|e| (e.start, e.end, e.kind));
    let mut kept = 0;
    for i in 0..raw.len() {
        let mut entry = raw[i];
        let (mem, kind) = (entry.mem(), entry.kind);
        if entry.is_empty() {
            warn(Warning::Empty { mem, kind });
            continue;
        }
        if entry.wraps() {
            if kind == RegionKind::Usable {
                warn(Warning::WrapDropped { mem, kind });
                continue;
            }
            // What the loader holds must neither become RAM up to the top nor
            // be forgotten where another entry calls it usable.
            if kind == RegionKind::Bootloader {
                entry.kind = RegionKind::Reserved;
            }
            warn(Warning::WrapClamped { mem, kind });
            entry.end = address_limit(phys_bits);
            if entry.start >= entry.end {
                continue;
            }
        }
        raw[kept] = entry;
        kept += 1;
    }
    &mut raw[..kept]
}

/// One past the last address of a CPU with `phys_bits` bits.
fn address_limit(phys_bits: u32) -> u64 {
    1u64.checked_shl(phys_bits).unwrap_or(u64::MAX)
}

/// Sorts by kind, then address, and merges what overlaps or touches within a
/// kind; `repeated` hears of bytes that were listed more than once. Returns how
/// many entries are left.
fn merge_kinds(raw: &mut [RawRegion], repeated: &mut dyn FnMut(Mem, RegionKind)) -> usize {
    raw.sort_unstable_by_key(|e| (e.kind, e.start, e.end));
    let mut kept = 0usize;
    // The bytes known to be listed twice, a run that may still grow.
    let mut twice: Option<RawRegion> = None;
    for i in 0..raw.len() {
        let entry = raw[i];
        let run = kept.checked_sub(1).map(|last| &mut raw[last]);
        let Some(run) = run.filter(|run| run.kind == entry.kind && entry.start <= run.end) else {
            raw[kept] = entry;
            kept += 1;
            continue;
        };
        let again = RawRegion { end: entry.end.min(run.end), ..entry };
        run.end = run.end.max(entry.end);
        if again.is_empty() {
            continue;
        }
        match &mut twice {
            Some(t) if t.kind == again.kind && again.start <= t.end => t.end = t.end.max(again.end),
            t => {
                if let Some(done) = t.replace(again) {
                    repeated(done.mem(), done.kind);
                }
            }
        }
    }
    if let Some(done) = twice {
        repeated(done.mem(), done.kind);
    }
    kept
}

/// Cuts off what lies beyond the CPU's addresses. Returns how many are left.
fn cut_to_width(raw: &mut [RawRegion], phys_bits: u32, warn: &mut dyn FnMut(Warning)) -> usize {
    let limit = address_limit(phys_bits);
    let mut kept = 0;
    for i in 0..raw.len() {
        let mut entry = raw[i];
        if entry.end > limit {
            let (mem, kind) = (entry.mem(), entry.kind);
            warn(Warning::BeyondWidth { mem, kind, phys_bits });
            entry.end = limit;
        }
        if entry.start < entry.end {
            raw[kept] = entry;
            kept += 1;
        }
    }
    kept
}

/// Walks over all kinds at once, `raw` being sorted by kind and disjoint within
/// each, and writes down what each stretch is.
fn sweep(raw: &[RawRegion], out: &mut Table<'_, Region>, warn: &mut dyn FnMut(Warning)) {
    const KINDS: usize = RegionKind::CLEAN.len();
    // Per kind, its entries that do not lie wholly below `at`.
    let mut ahead: [&[RawRegion]; KINDS] = RegionKind::CLEAN.map(|kind| {
        let first = raw.partition_point(|e| e.kind < kind);
        let end = raw.partition_point(|e| e.kind <= kind);
        &raw[first..end]
    });
    let mut conflict: Option<(Region, RegionKind)> = None;
    let mut at = 0;
    loop {
        let mut next = u64::MAX;
        let (mut low, mut high) = (None, None);
        for entries in &mut ahead {
            if entries.first().is_some_and(|e| e.end <= at) {
                *entries = &entries[1..];
            }
            let Some(entry) = entries.first() else { continue };
            if entry.start <= at {
                low = low.or(Some(entry.kind));
                high = Some(entry.kind);
                next = next.min(entry.end);
            } else {
                next = next.min(entry.start);
            }
        }
        if let (Some(low), Some(high)) = (low, high) {
            let stretch = Region { start: at, end: next, kind: high };
            if low != high {
                match &mut conflict {
                    Some((c, l)) if c.end == at && (c.kind, *l) == (high, low) => c.end = next,
                    c => report(c.replace((stretch, low)), warn),
                }
            }
            if !append(out, stretch) {
                warn(Warning::TooManyRanges { start: at });
                break;
            }
        }
        if ahead.iter().all(|entries| entries.is_empty()) {
            break;
        }
        at = next;
    }
    report(conflict, warn);
}

/// Warns of a stretch about which entries disagree.
fn report(conflict: Option<(Region, RegionKind)>, warn: &mut dyn FnMut(Warning)) {
    if let Some((region, low)) = conflict {
        warn(Warning::Conflict { mem: region.mem(), low, high: region.kind });
    }
}

/// Appends a range, or lets the last one grow where it touches one of its kind.
fn append(out: &mut Table<'_, Region>, region: Region) -> bool {
    match out.last_mut() {
        Some(last) if last.kind == region.kind && last.end == region.start => {
            last.end = region.end;
            true
        }
        _ => out.push(region),
    }
}

/// How many of the first `regions` are RAM, each touching the one before.
fn ram_run(regions: &[Region]) -> usize {
    let mut end = None;
    let belongs = |r: &&Region| {
        let joins = r.kind.is_ram() && end.is_none_or(|end| end == r.start);
        end = Some(r.end);
        joins
    };
    regions.iter().take_while(belongs).count()
}

/// Rounds RAM to whole pages: each run of it inwards at its ends, and within a
/// run the loader's part outwards. The table does not grow. Returns what is cut
/// off.
fn round_ram(regions: &mut Table<'_, Region>, warn: &mut dyn FnMut(Warning)) -> Scraps {
    const MASK: u64 = PAGE_SIZE as u64 - 1;
    const LOW_END: u64 = 1 << 20;
    let (mut read, mut kept) = (0, 0);
    let mut scraps = Scraps::NONE;
    while read < regions.len() {
        let run = ram_run(&regions[read..]);
        if run == 0 {
            regions[kept] = regions[read];
            (read, kept) = (read + 1, kept + 1);
            continue;
        }
        let whole = Mem { start: regions[read].start, end: regions[read + run - 1].end };
        let start = whole.start.saturating_add(MASK) & !MASK;
        let end = whole.end & !MASK;
        scraps.push(whole.start, start.min(whole.end));
        scraps.push(end.max(start), whole.end);
        if start >= end {
            warn(Warning::NoWholePage { mem: whole });
        } else if (start != whole.start && start > LOW_END) || (end != whole.end && end >= LOW_END)
        {
            warn(Warning::PartialPage { mem: whole });
        }
        let mut at = start;
        let first_kept = kept;
        for i in read..read + run {
            let part = regions[i];
            let last = i + 1 == read + run;
            let part_end = match part.kind {
                _ if last => end,
                RegionKind::Bootloader => part.end.saturating_add(MASK) & !MASK,
                _ => part.end & !MASK,
            };
            let part_end = part_end.min(end);
            if part_end <= at {
                continue;
            }
            if kept > first_kept && regions[kept - 1].kind == part.kind {
                regions[kept - 1].end = part_end;
            } else {
                regions[kept] = Region { start: at, end: part_end, kind: part.kind };
                kept += 1;
            }
            at = part_end;
        }
        read += run;
    }
    regions.truncate(kept);
    scraps
}
