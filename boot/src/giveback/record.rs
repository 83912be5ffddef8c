//! What was seen of a run over time: as CSV and as a picture. Pure.

use super::Kib;
use super::meter::Sample;
use plot::{Curve, Moment, curves};
use std::fmt::Write;
use std::time::{Duration, Instant};

/// What was seen of a run.
#[derive(Clone, Debug)]
pub(super) struct Record {
    /// Where its time begins.
    pub start: Instant,
    /// What the host saw, in order of time.
    pub resident: Vec<Sample>,
    /// What the guest said that it has free, in order of time.
    pub free: Vec<(Instant, Kib)>,
    /// What was done when.
    pub moments: Vec<(Instant, String)>,
}

impl Record {
    /// An empty one that begins now.
    pub(super) fn new() -> Self {
        let start = Instant::now();
        Self { start, resident: Vec::new(), free: Vec::new(), moments: Vec::new() }
    }

    fn seconds(&self, at: Instant) -> f64 {
        at.saturating_duration_since(self.start).as_secs_f64()
    }

    /// The resident size `after` a moment: the last that was seen by then.
    pub(super) fn resident_at(&self, moment: Instant, after: Duration) -> Option<Kib> {
        let before = self.resident.iter().take_while(|sample| sample.at <= moment + after);
        before.last().map(|sample| sample.resident)
    }

    /// How long after a moment the resident size was `limit` or less for the first
    /// time.
    pub(super) fn falls_to(&self, moment: Instant, limit: Kib) -> Option<Duration> {
        let mut later = self.resident.iter().filter(|sample| sample.at >= moment);
        let sample = later.find(|sample| sample.resident <= limit)?;
        Some(sample.at - moment)
    }

    /// The lowest resident size since a moment.
    pub(super) fn lowest_since(&self, moment: Instant) -> Option<Kib> {
        let later = self.resident.iter().filter(|sample| sample.at >= moment);
        later.map(|sample| sample.resident).min()
    }

    /// Everything, a line for each time: what was not looked at then is empty.
    pub(super) fn csv(&self) -> String {
        let host = self
            .resident
            .iter()
            .map(|sample| (sample.at, format!("{},{},,", sample.resident.0, sample.huge.0)));
        let guest = self.free.iter().map(|&(at, free)| (at, format!(",,{},", free.0)));
        let quoted = |text: &str| format!(",,,\"{}\"", text.replace('"', "\"\""));
        let moments = self.moments.iter().map(|(at, what)| (*at, quoted(what)));
        let mut lines: Vec<(Instant, String)> = host.chain(guest).chain(moments).collect();
        lines.sort_by_key(|line| line.0);
        let mut text =
            "seconds,resident_kib,resident_in_huge_pages_kib,guest_free_kib,moment\n".to_owned();
        for (at, line) in lines {
            let _ = writeln!(text, "{:.3},{line}", self.seconds(at));
        }
        text
    }

    /// Both curves over time.
    pub(super) fn svg(&self, title: &str) -> String {
        let resident = self.resident.iter().map(|s| (self.seconds(s.at), s.resident.mib()));
        let free = self.free.iter().map(|&(at, free)| (self.seconds(at), free.mib()));
        let curve = |name: &str, points| Curve { name: name.into(), points: thinned(points) };
        let both = [
            curve("host: resident of guest RAM", resident.collect()),
            curve("guest: free", free.collect()),
        ];
        let moments: Vec<Moment> = self
            .moments
            .iter()
            .map(|(at, name)| Moment { at: self.seconds(*at), name: name.clone() })
            .collect();
        curves(title, "MiB, over the host's time", &both, &moments)
    }
}

/// Points of a line without those between two equal ones.
fn thinned(points: Vec<(f64, f64)>) -> Vec<(f64, f64)> {
    let inner = |at: usize| {
        let around =
            at.checked_sub(1).and_then(|last| Some((points.get(last)?, points.get(at + 1)?)));
        around.is_some_and(|(last, next)| last.1 == points[at].1 && next.1 == points[at].1)
    };
    (0..points.len()).filter(|&at| !inner(at)).map(|at| points[at]).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn record(resident: &[(u64, u64)]) -> Record {
        let mut record = Record::new();
        let at = |ms| record.start + Duration::from_millis(ms);
        let sample = |&(ms, kib)| Sample { at: at(ms), resident: Kib(kib), huge: Kib(0) };
        record.resident = resident.iter().map(sample).collect();
        record
    }

    #[test]
    fn falls_are_timed_from_a_moment_on() {
        let record = record(&[(0, 10), (100, 800), (1000, 800), (2500, 400), (4500, 20)]);
        let free = record.start + Duration::from_millis(500);
        assert_eq!(record.falls_to(free, Kib(799)), Some(Duration::from_millis(2000)));
        assert_eq!(record.falls_to(free, Kib(20)), Some(Duration::from_millis(4000)));
        assert_eq!(record.falls_to(free, Kib(10)), None);
        assert_eq!(record.resident_at(free, Duration::from_millis(1800)), Some(Kib(800)));
        assert_eq!(record.resident_at(free, Duration::from_millis(2000)), Some(Kib(400)));
        assert_eq!(record.lowest_since(free), Some(Kib(20)));
    }

    #[test]
    fn lines_are_in_order_of_time() {
        let mut record = record(&[(0, 10), (200, 30)]);
        record.free.push((record.start + Duration::from_millis(100), Kib(7)));
        record.moments.push((record.start + Duration::from_millis(150), "say \"x\"".into()));
        let lines: Vec<_> = record.csv().lines().skip(1).map(str::to_owned).collect();
        assert_eq!(
            lines,
            ["0.000,10,0,,", "0.100,,,7,", "0.150,,,,\"say \"\"x\"\"\"", "0.200,30,0,,"]
        );
        assert!(record.svg("t").contains("guest: free"));
    }

    #[test]
    fn a_level_line_has_two_points() {
        let points = vec![(0.0, 1.0), (1.0, 1.0), (2.0, 1.0), (3.0, 5.0), (4.0, 1.0)];
        assert_eq!(thinned(points), [(0.0, 1.0), (2.0, 1.0), (3.0, 5.0), (4.0, 1.0)]);
        assert!(thinned(Vec::new()).is_empty());
    }
}
