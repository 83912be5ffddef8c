//! Large text at the top of the framebuffer: where `quarry_kernel::banner` puts
//! its pixels. Calls nothing else.

use super::screen::Framebuffer;
use bootloader_api::info::PixelFormat;
use quarry_kernel::banner::{Canvas, Tone};

impl Canvas for Framebuffer {
    fn size(&self) -> (usize, usize) {
        (self.info.width, self.info.height)
    }

    fn span(&mut self, x: usize, y: usize, cover: &[u8], tone: Tone) {
        let room = self.info.width.saturating_sub(x);
        for (x, &cover) in (x..).zip(cover.iter().take(room)) {
            let pixel = pixel(self.info.pixel_format, tone, cover);
            let len = self.info.bytes_per_pixel.min(pixel.len());
            if let Some(to) = self.at(x, y, len) {
                // SAFETY: the bytes lie in the framebuffer, which is mapped.
                unsafe { to.copy_from_nonoverlapping(pixel.as_ptr(), len) };
            }
        }
    }
}

/// The bytes of a pixel that is covered so far with text.
fn pixel(format: PixelFormat, tone: Tone, cover: u8) -> [u8; 4] {
    let colour = tone.rgb().map(|full| (u16::from(full) * u16::from(cover) / 255) as u8);
    let [red, green, blue] = colour;
    match format {
        PixelFormat::Rgb => [red, green, blue, 0],
        PixelFormat::Bgr => [blue, green, red, 0],
        PixelFormat::Unknown { red_position, green_position, blue_position } => {
            let mut bytes = [0; 4];
            for (position, part) in [red_position, green_position, blue_position].iter().zip(colour)
            {
                if let Some(byte) = bytes.get_mut(usize::from(position / 8)) {
                    *byte = part;
                }
            }
            bytes
        }
        // Greys, in one byte or in each.
        _ => [cover; 4],
    }
}
