//! All operations on a simulated machine: they come to an end, report every row
//! of the table, and give everything back.

use bench::table::{ROWS, find};
use bench::{Boot, Compressed, Cost, Counter, Ground, Report, Scratch, Tally, Threads, run};
use mm::cma::CmaRequest;
use mm::host::swap::SwapDisk;
use mm::host::{Machine, pc};
use mm::mmu::VirtAddr;
use mm::space::{Access, FaultError, SpaceRef};
use mm::swap::SwapDevice;
use mm::types::Order;
use mm::{Config, Mm};
use std::cell::Cell;

/// Moves on by one at each look: a window in which nobody looks costs nothing.
struct Looks(Cell<u64>);

impl Counter for Looks {
    fn now(&self) -> u64 {
        self.0.set(self.0.get() + 1);
        self.0.get()
    }
}

#[derive(Default)]
struct Lines(Vec<String>);

impl Report for Lines {
    fn figure(&mut self, suite: &'static str, row: &'static str, _: Cost) {
        self.0.push(format!("{suite}.{row}"));
    }
    fn skipped(&mut self, suite: &'static str, why: bench::Why) {
        panic!("{suite}: {why}");
    }
}

/// The test's own thread, which goes through the tables as a processor does.
struct Simulated;

impl Threads<Machine> for Simulated {
    fn touch(
        &self,
        mm: &'static Mm<Machine>,
        space: &SpaceRef<'static>,
        va: VirtAddr,
        pages: u64,
        access: Access,
    ) -> Result<(), FaultError> {
        for at in (0..pages).map(|page| va.add(page * 4096)) {
            mm.access(space, at, access, |_| {})?;
        }
        Ok(())
    }
}

/// Memory of the host's.
struct Disk;

impl Compressed<Machine> for Disk {
    fn set_up(&self, _: &'static Mm<Machine>, slots: u32) -> Option<&'static dyn SwapDevice> {
        Some(Box::leak(Box::new(SwapDisk::new("disk", slots))))
    }

    fn reset(&self, _: &'static Mm<Machine>) {}
}

/// Pages that compaction is tried on.
const MOST: u64 = 16 << 8;

fn ground() -> Ground<Machine> {
    let mut config = Config::default();
    config.cma[0] =
        Some(CmaRequest { size: 16 << 20, base: None, end: None, order_per_bit: Order(0) });
    let mm = Box::leak(Box::new(pc(512, 1, &config).expect("a machine")));
    mm.slab_init().expect("the slab layer");
    let arena: &'static mm::arena::MovableArena<Machine> = Box::leak(Box::default());
    arena.register(mm).expect("room for a driver");
    let boot = Some(Boot { counts: 10, pages: 1 });
    Ground { mm, arena, threads: &Simulated, compressed: &Disk, most: MOST, boot }
}

fn measure(on: &Ground<Machine>, glob: &str) -> (Tally, Vec<String>) {
    let mut lines = Lines::default();
    let mut scratch = Box::new(Scratch::new());
    let tally = run(on, glob, &Looks(Cell::new(0)), &mut scratch, &mut lines);
    (tally, lines.0)
}

#[test]
fn every_row_is_measured_and_all_is_given_back() {
    let on = ground();
    let free = |on: &Ground<Machine>| {
        on.mm.lru_drain_all();
        on.mm.slab_shrink();
        on.mm.drain_all(None);
        on.mm.free_pages_total()
    };
    // What caches set up for a CPU stays, and so does what is made with the first
    // address space.
    measure(&on, "slab");
    measure(&on, "fault");
    let before = free(&on);
    let (tally, mut rows) = measure(&on, "");
    assert_eq!(tally, Tally { figures: ROWS.len() as u32, failed: 0 });
    assert_eq!(free(&on), before);
    on.mm.audit().expect("a sound manager");
    for row in &rows {
        assert!(find(row).is_some(), "{row} is not in the table");
    }
    rows.sort();
    rows.dedup();
    assert_eq!(rows.len(), ROWS.len());
}

#[test]
fn a_glob_selects_rows() {
    let on = ground();
    let rows = |glob| measure(&on, glob).1;
    assert_eq!(rows("pages.order3"), ["pages.order3"]);
    assert_eq!(rows("*.bulk64_free"), ["pages.bulk64_free", "slab.bulk64_free"]);
    assert_eq!(rows("pages.order3,slab.kmalloc8"), ["pages.order3", "slab.kmalloc8"]);
    assert_eq!(rows("boot"), ["boot.per_page", "boot.descriptor_bytes"]);
    assert_eq!(rows("nothing"), [""; 0]);
}
