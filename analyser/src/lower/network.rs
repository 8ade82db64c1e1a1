//! The libvirt network of a VirtualMachineNetwork.

use std::net::Ipv4Addr;

use uuid::Uuid;

use crate::mark::Mark;
use crate::tree::Element;

const DNSMASQ_NAMESPACE: &str = "http://libvirt.org/schemas/network/dnsmasq/1.0";

/// Everything that decides a network's XML.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct NetworkInput {
    /// libvirt's name, `<namespace>.<name>` or `.<name>`.
    pub name: String,
    /// libvirt's UUID: the object's uid.
    pub uuid: Uuid,
    /// Mark of ownership.
    pub mark: Mark,
    /// How packets leave.
    pub forward: Forward,
    /// Name of the bridge, at most 15 bytes; `None` leaves it to libvirt.
    pub bridge: Option<String>,
    /// The host's address on the bridge.
    pub address: Ipv4Addr,
    /// Length of the network's prefix in bits.
    pub prefix: u8,
    /// Addresses that are leased to guests; `None`: no DHCP.
    pub dhcp: Option<DhcpRange>,
    /// DNS domain of the guests.
    pub domain: Option<String>,
}

/// How packets leave a network.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Forward {
    /// Through the host's address.
    Nat,
    /// Not at all.
    Isolated,
}

/// A range of leased addresses, both ends included.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct DhcpRange {
    /// First address.
    pub start: Ipv4Addr,
    /// Last address.
    pub end: Ipv4Addr,
}

/// The network. With DHCP, dnsmasq is told not to ping an address before it leases it: that costs a guest with a new
/// MAC address several seconds, and nobody else hands out addresses on the bridge.
pub fn lower_network(input: &NetworkInput) -> Element {
    let forward = match input.forward {
        Forward::Nat => Some(Element::new("forward").attr("mode", "nat")),
        Forward::Isolated => None,
    };
    let bridge = Element::new("bridge").attr_opt("name", input.bridge.as_ref()).attr("stp", "on").attr("delay", 0);
    let dhcp = input.dhcp.map(|range| {
        Element::new("dhcp").child(Element::new("range").attr("start", range.start).attr("end", range.end))
    });
    let no_ping = input.dhcp.map(|_| {
        Element::new("dnsmasq:options")
            .attr("xmlns:dnsmasq", DNSMASQ_NAMESPACE)
            .child(Element::new("dnsmasq:option").attr("value", "no-ping"))
    });
    Element::new("network")
        .child(Element::leaf("name", &input.name))
        .child(Element::leaf("uuid", input.uuid))
        .child(Element::new("metadata").child(input.mark.to_element()))
        .children(forward)
        .child(bridge)
        .children(input.domain.as_ref().map(|name| Element::new("domain").attr("name", name)))
        .child(Element::new("ip").attr("address", input.address).attr("prefix", input.prefix).children(dhcp))
        .children(no_ping)
}
