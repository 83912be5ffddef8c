//! Tests that the fast paths for objects stand interruption at each of their
//! instructions. Calls `restart`, the heap.

use crate::arch::restart;
use crate::selftests::Subject;
use alloc::alloc::{alloc, dealloc};
use core::alloc::Layout;
use core::ptr;
use core::sync::atomic::{AtomicPtr, Ordering::Relaxed};
use selftest::{Case, CaseResult, Suite, Test, check};

/// The suite.
pub(super) const SUITES: [Suite<Subject>; 1] = [Suite {
    name: "restart",
    cases: &[
        Case::quick("taking_an_object", taking_an_object),
        Case::quick("giving_an_object_back", giving_an_object_back),
    ],
}];

const OBJECT: Layout = Layout::new::<[u64; 8]>();
/// More instructions than a step has.
const MANY: u32 = 40;
/// Fewer than it has.
const FEW: u32 = 8;

/// What the interruption keeps.
static KEPT: AtomicPtr<u8> = AtomicPtr::new(ptr::null_mut());

fn take() -> *mut u8 {
    // SAFETY: the layout is not empty.
    let object = unsafe { alloc(OBJECT) };
    if !object.is_null() {
        // SAFETY: so many bytes were given.
        unsafe { object.cast::<[u64; 8]>().write([object.addr() as u64; 8]) };
    }
    object
}

fn give(object: *mut u8) {
    if !object.is_null() {
        // SAFETY: it came from `take`, and is given back once.
        unsafe { dealloc(object, OBJECT) };
    }
}

/// Whether nobody has written to the object since it was taken.
fn is_whole(object: *mut u8) -> bool {
    // SAFETY: `take` wrote so many bytes.
    !object.is_null() && unsafe { object.cast::<[u64; 8]>().read() } == [object.addr() as u64; 8]
}

/// Sees to it that this CPU has some at hand.
fn stock() {
    [(); 4].map(|()| take()).into_iter().for_each(give);
}

/// Takes two objects, gives the first back and keeps the second: what lies on
/// top is another one afterwards, and there is one less.
fn interrupt() {
    let first = take();
    KEPT.store(take(), Relaxed);
    give(first);
}

fn taking_an_object(test: &mut Test<'_, Subject>) -> CaseResult {
    for at in 0..MANY {
        stock();
        let mut object = ptr::null_mut();
        let interrupted = restart::probe(at, interrupt, || object = take());
        let kept = KEPT.swap(ptr::null_mut(), Relaxed);
        let next = take();
        let whole = [object, next].into_iter().all(is_whole) && (!interrupted || is_whole(kept));
        let apart = object != kept && object != next && kept != next;
        [object, kept, next].into_iter().for_each(give);
        check!(whole && apart, "interrupted after {at} instructions");
        if !interrupted {
            check!(at >= FEW, "a step of {at} instructions");
            test.note(format_args!("interrupted at {at} instructions"));
            return Ok(());
        }
    }
    check!(false, "a step of more than {MANY} instructions");
    Ok(())
}

fn giving_an_object_back(test: &mut Test<'_, Subject>) -> CaseResult {
    for at in 0..MANY {
        stock();
        let object = take();
        let interrupted = restart::probe(at, interrupt, || give(object));
        let kept = KEPT.swap(ptr::null_mut(), Relaxed);
        let (first, second) = (take(), take());
        let whole = [first, second].into_iter().all(is_whole) && (!interrupted || is_whole(kept));
        let apart = first != second && first != kept && second != kept;
        [first, second, kept].into_iter().for_each(give);
        check!(whole && apart, "interrupted after {at} instructions");
        check!(first == object, "what was given last is not taken first, after {at}");
        if !interrupted {
            check!(at >= FEW, "a step of {at} instructions");
            test.note(format_args!("interrupted at {at} instructions"));
            return Ok(());
        }
    }
    check!(false, "a step of more than {MANY} instructions");
    Ok(())
}
