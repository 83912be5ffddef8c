//! The host's figures as a table. Pure.

use super::Kib;
use crate::figures;
use std::time::Duration;

/// What one way of giving back did.
#[derive(Clone, Debug)]
pub(super) struct Row {
    /// The way, and of what to what.
    pub way: String,
    /// Resident before anything was touched.
    pub before: Kib,
    /// Resident when it was given back.
    pub during: Kib,
    /// Resident when no more came.
    pub after: Kib,
    /// How long after that the resident size fell for the first time.
    pub first: Option<Duration>,
    /// How long it took until (nearly) all was back.
    pub all: Option<Duration>,
}

impl Row {
    /// Seconds for each GiB that was given back.
    fn per_gib(&self) -> Option<f64> {
        let gib = self.during.0.saturating_sub(self.after.0) as f64 / f64::from(1 << 20);
        (gib > 0.0).then_some(self.all?.as_secs_f64() / gib)
    }

    fn cells(&self) -> [String; 7] {
        let mib = |size: Kib| format!("{:.0}", size.mib());
        let seconds = |time: Option<f64>| time.map_or("-".into(), |s| format!("{s:.1}"));
        [
            self.way.clone(),
            mib(self.before),
            mib(self.during),
            mib(self.after),
            seconds(self.first.map(|time| time.as_secs_f64())),
            seconds(self.all.map(|time| time.as_secs_f64())),
            seconds(self.per_gib()),
        ]
    }
}

/// Linux 6.12 in the same QEMU, measured by hand: with page reporting after 700 MiB
/// had been touched, all of QEMU's resident size, looked at 1.8, 3.8 and 5.8 s after
/// the free; and an unplug by virtio-mem of memory that nobody had touched.
const LINUX: [[&str; 7]; 2] = [
    ["Linux: page reporting, all of QEMU", "131", "831", "193", "< 1.8", "5.8", "9.3"],
    ["Linux: virtio-mem, 2 to 1.25 GiB, untouched", "-", "-", "-", "-", "< 1", "-"],
];

/// A time that may never have come, in words.
pub(super) fn after(time: Option<Duration>) -> String {
    time.map_or("never".into(), |time| format!("after {:.1} s", time.as_secs_f64()))
}

/// Rows as Markdown, Linux's after them.
pub(super) fn markdown(rows: &[Row]) -> String {
    let heads = [
        "given back by",
        "before, MiB",
        "during, MiB",
        "after, MiB",
        "first, s",
        "all, s",
        "s per GiB",
    ];
    let linux = LINUX.map(|cells| cells.map(str::to_owned));
    let lines: Vec<[String; 7]> = std::iter::once(heads.map(str::to_owned))
        .chain(rows.iter().map(Row::cells))
        .chain(linux)
        .collect();
    figures::markdown(&lines)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn time_is_for_what_was_given_back() {
        let row = Row {
            way: "w".into(),
            before: Kib::of_mib(131),
            during: Kib::of_mib(831),
            after: Kib::of_mib(193),
            first: None,
            all: Some(Duration::from_millis(5800)),
        };
        assert_eq!(row.cells(), ["w", "131", "831", "193", "-", "5.8", "9.3"]);
        let nothing = Row { after: Kib::of_mib(900), ..row };
        assert_eq!(nothing.cells()[6], "-");
        assert!(markdown(&[nothing]).lines().count() == 5);
    }
}
