//! Schedules: how many, of which kinds, from which seed; and one that failed,
//! again.

use core::fmt;
use mm::sync::explored::Grain;
use shuttle::scheduler::{DfsScheduler, PctScheduler, RandomScheduler, ReplayScheduler, Scheduler};
use shuttle::{Config, MaxSteps, Runner};
use std::cell::Cell;

/// How CPUs take turns in one run.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Way {
    /// Where others may go on.
    pub(crate) grain: Grain,
    /// CPUs are never idle: whoever wants something of one has to post.
    pub(crate) bound: bool,
}

impl fmt::Display for Way {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{:?}{}", self.grain, if self.bound { "-bound" } else { "" })
    }
}

std::thread_local! {
    static WAY: Cell<Way> = const { Cell::new(Way { grain: Grain::Fine, bound: false }) };
}

/// How the current run takes turns.
pub(crate) fn way() -> Way {
    WAY.get()
}

/// A number from the environment.
fn number(name: &str, otherwise: u64) -> u64 {
    std::env::var(name).map_or(otherwise, |text| text.parse().expect("a number"))
}

fn run(how: &str, way: Way, scheduler: impl Scheduler + 'static, scenario: fn()) {
    WAY.set(way);
    println!("QUARRY_WAY={way} {how}");
    let mut config = Config::new();
    config.stack_size = 1 << 20;
    // A scenario takes some thousands; more and it goes in circles.
    config.max_steps = MaxSteps::FailAfter(400_000);
    config.ungraceful_shutdown_config.immediately_return_on_panic = true;
    let start = std::time::Instant::now();
    let runs = Runner::new(scheduler, config).run(scenario);
    println!("   {runs} schedules in {:?}", start.elapsed());
}

/// Runs a scenario under schedules of all kinds.
pub(crate) fn explore(scenario: fn()) {
    let seed = number("QUARRY_SEED", 1);
    let count = number("QUARRY_SCHEDULES", 100) as usize;
    let ways = [Grain::Coarse, Grain::Fine]
        .into_iter()
        .flat_map(|grain| [false, true].map(|bound| Way { grain, bound }));
    if let Ok(schedule) = std::env::var("QUARRY_REPLAY") {
        let name = std::env::var("QUARRY_WAY").expect("the way that was printed");
        let way = ways.clone().find(|way| way.to_string() == name).expect("a way");
        return run("replay", way, ReplayScheduler::new_from_encoded(&schedule), scenario);
    }
    println!("QUARRY_SEED={seed}");
    for way in ways {
        run("at random", way, RandomScheduler::new_from_seed(seed, count), scenario);
        for depth in [2, 3] {
            let scheduler = PctScheduler::new_from_seed(seed, depth, count);
            run("few switches", way, scheduler, scenario);
        }
    }
}

/// Runs a small scenario under all schedules there are, or the first so many.
pub(crate) fn exhaust(scenario: fn()) {
    let count = number("QUARRY_SCHEDULES", 100) as usize * 10;
    for bound in [false, true] {
        let way = Way { grain: Grain::Coarse, bound };
        run("in order", way, DfsScheduler::new(Some(count), false), scenario);
    }
}
