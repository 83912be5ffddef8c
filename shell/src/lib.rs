//! The lab: a small command language for trying things on memory and watching
//! what happens. One interpreter, used at the kernel's prompt, for scripts at
//! boot, and on the host over a simulated machine. May call everything public
//! in `mm`; what it runs in is behind the trait [`World`]. It allocates nothing
//! of its own but what its commands ask for.
#![no_std]
#[cfg(test)]
extern crate std;

mod commands;
mod complete;
pub mod edit;
mod errno;
mod facts;
mod gfp;
mod groups;
mod help;
mod lab;
mod ledger;
mod name;
mod notes;
mod parse;
mod script;
mod space_facts;
mod spaces;
mod world;

pub use commands::files::SNAPSHOT;
pub use errno::{Errno, Error};
pub use gfp::gfp_words;
pub use groups::GROUPS_MAX;
pub use help::{COMMANDS, Command, TOPICS};
pub use lab::{Lab, Outcome, Verdict};
pub use name::NAME_MAX;
pub use notes::NOTES_MAX;
pub use parse::{LINE_MAX, WORDS_MAX, without_comment};
pub use spaces::{REGIONS_MAX, SPACES_MAX};
pub use world::{Plugged, World};
