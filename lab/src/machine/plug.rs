//! Memory that a simulated machine's host plugs into it: a virtio-mem device as
//! the standard has it, and the driver that the kernel has. May call: `drivers`,
//! `host`, `lent`.

use super::host::Host;
use super::lent::{Lent, LentMut};
use drivers::Error as DeviceError;
use drivers::virtio_mem::{
    BadResponse, BlockState, Blocks, Group, MemConfig, MemFault, Next, Port, Request, Response,
    VirtioMem,
};
use mm::Mm;
use mm::platform::{LogLevel, Platform};
use mm::types::{NodeId, Pfn, PfnRange};
use shell::{Errno, Error, Plugged};
use std::collections::BTreeSet;
use std::fmt;

/// What is plugged at once, in bytes.
const BLOCK: u64 = 2 << 20;
/// How much further than to what is wanted a device lets its driver look, in bytes.
const AHEAD: u64 = 256 << 20;

/// The device.
struct Device {
    mm: &'static Mm<Host>,
    /// All but what is plugged.
    config: MemConfig,
    /// Addresses of plugged blocks.
    plugged: BTreeSet<u64>,
    changed: bool,
}

/// A device, and its driver.
pub(super) struct Plug {
    // In the order in which they go: each is used by those before it.
    driver: VirtioMem<'static, Mm<Host>>,
    _groups: LentMut<[Group]>,
    device: Device,
    /// When the next round is due, in ms; None: when the host wants something.
    due: Option<u64>,
}

impl fmt::Debug for Plug {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Plug").field("config", &self.device.config).finish_non_exhaustive()
    }
}

impl Plug {
    /// A device whose memory may be in `region`, whole memory blocks.
    ///
    /// # Safety
    /// It goes before `mm` does.
    pub(super) unsafe fn new(mm: &'static Mm<Host>, region: PfnRange) -> Self {
        let config = MemConfig {
            block_size: BLOCK,
            pxm: None,
            addr: region.start.addr(),
            region_size: region.end.addr() - region.start.addr(),
            usable_region_size: AHEAD,
            plugged_size: 0,
            requested_size: 0,
        };
        let groups = vec![Group::EMPTY; VirtioMem::storage(&config, mm)];
        // SAFETY: the only one who has it is the driver, which goes before.
        let (groups, storage) = unsafe { Lent::new_mut(groups.into_boxed_slice()) };
        let driver = VirtioMem::new(config, mm, NodeId(0), storage);
        let device = Device { mm, config, plugged: BTreeSet::new(), changed: false };
        Self { driver, _groups: groups, device, due: None }
    }

    /// How things are.
    pub(super) fn status(&self) -> Plugged {
        Plugged {
            plugged: self.device.plugged_size(),
            requested: self.device.config.requested_size,
            most: self.device.config.region_size,
            retry_ms: self.driver.status().retry_ms,
        }
    }

    /// The host wants `bytes` plugged.
    ///
    /// # Errors
    /// EINVAL where that cannot be.
    pub(super) fn request(&mut self, bytes: u64) -> Result<(), Error> {
        let config = &mut self.device.config;
        if !bytes.is_multiple_of(BLOCK) || bytes > config.region_size {
            let why = "want a multiple of 2M, no more than the device has";
            return Err(Error::new(Errno::EINVAL, why));
        }
        config.requested_size = bytes;
        let usable = (bytes + AHEAD).min(config.region_size);
        config.usable_region_size = config.usable_region_size.max(usable);
        self.device.changed = true;
        self.due = Some(0);
        Ok(())
    }

    /// When the next round is due (ms), if one is.
    pub(super) const fn due(&self) -> Option<u64> {
        self.due
    }

    /// Has the driver do a round.
    ///
    /// # Errors
    /// What the driver holds against the device, which there is no reason for.
    pub(super) fn round(&mut self) -> Result<(), MemFault> {
        self.due = None;
        self.due = match self.driver.round(&mut self.device)? {
            Next::OnChange => None,
            Next::Within(ms) => Some(self.device.mm.platform().now_ms() + ms.max(1)),
        };
        Ok(())
    }
}

impl Device {
    fn plugged_size(&self) -> u64 {
        self.plugged.len() as u64 * BLOCK
    }

    /// The end of `blocks`, if the driver may ask about all of them.
    fn end(&self, blocks: Blocks) -> Option<u64> {
        let end = blocks.addr.checked_add(u64::from(blocks.count) * BLOCK)?;
        let usable_end = self.config.addr + self.config.usable_region_size;
        let ours = blocks.count > 0 && blocks.addr.is_multiple_of(BLOCK);
        (ours && blocks.addr >= self.config.addr && end <= usable_end).then_some(end)
    }

    fn state(&self, blocks: Blocks) -> Option<BlockState> {
        let plugged = self.plugged.range(blocks.addr..self.end(blocks)?).count();
        Some(match plugged {
            0 => BlockState::Unplugged,
            n if n == usize::from(blocks.count) => BlockState::Plugged,
            _ => BlockState::Mixed,
        })
    }

    /// Drops what backs `blocks`, which are the device's again.
    fn unplug(&mut self, blocks: Blocks) {
        for addr in (blocks.addr..).step_by(BLOCK as usize).take(usize::from(blocks.count)) {
            self.plugged.remove(&addr);
            let frames = PfnRange::new(Pfn::containing(addr), Pfn::containing(addr + BLOCK));
            // SAFETY: the driver has given them back: nobody uses them.
            let gone = unsafe { self.mm.platform().discard(frames) };
            debug_assert!(gone, "a part of the machine's memory");
        }
    }

    fn answer(&mut self, request: Request) -> Response {
        match request {
            Request::Plug(blocks) => {
                let more = u64::from(blocks.count) * BLOCK;
                let wanted = self.plugged_size() + more <= self.config.requested_size;
                match self.state(blocks) {
                    Some(BlockState::Unplugged) if wanted => {
                        let addrs = (blocks.addr..).step_by(BLOCK as usize);
                        self.plugged.extend(addrs.take(usize::from(blocks.count)));
                        Response::Ack(None)
                    }
                    Some(BlockState::Unplugged) => Response::Nack,
                    _ => Response::Error,
                }
            }
            Request::Unplug(blocks) => match self.state(blocks) {
                Some(BlockState::Plugged) => {
                    self.unplug(blocks);
                    Response::Ack(None)
                }
                _ => Response::Error,
            },
            Request::UnplugAll => {
                for addr in core::mem::take(&mut self.plugged) {
                    self.unplug(Blocks { addr, count: 1 });
                }
                let usable = self.config.requested_size + AHEAD;
                self.config.usable_region_size = usable.min(self.config.region_size);
                Response::Ack(None)
            }
            Request::State(blocks) => match self.state(blocks) {
                Some(state) => Response::Ack(Some(state)),
                None => Response::Error,
            },
        }
    }
}

impl Port for Device {
    fn config(&mut self) -> Result<MemConfig, DeviceError> {
        self.changed = false;
        Ok(MemConfig { plugged_size: self.plugged_size(), ..self.config })
    }

    fn ask(&mut self, request: Request) -> Result<Result<Response, BadResponse>, DeviceError> {
        Ok(Ok(self.answer(request)))
    }

    fn config_changed(&mut self) -> bool {
        self.changed
    }

    fn log(&self, level: LogLevel, line: fmt::Arguments<'_>) {
        self.mm.platform().log(level, format_args!("virtio_mem virtio0: {line}"));
    }
}
