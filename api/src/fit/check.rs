//! The filters, in the order in which they are asked: the later one refuses, the nearer is the miss.

use super::claims::OnHost;
use super::{HostFacts, Offer, Refusal, Why, devices};
use crate::Quantity;
use crate::hypervisor::HostCapabilities;
use crate::requirements::{NetworkNeed, PoolNeed, Requirements};

/// The machine types and the firmware that each x86 host has: a host that has yet to tell can have a VM with them.
const USUAL_MACHINES: [&str; 2] = ["q35", "pc"];
const USUAL_FIRMWARE: &str = "bios";

/// Whether the host can take a VM with these needs.
///
/// # Errors
/// The first of the filters that says no.
pub fn check(needs: &Requirements, host: &HostFacts<'_>) -> Result<(), Refusal> {
    let offer = ready(host)?;
    accelerator(needs, offer)?;
    cpu(needs, offer)?;
    machine(needs, offer)?;
    firmware(needs, offer)?;
    tpm(needs, offer)?;
    needs.pools.iter().try_for_each(|pool| has_pool(pool, offer))?;
    needs.networks.iter().try_for_each(|network| has_network(network, offer))?;
    at_home(needs, host)?;
    let claims = host.claims.on(host.name, host.apart_from);
    devices::check(needs, claims, offer)?;
    needs.pools.iter().try_for_each(|pool| has_space(pool, claims, offer))?;
    free_cpu(needs, claims, offer)
}

fn ready<'a>(host: &HostFacts<'a>) -> Result<&'a Offer, Refusal> {
    let Some(offer) = host.offer else {
        let message = "no executor runs there: it has no Hypervisor (kubectl get hv)";
        return Err(Refusal::lasting(Why::NotReady, message));
    };
    if let Some(why) = &offer.not_ready {
        return Err(Refusal::lasting(Why::NotReady, why.clone()));
    }
    if !host.live {
        return Err(Refusal::lasting(Why::Silent, "its executor does not answer: bring the host back"));
    }
    if offer.maintenance {
        let message = "it is in maintenance: an administrator can set spec.maintenance of its Hypervisor to false";
        return Err(Refusal::lasting(Why::Maintenance, message));
    }
    Ok(offer)
}

fn accelerator(needs: &Requirements, offer: &Offer) -> Result<(), Refusal> {
    if !needs.kvm || offer.has_kvm() {
        return Ok(());
    }
    let message = match &offer.accelerator {
        Some(accelerator) => format!(
            "the VM's domain is one of KVM, and the host has none ({}): switch virtualisation on in its firmware, or \
             remove type: kvm from spec.domain",
            accelerator.evidence
        ),
        None => "the VM's domain is one of KVM, and the executor has not told whether the host has it".to_owned(),
    };
    Err(Refusal::lasting(Why::Kvm, message))
}

fn untold(why: Why, what: &str) -> Refusal {
    let message = format!("its executor does not tell whether it has {what}: upgrade the executor");
    Refusal::lasting(why, message)
}

fn told<'a>(offer: &'a Offer, why: Why, what: &str) -> Result<&'a HostCapabilities, Refusal> {
    offer.capabilities.as_deref().ok_or_else(|| untold(why, what))
}

fn has(sorted: &[String], wanted: &str) -> bool {
    sorted.binary_search_by(|one| one.as_str().cmp(wanted)).is_ok()
}

fn cpu(needs: &Requirements, offer: &Offer) -> Result<(), Refusal> {
    if let Some(model) = &needs.cpu_model {
        let cpu = &told(offer, Why::Cpu, &format!("the CPU model {model}"))?.cpu;
        // The model that is nearest to the host's CPU may be one that it lacks something of.
        let is_own = cpu.models.is_empty() && cpu.model.as_ref() == Some(model);
        if !is_own && !has(&cpu.models, model) {
            let is = cpu.model.as_ref().map(|own| format!(" (it is nearest to a {own})")).unwrap_or_default();
            let message = format!(
                "its CPU cannot be a {model}{is}: choose a model that status.capabilities.cpu.models of a Hypervisor lists"
            );
            return Err(Refusal::lasting(Why::Cpu, message));
        }
    }
    // Hosts that tell no feature do not know them.
    let known = offer.capabilities.as_deref().map(|told| told.cpu.features.as_slice()).unwrap_or_default();
    let missing: Vec<&str> = needs
        .cpu_features
        .iter()
        .map(String::as_str)
        .filter(|feature| !known.is_empty() && !has(known, feature))
        .collect();
    if missing.is_empty() {
        return Ok(());
    }
    let message = format!("its CPU does not have {}: remove what can be missed from the VM's CPU", missing.join(", "));
    Err(Refusal::lasting(Why::Cpu, message))
}

fn machine(needs: &Requirements, offer: &Offer) -> Result<(), Refusal> {
    let Some(machine) = needs.machine.as_deref() else { return Ok(()) };
    let machines = offer.capabilities.as_deref().map(|told| told.machines.as_slice()).unwrap_or_default();
    if machines.is_empty() {
        let what = format!("the machine type {machine}");
        return if USUAL_MACHINES.contains(&machine) { Ok(()) } else { Err(untold(Why::Machine, &what)) };
    }
    if has(machines, machine) {
        return Ok(());
    }
    let message = format!(
        "its QEMU does not know the machine type {machine}: choose one that status.capabilities.machines of a Hypervisor \
         lists, or upgrade its QEMU"
    );
    Err(Refusal::lasting(Why::Machine, message))
}

fn firmware(needs: &Requirements, offer: &Offer) -> Result<(), Refusal> {
    let Some(firmware) = needs.firmware.as_deref() else { return Ok(()) };
    let firmwares = offer.capabilities.as_deref().map(|told| told.firmwares.as_slice()).unwrap_or_default();
    if has(firmwares, firmware) {
        return Ok(());
    }
    if firmwares.is_empty() {
        let what = format!("the firmware {firmware}");
        return if firmware == USUAL_FIRMWARE { Ok(()) } else { Err(untold(Why::Firmware, &what)) };
    }
    let message = format!(
        "it does not have the firmware {firmware} ({} only): install it there (for UEFI the package ovmf or edk2)",
        firmwares.join(", ")
    );
    Err(Refusal::lasting(Why::Firmware, message))
}

fn tpm(needs: &Requirements, offer: &Offer) -> Result<(), Refusal> {
    let Some(backend) = needs.tpm_backend.as_deref() else { return Ok(()) };
    if has(&told(offer, Why::Tpm, &format!("a TPM of the kind {backend}"))?.tpm_backends, backend) {
        return Ok(());
    }
    let hint = if backend == "emulator" { ": install swtpm there" } else { "" };
    Err(Refusal::lasting(Why::Tpm, format!("it has no TPM of the kind {backend}{hint}")))
}

fn has_pool(need: &PoolNeed, offer: &Offer) -> Result<(), Refusal> {
    let name = &need.name;
    let message = match offer.pools.iter().find(|pool| *pool.name == **name && *pool.uid == *need.uid) {
        Some(pool) => match &pool.not_ready {
            None => return Ok(()),
            Some(why) => format!("pool {name}: {why}"),
        },
        None => format!(
            "it does not have the pool {name}: spec.nodeSelector of the VirtualMachineStoragePool says which hosts have it"
        ),
    };
    Err(Refusal::lasting(Why::Pool, message))
}

fn has_network(need: &NetworkNeed, offer: &Offer) -> Result<(), Refusal> {
    let name = &need.name;
    let found = offer.networks.iter().find(|network| {
        network.kind == need.kind
            && *network.name == **name
            && network.namespace.as_deref() == need.namespace.as_deref()
            && *network.uid == *need.uid
    });
    let message = match found {
        Some(network) => match &network.not_ready {
            None => return Ok(()),
            Some(why) => format!("network {name}: {why}"),
        },
        None if need.everywhere => return Ok(()),
        None => {
            format!("it does not have the network {name}: make the network or the bridge there, or use another one")
        }
    };
    Err(Refusal::lasting(Why::Network, message))
}

fn at_home(needs: &Requirements, host: &HostFacts<'_>) -> Result<(), Refusal> {
    if let Some(home) = needs.home.as_deref().filter(|home| *home != host.name) {
        let message = format!("the VM is an imported one, which stays on its host {home}");
        return Err(Refusal::lasting(Why::Home, message));
    }
    if let Some(node) = needs.state_node.as_deref().filter(|node| *node != host.name) {
        let message = format!("the variables of the VM's UEFI, or the state of its TPM, lie on {node}");
        return Err(Refusal::lasting(Why::Data, message));
    }
    match needs.local_disks.iter().find(|disk| disk.node != host.name) {
        None => Ok(()),
        Some(disk) => {
            let message = format!("the volume of the disk {} lies on {}", disk.name, disk.node);
            Err(Refusal::lasting(Why::Data, message))
        }
    }
}

fn has_space(need: &PoolNeed, claims: OnHost<'_>, offer: &Offer) -> Result<(), Refusal> {
    let found = offer.pools.iter().find(|pool| *pool.name == *need.name && *pool.uid == *need.uid);
    let Some(available) = found.and_then(|pool| pool.available).filter(|_| need.bytes > 0) else { return Ok(()) };
    let promised = claims.bytes(&need.uid, need.shared);
    if need.bytes <= available.saturating_sub(promised) {
        return Ok(());
    }
    let of_it = if promised == 0 {
        String::new()
    } else {
        format!(", of which {} are promised to disks of other VMs", size(promised))
    };
    let message = format!(
        "the VM's disks need {} in the pool {}, and it has {} left{of_it}: delete what is not needed there, enlarge the \
         pool, or use another one",
        size(need.bytes),
        need.name,
        size(available)
    );
    Err(Refusal { why: Why::Space, resolvable: need.bytes <= available, message })
}

fn free_cpu(needs: &Requirements, claims: OnHost<'_>, offer: &Offer) -> Result<(), Refusal> {
    let Some(most) = offer.most_vcpus else { return Ok(()) };
    let promised = promised_vcpus(claims, offer);
    let wanted = i64::from(needs.vcpus);
    if promised.saturating_add(wanted) <= most {
        return Ok(());
    }
    let message = format!(
        "the VM has {wanted} vCPUs, and {promised} of the {most} that the host may have are taken: stop a VM there, or \
         raise spec.overcommit.cpu of its Hypervisor"
    );
    Err(Refusal { why: Why::FreeCpu, resolvable: offer.unmanaged_vcpus.saturating_add(wanted) <= most, message })
}

/// Virtual CPUs of what runs there, and of what is to run there. A VM is in both from its start on.
pub(super) fn promised_vcpus(claims: OnHost<'_>, offer: &Offer) -> i64 {
    claims.vcpus().saturating_add(offer.unmanaged_vcpus)
}

/// For people: whole mebibytes.
fn size(bytes: u64) -> Quantity {
    const MEBI: u64 = 1 << 20;
    Quantity::from_bytes(if bytes < MEBI { bytes } else { bytes / MEBI * MEBI })
}
