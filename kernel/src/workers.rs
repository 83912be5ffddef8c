//! The memory manager's background: a thread for each of its workers, which
//! does a round whenever `mm` has asked for one or said when it wants one, and
//! one per CPU that ages what the slab layer keeps there. Who measures what they
//! change keeps them quiet meanwhile, and so does who wants to say when they run.
//! Calls `task`, `mm`.

use crate::arch::irq::IrqMutex;
use crate::arch::percpu;
use crate::platform::Machine;
use crate::task::{self, Config, Rights, SpawnError, WaitQueue};
use core::sync::atomic::{AtomicBool, Ordering::AcqRel, Ordering::Relaxed, Ordering::Release};
use mm::Mm;
use mm::platform::Worker;
use mm::sync::LockRank;
use mm::types::{CpuId, MAX_NODES, NodeId};
use quarry_kernel::cpuset::CpuSet;
use quarry_kernel::sched::{Name, Priority};

/// When a worker that looks around unasked begins, ms.
const FIRST_LOOK_MS: u64 = 500;

/// Where a worker learns that there is something to do.
struct Post {
    asked: AtomicBool,
    queue: WaitQueue,
}

/// The first of the nodes' kcompactd; their kswapd begin at 0.
const KCOMPACTD: usize = MAX_NODES;
const REPORTING: usize = 2 * MAX_NODES;
const FLUSHER: usize = REPORTING + 1;

static POSTS: [Post; FLUSHER + 1] =
    [const { Post { asked: AtomicBool::new(false), queue: WaitQueue::new() } }; FLUSHER + 1];

fn post(worker: Worker) -> &'static Post {
    let index = match worker {
        Worker::Kswapd(node) => usize::from(node.0) % MAX_NODES,
        Worker::Kcompactd(node) => KCOMPACTD + usize::from(node.0) % MAX_NODES,
        Worker::Reporting => REPORTING,
        Worker::Flusher => FLUSHER,
    };
    &POSTS[index]
}

/// Asks `worker` for a round. From any context but an NMI.
pub(crate) fn wake(worker: Worker) {
    let post = post(worker);
    if !post.asked.swap(true, Release) {
        post.queue.wake_one();
    }
}

/// Who is inside: workers in a round, or those who keep them from it.
struct Inside {
    rounds: u32,
    /// Rounds of those who only look.
    looks: u32,
    quiet: u32,
    held: u32,
}

static INSIDE: IrqMutex<Inside> =
    IrqMutex::new(LockRank::Leaf, Inside { rounds: 0, looks: 0, quiet: 0, held: 0 });
/// Where workers wait for quiet to end.
static BETWEEN_ROUNDS: WaitQueue = WaitQueue::new();
/// Where those wait who wait for workers.
static ROUNDS_END: WaitQueue = WaitQueue::new();

/// No worker begins a round while this lives, nor does anybody look.
pub(crate) struct Quiet(());

/// Keeps workers from beginning a round, and waits until those that have begun
/// are done. Interrupts on, no lock held; not by a worker.
#[must_use]
pub(crate) fn quiet() -> Quiet {
    INSIDE.lock().quiet += 1;
    wait_for_rounds(|inside| inside.rounds == 0 && inside.looks == 0);
    Quiet(())
}

impl Drop for Quiet {
    fn drop(&mut self) {
        INSIDE.lock().quiet -= 1;
        BETWEEN_ROUNDS.wake_all();
    }
}

/// Workers work while this lives, though somebody who has it wants quiet.
pub(crate) struct Busy(());

/// Has workers work on, by whoever keeps them quiet himself, until that is
/// dropped. Interrupts on, no lock held; not by a worker.
#[must_use]
pub(crate) fn busy() -> Busy {
    let quiet = {
        let mut inside = INSIDE.lock();
        let quiet = inside.quiet > 0;
        inside.quiet = inside.quiet.saturating_sub(1);
        quiet
    };
    debug_assert!(quiet, "nobody has kept them quiet");
    BETWEEN_ROUNDS.wake_all();
    Busy(())
}

impl Drop for Busy {
    fn drop(&mut self) {
        // What was lent is given back.
        core::mem::forget(quiet());
    }
}

/// No worker changes anything while this lives; others may look.
pub(crate) struct Held(());

/// As [`quiet`], but for those who only [`look`].
#[must_use]
pub(crate) fn hold() -> Held {
    INSIDE.lock().held += 1;
    wait_for_rounds(|inside| inside.rounds == 0);
    Held(())
}

impl Drop for Held {
    fn drop(&mut self) {
        INSIDE.lock().held -= 1;
        BETWEEN_ROUNDS.wake_all();
    }
}

fn wait_for_rounds(over: impl Fn(&Inside) -> bool) {
    ROUNDS_END.wait_until(|| over(&INSIDE.lock()));
}

/// Waits until every round that has been asked for is done. Interrupts on, no
/// lock held; not by a worker, nor while keeping them from their rounds.
pub(crate) fn settle() {
    wait_for_rounds(|inside| {
        inside.rounds == 0 && POSTS.iter().all(|post| !post.asked.load(Relaxed))
    });
}

/// Does `work` as a round of a worker's: not while somebody wants quiet or holds
/// the workers. Interrupts on, no lock held.
pub(crate) fn round<R>(work: impl FnOnce() -> R) -> R {
    BETWEEN_ROUNDS.wait_until(|| {
        let mut inside = INSIDE.lock();
        let may = inside.quiet == 0 && inside.held == 0;
        inside.rounds += u32::from(may);
        may
    });
    let result = work();
    INSIDE.lock().rounds -= 1;
    ROUNDS_END.wake_all();
    result
}

/// Does `work`, which changes nothing of what `mm` keeps: not while somebody
/// wants quiet. Interrupts on, no lock held.
pub(crate) fn look<R>(work: impl FnOnce() -> R) -> R {
    BETWEEN_ROUNDS.wait_until(|| {
        let mut inside = INSIDE.lock();
        let may = inside.quiet == 0;
        inside.looks += u32::from(may);
        may
    });
    let result = work();
    INSIDE.lock().looks -= 1;
    ROUNDS_END.wake_all();
    result
}

/// A worker's life.
fn serve(mm: &Mm<Machine>, worker: Worker) {
    if matches!(worker, Worker::Kswapd(_)) {
        // What it takes to free memory may come from the reserves.
        task::current().set_rights(Rights::MEMALLOC);
    }
    let post = post(worker);
    let asked = || post.asked.load(Relaxed);
    // It looks at its node by itself, from the beginning.
    let mut again = matches!(worker, Worker::Kcompactd(_)).then_some(FIRST_LOOK_MS);
    loop {
        match again {
            Some(ms) => {
                post.queue.wait_until_for(ms, asked);
            }
            None => post.queue.wait_until(asked),
        }
        again = round(|| {
            // What is asked for during the round is for the next one.
            post.asked.swap(false, AcqRel);
            mm.work(worker)
        });
    }
}

/// Ages what the slab layer keeps for the CPU this runs on, which does not
/// change.
fn reap(mm: &Mm<Machine>) {
    loop {
        let ms = round(|| mm.cache_reap());
        task::sleep(ms);
    }
}

/// Starts the workers of `mm`, and the thread that buries others.
///
/// # Errors
///
/// One of them could not be made; those before it run.
pub(crate) fn start(mm: &'static Mm<Machine>) -> Result<(), SpawnError> {
    let undertaker = Config::new(Name::new("undertaker"));
    task::spawn(&undertaker, || task::undertake())?;
    for node in 0..mm.nodes() {
        let id = NodeId(node as u8);
        let kswapd = Config::new(Name::numbered("kswapd", node as u64));
        task::spawn(&kswapd, move || serve(mm, Worker::Kswapd(id)))?;
        let kcompactd = Config::new(Name::numbered("kcompactd", node as u64));
        task::spawn(&kcompactd, move || serve(mm, Worker::Kcompactd(id)))?;
    }
    let reporting = Config { priority: Priority::Low, ..Config::new(Name::new("reporting")) };
    task::spawn(&reporting, move || serve(mm, Worker::Reporting))?;
    task::spawn(&Config::new(Name::new("flusher")), move || serve(mm, Worker::Flusher))?;
    for area in percpu::all() {
        start_reaper(mm, area.id())?;
    }
    Ok(())
}

/// Starts the thread that ages what the slab layer keeps for `cpu`.
///
/// # Errors
///
/// It could not be made.
pub(crate) fn start_reaper(mm: &'static Mm<Machine>, cpu: CpuId) -> Result<(), SpawnError> {
    let config = Config {
        priority: Priority::Low,
        cpus: CpuSet::one(cpu),
        ..Config::new(Name::numbered("reaper", u64::from(cpu.0)))
    };
    task::spawn(&config, move || reap(mm)).map(drop)
}
