//! Free page reporting, with devices that do what a test tells them to.
//! Needs the feature `host`.

mod device;
mod ending;
mod passes;
mod stress;
