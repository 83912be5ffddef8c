//! The same operations on machine after machine: how their costs depend on its
//! memory, processors and nodes. Pure.

use crate::figures::{Figures, markdown, number, run_options};
use crate::options::{Memory, RunOptions};
use plot::{Lines, lines};

/// A machine to measure on.
#[derive(Clone, Copy, Debug)]
pub struct Machine {
    /// As plots and tables call it.
    pub label: &'static str,
    memory: &'static str,
    cpus: u16,
    nodes: u16,
}

const fn machine(label: &'static str, memory: &'static str, cpus: u16, nodes: u16) -> Machine {
    Machine { label, memory, cpus, nodes }
}

/// All machines, panel by panel.
pub const MACHINES: [Machine; 11] = [
    machine("64 MiB", "64M", 1, 1),
    machine("1 GiB", "1G", 1, 1),
    machine("16 GiB", "16G", 1, 1),
    machine("64 GiB", "64G", 1, 1),
    machine("1 CPU", "1G", 1, 1),
    machine("2 CPUs", "2G", 2, 1),
    machine("4 CPUs", "4G", 4, 1),
    machine("1 node", "1G", 1, 1),
    machine("2 nodes", "2G", 2, 2),
    machine("4 nodes", "4G", 4, 4),
    machine("8 nodes", "8G", 8, 8),
];

/// The panels: title, and how many of the machines.
const PANELS: [(&str, usize); 3] =
    [("Memory", 4), ("CPUs (1 GiB each)", 3), ("Nodes (1 CPU, 1 GiB each)", 4)];

/// What is shown: its name, and the rows whose sum it is.
const SERIES: [(&str, &[&str]); 6] = [
    ("order 0, alloc + free", &["pages.order0"]),
    ("order 9, alloc + free", &["pages.order9"]),
    ("order 10, alloc + free", &["pages.order10"]),
    ("4096 pages, alloc + free, each", &["pages.batch4096_alloc", "pages.batch4096_free"]),
    ("kmalloc + kfree 64 B", &["slab.kmalloc64"]),
    ("1000 objects of 64 B, each", &["slab.batch1000_alloc", "slab.batch1000_free"]),
];

impl Machine {
    /// How it is run.
    pub fn run_options(&self) -> RunOptions {
        let rows: Vec<&str> = SERIES.iter().flat_map(|series| series.1).copied().collect();
        let mut options = run_options(&rows.join(","));
        options.memory = Memory(self.memory.to_owned());
        options.cpus = self.cpus;
        options.nodes = self.nodes;
        options
    }
}

/// A series' value on one machine.
fn value(figures: &Figures, rows: &[&str]) -> Option<f64> {
    rows.iter().map(|row| figures.get(row)).sum()
}

/// The figures of [`MACHINES`] as Markdown.
pub fn table(measured: &[Figures]) -> String {
    const COLUMNS: usize = MACHINES.len() + 1;
    let cells = |first: &str, others: Vec<String>| -> [String; COLUMNS] {
        let mut others = others.into_iter();
        std::array::from_fn(|i| {
            if i == 0 { first.to_owned() } else { others.next().unwrap_or_default() }
        })
    };
    let mut lines =
        vec![cells("operation", MACHINES.map(|machine| machine.label.to_owned()).to_vec())];
    for (name, rows) in SERIES {
        let values = measured.iter().map(|figures| number(value(figures, rows)));
        lines.push(cells(name, values.collect()));
    }
    markdown(&lines)
}

/// The figures of [`MACHINES`] as a plot.
pub fn plot(measured: &[Figures]) -> String {
    let mut at = 0;
    let panels: Vec<Lines> = PANELS
        .iter()
        .map(|&(title, count)| {
            let places = MACHINES[at..at + count].iter().map(|machine| machine.label.to_owned());
            let figures = measured.get(at..at + count).unwrap_or_default();
            at += count;
            let series = SERIES.iter().map(|(name, rows)| {
                let values = figures.iter().map(|figures| value(figures, rows).unwrap_or(0.0));
                ((*name).to_owned(), values.collect())
            });
            Lines { title: title.to_owned(), places: places.collect(), series: series.collect() }
        })
        .collect();
    let unit = "instructions per operation, counted in the kernel under -icount";
    lines("Cost of an operation on growing machines, in the kernel", unit, &panels)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_panels_hold_all_machines() {
        assert_eq!(PANELS.iter().map(|panel| panel.1).sum::<usize>(), MACHINES.len());
        for (_, rows) in SERIES {
            assert!(rows.iter().all(|row| bench::table::find(row).is_some()), "{rows:?}");
        }
    }

    #[test]
    fn sums_and_gaps() {
        let figures =
            Figures::parse_saved("pages.order0 12.00\nslab.batch1000_alloc 1.00").unwrap();
        assert_eq!(value(&figures, &["pages.order0"]), Some(12.0));
        assert_eq!(value(&figures, SERIES[5].1), None, "half of it is missing");
        let measured = vec![figures; MACHINES.len()];
        assert!(table(&measured).lines().nth(2).unwrap().contains(" 12 |"));
        assert!(plot(&measured).contains("64 GiB"));
    }
}
