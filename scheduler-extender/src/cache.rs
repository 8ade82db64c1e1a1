//! What is known of the hosts, in the form in which it is asked for.

use std::collections::{HashMap, HashSet};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{PoisonError, RwLock, RwLockReadGuard};
use std::time::Instant;

use k8s_openapi::api::coordination::v1::Lease;
use k8s_openapi::api::core::v1::Pod;
use kubevmm_api::Hypervisor;
use kubevmm_api::fit::{Claim, Claims, HostFacts, Offer, Shared};
use kubevmm_api::liveness::{Liveness, Rewound, Source};
use kubevmm_api::requirements::REQUIREMENTS;

use crate::error::Refused;

/// A kind of object that is watched.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Watched {
    /// What the hosts offer.
    Hypervisors,
    /// Whether their executors live.
    Leases,
    /// The same, of hosts that are no cluster nodes.
    NodeLeases,
    /// What the placed VMs have been promised.
    Pods,
}

impl Watched {
    /// All of them.
    pub const ALL: [Self; 4] = [Self::Hypervisors, Self::Leases, Self::NodeLeases, Self::Pods];

    /// For people.
    pub fn name(self) -> &'static str {
        match self {
            Self::Hypervisors => "Hypervisors",
            Self::Leases => "Leases of the executors",
            Self::NodeLeases => "Leases of external hosts",
            Self::Pods => "placement pods",
        }
    }
}

/// What the watches have brought.
#[derive(Debug, Default)]
pub struct Cache {
    state: RwLock<State>,
    listed: [AtomicBool; Watched::ALL.len()],
}

impl Cache {
    /// A kind has been listed as a whole.
    pub fn listed(&self, kind: Watched) {
        self.listed[kind as usize].store(true, Ordering::Release);
    }

    /// What is known, once everything has been listed.
    ///
    /// # Errors
    /// Which kind has not been.
    pub fn read(&self) -> Result<RwLockReadGuard<'_, State>, Refused> {
        self.ready()?;
        Ok(self.state.read().unwrap_or_else(PoisonError::into_inner))
    }

    /// Whether everything has been listed.
    ///
    /// # Errors
    /// Which kind has not been.
    pub fn ready(&self) -> Result<(), Refused> {
        match Watched::ALL.into_iter().find(|kind| !self.listed[*kind as usize].load(Ordering::Acquire)) {
            None => Ok(()),
            Some(kind) => Err(Refused::NotReady(kind.name())),
        }
    }

    /// Takes in a change.
    pub fn change<T>(&self, change: impl FnOnce(&mut State) -> T) -> T {
        change(&mut self.state.write().unwrap_or_else(PoisonError::into_inner))
    }
}

/// All hosts, at one moment.
#[derive(Debug, Default)]
pub struct State {
    offers: HashMap<String, Offer>,
    shared: Shared,
    leases: Liveness<Instant>,
    node_leases: Liveness<Instant>,
    claims: Claims,
}

impl State {
    /// A Hypervisor is there.
    pub fn put_hypervisor(&mut self, hypervisor: &Hypervisor) {
        let Some(name) = hypervisor.metadata.name.clone() else { return };
        let mut offer = Offer::of(hypervisor);
        offer.share(&mut self.shared);
        self.offers.insert(name, offer);
    }

    /// A Hypervisor is gone.
    pub fn drop_hypervisor(&mut self, name: &str) {
        self.offers.remove(name);
    }

    /// These Hypervisors are all that there are.
    pub fn retain_hypervisors(&mut self, names: &HashSet<String>) {
        self.offers.retain(|name, _| names.contains(name));
    }

    fn liveness(&mut self, kind: Watched) -> &mut Liveness<Instant> {
        if kind == Watched::NodeLeases { &mut self.node_leases } else { &mut self.leases }
    }

    /// A Lease is there, or has been renewed.
    ///
    /// # Errors
    /// When etcd was restored from a backup.
    pub fn put_lease(&mut self, kind: Watched, lease: &Lease, now: Instant) -> Result<(), Rewound> {
        self.liveness(kind).observe(lease, Source::Watch, now).map(drop)
    }

    /// A Lease is gone.
    pub fn drop_lease(&mut self, kind: Watched, name: &str) {
        self.liveness(kind).forget(name);
    }

    /// These Leases are all that there are.
    pub fn retain_leases(&mut self, kind: Watched, names: &HashSet<String>) {
        let names: Vec<String> = names.iter().cloned().collect();
        self.liveness(kind).retain(&names);
    }

    /// A placement pod is there. What it is promised counts from when it is bound until it ends.
    pub fn put_pod(&mut self, pod: &Pod) {
        let Some(uid) = pod.metadata.uid.as_deref() else { return };
        match claim(pod) {
            Some(claim) => self.claims.put(uid, claim),
            None => {
                self.claims.take(uid);
            }
        }
    }

    /// A placement pod is gone.
    pub fn drop_pod(&mut self, uid: &str) {
        self.claims.take(uid);
    }

    /// The pods with these UIDs are all that there are.
    pub fn retain_pods(&mut self, uids: &HashSet<String>) {
        self.claims.retain(uids);
    }

    /// A node, as a VM sees it that is not hindered by the claims of the pods `apart_from`.
    pub fn facts<'a>(&'a self, node: &'a str, now: Instant, apart_from: &'a [&'a str]) -> HostFacts<'a> {
        HostFacts {
            name: node,
            offer: self.offers.get(node),
            live: self.leases.is_live(node, now) || self.node_leases.is_live(node, now),
            claims: &self.claims,
            apart_from,
        }
    }

    /// Number of hosts, and of VMs that have been promised something.
    pub fn size(&self) -> (usize, usize) {
        (self.offers.len(), self.claims.len())
    }
}

fn claim(pod: &Pod) -> Option<Claim> {
    Claim::of_pod(pod).unwrap_or_else(|error| {
        let name = pod.metadata.name.as_deref().unwrap_or_default();
        tracing::warn!(pod = name, %error, "the annotation {REQUIREMENTS} cannot be read: the pod counts for nothing");
        None
    })
}
