//! A balloon device as QEMU has it, and guests to try it on.

use drivers::balloon::{
    CONFIG_ACTUAL, CONFIG_NUM_PAGES, CONFIG_POISON_VAL, FEATURE_DEFLATE_ON_OOM,
    FEATURE_MUST_TELL_HOST, FEATURE_REPORTING, FEATURE_STATS_VQ, Next, Service, VirtioBalloon,
};
use drivers::model::{self, Board, Chain, Handle, HostEnv, HostLink, HostMemory, Script};
use drivers::{DeviceType, Error};
use mm::balloon::Balloon;
use mm::host::{Machine, pc};
use mm::types::Pfn;
use mm::{Config, Mm};
use std::collections::BTreeSet;
use std::sync::{Arc, Mutex};

pub(crate) const MIB: u64 = 128;
pub(crate) const USUAL: u64 =
    FEATURE_MUST_TELL_HOST | FEATURE_STATS_VQ | FEATURE_DEFLATE_ON_OOM | FEATURE_REPORTING;

/// What the device knows.
#[derive(Default)]
pub(crate) struct Known {
    /// Pages that it has.
    pub(crate) lent: BTreeSet<u32>,
    /// The answer that it keeps until it asks.
    pub(crate) kept: Option<Chain>,
    /// Answers that it got.
    pub(crate) answers: Vec<Vec<(u16, u64)>>,
    /// Blocks that it was told of: address and bytes.
    pub(crate) free: Vec<(u64, u32)>,
    /// Pages in a call of the inflate and deflate queues at most.
    pub(crate) most: usize,
}

/// An honest device.
#[derive(Clone)]
pub(crate) struct Honest {
    pub(crate) known: Arc<Mutex<Known>>,
    pub(crate) reporting: u16,
}

impl Script for Honest {
    fn work(&mut self, board: &mut Board) {
        let mut known = self.known.lock().expect("ours");
        for queue in [0, 1] {
            while let Some(chain) = board.next(queue) {
                let bytes = chain.read(board);
                assert!(chain.parts().iter().all(|part| !part.2), "it reads these");
                known.most = known.most.max(bytes.len() / 4);
                for pfn in bytes.as_chunks::<4>().0 {
                    let pfn = u32::from_le_bytes(*pfn);
                    assert!(pfn < (MIB << 8) as u32, "frame {pfn:#x}");
                    let changed = match queue {
                        0 => known.lent.insert(pfn),
                        _ => known.lent.remove(&pfn),
                    };
                    assert!(changed, "frame {pfn:#x} again, queue {queue}");
                }
                board.push_used(queue, chain.id(), 0);
            }
        }
        while let Some(chain) = board.next(2) {
            let bytes = chain.read(board);
            let stat = |it: &[u8; 10]| {
                let (tag, value) = it.split_at(2);
                let tag = u16::from_le_bytes(tag.try_into().expect("2"));
                (tag, u64::from_le_bytes(value.try_into().expect("8")))
            };
            known.answers.push(bytes.as_chunks::<10>().0.iter().map(stat).collect());
            assert!(known.kept.is_none(), "one answer at a time");
            known.kept = Some(chain);
        }
        while let Some(chain) = board.next(self.reporting) {
            assert!(chain.parts().iter().all(|part| part.2), "it may write these");
            known.free.extend(chain.parts().iter().map(|part| (part.0, part.1)));
            board.push_used(self.reporting, chain.id(), 0);
        }
    }
}

pub(crate) type Driver = VirtioBalloon<HostLink, HostEnv, HostMemory, Machine>;

/// A guest with a balloon device.
pub(crate) struct Guest {
    pub(crate) mm: &'static Mm<Machine>,
    pub(crate) driver: &'static Driver,
    pub(crate) service: Option<Service<HostMemory>>,
    pub(crate) balloon: &'static Balloon<Machine>,
    pub(crate) handle: Handle,
    pub(crate) device: Honest,
}

pub(crate) fn machine(config: &Config) -> &'static Mm<Machine> {
    Box::leak(Box::new(pc(MIB, 1, config).expect("a machine")))
}

/// Sizes of QEMU's queues where it has been told to report and not to hint.
pub(crate) const COUNTED: &[u16] = &[128, 128, 128, 32];

/// A device that offers `features`, behind `mm`.
pub(crate) fn board(features: u64, sizes: &[u16]) -> (HostLink, HostEnv, Handle, Honest) {
    let device = Honest { known: Arc::default(), reporting: if sizes.len() > 4 { 4 } else { 3 } };
    let (link, env, handle) = model::device(DeviceType::MemoryBalloon, sizes, device.clone());
    handle.with(|board| {
        board.offered |= features;
        board.config = vec![0; 16];
    });
    (link, env, handle, device)
}

impl Guest {
    pub(crate) fn try_on(
        mm: &'static Mm<Machine>,
        features: u64,
        sizes: &[u16],
    ) -> Result<Self, Error> {
        let (link, env, handle, device) = board(features, sizes);
        Self::start(mm, link, env, handle, device)
    }

    pub(crate) fn start(
        mm: &'static Mm<Machine>,
        link: HostLink,
        env: HostEnv,
        handle: Handle,
        device: Honest,
    ) -> Result<Self, Error> {
        let (driver, mut service) = VirtioBalloon::new(0, link, env, mm)?;
        let driver: &'static Driver = Box::leak(Box::new(driver));
        let balloon: &'static Balloon<Machine> = Box::leak(Box::default());
        balloon.attach(mm, driver, driver.terms()).expect("a free balloon");
        service.begin(driver)?;
        Ok(Self { mm, driver, service: Some(service), balloon, handle, device })
    }

    pub(crate) fn new(features: u64) -> Self {
        Self::try_on(machine(&Config::default()), features, COUNTED).expect("an honest device")
    }

    pub(crate) fn want(&self, pages: u32) {
        self.handle.with(|board| board.edit_config(CONFIG_NUM_PAGES, &pages.to_le_bytes()));
    }

    pub(crate) fn config(&self, offset: usize) -> u32 {
        self.handle.with(|board| {
            u32::from_le_bytes(board.config[offset..offset + 4].try_into().expect("4"))
        })
    }

    pub(crate) fn actual(&self) -> u32 {
        self.config(CONFIG_ACTUAL)
    }

    pub(crate) fn poison_val(&self) -> u32 {
        self.config(CONFIG_POISON_VAL)
    }

    /// Rounds until there is nothing to do at once.
    pub(crate) fn settle(&mut self) -> Result<Next, Error> {
        let service = self.service.as_mut().expect("not ended");
        for _ in 0..1000 {
            match service.round(self.driver, self.balloon)? {
                Next::Now => {}
                next @ Next::Within(_) => return Ok(next),
            }
        }
        panic!("it never settles");
    }

    pub(crate) fn wait(&mut self, next: Next) {
        let service = self.service.as_mut().expect("not ended");
        service.wait(self.driver, self.balloon, next);
    }

    pub(crate) fn end(&mut self) {
        self.service.take().expect("not ended").end(self.driver, self.balloon);
    }

    /// Nothing contradicts anything.
    #[track_caller]
    pub(crate) fn check(&self) {
        assert_eq!(self.mm.audit().expect("whole").balloon, self.balloon.size());
        let known = self.device.known.lock().expect("ours");
        assert_eq!(known.lent.len() as u64, self.balloon.size());
        for &pfn in &known.lent {
            let flags = self.mm.kpageflags(Pfn(pfn.into()));
            assert!(flags.contains(mm::proc::KPageFlags::OFFLINE), "{pfn:#x}");
        }
    }

    pub(crate) fn free(&self) -> u64 {
        self.mm.drain_all(None);
        self.mm.free_pages_total()
    }
}
