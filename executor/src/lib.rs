//! The executor of one libvirt host: it makes the VMs that are placed on its node real, and reports what it finds.
//!
//! | module | what it does |
//! |---|---|
//! | [`hypervisor`] | the status of this host's Hypervisor object |
//! | [`lease`] | the session, and the Lease that says that it lives |
//! | [`store`] | watches: the API server's objects that concern this host |
//! | [`host`] | what the parts need of each other |
//! | [`pool`], [`image`], [`disk`] | storage: pools, cached images, volumes |
//! | [`network`] | libvirt networks and bridges |
//! | [`seed`], [`seed_pool`] | cloud-init seeds and where they lie |
//! | [`node`] | a host without a kubelet as a Node |
//! | [`libvirt`] | libvirt's C API, safe and async |

pub mod api;
pub mod disk;
mod error;
pub mod events;
pub mod health;
pub mod host;
pub mod hypervisor;
pub mod image;
pub mod kvm;
pub mod lease;
pub mod libvirt;
pub mod lock;
pub mod network;
pub mod node;
pub mod pool;
pub mod seed;
pub mod seed_pool;
pub mod store;
mod turns;
pub mod vm;

pub use error::Error;
