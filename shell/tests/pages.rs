//! Groups of pages.

mod world;

use shell::Errno;
use world::{fails, lab, ok, said};

#[test]
fn a_group_comes_and_goes() {
    let mut lab = lab(64, 2);
    let free = lab.world().mm.free_pages_total();
    let said = ok(&mut lab, "alloc a 3 ATOMIC count=100 cpu=1   # a comment");
    assert!(said.starts_with("-> a: 100 x order 3, pfn 0x"), "{said}");
    assert!(said.ends_with(" zone DMA32 type Unmovable\n"), "{said}");
    assert!(ok(&mut lab, "audit").starts_with("audit: ok (16"));
    ok(&mut lab, "free a[7]");
    fails(&mut lab, Errno::ENOENT, "free a[7]");
    fails(&mut lab, Errno::EEXIST, "alloc a 0");
    ok(&mut lab, "free a");
    fails(&mut lab, Errno::ENOENT, "free a");
    lab.world().mm.drain_all(None);
    assert_eq!(lab.world().mm.free_pages_total(), free);
}

#[test]
fn a_script_ends_at_its_first_failure() {
    let mut lab = lab(64, 1);
    let verdict = lab.script(b"# fine\nalloc a 0\n\nfree a\n");
    assert_eq!(verdict, shell::Verdict::Ok(2));
    assert!(said(&mut lab).ends_with("lab: ok, 2 commands\n"));
    let verdict = lab.script(b"# fine\nfree a\naudit\n");
    assert_eq!(verdict, shell::Verdict::Failed(2));
    assert!(said(&mut lab).ends_with("lab: FAILED at line 2\n"));
}
