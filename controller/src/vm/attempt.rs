//! A VM that has no placement: the pod of the next epoch finds it a host, and its last one gives it up. Pure.

use k8s_openapi::api::core::v1::Pod;
use kubevmm_api::condition::{READY, SCHEDULED, Wanted};
use kubevmm_api::effective::MergeError;
use kubevmm_api::hypervisor::HostDomain;
use kubevmm_api::pod::node_of;
use kubevmm_api::requirements::Requirements;
use kubevmm_api::vm::{PlacementStatus, Release};
use kubevmm_api::{SCHEDULER, VirtualMachineStatus, names};

use crate::object::{is_deleting, name, uid};
use crate::vm::candidates::{Fitting, Refusal, check_networks};
use crate::vm::decide::{Action, delete_pod, delete_pod_at_once, is_leaving_at_once, is_leaving_soon};
use crate::vm::disks::{Disks, move_to};
use crate::vm::domains::{check_domains, check_reports};
use crate::vm::placement::{Placing, confirm, is_on_no_host, placed};
use crate::vm::pod::{HOSTS, Phase, Target, build, differs, is_outdated, merged, phase, told_hosts};
use crate::vm::requirements::requirements;
use crate::vm::status::Shown;
use crate::vm::unschedulable::explain;
use crate::vm::view::View;

/// The VM has no placement: looks for one with the pod of the next epoch.
pub fn decide(view: &View, disks: &Disks, status: &VirtualMachineStatus, mut placing: Placing) -> Placing {
    let current = status.placement.clone().unwrap_or_default();
    let epoch = current.epoch + 1;
    let pod_name = names::placement_pod(view.name(), view.uid(), epoch);
    let pod = view.pod(&pod_name);
    let others = view.pods.iter().filter(|other| name(other.as_ref()) != pod_name && !is_leaving_soon(other));
    placing.after = others.map(|other| delete_pod(other, None)).collect();
    let Next { pod: wanted, needs, fitting } = match next(view, disks, epoch) {
        Ok(next) => next,
        Err((reason, message)) => {
            placing.after.extend(pod.and_then(|pod| give_up(view, pod)));
            return waiting(placing, "Pending", reason, message);
        }
    };
    let nowhere = fitting.refusal(&needs);
    let Some(pod) = pod else {
        if let Some((reason, message)) = &view.pod_pause {
            let (reason, message) = nowhere.unwrap_or((reason, message.clone()));
            return waiting(placing, "Pending", reason, message);
        }
        placing.before.push(Action::CreatePod(Box::new(wanted)));
        let (reason, message) = nowhere.unwrap_or_else(searching);
        return waiting(placing, "Scheduling", reason, message);
    };
    let phase = phase(pod);
    if !is_deleting(pod) && is_outdated(pod, view) {
        placing.after.push(delete_pod(pod, None));
        let message = "the VM asks for something else than its placement pod: another one follows";
        return waiting(placing, "Scheduling", "Scheduling", message.into());
    }
    let ended = matches!(phase, Phase::Leaving(_) | Phase::Ended(_)) && pod.metadata.deletion_timestamp.is_none();
    let misplaced = node_of(pod).filter(|_| !ended).and_then(|node| Some((node, fitting.why_not(node)?)));
    if let Some((node, why)) = misplaced {
        // What a host lacks before all have reported it may well have.
        if let Err((reason, message)) = check_reports(view, None) {
            return waiting(placing, "Scheduling", reason, message);
        }
        let lost = format!("the host {node} can no longer take the VM: {why}");
        if !is_leaving_at_once(pod) {
            // The scheduler may see it otherwise for a while: the next pod follows after a pause.
            placing.after.push(delete_pod_at_once(pod, Some(lost.clone())));
        }
        let (reason, message) = nowhere.unwrap_or_else(|| ("Scheduling", format!("{lost}: another one is looked for")));
        return waiting(placing, "Scheduling", reason, message);
    }
    match phase {
        Phase::Unbound(refused) => {
            // While the scheduler is at it, it is let go on.
            if refused.is_some() && differs(pod, &wanted) {
                placing.after.push(delete_pod(pod, None));
            } else if refused.is_some() && told_hosts(pod) != Some(fitting.told().as_str()) {
                let (name, uid) = (name(pod).to_owned(), uid(pod).to_owned());
                placing.after.push(Action::TellHosts { name, uid, hosts: fitting.told() });
            }
            let said = || {
                let (reason, message) = explain(pod)?;
                // The scheduler counts the nodes that its extender refuses; who they are, it does not say.
                Some((reason, fitting.words().map_or(message.clone(), |words| format!("{message}; {words}"))))
            };
            let (reason, message) = nowhere.or_else(said).unwrap_or_else(searching);
            waiting(placing, "Scheduling", reason, message)
        }
        Phase::Starting(what) => {
            // One word while all goes well: what the kubelet says in passing is not worth a write.
            let message = match what.as_str() {
                "ContainerCreating" | "PodInitializing" => "the placement pod is starting".to_owned(),
                other => format!("the placement pod does not start: {other}"),
            };
            waiting(placing, "Scheduling", "Scheduling", message)
        }
        Phase::Leaving(why) if is_deleting(pod) => {
            placing.after.extend((!is_leaving_soon(pod)).then(|| delete_pod(pod, None)));
            waiting(placing, "Scheduling", "Scheduling", format!("{why}: another one follows"))
        }
        Phase::Ended(why) if pod.metadata.deletion_timestamp.is_some() => {
            waiting(placing, "Scheduling", "PodFailed", format!("the placement pod ended: {why}"))
        }
        Phase::Leaving(why) | Phase::Ended(why) => {
            placing.after.push(delete_pod(pod, Some(why.clone())));
            waiting(placing, "Scheduling", "PodFailed", format!("the placement pod ended: {why}"))
        }
        Phase::Running(node) => settle(view, disks, status, pod, epoch, &node, placing),
    }
}

/// Deletion of a pod on which nothing was placed. On a host that is silent no kubelet would ever complete it.
fn give_up(view: &View, pod: &Pod) -> Option<Action> {
    match node_of(pod) {
        Some(node) if !view.hosts.is_live(node) => (!is_leaving_at_once(pod)).then(|| delete_pod_at_once(pod, None)),
        _ => (!is_leaving_soon(pod)).then(|| delete_pod(pod, None)),
    }
}

/// What is said while the scheduler has not looked at the pod.
fn searching() -> Refusal {
    ("Scheduling", format!("the scheduler {SCHEDULER} is looking for a host"))
}

/// The pod of the next epoch, and what the hosts say to it.
struct Next {
    pod: Pod,
    needs: Requirements,
    fitting: Fitting,
}

fn next(view: &View, disks: &Disks, epoch: i64) -> Result<Next, Refusal> {
    if let Some(class) = view.vm.spec.class_name.as_deref().filter(|_| view.class.is_none()) {
        return Err(("ClassNotFound", format!("spec.className: there is no VirtualMachineClass {class}: create it")));
    }
    if disks.held.is_none() {
        return Err(("DisksNotReady", disks.condition.message.clone()));
    }
    check_domains(view, None)?;
    check_networks(view)?;
    let incomplete = |error: MergeError| ("SpecIncomplete", error.to_string());
    let needs = merged(view).and_then(|spec| requirements(view, &spec)).map_err(incomplete)?;
    let fitting = Fitting::of(view, &needs);
    let mut pod = build(view, epoch, Target::Any).map_err(incomplete)?;
    pod.metadata.annotations.get_or_insert_default().insert(HOSTS.into(), fitting.told());
    Ok(Next { pod, needs, fitting })
}

/// The pod runs on `node`: the VM goes there, once its last host has given it up.
fn settle(
    view: &View,
    disks: &Disks,
    status: &VirtualMachineStatus,
    pod: &Pod,
    epoch: i64,
    node: &str,
    mut placing: Placing,
) -> Placing {
    let mut current = status.placement.clone().unwrap_or_default();
    let free = status.node_name.is_none() || is_on_no_host(status);
    let moving = current.release == Release::Stop || status.node_name.as_deref().is_some_and(|last| last != node);
    if !free && moving {
        let last = status.node_name.as_deref().unwrap_or_default();
        let message = format!("the host {last} is giving the VM up to {node}");
        if current.release != Release::Stop {
            current.release = Release::Stop;
            placing.placement = Some(current);
        }
        placing.scheduled = Wanted::no(SCHEDULED, "Moving", message);
        return placing;
    }
    if let Some((last, domain)) = still_told(view, status).filter(|(last, _)| *last != node) {
        let message = format!(
            "the host {last} has given the VM up to {node}, and has yet to tell that its domain {} is gone; if it stays, \
             remove it there: virsh undefine {}",
            domain.name, domain.uuid
        );
        placing.scheduled = Wanted::no(SCHEDULED, "Moving", message);
        return placing;
    }
    if let Some(other) = &view.taken_by {
        let message = format!(
            "the host {node} has given the memory of the VirtualMachine {other} to this one, and it has yet to end there"
        );
        return waiting(placing, "Scheduling", "MemoryNotFree", message);
    }
    let mut next = PlacementStatus {
        epoch,
        pod_name: Some(name(pod).to_owned()),
        pod_uid: Some(uid(pod).to_owned()),
        confirmed: None,
        release: Release::None,
    };
    if let Err((reason, message)) = confirm(view, disks, node, &mut next) {
        return waiting(placing, "Scheduling", reason, message);
    }
    placing.before.extend(move_to(view, disks.held.as_deref().unwrap_or_default(), node));
    placing.shown = status.node_name.is_none().then(|| Shown {
        printable: "Starting",
        ready: Wanted::no(READY, "Starting", format!("the host {node} has been asked to start the VM")),
        power: None,
    });
    placing.scheduled = placed(Some(node));
    placing.node_name = Some(node.to_owned());
    placing.placement = Some(next);
    placing
}

/// The domain that the last host has reported as undefined, while its list of domains still has it.
fn still_told<'a>(view: &'a View, status: &VirtualMachineStatus) -> Option<(&'a str, &'a HostDomain)> {
    let last = status.node_name.as_deref().filter(|_| is_on_no_host(status))?;
    let mut told = view.hosts.holding(&view.cluster_id, view.uid());
    told.find(|(host, domain, _)| *host == last && view.is_own(domain)).map(|(host, domain, _)| (host, domain))
}

/// Nothing can be done now but to say why.
fn waiting(mut placing: Placing, printable: &'static str, reason: &'static str, message: String) -> Placing {
    placing.shown = placing.node_name.is_none().then(|| Shown {
        printable,
        ready: Wanted::no(READY, reason, message.clone()),
        power: None,
    });
    placing.scheduled = Wanted::no(SCHEDULED, reason, message);
    placing
}
