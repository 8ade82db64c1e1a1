//! kubevmm-scheduler-extender: tells kube-scheduler what only libvirt knows of the hosts.
//!
//! kube-scheduler asks over HTTPS which of some nodes can take a pod ([`filter`]), how well each suits
//! ([`prioritize`]), and whether evicting others would help ([`preempt`]). The answers come from memory: watches keep what
//! the hosts offer and what the placed VMs have been promised ([`cache`]), and the pod brings its VM's needs in an
//! annotation. A pod without it is none of ours and passes as it came.
//!
//! ```text
//!   Hypervisors, Leases, placement pods ──watch──> Cache ──> filter, prioritize, preempt <──HTTPS── kube-scheduler
//! ```

pub mod cache;
mod error;
pub mod filter;
pub mod preempt;
pub mod prioritize;
pub mod protocol;
pub mod server;
mod side_by_side;
pub mod tls;
pub mod watch;

pub use error::Error;
