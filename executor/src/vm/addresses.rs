//! The guest's addresses: libvirt has no event for them, so they are asked for while a NIC has none.

use std::net::IpAddr;
use std::time::Duration;

use kubevmm_api::effective::EffectiveNetwork;
use kubevmm_api::vm::{AddressSource, InterfaceStatus};
use tokio::time::Instant;

use super::domains::{Identity, Reading};
use crate::libvirt::{self, GuestInterface};

/// Pauses after a start, and after the agent or a NIC has changed.
const PAUSES: [u64; 10] = [1, 2, 4, 8, 16, 30, 30, 30, 30, 30];
/// The pause from then on, while no agent answers.
const WITHOUT_AGENT: Duration = Duration::from_secs(300);

/// When to ask next.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(super) struct Schedule {
    asked: usize,
    at: Option<Instant>,
}

impl Schedule {
    /// Something has changed: ask at once, then with growing pauses.
    pub(super) fn restart(&mut self, now: Instant) {
        *self = Self { asked: 0, at: Some(now) };
    }

    /// Nothing more to ask.
    pub(super) fn stop(&mut self) {
        *self = Self::default();
    }

    /// Notes an answer.
    pub(super) fn answered(&mut self, all_known: bool, agent: bool, now: Instant) {
        let pause = PAUSES.get(self.asked).map(|&seconds| Duration::from_secs(seconds));
        let pause = pause.or((!agent).then_some(WITHOUT_AGENT));
        self.asked += 1;
        self.at = pause.filter(|_| !all_known).map(|pause| now + pause);
    }

    /// When to ask next, if ever.
    pub(super) fn due(&self) -> Option<Instant> {
        self.at
    }
}

/// Asks the agent, if there is one, then the leases, then the ARP table, as long as a NIC has no address.
pub(super) async fn ask(
    domains: &dyn Reading,
    identity: &Identity,
    mut interfaces: Vec<InterfaceStatus>,
    agent: bool,
) -> Vec<InterfaceStatus> {
    let agent = agent.then_some((libvirt::AddressSource::Agent, AddressSource::Agent));
    let others =
        [(libvirt::AddressSource::Lease, AddressSource::Lease), (libvirt::AddressSource::Arp, AddressSource::ARP)];
    for (asked, source) in agent.into_iter().chain(others) {
        if all_known(&interfaces) {
            break;
        }
        match domains.addresses(identity, asked).await {
            Ok(found) => fill(&mut interfaces, &found, source),
            // A NIC on a bridge has no lease, a guest may have no agent: the next source may know.
            Err(error) => tracing::debug!(domain = identity.name, ?source, %error, "no addresses from this source"),
        }
    }
    interfaces
}

/// The NICs of a domain of which no address is known.
pub(super) fn without_addresses(nics: &[EffectiveNetwork]) -> Vec<InterfaceStatus> {
    let interface = |nic: &EffectiveNetwork| InterfaceStatus {
        name: nic.name.clone(),
        mac_address: nic.mac_address.clone(),
        ..Default::default()
    };
    nics.iter().map(interface).collect()
}

/// Takes over what was found; what was not found again stays.
pub(super) fn note(interfaces: &mut [InterfaceStatus], found: Vec<InterfaceStatus>) {
    for interface in found.into_iter().filter(|interface| !interface.addresses.is_empty()) {
        if let Some(there) = interfaces.iter_mut().find(|there| there.name == interface.name) {
            *there = interface;
        }
    }
}

/// Whether each NIC has an address.
pub(super) fn all_known(interfaces: &[InterfaceStatus]) -> bool {
    interfaces.iter().all(|interface| !interface.addresses.is_empty())
}

fn fill(interfaces: &mut [InterfaceStatus], found: &[GuestInterface], source: AddressSource) {
    for interface in interfaces.iter_mut().filter(|interface| interface.addresses.is_empty()) {
        let mac = interface.mac_address.as_str();
        let same = found.iter().filter(|guest| guest.mac.as_deref().is_some_and(|m| m.eq_ignore_ascii_case(mac)));
        let mut addresses: Vec<IpAddr> =
            same.flat_map(|guest| &guest.addresses).map(|a| a.address).filter(|address| reachable(*address)).collect();
        addresses.sort_by_key(|address| (address.is_ipv6(), *address));
        addresses.dedup();
        if !addresses.is_empty() {
            interface.addresses = addresses.iter().map(ToString::to_string).collect();
            interface.source = Some(source);
        }
    }
}

/// Whether others can reach it: a link-local one says nothing yet.
fn reachable(address: IpAddr) -> bool {
    match address {
        IpAddr::V4(v4) => !v4.is_loopback() && !v4.is_link_local() && !v4.is_unspecified(),
        IpAddr::V6(v6) => !v6.is_loopback() && !v6.is_unicast_link_local() && !v6.is_unspecified(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::libvirt::InterfaceAddress;
    use kubevmm_api::common::NetworkKind;
    use kubevmm_api::vm::NicModel;

    fn nic(name: &str, mac: &str) -> EffectiveNetwork {
        EffectiveNetwork {
            name: name.into(),
            kind: NetworkKind::VirtualMachineNetwork,
            network_name: "lan".into(),
            model: NicModel::Virtio,
            mac_address: mac.into(),
        }
    }

    fn guest(mac: &str, addresses: &[&str]) -> GuestInterface {
        let addresses =
            addresses.iter().map(|text| InterfaceAddress { address: text.parse().unwrap(), prefix: 24 }).collect();
        GuestInterface { name: "eth0".into(), mac: Some(mac.into()), addresses }
    }

    #[test]
    fn the_first_source_that_knows_a_nic_counts() {
        let mut interfaces = without_addresses(&[nic("a", "02:00:00:00:00:01"), nic("b", "02:00:00:00:00:02")]);
        let agent = [guest("02:00:00:00:00:01", &["fe80::1", "2001:db8::7", "10.0.0.9"]), guest("", &["127.0.0.1"])];
        fill(&mut interfaces, &agent, AddressSource::Agent);
        assert_eq!(interfaces[0].addresses, ["10.0.0.9", "2001:db8::7"]);
        assert!(!all_known(&interfaces));
        let lease = [guest("02:00:00:00:00:01", &["10.0.0.1"]), guest("02:00:00:00:00:02", &["10.0.0.2"])];
        fill(&mut interfaces, &lease, AddressSource::Lease);
        assert_eq!(interfaces[0].source, Some(AddressSource::Agent));
        assert_eq!(
            (interfaces[1].addresses.as_slice(), interfaces[1].source),
            (&["10.0.0.2".to_owned()][..], Some(AddressSource::Lease))
        );
        assert!(all_known(&interfaces));
    }

    #[test]
    fn it_asks_with_growing_pauses_and_not_for_ever() {
        let now = Instant::now();
        let seconds = |agent: bool| {
            let mut schedule = Schedule::default();
            schedule.restart(now);
            assert_eq!(schedule.due(), Some(now));
            let mut next = || {
                schedule.answered(false, agent, now);
                schedule.due().map(|due| (due - now).as_secs())
            };
            (0..12).map(|_| next()).collect::<Vec<_>>()
        };
        assert_eq!(seconds(false)[..6], [1, 2, 4, 8, 16, 30].map(Some));
        assert_eq!(seconds(false)[10..], [Some(300), Some(300)]);
        assert_eq!(seconds(true)[10..], [None, None], "an agent that answers has said that there is none");
        let mut schedule = Schedule::default();
        schedule.restart(now);
        schedule.answered(true, false, now);
        assert_eq!(schedule.due(), None, "all are known");
    }
}
