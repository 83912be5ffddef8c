//! The real machine as the interpreter's world. Calls `console`, `task`,
//! `workers`, and the commands that only a kernel has.

use super::commands;
use crate::cmdline;
use crate::console::{self, input};
use crate::drivers::{self, virtio_mem};
use crate::mce;
use crate::memory;
use crate::platform::Machine;
use crate::task::{self, Rights};
use crate::workers::{self, Held};
use ::shell::{Errno, Error, Plugged, World};
use core::fmt;
use mm::Mm;
use mm::arena::MovableArena;
use mm::balloon::Balloon;
use mm::cache::PageCache;
use mm::swap::SwapDevice;
use mm::types::CpuId;
use quarry_kernel::cpuset::CpuSet;
use quarry_kernel::options::Options;
use zram::Zram;

/// Milliseconds slept at a time: how long ^C may take to end it.
const NAP_MS: u64 = 20;

/// What the lab works on.
#[derive(Clone, Copy)]
pub(super) struct Subject {
    pub(super) mm: &'static Mm<Machine>,
    pub(super) arena: &'static MovableArena<Machine>,
    pub(super) options: Options<'static>,
}

/// The real machine.
pub(super) struct Kernel {
    on: Option<Subject>,
    /// While a script runs.
    held: Option<Held>,
}

impl Kernel {
    pub(super) const fn new() -> Self {
        Self { on: None, held: None }
    }

    /// Says what there is. The arena is registered with `mm`.
    pub(super) fn attach(
        &mut self,
        mm: &'static Mm<Machine>,
        arena: &'static MovableArena<Machine>,
        options: Options<'static>,
    ) {
        self.on = Some(Subject { mm, arena, options });
    }

    /// Has workers do their rounds only while time moves on, as on a simulated
    /// machine, so that what a script sees does not depend on how fast they are;
    /// or whenever they want.
    pub(super) fn hold_workers(&mut self, on: bool) {
        self.held = on.then(workers::hold);
    }

    /// Does `work` with the workers free to do theirs.
    fn let_go<R>(&mut self, work: impl FnOnce() -> R) -> R {
        let held = self.held.take().is_some();
        let result = work();
        self.hold_workers(held);
        result
    }

    /// Sleeps, and waits until what was asked of workers is done.
    fn pass_time(ms: u64) -> Result<(), Error> {
        let mut left = ms;
        while left > 0 {
            if input::interrupted() {
                return Err(Error::new(Errno::EINTR, "interrupted"));
            }
            let nap = left.min(NAP_MS);
            task::sleep(nap);
            left -= nap;
        }
        workers::settle();
        Ok(())
    }
}

impl World for Kernel {
    type Machine = Machine;

    fn mm(&self) -> Option<&'static Mm<Machine>> {
        self.on.map(|on| on.mm)
    }

    fn arena(&self) -> Option<&'static MovableArena<Machine>> {
        self.on.map(|on| on.arena)
    }

    fn balloon(&self) -> Option<&'static Balloon<Machine>> {
        Some(drivers::balloon::pages())
    }

    fn zram(&self) -> Option<&'static Zram<Machine>> {
        Some(drivers::zram::device())
    }

    fn swap_device(&self, path: &str) -> Option<&'static dyn SwapDevice> {
        let disk = || Some(drivers::blk::find(path)?.swap() as &'static dyn SwapDevice);
        drivers::zram::swap(self.on?.mm, path).or_else(disk)
    }

    fn page_cache(&self, path: &str) -> Result<Option<&'static PageCache>, Error> {
        let (Some(on), Some(disk)) = (self.on, drivers::blk::find(path)) else { return Ok(None) };
        let full = Error::new(Errno::ENOSPC, "too many page caches");
        disk.cache(on.mm).map(Some).map_err(|_| full)
    }

    fn balloon_target(&self) -> Option<u64> {
        drivers::balloon::target()
    }

    fn plugged(&self) -> Option<Plugged> {
        virtio_mem::plugged()
    }

    fn print(&mut self, text: fmt::Arguments<'_>) {
        console::print(text);
    }

    fn interrupted(&self) -> bool {
        input::interrupted()
    }

    fn on_cpu(&mut self, cpu: CpuId, work: &mut dyn FnMut()) -> Result<(), Error> {
        // The thread goes there itself, so the work has its rights as well.
        let nowhere = |_| Error::new(Errno::EINVAL, "no such CPU, or it does not run");
        let home = task::pin().cpu();
        task::move_to(CpuSet::one(cpu)).map_err(nowhere)?;
        work();
        task::move_to(CpuSet::one(home)).map_err(nowhere)
    }

    fn set_memalloc(&mut self, on: bool) {
        let thread = task::current();
        let mut rights = thread.rights();
        rights.set(Rights::MEMALLOC, on);
        thread.set_rights(rights);
    }

    fn tick(&mut self, ms: u64) -> Result<(), Error> {
        self.let_go(|| Self::pass_time(ms))
    }

    fn read_file(&self, path: &str, out: &mut dyn fmt::Write) -> Result<(), Error> {
        let stopped = |_| Error::new(Errno::EINTR, "interrupted");
        match path {
            "/proc/cmdline" => writeln!(out, "{}", cmdline::get()).map_err(stopped),
            "/proc/iomem" => memory::iomem::write(out).map_err(stopped),
            virtio_mem::FILE => virtio_mem::write(out).map_err(stopped),
            mce::FILE => mce::write_file(out).map_err(stopped),
            _ => Err(Error::new(Errno::ENOENT, "no such file")),
        }
    }

    fn write_file(&mut self, path: &str, _text: &str) -> Result<(), Error> {
        if self.files().contains(&path) {
            return Err(Error::new(Errno::EPERM, "not to be written"));
        }
        Err(Error::new(Errno::ENOENT, "no such file"))
    }

    fn files(&self) -> &'static [&'static str] {
        &["/proc/cmdline", "/proc/iomem", virtio_mem::FILE, mce::FILE]
    }

    fn command(&mut self, words: &[&str]) -> Option<Result<(), Error>> {
        let on = self.on?;
        let (name, words) = words.split_first()?;
        let command = commands::COMMANDS.iter().find(|known| known.text[0] == *name)?;
        // They may want to wait for workers.
        Some(self.let_go(|| (command.run)(&on, words)))
    }

    fn commands(&self) -> &'static [[&'static str; 4]] {
        &commands::TEXTS
    }
}
