//! Reads text off a picture of the screen, by comparing it with the font's
//! glyphs, and the self-tests' result from that. Pure.
//!
//! It knows the font and nothing of the kernel's code, so that what that draws
//! wrongly is not read either.

use crate::outcome::Report;
use noto_sans_mono_bitmap::{FontWeight, RasterHeight, get_raster, get_raster_width};
use std::collections::HashMap;

/// What can be written.
const CHARACTERS: std::ops::RangeInclusive<char> = ' '..='~';
const WEIGHT: FontWeight = FontWeight::Regular;
/// The large text's first words.
const HEADLINE: &str = "Quarry: ";
/// Glyphs are looked for in up to this many times their size.
const MAX_SCALE: usize = 8;

/// A picture, as how bright the brightest colour of each pixel is: text is read
/// whatever its colour.
#[derive(Debug)]
pub struct Picture {
    width: usize,
    height: usize,
    pixels: Vec<u8>,
}

impl Picture {
    /// Reads a binary PPM (`P6`) with 8 bits for a colour, as QEMU writes it.
    pub fn from_ppm(bytes: &[u8]) -> Option<Self> {
        let mut rest = bytes.strip_prefix(b"P6")?;
        let mut numbers = [0_usize; 3];
        for number in &mut numbers {
            rest = rest.trim_ascii_start();
            while let Some(remark) = rest.strip_prefix(b"#") {
                let end = remark.iter().position(|&byte| byte == b'\n')?;
                rest = remark[end..].trim_ascii_start();
            }
            let len = rest.iter().position(|byte| !byte.is_ascii_digit())?;
            *number = std::str::from_utf8(&rest[..len]).ok()?.parse().ok()?;
            rest = &rest[len..];
        }
        let [width, height, 255] = numbers else { return None };
        let len = width.checked_mul(height)?.checked_mul(3)?;
        // One white-space character stands before the pixels.
        let pixels = rest.get(1..)?.get(..len)?;
        let brightest = |pixel: &[u8; 3]| pixel.iter().copied().max().unwrap_or(0);
        Some(Self { width, height, pixels: pixels.as_chunks().0.iter().map(brightest).collect() })
    }

    /// Width and height (pixels).
    pub fn size(&self) -> (usize, usize) {
        (self.width, self.height)
    }

    /// What of row `y` lies in the `len` pixels from `x` on.
    fn row(&self, x: usize, y: usize, len: usize) -> Option<&[u8]> {
        let inside = x + len <= self.width && y < self.height;
        inside.then(|| &self.pixels[y * self.width + x..][..len])
    }

    /// Whether `character` stands with its upper left corner at `(x, y)`.
    fn shows(&self, (x, y): (usize, usize), character: char, face: Face) -> bool {
        let Some(glyph) = get_raster(character, WEIGHT, face.raster) else { return false };
        let scale = face.scale;
        (0..glyph.height() * scale).all(|line| {
            let row = self.row(x, y + line, glyph.width() * scale);
            row.is_some_and(|row| {
                let mut pixels = row.iter().enumerate();
                pixels.all(|(at, &seen)| glyph.pixel(at / scale, line / scale) == Some(seen))
            })
        })
    }

    /// The character at `(x, y)`.
    fn read(&self, at: (usize, usize), face: Face) -> Option<char> {
        CHARACTERS.into_iter().find(|&character| self.shows(at, character, face))
    }

    /// The line of text that begins at `(x, y)`, and how many pixels high it is;
    /// it ends where the picture does or no glyph is.
    fn line(&self, (x, y): (usize, usize)) -> Option<(String, usize)> {
        let begun =
            Face::all().find(|&face| self.read((x, y), face).is_some_and(|first| first != ' '))?;
        let columns = (x..self.width).step_by(begun.width());
        let text: String = columns.map_while(|x| self.read((x, y), begun)).collect();
        Some((text.trim_end().to_owned(), begun.height()))
    }

    /// Where `text` stands, and in which face: the largest, there the topmost.
    pub fn find(&self, text: &str) -> Option<((usize, usize), Face)> {
        Face::all().find_map(|face| Some((self.find_in(text, face)?, face)))
    }

    fn find_in(&self, text: &str, face: Face) -> Option<(usize, usize)> {
        let first = get_raster(text.chars().next()?, WEIGHT, face.raster)?;
        // Most places are ruled out by the first pixel that is not dark.
        let dark = first.pixels().iter().position(|&pixel| pixel != 0)?;
        let bright = first.pixels()[dark];
        let (left, above) = (dark % first.width() * face.scale, dark / first.width() * face.scale);
        let whole = |&(x, y): &(usize, usize)| {
            let columns = (x..).step_by(face.width());
            columns.zip(text.chars()).all(|(x, character)| self.shows((x, y), character, face))
        };
        let seen = self.pixels.iter().enumerate().filter(|pixel| *pixel.1 == bright);
        let places = seen.filter_map(|(at, _)| {
            let (x, y) = (at % self.width, at / self.width);
            Some((x.checked_sub(left)?, y.checked_sub(above)?))
        });
        { places }.find(whole)
    }

    /// The lines of large text that begin with the headline.
    fn banner(&self) -> Option<Vec<String>> {
        let ((x, mut y), _) = self.find(HEADLINE)?;
        let mut lines = Vec::new();
        while let Some((text, height)) = self.line((x, y)) {
            lines.push(text);
            y += height;
        }
        Some(lines)
    }

    /// The self-tests' result, once it is there.
    pub fn summary(&self) -> Option<Summary> {
        Summary::read(self.banner()?)
    }

    /// The small text, which stands in cells from the upper left corner on: lines
    /// without the blanks at their ends, up to the last that is not empty. In the
    /// larger letters of a large screen if there is more to read in those.
    pub fn small_text(&self) -> Vec<String> {
        let read = [RasterHeight::Size16, RasterHeight::Size32].map(|size| self.cells(size));
        let letters =
            |lines: &Vec<String>| lines.iter().map(|line| line.trim().len()).sum::<usize>();
        read.into_iter().rev().max_by_key(letters).unwrap_or_default()
    }

    fn cells(&self, raster: RasterHeight) -> Vec<String> {
        let face = Face { raster, scale: 1 };
        let glyphs: HashMap<&[u8], char> = CHARACTERS
            .into_iter()
            .filter_map(|c| Some((get_raster(c, WEIGHT, face.raster)?.pixels(), c)))
            .collect();
        let read = |x, y| {
            let rows = (y..y + face.height()).map(|y| self.row(x, y, face.width()));
            let cell: Option<Vec<&[u8]>> = rows.collect();
            cell.and_then(|cell| glyphs.get(&*cell.concat()).copied())
        };
        let line = |y| {
            let columns = (0..self.width / face.width()).map(|column| column * face.width());
            let text: String = columns.map(|x| read(x, y).unwrap_or(' ')).collect();
            text.trim_end().to_owned()
        };
        let rows = self.height / face.height();
        let mut lines: Vec<String> = (0..rows).map(|row| line(row * face.height())).collect();
        lines.truncate(lines.iter().rposition(|line| !line.is_empty()).map_or(0, |last| last + 1));
        lines
    }
}

/// Glyphs of one size.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Face {
    raster: RasterHeight,
    scale: usize,
}

impl Face {
    /// All there are, the largest first.
    fn all() -> impl Iterator<Item = Self> {
        let rasters = [RasterHeight::Size32, RasterHeight::Size16];
        let scaled = |raster| (1..=MAX_SCALE).rev().map(move |scale| Self { raster, scale });
        rasters.into_iter().flat_map(scaled)
    }

    fn width(self) -> usize {
        get_raster_width(WEIGHT, self.raster) * self.scale
    }

    fn height(self) -> usize {
        self.raster.val() * self.scale
    }
}

/// What the large text says.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Summary {
    /// The verdict in words was "PASSED".
    pub passed: bool,
    /// How many tests did what.
    pub report: Report,
    /// All of it.
    pub lines: Vec<String>,
}

impl Summary {
    fn read(lines: Vec<String>) -> Option<Self> {
        let passed = match lines.first()?.strip_prefix(HEADLINE)? {
            "PASSED" => true,
            "FAILED" => false,
            _ => return None,
        };
        let mut words = lines.get(1)?.split(", ");
        let mut number = |of| words.next()?.strip_suffix(of)?.strip_suffix(' ')?.parse().ok();
        let report =
            Report { pass: number("passed")?, fail: number("failed")?, skip: number("skipped")? };
        // A report without the build's name is none.
        let whole = lines.iter().any(|line| line.starts_with("build "));
        whole.then_some(Self { passed, report, lines })
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use quarry_kernel::banner::{self, Canvas, Line, Tone};

    /// A screen as QEMU would save it, drawn on by the kernel's code.
    struct Screen {
        width: usize,
        height: usize,
        rgb: Vec<u8>,
    }

    impl Screen {
        fn new(width: usize, height: usize) -> Self {
            Self { width, height, rgb: vec![0; width * height * 3] }
        }

        fn with(lines: &[(&str, Tone)]) -> Self {
            let mut screen = Self::new(1280, 720);
            let line =
                |(at, &(text, tone)): (usize, &(_, _))| Line { text, tone, headline: at == 0 };
            banner::draw(&mut screen, lines.iter().enumerate().map(line));
            screen
        }

        fn ppm(&self) -> Vec<u8> {
            let head = format!("P6\n# saved\n{} {}\n255\n", self.width, self.height);
            [head.as_bytes(), &self.rgb].concat()
        }

        fn picture(&self) -> Picture {
            Picture::from_ppm(&self.ppm()).unwrap()
        }
    }

    impl Canvas for Screen {
        fn size(&self) -> (usize, usize) {
            (self.width, self.height)
        }

        fn span(&mut self, x: usize, y: usize, cover: &[u8], tone: Tone) {
            for (x, &cover) in (x..).zip(cover) {
                let colour =
                    tone.rgb().map(|full| (u16::from(full) * u16::from(cover) / 255) as u8);
                self.rgb[(y * self.width + x) * 3..][..3].copy_from_slice(&colour);
            }
        }
    }

    const GOOD: [(&str, Tone); 4] = [
        ("Quarry: PASSED", Tone::Good),
        ("201 passed, 0 failed, 3 skipped", Tone::Plain),
        ("build 0.1.0 (12ab-dirty)", Tone::Plain),
        (
            "a line that is so long that it needs the smaller one of the fonts, which is 16",
            Tone::Plain,
        ),
    ];

    #[test]
    fn what_the_kernel_draws_is_read() {
        let summary = Screen::with(&GOOD).picture().summary().unwrap();
        let report = Report { pass: 201, fail: 0, skip: 3 };
        assert_eq!((summary.passed, summary.report), (true, report));
        assert_eq!(summary.lines, GOOD.map(|line| line.0));
    }

    #[test]
    fn a_failure_is_read_with_its_names() {
        let lines = [
            ("Quarry: FAILED", Tone::Bad),
            ("7 passed, 1 failed, 0 skipped", Tone::Plain),
            ("not ok: buddy.split", Tone::Bad),
            ("build x", Tone::Plain),
        ];
        let summary = Screen::with(&lines).picture().summary().unwrap();
        assert!(!summary.passed && summary.report.fail == 1);
        assert_eq!(summary.lines[2], "not ok: buddy.split");
    }

    #[test]
    fn one_wrong_pixel_is_noticed() {
        let mut screen = Screen::with(&GOOD);
        // In the middle of the headline's last letter.
        let face = banner::Face::choose(GOOD[0].0.len(), true, (1280, 720));
        let (width, height) = face.cell();
        let at = ((16 + height / 2) * 1280 + 16 + 13 * width + width / 2) * 3;
        for byte in &mut screen.rgb[at..at + 3] {
            *byte ^= 0x80;
        }
        assert_eq!(screen.picture().summary(), None);
    }

    #[test]
    fn half_a_summary_is_none() {
        assert_eq!(Screen::new(640, 480).picture().summary(), None);
        assert_eq!(Screen::new(0, 0).picture().summary(), None);
        for count in 0..3 {
            assert_eq!(Screen::with(&GOOD[..count]).picture().summary(), None, "{count}");
        }
        for bad in ["Quarry: MAYBE", "PASSED", "Quarry: PASSED?"] {
            let mut lines = GOOD;
            lines[0].0 = bad;
            assert_eq!(Screen::with(&lines).picture().summary(), None, "{bad}");
        }
        for bad in ["201 passed", "x passed, 0 failed, 0 skipped", "0 failed, 1 passed, 0 skipped"]
        {
            let mut lines = GOOD;
            lines[1].0 = bad;
            assert_eq!(Screen::with(&lines).picture().summary(), None, "{bad}");
        }
    }

    #[test]
    fn small_text_is_read_from_its_cells() {
        for size in [RasterHeight::Size16, RasterHeight::Size32] {
            let mut screen = Screen::new(100, 130);
            let glyph = get_raster('q', WEIGHT, size).unwrap();
            for (y, row) in glyph.rows().enumerate() {
                screen.span(2 * glyph.width(), size.val() + y, row, Tone::Plain);
            }
            assert_eq!(screen.picture().small_text(), ["", "  q"]);
        }
        assert!(Screen::new(100, 130).picture().small_text().is_empty());
    }

    #[test]
    fn what_is_no_ppm_is_refused() {
        let good = Screen::new(2, 2).ppm();
        assert_eq!(Picture::from_ppm(&good).unwrap().size(), (2, 2));
        for len in 0..good.len() {
            assert!(Picture::from_ppm(&good[..len]).is_none(), "{len}");
        }
        for bad in ["P5\n1 1\n255\nxxx", "P6\n1 1\n65535\nxxx", "P6\n-1 1\n255\nxxx", "P6\n#"] {
            assert!(Picture::from_ppm(bad.as_bytes()).is_none(), "{bad}");
        }
        let huge = format!("P6 {0} {0} 255\n", usize::MAX);
        assert!(Picture::from_ppm(huge.as_bytes()).is_none());
    }
}
