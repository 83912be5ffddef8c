//! Unplugging, what is cheapest first: what is offline, whole groups that are
//! free, free units, and at last units whose content has to move. Of each, zone
//! Movable first, and from the top of the region down. What cannot be had stays,
//! and the round says why. May call: `driver`'s.

use super::driver::{MemFault, Port, Step, VirtioMem, Wait};
use super::geometry::{GroupId, Run};
use super::groups::{Group, Known, highest_run};
use super::memory::{MemoryError, MemorySink, Usage};
use super::request::{Request, Response};

/// What may be done to get a unit back.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
enum Effort {
    /// Take what is offline.
    Offline,
    /// Take whole groups of which nothing is in use.
    Groups,
    /// Take single units of which nothing is in use.
    Units,
    /// Move what is in use.
    Moving,
}

/// Units for whose content there was no place before a round gives up: the next
/// may have less in it.
const HOMELESS_MOST: u32 = 64;

/// What could not be had so far.
#[derive(Default)]
struct Stuck {
    /// The first unit: its address, and why.
    first: Option<(u64, MemoryError)>,
    /// Units for whose content there was no place.
    homeless: u32,
}

impl<M: MemorySink> VirtioMem<'_, M> {
    /// Unplugs `units` units.
    pub(super) fn shrink<D: Port>(&mut self, port: &mut D, units: u64) -> Result<Step, MemFault> {
        let mut left = units;
        let mut stuck = Stuck::default();
        for effort in [Effort::Offline, Effort::Groups, Effort::Units, Effort::Moving] {
            for movable in [true, false] {
                for id in self.groups.ids().rev() {
                    let group = self.groups.get(id);
                    if left == 0 || group.known != Known::Added {
                        continue;
                    }
                    let range = self.geometry.group_range(id);
                    if group.plugged != 0 && self.memory.is_movable(range) != movable {
                        continue;
                    }
                    let step = self.unplug_some(port, id, group, effort, &mut left, &mut stuck)?;
                    self.remove_if_empty(id);
                    if step != Step::Done {
                        return Ok(step);
                    }
                }
            }
        }
        Ok(match stuck.first {
            Some((addr, why)) if left != 0 => Step::Later(Wait::Stay { units: left, addr, why }),
            _ => Step::Done,
        })
    }

    /// Unplugs up to `left` units of a group with this effort.
    fn unplug_some<D: Port>(
        &mut self,
        port: &mut D,
        id: GroupId,
        group: Group,
        effort: Effort,
        left: &mut u64,
        stuck: &mut Stuck,
    ) -> Result<Step, MemFault> {
        let mut units = match effort {
            Effort::Moving => group.plugged,
            Effort::Offline => self.idle_units(id, group, Usage::Offline),
            Effort::Groups | Effort::Units => self.idle_units(id, group, Usage::Free),
        };
        let count = u64::from(group.plugged.count_ones());
        if effort == Effort::Groups && (units != group.plugged || count > *left) {
            return Ok(Step::Done);
        }
        // One unit that does not go must not keep its neighbours.
        let most = if effort == Effort::Moving { 1 } else { 64 };
        while let Some(run) = highest_run(id, units, most.min(*left)) {
            if port.config_changed() {
                return Ok(Step::Changed);
            }
            units &= !run.mask();
            match self.withdraw(run) {
                Ok(()) => {}
                // Somebody was quicker: its turn comes when things are moved.
                Err(_) if effort != Effort::Moving => continue,
                Err(why) => {
                    let addr = self.geometry.range(run).start.addr();
                    let (addr, first) = *stuck.first.get_or_insert((addr, why));
                    stuck.homeless += u32::from(why == MemoryError::NoMemory);
                    if stuck.homeless == HOMELESS_MOST {
                        return Ok(Step::Later(Wait::Stay { units: *left, addr, why: first }));
                    }
                    continue;
                }
            }
            let step = self.unplug(port, run)?;
            if step != Step::Done {
                return Ok(step);
            }
            *left -= u64::from(run.count);
        }
        Ok(Step::Done)
    }

    /// The plugged units of a group that are put to no more use than `most`.
    fn idle_units(&self, id: GroupId, group: Group, most: Usage) -> u64 {
        let mut left = group.plugged & !group.withheld;
        let mut idle = group.withheld;
        while let Some(unit) = highest_run(id, left, 1) {
            left &= !unit.mask();
            if self.memory.usage(self.geometry.range(unit)) <= most {
                idle |= unit.mask();
            }
        }
        idle
    }

    /// Takes a plugged run from the memory manager, as far as it has it.
    fn withdraw(&mut self, run: Run) -> Result<(), MemoryError> {
        let withheld = self.groups.get(run.group).withheld;
        if withheld & run.mask() == 0 {
            self.memory.withdraw(self.geometry.range(run))?;
            self.groups.set_withheld(run);
            return Ok(());
        }
        for unit in run.units().filter(|unit| withheld & unit.mask() == 0) {
            // What has been taken before this one fails waits, withheld.
            self.memory.withdraw(self.geometry.range(unit))?;
            self.groups.set_withheld(unit);
        }
        Ok(())
    }

    /// Unplugs a withheld run; if the device will not have it back, it is the
    /// memory manager's again.
    fn unplug<D: Port>(&mut self, port: &mut D, run: Run) -> Result<Step, MemFault> {
        let request = Request::Unplug(self.geometry.blocks(run));
        match self.ask(port, request)? {
            Response::Ack(_) => {
                self.tally.unplugged += u64::from(run.count);
                self.groups.set_unplugged(run);
                Ok(Step::Done)
            }
            answer => {
                for unit in run.units() {
                    // What cannot be restored now is tried again later.
                    self.restore(port, unit)?;
                }
                self.refused(port, request, answer)
            }
        }
    }
}
