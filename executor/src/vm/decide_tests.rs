//! Tables: a VM as a user would write it, what libvirt has, and the step that follows.

use super::*;
use crate::libvirt::{ShutdownDetail, StoppedDetail};
use crate::vm::memory::{End, Stopping, Waiting};
use k8s_openapi::apimachinery::pkg::apis::meta::v1::Time;
use k8s_openapi::jiff::Timestamp;
use kubevmm_api::condition::Wanted;
use kubevmm_api::vm::StopReason;

const NODE: &str = "n1";
const SESSION: &str = "n1_s";

struct Case {
    vm: VirtualMachine,
    seen: Seen,
    memory: Memory,
    session: Option<&'static str>,
    after: Duration,
    reverts: bool,
    moved: Vec<String>,
    begin: Instant,
}

/// A VM with this spec, placed and confirmed here at epoch 2.
fn vm(spec: &str) -> Case {
    let yaml = format!(
        "{{metadata: {{name: web, namespace: shop, uid: u}}, spec: {spec}, status: {{nodeName: n1, placement: {{epoch: 2, podName: p, confirmed: n1_s}}}}}}"
    );
    Case {
        vm: serde_yaml_ng::from_str(&yaml).unwrap(),
        seen: Seen::Absent,
        memory: Memory::new(0),
        session: Some(SESSION),
        after: Duration::ZERO,
        reverts: false,
        moved: Vec::new(),
        begin: Instant::now(),
    }
}

fn always() -> Case {
    vm("{memory: {size: 1Gi}}")
}

impl Case {
    fn seen(mut self, state: DomainState) -> Self {
        self.seen = Seen::Ours(Found::of(2, 1, state));
        self
    }

    fn running(self) -> Self {
        self.seen(DomainState::Running)
    }

    fn epoch(mut self, epoch: i64) -> Self {
        if let Seen::Ours(found) = &mut self.seen {
            found.epoch = epoch;
        }
        self
    }

    fn status(mut self, change: impl FnOnce(&mut VirtualMachineStatus)) -> Self {
        change(self.vm.status.as_mut().unwrap());
        self
    }

    fn placement(self, change: impl FnOnce(&mut PlacementStatus)) -> Self {
        self.status(|status| change(status.placement.as_mut().unwrap()))
    }

    fn memory(mut self, change: impl FnOnce(&mut Memory, Instant)) -> Self {
        change(&mut self.memory, self.begin);
        self
    }

    fn asked_at(self, asked: u64) -> Self {
        self.memory(|memory, now| {
            memory.stopping = Some(Stopping { since: now, asked: now + Duration::from_secs(asked) });
        })
    }

    fn after(mut self, seconds: u64) -> Self {
        self.after = Duration::from_secs(seconds);
        self
    }

    fn deleting(mut self) -> Self {
        self.vm.metadata.deletion_timestamp = Some(Time(Timestamp::UNIX_EPOCH));
        self
    }

    fn step(&self) -> Step {
        next(&View {
            vm: &self.vm,
            status: self.vm.status.as_ref().unwrap(),
            node: NODE,
            session: self.session,
            seen: &self.seen,
            memory: &self.memory,
            reverts: self.reverts,
            moved: &self.moved,
            now: self.begin + self.after,
        })
    }

    fn phase(&self) -> Phase {
        match self.step() {
            Step::Rest(phase, _) => phase,
            step => panic!("rests not, but {step:?}"),
        }
    }

    fn wakes_after(&self) -> Option<u64> {
        match self.step() {
            Step::Rest(_, until) => until.map(|until| (until - self.begin).as_secs()),
            step => panic!("rests not, but {step:?}"),
        }
    }
}

#[test]
fn the_strategy_says_whether_it_runs() {
    assert_eq!(always().step(), Step::Start);
    assert_eq!(always().running().phase(), Phase::Running);
    assert_eq!(always().seen(DomainState::Paused).phase(), Phase::Paused);
    assert_eq!(always().seen(DomainState::Shutoff).step(), Step::Start);
    assert_eq!(vm("{runStrategy: Halted}").phase(), Phase::Stopped);
    assert_eq!(vm("{runStrategy: Halted}").running().step(), Step::AskGuest);
    assert_eq!(vm("{runStrategy: Manual}").phase(), Phase::Stopped);
    assert_eq!(vm("{runStrategy: Manual}").running().phase(), Phase::Running, "nothing is asked of it");
}

#[test]
fn nothing_starts_without_a_confirmed_placement() {
    assert_eq!(always().placement(|p| p.confirmed = None).phase(), Phase::Scheduling);
    assert_eq!(always().placement(|p| p.confirmed = Some("n1_old".into())).phase(), Phase::Scheduling);
    assert_eq!(always().placement(|p| p.pod_name = None).phase(), Phase::Scheduling);
    assert_eq!(always().memory(|m, _| m.released = 2).phase(), Phase::Scheduling);
    let mut no_session = always();
    no_session.session = None;
    assert_eq!(no_session.phase(), Phase::Scheduling);
    no_session.vm.status.as_mut().unwrap().placement.as_mut().unwrap().confirmed = None;
    assert_eq!(no_session.phase(), Phase::Scheduling, "no session confirms nothing");
}

#[test]
fn a_running_guest_needs_no_confirmation() {
    assert_eq!(always().running().placement(|p| p.confirmed = None).phase(), Phase::Running);
}

#[test]
fn what_is_not_ours_is_left_alone() {
    let mut taken = always();
    taken.seen = Seen::Foreign("a domain shop.web is there".into());
    assert!(matches!(taken.phase(), Phase::Waiting(NotYet { reason: "NameTaken", .. })));
    assert_eq!(taken.deleting().step(), Step::ReportGone);
    assert_eq!(always().status(|s| s.node_name = Some("n2".into())).running().step(), Step::Leave);
}

#[test]
fn a_domain_with_a_higher_epoch_is_not_overruled() {
    for case in [always(), vm("{runStrategy: Halted}"), always().deleting()] {
        assert_eq!(case.running().epoch(3).phase(), Phase::HeldElsewhere(3));
    }
    assert_eq!(always().running().epoch(1).phase(), Phase::Running, "a lower one is ours");
    assert_eq!(always().seen(DomainState::Shutoff).epoch(1).step(), Step::Start);
}

#[test]
fn nothing_is_done_while_libvirt_is_away() {
    for mut case in [always(), vm("{runStrategy: Halted}"), always().deleting()] {
        case.seen = Seen::Unreachable("gone".into());
        assert_eq!(case.phase(), Phase::Unreachable("gone".into()));
    }
}

#[test]
fn the_guest_has_its_grace_period() {
    let halted = || vm("{runStrategy: Halted, terminationGracePeriodSeconds: 25}").running();
    assert_eq!(halted().step(), Step::AskGuest);
    assert_eq!(halted().asked_at(0).phase(), Phase::Stopping);
    assert_eq!(halted().asked_at(0).wakes_after(), Some(10));
    assert_eq!(halted().asked_at(0).after(10).step(), Step::AskGuest, "a booting guest hears no button");
    assert_eq!(halted().asked_at(20).after(20).wakes_after(), Some(25));
    assert_eq!(halted().asked_at(20).after(25).step(), Step::Destroy);
    assert_eq!(vm("{runStrategy: Halted, terminationGracePeriodSeconds: 0}").running().step(), Step::Destroy);
}

#[test]
fn a_deleted_vm_leaves_nothing() {
    assert_eq!(always().deleting().running().step(), Step::AskGuest);
    assert_eq!(always().deleting().seen(DomainState::Shutoff).step(), Step::Undefine);
    assert_eq!(always().deleting().step(), Step::ReportGone);
    let released = Wanted::yes(HOST_RELEASED, "Released", "").over(&[], None, &Time(Timestamp::UNIX_EPOCH));
    assert_eq!(always().deleting().status(|s| s.conditions.push(released)).phase(), Phase::Gone);
}

#[test]
fn a_released_vm_is_stopped_undefined_and_reported() {
    let release = |case: Case| case.placement(|p| p.release = Release::Stop);
    assert_eq!(release(always().running()).step(), Step::AskGuest);
    assert_eq!(release(always().seen(DomainState::Shutoff)).step(), Step::Undefine);
    assert_eq!(release(always()).step(), Step::ReportReleased);
    assert_eq!(release(always()).status(|s| s.released_epoch = Some(1)).step(), Step::ReportReleased);
    assert_eq!(release(always()).status(|s| s.released_epoch = Some(2)).phase(), Phase::Released);
}

#[test]
fn a_halted_vm_is_stopped_and_stays_defined() {
    let halt = |case: Case| case.placement(|p| p.release = Release::Halt);
    let halted = |case: Case| halt(case).status(|s| s.released_epoch = Some(2));
    assert_eq!(halt(always().running()).step(), Step::AskGuest);
    assert_eq!(halt(always().seen(DomainState::Shutoff)).step(), Step::ReportHalted);
    assert_eq!(halt(always()).step(), Step::ReportHalted);
    assert_eq!(halt(always()).status(|s| s.released_epoch = Some(1)).step(), Step::ReportHalted);
    assert_eq!(halted(always().seen(DomainState::Shutoff)).phase(), Phase::Scheduling, "it is not started");
    assert_eq!(halted(always().running()).step(), Step::AskGuest, "whoever started it");
    let stop = vm("{runStrategy: Manual, powerRequest: {id: a, action: Stop}}").seen(DomainState::Shutoff);
    assert_eq!(halted(stop).step(), Step::Answer(PowerResult::AlreadyDone), "requests are answered");
}

#[test]
fn power_requests() {
    let manual = |action: &str| vm(&format!("{{runStrategy: Manual, powerRequest: {{id: a, action: {action}}}}}"));
    let done = |case: Case| case.memory(|m, _| m.acted_for = Some("a".into()));
    assert_eq!(manual("Start").step(), Step::Start);
    assert_eq!(done(manual("Start").running()).step(), Step::Answer(PowerResult::Completed));
    assert_eq!(manual("Start").running().step(), Step::Answer(PowerResult::AlreadyDone));
    assert_eq!(manual("Stop").running().step(), Step::AskGuest);
    assert_eq!(done(manual("Stop")).step(), Step::Answer(PowerResult::Completed));
    assert_eq!(manual("Stop").step(), Step::Answer(PowerResult::AlreadyDone));
    assert_eq!(manual("Restart").running().step(), Step::AskGuest);
    assert_eq!(manual("Restart").step(), Step::Answer(PowerResult::Completed), "answered before the start");
}

#[test]
fn power_requests_that_the_strategy_does_not_allow() {
    let case = |strategy: &str, action: &str| {
        vm(&format!("{{runStrategy: {strategy}, powerRequest: {{id: a, action: {action}}}}}"))
    };
    assert_eq!(case("Halted", "Start").step(), Step::Answer(PowerResult::Failed));
    assert_eq!(case("Always", "Stop").running().step(), Step::Answer(PowerResult::Failed));
    assert_eq!(case("Always", "Restart").running().step(), Step::AskGuest);
}

#[test]
fn force_does_not_wait() {
    let manual = |action: &str| {
        vm(&format!("{{runStrategy: Manual, powerRequest: {{id: a, action: {action}, force: true}}}}")).running()
    };
    assert_eq!(manual("Stop").step(), Step::Destroy);
    assert_eq!(manual("Restart").step(), Step::Destroy);
}

#[test]
fn a_failed_start_waits_and_a_failed_stop_too() {
    let trouble = || Some(Trouble { reason: "StartFailed", message: "no".into() });
    let failed = always().memory(|m, now| {
        m.starts.fail(now);
        m.trouble = trouble();
    });
    assert_eq!(failed.phase(), Phase::BackingOff(trouble()));
    assert_eq!(failed.wakes_after(), Some(1));
    assert_eq!(failed.after(1).step(), Step::Start);
    let stuck = vm("{runStrategy: Halted}").running().memory(|m, now| {
        m.retries.fail(now);
        m.trouble = trouble();
    });
    assert!(matches!(stuck.phase(), Phase::Failing(_)));
    assert_eq!(stuck.after(1).step(), Step::AskGuest);
}

#[test]
fn a_start_waits_for_what_is_missing() {
    let waits = |until: Option<u64>| {
        always().memory(|m, now| {
            let not_yet = NotYet::on_change("VolumeMissing", "gone");
            m.waiting = Some(Waiting { not_yet, until: until.map(|s| now + Duration::from_secs(s)) });
        })
    };
    assert!(matches!(waits(None).phase(), Phase::Waiting(_)));
    assert_eq!(waits(Some(4)).wakes_after(), Some(4));
    assert_eq!(waits(Some(4)).after(4).step(), Step::Start);
}

#[test]
fn events_tell_why_a_domain_ended() {
    use ShutdownDetail::{Finished, Guest, Host};
    use StoppedDetail::{Crashed, Destroyed, Failed, Saved, Shutdown};
    let end = |shutdown, stopped| End { shutdown, stopped, crashed: false };
    for (end, requested, reason) in [
        (end(Some(Guest), Some(Shutdown)), false, StopReason::GuestShutdown),
        (end(Some(Guest), None), false, StopReason::GuestShutdown),
        (end(Some(Host), Some(Shutdown)), false, StopReason::HostRequest),
        (end(Some(Finished), Some(Shutdown)), false, StopReason::Unknown),
        (end(None, Some(Destroyed)), false, StopReason::Destroyed),
        (end(Some(Guest), Some(Destroyed)), false, StopReason::Destroyed),
        (end(None, Some(Saved)), false, StopReason::Destroyed),
        (end(None, Some(Crashed)), false, StopReason::Crashed),
        (end(None, Some(Failed)), false, StopReason::Crashed),
        (End { crashed: true, ..Default::default() }, false, StopReason::Crashed),
        (End::default(), false, StopReason::Unknown),
        (end(Some(Guest), Some(Shutdown)), true, StopReason::Requested),
        (end(None, Some(Destroyed)), true, StopReason::Requested),
    ] {
        assert_eq!(end.reason(requested), reason, "{end:?}");
    }
}

#[test]
fn after_an_end_the_next_start_waits_as_it_should() {
    let begin = Instant::now();
    let ended = |ran: u64, end: End| {
        let mut memory = Memory::new(0);
        memory.running_since = Some(begin);
        memory.end = end;
        let now = begin + Duration::from_secs(ran);
        memory.ended(None, now);
        memory.starts.wait(now).map(|until| (until - now).as_secs())
    };
    let guest = End { shutdown: Some(ShutdownDetail::Guest), ..Default::default() };
    let crash = End { crashed: true, ..Default::default() };
    let host = End { shutdown: Some(ShutdownDetail::Host), ..Default::default() };
    assert_eq!(ended(60, guest), None, "a guest's own shutdown is no failure");
    assert_eq!(ended(3, guest), Some(1), "a loop of them must not spin");
    assert_eq!(ended(60, crash), Some(1));
    assert_eq!(ended(60, host), Some(5));
}

#[test]
fn a_moved_disk_is_not_left_behind() {
    let moved = |case: Case| Case { moved: vec!["devices/disk[vda]/source".into()], ..case };
    let leaves = |state| moved(always().seen(state)).placement(|placement| placement.release = Release::Stop);
    assert_eq!(leaves(DomainState::Running).phase(), Phase::Running, "nor on this host");
    assert_eq!(leaves(DomainState::Shutoff).phase(), Phase::Stopped);
    assert_eq!(leaves(DomainState::Shutoff).deleting().step(), Step::Undefine);
    let halts = moved(always().running()).placement(|placement| placement.release = Release::Halt);
    assert_eq!(halts.phase(), Phase::Running, "it could not be started again");
    assert_eq!(moved(always().running()).phase(), Phase::Running, "what runs goes on");
    let mut restart = always().running();
    restart.vm.spec.power_request = serde_yaml_ng::from_str("{id: r, action: Restart}").unwrap();
    assert_eq!(moved(restart).step(), Step::Answer(PowerResult::Failed));
}
