//! What is known of the hosts: which of them are alive, have reported, and what they report.

use std::collections::BTreeMap;
use std::sync::Arc;

use k8s_openapi::api::core::v1::Node;
use kubevmm_api::Hypervisor;
use kubevmm_api::condition;
use kubevmm_api::fit::Offer;
use kubevmm_api::hypervisor::{DomainMark, HostDomain, HypervisorStatus};
use kubevmm_api::liveness::Rewound;
pub use kubevmm_api::liveness::{LeaseState, Source};
use tokio::time::Instant;

use crate::error::Error;
use crate::object::enumerate;

/// The taint by which a person says that a Node is off and stays off.
pub const OUT_OF_SERVICE: &str = "node.kubernetes.io/out-of-service";
/// The Leases of the executors, as this process has seen them change.
pub type Liveness = kubevmm_api::liveness::Liveness<Instant>;

impl From<Rewound> for Error {
    fn from(Rewound { lease, before, now }: Rewound) -> Self {
        Self::Rewound { lease, before, now }
    }
}

/// A host.
#[derive(Debug, Clone, Default)]
pub struct Host {
    /// Name of the Node and of the Hypervisor.
    pub name: String,
    /// Its Hypervisor object.
    pub hypervisor: Option<Arc<Hypervisor>>,
    /// What that offers to VMs.
    pub offer: Option<Arc<Offer>>,
    /// Its executor's Lease.
    pub lease: LeaseState,
    /// Its Node bears the taint out-of-service.
    pub out_of_service: bool,
}

impl Host {
    /// The executor holds its Lease.
    pub fn is_live(&self) -> bool {
        self.lease.session.is_some()
    }

    /// A person has said that the host is off, and its executor is silent.
    pub fn is_gone_for_good(&self) -> bool {
        self.out_of_service && !self.is_live()
    }

    /// The session of the executor, when it has told its domains in this session and is known to be up to date.
    pub fn reported_session(&self) -> Option<&str> {
        let session = self.lease.session.as_deref()?;
        (self.lease.renewed && self.status()?.session.as_deref() == Some(session)).then_some(session)
    }

    /// The executor is alive and has yet to tell which domains its host has. (One that has never reached a libvirt takes
    /// no Lease, and so holds up nobody.)
    pub fn owes_report(&self) -> bool {
        self.is_live() && self.reported_session().is_none()
    }

    /// Whether the executor calls the host ready; otherwise why it is not.
    pub fn readiness(&self) -> Result<(), String> {
        let ready = self.status().and_then(|status| condition::find(&status.conditions, condition::READY));
        match ready {
            Some(ready) if ready.status != "True" && !ready.message.is_empty() => Err(ready.message.clone()),
            Some(ready) if ready.status != "True" => Err(ready.reason.clone()),
            _ if !self.is_live() => Err("its executor does not answer".into()),
            Some(_) => Ok(()),
            None => Err("its executor has not reported yet".into()),
        }
    }

    /// The Hypervisor's status.
    pub fn status(&self) -> Option<&HypervisorStatus> {
        self.hypervisor.as_deref()?.status.as_ref()
    }
}

/// Whether a Node bears the taint out-of-service.
pub fn is_out_of_service(node: &Node) -> bool {
    let taints = node.spec.iter().flat_map(|spec| spec.taints.iter().flatten());
    taints.into_iter().any(|taint| taint.key == OUT_OF_SERVICE)
}

/// All hosts, at one moment.
#[derive(Debug, Clone, Default)]
pub struct Hosts(pub BTreeMap<String, Host>);

impl Hosts {
    /// The host of a Node.
    pub fn get(&self, name: &str) -> Option<&Host> {
        self.0.get(name)
    }

    /// Whether the executor of `name` holds its Lease.
    pub fn is_live(&self, name: &str) -> bool {
        self.get(name).is_some_and(Host::is_live)
    }

    /// Whether a person has said that the host `name` is off, and its executor is silent.
    pub fn is_gone_for_good(&self, name: &str) -> bool {
        self.get(name).is_some_and(Host::is_gone_for_good)
    }

    /// Hosts that are alive and have not told their domains: until they do, nothing is placed or started.
    pub fn owing_reports(&self) -> Vec<&str> {
        self.0.values().filter(|host| host.owes_report()).map(|host| host.name.as_str()).collect()
    }

    /// What the hosts tell in one of the lists of their status. What is left on a host that is gone for good is not
    /// counted.
    pub fn told<'a, T: 'a>(
        &'a self,
        list: impl Fn(&'a HypervisorStatus) -> &'a [T],
    ) -> impl Iterator<Item = (&'a str, &'a T)> {
        self.0.values().filter(|host| !host.is_gone_for_good()).flat_map(move |host| {
            let items = host.status().map(&list).unwrap_or_default();
            items.iter().map(|item| (host.name.as_str(), item))
        })
    }

    /// Every domain with our mark that a host tells of.
    pub fn marked_domains(&self) -> impl Iterator<Item = (&str, &HostDomain, &DomainMark)> {
        let domains = self.told(|status| &status.domains);
        domains.filter_map(|(host, domain)| Some((host, domain, domain.mark.as_ref()?)))
    }

    /// The domains of the VM `uid` of this cluster.
    pub fn holding<'a>(
        &'a self,
        cluster_id: &'a str,
        uid: &'a str,
    ) -> impl Iterator<Item = (&'a str, &'a HostDomain, &'a DomainMark)> {
        self.marked_domains().filter(move |(_, domain, _)| domain.mark_of(cluster_id, uid).is_some())
    }
}

/// What is wrong on which host, for people: each host with its message, or else its reason, or else `otherwise`.
pub fn complaints<'a>(
    of: impl Iterator<Item = (&'a str, &'a Option<String>, &'a Option<String>)>,
    otherwise: &str,
) -> String {
    let each: Vec<String> = of
        .map(|(host, message, reason)| {
            let why = message.as_deref().or(reason.as_deref()).unwrap_or(otherwise);
            format!("{host}: {why}")
        })
        .collect();
    enumerate(&each)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_complaint_is_the_hosts_message_or_its_reason() {
        let some = |text: &str| Some(text.to_owned());
        let said = [("a", &some("/x is not mounted"), &some("PoolNotMounted")), ("b", &None, &some("NameTaken"))];
        let said = said.into_iter().chain([("c", &None, &None)]);
        assert_eq!(complaints(said, "not ready"), "a: /x is not mounted, b: NameTaken, c: not ready");
        assert_eq!(complaints(std::iter::empty(), "not ready"), "");
    }
}
