//! Large text for a screen that is to be read from afar, or from a photograph:
//! how large each line may be, and its pixels. Pure; writes to a [`Canvas`].

use noto_sans_mono_bitmap::{FontWeight, RasterHeight, get_raster, get_raster_width};

const WEIGHT: FontWeight = FontWeight::Regular;
/// Pixels left free around the text.
const MARGIN: usize = 16;
/// Screen pixels for a pixel of a glyph, at most, in each direction.
const MAX_SCALE: usize = 8;
/// Pixels of a glyph's row at most.
const MAX_ROW: usize = get_raster_width(WEIGHT, RasterHeight::Size32) * MAX_SCALE;

/// What a line's colour says.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Tone {
    /// Nothing.
    Plain,
    /// All is well.
    Good,
    /// Something is not.
    Bad,
}

impl Tone {
    /// Red, green and blue of the text. The largest of the three is always 255,
    /// so that the largest of a pixel is how much of it the glyph covers.
    pub const fn rgb(self) -> [u8; 3] {
        match self {
            Self::Plain => [255, 255, 255],
            Self::Good => [64, 255, 64],
            Self::Bad => [255, 80, 80],
        }
    }
}

/// A line of a banner.
#[derive(Clone, Copy, Debug)]
pub struct Line<'a> {
    /// What it says, in ASCII.
    pub text: &'a str,
    /// What its colour says.
    pub tone: Tone,
    /// As large as it fits, instead of as large as plain reading wants.
    pub headline: bool,
}

/// Where the pixels go.
pub trait Canvas {
    /// Width and height (pixels).
    fn size(&self) -> (usize, usize);

    /// Colours a run of pixels from `(x, y)` on to the right, by how much of each
    /// is covered (0 to 255). What lies outside is left out.
    fn span(&mut self, x: usize, y: usize, cover: &[u8], tone: Tone);
}

/// Glyphs of one size.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Face {
    /// The glyphs that are drawn.
    pub raster: RasterHeight,
    /// Screen pixels for each of their pixels, in each direction.
    pub scale: usize,
}

impl Face {
    /// Width and height of a character's cell (pixels).
    pub fn cell(self) -> (usize, usize) {
        let width = get_raster_width(WEIGHT, self.raster);
        (width * self.scale, self.raster.val() * self.scale)
    }

    /// The face for a line of `chars` characters on a screen of `size`: what
    /// fits, up to a sixth of the height for a headline, or what makes 720 lines
    /// of pixels or more easy to read. The smallest there is if nothing fits.
    pub fn choose(chars: usize, headline: bool, size: (usize, usize)) -> Self {
        let (width, height) = (size.0.saturating_sub(2 * MARGIN), size.1);
        let large = if headline { height / 6 / RasterHeight::Size32.val() } else { height / 720 };
        let fits = |face: &Self| chars * face.cell().0 <= width;
        let scales = (1..=large.clamp(1, MAX_SCALE)).rev();
        scales
            .clone()
            .map(|scale| Self { raster: RasterHeight::Size32, scale })
            .chain(scales.map(|scale| Self { raster: RasterHeight::Size16, scale }))
            .find(fits)
            .unwrap_or(Self { raster: RasterHeight::Size16, scale: 1 })
    }
}

/// Draws `lines` below each other at the top of `canvas`, which is blank there.
/// Returns how many lines of pixels they take, at most three quarters of all:
/// what would need more is left out.
pub fn draw<'a>(canvas: &mut impl Canvas, lines: impl IntoIterator<Item = Line<'a>>) -> usize {
    let size = canvas.size();
    let limit = size.1 / 4 * 3;
    let mut y = MARGIN;
    for line in lines {
        let face = Face::choose(line.text.chars().count(), line.headline, size);
        let (width, height) = face.cell();
        if y + height + MARGIN > limit {
            break;
        }
        for (column, character) in line.text.chars().enumerate() {
            let x = MARGIN + column * width;
            if x + width + MARGIN > size.0 {
                break;
            }
            draw_glyph(canvas, (x, y), character, face, line.tone);
        }
        y += height;
    }
    (y + MARGIN).min(limit)
}

fn draw_glyph(
    canvas: &mut impl Canvas,
    (x, y): (usize, usize),
    character: char,
    face: Face,
    tone: Tone,
) {
    let glyph = |character| get_raster(character, WEIGHT, face.raster);
    let Some(glyph) = glyph(character).or_else(|| glyph('?')) else { return };
    let mut scaled = [0; MAX_ROW];
    for (row, cover) in glyph.rows().enumerate() {
        for (pixels, &cover) in scaled.chunks_exact_mut(face.scale).zip(cover) {
            pixels.fill(cover);
        }
        let cover = &scaled[..(cover.len() * face.scale).min(MAX_ROW)];
        for copy in 0..face.scale {
            canvas.span(x, y + row * face.scale + copy, cover, tone);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// A canvas that keeps what covers each pixel.
    struct Grey {
        width: usize,
        rows: Vec<Vec<u8>>,
    }

    impl Grey {
        fn new(width: usize, height: usize) -> Self {
            Self { width, rows: vec![vec![0; width]; height] }
        }
    }

    impl Canvas for Grey {
        fn size(&self) -> (usize, usize) {
            (self.width, self.rows.len())
        }

        fn span(&mut self, x: usize, y: usize, cover: &[u8], _: Tone) {
            self.rows[y][x..x + cover.len()].copy_from_slice(cover);
        }
    }

    fn line(text: &str, headline: bool) -> Line<'_> {
        Line { text, tone: Tone::Plain, headline }
    }

    #[test]
    fn lines_are_as_large_as_the_screen_lets_them_be() {
        let scale = |chars, headline, size| {
            let face = Face::choose(chars, headline, size);
            (face.raster.val(), face.scale)
        };
        assert_eq!(scale(14, true, (1280, 720)), (32, 3));
        assert_eq!(scale(14, true, (640, 480)), (32, 2));
        assert_eq!(scale(14, true, (3840, 2160)), (32, 8));
        assert_eq!(scale(60, false, (1280, 720)), (32, 1));
        assert_eq!(scale(60, false, (1280, 1600)), (32, 1));
        assert_eq!(scale(60, false, (3840, 2160)), (32, 3));
        assert_eq!(scale(60, false, (640, 480)), (16, 1));
        assert_eq!(scale(1000, true, (640, 480)), (16, 1));
        assert_eq!(scale(1, true, (0, 0)), (16, 1));
    }

    #[test]
    fn a_glyph_is_the_fonts_scaled() {
        let mut canvas = Grey::new(1280, 720);
        let height = draw(&mut canvas, [line("A", true)]);
        let face = Face::choose(1, true, (1280, 720));
        assert_eq!(height, face.cell().1 + 2 * MARGIN);
        let glyph = get_raster('A', WEIGHT, face.raster).unwrap();
        for (y, row) in canvas.rows.iter().enumerate() {
            for (x, &cover) in row.iter().enumerate() {
                let at = |pixel: usize| pixel.checked_sub(MARGIN).map(|inside| inside / face.scale);
                let want = at(x).zip(at(y)).and_then(|(x, y)| glyph.pixel(x, y)).unwrap_or(0);
                assert_eq!(cover, want, "{x} {y}");
            }
        }
    }

    #[test]
    fn what_does_not_fit_is_left_out() {
        for (width, height) in [(0, 0), (1, 1), (40, 60), (200, 100), (640, 480), (1280, 720)] {
            let mut canvas = Grey::new(width, height);
            let text = "x".repeat(500);
            let used = draw(&mut canvas, std::iter::repeat_n(line(&text, false), 100));
            assert!(used <= height, "{used} of {height}");
        }
    }

    #[test]
    fn what_has_no_glyph_is_a_question_mark() {
        let drawn = |text| {
            let mut canvas = Grey::new(640, 480);
            draw(&mut canvas, [line(text, false)]);
            canvas.rows
        };
        assert_eq!(drawn("a\u{7}é"), drawn("a??"));
    }
}
