//! What the interpreter asks of the place it runs in: the machine under study,
//! where text goes, CPUs, time, files that `mm` does not know. The kernel
//! implements it over the real machine, the host over a simulated one.
//! Calls nothing.

use crate::errno::{Errno, Error};
use core::fmt;
use mm::Mm;
use mm::arena::MovableArena;
use mm::balloon::Balloon;
use mm::cache::PageCache;
use mm::platform::Platform;
use mm::swap::SwapDevice;
use mm::types::CpuId;
use zram::Zram;

/// What a device that plugs memory into the machine has done and is to do. Sizes
/// in bytes; several devices are added up.
#[derive(Clone, Copy, PartialEq, Eq, Default, Debug)]
pub struct Plugged {
    /// What is plugged.
    pub plugged: u64,
    /// What the host wants plugged.
    pub requested: u64,
    /// What could be plugged at most.
    pub most: u64,
    /// If something has to wait, the time between two tries, in ms.
    pub retry_ms: Option<u64>,
}

/// The place a lab runs in.
pub trait World {
    /// The machine's platform.
    type Machine: Platform;

    /// The machine under study; None on the host while one is being described.
    fn mm(&self) -> Option<&'static Mm<Self::Machine>>;

    /// The arena that movable groups live in, registered with the machine.
    fn arena(&self) -> Option<&'static MovableArena<Self::Machine>>;

    /// The balloon by which the machine's host has some of its memory, if there
    /// is one.
    fn balloon(&self) -> Option<&'static Balloon<Self::Machine>> {
        None
    }

    /// Pages that the host wants, if it has said so.
    fn balloon_target(&self) -> Option<u64> {
        None
    }

    /// Has the host want so many pages.
    ///
    /// # Errors
    /// EPERM where the host is real.
    fn set_balloon_target(&mut self, _pages: u64) -> Result<(), Error> {
        Err(Error::new(Errno::EPERM, "that is for the host to say"))
    }

    /// The device of compressed memory, set up or not, if there is one.
    fn zram(&self) -> Option<&'static Zram<Self::Machine>> {
        None
    }

    /// The device of that path, `/dev/zram0`, that can be swapped to.
    fn swap_device(&self, _path: &str) -> Option<&'static dyn SwapDevice> {
        None
    }

    /// The page cache of the disk of that path, `/dev/vda`, if there is one.
    ///
    /// # Errors
    /// ENOSPC where there are too many.
    fn page_cache(&self, _path: &str) -> Result<Option<&'static PageCache>, Error> {
        Ok(None)
    }

    /// What is plugged into the machine by a device, if there is one.
    fn plugged(&self) -> Option<Plugged> {
        None
    }

    /// Has the host want so many bytes plugged.
    ///
    /// # Errors
    /// EPERM where the host is real; EINVAL for what it cannot want.
    fn request_plugged(&mut self, _bytes: u64) -> Result<(), Error> {
        Err(Error::new(Errno::EPERM, "that is for the host to say"))
    }

    /// Prints text as it is, without a time stamp; lines come with their `\n`,
    /// perhaps in pieces. Never fails: what cannot be shown is lost.
    fn print(&mut self, text: fmt::Arguments<'_>);

    /// Whether the user wants the command that is running to stop (^C). Asked
    /// between steps of long commands and lines of long output.
    fn interrupted(&self) -> bool {
        false
    }

    /// Runs `work` as `cpu`, with interrupts on.
    ///
    /// # Errors
    /// EINVAL where there is no such CPU, or it is not running.
    fn on_cpu(&mut self, cpu: CpuId, work: &mut dyn FnMut()) -> Result<(), Error>;

    /// Gives the lab's task `PF_MEMALLOC`, or takes it away.
    fn set_memalloc(&mut self, on: bool);

    /// Time moves on by `ms` milliseconds, and workers that are due run.
    ///
    /// # Errors
    /// EINTR when it was interrupted.
    fn tick(&mut self, ms: u64) -> Result<(), Error>;

    /// A line of a machine's description, between `machine` and `end`, these
    /// two among them. While a description is open, all lines come here.
    /// When `machine` has been accepted, the interpreter gives back all it holds
    /// of the old machine, which therefore is to stay usable until `end`.
    ///
    /// # Errors
    /// EPERM where the machine is real; EINVAL for a description that is wrong,
    /// and the machine that was there before is still there.
    fn describe(&mut self, _line: &str) -> Result<(), Error> {
        Err(Error::new(Errno::EPERM, "the machine is real"))
    }

    /// Whether memory can be added to the machine by a command: not to a real
    /// one.
    fn takes_memory(&self) -> bool {
        false
    }

    /// Whether a machine's description is open.
    fn is_describing(&self) -> bool {
        false
    }

    /// Writes the content of a file that `mm` does not know, such as
    /// `/proc/iomem`, to `out`.
    ///
    /// # Errors
    /// ENOENT where there is no such file.
    fn read_file(&self, path: &str, out: &mut dyn fmt::Write) -> Result<(), Error>;

    /// Writes `text` to such a file.
    ///
    /// # Errors
    /// ENOENT where there is no such file, EPERM where it is not to be written.
    fn write_file(&mut self, path: &str, text: &str) -> Result<(), Error>;

    /// Paths of such files, for completion.
    fn files(&self) -> &'static [&'static str];

    /// What can be asked of the host that this place is simulated on, as
    /// `host.NAME`; nothing where the machine is real.
    fn host_facts(&self) -> &'static [&'static str] {
        &[]
    }

    /// The value of such a fact; None for an unknown one.
    fn host_fact(&self, _name: &str) -> Option<u64> {
        None
    }

    /// A command of this place only (`reboot`, `dmesg` ...), already split into
    /// words. None where there is no such command.
    fn command(&mut self, _words: &[&str]) -> Option<Result<(), Error>> {
        None
    }

    /// Such commands: name, synopsis, one line of help, an example.
    fn commands(&self) -> &'static [[&'static str; 4]] {
        &[]
    }
}
