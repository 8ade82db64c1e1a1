//! What the placed VMs have been promised of each host.

use std::collections::HashMap;

use k8s_openapi::api::core::v1::Pod;

use crate::LABEL_VM;
use crate::pod::{has_ended, node_of};
use crate::requirements::{DeviceNeed, REQUIREMENTS, Requirements};

/// What one placed VM has been promised.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Claim {
    /// Name of the host.
    pub node: String,
    /// The VM, for people: `namespace/name`.
    pub vm: String,
    /// Its virtual CPUs.
    pub vcpus: i64,
    /// Its memory in bytes.
    pub memory: u64,
    /// Bytes of the volumes that are yet to be made, by the pool's UID.
    pools: Box<[PoolClaim]>,
    /// Its devices.
    pub devices: Box<[DeviceNeed]>,
}

#[derive(Clone, Debug, PartialEq)]
struct PoolClaim {
    uid: Box<str>,
    shared: bool,
    bytes: u64,
}

impl Claim {
    /// What a VM with these needs has been promised on `node`.
    pub fn new(node: &str, vm: &str, needs: &Requirements) -> Self {
        let unmade = needs.pools.iter().filter(|pool| pool.bytes > 0);
        Self {
            node: node.to_owned(),
            vm: vm.to_owned(),
            vcpus: i64::from(needs.vcpus),
            memory: needs.memory,
            pools: unmade
                .map(|pool| PoolClaim { uid: pool.uid.as_str().into(), shared: pool.shared, bytes: pool.bytes })
                .collect(),
            devices: needs.devices.iter().cloned().collect(),
        }
    }

    /// What a placement pod says that its VM has been promised. A pod without a node, or that has ended, says nothing.
    ///
    /// # Errors
    /// When its annotation cannot be read.
    pub fn of_pod(pod: &Pod) -> Result<Option<Self>, serde_json::Error> {
        let (labels, annotations) = (pod.metadata.labels.as_ref(), pod.metadata.annotations.as_ref());
        let needs = annotations.and_then(|all| all.get(REQUIREMENTS));
        let vm = labels.and_then(|all| all.get(LABEL_VM));
        let (Some(node), Some(needs), Some(vm), false) = (node_of(pod), needs, vm, has_ended(pod)) else {
            return Ok(None);
        };
        let namespace = pod.metadata.namespace.as_deref().unwrap_or_default();
        Requirements::parse(needs).map(|needs| Some(Self::new(node, &format!("{namespace}/{vm}"), &needs)))
    }

    fn bytes_of(&self, pool: &str) -> u64 {
        self.pools.iter().filter(|claim| *claim.uid == *pool).map(|claim| claim.bytes).sum()
    }
}

/// What the placed VMs have been promised: one claim for each placement pod that is bound to a node and has not ended.
#[derive(Clone, Debug, Default)]
pub struct Claims {
    pods: HashMap<String, Claim>,
    hosts: HashMap<String, Host>,
    /// Of the pools that are one for all their hosts.
    shared: Sums,
}

/// Bytes by the UID of a pool. There are few, and they are asked for often.
#[derive(Clone, Debug, Default)]
struct Sums(Vec<(Box<str>, u64)>);

impl Sums {
    fn of(&self, pool: &str) -> u64 {
        self.0.iter().find(|(uid, _)| **uid == *pool).map(|(_, bytes)| *bytes).unwrap_or_default()
    }

    fn add(&mut self, pool: &str, bytes: u64) {
        match self.0.iter_mut().find(|(uid, _)| **uid == *pool) {
            Some((_, sum)) => *sum = sum.saturating_add(bytes),
            None => self.0.push((pool.into(), bytes)),
        }
    }

    fn subtract(&mut self, pool: &str, bytes: u64) {
        if let Some(at) = self.0.iter().position(|(uid, _)| **uid == *pool) {
            self.0[at].1 = self.0[at].1.saturating_sub(bytes);
            if self.0[at].1 == 0 {
                self.0.swap_remove(at);
            }
        }
    }
}

/// The sums of a host.
#[derive(Clone, Debug, Default)]
struct Host {
    vcpus: i64,
    memory: u64,
    pools: Sums,
    /// The pods that have devices.
    with_devices: Vec<String>,
    pods: usize,
}

impl Claims {
    /// The pod with the UID `pod` has this claim now, in the place of what it had.
    pub fn put(&mut self, pod: &str, claim: Claim) {
        if self.pods.get(pod) == Some(&claim) {
            return;
        }
        self.take(pod);
        let host = self.hosts.entry(claim.node.clone()).or_default();
        host.pods += 1;
        host.vcpus += claim.vcpus;
        host.memory = host.memory.saturating_add(claim.memory);
        for pool in &claim.pools {
            let sums = if pool.shared { &mut self.shared } else { &mut host.pools };
            sums.add(&pool.uid, pool.bytes);
        }
        if !claim.devices.is_empty() {
            host.with_devices.push(pod.to_owned());
            // Whoever comes first in this order has a device that several name by what it is.
            host.with_devices.sort();
        }
        self.pods.insert(pod.to_owned(), claim);
    }

    /// The pod with the UID `pod` has nothing any more. Returns whether it had.
    pub fn take(&mut self, pod: &str) -> bool {
        let Some(claim) = self.pods.remove(pod) else { return false };
        if let Some(host) = self.hosts.get_mut(&claim.node) {
            host.pods -= 1;
            host.vcpus -= claim.vcpus;
            host.memory = host.memory.saturating_sub(claim.memory);
            for pool in &claim.pools {
                let sums = if pool.shared { &mut self.shared } else { &mut host.pools };
                sums.subtract(&pool.uid, pool.bytes);
            }
            host.with_devices.retain(|known| known != pod);
            if host.pods == 0 {
                self.hosts.remove(&claim.node);
            }
        }
        true
    }

    /// Forgets the pods whose UID is not among `pods`.
    pub fn retain(&mut self, pods: &std::collections::HashSet<String>) {
        let gone: Vec<String> = self.pods.keys().filter(|pod| !pods.contains(*pod)).cloned().collect();
        for pod in gone {
            self.take(&pod);
        }
    }

    /// Number of pods with a claim.
    pub fn len(&self) -> usize {
        self.pods.len()
    }

    /// Whether no pod has one.
    pub fn is_empty(&self) -> bool {
        self.pods.is_empty()
    }

    /// Those on `node`, but those of the pods `apart_from`.
    pub(super) fn on<'a>(&'a self, node: &'a str, apart_from: &'a [&'a str]) -> OnHost<'a> {
        OnHost { all: self, host: self.hosts.get(node), node, apart_from }
    }
}

/// The claims on one host.
#[derive(Clone, Copy, Debug)]
pub(super) struct OnHost<'a> {
    all: &'a Claims,
    host: Option<&'a Host>,
    node: &'a str,
    apart_from: &'a [&'a str],
}

impl<'a> OnHost<'a> {
    fn left_out(self) -> impl Iterator<Item = &'a Claim> {
        self.apart_from.iter().filter_map(move |pod| self.all.pods.get(*pod))
    }

    fn left_out_here(self) -> impl Iterator<Item = &'a Claim> {
        self.left_out().filter(move |claim| claim.node == self.node)
    }

    /// Virtual CPUs.
    pub(super) fn vcpus(self) -> i64 {
        let all = self.host.map_or(0, |host| host.vcpus);
        all - self.left_out_here().map(|claim| claim.vcpus).sum::<i64>()
    }

    /// Bytes of memory.
    pub(super) fn memory(self) -> u64 {
        let all = self.host.map_or(0, |host| host.memory);
        self.left_out_here().fold(all, |left, claim| left.saturating_sub(claim.memory))
    }

    /// Bytes that are promised of a pool.
    pub(super) fn bytes(self, pool: &str, shared: bool) -> u64 {
        let sums = if shared { Some(&self.all.shared) } else { self.host.map(|host| &host.pools) };
        let all = sums.map(|sums| sums.of(pool)).unwrap_or_default();
        let counted = |claim: &&Claim| shared || claim.node == self.node;
        self.left_out().filter(counted).fold(all, |left, claim| left.saturating_sub(claim.bytes_of(pool)))
    }

    /// The claims on devices.
    pub(super) fn devices(self) -> impl Iterator<Item = &'a Claim> {
        let pods = self.host.map(|host| host.with_devices.as_slice()).unwrap_or_default();
        let others = pods.iter().filter(move |pod| !self.apart_from.contains(&pod.as_str()));
        others.filter_map(move |pod| self.all.pods.get(pod))
    }
}
