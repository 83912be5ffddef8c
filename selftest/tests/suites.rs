//! All suites, quick and full, on simulated machines.
use mm::cma::CmaRequest;
use mm::host::{Machine, build, pc};
use mm::types::{CpuId, MAX_NODES, NodeId, Order, Pfn, PfnRange};
use mm::{Config as MmConfig, Mm};
use selftest::suites::{Ground, Suites};
use selftest::{Config, Counts, Crew, Filter, Harness, Level, run};
use std::fmt::Arguments;
use std::time::Instant;

struct Lines {
    text: String,
    start: Instant,
}

impl Harness for Lines {
    fn line(&mut self, line: Arguments<'_>) {
        self.text += &format!("{line}\n");
    }
    fn case_begins(&mut self, _: &'static str, _: &'static str) {}
    fn case_ended(&mut self) {}
    fn now_ms(&self) -> u64 {
        self.start.elapsed().as_millis() as u64
    }
}

/// The configuration of a machine with a contiguous area of `mib` MiB.
fn with_cma(mib: u64) -> MmConfig {
    let mut config = MmConfig::default();
    let request = CmaRequest { size: mib << 20, base: None, end: None, order_per_bit: Order(0) };
    config.cma[0] = Some(request);
    config
}

fn seed() -> u64 {
    let given = std::env::var("QUARRY_SEED").ok();
    given.map_or(1, |text| text.parse().expect("QUARRY_SEED is a number"))
}

fn run_all(on: &Ground<Machine>, level: Level) -> Counts {
    run_filtered(on, level, &std::env::var("QUARRY_FILTER").unwrap_or_default())
}

fn run_filtered(on: &Ground<Machine>, level: Level, filter: &str) -> Counts {
    let mut lines = Lines { text: String::new(), start: Instant::now() };
    let config = Config { level, seed: seed(), filter: Filter::new(filter) };
    let counts = run(on, &[Suites::ALL], &config, &mut vec![0; 8192], &mut lines);
    println!("{}", lines.text);
    assert_eq!(counts.fail, 0);
    assert!(counts.pass > 0);
    counts
}

/// The ground of a machine, which lives as long as the tests do.
fn ground(mm: Mm<Machine>) -> Ground<Machine> {
    mm.slab_init().expect("the slab layer");
    let (arena, lender) = (Box::leak(Box::default()), Box::leak(Box::default()));
    Ground::new(Box::leak(Box::new(mm)), arena, lender).expect("room for a driver")
}

fn both_levels(mm: Mm<Machine>) {
    let on = ground(mm);
    run_all(&on, Level::Quick);
    run_all(&on, Level::Full);
    // What the suites leave behind is good enough to run them again.
    run_all(&on, Level::Quick);
}

#[test]
fn pc_of_32_mib() {
    both_levels(pc(32, 1, &MmConfig::default()).unwrap());
}

#[test]
fn pc_of_64_mib() {
    both_levels(pc(64, 1, &with_cma(8)).unwrap());
}

#[test]
fn pc_of_200_mib() {
    both_levels(pc(200, 2, &MmConfig::default()).unwrap());
}

#[test]
fn pc_of_512_mib() {
    both_levels(pc(512, 1, &with_cma(16)).unwrap());
}

#[test]
fn pc_of_6_gib() {
    both_levels(pc(6144, 1, &with_cma(64)).unwrap());
}

#[test]
fn with_a_movable_zone() {
    let mut config = with_cma(8);
    config.movable_start = [Pfn(150 << 8); MAX_NODES];
    both_levels(pc(256, 1, &config).unwrap());
}

/// Two nodes, the second in two pieces around a hole, and what is left of the
/// first above them.
#[test]
fn two_nodes_that_interleave() {
    let mut machine = Machine::new(Pfn(0), Pfn(320 << 8), 2).expect("room");
    machine.set_node_of_cpu(CpuId(1), NodeId(1));
    let mib = |from: u64, to: u64| PfnRange::new(Pfn(from << 8), Pfn(to << 8));
    let ram = [
        (PfnRange::new(Pfn(1), Pfn(0xa0)), NodeId(0)),
        (mib(1, 96), NodeId(0)),
        (mib(96, 160), NodeId(1)),
        (mib(170, 230), NodeId(1)),
        (mib(230, 320), NodeId(0)),
    ];
    let on = ground(build(machine, &ram, &MmConfig::default()).unwrap());
    run_all(&on, Level::Quick);
    run_all(&on, Level::Full);
    on.mm.platform().run_on(CpuId(1));
    on.warm();
    run_all(&on, Level::Quick);
}

/// A machine's CPUs, which threads take turns to be.
struct Threads {
    mm: &'static Mm<Machine>,
    cpus: u16,
}

impl Crew for Threads {
    fn cpus(&self) -> u16 {
        self.cpus
    }

    fn run(&self, workers: u16, work: &(dyn Fn(u16) + Sync)) -> bool {
        std::thread::scope(|scope| {
            for number in 0..workers {
                scope.spawn(move || {
                    self.mm.platform().run_on(CpuId(number));
                    work(number);
                });
            }
        });
        true
    }

    fn patience(&self, steps: u64) -> u64 {
        let most = std::env::var("QUARRY_STEPS").ok();
        steps.min(most.map_or(30_000, |text| text.parse().expect("QUARRY_STEPS is a number")))
    }

    fn pause(&self) {
        std::thread::yield_now();
    }
}

/// Both levels on all CPUs at once.
fn stress(mm: Mm<Machine>, cpus: u16) {
    let on = ground(mm);
    let crew = Box::leak(Box::new(Threads { mm: on.mm, cpus }));
    let on = on.with_crew(crew).expect("a crew that runs");
    run_filtered(&on, Level::Full, "stress.*");
    run_filtered(&on, Level::Quick, "audit.*");
}

#[test]
fn two_cpus_at_once() {
    stress(pc(96, 2, &with_cma(8)).unwrap(), 2);
}

#[test]
fn four_cpus_at_once_on_two_nodes() {
    let mut machine = Machine::new(Pfn(0), Pfn(640 << 8), 4).expect("room");
    machine.set_node_of_cpu(CpuId(1), NodeId(1));
    machine.set_node_of_cpu(CpuId(3), NodeId(1));
    let mib = |from: u64, to: u64| PfnRange::new(Pfn(from << 8), Pfn(to << 8));
    let ram = [
        (PfnRange::new(Pfn(1), Pfn(0xa0)), NodeId(0)),
        (mib(1, 300), NodeId(0)),
        (mib(300, 640), NodeId(1)),
    ];
    stress(build(machine, &ram, &with_cma(16)).unwrap(), 4);
}

#[test]
fn from_the_second_cpu() {
    let on = ground(pc(128, 2, &MmConfig::default()).unwrap());
    run_all(&on, Level::Quick);
    on.mm.platform().run_on(CpuId(1));
    on.warm();
    run_all(&on, Level::Quick);
}
