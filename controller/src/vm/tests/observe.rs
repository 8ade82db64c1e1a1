//! VMs that observe a domain.

use super::*;
use crate::vm::eviction::evicted;

const UUID: &str = "0a000000-0000-4000-8000-000000000001";
const OBSERVE: &str = "management: Observe, existingDomain: {nodeName: a, uuid: 0a000000-0000-4000-8000-000000000001}";

fn observed(meta: &str, status: &str) -> View {
    let mut view = view(OBSERVE, status);
    view.vm = Arc::new(yaml(&format!(
        "metadata: {{name: web, namespace: shop, uid: u, generation: 1, {meta}}}\nspec: {{{OBSERVE}}}\nstatus: {{{status}}}"
    )));
    view
}

fn written(actions: &[Action]) -> &StatusWanted {
    match actions {
        [Action::WriteStatus(wanted)] => wanted,
        other => panic!("{other:?}"),
    }
}

#[test]
fn it_is_where_its_domain_is_without_a_pod() {
    let actions = decide(&observed("", ""));
    let wanted = written(&actions);
    assert_eq!((wanted.node_name.as_deref(), &wanted.placement), (Some("a"), &None));
    assert_eq!(wanted.conditions.iter().map(|c| (c.kind, c.reason)).collect::<Vec<_>>(), [(SCHEDULED, "Observed")]);
    assert_eq!(wanted.shown, None, "the executor says how the domain is");
}

#[test]
fn a_host_that_is_not_there_or_does_not_answer_is_said() {
    let mut view = observed("", "");
    view.hosts = Arc::new(hosts(&[("b", POOL)]));
    let actions = decide(&view);
    let wanted = written(&actions);
    assert_eq!((wanted.node_name.as_deref(), wanted.conditions[0].reason), (None, "HostNotFound"));
    assert!(wanted.conditions[0].message.contains("spec.existingDomain.nodeName"));

    let mut lost = hosts(&[("a", POOL)]);
    lost.0.get_mut("a").unwrap().lease = Default::default();
    view.hosts = Arc::new(lost);
    let actions = decide(&view);
    let wanted = written(&actions);
    assert_eq!((wanted.node_name.as_deref(), wanted.conditions[0].reason), (Some("a"), "HostLost"));
}

#[test]
fn nothing_waits_for_its_deletion() {
    assert_eq!(decide(&observed(GONE, "")), []);
}

/// Of a VM that was managed before.
const OURS: &str = "finalizers: [kubevmm.io/cleanup]";
/// The executor has answered the spec of now.
const ANSWERED: &str = "managedFields: [{manager: kubevmm-executor, subresource: status, \
                        fieldsV1: {'f:status': {'f:observedGeneration': {}}}}]";
/// A running domain without our mark, as the executor says of the spec of now.
const UNMARKED: &str = "observedGeneration: 1, domain: {name: old, uuid: u, epoch: 0, state: Running}";

/// A VM that was managed, in the middle of its third placement: its pod is being evicted, and it holds a disk.
fn left(meta: &str, executor: &str) -> View {
    let pod_name = names::placement_pod("web", "u", 3);
    let status =
        format!("nodeName: a, placement: {{epoch: 3, podName: {pod_name}, podUID: pod-3, confirmed: a_1}}, {executor}");
    observed(meta, &status).disk(disk("", HELD)).pods(&[leaving(3, "a", 90)])
}

#[test]
fn one_that_was_managed_is_let_go_once_its_host_has_taken_the_mark_off() {
    let done = || left(&format!("{OURS}, {ANSWERED}"), UNMARKED);
    let (steps, status) = outcome(&done());
    assert_eq!(steps, Vec::<String>::new(), "the status first");
    assert_eq!(placement(&status), PlacementStatus { epoch: 3, ..Default::default() }, "the epoch is not forgotten");
    assert_eq!((scheduled(&status).1, status.unwrap().node_name.as_deref()), ("Observed", Some("a")));
    let cleared = |meta: &str| {
        let status = format!("nodeName: a, placement: {{epoch: 3}}, {UNMARKED}");
        observed(meta, &status).disk(disk("", HELD)).pods(&[leaving(3, "a", 90)])
    };
    let given_back = ["delete pod-3 at once", "disk data: used by nobody, node none", "finalizer off"];
    assert_eq!(outcome(&cleared(&format!("{OURS}, {ANSWERED}"))).0, given_back);
    let (steps, status) = outcome(&cleared(ANSWERED));
    assert_eq!(steps, given_back[..2], "also what was not seen when the finalizer went");
    assert_eq!((placement(&status).epoch, scheduled(&status).1), (3, "Observed"));
    let deleted = left(&format!("{GONE}, {OURS}, {ANSWERED}"), UNMARKED).pods(&[running(3, "a")]);
    assert_eq!(outcome(&deleted).0, given_back, "a VM that is deleted waits no longer");
}

#[test]
fn nothing_of_it_is_touched_while_the_mark_may_be_there() {
    let tells = |host: &str, uuid: &str| hosts(&[("a", POOL), ("b", POOL), (host, &marked(uuid, "u", CLUSTER, 0))]);
    let marked_by = |host: &str| tells(host, UUID);
    let none = || hosts(&[("a", POOL), ("b", POOL)]);
    let mut owing = none();
    owing.0.get_mut("a").unwrap().lease.renewed = false;
    let generation = UNMARKED.replace("state: Running", "state: Running, generation: 1");
    let earlier = UNMARKED.replace("observedGeneration: 1", "observedGeneration: 0");
    let says = "takes its mark off";
    let (by_hand, copy) = ("virsh metadata 0a000000-0000-4000-8000-000000000001 --uri", "virsh metadata 0c --uri");
    for (why, meta, status, hosts, reason, says) in [
        ("the host tells of it", ANSWERED, UNMARKED, marked_by("a"), "Releasing", says),
        ("the VM's status tells of it", ANSWERED, &generation, none(), "Releasing", says),
        ("the executor may be about to mark it", ANSWERED, &earlier, none(), "Releasing", says),
        ("the controller has said this", "", UNMARKED, none(), "Releasing", says),
        ("the host has yet to tell", ANSWERED, UNMARKED, owing, "Releasing", says),
        ("another host tells of it", ANSWERED, UNMARKED, marked_by("b"), "HeldElsewhere", by_hand),
        ("it has a copy with the mark", ANSWERED, UNMARKED, tells("a", "0c"), "HeldElsewhere", copy),
        ("another host has a copy", ANSWERED, UNMARKED, tells("b", "0c"), "HeldElsewhere", copy),
    ] {
        for gone in ["", GONE] {
            let view = left(format!("{gone}, {OURS}, {meta}").trim_start_matches(", "), status).on(hosts.clone());
            assert!(evicted(&view).is_none(), "its pod is nobody's to wait for");
            let (steps, status) = outcome(&view);
            assert_eq!((steps, scheduled(&status).1), (vec![], reason), "{why}");
            assert!(scheduled(&status).2.contains(says), "{}", scheduled(&status).2);
            let wanted = status.unwrap();
            assert_eq!((wanted.node_name.as_deref(), wanted.placement), (Some("a"), view.status().placement), "{why}");
            assert_eq!(wanted.shown, None, "the executor says how the domain is");
        }
    }
}

#[test]
fn a_lost_host_is_waited_for_until_a_person_gives_it_up() {
    let mut lost = hosts(&[("a", &marked(UUID, "u", CLUSTER, 0)), ("b", POOL)]);
    testing::lose(&mut lost, "a");
    let deleted = |hosts: &Hosts| outcome(&left(&format!("{GONE}, {OURS}"), "").on(hosts.clone()));
    let (steps, status) = deleted(&lost);
    assert_eq!((steps, scheduled(&status).0, scheduled(&status).1), (vec![], None, "HostLost"));
    let shown = status.unwrap().shown.unwrap();
    assert_eq!((shown.printable, shown.ready.status, shown.ready.reason), ("Unknown", None, "HostLost"));
    assert!(shown.ready.message.contains("node.kubernetes.io/out-of-service"), "{}", shown.ready.message);
    testing::out_of_service(&mut lost, "a");
    assert_eq!(deleted(&lost).0.last().map(String::as_str), Some("finalizer off"));
}

#[test]
fn one_that_no_executor_has_heard_of_is_let_go_at_once() {
    assert_eq!(outcome(&observed(OURS, "")).0, ["finalizer off"]);
    assert_eq!(outcome(&observed(&format!("{GONE}, {OURS}"), "").on(hosts(&[]))).0, ["finalizer off"]);
    let forgotten = hosts(&[("a", &marked(UUID, "u", CLUSTER, 0))]);
    let (steps, status) = outcome(&observed(OURS, "").on(forgotten));
    assert_eq!((steps, scheduled(&status).1), (vec![], "Releasing"), "an etcd that was restored may have forgotten it");
    assert_eq!(status.unwrap().node_name.as_deref(), Some("a"), "its executor is to see it");
}

#[test]
fn a_placement_that_was_being_given_up_does_not_stop_it_later() {
    let status = format!("nodeName: a, placement: {{epoch: 3, release: Stop}}, {UNMARKED}");
    let (_, status) = outcome(&observed(&format!("{OURS}, {ANSWERED}"), &status));
    assert_eq!(placement(&status), PlacementStatus { epoch: 3, ..Default::default() });
}

#[test]
fn the_state_of_its_disks_is_not_told_any_longer() {
    let told = format!(
        "nodeName: a, {UNMARKED}, conditions: [{{type: DisksReady, status: 'True', reason: DisksReady, message: '', \
         lastTransitionTime: \"2026-01-01T00:00:00Z\"}}]"
    );
    let view = observed("", &told);
    let patch = outcome(&view).1.unwrap().over(&view.vm, &Time(Timestamp::UNIX_EPOCH)).unwrap();
    let kinds: Vec<&str> =
        patch["conditions"].as_array().unwrap().iter().map(|c| c["type"].as_str().unwrap()).collect();
    assert_eq!(kinds, [SCHEDULED]);
}
