//! Devices of a host: which are there, and which another VM has.

use std::collections::HashMap;

use super::claims::OnHost;
use super::{Offer, Refusal, Why};
use crate::hypervisor::HostDevice;
use crate::requirements::{DeviceNeed, Requirements};

/// Who has a device: a VM by name, or the one that asks.
type Owner<'a> = Option<&'a str>;

/// Each device that the VM needs is there, and free.
pub(super) fn check(needs: &Requirements, claims: OnHost<'_>, offer: &Offer) -> Result<(), Refusal> {
    if needs.devices.is_empty() {
        return Ok(());
    }
    // A domain that was imported has its devices already, and is the VM itself.
    let foreign = |index: usize| used_by(offer, index).filter(|_| needs.home.is_none());
    let held = (0..offer.devices.len()).filter_map(|index| Some((index, Some(foreign(index)?))));
    let mut given: HashMap<usize, Owner<'_>> = held.collect();
    for claim in claims.devices() {
        for device in by_address_first(&claim.devices) {
            give(offer, device, Some(claim.vm.as_str()), &mut given);
        }
    }
    for device in by_address_first(&needs.devices) {
        let all: Vec<usize> = matching(offer, device).collect();
        if all.is_empty() {
            return Err(missing(offer, device));
        }
        let nearby =
            |index: &usize| (0..offer.devices.len()).filter(|other| together(offer, *index, *other)).find_map(foreign);
        let domains: Option<Vec<&str>> = all.iter().map(nearby).collect();
        if let Some(domain) = domains.as_ref().and_then(|domains| domains.first()) {
            let message = format!(
                "the domain {domain} of the host has its {}: shut that domain down, or use another device",
                called(device)
            );
            return Err(Refusal::lasting(Why::Device, message));
        }
        if !give(offer, device, None, &mut given) {
            let holder = all.iter().find_map(|index| holder(offer, *index, &given).flatten());
            return Err(taken(device, holder));
        }
    }
    Ok(())
}

/// The domain without a placement pod that has the device.
fn used_by(offer: &Offer, index: usize) -> Option<&str> {
    offer.devices.get(index)?.used_by.as_deref()
}

/// A device that is named by what it is takes what those that are named by their place leave.
fn by_address_first(devices: &[DeviceNeed]) -> impl Iterator<Item = &DeviceNeed> {
    let (placed, kinds): (Vec<_>, Vec<_>) = devices.iter().partition(|device| device.address.is_some());
    placed.into_iter().chain(kinds)
}

/// Gives away the first that is free.
fn give<'a>(offer: &Offer, need: &DeviceNeed, to: Owner<'a>, given: &mut HashMap<usize, Owner<'a>>) -> bool {
    let free =
        |index: &usize| !given.contains_key(index) && holder(offer, *index, given).is_none_or(|holder| holder == to);
    let found = matching(offer, need).find(free);
    found.is_some_and(|index| given.insert(index, to).is_none())
}

/// Who has the device, or another one that can only be given away together with it.
fn holder<'a>(offer: &Offer, index: usize, given: &HashMap<usize, Owner<'a>>) -> Option<Owner<'a>> {
    given.iter().find(|(other, _)| together(offer, index, **other)).map(|(_, owner)| *owner)
}

/// Whether two devices are one, or of one IOMMU group.
fn together(offer: &Offer, index: usize, other: usize) -> bool {
    let group = |index: usize| offer.devices.get(index).and_then(|device| device.iommu_group);
    other == index || group(index).is_some() && group(index) == group(other)
}

fn matching<'a>(offer: &'a Offer, need: &'a DeviceNeed) -> impl Iterator<Item = usize> + 'a {
    offer.devices.iter().enumerate().filter(|(_, device)| is_it(device, need)).map(|(index, _)| index)
}

fn is_it(device: &HostDevice, need: &DeviceNeed) -> bool {
    let same = |wanted: &Option<String>, is: Option<&str>| {
        wanted.as_deref().is_none_or(|wanted| is.is_some_and(|is| is.eq_ignore_ascii_case(wanted)))
    };
    device.bus == need.bus
        && same(&need.address, Some(&device.address))
        && same(&need.vendor_id, device.vendor_id.as_deref())
        && same(&need.product_id, device.product_id.as_deref())
}

fn called(device: &DeviceNeed) -> String {
    let product = match (&device.vendor_id, &device.product_id) {
        (Some(vendor), Some(product)) => Some(format!("{vendor}:{product}")),
        (one, other) => one.clone().or_else(|| other.clone()),
    };
    let which: Vec<String> = device.address.clone().into_iter().chain(product).collect();
    format!("{:?} device {}", device.bus, which.join(" "))
}

fn missing(offer: &Offer, device: &DeviceNeed) -> Refusal {
    let called = called(device);
    let message = if offer.capabilities.is_none() && offer.devices.is_empty() {
        format!("its executor does not tell whether it has the {called}: upgrade the executor")
    } else if offer.unlisted_devices > 0 {
        format!(
            "it does not tell of the {called}, and its Hypervisor leaves out {} devices: see status.devices there",
            offer.unlisted_devices
        )
    } else {
        format!("it does not have the {called}: status.devices of its Hypervisor lists those that it has")
    };
    Refusal::lasting(Why::Device, message)
}

fn taken(device: &DeviceNeed, holder: Option<&str>) -> Refusal {
    let called = called(device);
    match holder {
        Some(vm) => Refusal {
            why: Why::Device,
            resolvable: true,
            message: format!("the VM {vm} has its {called}: stop that VM, or use another device"),
        },
        None => Refusal::lasting(
            Why::Device,
            format!("the VM asks for the {called} more often than it is there: remove one from the VM"),
        ),
    }
}
