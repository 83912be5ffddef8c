//! The driver over the real memory manager: its memory is really added, used,
//! emptied and removed, and every audit is clean.

use crate::device::Simulated;
use crate::{GIB, MIB};
use drivers::virtio_mem::{Group, Next, RETRY_MIN_MS, Response, VirtioMem};
use mm::arena::{Handle, MovableArena};
use mm::host::{Machine, build};
use mm::hotplug::{BlockState, OnlineType};
use mm::types::{NodeId, Order, PAGE_SIZE, Pfn, PfnRange, ZoneKind};
use mm::{Config, Gfp, Mm, Request};

const REGION: PfnRange = PfnRange::new(Pfn::containing(4 * GIB), Pfn::containing(7 * GIB));

struct Guest {
    mm: &'static Mm<Machine>,
    arena: &'static MovableArena<Machine>,
    device: Simulated,
    driver: VirtioMem<'static, Mm<Machine>>,
    boot_pages: u64,
}

/// A guest of 512 MiB whose device has 3 GiB from 4 GiB on.
fn guest(device: Simulated, default_online: Option<OnlineType>) -> Guest {
    let end = Pfn::containing(8 * GIB);
    let machine = Machine::new(Pfn(0), end, 2).expect("address space");
    let config = Config { hotplug_end: end, default_online, ..Config::default() };
    let ram = [(PfnRange::new(Pfn(1), Pfn::containing(512 * MIB)), NodeId(0))];
    let mm: &Mm<Machine> = Box::leak(Box::new(build(machine, &ram, &config).expect("a machine")));
    let arena: &MovableArena<Machine> = Box::leak(Box::new(MovableArena::new()));
    arena.register(mm).expect("room for an owner");
    let groups = VirtioMem::storage(&device.config, mm);
    let storage = vec![Group::EMPTY; groups].leak();
    let driver = VirtioMem::new(device.config, mm, NodeId(0), storage);
    Guest { mm, arena, device, driver, boot_pages: mm.managed_pages() }
}

impl Guest {
    #[track_caller]
    fn round(&mut self) -> Next {
        let next = self.driver.round(&mut self.device).expect("an honest device");
        self.mm.audit().expect("whole");
        next
    }

    #[track_caller]
    fn request(&mut self, bytes: u64) -> Next {
        self.device.request(bytes);
        self.round()
    }

    /// What the manager has more than at boot, in bytes.
    fn more(&self) -> u64 {
        (self.mm.managed_pages() - self.boot_pages) * PAGE_SIZE as u64
    }

    /// Movable pages, each with its number in it, until there are no more.
    fn fill(&self, most: usize) -> Vec<Handle> {
        let mut pages = Vec::new();
        let gfp = Gfp::HIGHUSER_MOVABLE | Gfp::NORETRY | Gfp::NOWARN;
        while pages.len() < most {
            let Ok(page) = self.arena.alloc(self.mm, gfp) else { break };
            let number = pages.len() as u64;
            self.arena
                .with(self.mm, page, |bytes| bytes[..8].copy_from_slice(&number.to_le_bytes()))
                .expect("ours");
            pages.push(page);
        }
        pages
    }

    fn verify(&self, pages: &[Handle]) {
        for (number, page) in pages.iter().enumerate() {
            let found = self.arena.with(self.mm, *page, |bytes| bytes[..8].to_vec());
            assert_eq!(found.expect("ours"), (number as u64).to_le_bytes());
        }
    }
}

#[test]
fn a_gibibyte_comes_and_goes_in_blocks_of_any_size() {
    for block in [2 * MIB, 64 * MIB, 128 * MIB, 256 * MIB] {
        let mut guest = guest(Simulated::new(block, 4 * GIB, 3 * GIB), Some(OnlineType::Auto));
        guest.mm.drain_all(None);
        let free = guest.mm.free_pages_total();
        for size in [GIB, 256 * MIB, 512 * MIB, 0, 256 * MIB, 0] {
            assert_eq!(guest.request(size), Next::OnChange);
            assert_eq!(guest.more(), size, "blocks of {block:#x}");
            let added: u64 = guest.mm.added_memory().map(|(range, _)| range.pages()).sum();
            assert_eq!(added * PAGE_SIZE as u64, size);
            let named = |(_, name)| name == "System RAM (virtio_mem)";
            assert!(guest.mm.added_memory().all(named));
        }
        guest.mm.drain_all(None);
        assert_eq!(guest.mm.free_pages_total() + guest.mm.added_map_pages(), free);
    }
}

#[test]
fn what_is_used_moves_whole() {
    for how in [OnlineType::Auto, OnlineType::Movable] {
        let mut guest = guest(Simulated::common(), Some(how));
        for _ in 0..2 {
            assert_eq!(guest.request(512 * MIB), Next::OnChange);
            let pages = guest.fill(180_000);
            assert_eq!(pages.len(), 180_000);
            // Every second one is freed, so that each block has some.
            let (keep, free): (Vec<_>, Vec<_>) =
                pages.into_iter().enumerate().partition(|(number, _)| number % 2 == 0);
            free.into_iter().for_each(|(_, page)| guest.arena.free(guest.mm, page).expect("ours"));
            let next = guest.request(64 * MIB);
            assert_eq!(next, Next::OnChange, "{:?}", guest.device.log);
            assert_eq!(guest.more(), 64 * MIB);
            for (number, page) in keep {
                let found = guest.arena.with(guest.mm, page, |bytes| bytes[..8].to_vec());
                assert_eq!(found.expect("ours"), (number as u64).to_le_bytes());
                guest.arena.free(guest.mm, page).expect("ours");
            }
            // Its tables are kernel memory.
            guest.arena.trim_tables(guest.mm);
            let next = guest.request(0);
            assert_eq!(next, Next::OnChange, "{:?}", guest.device.log);
        }
    }
}

#[test]
fn too_little_room_for_what_has_to_move_is_no_end() {
    let mut guest = guest(Simulated::common(), Some(OnlineType::Movable));
    guest.request(GIB);
    let pages = guest.fill(usize::MAX);
    assert!(pages.len() as u64 * PAGE_SIZE as u64 > GIB);
    assert!(matches!(guest.request(0), Next::Within(_)));
    assert_eq!(guest.device.logged("stay plugged"), 1, "{:?}", guest.device.log);
    guest.verify(&pages);
    pages.into_iter().for_each(|page| guest.arena.free(guest.mm, page).expect("ours"));
    assert_eq!(guest.round(), Next::OnChange);
    assert_eq!(guest.more(), 0);
}

#[test]
fn kernel_memory_stays_and_is_named() {
    let mut guest = guest(Simulated::common(), Some(OnlineType::Kernel));
    guest.request(GIB);
    let request = Request::new(Order(0), Gfp::KERNEL);
    let page = guest.mm.alloc_pages(request).expect("a page");
    assert!(REGION.contains(page.pfn), "zone Normal is asked first");
    assert_eq!(guest.request(0), Next::Within(RETRY_MIN_MS));
    assert!(guest.device.logged("cannot be moved") == 1, "{:?}", guest.device.log);
    // Just what has to stay: its pageblock.
    assert_eq!(guest.more(), 2 * MIB);
    guest.mm.free_pages(page).expect("ours");
    assert_eq!(guest.round(), Next::OnChange);
    assert_eq!(guest.more(), 0);
    assert_eq!(guest.mm.added_memory().count(), 0);
}

#[test]
fn what_stays_offline_is_the_users_to_put_into_use() {
    let mut guest = guest(Simulated::common(), None);
    assert_eq!(guest.request(130 * MIB), Next::OnChange);
    assert_eq!(guest.more(), 0);
    let first = PfnRange::sized(REGION.start, 1 << 15);
    let second = PfnRange::sized(first.end, 1 << 15);
    // Of the second memory block one sub-block is there, and no more is touched.
    assert_eq!(guest.mm.online(second, OnlineType::Movable), Ok(512));
    assert_eq!(guest.mm.online(first, OnlineType::Movable), Ok(1 << 15));
    guest.mm.audit().expect("whole");
    assert_eq!(guest.more(), 130 * MIB);
    // What is plugged of a block in use is in use; of one that is not, not.
    guest.request(150 * MIB);
    assert_eq!(guest.more(), 150 * MIB);
    guest.mm.offline(second).expect("free");
    guest.request(160 * MIB);
    assert_eq!(guest.more(), 128 * MIB);
    // What somebody has put out of use goes first.
    guest.request(140 * MIB);
    assert_eq!(guest.more(), 128 * MIB);
    guest.request(0);
    assert_eq!(guest.mm.added_memory().count(), 0);
}

#[test]
fn where_it_goes_is_as_the_command_line_says() {
    for (how, zone) in [
        (OnlineType::Auto, ZoneKind::Normal),
        (OnlineType::Kernel, ZoneKind::Normal),
        (OnlineType::Movable, ZoneKind::Movable),
    ] {
        let mut guest = guest(Simulated::common(), Some(how));
        guest.request(192 * MIB);
        let block = guest.mm.memory_block(REGION.start.0 >> 15).expect("added");
        assert_eq!(block.state, BlockState::Online(Some(zone)));
        let block = guest.mm.memory_block((REGION.start.0 >> 15) + 1).expect("added");
        assert_eq!((block.unplugged, block.offline), (1 << 14, 1 << 14));
    }
}

#[test]
fn a_device_that_keeps_its_memory_leaves_it_in_use() {
    let device = Simulated::common().with_trick(|_, request| {
        let unplug = matches!(request, drivers::virtio_mem::Request::Unplug(_));
        unplug.then_some(Ok(Response::Nack))
    });
    let mut guest = guest(device, Some(OnlineType::Auto));
    guest.request(512 * MIB);
    let pages = guest.fill(150_000);
    assert_eq!(guest.request(128 * MIB), Next::Within(RETRY_MIN_MS));
    assert_eq!(guest.more(), 512 * MIB);
    guest.verify(&pages);
    guest.device.trick = None;
    assert!(matches!(guest.round(), Next::Within(_) | Next::OnChange));
    guest.verify(&pages);
}
