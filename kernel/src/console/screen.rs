//! Text on the boot loader's framebuffer. What would run off the lower edge
//! goes on at the top, below it a blank line: nothing is ever scrolled, which
//! would mean to read slow memory. Large text may stand above all that. Calls
//! `quarry_kernel::banner`.

use bootloader_api::info::{FrameBufferInfo, PixelFormat};
use core::ptr::NonNull;
use noto_sans_mono_bitmap::{FontWeight, RasterHeight, get_raster, get_raster_width};
use quarry_kernel::banner::{self, Line};

const WEIGHT: FontWeight = FontWeight::Regular;
const HEIGHT: RasterHeight = RasterHeight::Size16;
/// Pixels of a character cell.
const CELL_WIDTH: usize = get_raster_width(WEIGHT, HEIGHT);
const CELL_HEIGHT: usize = HEIGHT.val();
/// Bytes of a pixel at most.
const MAX_PIXEL: usize = 4;

/// A framebuffer: where it is mapped, and what it looks like.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Framebuffer {
    /// Its first byte.
    pub(crate) start: NonNull<u8>,
    /// Size and pixel format.
    pub(crate) info: FrameBufferInfo,
}

// SAFETY: an address and numbers; who writes there holds the console's lock.
unsafe impl Send for Framebuffer {}

/// A text screen, if there is one.
pub(crate) struct Screen {
    framebuffer: Option<Framebuffer>,
    /// Rows that a banner takes, at the top.
    top: usize,
    row: usize,
    column: usize,
}

impl Screen {
    pub(crate) const fn new() -> Self {
        Self { framebuffer: None, top: 0, row: 0, column: 0 }
    }

    /// Writes to `framebuffer` from now on, where the text stopped, or to none.
    ///
    /// # Safety
    ///
    /// Its `byte_len` bytes must be mapped until the next call, and nobody else
    /// may write to them.
    pub(crate) unsafe fn attach(&mut self, framebuffer: Option<Framebuffer>) {
        let usable = |framebuffer: &Framebuffer| {
            let info = framebuffer.info;
            (1..=MAX_PIXEL).contains(&info.bytes_per_pixel)
                && info.width >= CELL_WIDTH
                && info.height >= 2 * CELL_HEIGHT
                && info.stride >= info.width
        };
        self.framebuffer = framebuffer.filter(usable);
    }

    /// Whether there is a screen.
    pub(crate) fn is_attached(&self) -> bool {
        self.framebuffer.is_some()
    }

    /// Makes it all blank.
    pub(crate) fn clear(&mut self) {
        let Some(framebuffer) = self.framebuffer else { return };
        for row in 0..framebuffer.info.height.div_ceil(CELL_HEIGHT) {
            framebuffer.clear_row(row);
        }
        (self.top, self.row, self.column) = (0, 0, 0);
    }

    /// Makes it all blank, and writes `lines` large at the top, where they stay
    /// until the next [`Self::clear`].
    pub(crate) fn banner<'a>(&mut self, lines: impl IntoIterator<Item = Line<'a>>) {
        self.clear();
        let Some(mut framebuffer) = self.framebuffer else { return };
        self.top = banner::draw(&mut framebuffer, lines).div_ceil(CELL_HEIGHT);
        self.row = self.top;
    }

    /// Writes one character; what is not ASCII becomes one question mark.
    pub(crate) fn put(&mut self, byte: u8) {
        let Some(framebuffer) = self.framebuffer else { return };
        if (0x80..0xc0).contains(&byte) {
            return; // the rest of a character that began with another byte
        }
        if (self.column + 1) * CELL_WIDTH > framebuffer.info.width {
            self.newline();
        }
        let character = if byte.is_ascii() { char::from(byte) } else { '?' };
        framebuffer.draw(self.row, self.column, character);
        self.column += 1;
    }

    /// Moves to the left by so many characters, within the line.
    pub(crate) fn back(&mut self, by: usize) {
        self.column = self.column.saturating_sub(by);
    }

    /// Begins a new line.
    pub(crate) fn newline(&mut self) {
        let Some(framebuffer) = self.framebuffer else { return };
        let rows = framebuffer.info.height / CELL_HEIGHT;
        self.column = 0;
        let next = |row| if row + 1 < rows { row + 1 } else { self.top };
        self.row = next(self.row);
        framebuffer.clear_row(self.row);
        framebuffer.clear_row(next(self.row));
    }
}

impl Framebuffer {
    /// Where `len` bytes at pixel `(x, y)` begin, if all lie inside.
    pub(super) fn at(&self, x: usize, y: usize, len: usize) -> Option<*mut u8> {
        let offset = (y * self.info.stride + x) * self.info.bytes_per_pixel;
        let inside = offset + len <= self.info.byte_len;
        inside.then(|| self.start.as_ptr().wrapping_add(offset))
    }

    fn clear_row(&self, row: usize) {
        let len = self.info.width * self.info.bytes_per_pixel;
        for y in row * CELL_HEIGHT..(row + 1) * CELL_HEIGHT {
            if let Some(line) = self.at(0, y, len) {
                // SAFETY: the bytes lie in the framebuffer, which is mapped.
                unsafe { line.write_bytes(0, len) };
            }
        }
    }

    fn draw(&self, row: usize, column: usize, character: char) {
        let Some(raster) = get_raster(character, WEIGHT, HEIGHT) else { return };
        let pixel = self.info.bytes_per_pixel;
        let mut line = [0; CELL_WIDTH * MAX_PIXEL];
        for (y, intensities) in raster.rows().enumerate() {
            let cells = line.chunks_exact_mut(pixel).zip(intensities);
            cells.for_each(|(bytes, &intensity)| self.colour(bytes, intensity));
            let len = CELL_WIDTH * pixel;
            let (x, y) = (column * CELL_WIDTH, row * CELL_HEIGHT + y);
            if let Some(to) = self.at(x, y, len) {
                // SAFETY: the bytes lie in the framebuffer, which is mapped.
                unsafe { to.copy_from_nonoverlapping(line.as_ptr(), len) };
            }
        }
    }

    /// Fills the bytes of one pixel with a grey.
    fn colour(&self, bytes: &mut [u8], intensity: u8) {
        match self.info.pixel_format {
            PixelFormat::Unknown { red_position, green_position, blue_position } => {
                bytes.fill(0);
                for position in [red_position, green_position, blue_position] {
                    if let Some(byte) = bytes.get_mut(usize::from(position / 8)) {
                        *byte = intensity;
                    }
                }
            }
            // A fourth byte is not looked at.
            _ => bytes.fill(intensity),
        }
    }
}
