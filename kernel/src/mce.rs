//! Machine checks: the banks of each CPU are switched on, what they say is kept
//! for a thread that logs it and has bad memory taken out of use. The exception
//! may come between any two instructions, whatever is locked: its handler takes
//! no lock and logs nothing. Calls `arch`, `task`, `mm`; `crash` if there is no
//! going on.

use crate::arch::percpu;
use crate::arch::trap::TrapFrame;
use crate::platform::Machine;
use crate::task::{self, Config, SpawnError, WaitQueue};
use crate::{crash, smp};
use core::arch::x86_64::__cpuid;
use core::fmt;
use core::sync::atomic::Ordering::{Acquire, Relaxed, Release};
use core::sync::atomic::{AtomicBool, AtomicU8, AtomicU32, AtomicU64};
use mm::Mm;
use mm::poison::PoisonError;
use mm::types::CpuId;
use quarry_kernel::cpuset::CpuSet;
use quarry_kernel::mca::{Bank, Capabilities, FIRST_BANK, GlobalStatus, Severity};
use quarry_kernel::sched::{Name, Priority};
use x86_64::registers::control::{Cr4, Cr4Flags};
use x86_64::registers::model_specific::Msr;

const MCG_CAP: u32 = 0x179;
const MCG_STATUS: u32 = 0x17a;
const MCG_CTL: u32 = 0x17b;
const MC0_CTL: u32 = FIRST_BANK;

/// How often banks are looked at for errors that were corrected (ms).
const POLL_MS: u64 = 60_000;
/// Errors that can wait for the thread.
const RECORDS: usize = 64;

const FREE: u8 = 0;
const WRITING: u8 = 1;
const FULL: u8 = 2;

/// An error that waits to be logged.
struct Record {
    state: AtomicU8,
    cpu: AtomicU32,
    bank: AtomicU32,
    severity: AtomicU8,
    words: [AtomicU64; 3],
}

static WAITING: [Record; RECORDS] = [const {
    Record {
        state: AtomicU8::new(FREE),
        cpu: AtomicU32::new(0),
        bank: AtomicU32::new(0),
        severity: AtomicU8::new(0),
        words: [const { AtomicU64::new(0) }; 3],
    }
}; RECORDS];

/// Errors for which there was no room.
static LOST: AtomicU32 = AtomicU32::new(0);
/// There is something to log.
static PENDING: AtomicBool = AtomicBool::new(false);
static LOGGER: WaitQueue = WaitQueue::new();

/// How the machine stands, for people.
pub(crate) const FILE: &str = "/sys/kernel/debug/quarry/mce";

/// Errors that were logged, by severity.
static LOGGED: [AtomicU64; Severity::ALL.len()] =
    [const { AtomicU64::new(0) }; Severity::ALL.len()];
/// Looks at all CPUs' banks for errors that were corrected.
static POLLS: AtomicU64 = AtomicU64::new(0);
/// Errors for which there was no room, since boot.
static LOST_ALL: AtomicU64 = AtomicU64::new(0);

/// Writes [`FILE`]: how many errors of each severity were logged, `key value`.
///
/// # Errors
///
/// `out`'s.
pub(crate) fn write_file(out: &mut dyn fmt::Write) -> fmt::Result {
    for (severity, count) in Severity::ALL.iter().zip(&LOGGED) {
        writeln!(out, "{} {}", severity.key(), count.load(Relaxed))?;
    }
    writeln!(out, "lost {}", LOST_ALL.load(Relaxed))?;
    writeln!(out, "polls {}", POLLS.load(Relaxed))
}

fn read(msr: u32) -> u64 {
    // SAFETY: a register of the machine check architecture, which this processor
    // has; reading it changes nothing.
    unsafe { Msr::new(msr).read() }
}

fn write(msr: u32, value: u64) {
    // SAFETY: as above; it decides what is told of errors, and nothing else.
    unsafe { Msr::new(msr).write(value) }
}

/// What this processor can tell; None if it has no such registers.
fn capabilities() -> Option<Capabilities> {
    const MCE: u32 = 1 << 7;
    const MCA: u32 = 1 << 14;
    let has = __cpuid(1).edx & (MCE | MCA) == MCE | MCA;
    has.then(|| Capabilities(read(MCG_CAP)))
}

/// What bank `n` says, if there is an error in it; then it is forgotten there.
fn take(n: u32) -> Option<Bank> {
    Bank::take(n, read, write)
}

/// Switches machine checks on for this CPU, and keeps what its banks say from
/// before. With its own exception stacks; interrupts on or off.
pub(crate) fn init() {
    let Some(caps) = capabilities() else { return };
    if caps.has_control() {
        write(MCG_CTL, u64::MAX);
    }
    for n in 0..caps.banks() {
        // What was not told to anybody cannot be acted on any more: the frame
        // may hold something else by now.
        if let Some(bank) = take(n) {
            keep(n, bank, Severity::Unrelated);
        }
        write(MC0_CTL + 4 * n, u64::MAX);
        write(MC0_CTL + 4 * n + 1, 0);
    }
    write(MCG_STATUS, 0);
    // SAFETY: there is a handler.
    unsafe { Cr4::update(|flags| flags.insert(Cr4Flags::MACHINE_CHECK_EXCEPTION)) };
    if percpu::cpu_id() == CpuId(0) {
        log::info!("mce: CPU supports {} MCE banks", caps.banks());
    }
}

/// Keeps an error for the thread that logs. From any context, an exception too.
fn keep(n: u32, bank: Bank, severity: Severity) {
    let claim =
        |record: &&Record| record.state.compare_exchange(FREE, WRITING, Acquire, Relaxed).is_ok();
    match WAITING.iter().find(claim) {
        Some(record) => {
            record.cpu.store(u32::from(percpu::cpu_id().0), Relaxed);
            record.bank.store(n, Relaxed);
            record.severity.store(severity as u8, Relaxed);
            for (slot, word) in record.words.iter().zip([bank.status, bank.addr, bank.misc]) {
                slot.store(word, Relaxed);
            }
            record.state.store(FULL, Release);
        }
        None => {
            LOST.fetch_add(1, Relaxed);
        }
    }
    PENDING.store(true, Release);
}

/// Looks at all banks of this CPU. The worst that was found.
fn look(caps: Capabilities, global: GlobalStatus) -> Severity {
    let mut worst = Severity::Corrected;
    for n in 0..caps.banks() {
        let Some(bank) = take(n) else { continue };
        let severity = bank.severity(caps, global);
        keep(n, bank, severity);
        if severity as u8 > worst as u8 {
            worst = severity;
        }
    }
    worst
}

/// The exception.
pub(crate) fn handle(frame: &TrapFrame) {
    let Some(caps) = capabilities() else { crash::exception(frame) };
    let global = GlobalStatus(read(MCG_STATUS));
    let worst = look(caps, global);
    // Whoever wanted the data is the kernel: it cannot go on without them.
    let ends = matches!(worst, Severity::ActionRequired | Severity::Fatal);
    if ends || !global.can_resume() {
        crash::exception(frame);
    }
    // Another one from here on is a new one.
    write(MCG_STATUS, 0);
}

/// To be called at each tick of a CPU's timer: wakes the thread that logs if
/// there is something.
pub(crate) fn tick() {
    if PENDING.load(Relaxed) {
        LOGGER.wake_one();
    }
}

/// Starts the thread that logs errors and has bad memory taken out of use.
///
/// # Errors
///
/// It could not be made.
pub(crate) fn start(mm: &'static Mm<Machine>) -> Result<(), SpawnError> {
    if capabilities().is_none() {
        return Ok(());
    }
    let config = Config { priority: Priority::Low, ..Config::new(Name::new("mce")) };
    task::spawn(&config, move || serve(mm)).map(drop)
}

fn serve(mm: &'static Mm<Machine>) {
    loop {
        if !LOGGER.wait_until_for(POLL_MS, || PENDING.load(Acquire)) {
            poll();
        }
        PENDING.store(false, Relaxed);
        WAITING.iter().for_each(|record| tell(mm, record));
        let lost = LOST.swap(0, Relaxed);
        if lost > 0 {
            LOST_ALL.fetch_add(lost.into(), Relaxed);
            log::error!("mce: [Hardware Error]: {lost} errors more");
        }
    }
}

/// Looks for errors that nobody was interrupted for, on each CPU.
fn poll() {
    POLLS.fetch_add(1, Relaxed);
    for cpu in smp::online().iter() {
        // One that has gone meanwhile has no errors to tell of.
        if task::move_to(CpuSet::one(cpu)).is_ok()
            && let Some(caps) = capabilities()
        {
            let here = task::pin();
            look(caps, GlobalStatus(1));
            drop(here);
        }
    }
    // All of them were there a moment ago.
    let _ = task::move_to(CpuSet::ALL);
}

/// How often it is tried to take a bad frame out of use, and the time between (ms).
const TRIES: u32 = 50;
const RETRY_MS: u64 = 200;

/// Logs an error, and acts on it.
fn tell(mm: &'static Mm<Machine>, record: &Record) {
    if record.state.load(Acquire) != FULL {
        return;
    }
    let (cpu, n) = (record.cpu.load(Relaxed), record.bank.load(Relaxed));
    let number = usize::from(record.severity.load(Relaxed)) % Severity::ALL.len();
    let severity = Severity::ALL[number];
    LOGGED[number].fetch_add(1, Relaxed);
    let [status, addr, misc] = [0, 1, 2].map(|i: usize| record.words[i].load(Relaxed));
    record.state.store(FREE, Release);
    let bank = Bank { status, addr, misc };
    log::error!("mce: [Hardware Error]: CPU {cpu} Bank {n}: {bank}, {}", severity.name());
    if matches!(severity, Severity::NoAction | Severity::ActionOptional)
        && let Some(pfn) = bank.frame()
    {
        // What comes of it is logged there. A frame that is out, to be reported
        // or moved, will be back.
        for _ in 0..TRIES {
            if mm.poison_page(pfn) != Err(PoisonError::Busy) {
                break;
            }
            task::sleep(RETRY_MS);
        }
    }
}
