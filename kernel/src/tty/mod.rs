//! What consoles do with text and keys, as far as it needs no device: the memory
//! of what was written, the queue of what was typed. Pure.

mod cells;
pub mod i8042;
mod keys;
mod names;
mod past;
mod ring;
mod typed;

pub use cells::{INVERSE, MAX_CELLS, TextScreen};
pub use keys::Keys;
pub use names::{Console, Consoles, Device, FIRMWARE_LINE, LineMode, Parity, SERIAL_LINES};
pub use ring::Ring;
pub use typed::{INTERRUPT, Typed};
