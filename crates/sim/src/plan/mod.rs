//! Which devices, how many a worker and how many workers a phase, to serve a workload within its
//! targets for the least money.

mod profile;
pub mod roofline;

pub use self::profile::{
    BatchLimits, Device, DeviceProfile, MEMORY_SHARE, ModelShape, Parallelism, ProfileError,
};
