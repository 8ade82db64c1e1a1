//! The placement of a VM as a table: what is, and the exact steps that follow.

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
        pools: BTreeMap::from([("fast".into(), Arc::new(pool))]),
        networks: BTreeMap::new(),
        cluster_networks: BTreeMap::new(),
        images: BTreeMap::new(),
        pods: vec![],
        hosts: Arc::new(hosts(&[("a", POOL), ("b", POOL)])),
        pause_image: "pause".into(),
        pod_pause: None,
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

impl View {
    fn disk(mut self, disk: VirtualMachineDisk) -> Self {
        self.disks.insert(disk.name_any(), Arc::new(disk));
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
                Action::DeletePod { uid, failed, .. } => {
                    format!("delete {uid}{}", if failed.is_some() { ", which failed" } else { "" })
                }
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

fn nodes_of(pod: &Pod) -> Vec<String> {
    let affinity = pod.spec.clone().unwrap().affinity.unwrap().node_affinity.unwrap();
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
    format!(
        "{POOL}, domains: [{{uuid: {uid}, domainName: shop.web, clusterID: {cluster}, namespace: shop, name: web, \
         uid: {uid}, epoch: {epoch}, active: true}}]"
    )
}

#[test]
fn the_finalizer_comes_first() {
    let mut view = view("", "");
    Arc::make_mut(&mut view.vm).metadata.finalizers = None;
    assert_eq!(decide(&view), [Action::AddFinalizer]);
    assert_eq!(decide(&view.deleting()), [], "what is not ours is let go");
}

#[test]
fn a_template_becomes_a_disk_that_the_vm_owns_and_holds() {
    let view = view("disks: [{name: root, template: {source: {blank: {}}, size: 1Gi, poolName: fast}}]", "");
    let actions = decide(&view);
    let [Action::CreateDisk { disk, owned }] = actions.as_slice() else { panic!("{actions:?}") };
    assert_eq!(disk.name_any(), "web-root");
    let owner = &disk.owner_references()[0];
    assert_eq!((owner.uid.as_str(), owner.controller, owner.block_owner_deletion), ("u", Some(true), Some(true)));
    assert_eq!(owned.used_by.as_ref().map(|holder| holder.uid.as_str()), Some("u"));
    assert_eq!(owned.pool_name.as_deref(), Some("fast"));
}

#[test]
fn a_disk_that_cannot_be_had_is_named_with_the_way_out() {
    let template = "disks: [{name: root, template: {source: {blank: {}}, size: 1Gi}}]";
    let twice = "disks: [{name: x, diskName: data}, {name: y, diskName: data}]";
    let image = "disks: [{name: r, template: {poolName: fast, source: {image: {name: debian}}}}]";
    let nowhere = "disks: [{name: r, template: {poolName: slow, size: 1Gi, source: {blank: {}}}}]";
    let mut taken = disk("", "");
    taken.metadata.name = Some("web-root".into());
    for (view, reason, says) in [
        (view(DISK, ""), "DiskNotFound", "spec.disks[data].diskName"),
        (view(DISK, "").disk(disk("", "usedBy: {name: db, uid: other}")), "DiskInUse", "VirtualMachine db"),
        (view(DISK, "").disk(disk(GONE, "")), "DiskDeleting", "being deleted"),
        (view(template, ""), "NoDefaultPool", "kubevmm.io/is-default"),
        (view(template, "").disk(taken), "NameTaken", "diskName"),
        (view(twice, "").disk(disk("", HELD)), "DuplicateDisk", "spec.disks[y]"),
        (view(image, ""), "ImageNotFound", "VirtualMachineImage debian"),
        (view(nowhere, ""), "PoolNotFound", "VirtualMachineStoragePool slow"),
    ] {
        let (steps, status) = outcome(&view);
        assert_eq!(steps, Vec::<String>::new(), "{reason}");
        let status = status.unwrap();
        let wanted = status.conditions.iter().find(|wanted| wanted.kind == DISKS_READY).unwrap();
        assert_eq!((wanted.status, wanted.reason), (Some(false), reason));
        assert!(wanted.message.contains(says), "{}", wanted.message);
        assert_eq!(status.shown.map(|shown| shown.printable), Some("Pending"));
    }
}

#[test]
fn a_free_disk_is_taken_once_it_has_its_finalizer() {
    let view_of = |disk: VirtualMachineDisk| view(DISK, "").disk(disk);
    assert_eq!(outcome(&view_of(disk("", ""))).0, ["disk data: used by web, node none"]);
    let mut fresh = disk("", "");
    fresh.metadata.finalizers = None;
    assert_eq!(outcome(&view_of(fresh)).0, Vec::<String>::new());
}

#[test]
fn a_vm_that_should_run_gets_a_pod_for_the_hosts_that_can_take_it() {
    let (steps, status) = outcome(&view(DISK, "").disk(disk("", HELD)));
    assert_eq!(steps, ["create pod 1 for a b"]);
    assert_eq!(scheduled(&status).1, "Scheduling");
    let pinned = disk("", &format!("{HELD}, volumeName: v, nodeName: b"));
    assert_eq!(outcome(&view(DISK, "").disk(pinned)).0, ["create pod 1 for b"], "its data lies there");
    let one = hosts(&[("a", ""), ("b", POOL)]);
    assert_eq!(outcome(&view(DISK, "").disk(disk("", HELD)).on(one)).0, ["create pod 1 for b"], "a lacks the pool");
}

#[test]
fn without_a_host_the_message_says_why_for_each() {
    let with_disk = || view(DISK, "").disk(disk("", HELD));
    let mut lost = hosts(&[("a", POOL), ("b", POOL)]);
    testing::lose(&mut lost, "a");
    let pinned = disk("", &format!("{HELD}, volumeName: v, nodeName: a"));
    for (view, reason, says) in [
        (with_disk().on(Hosts::default()), "NoHypervisor", "no executor runs on any node"),
        (with_disk().on(hosts(&[("a", "")])), "NoHostWithPool", "a: it does not have the pool fast"),
        (view(DISK, "").disk(pinned).on(lost), "DataOnLostHost", "lies on the host a"),
        (view("className: big", ""), "ClassNotFound", "VirtualMachineClass big"),
        (view("networks: [{name: lan}]", ""), "NoDefaultNetwork", "spec.networks[lan].network"),
        (view("networks: [{name: lan, network: {name: nat}}]", ""), "NetworkNotFound", "VirtualMachineNetwork nat"),
    ] {
        let (steps, status) = outcome(&view);
        assert_eq!(steps, Vec::<String>::new(), "{reason}");
        let (state, got, message) = scheduled(&status);
        assert_eq!((state, got), (Some(false), reason));
        assert!(message.contains(says), "{message}");
    }
}

#[test]
fn a_cluster_network_admits_only_the_namespaces_that_it_names() {
    let lan = |allowed: &str| -> Arc<ClusterVirtualMachineNetwork> {
        Arc::new(yaml(&format!(
            "metadata: {{name: lan, uid: n}}\nspec: {{existing: {{bridge: br0}}, allowedNamespaces: [{allowed}]}}"
        )))
    };
    let with = |allowed: &str, hosts: Hosts| {
        let mut view =
            view("networks: [{name: n, network: {kind: ClusterVirtualMachineNetwork, name: lan}}]", "").on(hosts);
        view.cluster_networks.insert("lan".into(), lan(allowed));
        outcome(&view)
    };
    let there = "networks: [{kind: ClusterVirtualMachineNetwork, name: lan, uid: n, ready: true}]";
    assert_eq!(scheduled(&with("other", hosts(&[("a", there)])).1).1, "NetworkNotAllowed");
    assert_eq!(scheduled(&with("shop", hosts(&[("a", "")])).1).1, "NoHostWithNetwork", "an existing one must be there");
    assert_eq!(with("shop", hosts(&[("a", there), ("b", "")])).0, ["create pod 1 for a"]);
}

#[test]
fn the_schedulers_word_is_repeated_and_a_pod_that_would_differ_is_made_anew() {
    let refused = "phase: Pending, conditions: [{type: PodScheduled, status: 'False', reason: Unschedulable, message: 0/2 nodes}]";
    let (steps, status) = outcome(&view("", "").pods(&[pod(1, "", refused)]));
    assert_eq!((scheduled(&status).1, scheduled(&status).2.as_str()), ("Unschedulable", "0/2 nodes"));
    assert_eq!(steps, ["delete pod-1"], "it has no hash of the wanted spec");
    let (steps, _) = outcome(&view("", "").pods(&[pod(1, "", "phase: Pending")]));
    assert_eq!(steps, Vec::<String>::new(), "the scheduler is at it");
}

#[test]
fn a_running_pod_settles_the_vm_disks_first() {
    let (steps, status) = outcome(&view(DISK, "").disk(disk("", HELD)).pods(&[running(1, "a")]));
    assert_eq!(steps, ["disk data: used by web, node a"]);
    let wanted = status.clone().unwrap();
    assert_eq!(wanted.node_name.as_deref(), Some("a"));
    assert_eq!(wanted.shown.map(|shown| shown.printable), Some("Starting"));
    assert_eq!(
        placement(&status),
        PlacementStatus {
            epoch: 1,
            pod_name: Some(names::placement_pod("web", "u", 1)),
            pod_uid: Some("pod-1".into()),
            confirmed: Some("a_1".into()),
            release: Release::None,
        }
    );
}

#[test]
fn nothing_is_placed_before_every_live_host_has_reported() {
    let mut silent = hosts(&[("a", POOL), ("b", POOL)]);
    silent.0.get_mut("b").unwrap().lease.session = Some("b_2".into());
    let (_, status) = outcome(&view("", "").pods(&[running(1, "a")]).on(silent.clone()));
    assert_eq!(status.clone().unwrap().node_name, None);
    assert_eq!((scheduled(&status).1, scheduled(&status).2.ends_with(": b")), ("HostsNotReported", true));
    silent.0.get_mut("b").unwrap().lease.session = Some("b_1".into());
    silent.0.get_mut("b").unwrap().lease.renewed = false;
    let (_, status) = outcome(&view("", "").pods(&[running(1, "a")]).on(silent.clone()));
    assert_eq!(scheduled(&status).1, "HostsNotReported", "a report from before this process may be old");
    testing::lose(&mut silent, "b");
    let (_, status) = outcome(&view("", "").pods(&[running(1, "a")]).on(silent));
    assert_eq!(status.unwrap().node_name.as_deref(), Some("a"), "a dead host holds up nobody else");
}

#[test]
fn an_orphan_of_the_same_name_blocks_until_it_is_gone() {
    for (uid, cluster) in [("older", CLUSTER), ("u", "another cluster")] {
        let orphan = hosts(&[("a", POOL), ("b", &domain(uid, cluster, 7))]);
        let (steps, status) = outcome(&view("", "").on(orphan.clone()));
        assert_eq!((steps, scheduled(&status).1), (vec![], "OrphanFound"));
        assert!(scheduled(&status).2.contains("virsh undefine"), "{}", scheduled(&status).2);
        let (steps, status) = outcome(&view("", "").pods(&[running(1, "a")]).on(orphan));
        assert_eq!((steps, status.unwrap().node_name), (vec!["delete pod-1".to_owned()], None));
    }
    let mut dead = hosts(&[("a", POOL), ("b", &domain("older", CLUSTER, 7))]);
    testing::lose(&mut dead, "b");
    testing::out_of_service(&mut dead, "b");
    assert_eq!(outcome(&view("", "").on(dead)).0, ["create pod 1 for a"], "what a dead host had does not count");
}

#[test]
fn a_newer_domain_elsewhere_is_taken_as_it_is() {
    let newer = hosts(&[("a", POOL), ("b", &domain("u", CLUSTER, 5))]);
    for status in [placed(""), String::new()] {
        let (steps, status) = outcome(&view("", &status).on(newer.clone()));
        assert_eq!(steps, Vec::<String>::new());
        assert_eq!(status.clone().unwrap().node_name.as_deref(), Some("b"));
        let expected =
            PlacementStatus { epoch: 5, pod_name: Some(names::placement_pod("web", "u", 5)), ..Default::default() };
        assert_eq!((placement(&status), scheduled(&status).1), (expected, "HeldElsewhere"));
    }
    let (steps, status) = outcome(&view("", "").on(newer).deleting());
    assert_eq!((steps, status.unwrap().node_name.as_deref()), (vec![], Some("b")), "also to delete it there");
}

#[test]
fn an_older_domain_elsewhere_only_blocks_the_start() {
    let both = hosts(&[("a", POOL), ("b", &domain("u", CLUSTER, 1))]);
    let status = placed("").replace("confirmed: a_1", "confirmed: a_0");
    let (_, status) = outcome(&view("", &status).pods(&[running(1, "a")]).on(both));
    assert_eq!((scheduled(&status).1, placement(&status).confirmed.as_deref()), ("HeldElsewhere", Some("a_0")));
}

#[test]
fn a_new_session_is_confirmed_while_the_domain_is_off() {
    let old = |more: &str| placed(more).replace("confirmed: a_1", "confirmed: a_0");
    let (steps, status) = outcome(&view("", &old("")).pods(&[running(1, "a")]));
    assert_eq!((steps, placement(&status).confirmed.as_deref()), (vec![], Some("a_1")));
    let (steps, status) = outcome(&view("", &old(ACTIVE)).pods(&[running(1, "a")]));
    assert_eq!((steps, placement(&status).confirmed.as_deref()), (vec![], Some("a_0")), "it runs: nothing to start");
}

#[test]
fn a_disk_that_a_placed_vm_gets_follows_it_unless_its_data_lie_elsewhere() {
    let with =
        |status: &str| view(DISK, &placed("")).disk(disk("", &format!("{HELD}, {status}"))).pods(&[running(1, "a")]);
    assert_eq!(outcome(&with("")).0, ["disk data: used by web, node a"]);
    let (steps, status) = outcome(&with("volumeName: v, nodeName: b"));
    assert_eq!((steps, scheduled(&status).1), (vec![], "DataElsewhere"));
}

#[test]
fn once_settled_there_is_nothing_to_write() {
    let settled = |status: &str| {
        let mut view = view("", status).pods(&[running(1, "a")]);
        for _ in 0..3 {
            let (steps, wanted) = outcome(&view);
            assert_eq!(steps, Vec::<String>::new());
            let Some(patch) = wanted.unwrap().over(&view.vm, &Time(Timestamp::UNIX_EPOCH)) else { return };
            let mut vm = serde_json::to_value(view.vm.as_ref()).unwrap();
            merge(&mut vm["status"], patch);
            view.vm = Arc::new(serde_json::from_value(vm).unwrap());
        }
        panic!("it writes without end: {:?}", view.vm.status);
    };
    settled(&placed(ACTIVE));
    settled(&placed(""));
}

fn merge(into: &mut Value, from: Value) {
    for (key, value) in from.as_object().unwrap() {
        into[key] = value.clone();
    }
}

#[test]
fn a_vm_that_shall_be_off_keeps_its_pod_until_the_domain_has_ended() {
    let halted = "runStrategy: Halted";
    let (steps, status) = outcome(&view(halted, &placed(ACTIVE)).pods(&[running(1, "a")]));
    assert_eq!((steps, placement(&status).pod_uid.as_deref()), (vec![], Some("pod-1")));
    let (steps, status) = outcome(&view(halted, &placed("")).pods(&[running(1, "a")]));
    assert_eq!(steps, ["delete pod-1"]);
    assert_eq!(placement(&status), PlacementStatus { epoch: 1, ..Default::default() });
    assert_eq!(status.unwrap().node_name.as_deref(), Some("a"), "it stays where it is defined");
    let (steps, status) = outcome(&view(halted, ""));
    assert_eq!((steps, status.unwrap().shown.map(|shown| shown.printable)), (vec![], Some("Stopped")));
}

#[test]
fn a_request_to_stop_what_is_off_is_answered() {
    let manual = "runStrategy: Manual, powerRequest: {id: r, action: Stop}";
    let shown = outcome(&view(manual, "")).1.unwrap().shown.unwrap();
    let answer = serde_json::to_value(shown.power).unwrap();
    assert_eq!(answer, json!({"id": "r", "action": "Stop", "result": "AlreadyDone"}));
}

#[test]
fn a_vm_that_starts_again_prefers_its_host_and_gets_a_new_epoch() {
    let off = "nodeName: a, placement: {epoch: 1}";
    let actions = decide(&view("", off));
    let Some(Action::CreatePod(pod)) = actions.first() else { panic!("{actions:?}") };
    let affinity = pod.spec.clone().unwrap().affinity.unwrap().node_affinity.unwrap();
    let preferred = affinity.preferred_during_scheduling_ignored_during_execution.unwrap();
    assert_eq!(preferred[0].preference.match_fields.as_ref().unwrap()[0].values, Some(vec!["a".into()]));
    assert_eq!(epoch_of(pod), "2");
}

#[test]
fn a_stopped_vm_moves_only_after_its_host_has_given_it_up() {
    let off = "nodeName: a, placement: {epoch: 1}";
    let (steps, status) = outcome(&view("", off).pods(&[running(2, "b")]));
    let asked = PlacementStatus { epoch: 1, release: Release::Stop, ..Default::default() };
    assert_eq!((steps, placement(&status), scheduled(&status).1), (vec![], asked, "Moving"));
    let asked = "nodeName: a, placement: {epoch: 1, release: Stop}";
    let (_, status) = outcome(&view("", asked).pods(&[running(2, "b")]));
    assert_eq!(status.unwrap().node_name.as_deref(), Some("a"), "not yet");
    let stale = format!("{asked}, releasedEpoch: 0");
    let (_, status) = outcome(&view("", &stale).pods(&[running(2, "b")]));
    assert_eq!(status.unwrap().node_name.as_deref(), Some("a"), "an earlier release does not count");
    let given = format!("{asked}, releasedEpoch: 1");
    let (_, status) = outcome(&view("", &given).pods(&[running(2, "b")]));
    assert_eq!(status.clone().unwrap().node_name.as_deref(), Some("b"));
    assert_eq!((placement(&status).epoch, placement(&status).release), (2, Release::None));
    let (_, status) = outcome(&view("", &given).pods(&[running(2, "a")]));
    assert_eq!(placement(&status).epoch, 2, "back on the same host: a new epoch all the same");
}

#[test]
fn a_pod_that_is_simply_gone_is_made_again_where_the_vm_is() {
    assert_eq!(outcome(&view("", &placed(ACTIVE))).0, ["create pod 1 for a"]);
    let failed = pod(1, "nodeName: a", "phase: Failed, message: OutOfmemory");
    assert_eq!(outcome(&view("", &placed(ACTIVE)).pods(&[failed])).0, ["delete pod-1, which failed"]);
    let collected = "phase: Failed, conditions: [{type: DisruptionTarget, status: 'True', reason: DeletionByPodGC}]";
    let collected = pod(1, "nodeName: a", collected);
    assert_eq!(outcome(&view("", &placed(ACTIVE)).pods(&[collected])).0, ["delete pod-1, which failed"]);
}

#[test]
fn an_eviction_moves_a_vm_on_shared_storage() {
    let evicted =
        "phase: Running, conditions: [{type: DisruptionTarget, status: 'True', reason: EvictionByEvictionAPI}]";
    let held = || view(DISK, &placed(ACTIVE)).shared().disk(disk("", &format!("{HELD}, volumeName: v, nodeName: a")));
    let (steps, status) = outcome(&held().pods(&[pod(1, "nodeName: a", evicted)]));
    assert_eq!((steps, placement(&status).release, scheduled(&status).1), (vec![], Release::Stop, "Moving"));
    let moving = placed("").replace("confirmed: a_1", "confirmed: a_1, release: Stop");
    let (steps, status) = outcome(&view("", &format!("{moving} releasedEpoch: 1")).pods(&[running(1, "a")]));
    assert_eq!(steps, ["delete pod-1"]);
    assert_eq!(placement(&status), PlacementStatus { epoch: 1, release: Release::Stop, ..Default::default() });
    let next = "nodeName: a, placement: {epoch: 1, release: Stop}, releasedEpoch: 1";
    assert_eq!(outcome(&view("", next)).0, ["create pod 2 for a b"]);
}

#[test]
fn an_eviction_never_stops_a_vm_with_local_data() {
    let mut leaving = running(1, "a");
    Arc::make_mut(&mut leaving).metadata.deletion_timestamp = Some(Time(Timestamp::UNIX_EPOCH));
    let (steps, status) = outcome(&view(DISK, &placed(ACTIVE)).disk(disk("", HELD)).pods(&[leaving]));
    assert_eq!((steps, placement(&status).release), (vec![], Release::None));
    assert_eq!((scheduled(&status).0, scheduled(&status).1), (Some(true), "EvacuationBlocked"));
    assert_eq!(outcome(&view(DISK, &placed(ACTIVE)).disk(disk("", HELD))).0, ["create pod 1 for a"]);
}

#[test]
fn a_lost_host_is_told_and_nothing_is_started_elsewhere() {
    let mut lost = hosts(&[("a", POOL), ("b", POOL)]);
    testing::lose(&mut lost, "a");
    for spec in ["", "runStrategy: Halted"] {
        let (steps, status) = outcome(&view(spec, &placed(ACTIVE)).on(lost.clone()));
        assert_eq!(steps, Vec::<String>::new());
        let shown = status.unwrap().shown.unwrap();
        assert_eq!(
            (shown.printable, shown.ready.kind, shown.ready.status, shown.ready.reason),
            ("Unknown", READY, None, "HostLost")
        );
        assert!(shown.ready.message.contains("node.kubernetes.io/out-of-service"), "{}", shown.ready.message);
    }
}

#[test]
fn a_deleted_vm_goes_when_its_host_has_released_it() {
    let held = |status: &str| view(DISK, status).disk(disk("", HELD)).pods(&[running(1, "a")]).deleting();
    assert_eq!(outcome(&held(&placed(ACTIVE))).0, Vec::<String>::new(), "the executor is at it");
    let released = placed(
        "conditions: [{type: HostReleased, status: 'True', reason: Released, message: '', lastTransitionTime: \"2026-01-01T00:00:00Z\"}]",
    );
    let all = ["delete pod-1", "disk data: used by nobody, node none", "finalizer off"];
    assert_eq!(outcome(&held(&released)).0, all);
    assert_eq!(outcome(&held("")).0, all, "never placed: straight away");
    let none = "nodeName: a, placement: {epoch: 1, release: Stop}, releasedEpoch: 1";
    assert_eq!(outcome(&held(none)).0, all, "between two hosts");
}

#[test]
fn a_lost_host_is_given_up_only_on_a_persons_word() {
    let mut lost = hosts(&[("a", POOL), ("b", POOL)]);
    testing::lose(&mut lost, "a");
    let deleted = |hosts: &Hosts| outcome(&view("", &placed(ACTIVE)).on(hosts.clone()).deleting());
    let (steps, status) = deleted(&lost);
    assert_eq!((steps, status.unwrap().shown.unwrap().ready.reason), (vec![], "HostLost"));
    testing::out_of_service(&mut lost, "a");
    let (steps, status) = deleted(&lost);
    assert_eq!((steps, status.unwrap().host_released.unwrap().reason), (vec![], "HostOutOfService"));
    let mut alive = hosts(&[("a", POOL)]);
    testing::out_of_service(&mut alive, "a");
    assert_eq!(deleted(&alive), (vec![], None), "a live executor answers for itself, whatever the taint");
}

#[test]
fn a_pod_that_the_api_server_refuses_is_told() {
    let mut view = view("", "");
    view.pod_pause = Some(("PodRefused", "exceeded quota".into()));
    let (steps, status) = outcome(&view);
    assert_eq!((steps, scheduled(&status).1, scheduled(&status).2.as_str()), (vec![], "PodRefused", "exceeded quota"));
}

#[test]
fn the_placement_pod_is_what_the_scheduler_and_the_node_need() {
    let spec = "cpu: {cores: 2}, terminationGracePeriodSeconds: 60, cloudInit: {userDataSecretName: s}, \
                placement: {nodeSelector: {disk: ssd}, priorityClassName: high, tolerations: [{key: t, operator: Exists}]}";
    let mut view = view(spec, "");
    Arc::make_mut(&mut view.vm).metadata.labels = Some(BTreeMap::from([("app".into(), "web".into())]));
    let actions = decide(&view);
    let Some(Action::CreatePod(pod)) = actions.first() else { panic!("{actions:?}") };
    let spec = serde_json::to_value(pod.spec.as_ref().unwrap()).unwrap();
    assert_eq!(
        spec["containers"][0]["resources"]["requests"],
        json!({"cpu": "200m", "memory": ((256 + 160) << 20).to_string()})
    );
    assert_eq!(spec["terminationGracePeriodSeconds"], 90);
    assert_eq!(spec["containers"][0]["lifecycle"]["preStop"]["sleep"]["seconds"], 75);
    assert_eq!(
        spec["volumes"],
        json!([{"name": "cloud-init-user-data", "secret": {"secretName": "s", "optional": true}}])
    );
    assert_eq!(spec["nodeSelector"], json!({"disk": "ssd"}));
    assert_eq!(spec["priorityClassName"], "high");
    let tolerated: Vec<&str> =
        spec["tolerations"].as_array().unwrap().iter().map(|t| t["key"].as_str().unwrap()).collect();
    assert_eq!(tolerated, ["t", "node.kubernetes.io/not-ready", "node.kubernetes.io/unreachable"]);
    assert_eq!((&spec["automountServiceAccountToken"], &spec["enableServiceLinks"]), (&json!(false), &json!(false)));
    assert_eq!(spec["securityContext"]["runAsNonRoot"], true);
    assert_eq!((pod.labels()["app"].as_str(), pod.labels()[kubevmm_api::LABEL_VM].as_str()), ("web", "web"));
    assert_eq!(pod.owner_references()[0].controller, Some(true));
}

#[test]
fn what_the_executor_has_taken_is_left_to_it() {
    let managed = |fields: &str| {
        let mut view = view(
            "",
            &placed(
                "printableStatus: Running, observedGeneration: 1, conditions: [{type: Ready, status: 'True', reason: Running, message: '', lastTransitionTime: \"2026-01-01T00:00:00Z\"}]",
            ),
        );
        let entry: VirtualMachine = yaml(&format!(
            "metadata: {{name: x, managedFields: [{{manager: kubevmm-executor, subresource: status, fieldsV1: {{'f:status': {fields}}}}}]}}\nspec: {{}}"
        ));
        Arc::make_mut(&mut view.vm).metadata.managed_fields = entry.metadata.managed_fields;
        let wanted = StatusWanted { node_name: Some("b".into()), ..StatusWanted::keep(&view.status()) };
        wanted.over(&view.vm, &Time(Timestamp::UNIX_EPOCH)).unwrap()
    };
    let fields = |leaves: &str| {
        format!(
            "{{'f:printableStatus': {{}}, 'f:observedGeneration': {{}}, 'f:conditions': {{'k:{{\"type\":\"Ready\"}}': {{{leaves}}}}}}}"
        )
    };
    let patch = managed(&fields("'f:status': {}, 'f:reason': {}, 'f:message': {}, 'f:lastTransitionTime': {}"));
    assert_eq!((patch.get("printableStatus"), &patch["conditions"]), (None, &json!([])));
    let patch = managed(&fields("'f:type': {}"));
    assert_eq!(patch["conditions"][0]["reason"], "Running", "its values were forced on it: they are ours");
    let patch = managed("{}");
    assert_eq!((&patch["printableStatus"], &patch["conditions"][0]["type"]), (&json!("Running"), &json!("Ready")));
}

#[test]
fn the_owned_part_of_a_disk_keeps_its_node_when_the_holder_goes() {
    let disk = disk("", &format!("{HELD}, volumeName: v, nodeName: a"));
    let view = view(DISK, "").disk(disk.clone()).deleting();
    let Action::WriteDisk { owned, .. } = &decide(&view)[0] else { panic!() };
    assert_eq!(owned, &Owned { used_by: None, ..Owned::of(&disk) });
}
