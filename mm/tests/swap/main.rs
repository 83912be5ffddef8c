//! Swap: what goes out comes back as it was, whatever fails on the way and
//! whoever does what at the same time; and no slot is lost.
#![cfg(feature = "host")]

mod basics;
#[cfg(not(miri))]
mod batch;
#[cfg(not(miri))]
mod dying;
mod model;
#[cfg(not(miri))]
mod spaces;
mod world;
