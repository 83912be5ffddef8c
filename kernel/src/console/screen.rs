//! Text on the boot loader's framebuffer, which is slow memory: it is written
//! where the text differs from what is there, and never read. Large text may
//! stand above it, and part of it can be lent to somebody who draws. Calls
//! `quarry_kernel::{tty, banner}`, `arch::time`.

use crate::arch::time;
use crate::take::Take;
use bootloader_api::info::{FrameBufferInfo, PixelFormat};
use core::array;
use core::ptr::NonNull;
use core::sync::atomic::{Ordering, fence};
use noto_sans_mono_bitmap::{FontWeight, RasterHeight, get_raster, get_raster_width};
use quarry_kernel::banner::{self, Line};
use quarry_kernel::tty::{INVERSE, MAX_CELLS, TextScreen};

const WEIGHT: FontWeight = FontWeight::Regular;
/// From so many pixels of width on, letters are twice as large.
const WIDE: usize = 2560;

/// Text that scrolls again within so many milliseconds does so by more than a
/// line, as it would be too fast to read anyway.
const CALM_MS: u64 = 100;

/// ASCII characters from the space on.
const GLYPHS: usize = 95;
/// Lines of pixels of a letter that is not large.
const LINES: usize = 16;
/// Bytes that a line of such a letter takes at most, in words.
const WORDS: usize = 4;

/// Letters in the screen's own format, a line of pixels after the other.
type Ready = [[[u64; WORDS]; LINES]; GLYPHS];

static READY: Take<Ready> = Take::new([[[0; WORDS]; LINES]; GLYPHS]);
static TEXT: Take<TextScreen> = Take::new(TextScreen::new());

/// A framebuffer: where it is mapped, and what it looks like.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Framebuffer {
    /// Its first byte.
    pub(crate) start: NonNull<u8>,
    /// Size and pixel format.
    pub(crate) info: FrameBufferInfo,
}

// SAFETY: an address and numbers; who writes there holds the devices' lock.
unsafe impl Send for Framebuffer {}

/// Letters: how they look.
struct Font {
    width: usize,
    height: usize,
    /// For each character its pixels, line by line.
    glyphs: [Option<&'static [u8]>; GLYPHS],
    /// The same for letters that are not large.
    ready: Option<&'static Ready>,
}

impl Font {
    fn new(size: RasterHeight) -> Self {
        let glyph = |at: usize| get_raster(char::from(b' ' + at as u8), WEIGHT, size);
        Self {
            width: get_raster_width(WEIGHT, size),
            height: size.val(),
            glyphs: array::from_fn(|at| glyph(at).map(|raster| raster.pixels())),
            ready: None,
        }
    }

    /// Puts the letters into `ready`, as they are on a screen with `pixel` bytes
    /// per pixel, if there is room.
    fn make_ready(&mut self, pixel: usize, ready: &'static mut Ready) {
        if self.height != LINES || self.width * pixel > WORDS * 8 {
            return;
        }
        for (glyph, ready) in self.glyphs.iter().zip(&mut *ready) {
            let lines = glyph.unwrap_or_default().chunks_exact(self.width);
            for (pixels, words) in lines.zip(ready) {
                for (at, &intensity) in pixels.iter().enumerate() {
                    for byte in at * pixel..(at + 1) * pixel {
                        words[byte / 8] |= u64::from(intensity) << (8 * (byte % 8));
                    }
                }
            }
        }
        self.ready = Some(ready);
    }

    /// The glyph of a cell.
    fn glyph(cell: u8) -> usize {
        // What is not ASCII never is in a cell.
        usize::from((cell & !INVERSE).wrapping_sub(b' ')).min(GLYPHS - 1)
    }
}

/// A part of the screen that is drawn on: its size in pixels.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) struct Area {
    /// From left to right.
    pub(crate) width: usize,
    /// From top to bottom.
    pub(crate) height: usize,
}

/// A screen, if there is one.
pub(crate) struct Screen {
    framebuffer: Option<Framebuffer>,
    font: Option<Font>,
    text: Option<&'static mut TextScreen>,
    /// When it scrolled last (ms since boot).
    scrolled_ms: u64,
    /// Pixels from the left where somebody else's part begins.
    lent: Option<usize>,
    /// It is a console.
    pub(super) on: bool,
    /// Up to where it has shown what there is to show.
    pub(super) position: u64,
}

impl Screen {
    pub(super) const fn new() -> Self {
        Self {
            framebuffer: None,
            font: None,
            text: None,
            scrolled_ms: 0,
            lent: None,
            on: false,
            position: 0,
        }
    }

    /// Takes `framebuffer` for its screen, and blanks it; false if there is none
    /// of use.
    ///
    /// # Safety
    ///
    /// As for [`Self::attach`].
    pub(super) unsafe fn open(&mut self, framebuffer: Option<Framebuffer>) -> bool {
        // SAFETY: passed on to the caller.
        unsafe { self.attach(framebuffer) };
        let Some(Framebuffer { info, .. }) = self.framebuffer else { return false };
        let small = Font::new(RasterHeight::Size16);
        let cells = (info.width / small.width) * (info.height / small.height);
        let large = info.width >= WIDE || cells > MAX_CELLS;
        let mut font = if large { Font::new(RasterHeight::Size32) } else { small };
        if let Some(ready) = READY.take() {
            font.make_ready(info.bytes_per_pixel, ready);
        }
        self.text = self.text.take().or_else(|| TEXT.take());
        if let Some(text) = &mut self.text {
            text.set_size(info.width / font.width, info.height / font.height);
        }
        self.font = Some(font);
        self.fill(0, 0, info.width, info.height, [0; 3]);
        true
    }

    /// Writes to `framebuffer` from now on, which shows what the last one did, or
    /// to none.
    ///
    /// # Safety
    ///
    /// Its `byte_len` bytes must be mapped until the next call, and nobody else
    /// may write to them.
    pub(super) unsafe fn attach(&mut self, framebuffer: Option<Framebuffer>) {
        let usable = |framebuffer: &Framebuffer| {
            let info = framebuffer.info;
            (1..=4).contains(&info.bytes_per_pixel)
                && info.width > 0
                && info.height > 0
                && info.stride >= info.width
        };
        self.framebuffer = framebuffer.filter(usable);
    }

    /// Writes text, some time before [`Self::redraw`] shows it.
    pub(super) fn write(&mut self, bytes: &[u8]) {
        let Some(text) = &mut self.text else { return };
        let (now, before) = (time::now_ms(), text.scrolled());
        let calm = now.saturating_sub(self.scrolled_ms) > CALM_MS;
        text.set_jump(if calm { 1 } else { text.size().1 / 4 });
        text.write(bytes);
        if text.scrolled() != before {
            self.scrolled_ms = now;
        }
    }

    /// Shows what was written.
    pub(super) fn redraw(&mut self) {
        let Self { framebuffer: Some(framebuffer), font: Some(font), text: Some(text), .. } = self
        else {
            return;
        };
        text.redraw(&mut |row, first, cells| framebuffer.draw(font, row, first, cells));
        // What the processor has gathered goes out now: this may be a crash
        // report, after which nothing else is written.
        fence(Ordering::SeqCst);
    }

    /// Shows what has left it, half a screen more or less of it.
    pub(super) fn page(&mut self, back: bool) {
        if let Some(text) = self.text.as_mut().filter(|_| self.on) {
            text.page(back);
            self.redraw();
        }
    }

    /// Whether there is one.
    pub(super) fn is_there(&self) -> bool {
        self.font.is_some()
    }

    /// Makes it all blank, and all of it for text again.
    pub(super) fn clear(&mut self) {
        if !self.on {
            return;
        }
        self.take_back();
        if let Some(text) = &mut self.text {
            text.set_top(0);
        }
    }

    /// Makes it all blank, and writes `lines` large at the top, where they stay
    /// until the next [`Self::clear`] or until text needs the room.
    pub(super) fn banner<'a>(&mut self, lines: impl IntoIterator<Item = Line<'a>>) {
        if !self.on {
            return;
        }
        self.clear();
        // Not by cells: the cursor is not to stand there.
        self.fill(0, 0, usize::MAX, usize::MAX, [0; 3]);
        let Self { framebuffer: Some(framebuffer), font: Some(font), text: Some(text), .. } = self
        else {
            return;
        };
        let height = banner::draw(framebuffer, lines);
        text.set_top(height.div_ceil(font.height));
    }

    /// All of it.
    pub(crate) fn area(&self) -> Option<Area> {
        let info = self.framebuffer.as_ref()?.info;
        Some(Area { width: info.width, height: info.height })
    }

    /// Lends the right part of the screen, of `width` pixels or a few more. None
    /// if there is no room for it beside 20 columns of text, or it is lent
    /// already.
    pub(crate) fn lend(&mut self, width: usize) -> Option<Area> {
        let (Some(framebuffer), Some(font), Some(text), None) =
            (&self.framebuffer, &self.font, &mut self.text, self.lent)
        else {
            return None;
        };
        let info = framebuffer.info;
        let columns = info.width.checked_sub(width)? / font.width;
        if columns < 20 {
            return None;
        }
        // Half a banner would be none.
        text.set_top(0);
        text.set_columns(columns);
        let from = columns * font.width;
        self.lent = Some(from);
        self.fill(from, 0, info.width - from, info.height, [0; 3]);
        self.redraw();
        Some(Area { width: info.width - from, height: info.height })
    }

    /// Fills a rectangle of the part that is lent, counted in pixels from its
    /// upper left corner, with a colour (red, green, blue). What lies outside is
    /// left out.
    pub(crate) fn fill_lent(&self, x: usize, y: usize, w: usize, h: usize, colour: [u8; 3]) {
        if let Some(from) = self.lent {
            self.fill(from.saturating_add(x), y, w, h, colour);
        }
    }

    /// Ends the lending: text has all of the screen again.
    pub(crate) fn take_back(&mut self) {
        let (Some(framebuffer), Some(text), Some(from)) =
            (&self.framebuffer, &mut self.text, self.lent.take())
        else {
            return;
        };
        let info = framebuffer.info;
        text.set_columns(usize::MAX);
        self.fill(from, 0, info.width - from, info.height, [0; 3]);
        self.redraw();
    }

    fn fill(&self, x: usize, y: usize, w: usize, h: usize, colour: [u8; 3]) {
        let Some(framebuffer) = &self.framebuffer else { return };
        let info = framebuffer.info;
        let w = w.min(info.width.saturating_sub(x));
        let bytes = framebuffer.colour(colour);
        let pixel = info.bytes_per_pixel;
        for y in (y..info.height).take(h) {
            let Some(line) = framebuffer.at(x, y, w) else { return };
            if bytes == [bytes[0]; 4] {
                // SAFETY: the line's part lies in the framebuffer, which is mapped.
                unsafe { line.write_bytes(bytes[0], w * pixel) };
                continue;
            }
            for at in 0..w {
                // SAFETY: the pixel lies in the line, the line in the
                // framebuffer, which is mapped.
                unsafe { write_pixel(line.add(at * pixel), bytes, pixel) };
            }
        }
    }
}

/// Writes the first `len` bytes of a pixel, at most 4.
///
/// # Safety
///
/// They lie in the framebuffer.
#[inline]
unsafe fn write_pixel(to: *mut u8, bytes: [u8; 4], len: usize) {
    // SAFETY: passed on to the caller.
    unsafe {
        match len {
            4 => to.cast::<[u8; 4]>().write(bytes),
            3 => to.cast::<[u8; 3]>().write([bytes[0], bytes[1], bytes[2]]),
            _ => to.copy_from_nonoverlapping(bytes.as_ptr(), len),
        }
    }
}

/// Draws a line of the pixels of `cells`, `width` bytes each.
///
/// # Safety
///
/// From `to` on that much of the framebuffer must follow.
unsafe fn draw_ready(ready: &Ready, line: usize, cells: &[u8], to: *mut u8, width: usize) {
    let words = width.div_ceil(8);
    for (at, &cell) in cells.iter().enumerate() {
        let exchange = if cell & INVERSE != 0 { u64::MAX } else { 0 };
        let pixels = ready[Font::glyph(cell)][line].map(|word| word ^ exchange);
        // SAFETY: the cell has `width` bytes there. All but the last one are
        // written in whole words: what is too much, less than a word, the next
        // cell writes again.
        unsafe {
            let to = to.add(at * width);
            if at + 1 == cells.len() {
                to.copy_from_nonoverlapping(pixels.as_ptr().cast(), width);
            } else {
                for (at, &word) in pixels.iter().take(words).enumerate() {
                    to.cast::<u64>().add(at).write_unaligned(word);
                }
            }
        }
    }
}

/// As [`draw_ready`], pixel by pixel of `pixel` bytes.
///
/// # Safety
///
/// As there.
unsafe fn draw_slowly(font: &Font, line: usize, cells: &[u8], mut to: *mut u8, pixel: usize) {
    let pixels = line * font.width..(line + 1) * font.width;
    for &cell in cells {
        let exchange = if cell & INVERSE != 0 { u8::MAX } else { 0 };
        let glyph = font.glyphs[Font::glyph(cell)].unwrap_or_default();
        for &intensity in glyph.get(pixels.clone()).unwrap_or_default() {
            // Grey has the same value in all bytes, wherever they are; a fourth
            // one is not looked at.
            // SAFETY: as many pixels follow as all cells have.
            unsafe {
                write_pixel(to, [intensity ^ exchange; 4], pixel);
                to = to.add(pixel);
            }
        }
    }
}

impl Framebuffer {
    /// Where `len` pixels from `(x, y)` on begin, if all lie inside.
    pub(super) fn at(&self, x: usize, y: usize, len: usize) -> Option<*mut u8> {
        let offset = (y * self.info.stride + x) * self.info.bytes_per_pixel;
        let inside = offset + len * self.info.bytes_per_pixel <= self.info.byte_len;
        inside.then(|| self.start.as_ptr().wrapping_add(offset))
    }

    /// The bytes of a pixel with a colour of red, green and blue.
    fn colour(&self, [red, green, blue]: [u8; 3]) -> [u8; 4] {
        match self.info.pixel_format {
            PixelFormat::Rgb => [red, green, blue, 0],
            PixelFormat::Bgr => [blue, green, red, 0],
            PixelFormat::Unknown { red_position, green_position, blue_position } => {
                let mut bytes = [0; 4];
                let parts = [(red_position, red), (green_position, green), (blue_position, blue)];
                for (position, part) in parts {
                    if let Some(byte) = bytes.get_mut(usize::from(position / 8)) {
                        *byte = part;
                    }
                }
                bytes
            }
            // Grey, by how bright it looks.
            _ => {
                let weighted = 54 * u32::from(red) + 183 * u32::from(green) + 19 * u32::from(blue);
                [(weighted / 256) as u8; 4]
            }
        }
    }

    /// Draws cells that stand side by side, a line of pixels after the other.
    fn draw(&self, font: &Font, row: usize, first: usize, cells: &[u8]) {
        let pixel = self.info.bytes_per_pixel;
        let x = first * font.width;
        for line in 0..font.height {
            let Some(to) = self.at(x, row * font.height + line, cells.len() * font.width) else {
                return;
            };
            match font.ready {
                // SAFETY: so much of the framebuffer begins there.
                Some(ready) => unsafe { draw_ready(ready, line, cells, to, font.width * pixel) },
                // SAFETY: as above.
                None => unsafe { draw_slowly(font, line, cells, to, pixel) },
            }
        }
    }
}
