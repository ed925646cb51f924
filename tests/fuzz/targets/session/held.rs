//! What a future holds of memory: an allocator that counts what is taken while the future is being polled, and
//! counts it back wherever it is given back. One thread runs; others hold nothing by this count.

use std::alloc::{GlobalAlloc, Layout, System};
use std::cell::Cell;
use std::pin::Pin;
use std::task::{Context, Poll};

/// The system's allocator, with a note before each piece of memory: whether it was counted.
pub(crate) struct Counting;

thread_local! {
    static WITHIN: Cell<bool> = const { Cell::new(false) };
    static NOW: Cell<usize> = const { Cell::new(0) };
    static MOST: Cell<usize> = const { Cell::new(0) };
}

/// What the last future to be begun has held at most.
pub(crate) fn most() -> usize {
    MOST.get()
}

// SAFETY: each piece is one of the system's, that much longer in front as keeps the alignment; the note in
// front is written before a piece is given out, and read before it goes back.
unsafe impl GlobalAlloc for Counting {
    unsafe fn alloc(&self, layout: Layout) -> *mut u8 {
        let Some((whole, front)) = whole(layout) else { return std::ptr::null_mut() };
        let base = unsafe { System.alloc(whole) };
        if base.is_null() {
            return base;
        }
        let counted = WITHIN.get();
        unsafe { base.cast::<usize>().write(usize::from(counted)) };
        if counted {
            NOW.set(NOW.get() + layout.size());
            MOST.set(MOST.get().max(NOW.get()));
        }
        unsafe { base.add(front) }
    }

    unsafe fn dealloc(&self, piece: *mut u8, layout: Layout) {
        let Some((whole, front)) = whole(layout) else { return };
        let base = unsafe { piece.sub(front) };
        if unsafe { base.cast::<usize>().read() } != 0 {
            NOW.set(NOW.get().saturating_sub(layout.size()));
        }
        unsafe { System.dealloc(base, whole) };
    }
}

/// A piece with its note, and how long the front is.
fn whole(layout: Layout) -> Option<(Layout, usize)> {
    let front = layout.align().max(align_of::<u128>());
    let whole = Layout::from_size_align(layout.size().checked_add(front)?, front).ok()?;
    Some((whole, front))
}

/// A future whose memory is counted, from nothing.
pub(crate) struct Held<F>(Pin<Box<F>>);

impl<F> Held<F> {
    pub(crate) fn new(future: F) -> Self {
        NOW.set(0);
        MOST.set(0);
        Self(Box::pin(future))
    }
}

impl<F: Future> Future for Held<F> {
    type Output = F::Output;

    fn poll(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<F::Output> {
        WITHIN.set(true);
        let polled = self.0.as_mut().poll(cx);
        WITHIN.set(false);
        polled
    }
}
