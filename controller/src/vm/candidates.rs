//! The hosts that can take a VM, and why the others cannot: pure.

use std::sync::PoisonError;

use k8s_openapi::api::core::v1::Pod;
use kubevmm_api::common::NetworkKind;
use kubevmm_api::fit::{self, Claim, Claims, HostFacts};
use kubevmm_api::names;
use kubevmm_api::requirements::Requirements;

use crate::object::uid;
use crate::vm::view::View;

/// Why a VM cannot be placed: a reason for programs, a message for people.
pub type Refusal = (&'static str, String);

/// The most hosts that are told by name.
const SHOWN: usize = 8;

/// What the hosts say to a VM.
#[derive(Debug, Default)]
pub struct Fitting {
    /// Names of those that can take it.
    pub hosts: Vec<String>,
    /// The others, and why.
    refused: Vec<(String, fit::Refusal)>,
}

impl Fitting {
    /// Asks each host.
    pub fn of(view: &View, needs: &Requirements) -> Self {
        let claims = view.claims.read().unwrap_or_else(PoisonError::into_inner);
        let apart_from: Vec<&str> = view.apart_from.iter().map(String::as_str).collect();
        let mut fitting = Self::default();
        for host in view.hosts.0.values().filter(|host| host.hypervisor.is_some()) {
            let facts = HostFacts {
                name: &host.name,
                offer: host.offer.as_deref(),
                live: host.is_live(),
                claims: &claims,
                apart_from: &apart_from,
            };
            match fit::check(needs, &facts) {
                Ok(()) => fitting.hosts.push(host.name.clone()),
                Err(refusal) => fitting.refused.push((host.name.clone(), refusal)),
            }
        }
        fitting
    }

    /// The hosts that can take the VM, short enough for an annotation.
    pub fn told(&self) -> String {
        let names = self.hosts.join(" ");
        if self.hosts.len() <= SHOWN { names } else { names::short_hash(&names, 16) }
    }

    /// What the hosts that cannot take it say.
    pub fn words(&self) -> Option<String> {
        let mut refusals = self.refusals();
        // Of an imported VM, only its own host has anything to say.
        refusals.retain(|(_, refusal)| refusal.why != fit::Why::Home);
        (!refusals.is_empty()).then(|| fit::words(&refusals))
    }

    fn refusals(&self) -> Vec<(&str, fit::Refusal)> {
        self.refused.iter().map(|(host, refusal)| (host.as_str(), refusal.clone())).collect()
    }

    /// Why `node` cannot take the VM, when it cannot.
    pub fn why_not(&self, node: &str) -> Option<&str> {
        if self.hosts.iter().any(|host| host == node) {
            return None;
        }
        let refused = self.refused.iter().find(|(host, _)| host == node);
        Some(refused.map_or("it has no Hypervisor", |(_, refusal)| refusal.message.as_str()))
    }

    /// Why no host can take the VM, when none can.
    pub fn refusal(&self, needs: &Requirements) -> Option<Refusal> {
        self.hosts.is_empty().then(|| fit::summary(needs, &self.refusals()))
    }
}

/// Takes a placement pod into the claims, or out of them: a VM that has a node is promised what it needs there.
pub fn count(claims: &mut Claims, pod: &Pod, there: bool) {
    // A pod with the annotation that nobody can read is none of ours.
    match Claim::of_pod(pod).ok().flatten().filter(|_| there) {
        Some(claim) => claims.put(uid(pod), claim),
        None => {
            claims.take(uid(pod));
        }
    }
}

/// The networks exist and the namespace may use them.
pub fn check_networks(view: &View) -> Result<(), Refusal> {
    for (nic, kind, network) in view.nics() {
        let at = format!("spec.networks[{nic}].network");
        let Some(network) = network else {
            let defaults = view.default_networks();
            return Err(if defaults.is_empty() {
                (
                    "NoDefaultNetwork",
                    format!(
                        "{at} is missing and there is no default network: name one, or annotate one \
                         ClusterVirtualMachineNetwork with kubevmm.io/is-default: \"true\""
                    ),
                )
            } else {
                (
                    "SeveralDefaultNetworks",
                    format!(
                        "{at} is missing and {} are all annotated with kubevmm.io/is-default: name a network, or \
                         leave the annotation on one of them",
                        defaults.join(", ")
                    ),
                )
            });
        };
        let found = match kind {
            NetworkKind::VirtualMachineNetwork => view.networks.contains_key(network),
            NetworkKind::ClusterVirtualMachineNetwork => view.cluster_networks.contains_key(network),
        };
        if !found {
            return Err(("NetworkNotFound", format!("{at}: there is no {kind:?} {network}: create it")));
        }
        let forbidden = kind == NetworkKind::ClusterVirtualMachineNetwork
            && view.cluster_networks.get(network).is_some_and(|object| !object.spec.allows(view.namespace()));
        if forbidden {
            return Err((
                "NetworkNotAllowed",
                format!(
                    "{at}: the ClusterVirtualMachineNetwork {network} does not allow the namespace {}: an administrator \
                     can add it to its spec.allowedNamespaces",
                    view.namespace()
                ),
            ));
        }
    }
    Ok(())
}
