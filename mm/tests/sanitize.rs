//! The sanitiser against a reference that asks of each byte, one at a time,
//! what all the entries say about it.

use mm::firmware::{RawMap, RawRegion, Region, RegionKind, Warning, sanitize};
use proptest::prelude::*;

const PAGE: u64 = 4096;

/// The reference: slow, and as the rules are written.
struct Reference {
    entries: Vec<RawRegion>,
    limit: u64,
}

impl Reference {
    fn new(raw: &[RawRegion], phys_bits: u32) -> Self {
        let limit = 1 << phys_bits;
        let entries = raw.iter().copied().filter_map(|mut e| {
            if e.end < e.start {
                match e.kind {
                    RegionKind::Usable => return None,
                    RegionKind::Bootloader => e.kind = RegionKind::Reserved,
                    _ => {}
                }
                e.end = limit;
            }
            Some(e)
        });
        Self { entries: entries.collect(), limit }
    }

    /// What the entries make of a byte.
    fn kind(&self, byte: u64) -> Option<RegionKind> {
        if byte >= self.limit {
            return None;
        }
        let said = self.entries.iter().filter(|e| e.start <= byte && byte < e.end);
        said.map(|e| e.kind.clean()).max()
    }

    /// Every address at which anything can change.
    fn points(&self) -> Vec<u64> {
        let mut points = vec![0, self.limit];
        for e in &self.entries {
            for p in [e.start.min(self.limit), e.end.min(self.limit)] {
                points.extend([p, p & !(PAGE - 1), p.next_multiple_of(PAGE)]);
            }
        }
        points.sort_unstable();
        points.dedup();
        points
    }

    /// The clean map.
    fn regions(&self) -> Vec<Region> {
        let points = self.points();
        let mut out: Vec<Region> = Vec::new();
        for w in points.windows(2) {
            let (start, end) = (w[0], w[1]);
            let page = start & !(PAGE - 1);
            // The kinds in the page, or at its beginning if all pages up to
            // `end` are alike.
            let inside = points.iter().filter(|&&p| page <= p && p < page + PAGE);
            let kinds: Vec<_> = inside.map(|&p| self.kind(p)).collect();
            let ram = kinds.iter().all(|k| k.is_some_and(RegionKind::is_ram));
            let kind = match self.kind(start) {
                _ if ram && kinds.contains(&Some(RegionKind::Bootloader)) => RegionKind::Bootloader,
                _ if ram => RegionKind::Usable,
                Some(kind) if !kind.is_ram() => kind,
                _ => continue,
            };
            match out.last_mut() {
                Some(last) if last.end == start && last.kind == kind => last.end = end,
                _ => out.push(Region { start, end, kind }),
            }
        }
        out
    }
}

fn clean(raw: &[RawRegion], phys_bits: u32) -> (Vec<Region>, Vec<Warning>) {
    let mut raw = raw.to_vec();
    let mut out = vec![Region::EMPTY; 2 * raw.len()];
    let mut warnings = Vec::new();
    let map = sanitize(&mut raw, phys_bits, &mut out, &mut |w| warnings.push(w));
    (map.regions().to_vec(), warnings)
}

/// Addresses where it matters: near 0, the low hole, 4 GiB, the top of the
/// CPU's addresses, and the top of all.
fn address() -> impl Strategy<Value = u64> {
    let base = prop_oneof![
        6 => Just(0u64),
        2 => Just(0x9_0000),
        2 => Just(0xf_e000),
        1 => Just(0xffff_c000),
        2 => Just((1u64 << 40) - 0x4000),
        1 => Just(u64::MAX - 0x8000),
    ];
    let offset = prop_oneof![2 => Just(0u64), 1 => 0..PAGE, 1 => Just(PAGE - 1), 1 => Just(1)];
    (base, 0..8u64, offset).prop_map(|(b, page, o)| b.saturating_add(page * PAGE + o))
}

fn kind() -> impl Strategy<Value = RegionKind> {
    prop_oneof![
        8 => Just(RegionKind::Usable),
        3 => Just(RegionKind::Bootloader),
        3 => Just(RegionKind::Reserved),
        3 => prop::sample::select(&RegionKind::CLEAN[..]),
        1 => (20..23u32).prop_map(RegionKind::Unknown),
    ]
}

fn map() -> impl Strategy<Value = Vec<RawRegion>> {
    let entry = (address(), address(), kind(), 0..8u8).prop_map(|(a, b, kind, order)| {
        // Now and then as it came: one that wraps or is empty.
        let (start, end) = if order == 0 { (a, b) } else { (a.min(b), a.max(b)) };
        RawRegion { start, end, kind }
    });
    prop::collection::vec(entry, 0..12)
}

fn config() -> ProptestConfig {
    ProptestConfig {
        cases: if cfg!(miri) { 2 } else { 4096 },
        failure_persistence: None,
        ..ProptestConfig::default()
    }
}

const BITS: u32 = 40;

fn check_shape(regions: &[Region]) -> Result<(), TestCaseError> {
    for r in regions {
        prop_assert!(r.start < r.end && r.end <= 1 << BITS);
        prop_assert!(!matches!(r.kind, RegionKind::Unknown(_)));
        prop_assert!(!r.kind.is_ram() || (r.start % PAGE, r.end % PAGE) == (0, 0));
    }
    for w in regions.windows(2) {
        prop_assert!(w[0].end <= w[1].start);
        prop_assert!(w[0].end < w[1].start || w[0].kind != w[1].kind);
    }
    Ok(())
}

proptest! {
    #![proptest_config(config())]

    #[test]
    fn agrees_with_the_reference(raw in map()) {
        let (regions, _) = clean(&raw, BITS);
        check_shape(&regions)?;
        prop_assert_eq!(regions, Reference::new(&raw, BITS).regions());
    }

    #[test]
    fn twice_changes_nothing(raw in map()) {
        let (once, _) = clean(&raw, BITS);
        let again: Vec<_> =
            once.iter().map(|r| RawRegion { start: r.start, end: r.end, kind: r.kind }).collect();
        let (twice, warnings) = clean(&again, BITS);
        prop_assert_eq!(twice, once);
        prop_assert_eq!(warnings, vec![]);
    }

    #[test]
    fn order_and_splits_do_not_show(
        raw in map(),
        seed in any::<prop::sample::Index>(),
        cut in any::<prop::sample::Index>(),
        rotate in any::<prop::sample::Index>(),
        reverse in any::<bool>(),
    ) {
        prop_assume!(!raw.is_empty());
        let whole = clean(&raw, BITS);
        let mut other = raw.clone();
        let i = seed.index(raw.len());
        let e = raw[i];
        if e.end > e.start + 1 {
            let middle = e.start + 1 + cut.index((e.end - e.start - 1) as usize) as u64;
            other[i].end = middle;
            other.push(RawRegion { start: middle, ..e });
        }
        let by = rotate.index(other.len());
        other.rotate_left(by);
        if reverse {
            other.reverse();
        }
        prop_assert_eq!(clean(&other, BITS), whole);
    }

    /// A collecting table that overflows, and a result that does, lose RAM and
    /// say so; what they leave out never turns into RAM, or into managed RAM.
    #[test]
    fn overflow_only_loses(raw in map(), room in 0..12usize, out_room in 0..12usize) {
        let reference = Reference::new(&raw, BITS).regions();
        let find = |page: u64| {
            reference.iter().find(|r| r.start <= page && page < r.end).map(|r| r.kind)
        };
        let mut slots = vec![RawRegion::EMPTY; room];
        let mut collected = RawMap::new(&mut slots);
        raw.iter().for_each(|&e| collected.push(e));
        let mut warnings = Vec::new();
        let mut out = vec![Region::EMPTY; out_room];
        let kept = collected.finish(&mut |w| warnings.push(w));
        let map = sanitize(kept, BITS, &mut out, &mut |w| warnings.push(w));
        check_shape(map.regions())?;
        for r in map.regions().iter().filter(|r| r.kind.is_ram()) {
            // Borders of the reference inside `r`, and its ends, say it all.
            let inside = reference.iter().flat_map(|r| [r.start, r.end]);
            let inside = inside.filter(|p| r.start <= *p && *p < r.end).chain([r.start]);
            for page in inside.map(|p| p & !(PAGE - 1)) {
                match r.kind {
                    RegionKind::Usable => prop_assert_eq!(find(page), Some(RegionKind::Usable)),
                    _ => prop_assert!(find(page).is_some_and(RegionKind::is_ram)),
                }
            }
        }
        let full: u64 = reference.iter().filter(|r| r.kind.is_ram()).map(Region::len_of).sum();
        let got = map.ram_pages() * PAGE;
        prop_assert!(got <= full);
        let said = warnings.iter().any(|w| {
            matches!(w, Warning::TooManyEntries { .. } | Warning::TooManyRanges { .. })
        });
        prop_assert!(got == full || said, "lost without a word");
    }
}

trait LenOf {
    fn len_of(&self) -> u64;
}

impl LenOf for Region {
    fn len_of(&self) -> u64 {
        self.end - self.start
    }
}

/// As many entries as a table should hold, in the worst arrangement: nested, so
/// that each border makes a range of its own.
#[test]
fn nested_entries_fit_twice_as_many_ranges() {
    let n = if cfg!(miri) { 6 } else { 1024 };
    let kinds = [RegionKind::Usable, RegionKind::AcpiData, RegionKind::Reserved];
    let raw: Vec<_> = (0..n)
        .map(|i| RawRegion::new(i * PAGE, (4 * n - i) * PAGE, kinds[(i * 3 / n) as usize]))
        .collect();
    let (regions, warnings) = clean(&raw, BITS);
    assert_eq!(regions, Reference::new(&raw, BITS).regions());
    assert!(!warnings.iter().any(|w| matches!(w, Warning::TooManyRanges { .. })));
    let islands: Vec<_> = (0..n)
        .map(|i| RawRegion::new(2 * i * PAGE, (2 * i + 1) * PAGE, kinds[(i % 3) as usize]))
        .collect();
    assert_eq!(clean(&islands, BITS).0.len(), n as usize);
}

#[test]
fn a_full_table_prefers_the_word_that_something_is_not_ram() {
    let mut slots = [RawRegion::EMPTY; 2];
    let mut map = RawMap::new(&mut slots);
    map.push(RawRegion::new(0, 8 * PAGE, RegionKind::Usable));
    map.push(RawRegion::new(16 * PAGE, 18 * PAGE, RegionKind::Usable));
    map.push(RawRegion::new(PAGE, 2 * PAGE, RegionKind::Bootloader));
    assert_eq!(map.entries()[1].kind, RegionKind::Bootloader);
    map.push(RawRegion::new(4 * PAGE, 5 * PAGE, RegionKind::Reserved));
    map.push(RawRegion::new(0, 100 * PAGE, RegionKind::Usable));
    assert_eq!(map.lost(), 3);
    let kinds: Vec<_> = map.entries().iter().map(|e| e.kind).collect();
    assert_eq!(kinds, [RegionKind::Reserved, RegionKind::Bootloader]);
}

#[test]
fn kinds_by_number() {
    use RegionKind as K;
    let e820: Vec<_> = (0..=13).map(K::from_e820).collect();
    assert_eq!(e820[1..=5], [K::Usable, K::Reserved, K::AcpiData, K::AcpiNvs, K::Unusable]);
    assert_eq!((e820[7], e820[12]), (K::Persistent, K::PersistentLegacy));
    for unknown in [0, 6, 8, 13] {
        assert_eq!(e820[unknown], K::Unknown(unknown as u32));
    }
    assert_eq!(K::from_e820(0xefff_ffff), K::SoftReserved);
    let uefi: Vec<_> = (0..=16).map(K::from_uefi).collect();
    for ram in [1, 2, 3, 4, 7] {
        assert_eq!(uefi[ram], K::Usable);
    }
    for reserved in [0, 11, 12, 13, 15] {
        assert_eq!(uefi[reserved], K::Reserved);
    }
    assert_eq!(uefi[5..7], [K::EfiRuntime, K::EfiRuntime]);
    assert_eq!(uefi[8..11], [K::Unusable, K::AcpiData, K::AcpiNvs]);
    assert_eq!((uefi[14], uefi[16]), (K::Persistent, K::Unknown(16)));
    assert!(K::CLEAN.is_sorted(), "rank is the order of the kinds");
}
