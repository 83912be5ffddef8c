//! A machine in QEMU that is driven from both sides: its prompt over the serial
//! line, its devices over QEMU's monitor, and the host's memory behind it metered.
//! Calls `meter`, `record`, `collect::session`, `qmp`.

use super::Kib;
use super::meter::{Meter, Sample};
use super::record::Record;
use crate::collect::session::Session;
use crate::collect::transcript::Unusable;
use crate::options::RunOptions;
use crate::qemu;
use crate::qmp::Qmp;
use crate::run::Guest;
use anyhow::{Context, Result, bail};
use std::path::Path;
use std::thread;
use std::time::{Duration, Instant};
use tempfile::TempDir;

/// A machine that says nothing for so long when something is expected hangs.
const SILENCE: Duration = Duration::from_secs(120);
/// A machine that was told to go has gone by then.
const GOES: Duration = Duration::from_secs(30);
/// How often a condition is looked at that is waited for.
const POLL: Duration = Duration::from_millis(100);
/// How often the guest is asked meanwhile what it has free.
const ASK: Duration = Duration::from_millis(400);
/// An address that is RAM on every PC.
const RAM: u64 = 1 << 20;
/// Changes of the resident size below this are not looked at: a huge page.
const NOISE: Kib = Kib(2 << 10);
/// Pieces in which memory is touched, so that the guest can say in between what
/// it has free.
const PIECES: u64 = 16;

/// The machine.
pub(super) struct Rig {
    session: Session,
    /// Its monitor.
    pub monitor: Qmp,
    meter: Meter,
    free: Vec<(Instant, Kib)>,
    moments: Vec<(Instant, String)>,
    began: Record,
    // Last, so that it goes last.
    guest: Guest,
    _socket: TempDir,
}

/// A group of pages of the lab that has been touched, as pieces.
#[derive(Clone, Debug)]
pub(super) struct Touched {
    names: Vec<String>,
}

impl Rig {
    /// Boots a machine of `options` from `disk` to its prompt.
    ///
    /// # Errors
    /// It does not get there.
    pub(super) fn boot(options: &RunOptions, disk: &Path) -> Result<Self> {
        let socket = tempfile::tempdir().context("cannot make a scratch directory")?;
        let path = socket.path().join("qmp");
        let mut args = qemu::arguments(options, disk, None, None);
        args.extend(["-qmp".into(), format!("unix:{},server=on,wait=off", path.display())]);
        let began = Record::new();
        let (guest, input, output) = Guest::start(qemu::QEMU, &args)?;
        let mut session = Session::new(input, output, SILENCE);
        let mut monitor = Qmp::connect(&path)?;
        session.log_in(false)?;
        let (block, ram) = host_address(&mut monitor, RAM)?;
        let size = options.memory.kib().context("a machine without a size")? << 10;
        let ram = ram.checked_sub(RAM).with_context(|| format!("{block} lies nowhere"))?;
        let meter = Meter::start(guest.id(), ram..ram + size);
        let (free, moments) = (Vec::new(), Vec::new());
        Ok(Self { session, monitor, meter, free, moments, began, guest, _socket: socket })
    }

    /// Looks also at what backs the `size` bytes of RAM from guest address `at` on.
    ///
    /// # Errors
    /// There is none.
    pub(super) fn meter_also(&mut self, at: u64, size: u64) -> Result<()> {
        let (_, start) = host_address(&mut self.monitor, at)?;
        self.meter.add(start..start + size);
        Ok(())
    }

    /// Has a command of the lab run; what it says.
    ///
    /// # Errors
    /// It fails, or the machine does not answer.
    pub(super) fn command(&mut self, line: &str) -> Result<String> {
        match self.attempt(line)? {
            Ok(text) => Ok(text),
            Err(why) => bail!("{line}: {why}"),
        }
    }

    /// Has a command of the lab run; what it says, or why it failed.
    ///
    /// # Errors
    /// The machine does not answer.
    pub(super) fn attempt(&mut self, line: &str) -> Result<Result<String, String>> {
        let reply = self.session.ask(line)?;
        match reply.content() {
            Ok(text) => Ok(Ok(String::from_utf8_lossy(&text).into_owned())),
            Err(Unusable::Refused(why)) => Ok(Err(why)),
            Err(error @ Unusable::Garbled) => bail!("{line}: {error}"),
        }
    }

    /// The value of a fact that is a number.
    ///
    /// # Errors
    /// It is none, or the machine does not answer.
    pub(super) fn fact(&mut self, fact: &str) -> Result<u64> {
        let text = self.command(&format!("get {fact}"))?;
        let value = text.trim().rsplit(' ').next().and_then(|number| number.parse().ok());
        value.with_context(|| format!("{fact} is no number: {text}"))
    }

    /// What the guest has free, which is noted.
    ///
    /// # Errors
    /// The machine does not answer.
    pub(super) fn free(&mut self) -> Result<Kib> {
        let free = Kib(self.fact("vmstat.nr_free_pages")? * 4);
        self.free.push((Instant::now(), free));
        Ok(free)
    }

    /// What of the guest's RAM is in the host's memory now.
    ///
    /// # Errors
    /// The machine has gone.
    pub(super) fn resident(&self) -> Result<Kib> {
        self.meter.now().map(|sample| sample.resident)
    }

    /// Notes that something is done now; when that is.
    pub(super) fn moment(&mut self, what: &str) -> Instant {
        let now = Instant::now();
        eprintln!("quarry: {:7.1} s: {what}", (now - self.began.start).as_secs_f64());
        self.moments.push((now, what.to_owned()));
        now
    }

    /// Waits until `done`, at most for `limit`; false if that was not enough. The
    /// guest is asked meanwhile what it has free.
    ///
    /// # Errors
    /// `done` fails, or the machine does not answer.
    pub(super) fn wait(
        &mut self,
        limit: Duration,
        mut done: impl FnMut(&mut Self) -> Result<bool>,
    ) -> Result<bool> {
        let end = Instant::now() + limit;
        let mut ask = Instant::now();
        loop {
            if Instant::now() >= ask {
                self.free()?;
                ask = Instant::now() + ASK;
            }
            if done(self)? {
                self.free()?;
                return Ok(true);
            }
            if Instant::now() >= end {
                return Ok(false);
            }
            thread::sleep(POLL);
        }
    }

    /// Waits until the resident size has not changed for `quiet`, but not longer
    /// than `limit`.
    ///
    /// # Errors
    /// The machine does not answer.
    pub(super) fn settle(&mut self, quiet: Duration, limit: Duration) -> Result<Kib> {
        let mut level = self.meter.now()?;
        self.wait(limit, |rig| {
            let now = rig.meter.now()?;
            if now.resident.0.abs_diff(level.resident.0) > NOISE.0 {
                level = now;
            }
            Ok(now.at - level.at >= quiet)
        })?;
        self.resident()
    }

    /// Has the lab take `mib` MiB, in groups called after `name`, and write to all
    /// of it. `gfp` is what the lab asks with.
    ///
    /// # Errors
    /// There is not as much, or the machine does not answer.
    pub(super) fn touch(&mut self, name: &str, gfp: &str, mib: u64) -> Result<Touched> {
        let names: Vec<String> = (0..PIECES).map(|piece| format!("{name}{piece}")).collect();
        for name in &names {
            self.command(&format!("fill {name} {gfp} pages={}", mib * 256 / PIECES))?;
            let pages = self.fact(&format!("{name}.pages"))?;
            if pages != mib * 256 / PIECES {
                bail!("there was no room for {mib} MiB: {name} has {pages} pages");
            }
            self.command(&format!("touch {name}"))?;
            self.free()?;
        }
        Ok(Touched { names })
    }

    /// Whether everything is still in it; if not, what the lab says.
    ///
    /// # Errors
    /// The machine does not answer.
    pub(super) fn verify(&mut self, touched: &Touched) -> Result<Result<(), String>> {
        for name in &touched.names {
            if let Err(why) = self.attempt(&format!("verify {name}"))? {
                return Ok(Err(why));
            }
            self.free()?;
        }
        Ok(Ok(()))
    }

    /// Has the lab free it.
    ///
    /// # Errors
    /// The machine does not answer, or it was gone.
    pub(super) fn release(&mut self, touched: Touched) -> Result<()> {
        for name in touched.names {
            self.command(&format!("free {name}"))?;
            self.free()?;
        }
        Ok(())
    }

    /// The process of QEMU.
    pub(super) fn process(&self) -> u32 {
        self.guest.id()
    }

    /// What was seen so far.
    pub(super) fn record(&self) -> Record {
        let resident: Vec<Sample> = self.meter.samples();
        let (free, moments) = (self.free.clone(), self.moments.clone());
        Record { resident, free, moments, ..self.began.clone() }
    }

    /// All that the serial line has said.
    pub(super) fn transcript(&self) -> &[u8] {
        self.session.transcript()
    }

    /// Switches the machine off; false if it does not go.
    ///
    /// # Errors
    /// The host does not know.
    pub(super) fn power_off(&mut self) -> Result<bool> {
        self.session.farewell("poweroff");
        Ok(self.guest.status(GOES)?.is_some())
    }
}

/// The block of RAM at guest address `at`, and where QEMU has it in its own
/// addresses.
fn host_address(monitor: &mut Qmp, at: u64) -> Result<(String, u64)> {
    let said = monitor.human(&format!("gpa2hva {at:#x}"))?;
    parse_address(&said).with_context(|| format!("QEMU has no RAM at {at:#x}: {said}"))
}

/// Reads `Host virtual address for 0x100000 (pc.ram) is 0x7f15bff00000`.
fn parse_address(said: &str) -> Option<(String, u64)> {
    let (block, address) = said.split_once('(')?.1.split_once(") is 0x")?;
    Some((block.to_owned(), u64::from_str_radix(address.trim(), 16).ok()?))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn addresses_are_read() {
        let said = "Host virtual address for 0x100000 (pc.ram) is 0x7f15bff00000\n";
        assert_eq!(parse_address(said), Some(("pc.ram".into(), 0x7f15_bff0_0000)));
        assert_eq!(parse_address("No memory is mapped at address 0x100000000\n"), None);
    }
}
