//! A disk as QEMU has it, and what can be wrong with one.

use drivers::blk::{
    FEATURE_BLK_SIZE, FEATURE_DISCARD, FEATURE_FLUSH, FEATURE_RO, FEATURE_SEG_MAX, VirtioBlk,
};
use drivers::model::{self, Board, Chain, Handle, HostEnv, HostLink, HostMemory, Script};
use drivers::{DeviceType, Error};
use std::collections::BTreeSet;
use std::sync::{Arc, Mutex, MutexGuard};

pub(crate) const SECTOR: usize = 512;
pub(crate) const USUAL: u64 = FEATURE_SEG_MAX | FEATURE_BLK_SIZE | FEATURE_FLUSH | FEATURE_DISCARD;

pub(crate) type Driver = VirtioBlk<HostLink, HostEnv, HostMemory>;

/// What the device knows, and what is wrong with it.
#[derive(Default)]
pub(crate) struct Disk {
    pub(crate) bytes: Vec<u8>,
    pub(crate) read_only: bool,
    /// Blocks of a page at which it fails.
    pub(crate) bad: BTreeSet<u64>,
    /// Requests that lie there at a time succeed or fail together, as QEMU has it
    /// with neighbours.
    pub(crate) joins: bool,
    /// It knows no such request.
    pub(crate) unsupported: Option<u32>,
    /// Requests that it leaves lying, the last of all.
    pub(crate) hold: usize,
    /// It is done with the last first.
    pub(crate) backwards: bool,
    /// Requests by type: (type, sector, bytes of data).
    pub(crate) seen: Vec<(u32, u64, usize)>,
    pub(crate) discarded: Vec<(u64, u32)>,
    /// Most that lay there at a time.
    pub(crate) most: usize,
    pub(crate) flushes: usize,
    kept: Vec<Chain>,
}

/// The device.
#[derive(Clone)]
pub(crate) struct Shared(pub(crate) Arc<Mutex<Disk>>);

impl Shared {
    pub(crate) fn new(sectors: usize) -> Self {
        let bytes = vec![0; sectors * SECTOR];
        Self(Arc::new(Mutex::new(Disk { bytes, ..Disk::default() })))
    }

    pub(crate) fn lock(&self) -> MutexGuard<'_, Disk> {
        self.0.lock().expect("ours")
    }
}

fn le32(bytes: &[u8]) -> u32 {
    u32::from_le_bytes(bytes[..4].try_into().expect("4"))
}

fn le64(bytes: &[u8]) -> u64 {
    u64::from_le_bytes(bytes[..8].try_into().expect("8"))
}

impl Disk {
    /// Whether it fails at one of these bytes.
    fn is_bad(&self, sector: usize, bytes: usize) -> bool {
        let first = (sector / 8) as u64;
        self.bad.range(first..first + (bytes / 4096) as u64).next().is_some()
    }

    /// Whether one of those that lie there fails, and so all do.
    fn all_fail(&self, board: &Board) -> bool {
        self.joins
            && self.kept.iter().any(|chain| {
                let bytes: usize = chain.parts().iter().map(|it| it.1 as usize).sum();
                self.is_bad(le64(&chain.read(board)[8..]) as usize, bytes - 17)
            })
    }

    /// Does what is asked, with all the checks that a driver can fail.
    fn serve(&mut self, board: &Board, chain: &Chain, fail: bool) -> u32 {
        let sent = chain.read(board);
        let parts = chain.parts();
        let room: usize = parts.iter().filter(|it| it.2).map(|it| it.1 as usize).sum();
        assert!((parts[0].1, parts[0].2) == (16, false), "the header comes first, alone");
        assert_eq!(parts.last().map(|it| (it.1, it.2)), Some((1, true)), "the status comes last");
        assert_eq!(le32(&sent[4..]), 0, "reserved");
        let (kind, sector) = (le32(&sent), le64(&sent[8..]) as usize);
        let (data, answer) = (sent.len() - 16, room - 1);
        self.seen.push((kind, sector as u64, data + answer));
        if self.unsupported == Some(kind) {
            return chain.write(board, &[vec![0; answer], vec![2]].concat());
        }
        let within = |bytes: usize| {
            assert!(bytes > 0 && bytes.is_multiple_of(4096), "{bytes} bytes");
            sector * SECTOR + bytes <= self.bytes.len()
        };
        let is_bad = |bytes: usize| fail || self.is_bad(sector, bytes);
        let ok = match kind {
            0 => within(answer) && !is_bad(answer),
            1 => !self.read_only && within(data) && !is_bad(data),
            4 => {
                assert_eq!((sector, data, answer), (0, 0, 0));
                self.flushes += 1;
                true
            }
            11 => {
                assert_eq!((sector, data, answer), (0, 16, 0));
                let (from, sectors) = (le64(&sent[16..]), le32(&sent[24..]));
                assert_eq!(le32(&sent[28..]), 0, "flags");
                assert!((from + u64::from(sectors)) as usize * SECTOR <= self.bytes.len());
                self.discarded.push((from, sectors));
                true
            }
            _ => panic!("request of type {kind}"),
        };
        let at = sector * SECTOR;
        let mut out = vec![0xee; answer];
        match (kind, ok) {
            (0, true) => out.copy_from_slice(&self.bytes[at..at + answer]),
            (1, true) => self.bytes[at..at + data].copy_from_slice(&sent[16..]),
            _ => {}
        }
        out.push(u8::from(!ok));
        chain.write(board, &out)
    }
}

impl Script for Shared {
    fn work(&mut self, board: &mut Board) {
        let mut disk = self.lock();
        while let Some(chain) = board.next(0) {
            disk.kept.push(chain);
        }
        disk.most = disk.most.max(disk.kept.len());
        if disk.backwards {
            disk.kept.reverse();
        }
        let fail = disk.all_fail(board);
        while disk.kept.len() > disk.hold {
            let chain = disk.kept.remove(0);
            let len = disk.serve(board, &chain, fail);
            board.push_used(0, chain.id(), len);
        }
    }
}

/// The configuration of such a device (virtio 1.2, 5.2.4).
pub(crate) fn config(sectors: u64, seg_max: u32, blk_size: u32, discard: u32) -> Vec<u8> {
    let mut config = vec![0; 60];
    config[0..8].copy_from_slice(&sectors.to_le_bytes());
    config[12..16].copy_from_slice(&seg_max.to_le_bytes());
    config[20..24].copy_from_slice(&blk_size.to_le_bytes());
    config[36..40].copy_from_slice(&discard.to_le_bytes());
    config
}

/// A device with these features and configuration, and a driver for it.
pub(crate) fn open(
    script: impl Script + 'static,
    features: u64,
    config: &[u8],
) -> (Result<Driver, Error>, Handle) {
    let (link, env, handle) = model::device(DeviceType::Block, &[256], script);
    handle.with(|board| {
        board.offered |= features;
        board.set_config(config);
    });
    (VirtioBlk::new("/dev/vda", 0, link, env), handle)
}

/// The usual disk with so many blocks of a page.
pub(crate) fn disk(blocks: usize) -> (Driver, Shared, Handle) {
    disk_with(blocks, USUAL, 254)
}

/// One with these features, that takes so many pieces.
pub(crate) fn disk_with(blocks: usize, features: u64, seg_max: u32) -> (Driver, Shared, Handle) {
    let shared = Shared::new(blocks * 8);
    shared.lock().read_only = features & FEATURE_RO != 0;
    let config = config(blocks as u64 * 8, seg_max, 512, 64);
    let (driver, handle) = open(shared.clone(), features, &config);
    (driver.expect("an honest device"), shared, handle)
}
