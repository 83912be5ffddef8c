//! Who has mapped a page: the way back from a page to the entries that map it
//! (Linux mm/rmap.c). An anonymous page names its *group* and its number in
//! there; a group lists the regions that may have its pages. What is asked of
//! the entries is in the files below. May call: `alloc`, `page`, swap's counts,
//! trait `Mmu`; knows regions and spaces as data.
//!
//! A region gets a group when it is made, and its parts and what `fork` copies
//! of it join the same one. A region leaves only when nothing of it is mapped
//! any more: so a page that is mapped has a group with regions in it, and one
//! that is not need not have any: whoever looks a group up by a number that is out
//! of date finds none, or regions that do not map the page.

mod group;
mod moving;
mod remap;
mod split;
mod table;
mod unmap;
mod walk;

pub(crate) use moving::{Places, Target};
pub(crate) use table::{FreeGroups, Groups};
pub use unmap::{References, Unmap};
pub(crate) use walk::Key;
