//! The driver's round: what the host wants, compared with what is plugged, and
//! steps in between until nothing is left to do or something has to wait. The
//! device is believed when it says no; it is not believed when it contradicts
//! itself. May call: all of this module's others.

use super::config::{ConfigError, MemConfig};
use super::geometry::{Geometry, GroupId, MEMORY_BLOCK_BYTES, Run};
use super::groups::{Group, Groups, Known, lowest_run};
use super::memory::{MemoryError, MemorySink};
use super::request::{BadResponse, BlockState, Request, Response};
use super::status::{Status, Tally};
use crate::Error;
use core::fmt;
use mm::platform::LogLevel;
use mm::types::NodeId;

/// Wait before the first try to do again what could not be done, in ms; each
/// further one waits twice as long.
pub const RETRY_MIN_MS: u64 = 5_000;
/// No wait between two tries is longer (ms).
pub const RETRY_MAX_MS: u64 = 300_000;
/// Times that one round begins anew because the configuration has changed
/// without any step made meanwhile.
const RESTARTS: u32 = 16;

/// The device, as the driver sees it.
pub trait Port {
    /// Its configuration, all of one moment.
    ///
    /// # Errors
    /// The device is shut off.
    fn config(&mut self) -> Result<MemConfig, Error>;

    /// Sends a request and waits for the answer.
    ///
    /// # Errors
    /// The device is shut off.
    fn ask(&mut self, request: Request) -> Result<Result<Response, BadResponse>, Error>;

    /// Whether the configuration has changed since [`config`](Self::config) was
    /// last called, as far as the device has told.
    fn config_changed(&mut self) -> bool;

    /// Writes one line to the log, in the device's name.
    fn log(&self, level: LogLevel, line: fmt::Arguments<'_>);
}

/// Why the driver gives its device up. What is plugged stays as it is.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum MemFault {
    /// The device is shut off already.
    Device(Error),
    /// Its configuration cannot be true.
    Config(ConfigError),
    /// It gave an answer that there is not.
    Response(Request, BadResponse),
}

impl fmt::Display for MemFault {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Device(error) => error.fmt(f),
            Self::Config(error) => write!(f, "the device's configuration: {error}"),
            Self::Response(request, bad) => write!(f, "{request}: {bad}"),
        }
    }
}

impl core::error::Error for MemFault {}

impl From<Error> for MemFault {
    fn from(error: Error) -> Self {
        Self::Device(error)
    }
}

impl From<ConfigError> for MemFault {
    fn from(error: ConfigError) -> Self {
        Self::Config(error)
    }
}

/// When to call the next round.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Next {
    /// When the configuration changes.
    OnChange,
    /// When the configuration changes, or when this many ms have passed.
    Within(u64),
}

/// How a part of a round ended.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) enum Step {
    /// All that it could do is done.
    Done,
    /// The configuration has changed: look again.
    Changed,
    /// Something has to wait.
    Later(Wait),
}

/// Why something has to wait.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) enum Wait {
    /// The device said so.
    Device(Request, Response),
    /// The memory manager said so.
    Memory(MemoryError),
    /// Units that cannot be given back now: how many, where one of them is, and
    /// why.
    Stay { units: u64, addr: u64, why: MemoryError },
    /// Much memory has been added that nobody puts to use.
    Offline,
}

/// A driver of one device. All of its methods are for one thread.
#[derive(Debug)]
pub struct VirtioMem<'a, M> {
    pub(super) memory: &'a M,
    pub(super) geometry: Geometry,
    pub(super) groups: Groups<'a>,
    pub(super) config: MemConfig,
    pub(super) node: NodeId,
    pub(super) tally: Tally,
    /// Something may be plugged that nobody here knows of.
    unplug_all: bool,
    /// The wait after the one that is on, if any.
    retry_ms: u64,
    /// The wait that is on.
    within_ms: Option<u64>,
    waiting: Option<Wait>,
    mismatch_told: bool,
}

impl<'a, M: MemorySink> VirtioMem<'a, M> {
    /// Number of [`Group`]s to keep a region's state in.
    #[must_use]
    pub fn storage(config: &MemConfig, memory: &M) -> usize {
        Geometry::new(config, memory.limit()).groups() as usize
    }

    /// A driver of the device with this configuration, which has been checked.
    /// `storage` is as long as [`storage`](Self::storage) says.
    pub fn new(config: MemConfig, memory: &'a M, node: NodeId, storage: &'a mut [Group]) -> Self {
        let geometry = Geometry::new(&config, memory.limit());
        debug_assert!(storage.len() == geometry.groups() as usize);
        Self {
            memory,
            geometry,
            groups: Groups::new(storage),
            config,
            node,
            tally: Tally::default(),
            unplug_all: config.plugged_size != 0,
            retry_ms: RETRY_MIN_MS,
            within_ms: None,
            waiting: None,
            mismatch_told: false,
        }
    }

    /// Says what device this is, in the log.
    pub fn introduce(&self, port: &impl Port) {
        let (config, geometry) = (&self.config, &self.geometry);
        let line = |name, value: u64| {
            port.log(LogLevel::Info, format_args!("{name}: {value:#x}"));
        };
        line("start address", config.addr);
        line("region size", config.region_size);
        line("device block size", config.block_size);
        line("memory block size", MEMORY_BLOCK_BYTES);
        if geometry.units_per_group() > 1 {
            line("subblock size", geometry.unit_bytes());
        } else {
            line("big block size", geometry.unit_bytes());
        }
        port.log(LogLevel::Info, format_args!("nid: {}", self.node.0));
        line("plugged size", config.plugged_size);
        line("requested size", config.requested_size);
        let lost = config.region_size - geometry.covered();
        if lost != 0 {
            let level = LogLevel::Warn;
            port.log(level, format_args!("{lost:#x} bytes of the region cannot be used"));
        }
    }

    /// Does what can be done now. `Err` ends the driver: the device is to be
    /// shut off and this not called again.
    ///
    /// # Errors
    /// What is wrong with the device.
    pub fn round<D: Port>(&mut self, port: &mut D) -> Result<Next, MemFault> {
        let mut restarts = 0;
        loop {
            let before = self.tally.steps();
            self.refresh(port)?;
            let step = self.pass(port)?;
            if self.tally.steps() != before {
                restarts = 0;
                self.retry_ms = RETRY_MIN_MS;
            }
            match step {
                Step::Done => {
                    self.remove_empty();
                    self.waiting = None;
                    self.within_ms = None;
                    self.retry_ms = RETRY_MIN_MS;
                    return Ok(Next::OnChange);
                }
                Step::Changed if restarts < RESTARTS => restarts += 1,
                Step::Changed => return Ok(Next::Within(self.back_off())),
                Step::Later(why) => {
                    let ms = self.back_off();
                    self.tell(port, why, ms);
                    return Ok(Next::Within(ms));
                }
            }
        }
    }

    /// How things are.
    #[must_use]
    pub fn status(&self) -> Status {
        let unit = self.geometry.unit_bytes();
        let held = self.groups.ids().map(|id| self.groups.get(id));
        Status {
            config: self.config,
            node: self.node,
            unit,
            group: self.geometry.group_bytes(),
            plugged: self.groups.plugged() * unit,
            withheld: held.map(|g| u64::from(g.withheld.count_ones())).sum::<u64>() * unit,
            retry_ms: self.within_ms,
            tally: self.tally,
        }
    }

    /// The wait before the next try; the one after that will be longer.
    fn back_off(&mut self) -> u64 {
        let ms = self.retry_ms;
        self.retry_ms = (ms * 2).min(RETRY_MAX_MS);
        self.within_ms = Some(ms);
        ms
    }

    /// Reads the configuration anew.
    fn refresh<D: Port>(&mut self, port: &mut D) -> Result<(), MemFault> {
        let config = port.config()?;
        config.check_successor(&self.config, self.unplug_all)?;
        if config.requested_size != self.config.requested_size {
            self.retry_ms = RETRY_MIN_MS;
            self.waiting = None;
            self.within_ms = None;
            let (plugged, requested) = (config.plugged_size, config.requested_size);
            port.log(LogLevel::Info, format_args!("plugged size: {plugged:#x}"));
            port.log(LogLevel::Info, format_args!("requested size: {requested:#x}"));
        }
        self.config = config;
        let ours = self.groups.plugged() * self.geometry.unit_bytes();
        if !self.unplug_all && ours != config.plugged_size && !self.mismatch_told {
            self.mismatch_told = true;
            let theirs = config.plugged_size;
            port.log(
                LogLevel::Warn,
                format_args!("the device counts {theirs:#x} bytes plugged, the driver {ours:#x}"),
            );
        }
        Ok(())
    }

    /// One pass towards what is requested.
    fn pass<D: Port>(&mut self, port: &mut D) -> Result<Step, MemFault> {
        if self.unplug_all {
            return self.forget_all(port);
        }
        let wanted = self.config.requested_size / self.geometry.unit_bytes();
        let plugged = self.groups.plugged();
        if plugged > wanted {
            let step = self.shrink(port, plugged - wanted)?;
            if step != Step::Done {
                return Ok(step);
            }
        }
        let restored = self.restore_withheld(port)?;
        if matches!(restored, Step::Changed | Step::Later(Wait::Memory(_))) {
            return Ok(restored);
        }
        // Whoever counts more plugged is right: never beyond the request.
        let room = self.config.requested_size.saturating_sub(self.config.plugged_size);
        let missing = wanted.saturating_sub(self.groups.plugged());
        let step = self.grow(port, missing.min(room / self.geometry.unit_bytes()))?;
        Ok(if step == Step::Done { restored } else { step })
    }

    /// Takes away what an earlier life of this machine has plugged.
    fn forget_all<D: Port>(&mut self, port: &mut D) -> Result<Step, MemFault> {
        match self.ask(port, Request::UnplugAll)? {
            Response::Ack(_) => {
                // The usable region may be smaller now.
                let config = port.config()?;
                config.check_successor(&self.config, true)?;
                self.config = config;
                self.unplug_all = false;
                self.tally.unplug_all += 1;
                Ok(Step::Changed)
            }
            answer => Ok(Step::Later(Wait::Device(Request::UnplugAll, answer))),
        }
    }

    /// Sends a request; its answer is one.
    pub(super) fn ask<D: Port>(
        &mut self,
        port: &mut D,
        request: Request,
    ) -> Result<Response, MemFault> {
        let answer = port.ask(request)?.map_err(|bad| MemFault::Response(request, bad))?;
        self.tally.refused += match answer {
            Response::Ack(_) => 0,
            Response::Nack | Response::Busy | Response::Error => 1,
        };
        Ok(answer)
    }

    /// Has a withheld run put back to use, if the device still has it as memory:
    /// asked first, for memory that is not there must not be touched.
    pub(super) fn restore<D: Port>(&mut self, port: &mut D, run: Run) -> Result<Step, MemFault> {
        let request = Request::State(self.geometry.blocks(run));
        match self.ask(port, request)? {
            Response::Ack(Some(BlockState::Plugged)) => Ok(self.provide(run)),
            Response::Ack(Some(BlockState::Unplugged)) => {
                self.groups.set_unplugged(run);
                Ok(Step::Done)
            }
            answer => Ok(Step::Later(Wait::Device(request, answer))),
        }
    }

    /// Gives a plugged run to the memory manager.
    pub(super) fn provide(&mut self, run: Run) -> Step {
        match self.memory.provide(self.geometry.range(run)) {
            Ok(()) => {
                self.groups.set_provided(run);
                Step::Done
            }
            Err(error) => Step::Later(Wait::Memory(error)),
        }
    }

    /// Gives the memory manager what it is to have and has not, unless that is
    /// to go anyway. What the device says of one unit is nothing to the others.
    fn restore_withheld<D: Port>(&mut self, port: &mut D) -> Result<Step, MemFault> {
        let wanted = self.config.requested_size / self.geometry.unit_bytes();
        let mut result = Step::Done;
        for id in self.groups.ids() {
            let mut left = self.groups.get(id).withheld;
            while let Some(unit) = lowest_run(id, left, 1) {
                left &= !unit.mask();
                if self.groups.plugged() > wanted {
                    return Ok(result);
                }
                match self.restore(port, unit)? {
                    Step::Done => {}
                    step @ Step::Later(Wait::Device(..)) => result = step,
                    step => return Ok(step),
                }
            }
        }
        Ok(result)
    }

    /// Says why something waits, once for each reason in a row.
    fn tell<D: Port>(&mut self, port: &D, why: Wait, ms: u64) {
        if self.waiting == Some(why) {
            return;
        }
        self.waiting = Some(why);
        let (level, unit) = (LogLevel::Warn, self.geometry.unit_bytes());
        match why {
            Wait::Device(request, answer) => port
                .log(level, format_args!("{request}: {answer}; trying again in {} s", ms / 1000)),
            Wait::Memory(error) => port.log(level, format_args!("cannot add memory: {error}")),
            Wait::Stay { units, addr, why } => {
                let kib = units * unit / 1024;
                port.log(level, format_args!("{kib} kB stay plugged: at {addr:#x}, {why}"));
            }
            Wait::Offline => port.log(
                level,
                format_args!("much memory is offline: no more is added until it is online"),
            ),
        }
    }

    /// Forgets all groups of which nothing is plugged.
    fn remove_empty(&mut self) {
        for id in self.groups.ids() {
            self.remove_if_empty(id);
        }
    }

    /// Forgets a group of which nothing is plugged.
    pub(super) fn remove_if_empty(&mut self, id: GroupId) {
        let group = self.groups.get(id);
        if group.known == Known::Added && group.plugged == 0 {
            // What cannot go now is tried again in the next pass.
            if self.memory.remove(self.geometry.group_range(id)).is_ok() {
                self.groups.set_known(id, Known::No);
            }
        }
    }
}
