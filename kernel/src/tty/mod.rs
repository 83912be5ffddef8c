//! What consoles do with text and keys, as far as it needs no device: the memory
//! of what was written, the queue of what was typed. Pure.

mod ring;
mod typed;

pub use ring::Ring;
pub use typed::{INTERRUPT, Typed};
