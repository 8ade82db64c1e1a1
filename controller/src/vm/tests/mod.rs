//! The placement of a VM as a table: what is, and the exact steps that follow.

mod disks;
mod evictions;
mod fitting;
mod imported;
mod moves;
mod observe;
mod placement;
mod requirements;
mod status;

use std::collections::BTreeMap;
use std::sync::Arc;

use k8s_openapi::api::core::v1::Pod;
use k8s_openapi::apimachinery::pkg::apis::meta::v1::Time;
use k8s_openapi::jiff::Timestamp;
use kube::ResourceExt;
use kubevmm_api::condition::{DISKS_READY, READY, SCHEDULED};
use kubevmm_api::vm::{PlacementStatus, Release};
use kubevmm_api::{ClusterVirtualMachineNetwork, VirtualMachine, VirtualMachineDisk, VirtualMachineStoragePool, names};
use serde_json::{Value, json};

use crate::disk::status::Owned;
use crate::hosts::Hosts;
use crate::testing::{self, CLUSTER, hosts, yaml};
use crate::vm::decide::{Action, decide};
use crate::vm::pod::HOSTS;
use crate::vm::status::StatusWanted;
use crate::vm::view::View;

const POOL: &str = "pools: [{name: fast, uid: p, ready: true}]";
const DISK: &str = "disks: [{name: data, diskName: data}]";
const GONE: &str = "deletionTimestamp: \"2026-01-01T00:00:00Z\"";

/// A VM `shop/web` (uid u), a local pool `fast` on the hosts a and b, and no disk.
fn view(spec: &str, status: &str) -> View {
    let vm: VirtualMachine = yaml(&format!(
        "metadata: {{name: web, namespace: shop, uid: u, generation: 1, finalizers: [kubevmm.io/cleanup]}}\n\
         spec: {{memory: {{size: 256Mi}}, {spec}}}\nstatus: {{{status}}}"
    ));
    let pool: VirtualMachineStoragePool = yaml("metadata: {name: fast, uid: p}\nspec: {dir: {path: /x}}");
    View {
        vm: Arc::new(vm),
        cluster_id: CLUSTER.into(),
        class: None,
        disks: BTreeMap::new(),
        rivals: vec![],
        pools: BTreeMap::from([("fast".into(), Arc::new(pool))]),
        networks: BTreeMap::new(),
        cluster_networks: BTreeMap::new(),
        images: BTreeMap::new(),
        pods: vec![],
        hosts: Arc::new(hosts(&[("a", POOL), ("b", POOL)])),
        claims: Arc::default(),
        apart_from: vec![],
        pause_image: "pause".into(),
        millis_per_vcpu: 100,
        pod_pause: None,
        taken_by: None,
        namespace_ends: false,
        disk_refused: None,
    }
}

/// The disk `data`, held by the VM.
fn disk(meta: &str, status: &str) -> VirtualMachineDisk {
    yaml(&format!(
        "metadata: {{name: data, namespace: shop, uid: d, finalizers: [kubevmm.io/cleanup], {meta}}}\n\
         spec: {{size: 1Gi, poolName: fast, source: {{blank: {{}}}}}}\nstatus: {{poolName: fast, {status}}}"
    ))
}

/// As [`disk`], of a volume that the host b has already.
fn existing(meta: &str, status: &str) -> VirtualMachineDisk {
    yaml(&format!(
        "metadata: {{name: data, namespace: shop, uid: d, finalizers: [kubevmm.io/cleanup], {meta}}}\n\
         spec: {{poolName: fast, source: {{existing: {{nodeName: b, volumeName: v, format: raw}}}}}}\n\
         status: {{poolName: fast, {status}}}"
    ))
}

const HELD: &str = "usedBy: {name: web, uid: u}";

fn pod(epoch: i64, spec: &str, status: &str) -> Arc<Pod> {
    Arc::new(yaml(&format!(
        "metadata: {{name: {}, namespace: shop, uid: pod-{epoch}}}\nspec: {{containers: [], {spec}}}\nstatus: {{{status}}}",
        names::placement_pod("web", "u", epoch)
    )))
}

fn running(epoch: i64, node: &str) -> Arc<Pod> {
    pod(epoch, &format!("nodeName: {node}"), "phase: Running")
}

/// As [`running`], and somebody has deleted it: it has `grace` seconds.
fn leaving(epoch: i64, node: &str, grace: i64) -> Arc<Pod> {
    let mut pod = running(epoch, node);
    let meta = &mut Arc::make_mut(&mut pod).metadata;
    meta.deletion_timestamp = Some(Time(Timestamp::UNIX_EPOCH));
    meta.deletion_grace_period_seconds = Some(grace);
    pod
}

impl View {
    fn disk(mut self, disk: VirtualMachineDisk) -> Self {
        self.disks.insert(disk.name_any(), Arc::new(disk));
        self
    }

    fn rival(mut self, disk: VirtualMachineDisk) -> Self {
        self.rivals.push(Arc::new(disk));
        self
    }

    fn pods(mut self, pods: &[Arc<Pod>]) -> Self {
        self.pods = pods.to_vec();
        self
    }

    fn on(mut self, hosts: Hosts) -> Self {
        self.hosts = Arc::new(hosts);
        self
    }

    fn shared(mut self) -> Self {
        let pool: VirtualMachineStoragePool =
            yaml("metadata: {name: fast, uid: p}\nspec: {dir: {path: /x}, shared: true}");
        self.pools.insert("fast".into(), Arc::new(pool));
        self
    }

    fn deleting(mut self) -> Self {
        let gone: VirtualMachine = yaml(&format!("metadata: {{name: x, {GONE}}}\nspec: {{}}"));
        Arc::make_mut(&mut self.vm).metadata.deletion_timestamp = gone.metadata.deletion_timestamp;
        self
    }
}

/// The steps in short, and the status that they write.
fn outcome(view: &View) -> (Vec<String>, Option<StatusWanted>) {
    let mut status = None;
    let steps = decide(view)
        .into_iter()
        .filter_map(|action| {
            Some(match action {
                Action::AddFinalizer => "finalizer on".into(),
                Action::RemoveFinalizer => "finalizer off".into(),
                Action::CreateDisk { disk, .. } => format!("create disk {}", disk.name_any()),
                Action::WriteDisk { disk, owned } => format!(
                    "disk {}: used by {}, node {}",
                    disk.name_any(),
                    owned.used_by.map_or("nobody".into(), |holder| holder.name),
                    owned.node_name.unwrap_or("none".into())
                ),
                Action::CreatePod(pod) => format!("create pod {} for {}", epoch_of(&pod), nodes_of(&pod).join(" ")),
                Action::DeletePod { uid, failed, grace, .. } => {
                    let (at_once, why) = (grace == 0, failed.is_some());
                    format!(
                        "delete {uid}{}{}",
                        if at_once { " at once" } else { "" },
                        if why { ", which failed" } else { "" }
                    )
                }
                Action::TellHosts { uid, hosts, .. } => format!("tell {uid} of {hosts}"),
                // Of pods that these tests write without it: see the tests of requirements.
                Action::TellNeeds { .. } => return None,
                Action::ForgetEviction { uid, .. } => format!("forget the eviction of {uid}"),
                Action::WriteStatus(wanted) => {
                    status = Some(*wanted);
                    return None;
                }
            })
        })
        .collect();
    (steps, status)
}

fn epoch_of(pod: &Pod) -> String {
    pod.labels()[kubevmm_api::LABEL_EPOCH].clone()
}

/// The host that the pod is bound to, or else those that could take it when it was made.
fn nodes_of(pod: &Pod) -> Vec<String> {
    let affinity = pod.spec.clone().unwrap().affinity.and_then(|affinity| affinity.node_affinity);
    let Some(affinity) = affinity else {
        let told = pod.annotations()[HOSTS].split(' ').map(Into::into);
        return told.filter(|host: &String| !host.is_empty()).collect();
    };
    let terms = affinity.required_during_scheduling_ignored_during_execution.unwrap().node_selector_terms;
    terms.into_iter().map(|term| term.match_fields.unwrap()[0].values.clone().unwrap()[0].clone()).collect()
}

fn scheduled(status: &Option<StatusWanted>) -> (Option<bool>, &'static str, String) {
    let wanted = status.as_ref().unwrap().conditions.iter().find(|wanted| wanted.kind == SCHEDULED).unwrap();
    (wanted.status, wanted.reason, wanted.message.clone())
}

fn placement(status: &Option<StatusWanted>) -> PlacementStatus {
    status.as_ref().unwrap().placement.clone().unwrap_or_default()
}

/// `status` of a VM that is placed on a with epoch 1 and confirmed.
fn placed(more: &str) -> String {
    format!(
        "nodeName: a, placement: {{epoch: 1, podName: {}, podUID: pod-1, confirmed: a_1}}, {more}",
        names::placement_pod("web", "u", 1)
    )
}

const ACTIVE: &str = "domain: {name: shop.web, uuid: u, epoch: 1, state: Running}";

fn domain(uid: &str, cluster: &str, epoch: i64) -> String {
    marked(uid, uid, cluster, epoch)
}

/// What a host says that has the domain `uuid`, and there the mark of the VM `shop/web` with this uid.
fn marked(uuid: &str, uid: &str, cluster: &str, epoch: i64) -> String {
    format!(
        "{POOL}, domains: [{{uuid: {uuid}, name: shop.web, state: Running, mark: {{clusterID: {cluster}, \
         namespace: shop, name: web, uid: {uid}, epoch: {epoch}}}}}]"
    )
}
