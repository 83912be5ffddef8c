//! The end of a kernel that cannot go on: says what happened, where and in
//! which test, then leaves QEMU as failed or stays halted. A crash in here is
//! reported in one line, a second one not at all. The other CPUs
//! are stopped first. Calls `console`, `backtrace`, `smp`.

use crate::arch::exit::{Verdict, exit};
use crate::arch::trap::{self, TrapFrame};
use crate::arch::{irq, percpu};
use crate::backtrace::Backtrace;
use crate::vm::stacks;
use crate::{console, selftests, smp, stage, task};
use core::arch::asm;
use core::fmt::{self, Write};
use core::panic::PanicInfo;
use core::sync::atomic::{AtomicBool, AtomicU32, Ordering};
use x86_64::registers::control::{Cr2, Cr3};
use x86_64::structures::idt::PageFaultErrorCode;

/// Which build this is: `git describe` where there is a repository, else a hash
/// of the sources.
pub(crate) const BUILD_ID: &str = env!("QUARRY_BUILD_ID");

/// The CPU that reports.
static REPORTER: AtomicU32 = AtomicU32::new(NOBODY);
const NOBODY: u32 = u32::MAX;
/// That CPU has crashed a second time.
static AGAIN: AtomicBool = AtomicBool::new(false);

/// Reports an exception that has no handler, and ends.
pub(crate) fn exception(frame: &TrapFrame) -> ! {
    report(&Exception(frame), Some(frame), Backtrace { rip: frame.rip, rbp: frame.rbp })
}

/// Reports that the test that runs takes too long, and ends. The code that
/// `frame` interrupted may be that test, or what runs while it waits elsewhere.
pub(crate) fn hang(frame: &TrapFrame, elsewhere: Option<Backtrace>, what: fmt::Arguments<'_>) -> ! {
    let what = Hang { what, elsewhere };
    report(&what, Some(frame), Backtrace { rip: frame.rip, rbp: frame.rbp })
}

/// What hangs, and where it waits.
struct Hang<'a> {
    what: fmt::Arguments<'a>,
    elsewhere: Option<Backtrace>,
}

impl fmt::Display for Hang<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}", self.what)?;
        match &self.elsewhere {
            Some(trace) => write!(f, "\nit waits at:\n{trace}and this runs meanwhile:"),
            None => Ok(()),
        }
    }
}

/// Ends the boot for a reason that is the machine's, not a bug: one clear line,
/// no report.
pub(crate) fn give_up(why: fmt::Arguments<'_>) -> ! {
    log::error!("{why}");
    exit(Verdict::Failed)
}

/// Whether a report has begun: from then on nothing else is worth a word.
pub(crate) fn in_progress() -> bool {
    REPORTER.load(Ordering::Relaxed) != NOBODY
}

#[panic_handler]
fn panic(info: &PanicInfo<'_>) -> ! {
    let (rip, rbp): (u64, u64);
    // SAFETY: reads two registers.
    unsafe {
        asm!("lea {}, [rip]", "mov {}, rbp", out(reg) rip, out(reg) rbp,
             options(nomem, nostack, preserves_flags));
    }
    report(&Panic(info), None, Backtrace { rip, rbp })
}

/// Prints the report. Interrupts stay off for good. Of CPUs that crash at the
/// same time one reports.
fn report(cause: &dyn fmt::Display, frame: Option<&TrapFrame>, trace: Backtrace) -> ! {
    irq::disable();
    irq::stop_checking();
    let me = u32::from(percpu::cpu_id().0);
    match REPORTER.compare_exchange(NOBODY, me, Ordering::Relaxed, Ordering::Relaxed) {
        Ok(_) => {}
        Err(reporter) if reporter != me => smp::stop_here(),
        Err(_) if AGAIN.swap(true, Ordering::Relaxed) => exit(Verdict::Failed),
        Err(_) => {
            // SAFETY: the first report does not run on: this one ended it.
            let mut console = unsafe { console::seize() };
            let _ = writeln!(console, "CRASH while reporting a crash: {cause}");
            exit(Verdict::Failed)
        }
    }
    let running = smp::stop_others();
    // SAFETY: interrupts are off and the other CPUs have been stopped, but for
    // those that do not even take an NMI.
    let mut console = unsafe { console::seize() };
    // Writing to the console cannot fail.
    let _ = write_report(&mut console, cause, frame, &trace);
    if running > 0 {
        let _ = writeln!(console, "{running} other CPUs could not be stopped");
    }
    exit(Verdict::Failed)
}

fn write_report(
    out: &mut impl Write,
    cause: &dyn fmt::Display,
    frame: Option<&TrapFrame>,
    trace: &Backtrace,
) -> fmt::Result {
    writeln!(out, "CRASH: {cause}")?;
    writeln!(out, "build: {BUILD_ID}")?;
    writeln!(out, "cpu:   {} of {}", percpu::cpu_id().0, smp::online())?;
    writeln!(out, "stage: {}", stage::current())?;
    writeln!(out, "test:  {}", selftests::current())?;
    writeln!(out, "thread: {}", task::current().name())?;
    if let Some(frame) = frame {
        write!(out, "{frame}")?;
        let (table, _) = Cr3::read();
        writeln!(out, "cr2 {:016x} cr3 {:016x}", Cr2::read_raw(), table.start_address())?;
    }
    writeln!(out, "backtrace:")?;
    write!(out, "{trace}")?;
    writeln!(out, "end of crash report")
}

/// An exception in words.
struct Exception<'a>(&'a TrapFrame);

impl fmt::Display for Exception<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let (vector, addr) = (self.0.vector, Cr2::read_raw());
        let overflow = stacks::guard_below(addr);
        match (vector, overflow) {
            // Pushing the frame of the page fault failed on the same page.
            (8 | 14, Some(stack)) => {
                let thread = task::current().name();
                write!(f, "stack overflow: {stack} ran into its guard at {addr:#x} in {thread}")
            }
            (14, None) => write!(f, "page fault: {} {addr:#x}", Access(self.0.error)),
            _ => f.write_str(trap::name(vector)),
        }
    }
}

/// A page fault's error code in words.
struct Access(u64);

impl fmt::Display for Access {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let code = PageFaultErrorCode::from_bits_truncate(self.0);
        let act = if code.contains(PageFaultErrorCode::INSTRUCTION_FETCH) {
            "executing"
        } else if code.contains(PageFaultErrorCode::CAUSED_BY_WRITE) {
            "writing"
        } else {
            "reading"
        };
        let why = if code.contains(PageFaultErrorCode::MALFORMED_TABLE) {
            "a malformed mapping of"
        } else if code.contains(PageFaultErrorCode::PROTECTION_VIOLATION) {
            "against the rights of"
        } else {
            "with nothing mapped at"
        };
        write!(f, "{act} {why}")
    }
}

/// A panic in words.
struct Panic<'a>(&'a PanicInfo<'a>);

impl fmt::Display for Panic<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "panic: {}", self.0.message())?;
        match self.0.location() {
            Some(at) => write!(f, ", at {at}"),
            None => Ok(()),
        }
    }
}
