//! The Quarry kernel.
fn main() {}
