//! What the operations of `mm` cost. Each is a function over a manager, timed
//! in windows by a [`Counter`]: in the kernel the time stamp counter, which
//! under `-icount shift=0,sleep=off` of QEMU counts instructions exactly. The
//! method is the one that Linux's figures in [`table`] were counted with:
//! operations in a loop, the loop's own few instructions included, the cost of
//! an empty window taken off, and the median of many windows, among which those
//! that an interrupt fell into disappear.
//!
//! May call everything public in `mm`; allocates nothing of its own.
#![no_std]

mod compact;
mod contig;
mod cost;
mod fault;
mod migrate;
mod pages;
mod run;
mod slab;
mod swap;
pub mod table;

pub use cost::Cost;
pub use fault::Threads;
pub use run::{Boot, Counter, Ground, Report, Scratch, Tally, Why, run};
pub use swap::Compressed;
