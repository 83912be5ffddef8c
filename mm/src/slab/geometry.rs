//! Slab geometry: how large an object's slot is, how many fit into a slab, how
//! many pages a slab has, how long a CPU's array is. Pure arithmetic after Linux
//! 6.1 mm/slab.c, so that the numbers in slabinfo are the same. Calls nothing.

use crate::types::{MAX_ORDER, Order, PAGE_SIZE};
use bitflags::bitflags;

/// Bytes in a cache line.
pub const CACHE_LINE: usize = 64;
/// A slab has no more objects than a byte can number.
pub const MAX_OBJECTS: usize = 255;
/// The smallest slot.
const MIN_SIZE: usize = 16;
/// A word: the least alignment, and the size of a red zone.
pub const WORD: usize = 8;

bitflags! {
    /// What a cache checks about its objects.
    #[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
    pub struct Debug: u8 {
        /// Words before and after each object that nobody may write to.
        const RED_ZONE = 1;
        /// Free objects hold a pattern, checked when they are handed out.
        const POISON = 2;
        /// Who allocated or freed the object last.
        const STORE_USER = 4;
    }
}

/// Where Linux would keep the numbers of a slab's free objects. Only the room
/// that this takes matters here: it decides how many objects fit.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Freelist {
    /// In a free object.
    InObject,
    /// In memory of its own.
    OffSlab,
    /// After the objects.
    OnSlab,
}

/// What is asked of a cache as far as its geometry is concerned.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Want {
    /// Bytes of an object.
    pub object_size: usize,
    /// Least alignment in bytes, a power of two; 0 or 1 is none.
    pub align: usize,
    /// Objects do not share cache lines without need.
    pub hwcache_align: bool,
    /// Free objects keep the state a constructor gave them.
    pub ctor: bool,
    /// The pages count as reclaimable: slabs stay as small as they can be.
    pub reclaim_account: bool,
    /// Objects are zeroed when they are freed.
    pub init_on_free: bool,
    /// Checks, which take room.
    pub debug: Debug,
    /// Slabs do not get larger than this without need.
    pub max_order: Order,
}

impl Want {
    /// Plain objects of `object_size` bytes on a machine of more than 32 MiB.
    pub const fn plain(object_size: usize) -> Self {
        Self {
            object_size,
            align: 0,
            hwcache_align: false,
            ctor: false,
            reclaim_account: false,
            init_on_free: false,
            debug: Debug::empty(),
            max_order: Order(1),
        }
    }
}

/// The shape of a cache's slabs.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Geometry {
    /// Bytes from an object to the next.
    pub size: u32,
    /// Bytes from the start of a slot to the object in it (a red zone).
    pub offset: u32,
    /// Alignment of the slots in bytes.
    pub align: u32,
    /// Objects in a slab.
    pub objects: u16,
    /// Pages in a slab.
    pub order: Order,
    /// Bytes of a slab that are left over.
    pub left: u32,
    /// How that number was arrived at.
    pub freelist: Freelist,
    /// Bytes from one colour to the next.
    pub colour_off: u32,
    /// Colours: so many different places the first object can start at, less
    /// one (none or one: always the same).
    pub colours: u16,
    /// The checks for which there was room.
    pub debug: Debug,
    /// What the odd factor of `size` times this is 1, modulo 2^64.
    pub inverse: u64,
    /// The other factor's power of two.
    pub shift: u32,
    /// A bit for each object, up to 64: the word that says of a slab's objects,
    /// if the descriptor does, that all of them are free.
    pub all_free: u64,
}

/// Objects that two words of a slab's descriptor number.
const IN_DESCRIPTOR: u16 = 64;

impl Geometry {
    /// Whether the descriptor of a slab says which objects are free, and not
    /// words at the slab's end.
    #[inline]
    pub(crate) fn in_descriptor(&self) -> bool {
        self.objects <= IN_DESCRIPTOR
    }

    /// The number of the object that begins `at` bytes after the first one of
    /// its slab. None if none begins there.
    #[inline]
    pub fn number(&self, at: usize) -> Option<u16> {
        // This takes `i * size` to `i`. Multiplying by an odd number and rotating
        // can both be undone, so whatever else `at` is goes to other numbers than
        // those of objects: one test finds all that does not begin one
        // (Granlund and Montgomery, "Division by invariant integers", section 9).
        let i = (at as u64).wrapping_mul(self.inverse).rotate_right(self.shift);
        (i < u64::from(self.objects)).then_some(i as u16)
    }
}

/// The inverse of an odd number modulo 2^64.
const fn inverse(odd: u64) -> u64 {
    // Each step (Newton's) makes twice as many of the low bits right; the number
    // itself is right in three.
    let (mut x, mut right) = (odd, 3);
    while right < u64::BITS {
        x = x.wrapping_mul(2_u64.wrapping_sub(odd.wrapping_mul(x)));
        right *= 2;
    }
    x
}

const fn align_up(bytes: usize, align: usize) -> usize {
    (bytes + align - 1) & !(align - 1)
}

/// The alignment that a cache's slots get.
const fn slot_align(want: &Want) -> usize {
    let mut align = if want.align > WORD { want.align } else { WORD };
    if want.hwcache_align {
        // Small objects share a line, but none straddles two.
        let mut line = CACHE_LINE;
        while want.object_size <= line / 2 {
            line /= 2;
        }
        if line > align {
            align = line;
        }
    }
    align
}

/// The size of the general cache that would hold `bytes`.
const fn kmalloc_size(bytes: usize) -> usize {
    match bytes {
        0..=32 => 32,
        65..=96 => 96,
        129..=192 => 192,
        _ => bytes.next_power_of_two(),
    }
}

/// Objects, order and bytes left for slots of `size` bytes.
fn fit(size: usize, freelist: Freelist, want: &Want) -> Option<(usize, Order, usize)> {
    let mut best = None;
    for order in (0..=MAX_ORDER.0).map(Order) {
        let bytes = order.bytes();
        let slot = if freelist == Freelist::OnSlab { size + 1 } else { size };
        let (objects, left) = (bytes / slot, bytes % slot);
        if objects == 0 {
            continue;
        }
        if objects > MAX_OBJECTS {
            break;
        }
        if freelist == Freelist::OffSlab && kmalloc_size(objects) > size / 2 {
            continue;
        }
        best = Some((objects, order, left));
        // Reclaimable memory is best had back page by page; for the rest, an
        // eighth lost is acceptable.
        if want.reclaim_account || order >= want.max_order || left * 8 <= bytes {
            break;
        }
    }
    best
}

/// Room for red zones and the last user, if the rules allow it: what follows
/// an object of that size and alignment, and what comes before.
fn debug_room(want: &Want, align: usize) -> (Debug, usize, usize) {
    let mut debug = want.debug;
    let size = align_up(want.object_size, WORD);
    let bits = |n: usize| usize::BITS - (n.max(1) - 1).leading_zeros();
    // The zone before the object would spoil a larger alignment, and beside a
    // large object it would double the slab.
    if align > WORD || size >= PAGE_SIZE && bits(size) != bits(size + 3 * WORD) {
        debug -= Debug::RED_ZONE | Debug::STORE_USER;
    }
    let zones = debug.contains(Debug::RED_ZONE);
    let before = if zones { WORD } else { 0 };
    let mut after = before;
    if debug.contains(Debug::STORE_USER) {
        after += WORD;
    }
    (debug, before, after)
}

/// The geometry for `want`; None if the object is empty or too large for any
/// slab, or the alignment is none.
pub fn geometry(want: &Want) -> Option<Geometry> {
    if want.object_size == 0
        || want.object_size > MAX_ORDER.bytes()
        || want.align > PAGE_SIZE
        || want.align > 1 && !want.align.is_power_of_two()
    {
        return None;
    }
    let align = slot_align(want);
    let (debug, before, after) = debug_room(want, align);
    let mut size = align_up(before + align_up(want.object_size, WORD) + after, align);
    if size < MIN_SIZE {
        size = align_up(MIN_SIZE, align);
    }
    let (freelist, (objects, order, left)) = choose(size, want)?;
    let colour_off = CACHE_LINE.max(align);
    Some(Geometry {
        size: size as u32,
        offset: before as u32,
        align: align as u32,
        objects: objects as u16,
        order,
        left: left as u32,
        freelist,
        colour_off: colour_off as u32,
        colours: (left / colour_off).min(usize::from(u16::MAX)) as u16,
        debug,
        inverse: inverse(size as u64 >> size.trailing_zeros()),
        shift: size.trailing_zeros(),
        all_free: u64::MAX >> (64 - objects.min(64)),
    })
}

/// The best place for the freelist, and what fits then.
fn choose(size: usize, want: &Want) -> Option<(Freelist, (usize, Order, usize))> {
    if !want.ctor
        && !want.init_on_free
        && let Some(found) = fit(size, Freelist::InObject, want)
        && found.0 <= want.object_size
    {
        return Some((Freelist::InObject, found));
    }
    if let Some(found) = fit(size, Freelist::OffSlab, want) {
        // Memory of its own is a waste if what is left over would do.
        if found.2 < found.0 {
            return Some((Freelist::OffSlab, found));
        }
    }
    Some((Freelist::OnSlab, fit(size, Freelist::OnSlab, want)?))
}

/// The sizes of a cache's arrays of free objects.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct ArraySizes {
    /// Objects a CPU keeps at most.
    pub limit: u32,
    /// Objects moved at a time.
    pub batch: u32,
    /// Batches that the CPUs of a node share; 0: nothing is shared.
    pub shared: u32,
}

/// Array sizes for slots of `size` bytes on a machine of `cpus` CPUs.
pub const fn array_sizes(size: u32, cpus: u16, debug: bool) -> ArraySizes {
    let mut limit = match size {
        131_073.. => 1,
        4097.. => 8,
        1025.. => 24,
        257.. => 54,
        _ => 120,
    };
    if debug && limit > 32 {
        limit = 32;
    }
    let shared = if size as usize <= PAGE_SIZE && cpus > 1 { 8 } else { 0 };
    ArraySizes { limit, batch: limit.div_ceil(2), shared }
}

/// Free objects that a node keeps before it gives slabs back.
pub const fn free_limit(batch: u32, objects: u16, cpus_of_node: u32) -> u64 {
    (1 + cpus_of_node as u64) * batch as u64 + objects as u64
}

#[cfg(test)]
mod tests {
    use super::*;

    fn shape(want: Want) -> (u32, Freelist, u16, u8, u32, u16) {
        let g = geometry(&want).expect("a geometry");
        (g.size, g.freelist, g.objects, g.order.0, g.left, g.colours)
    }

    #[test]
    fn general_caches_have_the_golden_shape() {
        use Freelist::{InObject, OnSlab};
        for (object_size, expected) in [
            (32usize, (32, OnSlab, 124, 0, 4, 0)),
            (64, (64, InObject, 64, 0, 0, 0)),
            (96, (128, InObject, 32, 0, 0, 0)),
            (128, (128, InObject, 32, 0, 0, 0)),
            (192, (192, InObject, 21, 0, 64, 1)),
            (256, (256, InObject, 16, 0, 0, 0)),
            (512, (512, InObject, 8, 0, 0, 0)),
            (1024, (1024, InObject, 4, 0, 0, 0)),
            (2048, (2048, InObject, 2, 0, 0, 0)),
            (4096, (4096, InObject, 1, 0, 0, 0)),
            (8192, (8192, InObject, 1, 1, 0, 0)),
        ] {
            let align = object_size.min(4096);
            let align = if object_size.is_power_of_two() { align } else { 8 };
            let want = Want { align, hwcache_align: true, ..Want::plain(object_size) };
            assert_eq!(shape(want), expected, "{object_size}");
        }
    }

    #[test]
    fn named_caches_have_the_golden_shape() {
        use Freelist::{InObject, OffSlab, OnSlab};
        let plain = Want::plain;
        let hw = |n| Want { hwcache_align: true, ..plain(n) };
        let ctor = |n| Want { ctor: true, ..plain(n) };
        for (want, expected) in [
            (plain(8), (16, OnSlab, 240, 0, 16, 0)),
            (plain(24), (24, OnSlab, 163, 0, 21, 0)),
            (plain(40), (40, OnSlab, 99, 0, 37, 0)),
            (plain(100), (104, InObject, 39, 0, 40, 0)),
            (hw(100), (128, InObject, 32, 0, 0, 0)),
            (hw(130), (192, InObject, 21, 0, 64, 1)),
            (hw(232), (256, InObject, 16, 0, 0, 0)),
            (ctor(576), (576, OnSlab, 7, 0, 57, 0)),
            (ctor(1080), (1080, OnSlab, 7, 1, 625, 9)),
            (ctor(512), (512, OffSlab, 8, 0, 0, 0)),
            (ctor(24), (24, OnSlab, 163, 0, 21, 0)),
            (plain(700), (704, InObject, 11, 1, 448, 7)),
            (plain(2100), (2104, InObject, 3, 1, 1880, 29)),
            (plain(3000), (3000, InObject, 2, 1, 2192, 34)),
            (plain(5000), (5000, InObject, 1, 1, 3192, 49)),
        ] {
            assert_eq!(shape(want), expected, "{want:?}");
        }
    }

    /// Rows of the slabinfo of a 6.1 kernel with SLAB: slot size, objects and
    /// pages, by object size and alignment as those caches are created.
    #[test]
    fn rows_of_a_running_kernel() {
        for (name, object_size, hw, reclaim, size, objects, pages) in [
            ("bio-96", 96, true, false, 128, 32, 1),
            ("kioctx", 576, true, false, 576, 7, 1),
            ("fs_cache", 56, true, false, 64, 63, 1),
            ("vmap_area", 64, false, false, 64, 64, 1),
            ("anon_vma", 96, false, true, 96, 42, 1),
            ("TCP", 2176, true, false, 2176, 3, 2),
            ("UNIX", 960, true, false, 960, 4, 1),
            ("task_struct", 5120, true, false, 5120, 1, 2),
            ("sighand_cache", 2112, true, false, 2112, 3, 2),
            ("shmem_inode_cache", 712, false, false, 712, 11, 2),
            ("hugetlbfs_inode_cache", 592, false, false, 592, 13, 2),
            ("sock_inode_cache", 704, true, true, 704, 5, 1),
            ("bdev_cache", 1216, true, true, 1216, 3, 1),
            ("request_queue", 888, false, false, 888, 9, 2),
            ("files_cache", 704, true, false, 704, 11, 2),
            ("vm_area_struct", 144, false, false, 144, 28, 1),
            ("Acpi-Namespace", 48, false, false, 48, 83, 1),
            ("Acpi-Operand", 72, false, false, 72, 56, 1),
            ("ep_head", 16, false, false, 16, 240, 1),
            ("numa_policy", 32, false, false, 32, 124, 1),
            ("request_queue_srcu", 1264, false, true, 1264, 3, 1),
        ] {
            let want =
                Want { hwcache_align: hw, reclaim_account: reclaim, ..Want::plain(object_size) };
            let g = geometry(&want).expect("a geometry");
            assert_eq!(
                (g.size, g.objects, g.order.pages()),
                (size, objects, pages),
                "{name}: {g:?}"
            );
        }
    }

    #[test]
    fn a_slab_holds_its_objects_and_no_freelist_needs_more_than_its_place() {
        for object_size in (1..=9000).step_by(if cfg!(miri) { 601 } else { 1 }) {
            for bits in 0..8 {
                let flag = |i: u32| bits >> i & 1 != 0;
                let want = Want {
                    hwcache_align: flag(0),
                    ctor: flag(1),
                    reclaim_account: flag(2),
                    debug: if object_size % 2 == 0 { Debug::all() } else { Debug::empty() },
                    ..Want::plain(object_size)
                };
                let g = geometry(&want).expect("a geometry");
                let used = usize::from(g.objects) * g.size as usize + g.left as usize;
                let room = if g.freelist == Freelist::OnSlab { usize::from(g.objects) } else { 0 };
                assert_eq!(used + room, g.order.bytes(), "{want:?}");
                assert!(g.offset as usize + object_size <= g.size as usize);
                assert!(usize::from(g.colours) * g.colour_off as usize <= g.left as usize);
                // Up to 64 objects are numbered in the page descriptor; more
                // only where there is room at the end of the slab.
                assert!(g.objects <= 64 || g.freelist == Freelist::OnSlab, "{want:?} {g:?}");
            }
        }
    }

    #[test]
    fn objects_have_numbers_and_what_lies_between_them_has_none() {
        let mut size = 1;
        while size < MAX_ORDER.bytes() {
            for want in [Want::plain(size), Want { ctor: true, ..Want::plain(size) }] {
                let g = geometry(&want).expect("a geometry");
                let size = g.size as usize;
                for i in 0..usize::from(g.objects) {
                    assert_eq!(g.number(i * size), Some(i as u16), "{g:?}");
                    for beside in [1, 7, size / 2, size - 1] {
                        assert_eq!(g.number(i * size + beside), None, "{g:?}");
                        let before = (i * size).wrapping_sub(beside);
                        assert_eq!(g.number(before), None, "{g:?}");
                    }
                }
                for beyond in [0, 1, 1000] {
                    let at = (usize::from(g.objects) + beyond).wrapping_mul(size);
                    assert_eq!(g.number(at), None, "{g:?}");
                }
            }
            size += size / if cfg!(miri) { 2 } else { 50 } + 1;
        }
    }

    #[test]
    fn inverses_of_odd_numbers() {
        for odd in (1..10_000).step_by(2).chain([u64::MAX, 0x1234_5678_9abc_def1]) {
            assert_eq!(odd.wrapping_mul(inverse(odd)), 1, "{odd}");
        }
    }

    #[test]
    fn what_cannot_be_is_refused() {
        assert_eq!(geometry(&Want::plain(0)), None);
        assert_eq!(geometry(&Want::plain((4 << 20) + 1)), None);
        assert_eq!(geometry(&Want { align: 24, ..Want::plain(64) }), None);
        assert_eq!(geometry(&Want { align: 8192, ..Want::plain(64) }), None);
        assert!(geometry(&Want::plain(4 << 20)).is_some());
    }

    #[test]
    fn checks_give_way_to_alignment_and_size() {
        let all = |n| Want { debug: Debug::all(), ..Want::plain(n) };
        let g = geometry(&all(40)).expect("a geometry");
        assert_eq!((g.size, g.offset, g.debug), (64, 8, Debug::all()));
        let g = geometry(&Want { align: 64, ..all(40) }).expect("a geometry");
        assert_eq!((g.size, g.offset, g.debug), (64, 0, Debug::POISON));
        // 4096 would need 4120 bytes: the next power of two. 4200 would not.
        assert_eq!(geometry(&all(4096)).map(|g| g.debug), Some(Debug::POISON));
        assert_eq!(geometry(&all(4200)).map(|g| g.debug), Some(Debug::all()));
    }

    #[test]
    fn arrays_have_the_golden_sizes() {
        for (size, limit, batch) in [
            (32, 120, 60),
            (256, 120, 60),
            (512, 54, 27),
            (1024, 54, 27),
            (2048, 24, 12),
            (4096, 24, 12),
            (8192, 8, 4),
            (200_000, 1, 1),
        ] {
            let sizes = array_sizes(size, 1, false);
            assert_eq!(sizes, ArraySizes { limit, batch, shared: 0 });
        }
        assert_eq!(array_sizes(64, 2, true), ArraySizes { limit: 32, batch: 16, shared: 8 });
        assert_eq!(array_sizes(8192, 2, false).shared, 0);
        assert_eq!(free_limit(60, 64, 2), 244);
    }
}
