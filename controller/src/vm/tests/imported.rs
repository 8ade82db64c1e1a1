//! VMs that were imported and are managed: they stay on the host of their domain.

use super::*;

const UUID: &str = "0a000000-0000-4000-8000-000000000001";
/// The domain runs as it was taken over.
const TAKEN_OVER: &str =
    "domain: {name: old, uuid: 0a000000-0000-4000-8000-000000000001, epoch: 0, state: Running, generation: 1}";
/// It is off.
const OFF: &str =
    "domain: {name: old, uuid: 0a000000-0000-4000-8000-000000000001, epoch: 0, state: Shutoff, generation: 1}";

/// As [`view`], of the domain [`UUID`] of the host a.
fn imported(spec: &str, status: &str) -> View {
    view(&format!("existingDomain: {{nodeName: a, uuid: {UUID}}}, {spec}"), status)
}

#[test]
fn it_is_where_its_domain_is_before_any_placement() {
    for spec in ["", "runStrategy: Halted", "runStrategy: Manual", DISK] {
        let (_, status) = outcome(&imported(spec, ""));
        let wanted = status.unwrap();
        assert_eq!((wanted.node_name.as_deref(), wanted.placement), (Some("a"), None), "{spec}");
        assert_eq!(wanted.shown, None, "{spec}: the executor says how the domain is");
    }
}

#[test]
fn a_host_that_is_not_there_or_does_not_answer_is_said() {
    let said = |hosts: Hosts| {
        let (steps, status) = outcome(&imported("", "").on(hosts));
        assert_eq!(steps, Vec::<String>::new());
        let wanted = status.clone().unwrap();
        let shown = wanted.shown.unwrap();
        (wanted.node_name, scheduled(&status).1, shown.printable, shown.ready.reason)
    };
    assert_eq!(said(hosts(&[("b", POOL)])), (None, "HostNotFound", "Pending", "HostNotFound"));
    let mut lost = hosts(&[("a", POOL), ("b", POOL)]);
    testing::lose(&mut lost, "a");
    assert_eq!(said(lost), (Some("a".into()), "HostLost", "Unknown", "HostLost"));
}

#[test]
fn a_running_domain_gets_a_pod_on_its_own_host_and_nothing_else_happens_to_it() {
    for strategy in ["", "runStrategy: Manual"] {
        let status = format!("nodeName: a, {TAKEN_OVER}");
        let (steps, written) = outcome(&imported(strategy, &status));
        assert_eq!((steps, scheduled(&written).1), (vec!["create pod 1 for a".to_owned()], "Scheduling"), "{strategy}");
        let (steps, written) = outcome(&imported(strategy, &status).pods(&[running(1, "a")]));
        assert_eq!((steps, scheduled(&written).1), (vec![], "Placed"), "{strategy}");
        let placed = PlacementStatus {
            epoch: 1,
            pod_name: Some(names::placement_pod("web", "u", 1)),
            pod_uid: Some("pod-1".into()),
            confirmed: Some("a_1".into()),
            release: Release::None,
        };
        assert_eq!(placement(&written), placed, "{strategy}");
        assert_eq!(written.unwrap().shown, None, "{strategy}");
        let (steps, written) = outcome(&imported(strategy, &self::placed(TAKEN_OVER)).pods(&[running(1, "a")]));
        assert_eq!((steps, placement(&written)), (vec![], placed), "{strategy}: and stays so");
    }
}

#[test]
fn one_that_shall_be_off_gets_no_pod() {
    for strategy in ["runStrategy: Halted", "runStrategy: Manual"] {
        let (steps, status) = outcome(&imported(strategy, &format!("nodeName: a, {OFF}")));
        assert_eq!((steps, scheduled(&status).1), (vec![], "Off"), "{strategy}");
    }
}

#[test]
fn a_full_host_changes_nothing_of_what_runs() {
    let refused = "phase: Pending, conditions: [{type: PodScheduled, status: 'False', reason: Unschedulable, message: 0/2 nodes}]";
    let (_, status) = outcome(&imported("", &format!("nodeName: a, {TAKEN_OVER}")).pods(&[pod(1, "", refused)]));
    assert_eq!(scheduled(&status), (Some(false), "Unschedulable", "0/2 nodes".into()));
    let wanted = status.unwrap();
    assert_eq!((wanted.node_name.as_deref(), wanted.placement, wanted.shown), (Some("a"), None, None));
}

#[test]
fn one_that_was_managed_before_is_placed_at_the_next_epoch() {
    for marked in [TAKEN_OVER.to_owned(), TAKEN_OVER.replace("epoch: 0", "epoch: 3")] {
        let status = format!("nodeName: a, placement: {{epoch: 3}}, releasedEpoch: 3, {marked}");
        assert_eq!(outcome(&imported("", &status)).0, ["create pod 4 for a"]);
        let (_, written) = outcome(&imported("", &status).pods(&[running(4, "a")]));
        assert_eq!((placement(&written).epoch, placement(&written).confirmed.as_deref()), (4, Some("a_1")));
    }
}

#[test]
fn no_other_host_can_take_it() {
    let said = |view: View| {
        let (steps, status) = outcome(&view);
        assert_eq!(steps.len(), 1, "its pod waits: {steps:?}");
        let wanted = status.clone().unwrap();
        assert_eq!((wanted.node_name.as_deref(), wanted.shown), (Some("a"), None));
        (scheduled(&status).1, scheduled(&status).2)
    };
    let with_disk = || imported(DISK, "nodeName: a").disk(disk("", HELD));
    let stays = "the VM is an imported one, which stays on its host: a: ";
    let (reason, message) = said(with_disk().on(hosts(&[("a", ""), ("b", POOL)])));
    assert_eq!(reason, "NoHostWithPool");
    assert!(message.starts_with(&format!("{stays}it does not have the pool fast")), "{message}");
    let elsewhere = disk("", &format!("{HELD}, volumeName: v, nodeName: b"));
    let (reason, message) = said(imported(DISK, "nodeName: a").disk(elsewhere));
    assert_eq!((reason, message), ("DataElsewhere", format!("{stays}the volume of the disk data lies on b")));
    assert_eq!(outcome(&with_disk().shared()).0, ["create pod 1 for a"], "whoever else sees its disks");
    let (steps, status) = outcome(&imported("", "nodeName: a").pods(&[running(1, "b")]));
    assert_eq!(
        (steps, placement(&status).release),
        (vec!["delete pod-1 at once, which failed".to_owned()], Release::None)
    );
}

#[test]
fn no_eviction_moves_it() {
    let status = placed(TAKEN_OVER);
    let view = imported(DISK, &status).shared().disk(disk("", &format!("{HELD}, volumeName: v, nodeName: a")));
    let (steps, status) = outcome(&view.pods(&[leaving(1, "a", 90)]));
    assert_eq!((steps, placement(&status).release), (vec![], Release::None));
    let (holds, reason, message) = scheduled(&status);
    assert_eq!((holds, reason), (Some(true), "EvacuationBlocked"));
    assert!(message.contains("the VM stays on the host a: it is an imported one"), "{message}");
}

#[test]
fn its_own_domain_is_no_orphan_whoever_had_it_before() {
    for (uid, cluster) in [("older", CLUSTER), ("u", "another cluster"), ("u", CLUSTER)] {
        let own = marked(UUID, uid, cluster, if uid == "u" { 0 } else { 7 });
        let own = hosts(&[("a", &own), ("b", POOL)]);
        assert_eq!(outcome(&imported("", "nodeName: a").on(own.clone())).0, ["create pod 1 for a"]);
        let (_, status) = outcome(&imported("", "nodeName: a").on(own).pods(&[running(1, "a")]));
        assert_eq!((scheduled(&status).1, placement(&status).epoch), ("Placed", 1), "{uid} {cluster}");
    }
    let other = "0b000000-0000-4000-8000-000000000001";
    for (host, uuid) in [("a", other), ("b", UUID), ("b", other)] {
        let left = hosts(&[("a", POOL), ("b", POOL), (host, &marked(uuid, "older", CLUSTER, 7))]);
        assert_eq!(scheduled(&outcome(&imported("", "nodeName: a").on(left)).1).1, "OrphanFound", "{host} {uuid}");
    }
}

#[test]
fn what_another_host_has_of_it_blocks_and_is_not_followed() {
    for epoch in [0, 5] {
        let moved = hosts(&[("a", POOL), ("b", &marked(UUID, "u", CLUSTER, epoch))]);
        let (steps, status) = outcome(&imported("", "nodeName: a").on(moved.clone()).pods(&[running(1, "a")]));
        assert_eq!((steps, scheduled(&status).1), (vec![], "HeldElsewhere"));
        assert_eq!((status.clone().unwrap().node_name.as_deref(), placement(&status)), (Some("a"), Default::default()));
        let (_, status) = outcome(&imported("", "").on(moved.clone()).deleting());
        assert_eq!((scheduled(&status).1, status.unwrap().node_name), ("HeldElsewhere", None));
    }
    let newer = hosts(&[("a", &marked(UUID, "u", CLUSTER, 5)), ("b", POOL)]);
    assert_eq!(placement(&outcome(&imported("", "nodeName: a").on(newer)).1).epoch, 5, "that of its own host is");
}

#[test]
fn its_deletion_waits_for_the_executor_also_if_it_was_never_marked() {
    let (steps, status) = outcome(&imported("", "nodeName: a").deleting());
    assert_eq!((steps, status), (vec![], None));
    let released = "nodeName: a, conditions: [{type: HostReleased, status: 'True', reason: Released, message: '', \
                    lastTransitionTime: \"2026-01-01T00:00:00Z\"}]";
    assert_eq!(outcome(&imported("", released).deleting()).0, ["finalizer off"]);
}
