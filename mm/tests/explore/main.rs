//! Interleavings of CPUs, explored: the manager's atomics and locks are an
//! explorer's, which decides at each whose turn it is. Every scenario runs under
//! thousands of schedules, random ones and such with few, well-placed switches;
//! what it allocates must be its own, and in the end nothing may be lost.
//!
//! Not explored are weak memory orders (every schedule is sequentially
//! consistent) and more than a few operations for each CPU: for the first there
//! is Miri, for both there are the tests with threads.
//!
//! `QUARRY_SEED` chooses other schedules, `QUARRY_SCHEDULES` how many there are
//! of each kind. A failure prints its schedule; `QUARRY_REPLAY='SCHEDULE'` with
//! the `QUARRY_WAY` printed beside it and the test's name runs that one again.

mod contig;
mod deferred;
mod mailbox;
mod movable;
mod pages;
mod reserve;
mod run;
mod slab;
mod stage;
mod types;
