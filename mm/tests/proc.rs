//! The report files: shaped as Linux's are, and true.
#![cfg(feature = "host")]

use mm::cma::CmaRequest;
use mm::host::{Machine, build, pc};
use mm::proc::{FILES, FileError};
use mm::types::{CpuId, NodeId, Order, Pfn, PfnRange, ZoneKind};
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
    let mut keys = ours.lines().map(|line| {
        assert_eq!(words(line), words(&format!("{} 9", line.split(' ').next().expect("a key"))));
        line.split(' ').next().expect("a key")
    });
    let first_own = keys.find(|key| !linux.any(|l| l == *key));
    assert_eq!(first_own, Some("alloc_failed"));
    for key in keys {
        assert!(!linux!("512m/vmstat").contains(&format!("\n{key} ")), "{key} out of order");
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
    assert_eq!(mm.proc_write("/proc/buddyinfo", "1"), Err(FileError::NotPermitted));
    for path in FILES {
        assert_ne!(mm.proc_read(path, &mut text), Err(FileError::NotFound), "{path}");
    }
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
    for path in FILES {
        assert_eq!(mm.proc_read(path, &mut Full), Err(FileError::Stopped), "{path}");
    }
}

/// Zone DMA holds back what others could use, and each class counts its own.
#[test]
#[cfg_attr(miri, ignore = "large machines")]
fn stalls_count_for_the_class_that_stalled() {
    let mm = pc(64, 1, &Config::default()).expect("a machine");
    let stalls = |class: &str| mm.vmstat_value(&format!("allocstall_{class}")).expect("a key");
    let exhaust = |gfp| while mm.alloc_pages(Request::new(Order(0), gfp | Gfp::NOWARN)).is_ok() {};
    exhaust(Gfp::KERNEL);
    assert!(stalls("normal") > 0 && stalls("dma") == 0 && stalls("movable") == 0);
    exhaust(Gfp::KERNEL | Gfp::DMA);
    assert!(stalls("dma") > 0 && stalls("dma32") == 0);
    let dma = mm.zone(NodeId(0), ZoneKind::Dma).expect("zone DMA");
    assert!(dma.managed() > 0);
}
