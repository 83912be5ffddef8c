//! Pictures beside the text: the right part of the screen can be taken for
//! rectangles of colour, and text goes on scrolling in the left part. Calls
//! `devices`.

pub(crate) use crate::console::screen::Area;

use crate::console::devices::with_screen;
use crate::console::screen::Screen;

/// Takes the right part of the screen, of `width` pixels or a few more, and makes
/// it black. None if there is no screen, or no room beside 20 columns of text,
/// or somebody has it. In a thread, no lock held.
pub(crate) fn open(width: usize) -> Option<Area> {
    with_screen(|screen| screen.lend(width))
}

/// The screen as a whole, in pixels.
pub(crate) fn screen() -> Option<Area> {
    with_screen(|screen| screen.area())
}

/// A rectangle, in pixels from the upper left corner of the part that was taken,
/// and its colour: red, green, blue.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) struct Fill {
    /// Its left edge.
    pub(crate) x: usize,
    /// Its upper edge.
    pub(crate) y: usize,
    /// Its width.
    pub(crate) w: usize,
    /// Its height.
    pub(crate) h: usize,
    /// Its colour.
    pub(crate) colour: [u8; 3],
}

/// Draws rectangles, one over the other; what lies outside is left out. Without
/// [`open`] nothing happens. Text waits meanwhile, so a large picture is better
/// drawn in pieces. In a thread, no lock held.
pub(crate) fn fill(rectangles: impl IntoIterator<Item = Fill>) {
    with_screen(|screen| {
        for Fill { x, y, w, h, colour } in rectangles {
            screen.fill_lent(x, y, w, h, colour);
        }
    });
}

/// Gives the part back to the text. In a thread, no lock held.
pub(crate) fn close() {
    with_screen(Screen::take_back);
}
