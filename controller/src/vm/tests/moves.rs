//! Evictions, hand-over, lost hosts and deletion.

use super::*;
use crate::vm::eviction::evicted;

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
    let copied = hosts(&[("a", POOL), ("b", &marked("copy", "u", CLUSTER, 5))]);
    let (_, status) = outcome(&view("firmware: {uuid: COPY}", &placed("")).on(copied.clone()));
    assert_eq!(status.unwrap().node_name.as_deref(), Some("b"), "its own UUID, whoever chose it");
    let (_, status) = outcome(&view("", &placed("")).pods(&[running(1, "a")]).on(copied));
    assert_eq!(status.clone().unwrap().node_name.as_deref(), Some("a"), "a copy is nothing to follow");
    assert!(scheduled(&status).2.contains("virsh metadata copy --uri"), "{}", scheduled(&status).2);
}

#[test]
fn an_older_domain_elsewhere_only_blocks_the_start() {
    let both = hosts(&[("a", POOL), ("b", &domain("u", CLUSTER, 1))]);
    let status = placed("").replace("confirmed: a_1", "confirmed: a_0");
    let (_, status) = outcome(&view("", &status).pods(&[running(1, "a")]).on(both));
    assert_eq!((scheduled(&status).1, placement(&status).confirmed), ("HeldElsewhere", None));
}

const MIGRATED: &str = "domain: {name: shop.web, uuid: u, epoch: 1, state: Shutoff}";

/// Somebody has migrated the domain from a to b.
fn migrated() -> Hosts {
    hosts(&[("a", POOL), ("b", &domain("u", CLUSTER, 1))])
}

#[test]
fn the_word_to_start_is_taken_back_when_somebody_has_migrated_the_domain() {
    let cases = [("it is off", MIGRATED), ("it is not defined any more", "")];
    for (why, ended) in cases {
        let (steps, status) = outcome(&view("", &placed(ended)).pods(&[running(1, "a")]).on(migrated()));
        assert_eq!(steps, Vec::<String>::new(), "{why}");
        let kept = PlacementStatus {
            epoch: 1,
            pod_name: Some(names::placement_pod("web", "u", 1)),
            pod_uid: Some("pod-1".into()),
            ..Default::default()
        };
        assert_eq!((placement(&status), status.clone().unwrap().node_name.as_deref()), (kept, Some("a")), "{why}");
        let (holds, reason, message) = scheduled(&status);
        assert_eq!((holds, reason), (Some(false), "HeldElsewhere"), "{why}");
        for word in ["host b has the domain shop.web", "Bring it to a", "virsh destroy u; virsh undefine u"] {
            assert!(message.contains(word), "{message}");
        }
    }
}

#[test]
fn it_is_taken_back_whatever_else_is_to_be_done_for_the_vm() {
    let unready = pod(1, "nodeName: a", "phase: Pending");
    for (pods, reason) in [
        (vec![], "HeldElsewhere"),
        (vec![unready], "HeldElsewhere"),
        (vec![leaving(1, "a", 90)], "Moving"),
        (vec![pod(1, "nodeName: a", "phase: Failed, message: OutOfmemory")], "PodFailed"),
    ] {
        let (_, status) = outcome(&view("", &placed(MIGRATED)).pods(&pods).on(migrated()));
        assert_eq!((placement(&status).confirmed, scheduled(&status).1), (None, reason));
    }
    let mut silent = migrated();
    testing::lose(&mut silent, "a");
    let (_, status) = outcome(&view("", &placed(MIGRATED)).pods(&[running(1, "a")]).on(silent));
    assert_eq!((placement(&status).confirmed, scheduled(&status).1), (None, "HostLost"), "it may come back as it was");
    let (_, status) = outcome(&view("runStrategy: Halted", &placed(MIGRATED)).pods(&[running(1, "a")]).on(migrated()));
    assert_eq!((placement(&status).confirmed, scheduled(&status).1), (None, "HeldElsewhere"), "it is not off");
}

#[test]
fn it_is_taken_back_for_an_orphan_that_turns_up() {
    let orphan = hosts(&[("a", POOL), ("b", &domain("older", CLUSTER, 7))]);
    let (_, status) = outcome(&view("", &placed(MIGRATED)).pods(&[running(1, "a")]).on(orphan));
    assert_eq!((placement(&status).confirmed, scheduled(&status).1), (None, "OrphanFound"));
}

#[test]
fn a_copy_on_its_own_host_does_not_keep_a_vm_off() {
    let copied = hosts(&[("a", &marked("copy", "u", CLUSTER, 1)), ("b", POOL)]);
    let (_, status) = outcome(&view("", &placed(MIGRATED)).pods(&[running(1, "a")]).on(copied));
    assert_eq!((placement(&status).confirmed.as_deref(), scheduled(&status).1), (Some("a_1"), "Placed"));
}

#[test]
fn a_vm_that_runs_keeps_the_word_while_somebody_migrates_its_domain() {
    let (steps, status) = outcome(&view("", &placed(ACTIVE)).pods(&[running(1, "a")]).on(migrated()));
    assert_eq!((steps, placement(&status).confirmed.as_deref()), (vec![], Some("a_1")));
    assert_eq!(scheduled(&status).1, "Placed");
}

#[test]
fn the_word_comes_anew_once_no_other_host_has_the_domain() {
    let waiting = |ended: &str| placed(ended).replace(", confirmed: a_1", "");
    let confirmed = |ended: &str, hosts: Hosts| {
        let (_, status) = outcome(&view("", &waiting(ended)).pods(&[running(1, "a")]).on(hosts));
        (placement(&status).confirmed, scheduled(&status).1)
    };
    let here = hosts(&[("a", &domain("u", CLUSTER, 1)), ("b", POOL)]);
    assert_eq!(confirmed(MIGRATED, migrated()), (None, "HeldElsewhere"));
    assert_eq!(confirmed(MIGRATED, here.clone()), (Some("a_1".into()), "Placed"), "it was removed on b");
    assert_eq!(confirmed(ACTIVE, here), (Some("a_1".into()), "Placed"), "it was brought back");
    assert_eq!(confirmed(ACTIVE, migrated()), (None, "Placed"), "not while it may be on its way to b");
}

#[test]
fn a_host_that_has_given_the_vm_up_is_waited_for_until_it_tells_so() {
    let given = "nodeName: a, placement: {epoch: 1, release: Stop}, releasedEpoch: 1";
    let told = hosts(&[("a", &domain("u", CLUSTER, 1)), ("b", POOL)]);
    let (steps, status) = outcome(&view("", given).pods(&[running(2, "b")]).on(told));
    let (holds, reason, message) = scheduled(&status);
    assert_eq!((steps, holds, reason), (vec![], Some(false), "Moving"));
    assert!(message.contains("virsh undefine u"), "{message}");
    assert_eq!(status.unwrap().node_name.as_deref(), Some("a"));
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
fn a_namespace_that_is_deleted_stops_its_vms_and_does_not_wait_for_their_pods() {
    let ending = |status: &str, pod: Arc<Pod>| {
        let mut view = view(DISK, status).disk(disk("", HELD)).pods(&[pod]);
        view.namespace_ends = true;
        outcome(&view)
    };
    let (steps, status) = ending(&placed(ACTIVE), leaving(1, "a", 90));
    assert_eq!((steps, placement(&status).release), (vec![], Release::Stop), "the guest has its time");
    assert_eq!((scheduled(&status).0, scheduled(&status).1), (Some(false), "NamespaceTerminating"));
    let stopping = placed(ACTIVE).replace("confirmed: a_1", "confirmed: a_1, release: Stop");
    assert_eq!(ending(&stopping, leaving(1, "a", 90)).0, Vec::<String>::new());
    let off = placed("releasedEpoch: 1").replace("confirmed: a_1", "confirmed: a_1, release: Stop");
    assert_eq!(ending(&off, leaving(1, "a", 90)).0, ["delete pod-1 at once"]);
    assert_eq!(ending("", leaving(1, "a", 90)).0, ["delete pod-1 at once"], "nothing was placed on it yet");
}

#[test]
fn the_namespace_is_asked_about_only_when_somebody_deletes_the_pod() {
    let asked = |status: &str, pod: Arc<Pod>| evicted(&view("", status).pods(&[pod])).is_some();
    assert!(asked(&placed(ACTIVE), leaving(1, "a", 90)));
    assert!(!asked(&placed(ACTIVE), running(1, "a")));
    assert!(!asked("", leaving(1, "a", 90)), "nothing is placed");
    let moving = placed(ACTIVE).replace("confirmed: a_1", "release: Stop");
    assert!(!asked(&moving, leaving(1, "a", 90)), "it leaves anyway");
    assert!(evicted(&view("", &placed(ACTIVE)).pods(&[leaving(1, "a", 90)]).deleting()).is_none());
}

#[test]
fn a_pod_that_somebody_deleted_goes_as_soon_as_nothing_runs() {
    let halted = |pod: Arc<Pod>| outcome(&view("runStrategy: Halted", &placed("")).pods(&[pod])).0;
    assert_eq!(halted(running(1, "a")), ["delete pod-1"]);
    assert_eq!(halted(leaving(1, "a", 90)), ["delete pod-1 at once"]);
    assert_eq!(halted(leaving(1, "a", 1)), Vec::<String>::new(), "our own deletion is under way");
    let active = outcome(&view("runStrategy: Halted", &placed(ACTIVE)).pods(&[leaving(1, "a", 90)])).0;
    assert_eq!(active, Vec::<String>::new(), "the guest has its time");
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
    let all = ["delete pod-1 at once", "disk data: used by nobody, node none", "finalizer off"];
    assert_eq!(outcome(&held(&released)).0, all);
    assert_eq!(outcome(&held("")).0, all, "never placed: straight away");
    let none = "nodeName: a, placement: {epoch: 1, release: Stop}, releasedEpoch: 1";
    assert_eq!(outcome(&held(none)).0, all, "between two hosts");
}

#[test]
fn a_deleted_vm_waits_for_every_host_that_may_have_its_domain() {
    let released = |reason: &str| {
        placed(&format!(
            "conditions: [{{type: HostReleased, status: 'True', reason: {reason}, message: '', lastTransitionTime: \"2026-01-01T00:00:00Z\"}}]"
        ))
    };
    let steps = |status: &str, hosts: &Hosts| outcome(&view("", status).on(hosts.clone()).deleting()).0;
    let none = Vec::<String>::new();
    let older = hosts(&[("a", POOL), ("b", &domain("u", CLUSTER, 1))]);
    assert_eq!(steps(&released("Released"), &older), none, "b has it too");
    assert_eq!(steps(&released("HostOutOfService"), &older), ["finalizer off"]);
    let own = hosts(&[("a", &domain("u", CLUSTER, 1)), ("b", POOL)]);
    assert_eq!(steps(&released("Released"), &own), ["finalizer off"], "the report of its own host is the older word");
    for host in ["a", "b"] {
        let copied = hosts(&[("a", POOL), ("b", POOL), (host, &marked("copy", "u", CLUSTER, 1))]);
        assert_eq!(steps(&released("Released"), &copied), none, "a copy of it may use its disks");
    }
    let mut owing = hosts(&[("a", POOL), ("b", POOL)]);
    owing.0.get_mut("b").unwrap().lease.renewed = false;
    assert_eq!(steps(&released("Released"), &owing), none);
    assert_eq!(steps("", &owing), none, "an etcd that was restored may have forgotten the placement");
    owing.0.get_mut("b").unwrap().lease.renewed = true;
    assert_eq!(steps("", &owing), ["finalizer off"]);
}

#[test]
fn a_deleted_vm_that_waits_says_for_whom_and_what_to_do() {
    let said = |hosts: Hosts| {
        let status = outcome(&view("", "").on(hosts).deleting()).1.unwrap();
        let [scheduled] = status.conditions.as_slice() else { panic!("{status:?}") };
        (scheduled.kind, scheduled.status, scheduled.reason, scheduled.message.clone())
    };
    // The same epoch as the object's, or a lower one: it is not taken over.
    let held = hosts(&[("a", POOL), ("b", &domain("u", CLUSTER, 0))]);
    let (kind, status, reason, message) = said(held);
    assert_eq!((kind, status, reason), (SCHEDULED, Some(false), "HeldElsewhere"));
    for word in ["host b", "shop.web", "virsh destroy u; virsh undefine u"] {
        assert!(message.contains(word), "{message}");
    }
    let (.., reason, message) = said(hosts(&[("a", &marked("copy", "u", CLUSTER, 0)), ("b", POOL)]));
    assert_eq!(reason, "HeldElsewhere");
    for word in ["host a", "shop.web", "a copy of", "virsh metadata copy --uri", "virsh undefine copy"] {
        assert!(message.contains(word), "{message}");
    }
    let mut owing = hosts(&[("a", POOL), ("b", POOL)]);
    owing.0.get_mut("b").unwrap().lease.renewed = false;
    let (_, _, reason, message) = said(owing);
    assert_eq!((reason, message.ends_with(": b")), ("HostsNotReported", true), "{message}");
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
