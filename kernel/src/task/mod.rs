//! Kernel threads: preemptive, by priority and in turns among equals, each on a
//! guarded stack of its own; wait queues, sleeping and mutexes on top of them.
//!
//! The one primitive below it all is *park and unpark*: a thread that parks
//! does not run until somebody unparks it or its time has come, and an unpark
//! that comes first makes the next park return at once. So nothing is lost, and
//! whoever parks looks again at what it waits for. Calls `arch`, `vm`, `mm` for
//! stacks, and the policy in `quarry_kernel::sched`.

mod cpu;
mod guard;
mod mutex;
mod sched;
pub(crate) mod space;
mod spawn;
mod switch;
mod thread;
mod wait;
mod watchdog;

pub(crate) use cpu::Cpu;
pub(crate) use guard::{is_bound, pin, preempt_disable};
pub(crate) use mutex::Mutex;
pub(crate) use sched::{
    come_online, enter_idle, may_sleep, preempt_from_irq, retire, sleep, tick, yield_now,
};
pub(crate) use spawn::{Config, JoinHandle, SpawnError, init, move_to, spawn, undertake};
pub(crate) use thread::{Rights, Thread, current};
pub(crate) use wait::WaitQueue;
pub(crate) use watchdog::{answer, is_named, set_limit};
