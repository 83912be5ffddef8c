//! Curves over time, with moments named above them. Pure.

use crate::{COLOURS, Drawing, FAINT, INK, fill, steps};
use std::cmp::Ordering;
use std::fmt::Write;

/// What one quantity was, over time.
pub struct Curve {
    /// What it is.
    pub name: String,
    /// Times (seconds) and values, in order of time.
    pub points: Vec<(f64, f64)>,
}

/// Something that happened.
pub struct Moment {
    /// When (seconds).
    pub at: f64,
    /// What, in a few words.
    pub name: String,
}

const WIDTH: f64 = 920.0;
const LEFT: f64 = 70.0;
const RIGHT: f64 = WIDTH - 24.0;
const PLOT: f64 = 260.0;
/// Height of a row of names of moments.
const ROW: f64 = 15.0;
/// Width of a letter of theirs, on the safe side.
const LETTER: f64 = 6.4;

/// Curves from zero on both axes, over the time (seconds) that they take
/// together. `unit` says what the vertical axis is.
pub fn curves(title: &str, unit: &str, curves: &[Curve], moments: &[Moment]) -> String {
    let all = || curves.iter().flat_map(|curve| &curve.points);
    let end = moments.iter().map(|moment| moment.at).chain(all().map(|point| point.0));
    let end = end.fold(1.0, f64::max);
    let most = all().fold(1.0, |most: f64, point| most.max(point.1));
    let (across, up) = (steps(end, 12.0), steps(most, 8.0));
    let across_scale = (RIGHT - LEFT) / end;
    let up_scale = PLOT / ((most / up).ceil() * up);
    let x = |at: f64| LEFT + at * across_scale;

    let places = rows(moments, x);
    let heads = places.iter().map(|place| place.1 + 1).max().unwrap_or(0) as f64 * ROW;
    let top = 64.0 + heads + 8.0;
    let bottom = top + PLOT;
    let mut drawing = Drawing::new(WIDTH, bottom + 66.0, title);
    let bold = format!("font-weight=\"bold\" {}", fill(INK));
    drawing.text(20.0, 28.0, 16, "start", &bold, title);
    drawing.text(20.0, 47.0, 12, "start", &fill(INK), unit);

    let mut value = 0.0;
    while value * up_scale <= PLOT + 0.1 {
        let y = bottom - value * up_scale;
        drawing.line((LEFT, y), (RIGHT, y), FAINT);
        drawing.text(LEFT - 6.0, y + 4.0, 11, "end", &fill(INK), &format!("{value:.0}"));
        value += up;
    }
    let mut time = 0.0;
    while time <= end + 1e-9 {
        drawing.line((x(time), bottom), (x(time), bottom + 4.0), INK);
        drawing.text(x(time), bottom + 18.0, 11, "middle", &fill(INK), &format!("{time:.0} s"));
        time += across;
    }
    for (moment, (left, row)) in moments.iter().zip(places) {
        let y = 64.0 + (row as f64 + 1.0) * ROW;
        let at = x(moment.at);
        let _ = writeln!(
            drawing.0,
            "<line x1=\"{at:.1}\" y1=\"{:.1}\" x2=\"{at:.1}\" y2=\"{bottom:.1}\" \
             stroke=\"{INK}\" stroke-dasharray=\"2 3\"/>",
            y - 9.0
        );
        drawing.text(left, y, 11, "start", &fill(INK), &moment.name);
    }
    for (i, (curve, colour)) in curves.iter().zip(COLOURS.iter().cycle()).enumerate() {
        let points: Vec<String> = curve
            .points
            .iter()
            .map(|&(at, value)| format!("{:.1},{:.1}", x(at), bottom - value * up_scale))
            .collect();
        let _ = writeln!(
            drawing.0,
            "<polyline points=\"{}\" fill=\"none\" stroke=\"{colour}\" stroke-width=\"2\"/>",
            points.join(" ")
        );
        let (left, y) = (LEFT + i as f64 * (RIGHT - LEFT) / 3.0, bottom + 46.0);
        drawing.rectangle((left, y - 6.0), (18.0, 4.0), &fill(colour), None);
        drawing.text(left + 24.0, y, 12, "start", &fill(INK), &curve.name);
    }
    drawing.end()
}

/// For the name of each moment its left end and its row: beside its line, on no
/// other name, and crossed by no line that goes down from a name in a row above.
/// A name that would leave the picture ends at its line.
fn rows(moments: &[Moment], x: impl Fn(f64) -> f64) -> Vec<(f64, usize)> {
    // From where to where a name is, its line, its row.
    let mut taken: Vec<((f64, f64), f64, usize)> = Vec::new();
    let mut place = |moment: &Moment| {
        let (at, long) = (x(moment.at), moment.name.chars().count() as f64 * LETTER);
        let left = if at + 4.0 + long > WIDTH - 4.0 { at - 4.0 - long } else { at + 4.0 };
        let span = (left.min(at) - 3.0, (left + long).max(at) + 3.0);
        let within = |at: f64, span: (f64, f64)| span.0 < at && at < span.1;
        let free = |row: &usize| {
            taken.iter().all(|&(other, line, its)| match its.cmp(row) {
                Ordering::Less => !within(line, span),
                Ordering::Equal => span.1 <= other.0 || other.1 <= span.0,
                Ordering::Greater => !within(at, other),
            })
        };
        let below = taken.iter().map(|name| name.2 + 1).max().unwrap_or(0);
        let row = (0..below).find(free).unwrap_or(below);
        taken.push((span, at, row));
        (left, row)
    };
    moments.iter().map(&mut place).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn moment(at: f64, name: &str) -> Moment {
        Moment { at, name: name.into() }
    }

    #[test]
    fn names_never_lie_on_each_other() {
        let moments = [
            moment(0.0, "one that is long"),
            moment(10.0, "two"),
            moment(30.0, "three"),
            moment(400.0, "four"),
            moment(890.0, "at the end"),
        ];
        let places = rows(&moments, |at| at);
        assert_eq!(places.iter().map(|place| place.1).collect::<Vec<_>>(), [0, 1, 2, 0, 0]);
        assert!(places[4].0 < 890.0, "it would leave the picture");
    }

    #[test]
    fn the_highest_point_is_within_and_the_lowest_at_zero() {
        let curve = Curve { name: "a<b".into(), points: vec![(0.0, 0.0), (20.0, 1000.0)] };
        let text = curves("t", "MiB", &[curve], &[moment(5.0, "now")]);
        // No row of names but one: the plot begins 87 below the top.
        assert!(text.contains("points=\"70.0,347.0 896.0,87.0\""), "{text}");
        assert!(text.contains(">1000<") && text.contains(">20 s<") && text.contains("a&lt;b"));
    }

    #[test]
    fn nothing_at_all_is_a_picture_too() {
        let text = curves("t", "u", &[], &[]);
        assert!(text.ends_with("</svg>\n") && !text.contains("NaN") && !text.contains("inf"));
    }
}
