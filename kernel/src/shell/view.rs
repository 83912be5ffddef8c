//! `view memory`: a live map of all pageblocks in the right part of the screen.
//! A thread takes the census again and again, as one of the background's workers
//! does its rounds, and draws what has changed. Calls `console::view`, `task`,
//! `workers`, and the crate `picture`.

use crate::console::view::{self, Area, Fill};
use crate::platform::Machine;
use crate::task::{self, Config, JoinHandle, Mutex};
use crate::workers;
use ::shell::{Errno, Error};
use core::fmt::{self, Write};
use core::sync::atomic::{AtomicBool, Ordering::Relaxed};
use mm::Mm;
use mm::census::Usage;
use mm::types::{MigrateType, PAGE_SIZE, PAGEBLOCK_PAGES};
use mm::zone::Zone;
use noto_sans_mono_bitmap::{FontWeight, RasterHeight, get_raster, get_raster_width};
use picture::{Cell, Colour, Grid, MARK, shade};
use quarry_kernel::sched::{Name, Priority};

/// Milliseconds between two pictures.
const PAUSE_MS: u64 = 250;
/// Share of the screen's width, in percent.
const SHARE: usize = 45;
/// Cells whose looks are remembered; further ones are drawn each time.
const REMEMBERED: usize = 16 * 1024;
/// Rectangles drawn at a time: text waits for no more.
const BATCH: usize = 64;

const LETTERS: RasterHeight = RasterHeight::Size16;
const LETTER: usize = get_raster_width(FontWeight::Regular, LETTERS);
const LINE: usize = LETTERS.val() + 4;
const BORDER: usize = 12;
/// Lines above the zones, and below.
const HEAD: usize = 3;
const LEGEND: usize = 6;
const TEXT: Colour = [0xd8, 0xde, 0xe4];

/// What is being shown: the thread that draws.
static SHOWN: Mutex<Option<JoinHandle>> = Mutex::new(None);
static STOP: AtomicBool = AtomicBool::new(false);
/// How cells looked when they were drawn last.
static LOOKS: Mutex<[u32; REMEMBERED]> = Mutex::new([0; REMEMBERED]);

/// Begins to show memory; anew if it does already.
///
/// # Errors
/// EOPNOTSUPP without a screen, or one too small; ENOMEM without a thread.
pub(super) fn memory(mm: &'static Mm<Machine>) -> Result<(), Error> {
    let mut shown = SHOWN.lock();
    stop(&mut shown);
    let no_room = Error::new(Errno::EOPNOTSUPP, "no screen, or no room on it beside the text");
    let screen = view::screen().ok_or(no_room)?;
    let area = view::open(screen.width * SHARE / 100).ok_or(no_room)?;
    let Some(map) = Map::new(mm, area) else {
        view::close();
        return Err(no_room);
    };
    let config = Config { priority: Priority::Low, ..Config::new(Name::new("view")) };
    let thread = task::spawn(&config, move || map.show()).map_err(|_| {
        view::close();
        Error::new(Errno::ENOMEM, "no thread to draw")
    })?;
    *shown = Some(thread);
    Ok(())
}

/// Gives the screen back to the text.
pub(super) fn off() {
    stop(&mut SHOWN.lock());
}

fn stop(shown: &mut Option<JoinHandle>) {
    if let Some(thread) = shown.take() {
        STOP.store(true, Relaxed);
        thread.join();
        STOP.store(false, Relaxed);
        view::close();
    }
}

/// Rectangles on their way to the screen.
struct Pencil {
    fills: [Fill; BATCH],
    len: usize,
}

impl Pencil {
    const fn new() -> Self {
        Self { fills: [Fill { x: 0, y: 0, w: 0, h: 0, colour: [0; 3] }; BATCH], len: 0 }
    }

    fn fill(&mut self, (x, y): (usize, usize), (w, h): (usize, usize), colour: Colour) {
        self.fills[self.len] = Fill { x, y, w, h, colour };
        self.len += 1;
        if self.len == BATCH {
            self.flush();
        }
    }

    fn flush(&mut self) {
        view::fill(self.fills[..self.len].iter().copied());
        self.len = 0;
    }

    /// Writes at a place, on black; what does not fit in `width` is left out.
    fn text(&mut self, at: (usize, usize), width: usize, text: fmt::Arguments<'_>) {
        let mut letters = Letters { pencil: self, at, end: at.0 + width };
        // Writing to the screen cannot fail.
        let _ = letters.write_fmt(text);
        let (x, end) = (letters.at.0, letters.end);
        self.fill((x, at.1), (end.saturating_sub(x), LETTERS.val()), [0; 3]);
    }
}

struct Letters<'a> {
    pencil: &'a mut Pencil,
    at: (usize, usize),
    end: usize,
}

impl Write for Letters<'_> {
    fn write_str(&mut self, text: &str) -> fmt::Result {
        for letter in text.chars() {
            let raster = get_raster(letter, FontWeight::Regular, LETTERS);
            let Some(raster) = raster.filter(|_| self.at.0 + LETTER <= self.end) else { continue };
            for (y, row) in raster.rows().enumerate() {
                let mut x = self.at.0;
                // Pixels of the same brightness in one go.
                for same in row.chunk_by(|a, b| a == b) {
                    let light = u32::from(same[0]);
                    let colour = TEXT.map(|part| (u32::from(part) * light / 255) as u8);
                    self.pencil.fill((x, self.at.1 + y), (same.len(), 1), colour);
                    x += same.len();
                }
            }
            self.at.0 += LETTER;
        }
        Ok(())
    }
}

/// A map of a machine, and where it is drawn.
struct Map {
    mm: &'static Mm<Machine>,
    area: Area,
    grid: Grid,
}

/// Free memory in numbers, MiB: all, in whole pageblocks.
#[derive(Clone, Copy, PartialEq, Eq, Default)]
struct Sums {
    free: u64,
    whole: u64,
}

fn mib(pages: u64) -> u64 {
    (pages * PAGE_SIZE as u64) >> 20
}

impl Map {
    /// None if the area is too small.
    fn new(mm: &'static Mm<Machine>, area: Area) -> Option<Self> {
        let (mut blocks, mut zones) = (0, 0);
        for zone in populated(mm) {
            blocks += mm.pageblocks_by_type(zone).iter().sum::<u64>();
            zones += 1;
        }
        let width = area.width.checked_sub(2 * BORDER)? as u64;
        let height = area.height.checked_sub((HEAD + LEGEND) * LINE + 2 * BORDER)? as u64;
        let grid = Grid::fit(blocks, zones, 2 * LINE as u64, width, height)?;
        Some(Self { mm, area, grid })
    }

    /// Draws until it is to stop.
    fn show(&self) {
        let mut looks = LOOKS.lock();
        looks.fill(0);
        let mut pencil = Pencil::new();
        self.frame(&mut pencil);
        let mut told = None;
        while !STOP.load(Relaxed) {
            let sums = workers::look(|| self.cells(&mut pencil, &mut looks));
            if told != Some(sums) {
                told = Some(sums);
                let Sums { free, whole } = sums;
                let at = (BORDER, BORDER + LINE);
                let text = format_args!("free {free} MiB, {whole} of it in blocks of 2 MiB");
                pencil.text(at, self.area.width - 2 * BORDER, text);
            }
            pencil.flush();
            // Whoever wants it to stop need not wait for long.
            for _ in 0..5 {
                if !STOP.load(Relaxed) {
                    task::sleep(PAUSE_MS / 5);
                }
            }
        }
    }

    /// What does not change: a title, and what colours mean.
    fn frame(&self, pencil: &mut Pencil) {
        let width = self.area.width - 2 * BORDER;
        let bytes = self.grid.group * PAGEBLOCK_PAGES * PAGE_SIZE as u64;
        let text = format_args!("Pageblocks, {} MiB a cell", bytes >> 20);
        pencil.text((BORDER, BORDER), width, text);
        let top = self.area.height - LEGEND * LINE - BORDER;
        let edge = LINE - 6;
        for (i, ty) in MigrateType::ALL.into_iter().enumerate() {
            let x = BORDER + i % 2 * (width / 2);
            let y = top + i / 2 * LINE;
            for step in 0..4 {
                let at = (x + step * (edge + 1), y + 1);
                pencil.fill(at, (edge, edge), shade(ty, step as u64, 3));
            }
            let name = x + 4 * (edge + 1) + 6;
            pencil.text((name, y), width / 2 - 4 * (edge + 1) - 8, format_args!("{}", ty.name()));
        }
        let lines =
            ["light: free, dark: in use, grey: reserved", "dark square: free, but in pieces"];
        for (i, line) in lines.into_iter().enumerate() {
            pencil.text((BORDER, top + (3 + i) * LINE + 6), width, format_args!("{line}"));
        }
    }

    /// Draws the cells that look otherwise than last time. A round of a worker.
    fn cells(&self, pencil: &mut Pencil, looks: &mut [u32; REMEMBERED]) -> Sums {
        let mut sums = Sums::default();
        let mut y = BORDER + HEAD * LINE;
        let mut number = 0;
        for zone in populated(self.mm) {
            if looks.get(number).is_none_or(|&look| look == 0) {
                let text = format_args!(
                    "node {} {}: {} MiB",
                    zone.node.0,
                    zone.kind.name(),
                    mib(zone.present())
                );
                pencil.text((BORDER, y), self.area.width - 2 * BORDER, text);
            }
            let top = y + LINE;
            let mut cell = Cell::default();
            let (mut blocks, mut place) = (0, 0);
            for (_, block) in self.mm.pageblocks(zone.span()) {
                // Zones of other nodes may lie in between.
                if (block.node, block.zone) != (zone.node, zone.kind) {
                    continue;
                }
                sums.free += block.pages(Usage::Free) + block.pages(Usage::Pcp);
                sums.whole += if block.is_whole() { PAGEBLOCK_PAGES } else { 0 };
                cell.add(&block);
                blocks += 1;
                if blocks % self.grid.group == 0 {
                    self.cell(pencil, looks.get_mut(number), top, place, cell);
                    (cell, place, number) = (Cell::default(), place + 1, number + 1);
                }
                if STOP.load(Relaxed) {
                    return sums;
                }
            }
            if cell.colour().is_some() {
                self.cell(pencil, looks.get_mut(number), top, place, cell);
                (place, number) = (place + 1, number + 1);
            }
            let rows = place.div_ceil(self.grid.columns);
            y = top + (rows * self.grid.pitch) as usize + LINE / 2;
        }
        Sums { free: mib(sums.free), whole: mib(sums.whole) }
    }

    fn cell(
        &self,
        pencil: &mut Pencil,
        look: Option<&mut u32>,
        top: usize,
        place: u64,
        cell: Cell,
    ) {
        let Grid { columns, pitch, .. } = self.grid;
        let edge = pitch - 1;
        let (Some(colour), mark) = (cell.colour(), cell.mark(edge)) else { return };
        // Not 0, which is no look at all.
        let now = 1 << 31
            | u32::from_be_bytes([0, colour[0], colour[1], colour[2]])
            | (mark as u32) << 24;
        if look.is_some_and(|look| core::mem::replace(look, now) == now) {
            return;
        }
        let x = BORDER + (place % columns * pitch) as usize;
        let y = top + (place / columns * pitch) as usize;
        let (edge, mark) = (edge as usize, mark as usize);
        pencil.fill((x, y), (edge, edge), colour);
        let inset = (edge - mark) / 2;
        pencil.fill((x + inset, y + inset), (mark, mark), MARK);
    }
}

fn populated(mm: &Mm<Machine>) -> impl Iterator<Item = &Zone> {
    mm.zones().iter().filter(|zone| zone.present() > 0)
}
