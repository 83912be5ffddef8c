//! Large pages of address spaces that come apart while they are used, copied and
//! given up, and such that come meanwhile.

use crate::run::explore;
use crate::spaces::{PAGE, end, fork, get, play_with, put, reclaim, space, use_it};
use crate::stage::{Part, Play};
use mm::mmu::VirtAddr;
use mm::space::{Advice, HugePages, SpaceRef};

/// A large page comes apart while its memory is used.
#[test]
fn a_split_against_faults() {
    explore(|| {
        let play = play_with(8, 2);
        let (space, at) = large(&play);
        let far = at.add(300 * PAGE);
        let program = || {
            use_it(&play, &space, at, 7);
            use_it(&play, &space, far, 0);
        };
        let splitter = || play.mm.munmap(&space, at.add(PAGE), PAGE).expect("mapped");
        play.act([Box::new(program) as Part<'_>, Box::new(splitter)]);
        assert_eq!((space.huge(), space.rss()), (0, 511));
        assert_eq!((get(&play, &space, at), get(&play, &space, far)), (Ok(9), Ok(2)));
        end(&play, [space]);
    });
}

/// A space whose first page is a large one that holds 7.
fn large(play: &Play) -> (SpaceRef<'_>, VirtAddr) {
    play.mm.set_huge_pages(HugePages::Always);
    let (space, at) = space(play, 512);
    put(play, &space, at, 7).expect("memory");
    play.mm.lru_drain_all();
    assert_eq!(space.huge(), 512, "a large page");
    (space, at)
}

/// A large page that two share comes apart because one writes to it: the other
/// one sees nothing of that.
#[test]
fn a_split_against_another_who_reads() {
    explore(|| {
        let play = play_with(8, 2);
        let (parent, at) = large(&play);
        let child = fork(&play, &parent);
        let writer = || use_it(&play, &parent, at, 7);
        let reader = || {
            for _ in 0..3 {
                assert_eq!(get(&play, &child, at), Ok(7));
            }
        };
        play.act([Box::new(writer) as Part<'_>, Box::new(reader)]);
        assert_eq!((parent.huge(), child.huge()), (0, 0));
        assert_eq!((get(&play, &parent, at), get(&play, &child, at)), (Ok(9), Ok(7)));
        end(&play, [parent, child]);
    });
}

/// Two who share a large page write to it, and each has it taken apart: neither
/// keeps the other from it for ever.
#[test]
fn two_who_split_the_same_page() {
    explore(|| {
        let play = play_with(8, 2);
        let (parent, at) = large(&play);
        let child = fork(&play, &parent);
        let one = || use_it(&play, &parent, at, 7);
        let other = || use_it(&play, &child, at, 7);
        play.act([Box::new(one) as Part<'_>, Box::new(other)]);
        assert_eq!((parent.huge(), child.huge()), (0, 0));
        assert_eq!((get(&play, &parent, at), get(&play, &child, at)), (Ok(9), Ok(9)));
        end(&play, [parent, child]);
    });
}

/// What one shares comes apart while another who shares it is copied: the copy has
/// all of it.
#[test]
fn a_split_against_a_fork_of_another() {
    explore(|| {
        let play = play_with(8, 2);
        let (parent, at) = large(&play);
        let child = fork(&play, &parent);
        let splitter = || play.mm.munmap(&parent, at.add(PAGE), PAGE).expect("mapped");
        let forker = || {
            let copy = fork(&play, &child);
            assert_eq!(get(&play, &copy, at), Ok(7));
            assert_eq!(get(&play, &copy, at.add(300 * PAGE)), Ok(0));
            play.mm.space_put(copy);
        };
        play.act([Box::new(splitter) as Part<'_>, Box::new(forker)]);
        assert_eq!((parent.rss(), child.rss()), (511, 512));
        assert_eq!((get(&play, &parent, at), get(&play, &child, at)), (Ok(7), Ok(7)));
        end(&play, [parent, child]);
    });
}

/// One thread gives up memory that nobody has touched, while another one gets a
/// large page that reaches there: what that writes is not given up.
fn giving_up_beside_a_first_touch(advice: Advice) {
    let play = play_with(8, 2);
    play.mm.set_huge_pages(HugePages::Always);
    let (space, at) = space(&play, 512);
    let writer = || put(&play, &space, at, 7).expect("memory");
    let other = || play.mm.madvise(&space, at.add(256 * PAGE), PAGE, advice).expect("mapped");
    play.act([Box::new(writer) as Part<'_>, Box::new(other)]);
    play.mm.lru_drain_all();
    reclaim(&play);
    assert_eq!(get(&play, &space, at), Ok(7));
    end(&play, [space]);
}

#[test]
fn dropping_beside_a_first_touch() {
    explore(|| giving_up_beside_a_first_touch(Advice::DontNeed));
}

#[test]
fn freeing_beside_a_first_touch() {
    explore(|| giving_up_beside_a_first_touch(Advice::Free));
}

/// A large page that several share comes apart while one of them goes: nothing of
/// it is left behind.
#[test]
fn a_split_against_an_exit_of_another() {
    explore(|| {
        let play = play_with(8, 2);
        let (parent, at) = large(&play);
        let child = fork(&play, &parent);
        let splitter = || play.mm.munmap(&parent, at.add(PAGE), PAGE).expect("mapped");
        let exit = || play.mm.space_put(child);
        play.act([Box::new(splitter) as Part<'_>, Box::new(exit)]);
        assert_eq!((get(&play, &parent, at), parent.rss()), (Ok(7), 511));
        end(&play, [parent]);
    });
}
