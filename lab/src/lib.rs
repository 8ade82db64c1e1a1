//! The lab: a real Kubernetes cluster whose nodes are libvirt hosts, on one machine.
//!
//! Every host is one set of Linux namespaces (mount, uts, ipc, net, pid, cgroup) with a root file system of the
//! lab's own, and in it a libvirtd, a containerd and a kubelet. The control plane runs in one more host, `cp`. All
//! hosts hang on a bridge in one more network namespace, the switch, which also serves images over http. The machine
//! itself gets one network interface and some cgroups, and [`Lab::down`] takes both away.
//!
//! ```no_run
//! # fn main() -> Result<(), kubevmm_lab::Error> {
//! use kubevmm_lab::{Lab, Options};
//! let lab = Lab::up(&Options::default())?;
//! let h1 = "h1".parse()?;
//! println!("{}", lab.kubectl(["get", "nodes"])?);
//! println!("{}", lab.virsh(h1, ["list", "--all"])?);
//! lab.down()?;
//! # Ok(())
//! # }
//! ```
//!
//! All functions block; an asynchronous caller wraps them in `spawn_blocking`.

pub mod address;
pub mod artifacts;
mod cgroup;
mod command;
mod container_image;
mod daemon;
mod error;
mod etcd;
pub mod files;
mod host;
mod lab;
mod nodes;
mod options;
mod pki;
mod process;
mod remains;
mod status;
mod switch;

pub use address::HostName;
pub use daemon::Daemon;
pub use error::{Error, Result};
pub use host::init::run as host_init;
pub use lab::{GUEST_IMAGE, Lab};
pub use options::{DEFAULT_DIR, Options, Timings};
pub use process::ProcessId;
pub use status::{HostStatus, ProcessStatus};
pub use switch::serve as serve_switch;
