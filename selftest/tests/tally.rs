//! The runner's tally sees what a case leaves behind, down to one object.

use mm::host::pc;
use mm::types::Order;
use mm::{Config, Gfp, Request};
use selftest::Subject;
use selftest::suites::Ground;

#[test]
fn a_page_or_an_object_left_behind_is_seen() {
    let mm = Box::leak(Box::new(pc(32, 1, &Config::default()).expect("a machine")));
    mm.slab_init().expect("the slab layer");
    let on = Ground::new(mm, Box::leak(Box::default()), Box::leak(Box::default()))
        .expect("room for a driver");
    let before = on.tally();
    // The slab that holds the second object is there for the first already.
    let objects = [64, 64].map(|size| mm.kmalloc(size, Gfp::KERNEL).expect("an object"));
    mm.kfree(objects[0]).expect("ours");
    assert_ne!(on.tally(), before, "an object is out");
    mm.kfree(objects[1]).expect("ours");
    assert_eq!(on.tally(), before);
    let page = mm.alloc_pages(Request::new(Order(0), Gfp::KERNEL)).expect("a page");
    assert_ne!(on.tally(), before, "a page is out");
    mm.free_pages(page).expect("ours");
    assert_eq!(on.tally(), before);
}
