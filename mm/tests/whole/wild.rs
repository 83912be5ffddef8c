//! What may happen to a machine while its programs go on: devices fail, come and
//! go; frames are found bad; memory goes out of use; allocations fail; memory runs
//! out, and somebody is killed.

use crate::disk;
use crate::world::World;
use mm::fault::FaultPlan;
use mm::host::swap::{FailPlan, SwapDisk};
use mm::hotplug::OnlineType;
use mm::swap::SwapOffError;
use mm::types::{NodeId, Order, PAGEBLOCK_PAGES, Pfn, PfnRange};
use mm::{Gfp, Request};
use std::collections::BTreeSet;
use std::num::NonZeroU64;

const NAMES: [&str; 2] = ["/dev/a", "/dev/b"];
/// Frames that are bad at a time.
const BAD: usize = 12;
/// Pageblocks out of use at a time.
const AWAY: usize = 2;

/// What has happened.
pub(crate) struct Wild {
    disks: [&'static SwapDisk; 2],
    bad: Vec<Pfn>,
    away: BTreeSet<Pfn>,
    /// How often, by kind.
    pub(crate) happened: [u64; 10],
}

impl Wild {
    /// A machine with two devices that are not on yet.
    pub(crate) fn new() -> Self {
        let disks = [disk(NAMES[0], 900), disk(NAMES[1], 14_000)];
        Self { disks, bad: Vec::new(), away: BTreeSet::new(), happened: [0; 10] }
    }
}

impl World<'_> {
    /// One thing at random.
    pub(crate) fn wild_step(&mut self) {
        let Some(mut wild) = self.wild.take() else { return };
        let kind = self.rng.below(wild.happened.len() as u64) as usize;
        let done = match kind {
            0 => self.fail_device(&wild),
            1 => self.swap_off(),
            2 => self.swap_on(&wild),
            3 => self.poison(&mut wild),
            4 => self.heal(&mut wild),
            5 => self.offline(&mut wild),
            6 => self.online(&mut wild),
            7 => self.run_out(),
            8 => self.fail_allocations(),
            _ => self.let_go_of_some(),
        };
        wild.happened[kind] += u64::from(done);
        self.wild = Some(wild);
    }

    fn fail_device(&mut self, wild: &Wild) -> bool {
        let disk = wild.disks[self.rng.below(2) as usize];
        let mut plan = || match self.rng.below(8) {
            0 => FailPlan::Every(5),
            1 | 2 => FailPlan::Nth(1 + self.rng.below(8)),
            _ => FailPlan::Never,
        };
        disk.fail_reads(plan());
        disk.fail_writes(plan());
        true
    }

    fn swap_off(&mut self) -> bool {
        match self.mm.swapoff(NAMES[self.rng.below(2) as usize]) {
            Ok(()) => true,
            Err(SwapOffError::NotOn | SwapOffError::NoMemory | SwapOffError::Io) => false,
            Err(why) => panic!("{why}"),
        }
    }

    fn swap_on(&mut self, wild: &Wild) -> bool {
        let priority = [None, Some(1), Some(2)][self.rng.below(3) as usize];
        // It may be on, or there may be no memory for its tables.
        self.mm.swapon(wild.disks[self.rng.below(2) as usize], priority).is_ok()
    }

    fn poison(&mut self, wild: &mut Wild) -> bool {
        if wild.bad.len() >= BAD {
            return false;
        }
        let pfn = Pfn(self.rng.below(self.mm.map().end().0));
        // In use or not, moved or noted: no program sees anything of it.
        let done = self.mm.poison_page(pfn).is_ok();
        if done {
            wild.bad.push(pfn);
        }
        done
    }

    fn heal(&mut self, wild: &mut Wild) -> bool {
        // One that was noted may be in use still, and cannot be told so.
        wild.bad.pop().is_some_and(|pfn| self.mm.unpoison_page(pfn).is_ok())
    }

    fn offline(&mut self, wild: &mut Wild) -> bool {
        let blocks = self.mm.map().end().0 / PAGEBLOCK_PAGES;
        let start = Pfn(self.rng.below(blocks) * PAGEBLOCK_PAGES);
        if wild.away.len() >= AWAY {
            return false;
        }
        match self.mm.offline(PfnRange::sized(start, PAGEBLOCK_PAGES)) {
            Ok(_) => wild.away.insert(start),
            Err(_) => false,
        }
    }

    fn online(&mut self, wild: &mut Wild) -> bool {
        let Some(start) = wild.away.pop_first() else { return false };
        let range = PfnRange::sized(start, PAGEBLOCK_PAGES);
        if self.mm.online(range, OnlineType::Auto).is_err() {
            // There was no memory for what it takes.
            wild.away.insert(start);
        }
        true
    }

    /// Takes all there is, so that one who may be killed is; gives it back.
    fn run_out(&mut self) -> bool {
        let kills = || self.mm.vmstat_value("oom_kill").expect("a counter");
        if self.rng.below(4) > 0 {
            let which = self.rng.below(self.spaces.len().max(1) as u64) as usize;
            if let Some(space) = self.spaces.get(which) {
                space.space.set_protected(self.rng.below(4) > 0);
                space.space.set_oom_score_adj(self.rng.below(1500) as i64 - 500);
            }
            return false;
        }
        let before = kills();
        self.mm.platform().take_log();
        let mut held = Vec::new();
        while kills() == before
            && let Ok(page) = self.mm.alloc_pages(Request::new(Order(0), Gfp::KERNEL | Gfp::NOWARN))
        {
            held.push(page);
        }
        // One at a time: nobody else while the one before has anything. What was in
        // swap only, or another's too, may have freed nothing.
        let log = self.mm.platform().take_log();
        let told =
            |what: &str| log.iter().filter(|(_, line)| line.starts_with(what)).count() as u64;
        let killed = "Out of memory: Killed space";
        assert_eq!(told(killed), kills() - before);
        let mut dying = None;
        for (_, line) in &log {
            if line.starts_with(killed) {
                assert_eq!(dying.replace(line), None, "killed before the one before was reaped");
            } else if line.starts_with("oom_reaper: reaped") {
                dying = None;
            }
        }
        held.into_iter().for_each(|page| self.mm.free_pages(page).expect("its own"));
        kills() > before
    }

    fn fail_allocations(&mut self) -> bool {
        let failed = self.mm.fault_counts().failed > 0;
        let plan = NonZeroU64::new(self.rng.below(60)).map_or(FaultPlan::Off, FaultPlan::Nth);
        self.mm.set_faults(plan);
        failed
    }

    fn let_go_of_some(&mut self) -> bool {
        match self.rng.below(3) {
            0 => self.mm.drop_slab() > 0,
            1 => self.mm.kcompactd_round(NodeId(0)) > 0,
            _ => self.mm.lru_drain_all() > 0,
        }
    }

    /// From here on nothing fails any more, and what can come back does.
    pub(crate) fn tame(&mut self) {
        self.mm.set_faults(FaultPlan::Off);
        let Some(mut wild) = self.wild.take() else { return };
        for disk in wild.disks {
            disk.fail_reads(FailPlan::Never);
            disk.fail_writes(FailPlan::Never);
        }
        while !wild.away.is_empty() {
            let before = wild.away.len();
            self.online(&mut wild);
            assert!(wild.away.len() < before, "memory that does not come back");
        }
        self.wild = Some(wild);
    }

    /// Switches all devices off, on which nothing is.
    pub(crate) fn without_swap(&mut self) {
        for name in NAMES {
            match self.mm.swapoff(name) {
                Ok(()) | Err(SwapOffError::NotOn) => {}
                Err(why) => panic!("{name}: {why}"),
            }
        }
    }
}
