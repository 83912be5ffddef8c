//! The virtio-mem driver against a simulated device, honest and not, and a
//! simulated memory manager that notices when memory is used that is not there.

mod device;
mod evil;
mod honest;
mod memory;
mod random;
mod real;
mod wire;

use device::Simulated;
use drivers::virtio_mem::{Group, MemFault, Next, VirtioMem};
use memory::Blocks;
use mm::types::NodeId;

const MIB: u64 = 1 << 20;
const GIB: u64 = 1 << 30;

/// A device with its driver and memory manager.
struct Bench {
    device: Simulated,
    memory: &'static Blocks,
    driver: VirtioMem<'static, Blocks>,
}

impl Bench {
    fn new(device: Simulated) -> Self {
        let memory: &'static Blocks = Box::leak(Box::new(Blocks::new(device.plugged.clone())));
        let config = device.config;
        assert_eq!(config.check(), Ok(()));
        let groups = VirtioMem::storage(&config, memory);
        let storage = Box::leak(vec![Group::EMPTY; groups].into_boxed_slice());
        let driver = VirtioMem::new(config, memory, NodeId(0), storage);
        Self { device, memory, driver }
    }

    fn round(&mut self) -> Result<Next, MemFault> {
        let result = self.driver.round(&mut self.device);
        self.check();
        result
    }

    /// Asks for `bytes` and does a round.
    fn request(&mut self, bytes: u64) -> Next {
        self.device.request(bytes);
        self.round().expect("an honest device")
    }

    /// What driver, device and memory manager say must agree.
    fn check(&self) {
        let status = self.driver.status();
        assert_eq!(status.plugged, self.device.plugged_bytes(), "the driver's count");
        assert_eq!(status.plugged - status.withheld, self.memory.provided_bytes());
        self.memory.check();
    }
}
