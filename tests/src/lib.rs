//! The end-to-end suite's framework: a real cluster in the lab, and words in which a test reads like a story.
//!
//! ```no_run
//! # fn main() -> anyhow::Result<()> {
//! # use kubevmm_tests::{Cluster, Space};
//! # fn story(space: &Space) -> anyhow::Result<()> {
//! let vm = space.guest("web").apply()?;
//! let boot = vm.boots()?;
//! vm.host()?.kill_executor()?;
//! vm.is_ready()?;
//! vm.has_not_rebooted(&boot)?;
//! # Ok(())
//! # }
//! # Ok(())
//! # }
//! ```
//!
//! [`Cluster`] is the lab with the project installed; [`Space`] is the namespace of one story, with builders for its
//! objects; [`Vm`] and [`Host`] are what a story acts on and looks at. Every wait has a name and a deadline, and its
//! error says what was seen last.

// A story ends at the first surprise: a panic in a test is its failure.
#![allow(clippy::unwrap_used)]

pub mod api;
pub mod bench;
pub mod bystander;
pub mod cluster;
pub mod dump;
pub mod external;
pub mod foreign;
pub mod guest;
pub mod harness;
pub mod host;
mod install;
pub mod inventory;
pub mod manifest;
pub mod picture;
pub mod server;
pub mod space;
pub mod vm;
pub mod wait;

pub use api::{Json, Kind};
pub use bystander::Bystander;
pub use cluster::Cluster;
pub use host::Host;
pub use manifest::Manifest;
pub use space::Space;
pub use vm::Vm;
pub use wait::{wait_for, within};
