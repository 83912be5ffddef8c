//! Tests of the global allocator, as Rust code uses it. Calls `heap`.

use crate::heap;
use crate::selftests::Subject;
use alloc::alloc::{alloc, alloc_zeroed, dealloc};
use alloc::vec::Vec;
use core::alloc::Layout;
use selftest::{Case, CaseResult, Suite, Test, check, check_eq, check_ok};

/// The suite.
pub(super) const SUITES: [Suite<Subject>; 1] = [Suite {
    name: "heap",
    cases: &[
        Case::quick("early_objects_came_back", early_objects_came_back),
        Case::quick("layouts", layouts),
        Case::quick("zeroed", zeroed),
        Case::quick("vec_grows", vec_grows),
    ],
}];

/// Sizes around those of the kmalloc caches, up to several pages.
const SIZES: [usize; 14] = [1, 7, 8, 9, 63, 64, 65, 96, 192, 500, 1024, 4095, 8192, 20_000];

/// What the boot allocated before the slab layer was up is freed by now, and
/// went back to where it came from.
fn early_objects_came_back(_: &mut Test<'_, Subject>) -> CaseResult {
    check_eq!(heap::arena_objects(), 0);
    Ok(())
}

/// Every size at every alignment: aligned, and nobody else's.
fn layouts(test: &mut Test<'_, Subject>) -> CaseResult {
    let mut objects = Vec::new();
    let layouts = (0..13).flat_map(|shift| SIZES.map(|size| (size, 1_usize << shift)));
    check_ok!(objects.try_reserve_exact(13 * SIZES.len()));
    let mut failed = None;
    for (number, (size, align)) in layouts.enumerate() {
        let layout = check_ok!(Layout::from_size_align(size, align));
        // SAFETY: the size is not 0.
        let object = unsafe { alloc(layout) };
        if object.is_null() || object.addr() % align != 0 {
            failed = Some((layout, object));
        }
        if object.is_null() {
            break;
        }
        // SAFETY: the allocator gave that many bytes.
        unsafe { object.write_bytes(number as u8, size) };
        objects.push((object, layout));
    }
    let mut overwritten = None;
    for (number, (object, layout)) in objects.drain(..).enumerate() {
        // SAFETY: they were all written above.
        let bytes = unsafe { core::slice::from_raw_parts(object, layout.size()) };
        if bytes.iter().any(|&byte| byte != number as u8) {
            overwritten = Some(layout);
        }
        // SAFETY: it came from this allocator with this layout.
        unsafe { dealloc(object, layout) };
    }
    drop(objects);
    test.on.mm.slab_shrink();
    check!(failed.is_none(), "{failed:?}");
    check!(overwritten.is_none(), "{overwritten:?} shares its bytes");
    Ok(())
}

/// Zeroed memory is zero even where something else lay before.
fn zeroed(test: &mut Test<'_, Subject>) -> CaseResult {
    let mut dirty = None;
    for size in SIZES {
        let layout = check_ok!(Layout::from_size_align(size, 8));
        for _ in 0..4 {
            // SAFETY: the size is not 0.
            let object = unsafe { alloc_zeroed(layout) };
            check!(!object.is_null(), "no memory for {layout:?}");
            // SAFETY: the allocator gave that many bytes, zeroed.
            let bytes = unsafe { core::slice::from_raw_parts_mut(object, size) };
            if bytes.iter().any(|&byte| byte != 0) {
                dirty = Some(size);
            }
            bytes.fill(0xa5);
            // SAFETY: it came from this allocator with this layout.
            unsafe { dealloc(object, layout) };
        }
    }
    test.on.mm.slab_shrink();
    check!(dirty.is_none(), "{dirty:?} bytes were not zero");
    Ok(())
}

/// A vector that grows through all sizes keeps what is in it.
fn vec_grows(test: &mut Test<'_, Subject>) -> CaseResult {
    const LEN: u32 = 100_000;
    let mut numbers: Vec<u32> = Vec::new();
    for number in 0..LEN {
        check_ok!(numbers.try_reserve(1));
        numbers.push(number);
    }
    let kept = numbers.iter().copied().eq(0..LEN);
    drop(numbers);
    test.on.mm.slab_shrink();
    check!(kept, "something got lost");
    Ok(())
}
