//! Drawing snapshots. Sizes are known beforehand, so that nothing overlaps.

use super::layout::{self, Part};
use super::snapshot::Snapshot;
use mm::census::Usage;
use mm::types::{MigrateType, NodeId, PAGE_SIZE, PAGEBLOCK_PAGES, ZoneKind};
use picture::{Colour, Grid, MARK, RESERVED, shade};
use plot::{Drawing, FAINT, INK, fill};
use std::fmt;

/// Snapshots that fit beside each other.
pub const MOST_PANELS: usize = 4;

/// There are more snapshots than fit beside each other, or there is none.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct TooMany(pub usize);

impl fmt::Display for TooMany {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} snapshots: want 1 to {MOST_PANELS}", self.0)
    }
}

impl std::error::Error for TooMany {}

const MARGIN: f64 = 20.0;
/// Room for addresses beside the cells.
const RULER: f64 = 52.0;
/// Height of a zone's heading, and of what is said of a hole.
const HEADING: f64 = 22.0;
/// Room of a node's frame above and below its zones, and beside them.
const NODE: f64 = 20.0;
const FRAME: f64 = 8.0;
const TOP: f64 = 84.0;
const MUTED: &str = "#57606a";
const STAT: f64 = 18.0;

fn bold() -> String {
    format!("font-weight=\"bold\" {}", fill(INK))
}

fn hex([red, green, blue]: Colour) -> String {
    format!("#{red:02x}{green:02x}{blue:02x}")
}

/// An amount of memory, exact where that is short.
fn size(bytes: u64) -> String {
    const UNITS: [&str; 4] = ["KiB", "MiB", "GiB", "TiB"];
    let mut unit = 0;
    while unit + 1 < UNITS.len() && bytes >> (10 * (unit + 2)) > 0 {
        unit += 1;
    }
    let amount = bytes as f64 / f64::from(1 << 10) / 1024_f64.powi(unit as i32);
    let text = format!("{amount:.1}");
    format!("{} {}", text.strip_suffix(".0").unwrap_or(&text), UNITS[unit])
}

/// An address, by the largest unit of which it is a whole number.
fn address(bytes: u64) -> String {
    match bytes {
        0 => "0".into(),
        _ if bytes.is_multiple_of(1 << 40) => format!("{}T", bytes >> 40),
        _ if bytes.is_multiple_of(1 << 30) => format!("{}G", bytes >> 30),
        _ if bytes.is_multiple_of(1 << 20) => format!("{}M", bytes >> 20),
        _ => format!("{}K", bytes >> 10),
    }
}

/// A whole number, thousands set apart.
fn count(n: u64) -> String {
    let digits = n.to_string();
    let parts: Vec<&str> =
        digits.as_bytes().rchunks(3).rev().filter_map(|part| str::from_utf8(part).ok()).collect();
    parts.join(",")
}

/// What a picture consists of.
struct Picture {
    drawing: Drawing,
    grid: Grid,
    panel: f64,
    /// Cells tell what they are when one points at them.
    hints: bool,
}

/// Draws snapshots of one machine, from left to right, as SVG.
///
/// # Errors
/// [`TooMany`].
pub fn draw(title: &str, snapshots: &[Snapshot]) -> Result<String, TooMany> {
    let cells = match snapshots.len() {
        1 => 640,
        2 => 420,
        3 | 4 => 300,
        n => return Err(TooMany(n)),
    };
    let too_many = TooMany(snapshots.len());
    let height = if snapshots.len() == 1 { 480 } else { 400 };
    let grid = layout::grid(snapshots, (HEADING + NODE) as u64, cells, height).ok_or(too_many)?;
    let panels: Vec<Vec<Part>> =
        snapshots.iter().map(|snapshot| layout::parts(snapshot, grid)).collect();
    let panel = (grid.columns * grid.pitch) as f64 + RULER + 2.0 * FRAME + 24.0;
    let panel = panel.max(300.0);
    // The legend wants some room, too.
    let width = (2.0 * MARGIN + panel * snapshots.len() as f64).max(700.0);
    let bottom = panels.iter().map(|parts| place(parts, grid).1).fold(0.0, f64::max);
    let stats = 8.0 + STAT * (if snapshots.len() > 1 { 5.0 } else { 4.0 });
    let all = bottom + stats + LEGEND;
    let mut picture = Picture {
        drawing: Drawing::new(width, all, title),
        grid,
        panel,
        hints: panels
            .iter()
            .map(|parts| parts.iter().map(|p| p.cells.len()).sum::<usize>())
            .sum::<usize>()
            <= 1200,
    };
    let cell = match grid.group {
        1 => "a cell is a pageblock of 2 MiB".into(),
        group => format!(
            "a cell is {group} pageblocks, {}, in the colour of most of them",
            size(group * PAGEBLOCK_PAGES * PAGE_SIZE as u64)
        ),
    };
    picture.drawing.text(MARGIN, 30.0, 17, "start", &bold(), title);
    picture.drawing.text(MARGIN, 50.0, 12, "start", &fill(MUTED), &cell);
    for (i, (snapshot, parts)) in snapshots.iter().zip(&panels).enumerate() {
        let left = MARGIN + i as f64 * panel;
        picture.drawing.text(left, 74.0, 14, "start", &bold(), &snapshot.name);
        picture.parts(left, snapshot, parts);
        let before = i.checked_sub(1).map(|i| &snapshots[i]);
        picture.stats((left, bottom + 8.0), snapshot, before);
    }
    picture.legend(bottom + stats, width);
    Ok(picture.drawing.end())
}

/// Where each part begins, and where all of them end.
fn place(parts: &[Part], grid: Grid) -> (Vec<f64>, f64) {
    let mut y = TOP;
    let mut node = None;
    let mut zone = None;
    let mut places = Vec::new();
    for part in parts {
        if node != Some(part.node) {
            y += NODE + if node.is_some() { FRAME } else { 0.0 };
            node = Some(part.node);
        }
        // What is said of a hole and of a zone, each in a line.
        y += if part.hole > 0 { HEADING } else { 0.0 };
        y += if zone != Some((part.node, part.zone)) { HEADING } else { 0.0 };
        zone = Some((part.node, part.zone));
        places.push(y);
        y += (part.rows * grid.pitch) as f64 + 4.0;
    }
    (places, y + FRAME)
}

impl Picture {
    /// A machine's zones and nodes.
    fn parts(&mut self, left: f64, snapshot: &Snapshot, parts: &[Part]) {
        let (places, end) = place(parts, self.grid);
        let wide = (self.grid.columns * self.grid.pitch) as f64;
        let mut node: Option<(NodeId, f64)> = None;
        let mut zone = None;
        let frame = |drawing: &mut Drawing, from: f64, to: f64| {
            let size = (wide + RULER + 2.0 * FRAME, to - from);
            let style = "fill=\"none\" stroke=\"#8c959f\" rx=\"4\"";
            drawing.rectangle((left + 0.5, from + 0.5), size, style, None);
        };
        for (part, &y) in parts.iter().zip(&places) {
            let named = zone != Some((part.node, part.zone));
            let mut over = y - if named { HEADING } else { 0.0 };
            let hole = if part.hole > 0 { HEADING } else { 0.0 };
            if node.is_none_or(|(node, _)| node != part.node) {
                let top = over - hole - NODE + 4.0;
                if let Some((_, from)) = node {
                    frame(&mut self.drawing, from, top - FRAME);
                }
                let name = format!("node {}", part.node.0);
                self.drawing.text(left + FRAME, top + 14.0, 12, "start", &bold(), &name);
                node = Some((part.node, top));
            }
            if named {
                let text = about(snapshot, part.node, part.zone);
                self.drawing.text(left + FRAME + RULER, y - 6.0, 12, "start", &fill(INK), &text);
            }
            if part.hole > 0 {
                over -= 8.0;
                let x = left + FRAME + RULER;
                let text = format!("no RAM: {}", size(part.hole));
                self.drawing.line((x, over - 4.0), (x + 12.0, over - 4.0), "#8c959f");
                self.drawing.text(x + 18.0, over, 11, "start", &fill(MUTED), &text);
            }
            zone = Some((part.node, part.zone));
            self.cells(left, y, part);
        }
        if let Some((_, from)) = node {
            frame(&mut self.drawing, from, end - 4.0);
        }
    }

    /// The rows of a part, with addresses.
    fn cells(&mut self, left: f64, y: f64, part: &Part) {
        let Grid { group, columns, pitch } = self.grid;
        let (x, step) = (left + FRAME + RULER, pitch as f64);
        let row_bytes = columns * group * PAGEBLOCK_PAGES * PAGE_SIZE as u64;
        let every = (13.0 / step).ceil().max(1.0) as u64;
        // As a man would choose: each second, each fourth row ...
        let every = every.next_power_of_two();
        for row in (0..part.rows).step_by(every as usize) {
            let text = address(part.start.addr() + row * row_bytes);
            let y = y + row as f64 * step + (step / 2.0).max(4.0) + 3.5;
            self.drawing.text(x - 6.0, y, 10, "end", &fill(MUTED), &text);
        }
        let gap = if pitch >= 8 { 1.0 } else { 0.5 };
        for placed in &part.cells {
            let at = (x + placed.column as f64 * step, y + placed.row as f64 * step);
            let edge = step - gap;
            let hint = self.hints.then(|| hint(placed));
            let style = match placed.cell.colour() {
                Some(colour) => format!("class=\"cell\" {}", fill(&hex(colour))),
                None => format!("class=\"hole\" fill=\"none\" stroke=\"{FAINT}\""),
            };
            self.drawing.rectangle(at, (edge, edge), &style, hint.as_deref());
            let mark = placed.cell.mark(edge as u64) as f64;
            if mark > 0.0 {
                let at = (at.0 + (edge - mark) / 2.0, at.1 + (edge - mark) / 2.0);
                let style = format!("class=\"mark\" pointer-events=\"none\" {}", fill(&hex(MARK)));
                self.drawing.rectangle(at, (mark, mark), &style, None);
            }
        }
    }

    /// What there is in numbers, and how that has changed.
    fn stats(&mut self, at: (f64, f64), now: &Snapshot, before: Option<&Snapshot>) {
        let free = |s: &Snapshot| s.pages(Usage::Free);
        let pieces = |s: &Snapshot| free(s) - s.whole_blocks() * PAGEBLOCK_PAGES;
        let bytes = |n: u64| size(n * PAGE_SIZE as u64);
        let rows: [(&str, u64, Option<u64>, bool); 4] = [
            ("free", free(now), before.map(free), true),
            ("free in blocks smaller than 2 MiB", pieces(now), before.map(pieces), true),
            (
                "free blocks of 2 MiB (order 9)",
                now.whole_blocks(),
                before.map(Snapshot::whole_blocks),
                false,
            ),
            (
                "movable pages in use",
                now.pages(Usage::Movable),
                before.map(|s| s.pages(Usage::Movable)),
                false,
            ),
        ];
        let mut lines: Vec<(String, String)> = rows
            .into_iter()
            .map(|(name, now, before, memory)| {
                let show = |n| if memory { bytes(n) } else { count(n) };
                let change = match before {
                    Some(before) if before < now => format!(" (+{})", show(now - before)),
                    Some(before) if before > now => format!(" (\u{2212}{})", show(before - now)),
                    _ => String::new(),
                };
                (name.to_owned(), show(now) + &change)
            })
            .collect();
        if let Some(before) = before {
            let moved = count(now.moved_since(before));
            lines.push(("pages moved to other pageblocks".into(), format!("\u{2265} {moved}")));
        }
        for (i, (name, value)) in lines.iter().enumerate() {
            let y = at.1 + STAT * (i as f64 + 1.0) - 4.0;
            let right = at.0 + self.panel - 24.0;
            self.drawing.text(at.0, y, 11, "start", &fill(MUTED), name);
            self.drawing.text(right, y, 11, "end", &bold(), value);
        }
    }

    /// What colours and marks mean.
    fn legend(&mut self, top: f64, width: f64) {
        const SWATCH: f64 = 14.0;
        const ENTRY: f64 = 220.0;
        self.drawing.line((MARGIN, top + 12.0), (width - MARGIN, top + 12.0), FAINT);
        for (i, ty) in MigrateType::ALL.into_iter().enumerate() {
            let x = MARGIN + (i % 3) as f64 * ENTRY;
            let y = top + 24.0 + (i / 3) as f64 * 22.0;
            for step in 0..4_u8 {
                let at = (x + f64::from(step) * (SWATCH + 1.0), y);
                let colour = hex(shade(ty, u64::from(step), 3));
                self.drawing.rectangle(at, (SWATCH, SWATCH), &fill(&colour), None);
            }
            self.drawing.text(x + 68.0, y + 11.5, 12, "start", &fill(INK), ty.name());
        }
        let y = top + 24.0 + 44.0;
        let notes: [(&str, &str); 3] = [
            ("", "from light, all of it free, to dark, all of it in use"),
            ("mark", "dark square: free pages outside the pageblock's largest free piece, by area"),
            ("reserved", "never given to the buddy: kernel, boot data"),
        ];
        for (i, (kind, text)) in notes.into_iter().enumerate() {
            let y = y + i as f64 * 20.0;
            let at = (MARGIN + 3.0 * (SWATCH + 1.0), y);
            match kind {
                "mark" => {
                    let colour = hex(shade(MigrateType::Movable, 1, 2));
                    self.drawing.rectangle(at, (SWATCH, SWATCH), &fill(&colour), None);
                    let inner = (at.0 + 2.0, at.1 + 2.0);
                    let mark = fill(&hex(MARK));
                    self.drawing.rectangle(inner, (SWATCH - 4.0, SWATCH - 4.0), &mark, None);
                }
                "reserved" => {
                    let colour = fill(&hex(RESERVED));
                    self.drawing.rectangle(at, (SWATCH, SWATCH), &colour, None);
                }
                _ => {
                    for step in 0..4_u8 {
                        let at = (MARGIN + f64::from(step) * (SWATCH + 1.0), y);
                        let grey = 0xe6 - 0x38 * step;
                        let colour = hex([grey; 3]);
                        self.drawing.rectangle(at, (SWATCH, SWATCH), &fill(&colour), None);
                    }
                }
            }
            self.drawing.text(MARGIN + 68.0, y + 11.5, 12, "start", &fill(INK), text);
        }
    }
}

/// Height of the legend.
const LEGEND: f64 = 144.0;

/// A zone in short.
fn about(snapshot: &Snapshot, node: NodeId, zone: ZoneKind) -> String {
    let runs = snapshot.runs.iter().filter(|run| (run.block.node, run.block.zone) == (node, zone));
    let (mut all, mut free) = (0, 0);
    for run in runs {
        all += run.blocks() * (PAGEBLOCK_PAGES - run.block.pages(Usage::Hole));
        free += run.blocks() * run.block.pages(Usage::Free);
    }
    let share = (free * 100).checked_div(all).unwrap_or(0);
    format!("zone {}: {}, {share} % free", zone.name(), size(all * PAGE_SIZE as u64))
}

/// What a cell is, in words.
fn hint(placed: &layout::Placed) -> String {
    let frames = placed.frames;
    let range = format!("pfn {}-{:#x}", frames.start, frames.end.0 - 1);
    match placed.cell.migratetype() {
        Some(ty) => format!("{range}: {}, {}", ty.name(), placed.cell),
        None => format!("{range}: no RAM"),
    }
}
