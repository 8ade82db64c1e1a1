//! The executor of one libvirt host.

pub mod libvirt;
