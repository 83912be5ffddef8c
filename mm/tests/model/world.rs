//! A manager, the model of it, and the dice.

use crate::bad::Bad;
use crate::hotplug::Memory;
use crate::movable::Herd;
use crate::objects::Objects;
use crate::pages::{Blocks, Owners};
use crate::ranges::Ranges;
use crate::rng::Rng;
use mm::Mm;
use mm::host::Machine;
use mm::platform::{Context, Platform};
use mm::types::CpuId;

/// The manager under test beside what should be true of it.
pub(crate) struct World<'a> {
    pub(crate) mm: &'a Mm<Machine>,
    pub(crate) rng: Rng,
    pub(crate) owners: Owners,
    pub(crate) blocks: Blocks,
    pub(crate) herd: Herd,
    pub(crate) ranges: Ranges,
    pub(crate) objects: Objects,
    pub(crate) bad: Bad,
    pub(crate) memory: Memory,
    /// Percent of the steps that allocate: it wanders, so that the machine is
    /// full at times and empty at others.
    pub(crate) appetite: u64,
    ops: u64,
}

impl<'a> World<'a> {
    /// `room`: numbers of memory blocks that may come.
    pub(crate) fn new(mm: &'a Mm<Machine>, seed: u64, room: &[u64]) -> Self {
        mm.audit().expect("a whole machine at the start");
        Self {
            mm,
            rng: Rng::new(seed),
            owners: Owners::new(mm.map().limit()),
            blocks: Blocks::default(),
            herd: Herd::new(mm),
            ranges: Ranges::default(),
            objects: Objects::default(),
            bad: Bad::default(),
            memory: Memory::with_room(room),
            appetite: 60,
            ops: 0,
        }
    }

    /// One random operation, checked against the model.
    pub(crate) fn step(&mut self) {
        self.ops += 1;
        if self.ops.is_multiple_of(997) {
            self.appetite = 25 + self.rng.below(60);
            self.turn_knobs();
        }
        let grow = self.rng.percent(self.appetite);
        match self.rng.below(1000) {
            0..10 => self.free_wrongly(),
            10..20 => self.change_context(),
            20..25 => {
                self.mm.drain_all(None);
            }
            25..75 => self.bulk(),
            75..77 => self.compact(),
            77..85 => self.pin_or_unpin(),
            85..90 => self.free_range_wrongly(),
            90..95 => self.change_caches(),
            95..97 => self.poison(),
            97 => self.unpoison(),
            98..100 => self.report(),
            100..240 if grow => self.allocate_movable(),
            100..240 => self.free_movable(),
            240..255 if grow => self.allocate_range(),
            240..255 => self.free_range(),
            255..258 => self.change_memory(),
            300..450 if grow => self.allocate_objects(),
            300..450 => self.free_objects(),
            _ if grow => self.allocate(),
            _ => self.free(),
        }
    }

    fn change_context(&mut self) {
        let cpus = u64::from(self.mm.platform().cpus());
        self.mm.platform().run_on(CpuId(self.rng.below(cpus) as u16));
        let context = Context {
            memalloc: self.rng.percent(10),
            oom_victim: self.rng.percent(10),
            in_irq: self.rng.percent(20),
            rt: self.rng.percent(10),
        };
        self.mm.platform().set_context(context);
    }

    fn turn_knobs(&mut self) {
        let boost = self.rng.pick(&[0, 15_000, 15_000]);
        self.mm.set_watermark_boost_factor(boost);
        if self.rng.percent(30) {
            let most = self.mm.managed_pages() * 4 / 10;
            let kb = self.rng.below(most.max(1));
            self.mm.set_min_free_kbytes(if self.rng.percent(50) { 0 } else { kb });
        }
        if self.rng.percent(30) {
            self.mm.set_watermark_scale_factor(self.rng.pick(&[10, 10, 200]));
        }
    }

    /// The audit passes, and its totals are the model's.
    pub(crate) fn check(&mut self) {
        let audit = match self.mm.audit() {
            Ok(audit) => audit,
            Err(wrong) => panic!("after {} operations: {wrong}", self.ops),
        };
        let managed = self.mm.managed_pages();
        let own = self.slab_pages() + self.mm.added_map_pages();
        let known = self.owners.owned() + self.herd.pages() + own;
        assert_eq!(audit.allocated, known, "pages with an owner after {}", self.ops);
        assert_eq!(audit.free + audit.pcp + audit.allocated, managed, "pages in all");
        self.check_herd();
        self.check_types();
        self.check_bad();
        self.check_memory();
        self.mm.platform().take_log();
        self.mm.platform().take_woken();
    }

    /// Frees everything; the machine is then as it was.
    pub(crate) fn finish(mut self) {
        self.mm.platform().set_context(Context::default());
        while !self.blocks.is_empty() {
            self.free();
        }
        self.free_herd();
        self.free_ranges();
        self.free_slabs();
        self.unpoison_all();
        self.mm.drain_all(None);
        self.check();
        let audit = self.mm.audit().expect("a whole machine at the end");
        let own = self.slab_pages() + self.mm.added_map_pages();
        assert_eq!((audit.allocated, audit.pcp), (own, 0));
        // The next machine of this thread may not have as many.
        self.mm.platform().run_on(CpuId(0));
        println!("{} operations: {:?}", self.ops, self.blocks.counts);
        println!(
            "{} pages moved by compaction, {} ranges and {} refused, {} objects and {} of reserves",
            self.herd.compacted,
            self.ranges.served,
            self.ranges.refused,
            self.objects.served,
            self.objects.reserve
        );
        println!("{:?}; pages out, back, refusals: {:?}", self.bad, self.memory.counts);
    }
}
