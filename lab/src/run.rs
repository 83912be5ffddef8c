//! Running scripts on machines of their own. May call: `world`, `shell`.

use crate::output::Output;
use crate::world::HostWorld;
use shell::{Error, Lab, Verdict};

/// Runs a script on a machine of its own, at first the default one. All that it
/// prints, its verdict last, goes to `output`.
///
/// # Errors
/// ENOMEM if this host has no addresses for the machine.
pub fn run(script: &[u8], trace: bool, output: &Output) -> Result<Verdict, Error> {
    let mut lab = Box::new(Lab::new(HostWorld::new(output.clone())?));
    lab.set_trace(trace);
    let verdict = lab.script(script);
    drop(lab);
    output.flush();
    Ok(verdict)
}
