//! Whole lives of VMs, with the task as it runs, on a host and an API server in memory.

use std::sync::Arc;
use std::time::Duration;

use kubevmm_api::VirtualMachine;
use kubevmm_api::vm::{
    DomainState, DriftPolicy, HostVolume, Management, PlacementStatus, Release, RunStrategy, StopReason,
};
use tokio::sync::mpsc;
use tokio::task::JoinHandle;

use super::domains::Observed;
use super::fakes::{Fake, conditions, vm};
use super::observe::Observer;
use super::task::{End, Input, Queue, Task};
use crate::libvirt::{DomainEvent, Lifecycle, ShutdownDetail, StartedDetail, StoppedDetail};

const ALWAYS: &str = "{memory: {size: 1Gi}, terminationGracePeriodSeconds: 15, cloudInit: {userData: x}}";

struct Story {
    fake: Fake,
    inbox: mpsc::UnboundedSender<Input>,
    task: JoinHandle<End>,
}

impl Story {
    fn of(vm: VirtualMachine) -> Self {
        let fake = Fake::default();
        fake.with(|world| {
            world.session = "s".into();
            world.vm = Some(vm);
        });
        Self::with(fake)
    }

    fn with(fake: Fake) -> Self {
        let (inbox, queue) = mpsc::unbounded_channel();
        let vm = fake.with(|world| world.vm.clone().unwrap());
        let task = tokio::spawn(Task::new(fake.hands(), Arc::new(vm), Queue::new(queue)).run());
        Self { fake, inbox, task }
    }

    /// Lets the task work until it waits, and then lets this time pass.
    async fn pass(&self, seconds: f32) {
        tokio::time::sleep(Duration::from_secs_f32(seconds)).await;
    }

    /// A user, or the controller, changes the VM.
    fn change(&self, change: impl FnOnce(&mut VirtualMachine)) {
        let vm = self.fake.with(|world| {
            let vm = world.vm.as_mut().unwrap();
            change(vm);
            vm.clone()
        });
        self.send(Input::Object { vm: Arc::new(vm), listed: false });
    }

    fn send(&self, input: Input) {
        self.inbox.send(input).unwrap();
    }

    fn lifecycle(&self, kind: Lifecycle) {
        self.send(Input::Domain(DomainEvent::Lifecycle(kind)));
    }

    /// The domain ends, and libvirt says how.
    fn ends(&self, shutdown: Option<ShutdownDetail>, stopped: StoppedDetail) {
        self.fake.with(|world| world.domain.as_mut().unwrap().state = DomainState::Shutoff);
        if let Some(detail) = shutdown {
            self.lifecycle(Lifecycle::Shutdown(detail));
        }
        self.lifecycle(Lifecycle::Stopped(stopped));
    }

    fn last_stop(&self) -> StopReason {
        self.fake.status().last_stop.unwrap().reason
    }
}

#[tokio::test(start_paused = true)]
async fn a_vm_starts_once_its_placement_is_proved() {
    let story = Story::of(vm(ALWAYS, 1));
    story.pass(0.1).await;
    assert_eq!(story.fake.done(), ["put seed", "define", "status", "renew", "get", "create", "status"]);
    let status = story.fake.status();
    assert_eq!(conditions(&status)["Ready"], "True/Running");
    assert_eq!(status.domain.unwrap().epoch, 1);
    story.pass(3600.0).await;
    assert_eq!(story.fake.done(), Vec::<&str>::new(), "once converged, silence");
}

#[tokio::test(start_paused = true)]
async fn a_placement_that_the_api_server_no_longer_says_starts_nothing() {
    for change in [
        (|vm| vm.status.as_mut().unwrap().node_name = Some("n2".into())) as fn(&mut VirtualMachine),
        |vm| vm.status.as_mut().unwrap().placement.as_mut().unwrap().confirmed = Some("older".into()),
        |vm| vm.status.as_mut().unwrap().placement.as_mut().unwrap().release = Release::Stop,
        |vm| vm.metadata.deletion_timestamp = Some(super::task::now()),
        |vm| vm.metadata.uid = Some("another".into()),
    ] {
        let known = vm(ALWAYS, 1);
        let fake = Fake::default();
        fake.with(|world| {
            world.session = "s".into();
            world.vm = Some(known.clone());
        });
        let (_inbox, queue) = mpsc::unbounded_channel();
        fake.with(|world| change(world.vm.as_mut().unwrap()));
        let task = tokio::spawn(Task::new(fake.hands(), Arc::new(known), Queue::new(queue)).run());
        tokio::time::sleep(Duration::from_secs(60)).await;
        assert_eq!(fake.with(|world| world.starts), 0);
        task.abort();
    }
}

#[tokio::test(start_paused = true)]
async fn a_guest_that_shuts_down_is_started_again() {
    let story = Story::of(vm(ALWAYS, 1));
    story.pass(60.0).await;
    story.ends(Some(ShutdownDetail::Guest), StoppedDetail::Shutdown);
    story.pass(0.1).await;
    assert_eq!(story.last_stop(), StopReason::GuestShutdown);
    assert_eq!(story.fake.state(), Some(DomainState::Running));
    story.lifecycle(Lifecycle::Started(StartedDetail::Booted));

    story.pass(60.0).await;
    story.ends(None, StoppedDetail::Failed);
    story.pass(0.1).await;
    assert_eq!(story.last_stop(), StopReason::Crashed);
    assert_eq!(story.fake.status().printable_status.as_deref(), Some("Starting"), "after a pause");
    story.pass(1.0).await;
    assert_eq!(story.fake.state(), Some(DomainState::Running));
}

#[tokio::test(start_paused = true)]
async fn the_event_that_says_why_may_come_after_the_end_is_seen() {
    let story = Story::of(vm(ALWAYS, 1));
    story.pass(60.0).await;
    story.fake.with(|world| world.domain.as_mut().unwrap().state = DomainState::Shutoff);
    story.send(Input::Reread);
    story.pass(0.2).await;
    story.lifecycle(Lifecycle::Shutdown(ShutdownDetail::Host));
    story.lifecycle(Lifecycle::Stopped(StoppedDetail::Shutdown));
    story.pass(0.1).await;
    assert_eq!(story.last_stop(), StopReason::HostRequest);
    story.pass(5.0).await;
    assert_eq!(story.fake.state(), Some(DomainState::Running));
}

#[tokio::test(start_paused = true)]
async fn a_guest_that_does_not_listen_is_destroyed_after_its_grace_period() {
    let story = Story::of(vm(ALWAYS, 1));
    story.pass(1.0).await;
    story.fake.done();
    story.change(|vm| {
        vm.spec =
            serde_yaml_ng::from_str("{runStrategy: Halted, memory: {size: 1Gi}, terminationGracePeriodSeconds: 15}")
                .unwrap()
    });
    story.pass(14.0).await;
    assert_eq!(story.fake.done(), ["status", "shutdown by ACPI", "shutdown by ACPI"]);
    assert_eq!(conditions(&story.fake.status())["Ready"], "False/Stopping");
    story.pass(2.0).await;
    assert_eq!(story.fake.done(), ["destroy", "status"]);
    assert_eq!(story.last_stop(), StopReason::Requested);
    assert_eq!(conditions(&story.fake.status())["Ready"], "False/Stopped");
}

#[tokio::test(start_paused = true)]
async fn a_deleted_vm_leaves_nothing_on_the_host() {
    let story = Story::of(vm(ALWAYS, 1));
    story.pass(1.0).await;
    story.fake.done();
    story.change(|vm| vm.metadata.deletion_timestamp = Some(super::task::now()));
    story.pass(20.0).await;
    assert_eq!(story.fake.state(), None);
    assert_eq!(conditions(&story.fake.status())["HostReleased"], "True/Released");
    assert!(story.fake.done().ends_with(&["undefine", "remove seed", "status"]));
    story.fake.with(|world| world.vm = None);
    story.send(Input::Left);
    story.pass(1.0).await;
    assert!(story.task.is_finished());
}

#[tokio::test(start_paused = true)]
async fn a_release_is_reported_and_then_the_lease_renewed() {
    let story = Story::of(vm(ALWAYS, 4));
    story.pass(1.0).await;
    story.fake.done();
    story.change(|vm| vm.status.as_mut().unwrap().placement.as_mut().unwrap().release = Release::Stop);
    story.pass(20.0).await;
    assert!(story.fake.done().ends_with(&["undefine", "remove seed", "status", "renew"]));
    let status = story.fake.status();
    assert_eq!((status.released_epoch, status.domain), (Some(4), None));
    // An API server that has forgotten the release gets no second start out of this host.
    story.change(|vm| {
        let status = vm.status.as_mut().unwrap();
        status.released_epoch = None;
        status.placement.as_mut().unwrap().release = Release::None;
    });
    story.pass(60.0).await;
    assert_eq!(story.fake.with(|world| world.starts), 1);
}

#[tokio::test(start_paused = true)]
async fn a_halted_vm_keeps_its_domain_and_goes_on_with_its_next_placement() {
    let story = Story::of(vm("{runStrategy: Manual, memory: {size: 1Gi}, powerRequest: {id: a, action: Start}}", 1));
    story.pass(1.0).await;
    story.fake.done();
    let placement = |change: fn(&mut PlacementStatus)| {
        story.change(|vm| change(vm.status.as_mut().unwrap().placement.as_mut().unwrap()));
    };
    placement(|placement| placement.release = Release::Halt);
    story.pass(120.0).await;
    let done = story.fake.done();
    assert!(!done.contains(&"undefine") && !done.contains(&"remove seed"), "{done:?}");
    assert_eq!((story.fake.state(), story.fake.status().released_epoch), (Some(DomainState::Shutoff), Some(1)));
    // It is wanted elsewhere after all: nothing of it stays here.
    let moved = Story::of(vm("{runStrategy: Manual, memory: {size: 1Gi}, powerRequest: {id: a, action: Start}}", 1));
    moved.pass(1.0).await;
    for release in [Release::Halt, Release::Stop] {
        moved.change(|vm| vm.status.as_mut().unwrap().placement.as_mut().unwrap().release = release);
        moved.pass(120.0).await;
    }
    let done = moved.fake.done();
    assert!(done.ends_with(&["undefine", "remove seed", "status"]), "{done:?}");
    // Whatever the API server says, it is not started at this epoch again.
    placement(|placement| placement.release = Release::None);
    story.pass(60.0).await;
    assert_eq!(story.fake.state(), Some(DomainState::Shutoff));
    placement(|placement| placement.epoch = 2);
    story.pass(60.0).await;
    assert_eq!(story.fake.state(), Some(DomainState::Running));
}

#[tokio::test(start_paused = true)]
async fn a_manual_vm_that_moves_goes_on_elsewhere() {
    let story = Story::of(vm("{runStrategy: Manual, memory: {size: 1Gi}, powerRequest: {id: a, action: Start}}", 1));
    story.pass(1.0).await;
    assert_eq!(story.fake.state(), Some(DomainState::Running));
    let placement = |change: fn(&mut PlacementStatus)| {
        story.change(|vm| change(vm.status.as_mut().unwrap().placement.as_mut().unwrap()));
    };
    placement(|placement| placement.release = Release::Stop);
    story.pass(120.0).await;
    assert_eq!((story.fake.state(), story.fake.status().released_epoch), (None, Some(1)));
    assert_eq!(story.fake.status().last_stop.unwrap().request_id, None, "nobody asked for this stop");
    // The next epoch is as good as another host.
    placement(|placement| (placement.release, placement.epoch) = (Release::None, 2));
    story.pass(60.0).await;
    assert_eq!(story.fake.state(), Some(DomainState::Running));
    // A guest that shuts itself down ends what the request began.
    story.ends(Some(ShutdownDetail::Guest), StoppedDetail::Shutdown);
    story.pass(60.0).await;
    assert_eq!(story.fake.state(), Some(DomainState::Shutoff));
    assert_eq!(story.fake.status().last_stop.unwrap().request_id.as_deref(), Some("a"));
}

#[tokio::test(start_paused = true)]
async fn a_change_to_manual_stops_nothing_and_starts_nothing_again() {
    let story = Story::of(vm(ALWAYS, 1));
    story.pass(60.0).await;
    story.change(|vm| vm.spec.run_strategy = RunStrategy::Manual);
    story.pass(60.0).await;
    assert_eq!((story.fake.state(), story.fake.status().last_stop), (Some(DomainState::Running), None));
    story.ends(Some(ShutdownDetail::Host), StoppedDetail::Shutdown);
    story.pass(60.0).await;
    assert_eq!(story.fake.state(), Some(DomainState::Shutoff), "after a host request it stays off");
    // The next executor does not believe the status that says that it runs.
    let story = Story::of(vm(ALWAYS, 1));
    story.pass(60.0).await;
    story.task.abort();
    story.change(|vm| vm.spec.run_strategy = RunStrategy::Manual);
    story.fake.with(|world| world.domain.as_mut().unwrap().state = DomainState::Shutoff);
    let next = Story::with(story.fake.clone());
    next.pass(60.0).await;
    assert_eq!((next.last_stop(), next.fake.state()), (StopReason::Unknown, Some(DomainState::Shutoff)));
}

#[tokio::test(start_paused = true)]
async fn a_list_older_than_what_was_written_restarts_nothing() {
    let version = |vm: &mut VirtualMachine, version: &str| vm.metadata.resource_version = Some(version.into());
    let story = Story::of(vm(ALWAYS, 1));
    story.pass(60.0).await;
    story.change(|vm| {
        vm.spec.power_request = serde_yaml_ng::from_str("{id: r, action: Restart, force: true}").unwrap();
        version(vm, "2");
    });
    let unanswered = story.fake.with(|world| world.vm.clone().unwrap());
    story.pass(60.0).await;
    assert_eq!(story.fake.status().last_power_request.unwrap().id, "r");
    story.change(|vm| version(vm, "3"));
    story.pass(1.0).await;
    story.fake.done();
    story.send(Input::Object { vm: Arc::new(unanswered), listed: true });
    story.pass(60.0).await;
    assert_eq!(story.fake.done(), ["get"]);
    // A list that is older because the API server was restored counts, as it says the same when it is asked.
    story.fake.with(|world| {
        let vm = world.vm.as_mut().unwrap();
        version(vm, "1");
        vm.spec.run_strategy = RunStrategy::Halted;
    });
    let restored = story.fake.with(|world| world.vm.clone().unwrap());
    story.send(Input::Object { vm: Arc::new(restored), listed: true });
    story.pass(60.0).await;
    assert_eq!(story.fake.state(), Some(DomainState::Shutoff));
}

#[tokio::test(start_paused = true)]
async fn what_happens_while_the_api_server_is_away_is_told_later() {
    let story = Story::of(vm(ALWAYS, 1));
    story.pass(60.0).await;
    story.fake.with(|world| world.api_is_down = true);
    story.ends(Some(ShutdownDetail::Guest), StoppedDetail::Shutdown);
    story.pass(600.0).await;
    assert_eq!(story.fake.state(), Some(DomainState::Shutoff), "no start without proof");
    story.fake.with(|world| world.api_is_down = false);
    story.pass(40.0).await;
    assert_eq!(story.last_stop(), StopReason::GuestShutdown);
    assert_eq!(story.fake.state(), Some(DomainState::Running));
}

#[tokio::test(start_paused = true)]
async fn no_start_before_what_happened_is_written() {
    let story = Story::of(vm(ALWAYS, 1));
    story.pass(60.0).await;
    story.fake.done();
    story.fake.with(|world| world.api_is_down = true);
    story.send(Input::Left);
    story.pass(0.1).await;
    assert_eq!(story.fake.done(), ["get"]);
    // The API server is back, but has not been asked again yet: nothing is written until then.
    story.fake.with(|world| world.api_is_down = false);
    story.ends(Some(ShutdownDetail::Guest), StoppedDetail::Shutdown);
    story.pass(60.0).await;
    let done = story.fake.done();
    let place = |what| done.iter().position(|done| *done == what);
    assert!(place("status").is_some() && place("status") < place("create"), "{done:?}");
    assert_eq!(story.fake.state(), Some(DomainState::Running));
}

#[tokio::test(start_paused = true)]
async fn a_start_that_fails_is_tried_again_with_pauses() {
    let story = Story::of(vm(ALWAYS, 1));
    story.fake.with(|world| world.failing_starts = 3);
    story.pass(0.1).await;
    assert_eq!(conditions(&story.fake.status())["Ready"], "False/StartFailed");
    story.pass(6.0).await;
    assert_eq!(story.fake.state(), Some(DomainState::Shutoff), "1 + 2 + 4 s");
    story.pass(1.5).await;
    assert_eq!(conditions(&story.fake.status())["Ready"], "True/Running");
}

#[tokio::test(start_paused = true)]
async fn an_end_that_nobody_watched_has_no_known_reason() {
    let story = Story::of(vm("{runStrategy: Manual, memory: {size: 1Gi}, powerRequest: {id: a, action: Start}}", 1));
    story.pass(1.0).await;
    assert_eq!(story.fake.state(), Some(DomainState::Running));
    story.task.abort();
    story.fake.with(|world| world.domain.as_mut().unwrap().state = DomainState::Shutoff);
    let next = Story::with(story.fake.clone());
    next.pass(60.0).await;
    assert_eq!(next.last_stop(), StopReason::Unknown);
    assert_eq!(next.fake.state(), Some(DomainState::Shutoff), "a manual VM stays off");
}

/// Starts, restarts by request and deletes a VM; the executor is killed at a call with an effect, before or after it, and
/// another one goes on.
async fn life_with_a_kill(kill: (usize, bool)) -> (Vec<String>, usize) {
    let mut story = Story::of(vm(ALWAYS, 1));
    story.fake.with(|world| world.killed_at = Some(kill));
    let mut killed = false;
    let mut states = Vec::new();
    let steps: [fn(&mut VirtualMachine); 3] = [
        |_| {},
        |vm| vm.spec.power_request = serde_yaml_ng::from_str("{id: r, action: Restart, force: true}").unwrap(),
        |vm| vm.metadata.deletion_timestamp = Some(super::task::now()),
    ];
    for step in steps {
        story.change(step);
        story.pass(40.0).await;
        let stuck =
            story.fake.with(|world| std::mem::take(&mut world.killed_at).is_some_and(|(call, _)| world.reached(call)));
        if stuck && !killed {
            killed = true;
            story.task.abort();
            story = Story::with(story.fake.clone());
            story.pass(40.0).await;
        } else if !killed {
            story.fake.with(|world| world.killed_at = Some(kill));
        }
        let status = story.fake.status();
        let mut conditions: Vec<_> = conditions(&status).into_iter().map(|(k, v)| format!("{k}={v}")).collect();
        conditions.sort();
        let answered = status.last_power_request.map(|last| last.id);
        states.push(format!("{:?} {answered:?} {conditions:?}", story.fake.state()));
    }
    (states, story.fake.with(|world| world.starts))
}

#[tokio::test(start_paused = true)]
async fn killed_anywhere_it_ends_the_same() {
    let (undisturbed, starts) = life_with_a_kill((usize::MAX, false)).await;
    assert_eq!(starts, 2);
    assert!(undisturbed[2].contains("HostReleased=True/Released"), "{undisturbed:?}");
    for kill in (1..=25).flat_map(|call| [(call, false), (call, true)]) {
        let (states, starts) = life_with_a_kill(kill).await;
        assert_eq!(states, undisturbed, "killed at {kill:?}");
        assert_eq!(starts, 2, "killed at {kill:?}");
    }
}

const EXISTING: &str = "{management: Manage, runStrategy: Manual, memory: {size: 16Mi}, domain: {title: Old}, \
    existingDomain: {nodeName: n1, uuid: 0a000000-0000-4000-8000-000000000001AUTOSTART}}";

fn existing(autostart: &str) -> VirtualMachine {
    let mut vm = vm(&EXISTING.replace("AUTOSTART", autostart), 0);
    vm.metadata.finalizers = Some(vec![kubevmm_api::FINALIZER.into()]);
    vm
}

/// A domain of somebody else, that runs.
fn foreign(fake: &Fake, autostart: bool) {
    let definition = "<domain type='qemu'><name>old</name><uuid>0a000000-0000-4000-8000-000000000001</uuid>\
        <memory>16384</memory><os><type arch='x86_64' machine='pc'>hvm</type></os></domain>";
    let info = kubevmm_analyser::read::read_domain(definition).unwrap();
    let observed = Observed {
        state: DomainState::Running,
        info,
        agent_connected: false,
        autostart,
        defined: true,
        definition: definition.into(),
        volumes: Default::default(),
    };
    fake.with(|world| world.observed = Some(observed));
}

fn imported(autostart: bool, agreed: &str) -> Story {
    let fake = Fake::default();
    foreign(&fake, autostart);
    fake.with(|world| {
        world.session = "s".into();
        world.vm = Some(existing(agreed));
    });
    Story::with(fake)
}

#[tokio::test(start_paused = true)]
async fn an_existing_domain_is_taken_over_as_it_is_and_given_back() {
    let story = imported(true, ", disableAutostart: true");
    story.pass(1.0).await;
    assert_eq!(story.fake.done(), ["renew", "get", "status", "mark without autostart", "status"], "nothing else");
    let status = story.fake.status();
    assert_eq!((conditions(&status)["Ready"].as_str(), status.last_stop), ("True/Running", None));
    let domain = status.domain.unwrap();
    assert_eq!((domain.name.as_str(), domain.epoch, domain.generation), ("old", 0, Some(0)));
    assert_eq!(status.effective.unwrap().memory.0, "16Mi");

    story.fake.with(|world| world.domain.as_mut().unwrap().autostart = true);
    story.send(Input::Reread);
    story.pass(1.0).await;
    assert_eq!(story.fake.done(), ["mark without autostart"], "somebody has set it again");

    story.change(|vm| vm.spec.management = Management::Observe);
    story.pass(1.0).await;
    assert_eq!(story.fake.done(), ["renew", "get", "give back with autostart"]);
    assert!(matches!(story.task.await, Ok(End::Observed(..))), "from now on it is watched");
}

#[tokio::test(start_paused = true)]
async fn killed_anywhere_a_domain_is_taken_over_and_given_back_all_the_same() {
    for kill in (1..=9).flat_map(|call| [(call, false), (call, true)]) {
        let mut story = imported(true, ", disableAutostart: true");
        story.fake.with(|world| world.killed_at = Some(kill));
        for management in [Management::Manage, Management::Observe] {
            story.change(|vm| vm.spec.management = management);
            story.pass(40.0).await;
            let killed = story.fake.with(|world| world.killed_at.is_some_and(|(call, _)| world.reached(call)));
            if killed {
                story.fake.with(|world| world.killed_at = None);
                story.task.abort();
                story = Story::with(story.fake.clone());
                story.pass(40.0).await;
            }
            let is_ours = story.fake.state() == Some(DomainState::Running);
            assert_eq!(is_ours, management == Management::Manage, "killed at {kill:?}, {management:?}");
        }
        let done = story.fake.with(|world| (world.starts, std::mem::take(&mut world.done)));
        let touched = |what: &&&str| ["create", "define", "shutdown by ACPI", "destroy", "undefine"].contains(what);
        assert_eq!((done.0, done.1.iter().find(touched)), (0, None), "killed at {kill:?}: {:?}", done.1);
        let status = story.fake.status();
        assert!(status.domain.is_none_or(|domain| domain.autostart), "killed at {kill:?}: its autostart is forgotten");
    }
}

#[tokio::test(start_paused = true)]
async fn nothing_is_marked_that_could_go_unnoticed() {
    let fake = Fake::default();
    foreign(&fake, false);
    fake.with(|world| {
        world.session = "s".into();
        world.vm = Some(VirtualMachine { metadata: vm(ALWAYS, 0).metadata, ..existing("") });
    });
    let story = Story::with(fake);
    story.pass(60.0).await;
    assert_eq!(story.fake.done(), ["status"], "it has no finalizer yet");
    story.change(|vm| vm.metadata.finalizers = Some(vec![kubevmm_api::FINALIZER.into()]));
    story.pass(1.0).await;
    assert!(story.fake.done().contains(&"mark"));
}

#[tokio::test(start_paused = true)]
async fn a_domain_that_libvirt_starts_by_itself_is_not_taken_over() {
    let story = imported(true, "");
    story.pass(60.0).await;
    assert_eq!(story.fake.done(), ["status"]);
    let status = story.fake.status();
    assert_eq!(conditions(&status)["Ready"], "True/Running", "it runs");
    assert_eq!(conditions(&status)["Synced"], "False/AutostartEnabled");
    let domain = status.domain.unwrap();
    assert_eq!((domain.state, domain.generation, domain.autostart), (DomainState::Running, None, true));
    story.change(|vm| vm.metadata.deletion_timestamp = Some(super::task::now()));
    story.pass(60.0).await;
    assert_eq!(story.fake.done(), ["remove seed", "status"], "it is not this VM's: it runs on");
    assert_eq!(conditions(&story.fake.status())["HostReleased"], "True/Released");
}

/// What is said of a running domain that is not taken over, and by which spec.
#[tokio::test(start_paused = true)]
async fn a_domain_is_not_taken_over_by_a_spec_that_would_harm_it() {
    let manual = "runStrategy: Manual, memory: {size: 16Mi}, domain: {title: Old}";
    for (spec, reason) in [
        ("runStrategy: Halted, memory: {size: 16Mi}, domain: {title: Old}".to_owned(), "WouldStop"),
        (format!("{manual}, powerRequest: {{id: old, action: Restart, force: true}}"), "WouldStop"),
        (format!("{manual}, powerRequest: {{id: old, action: Stop}}"), "WouldStop"),
        ("runStrategy: Manual, memory: {size: 16Mi}".to_owned(), "SpecIncomplete"),
    ] {
        let fake = Fake::default();
        foreign(&fake, false);
        let mut vm = existing("");
        let existing_domain = vm.spec.existing_domain.take();
        vm.spec = serde_yaml_ng::from_str(&format!("{{{spec}}}")).unwrap();
        vm.spec.existing_domain = existing_domain;
        fake.with(|world| {
            world.session = "s".into();
            world.vm = Some(vm);
        });
        let story = Story::with(fake);
        story.pass(60.0).await;
        assert!(story.fake.done().iter().all(|what| *what == "status"), "{spec}");
        let status = story.fake.status();
        assert_eq!(conditions(&status)["Synced"], format!("False/{reason}"), "{spec}");
        assert_eq!(conditions(&status)["Ready"], "True/Running", "{spec}");
    }
}

/// The fake's disks all lie at /p/v, as qcow2.
#[tokio::test(start_paused = true)]
async fn a_domain_is_not_taken_over_by_other_disks_than_it_has() {
    for (path, format, said) in [
        ("/p/v", "qcow2", "taken over"),
        ("/p/v.snapshot", "qcow2", "False/DiskMoved"),
        ("/p/v", "raw", "False/DiskMoved"),
        ("/elsewhere", "qcow2", "False/SpecIncomplete"),
    ] {
        let fake = Fake::default();
        foreign(&fake, false);
        let mut vm = existing("");
        vm.spec.disks = serde_yaml_ng::from_str("[{name: vda, diskName: web-vda}]").unwrap();
        fake.with(|world| {
            let observed = world.observed.as_mut().unwrap();
            let disk = format!(
                "<devices><disk type='file'><driver name='qemu' type='{format}'/><source file='{path}'/>\
                 <target dev='vda' bus='virtio'/></disk></devices></domain>"
            );
            observed.definition = observed.definition.replace("</domain>", &disk);
            if path != "/elsewhere" {
                let volume = HostVolume { libvirt_pool: "p".into(), name: "v".into() };
                observed.volumes.insert(path.into(), volume);
            }
            world.session = "s".into();
            world.vm = Some(vm);
        });
        let story = Story::with(fake);
        story.pass(5.0).await;
        let taken = story.fake.done().contains(&"mark");
        assert_eq!(taken, said == "taken over", "{path} {format}");
        if !taken {
            assert_eq!(conditions(&story.fake.status())["Synced"], said, "{path} {format}");
        }
    }
}

#[tokio::test(start_paused = true)]
async fn what_was_answered_before_is_not_done_again() {
    let story = imported(false, "");
    story.pass(1.0).await;
    story.change(|vm| {
        vm.spec.power_request = serde_yaml_ng::from_str("{id: r, action: Restart, force: true}").unwrap();
        let placement = vm.status.as_mut().unwrap().placement.as_mut().unwrap();
        (placement.epoch, placement.pod_name, placement.confirmed) = (1, Some("p".into()), Some("s".into()));
    });
    story.pass(60.0).await;
    assert_eq!((story.last_stop(), story.fake.with(|world| world.starts)), (StopReason::Requested, 1));
    story.change(|vm| vm.spec.management = Management::Observe);
    story.pass(1.0).await;
    let Ok(End::Observed(vm, queue)) = story.task.await else { panic!() };
    foreign(&story.fake, false);
    let watching = tokio::spawn(Observer::new(&story.fake.hands(), vm, queue).run());
    tokio::time::sleep(Duration::from_secs(1)).await;
    assert_eq!(story.fake.status().last_power_request.unwrap().id, "r", "the Observer keeps it");
    watching.abort();
    story.fake.with(|world| world.vm.as_mut().unwrap().spec.management = Management::Manage);
    let again = Story::with(story.fake.clone());
    again.fake.done();
    again.pass(60.0).await;
    assert!(again.fake.done().contains(&"mark"));
    assert_eq!((again.fake.state(), again.fake.with(|world| world.starts)), (Some(DomainState::Running), 1));
}

#[tokio::test(start_paused = true)]
async fn a_domain_that_was_never_there_is_not_made() {
    let fake = Fake::default();
    let mut vm = existing("");
    vm.spec.run_strategy = RunStrategy::Always;
    fake.with(|world| {
        world.session = "s".into();
        world.vm = Some(vm);
    });
    let story = Story::with(fake);
    story.pass(60.0).await;
    assert_eq!(story.fake.done(), ["status"]);
    assert_eq!(conditions(&story.fake.status())["Ready"], "False/DomainMissing");
}

#[tokio::test(start_paused = true)]
async fn what_was_made_is_compared_once_the_host_knows_what_it_is() {
    let story = Story::of(vm(ALWAYS, 1));
    story.pass(60.0).await;
    story.task.abort();
    story.fake.with(|world| world.machine_is_unknown = true);
    let again = Story::with(story.fake.clone());
    story.fake.done();
    again.pass(1.0).await;
    assert_eq!(again.fake.done(), [""; 0], "what was told stays");
    again.fake.with(|world| world.machine_is_unknown = false);
    again.pass(1.0).await;
    assert_ne!(conditions(&again.fake.status())["Synced"], "Unknown/NotCompared");
}

#[tokio::test(start_paused = true)]
async fn what_was_migrated_away_waits_for_a_new_word() {
    let story = Story::of(vm(ALWAYS, 1));
    story.pass(60.0).await;
    story.ends(None, StoppedDetail::Migrated);
    story.pass(600.0).await;
    assert_eq!(story.fake.with(|world| world.starts), 1, "it may run elsewhere");
    let confirm = |word: Option<&str>| {
        story.change(|vm| {
            vm.status.as_mut().unwrap().placement.as_mut().unwrap().confirmed = word.map(str::to_owned);
        });
    };
    confirm(None);
    story.pass(1.0).await;
    confirm(Some("s"));
    story.pass(10.0).await;
    assert_eq!(story.fake.with(|world| world.starts), 2);
}

#[tokio::test(start_paused = true)]
async fn autostart_that_nobody_gave_away_is_told_and_stays() {
    let story = imported(false, "");
    story.pass(1.0).await;
    story.fake.done();
    story.fake.with(|world| world.domain.as_mut().unwrap().autostart = true);
    story.send(Input::Reread);
    story.pass(60.0).await;
    assert_eq!(story.fake.done(), ["status"]);
    assert_eq!(conditions(&story.fake.status())["Synced"], "False/DomainChanged");
}

#[tokio::test(start_paused = true)]
async fn what_runs_without_the_mark_is_marked() {
    let story = Story::of(vm(ALWAYS, 1));
    story.pass(60.0).await;
    story.fake.done();
    story.fake.with(|world| world.domain.as_mut().unwrap().marked = false);
    story.send(Input::Reread);
    story.pass(1.0).await;
    assert_eq!(story.fake.done()[0], "mark", "it was saved before it was taken over, or reverted to a snapshot");
}

#[tokio::test(start_paused = true)]
async fn a_deleted_vm_that_is_only_to_watch_gives_its_domain_back() {
    let story = imported(false, "");
    story.pass(1.0).await;
    story.fake.done();
    story.change(|vm| {
        vm.spec.management = Management::Observe;
        vm.metadata.deletion_timestamp = Some(super::task::now());
    });
    story.pass(60.0).await;
    assert_eq!(story.fake.done(), ["renew", "get", "give back"]);
}

#[tokio::test(start_paused = true)]
async fn what_was_undefined_while_it_runs_is_defined_again_at_once_if_so_wanted() {
    let story = Story::of(vm(ALWAYS, 1));
    story.pass(60.0).await;
    story.fake.done();
    story.fake.with(|world| world.domain.as_mut().unwrap().defined = false);
    story.send(Input::Reread);
    story.pass(1.0).await;
    assert_eq!(story.fake.done(), ["status"]);
    assert_eq!(conditions(&story.fake.status())["Synced"], "False/DomainUndefined");

    story.change(|vm| vm.spec.drift_policy = DriftPolicy::Revert);
    story.pass(60.0).await;
    assert_eq!(story.fake.done(), ["define", "status"]);
    assert_eq!(conditions(&story.fake.status())["Synced"], "True/AsDefined");
    story.fake.with(|world| world.domain.as_mut().unwrap().defined = false);
    story.send(Input::Reread);
    story.pass(1.0).await;
    assert_eq!(story.fake.done(), ["define"], "each time");
}

#[tokio::test(start_paused = true)]
async fn what_was_undefined_while_it_was_off_is_told_until_it_is_started() {
    let manual = ALWAYS.replace("{memory", "{runStrategy: Manual, memory");
    let mut placed = vm(&manual, 1);
    placed.status.as_mut().unwrap().domain = serde_yaml_ng::from_str(
        "{name: shop.web, uuid: b3a1c7d2-0000-4000-8000-000000000001, epoch: 1, state: Shutoff, generation: 1}",
    )
    .unwrap();
    let story = Story::of(placed);
    story.pass(1.0).await;
    assert_eq!(conditions(&story.fake.status())["Synced"], "False/DomainMissing");
    story.send(Input::Reread);
    story.pass(60.0).await;
    assert_eq!(story.fake.done(), ["status"], "nothing is made that nobody asked for");
}
