//! Shows what Quarry would make of a firmware memory map (`scripts/map`).
fn main() {}
