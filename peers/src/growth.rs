//! How the cost of an operation depends on the size of the machine: managed
//! memory, CPUs at work at the same time, nodes. Quarry alone, in instructions.

use crate::probe::{Probe, count};
use crate::quarry::{Quarry, manager};
use crate::workload::Rng;
use mm::host::lean::Lean;
use mm::types::{CpuId, Order, Pfn};
use mm::{Gfp, Mm, Page, Request};
use plot::{Lines, lines, number};
use std::collections::BTreeMap;
use std::fmt::Write;
use std::path::Path;
use std::sync::Barrier;

/// Managed memory: name, MiB. For the last, valgrind has addresses in two
/// stretches only.
const SIZES: [(&str, u64); 4] =
    [("64 MiB", 64), ("1 GiB", 1 << 10), ("16 GiB", 16 << 10), ("64 GiB", 64 << 10)];
/// What is measured on.
const NOTE: &str = "

RAM is a mapping without reserve: all of it is managed, and the host backs a page
when somebody writes to it, which the operations do not do beyond the manager's
own tables and slabs. The 64 GiB lie in two pieces of 32 GiB with frames between
them that are no RAM, because valgrind, which counts, has no longer stretch of
addresses to give; the others lie in one piece.
";
/// CPUs at work: name, number.
const CPUS: [(&str, u16); 3] = [("1 CPU", 1), ("2 CPUs", 2), ("4 CPUs", 4)];
/// Nodes: name, number.
const NODES: [(&str, u64); 4] = [("1 node", 1), ("2 nodes", 2), ("4 nodes", 4), ("8 nodes", 8)];
/// MiB for each CPU, for each node.
const MIB: u64 = 1 << 10;

/// An operation: name, how many it does at a call, and what it does.
type Operation = (&'static str, usize, fn(&Mm<Lean>));

const OPERATIONS: [Operation; 6] = [
    ("order 0, alloc + free", 64, |mm| pairs(mm, 0)),
    ("order 9, alloc + free", 64, |mm| pairs(mm, 9)),
    ("2048 pages, alloc + free, each", 2048, batch),
    ("orders 0 to 6 mixed, each", 1024, mixed),
    ("kmalloc + kfree 64 B", 64, kmalloc_pairs),
    ("1000 objects of 64 B, alloc + free, each", 1000, objects),
];

fn alloc(mm: &Mm<Lean>, order: u8) -> Page {
    mm.alloc_pages(Request::new(Order(order), Gfp::KERNEL)).expect("enough memory")
}

fn free(mm: &Mm<Lean>, page: Page) {
    mm.free_pages(page).expect("a page of ours");
}

fn pairs(mm: &Mm<Lean>, order: u8) {
    for _ in 0..64 {
        free(mm, alloc(mm, order));
    }
}

fn batch(mm: &Mm<Lean>) {
    let mut pages = [Pfn(0); 2048];
    for slot in &mut pages {
        *slot = alloc(mm, 0).pfn;
    }
    for pfn in pages {
        free(mm, Page { pfn, order: Order(0) });
    }
}

fn mixed(mm: &Mm<Lean>) {
    let mut rng = Rng(5);
    let mut slots = [None; 128];
    for _ in 0..1024 {
        let slot: &mut Option<Page> = &mut slots[rng.below(128)];
        match slot.take() {
            Some(page) => free(mm, page),
            None => *slot = Some(alloc(mm, rng.below(7) as u8)),
        }
    }
    for page in slots.into_iter().flatten() {
        free(mm, page);
    }
}

fn kmalloc_pairs(mm: &Mm<Lean>) {
    for _ in 0..64 {
        mm.kfree(mm.kmalloc(64, Gfp::KERNEL).expect("an object")).expect("of ours");
    }
}

fn objects(mm: &Mm<Lean>) {
    let mut held = [core::ptr::NonNull::dangling(); 1000];
    for slot in &mut held {
        *slot = mm.kmalloc(64, Gfp::KERNEL).expect("an object");
    }
    for object in held {
        mm.kfree(object).expect("of ours");
    }
}

/// What the run under callgrind does.
pub fn counted() {
    for (name, mib) in SIZES {
        single(&Quarry::sized(mib << 8, 1), name);
    }
    for (name, nodes) in NODES {
        single(&Quarry::sized(nodes * (MIB << 8), nodes), name);
    }
    for (name, cpus) in CPUS {
        let mm = manager(u64::from(cpus) * (MIB << 8), cpus, 1);
        for operation in OPERATIONS {
            together(&mm, cpus, name, operation);
        }
    }
}

/// Calls of an operation in a window.
const CALLS: usize = 8;

fn single(quarry: &Quarry, machine: &'static str) {
    let mut probe = Probe::Count(machine);
    for (name, each, run) in OPERATIONS {
        // Lists fill, caches are set up.
        for _ in 0..CALLS {
            run(quarry.mm());
        }
        probe.window(name, CALLS * each, || {
            for _ in 0..CALLS {
                run(quarry.mm());
            }
        });
    }
}

/// The same by as many threads as there are CPUs.
fn together(mm: &Mm<Lean>, cpus: u16, machine: &'static str, (name, each, run): Operation) {
    let (warm, go, done) = (
        &Barrier::new(usize::from(cpus) + 1),
        &Barrier::new(usize::from(cpus) + 1),
        &Barrier::new(usize::from(cpus) + 1),
    );
    std::thread::scope(|scope| {
        for cpu in 0..cpus {
            scope.spawn(move || {
                let _claim = mm.platform().claim(CpuId(cpu));
                for _ in 0..CALLS {
                    run(mm);
                }
                warm.wait();
                go.wait();
                for _ in 0..CALLS {
                    run(mm);
                }
                done.wait();
            });
        }
        warm.wait();
        Probe::Count(machine).window(name, usize::from(cpus) * CALLS * each, || {
            go.wait();
            done.wait();
        });
    });
}

/// The figures: a table as Markdown, and the plot.
pub fn measure(dir: &Path) -> (String, String) {
    let figures = count(&["--count", "growth"], dir);
    let panels = [
        panel("Managed memory", &SIZES.map(|size| size.0), &figures),
        panel("CPUs at work (1 GiB each)", &CPUS.map(|cpus| cpus.0), &figures),
        panel("Nodes (1 GiB each)", &NODES.map(|nodes| nodes.0), &figures),
    ];
    let mut table = String::from("| operation |");
    let places = || panels.iter().flat_map(|panel| &panel.places);
    for place in places() {
        let _ = write!(table, " {place} |");
    }
    table.push_str("\n|---|");
    places().for_each(|_| table.push_str("---:|"));
    for (i, (name, ..)) in OPERATIONS.iter().enumerate() {
        let _ = write!(table, "\n| {name} |");
        for value in panels.iter().flat_map(|panel| &panel.series[i].1) {
            let _ = write!(table, " {} |", number(*value));
        }
    }
    table.push_str(NOTE);
    let title = "Cost of an operation on growing machines";
    (table, lines(title, "instructions per operation, counted by callgrind", &panels))
}

fn panel(title: &str, machines: &[&'static str], figures: &BTreeMap<String, f64>) -> Lines {
    let series = OPERATIONS.iter().map(|(name, ..)| {
        let value = |machine: &&str| figures.get(&format!("{machine}|{name}")).copied();
        let values = machines.iter().map(|machine| value(machine).expect("a figure")).collect();
        ((*name).to_owned(), values)
    });
    Lines {
        title: title.to_owned(),
        places: machines.iter().map(|&machine| machine.to_owned()).collect(),
        series: series.collect(),
    }
}
