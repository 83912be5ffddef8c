//! Tests of the ground that device drivers stand on, with the devices that this
//! machine has. Calls `drivers`.

use crate::arch::time;
use crate::drivers::{dma, entropy};
use crate::selftests::Subject;
use crate::vm;
use mm::types::{PAGE_SIZE, PfnRange};
use selftest::{Case, CaseResult, Suite, Test, check, check_ok, skip};

/// The suite.
pub(super) const SUITES: [Suite<Subject>; 1] = [Suite {
    name: "devices",
    cases: &[
        Case::quick("memory_by_mask", memory_by_mask),
        Case::quick("entropy_comes", entropy_comes),
    ],
}];

/// Blocks for devices lie where those have addresses, are zeroed, and go back.
fn memory_by_mask(_: &mut Test<'_, Subject>) -> CaseResult {
    for pages in [1, 3, 16] {
        for bits in [24, 30, 32, 40, 64] {
            let mask = u64::MAX >> (64 - bits);
            let Some(frames) = dma::alloc(pages, mask) else {
                skip!("no {pages} pages below 2^{bits}")
            };
            let last = frames.end.addr() - 1;
            let zeroed = is_zeroed(frames);
            dma::free(frames);
            check!(last <= mask, "{frames:?} lies beyond 2^{bits}");
            check!(zeroed, "{frames:?} is not zeroed");
        }
    }
    check!(dma::alloc(1, (1 << 23) - 1).is_none(), "no zone lies that low");
    check!(dma::alloc(0, u64::MAX).is_none() && dma::alloc(1 << 20, u64::MAX).is_none());
    Ok(())
}

/// Whether all of `frames` is; then overwrites it, for those after.
fn is_zeroed(frames: PfnRange) -> bool {
    let words = frames.pages() as usize * PAGE_SIZE / 8;
    let first: *mut u64 = vm::frame_ptr(frames.start).cast();
    (0..words).all(|at| {
        // SAFETY: the frames are the caller's, and mapped.
        unsafe {
            let word = first.add(at);
            let zero = word.read() == 0;
            word.write(u64::MAX);
            zero
        }
    })
}

/// The host's dice fill what they are asked to, differently each time, and the
/// device interrupts where it has an interrupt. One that is broken is shut off.
fn entropy_comes(_: &mut Test<'_, Subject>) -> CaseResult {
    let (mut first, mut second) = ([0_u8; 600], [0_u8; 600]);
    let Some(result) = entropy::fill(&mut first) else { skip!("no such device") };
    if let Err(error) = result {
        // It was shut off, is not asked again, and has no access to memory.
        let begun = time::now_ms();
        check!(entropy::fill(&mut second) == Some(result));
        check!(time::now_ms() - begun < 1000, "a broken device was waited for");
        check!(error.is_quiet(), "it may still write to memory");
        skip!("{error}");
    }
    if let Some(result) = entropy::fill(&mut second) {
        check_ok!(result);
    }
    // By chance once in 2^4800.
    check!(first != second, "the same bytes twice");
    check!(entropy::interrupts() != Some(0), "no interrupt has come");
    let zeros = first.iter().chain(&second).filter(|&&byte| byte == 0).count();
    check!(zeros < 100, "{zeros} zeros in 1200 bytes");
    Ok(())
}
