//! Tests of the kernel itself: its clock and timer, and what its page tables
//! allow. Calls what it tests.

use crate::arch::{apic, cpu, time};
use crate::memory::iomem;
use crate::selftests::Subject;
use crate::vm::kstack::{self, KernelStack};
use crate::vm::stacks::{self, Stack};
use crate::vm::{self, layout};
use crate::{image, selftests};
use core::arch::asm;
use core::ops::Range;
use mm::hotplug::MEMORY_BLOCK_PAGES;
use mm::types::{Order, PAGE_SIZE, Pfn, PfnRange};
use mm::{Gfp, Page, Request};
use selftest::{Case, CaseResult, Suite, Test, check, check_eq, check_ok, fail, skip};
use x86_64::registers::control::Cr3;
use x86_64::structures::paging::page_table::PageTableEntry;
use x86_64::structures::paging::{PageTable, PageTableFlags};

/// The suites.
pub(super) const SUITES: [Suite<Subject>; 2] = [
    Suite {
        name: "time",
        cases: &[
            Case::quick("clock_runs", clock_runs),
            Case::quick("timer_interrupts", timer_interrupts),
            Case::quick("interrupts_keep_registers", interrupts_keep_registers),
            Case::quick("test_is_known", test_is_known),
        ],
    },
    Suite {
        name: "paging",
        cases: &[
            Case::quick("nothing_writable_is_executable", nothing_writable_is_executable),
            Case::quick("image_rights", image_rights),
            Case::quick("guards_are_unmapped", guards_are_unmapped),
            Case::quick("only_upper_half", only_upper_half),
            Case::quick("stacks_come_and_go", stacks_come_and_go),
            Case::quick("direct_map_grows_and_shrinks", direct_map_grows_and_shrinks),
        ],
    },
];

/// What is added to the direct map can be reached there, and not any longer when
/// it is withdrawn; its tables are given back.
fn direct_map_grows_and_shrinks(t: &mut Test<'_, Subject>) -> CaseResult {
    let mm = t.on.mm;
    // Nothing is there, and nothing is touched there: half-way to the end of
    // what the processor has addresses for, within reach of one third table.
    let bits = u32::from(cpu::features().phys_bits).min(39);
    let start = Pfn::containing(1 << (bits - 1));
    let frames = PfnRange::sized(start, MEMORY_BLOCK_PAGES);
    let there = mm.map().described(frames.start).is_some()
        || iomem::is_listed(frames.start.addr(), frames.end.addr());
    if there || vm::is_direct(frames.start) {
        skip!("there is memory at {:#x}", start.addr());
    }
    let last = Pfn(frames.end.0 - 1);
    for _ in 0..2 {
        let mut taken = 0;
        let mut source = || {
            let page = mm.alloc_pages(Request::new(Order(0), Gfp::ATOMIC | Gfp::ZERO)).ok()?;
            taken += 1;
            Some(page.pfn)
        };
        check!(vm::extend_direct_map(frames, &mut source), "it cannot be mapped");
        check!(vm::is_direct(frames.start) && vm::is_direct(last), "it is not mapped");
        check!(!vm::is_direct(frames.end), "more is mapped than was added");
        check!(!vm::extend_direct_map(frames, &mut || None), "it is mapped twice");
        check!(vm::is_direct(frames.start), "it went when it was to be mapped twice");
        let mut given = [None; 4];
        let mut slots = given.iter_mut();
        vm::withdraw_direct_map(frames, &mut |table| {
            if let Some(slot) = slots.next() {
                *slot = Some(table);
            }
        });
        check!(!vm::is_direct(frames.start) && !vm::is_direct(last), "it is still mapped");
        check_eq!(given.iter().flatten().count(), taken, "tables that came back");
        for pfn in given.into_iter().flatten() {
            check_ok!(mm.free_pages(Page { pfn, order: Order(0) }));
        }
    }
    Ok(())
}

/// The clock neither stands still nor goes back.
fn clock_runs(_: &mut Test<'_, Subject>) -> CaseResult {
    let start = time::now_us();
    let mut last = start;
    for _ in 0..100_000_000 {
        let now = time::now_us();
        check!(now >= last, "{last} us, then {now} us");
        if now > start + 1000 {
            return Ok(());
        }
        last = now;
    }
    fail!("still {last} us");
}

/// The timer's interrupt comes while a test runs: the watchdog can bite.
fn timer_interrupts(_: &mut Test<'_, Subject>) -> CaseResult {
    if !apic::is_running() {
        skip!("no local APIC timer");
    }
    let (ticks, start) = (apic::ticks(), time::now_ms());
    while apic::ticks() < ticks + 2 {
        check!(time::now_ms() < start + 2000, "{} ticks in 2 s", apic::ticks() - ticks);
    }
    Ok(())
}

/// An interrupt leaves every register as it was.
fn interrupts_keep_registers(_: &mut Test<'_, Subject>) -> CaseResult {
    /// Rounds after which the timer counts as dead: seconds of them.
    const ROUNDS: u64 = 4_000_000_000;
    if !apic::is_running() {
        skip!("no local APIC timer");
    }
    let mut found: [u64; 9] = core::array::from_fn(|n| 0x0123_4567_89ab_cdef << n);
    let [rsi, r8, r9, r10, r11, r12, r13, r14, r15] = &mut found;
    let left: u64;
    // SAFETY: reads the tick counter; all registers used are named.
    unsafe {
        asm!(
            "2:",
            "dec rcx",
            "jz 3f",
            "cmp [rdi], rdx",
            "jb 2b",
            "3:",
            in("rdi") apic::tick_counter(),
            in("rdx") apic::ticks() + 3,
            inout("rcx") ROUNDS => left,
            inout("rsi") *rsi, inout("r8") *r8, inout("r9") *r9, inout("r10") *r10,
            inout("r11") *r11, inout("r12") *r12, inout("r13") *r13, inout("r14") *r14,
            inout("r15") *r15,
            options(nostack, readonly),
        );
    }
    check!(left > 0, "the timer is dead");
    for (n, register) in found.into_iter().enumerate() {
        check_eq!(register, 0x0123_4567_89ab_cdef << n, "register {n}");
    }
    Ok(())
}

/// The crash report would name this test.
fn test_is_known(_: &mut Test<'_, Subject>) -> CaseResult {
    check!(selftests::is_running("time", "test_is_known"));
    Ok(())
}

/// A last-level entry: the virtual addresses it maps, and its rights.
struct Leaf {
    range: Range<u64>,
    flags: PageTableFlags,
}

/// Calls `f` for every page that is mapped, lowest first, until it fails.
fn for_each_page(f: &mut dyn FnMut(Leaf) -> CaseResult) -> CaseResult {
    let (root, _) = Cr3::read();
    walk(Pfn::containing(root.start_address().as_u64()), 4, 0, f)
}

fn walk(table: Pfn, level: u32, base: u64, f: &mut dyn FnMut(Leaf) -> CaseResult) -> CaseResult {
    let table: *const PageTable = vm::frame_ptr(table).cast();
    // SAFETY: tables lie in RAM and nobody changes them meanwhile: there is one
    // CPU, and no interrupt handler maps anything.
    let table = unsafe { &*table };
    let size = (PAGE_SIZE as u64) << (9 * (level - 1));
    for index in 0..512 {
        let entry: &PageTableEntry = &table[index];
        let flags = entry.flags();
        if !flags.contains(PageTableFlags::PRESENT) {
            continue;
        }
        let mut start = base + index as u64 * size;
        if level == 4 && index >= 256 {
            start |= 0xffff_0000_0000_0000;
        }
        if level == 1 || flags.contains(PageTableFlags::HUGE_PAGE) {
            f(Leaf { range: start..start.wrapping_add(size), flags })?;
        } else {
            walk(Pfn::containing(entry.addr().as_u64()), level - 1, start, f)?;
        }
    }
    Ok(())
}

fn nothing_writable_is_executable(test: &mut Test<'_, Subject>) -> CaseResult {
    let mut pages = 0_u32;
    for_each_page(&mut |leaf| {
        let executable = !leaf.flags.contains(PageTableFlags::NO_EXECUTE);
        let writable = leaf.flags.contains(PageTableFlags::WRITABLE);
        check!(!(executable && writable), "{:#x} is both", leaf.range.start);
        check!(
            !executable || image::is_code(leaf.range.end - 1) || image::is_code(leaf.range.start),
            "{:#x} is executable",
            leaf.range.start
        );
        check!(!leaf.flags.contains(PageTableFlags::USER_ACCESSIBLE), "{:#x}", leaf.range.start);
        pages += 1;
        Ok(())
    })?;
    test.note(format_args!("{pages} entries"));
    Ok(())
}

/// Each page of the image has its segment's rights, and is there.
fn image_rights(_: &mut Test<'_, Subject>) -> CaseResult {
    let image = image::base()..image::end();
    let mut next = image.start;
    for_each_page(&mut |leaf| {
        let addr = leaf.range.start;
        if !image.contains(&addr) {
            return Ok(());
        }
        let Some(segment) =
            image::segments().find(|part| part.start < leaf.range.end && addr < part.end)
        else {
            // Between two segments.
            fail!("{addr:#x} belongs to no segment");
        };
        let relocated = image::relro().is_some_and(|part| (part.start..part.end).contains(&addr));
        let writable = leaf.flags.contains(PageTableFlags::WRITABLE);
        check_eq!(writable, segment.writable && !relocated, "{addr:#x} writable");
        let executable = !leaf.flags.contains(PageTableFlags::NO_EXECUTE);
        check_eq!(executable, segment.executable, "{addr:#x} executable");
        next = leaf.range.end;
        Ok(())
    })?;
    check!(next >= image.end, "the image ends at {:#x}, its pages at {next:#x}", image.end);
    Ok(())
}

fn guards_are_unmapped(_: &mut Test<'_, Subject>) -> CaseResult {
    let mut stack_bytes = 0;
    for_each_page(&mut |leaf| {
        for stack in Stack::ALL {
            let guard = stack.guard();
            let apart = leaf.range.end <= guard.start || guard.end <= leaf.range.start;
            check!(apart, "{:#x} lies in the guard of {}", leaf.range.start, stack.name());
            if stack.range().contains(&leaf.range.start) {
                stack_bytes += leaf.range.end - leaf.range.start;
            }
        }
        Ok(())
    })?;
    let want: u64 = Stack::ALL.iter().map(|stack| stack.top() - stack.range().start).sum();
    check_eq!(stack_bytes, want);
    Ok(())
}

/// Nothing of the boot loader's mappings is left: a null pointer faults.
fn only_upper_half(_: &mut Test<'_, Subject>) -> CaseResult {
    for_each_page(&mut |leaf| {
        check!(leaf.range.start >= layout::DIRECT_MAP, "{:#x} is mapped", leaf.range.start);
        Ok(())
    })
}

/// A stack made at run time is mapped, zeroed, writable to its last byte and
/// nobody else's; below it is a guard; and all of it goes away again.
fn stacks_come_and_go(test: &mut Test<'_, Subject>) -> CaseResult {
    let mut made: [Option<KernelStack>; 8] = [const { None }; 8];
    for (number, place) in made.iter_mut().enumerate() {
        let bytes = if number % 2 == 0 { kstack::THREAD } else { kstack::LARGEST };
        let stack = check_ok!(KernelStack::allocate(test.on.mm, bytes));
        let range = stack.range();
        check_eq!(range.end - range.start, bytes as u64);
        for addr in range.step_by(8) {
            let word = addr as *mut u64;
            // SAFETY: nobody else uses the stack.
            let old = unsafe { word.replace(addr) };
            check_eq!(old, 0, "{addr:#x}");
        }
        *place = Some(stack);
    }
    for stack in made.iter_mut().filter_map(Option::take) {
        let (range, guard) = (stack.range(), stack.guard());
        for addr in range.clone().step_by(8) {
            // SAFETY: as above.
            check_eq!(unsafe { (addr as *const u64).read() }, addr);
        }
        check!(stacks::is_stack(range.start) && stacks::is_stack(range.end - 1));
        check_eq!((guard.end, stack.top()), (range.start, range.end));
        for addr in [guard.start, guard.end - 1] {
            check!(!stacks::is_stack(addr) && stacks::guard_below(addr).is_some(), "{addr:#x}");
        }
        drop(stack);
        check!(!stacks::is_stack(range.end - 1));
        check!(stacks::guard_below(guard.end - 1).is_none());
    }
    Ok(())
}
