//! Memory blocks as files: `/sys/devices/system/memory` (Linux
//! drivers/base/memory.c), and all of them in one file of our own. A directory's
//! `nodeN`, in Linux a link to the node, is a file here that says where the link
//! would lead. May call: `hotplug`.

use super::FileError;
use crate::hotplug::{
    BlockState, HotplugError, MEMORY_BLOCK_ORDER, MEMORY_BLOCK_PAGES, MemoryBlock, OnlineType,
};
use crate::mm::Mm;
use crate::platform::Platform;
use crate::types::{Pfn, PfnRange};
use core::fmt::{self, Write};

/// Where the blocks' directories are; the rest of a path follows.
pub(super) const DIRECTORY: &str = "/sys/devices/system/memory/";

/// The path of the file with a line for each block.
pub const MEMORY_BLOCKS: &str = "/sys/kernel/debug/quarry/memory_blocks";

/// The files of each block's directory, but for the one that names its node.
pub const BLOCK_FILES: &[&str] =
    &["state", "online", "phys_index", "phys_device", "removable", "valid_zones"];

impl From<HotplugError> for FileError {
    fn from(why: HotplugError) -> Self {
        match why {
            HotplugError::Busy(_) | HotplugError::InUse => Self::Busy,
            HotplugError::NoMemory => Self::NoMemory,
            // As Linux answers to what is so already.
            HotplugError::Invalid(_) | HotplugError::Already | HotplugError::NotMapped => {
                Self::Invalid
            }
        }
    }
}

/// `memory8/state` as number and file.
fn file_of_block(path: &str) -> Option<(u64, &str)> {
    let (number, file) = path.strip_prefix("memory")?.split_once('/')?;
    let plain = number == "0" || !number.starts_with('0') && !number.starts_with('+');
    Some((number.parse().ok().filter(|_| plain)?, file))
}

/// The zones that a block is in or could be put into.
struct ValidZones(BlockState);

impl fmt::Display for ValidZones {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.0 {
            BlockState::Online(None) => f.write_str("none"),
            BlockState::Online(Some(zone)) => f.write_str(zone.name()),
            BlockState::Offline([first, other]) => {
                write!(f, "{} {}", first.name(), other.name())
            }
        }
    }
}

const fn state(block: &MemoryBlock) -> &'static str {
    match block.state {
        BlockState::Online(_) => "online",
        BlockState::Offline(_) => "offline",
    }
}

impl<P: Platform> Mm<P> {
    /// Reads a file of [`DIRECTORY`].
    pub(super) fn memory_read(&self, path: &str, out: &mut dyn Write) -> Result<(), FileError> {
        match path {
            "block_size_bytes" => writeln!(out, "{:x}", MEMORY_BLOCK_ORDER.bytes())?,
            "auto_online_blocks" => {
                writeln!(out, "{}", self.default_online().map_or("offline", OnlineType::name))?;
            }
            _ => {
                let (number, file) = file_of_block(path).ok_or(FileError::NotFound)?;
                let block = self.memory_block(number).ok_or(FileError::NotFound)?;
                self.block_read(&block, file, out)?;
            }
        }
        Ok(())
    }

    fn block_read(
        &self,
        block: &MemoryBlock,
        file: &str,
        out: &mut dyn Write,
    ) -> Result<(), FileError> {
        match file {
            "state" => writeln!(out, "{}", state(block))?,
            "online" => writeln!(out, "{}", u8::from(state(block) == "online"))?,
            "phys_index" => writeln!(out, "{:08x}", block.number())?,
            "phys_device" => writeln!(out, "0")?,
            "removable" => writeln!(out, "{}", u8::from(self.is_removable(block)))?,
            "valid_zones" => writeln!(out, "{}", ValidZones(block.state))?,
            _ => match file.strip_prefix("node").map(str::parse) {
                Some(Ok(node)) if block.node.0 == node => writeln!(out, "../../node/{file}")?,
                _ => return Err(FileError::NotFound),
            },
        }
        Ok(())
    }

    /// Writes a file of [`DIRECTORY`].
    pub(super) fn memory_write(&self, path: &str, text: &str) -> Result<(), FileError> {
        let text = text.trim();
        if path == "auto_online_blocks" {
            self.set_default_online(OnlineType::parse(text).ok_or(FileError::Invalid)?);
            return Ok(());
        }
        let Some((number, file)) = file_of_block(path) else {
            let known = path == "block_size_bytes";
            return Err(if known { FileError::NotPermitted } else { FileError::NotFound });
        };
        let block = self.memory_block(number).ok_or(FileError::NotFound)?;
        let wish = match (file, text) {
            ("state", _) => OnlineType::parse(text).ok_or(FileError::Invalid)?,
            ("online", "0") => None,
            ("online", "1") => Some(OnlineType::Auto),
            ("online", _) => return Err(FileError::Invalid),
            _ if BLOCK_FILES.contains(&file) => return Err(FileError::NotPermitted),
            _ => return Err(FileError::NotFound),
        };
        // Of a block that firmware's memory ends in, what there is.
        let Some(range) = self.ram_of(&block) else { return Err(FileError::Invalid) };
        match wish {
            Some(how) => self.online(range, how)?,
            None => self.offline(range).inspect_err(|&why| {
                self.log_offline_failure(block.range, why);
            })?,
        };
        Ok(())
    }

    /// All of a block, if all of it is RAM. As in Linux: a block with holes is
    /// not touched.
    fn ram_of(&self, block: &MemoryBlock) -> Option<PfnRange> {
        (block.pages == MEMORY_BLOCK_PAGES).then_some(block.range)
    }

    /// A line for each memory block.
    pub(super) fn write_memory_blocks(&self, out: &mut dyn Write) -> fmt::Result {
        for block in self.memory_blocks() {
            let Pfn(last) = block.range.end;
            writeln!(
                out,
                "memory{} {:#011x}-{:#011x} {} zones={} node={} pages={} offline={} unplugged={} \
                 removable={} {}",
                block.number(),
                block.range.start.addr(),
                Pfn(last).addr() - 1,
                state(&block),
                Commas(ValidZones(block.state)),
                block.node.0,
                block.pages,
                block.offline,
                block.unplugged,
                u8::from(self.is_removable(&block)),
                if block.added { "added" } else { "boot" },
            )?;
        }
        Ok(())
    }
}

/// Text with commas for spaces, to be one word.
struct Commas<T>(T);

impl<T: fmt::Display> fmt::Display for Commas<T> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        struct Replace<'a, 'f>(&'a mut fmt::Formatter<'f>);
        impl Write for Replace<'_, '_> {
            fn write_str(&mut self, text: &str) -> fmt::Result {
                text.chars().try_for_each(|c| self.0.write_char(if c == ' ' { ',' } else { c }))
            }
        }
        write!(Replace(f), "{}", self.0)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_of_blocks() {
        assert_eq!(file_of_block("memory0/state"), Some((0, "state")));
        assert_eq!(file_of_block("memory32/node0"), Some((32, "node0")));
        for bad in ["memory", "memory/state", "memory01/state", "memory+1/state", "memoryx/state"] {
            assert_eq!(file_of_block(bad), None, "{bad}");
        }
        assert_eq!(file_of_block("memory99999999999999999999/state"), None);
    }
}
