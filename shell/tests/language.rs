//! The language: numbers, names, facts, expectations, scripts, bad input.

mod world;

use shell::{COMMANDS, Errno, Outcome, Verdict};
use world::{fails, lab, ok, said};

#[test]
fn a_script_ends_at_its_first_failure() {
    let mut lab = lab(64, 1);
    let verdict = lab.script(b"# fine\nalloc a 0\n\nfree a\n");
    assert_eq!(verdict, Verdict::Ok(2));
    assert!(said(&mut lab).ends_with("lab: ok, 2 commands\n"));
    let verdict = lab.script(b"# fine\r\nfree a\r\naudit\r\n");
    assert_eq!(verdict, Verdict::Failed(2));
    assert!(said(&mut lab).ends_with("\nlab: FAILED at line 2\n"));
    let verdict = lab.script(b"alloc a 0\nexpect a.pages == 2\nfree a");
    assert_eq!(verdict, Verdict::Failed(2));
    assert!(said(&mut lab).ends_with("expect: FAILED: a.pages is 1\nlab: FAILED at line 2\n"));
    assert_eq!(lab.script(b""), Verdict::Ok(0));
    // As Windows' Notepad saves it.
    assert_eq!(lab.script(b"\xef\xbb\xbfalloc b 0\r\nfree b\r\n"), Verdict::Ok(2));
    assert_eq!(lab.script(b"alloc b 0\n\xef\xbb\xbffree b\n"), Verdict::Failed(2));
}

#[test]
fn a_snapshot_is_the_census_under_a_name() {
    let mut lab = lab(64, 1);
    ok(&mut lab, "fill a MOVABLE pages=1000");
    let text = ok(&mut lab, "snapshot filled");
    let census = ok(&mut lab, "cat /sys/kernel/debug/quarry/pageblocks");
    assert!(census.starts_with("pageblocks: 512 pages each\n0x0-0x1ff node=0 zone=DMA "));
    assert!(census.contains(" movable="), "{census}");
    assert_eq!(text, format!("{}filled\n{census}", shell::SNAPSHOT));
    fails(&mut lab, Errno::EINVAL, "snapshot");
    fails(&mut lab, Errno::EINVAL, "snapshot a b");
    fails(&mut lab, Errno::EINVAL, "snapshot 9");
    lab.world_mut().patience.set(3);
    assert!(
        matches!(lab.line(b"snapshot a"), Outcome::Failed(error) if error.errno == Errno::EINTR)
    );
}

#[test]
fn facts_are_what_files_say() {
    let mut lab = lab(512, 2);
    for fact in [
        "zone.DMA32.free",
        "zone.DMA.min",
        "zone.DMA32.cma_free",
        "node0.zone.Normal.managed",
        "buddy.DMA32.Movable[10]",
        "node0.buddy.DMA.Unmovable[0]",
        "blocks.DMA32.CMA",
        "vmstat.nr_free_pages",
        "cache.kmalloc-64.num_objs",
        "fault.seen",
    ] {
        assert!(ok(&mut lab, &format!("get {fact}")).starts_with(&format!("{fact} is ")));
    }
    for fact in [
        "zone",
        "zone.DMA32",
        "zone.DMA32.colour",
        "zone.dma32.free",
        "node1.zone.DMA32.free",
        "node0.vmstat.nr_free_pages",
        "node999.zone.DMA.free",
        "buddy.DMA32.Movable[11]",
        "buddy.DMA32.Movable",
        "buddy.DMA32.Moveable[0]",
        "blocks.DMA32",
        "vmstat.nr_nothing",
        "cache.kmalloc-63.num_objs",
        "cache.x",
        "x.pages",
        ".",
        "..",
    ] {
        fails(&mut lab, Errno::ENOENT, &format!("get {fact}"));
    }
    ok(&mut lab, "expect vmstat.nr_free_pages == zone.DMA.free + zone.DMA32.free");
    ok(&mut lab, "note free vmstat.nr_free_pages");
    ok(&mut lab, "alloc a 4");
    ok(&mut lab, "expect vmstat.nr_free_pages == $free - 16");
    ok(&mut lab, "expect a.pages == 0x10");
    ok(&mut lab, "expect a.zone == DMA32");
    ok(&mut lab, "expect a.zone != Normal");
    ok(&mut lab, "expect a.type == Unmovable");
    ok(&mut lab, "expect a[0].pfn == a.pfn");
    ok(&mut lab, "expect a.node == 0");
    ok(&mut lab, "expect zone.DMA32.present > 100K");
    fails(&mut lab, Errno::EINVAL, "expect a.zone < Normal");
    fails(&mut lab, Errno::EINVAL, "expect a.zone == Normal + 1");
    fails(&mut lab, Errno::EINVAL, "expect a.pages == sixteen");
    fails(&mut lab, Errno::EINVAL, "expect a.pages = 16");
    fails(&mut lab, Errno::EINVAL, "expect a.pages ==");
    fails(&mut lab, Errno::ERANGE, "expect a.pages == 0 - 1");
    fails(&mut lab, Errno::ENOENT, "expect a.pages == $nothing");
    fails(&mut lab, Errno::EINVAL, "note n a.zone");
    fails(&mut lab, Errno::ENOENT, "get a[1].pfn");
}

#[test]
fn expected_errors() {
    let mut lab = lab(64, 1);
    let out = ok(&mut lab, "expect-error ENOENT free nothing");
    assert_eq!(out, "-> ENOENT: no such group: nothing\nexpect: ok\n");
    for (line, out) in [
        ("expect-error ENOENT audit", "expect: FAILED: it did not fail\n"),
        ("expect-error ENOMEM free x", "expect: FAILED: it failed with ENOENT: no such group: x\n"),
        ("expect-error EINVAL expect fault.seen == 7", "expect: FAILED: fault.seen is 0\n"),
        ("expect-error EINVAL expect-error ENOMEM free x", "expect: FAILED: it failed with"),
    ] {
        assert_eq!(lab.line(line.as_bytes()), Outcome::Unexpected, "{line}");
        assert!(said(&mut lab).contains(out), "{line}");
    }
    ok(&mut lab, "expect-error EINVAL expect-error EWHAT free x");
    fails(&mut lab, Errno::EINVAL, "expect-error EWHAT free x");
    fails(&mut lab, Errno::EINVAL, "expect-error ENOENT");
    fails(&mut lab, Errno::EINVAL, &"expect-error EINVAL ".repeat(15));
    ok(&mut lab, "expect-error EPERM machine");
    ok(&mut lab, "expect-error EALREADY online 0x1000000 2M");
    fails(&mut lab, Errno::EPERM, "hotadd 0x100000000 128M");
    fails(&mut lab, Errno::EPERM, "hotremove 0x100000000 128M");
}

#[test]
fn bad_input_is_one_error() {
    let mut lab = lab(64, 2);
    let long = format!("alloc a 0 {}", "x".repeat(10_000));
    let many = "echo x ".repeat(20);
    let name = "n".repeat(32);
    for (errno, line) in [
        (Errno::ENOSYS, "frobnicate a 0"),
        (Errno::ENOSYS, "ALLOC a 0"),
        (Errno::E2BIG, long.as_str()),
        (Errno::E2BIG, many.as_str()),
        (Errno::EINVAL, "alloc"),
        (Errno::EINVAL, "alloc a"),
        (Errno::EINVAL, "alloc a x"),
        (Errno::EINVAL, "alloc a 11"),
        (Errno::EINVAL, "alloc a -1"),
        (Errno::ERANGE, "alloc a 256"),
        (Errno::ERANGE, "alloc a 0 count=0xffffffffffffffffff"),
        (Errno::EINVAL, "alloc a 0 count=0"),
        (Errno::EINVAL, "alloc a 0 count=1 count=2"),
        (Errno::EINVAL, "alloc a 0 cuont=1"),
        (Errno::EINVAL, "alloc a 0 KERNEL KERNEL"),
        (Errno::EINVAL, "alloc a 0 kernel"),
        (Errno::EINVAL, "alloc a 0 DMA|DMA32"),
        (Errno::EINVAL, "alloc a 0 cpu=2"),
        (Errno::EINVAL, "alloc a 0 node=1"),
        (Errno::EINVAL, "alloc 7 0"),
        (Errno::EINVAL, "alloc a.b 0"),
        (Errno::EINVAL, "alloc zone 0"),
        (Errno::EINVAL, "alloc node1 0"),
        (Errno::EINVAL, "fill f"),
        (Errno::EINVAL, "fill f KERNEL until=dawn"),
        (Errno::EINVAL, "fill f KERNEL until=low pages=3"),
        (Errno::EINVAL, "punch x"),
        (Errno::EINVAL, "punch x every=0"),
        (Errno::ENOENT, "punch x every=1"),
        (Errno::ENOENT, "touch x"),
        (Errno::EINVAL, "contig c 10 align=3"),
        (Errno::ENOMEM, "contig c 1T"),
        (Errno::EINVAL, "cache c"),
        (Errno::EINVAL, "cache c size=0"),
        (Errno::EINVAL, "cache c size=8M"),
        (Errno::EINVAL, "cache c size=64 align=3"),
        (Errno::EINVAL, "cache c size=4 ctor"),
        (Errno::EEXIST, "cache kmalloc-64 size=64"),
        (Errno::EINVAL, "kalloc o 0"),
        (Errno::EINVAL, "kalloc o 5M"),
        (Errno::ENOENT, "kalloc o kmalloc-65"),
        (Errno::ENOENT, "kalloc o nothing"),
        (Errno::EINVAL, "kalloc o 64 MOVABLE"),
        (Errno::ENOENT, "shrink nothing"),
        (Errno::ENOENT, "destroy nothing"),
        (Errno::EINVAL, "memalloc maybe"),
        (Errno::EINVAL, "fail"),
        (Errno::EINVAL, "fail nth=0"),
        (Errno::EINVAL, "fail nth=1 every=1"),
        (Errno::EINVAL, "compact 1"),
        (Errno::EINVAL, "tick"),
        (Errno::ERANGE, "tick 1T"),
        (Errno::ENOENT, "cat /proc/nothing"),
        (Errno::EINVAL, "cat"),
        (Errno::ENOENT, "echo 1 > /proc/nothing"),
        (Errno::EPERM, "echo 1 > /proc/cmdline"),
        (Errno::EPERM, "echo 1 > /proc/buddyinfo"),
        (Errno::EINVAL, "echo x > /proc/slabinfo"),
        (Errno::EINVAL, "echo 1 >"),
        (Errno::EINVAL, "echo 1 > a b"),
        (Errno::ENOENT, "help frobnicate"),
        (Errno::EPERM, "machine"),
        (Errno::EINVAL, "machine of mine"),
        (Errno::EINVAL, "offline 0x1000"),
        (Errno::ERANGE, "offline 0xffffffffffffffff 2"),
        (Errno::EINVAL, "offline 0x8000001 2M"),
        (Errno::EINVAL, "offline 0x8000000 2000000"),
        (Errno::EINVAL, "offline 0x8000000 0"),
        (Errno::EINVAL, "offline 0x8000000 1M"),
        (Errno::EINVAL, "offline 0x8001000 2M"),
        (Errno::EINVAL, "offline 0x800000000000 2M"),
        (Errno::EINVAL, "offline 0x7fffffffffffe000 8K"),
        (Errno::EINVAL, "online 0x8000000 2M gold"),
        (Errno::EINVAL, "online 0x8000000 2M movable kernel"),
        (Errno::EINVAL, "audit now"),
    ] {
        fails(&mut lab, errno, line);
    }
    fails(&mut lab, Errno::EINVAL, &format!("alloc {name} 0"));
    for line in [&b"alloc a\x00 0"[..], b"\x1b[A", b"caf\xe9", b"\xf0\x9f", b"au\x7fdit"] {
        assert!(!lab.line(line).is_ok());
        assert_eq!(said(&mut lab).lines().count(), 1);
    }
    assert_eq!(ok(&mut lab, "list"), "");
    ok(&mut lab, "audit");
}

#[test]
fn there_is_an_end_to_everything() {
    let mut lab = lab(64, 1);
    for i in 0..shell::GROUPS_MAX {
        ok(&mut lab, &format!("alloc g{i} 0"));
    }
    fails(&mut lab, Errno::ENOSPC, "alloc more 0");
    fails(&mut lab, Errno::ENOSPC, "kalloc more 64");
    for i in 0..32 {
        ok(&mut lab, &format!("cache c{i} size=64"));
    }
    for i in 0..shell::NOTES_MAX {
        ok(&mut lab, &format!("note n{i} fault.seen"));
    }
    fails(&mut lab, Errno::ENOSPC, "cache more size=64");
    fails(&mut lab, Errno::ENOSPC, "note more fault.seen");
    assert_eq!(ok(&mut lab, "list").lines().count(), 96);
    assert_eq!(lab.names().count(), 96);
}

#[test]
fn every_command_is_known_and_explained() {
    let mut lab = lab(64, 1);
    let all = ok(&mut lab, "help");
    for command in COMMANDS {
        assert!(all.contains(command.synopsis), "{}", command.name);
        assert!(command.synopsis.starts_with(command.name), "{}", command.name);
        assert!(command.example.starts_with(command.name), "{}", command.name);
        let help = ok(&mut lab, &format!("help {}", command.name));
        assert!(help.contains("example: "), "{help}");
        let outcome = lab.line(command.name.as_bytes());
        if let Outcome::Failed(error) = outcome {
            assert_ne!(error.errno, Errno::ENOSYS, "{}", command.name);
        }
        said(&mut lab);
    }
    assert!(COMMANDS.is_sorted_by_key(|command| command.name));
    for [topic, text] in shell::TOPICS {
        assert_eq!(ok(&mut lab, &format!("help {topic}")), *text);
    }
    assert!(all.contains("wave"));
    ok(&mut lab, "wave");
    ok(&mut lab, "help wave");
    said(&mut lab);
}

#[test]
fn files_can_be_read() {
    let mut lab = lab(64, 1);
    let files: Vec<_> = lab.files().collect();
    assert!(files.contains(&"/proc/cmdline") && files.contains(&"/proc/buddyinfo"));
    for path in files {
        let outcome = lab.line(format!("cat {path}").as_bytes());
        let out = said(&mut lab);
        match outcome {
            Outcome::Ok => assert!(out.ends_with('\n'), "{path}"),
            // To be written only.
            Outcome::Failed(error) => assert_eq!(error.errno, Errno::EPERM, "{path}"),
            Outcome::Unexpected => panic!("{path}"),
        }
    }
    assert!(lab.line(b"cat /proc/buddy") != Outcome::Ok);
    assert_eq!(said(&mut lab), "error: ENOENT: no such file: /proc/buddy\n");
    assert!(ok(&mut lab, "cat /proc/buddyinfo").starts_with("Node 0, zone"));
    let long = ok(&mut lab, "cat /proc/long");
    assert_eq!(long.lines().count(), 1000);
    assert_eq!(long.lines().nth(700), Some("line 700 \u{e4}"));
    assert_eq!(ok(&mut lab, "echo hello   world"), "hello world\n");
}

#[test]
fn loops_run_their_lines_again() {
    let mut lab = lab(64, 1);
    let script = "alloc a 0 count=9\nrepeat 3   # times\n  repeat 2\n\n    free a[{0-0}]\n    alloc b 0\n\
                  free b\n    alloc a2 0\n free a2\n try free a[0]\n end\n end\n";
    // The second round finds the block gone.
    assert_eq!(lab.script(script.as_bytes()), Verdict::Failed(5));
    assert!(
        said(&mut lab)
            .ends_with("error: ENOENT: the group has no such block: a[0]\nlab: FAILED at line 5\n")
    );
    lab.reset();
    let script = "repeat 3\nrepeat 2\nalloc a 0\nfree a\nend\ntick 5\nend\naudit";
    assert_eq!(lab.script(script.as_bytes()), Verdict::Ok(3 * (2 * 2 + 1) + 1));
    said(&mut lab);
    // At the prompt a line comes at a time.
    for line in ["repeat 2", "note n fault.seen", "# nothing", "repeat 2", "end"] {
        assert_eq!(ok(&mut lab, line), "");
    }
    assert_eq!(ok(&mut lab, "end"), "-> $n = 0\n-> $n = 0\n");
    for line in ["end", "repeat", "repeat 0", "repeat x", "repeat 2 3", "chance 100 repeat 2"] {
        fails(&mut lab, Errno::EINVAL, line);
    }
    // What makes no sense ends the recording.
    ok(&mut lab, "repeat 2");
    fails(&mut lab, Errno::EINVAL, "repeat none");
    ok(&mut lab, "audit");
    ok(&mut lab, "repeat 2");
    fails(&mut lab, Errno::EINVAL, "machine");
    ok(&mut lab, "audit");
    for _ in 0..4 {
        ok(&mut lab, "repeat 1");
    }
    fails(&mut lab, Errno::EINVAL, "repeat 1");
    ok(&mut lab, "repeat 1");
    for _ in 0..20 {
        ok(&mut lab, &format!("echo {}", "x".repeat(800)));
    }
    fails(&mut lab, Errno::E2BIG, &format!("echo {}", "x".repeat(800)));
    assert_eq!(lab.script(b"audit\nrepeat 2\naudit"), Verdict::Failed(3));
    assert!(said(&mut lab).contains("error: EINVAL: a loop without its end\n"));
    assert_eq!(lab.script(b"end"), Verdict::Failed(1));
    assert_eq!(lab.script(b"repeat 5\nfree x\nend"), Verdict::Failed(2));
    assert_eq!(lab.script(b""), Verdict::Ok(0));
    // The user has seen enough.
    said(&mut lab);
    ok(&mut lab, "repeat 0x100000000");
    lab.world_mut().patience.set(100);
    assert!(matches!(lab.line(b"end"), Outcome::Failed(error) if error.errno == Errno::EINTR));
}

#[test]
fn chance_is_the_same_each_time() {
    let mut lab = lab(64, 1);
    let mut play = || {
        lab.reset();
        said(&mut lab);
        let script = "seed 5\nrepeat 50\nchance 30 echo yes\necho {1-6} {a,b}\nend";
        assert!(matches!(lab.script(script.as_bytes()), Verdict::Ok(101)));
        said(&mut lab)
    };
    let said_first = play();
    assert_eq!(play(), said_first);
    let yes = said_first.lines().filter(|line| *line == "yes").count();
    assert!((5..=25).contains(&yes), "{yes} of 50");
    assert_eq!(ok(&mut lab, "chance 0 free nothing"), "");
    fails(&mut lab, Errno::ENOENT, "chance 100 free nothing");
    fails(&mut lab, Errno::ERANGE, "chance 101 audit");
    fails(&mut lab, Errno::EINVAL, "chance 50");
    assert_eq!(ok(&mut lab, "try free x"), "-> ENOENT: no such group: x\n");
    assert_eq!(ok(&mut lab, "try try audit").lines().count(), 1);
    fails(&mut lab, Errno::EINVAL, &"try ".repeat(15));
    // An expectation that is not met is no error to go on after.
    assert_eq!(lab.line(b"try expect fault.seen == 7"), Outcome::Unexpected);
    said(&mut lab);
    ok(&mut lab, "quiet on");
    assert_eq!(ok(&mut lab, "list"), "");
    assert_eq!(ok(&mut lab, "cat /proc/buddyinfo"), "");
    fails(&mut lab, Errno::ENOENT, "free x");
    ok(&mut lab, "quiet off");
    assert_eq!(ok(&mut lab, "audit").lines().count(), 1);
}
