//! Quarry beside other allocators on the host: the workloads of [`workload`],
//! in nanoseconds and, where valgrind is, in instructions; as tables, and as
//! plots. And how its costs grow with the machine. `cargo bench -p mm` runs it.

mod cases;
mod growth;
mod others;
mod pool;
mod probe;
mod quarry;
mod report;
mod workload;

use cases::{OBJECTS, PAGES, SIZES};
use probe::Probe;
use report::Results;
use std::path::{Path, PathBuf};
use workload::Size;

const USAGE: &str = "usage: cargo bench -p mm -- [--save] [--quick] [peers | growth]

peers   workloads a, a2, b, c, d and small objects, Quarry and others
growth  Quarry's costs on machines of 64 MiB to 64 GiB, 1 to 4 CPUs, 1 to 8 nodes
--save  write tables and plots to docs/ as well
--quick one round of times, not eleven";

/// What the saved tables begin with.
const HEADING: &str = "<!-- Written by `cargo bench -p mm -- --save peers`. -->\n\n";
const GROWTH_HEADING: &str = "<!-- Written by `cargo bench -p mm -- --save growth`. -->\n\n";

/// Rounds of times; each allocator begins one of them or more.
const ROUNDS: usize = 11;

/// What is to be done.
#[derive(Default)]
struct Options {
    save: bool,
    quick: bool,
    peers: bool,
    growth: bool,
}

fn main() {
    let mut options = Options::default();
    let mut arguments = std::env::args().skip(1);
    while let Some(argument) = arguments.next() {
        match argument.as_str() {
            "--save" => options.save = true,
            "--quick" => options.quick = true,
            "peers" => options.peers = true,
            "growth" => options.growth = true,
            // This program under callgrind.
            "--count" => match arguments.next().as_deref() {
                Some("growth") => return growth::counted(),
                _ => return counted(),
            },
            _ => {
                eprintln!("{USAGE}");
                std::process::exit(2);
            }
        }
    }
    let both = options.peers == options.growth;
    let docs = Path::new(env!("CARGO_MANIFEST_DIR")).join("../docs");
    let scratch = std::env::temp_dir().join(format!("quarry-peers-{}", std::process::id()));
    if options.peers || both {
        let rounds = if options.quick { 1 } else { ROUNDS };
        peers(rounds, options.save.then_some(&docs), &scratch);
    }
    if options.growth || both {
        if probe::can_count() {
            let (table, plot) = growth::measure(&scratch);
            println!("\n{table}");
            let text = format!("{GROWTH_HEADING}{table}");
            save(options.save.then_some(&docs), "growth.md", &text);
            save(options.save.then_some(&docs), "growth.svg", &plot);
        } else {
            eprintln!("valgrind is not there: growth is counted by it");
        }
    }
    let _ = std::fs::remove_dir_all(&scratch);
}

fn save(docs: Option<&PathBuf>, name: &str, text: &str) {
    if let Some(docs) = docs {
        std::fs::write(docs.join(name), text).expect("docs can be written");
        eprintln!("docs/{name} is written");
    }
}

/// How much each does: to be timed, or to be counted, which takes less.
fn size(slow: bool, counting: bool) -> Size {
    let ops = match (slow, counting) {
        (true, _) => 300,
        (false, true) => 4_000,
        (false, false) => 20_000,
    };
    Size { ops, live: if slow { 8192 } else { usize::MAX } }
}

/// Everything once, for callgrind.
fn counted() {
    for case in PAGES {
        let mut probe = Probe::Count(case.name);
        (case.single)(size(case.slow, true), &mut probe);
        if let Some(mixed) = case.mixed {
            mixed(size(false, true), &mut probe);
        }
    }
    for case in OBJECTS {
        let mut probe = Probe::Count(case.name);
        for (bytes, name) in SIZES {
            (case.run)(bytes, name, 4, &mut probe);
        }
    }
}

/// The tables and the plot of all allocators.
fn peers(rounds: usize, docs: Option<&PathBuf>, scratch: &Path) {
    let mut results = Results::default();
    for round in 0..rounds {
        eprintln!("round {} of {rounds}", round + 1);
        // Whoever comes first has the caches for itself: each in its turn.
        for i in 0..PAGES.len() {
            let case = &PAGES[(i + round) % PAGES.len()];
            let mut probe = Probe::Time(Vec::new());
            (case.single)(size(case.slow, false), &mut probe);
            if let Some(mixed) = case.mixed {
                mixed(size(false, false), &mut probe);
            }
            results.times(case.name, probe);
            results.time(case.name, "d", (case.threads)(400));
        }
        for i in 0..OBJECTS.len() {
            let case = &OBJECTS[(i + round) % OBJECTS.len()];
            let mut probe = Probe::Time(Vec::new());
            for (bytes, name) in SIZES {
                (case.run)(bytes, name, if case.slow { 4 } else { 20 }, &mut probe);
            }
            results.times(case.name, probe);
        }
    }
    if probe::can_count() {
        eprintln!("counting instructions");
        results.counts = probe::count(&["--count", "peers"], scratch);
    } else {
        eprintln!("valgrind is not there: no instructions are counted");
    }
    let tables = results.tables();
    println!("{tables}");
    save(docs, "peers.md", &format!("{HEADING}{tables}"));
    if !results.counts.is_empty() {
        save(docs, "peers.svg", &results.plot());
    }
}
