//! Whether a host can take a VM, and how well it suits: pure. The scheduler extender asks it for each host of a
//! placement pod; the controller asks it again before it writes a placement, and for the words of `Scheduled`.

mod check;
mod claims;
mod devices;
mod offer;
mod refusal;
mod score;
mod summary;

pub use check::check;
pub use claims::{Claim, Claims};
pub use offer::{Offer, OfferedImage, OfferedNetwork, OfferedPool, Shared};
pub use refusal::{Refusal, Why};
pub use score::{Policy, score};
pub use summary::{summary, words};

/// A host at one moment, as one VM sees it.
#[derive(Clone, Copy, Debug)]
pub struct HostFacts<'a> {
    /// Name of the Node and of the Hypervisor.
    pub name: &'a str,
    /// What its Hypervisor says; there may be none.
    pub offer: Option<&'a Offer>,
    /// The Lease of its executor is held and has not run out.
    pub live: bool,
    /// What the placed VMs have been promised.
    pub claims: &'a Claims,
    /// UIDs of the pods whose claims do not stand in the VM's way: its own, or those that would be preempted for it.
    pub apart_from: &'a [&'a str],
}

#[cfg(test)]
mod tests;
