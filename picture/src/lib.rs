//! How pageblocks look in pictures of memory, the same in a file and on a
//! kernel's screen: what becomes one cell, its colour, its mark. Pure; calls
//! `mm::census`.
#![no_std]

mod cell;
mod grid;
mod look;

pub use cell::Cell;
pub use grid::Grid;
pub use look::{Colour, MARK, RESERVED, shade};
