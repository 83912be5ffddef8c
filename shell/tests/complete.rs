//! What the lab offers for completion, and that it takes what it offers.

mod world;

use shell::edit::Complete;
use world::{lab, ok};

fn words(lab: &dyn Complete, before: &str, word: &str) -> Vec<String> {
    let mut found = Vec::new();
    lab.words(before, word, &mut |word| found.push(word.to_owned()));
    found
}

/// All facts that go on from `word`, each to its end.
fn facts(lab: &dyn Complete, word: &str, into: &mut Vec<String>) {
    for found in words(lab, "get ", word) {
        assert!(found.starts_with(word), "{found} does not begin with {word}");
        if found.ends_with('.') {
            facts(lab, &found, into);
        } else if found.ends_with('[') {
            into.push(format!("{found}3]"));
        } else {
            into.push(found);
        }
    }
}

#[test]
fn every_fact_that_is_offered_has_a_value() {
    let mut lab = lab(64, 2);
    ok(&mut lab, "alloc grp 0");
    ok(&mut lab, "cache own size=100");
    let mut all = Vec::new();
    facts(&*lab, "", &mut all);
    for fact in &all {
        ok(&mut lab, &format!("get {fact}"));
    }
    for one in [
        "zone.DMA32.free",
        "buddy.DMA.Movable[3]",
        "blocks.DMA32.CMA",
        "grp.pfn",
        "vmstat.pgfree",
        "cache.own.objperslab",
        "cache.kmalloc-64.num_objs",
        "fault.seen",
    ] {
        assert_eq!(all.iter().filter(|fact| *fact == one).count(), 1, "{one}");
    }
}

#[test]
fn arguments_are_offered_where_they_may_stand() {
    let mut lab = lab(64, 1);
    ok(&mut lab, "alloc grp 0");
    for (before, expected) in [
        ("", "alloc"),
        ("  ", "audit"),
        ("free ", "grp"),
        ("expect-error ENOENT free ", "grp"),
        ("expect-error ", "EBUSY"),
        ("expect-error EBUSY ", "destroy"),
        ("alloc x 0 ", "ATOMIC"),
        ("alloc x 0 ATOMIC|", "ZERO"),
        ("alloc x 0 ATOMIC ", "count="),
        ("fill x MOVABLE ", "until=low"),
        ("cat ", "/proc/buddyinfo"),
        ("cat ", "/proc/cmdline"),
        ("echo 1 > ", "/proc/sys/vm/compact_memory"),
        ("memalloc ", "off"),
        ("help ", "fill"),
        ("help ", "facts"),
        ("expect zone.DMA.free ", ">="),
    ] {
        assert!(words(&*lab, before, "").iter().any(|word| word == expected), "{before:?}");
    }
    for before in ["audit ", "nothing ", "alloc ", "alloc x ", "cat /proc/vmstat ", "get a.b "] {
        let offered = words(&*lab, before, "");
        assert!(offered.iter().all(|word| word == "grp"), "{before:?}: {offered:?}");
    }
}
