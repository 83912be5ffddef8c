//! A device that does as the standard says, unless it is told otherwise.

use crate::{GIB, MIB};
use drivers::Error;
use drivers::virtio_mem::{BadResponse, BlockState, Blocks, MemConfig, Port, Request, Response};
use mm::platform::LogLevel;
use std::cell::RefCell;
use std::collections::BTreeSet;
use std::fmt;
use std::rc::Rc;

pub(crate) type Answer = Result<Response, BadResponse>;
/// Answers in the device's stead, or changes something before it does.
pub(crate) type Trick = Box<dyn FnMut(&mut Simulated, Request) -> Option<Answer>>;

pub(crate) struct Simulated {
    pub(crate) config: MemConfig,
    /// Addresses of plugged blocks; the memory manager looks at them too.
    pub(crate) plugged: Rc<RefCell<BTreeSet<u64>>>,
    pub(crate) changed: bool,
    pub(crate) trick: Option<Trick>,
    /// What `config` is to claim is plugged, if that is a lie.
    pub(crate) claims: Option<u64>,
    pub(crate) asked: Vec<Request>,
    pub(crate) log: RefCell<Vec<String>>,
}

impl Simulated {
    pub(crate) fn new(block_size: u64, addr: u64, region_size: u64) -> Self {
        Self {
            config: MemConfig {
                block_size,
                pxm: None,
                addr,
                region_size,
                usable_region_size: (256 * MIB).min(region_size),
                plugged_size: 0,
                requested_size: 0,
            },
            plugged: Rc::default(),
            changed: false,
            trick: None,
            claims: None,
            asked: Vec::new(),
            log: RefCell::default(),
        }
    }

    pub(crate) fn common() -> Self {
        Self::new(2 * MIB, 4 * GIB, 3 * GIB)
    }

    pub(crate) fn with_trick(
        mut self,
        trick: impl FnMut(&mut Self, Request) -> Option<Answer> + 'static,
    ) -> Self {
        self.trick = Some(Box::new(trick));
        self
    }

    pub(crate) fn request(&mut self, bytes: u64) {
        self.config.requested_size = bytes;
        let usable = (bytes + 256 * MIB).min(self.config.region_size);
        self.config.usable_region_size = self.config.usable_region_size.max(usable);
        self.changed = true;
    }

    pub(crate) fn plugged_bytes(&self) -> u64 {
        self.plugged.borrow().len() as u64 * self.config.block_size
    }

    pub(crate) fn logged(&self, what: &str) -> usize {
        self.log.borrow().iter().filter(|line| line.contains(what)).count()
    }

    fn state(&self, blocks: Blocks) -> Option<BlockState> {
        let size = self.config.block_size;
        let end = blocks.addr.checked_add(u64::from(blocks.count) * size)?;
        let usable = self.config.addr..=self.config.addr + self.config.usable_region_size;
        let valid = blocks.count > 0 && blocks.addr.is_multiple_of(size);
        if !valid || !usable.contains(&blocks.addr) || !usable.contains(&end) {
            return None;
        }
        let plugged = self.plugged.borrow().range(blocks.addr..end).count();
        Some(match plugged {
            0 => BlockState::Unplugged,
            n if n == usize::from(blocks.count) => BlockState::Plugged,
            _ => BlockState::Mixed,
        })
    }

    pub(crate) fn addresses(&self, blocks: Blocks) -> impl Iterator<Item = u64> + use<> {
        let size = self.config.block_size;
        (0..u64::from(blocks.count)).map(move |i| blocks.addr + i * size)
    }

    fn answer(&mut self, request: Request) -> Response {
        match request {
            Request::Plug(blocks) => {
                let more = u64::from(blocks.count) * self.config.block_size;
                match self.state(blocks) {
                    Some(BlockState::Unplugged)
                        if self.plugged_bytes() + more <= self.config.requested_size =>
                    {
                        let blocks = self.addresses(blocks);
                        self.plugged.borrow_mut().extend(blocks);
                        Response::Ack(None)
                    }
                    Some(BlockState::Unplugged) => Response::Nack,
                    _ => Response::Error,
                }
            }
            Request::Unplug(blocks) => match self.state(blocks) {
                Some(BlockState::Plugged) => {
                    for block in self.addresses(blocks) {
                        self.plugged.borrow_mut().remove(&block);
                    }
                    Response::Ack(None)
                }
                _ => Response::Error,
            },
            Request::UnplugAll => {
                self.plugged.borrow_mut().clear();
                let usable = self.config.requested_size + 256 * MIB;
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

impl Port for Simulated {
    fn config(&mut self) -> Result<MemConfig, Error> {
        self.changed = false;
        let plugged_size = self.claims.unwrap_or_else(|| self.plugged_bytes());
        Ok(MemConfig { plugged_size, ..self.config })
    }

    fn ask(&mut self, request: Request) -> Result<Answer, Error> {
        self.asked.push(request);
        assert!(self.asked.len() < 100_000, "asks for ever");
        if let Some(mut trick) = self.trick.take() {
            let answer = trick(self, request);
            self.trick = self.trick.take().or(Some(trick));
            if let Some(answer) = answer {
                return Ok(answer);
            }
        }
        Ok(Ok(self.answer(request)))
    }

    fn config_changed(&mut self) -> bool {
        self.changed
    }

    fn log(&self, _level: LogLevel, line: fmt::Arguments<'_>) {
        self.log.borrow_mut().push(line.to_string());
    }
}
