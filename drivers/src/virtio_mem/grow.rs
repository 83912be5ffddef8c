//! Plugging: first what is missing of groups that the memory manager knows, then
//! new ones, from the bottom of the region up. May call: `driver`'s.

use super::driver::{MemFault, Port, Step, VirtioMem, Wait};
use super::geometry::{GroupId, Run};
use super::groups::{Known, lowest_run};
use super::memory::{MemoryError, MemorySink, Usage};
use super::request::{Request, Response};
use mm::platform::LogLevel;

/// No new groups while this much that was plugged is offline, in bytes: its
/// descriptors cost memory, and it gives none.
const OFFLINE_MOST: u64 = 1 << 30;

impl<M: MemorySink> VirtioMem<'_, M> {
    /// Plugs up to `units` units.
    pub(super) fn grow<D: Port>(&mut self, port: &mut D, units: u64) -> Result<Step, MemFault> {
        if units == 0 {
            return Ok(Step::Done);
        }
        let usable_end = self.config.addr + self.config.usable_region_size;
        let (groups, last) = self.geometry.below(usable_end);
        let full = u64::MAX >> (64 - u32::from(self.geometry.units_per_group()));
        let usable = |id: GroupId| {
            if id.0 + 1 < groups { full } else { u64::MAX.unbounded_shr(64 - u32::from(last)) }
        };
        let mut left = units;
        for known in [Known::Added, Known::No] {
            for id in (0..groups).map(GroupId) {
                let group = self.groups.get(id);
                let holes = usable(id) & !group.plugged;
                if left == 0 || group.known != known || holes == 0 {
                    continue;
                }
                if known == Known::No
                    && let Some(step) = self.add_group(port, id)
                {
                    return Ok(step);
                }
                let step = if self.groups.get(id).known == Known::Added {
                    self.plug_holes(port, id, holes, &mut left)?
                } else {
                    Step::Done
                };
                self.remove_if_empty(id);
                if step != Step::Done {
                    return Ok(step);
                }
            }
        }
        Ok(Step::Done)
    }

    /// Makes a group known. Some step if that is all for now; the group may be
    /// refused else.
    fn add_group<D: Port>(&mut self, port: &D, id: GroupId) -> Option<Step> {
        if self.offline_bytes() >= OFFLINE_MOST.max(self.geometry.group_bytes()) {
            return Some(Step::Later(Wait::Offline));
        }
        let range = self.geometry.group_range(id);
        match self.memory.add(range, self.node) {
            Ok(()) => self.groups.set_known(id, Known::Added),
            Err(MemoryError::Refused(why)) => {
                self.groups.set_known(id, Known::Refused);
                let addr = range.start.addr();
                port.log(LogLevel::Warn, format_args!("cannot use memory at {addr:#x}: {why}"));
            }
            Err(error) => return Some(Step::Later(Wait::Memory(error))),
        }
        None
    }

    /// What has been plugged and is offline, in bytes.
    fn offline_bytes(&self) -> u64 {
        let offline = |id: &GroupId| {
            let group = self.groups.get(*id);
            let given = group.plugged & !group.withheld;
            lowest_run(*id, given, 1)
                .is_some_and(|run| self.memory.usage(self.geometry.range(run)) == Usage::Offline)
        };
        self.groups.ids().filter(offline).count() as u64 * self.geometry.group_bytes()
    }

    /// Plugs up to `left` of the units `holes` of a known group.
    fn plug_holes<D: Port>(
        &mut self,
        port: &mut D,
        id: GroupId,
        mut holes: u64,
        left: &mut u64,
    ) -> Result<Step, MemFault> {
        while let Some(run) = lowest_run(id, holes, *left) {
            if port.config_changed() {
                return Ok(Step::Changed);
            }
            holes &= !run.mask();
            let step = self.plug(port, run)?;
            if step != Step::Done {
                return Ok(step);
            }
            *left -= u64::from(run.count);
        }
        Ok(Step::Done)
    }

    /// Plugs one run and gives it to the memory manager.
    fn plug<D: Port>(&mut self, port: &mut D, run: Run) -> Result<Step, MemFault> {
        let request = Request::Plug(self.geometry.blocks(run));
        match self.ask(port, request)? {
            Response::Ack(_) => {
                self.tally.plugged += u64::from(run.count);
                self.groups.set_plugged(run);
                Ok(self.provide(run))
            }
            answer => self.refused(port, request, answer),
        }
    }

    /// What to do about a request that was refused: nothing has changed. If it
    /// was because the configuration did, look again, else later.
    pub(super) fn refused<D: Port>(
        &mut self,
        port: &mut D,
        request: Request,
        answer: Response,
    ) -> Result<Step, MemFault> {
        let now = port.config()?;
        let same = now.requested_size == self.config.requested_size
            && now.usable_region_size == self.config.usable_region_size;
        Ok(if same { Step::Later(Wait::Device(request, answer)) } else { Step::Changed })
    }
}
