//! Typed readers of what libvirt returns: only what the project needs of it, each value checked once, here.

mod capabilities;
mod domain;
mod field;
mod network;
mod storage;

pub use capabilities::{
    DomainCapabilities, Guest, HostCapabilities, MachineType, read_capabilities, read_domain_capabilities,
};
pub use domain::{DiskInfo, DiskSource, DomainInfo, NicInfo, read_domain};
pub use network::{NetworkInfo, read_network};
pub use storage::{BackingInfo, PoolInfo, VolumeInfo, read_pool, read_volume};
