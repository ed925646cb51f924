//! Where sessions are kept: a shelf for each [`super::Backend`], and all shelves that share a budget.
//!
//! A backend that a reload replaced shares its budget with the next one, until its clients are gone. What one keeps stands in slots
//! that the other may need.

use std::sync::{Arc, Mutex, Weak};

use super::lease::Kept;
use super::pool::lock;

/// The sessions one backend keeps, oldest first.
pub(super) type Shelf = Arc<Mutex<Vec<Kept>>>;

/// All of a budget.
#[derive(Debug, Default)]
pub(super) struct Shelves(Mutex<Vec<Weak<Mutex<Vec<Kept>>>>>);

impl Shelves {
    /// A shelf more; it goes with its backend.
    pub(super) fn open(&self) -> Shelf {
        let shelf = Shelf::default();
        let mut shelves = lock(&self.0);
        shelves.retain(|other| other.strong_count() > 0);
        shelves.push(Arc::downgrade(&shelf));
        shelf
    }

    /// Puts a session on `shelf`, which has room for `most`, unless there are as many as `all` on all of them, or nobody `wants` it by
    /// now: then it comes back.
    pub(super) fn keep(
        &self,
        shelf: &Shelf,
        kept: Kept,
        (most, all): (usize, usize),
        wants: impl FnOnce() -> bool,
    ) -> Option<Kept> {
        let shelves = lock(&self.0);
        let total = on(&shelves);
        let mut shelf = lock(shelf);
        if shelf.len() < most && total < all && wants() {
            shelf.push(kept);
            None
        } else {
            Some(kept)
        }
    }

    /// Sessions on all shelves.
    pub(super) fn len(&self) -> usize {
        on(&lock(&self.0))
    }

    /// Takes one where there are more than so many on all shelves: the oldest, of backends that were replaced first.
    pub(super) fn take_beyond(&self, most: usize) -> Option<Kept> {
        let shelves = lock(&self.0);
        if on(&shelves) <= most {
            return None;
        }
        shelves.iter().filter_map(Weak::upgrade).find_map(|shelf| {
            let mut shelf = lock(&shelf);
            if shelf.is_empty() { None } else { Some(shelf.remove(0)) }
        })
    }
}

fn on(shelves: &[Weak<Mutex<Vec<Kept>>>]) -> usize {
    shelves.iter().filter_map(Weak::upgrade).map(|shelf| lock(&shelf).len()).sum()
}
