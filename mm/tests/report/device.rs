//! Devices that write down what they are told, and answer as a test wants.

use mm::host::{Machine, pc};
use mm::platform::{Platform, Worker};
use mm::report::{ReportDevice, ReportFailed, ReportState};
use mm::types::{Order, PfnRange};
use mm::{Config, Gfp, Mm, Page, Request};
use std::sync::{Mutex, MutexGuard, PoisonError};

type Answer = Box<dyn FnMut(&[PfnRange]) -> Result<(), ReportFailed> + Send>;

/// A device that notes each batch before it answers.
pub(crate) struct Scripted {
    batches: Mutex<Vec<Vec<PfnRange>>>,
    answer: Mutex<Answer>,
    pattern: Option<u8>,
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

impl Scripted {
    /// One that answers with `answer`.
    pub(crate) fn new(
        answer: impl FnMut(&[PfnRange]) -> Result<(), ReportFailed> + Send + 'static,
    ) -> &'static Self {
        Self::preserving(None, answer)
    }

    /// One that preserves pages of nothing but `pattern`.
    pub(crate) fn preserving(
        pattern: Option<u8>,
        answer: impl FnMut(&[PfnRange]) -> Result<(), ReportFailed> + Send + 'static,
    ) -> &'static Self {
        let answer: Mutex<Answer> = Mutex::new(Box::new(answer));
        Box::leak(Box::new(Self { batches: Mutex::default(), answer, pattern }))
    }

    /// One that always succeeds.
    pub(crate) fn willing() -> &'static Self {
        Self::new(|_| Ok(()))
    }

    /// The batches since this was asked last.
    pub(crate) fn take(&self) -> Vec<Vec<PfnRange>> {
        core::mem::take(&mut lock(&self.batches))
    }

    /// All blocks since this was asked last.
    pub(crate) fn take_blocks(&self) -> Vec<PfnRange> {
        self.take().concat()
    }
}

impl ReportDevice for Scripted {
    fn report(&self, blocks: &[PfnRange]) -> Result<(), ReportFailed> {
        assert!(!blocks.is_empty() && blocks.len() <= 32, "{} blocks", blocks.len());
        for block in blocks {
            assert!(block.pages().is_power_of_two() && block.start.is_aligned(order(*block)));
        }
        lock(&self.batches).push(blocks.to_vec());
        // Not kept while the device is at work: it may be called by another.
        let mut answer = core::mem::replace(&mut *lock(&self.answer), Box::new(|_| Ok(())));
        let result = answer(blocks);
        *lock(&self.answer) = answer;
        result
    }

    fn preserves(&self, pattern: u8) -> bool {
        self.pattern == Some(pattern)
    }
}

pub(crate) fn order(block: PfnRange) -> Order {
    Order::for_pages(block.pages())
}

/// A machine whose blocks all have descriptors, that outlives its devices.
pub(crate) fn machine(mib: u64, cpus: u16) -> &'static Mm<Machine> {
    machine_with(mib, cpus, Config { defer: false, ..Config::default() })
}

pub(crate) fn machine_with(mib: u64, cpus: u16, config: Config) -> &'static Mm<Machine> {
    Box::leak(Box::new(pc(mib, cpus, &config).expect("RAM enough")))
}

pub(crate) fn alloc(mm: &Mm<Machine>, order: u8) -> Page {
    mm.alloc_pages(Request::new(Order(order), Gfp::KERNEL | Gfp::MOVABLE)).expect("a block")
}

pub(crate) fn free(mm: &Mm<Machine>, page: Page) {
    mm.free_pages(page).expect("an allocated block");
}

/// Whether the reporting worker was woken since this was asked last.
pub(crate) fn woken(mm: &Mm<Machine>) -> bool {
    mm.platform().take_woken().contains(&Worker::Reporting)
}

/// Runs the worker as a kernel would for `ms` milliseconds; returns its rounds
/// that made a pass.
pub(crate) fn run_for(mm: &Mm<Machine>, ms: u64) -> u64 {
    let before = mm.report_stats().passes;
    let end = mm.platform().now_ms() + ms;
    // A round that comes too early does no harm: it says how early.
    let mut next = (mm.report_status().state == ReportState::Requested).then_some(0);
    loop {
        if woken(mm) {
            next = Some(0);
        }
        let Some(wait) = next else { break };
        let now = mm.platform().now_ms();
        if now + wait > end {
            break;
        }
        mm.platform().advance_ms(wait);
        next = mm.work(Worker::Reporting);
    }
    let now = mm.platform().now_ms();
    mm.platform().advance_ms(end - now);
    mm.report_stats().passes - before
}

/// Runs the worker until it has nothing to do.
pub(crate) fn settle(mm: &Mm<Machine>) -> u64 {
    run_for(mm, 1_000_000)
}
