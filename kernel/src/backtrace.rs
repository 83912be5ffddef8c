//! Who called whom, by frame pointers, with function names. Works while the
//! kernel crashes: reads only what surely is a kernel stack. Calls `image`,
//! `ramdisk`, `vm::stacks`.

use crate::vm::stacks;
use crate::{image, ramdisk};
use core::fmt;

/// Lines to print at most: with the rest of a crash report one screen full.
const LINES: usize = 24;

/// Frames to look at at most.
const DEPTH: usize = 4096;

/// A backtrace that begins at instruction `rip` with frame pointer `rbp`.
pub(crate) struct Backtrace {
    /// The innermost instruction.
    pub(crate) rip: u64,
    /// Its frame pointer.
    pub(crate) rbp: u64,
}

impl fmt::Display for Backtrace {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        frame(f, self.rip, self.rip)?;
        let (mut rbp, mut last, mut repeats, mut lines) = (self.rbp, self.rip, 0, 1);
        for _ in 0..DEPTH {
            // A frame is the caller's frame pointer, then the return address.
            if rbp % 8 != 0 || !stacks::is_stack(rbp) || !stacks::is_stack(rbp + 15) {
                break;
            }
            let words = rbp as *const u64;
            // SAFETY: 16 bytes inside a mapped stack, aligned.
            let (caller, return_to) = unsafe { (words.read(), words.add(1).read()) };
            if return_to == last {
                repeats += 1;
            } else {
                told_repeats(f, &mut repeats)?;
                if return_to == 0 || lines == LINES {
                    break;
                }
                // The call, not what follows it, which may be another function.
                frame(f, return_to, return_to - 1)?;
                lines += 1;
                last = return_to;
            }
            // Frames lie higher the further out they are; a new stack may not.
            if caller == rbp {
                break;
            }
            rbp = caller;
        }
        told_repeats(f, &mut repeats)
    }
}

/// Says how often the last line's frame comes again, if it does.
fn told_repeats(f: &mut fmt::Formatter<'_>, repeats: &mut u32) -> fmt::Result {
    if *repeats > 0 {
        writeln!(f, "  ... {repeats} more times")?;
    }
    *repeats = 0;
    Ok(())
}

fn frame(f: &mut fmt::Formatter<'_>, shown: u64, addr: u64) -> fmt::Result {
    write!(f, "  {shown:#018x}")?;
    if !image::is_code(addr) {
        return f.write_str(" outside the kernel\n");
    }
    let offset = addr - image::base();
    ramdisk::with_symbol(offset, |symbol| match symbol {
        Some((name, inside)) => {
            let inside = inside + (shown - addr);
            writeln!(f, " {:#}+{inside:#x}", rustc_demangle::demangle(name))
        }
        None => writeln!(f, " kernel+{offset:#x}"),
    })
}
