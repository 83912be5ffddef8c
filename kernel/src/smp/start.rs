//! Starting the other CPUs, one after the other (Linux arch/x86/kernel/smpboot.c):
//! each gets its area, stacks and a place to begin; what never answers is left
//! out. Calls `trampoline`, `call`, `arch`, `vm`.

use crate::arch::gdt::Ist;
use crate::arch::percpu::{self, PerCpu};
use crate::arch::{apic, cpu, idt, irq, pat, time, wide};
use crate::platform::Machine;
use crate::smp::{self, ONLINE, call, trampoline, warp};
use crate::vm::kstack::{KernelStack, NoStack};
use crate::{mce, task, vm};
use alloc::alloc::{alloc, dealloc};
use core::alloc::Layout;
use core::arch::naked_asm;
use core::hint::spin_loop;
use core::mem::ManuallyDrop;
use core::ptr::{self, NonNull, null_mut};
use core::sync::atomic::{AtomicBool, AtomicPtr, AtomicU64, Ordering};
use mm::Mm;
use mm::types::CpuId;
use quarry_kernel::bringup::{self, Candidate, Failure};
use quarry_kernel::lapic::{Command, Destination, NotSent};
use quarry_kernel::sdt::{ApicId, Presence};
use x86_64::registers::control::{Cr3, Cr3Flags, Cr4};
use x86_64::structures::paging::PhysFrame;
use x86_64::{PhysAddr, VirtAddr};

/// Bytes of the stack that a CPU begins and idles on.
const STACK: usize = 64 * 1024;
/// Bytes of an exception stack.
const EXCEPTION_STACK: usize = 16 * 1024;

/// The stack that the next CPU to begin takes; 0 when there is none, or not any
/// more. A CPU that comes late, when nobody waits for it, finds none.
static OFFER: AtomicU64 = AtomicU64::new(0);
/// The area that goes with it.
static AREA: AtomicPtr<PerCpu> = AtomicPtr::new(null_mut());
/// The boot CPU's `CR4`.
static CR4: AtomicU64 = AtomicU64::new(0);
/// The CPU that has begun is ready.
static READY: AtomicBool = AtomicBool::new(false);

/// A CPU's area and stacks. They are given back unless the CPU may run on them.
struct Equipment {
    area: NonNull<PerCpu>,
    stack: KernelStack,
    exceptions: [KernelStack; Ist::ALL.len()],
}

impl Equipment {
    fn new(mm: &'static Mm<Machine>, cpu: CpuId) -> Result<Self, NoStack> {
        let stack = KernelStack::allocate(mm, STACK)?;
        let exception = || KernelStack::allocate(mm, EXCEPTION_STACK);
        let exceptions = [exception()?, exception()?, exception()?];
        // SAFETY: the layout is not empty.
        let area = unsafe { alloc(Layout::new::<PerCpu>()) };
        let area = NonNull::new(area.cast::<PerCpu>()).ok_or(NoStack::NoMemory)?;
        // SAFETY: that much was allocated.
        unsafe { area.write(PerCpu::new(cpu)) };
        Ok(Self { area, stack, exceptions })
    }

    /// The area; who takes it keeps the equipment for good.
    fn area(&self) -> &'static PerCpu {
        // SAFETY: it was made in `new`. It is used by the CPU only, and once
        // that has begun nothing of this is given back.
        unsafe { self.area.as_ref() }
    }
}

impl Drop for Equipment {
    fn drop(&mut self) {
        // SAFETY: allocated like this, and no CPU has it.
        unsafe { dealloc(self.area.as_ptr().cast(), Layout::new::<PerCpu>()) };
    }
}

/// A CPU that is being started, as seen from the one that starts it.
struct Starting {
    apic_id: ApicId,
    /// It is to seem as if it did not answer: it is reset, but what would have
    /// it begin is lost on the way. All else is as with one that is broken.
    deaf: bool,
}

impl Candidate for Starting {
    fn send(&mut self, command: Command) -> Result<(), NotSent> {
        match command {
            Command::StartUp(_) if self.deaf => Ok(()),
            _ => apic::send(command, Destination::One(self.apic_id)),
        }
    }

    fn wait_us(&mut self, us: u64) {
        let counts = time::counts_per_ms() * us / 1000;
        let start = time::counter();
        while time::counter().wrapping_sub(start) < counts {
            warp::answer();
            spin_loop();
        }
    }

    fn has_begun(&mut self) -> bool {
        OFFER.load(Ordering::Acquire) == 0
    }

    fn is_ready(&mut self) -> bool {
        warp::answer();
        READY.load(Ordering::Acquire)
    }

    fn withdraw(&mut self) -> bool {
        OFFER.swap(0, Ordering::AcqRel) != 0
    }
}

/// Starts all CPUs that are enabled, as far as the command line lets them. Once, on
/// the boot CPU, interrupts on.
pub(crate) fn bring_up(mm: &'static Mm<Machine>) {
    let Some(cpus) = smp::cpus() else { return };
    log::info!("smp: Bringing up secondary CPUs ...");
    for (number, cpu) in cpus.iter().enumerate().skip(1) {
        let id = CpuId(number as u16);
        if cpu.presence == Presence::Disabled {
            log::info!("smp: CPU {number} (APIC {}) is disabled by the firmware", cpu.apic_id);
        } else if smp::limit().is_some_and(|limit| ONLINE.get().len() >= limit) {
            log::info!("smp: CPU {number} (APIC {}) is left out by maxcpus=", cpu.apic_id);
        } else if let Err(why) = start(mm, id, cpu.apic_id) {
            log::warn!("smp: CPU {number} (APIC {}) {why}, left out", cpu.apic_id);
        }
    }
    let online = ONLINE.get();
    let mut nodes: u64 = 0;
    for cpu in online.iter() {
        nodes |= 1 << crate::numa::node_of_cpu(cpu).0;
    }
    let (nodes, online) = (nodes.count_ones(), online.len());
    let plural = |number| if number == 1 { "" } else { "s" };
    let (s, t) = (plural(nodes as usize), plural(online));
    log::info!("smp: Brought up {nodes} node{s}, {online} CPU{t}");
}

/// Why a CPU could not be started.
#[derive(Debug)]
pub(crate) enum NotStarted {
    /// No memory for its stacks.
    NoStack(NoStack),
    /// No low memory for the code it begins with.
    NoPlace,
    /// It is not as it should be.
    Failure(Failure),
}

impl core::fmt::Display for NotStarted {
    fn fmt(&self, f: &mut core::fmt::Formatter<'_>) -> core::fmt::Result {
        match self {
            Self::NoStack(error) => write!(f, "cannot be started: {error}"),
            Self::NoPlace => f.write_str("cannot be started: low memory has no room for its code"),
            Self::Failure(failure) => failure.fmt(f),
        }
    }
}

/// Starts a CPU that never ran.
pub(super) fn start(
    mm: &'static Mm<Machine>,
    id: CpuId,
    apic_id: ApicId,
) -> Result<(), NotStarted> {
    let equipment = Equipment::new(mm, id).map_err(NotStarted::NoStack)?;
    let area = equipment.area();
    for (ist, stack) in Ist::ALL.into_iter().zip(&equipment.exceptions) {
        // SAFETY: the stack is that exception's on that CPU, which does not run
        // yet.
        unsafe { area.tables.set_ist(ist, VirtAddr::new(stack.top())) };
    }
    area.stack_top.store(equipment.stack.top(), Ordering::Relaxed);
    let started = launch(area, apic_id);
    // What has begun may run on what it took for ever.
    if matches!(started, Ok(()) | Err(NotStarted::Failure(Failure::Stuck))) {
        let _ = ManuallyDrop::new(equipment);
    }
    started
}

/// Starts a CPU that does not run, in its area and on its stacks.
pub(super) fn launch(area: &'static PerCpu, apic_id: ApicId) -> Result<(), NotStarted> {
    // SAFETY: every other CPU that was told to start is out of it or was
    // waited for as long as anybody can.
    let page = unsafe { trampoline::prepare(entry as *const () as u64) };
    let page = page.ok_or(NotStarted::NoPlace)?;
    CR4.store(Cr4::read_raw(), Ordering::Relaxed);
    READY.store(false, Ordering::Relaxed);
    AREA.store(ptr::from_ref(area).cast_mut(), Ordering::Relaxed);
    OFFER.store(area.stack_top.load(Ordering::Relaxed), Ordering::Release);
    let mut cpu = Starting { apic_id, deaf: smp::is_deaf(area.id()) };
    bringup::start(&mut cpu, page).map_err(NotStarted::Failure)?;
    warp::report(area.id(), area);
    Ok(())
}

/// Where the trampoline goes on: on no stack, with its page tables. Takes the
/// stack that is on offer, or stops.
#[unsafe(naked)]
extern "C" fn entry() -> ! {
    naked_asm!(
        "xor eax, eax",
        "xchg [rip + {offer}], rax",
        "test rax, rax",
        "jz 2f",
        "mov rsp, rax",
        "xor ebp, ebp",
        // A return address of 0 ends backtraces.
        "push 0",
        "jmp {secondary}",
        "2:",
        "cli",
        "hlt",
        "jmp 2b",
        offer = sym OFFER,
        secondary = sym secondary,
    )
}

/// A started CPU's first steps. Nothing may be logged before it has its area.
extern "C" fn secondary() -> ! {
    // SAFETY: the starter stored a valid area before its stack was on offer.
    let area: &'static PerCpu = unsafe { &*AREA.load(Ordering::Relaxed) };
    // First of all: locks note there that they are held.
    percpu::install(area);
    pat::init();
    if let Some(root) = vm::root() {
        let frame = PhysFrame::containing_address(PhysAddr::new(root.addr()));
        // SAFETY: the kernel's tables, which map all that is in use here; the
        // boot CPU's features go with them.
        unsafe {
            Cr3::write(frame, Cr3Flags::empty());
            Cr4::write_raw(CR4.load(Ordering::Relaxed));
        }
    }
    wide::init();
    area.in_force.begin();
    // SAFETY: once, on the CPU that owns the tables, whose stacks are set.
    unsafe { area.tables.load() };
    idt::load();
    mce::init();
    let known = smp::cpus().and_then(|cpus| cpus.get(area.id()));
    let expected = known.is_some_and(|known| known.apic_id.0 == cpu::features().apic_id);
    if !expected || !apic::init_secondary(smp::nmi_pin(area.id())) {
        // The starter sees that it is stuck.
        stop();
    }
    warp::ask();
    call::come_online();
    task::come_online();
    READY.store(true, Ordering::Release);
    task::enter_idle()
}

/// Stops this CPU for good.
pub(super) fn stop() -> ! {
    loop {
        irq::disable();
        x86_64::instructions::hlt();
    }
}
