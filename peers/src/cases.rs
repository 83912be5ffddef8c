//! Who takes part, and what is known of each.

use crate::others::{
    AxSlab, Bitmap, BsaFrame, BsaHeap, Buddy, Floor, Libc, LinkedList, Rlsf, Slabmalloc, Talc,
};
use crate::probe::Probe;
use crate::quarry::{Cache, Kmalloc, Parallel, Quarry};
use crate::workload::{self, Locked, Size};

/// An allocator of pages.
pub struct PageCase {
    /// As the tables call it.
    pub name: &'static str,
    /// Its free searches a list: it gets fewer pages and operations.
    pub slow: bool,
    /// Workloads `a`, `a2` and `b`.
    pub single: fn(Size, &mut Probe),
    /// Workload `c`, for those that know other orders than 0.
    pub mixed: Option<fn(Size, &mut Probe)>,
    /// Workload `d`.
    pub threads: fn(usize) -> f64,
    /// What it is and what it does not do.
    pub traits: [&'static str; 5],
}

/// An allocator of objects.
pub struct ObjectCase {
    /// As the tables call it.
    pub name: &'static str,
    /// Its free searches a list.
    pub slow: bool,
    /// Batches of objects of a size.
    pub run: fn(usize, &'static str, usize, &mut Probe),
}

/// What [`PageCase::traits`] are of.
pub const TRAITS: [&str; 5] = [
    "metadata",
    "orders",
    "threads",
    "wrong frees",
    "zones, watermarks, mobility, nodes, counters",
];

fn single<P: workload::Pages>(size: Size, probe: &mut Probe) {
    workload::pairs::<P>(size, probe);
    workload::aged::<P>(size, probe);
    workload::fill::<P>(size, probe);
}

const IN_BAND: &str = "in the free memory";
const LOCK: &str = "needs a lock";
const NONE: &str = "none";

/// All allocators of pages; Quarry first.
pub const PAGES: &[PageCase] = &[
    PageCase {
        name: "Quarry",
        slow: false,
        single: single::<Quarry>,
        mixed: Some(workload::mixed::<Quarry>),
        threads: workload::threads::<Parallel>,
        traits: [
            "apart, 32 B a page",
            "0 to 10",
            "each a CPU with lists of its own",
            "refused",
            "all",
        ],
    },
    PageCase {
        name: "bitmap-allocator",
        slow: false,
        single: single::<Bitmap>,
        mixed: Some(workload::mixed::<Bitmap>),
        threads: workload::threads::<Locked<Bitmap>>,
        traits: [
            "apart, a bit a page",
            "any number, by linear search",
            LOCK,
            "double ones noticed",
            NONE,
        ],
    },
    PageCase {
        name: "bsa frames",
        slow: false,
        single: single::<BsaFrame>,
        mixed: Some(workload::mixed::<BsaFrame>),
        threads: workload::threads::<Locked<BsaFrame>>,
        traits: ["apart, on a heap", "any", LOCK, "not noticed", NONE],
    },
    PageCase {
        name: "buddy-alloc",
        slow: false,
        single: single::<Buddy>,
        mixed: Some(workload::mixed::<Buddy>),
        threads: workload::threads::<Locked<Buddy>>,
        traits: [
            "in the pool: bitmaps, and lists in the free memory",
            "any",
            LOCK,
            "not noticed",
            NONE,
        ],
    },
    PageCase {
        name: "rlsf",
        slow: false,
        single: single::<Rlsf>,
        mixed: Some(workload::mixed::<Rlsf>),
        threads: workload::threads::<Locked<Rlsf>>,
        traits: ["headers before blocks", "bytes, not aligned here", LOCK, "not noticed", NONE],
    },
    PageCase {
        name: "talc",
        slow: false,
        single: single::<Talc>,
        mixed: Some(workload::mixed::<Talc>),
        threads: workload::threads::<Locked<Talc>>,
        traits: ["tags after blocks", "bytes, not aligned here", LOCK, "not noticed", NONE],
    },
    PageCase {
        name: "bsa heap",
        slow: true,
        single: single::<BsaHeap>,
        mixed: Some(workload::mixed::<BsaHeap>),
        threads: workload::threads::<Locked<BsaHeap>>,
        traits: [IN_BAND, "any", LOCK, "not noticed", NONE],
    },
    PageCase {
        name: "linked-list",
        slow: true,
        single: single::<LinkedList>,
        mixed: Some(workload::mixed::<LinkedList>),
        threads: workload::threads::<Locked<LinkedList>>,
        traits: [IN_BAND, "bytes", LOCK, "not noticed", NONE],
    },
    PageCase {
        name: "(floor: a stack)",
        slow: false,
        single: single::<Floor>,
        mixed: None,
        threads: workload::threads::<Locked<Floor>>,
        traits: ["apart", "0 only", LOCK, "not noticed", NONE],
    },
];

macro_rules! object_case {
    ($name:literal, $ty:ty, $slow:literal) => {
        ObjectCase { name: $name, slow: $slow, run: workload::objects::<$ty> }
    };
}

/// All allocators of objects.
pub const OBJECTS: &[ObjectCase] = &[
    object_case!("Quarry, named cache", Cache, false),
    object_case!("Quarry, kmalloc", Kmalloc, false),
    object_case!("ax-allocator slab", AxSlab, false),
    object_case!("talc", Talc, false),
    object_case!("rlsf", Rlsf, false),
    object_case!("buddy-alloc", Buddy, false),
    object_case!("slabmalloc", Slabmalloc, false),
    object_case!("glibc", Libc, false),
    object_case!("linked-list", LinkedList, true),
    object_case!("bsa heap", BsaHeap, true),
];

/// Sizes of objects, and what their windows are called.
pub const SIZES: [(usize, &str); 3] = [(64, "64 B"), (256, "256 B"), (1024, "1 KiB")];
