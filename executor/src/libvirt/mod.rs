//! The only code that knows libvirt's C API: safe, async and typed.
//!
//! Each method's documentation names the libvirt call behind it.
//!
//! # Threads
//! - **The event thread** (`libvirt-events`) runs libvirt's default event loop for the whole life of the process. It is
//!   started, and the loop registered, before the first connection is opened. Callbacks run there; they only copy their
//!   arguments into an [`Event`] and put it on a channel, and never block.
//! - **Call threads** (`libvirt-call`): each C call blocks one; a few at a time ([`Options::max_calls`]), each with a
//!   time limit. A call that is given up stays on its thread until libvirt answers or keepalive ends the connection;
//!   its result is dropped, its place is free at once, and the number of such threads is bounded. It may still take
//!   effect: after [`ErrorCode::Timeout`], read the state. The same holds when the future of a call is dropped.
//! - **Stream threads** (`libvirt-upload`, `libvirt-download`): one for each volume's bytes under way.
//!
//! Nothing here blocks a thread of the async runtime. Handles ([`Connection`], [`Domain`], [`Network`],
//! [`NodeDevice`], [`StoragePool`], [`StorageVol`]) are cheap to clone, `Send` and `Sync`; the C object is released with the last clone,
//! and the connection is closed, on a call thread, after the last handle of it.
//!
//! # Events
//! [`Hypervisor`] keeps one connection and gives one channel of [`Event`]s. Libvirt's events of one connection arrive in
//! their order. [`Event::Connected`] and [`Event::Lost`] both mean: read everything anew.
#![allow(unsafe_code)]

mod address;
mod call;
mod callback;
mod connection;
mod constants;
mod domain;
mod error;
mod event;
mod event_loop;
mod ffi;
mod guest;
mod handle;
mod hypervisor;
pub(crate) mod kvm_probe;
mod network;
mod node_device;
mod storage_pool;
mod storage_vol;
mod stream;
#[cfg(test)]
mod tests;

pub use address::Address;
pub use connection::{Connection, NodeInfo, Options, Version};
pub use constants::{
    CrashedReason, DomainState, PausedReason, RunningReason, ShutoffReason, StoragePoolState, StorageVolType,
};
pub use domain::{
    Disposal, Domain, DomainFilter, DomainInfo, GuestRequest, Impact, StartOptions, UndefineOptions, XmlOptions,
};
pub use error::{Error, ErrorCode, Result};
pub use event::{
    AgentReason, BlockJobStatus, BlockJobType, CloseReason, CrashedDetail, DefinedDetail, DomainEvent, Event, Events,
    Lifecycle, NetworkEvent, ObjectRef, PmSuspendedDetail, ResumedDetail, ShutdownDetail, StartedDetail, StoppedDetail,
    StoragePoolEvent, StoragePoolLifecycle, SuspendedDetail, UndefinedDetail,
};
pub use guest::{AddressSource, GuestInfo, GuestInterface, InterfaceAddress};
pub use hypervisor::{Hypervisor, LinkState};
pub use network::{DhcpLease, Network};
pub use node_device::NodeDevice;
pub use storage_pool::{StoragePool, StoragePoolInfo};
pub use storage_vol::{ResizeOptions, StorageVol, StorageVolInfo};
pub use stream::{Download, Upload};
