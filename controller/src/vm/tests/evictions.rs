//! Who leaves its node when asked to, how, and who stays.

use super::*;
use crate::vm::eviction::{Verdict, verdict};
use crate::vm::{disks, pod as pods};
use crate::webhook::answer::{self, Deed, Outcome};
use crate::webhook::review::Answer;

const EVICTED: &str = "EvictionByEvictionAPI";
const PREEMPTED: &str = "PreemptionByScheduler";
const TAINTED: &str = "DeletionByTaintManager";
const TERMINATED: &str = "TerminationByKubelet";

/// As [`running`], with the condition that says why it is to go.
fn disrupted(reason: &str) -> Arc<Pod> {
    let conditions = format!("[{{type: DisruptionTarget, status: 'True', reason: {reason}}}]");
    pod(1, "nodeName: a", &format!("phase: Running, conditions: {conditions}"))
}

/// As [`running`], with the mark of the webhook.
fn asked() -> Arc<Pod> {
    let mut pod = running(1, "a");
    let mark = (kubevmm_api::EVICT.to_owned(), "admin wants h1 empty".to_owned());
    Arc::make_mut(&mut pod).metadata.annotations = Some([mark].into());
    pod
}

/// A VM with a disk, which runs on a.
fn with_disk(spec: &str) -> View {
    let comma = if spec.is_empty() { "" } else { ", " };
    let own = disk("", &format!("{HELD}, volumeName: v, nodeName: a"));
    view(&format!("{DISK}{comma}{spec}"), &placed(ACTIVE)).disk(own)
}

const SHUTDOWN: &str = "evictionStrategy: Shutdown";
const BLOCK: &str = "evictionStrategy: Block";

#[test]
fn who_leaves_and_who_stays() {
    let table = [
        ("", true, Release::Stop, "Moving"),
        ("", false, Release::None, "EvacuationBlocked"),
        (SHUTDOWN, true, Release::Stop, "Moving"),
        (SHUTDOWN, false, Release::Halt, "Evicted"),
        (BLOCK, true, Release::None, "EvacuationBlocked"),
        (BLOCK, false, Release::None, "EvacuationBlocked"),
    ];
    for (spec, shared, release, reason) in table {
        let vm = || if shared { with_disk(spec).shared() } else { with_disk(spec) };
        for pod in [disrupted(EVICTED), disrupted(TAINTED), disrupted(TERMINATED), leaving(1, "a", 90), asked()] {
            let forgets = release == Release::None && pods::phase(&pod) == pods::phase(&asked());
            let (steps, status) = outcome(&vm().pods(&[pod]));
            assert_eq!((placement(&status).release, scheduled(&status).1), (release, reason), "{spec} {shared}");
            let expected: &[&str] = if forgets { &["forget the eviction of pod-1"] } else { &[] };
            assert_eq!(steps, expected, "{spec} {shared}");
        }
    }
}

#[test]
fn a_vm_that_runs_with_state_of_its_host_stays_whatever_its_spec_says_by_now() {
    let effective = |domain: &str| {
        let plain = "cores: 1, memory: 256Mi, machine: q35, firmware: bios, uuid: u";
        format!("{}, effective: {{{plain}, domain: {{{domain}}}}}", placed(ACTIVE))
    };
    for (domain, release, reason) in [
        ("", Release::Stop, "Moving"),
        ("os: {firmware: efi}", Release::None, "EvacuationBlocked"),
        ("devices: {tpms: [{backend: {type: emulator}}]}", Release::None, "EvacuationBlocked"),
    ] {
        let (_, status) = outcome(&view("", &effective(domain)).pods(&[asked()]));
        let (_, why, message) = scheduled(&status);
        assert_eq!((placement(&status).release, why), (release, reason), "{domain}: {message}");
        assert_eq!(message.contains("the variables of its UEFI"), release == Release::None, "{message}");
    }
}

#[test]
fn a_preempted_vm_is_stopped_whatever_its_strategy() {
    for spec in ["", SHUTDOWN, BLOCK] {
        let preempted = || disrupted(PREEMPTED);
        let (_, status) = outcome(&with_disk(spec).shared().pods(&[preempted()]));
        assert_eq!(placement(&status).release, Release::Stop, "{spec}");
        let (_, status) = outcome(&with_disk(spec).pods(&[preempted()]));
        assert_eq!(placement(&status).release, Release::Halt, "{spec}");
    }
}

#[test]
fn who_stays_says_the_way_out() {
    let says = |view: View| match verdict(&view, &disks::decide(&view), false) {
        Verdict::Stay(why) => why,
        other => panic!("{other:?}"),
    };
    let local = says(with_disk(""));
    assert!(local.contains("the disks data lie in pools of this host alone"), "{local}");
    assert!(local.contains("set spec.evictionStrategy to Shutdown"), "{local}");
    let blocked = says(with_disk(BLOCK));
    assert!(blocked.contains("spec.evictionStrategy is Block"), "{blocked}");
}

#[test]
fn a_vm_that_has_left_gives_its_pod_up_and_is_placed_anew() {
    let moving = placed("").replace("confirmed: a_1", "confirmed: a_1, release: Stop");
    let (steps, status) = outcome(&view("", &format!("{moving} releasedEpoch: 1")).pods(&[asked()]));
    assert_eq!(steps, ["delete pod-1"]);
    assert_eq!(placement(&status), PlacementStatus { epoch: 1, release: Release::Stop, ..Default::default() });
    let next = "nodeName: a, placement: {epoch: 1, release: Stop}, releasedEpoch: 1";
    assert_eq!(outcome(&view("", next)).0, ["create pod 2 for a b"]);
}

/// A VM with local data that its host was asked to halt.
fn halting(more: &str) -> String {
    placed(more).replace("confirmed: a_1", "confirmed: a_1, release: Halt")
}

const OFF: &str = "domain: {name: shop.web, uuid: u, epoch: 1, state: Shutoff}, releasedEpoch: 1";

#[test]
fn a_halted_vm_waits_for_its_own_host() {
    let halt = |status: &str, pods: &[Arc<Pod>]| {
        let own = disk("", &format!("{HELD}, volumeName: v, nodeName: a"));
        outcome(&view(&format!("{DISK}, {SHUTDOWN}"), status).disk(own).pods(pods))
    };
    let (steps, status) = halt(&halting(ACTIVE), &[asked()]);
    assert_eq!((steps, scheduled(&status).1), (vec![], "Evicted"), "the guest has its time");
    let (steps, _) = halt(&halting(&format!("{ACTIVE}, releasedEpoch: 1")), &[asked()]);
    assert_eq!(steps, Vec::<String>::new(), "somebody has started it");
    let (steps, status) = halt(&halting(OFF), &[asked()]);
    assert_eq!(steps, ["delete pod-1"]);
    assert_eq!(placement(&status), PlacementStatus { epoch: 1, release: Release::Halt, ..Default::default() });
    let next = format!("nodeName: a, placement: {{epoch: 1, release: Halt}}, {OFF}");
    assert_eq!(halt(&next, &[]).0, ["create pod 2 for a"], "nowhere else");
    let (_, status) = halt(&next, &[running(2, "a")]);
    let again = placement(&status);
    assert_eq!((again.epoch, again.release, again.confirmed.as_deref()), (2, Release::None, Some("a_1")));
}

#[test]
fn a_halted_vm_that_may_move_by_now_is_given_up_first() {
    let on_b = |status: &str| outcome(&view("", status).pods(&[running(2, "b")])).1;
    let status = on_b(&format!("nodeName: a, placement: {{epoch: 1, release: Halt}}, {OFF}"));
    assert_eq!((placement(&status).epoch, placement(&status).release), (1, Release::Stop));
    // Its host has answered for this epoch, but has the domain still.
    let status = on_b(&format!("nodeName: a, placement: {{epoch: 1, release: Stop}}, {OFF}"));
    assert_eq!((placement(&status).epoch, status.unwrap().node_name.as_deref()), (1, Some("a")));
    let status = on_b("nodeName: a, placement: {epoch: 1, release: Stop}, releasedEpoch: 1");
    assert_eq!(status.unwrap().node_name.as_deref(), Some("b"));
}

/// The VM's pod, as its VM controls it.
fn controlled(mut pod: Arc<Pod>) -> Arc<Pod> {
    Arc::make_mut(&mut pod).metadata.owner_references =
        Some(vec![crate::object::controlled_by(view("", "").vm.as_ref(), false)]);
    pod
}

/// Whether the VM is asked to leave, and the words of the answer.
fn says(view: &View) -> (bool, String) {
    match answer::decide(view, &controlled(running(1, "a")), false) {
        Outcome { deed, answer: Answer::Later(why) | Answer::Blocked(why) } => (deed == Some(Deed::Evict), why),
        other => panic!("{other:?}"),
    }
}

#[test]
fn an_eviction_is_answered_before_the_vm_has_left() {
    let (evicts, why) = says(&with_disk("").shared());
    let expected =
        "VirtualMachine shop/web is being shut down to leave node a; kubectl drain tries again until it has left";
    assert_eq!((evicts, why.as_str()), (true, expected));
    let moving = placed(ACTIVE).replace("confirmed: a_1", "confirmed: a_1, release: Stop");
    assert_eq!(says(&view("", &moving)), (false, expected.into()), "it leaves already");
    let (evicts, why) = says(&with_disk(SHUTDOWN));
    let again = "to leave node a, and is started there again when the node takes VMs again; kubectl drain tries";
    assert!(evicts && why.contains(again), "{why}");
    let (evicts, why) = says(&with_disk(""));
    assert!(!evicts && why.contains("VirtualMachine shop/web stays on node a: the disks data lie"), "{why}");
    let (evicts, why) = says(&view("runStrategy: Halted", &placed(ACTIVE)));
    assert!(!evicts && why.contains("is being shut down"), "{why}");
    let (evicts, why) = says(&view("", &placed(ACTIVE)).deleting());
    assert!(!evicts && why.contains("is being deleted"), "{why}");
    let mut lost = hosts(&[("a", POOL), ("b", POOL)]);
    testing::lose(&mut lost, "a");
    let (evicts, why) = says(&view("", &placed(ACTIVE)).on(lost));
    assert!(!evicts && why.contains("whose executor does not answer"), "{why}");
}

#[test]
fn a_pod_that_nothing_runs_by_is_deleted() {
    let own = || controlled(running(1, "a"));
    let foreign = answer::decide(&view("", &placed(ACTIVE)), &running(1, "a"), false);
    assert_eq!(foreign, Outcome { deed: None, answer: Answer::Allow }, "it is evicted as any other");
    for (view, pod) in [
        (view("", ""), own()),
        (view("", &placed(ACTIVE)), controlled(running(2, "b"))),
        (view("runStrategy: Halted", &placed("")), own()),
    ] {
        let deleted = Outcome { deed: Some(Deed::Delete), answer: Answer::Allow };
        assert_eq!(answer::decide(&view, &pod, false), deleted);
        let tried = answer::decide(&view, &pod, true);
        assert!(matches!(tried, Outcome { deed: None, answer: Answer::Would(_) }), "{tried:?}");
    }
}

#[test]
fn a_dry_run_tells_what_would_be_and_asks_for_nothing() {
    let answer = |view: &View| answer::decide(view, &controlled(running(1, "a")), true);
    let would = |what: &str| Outcome {
        deed: None,
        answer: Answer::Would(format!("VirtualMachine shop/web would be shut down{what}")),
    };
    assert_eq!(answer(&with_disk("").shared()), would(" to leave node a"));
    let again = would(", and started on node a again when it takes VMs again");
    assert_eq!(answer(&with_disk(SHUTDOWN)), again);
    assert!(matches!(answer(&with_disk("")).answer, Answer::Blocked(_)));
}
