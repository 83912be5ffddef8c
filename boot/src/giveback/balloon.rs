//! The balloon, by `balloon` at QEMU's monitor: taken and given back again and
//! again, and asked for more than the guest can spare.

use super::reporting::audit;
use super::rig::Rig;
use super::table::{self, Row};
use super::{Kib, Lab, Report};
use anyhow::{Context, Result};
use serde_json::json;
use std::time::{Duration, Instant};

const MIB: u64 = 1 << 20;
/// The guest's size, and what it is to make do with (MiB).
const FULL: u64 = 1024;
const SMALL: u64 = 256;
/// How often.
const TIMES: u32 = 10;
/// Data that the guest keeps all the while (MiB), of two kinds each.
const KEPT: u64 = 32;
/// When the balloon is not waited for any more.
const GIVEN_UP: Duration = Duration::from_secs(120);
/// Free pages may differ by what per-CPU lists and slabs hold.
const NOISE: Kib = Kib::of_mib(2);
/// QEMU's path of the device.
const PATH: &str = "/machine/peripheral/balloon0";

/// The guest moves from 1 GiB to 256 MiB and back, ten times, and loses nothing.
pub(super) fn ten_times(lab: &Lab, report: &mut Report) -> Result<()> {
    let rig = lab.boot(&["-device virtio-balloon-pci,id=balloon0"])?;
    let kept = ("balloon", "Balloon: a guest moves from 1 GiB to 256 MiB and back ten times");
    lab.work(rig, report, kept, moves)
}

fn moves(rig: &mut Rig, report: &mut Report) -> Result<()> {
    let before = rig.resident()?;
    rig.moment("touch 832 MiB, free 768");
    let kept = [rig.touch("k", "KERNEL", KEPT)?, rig.touch("m", "MOVABLE", KEPT)?];
    let passing = rig.touch("x", "MOVABLE", 768)?;
    rig.release(passing)?;
    let during = rig.resident()?;
    statistics(rig, report)?;
    let whole = quiet_free(rig)?;
    for time in 1..=TIMES {
        if time == 1 {
            rig.moment(&format!("to {SMALL} MiB and back, {TIMES} times"));
        }
        let asked = Instant::now();
        let there = resize(rig, SMALL)?;
        let free = rig.free()?;
        if time == 1 || there.is_none() {
            let record = rig.record();
            let after = rig.resident()?;
            let first = record.falls_to(asked, Kib(during.0 - during.0 / 100));
            let all = there.map(|there| there - asked);
            let way = format!("balloon, {FULL} to {SMALL} MiB");
            report.rows.push(Row { way, before, during, after, first, all });
            let said = format!("balloon: {after} resident of {SMALL} MiB");
            report.check(after <= Kib::of_mib(SMALL + 8), &said);
        }
        let took = table::after(there.map(|there| there - asked));
        report.check(there.is_some(), &format!("balloon {time}: {SMALL} MiB {took}, {free} free"));
        let asked = Instant::now();
        let there = resize(rig, FULL)?;
        let took = table::after(there.map(|there| there - asked));
        let free = quiet_free(rig)?;
        let said = format!("balloon {time}: {FULL} MiB {took}, {free} of {whole} free");
        report.check(there.is_some() && whole.0.abs_diff(free.0) <= NOISE.0, &said);
        for kept in &kept {
            let verified = rig.verify(kept)?;
            if verified.is_err() || time == TIMES {
                report.check_data(&verified, "balloon");
            }
        }
        audit(rig, report, &format!("balloon {time}"))?;
    }
    rig.moment("touch 768 MiB");
    let again = rig.touch("y", "MOVABLE", 768)?;
    let verified = rig.verify(&again)?;
    report.check_data(&verified, "balloon, in what came back");
    rig.release(again)?;
    audit(rig, report, "balloon")
}

/// The balloon is asked for more than the guest can spare: the guest lives on.
pub(super) fn below_need(lab: &Lab, report: &mut Report) -> Result<()> {
    need(lab, report, "off")?;
    need(lab, report, "on")
}

fn need(lab: &Lab, report: &mut Report, deflate: &str) -> Result<()> {
    let device = format!("-device virtio-balloon-pci,id=balloon0,deflate-on-oom={deflate}");
    let way = format!("below need, deflate-on-oom={deflate}");
    let name = format!("below-need-{deflate}");
    lab.work(lab.boot(&[&device])?, report, (&name, &format!("Balloon {way}")), |rig, report| {
        asked_too_much(rig, report, &way, deflate == "on")
    })
}

fn asked_too_much(rig: &mut Rig, report: &mut Report, way: &str, deflates: bool) -> Result<()> {
    let whole = quiet_free(rig)?;
    rig.moment("touch 512 MiB");
    let need = rig.touch("need", "KERNEL", 512)?;
    rig.moment("64 MiB");
    ask_for(rig, 64)?;
    // As far as it goes: until it has not got smaller for a while. On a busy host it
    // may take its time to begin.
    let goes_so_far = Kib::of_mib(FULL * 3 / 4);
    let mut level = (Instant::now(), actual(rig)?);
    let stands = rig.wait(GIVEN_UP, |rig| {
        let now = actual(rig)?;
        if now != level.1 {
            level = (Instant::now(), now);
        }
        Ok(now < goes_so_far && level.0.elapsed() >= Duration::from_secs(3))
    })?;
    let low = actual(rig)?;
    let said = format!("{way}: asked for 64 MiB with 512 in use, it went to {low}");
    report.check(stands && low > Kib::of_mib(512) && low < goes_so_far, &said);
    // It answers, works, and can be given memory by those who ask for it.
    let verified = rig.verify(&need)?;
    report.check_data(&verified, way);
    if deflates {
        rig.moment("touch 128 MiB more");
        let more = rig.touch("more", "KERNEL", 128);
        let said = more.as_ref().err().map_or("yes".into(), ToString::to_string);
        report
            .check(more.is_ok(), &format!("{way}: 128 MiB are to be had from the balloon: {said}"));
        if let Ok(more) = more {
            let verified = rig.verify(&more)?;
            report.check_data(&verified, way);
            rig.release(more)?;
        }
    }
    rig.release(need)?;
    rig.moment(&format!("{FULL} MiB"));
    let there = resize(rig, FULL)?;
    let free = quiet_free(rig)?;
    let said = format!("{way}: and back, {free} of {whole} free");
    report.check(there.is_some() && whole.0.abs_diff(free.0) <= NOISE.0, &said);
    audit(rig, report, way)
}

/// Asks by `balloon` for a guest of `mib` MiB, and waits until it has that; when
/// that was, if it was.
fn resize(rig: &mut Rig, mib: u64) -> Result<Option<Instant>> {
    ask_for(rig, mib)?;
    let there = rig.wait(GIVEN_UP, |rig| Ok(actual(rig)? == Kib::of_mib(mib)))?;
    Ok(there.then(Instant::now))
}

fn ask_for(rig: &mut Rig, mib: u64) -> Result<()> {
    let objection = rig.monitor.human(&format!("balloon {mib}"))?;
    anyhow::ensure!(objection.trim().is_empty(), "balloon {mib}: {objection}");
    Ok(())
}

/// What the guest has, as QEMU knows.
fn actual(rig: &mut Rig) -> Result<Kib> {
    let said = rig.monitor.ask("query-balloon", &json!({}))?;
    let bytes = said["actual"].as_u64().context("query-balloon does not tell")?;
    Ok(Kib(bytes >> 10))
}

/// What is free when per-CPU lists hold nothing.
fn quiet_free(rig: &mut Rig) -> Result<Kib> {
    rig.command("drain")?;
    rig.free()
}

/// The statistics are those that the guest itself has.
fn statistics(rig: &mut Rig, report: &mut Report) -> Result<()> {
    let poll = json!({ "path": PATH, "property": "guest-stats-polling-interval", "value": 1 });
    let get = json!({ "path": PATH, "property": "guest-stats" });
    let updated = |stats: &serde_json::Value| stats["last-update"].as_u64().unwrap_or(0);
    // Those that it may have told of at its start are out of date.
    let old = updated(&rig.monitor.ask("qom-get", &get)?);
    rig.monitor.ask("qom-set", &poll)?;
    let mut stats = json!({});
    let told = rig.wait(GIVEN_UP, |rig| {
        stats = rig.monitor.ask("qom-get", &get)?;
        Ok(updated(&stats) > old)
    })?;
    let free = rig.free()?;
    let stat = |name: &str| stats["stats"][name].as_u64().unwrap_or(u64::MAX);
    let total: u64 = total_kib(&rig.command("cat /proc/meminfo")?).context("no MemTotal")?;
    let near = |bytes: u64, kib: Kib| (bytes >> 10).abs_diff(kib.0) <= NOISE.0;
    let said = format!(
        "balloon: statistics tell of {} MiB free (the guest: {free}), {} MiB in all (the guest: {})",
        stat("stat-free-memory") / MIB,
        stat("stat-total-memory") / MIB,
        Kib(total),
    );
    let right = near(stat("stat-free-memory"), free) && stat("stat-total-memory") >> 10 == total;
    report.check(told && right, &said);
    let off = json!({ "path": PATH, "property": "guest-stats-polling-interval", "value": 0 });
    rig.monitor.ask("qom-set", &off)?;
    Ok(())
}

/// `MemTotal` of `/proc/meminfo`.
fn total_kib(meminfo: &str) -> Option<u64> {
    let line = meminfo.lines().find_map(|line| line.strip_prefix("MemTotal:"))?;
    line.trim().strip_suffix("kB")?.trim().parse().ok()
}

#[cfg(test)]
mod tests {
    #[test]
    fn the_total_is_found() {
        let text = "MemFree: 1 kB\nMemTotal:        1034016 kB\n";
        assert_eq!(super::total_kib(text), Some(1_034_016));
        assert_eq!(super::total_kib("MemTotal: many\n"), None);
    }
}
