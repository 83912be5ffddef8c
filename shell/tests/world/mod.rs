//! A small world for the tests: a PC of `mm::host`, output into a string.

#![allow(dead_code, unreachable_pub, reason = "not each test uses all of it")]

use mm::Mm;
use mm::arena::MovableArena;
use mm::cma::CmaRequest;
use mm::host::{Machine, build, pc};
use mm::platform::{Context, Platform};
use mm::setup::Config;
use mm::types::{CpuId, NodeId, Order, Pfn, PfnRange};
use shell::{Errno, Error, Lab, Outcome, World};
use std::fmt::{self, Write};

pub struct HostWorld {
    pub mm: &'static Mm<Machine>,
    pub arena: &'static MovableArena<Machine>,
    pub out: String,
    /// Asked this often whether to go on, the user wants to stop.
    pub patience: std::cell::Cell<u64>,
}

impl HostWorld {
    /// A machine of `mib` MiB. It lives as long as the test.
    pub fn new(mib: u64, cpus: u16) -> Self {
        let mut config = Config::default();
        // As the kernel does by default.
        if mib >= 256 {
            let request =
                CmaRequest { size: 16 << 20, base: None, end: None, order_per_bit: Order(0) };
            config.cma[0] = Some(request);
        }
        Self::over(pc(mib, cpus, &config).expect("a machine"))
    }

    /// A machine of 48 MiB with all there can be: two nodes of a CPU each, zones
    /// DMA, DMA32 and Movable, a contiguous area, a hole.
    pub fn odd() -> Self {
        const MIB: u64 = 256;
        let mut machine = Machine::new(Pfn(0), Pfn(48 * MIB), 2).expect("address space");
        machine.set_node_of_cpu(CpuId(1), NodeId(1));
        let ram = [(1, 20 * MIB, 0), (22 * MIB, 28 * MIB, 0), (28 * MIB, 48 * MIB, 1)]
            .map(|(start, end, node)| (PfnRange::new(Pfn(start), Pfn(end)), NodeId(node)));
        let mut config = Config { nodes: 2, ..Config::default() };
        config.movable_start[1] = Pfn(40 * MIB);
        let request = CmaRequest { size: 4 << 20, base: None, end: None, order_per_bit: Order(0) };
        config.cma[0] = Some(request);
        Self::over(build(machine, &ram, &config).expect("a machine"))
    }

    fn over(mm: Mm<Machine>) -> Self {
        mm.slab_init().expect("slab");
        let mm: &'static Mm<Machine> = Box::leak(Box::new(mm));
        let arena: &'static MovableArena<Machine> = Box::leak(Box::new(MovableArena::new()));
        arena.register(mm).expect("room for a driver");
        Self { mm, arena, out: String::new(), patience: u64::MAX.into() }
    }
}

impl World for HostWorld {
    type Machine = Machine;

    fn mm(&self) -> Option<&'static Mm<Machine>> {
        Some(self.mm)
    }

    fn arena(&self) -> Option<&'static MovableArena<Machine>> {
        Some(self.arena)
    }

    fn print(&mut self, text: fmt::Arguments<'_>) {
        self.out.write_fmt(text).expect("a string");
    }

    fn interrupted(&self) -> bool {
        let left = self.patience.get();
        self.patience.set(left.saturating_sub(1));
        left == 0
    }

    fn on_cpu(&mut self, cpu: CpuId, work: &mut dyn FnMut()) -> Result<(), Error> {
        if cpu.0 >= self.mm.platform().cpus() {
            return Err(Error::new(Errno::EINVAL, "no such CPU"));
        }
        self.mm.platform().run_on(cpu);
        work();
        self.mm.platform().run_on(CpuId(0));
        Ok(())
    }

    fn set_memalloc(&mut self, on: bool) {
        self.mm.platform().set_context(Context { memalloc: on, ..Context::default() });
    }

    fn tick(&mut self, ms: u64) -> Result<(), Error> {
        self.mm.platform().advance_ms(ms);
        Ok(())
    }

    fn read_file(&self, path: &str, out: &mut dyn Write) -> Result<(), Error> {
        match path {
            "/proc/cmdline" => {
                out.write_str("quiet\n").map_err(|_| Error::new(Errno::EINTR, "interrupted"))
            }
            "/proc/long" => (0..1000)
                .try_for_each(|i| writeln!(out, "line {i} \u{e4}"))
                .map_err(|_| Error::new(Errno::EINTR, "interrupted")),
            _ => Err(Error::new(Errno::ENOENT, "no such file").about(path)),
        }
    }

    fn write_file(&mut self, path: &str, _text: &str) -> Result<(), Error> {
        match path {
            "/proc/cmdline" => Err(Error::new(Errno::EPERM, "not to be written")),
            _ => Err(Error::new(Errno::ENOENT, "no such file").about(path)),
        }
    }

    fn files(&self) -> &'static [&'static str] {
        &["/proc/cmdline"]
    }

    fn command(&mut self, words: &[&str]) -> Option<Result<(), Error>> {
        (words[0] == "wave").then_some(Ok(()))
    }

    fn commands(&self) -> &'static [[&'static str; 4]] {
        &[["wave", "wave", "does nothing", "wave"]]
    }
}

/// A lab over a machine.
pub fn lab(mib: u64, cpus: u16) -> Box<Lab<HostWorld>> {
    Box::new(Lab::new(HostWorld::new(mib, cpus)))
}

/// What has been printed since the last time.
pub fn said(lab: &mut Lab<HostWorld>) -> String {
    std::mem::take(&mut lab.world_mut().out)
}

/// Runs a line that is to succeed; its output.
#[track_caller]
pub fn ok(lab: &mut Lab<HostWorld>, line: &str) -> String {
    let outcome = lab.line(line.as_bytes());
    let out = said(lab);
    assert_eq!(outcome, Outcome::Ok, "{line}: {out}");
    out
}

/// Runs a line that is to fail with `errno`, in one line; its output.
#[track_caller]
pub fn fails(lab: &mut Lab<HostWorld>, errno: Errno, line: &str) -> String {
    let outcome = lab.line(line.as_bytes());
    let out = said(lab);
    match outcome {
        Outcome::Failed(error) => assert_eq!(error.errno, errno, "{line}: {out}"),
        other => panic!("{line}: {other:?}: {out}"),
    }
    assert!(out.starts_with(&format!("error: {errno}: ")), "{line}: {out}");
    assert_eq!(out.lines().count(), 1, "{line}: {out}");
    out
}

/// Free pages, those on per-CPU lists among them.
pub fn free_pages(lab: &Lab<HostWorld>) -> u64 {
    let mm = lab.world().mm;
    mm.zones().iter().map(|zone| zone.free_pages() + mm.pcp_pages(zone)).sum()
}
