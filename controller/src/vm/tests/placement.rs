//! From nothing to a host that may start the VM, and off again.

use k8s_openapi::api::core::v1::PodStatus;
use kubevmm_api::requirements::{REQUIREMENTS, Requirements};
use kubevmm_api::{Quantity, overhead};

use super::*;
use crate::vm::pod::{Target, build, is_placement_pod};

#[test]
fn the_finalizer_comes_first() {
    let mut view = view("", "");
    Arc::make_mut(&mut view.vm).metadata.finalizers = None;
    assert_eq!(decide(&view), [Action::AddFinalizer]);
    assert_eq!(decide(&view.deleting()), [], "what is not ours is let go");
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
    let waits = ["create pod 1 for "].as_slice();
    for (view, made, reason, says) in [
        (with_disk().on(Hosts::default()), waits, "NoHypervisor", "no executor runs on any node"),
        (with_disk().on(hosts(&[("a", "")])), waits, "NoHostWithPool", "a: it does not have the pool fast"),
        (view(DISK, "").disk(pinned).on(lost), &["create pod 1 for a"], "DataOnLostHost", "lies on the host a"),
        (view("className: big", ""), &[], "ClassNotFound", "VirtualMachineClass big"),
        (view("networks: [{name: lan}]", ""), &[], "NoDefaultNetwork", "spec.networks[lan].network"),
        (
            view("networks: [{name: lan, network: {name: nat}}]", ""),
            &[],
            "NetworkNotFound",
            "VirtualMachineNetwork nat",
        ),
    ] {
        let (steps, status) = outcome(&view);
        assert_eq!(steps, made, "{reason}");
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

const UNSCHEDULABLE: &str = "phase: Pending, conditions: [{type: PodScheduled, status: 'False', reason: Unschedulable, \
                             message: 0/2 nodes}]";

#[test]
fn the_schedulers_word_is_repeated_and_a_pod_that_would_differ_is_made_anew() {
    let (steps, status) = outcome(&view("", "").pods(&[pod(1, "", UNSCHEDULABLE)]));
    assert_eq!((scheduled(&status).1, scheduled(&status).2.as_str()), ("Unschedulable", "0/2 nodes"));
    assert_eq!(steps, ["delete pod-1"], "it has no hash of the wanted spec");
    let mut silent = hosts(&[("a", ""), ("b", "")]);
    testing::lose(&mut silent, "b");
    let message = scheduled(&outcome(&view("", "").on(silent).pods(&[pod(1, "", UNSCHEDULABLE)])).1).2;
    assert_eq!(message, "0/2 nodes; b: its executor does not answer: bring the host back");
    let (steps, _) = outcome(&view("", "").pods(&[pod(1, "", "phase: Pending")]));
    assert_eq!(steps, Vec::<String>::new(), "the scheduler is at it");
}

#[test]
fn the_scheduler_looks_again_when_other_hosts_can_take_the_vm() {
    let waiting = |told: &str| {
        let mut pod = build(&view("", ""), 1, Target::Any).unwrap();
        pod.metadata.uid = Some("pod-1".into());
        pod.metadata.annotations.as_mut().unwrap().insert(HOSTS.into(), told.into());
        pod.status = self::pod(1, "", UNSCHEDULABLE).status.clone();
        outcome(&view("", "").pods(&[Arc::new(pod)]))
    };
    assert_eq!(waiting("a b").0, Vec::<String>::new());
    let (steps, status) = waiting("a");
    assert_eq!((steps, scheduled(&status).1), (vec!["tell pod-1 of a b".to_owned()], "Unschedulable"));
}

#[test]
fn where_the_vm_runs_its_pod_asks_no_host() {
    let scheduler = |status: &str| {
        let actions = decide(&view("", &placed(status)));
        let Some(Action::CreatePod(pod)) = actions.first() else { panic!("{actions:?}") };
        assert_eq!(nodes_of(pod), ["a"]);
        pod.spec.as_ref().unwrap().scheduler_name.clone()
    };
    assert_eq!(scheduler(ACTIVE), None, "it stands for what runs");
    assert_eq!(scheduler("").as_deref(), Some("kubevmm-scheduler"), "the host may be in maintenance by now");
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
    let mut taken = view(DISK, "").disk(disk("", HELD)).pods(&[running(1, "a")]);
    taken.taken_by = Some("shop/old".into());
    let (steps, status) = outcome(&taken);
    assert_eq!((steps, scheduled(&status).1), (vec![], "MemoryNotFree"));
    assert_eq!(status.unwrap().node_name, None);
}

#[test]
fn a_pod_on_a_host_that_can_no_longer_take_the_vm_gives_way_to_another() {
    let mut dead = hosts(&[("a", POOL), ("b", POOL)]);
    testing::lose(&mut dead, "a");
    let starting = pod(1, "nodeName: a", "phase: Pending");
    let pinned = disk("", &format!("{HELD}, volumeName: v, nodeName: b"));
    for (disk, hosts, pod) in [
        (disk("", HELD), dead.clone(), running(1, "a")),
        (disk("", HELD), dead.clone(), starting),
        (disk("", HELD), dead.clone(), leaving(1, "a", 1)),
        (disk("", HELD), hosts(&[("a", ""), ("b", POOL)]), running(1, "a")),
        (pinned, hosts(&[("a", POOL), ("b", POOL)]), running(1, "a")),
    ] {
        let view = view(DISK, "").disk(disk).on(hosts).pods(&[pod]);
        let (steps, status) = outcome(&view);
        assert_eq!(
            (steps, scheduled(&status).1),
            (vec!["delete pod-1 at once, which failed".to_owned()], "Scheduling")
        );
        assert_eq!(status.unwrap().node_name, None);
    }
    let mut silent = hosts(&[("a", ""), ("b", POOL)]);
    silent.0.get_mut("a").unwrap().lease.renewed = false;
    let (steps, status) = outcome(&view(DISK, "").disk(disk("", HELD)).on(silent).pods(&[running(1, "a")]));
    assert_eq!((steps, scheduled(&status).1), (vec![], "HostsNotReported"), "it may well have the pool by now");
    testing::lose(&mut dead, "b");
    let none = view("", "").on(dead).pods(&[running(1, "a")]);
    assert!(decide(&none).iter().any(|action| matches!(action, Action::DeletePod { grace: 0, .. })));
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
fn a_new_session_is_confirmed_while_the_domain_is_off() {
    let old = |more: &str| placed(more).replace("confirmed: a_1", "confirmed: a_0");
    let (steps, status) = outcome(&view("", &old("")).pods(&[running(1, "a")]));
    assert_eq!((steps, placement(&status).confirmed.as_deref()), (vec![], Some("a_1")));
    let (steps, status) = outcome(&view("", &old(ACTIVE)).pods(&[running(1, "a")]));
    assert_eq!((steps, placement(&status).confirmed.as_deref()), (vec![], Some("a_0")), "it runs: nothing to start");
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
fn a_manual_vm_keeps_its_placement_while_its_domain_runs() {
    let manual = |status: &str| outcome(&view("runStrategy: Manual", &placed(status)).pods(&[running(1, "a")]));
    let (steps, status) = manual(ACTIVE);
    assert_eq!((steps, scheduled(&status).1, placement(&status).pod_uid.as_deref()), (vec![], "Placed", Some("pod-1")));
    assert_eq!(manual("").0, ["delete pod-1"]);
}

#[test]
fn a_vm_that_starts_again_prefers_its_host_and_gets_a_new_epoch() {
    let off = "nodeName: a, placement: {epoch: 1}";
    let actions = decide(&view("", off));
    let Some(Action::CreatePod(pod)) = actions.first() else { panic!("{actions:?}") };
    assert_eq!(pod.spec.as_ref().unwrap().affinity, None, "it may go elsewhere");
    let needs = Requirements::parse(&pod.annotations()[REQUIREMENTS]).unwrap();
    assert_eq!(needs.last_node.as_deref(), Some("a"));
    assert_eq!(epoch_of(pod), "2");
}

/// The pod of this epoch for a VM without wishes, where `spec` and `status` put it.
fn made(epoch: i64, node: Option<&str>, phase: &str) -> Arc<Pod> {
    let mut made = build(&view("", ""), epoch, Target::Back("a")).unwrap();
    made.metadata.uid = Some(format!("pod-{epoch}"));
    made.spec.as_mut().unwrap().node_name = node.map(Into::into);
    made.status = Some(PodStatus { phase: Some(phase.into()), ..Default::default() });
    Arc::new(made)
}

const OTHER_WISHES: [&str; 3] =
    ["cpu: {request: '2'}", "placement: {nodeSelector: {disk: ssd}}", "cloudInit: {userDataSecretName: s}"];

#[test]
fn a_vm_that_asks_for_something_else_is_placed_anew_at_its_next_start() {
    let pod = made(1, Some("a"), "Running");
    let decided = |spec: &str, status: &str| outcome(&view(spec, &placed(status)).pods(&[Arc::clone(&pod)]));
    for grace in ["", "terminationGracePeriodSeconds: 5"] {
        let (steps, status) = decided(grace, ACTIVE);
        assert_eq!(
            (steps, placement(&status).confirmed.as_deref()),
            (vec![], Some("a_1")),
            "the pod is what it asks for"
        );
    }
    for asked in OTHER_WISHES {
        let (steps, status) = decided(asked, ACTIVE);
        let while_on = placement(&status);
        assert_eq!((steps, while_on.confirmed), (vec![], None), "{asked}: it runs on, and starts by another word");
        assert_eq!((while_on.epoch, while_on.pod_uid.as_deref()), (1, Some("pod-1")));
        let (steps, status) = decided(asked, "");
        assert_eq!(steps, ["delete pod-1"], "{asked}");
        let when_off = placement(&status);
        assert_eq!((when_off.epoch, when_off.pod_name, when_off.confirmed), (1, None, None));
    }
}

#[test]
fn the_word_to_start_is_taken_back_wherever_the_outdated_pod_is() {
    let leaving = {
        let mut pod = made(1, Some("a"), "Running");
        Arc::make_mut(&mut pod).metadata.deletion_timestamp = Some(Time(Timestamp::UNIX_EPOCH));
        pod
    };
    for pod in [made(1, None, "Pending"), made(1, Some("a"), "Pending"), leaving] {
        let (_, status) = outcome(&view(OTHER_WISHES[0], &placed(ACTIVE)).pods(&[Arc::clone(&pod)]));
        assert_eq!(placement(&status).confirmed, None, "{:?}", pod.spec);
    }
    let (steps, status) = outcome(&view(OTHER_WISHES[0], &placed("")).pods(&[made(1, None, "Pending")]));
    assert_eq!((steps, placement(&status).pod_name), (vec!["delete pod-1".to_owned()], None), "nothing to wait for");
}

#[test]
fn nothing_is_placed_by_a_pod_that_is_outdated_already() {
    for phase in ["Pending", "Running"] {
        let (steps, status) = outcome(&view(OTHER_WISHES[1], "").pods(&[made(1, Some("a"), phase)]));
        assert_eq!((steps, status.unwrap().node_name), (vec!["delete pod-1".to_owned()], None), "{phase}");
    }
}

#[test]
fn our_own_deletion_of_a_pod_is_no_eviction() {
    // The host has started the VM by the last word, while its pod was given up.
    let status = format!("nodeName: a, placement: {{epoch: 1}}, {ACTIVE}");
    let (steps, written) = outcome(&view("", &status).pods(&[leaving(1, "a", 1)]));
    assert_eq!((steps, placement(&written).release, placement(&written).pod_name), (vec![], Release::None, None));
    let (_, written) = outcome(&view("", &status));
    assert_eq!(placement(&written).pod_name, Some(names::placement_pod("web", "u", 1)), "it gets its pod back");
}

#[test]
fn the_placement_pod_is_what_the_scheduler_and_the_node_need() {
    let spec = "cpu: {cores: 2}, terminationGracePeriodSeconds: 60, cloudInit: {userDataSecretName: s}, \
                placement: {nodeSelector: {disk: ssd}, priorityClassName: high, tolerations: [{key: t, operator: Exists}], \
                affinity: {podAntiAffinity: {requiredDuringSchedulingIgnoredDuringExecution: [{topologyKey: h}]}}, \
                topologySpreadConstraints: [{maxSkew: 1, topologyKey: h, whenUnsatisfiable: DoNotSchedule}]}";
    let mut view = view(spec, "");
    Arc::make_mut(&mut view.vm).metadata.labels = Some(BTreeMap::from([("app".into(), "web".into())]));
    let actions = decide(&view);
    let Some(Action::CreatePod(pod)) = actions.first() else { panic!("{actions:?}") };
    let spec = serde_json::to_value(pod.spec.as_ref().unwrap()).unwrap();
    let memory = (256 << 20) + overhead::bytes(256 << 20, 2);
    let size = Quantity::from_bytes(memory);
    assert_eq!(
        spec["containers"][0]["resources"],
        json!({"requests": {"cpu": "200m", "memory": size}, "limits": {"cpu": "2000m", "memory": size}})
    );
    let needs = Requirements::parse(&pod.annotations()[REQUIREMENTS]).unwrap();
    assert_eq!((needs.vcpus, needs.memory), (2, memory));
    let alone = &spec["affinity"]["podAntiAffinity"]["requiredDuringSchedulingIgnoredDuringExecution"];
    assert_eq!(alone[0]["topologyKey"], "h");
    assert_eq!(spec["topologySpreadConstraints"][0]["whenUnsatisfiable"], "DoNotSchedule");
    assert_eq!(spec["terminationGracePeriodSeconds"], 90);
    assert_eq!(spec["containers"][0]["lifecycle"]["preStop"]["sleep"]["seconds"], 75);
    assert_eq!(
        spec["volumes"],
        json!([{"name": "cloud-init-user-data", "secret": {"secretName": "s", "optional": true}}])
    );
    // Without it the kubelet does not bring the volume.
    assert_eq!(spec["containers"][0]["volumeMounts"][0]["name"], "cloud-init-user-data");
    assert_eq!(spec["nodeSelector"], json!({"disk": "ssd"}));
    assert_eq!(spec["priorityClassName"], "high");
    let tolerated: Vec<&str> =
        spec["tolerations"].as_array().unwrap().iter().map(|t| t["key"].as_str().unwrap()).collect();
    let own = ["node.kubernetes.io/not-ready", "node.kubernetes.io/unreachable", "kubevmm.io/external"];
    assert_eq!(tolerated, [&["t"], own.as_slice()].concat());
    assert_eq!((&spec["automountServiceAccountToken"], &spec["enableServiceLinks"]), (&json!(false), &json!(false)));
    assert_eq!(spec["securityContext"]["runAsNonRoot"], true);
    assert_eq!((pod.labels()["app"].as_str(), pod.labels()[kubevmm_api::LABEL_VM].as_str()), ("web", "web"));
    assert_eq!(pod.owner_references()[0].controller, Some(true));
}

#[test]
fn what_is_not_said_of_cpu_is_a_setting() {
    let requests = |spec: &str, millis: u64| {
        let mut view = view(spec, "");
        view.millis_per_vcpu = millis;
        let pod = build(&view, 1, Target::Any).unwrap();
        let resources = pod.spec.unwrap().containers.remove(0).resources.unwrap();
        [resources.requests, resources.limits].map(|list| list.unwrap()["cpu"].0.clone())
    };
    assert_eq!(requests("cpu: {cores: 4}", 250), ["1000m", "4000m"]);
    assert_eq!(requests("cpu: {cores: 4, request: 500m}", 250), ["500m", "4000m"], "the VM says it");
    assert_eq!(requests("cpu: {request: 2}", 250), ["2000m", "2000m"], "a limit is never below the request");
}

#[test]
fn only_a_pod_that_the_vm_controls_stands_for_it() {
    let actions = decide(&view("", ""));
    let Some(Action::CreatePod(pod)) = actions.first() else { panic!("{actions:?}") };
    assert!(is_placement_pod(pod, "shop", "u"));
    assert!(!is_placement_pod(pod, "other", "u"), "a namesake elsewhere");
    let mut forged = pod.as_ref().clone();
    forged.metadata.owner_references = None;
    assert!(!is_placement_pod(&forged, "shop", "u"), "labels are anybody's to give");
}
