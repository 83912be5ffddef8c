//! The lab on an ordinary host: machines that are described in a few lines and
//! simulated on sparsely backed memory, and the lab's interpreter over them. May
//! call: `mm`, `shell`.

mod machine;
mod output;
mod run;
mod world;

pub use machine::{Description, Simulated};
pub use output::Output;
pub use run::run;
pub use world::HostWorld;
