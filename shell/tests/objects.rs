//! Groups of objects and the caches they come from.

mod world;

use shell::Errno;
use world::{fails, lab, ok};

#[test]
fn caches_and_their_objects() {
    let mut lab = lab(64, 2);
    let said = ok(&mut lab, "cache c size=192 hwalign");
    assert_eq!(said, "-> cache c: 192 bytes in 192, 21 in a slab of 1 pages\n");
    fails(&mut lab, Errno::EEXIST, "cache c size=64");
    let said = ok(&mut lab, "kalloc o c count=100");
    assert!(said.starts_with("-> o: 100 x 192 bytes, pfn 0x"), "{said}");
    ok(&mut lab, "expect cache.c.active_objs >= 100");
    ok(&mut lab, "expect cache.c.objperslab == 21");
    ok(&mut lab, "touch o");
    ok(&mut lab, "verify o");
    fails(&mut lab, Errno::EBUSY, "destroy c");
    fails(&mut lab, Errno::EINVAL, "free o");
    fails(&mut lab, Errno::EINVAL, "get o.pages");
    ok(&mut lab, "kfree o[3]");
    fails(&mut lab, Errno::ENOENT, "kfree o[3]");
    ok(&mut lab, "punch o every=2");
    ok(&mut lab, "expect o.count == 50");
    ok(&mut lab, "verify o");
    ok(&mut lab, "kfree o cpu=1");
    ok(&mut lab, "reap");
    assert!(ok(&mut lab, "shrink c").starts_with("-> shrink: "));
    ok(&mut lab, "expect cache.c.num_slabs == 0");
    ok(&mut lab, "destroy c");
    fails(&mut lab, Errno::ENOENT, "get cache.c.num_objs");
    fails(&mut lab, Errno::ENOENT, "kalloc o c");
    ok(&mut lab, "audit");
}

#[test]
fn constructors_and_checks() {
    let mut lab = lab(64, 1);
    ok(&mut lab, "cache c size=40 ctor debug");
    ok(&mut lab, "kalloc o c count=10");
    ok(&mut lab, "verify o");
    // The constructor's word stays as it is, for those who come next.
    ok(&mut lab, "touch o");
    ok(&mut lab, "verify o");
    ok(&mut lab, "kfree o");
    ok(&mut lab, "kalloc o c count=10");
    ok(&mut lab, "verify o");
    ok(&mut lab, "kfree o");
    ok(&mut lab, "cache d size=100 debug");
    ok(&mut lab, "kalloc p d count=100 cpu=0");
    ok(&mut lab, "touch p");
    ok(&mut lab, "verify p");
    ok(&mut lab, "kfree p");
    ok(&mut lab, "audit");
}

#[test]
fn caches_of_the_machine_itself() {
    let mut lab = lab(64, 1);
    ok(&mut lab, "kalloc a kmalloc-64 count=1000");
    ok(&mut lab, "kfree a");
    assert_ne!(ok(&mut lab, "shrink kmalloc-64"), "-> shrink: 0 pages\n");
    fails(&mut lab, Errno::EPERM, "destroy kmalloc-64");
    ok(&mut lab, "audit");
}

#[test]
fn general_caches() {
    let mut lab = lab(64, 1);
    ok(&mut lab, "kalloc a kmalloc-64 count=1000");
    ok(&mut lab, "kalloc b 100 ATOMIC|ZERO count=10");
    ok(&mut lab, "kalloc c 300K");
    ok(&mut lab, "kalloc d 8K RECLAIMABLE");
    for group in ["a", "b", "c", "d"] {
        ok(&mut lab, &format!("touch {group}"));
        ok(&mut lab, &format!("verify {group}"));
    }
    fails(&mut lab, Errno::ENOENT, "kfree x");
    fails(&mut lab, Errno::EINVAL, "kalloc e 64 DMA32");
    ok(&mut lab, "audit");
    for group in ["a", "b", "c", "d"] {
        ok(&mut lab, &format!("kfree {group}"));
    }
    ok(&mut lab, "audit");
}

#[test]
fn reserve_objects() {
    let mut lab = lab(64, 1);
    ok(&mut lab, "cache c size=1K");
    ok(&mut lab, "fill f KERNEL until=empty");
    ok(&mut lab, "memalloc on");
    assert!(ok(&mut lab, "kalloc r c").ends_with("pfmemalloc\n"));
    ok(&mut lab, "expect cache.c.reserve_objs > 0");
    ok(&mut lab, "memalloc off");
    fails(&mut lab, Errno::ENOMEM, "kalloc s c KERNEL|NOWARN");
    ok(&mut lab, "fill g MEMALLOC until=empty");
    fails(&mut lab, Errno::ENOMEM, "kalloc s 8K KERNEL|NOFAIL");
    ok(&mut lab, "audit");
}
