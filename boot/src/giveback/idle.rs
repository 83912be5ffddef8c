//! What an idle guest's devices cost its host.

use super::rig::Rig;
use super::{Lab, Report};
use anyhow::{Context, Error, Result};
use std::fs;
use std::thread;
use std::time::Duration;

/// How long it is looked at.
const LONG: Duration = Duration::from_secs(10);
/// When a guest has done what there is to do after a boot.
const QUIET: Duration = Duration::from_secs(6);
/// What devices may cost of one of the host's processors (percent). Measuring the
/// same twice differs by some.
const COST: f64 = 2.0;
/// How often it is measured before it counts as costing more: a device that costs
/// something costs it each time, what else goes on here does not.
const ATTEMPTS: u32 = 3;

/// QEMU's processor time while its guest has nothing to do, with and without the
/// balloon device and page reporting. Both at the same time: what else the host
/// does is the same for both.
pub(super) fn idle(lab: &Lab, report: &mut Report) -> Result<()> {
    let device = "-device virtio-balloon-pci,id=balloon0,free-page-reporting=on";
    let mut guests = [lab.boot(&[])?, lab.boot(&[device])?];
    thread::sleep(QUIET);
    let processes = guests.each_ref().map(Rig::process);
    for attempt in 1..=ATTEMPTS {
        let [without, with] = shares(processes)?;
        let said = format!(
            "idle: QEMU takes {without:.1} % of a processor without the device, {with:.1} % with it"
        );
        if with <= without + COST || attempt == ATTEMPTS {
            report.check(with <= without + COST, &said);
            break;
        }
        println!("{said}: once more");
    }
    let gone = guests.iter_mut().try_fold(true, |all, rig| Ok::<_, Error>(rig.power_off()? && all));
    report.check(gone?, "idle: the guests switch themselves off");
    Ok(())
}

/// What of a processor each of two processes takes for a while (percent).
fn shares(processes: [u32; 2]) -> Result<[f64; 2]> {
    let both = || Ok::<_, Error>([ticks(processes[0])?, ticks(processes[1])?]);
    let before = both()?;
    thread::sleep(LONG);
    let after = both()?;
    let second = rustix::param::clock_ticks_per_second() as f64;
    let share = |at: usize| (after[at] - before[at]) as f64 * 100.0 / second / LONG.as_secs_f64();
    Ok([share(0), share(1)])
}

/// Clock ticks that a process has run, in user and kernel mode.
fn ticks(process: u32) -> Result<u64> {
    let stat = fs::read_to_string(format!("/proc/{process}/stat"))?;
    parse(&stat).context("this host's /proc/PID/stat is another one")
}

fn parse(stat: &str) -> Option<u64> {
    // The name, the second field, may have blanks and parentheses.
    let (_, rest) = stat.rsplit_once(')')?;
    let mut fields = rest.split_ascii_whitespace().skip(11);
    let mut next = || fields.next()?.parse::<u64>().ok();
    Some(next()? + next()?)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_may_be_strange() {
        let stat = "7 (a b) c) S 1 7 7 0 -1 4194560 9 0 0 0 120 34 0 0 20 0 1 0 5 6 7";
        assert_eq!(parse(stat), Some(154));
        assert_eq!(parse("7 (x) S 1"), None);
        assert!(ticks(std::process::id()).is_ok());
    }
}
