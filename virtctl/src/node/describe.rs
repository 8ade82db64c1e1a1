//! The text of `node describe`: whether the host can be used, how full it is, what it gives to guests, what is on it. Pure.

use std::collections::BTreeMap;

use k8s_openapi::jiff::Timestamp;
use kube::ResourceExt as _;
use kubevmm_api::condition::{self, READY};
use kubevmm_api::hypervisor::{DeviceBus, HostCapabilities, HostDevice, HostImage, HypervisorStatus, NumaCell};
use kubevmm_api::{Hypervisor, Quantity, VirtualMachine};

use super::{Cordons, problems, qualified, state};
use crate::describe::{conditions, field, section};
use crate::domains;
use crate::error::one_line;
use crate::hardware::word;
use crate::program;
use crate::table::{NONE, cell};

/// Columns that a folded list fills.
const WIDTH: usize = 100;
/// Where values begin.
const INDENT: usize = 18;

/// Describes a host. `vms` are all that are known, to tell observed domains from foreign ones.
pub(crate) fn text(hypervisor: &Hypervisor, vms: &[VirtualMachine], cordons: &Cordons, now: Timestamp) -> String {
    let status = hypervisor.status.clone().unwrap_or_default();
    let mut out = String::new();
    identity(&mut out, hypervisor, &status, cordons);
    fullness(&mut out, hypervisor, &status);
    capabilities(&mut out, &status.capabilities.clone().unwrap_or_default());
    let rows: Vec<_> = status.numa.iter().map(cell_row).collect();
    section(&mut out, "NUMA cells", &["CELL", "CPUS", "MEMORY", "HUGE PAGES"], &rows);
    storage(&mut out, &status);
    networks(&mut out, &status);
    devices(&mut out, &status);
    domains_by_kind(&mut out, hypervisor, &status, vms);
    conditions(&mut out, &status.conditions, now);
    out
}

fn identity(out: &mut String, hypervisor: &Hypervisor, status: &HypervisorStatus, cordons: &Cordons) {
    field(out, "Name", &hypervisor.name_any());
    field(out, "Status", &state(hypervisor, cordons));
    if let Some(ready) = condition::find(&status.conditions, READY).filter(|ready| ready.status != "True") {
        field(out, "Why not ready", &format!("{} ({})", one_line(&ready.message), ready.reason));
    }
    if hypervisor.spec.maintenance {
        field(out, "Maintenance", "no VM is placed or started here; what runs goes on");
    }
    if matches!(cordons, Cordons::Unknown) {
        field(out, "Cordoned", "unknown");
    }
    let problems = problems(hypervisor);
    field(out, "Problems", &cell(Some(&problems.join("; "))));
    let version = |version: &Option<String>| version.clone().unwrap_or_else(|| "unknown".into());
    let of = |text: &Option<String>, form: fn(&str) -> String| text.as_deref().map(form).unwrap_or_default();
    let libvirt = version(&status.libvirt_version);
    let driver = of(&status.driver, |driver| format!(", driver {driver}"));
    field(out, "Libvirt", &format!("{libvirt}{driver}{}", of(&status.uri, |uri| format!(", {uri}"))));
    field(out, "QEMU", &version(&status.hypervisor_version));
    field(out, "Architecture", &version(&status.architecture));
    let accelerator = status.accelerator.as_ref();
    let accelerator = accelerator.map(|it| format!("{} ({})", word(&it.kind), one_line(&it.evidence)));
    field(out, "Accelerator", &cell(accelerator.as_deref()));
}

fn fullness(out: &mut String, hypervisor: &Hypervisor, status: &HypervisorStatus) {
    let text = |value: Option<String>| value.unwrap_or_else(|| NONE.into());
    let reserved = hypervisor.spec.system_reserved.as_ref();
    let (allocatable, used, unmanaged) = (status.allocatable.as_ref(), status.used.as_ref(), status.unmanaged.as_ref());
    let rows = [
        vec![
            "CPU".into(),
            text(status.cpus.map(|cpus| cpus.to_string())),
            text(reserved.and_then(|reserved| reserved.cpu.as_ref()).map(ToString::to_string)),
            text(allocatable.map(|it| it.cpu.to_string())),
            String::new(),
            String::new(),
        ],
        vec![
            "vCPUs".into(),
            String::new(),
            String::new(),
            allocatable.map_or(NONE.into(), |it| it.vcpus.map_or("no limit".into(), |limit| limit.to_string())),
            text(used.map(|it| it.vcpus.to_string())),
            text(unmanaged.map(|it| it.vcpus.to_string())),
        ],
        vec![
            "memory".into(),
            text(status.memory.as_ref().map(size)),
            text(reserved.and_then(|reserved| reserved.memory.as_ref()).map(size)),
            text(allocatable.map(|it| size(&it.memory))),
            text(used.map(|it| size(&it.memory))),
            text(unmanaged.map(|it| size(&it.memory))),
        ],
        vec![
            "domains".into(),
            String::new(),
            String::new(),
            String::new(),
            text(used.map(|it| it.domains.to_string())),
            text(unmanaged.map(|it| it.domains.to_string())),
        ],
    ];
    let headers = ["", "HOST", "RESERVED", "ALLOCATABLE", "USED", "OF IT UNMANAGED"];
    section(out, "Resources", &headers, &rows);
}

/// A size for people; one that cannot be read as it is.
fn size(quantity: &Quantity) -> String {
    quantity.bytes().map_or_else(|_| quantity.to_string(), Quantity::approximately)
}

fn capabilities(out: &mut String, found: &HostCapabilities) {
    let vendor = found.cpu.vendor.as_deref().map(|vendor| format!(" ({vendor})")).unwrap_or_default();
    field(out, "CPU", &format!("{}{vendor}", found.cpu.model.as_deref().unwrap_or("unknown")));
    folded(out, "CPU models", &found.cpu.models);
    folded(out, "CPU features", &found.cpu.features);
    folded(out, "Machines", &found.machines);
    folded(out, "Firmware", &found.firmwares);
    folded(out, "TPM", &found.tpm_backends);
    let migration = found.migration.as_ref().map(|migration| {
        let live = if migration.live { "live" } else { "not while it runs" };
        match migration.transports.as_slice() {
            [] => live.to_owned(),
            transports => format!("{live}, by {}", transports.join(", ")),
        }
    });
    field(out, "Migration", migration.as_deref().unwrap_or("unknown"));
}

/// A list on as many lines as it needs, with its length.
fn folded(out: &mut String, label: &str, items: &[String]) {
    if items.is_empty() {
        return field(out, label, NONE);
    }
    let mut lines = vec![String::new()];
    for (at, item) in items.iter().enumerate() {
        let item = if at + 1 < items.len() { format!("{item},") } else { item.clone() };
        match lines.last_mut() {
            Some(line) if line.is_empty() => line.push_str(&item),
            Some(line) if INDENT + line.chars().count() + 1 + item.chars().count() <= WIDTH => {
                line.push(' ');
                line.push_str(&item);
            }
            _ => lines.push(item),
        }
    }
    field(out, label, &lines.join(&format!("\n{}", " ".repeat(INDENT))));
}

fn cell_row(cell: &NumaCell) -> Vec<String> {
    let pages: Vec<_> = cell.huge_pages.iter().map(|pages| format!("{} of {}", pages.total, pages.size)).collect();
    let pages = if pages.is_empty() { NONE.to_owned() } else { pages.join(", ") };
    vec![cell.id.to_string(), cell.cpus.clone(), size(&cell.memory), pages]
}

/// Whether something can be used, and why not.
fn usable(ready: bool, reason: Option<&str>, message: Option<&str>) -> [String; 2] {
    let state = if ready { "ready" } else { reason.unwrap_or("not ready") };
    [state.to_owned(), one_line(message.unwrap_or_default())]
}

fn storage(out: &mut String, status: &HypervisorStatus) {
    let rows: Vec<_> = status
        .pools
        .iter()
        .map(|pool| {
            let bytes = |quantity: &Option<Quantity>| quantity.as_ref().map_or(NONE.into(), size);
            let [state, message] = usable(pool.ready, pool.reason.as_deref(), pool.message.as_deref());
            vec![pool.name.clone(), state, bytes(&pool.available), bytes(&pool.capacity), message]
        })
        .collect();
    section(out, "Pools", &["NAME", "STATE", "FREE", "SIZE", "MESSAGE"], &rows);
    let rows: Vec<_> = status.images.iter().map(image_row).collect();
    section(out, "Images", &["NAME", "POOL", "STATE", "SIZE", "MESSAGE"], &rows);
}

fn image_row(image: &HostImage) -> Vec<String> {
    let percent = image.percent.map(|percent| format!(" {percent}%")).unwrap_or_default();
    vec![
        qualified(image.namespace.as_deref(), &image.name),
        image.pool_name.clone(),
        format!("{}{percent}", word(&image.state)),
        image.virtual_size.as_ref().map_or(NONE.into(), size),
        one_line(image.message.as_deref().unwrap_or_default()),
    ]
}

fn networks(out: &mut String, status: &HypervisorStatus) {
    let rows: Vec<_> = status
        .networks
        .iter()
        .map(|network| {
            let [state, message] = usable(network.ready, network.reason.as_deref(), network.message.as_deref());
            vec![qualified(network.namespace.as_deref(), &network.name), state, message]
        })
        .collect();
    section(out, "Networks", &["NAME", "STATE", "MESSAGE"], &rows);
}

fn devices(out: &mut String, status: &HypervisorStatus) {
    let rows: Vec<_> = status.devices.iter().map(device_row).collect();
    section(out, "Devices", &["BUS", "ADDRESS", "ID", "DESCRIPTION", "IOMMU GROUP", "MORE"], &rows);
    if let Some(more) = status.unlisted_device_count {
        field(out, "Other devices", &format!("{more} more are not listed"));
    }
}

fn device_row(device: &HostDevice) -> Vec<String> {
    let id = device.vendor_id.as_ref().zip(device.product_id.as_ref()).map(|(vendor, id)| format!("{vendor}:{id}"));
    let functions = device.max_virtual_functions.map(|most| format!("up to {most} virtual functions"));
    let parent = device.parent.as_ref().map(|parent| match device.bus {
        DeviceBus::MDEV => format!("made by {parent}"),
        DeviceBus::PCI | DeviceBus::USB => format!("virtual function of {parent}"),
    });
    let types = (!device.mdev_types.is_empty()).then(|| format!("mediated: {}", device.mdev_types.join(", ")));
    let used = device.used_by.as_ref().map(|domain| format!("the domain {domain} has it"));
    let more: Vec<_> = [used, functions, parent, types].into_iter().flatten().collect();
    vec![
        word(&device.bus),
        device.address.clone(),
        cell(id.as_deref()),
        cell(device.description.as_deref()),
        device.iommu_group.map_or(NONE.into(), |group| group.to_string()),
        more.join("; "),
    ]
}

fn domains_by_kind(out: &mut String, hypervisor: &Hypervisor, status: &HypervisorStatus, vms: &[VirtualMachine]) {
    let host = domains::Host::of(hypervisor, vms);
    let mut counts = BTreeMap::<String, i32>::new();
    for kind in host.kinds() {
        *counts.entry(kind.to_lowercase()).or_default() += 1;
    }
    // What is not listed has no mark.
    if let Some(more) = status.unlisted_count.filter(|more| *more > 0) {
        *counts.entry("foreign".into()).or_default() += more;
    }
    let counts: Vec<_> = counts.into_iter().map(|(kind, count)| format!("{count} {kind}")).collect();
    let text = match counts.as_slice() {
        [] => NONE.to_owned(),
        counts => {
            let how = format!("`{} domains --node {}` lists them", program(), hypervisor.name_any());
            format!("{} ({how})", counts.join(", "))
        }
    };
    field(out, "Domains", &text);
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;

    use super::*;
    use crate::testing::{documents, golden, now};

    fn describe(at: usize) -> String {
        let cordons = Cordons::Known(BTreeSet::from(["h2".into()]));
        text(&documents::<Hypervisor>("nodes.yaml")[at], &[], &cordons, now())
    }

    #[test]
    fn a_host_with_all_that_there_is() {
        golden("node-describe.txt", &describe(0));
    }

    #[test]
    fn a_host_whose_libvirt_is_away() {
        golden("node-describe-away.txt", &describe(1));
    }

    #[test]
    fn a_host_of_which_nothing_is_known() {
        golden("node-describe-unknown.txt", &describe(2));
    }

    #[test]
    fn long_lists_are_folded() {
        let mut out = String::new();
        let items: Vec<_> = (0..60).map(|n| format!("model-{n}")).collect();
        folded(&mut out, "CPU models", &items);
        assert!(out.lines().count() > 5, "{out}");
        assert!(out.lines().all(|line| line.chars().count() <= WIDTH), "{out}");
        assert!(out.ends_with("model-59\n"), "{out}");
    }
}
