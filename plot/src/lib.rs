//! Plots as SVG: panels of bars on a logarithmic scale, panels of lines from
//! zero, curves over time ([`curves`]); and what other drawings are made of. Plain
//! text, sizes known beforehand, so that nothing overlaps.

mod curves;

pub use curves::{Curve, Moment, curves};

use std::fmt::Write;

/// Bars: a panel's title, and its values by name, in the order of drawing.
pub struct Bars {
    /// What is shown.
    pub title: String,
    /// Names and values.
    pub values: Vec<(String, f64)>,
}

/// Lines: a panel's title, what stands below it, and its series.
pub struct Lines {
    /// What is shown.
    pub title: String,
    /// Names of the places on the horizontal axis.
    pub places: Vec<String>,
    /// Name, and a value for each place.
    pub series: Vec<(String, Vec<f64>)>,
}

const FONT: &str = "font-family=\"DejaVu Sans, Verdana, sans-serif\"";
/// Colour of text.
pub const INK: &str = "#24292f";
/// Colour of lines that only guide the eye.
pub const FAINT: &str = "#d0d7de";
const OURS: &str = "#c0392b";
const THEIRS: &str = "#7f9db9";
const COLOURS: [&str; 6] = ["#c0392b", "#2471a3", "#1e8449", "#b9770e", "#6c3483", "#566573"];

/// A drawing that grows.
pub struct Drawing(String);

impl Drawing {
    /// An empty one on white, of that size in pixels; with that title, which is
    /// not shown but told.
    pub fn new(width: f64, height: f64, title: &str) -> Self {
        let mut text = String::new();
        let _ = writeln!(
            text,
            "<svg xmlns=\"http://www.w3.org/2000/svg\" width=\"{width}\" height=\"{height}\" \
             viewBox=\"0 0 {width} {height}\" {FONT}>\n<title>{}</title>\n\
             <rect width=\"{width}\" height=\"{height}\" fill=\"#ffffff\"/>",
            escape(title)
        );
        Self(text)
    }

    /// Text at a place: `anchor` is start, middle or end, `style` further
    /// attributes.
    pub fn text(&mut self, x: f64, y: f64, size: u32, anchor: &str, style: &str, text: &str) {
        let _ = writeln!(
            self.0,
            "<text x=\"{x:.1}\" y=\"{y:.1}\" font-size=\"{size}\" text-anchor=\"{anchor}\" {style}>{}</text>",
            escape(text)
        );
    }

    /// A thin line.
    pub fn line(&mut self, from: (f64, f64), to: (f64, f64), colour: &str) {
        let _ = writeln!(
            self.0,
            "<line x1=\"{:.1}\" y1=\"{:.1}\" x2=\"{:.1}\" y2=\"{:.1}\" stroke=\"{colour}\"/>",
            from.0, from.1, to.0, to.1
        );
    }

    /// A rectangle with its upper left corner there, of that width and height;
    /// `style` are further attributes. A `hint` is shown when one points at it.
    pub fn rectangle(&mut self, at: (f64, f64), size: (f64, f64), style: &str, hint: Option<&str>) {
        let [x, y, w, h] = [at.0, at.1, size.0, size.1].map(short);
        let _ = write!(self.0, "<rect x=\"{x}\" y=\"{y}\" width=\"{w}\" height=\"{h}\" {style}");
        let _ = match hint {
            Some(hint) => writeln!(self.0, "><title>{}</title></rect>", escape(hint)),
            None => writeln!(self.0, "/>"),
        };
    }

    /// All of it.
    pub fn end(mut self) -> String {
        self.0.push_str("</svg>\n");
        self.0
    }
}

fn escape(text: &str) -> String {
    // XML has no place at all for these.
    let text = text.replace(|c: char| c.is_control() || matches!(c, '\u{fffe}' | '\u{ffff}'), " ");
    text.replace('&', "&amp;").replace('<', "&lt;").replace('>', "&gt;")
}

/// A length without needless digits.
fn short(length: f64) -> String {
    let text = format!("{length:.1}");
    text.strip_suffix(".0").map_or(text.clone(), str::to_owned)
}

/// The attribute that fills with a colour.
pub fn fill(colour: &str) -> String {
    format!("fill=\"{colour}\"")
}

/// A round step of an axis that goes up to `most`, so that there are no more than
/// `count` of them.
fn steps(most: f64, count: f64) -> f64 {
    let decades = (0..9).map(|exponent| 10_f64.powi(exponent));
    let mut steps = decades.flat_map(|decade| [1.0, 2.0, 5.0].map(|step| step * decade));
    steps.find(|step| most / step <= count).unwrap_or(most / count)
}

/// A number as people write it: a decimal below 100, thousands set apart.
pub fn number(value: f64) -> String {
    if value < 99.95 { format!("{value:.1}") } else { whole(value) }
}

/// A number rounded to a whole one, thousands set apart.
pub fn whole(value: f64) -> String {
    let digits = format!("{value:.0}");
    let mut text = String::new();
    for (i, digit) in digits.chars().enumerate() {
        if i > 0 && (digits.len() - i).is_multiple_of(3) {
            text.push(',');
        }
        text.push(digit);
    }
    text
}

/// Panels of bars, two beside each other. Those whose name begins with Quarry
/// stand out.
pub fn bars(title: &str, unit: &str, panels: &[Bars]) -> String {
    const WIDTH: f64 = 920.0;
    const HALF: f64 = WIDTH / 2.0;
    /// Room for names, and for the number after the longest bar.
    const NAMES: f64 = 150.0;
    const NUMBERS: f64 = 62.0;
    const BAR: f64 = 20.0;
    let rows: Vec<&[Bars]> = panels.chunks(2).collect();
    let height_of = |row: &[Bars]| {
        let most = row.iter().map(|panel| panel.values.len()).max().unwrap_or(0);
        52.0 + most as f64 * BAR
    };
    let height = 64.0 + rows.iter().map(|row| height_of(row)).sum::<f64>();
    let mut drawing = Drawing::new(WIDTH, height, title);
    drawing.text(20.0, 28.0, 16, "start", &format!("font-weight=\"bold\" {}", fill(INK)), title);
    drawing.text(20.0, 47.0, 12, "start", &fill(INK), unit);
    let mut top = 64.0;
    for row in rows {
        for (column, panel) in row.iter().enumerate() {
            let left = column as f64 * HALF + 20.0;
            let from = left + NAMES;
            let room = HALF - 30.0 - NAMES - NUMBERS;
            let most = panel.values.iter().map(|value| value.1).fold(100.0, f64::max);
            let at = |value: f64| room * (value.max(10.0) / 10.0).ln() / (most / 10.0).ln();
            let bottom = top + 32.0 + panel.values.len() as f64 * BAR;
            let bold = format!("font-weight=\"bold\" {}", fill(INK));
            drawing.text(left, top + 18.0, 13, "start", &bold, &panel.title);
            let mut decade = 10.0;
            while decade <= most {
                let x = from + at(decade);
                drawing.line((x, top + 28.0), (x, bottom), FAINT);
                decade *= 10.0;
            }
            for (i, (name, value)) in panel.values.iter().enumerate() {
                let y = top + 32.0 + i as f64 * BAR;
                let ours = name.starts_with("Quarry");
                let colour = if ours { OURS } else { THEIRS };
                let style = if ours { bold.clone() } else { fill(INK) };
                drawing.text(from - 6.0, y + 12.5, 12, "end", &style, name);
                let _ = writeln!(
                    drawing.0,
                    "<rect x=\"{from:.1}\" y=\"{:.1}\" width=\"{:.1}\" height=\"{:.1}\" {}/>",
                    y + 2.0,
                    at(*value).max(1.0),
                    BAR - 6.0,
                    fill(colour)
                );
                drawing.text(
                    from + at(*value) + 5.0,
                    y + 12.5,
                    12,
                    "start",
                    &style,
                    &number(*value),
                );
            }
        }
        top += height_of(row);
    }
    drawing.end()
}

/// Panels of lines, beside each other, with one legend.
pub fn lines(title: &str, unit: &str, panels: &[Lines]) -> String {
    const PANEL: f64 = 300.0;
    const PLOT: f64 = 230.0;
    const LEFT: f64 = 48.0;
    let width = 20.0 + PANEL * panels.len() as f64;
    let legend = panels.first().map_or(0, |panel| panel.series.len()).div_ceil(3) as f64 * 20.0;
    let height = 64.0 + 30.0 + PLOT + 40.0 + legend + 14.0;
    let mut drawing = Drawing::new(width, height, title);
    let bold = format!("font-weight=\"bold\" {}", fill(INK));
    drawing.text(20.0, 28.0, 16, "start", &bold, title);
    drawing.text(20.0, 47.0, 12, "start", &fill(INK), unit);
    let all = panels.iter().flat_map(|panel| &panel.series).flat_map(|series| &series.1);
    let most = all.fold(1.0_f64, |most, &value| most.max(value));
    let step = steps(most, 8.0).max(10.0);
    let scale = PLOT / ((most / step).ceil() * step);
    let (top, bottom) = (94.0, 94.0 + PLOT);
    for (i, panel) in panels.iter().enumerate() {
        let left = 20.0 + i as f64 * PANEL + LEFT;
        let right = 20.0 + (i + 1) as f64 * PANEL - 16.0;
        drawing.text(left, top - 12.0, 13, "start", &bold, &panel.title);
        let mut value = 0.0;
        while value * scale <= PLOT + 0.1 {
            let y = bottom - value * scale;
            drawing.line((left, y), (right, y), FAINT);
            drawing.text(left - 6.0, y + 4.0, 11, "end", &fill(INK), &format!("{value:.0}"));
            value += step;
        }
        let gap = (right - left) / panel.places.len().max(1) as f64;
        let x = |place: usize| left + gap * (place as f64 + 0.5);
        for (place, name) in panel.places.iter().enumerate() {
            drawing.text(x(place), bottom + 18.0, 11, "middle", &fill(INK), name);
        }
        for ((_, values), colour) in panel.series.iter().zip(COLOURS.iter().cycle()) {
            let points: Vec<String> = values
                .iter()
                .enumerate()
                .map(|(place, value)| format!("{:.1},{:.1}", x(place), bottom - value * scale))
                .collect();
            let _ = writeln!(
                drawing.0,
                "<polyline points=\"{}\" fill=\"none\" stroke=\"{colour}\" stroke-width=\"2\"/>",
                points.join(" ")
            );
            for point in points {
                let (x, y) = point.split_once(',').unwrap_or_default();
                let _ =
                    writeln!(drawing.0, "<circle cx=\"{x}\" cy=\"{y}\" r=\"3\" {}/>", fill(colour));
            }
        }
    }
    if let Some(panel) = panels.first() {
        for (i, ((name, _), colour)) in panel.series.iter().zip(COLOURS.iter().cycle()).enumerate()
        {
            let x = 20.0 + LEFT + (i % 3) as f64 * (width - 20.0 - LEFT) / 3.0;
            let y = bottom + 50.0 + (i / 3) as f64 * 20.0;
            let _ = writeln!(
                drawing.0,
                "<rect x=\"{x:.1}\" y=\"{:.1}\" width=\"18\" height=\"4\" {}/>",
                y - 6.0,
                fill(colour)
            );
            drawing.text(x + 24.0, y, 12, "start", &fill(INK), name);
        }
    }
    drawing.end()
}
