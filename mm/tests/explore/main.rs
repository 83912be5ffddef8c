//! Interleavings of CPUs, explored: the manager's atomics and locks are an
//! explorer's, which decides at each whose turn it is. Every scenario runs under
//! thousands of schedules, random ones and such with few, well-placed switches;
//! what it allocates must be its own, and in the end nothing may be lost.
//!
//! Not explored are weak memory orders (every schedule is sequentially
//! consistent) and more than a few operations for each CPU: for the first there
//! is Miri, for both there are the tests with threads.
//!
//! Machines with a fault show that a scenario can fail (`Fault`). So did these
//! mistakes, put into the manager for a moment, each found by the module named:
//! isolating an isolated block, taking what lies on a CPU's list for free
//! (`contig`); putting what is freed in
//! an isolated or HighAtomic block on a CPU's list, claiming bits of an area
//! without its lock (`types`); not looking at a movable page again once it is
//! locked, not freeing what the last reference was dropped of, going on without
//! the page's lock (`movable`); taking a cache's arrays away without seeing each
//! CPU (`slab`); an array's object unlooked at while there are reserves
//! (`reserve`); listing a deferred block twice (`deferred`); a letter said to be
//! done before it is, a sender that does not look whether the addressee has
//! become idle (`mailbox`, `pages`).
//!
//! `QUARRY_SEED` chooses other schedules, `QUARRY_SCHEDULES` how many there are
//! of each kind. A failure prints its schedule; `QUARRY_REPLAY='SCHEDULE'` with
//! the `QUARRY_WAY` printed beside it and the test's name runs that one again.

mod balloon;
mod contig;
mod deferred;
mod hotplug;
mod huge;
mod mailbox;
mod movable;
mod pages;
mod poison;
mod report;
mod reserve;
mod run;
mod slab;
mod spaces;
mod stage;
mod swap;
mod types;
