//! The lab: a small command language for trying things on memory and watching
//! what happens. One interpreter, used at the kernel's prompt, for scripts at
//! boot, and on the host over a simulated machine. May call everything public
//! in `mm`; what it runs in is behind the trait [`World`]. It allocates nothing
//! of its own but what its commands ask for.
#![no_std]

pub mod edit;
mod errno;
mod world;

pub use errno::{Errno, Error};
pub use world::World;
