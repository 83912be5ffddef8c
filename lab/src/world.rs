//! The lab's place on the host: a simulated machine that scripts replace, its
//! CPUs all run by this thread, time that moves when it is told to. May call:
//! `machine`, `output`, `mm`, `shell`.

use crate::machine::{Description, Host, Simulated};
use crate::output::Output;
use mm::Mm;
use mm::arena::MovableArena;
use mm::balloon::{Balloon, RETRY_MS, Step};
use mm::cache::PageCache;
use mm::platform::{Context, Platform, Worker};
use mm::swap::SwapDevice;
use mm::types::CpuId;
use shell::{Errno, Error, Plugged, World, without_comment};
use std::fmt;
use zram::Zram;

/// Rounds that workers may cause each other to do in one moment.
const ROUNDS: usize = 64;

/// The lab's place on the host.
#[derive(Debug)]
pub struct HostWorld {
    output: Output,
    machine: Simulated,
    /// A machine that is being described.
    open: Option<Description>,
    /// When each CPU's arrays are looked at next, in ms.
    reaps: Vec<u64>,
    /// Workers that have said when they want their next round, in ms.
    rounds: Vec<(Worker, u64)>,
    memalloc: bool,
    /// Pages that this host wants, if it has said so.
    target: Option<u64>,
    /// When the balloon goes on its way there, in ms.
    pursued: Option<u64>,
}

impl HostWorld {
    /// A place with the machine that there is by default.
    ///
    /// # Errors
    /// ENOMEM if this host has no addresses for it.
    pub fn new(output: Output) -> Result<Self, Error> {
        Self::on(&Description::default(), output)
    }

    /// A place with a machine of the caller's choice.
    ///
    /// # Errors
    /// As [`World::describe`] for its last line.
    pub fn on(description: &Description, output: Output) -> Result<Self, Error> {
        // SAFETY: what the machine lends goes to the interpreter through `World`
        // alone, which drops it before it has this replaced (see
        // `World::describe`) and cannot outlive this, for it owns it.
        let machine = unsafe { Simulated::boot(description, &output)? };
        let (reaps, rounds) = (Vec::new(), Vec::new());
        let mut world = Self {
            output,
            machine,
            open: None,
            reaps,
            rounds,
            memalloc: false,
            target: None,
            pursued: None,
        };
        world.begin();
        Ok(world)
    }

    /// The machine's background begins.
    fn begin(&mut self) {
        self.set_memalloc(false);
        self.rounds.clear();
        (self.target, self.pursued) = (None, None);
        self.reaps = vec![0; usize::from(self.machine.mm().platform().cpus())];
        self.reap_due();
    }

    /// Runs `work` as that CPU, which there must be.
    fn as_cpu<R>(&self, cpu: CpuId, work: impl FnOnce() -> R) -> R {
        let machine = self.machine.mm().platform().machine();
        machine.run_on(cpu);
        let result = work();
        machine.run_on(CpuId(0));
        result
    }

    /// Runs `work` with other rights than the lab's.
    fn with_rights<R>(&self, memalloc: bool, work: impl FnOnce() -> R) -> R {
        let machine = self.machine.mm().platform().machine();
        machine.set_context(Context { memalloc, ..Context::default() });
        let result = work();
        machine.set_context(Context { memalloc: self.memalloc, ..Context::default() });
        result
    }

    /// Brings the balloon as near to what this host wants as it gets now.
    fn run_balloon(&mut self) {
        let (mm, now) = (self.machine.mm(), self.machine.mm().platform().now_ms());
        let (Some(target), Some(due)) = (self.target, self.pursued) else { return };
        if due > now {
            return;
        }
        let balloon = self.machine.balloon();
        self.pursued = self.with_rights(false, || {
            loop {
                match balloon.toward(mm, target) {
                    Ok(Step::More) => {}
                    Ok(Step::Done) | Err(_) => return None,
                    Ok(Step::Wait) => return Some(now + RETRY_MS),
                }
            }
        });
    }

    /// Has the driver of what is plugged do its round, if one is due.
    fn run_plug(&mut self) {
        let now = self.machine.mm().platform().now_ms();
        if self.machine.plug_due().is_some_and(|due| due <= now) {
            let machine = self.machine.mm().platform().machine();
            machine.set_context(Context::default());
            self.machine.plug_round();
            machine.set_context(Context { memalloc: self.memalloc, ..Context::default() });
        }
    }

    /// Ages what the slab layer keeps, on each CPU where it is time to.
    fn reap_due(&mut self) {
        let mm = self.machine.mm();
        let now = mm.platform().now_ms();
        for cpu in 0..self.reaps.len() {
            if self.reaps[cpu] <= now {
                let ms =
                    self.with_rights(false, || self.as_cpu(CpuId(cpu as u16), || mm.cache_reap()));
                self.reaps[cpu] = now + ms.max(1);
            }
        }
    }

    /// Has every worker that was woken, or wanted to be called by now, do its
    /// round: the nodes' kswapd first, then their kcompactd, for the one asks for
    /// the other.
    fn run_workers(&mut self) {
        let mm = self.machine.mm();
        let now = mm.platform().now_ms();
        for _ in 0..ROUNDS {
            let mut woken = mm.platform().machine().take_woken();
            for &(worker, _) in self.rounds.iter().filter(|(_, due)| *due <= now) {
                if !woken.contains(&worker) {
                    woken.push(worker);
                }
            }
            if woken.is_empty() {
                break;
            }
            woken.sort_by_key(|worker| match worker {
                Worker::Kswapd(node) => (0, node.0),
                Worker::Kcompactd(node) => (1, node.0),
                Worker::Reporting => (2, 0),
                Worker::Flusher => (3, 0),
            });
            for worker in woken {
                // As in the kernel: what it takes to free memory may come from
                // the reserves.
                let memalloc = matches!(worker, Worker::Kswapd(_));
                let again = self.with_rights(memalloc, || mm.work(worker));
                self.rounds.retain(|&(other, _)| other != worker);
                self.rounds.extend(again.map(|ms| (worker, now + ms.max(1))));
            }
        }
    }
}

impl Drop for HostWorld {
    /// Rights are the thread's, and another world may follow.
    fn drop(&mut self) {
        self.machine.mm().platform().machine().set_context(Context::default());
    }
}

impl World for HostWorld {
    type Machine = Host;

    fn mm(&self) -> Option<&'static Mm<Host>> {
        Some(self.machine.mm())
    }

    fn arena(&self) -> Option<&'static MovableArena<Host>> {
        Some(self.machine.arena())
    }

    fn balloon(&self) -> Option<&'static Balloon<Host>> {
        Some(self.machine.balloon())
    }

    fn zram(&self) -> Option<&'static Zram<Host>> {
        Some(self.machine.zram())
    }

    fn swap_device(&self, path: &str) -> Option<&'static dyn SwapDevice> {
        let zram = self.machine.zram_swap();
        let disk = || self.machine.disk_swap(path).map(|disk| disk as _);
        (zram.name() == path).then_some(zram as _).or_else(disk)
    }

    fn page_cache(&self, path: &str) -> Result<Option<&'static PageCache>, Error> {
        let Some(cache) = self.machine.disk_cache(path) else { return Ok(None) };
        let full = Error::new(Errno::ENOSPC, "too many page caches");
        cache.register(self.machine.mm()).map(|()| Some(cache)).map_err(|_| full)
    }

    fn balloon_target(&self) -> Option<u64> {
        self.target
    }

    fn set_balloon_target(&mut self, pages: u64) -> Result<(), Error> {
        self.target = Some(pages);
        self.pursued = Some(0);
        self.run_balloon();
        Ok(())
    }

    fn plugged(&self) -> Option<Plugged> {
        Some(self.machine.plugged())
    }

    fn request_plugged(&mut self, bytes: u64) -> Result<(), Error> {
        self.machine.request_plugged(bytes)?;
        self.run_plug();
        Ok(())
    }

    fn print(&mut self, text: fmt::Arguments<'_>) {
        self.output.print(text);
    }

    fn on_cpu(&mut self, cpu: CpuId, work: &mut dyn FnMut()) -> Result<(), Error> {
        if cpu.0 >= self.machine.mm().platform().cpus() {
            return Err(Error::new(Errno::EINVAL, "there is no such CPU"));
        }
        self.as_cpu(cpu, work);
        Ok(())
    }

    fn set_memalloc(&mut self, on: bool) {
        self.memalloc = on;
        self.with_rights(on, || ());
    }

    fn tick(&mut self, ms: u64) -> Result<(), Error> {
        let machine = self.machine.mm().platform().machine();
        let end = machine.now_ms().saturating_add(ms);
        loop {
            self.run_workers();
            let rounds = self.rounds.iter().map(|&(_, due)| due);
            let due = self.reaps.iter().copied().chain(rounds).chain(self.pursued);
            let due = due.chain(self.machine.plug_due());
            let next = due.min().unwrap_or(end).min(end);
            machine.advance_ms(next.saturating_sub(machine.now_ms()));
            self.reap_due();
            self.run_balloon();
            self.run_plug();
            if next == end {
                break;
            }
        }
        self.run_workers();
        Ok(())
    }

    fn describe(&mut self, line: &str) -> Result<(), Error> {
        let text = without_comment(line).trim();
        let Some(mut open) = self.open.take() else {
            return match text {
                "machine" => {
                    self.open = Some(Description::empty());
                    Ok(())
                }
                "end" => Err(Error::new(Errno::EINVAL, "no machine is being described")),
                _ => Err(Error::new(Errno::EINVAL, "want: machine")),
            };
        };
        match text {
            "end" => {
                // SAFETY: as in `on`. Of the machine that goes the interpreter
                // has dropped all it had.
                self.machine = unsafe { Simulated::boot(&open, &self.output)? };
                self.begin();
                self.output.print(format_args!("{}\n", self.machine));
                return Ok(());
            }
            "machine" => return Err(Error::new(Errno::EINVAL, "end is wanted first")),
            _ => open.accept(line)?,
        }
        self.open = Some(open);
        Ok(())
    }

    fn takes_memory(&self) -> bool {
        true
    }

    fn is_describing(&self) -> bool {
        self.open.is_some()
    }

    fn read_file(&self, path: &str, out: &mut dyn fmt::Write) -> Result<(), Error> {
        let written = match path {
            "/proc/cmdline" => writeln!(out, "{}", self.machine.cmdline()),
            "/proc/iomem" => self.machine.iomem(out),
            _ => return Err(Error::new(Errno::ENOENT, "no such file")),
        };
        written.map_err(|_| Error::new(Errno::EINTR, "interrupted"))
    }

    fn write_file(&mut self, path: &str, _text: &str) -> Result<(), Error> {
        if self.files().contains(&path) {
            return Err(Error::new(Errno::EPERM, "the file is not to be written"));
        }
        Err(Error::new(Errno::ENOENT, "no such file"))
    }

    fn files(&self) -> &'static [&'static str] {
        &["/proc/cmdline", "/proc/iomem"]
    }

    fn host_facts(&self) -> &'static [&'static str] {
        &["resident"]
    }

    fn host_fact(&self, name: &str) -> Option<u64> {
        (name == "resident").then(|| self.machine.mm().platform().resident())
    }

    fn command(&mut self, words: &[&str]) -> Option<Result<(), Error>> {
        let no_screen = Error::new(Errno::EOPNOTSUPP, "a simulated machine has no screen");
        (words.first() == Some(&"view")).then_some(Err(no_screen))
    }
}
