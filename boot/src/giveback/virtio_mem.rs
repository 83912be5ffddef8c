//! virtio-mem: a guest grows from 1 GiB to 4 GiB by `requested-size` at QEMU's
//! monitor, and goes back.

use super::reporting::audit;
use super::rig::Rig;
use super::table::{self, Row};
use super::{Kib, Lab, Report};
use crate::options::Machine;
use anyhow::{Context, Result};
use serde_json::{Value, json};
use std::time::{Duration, Instant};

const MIB: u64 = 1 << 20;
/// A machine with room for more.
const MACHINE: [&str; 3] = [
    "-m 1G,slots=4,maxmem=8G",
    "-object memory-backend-ram,id=vmem,size=3G",
    "-device virtio-mem-pci,id=vm0,memdev=vmem,requested-size=0",
];
/// What is plugged (MiB).
const MORE: u64 = 3072;
/// What the guest touches of all that it has then (MiB).
const TOUCHED: u64 = 2816;
/// Data that the guest keeps when all that was plugged goes (MiB).
const KEPT: u64 = 256;
/// When plugging is not waited for any more.
const GIVEN_UP: Duration = Duration::from_secs(120);
/// Free pages may differ by what per-CPU lists and slabs hold.
const NOISE: Kib = Kib::of_mib(4);

/// From 1 GiB to 4 GiB and back, twice, with data that has to move out of the way.
pub(super) fn up_and_down(lab: &Lab, report: &mut Report) -> Result<()> {
    let cmdline = "memhp_default_state=online_movable";
    let rig = lab.boot_with(Machine::Q35, cmdline, &MACHINE)?;
    let kept = ("virtio-mem", "virtio-mem: a guest moves from 1 GiB to 4 GiB and back");
    lab.work(rig, report, kept, moves)
}

fn moves(rig: &mut Rig, report: &mut Report) -> Result<()> {
    let at = device(rig)?["memaddr"].as_u64().context("a device without an address")?;
    rig.meter_also(at, MORE * MIB)?;
    let whole = quiet_free(rig)?;
    let before = rig.resident()?;

    let asked = rig.moment("4 GiB");
    let there = resize(rig, report, MORE)?;
    let took = table::after(there.map(|there| there - asked));
    let free = quiet_free(rig)?;
    let said = format!("virtio-mem: 3 GiB more {took}: {free} free, {whole} before");
    report.check(there.is_some() && free.0 >= whole.0 + Kib::of_mib(MORE).0 * 97 / 100, &said);

    rig.moment(&format!("touch {KEPT} MiB to keep"));
    let kept = rig.touch("kept", "MOVABLE", KEPT)?;
    rig.moment(&format!("touch {TOUCHED} MiB"));
    let passing = rig.touch("x", "MOVABLE", TOUCHED)?;
    let during = rig.resident()?;
    rig.moment("free");
    rig.release(passing)?;

    let asked = rig.moment("1 GiB");
    let there = resize(rig, report, 0)?;
    let after = rig.resident()?;
    let record = rig.record();
    let first = record.falls_to(asked, Kib(during.0 - during.0 / 100));
    let all = there.map(|there| there - asked);
    let way = "virtio-mem, 4 to 1 GiB".to_owned();
    report.rows.push(Row { way, before, during, after, first, all });
    let took = table::after(all);
    let said = format!("virtio-mem: 3 GiB less {took}, {after} resident of 1 GiB");
    report.check(there.is_some() && after <= Kib::of_mib(1024 + 8), &said);
    let verified = rig.verify(&kept)?;
    report.check_data(&verified, "virtio-mem, where it moved");
    rig.release(kept)?;
    let free = quiet_free(rig)?;
    let said = format!("virtio-mem: {free} of {whole} free");
    report.check(whole.0.abs_diff(free.0) <= NOISE.0, &said);

    for size in [MORE, 0] {
        rig.moment(&format!("{} MiB", 1024 + size));
        let there = resize(rig, report, size)?;
        report.check(there.is_some(), &format!("virtio-mem: once more {} MiB", 1024 + size));
    }
    audit(rig, report, "virtio-mem")
}

/// Asks for `mib` MiB of plugged memory, and waits until it is that; when that
/// was, if it was. It may never be more than what is asked for or was there.
fn resize(rig: &mut Rig, report: &mut Report, mib: u64) -> Result<Option<Instant>> {
    let most = size(rig)?.max(mib * MIB);
    rig.monitor.events();
    request(rig, mib)?;
    let there = rig.wait(GIVEN_UP, |rig| Ok(size(rig)? == mib * MIB))?;
    let now = Instant::now();
    let changes: Vec<u64> = rig
        .monitor
        .events()
        .iter()
        .filter(|event| event.name == "MEMORY_DEVICE_SIZE_CHANGE")
        .filter_map(|event| event.data["size"].as_u64())
        .collect();
    let within = changes.iter().all(|&size| size <= most);
    report.check(
        within,
        &format!("virtio-mem: {} events, none beyond {} MiB", changes.len(), most / MIB),
    );
    Ok(there.then_some(now))
}

fn request(rig: &mut Rig, mib: u64) -> Result<()> {
    let path = "/machine/peripheral/vm0";
    let set = json!({ "path": path, "property": "requested-size", "value": mib * MIB });
    rig.monitor.ask("qom-set", &set).map(drop)
}

/// The device, as QEMU knows it.
fn device(rig: &mut Rig) -> Result<Value> {
    let devices = rig.monitor.ask("query-memory-devices", &json!({}))?;
    let is_it = |device: &&Value| device["type"] == "virtio-mem";
    let device = devices.as_array().and_then(|all| all.iter().find(is_it));
    Ok(device.context("QEMU has no virtio-mem device")?["data"].clone())
}

/// Bytes that are plugged.
fn size(rig: &mut Rig) -> Result<u64> {
    device(rig)?["size"].as_u64().context("a device without a size")
}

/// What is free when per-CPU lists hold nothing.
fn quiet_free(rig: &mut Rig) -> Result<Kib> {
    rig.command("drain")?;
    rig.free()
}
