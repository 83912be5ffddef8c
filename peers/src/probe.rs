//! Windows: what happens inside is timed, or its instructions are counted by
//! callgrind.

use std::collections::BTreeMap;
use std::path::Path;
use std::process::Command;

/// What is noted of windows.
pub enum Probe {
    /// Nanoseconds of this thread's processor time per operation, by name.
    Time(Vec<(&'static str, f64)>),
    /// Instructions, as callgrind writes them to its files; the allocator's
    /// name, which goes before the window's.
    Count(&'static str),
}

impl Probe {
    /// Runs `f`, which does `ops` operations.
    pub fn window(&mut self, name: &'static str, ops: usize, f: impl FnOnce()) {
        match self {
            Self::Time(times) => {
                let start = cpu_time();
                f();
                times.push((name, (cpu_time() - start) / ops as f64));
            }
            Self::Count(allocator) => {
                let note = format!("{allocator}|{name}|{ops}\0");
                // Whatever any thread has done so far goes to a file of its own.
                request(DUMP_STATS_AT, c"before".as_ptr().expose_provenance());
                f();
                request(DUMP_STATS_AT, note.as_ptr().expose_provenance());
            }
        }
    }
}

/// Nanoseconds that this thread has had a processor. Others that use the
/// machine meanwhile disturb this less than the time of day.
fn cpu_time() -> f64 {
    let mut time = libc::timespec { tv_sec: 0, tv_nsec: 0 };
    // SAFETY: writes to a value of the right type.
    unsafe { libc::clock_gettime(libc::CLOCK_THREAD_CPUTIME_ID, &raw mut time) };
    time.tv_sec as f64 * 1e9 + time.tv_nsec as f64
}

/// Callgrind's requests, from its documentation ("Client request reference").
const BASE: u64 = (b'C' as u64) << 24 | (b'T' as u64) << 16;
const DUMP_STATS_AT: u64 = BASE + 3;

/// Asks valgrind for something. Without valgrind: nothing happens.
fn request(what: u64, argument: usize) {
    let block = [what, argument as u64, 0, 0, 0, 0];
    // SAFETY: valgrind's mark: rotations that come to a whole turn, and an
    // exchange of a register with itself. Valgrind reads the block.
    unsafe {
        core::arch::asm!(
            "rol rdi, 3", "rol rdi, 13", "rol rdi, 61", "rol rdi, 51",
            "xchg rbx, rbx",
            in("rax") block.as_ptr(),
            inout("rdx") 0_u64 => _,
            options(nostack),
        );
    }
}

/// Whether valgrind is there.
pub fn can_count() -> bool {
    Command::new("valgrind").arg("--version").output().is_ok_and(|output| output.status.success())
}

/// Runs this program again under callgrind with `arguments`; what its windows
/// counted per operation, by `allocator|window`.
pub fn count(arguments: &[&str], dir: &Path) -> BTreeMap<String, f64> {
    let _ = std::fs::remove_dir_all(dir);
    std::fs::create_dir_all(dir).expect("a directory for callgrind's files");
    let program = std::env::current_exe().expect("this program");
    let status = Command::new("valgrind")
        .args(["--tool=callgrind", "-q"])
        .arg(format!("--callgrind-out-file={}/out", dir.display()))
        .arg(program)
        .args(arguments)
        .stdout(std::process::Stdio::null())
        .status()
        .expect("valgrind runs");
    assert!(status.success(), "the run under valgrind failed");
    let mut figures = BTreeMap::new();
    for entry in std::fs::read_dir(dir).expect("callgrind's files") {
        let text = std::fs::read_to_string(entry.expect("a file").path()).unwrap_or_default();
        if let Some((name, each)) = read_dump(&text) {
            figures.insert(name, each);
        }
    }
    figures
}

/// The window that a file of callgrind's is of, and its instructions per
/// operation.
fn read_dump(text: &str) -> Option<(String, f64)> {
    let note =
        text.lines().find_map(|line| line.strip_prefix("desc: Trigger: Client Request: "))?;
    let (name, ops) = note.rsplit_once('|')?;
    let total = text.lines().find_map(|line| {
        line.strip_prefix("summary: ").or_else(|| line.strip_prefix("totals: "))
    })?;
    Some((name.to_owned(), total.trim().parse::<f64>().ok()? / ops.parse::<f64>().ok()?))
}
