//! From resolved inputs to libvirt's documents: the only generator of domain, network, pool and volume XML.
//!
//! The inputs hold values, not references: the caller has merged class and VM, looked up the disks' paths and the
//! networks' names, and chosen the accelerator. Lowering is a pure function of them.

mod device_names;
mod domain;
mod network;
mod over;
mod storage;
mod typed;

pub(crate) use domain::hardware;
pub use domain::{
    Accelerator, CpuInput, CpuModel, DiskBus, DiskDevice, DiskInput, DomainInput, Firmware, Machine, NicInput,
    NicSource, disk_alias, lower, nic_alias,
};
pub use network::{DhcpRange, Forward, NetworkInput, lower_network};
pub(crate) use over::set_alias;
pub use over::{lower_typed, lower_with};
pub use storage::{Backing, Format, Permissions, PoolInput, VolumeInput, lower_pool, lower_volume};
pub use typed::{DiskLocation, HostFacts, Identity, Typed, TypedDisk, TypedNic};
