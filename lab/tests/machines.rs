//! Machines that scripts describe, as the manager sees them: the map cleaned,
//! nodes, CPUs and command line in force, large ones on little memory.

use lab::{HostWorld, Kept, Output};
use mm::platform::Platform;
use mm::types::{CpuId, NodeId, Order, PAGE_SIZE, Pfn, ZoneKind};
use mm::zone::Zone;
use mm::{Gfp, Mm, Request};
use shell::{Errno, Error, World};

fn world() -> (HostWorld, Kept) {
    let kept = Kept::default();
    (HostWorld::new(Output::new(kept.clone())).unwrap(), kept)
}

/// Describes a machine, line by line.
fn describe(world: &mut HostWorld, lines: &str) -> Result<(), Error> {
    world.describe("machine")?;
    lines.lines().try_for_each(|line| world.describe(line))?;
    world.describe("end")
}

fn machine(lines: &str) -> (HostWorld, String) {
    let (mut world, kept) = world();
    describe(&mut world, lines).unwrap();
    (world, kept.text())
}

fn zone<P: Platform>(mm: &Mm<P>, node: u8, kind: ZoneKind) -> &Zone {
    mm.zone(NodeId(node), kind).unwrap()
}

fn sound(world: &HostWorld) {
    let mm = world.mm().unwrap();
    let report = mm.audit();
    assert!(report.is_ok(), "{report:?}");
}

/// As near to the kernel on QEMU's PC as can be: it has 130942 pages present and
/// 129231 managed.
#[test]
fn the_default_machine_is_the_pc() {
    let (world, kept) = world();
    let mm = world.mm().unwrap();
    assert_eq!((mm.platform().cpus(), mm.nodes()), (2, 1));
    let present: u64 = mm.zones().iter().map(Zone::present).sum();
    assert_eq!(present, 130_942);
    let managed = mm.managed_pages();
    assert!(129_231u64.abs_diff(managed) < 100, "{managed}");
    assert_eq!(zone(mm, 0, ZoneKind::Dma32).cma_pages(), 4096);
    assert_eq!(kept.text(), "");
    sound(&world);
}

#[test]
fn a_large_machine_costs_little() {
    let lines = "mem 0x0-0x9ffff usable\nmem 0x100000-0xbfffffff usable\n\
                 mem 0x100000000-0x103fffffff usable\ncpus 4";
    let (world, text) = machine(lines);
    let mm = world.mm().unwrap();
    assert!(text.starts_with("machine: 4 CPUs, 1 node, 16777119 pages (65535 MiB), "), "{text}");
    let page = mm.alloc_pages(Request::new(Order(10), Gfp::KERNEL)).unwrap();
    assert!(page.pfn >= Pfn(0x10_0000));
    mm.free_pages(page).unwrap();
    sound(&world);
}

/// RAM on both sides of a hole of a TiB, and at the very top: both ends are used.
#[test]
fn a_hole_of_a_tib() {
    let (world, _) =
        machine("mem 0x100000-0x1fffffff usable\nmem 0x10000000000-0x1000fffffff usable");
    let mm = world.mm().unwrap();
    assert_eq!(zone(mm, 0, ZoneKind::Normal).present(), 0x1_0000);
    let high = mm.alloc_pages(Request::new(Order(0), Gfp::KERNEL)).unwrap();
    let low = mm.alloc_pages(Request::new(Order(0), Gfp::KERNEL | Gfp::DMA32)).unwrap();
    assert!(high.pfn >= Pfn(0x1000_0000) && low.pfn < Pfn(0x2_0000));
    for page in [high, low] {
        let frame = mm.platform().frame(page.pfn);
        assert_eq!(mm.platform().pfn_of(frame.wrapping_add(PAGE_SIZE - 1)), Some(page.pfn));
        // SAFETY: the page was just allocated.
        unsafe { frame.write_bytes(0x5a, PAGE_SIZE) };
        mm.free_pages(page).unwrap();
    }
    sound(&world);
}

#[test]
fn nodes_distances_and_their_cpus() {
    let (mut world, _) = machine(
        "mem 0x100000-0x3fffffff usable\ncpus 4\n\
         node 0 0x0-0xfffffff\nnode 1 0x10000000-0x2fffffff cpus=2-3\nnode 2 0x30000000-0x3fffffff\n\
         node 3\ndistance 0 1 40\ndistance 0 2 15\ndistance 1 2 30",
    );
    let mm = world.mm().unwrap();
    assert_eq!(mm.nodes(), 4);
    assert_eq!(
        mm.zones().iter().filter(|z| z.node == NodeId(1)).map(Zone::present).sum::<u64>(),
        0x2_0000
    );
    let nearest: Vec<u8> = mm.nearest_nodes(NodeId(0)).map(|n| n.0).collect();
    assert_eq!(nearest, [0, 2, 1]);
    let mut got = None;
    let mut work = || got = mm.alloc_pages(Request::new(Order(0), Gfp::KERNEL)).ok();
    world.on_cpu(CpuId(3), &mut work).unwrap();
    let page = got.unwrap();
    assert!((Pfn(0x1_0000)..Pfn(0x3_0000)).contains(&page.pfn));
    mm.free_pages(page).unwrap();
    sound(&world);
    let error = world.on_cpu(CpuId(4), &mut || ()).unwrap_err();
    assert_eq!(error.errno, Errno::EINVAL);
}

#[test]
fn the_command_line_acts_as_at_boot() {
    let (world, text) = machine(
        "mem 0x100000-0x3fffffff usable\n\
         cmdline cma=32M movablecore=256M min_free_kbytes=9000 watermark_scale_factor=200 \
         memmap=16M$0x38000000 x=y cma",
    );
    let mm = world.mm().unwrap();
    assert_eq!(mm.zones().iter().map(Zone::cma_pages).sum::<u64>(), 8192);
    assert!(zone(mm, 0, ZoneKind::Movable).present() > 60_000);
    assert_eq!((mm.min_free_kbytes(), mm.watermark_scale_factor()), (9000, 200));
    let lines: Vec<&str> = text.lines().collect();
    assert_eq!(lines.len(), 4, "{text}");
    assert!(lines[0].contains("unknown option \"x=y\""), "{text}");
    assert!(lines[1].contains("\"cma\": needs a value"), "{text}");
    assert!(lines[2].contains("is listed as usable and as reserved"), "{text}");
    assert!(lines[3].starts_with("machine: 1 CPU, 1 node, "), "{text}");
    sound(&world);
    let mut cmdline = String::new();
    world.read_file("/proc/cmdline", &mut cmdline).unwrap();
    assert!(cmdline.starts_with("cma=32M ") && cmdline.ends_with(" x=y cma\n"));
    let mut iomem = String::new();
    world.read_file("/proc/iomem", &mut iomem).unwrap();
    let want = "00100000-37ffffff : System RAM\n  01000000-011fffff : Kernel\n\
                38000000-38ffffff : Reserved\n39000000-3fffffff : System RAM\n";
    assert_eq!(iomem, want);
    assert_eq!(world.read_file("/proc/x", &mut iomem).unwrap_err().errno, Errno::ENOENT);
}

/// A machine that cannot be leaves the one before as it was.
#[test]
fn what_cannot_be_changes_nothing() {
    let (mut world, kept) = world();
    let mm = world.mm().unwrap();
    let page = mm.alloc_pages(Request::new(Order(3), Gfp::KERNEL)).unwrap();
    let free = mm.free_pages_total();
    for (lines, errno) in [
        ("mem 0x100000-0x1fffffff usabel", Errno::EINVAL),
        ("mem 0x100000-0x4fffff usable", Errno::ENOMEM),
        ("", Errno::ENOMEM),
        ("machine", Errno::EINVAL),
        ("mem 0x100000-0x1fffffff usable\nnode 2 0x0-0x1fffffff", Errno::EINVAL),
    ] {
        let error = describe(&mut world, lines).unwrap_err();
        assert_eq!(error.errno, errno, "{lines}: {error}");
        assert!(!world.is_describing(), "{lines}");
        assert!(std::ptr::eq(world.mm().unwrap(), mm), "{lines}");
    }
    assert_eq!(world.describe("end").unwrap_err().errno, Errno::EINVAL);
    assert_eq!(mm.free_pages_total(), free);
    assert!(!kept.text().contains("machine:"));
    mm.free_pages(page).unwrap();
    sound(&world);
}

/// Slabs that nobody uses go back as time passes, a CPU at a time.
#[test]
fn time_moves_when_it_is_told_to() {
    let (mut world, _) = world();
    let mm = world.mm().unwrap();
    let slabs = || mm.caches().find(|c| c.name() == "kmalloc-512").unwrap().num_slabs;
    let objects: Vec<_> = (0..4096).map(|_| mm.kmalloc(512, Gfp::KERNEL).unwrap()).collect();
    objects.into_iter().for_each(|object| mm.kfree(object).unwrap());
    let kept = slabs();
    world.tick(1999).unwrap();
    assert_eq!(slabs(), kept);
    world.tick(60_000).unwrap();
    assert_eq!(mm.platform().now_ms(), 61_999);
    assert!(kept > 1 && slabs() <= 1, "{kept} slabs, then {}", slabs());
    sound(&world);
}

/// What this process has mapped, in KiB.
fn mapped() -> u64 {
    let status = std::fs::read_to_string("/proc/self/status").unwrap();
    let line = status.lines().find_map(|l| l.strip_prefix("VmSize:")).unwrap();
    line.trim().trim_end_matches(" kB").parse().unwrap()
}

/// Machines do not add up. In a process of its own kind: the other tests' come
/// and go meanwhile, but none of them is as large as ten of these.
#[test]
fn machines_go_when_they_are_replaced() {
    let (mut world, _) = world();
    let mut sizes = Vec::new();
    for i in 0..12 {
        let cpus = i % 7 + 1;
        let lines = format!("mem 0x100000-0xffffffffff usable\ncpus {cpus}\ncmdline cma=0");
        describe(&mut world, &lines).unwrap();
        sizes.push(mapped());
    }
    let grown = sizes[11].saturating_sub(sizes[1]);
    assert!(grown < 5 << 30, "{grown} KiB more than with one");
    sound(&world);
}
