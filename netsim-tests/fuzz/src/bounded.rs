//! Work that may allocate only so much.

use std::alloc::System;

use cap::Cap;

#[global_allocator]
static ALLOCATOR: Cap<System> = Cap::new(System, usize::MAX);

/// What may be held per byte of input: the smallest items are a few bytes on
/// the wire and a few words in memory, and a growing list holds its old and
/// its new place at once.
const PER_BYTE: usize = 96;
const BASE: usize = 4096;

/// Runs `work`, which was given `length` bytes; aborts when it holds much
/// more memory at any moment.
pub(crate) fn by_length<R>(length: usize, work: impl FnOnce() -> R) -> R {
    let limit = ALLOCATOR.allocated() + BASE + length * PER_BYTE;
    let _ = ALLOCATOR.set_limit(limit);
    let result = work();
    let _ = ALLOCATOR.set_limit(usize::MAX);
    result
}
