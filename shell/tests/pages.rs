//! Groups of pages: what commands do, what they say, and that a failed one
//! changes nothing.

mod world;

use shell::Errno;
use world::{fails, free_pages, lab, ok, said};

#[test]
fn a_group_comes_and_goes() {
    let mut lab = lab(64, 2);
    let free = free_pages(&lab);
    let said = ok(&mut lab, "alloc a 3 ATOMIC count=100 cpu=1   # a comment");
    assert!(said.starts_with("-> a: 100 x order 3, pfn 0x"), "{said}");
    assert!(said.ends_with(" zone DMA32 type Unmovable\n"), "{said}");
    assert!(ok(&mut lab, "audit").starts_with("audit: ok (16"));
    ok(&mut lab, "free a[7]");
    ok(&mut lab, "expect a.count == 99");
    ok(&mut lab, "expect a.pages == 792");
    fails(&mut lab, Errno::ENOENT, "free a[7]");
    fails(&mut lab, Errno::ENOENT, "free a[100]");
    fails(&mut lab, Errno::EEXIST, "alloc a 0");
    ok(&mut lab, "free a");
    fails(&mut lab, Errno::ENOENT, "free a");
    assert_eq!(free_pages(&lab), free);
}

/// Ledger pages come from the machine by then, and go back too.
#[test]
fn large_groups_and_their_notes_leave_nothing_behind() {
    let mut lab = lab(128, 1);
    for gfp in ["KERNEL", "MOVABLE"] {
        let free = free_pages(&lab);
        ok(&mut lab, &format!("alloc a 0 {gfp} count=20000"));
        ok(&mut lab, "touch a");
        ok(&mut lab, "punch a every=3");
        ok(&mut lab, "expect a.count == 13334");
        ok(&mut lab, "compact");
        ok(&mut lab, "verify a");
        ok(&mut lab, "audit");
        fails(&mut lab, Errno::ENOENT, "free a[2]");
        ok(&mut lab, "free a[19999]");
        ok(&mut lab, "free a");
        assert_eq!(free_pages(&lab), free, "{gfp}");
    }
}

#[test]
fn what_fails_midway_gives_back_what_it_had() {
    let mut lab = lab(64, 1);
    // The general cache's own arrays stay.
    ok(&mut lab, "kalloc a 4096");
    ok(&mut lab, "kfree a");
    lab.world().mm.slab_shrink();
    let free = free_pages(&lab);
    for line in [
        "alloc a 0 count=16000",
        "alloc a 0 MOVABLE count=16000",
        "alloc a 2 KERNEL|NORETRY count=4000",
        "fill a KERNEL pages=16000",
        "alloc a 10 KERNEL count=17",
        "kalloc a 4096 count=16000",
    ] {
        fails(&mut lab, Errno::ENOMEM, line);
        fails(&mut lab, Errno::ENOENT, "get a.count");
        ok(&mut lab, "audit");
        lab.world().mm.slab_shrink();
        assert_eq!(free_pages(&lab), free, "{line}");
    }
    fails(&mut lab, Errno::ENOMEM, "alloc a 0 count=99T");
    fails(&mut lab, Errno::ENOMEM, "fill a KERNEL pages=99T");
    fails(&mut lab, Errno::ENOMEM, "kalloc a 64 count=99T");
}

#[test]
fn fills_end_at_their_marks() {
    let mut lab = lab(64, 1);
    for gfp in ["KERNEL", "MOVABLE"] {
        for mark in ["high", "low", "min"] {
            ok(&mut lab, &format!("fill f {gfp} until={mark}"));
            ok(&mut lab, &format!("expect zone.DMA32.free <= zone.DMA32.{mark} + 64"));
            ok(&mut lab, "expect f.pages > 12K");
            ok(&mut lab, "free f");
        }
    }
    ok(&mut lab, "fill f KERNEL until=empty");
    fails(&mut lab, Errno::ENOMEM, "alloc a 0 KERNEL|NOWARN");
    ok(&mut lab, "alloc a 0 ATOMIC");
    ok(&mut lab, "memalloc on");
    assert!(ok(&mut lab, "alloc b 0").ends_with(" pfmemalloc\n"));
    ok(&mut lab, "expect b.pfmemalloc == true");
    ok(&mut lab, "expect a.pfmemalloc == 0");
    ok(&mut lab, "memalloc off");
    ok(&mut lab, "fill g MEMALLOC until=empty");
    ok(&mut lab, "expect-error ENOMEM alloc c 0 KERNEL|NOFAIL");
    ok(&mut lab, "free g[0]");
    assert!(fails(&mut lab, Errno::ENOMEM, "alloc c 4 NOFAIL").contains("for ever"));
    fails(&mut lab, Errno::EINVAL, "fill c NOFAIL");
    ok(&mut lab, "free g");
    ok(&mut lab, "alloc c 0 NOFAIL");
    ok(&mut lab, "audit");
}

#[test]
fn movable_groups_follow_their_pages() {
    let mut lab = lab(64, 1);
    ok(&mut lab, "fill f MOVABLE pages=10K");
    fails(&mut lab, Errno::EINVAL, "verify f");
    ok(&mut lab, "touch f");
    ok(&mut lab, "punch f every=2");
    ok(&mut lab, "drain");
    ok(&mut lab, "note before f[0].pfn");
    let moved = ok(&mut lab, "compact");
    assert!(moved.starts_with("-> compact: ") && !moved.starts_with("-> compact: 0 "), "{moved}");
    ok(&mut lab, "verify f");
    ok(&mut lab, "alloc big 9");
    ok(&mut lab, "expect vmstat.pgmigrate_success > 0");
    ok(&mut lab, "audit");
}

#[test]
fn larger_movable_blocks_make_way() {
    let mut lab = lab(128, 1);
    ok(&mut lab, "fill f MOVABLE order=4 until=low");
    ok(&mut lab, "touch f");
    ok(&mut lab, "punch f every=2");
    ok(&mut lab, "compact");
    ok(&mut lab, "contig c 3000 align=512");
    ok(&mut lab, "verify f");
    ok(&mut lab, "audit");
    ok(&mut lab, "touch c");
    ok(&mut lab, "verify c");
    fails(&mut lab, Errno::EINVAL, "punch c every=1");
    ok(&mut lab, "free c[0]");
    ok(&mut lab, "expect c.count == 0");
    ok(&mut lab, "free c");
    ok(&mut lab, "audit");
}

#[test]
fn damage_is_found() {
    let mut lab = lab(64, 1);
    ok(&mut lab, "alloc a 1 count=3");
    ok(&mut lab, "touch a");
    let pfn = ok(&mut lab, "get a[2].pfn");
    let pfn = pfn.trim().strip_prefix("a[2].pfn is 0x").expect("a frame");
    let pfn = u64::from_str_radix(pfn, 16).expect("hex");
    let frame = mm::platform::Platform::frame(lab.world().mm.platform(), mm::types::Pfn(pfn + 1));
    // SAFETY: a frame of the group, which nobody else touches.
    unsafe { *frame.add(4095) ^= 1 };
    assert!(fails(&mut lab, Errno::EIO, "verify a").contains("a[2]"));
}

#[test]
fn contiguous_areas_lend_and_take_back() {
    let mut lab = lab(512, 1);
    ok(&mut lab, "fill f MOVABLE until=low");
    ok(&mut lab, "touch f");
    ok(&mut lab, "punch f every=3");
    ok(&mut lab, "drain");
    assert!(ok(&mut lab, "cma c 1000 align=9").starts_with("-> c: 1 x 1000 pages, pfn 0x"));
    ok(&mut lab, "expect c.type == CMA");
    ok(&mut lab, "cma d 100 area=0");
    fails(&mut lab, Errno::ENOENT, "cma e 1 area=7");
    fails(&mut lab, Errno::EINVAL, "cma e 1 area=eth0");
    fails(&mut lab, Errno::ENOMEM, "cma e 1T");
    ok(&mut lab, "verify f");
    ok(&mut lab, "audit");
    ok(&mut lab, "free c");
    ok(&mut lab, "audit");
}

#[test]
fn injected_failures_strike_and_spare_the_notes() {
    let mut lab = lab(64, 1);
    ok(&mut lab, "fail nth=9000");
    // The notes of these need pages by then.
    assert!(fails(&mut lab, Errno::ENOMEM, "alloc a 0 count=9500").contains("injected"));
    ok(&mut lab, "expect fault.failed == 1");
    ok(&mut lab, "alloc a 0 MOVABLE count=9000");
    ok(&mut lab, "fail every=2");
    ok(&mut lab, "alloc b 0 MOVABLE");
    fails(&mut lab, Errno::ENOMEM, "alloc c 0");
    ok(&mut lab, "alloc c 0 NOFAIL count=3");
    ok(&mut lab, "expect fault.seen == 2");
    fails(&mut lab, Errno::ENOMEM, "fill d KERNEL until=low");
    assert_eq!(ok(&mut lab, "fail off"), "-> fail: 2 of 4 failed\n");
    ok(&mut lab, "fill d KERNEL until=low");
    ok(&mut lab, "audit");
}

#[test]
fn an_interrupt_rolls_back() {
    let mut lab = lab(64, 1);
    let free = free_pages(&lab);
    for line in ["alloc a 0 count=9000", "fill a MOVABLE until=low", "cat /proc/vmstat"] {
        lab.world().patience.set(3);
        let outcome = lab.line(line.as_bytes());
        let out = said(&mut lab);
        assert!(format!("\n{out}").ends_with("\nerror: EINTR: interrupted\n"), "{line}: {out}");
        assert!(!outcome.is_ok());
        lab.world().patience.set(u64::MAX);
        assert_eq!(free_pages(&lab), free, "{line}");
    }
}

#[test]
fn reset_gives_everything_back() {
    let mut lab = lab(64, 2);
    lab.world().mm.slab_shrink();
    let free = free_pages(&lab);
    ok(&mut lab, "alloc a 3 count=10");
    ok(&mut lab, "alloc b 0 MOVABLE count=1000");
    ok(&mut lab, "contig c 77");
    ok(&mut lab, "cache objects size=100 ctor");
    ok(&mut lab, "kalloc d objects count=1000 cpu=1");
    ok(&mut lab, "kalloc e 3M");
    ok(&mut lab, "memalloc on");
    ok(&mut lab, "fail every=1");
    lab.reset();
    assert_eq!(ok(&mut lab, "list"), "");
    ok(&mut lab, "alloc a 0");
    ok(&mut lab, "expect a.pfmemalloc == 0");
    lab.reset();
    lab.world().mm.slab_shrink();
    ok(&mut lab, "audit");
    // An array of free objects of kmalloc's may stay.
    assert!(free - free_pages(&lab) <= 8);
}
