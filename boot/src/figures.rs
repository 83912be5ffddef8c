//! What the kernel measured: read from its log, shown beside Linux's figures
//! and the goals, kept in a file, and compared with what was kept. Pure.

use crate::options::{Accel, CmdLine, Disk, Firmware, Machine, Memory, RunOptions, Words};
use anyhow::{Result, bail};
use bench::Cost;
use bench::table::{ROWS, Row, find};
use std::collections::BTreeMap;
use std::fmt::{self, Write};

/// Percent by which a figure may grow over the baseline.
pub const TOLERANCE: u64 = 3;
/// Hundredths of a percent by which the blocks may grow that compaction does not
/// make: where the kernel lies in memory decides on one of some hundred.
const BLOCKS_SLACK: u64 = 100;

/// Seconds after which a run counts as hanging.
const LIMIT: u64 = 600;

/// The machine that is measured on: the one that Linux was measured on. One
/// instruction is one count of its clock; `rep` instructions that store or copy
/// bytes one at a time are not offered, for each round of theirs counts.
pub fn run_options(glob: &str) -> RunOptions {
    let words = ["-cpu", "max,-erms,-fsrm", "-icount", "shift=0,sleep=off"];
    RunOptions {
        firmware: Firmware::Bios,
        memory: Memory("1G".into()),
        nodes: 1,
        cpus: 1,
        append: Some(CmdLine(format!("selftest=off bench={glob}"))),
        exit: true,
        lab: Vec::new(),
        timeout: Some(LIMIT),
        log: None,
        qemu: Words(words.map(str::to_owned).to_vec()),
        accel: Accel::Tcg,
        machine: Machine::Pc,
        disk: Disk::Hd,
        drive: Vec::new(),
        image: None,
        no_serial: false,
        picture: None,
        checked: false,
        dry_run: false,
    }
}

/// Figures by name.
#[derive(Clone, PartialEq, Eq, Default, Debug)]
pub struct Figures(BTreeMap<String, Cost>);

impl Figures {
    /// Reads what the kernel wrote, `QUARRY-BENCH NAME COST` and how it ended.
    ///
    /// # Errors
    /// The counter did not count instructions, something failed, or the report
    /// is not complete.
    pub fn parse_log(log: &str) -> Result<Self> {
        let mut figures = BTreeMap::new();
        let (mut counted, mut ended) = (false, false);
        for line in log.lines() {
            let mut words = line.split_whitespace();
            match words.next() {
                Some("QUARRY-BENCH-LOOP") => {
                    let cost = words.next().and_then(Cost::parse);
                    // Two instructions, and a few around the loop.
                    counted = cost.is_some_and(|Cost(cost)| (200..=201).contains(&cost));
                }
                Some("QUARRY-BENCH") => {
                    let (name, cost) = (words.next(), words.next().and_then(Cost::parse));
                    let (Some(name), Some(cost)) = (name, cost) else {
                        bail!("the kernel wrote nonsense: {line}");
                    };
                    figures.insert(name.to_owned(), cost);
                }
                Some("QUARRY-BENCH-END") => {
                    if words.any(|word| word.starts_with("failed=") && word != "failed=0") {
                        bail!("an operation failed");
                    }
                    ended = true;
                }
                _ => {}
            }
        }
        if !ended || figures.is_empty() {
            bail!("the kernel did not finish its measurements");
        }
        if !counted {
            bail!("the clock of this machine does not count instructions");
        }
        Ok(Self(figures))
    }

    /// Reads what [`to_saved`](Self::to_saved) wrote.
    ///
    /// # Errors
    /// A line that is neither a figure nor a comment.
    pub fn parse_saved(text: &str) -> Result<Self> {
        let mut figures = BTreeMap::new();
        for line in text.lines().filter(|line| !line.is_empty() && !line.starts_with('#')) {
            let parsed = line
                .split_once(' ')
                .and_then(|(name, cost)| Some((name.to_owned(), Cost::parse(cost.trim())?)));
            let Some((name, cost)) = parsed else { bail!("no figure: {line}") };
            figures.insert(name, cost);
        }
        Ok(Self(figures))
    }

    /// The text of a baseline.
    pub fn to_saved(&self) -> String {
        let mut text = String::from(
            "# Instructions per operation, as `scripts/bench --save` counted them.\n\
             # `scripts/test` compares with these.\n",
        );
        for (name, cost) in &self.0 {
            let _ = writeln!(text, "{name} {cost}");
        }
        text
    }

    /// These, with those that were measured in place of the old ones; rows that
    /// there are no longer are dropped.
    #[must_use]
    pub fn updated(&self, measured: &Self) -> Self {
        let kept = self.0.iter().filter(|(name, _)| find(name).is_some());
        let all = kept.chain(&measured.0);
        Self(all.map(|(name, &cost)| (name.clone(), cost)).collect())
    }

    /// One of them.
    pub fn get(&self, name: &str) -> Option<f64> {
        self.0.get(name).map(|cost| cost.0 as f64 / 100.0)
    }

    /// How many.
    pub fn len(&self) -> usize {
        self.0.len()
    }

    /// Whether there are none.
    pub fn is_empty(&self) -> bool {
        self.0.is_empty()
    }

    /// A table for people, as Markdown: rows in the order of
    /// [`bench::table::ROWS`]; with `goals`, those that have a goal.
    pub fn table(&self, goals: bool) -> String {
        let mut lines = vec![
            ["operation", "Linux 6.12", "6.1", "must", "aim", "Quarry", "verdict"]
                .map(str::to_owned),
        ];
        for row in ROWS.iter().filter(|row| !goals || row.must.is_some()) {
            let Some(&cost) = self.0.get(row.name) else { continue };
            lines.push([
                row.what.to_owned(),
                number(row.linux_6_12),
                number(row.linux_6_1),
                number(row.must),
                number(row.aim),
                number(Some(cost.0 as f64 / 100.0)),
                verdict(row, cost),
            ]);
        }
        markdown(&lines)
    }
}

/// As people write it: a decimal below 100 unless it is a whole number, thousands
/// set apart.
pub(crate) fn number(number: Option<f64>) -> String {
    match number {
        None => String::new(),
        Some(x) if x.fract() == 0.0 => plot::whole(x),
        Some(x) => plot::number(x),
    }
}

/// What to say of a figure.
fn verdict(row: &Row, cost: Cost) -> String {
    let cost = cost.0 as f64 / 100.0;
    let over = |goal: f64| 100.0 * (cost / goal - 1.0);
    match (row.must, row.aim) {
        (_, Some(aim)) if cost <= aim => "aim".into(),
        (Some(must), Some(aim)) if cost <= must => format!("must (aim + {:.0} %)", over(aim)),
        (Some(must), _) => format!("missed by {:.0} %", over(must)),
        _ => match row.linux_6_12 {
            Some(linux) if cost > linux => format!("{:.1} x as many as 6.12", cost / linux),
            Some(linux) if cost > 0.0 => format!("{:.1} x fewer than 6.12", linux / cost),
            _ => String::new(),
        },
    }
}

/// Lines as a Markdown table that is readable as it stands. The first column is
/// text, the others are numbers, but for a last one called `verdict`.
pub(crate) fn markdown<const N: usize>(lines: &[[String; N]]) -> String {
    let width = |column: usize| {
        lines.iter().map(|line| line[column].chars().count()).max().unwrap_or(0).max(4)
    };
    let mut text = String::new();
    let is_text = |column: usize| column == 0 || lines[0][column] == "verdict";
    for (i, line) in lines.iter().enumerate() {
        for (column, cell) in line.iter().enumerate() {
            let width = width(column);
            let _ = if is_text(column) {
                write!(text, "| {cell:<width$} ")
            } else {
                write!(text, "| {cell:>width$} ")
            };
        }
        text.push_str("|\n");
        if i == 0 {
            for column in 0..N {
                let dashes = "-".repeat(width(column));
                let end = if is_text(column) { '-' } else { ':' };
                let _ = write!(text, "|-{dashes}{end}");
            }
            text.push_str("|\n");
        }
    }
    text
}

/// `text` with another table between the two lines that name the `command` which
/// writes it; None if it has no place for one.
pub fn replace_table(text: &str, command: &str, table: &str) -> Option<String> {
    let begins = format!("<!-- {command} begins -->\n");
    let ends = format!("<!-- {command} ends -->\n");
    let (before, rest) = text.split_once(&begins)?;
    let (_, after) = rest.split_once(&ends)?;
    Some(format!("{before}{begins}\n{table}\n{ends}{after}"))
}

/// Where measured figures differ from the baseline.
#[derive(Clone, PartialEq, Eq, Default, Debug)]
pub struct Comparison {
    compared: usize,
    grown: Vec<(String, Cost, Cost)>,
    fallen: Vec<(String, Cost, Cost)>,
    /// Measured, but not in the baseline.
    new: Vec<String>,
    /// In the baseline, but not measured.
    gone: Vec<String>,
}

/// Compares `measured` with what was `saved`. With `all`, everything that was
/// saved is to have been measured.
pub fn compare(saved: &Figures, measured: &Figures, all: bool) -> Comparison {
    let mut result = Comparison::default();
    for (name, &now) in &measured.0 {
        let Some(&before) = saved.0.get(name) else {
            result.new.push(name.clone());
            continue;
        };
        result.compared += 1;
        let entry = || (name.clone(), before, now);
        let slack = if name.ends_with("_lost") { BLOCKS_SLACK } else { 0 };
        if now.0 * 100 > before.0 * (100 + TOLERANCE) + slack * 100 {
            result.grown.push(entry());
        } else if now.0 * 100 < before.0 * (100 - TOLERANCE) {
            result.fallen.push(entry());
        }
    }
    if all {
        let gone = saved.0.keys().filter(|name| !measured.0.contains_key(*name));
        result.gone = gone.cloned().collect();
    }
    result
}

impl Comparison {
    /// Whether nothing has grown and there is nothing that cannot be compared.
    pub fn is_good(&self) -> bool {
        self.compared > 0 && self.grown.is_empty() && self.new.is_empty() && self.gone.is_empty()
    }
}

impl fmt::Display for Comparison {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for (word, list) in [("grown", &self.grown), ("fallen", &self.fallen)] {
            for (name, before, now) in list {
                let percent = 100.0 * (now.0 as f64 / before.0 as f64 - 1.0);
                writeln!(f, "{name} has {word} from {before} to {now} ({percent:+.1} %)")?;
            }
        }
        for name in &self.new {
            writeln!(f, "{name} is not in the baseline")?;
        }
        for name in &self.gone {
            writeln!(f, "{name} is in the baseline but was not measured")?;
        }
        let Self { compared, grown, .. } = self;
        writeln!(
            f,
            "{compared} figures compared, {} grown by more than {TOLERANCE} %",
            grown.len()
        )?;
        let renew = !(self.fallen.is_empty() && self.new.is_empty() && self.gone.is_empty());
        if renew || !grown.is_empty() {
            writeln!(f, "`scripts/bench --save` makes the new figures the baseline")?;
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const LOG: &str = "[    0.02] boot: benchmarks\r\n\
        QUARRY-BENCH-LOOP 2.00\r\n\
        QUARRY-BENCH pages.order0 200.00\r\n\
        QUARRY-BENCH slab.kmalloc64 97.50\r\n\
        # cma: this machine lacks a contiguous area\r\n\
        QUARRY-BENCH-END figures=2 failed=0\r\n";

    fn measured() -> Figures {
        Figures::parse_log(LOG).unwrap()
    }

    fn saved(text: &str) -> Figures {
        Figures::parse_saved(text).unwrap()
    }

    #[test]
    fn a_log_is_read() {
        let figures = measured();
        assert_eq!(figures.0["pages.order0"], Cost(20_000));
        assert_eq!(figures.0["slab.kmalloc64"], Cost(9_750));
        assert_eq!(figures.len(), 2);
    }

    #[test]
    fn what_is_no_complete_measurement_is_refused() {
        for (what, with) in [
            ("failed=0", "failed=1"),
            ("QUARRY-BENCH-END", "QUARRY"),
            ("LOOP 2.00", "LOOP 4.02"),
            ("QUARRY-BENCH-LOOP", "# LOOP"),
            ("order0 200.00", "order0 many"),
        ] {
            assert!(Figures::parse_log(&LOG.replace(what, with)).is_err(), "{with}");
        }
        assert!(Figures::parse_log("").is_err());
    }

    #[test]
    fn a_saved_file_is_read_back_and_updated() {
        let old = saved("# x\n\npages.order0 250.00\npages.order3 300.00\nno.row 1.00\n");
        let new = old.updated(&measured());
        assert_eq!(new, saved("pages.order0 200.00\npages.order3 300.00\nslab.kmalloc64 97.50"));
        assert_eq!(saved(&new.to_saved()), new);
        assert!(Figures::parse_saved("pages.order0").is_err());
        assert!(Figures::parse_saved("pages.order0 1").is_err());
    }

    #[test]
    fn a_doctored_baseline_fails() {
        // 3 % more than these would be a little less than what was measured.
        for doctored in ["pages.order0 194.17", "pages.order0 1.00", "pages.order0 0.00"] {
            let saved = saved(&format!("{doctored}\nslab.kmalloc64 97.50"));
            let comparison = compare(&saved, &measured(), true);
            assert!(!comparison.is_good(), "{doctored}");
            assert!(comparison.to_string().contains("pages.order0 has grown"), "{doctored}");
        }
    }

    #[test]
    fn within_three_percent_is_good() {
        for text in ["pages.order0 194.18", "pages.order0 200.00", "pages.order0 206.18"] {
            let comparison =
                compare(&saved(&format!("{text}\nslab.kmalloc64 97.50")), &measured(), true);
            assert!(comparison.is_good(), "{text}");
            assert!(comparison.fallen.is_empty(), "{text}");
        }
    }

    #[test]
    fn what_fell_is_told_but_no_failure() {
        let comparison =
            compare(&saved("pages.order0 207.00\nslab.kmalloc64 97.50"), &measured(), true);
        assert!(comparison.is_good());
        assert!(comparison.to_string().contains("pages.order0 has fallen from 207.00 to 200.00"));
    }

    #[test]
    fn rows_must_be_the_same() {
        assert!(!compare(&saved("pages.order0 200.00"), &measured(), true).is_good());
        let more = saved("pages.order0 200.00\nslab.kmalloc64 97.50\npages.order1 1.00");
        assert!(!compare(&more, &measured(), true).is_good());
        assert!(compare(&more, &measured(), false).is_good());
        assert!(!compare(&more, &Figures::default(), false).is_good());
    }

    #[test]
    fn the_table_has_linux_beside() {
        let table = measured().table(true);
        let line = table.lines().find(|line| line.contains("order 0, alloc")).unwrap();
        let cells: Vec<_> = line.split('|').map(str::trim).collect();
        assert_eq!(cells[2..8], ["628", "544", "200", "120", "200", "must (aim + 67 %)"]);
        let line = table.lines().find(|line| line.contains("kmalloc")).unwrap();
        assert!(line.contains("missed by 3 %"), "{line}");
        assert_eq!(number(Some(196_000.0)), "196,000");
        assert_eq!(number(Some(97.5)), "97.5");
        assert_eq!(number(Some(39.0)), "39");
    }

    #[test]
    fn a_text_gets_another_table() {
        const COMMAND: &str = "make table";
        let text = "a\n<!-- make table begins -->\nold\n<!-- make table ends -->\nb\n";
        let new = replace_table(text, COMMAND, "| x |\n").unwrap();
        assert_eq!(new, text.replace("old\n", "\n| x |\n\n"));
        assert_eq!(replace_table(text, "make", "| x |\n"), None);
        assert_eq!(replace_table(&new, COMMAND, "| x |\n").unwrap(), new);
        assert_eq!(replace_table("no table", COMMAND, "| x |\n"), None);
    }

    #[test]
    fn the_machine_counts_instructions() {
        let options = run_options("pages.*");
        assert_eq!(options.cmdline().unwrap(), "selftest=off bench=pages.* exit");
        assert!(options.qemu.0.contains(&"shift=0,sleep=off".to_owned()));
    }
}
