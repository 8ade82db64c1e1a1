//! The executor's part of a VM's status, as a pure function of what is known.

use std::collections::BTreeMap;

use k8s_openapi::apimachinery::pkg::apis::meta::v1::Time;
use kubevmm_analyser::lower::disk_alias;
use kubevmm_analyser::spec::SEED_DISK;
use kubevmm_api::VirtualMachine;
use kubevmm_api::condition::{
    ADDRESSES_KNOWN, AGENT_CONNECTED, HOST_RELEASED, READY, RESTART_REQUIRED, SYNCED, Wanted, find, is_true,
};
use kubevmm_api::effective::{EffectiveSpec, differences};
use kubevmm_api::vm::{
    DiskStatus, DomainStatus, DriftPolicy, HostLink, InterfaceStatus, LastPowerRequest, LastStop, StopReason,
    VirtualMachineStatus,
};

use super::addresses;
use super::decide::{Phase, Seen};
use super::domains::{Details, Identity};
use super::drift::Drift;
use super::memory::Trouble;
use super::observe::state;
use crate::host::NotYet;

/// The conditions that the executor writes.
const CONDITIONS: [&str; 6] = [READY, RESTART_REQUIRED, SYNCED, AGENT_CONNECTED, ADDRESSES_KNOWN, HOST_RELEASED];
/// More paths than a person reads.
const MAX_PATHS: usize = 8;

/// The disks of a domain, and what its NICs are connected to, by their names.
pub(super) type Connected = (Vec<DiskStatus>, Vec<(String, HostLink)>);

/// What this task knows by itself: over what the status says, which may be older, or not have it yet.
#[derive(Clone, Debug, Default, PartialEq)]
pub(super) struct Own {
    /// The last stop that this task has seen.
    pub last_stop: Option<LastStop>,
    /// What the domain was started with, or was when it was taken over.
    pub effective: Option<EffectiveSpec>,
    /// Its disks and what its NICs are connected to.
    pub connections: Option<Connected>,
    /// libvirt started it with the host before it was taken over.
    pub autostart: Option<bool>,
    /// When it was started.
    pub start_time: Option<Time>,
    /// An answer that has not been written yet.
    pub last_power_request: Option<LastPowerRequest>,
    /// A release that has not been reported yet.
    pub released_epoch: Option<i64>,
    /// Nothing is left here, which has not been reported yet.
    pub host_released: bool,
}

impl Own {
    /// The API server has it all. Facts stay: its memory may go back in time.
    pub(super) fn written(&mut self) {
        self.last_power_request = None;
        self.released_epoch = None;
        self.host_released = false;
    }

    /// The status with this over it.
    pub(super) fn over(&self, status: &VirtualMachineStatus, now: &Time) -> VirtualMachineStatus {
        let mut status = status.clone();
        status.last_stop = self.last_stop.clone().or(status.last_stop);
        status.last_power_request = self.last_power_request.clone().or(status.last_power_request);
        status.released_epoch = self.released_epoch.or(status.released_epoch);
        status.effective = self.effective.clone().or(status.effective);
        if let Some((disks, links)) = &self.connections {
            status.disks.clone_from(disks);
            connect(&mut status.interfaces, links);
        }
        if self.host_released && !is_true(&status.conditions, HOST_RELEASED) {
            let released = released().over(&status.conditions, None, now);
            status.conditions.retain(|condition| condition.type_ != HOST_RELEASED);
            status.conditions.push(released);
        }
        status
    }
}

/// Notes what interfaces are connected to.
fn connect(interfaces: &mut Vec<InterfaceStatus>, links: &[(String, HostLink)]) {
    for (name, link) in links {
        match interfaces.iter_mut().find(|nic| nic.name == *name) {
            Some(nic) => nic.connected_to = Some(link.clone()),
            None => interfaces.push(InterfaceStatus {
                name: name.clone(),
                connected_to: Some(link.clone()),
                ..Default::default()
            }),
        }
    }
}

fn released() -> Wanted {
    Wanted::yes(HOST_RELEASED, "Released", "nothing of the VM is left on its host")
}

/// What is known of the running guest.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(super) struct Guest {
    pub details: Details,
    pub interfaces: Vec<InterfaceStatus>,
    pub drift: Drift,
}

/// What the status is made from.
pub(super) struct Facts<'a> {
    pub vm: &'a VirtualMachine,
    pub identity: &'a Identity,
    pub own: &'a Own,
    pub seen: &'a Seen,
    pub phase: &'a Phase,
    /// Why something about the domain cannot be mended, while it goes on as it is.
    pub trouble: Option<&'a Trouble>,
    pub guest: &'a Guest,
    /// The merged spec of now.
    pub wanted: &'a Result<EffectiveSpec, NotYet>,
    pub now: &'a Time,
}

/// The executor's part of the status.
pub(super) fn render(facts: &Facts<'_>) -> VirtualMachineStatus {
    let there = facts.vm.status.clone().unwrap_or_default();
    let status = facts.own.over(&there, facts.now);
    let active = facts.seen.is_active();
    let reachable = !matches!(facts.seen, Seen::Unreachable(_));
    let defined = matches!(facts.seen, Seen::Ours(_) | Seen::Existing(_)) || !reachable;
    let effective = status.effective.clone().or_else(|| facts.wanted.clone().ok()).filter(|_| defined);
    let domain = domain(facts, &status);
    let unchanged = !reachable || matches!(facts.seen, Seen::Existing(_));
    let mut interfaces = match (&effective, active) {
        _ if unchanged => status.interfaces.clone(),
        (Some(_), true) => facts.guest.interfaces.clone(),
        (Some(effective), false) => addresses::without_addresses(&effective.networks),
        (None, _) => Vec::new(),
    };
    for nic in &mut interfaces {
        let known = status.interfaces.iter().find(|known| known.name == nic.name);
        nic.connected_to = known.and_then(|known| known.connected_to.clone());
    }
    let disks = match &effective {
        Some(_) if unchanged => status.disks.clone(),
        Some(effective) => disks(effective, &status.disks, &facts.guest.details.targets),
        None => Vec::new(),
    };
    let running = match facts.seen {
        Seen::Existing(existing) => state(existing.state).1,
        _ => ready(facts.phase, status.last_stop.as_ref()),
    };
    let mut wanted = vec![running, restart_required(facts, effective.as_ref())];
    wanted.extend(synced(facts, &there));
    wanted.extend([agent_connected(facts), addresses_known(facts, &interfaces)]);
    if is_true(&status.conditions, HOST_RELEASED) {
        wanted.push(released());
    }
    let generation = facts.vm.metadata.generation;
    let conditions = wanted.iter().map(|wanted| wanted.over(&there.conditions, generation, facts.now)).collect();
    VirtualMachineStatus {
        observed_generation: generation,
        printable_status: Some(printable(facts).to_owned()),
        domain,
        released_epoch: status.released_epoch,
        interfaces,
        disks,
        effective,
        last_stop: status.last_stop,
        last_power_request: status.last_power_request,
        conditions,
        ..Default::default()
    }
}

/// The executor's part of a status that was read, to compare with what it should be.
pub(super) fn own_part(status: &VirtualMachineStatus) -> VirtualMachineStatus {
    let mut own = status.clone();
    own.node_name = None;
    own.placement = None;
    own.conditions.retain(|condition| CONDITIONS.contains(&condition.type_.as_str()));
    own.conditions.sort_by_key(|condition| CONDITIONS.iter().position(|kind| *kind == condition.type_));
    own
}

fn domain(facts: &Facts<'_>, status: &VirtualMachineStatus) -> Option<DomainStatus> {
    match facts.seen {
        // What was there is not known to have gone.
        Seen::Unreachable(_) => status.domain.clone(),
        Seen::Absent | Seen::Foreign(_) => None,
        Seen::Existing(existing) => {
            // One that has lost its mark is to be marked again, as what it was.
            let known = status.domain.as_ref().filter(|domain| domain.generation.is_some());
            Some(DomainStatus {
                name: existing.name.clone(),
                uuid: facts.identity.uuid.to_string(),
                epoch: 0,
                state: existing.state,
                generation: known.and_then(|domain| domain.generation),
                start_time: None,
                autostart: known.map_or(existing.autostart, |domain| domain.autostart),
                transient: !existing.defined,
            })
        }
        Seen::Ours(found) => Some(DomainStatus {
            name: facts.identity.name.clone(),
            uuid: facts.identity.uuid.to_string(),
            epoch: found.epoch,
            state: found.state,
            generation: Some(found.generation),
            start_time: facts
                .own
                .start_time
                .clone()
                .or_else(|| status.domain.as_ref().and_then(|domain| domain.start_time.clone())),
            autostart: facts
                .own
                .autostart
                .or_else(|| status.domain.as_ref().map(|domain| domain.autostart))
                .unwrap_or_default(),
            transient: !found.defined,
        }),
    }
}

/// The disks as they are known, with the targets that the running domain has for them.
fn disks(effective: &EffectiveSpec, known: &[DiskStatus], targets: &BTreeMap<String, String>) -> Vec<DiskStatus> {
    let seed = known.iter().filter(|disk| disk.name == SEED_DISK).map(|seed| (seed.name.as_str(), None));
    let named = effective.disks.iter().map(|disk| (disk.name.as_str(), Some(disk.disk_name.clone())));
    let status = |(name, disk_name): (&str, Option<String>)| {
        let known = known.iter().find(|disk| disk.name == name).cloned().unwrap_or_default();
        let target = targets.get(&disk_alias(name)).cloned().unwrap_or(known.target);
        DiskStatus { name: name.to_owned(), disk_name, target, volume: None, ..known }
    };
    named.chain(seed).map(status).collect()
}

fn printable(facts: &Facts<'_>) -> &'static str {
    let deleting = facts.vm.metadata.deletion_timestamp.is_some();
    if let (Seen::Existing(existing), false) = (facts.seen, deleting) {
        return state(existing.state).0;
    }
    match facts.phase {
        Phase::Unreachable(_) | Phase::HeldElsewhere(_) => "Unknown",
        _ if deleting => "Terminating",
        Phase::Running => "Running",
        Phase::Paused => "Paused",
        Phase::Starting | Phase::BackingOff(_) => "Starting",
        Phase::Scheduling | Phase::Released => "Scheduling",
        Phase::Waiting(_) => "Provisioning",
        Phase::Stopping | Phase::Failing(_) => "Stopping",
        Phase::Stopped => "Stopped",
        Phase::Gone => "Terminating",
    }
}

fn ready(phase: &Phase, last_stop: Option<&LastStop>) -> Wanted {
    match phase {
        Phase::Running => Wanted::yes(READY, "Running", "the domain runs"),
        Phase::Paused => Wanted::no(READY, "Paused", "the domain is paused: `virsh resume` on its host lets it go on"),
        Phase::Starting => Wanted::no(READY, "Starting", "the domain is being started"),
        Phase::BackingOff(Some(trouble)) => Wanted::no(READY, trouble.reason, trouble.message.clone()),
        Phase::BackingOff(None) => {
            let message = format!("{}; it is started again after a pause", stopped(last_stop));
            Wanted::no(READY, "Restarting", message)
        }
        Phase::Scheduling => Wanted::no(READY, "Scheduling", "waits for its placement: see the condition Scheduled"),
        Phase::Waiting(not_yet) => Wanted::no(READY, not_yet.reason, not_yet.message.clone()),
        Phase::Stopping => Wanted::no(READY, "Stopping", "the guest has been asked to shut down"),
        Phase::Failing(trouble) => Wanted::no(READY, trouble.reason, trouble.message.clone()),
        Phase::Stopped => Wanted::no(READY, "Stopped", stopped(last_stop)),
        Phase::Gone | Phase::Released => Wanted::no(READY, "Released", "nothing of the VM is left on this host"),
        Phase::HeldElsewhere(epoch) => Wanted::unknown(
            READY,
            "HeldElsewhere",
            format!("the domain on this host has the higher epoch {epoch}: the controller takes it over"),
        ),
        Phase::Unreachable(why) => Wanted::unknown(READY, "LibvirtUnavailable", why.clone()),
    }
}

fn stopped(last_stop: Option<&LastStop>) -> &'static str {
    match last_stop.map(|stop| stop.reason) {
        None => "the VM is off",
        Some(StopReason::GuestShutdown) => "the guest has shut down",
        Some(StopReason::Requested) => "the VM was stopped as asked for",
        Some(StopReason::Evicted) => "the VM was stopped to leave the host",
        Some(StopReason::Crashed) => "the guest or QEMU has crashed",
        Some(StopReason::HostRequest) => "the host has asked QEMU to end",
        Some(StopReason::Destroyed) => "somebody else has destroyed the domain",
        Some(StopReason::Unknown) => "the domain ended while nobody watched",
    }
}

fn restart_required(facts: &Facts<'_>, effective: Option<&EffectiveSpec>) -> Wanted {
    if let Seen::Unreachable(why) = facts.seen {
        return Wanted::unknown(RESTART_REQUIRED, "LibvirtUnavailable", why.clone());
    }
    let (Some(running), true) = (effective, facts.seen.is_active()) else {
        return Wanted::no(RESTART_REQUIRED, "NotRunning", "the next start takes the spec as it is then");
    };
    match facts.wanted {
        Ok(wanted) => match differences(running, wanted) {
            none if none.is_empty() => Wanted::no(RESTART_REQUIRED, "UpToDate", "the domain is as the spec says"),
            fields => {
                let message = format!("changed, and taken at the next start: {}", fields.join(", "));
                Wanted::yes(RESTART_REQUIRED, "SpecChanged", message)
            }
        },
        Err(not_yet) => Wanted::unknown(RESTART_REQUIRED, not_yet.reason, not_yet.message.clone()),
    }
}

/// Whether the domain is what was made of the spec.
fn synced(facts: &Facts<'_>, there: &VirtualMachineStatus) -> Option<Wanted> {
    let reverts = facts.vm.spec.drift_policy == DriftPolicy::Revert;
    let found = match facts.seen {
        Seen::Unreachable(why) => return Some(Wanted::unknown(SYNCED, "LibvirtUnavailable", why.clone())),
        Seen::Existing(_) => {
            return Some(match facts.phase {
                Phase::Waiting(not_yet) => Wanted::no(SYNCED, not_yet.reason, not_yet.message.clone()),
                _ => Wanted::unknown(SYNCED, "NotTakenOver", "the domain is not this VM's yet"),
            });
        }
        Seen::Foreign(_) => return None,
        Seen::Absent => {
            let missed = find(&there.conditions, SYNCED).is_some_and(|synced| synced.reason == "DomainMissing");
            let leaves = matches!(facts.phase, Phase::Released | Phase::Gone);
            return ((there.domain.is_some() || missed) && !leaves).then(|| {
                let message = "somebody has undefined the domain on its host: the next start defines it again";
                Wanted::no(SYNCED, "DomainMissing", message)
            });
        }
        Seen::Ours(found) => found,
    };
    if let Some(trouble) = facts.trouble {
        return Some(Wanted::no(SYNCED, trouble.reason, trouble.message.clone()));
    }
    let drift = &facts.guest.drift;
    if !found.defined {
        let message = "somebody has undefined the domain on its host while it runs: the next start defines it again \
                       (spec.driftPolicy Revert: at once)";
        return Some(Wanted::no(SYNCED, "DomainUndefined", message));
    }
    if !drift.known {
        let message = "what the domain was made from is not known: it is from the next start on";
        return Some(Wanted::unknown(SYNCED, "NotCompared", message));
    }
    let mut parts = Vec::new();
    if found.autostart {
        parts.push(
            "libvirt starts it with the host: virsh autostart --disable, or spec.existingDomain.disableAutostart"
                .into(),
        );
    }
    if !drift.definition.is_empty() {
        let then = if reverts { "which libvirt keeps so" } else { "which the next start undoes" };
        parts.push(format!("the definition on the host was changed, {then}: {}", listed(&drift.definition)));
    }
    if !drift.running.is_empty() {
        parts.push(format!("what runs was changed, until the next start: {}", listed(&drift.running)));
    }
    Some(if parts.is_empty() {
        Wanted::yes(SYNCED, "AsDefined", "the domain is what was made of the spec")
    } else {
        Wanted::no(SYNCED, "DomainChanged", parts.join("; "))
    })
}

fn listed(paths: &[String]) -> String {
    let more = paths.len().saturating_sub(MAX_PATHS);
    let shown = paths.iter().take(MAX_PATHS).map(String::as_str).collect::<Vec<_>>().join(", ");
    if more == 0 { shown } else { format!("{shown}, and {more} more") }
}

fn agent_connected(facts: &Facts<'_>) -> Wanted {
    match facts.seen {
        Seen::Unreachable(why) => Wanted::unknown(AGENT_CONNECTED, "LibvirtUnavailable", why.clone()),
        seen if !seen.is_active() => Wanted::no(AGENT_CONNECTED, "NotRunning", ""),
        _ => agent_of_running(facts.guest.details.agent_connected),
    }
}

/// Whether the agent of a running guest answers.
pub(super) fn agent_of_running(connected: bool) -> Wanted {
    if connected {
        Wanted::yes(AGENT_CONNECTED, "Connected", "the guest agent answers")
    } else {
        Wanted::no(AGENT_CONNECTED, "NotConnected", "no qemu-guest-agent answers in the guest")
    }
}

fn addresses_known(facts: &Facts<'_>, interfaces: &[InterfaceStatus]) -> Wanted {
    match facts.seen {
        Seen::Unreachable(why) => Wanted::unknown(ADDRESSES_KNOWN, "LibvirtUnavailable", why.clone()),
        seen if !seen.is_active() => Wanted::no(ADDRESSES_KNOWN, "NotRunning", ""),
        _ => addresses_of_running(interfaces),
    }
}

/// Whether each NIC of a running guest has an address.
pub(super) fn addresses_of_running(interfaces: &[InterfaceStatus]) -> Wanted {
    let unknown: Vec<_> = interfaces.iter().filter(|i| i.addresses.is_empty()).map(|i| i.name.as_str()).collect();
    if interfaces.is_empty() {
        Wanted::yes(ADDRESSES_KNOWN, "NoInterfaces", "the VM has no network interface")
    } else if unknown.is_empty() {
        Wanted::yes(ADDRESSES_KNOWN, "Known", "each interface has an address")
    } else {
        let message = format!("no address is known of: {}", unknown.join(", "));
        Wanted::no(ADDRESSES_KNOWN, "WaitingForAddresses", message)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::vm::decide::Found;
    use k8s_openapi::jiff::Timestamp;
    use kubevmm_api::condition;
    use kubevmm_api::effective::merge;
    use kubevmm_api::vm::DomainState;
    use uuid::Uuid;

    const UID: &str = "b3a1c7d2-0000-4000-8000-000000000001";

    fn at(second: i64) -> Time {
        Time(Timestamp::from_second(second).unwrap())
    }

    fn vm(spec: &str) -> VirtualMachine {
        let yaml = format!(
            "{{metadata: {{name: web, namespace: shop, uid: {UID}, generation: 3}}, spec: {spec}, status: {{nodeName: n1}}}}"
        );
        serde_yaml_ng::from_str(&yaml).unwrap()
    }

    fn of(vm: &VirtualMachine, seen: &Seen, phase: &Phase, own: &Own, second: i64) -> VirtualMachineStatus {
        let uuid = Uuid::parse_str(UID).unwrap();
        let identity =
            Identity { name: "shop.web".into(), uuid, cluster: "c".into(), uid: UID.into(), existing: false };
        let wanted =
            merge("web", UID, &vm.spec, None, None).map_err(|e| NotYet::on_change("InvalidSpec", e.to_string()));
        let guest = Guest::default();
        let now = at(second);
        let facts = Facts {
            vm,
            identity: &identity,
            own,
            seen,
            phase,
            trouble: None,
            guest: &guest,
            wanted: &wanted,
            now: &now,
        };
        render(&facts)
    }

    fn running() -> Seen {
        Seen::Ours(Found::of(1, 3, DomainState::Running))
    }

    fn reason<'a>(status: &'a VirtualMachineStatus, kind: &str) -> (&'a str, &'a str) {
        let condition = condition::find(&status.conditions, kind).unwrap();
        (condition.status.as_str(), condition.reason.as_str())
    }

    #[test]
    fn what_is_written_is_not_written_again() {
        let mut vm = vm("{memory: {size: 1Gi}}");
        let own = Own { start_time: Some(at(5)), ..Default::default() };
        let first = of(&vm, &running(), &Phase::Running, &own, 10);
        assert_eq!(reason(&first, READY), ("True", "Running"));
        assert_eq!(first.printable_status.as_deref(), Some("Running"));
        let mut read = first.clone();
        read.node_name = Some("n1".into());
        read.conditions.reverse();
        read.conditions.push(Wanted::yes(condition::SCHEDULED, "Placed", "").over(&[], None, &at(1)));
        vm.status = Some(read.clone());
        let again = of(&vm, &running(), &Phase::Running, &Own::default(), 20);
        assert_eq!(own_part(&read), again);
    }

    #[test]
    fn a_change_of_the_spec_is_named_by_its_paths() {
        let mut vm = vm("{memory: {size: 2Gi}}");
        let before = merge("web", UID, &serde_yaml_ng::from_str("{memory: {size: 1Gi}}").unwrap(), None, None).unwrap();
        vm.status.as_mut().unwrap().effective = Some(before);
        let status = of(&vm, &running(), &Phase::Running, &Own::default(), 1);
        let condition = condition::find(&status.conditions, RESTART_REQUIRED).unwrap();
        assert_eq!(condition.status, "True");
        assert_eq!(condition.message, "changed, and taken at the next start: spec.memory.size");
        let off = of(&vm, &Seen::Absent, &Phase::Stopped, &Own::default(), 1);
        assert_eq!(reason(&off, RESTART_REQUIRED), ("False", "NotRunning"));
        assert_eq!((off.effective, off.domain), (None, None));
    }

    #[test]
    fn what_a_restart_does_not_bring_is_told_apart() {
        let mut vm = vm("{memory: {size: 2Gi}, cpu: {request: '1'}, placement: {nodeSelector: {disk: ssd}}}");
        let before = merge("web", UID, &serde_yaml_ng::from_str("{memory: {size: 1Gi}}").unwrap(), None, None).unwrap();
        vm.status.as_mut().unwrap().effective = Some(before);
        let status = of(&vm, &running(), &Phase::Running, &Own::default(), 1);
        let condition = condition::find(&status.conditions, RESTART_REQUIRED).unwrap();
        assert_eq!(
            condition.message,
            "changed, and taken at the next start: spec.cpu.request, spec.memory.size, spec.placement.nodeSelector"
        );
    }

    #[test]
    fn while_libvirt_is_away_the_domain_is_not_denied() {
        let mut vm = vm("{memory: {size: 1Gi}}");
        let before = of(&vm, &running(), &Phase::Running, &Own::default(), 1);
        vm.status = Some(before.clone());
        let away = Seen::Unreachable("no socket".into());
        let status = of(&vm, &away, &Phase::Unreachable("no socket".into()), &Own::default(), 2);
        assert_eq!((&status.domain, &status.effective), (&before.domain, &before.effective));
        assert_eq!(reason(&status, READY), ("Unknown", "LibvirtUnavailable"));
        assert_eq!(reason(&status, RESTART_REQUIRED), ("Unknown", "LibvirtUnavailable"));
        assert_eq!(status.printable_status.as_deref(), Some("Unknown"));
    }

    #[test]
    fn a_deleted_vm_says_when_nothing_is_left() {
        let mut vm = vm("{memory: {size: 1Gi}}");
        vm.metadata.deletion_timestamp = Some(at(1));
        let own = Own { host_released: true, ..Default::default() };
        let status = of(&vm, &Seen::Absent, &Phase::Gone, &own, 2);
        assert_eq!(reason(&status, HOST_RELEASED), ("True", "Released"));
        assert_eq!(status.printable_status.as_deref(), Some("Terminating"));
        let before = of(&vm, &running(), &Phase::Stopping, &Own::default(), 2);
        assert_eq!(condition::find(&before.conditions, HOST_RELEASED), None);
    }

    #[test]
    fn interfaces_without_addresses_are_named() {
        let vm = vm("{memory: {size: 1Gi}, networks: [{name: lan, network: {name: a}}]}");
        let status = of(&vm, &Seen::Ours(Found::of(1, 3, DomainState::Shutoff)), &Phase::Stopped, &Own::default(), 1);
        assert_eq!(status.interfaces[0].name, "lan");
        assert!(status.interfaces[0].addresses.is_empty());
        assert_eq!(reason(&status, ADDRESSES_KNOWN), ("False", "NotRunning"));
    }
}
