//! Whether this host has more to do than it can: what takes so many seconds on a
//! quiet one may take longer then. Calls nothing.

use std::fs;
use std::thread;

/// Programs that want to run for each processor, from which on a host is busy. A
/// guest that works is one of them.
const BUSY: f64 = 1.0;

/// How busy this host is, if it is.
pub(super) fn busy() -> Option<String> {
    let processors = thread::available_parallelism().map_or(1, usize::from);
    let load = parse(&fs::read_to_string("/proc/loadavg").ok()?)?;
    (load > BUSY * processors as f64).then(|| format!("load {load} on {processors} processors"))
}

/// The first of `/proc/loadavg`: the average of the last minute.
fn parse(loadavg: &str) -> Option<f64> {
    loadavg.split_ascii_whitespace().next()?.parse().ok()
}

#[cfg(test)]
mod tests {
    #[test]
    fn the_load_is_read() {
        assert_eq!(super::parse("3.18 2.05 1.99 4/207 7623\n"), Some(3.18));
        assert_eq!(super::parse(""), None);
    }
}
