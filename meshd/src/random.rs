//! The one place that draws randomness from the kernel.

use rand_core::UnwrapErr;

/// The kernel's generator. It fails only on kernels without `getrandom(2)`,
/// on which nothing of this could be safe.
pub fn system() -> UnwrapErr<getrandom::SysRng> {
    UnwrapErr(getrandom::SysRng)
}

/// Fresh random bytes.
pub fn bytes<const N: usize>() -> [u8; N] {
    let mut bytes = [0; N];
    rand_core::Rng::fill_bytes(&mut system(), &mut bytes);
    bytes
}
