//! One metric per value of a closed label, found by position instead of by text.

use std::marker::PhantomData;

/// A label whose values are all known.
pub(in super::super) trait Label: Copy + 'static {
    /// All values, in the order of [`index`](Self::index).
    const ALL: &'static [Self];

    /// The position in [`ALL`](Self::ALL).
    fn index(self) -> usize;
}

/// A metric `M` (or again `Children`, for a second label) for each value of `L`.
#[derive(Debug)]
pub(in super::super) struct Children<L, M> {
    /// As long as `L::ALL`.
    each: Box<[M]>,
    label: PhantomData<fn(L)>,
}

impl<L: Label, M> Children<L, M> {
    /// Makes the metric of every value, which is what sets them all to 0.
    pub(in super::super) fn new(child: impl FnMut(L) -> M) -> Self {
        Self { each: L::ALL.iter().copied().map(child).collect(), label: PhantomData }
    }

    pub(in super::super) fn get(&self, value: L) -> &M {
        &self.each[value.index()]
    }
}
