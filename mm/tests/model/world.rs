//! A manager, the model of it, and the dice.

use crate::pages::{Blocks, Owners};
use crate::rng::Rng;
use mm::Mm;
use mm::host::Machine;
use mm::platform::{Context, Platform};
use mm::types::CpuId;

/// The manager under test beside what should be true of it.
pub(crate) struct World<'a> {
    pub mm: &'a Mm<Machine>,
    pub rng: Rng,
    pub owners: Owners,
    pub blocks: Blocks,
    /// Percent of the steps that allocate: it wanders, so that the machine is
    /// full at times and empty at others.
    pub appetite: u64,
    ops: u64,
}

impl<'a> World<'a> {
    pub(crate) fn new(mm: &'a Mm<Machine>, seed: u64) -> Self {
        mm.audit().expect("a whole machine at the start");
        Self {
            mm,
            rng: Rng::new(seed),
            owners: Owners::new(mm.map().end()),
            blocks: Blocks::default(),
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
        match self.rng.below(100) {
            0..=1 => self.free_wrongly(),
            2 => self.change_context(),
            3 if self.rng.percent(20) => {
                self.mm.drain_all(None);
            }
            3..=7 => self.bulk(),
            _ => {
                if self.rng.percent(self.appetite) {
                    self.allocate();
                } else {
                    self.free();
                }
            }
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
        assert_eq!(audit.allocated, self.owners.owned(), "pages with an owner");
        assert_eq!(audit.free + audit.pcp + audit.allocated, managed, "pages in all");
        self.mm.platform().take_log();
        self.mm.platform().take_woken();
    }

    /// Frees everything; the machine is then as it was.
    pub(crate) fn finish(mut self) {
        self.mm.platform().set_context(Context::default());
        while !self.blocks.is_empty() {
            self.free();
        }
        self.mm.drain_all(None);
        self.check();
        let audit = self.mm.audit().expect("a whole machine at the end");
        assert_eq!((audit.allocated, audit.pcp), (0, 0));
        // The next machine of this thread may not have as many.
        self.mm.platform().run_on(CpuId(0));
        println!("{} operations: {:?}", self.ops, self.blocks.counts);
    }
}
