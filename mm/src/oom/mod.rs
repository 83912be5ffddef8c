//! Out of memory: when nothing else is left, those who can give memory back are
//! asked, and then an address space is chosen and its memory taken, so that all
//! others can go on (Linux mm/oom_kill.c). May call: `space`, whoever has
//! registered.

mod kill;
mod notify;
pub mod score;

pub(crate) use kill::Oom;
pub(crate) use notify::OomNotifiers;
pub use notify::{OomNotifier, TooManyNotifiers};
