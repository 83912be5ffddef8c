//! Address spaces at the prompt: mapped, touched, copied, advised about, and all
//! given back.

mod world;

use shell::{Errno, REGIONS_MAX, SPACES_MAX};
use world::{fails, free_pages, lab, ok};

#[test]
fn memory_comes_when_it_is_touched() {
    let mut lab = lab(64, 1);
    ok(&mut lab, "space a");
    assert!(ok(&mut lab, "map a 1M nohuge").starts_with("-> a.r0: 1024 kB at 0x"));
    ok(&mut lab, "expect a.size == 256");
    // What is only read is zero, and takes no memory but that of tables.
    ok(&mut lab, "verify a");
    for fact in ["rss == 0", "faults == 256", "tables > 0", "r0[9].mapcount >= 0"] {
        ok(&mut lab, &format!("expect a.{fact}"));
    }
    ok(&mut lab, "expect a.r0[9].state == zero");
    ok(&mut lab, "touch a every=4");
    for fact in ["rss == 64", "r0[3].state == page", "r0[3].mapcount == 1", "r0[2].state == zero"] {
        ok(&mut lab, &format!("expect a.{fact}"));
    }
    ok(&mut lab, "verify a");
    ok(&mut lab, "touch a.r0[0] bytes=8");
    ok(&mut lab, "verify a keep=4");
    ok(&mut lab, "unmap a.r0 from=128");
    ok(&mut lab, "expect a.size == 128");
    ok(&mut lab, "verify a");
    ok(&mut lab, "unmap a");
    ok(&mut lab, "expect a.size == 0");
    fails(&mut lab, Errno::ENOENT, "verify a.r0");
    ok(&mut lab, "map a.r0 4K");
    ok(&mut lab, "audit");
}

#[test]
fn copies_share_until_one_writes() {
    let mut lab = lab(64, 1);
    ok(&mut lab, "space a");
    ok(&mut lab, "map a.text 64K");
    ok(&mut lab, "touch a");
    ok(&mut lab, "fork a b");
    ok(&mut lab, "expect b.text.shared == 16");
    ok(&mut lab, "expect a.text[5].writable == false");
    ok(&mut lab, "touch b.text[5]");
    ok(&mut lab, "expect b.text.shared == 15");
    ok(&mut lab, "expect a.text[5].mapcount == 1");
    ok(&mut lab, "verify a");
    ok(&mut lab, "verify b");
    // A copy of the copy has what both wrote.
    ok(&mut lab, "fork b c");
    ok(&mut lab, "free b");
    ok(&mut lab, "verify c");
    ok(&mut lab, "touch a salt=7");
    ok(&mut lab, "verify a");
    ok(&mut lab, "verify c");
    fails(&mut lab, Errno::EEXIST, "fork a c");
    ok(&mut lab, "audit");
}

#[test]
fn content_that_has_changed_is_found() {
    use mm::mmu::VirtAddr;
    let mut lab = lab(64, 1);
    ok(&mut lab, "space a");
    ok(&mut lab, "map a 16K");
    ok(&mut lab, "touch a");
    ok(&mut lab, "advise a.r0[1] dontneed");
    ok(&mut lab, "verify a");
    for (page, at) in [(0, 0), (1, 4095)] {
        let said = ok(&mut lab, "get a.r0.addr");
        let addr = said.trim().rsplit_once("0x").expect("an address").1;
        let addr = u64::from_str_radix(addr, 16).expect("hex") + page * 4096 + at;
        let mut found = false;
        let mm = lab.world().mm;
        // By the back door: as whoever loses a page would.
        mm.each_space(&mut |space| {
            let entry = mm::platform::Platform::mmu(mm.platform()).expect("an MMU");
            if let mm::mmu::Entry::Page(m) = entry.get(space.root(), VirtAddr(addr & !4095)) {
                let frame = mm::platform::Platform::frame(mm.platform(), m.pfn);
                // SAFETY: the only thread, and the page is the space's.
                unsafe { frame.add((addr % 4096) as usize).write(0x5a) };
                found = true;
            }
            true
        });
        assert!(found, "page {page}");
        let said = fails(&mut lab, Errno::EIO, "verify a");
        assert!(said.contains(&format!("a.r0[{page}]")), "{said}");
        ok(&mut lab, "touch a");
        if page == 0 {
            ok(&mut lab, "advise a.r0[1] dontneed");
            ok(&mut lab, "verify a");
        }
    }
}

#[test]
fn what_makes_no_sense_changes_nothing() {
    let mut lab = lab(64, 1);
    ok(&mut lab, "alloc grp 0");
    ok(&mut lab, "space a");
    ok(&mut lab, "map a 64K ro");
    for (errno, line) in [
        (Errno::EEXIST, "space a"),
        (Errno::EEXIST, "space grp"),
        (Errno::EEXIST, "alloc a 0"),
        (Errno::EINVAL, "space a.b"),
        (Errno::EINVAL, "space swap"),
        (Errno::EINVAL, "space seventeen_letters_"),
        (Errno::ENOENT, "map b 4K"),
        (Errno::EEXIST, "map a.r0 4K"),
        (Errno::EINVAL, "map a 0"),
        (Errno::EINVAL, "map a 4K huge nohuge"),
        (Errno::EINVAL, "map a 4K at=0x10"),
        (Errno::ENOMEM, "map a 64G"),
        (Errno::EFAULT, "touch a"),
        (Errno::EINVAL, "touch a bytes=5000"),
        (Errno::EINVAL, "touch a every=2 keep=2"),
        (Errno::ENOENT, "touch a.r1"),
        (Errno::ENOENT, "verify a.r0[16]"),
        (Errno::EINVAL, "verify a[0]"),
        (Errno::EINVAL, "advise a gladly"),
        (Errno::EINVAL, "advise a"),
        (Errno::ENOENT, "mlock b"),
        (Errno::ENOENT, "kill b"),
        (Errno::ENOENT, "protect grp"),
        (Errno::EINVAL, "reclaim 0"),
        (Errno::EINVAL, "reclaim 1 7"),
        (Errno::ENOENT, "get a.nothing"),
        (Errno::ENOENT, "get a.r0[99].pfn"),
        (Errno::ENOENT, "cat /proc/b/maps"),
        (Errno::EPERM, "echo 1 > /proc/a/maps"),
        (Errno::EINVAL, "echo 1001 > /proc/a/oom_score_adj"),
    ] {
        fails(&mut lab, errno, line);
    }
    ok(&mut lab, "verify a");
    ok(&mut lab, "expect a.rss == 0");
    ok(&mut lab, "audit");
}

#[test]
fn who_was_killed_has_nothing_any_more() {
    let mut lab = lab(64, 1);
    ok(&mut lab, "space a");
    ok(&mut lab, "map a 2M huge");
    ok(&mut lab, "touch a");
    ok(&mut lab, "expect a.huge == 512");
    ok(&mut lab, "echo 250 > /proc/a/oom_score_adj");
    ok(&mut lab, "expect a.adj == 250");
    ok(&mut lab, "expect a.points > 512");
    assert!(ok(&mut lab, "protect a").contains(", protected"));
    ok(&mut lab, "expect a.points == 0");
    ok(&mut lab, "protect a off");
    ok(&mut lab, "expect a.protected == false");
    assert!(ok(&mut lab, "kill a").contains(", killed"));
    ok(&mut lab, "expect a.rss == 0");
    for line in ["touch a", "verify a"] {
        fails(&mut lab, Errno::ESRCH, line);
    }
    ok(&mut lab, "audit");
}

#[test]
fn all_goes_back_in_the_end() {
    let mut lab = lab(64, 1);
    // What is made once is there after the first time.
    let mut free = None;
    for _ in 0..3 {
        for i in 0..SPACES_MAX {
            ok(&mut lab, &format!("space s{i}"));
        }
        fails(&mut lab, Errno::ENOSPC, "space more");
        for i in 0..REGIONS_MAX {
            ok(&mut lab, &format!("map s{} 256K", i % 7));
        }
        fails(&mut lab, Errno::ENOSPC, "map s1 4K");
        fails(&mut lab, Errno::ENOSPC, "fork s1 more");
        ok(&mut lab, "mlock s1");
        ok(&mut lab, "touch s0");
        lab.reset();
        let mm = lab.world().mm;
        mm.slab_shrink();
        mm.drain_all(None);
        mm.audit().expect("whole");
        let now = free_pages(&lab);
        assert!(free.is_none_or(|free| now >= free), "{now} of {free:?}");
        free = Some(now);
    }
}
