//! Free page reporting: what a guest frees, its host has back without being asked.

use super::busy::busy;
use super::rig::Rig;
use super::table::{self, Row};
use super::{Kib, Lab, Report};
use anyhow::Result;
use std::time::Duration;

const DEVICE: &str = "-device virtio-balloon-pci,id=balloon0,free-page-reporting=on";
/// What is touched of a guest of 1 GiB (MiB).
const TOUCHED: u64 = 768;
/// Of what the touch added at least so much has to come back (percent).
const BACK: u64 = 95;
/// When the first of it has to be back.
const FIRST: Duration = Duration::from_secs(3);
/// When so much of it has to be back.
const ALL: Duration = Duration::from_secs(10);
/// When it is not waited for any more.
const GIVEN_UP: Duration = Duration::from_secs(120);
/// A pass is due 2 s after the last: on a quiet host nothing more comes when this
/// is over.
const QUIET: Duration = Duration::from_millis(4500);

/// Memory that is QEMU's own.
pub(super) fn private(lab: &Lab, report: &mut Report) -> Result<()> {
    let kept = ("reporting", "Free page reporting: a guest of 1 GiB touches 768 MiB and frees it");
    lab.work(lab.boot(&[DEVICE])?, report, kept, |rig, report| {
        let way = "page reporting";
        measure(rig, report, way)?;
        again(rig, report, way)
    })
}

/// Memory that is a file, shared.
pub(super) fn shared(lab: &Lab, report: &mut Report) -> Result<()> {
    let backend =
        "-object memory-backend-memfd,id=ram,size=1G,share=on -machine memory-backend=ram";
    let kept = ("reporting-memfd", "Free page reporting where guest RAM is a shared memfd");
    lab.work(lab.boot(&[DEVICE, backend])?, report, kept, |rig, report| {
        measure(rig, report, "page reporting, memfd")
    })
}

/// How a touch of memory was given back.
struct Seen {
    row: Row,
    in_time: bool,
}

fn measure(rig: &mut Rig, report: &mut Report, way: &str) -> Result<()> {
    let mut seen = touch_and_free(rig, report, way)?;
    if !seen.in_time
        && let Some(busy) = busy()
    {
        println!("{way}: {}, but the host is busy ({busy}): once more", times(&seen.row));
        seen = touch_and_free(rig, report, way)?;
    }
    report.check(seen.in_time, &format!("{way}: {}", times(&seen.row)));
    report.rows.push(seen.row);
    audit(rig, report, way)
}

fn times(row: &Row) -> String {
    let (first, all) = (table::after(row.first), table::after(row.all));
    format!("the first is back {first}, {BACK} % of it {all}")
}

fn touch_and_free(rig: &mut Rig, report: &mut Report, way: &str) -> Result<Seen> {
    let before = quiet(rig)?;
    rig.moment(&format!("touch {TOUCHED} MiB"));
    let touched = rig.touch("a", "MOVABLE", TOUCHED)?;
    let verified = rig.verify(&touched)?;
    report.check_data(&verified, way);
    let during = rig.resident()?;
    let added = Kib(during.0.saturating_sub(before.0));
    let enough = added.0 >= Kib::of_mib(TOUCHED).0 * 98 / 100;
    report.check(enough, &format!("{way}: touching has added {added} to {before}"));

    let freed = rig.moment("free");
    rig.release(touched)?;
    let goal = Kib(during.0 - added.0 * BACK / 100);
    let back = rig.wait(GIVEN_UP, |rig| Ok(rig.resident()? <= goal))?;
    report.check(back, &format!("{way}: {BACK} % of it are back"));
    quiet(rig)?;
    let record = rig.record();
    let after = record.lowest_since(freed).unwrap_or(during);
    // Rounded pages of a host that uses huge ones are no drop.
    let first = record.falls_to(freed, Kib(during.0.saturating_sub(added.0 / 100)));
    let all = record.falls_to(freed, goal);
    for after in [1800, 3800, 5800, 7800] {
        let then = record.resident_at(freed, Duration::from_millis(after)).unwrap_or_default();
        println!("{way}: {then} resident {:.1} s after the free", after as f64 / 1000.0);
    }
    let within = |time: Option<Duration>, limit| time.is_some_and(|time| time <= limit);
    let in_time = within(first, FIRST) && within(all, ALL);
    let row = Row { way: way.into(), before, during, after, first, all };
    Ok(Seen { row, in_time })
}

/// Waits until the guest has told all it has to tell; what is resident then.
fn quiet(rig: &mut Rig) -> Result<Kib> {
    rig.settle(QUIET, GIVEN_UP)?;
    rig.wait(GIVEN_UP, |rig| Ok(rig.command("report")?.contains("report: idle")))?;
    rig.resident()
}

/// What has been given back can be had again, and goes once more.
fn again(rig: &mut Rig, report: &mut Report, way: &str) -> Result<()> {
    rig.moment("touch again");
    let low = rig.resident()?;
    let again = rig.touch("b", "MOVABLE", TOUCHED)?;
    let high = rig.resident()?;
    let risen = Kib(high.0.saturating_sub(low.0));
    let said = format!("{way}: touching again has added {risen} to {low}");
    report.check(risen.0 >= Kib::of_mib(TOUCHED).0 * 90 / 100, &said);
    let verified = rig.verify(&again)?;
    report.check_data(&verified, way);
    rig.moment("free");
    rig.release(again)?;
    let goal = Kib(high.0 - risen.0 * BACK / 100);
    let back = rig.wait(GIVEN_UP, |rig| Ok(rig.resident()? <= goal))?;
    let last = rig.resident()?;
    report.check(back, &format!("{way}: {last} resident in the end"));
    audit(rig, report, way)
}

/// Has the guest look whether each of its pages is accounted for.
pub(super) fn audit(rig: &mut Rig, report: &mut Report, way: &str) -> Result<()> {
    let said = rig.attempt("audit")?;
    let ok = said.as_ref().is_ok_and(|said| said.starts_with("audit: ok"));
    report.check(ok, &format!("{way}: {}", said.unwrap_or_else(|why| why).trim()));
    Ok(())
}
