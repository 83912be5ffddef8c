//! The lab on an ordinary host: machines that are described in a few lines and
//! simulated on sparsely backed memory, and the lab's interpreter over them. May
//! call: `mm`, `shell`.

mod compare;
mod input;
mod machine;
mod output;
pub mod picture;
mod run;
mod world;

pub use compare::{Difference, compare, section};
pub use input::read_input;
pub use machine::{Description, Simulated};
pub use output::{Kept, Output};
pub use run::run;
pub use world::HostWorld;
