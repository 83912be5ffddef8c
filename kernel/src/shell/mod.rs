//! The lab in the kernel: scripts at boot, and the prompt. Both run in the
//! boot's last thread, on the boot CPU. Calls the interpreter in the crate
//! `shell`, and of the kernel whatever its commands show or do.

mod commands;
mod leaks;
mod prompt;
mod scripts;
mod view;
mod world;

use crate::platform::Machine;
use crate::take::Take;
use ::shell::Lab;
use mm::Mm;
use mm::arena::MovableArena;
use quarry_kernel::options::Options;
use world::Kernel;

/// The interpreter; large, and there is one.
static LAB: Take<Lab<Kernel>> = Take::new(Lab::new(Kernel::new()));

/// The pages of movable groups.
static ARENA: MovableArena<Machine> = MovableArena::new();

/// The lab, for the thread that opened it.
pub(crate) struct Shell {
    lab: &'static mut Lab<Kernel>,
}

impl Shell {
    /// Opens the lab. None, and the log says why, if that was done before or
    /// cannot be.
    pub(crate) fn open(mm: &'static Mm<Machine>, options: &Options<'static>) -> Option<Self> {
        let lab = LAB.take()?;
        if ARENA.register(mm).is_err() {
            log::error!("no lab: too many drivers of movable pages");
            return None;
        }
        lab.world_mut().attach(mm, &ARENA, *options);
        Some(Self { lab })
    }
}
