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

/// QEMU's processor time while its guest has nothing to do, with and without the
/// balloon device and page reporting. Both at the same time: what else the host
/// does is the same for both.
pub(super) fn idle(lab: &Lab, report: &mut Report) -> Result<()> {
    let device = "-device virtio-balloon-pci,id=balloon0,free-page-reporting=on";
    let mut guests = [lab.boot(&[])?, lab.boot(&[device])?];
    thread::sleep(QUIET);
    let processes = guests.each_ref().map(Rig::process);
    let ticks = || processes.iter().map(|&process| ticks(process)).collect::<Result<Vec<u64>>>();
    let before = ticks()?;
    thread::sleep(LONG);
    let second = rustix::param::clock_ticks_per_second() as f64;
    let share = |(before, after): (&u64, u64)| {
        (after - before) as f64 * 100.0 / second / LONG.as_secs_f64()
    };
    let shares: Vec<f64> = before.iter().zip(ticks()?).map(share).collect();
    let (without, with) = (shares[0], shares[1]);
    let said = format!(
        "idle: QEMU takes {without:.1} % of a processor without the device, {with:.1} % with it"
    );
    report.check(with <= without + COST, &said);
    let gone = guests.iter_mut().try_fold(true, |all, rig| Ok::<_, Error>(rig.power_off()? && all));
    report.check(gone?, "idle: the guests switch themselves off");
    Ok(())
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
