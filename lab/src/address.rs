//! The address plan: which host has which name, address and MAC address.

use std::{fmt, net::Ipv4Addr, str::FromStr};

use serde::{Deserialize, Serialize, de};

use crate::{Error, Options};

/// The highest number of a host.
pub const MAX_HOSTS: u8 = 32;

/// A host of the lab: `cp` (the control plane) or `h1` to `h32` (the nodes).
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum HostName {
    /// The host with etcd, kube-apiserver, kube-controller-manager and kube-scheduler; no node.
    ControlPlane,
    /// A node, by its number from 1 on.
    Node(u8),
}

impl HostName {
    /// The number of the host in addresses, machine ids and UUIDs.
    pub fn number(self) -> u8 {
        match self {
            Self::ControlPlane => 254,
            Self::Node(number) => number,
        }
    }

    /// Whether this is the control plane.
    pub fn is_control_plane(self) -> bool {
        self == Self::ControlPlane
    }

    /// What the host has in `/etc/machine-id`.
    pub(crate) fn machine_id(self) -> String {
        format!("{:032x}", 0x7700_0000_u32 + u32::from(self.number()))
    }

    /// The UUID that libvirt reports for the host. They must differ, or a migration says "same host".
    pub(crate) fn uuid(self) -> String {
        format!("00000077-0000-4000-8000-{:012x}", self.number())
    }
}

impl fmt::Display for HostName {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::ControlPlane => f.pad("cp"),
            Self::Node(number) => f.pad(&format!("h{number}")),
        }
    }
}

impl FromStr for HostName {
    type Err = Error;

    fn from_str(name: &str) -> Result<Self, Error> {
        if name == "cp" {
            return Ok(Self::ControlPlane);
        }
        name.strip_prefix('h')
            .filter(|digits| !digits.starts_with(['0', '+']))
            .and_then(|digits| digits.parse().ok())
            .filter(|number| (1..=MAX_HOSTS).contains(number))
            .map(Self::Node)
            .ok_or_else(|| Error::UnknownHost(name.to_owned()))
    }
}

impl Serialize for HostName {
    fn serialize<S: serde::Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.collect_str(self)
    }
}

impl<'de> Deserialize<'de> for HostName {
    fn deserialize<D: serde::Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        String::deserialize(deserializer)?.parse().map_err(de::Error::custom)
    }
}

/// Addresses that follow from the options.
impl Options {
    /// The address of a host on the lab's network.
    pub fn address(&self, host: HostName) -> Ipv4Addr {
        self.lab_address(host.number())
    }

    /// The machine's own address on the lab's network.
    pub fn machine_address(&self) -> Ipv4Addr {
        self.lab_address(253)
    }

    /// The address of the switch, where the file server listens.
    pub fn switch_address(&self) -> Ipv4Addr {
        self.lab_address(252)
    }

    /// The address of the Service `kubernetes`.
    pub fn api_service_address(&self) -> Ipv4Addr {
        let [a, b, c, _] = self.services.octets();
        Ipv4Addr::new(a, b, c, 1)
    }

    /// The network of the pods of a host, with its prefix length.
    pub fn pod_network(&self, host: HostName) -> String {
        let [a, b, ..] = self.pods.octets();
        format!("{}/24", Ipv4Addr::new(a, b, host.number(), 0))
    }

    /// The MAC address of a host, always the same: others have it in their ARP caches for up to 40 s after a reboot.
    pub fn mac(&self, host: HostName) -> String {
        let [a, b, c, _] = self.network.octets();
        format!("02:{a:02x}:{b:02x}:{c:02x}:00:{:02x}", host.number())
    }

    fn lab_address(&self, last: u8) -> Ipv4Addr {
        let [a, b, c, _] = self.network.octets();
        Ipv4Addr::new(a, b, c, last)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn host_names_are_read_and_written_alike() {
        for name in ["cp", "h1", "h9", "h32"] {
            assert_eq!(name.parse::<HostName>().unwrap().to_string(), name);
        }
    }

    #[test]
    fn other_names_are_refused() {
        for name in ["", "h", "h0", "h01", "h+1", "h33", "h256", "H1", "cp1", "node1", "h1 "] {
            let error = name.parse::<HostName>().unwrap_err();
            assert!(error.to_string().contains("cp, h1, h2"), "{name}: {error}");
        }
    }

    #[test]
    fn every_host_has_an_address_of_its_own() {
        let options = Options::default();
        let mut seen =
            vec![options.machine_address(), options.switch_address(), options.address(HostName::ControlPlane)];
        seen.extend((1..=MAX_HOSTS).map(|number| options.address(HostName::Node(number))));
        let all = seen.len();
        seen.sort();
        seen.dedup();
        assert_eq!(seen.len(), all);
    }

    #[test]
    fn the_plan_follows_the_options() {
        let options = Options {
            network: Ipv4Addr::new(10, 81, 3, 0),
            pods: Ipv4Addr::new(10, 82, 0, 0),
            services: Ipv4Addr::new(10, 97, 0, 0),
            ..Options::default()
        };
        assert_eq!(options.address(HostName::Node(2)).to_string(), "10.81.3.2");
        assert_eq!(options.address(HostName::ControlPlane).to_string(), "10.81.3.254");
        assert_eq!(options.pod_network(HostName::Node(2)), "10.82.2.0/24");
        assert_eq!(options.api_service_address().to_string(), "10.97.0.1");
        assert_eq!(options.mac(HostName::Node(17)), "02:0a:51:03:00:11");
    }
}
