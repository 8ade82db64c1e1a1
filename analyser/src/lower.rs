//! From resolved inputs to libvirt's documents: the only generator of domain, network, pool and volume XML.
//!
//! The inputs hold values, not references: the caller has merged class and VM, looked up the disks' paths and the
//! networks' names, and chosen the accelerator. Lowering is a pure function of them.

mod device_names;
mod domain;
mod network;
mod storage;

pub use domain::{
    Accelerator, CpuInput, CpuModel, DiskBus, DiskDevice, DiskInput, DomainInput, Firmware, Machine, NicInput,
    NicSource, disk_alias, lower,
};
pub use network::{DhcpRange, Forward, NetworkInput, lower_network};
pub use storage::{Backing, Format, Permissions, PoolInput, VolumeInput, lower_pool, lower_volume};
