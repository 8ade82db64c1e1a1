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
    /// By name. What a request asks of each of thousands of hosts lies together: most of its time is the memory's.
    hosts: HashMap<String, Host>,
    shared: Shared,
    leases: Liveness<Instant>,
    node_leases: Liveness<Instant>,
    claims: Claims,
}

/// What is known of a host.
#[derive(Debug, Default)]
struct Host {
    offer: Option<Offer>,
    /// When the later of its Leases runs out.
    live_until: Option<Instant>,
}

impl State {
    /// A Hypervisor is there.
    pub fn put_hypervisor(&mut self, hypervisor: &Hypervisor) {
        let Some(name) = hypervisor.metadata.name.clone() else { return };
        let mut offer = Offer::of(hypervisor);
        offer.share(&mut self.shared);
        self.hosts.entry(name).or_default().offer = Some(offer);
    }

    /// A Hypervisor is gone.
    pub fn drop_hypervisor(&mut self, name: &str) {
        if let Some(host) = self.hosts.get_mut(name) {
            host.offer = None;
        }
        self.forget_unknown();
    }

    /// These Hypervisors are all that there are.
    pub fn retain_hypervisors(&mut self, names: &HashSet<String>) {
        let gone = self.hosts.iter_mut().filter(|(name, _)| !names.contains(*name));
        gone.for_each(|(_, host)| host.offer = None);
        self.forget_unknown();
    }

    fn forget_unknown(&mut self) {
        self.hosts.retain(|_, host| host.offer.is_some() || host.live_until.is_some());
    }

    fn liveness(&mut self, kind: Watched) -> &mut Liveness<Instant> {
        if kind == Watched::NodeLeases { &mut self.node_leases } else { &mut self.leases }
    }

    /// A Lease is there, or has been renewed.
    ///
    /// # Errors
    /// When etcd was restored from a backup.
    pub fn put_lease(&mut self, kind: Watched, lease: &Lease, now: Instant) -> Result<(), Rewound> {
        self.liveness(kind).observe(lease, Source::Watch, now)?;
        let Some(name) = lease.metadata.name.as_deref() else { return Ok(()) };
        let live_until = self.live_until(name);
        match self.hosts.get_mut(name) {
            Some(host) => host.live_until = live_until,
            None => drop(self.hosts.insert(name.to_owned(), Host { live_until, ..Host::default() })),
        }
        Ok(())
    }

    fn live_until(&self, name: &str) -> Option<Instant> {
        self.leases.live_until(name).max(self.node_leases.live_until(name))
    }

    /// A Lease is gone.
    pub fn drop_lease(&mut self, kind: Watched, name: &str) {
        self.liveness(kind).forget(name);
        let live_until = self.live_until(name);
        if let Some(host) = self.hosts.get_mut(name) {
            host.live_until = live_until;
        }
        self.forget_unknown();
    }

    /// These Leases are all that there are.
    pub fn retain_leases(&mut self, kind: Watched, names: &HashSet<String>) {
        self.liveness(kind).retain(names);
        let Self { hosts, leases, node_leases, .. } = self;
        for (name, host) in hosts {
            host.live_until = leases.live_until(name).max(node_leases.live_until(name));
        }
        self.forget_unknown();
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
        let host = self.hosts.get(node);
        HostFacts {
            name: node,
            offer: host.and_then(|host| host.offer.as_ref()),
            live: host.and_then(|host| host.live_until).is_some_and(|until| now < until),
            claims: &self.claims,
            apart_from,
        }
    }

    /// Number of hosts, and of VMs that have been promised something.
    pub fn size(&self) -> (usize, usize) {
        (self.hosts.values().filter(|host| host.offer.is_some()).count(), self.claims.len())
    }
}

fn claim(pod: &Pod) -> Option<Claim> {
    Claim::of_pod(pod).unwrap_or_else(|error| {
        let name = pod.metadata.name.as_deref().unwrap_or_default();
        tracing::warn!(pod = name, %error, "the annotation {REQUIREMENTS} cannot be read: the pod counts for nothing");
        None
    })
}
