//! Chance that can be had again: everything that happens follows from one seed.

/// A source of chance.
#[derive(Clone, Debug)]
pub(crate) struct Chance {
    state: u64,
}

impl Chance {
    pub(crate) fn new(seed: u64) -> Self {
        Self { state: seed }
    }

    /// Another source for a part that shall not depend on what its neighbours draw from theirs.
    pub(crate) fn of_part(seed: u64, part: u64, number: u64) -> Self {
        let mut own = Self::new(seed ^ part.rotate_left(48));
        let mixed = own.next() ^ number.wrapping_mul(0x9e37_79b9_7f4a_7c15);
        Self::new(mixed)
    }

    /// SplitMix64.
    fn next(&mut self) -> u64 {
        self.state = self.state.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut mixed = self.state;
        mixed = (mixed ^ (mixed >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        mixed = (mixed ^ (mixed >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        mixed ^ (mixed >> 31)
    }

    /// From 0 to below `limit`.
    pub(crate) fn below(&mut self, limit: u64) -> u64 {
        self.next() % limit.max(1)
    }

    /// The same, as a place.
    pub(crate) fn place(&mut self, limit: usize) -> usize {
        usize::try_from(self.below(limit as u64)).unwrap()
    }

    /// Whether it happens, of so many times once.
    pub(crate) fn one_in(&mut self, times: u64) -> bool {
        self.below(times) == 0
    }

    /// Whether it happens, of a thousand times so often.
    pub(crate) fn in_thousand(&mut self, often: u64) -> bool {
        self.below(1000) < often
    }

    pub(crate) fn pick<T: Copy>(&mut self, among: &[T]) -> T {
        among[self.place(among.len())]
    }
}
