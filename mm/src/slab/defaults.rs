//! What the command line asks of caches by name (`slab_debug=`,
//! `slab_nomerge`). May call: `state`, and of `options` a type without code of
//! its own.

use super::cache::CacheConfig;
use super::geometry::Debug;
use crate::mm::Mm;
use crate::options::SlabDebug;
use crate::platform::Platform;

/// What every new cache gets on top of its own configuration.
#[derive(Clone, Copy, Default, Debug)]
pub struct SlabDefaults {
    /// Checks, and for which caches.
    pub debug: Option<SlabDebug<'static>>,
    /// No cache serves as another one's.
    pub no_merge: bool,
}

impl SlabDefaults {
    /// `config` of a cache called `name`, as these defaults want it.
    fn apply(&self, name: &str, mut config: CacheConfig) -> CacheConfig {
        if let Some(debug) = self.debug.filter(|debug| debug.applies_to(name)) {
            // Lists and pointers (F) are checked on every free in any case.
            let asked = [
                (Debug::RED_ZONE, debug.red_zone),
                (Debug::POISON, debug.poison),
                (Debug::STORE_USER, debug.user),
            ];
            config.debug.extend(asked.into_iter().filter(|check| check.1).map(|check| check.0));
        }
        config.merge &= !self.no_merge;
        config
    }
}

impl<P: Platform> Mm<P> {
    /// Says what caches made from now on get on top of what they ask for. Before
    /// [`slab_init`](Self::slab_init), if the general caches are to get it too.
    /// From a context that may wait.
    pub fn set_slab_defaults(&self, defaults: SlabDefaults) {
        let cpu = self.enter();
        *self.slab.defaults.lock(&cpu) = defaults;
    }

    /// `config` of a cache called `name`, as the defaults want it.
    pub(crate) fn with_defaults(&self, name: &str, config: CacheConfig) -> CacheConfig {
        let cpu = self.enter();
        let defaults = *self.slab.defaults.lock(&cpu);
        defaults.apply(name, config)
    }
}
