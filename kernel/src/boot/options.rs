//! The command line as a whole: the kernel's options and memory's. Calls
//! `mm::cmdline`.

use mm::cmdline::tokens;
use mm::options::{Accept, Options as MemoryOptions};
use quarry_kernel::options::Options as KernelOptions;

/// All that the command line says.
#[derive(Clone)]
pub(super) struct Options {
    pub(super) kernel: KernelOptions<'static>,
    pub(super) memory: MemoryOptions<'static>,
}

/// Reads the command line; what makes no sense it quotes in a warning.
pub(super) fn read(line: &'static str) -> Options {
    log::info!("Command line: {line}");
    let mut options =
        Options { kernel: KernelOptions::default(), memory: MemoryOptions::default() };
    for token in tokens(line) {
        let accepted = token.map(|token| {
            let accepted = match options.kernel.accept(&token) {
                Accept::Unknown => options.memory.accept(&token),
                accepted => accepted,
            };
            (token.text, accepted)
        });
        match accepted {
            Ok((_, Accept::Known)) => {}
            Ok((text, Accept::Unknown)) => {
                log::warn!("unknown option \"{}\"", text.escape_debug());
            }
            Ok((_, Accept::Malformed(malformed))) | Err(malformed) => {
                log::warn!("malformed option {malformed}");
            }
        }
    }
    options
}
