//! The report files: shaped as Linux's are, and true.
#![cfg(feature = "host")]

use mm::arena::MovableArena;
use mm::cma::CmaRequest;
use mm::gfp::AllocFlags;
use mm::host::{Machine, build, pc};
use mm::proc::{FILES, FileError, KPageFlags};
use mm::reclaim::{Shrinker, Shrunk};
use mm::types::{CpuId, NodeId, Order, Pfn, PfnRange, ZoneKind};
use mm::zone::{Mark, Zone};
use mm::{Config, Gfp, Mm, Request};

fn read(mm: &Mm<Machine>, path: &str) -> String {
    let mut text = String::new();
    mm.proc_read(path, &mut text).expect(path);
    text
}

/// A line with each number, and the spaces before it, as wide as they are:
/// what is written in columns keeps its shape whatever the numbers are.
fn columns(line: &str) -> String {
    let mut shape = String::new();
    let mut width = 0;
    let mut digits = false;
    for c in line.chars().chain(['\n']) {
        let part = c.is_ascii_digit() || matches!(c, '.' | '-');
        if c == ' ' && !digits || part {
            digits |= part;
            width += 1;
            continue;
        }
        if digits {
            shape += &format!("<{width}>");
        } else {
            shape += &" ".repeat(width);
        }
        (width, digits) = (usize::from(c == ' '), false);
        if c != ' ' {
            shape.push(c);
        }
    }
    shape
}

/// A line with each number replaced, however many digits it has.
fn words(line: &str) -> String {
    let mut shape = String::new();
    let mut last = ' ';
    for c in line.chars() {
        let c = if c.is_ascii_digit() { '9' } else { c };
        if c != '9' || last != '9' {
            shape.push(c);
        }
        last = c;
    }
    shape
}

/// Linux's files on three machines.
macro_rules! linux {
    ($file:literal) => {
        include_str!(concat!("linux/", $file))
    };
}

/// Two machines alike but for what Linux had on it.
fn plain() -> Mm<Machine> {
    let mm = pc(512, 1, &Config::default()).expect("a machine");
    mm.slab_init().expect("the slab layer");
    mm
}

/// As Linux's with `movablecore=512M cma=64M` on 2 GiB.
fn movable() -> Mm<Machine> {
    let mut config = Config::default();
    config.movable_start[0] = Pfn(0x6_0000);
    let area = CmaRequest { size: 64 << 20, base: None, end: None, order_per_bit: Order(0) };
    config.cma[0] = Some(area);
    pc(2048, 1, &config).expect("a machine")
}

/// Two nodes of 1 GiB, with a CPU each.
fn nodes() -> Mm<Machine> {
    let (middle, end) = (Pfn(0x4_0000), Pfn(0x8_0000));
    let mut machine = Machine::new(Pfn(0), end, 2).expect("room");
    machine.set_node_of_cpu(CpuId(1), NodeId(1));
    let ram = [
        (PfnRange::new(Pfn(1), Pfn(0xa0)), NodeId(0)),
        (PfnRange::new(Pfn(0x100), middle), NodeId(0)),
        (PfnRange::new(middle, end), NodeId(1)),
    ];
    let mm = build(machine, &ram, &Config::default()).expect("a machine");
    mm.slab_init().expect("the slab layer");
    mm
}

#[track_caller]
fn same_shape(ours: &str, linux: &str, shape: fn(&str) -> String) {
    let shapes = |text: &str| text.split('\n').map(shape).collect::<Vec<_>>();
    assert_eq!(shapes(ours), shapes(linux), "\n{ours}");
}

#[test]
#[cfg_attr(miri, ignore = "large machines")]
fn free_blocks_are_written_as_linux_does() {
    let (plain, movable, nodes) = (plain(), movable(), nodes());
    for (mm, path, linux) in [
        (&plain, "/proc/buddyinfo", linux!("512m/buddyinfo")),
        (&movable, "/proc/buddyinfo", linux!("movable/buddyinfo")),
        (&nodes, "/proc/buddyinfo", linux!("nodes/buddyinfo")),
        (&plain, "/proc/pagetypeinfo", linux!("512m/pagetypeinfo")),
        (&movable, "/proc/pagetypeinfo", linux!("movable/pagetypeinfo")),
        (&nodes, "/proc/pagetypeinfo", linux!("nodes/pagetypeinfo")),
        (&plain, "/sys/kernel/debug/extfrag/unusable_index", linux!("512m/unusable_index")),
        (&movable, "/sys/kernel/debug/extfrag/unusable_index", linux!("movable/unusable_index")),
        (&plain, "/sys/kernel/debug/extfrag/extfrag_index", linux!("512m/extfrag_index")),
    ] {
        same_shape(&read(mm, path), linux, columns);
    }
}

/// The keys that we have stand in Linux's order; our own come after them.
#[test]
#[cfg_attr(miri, ignore = "large machines")]
fn counters_have_linux_s_names_and_order() {
    let ours = read(&plain(), "/proc/vmstat");
    let mut linux = linux!("512m/vmstat").lines().map(|l| l.split(' ').next().expect("a key"));
    // The Linux that this comes from was built without moving a balloon's pages;
    // with it the key follows these two.
    assert!(ours.contains("\nballoon_inflate 0\nballoon_deflate 0\nballoon_migrate 0\n"));
    let mut keys = ours.lines().filter(|line| !line.starts_with("balloon_migrate ")).map(|line| {
        assert_eq!(words(line), words(&format!("{} 9", line.split(' ').next().expect("a key"))));
        line.split(' ').next().expect("a key")
    });
    let first_own = keys.find(|key| !linux.any(|l| l == *key));
    assert_eq!(first_own, Some("alloc_failed"));
    for key in keys {
        assert!(!linux!("512m/vmstat").contains(&format!("\n{key} ")), "{key} out of order");
    }
}

/// A line of a counter: in `zoneinfo` they are indented by six spaces.
fn counter(line: &str) -> Option<&str> {
    let key = line.strip_prefix("      ")?.split(' ').next()?;
    key.starts_with(|c: char| c.is_ascii_lowercase()).then_some(key)
}

/// All of Linux's lines but for counters of what does not exist here.
#[test]
#[cfg_attr(miri, ignore = "large machines")]
fn zones_are_described_as_linux_does() {
    for (mm, linux) in [
        (plain(), linux!("512m/zoneinfo")),
        (movable(), linux!("movable/zoneinfo")),
        (nodes(), linux!("nodes/zoneinfo")),
    ] {
        let ours = read(&mm, "/proc/zoneinfo");
        let known: Vec<_> = ours.lines().filter_map(counter).collect();
        let linux: Vec<_> =
            linux.lines().filter(|l| counter(l).is_none_or(|key| known.contains(&key))).collect();
        same_shape(&ours, &format!("{}\n", linux.join("\n")), words);
    }
}

/// A number of `zoneinfo`: the first after `key` of the zone's part.
fn zoneinfo(text: &str, zone: &str, key: &str) -> u64 {
    let part = text.split("Node ").find(|p| p.lines().next() == Some(zone)).expect(zone);
    let line = part.lines().find(|l| l.trim_start().starts_with(key)).expect(key);
    numbers(line)[0]
}

/// The map of a machine decides these, and it is the same machine.
#[test]
#[cfg_attr(miri, ignore = "large machines")]
fn zones_lie_where_linux_has_them() {
    let ours = read(&movable(), "/proc/zoneinfo");
    let linux = linux!("movable/zoneinfo");
    for zone in ["0, zone      DMA", "0, zone    DMA32", "0, zone   Normal", "0, zone  Movable"] {
        for key in ["spanned", "start_pfn", "cma", "promo"] {
            let populated = !zone.contains("Normal");
            match key {
                // Linux's firmware keeps the last pages and one in low memory.
                "spanned" if zone.contains("Movable") => {}
                "start_pfn" if !populated => {}
                // What Linux keeps for itself changes the marks.
                "promo" if populated => {}
                _ => assert_eq!(zoneinfo(&ours, zone, key), zoneinfo(linux, zone, key), "{zone}"),
            }
        }
    }
}

#[test]
fn memory_in_short_is_written_as_linux_does() {
    let ours = read(&pc(16, 1, &Config::default()).expect("a machine"), "/proc/meminfo");
    let shape = |line: &str| columns(line);
    let mut linux = linux!("512m/meminfo").lines();
    for line in ours.lines() {
        let key = line.split(':').next().expect("a key");
        if key == "HardwareCorrupted" {
            // That Linux was built without.
            assert_eq!(line, "HardwareCorrupted:     0 kB");
            continue;
        }
        let found = linux.find(|l| l.split(':').next() == Some(key));
        assert_eq!(Some(shape(line)), found.map(shape), "{key}");
    }
}

/// The numbers after the key of a line.
fn numbers(line: &str) -> Vec<u64> {
    line.split_whitespace().filter_map(|w| w.parse().ok()).collect()
}

fn pages(blocks: &[u64]) -> u64 {
    blocks.iter().enumerate().map(|(order, n)| n << order).sum()
}

/// Something of everything: pages of each type, on CPUs' lists, objects.
fn use_it(mm: &Mm<Machine>) {
    for cpu in 0..2 {
        mm.platform().run_on(CpuId(cpu));
        for gfp in [Gfp::KERNEL, Gfp::HIGHUSER_MOVABLE, Gfp::KERNEL | Gfp::RECLAIMABLE] {
            for order in [0, 0, 1, 3, 4, 9, 10] {
                let request = Request::new(Order(order), gfp);
                let [a, b] = [(); 2].map(|()| mm.alloc_pages(request).expect("a block"));
                mm.free_pages(a).expect("freed");
                if order % 2 == 0 {
                    mm.free_pages(b).expect("freed");
                }
            }
        }
        for size in [8, 100, 3000] {
            for _ in 0..300 {
                mm.kmalloc(size, Gfp::KERNEL).expect("an object");
            }
        }
    }
    mm.platform().run_on(CpuId(0));
}

#[test]
#[cfg_attr(miri, ignore = "large machines")]
fn the_files_agree_with_each_other() {
    let mm = nodes();
    use_it(&mm);
    let audit = mm.audit().expect("whole");
    let vmstat = |key: &str| mm.vmstat_value(key).expect(key);

    let buddyinfo: u64 = read(&mm, "/proc/buddyinfo").lines().map(|l| pages(&numbers(l))).sum();
    assert_eq!(buddyinfo, vmstat("nr_free_pages"));
    assert_eq!(buddyinfo, audit.free);
    let text = read(&mm, "/proc/pagetypeinfo");
    let types = text.lines().filter(|l| l.contains(", type "));
    assert_eq!(types.map(|l| pages(&numbers(l))).sum::<u64>(), buddyinfo);

    let slabs: u64 = mm.caches().map(|c| c.num_slabs * u64::from(c.pagesperslab)).sum();
    assert_eq!(slabs, vmstat("nr_slab_reclaimable") + vmstat("nr_slab_unreclaimable"));
    assert_eq!(slabs, audit.slab);

    let zoneinfo = read(&mm, "/proc/zoneinfo");
    let sum = |key: &str| -> u64 {
        let lines = zoneinfo.lines().filter(|l| l.trim_start().starts_with(key));
        lines.map(|l| numbers(l).last().copied().expect("a number")).sum()
    };
    assert_eq!(sum("pages free"), buddyinfo);
    assert_eq!(sum("nr_free_pages"), buddyinfo);
    assert_eq!(sum("count:"), audit.pcp);
    assert!(audit.pcp > 0);
    assert_eq!(sum("nr_slab_"), slabs);
    assert_eq!(sum("present"), audit.pages);

    let meminfo = read(&mm, "/proc/meminfo");
    let kb = |key: &str| numbers(meminfo.lines().find(|l| l.starts_with(key)).expect(key))[0];
    assert_eq!(kb("MemTotal:"), sum("managed") * 4);
    assert_eq!(kb("MemFree:"), buddyinfo * 4);
    assert_eq!(kb("Slab:"), slabs * 4);
    assert_eq!(kb("Slab:"), kb("SReclaimable:") + kb("SUnreclaim:"));
    assert!(kb("MemAvailable:") < kb("MemFree:") + kb("SReclaimable:"));

    // 32 bytes for each page, and a page of block words for each 2 GiB begun.
    assert_eq!(vmstat("nr_memmap_boot_pages"), 0x8_0000 * 32 / 4096 + 1);

    // Whatever was allocated and not freed is allocated.
    let allocated: u64 =
        ["dma", "dma32", "normal", "movable"].map(|z| vmstat(&format!("pgalloc_{z}"))).iter().sum();
    assert_eq!(allocated - vmstat("pgfree"), audit.allocated);
}

#[test]
fn files_that_are_not_there() {
    let mm = pc(16, 1, &Config::default()).expect("a machine");
    let mut text = String::new();
    for path in ["", "/", "/proc", "/proc/", "/proc/buddyinfo/", "proc/buddyinfo", "/proc/self"] {
        assert_eq!(mm.proc_read(path, &mut text), Err(FileError::NotFound));
        assert_eq!(mm.proc_write(path, "1"), Err(FileError::NotFound));
    }
    assert_eq!(text, "");
    for path in FILES {
        let knobs =
            ["/proc/slabinfo", "/proc/sys/vm/", "/sys/module/", "/sys/devices/", "/sys/kernel/mm/"];
        let knob =
            knobs.iter().any(|p| path.starts_with(p) && !path.ends_with("/block_size_bytes"));
        let written = knob || path.ends_with("/longest_wait_ms");
        assert_ne!(mm.proc_read(path, &mut text), Err(FileError::NotFound), "{path}");
        if !written {
            assert_eq!(mm.proc_write(path, "1"), Err(FileError::NotPermitted), "{path}");
        }
    }
}

#[test]
fn the_longest_wait_begins_anew_when_told() {
    const PATH: &str = "/sys/kernel/debug/quarry/longest_wait_ms";
    let mm = pc(16, 1, &Config::default()).expect("a machine");
    assert_eq!((read(&mm, PATH).as_str(), mm.longest_wait_ms()), ("0\n", 0));
    // Who reclaims sees the clock go on.
    struct Slow;
    impl Shrinker<Machine> for Slow {
        fn count(&self, _: &Mm<Machine>, _: NodeId) -> u64 {
            1 << 20
        }

        fn scan(&self, mm: &Mm<Machine>, _: NodeId, _: u64) -> Option<Shrunk> {
            mm.platform().advance_ms(7);
            None
        }
    }
    mm.register_shrinker(&Slow).expect("room");
    let request = Request::new(Order(0), Gfp::KERNEL | Gfp::NORETRY | Gfp::NOWARN);
    // An allocation that need not wait does not count, nor does one that may not.
    while let Ok(page) = mm.alloc_pages(Request::new(Order(0), Gfp::NOWAIT | Gfp::NOWARN)) {
        assert_eq!(mm.longest_wait_ms(), 0);
        let _ = page;
    }
    let _ = mm.alloc_pages(request);
    assert!(mm.longest_wait_ms() >= 7, "{} ms", mm.longest_wait_ms());
    for wrong in ["1", "", "x"] {
        assert_eq!(mm.proc_write(PATH, wrong), Err(FileError::Invalid));
    }
    assert_eq!(mm.proc_write(PATH, "0\n"), Ok(()));
    assert_eq!(mm.longest_wait_ms(), 0);
}

#[test]
fn whoever_has_read_enough_may_stop() {
    struct Full;
    impl core::fmt::Write for Full {
        fn write_str(&mut self, _: &str) -> core::fmt::Result {
            Err(core::fmt::Error)
        }
    }
    let mm = pc(16, 1, &Config::default()).expect("a machine");
    mm.slab_init().expect("the slab layer");
    for path in FILES.iter().filter(|p| !p.ends_with("compact_memory")) {
        assert_eq!(mm.proc_read(path, &mut Full), Err(FileError::Stopped), "{path}");
    }
}

/// The words of a file for frames, out of its base64.
fn frames(mm: &Mm<Machine>, name: &str) -> Vec<u64> {
    let text = read(mm, &format!("/proc/{name}"));
    let body = text.strip_prefix(&format!("begin-base64 444 {name}\n")).expect("a beginning");
    let body = body.strip_suffix("\n====\n").expect("an end");
    assert!(body.lines().all(|line| line.len() <= 64));
    let bytes: Vec<u8> = body
        .lines()
        .flat_map(|l| base64::Engine::decode(&base64::prelude::BASE64_STANDARD, l).expect("base64"))
        .collect();
    let (words, []) = bytes.as_chunks() else { panic!("half a word") };
    words.iter().map(|&word| u64::from_le_bytes(word)).collect()
}

#[test]
#[cfg_attr(miri, ignore = "large machines")]
fn frames_are_flagged_as_what_they_are() {
    let mm = nodes();
    use_it(&mm);
    let arena = MovableArena::default();
    let arena: &'static MovableArena<Machine> = Box::leak(Box::new(arena));
    arena.register(&mm).expect("room for a driver");
    for _ in 0..100 {
        arena.alloc(&mm, Gfp::HIGHUSER_MOVABLE).expect("a page");
    }
    let big = mm.alloc_pages(Request::new(Order(3), Gfp::KERNEL)).expect("a block");
    let audit = mm.audit().expect("whole");

    let flags = frames(&mm, "kpageflags");
    let counts = frames(&mm, "kpagecount");
    assert_eq!((flags.len(), counts.len()), (0x8_0000, 0x8_0000));
    assert!(counts.iter().all(|&n| n == 0), "nothing is mapped");
    let with = |bits: KPageFlags| flags.iter().filter(|&&f| f & bits.bits() != 0).count() as u64;
    assert_eq!(with(KPageFlags::BUDDY), audit.free);
    assert!(mm.zones().iter().any(|z| z.deferred_pages() > 0), "some of it has no descriptors");
    assert_eq!(with(KPageFlags::SLAB), audit.slab);
    assert_eq!(with(KPageFlags::RESERVED), audit.reserved);
    assert_eq!(with(KPageFlags::MOVABLE_OPS), 100);
    assert_eq!(with(KPageFlags::NOPAGE), 1 + 0x60);
    assert_eq!(flags[0], KPageFlags::NOPAGE.bits());
    assert_eq!(flags[0xa0], KPageFlags::NOPAGE.bits());
    let big = &flags[big.pfn.0 as usize..][..8];
    assert_eq!(big[0], KPageFlags::COMPOUND_HEAD.bits());
    assert!(big[1..].iter().all(|&f| f == KPageFlags::COMPOUND_TAIL.bits()));
    // Nobody's: on CPUs' lists, or the kernel's single pages.
    let nobody = flags.iter().filter(|&&f| f == 0).count() as u64;
    assert!(nobody >= audit.pcp);
    assert_eq!(mm.kpageflags(Pfn(u64::MAX)), KPageFlags::NOPAGE);
}

#[test]
fn knobs_turn() {
    let mm = pc(64, 2, &Config::default()).expect("a machine");
    let dma32 = mm.zone(NodeId(0), ZoneKind::Dma32).expect("a zone");
    let write = |name: &str, text: &str| mm.proc_write(&format!("/proc/sys/vm/{name}"), text);
    let value = |name: &str| read(&mm, &format!("/proc/sys/vm/{name}"));

    let (rule, high) = (mm.min_free_kbytes(), dma32.pcp_high());
    for (kb, text) in [(64, "64\n"), (8192, "0x2000"), (0, "0")] {
        write("min_free_kbytes", text).expect("in range");
        assert_eq!(value("min_free_kbytes"), format!("{kb}\n"));
        let lowmem: u64 = mm.managed_pages();
        assert_eq!(dma32.marks().min, kb / 4 * dma32.managed() / lowmem);
        // Another knob leaves it alone.
        write("watermark_scale_factor", "200").expect("in range");
        assert_eq!(value("min_free_kbytes"), format!("{kb}\n"));
    }
    mm.set_min_free_kbytes(0);
    assert_eq!(mm.min_free_kbytes(), rule);
    assert_eq!(dma32.marks().low - dma32.marks().min, dma32.managed() * 200 / 10_000);
    write("watermark_scale_factor", "10").expect("in range");

    write("percpu_pagelist_high_fraction", "8").expect("in range");
    assert_eq!(u64::from(dma32.pcp_high()), dma32.managed() / 8 / 2);
    write("percpu_pagelist_high_fraction", "0").expect("in range");
    assert_eq!(dma32.pcp_high(), high);

    let dma = mm.zone(NodeId(0), ZoneKind::Dma).expect("a zone");
    assert_eq!(value("lowmem_reserve_ratio"), "256\t256\t32\t0\n");
    write("lowmem_reserve_ratio", "8\n").expect("one of four");
    assert_eq!(value("lowmem_reserve_ratio"), "8\t256\t32\t0\n");
    assert_eq!(dma.lowmem_reserve(ZoneKind::Normal), dma32.managed() / 8);
    write("lowmem_reserve_ratio", "-1 256 32 0 77").expect("off");
    assert_eq!(value("lowmem_reserve_ratio"), "0\t256\t32\t0\n");
    assert_eq!(dma.lowmem_reserve(ZoneKind::Normal), 0);

    for (name, good, bad) in [
        ("min_free_kbytes", "100", &["-1", "", "x", "2147483648"][..]),
        ("watermark_scale_factor", "3000", &["0", "3001", "-10"]),
        ("watermark_boost_factor", "0", &["-1"]),
        ("extfrag_threshold", "1000", &["-1", "1001", "1k"]),
        ("percpu_pagelist_high_fraction", "8", &["7", "1", "-8"]),
        ("page-cluster", "5", &["-1", "6", ""]),
        ("swappiness", "200", &["-1", "201", ""]),
    ] {
        write(name, good).expect(name);
        for text in bad {
            assert_eq!(write(name, text), Err(FileError::Invalid), "{name} {text:?}");
            assert_eq!(value(name), format!("{good}\n"), "{name} after {text:?}");
        }
    }
    assert_eq!(write("vfs_cache_pressure", "60"), Err(FileError::NotFound));
    mm.audit().expect("whole");
}

/// Single pages here and there keep the rest from being whole; compacting moves
/// them together.
#[test]
#[cfg_attr(miri, ignore = "fills a machine")]
fn memory_is_compacted_by_writing_1() {
    let mm = pc(64, 1, &Config::default()).expect("a machine");
    let arena: &'static MovableArena<Machine> = Box::leak(Box::default());
    arena.register(&mm).expect("room for a driver");
    let gfp = Gfp::HIGHUSER_MOVABLE | Gfp::NOWARN;
    let pages: Vec<_> = core::iter::from_fn(|| arena.alloc(&mm, gfp).ok()).collect();
    for (i, &page) in pages.iter().enumerate() {
        if i % 8 != 0 {
            arena.free(&mm, page).expect("freed");
        }
    }
    mm.platform().run_on(CpuId(0));
    let path = "/proc/sys/vm/compact_memory";
    let scattered = read(&mm, "/sys/kernel/debug/extfrag/unusable_index");
    assert!(scattered.contains(" 1.000 "), "{scattered}");
    let index = read(&mm, "/sys/kernel/debug/extfrag/extfrag_index");
    assert!(index.contains("  0.9"), "{index}");
    for text in ["0", "2", "", "-1"] {
        assert_eq!(mm.proc_write(path, text), Err(FileError::Invalid));
    }
    assert_eq!(mm.proc_read(path, &mut String::new()), Err(FileError::NotPermitted));
    assert_eq!(mm.vmstat_value("pgmigrate_success"), Some(0));
    mm.proc_write(path, "1\n").expect("compacted");
    assert!(mm.vmstat_value("pgmigrate_success") > Some(0));
    assert_eq!(mm.vmstat_value("compact_daemon_migrate_scanned"), Some(0));
    let whole = read(&mm, "/sys/kernel/debug/extfrag/unusable_index");
    assert!(!whole.contains(" 1.000 "), "{whole}");
    mm.audit().expect("whole");
}

#[test]
#[cfg_attr(miri, ignore = "large machines")]
fn slabs_are_retuned_by_writing_a_line() {
    let mm = plain();
    mm.proc_write("/proc/slabinfo", "kmalloc-64 32 16 4\n").expect("retuned");
    let text = read(&mm, "/proc/slabinfo");
    let line = text.lines().find(|l| l.starts_with("kmalloc-64 ")).expect("the cache");
    assert!(line.contains(": tunables   32   16    4 :"), "{line}");
    for bad in ["", "kmalloc-64", "kmalloc-64 1", "nobody 1 1 1", "kmalloc-64 a b c"] {
        assert_eq!(mm.proc_write("/proc/slabinfo", bad), Err(FileError::Invalid), "{bad:?}");
    }
    same_shape(
        &text.lines().take(2).collect::<Vec<_>>().join("\n"),
        &linux!("512m/slabinfo").lines().take(2).collect::<Vec<_>>().join("\n"),
        str::to_string,
    );
    // Names may be longer than their column; the fields are in columns then too.
    let fields = |line: &str| columns(line.split_once(' ').expect("a name").1.trim_start());
    let shape = fields(linux!("512m/slabinfo").lines().nth(2).expect("a cache"));
    let tail = |shape: &str| shape.split_once("> ").map(|(_, tail)| tail.to_string());
    for line in text.lines().skip(2) {
        assert_eq!(tail(&fields(line)), tail(&shape), "{line}");
    }
}

/// Zone DMA holds back what others could use, and each class counts its own.
#[test]
#[cfg_attr(miri, ignore = "large machines")]
fn stalls_count_for_the_class_that_stalled() {
    let mm = pc(256, 1, &Config::default()).expect("a machine");
    let stalls = |class: &str| mm.vmstat_value(&format!("allocstall_{class}")).expect("a key");
    let exhaust = |gfp| while mm.alloc_pages(Request::new(Order(0), gfp | Gfp::NOWARN)).is_ok() {};
    // Between the low mark and the min mark nobody has to wait.
    let mut zones = mm.zones().iter().filter(|zone| zone.managed() > 0);
    let left = |zone: &Zone, mark| {
        zone.watermark_ok(Order(0), zone.mark(mark) + 32, ZoneKind::Normal, AllocFlags::empty())
    };
    while zones.clone().any(|zone| left(zone, Mark::Min)) {
        mm.alloc_pages(Request::new(Order(0), Gfp::KERNEL)).expect("a page");
    }
    assert!(zones.all(|zone| !left(zone, Mark::Low)) && stalls("normal") == 0);
    exhaust(Gfp::KERNEL);
    assert!(stalls("normal") > 0 && stalls("dma") == 0 && stalls("movable") == 0);
    exhaust(Gfp::KERNEL | Gfp::DMA);
    assert!(stalls("dma") > 0 && stalls("dma32") == 0);
    let dma = mm.zone(NodeId(0), ZoneKind::Dma).expect("zone DMA");
    assert!(dma.managed() > 0);
}
