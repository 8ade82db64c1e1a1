//! The text of `describe`: what the VM is, why it is not ready, where it runs, what it is made of, what happened. Pure.

use std::fmt::Write as _;

use k8s_openapi::api::core::v1::Event;
use k8s_openapi::apimachinery::pkg::apis::meta::v1::Condition;
use k8s_openapi::jiff::Timestamp;
use kubevmm_api::VirtualMachine;
use kubevmm_api::condition::{self, PROVISIONED, READY, RESTART_REQUIRED, SYNCED};
use kubevmm_api::effective;
use kubevmm_api::vm::{DiskStatus, DriftPolicy, HostLink, InterfaceStatus, VirtualMachineStatus};

use crate::error::one_line;
use crate::goal;
use crate::hardware::{self, Catalog, word};
use crate::list::since;
use crate::table::{NONE, cell, render};

/// What is described.
pub(crate) struct Subject<'a> {
    /// The VM.
    pub(crate) vm: &'a VirtualMachine,
    /// Its class and disks.
    pub(crate) catalog: &'a Catalog,
    /// Its events, oldest first; why they could not be read otherwise.
    pub(crate) events: Result<&'a [Event], String>,
    /// The time.
    pub(crate) now: Timestamp,
}

/// Describes.
pub(crate) fn text(subject: &Subject<'_>) -> String {
    let vm = subject.vm;
    let unknown = VirtualMachineStatus::default();
    let status = vm.status.as_ref().unwrap_or(&unknown);
    let mut out = String::new();
    identity(&mut out, vm, subject.now);
    state(&mut out, vm, status, subject.now);
    placement(&mut out, vm, status);
    if vm.spec.observed().is_none() {
        hardware(&mut out, vm, subject.catalog);
    }
    history(&mut out, vm, status, subject.now);
    conditions(&mut out, &status.conditions, subject.now);
    // An observed domain has no objects of ours: what it has stands in the status.
    if vm.spec.observed().is_some() {
        observed_disks(&mut out, status);
        observed_interfaces(&mut out, status);
    } else {
        disks(&mut out, vm, status, subject.catalog);
        interfaces(&mut out, vm, status);
    }
    events(&mut out, subject);
    out
}

/// A line: a label and its value.
pub(crate) fn field(out: &mut String, label: &str, value: &str) {
    let _ = writeln!(out, "{:<18}{value}", format!("{label}:"));
}

/// A table under a label.
pub(crate) fn section(out: &mut String, label: &str, headers: &[&str], rows: &[Vec<String>]) {
    if rows.is_empty() {
        return field(out, label, NONE);
    }
    let _ = writeln!(out, "{label}:");
    out.push_str(&render(headers, rows, 2));
}

fn identity(out: &mut String, vm: &VirtualMachine, now: Timestamp) {
    field(out, "Name", vm.metadata.name.as_deref().unwrap_or_default());
    field(out, "Namespace", vm.metadata.namespace.as_deref().unwrap_or_default());
    let labels: Vec<_> = vm.metadata.labels.iter().flatten().map(|(key, value)| format!("{key}={value}")).collect();
    if !labels.is_empty() {
        field(out, "Labels", &labels.join(", "));
    }
    if let Some(created) = &vm.metadata.creation_timestamp {
        field(out, "Created", &moment(created.0, now));
    }
    if let Some(deleted) = &vm.metadata.deletion_timestamp {
        field(out, "Being deleted", &format!("since {}", moment(deleted.0, now)));
    }
}

fn state(out: &mut String, vm: &VirtualMachine, status: &VirtualMachineStatus, now: Timestamp) {
    let started = status.domain.as_ref().filter(|domain| domain.state.is_active()).and_then(|d| d.start_time.as_ref());
    let started = started.map_or(String::new(), |time| format!(", started {}", moment(time.0, now)));
    field(out, "State", &format!("{}{started}", status.printable_status.as_deref().unwrap_or("Pending")));
    if vm.spec.observed().is_some() {
        field(out, "Management", "Observe: the domain is watched and never changed");
    } else {
        field(out, "Run strategy", &word(&vm.spec.run_strategy));
        if let Some(existing) = &vm.spec.existing_domain {
            field(out, "Management", &format!("Manage: a domain that was there before, of {}", existing.node_name));
        }
        drift(out, vm, status);
    }
    if let Some(c) = condition::find(&status.conditions, RESTART_REQUIRED).filter(|c| c.status == "True") {
        field(out, "Restart needed", &one_line(&c.message));
    }
    if condition::is_true(&status.conditions, READY) {
        field(out, "Ready", "yes");
        return;
    }
    field(out, "Ready", "no");
    match goal::obstacle(status) {
        Some(c) => field(out, "Why not ready", &format!("{} ({} {})", one_line(&c.message), c.type_, c.reason)),
        None => field(out, "Why not ready", &goal::why(vm)),
    }
}

/// What somebody else has changed on the host.
fn drift(out: &mut String, vm: &VirtualMachine, status: &VirtualMachineStatus) {
    let Some(synced) = condition::find(&status.conditions, SYNCED).filter(|c| c.status == "False") else { return };
    let policy = match vm.spec.drift_policy {
        DriftPolicy::Report => "only reported",
        DriftPolicy::Revert => "reverted",
    };
    let text = format!("{} ({}; {policy}: spec.driftPolicy)", one_line(&synced.message), synced.reason);
    field(out, "Drift", &text);
}

fn placement(out: &mut String, vm: &VirtualMachine, status: &VirtualMachineStatus) {
    field(out, "Node", status.node_name.as_deref().unwrap_or(NONE));
    if let Some(placement) = &status.placement {
        let pod = placement.pod_name.as_deref().map_or(String::new(), |pod| format!(", pod {pod}"));
        field(out, "Placement", &format!("epoch {}{pod}", placement.epoch));
    }
    if let Some(domain) = &status.domain {
        let started = if domain.autostart { ", started by libvirt with the host" } else { "" };
        let kept = if domain.transient { ", transient: gone when it stops" } else { "" };
        let state = word(&domain.state);
        field(out, "Domain", &format!("{} ({state}), {}{started}{kept}", domain.name, domain.uuid));
    }
    if let Some(class) = &vm.spec.class_name {
        field(out, "Class", class);
    }
}

fn hardware(out: &mut String, vm: &VirtualMachine, catalog: &Catalog) {
    match hardware::effective(vm, catalog) {
        Some((merged, running)) => {
            let plural = if merged.cores == 1 { "" } else { "s" };
            let when = if running { "as it was started" } else { "for the next start" };
            let (machine, firmware) = (word(&merged.machine), word(&merged.firmware));
            let text =
                format!("{} CPU{plural}, {} memory, {machine}, {firmware} ({when})", merged.cores, merged.memory);
            field(out, "Hardware", &text);
        }
        None => field(out, "Hardware", "unknown: its class is not there or cannot be read"),
    }
    if let Some(image) = hardware::image(vm, catalog) {
        field(out, "Image", &image);
    }
}

fn history(out: &mut String, vm: &VirtualMachine, status: &VirtualMachineStatus, now: Timestamp) {
    if let Some(stop) = &status.last_stop {
        field(out, "Last stop", &format!("{}, {}", word(&stop.reason), moment(stop.time.0, now)));
    }
    if let Some(last) = &status.last_power_request {
        field(out, "Last request", &format!("{}: {} (id {})", word(&last.action), word(&last.result), last.id));
    }
    if let Some(request) = kubevmm_api::power::pending(&vm.spec, status) {
        let force = if request.force { " with force" } else { "" };
        field(out, "Open request", &format!("{}{force}: not answered yet (id {})", word(&request.action), request.id));
    }
}

/// The conditions of an object.
pub(crate) fn conditions(out: &mut String, conditions: &[Condition], now: Timestamp) {
    let rows: Vec<_> = conditions
        .iter()
        .map(|c| {
            let since = since(c.last_transition_time.0, now);
            vec![c.type_.clone(), c.status.clone(), c.reason.clone(), since, one_line(&c.message)]
        })
        .collect();
    section(out, "Conditions", &["TYPE", "STATUS", "REASON", "SINCE", "MESSAGE"], &rows);
}

fn disks(out: &mut String, vm: &VirtualMachine, status: &VirtualMachineStatus, catalog: &Catalog) {
    let name = vm.metadata.name.as_deref().unwrap_or_default();
    let namespace = vm.metadata.namespace.clone().unwrap_or_default();
    let rows: Vec<_> = vm
        .spec
        .disks
        .iter()
        .map(|disk| {
            let object = effective::disk_name(name, disk);
            let seen = status.disks.iter().find(|d| d.name == disk.name);
            let mut row = vec![disk.name.clone(), object.clone(), cell(seen.map(|d| d.target.as_str()))];
            let found = catalog.disks.get(&(namespace.clone(), object));
            let Some(found) = found else {
                let state = if catalog.disks_unknown { "unknown: cannot be read" } else { "no such object" };
                row.extend([NONE, NONE, NONE, NONE, state, NONE].map(String::from));
                return row;
            };
            let state = found.status.clone().unwrap_or_default();
            let size = state.capacity.as_ref().or(found.spec.size.as_ref()).map(ToString::to_string);
            let source = &found.spec.source;
            let source = match (&source.image, &source.existing) {
                (Some(image), _) => format!("image {}", image.name),
                (None, Some(existing)) => format!("volume {}", existing.volume_name),
                (None, None) => "blank".into(),
            };
            row.extend([
                cell(size.as_deref()),
                cell(state.pool_name.as_deref().or(found.spec.pool_name.as_deref())),
                cell(state.node_name.as_deref()),
                source,
                provisioned(&state.conditions),
                cell(seen.and_then(|d| d.source.as_deref())),
            ]);
            row
        })
        .collect();
    let headers = ["NAME", "DISK", "TARGET", "SIZE", "POOL", "NODE", "SOURCE", "STATE", "ON THE HOST"];
    section(out, "Disks", &headers, &rows);
}

fn observed_disks(out: &mut String, status: &VirtualMachineStatus) {
    let row = |disk: &DiskStatus| {
        let volume = disk.volume.as_ref().map(|volume| format!("{}/{}", volume.libvirt_pool, volume.name));
        let (kind, format, source) = (disk.kind.as_deref(), disk.format.as_deref(), disk.source.as_deref());
        vec![disk.name.clone(), disk.target.clone(), cell(kind), cell(format), cell(source), cell(volume.as_deref())]
    };
    let rows: Vec<_> = status.disks.iter().map(row).collect();
    section(out, "Disks", &["NAME", "TARGET", "TYPE", "FORMAT", "SOURCE", "VOLUME"], &rows);
}

fn provisioned(conditions: &[Condition]) -> String {
    match condition::find(conditions, PROVISIONED) {
        Some(c) if c.status == "True" => "provisioned".into(),
        Some(c) => format!("{}: {}", c.reason, one_line(&c.message)),
        None => "not provisioned yet".into(),
    }
}

fn interfaces(out: &mut String, vm: &VirtualMachine, status: &VirtualMachineStatus) {
    let rows: Vec<_> = vm
        .spec
        .networks
        .iter()
        .map(|nic| {
            let network =
                nic.network.as_ref().map_or("the default one".into(), |n| format!("{}/{}", word(&n.kind), n.name));
            let seen = status.interfaces.iter().find(|seen| seen.name == nic.name);
            let mac = seen.map(|seen| seen.mac_address.as_str()).or(nic.mac_address.as_deref());
            let source = seen.and_then(|seen| seen.source).map(|source| word(&source));
            let addresses = seen.map(|seen| seen.addresses.join(", "));
            vec![
                nic.name.clone(),
                network,
                link(seen),
                word(&nic.model),
                cell(mac),
                cell(addresses.as_deref()),
                cell(source.as_deref()),
            ]
        })
        .collect();
    let headers = ["NAME", "NETWORK", "CONNECTED TO", "MODEL", "MAC", "ADDRESSES", "KNOWN FROM"];
    section(out, "Interfaces", &headers, &rows);
}

/// What an interface is connected to on its host.
fn link(seen: Option<&InterfaceStatus>) -> String {
    match seen.and_then(|seen| seen.connected_to.as_ref()) {
        Some(HostLink { libvirt_network: Some(network), .. }) => format!("libvirt network {network}"),
        Some(HostLink { bridge: Some(bridge), .. }) => format!("bridge {bridge}"),
        _ => NONE.into(),
    }
}

fn observed_interfaces(out: &mut String, status: &VirtualMachineStatus) {
    let row = |nic: &InterfaceStatus| {
        let source = nic.source.map(|source| word(&source));
        let addresses = nic.addresses.join(", ");
        vec![
            nic.name.clone(),
            link(Some(nic)),
            nic.mac_address.clone(),
            cell(Some(&addresses)),
            cell(source.as_deref()),
        ]
    };
    let rows: Vec<_> = status.interfaces.iter().map(row).collect();
    section(out, "Interfaces", &["NAME", "CONNECTED TO", "MAC", "ADDRESSES", "KNOWN FROM"], &rows);
}

fn events(out: &mut String, subject: &Subject<'_>) {
    let events = match &subject.events {
        Ok(events) => events,
        Err(why) => return field(out, "Events", &format!("unknown: {why}")),
    };
    let rows: Vec<_> = events
        .iter()
        .map(|event| {
            let times = count(event);
            let age = last_seen(event).map_or(NONE.into(), |time| since(time, subject.now));
            let age = if times > 1 { format!("{age} (x{times})") } else { age };
            let from = event.reporting_component.as_deref().filter(|from| !from.is_empty());
            let from = from.or_else(|| event.source.as_ref()?.component.as_deref());
            vec![
                age,
                cell(event.type_.as_deref()),
                cell(event.reason.as_deref()),
                cell(from),
                one_line(event.message.as_deref().unwrap_or_default()),
            ]
        })
        .collect();
    section(out, "Events", &["AGE", "TYPE", "REASON", "FROM", "MESSAGE"], &rows);
}

fn count(event: &Event) -> i32 {
    event.series.as_ref().and_then(|series| series.count).or(event.count).unwrap_or(1)
}

/// When an event was last seen: the two APIs of events keep it in different fields.
pub(crate) fn last_seen(event: &Event) -> Option<Timestamp> {
    let series = event.series.as_ref().and_then(|series| series.last_observed_time.as_ref()).map(|time| time.0);
    let time = event.last_timestamp.as_ref().or(event.first_timestamp.as_ref()).map(|time| time.0);
    let created = event.metadata.creation_timestamp.as_ref().map(|time| time.0);
    series.or(time).or(event.event_time.as_ref().map(|time| time.0)).or(created)
}

fn moment(time: Timestamp, now: Timestamp) -> String {
    format!("{} ago ({})", since(time, now), Timestamp::from_second(time.as_second()).unwrap_or(time))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::testing::{catalog, documents, golden, now, vms};

    fn describe(index: usize, events: Result<&[Event], String>) -> String {
        text(&Subject { vm: &vms()[index], catalog: &catalog(), events, now: now() })
    }

    #[test]
    fn a_running_vm() {
        golden("describe-running.txt", &describe(0, Ok(&documents::<Event>("events.yaml"))));
    }

    #[test]
    fn a_vm_that_waits_for_a_disk() {
        golden("describe-pending.txt", &describe(1, Ok(&[])));
    }

    #[test]
    fn a_vm_that_is_only_watched() {
        let vm = documents("observed.yaml").remove(0);
        let subject = Subject { vm: &vm, catalog: &catalog(), events: Ok(&[]), now: now() };
        golden("describe-observed.txt", &text(&subject));
    }

    #[test]
    fn a_domain_that_somebody_else_has_changed() {
        let mut vm = documents::<VirtualMachine>("observed.yaml").remove(1);
        let observed = text(&Subject { vm: &vm, catalog: &catalog(), events: Ok(&[]), now: now() });
        assert!(observed.contains("started by libvirt with the host, transient: gone when it stops"), "{observed}");
        vm.spec.management = kubevmm_api::vm::Management::Manage;
        let changed = "{type: Synced, status: 'False', reason: DomainChanged, message: 'memory: 2 became 3', \
                       lastTransitionTime: '2026-05-01T10:00:00Z'}";
        vm.status.as_mut().unwrap().conditions.push(serde_yaml_ng::from_str(changed).unwrap());
        let text = text(&Subject { vm: &vm, catalog: &catalog(), events: Ok(&[]), now: now() });
        assert!(text.contains("Management:       Manage: a domain that was there before, of h1\n"), "{text}");
        let drift = "Drift:            memory: 2 became 3 (DomainChanged; only reported: spec.driftPolicy)\n";
        assert!(text.contains(drift), "{text}");
    }

    #[test]
    fn a_vm_of_which_nothing_is_known() {
        golden("describe-unknown.txt", &describe(2, Err("events is forbidden".into())));
    }
}
