//! The figures of all allocators as tables and as a plot.

use crate::cases::{OBJECTS, PAGES, SIZES, TRAITS};
use crate::probe::Probe;
use plot::{Bars, bars, number};
use std::collections::BTreeMap;
use std::fmt::Write;

/// `llfree` is not on the registry and cannot take part: figures that were
/// measured earlier on another machine (2 vCPUs of a Xeon), with the same
/// workloads, `b` and `d` with its own two locals. Instructions, nanoseconds.
const LLFREE: [(&str, f64, f64); 5] = [
    ("a", 452.0, 64.0),
    ("a2", 507.0, 76.6),
    ("b", 515.0, 68.2),
    ("c", 360.0, 64.2),
    ("d", 0.0, 107.0),
];

/// What was measured, by `allocator|window`.
#[derive(Default)]
pub struct Results {
    times: BTreeMap<String, Vec<f64>>,
    /// Instructions per operation.
    pub counts: BTreeMap<String, f64>,
}

impl Results {
    /// Takes one time in.
    pub fn time(&mut self, allocator: &str, window: &str, nanoseconds: f64) {
        self.times.entry(format!("{allocator}|{window}")).or_default().push(nanoseconds);
    }

    /// Takes in what a probe has timed.
    pub fn times(&mut self, allocator: &str, probe: Probe) {
        if let Probe::Time(times) = probe {
            for (window, nanoseconds) in times {
                self.time(allocator, window, nanoseconds);
            }
        }
    }

    /// The median time of a window; `b` is the sum of its two.
    fn median(&self, allocator: &str, window: &str) -> Option<f64> {
        if window == "b" {
            return Some(self.median(allocator, "b alloc")? + self.median(allocator, "b free")?);
        }
        let mut times = self.times.get(&format!("{allocator}|{window}"))?.clone();
        times.sort_by(f64::total_cmp);
        times.get(times.len() / 2).copied()
    }

    /// The instructions of a window; `b` is the sum of its two.
    fn count(&self, allocator: &str, window: &str) -> Option<f64> {
        if window == "b" {
            return Some(self.count(allocator, "b alloc")? + self.count(allocator, "b free")?);
        }
        self.counts.get(&format!("{allocator}|{window}")).copied()
    }

    /// `instructions (nanoseconds)`.
    fn cell(&self, allocator: &str, window: &str) -> String {
        match (self.count(allocator, window), self.median(allocator, window)) {
            (Some(count), Some(time)) => format!("{} ({})", number(count), number(time)),
            (None, Some(time)) => format!("({})", number(time)),
            _ => "-".to_owned(),
        }
    }

    /// Tables as Markdown: pages, objects, and what each is.
    pub fn tables(&self) -> String {
        format!("{}\n{}\n{}", self.pages(), self.objects(), traits())
    }

    /// The table of pages.
    pub fn pages(&self) -> String {
        let mut text = String::from(
            "Pages: instructions, and (nanoseconds), of an operation.\n\n\
             | allocator | a: pair | a2: aged | b: fill, free | c: mixed | d: 2 threads |\n\
             |---|---:|---:|---:|---:|---:|\n",
        );
        for case in PAGES {
            let cells = ["a", "a2", "b", "c", "d"].map(|window| self.cell(case.name, window));
            let _ = writeln!(text, "| {} | {} |", case.name, cells.join(" | "));
        }
        let cells = LLFREE.map(|(_, count, time)| {
            if count > 0.0 {
                format!("*{} ({})*", number(count), number(time))
            } else {
                format!("*({})*", number(time))
            }
        });
        let _ = writeln!(text, "| *llfree, documented, another machine* | {} |", cells.join(" | "));
        text
    }

    fn objects(&self) -> String {
        let mut text = String::from(
            "Objects: instructions, and (nanoseconds), of alloc + free.\n\n\
             | allocator | 64 B | 256 B | 1 KiB |\n|---|---:|---:|---:|\n",
        );
        for case in OBJECTS {
            let cells = SIZES.map(|(_, window)| self.cell(case.name, window));
            let _ = writeln!(text, "| {} | {} |", case.name, cells.join(" | "));
        }
        text
    }

    /// The instructions as bars, the least first.
    pub fn plot(&self) -> String {
        let llfree = |window: &str| {
            LLFREE.iter().find(|figure| figure.0 == window && figure.1 > 0.0).map(|figure| figure.1)
        };
        let pages = [
            ("a", "a: one page, alloc + free"),
            ("a2", "a2: free one + alloc one, aged pool"),
            ("b", "b: fill, then free at random"),
            ("c", "c: orders 0 to 9 mixed"),
        ];
        let mut panels: Vec<Bars> = pages
            .map(|(window, title)| {
                let of = |name: &str| Some((name.to_owned(), self.count(name, window)?));
                let mut values: Vec<_> = PAGES.iter().filter_map(|case| of(case.name)).collect();
                values.extend(llfree(window).map(|count| ("llfree (documented)".into(), count)));
                Bars { title: title.to_owned(), values }
            })
            .into();
        for (_, window) in [SIZES[0], SIZES[2]] {
            let of = |name: &str| Some((name.to_owned(), self.count(name, window)?));
            panels.push(Bars {
                title: format!("1000 objects of {window}, freed at random"),
                values: OBJECTS.iter().filter_map(|case| of(case.name)).collect(),
            });
        }
        for panel in &mut panels {
            panel.values.sort_by(|one, other| one.1.total_cmp(&other.1));
        }
        let unit = "instructions per operation, counted by callgrind; logarithmic, fewer is better";
        bars("Quarry beside other allocators", unit, &panels)
    }
}

/// The table of what each is.
fn traits() -> String {
    let mut text = format!("What they are:\n\n| allocator | {} |\n|---", TRAITS.join(" | "));
    text.push_str(&"|---".repeat(TRAITS.len()));
    text.push_str("|\n");
    for case in PAGES {
        let _ = writeln!(text, "| {} | {} |", case.name, case.traits.join(" | "));
    }
    text.push_str(
        "| *llfree* | apart, some bits a page | any | lock-free | noticed | mobility and counters |\n",
    );
    text
}
