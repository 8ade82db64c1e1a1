//! The addresses of a nat network.

use std::net::Ipv4Addr;
use std::str::FromStr;

use kubevmm_analyser::lower::DhcpRange;

/// An IPv4 subnet with room for a host and guests.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Subnet {
    first: u32,
    prefix: u8,
}

/// A text that is no such subnet.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("spec.nat.subnet {0:?} is no IPv4 subnet of /16 to /29, for example 192.168.150.0/24")]
pub(super) struct SubnetError(String);

impl FromStr for Subnet {
    type Err = SubnetError;

    fn from_str(text: &str) -> Result<Self, SubnetError> {
        let error = || SubnetError(text.to_owned());
        let (address, prefix) = text.split_once('/').ok_or_else(error)?;
        let address: Ipv4Addr = address.parse().map_err(|_| error())?;
        let prefix: u8 = prefix.parse().map_err(|_| error())?;
        let subnet = Self { first: address.to_bits(), prefix };
        if !(16..=29).contains(&prefix) || subnet.first & (subnet.size() - 1) != 0 {
            return Err(error());
        }
        Ok(subnet)
    }
}

impl Subnet {
    /// Length of the prefix in bits.
    pub(super) fn prefix(self) -> u8 {
        self.prefix
    }

    /// The host's address: the first one.
    pub(super) fn host(self) -> Ipv4Addr {
        Ipv4Addr::from_bits(self.first + 1)
    }

    /// The guests' addresses: all others but the broadcast address.
    pub(super) fn leases(self) -> DhcpRange {
        DhcpRange { start: Ipv4Addr::from_bits(self.first + 2), end: Ipv4Addr::from_bits(self.first + self.size() - 2) }
    }

    fn size(self) -> u32 {
        1 << (32 - u32::from(self.prefix))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_host_is_first_and_the_guests_have_the_rest() {
        let subnet: Subnet = "192.168.150.0/24".parse().unwrap();
        assert_eq!(subnet.host().to_string(), "192.168.150.1");
        assert_eq!(subnet.leases().start.to_string(), "192.168.150.2");
        assert_eq!(subnet.leases().end.to_string(), "192.168.150.254");
        let small: Subnet = "10.0.0.8/29".parse().unwrap();
        assert_eq!(small.leases().end.to_string(), "10.0.0.14");
    }

    #[test]
    fn what_is_no_subnet_is_refused() {
        for text in ["", "10.0.0.0", "10.0.0.1/24", "10.0.0.0/30", "10.0.0.0/8", "::/64", "300.0.0.0/24"] {
            assert!(text.parse::<Subnet>().is_err(), "{text}");
        }
    }
}
