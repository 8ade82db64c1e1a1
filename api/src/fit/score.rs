//! How well a host suits a VM that it can take.

use serde::{Deserialize, Serialize};

use super::{HostFacts, Offer, check::promised_vcpus};
use crate::requirements::Requirements;

/// Whether VMs are spread over the hosts or packed on few.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub enum Policy {
    /// The emptiest host is the best.
    #[default]
    Spread,
    /// The fullest is.
    Pack,
}

/// What each part counts; together 100.
const IMAGES: f64 = 40.0;
const LAST_NODE: f64 = 20.0;
const POLICY: f64 = 30.0;
const BALANCE: f64 = 10.0;

/// How well the host suits, 0 to 100: its pools have the images that disks are to be made from; the VM was there
/// before; how full the host would be with it, by the policy; and whether CPU and memory would be equally full.
pub fn score(needs: &Requirements, host: &HostFacts<'_>, policy: Policy) -> u32 {
    let Some(offer) = host.offer else { return 0 };
    let last = if needs.last_node.as_deref() == Some(host.name) { 1.0 } else { 0.0 };
    let (cpu, memory) = fullness(needs, host, offer);
    let full = f64::midpoint(cpu, memory);
    let suits = match policy {
        Policy::Spread => 1.0 - full,
        Policy::Pack => full,
    };
    let even = 1.0 - (cpu - memory).abs();
    let sum = IMAGES * images(needs, offer) + LAST_NODE * last + POLICY * suits + BALANCE * even;
    // Between 0 and 100 by its parts.
    sum.round().clamp(0.0, 100.0) as u32
}

/// The part of the images that is there; one that is on its way counts half.
fn images(needs: &Requirements, offer: &Offer) -> f64 {
    if needs.images.is_empty() {
        return 0.0;
    }
    let there: f64 = needs
        .images
        .iter()
        .map(|need| {
            let mut copies = offer.images.iter().filter(|image| {
                *image.name == *need.name
                    && image.kind == need.kind
                    && image.namespace.as_deref() == need.namespace.as_deref()
                    && *image.pool == *need.pool
            });
            copies.next().map_or(0.0, |image| if image.whole { 1.0 } else { 0.5 })
        })
        .sum();
    there / needs.images.len() as f64
}

/// How full the CPUs and the memory would be with the VM, each 0 to 1.
fn fullness(needs: &Requirements, host: &HostFacts<'_>, offer: &Offer) -> (f64, f64) {
    let claims = host.claims.on(host.name, host.apart_from);
    let vcpus = promised_vcpus(claims, offer).max(offer.used_vcpus).saturating_add(i64::from(needs.vcpus));
    let most = offer.most_vcpus.unwrap_or_else(|| i64::try_from(offer.cpus).unwrap_or(i64::MAX));
    let promised = claims.memory().saturating_add(offer.unmanaged_memory);
    let memory = promised.max(offer.used_memory).saturating_add(needs.memory);
    (part(vcpus as f64, most as f64), part(memory as f64, offer.memory as f64))
}

/// A host that has not told its size is taken for half full.
fn part(taken: f64, of: f64) -> f64 {
    if of > 0.0 { (taken / of).clamp(0.0, 1.0) } else { 0.5 }
}
