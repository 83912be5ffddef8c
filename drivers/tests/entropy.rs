//! Dice that are thrown slowly.

use drivers::entropy::{Entropy, FILL_MS};
use drivers::model::{self, Board, HostMemory, Script, dma_pages};
use drivers::{DeviceType, Env, Error, Fault};

/// Gives a byte each `every` ms.
struct Slow {
    every: u64,
    next: u64,
}

impl Script for Slow {
    fn work(&mut self, board: &mut Board) {
        if board.now_ms() >= self.next
            && let Some(chain) = board.next(0)
        {
            self.next = board.now_ms() + self.every;
            let len = chain.write(board, &[6]);
            board.push_used(0, chain.id(), len);
        }
    }
}

#[test]
fn a_byte_at_a_time_but_not_for_ever() {
    for (every, wants, fits) in [(10, 500, true), (20_000, 5, true), (20_000, 4096, false)] {
        let before = dma_pages();
        let slow = Slow { every, next: 0 };
        let (link, env, _) = model::device(DeviceType::EntropySource, &[8], slow);
        let mut dice = Entropy::<_, _, HostMemory>::new(0, link, env).unwrap();
        let start = dice.device().env().now_ms();
        let mut bytes = vec![0; wants];
        let filled = dice.fill(&mut bytes);
        if fits {
            assert_eq!((filled, bytes), (Ok(()), vec![6; wants]));
        } else {
            let Err(Error::Broken { fault: Fault::NoAnswer { .. }, quiet: true }) = filled else {
                panic!("{filled:?}")
            };
            let ms = dice.device().env().now_ms() - start;
            assert!((FILL_MS..FILL_MS + 10_000).contains(&ms), "{ms} ms");
        }
        dice.stop();
        assert_eq!(dma_pages(), before);
    }
}
