//! The one place that draws randomness from the kernel.

use std::sync::Arc;

use epsilon_mesh::shard::Entropy;
use rand_core::UnwrapErr;

/// The kernel's generator. It fails only on kernels without `getrandom(2)`,
/// on which nothing of this could be safe.
pub fn system() -> UnwrapErr<getrandom::SysRng> {
    UnwrapErr(getrandom::SysRng)
}

/// The same for the data plane.
pub fn entropy() -> Entropy {
    Arc::new(|into: &mut [u8]| getrandom::fill(into).is_ok())
}

/// Fresh random bytes.
pub fn bytes<const N: usize>() -> [u8; N] {
    let mut bytes = [0; N];
    rand_core::Rng::fill_bytes(&mut system(), &mut bytes);
    bytes
}
