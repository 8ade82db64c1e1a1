//! What libvirt learns from inside a guest: addresses and the agent's answers.

use std::collections::BTreeMap;
use std::net::IpAddr;
use std::ptr;

use virt::sys;

use super::connection::Patience;
use super::domain::Domain;
use super::error::Result;
use super::ffi::{PointerArray, TypedValue, c_string, check, copy_string, take_string, typed_params};

/// Where libvirt looks for addresses.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum AddressSource {
    /// The DHCP leases of libvirt's own networks.
    Lease,
    /// The guest's agent.
    Agent,
    /// The host's ARP table.
    Arp,
}

/// A network interface of a guest.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct GuestInterface {
    /// Its name: in the guest from the agent (`eth0`), on the host otherwise (`vnet0`).
    pub name: String,
    /// Its MAC address, in lower case.
    pub mac: Option<String>,
    /// Its addresses.
    pub addresses: Vec<InterfaceAddress>,
}

/// An address with the length of its network's prefix.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct InterfaceAddress {
    /// The address.
    pub address: IpAddr,
    /// Bits of the network's prefix; 0 where the source does not know.
    pub prefix: u32,
}

/// What the agent says of the guest; what it does not say is `None`.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct GuestInfo {
    /// The guest's host name.
    pub hostname: Option<String>,
    /// Such as `debian`.
    pub os_id: Option<String>,
    /// Such as `Debian GNU/Linux`.
    pub os_name: Option<String>,
    /// Such as `Debian GNU/Linux 12 (bookworm)`.
    pub os_pretty_name: Option<String>,
    /// Such as `12 (bookworm)`.
    pub os_version: Option<String>,
    /// Such as `12`.
    pub os_version_id: Option<String>,
    /// Such as `6.1.0-13-amd64`.
    pub kernel_release: Option<String>,
    /// Such as `#1 SMP PREEMPT_DYNAMIC Debian 6.1.55-1`.
    pub kernel_version: Option<String>,
    /// Such as `x86_64`.
    pub machine: Option<String>,
}

impl Domain {
    /// `virDomainInterfaceAddresses`: the addresses that one source knows.
    pub async fn interface_addresses(&self, source: AddressSource) -> Result<Vec<GuestInterface>> {
        let (number, patience) = match source {
            AddressSource::Lease => (sys::VIR_DOMAIN_INTERFACE_ADDRESSES_SRC_LEASE, Patience::Short),
            AddressSource::Agent => (sys::VIR_DOMAIN_INTERFACE_ADDRESSES_SRC_AGENT, Patience::Guest),
            AddressSource::Arp => (sys::VIR_DOMAIN_INTERFACE_ADDRESSES_SRC_ARP, Patience::Short),
        };
        self.call("virDomainInterfaceAddresses", patience, move |domain| {
            let mut array = ptr::null_mut();
            // SAFETY: libvirt allocates the array and its elements, which are ours to free.
            unsafe {
                let count = check(sys::virDomainInterfaceAddresses(domain, &raw mut array, number, 0))?;
                let free: unsafe fn(sys::virDomainInterfacePtr) = |interface| sys::virDomainInterfaceFree(interface);
                let interfaces = PointerArray::new(array, count, free);
                Ok(interfaces
                    .map(|interface| {
                        let copy = copy_interface(&*interface);
                        free(interface);
                        copy
                    })
                    .collect())
            }
        })
        .await
    }

    /// `virDomainGetGuestInfo` (host name and operating system): what the agent says.
    pub async fn guest_info(&self) -> Result<GuestInfo> {
        self.call("virDomainGetGuestInfo", Patience::Guest, |domain| {
            let (mut params, mut count) = (ptr::null_mut(), 0);
            let types = sys::VIR_DOMAIN_GUEST_INFO_OS | sys::VIR_DOMAIN_GUEST_INFO_HOSTNAME;
            // SAFETY: libvirt allocates the parameters, which are ours to free.
            let values = unsafe {
                check(sys::virDomainGetGuestInfo(domain, types, &raw mut params, &raw mut count, 0))?;
                let values = typed_params(params, count);
                sys::virTypedParamsFree(params, count);
                values
            };
            Ok(guest_info(values))
        })
        .await
    }

    /// `virDomainQemuAgentCommand`: sends a JSON command to the guest's agent and returns its JSON answer.
    pub async fn agent_command(&self, command: &str) -> Result<String> {
        let command = c_string(command);
        let seconds = i32::try_from(self.connection.options().guest_timeout.as_secs().max(1)).unwrap_or(i32::MAX);
        let call = move |domain| {
            let command = command?;
            // SAFETY: the command lives during the call; the result is ours to free.
            unsafe { take_string(sys::virDomainQemuAgentCommand(domain, command.as_ptr(), seconds, 0)) }
        };
        self.call("virDomainQemuAgentCommand", Patience::Guest, call).await
    }
}

/// # Safety
/// The interface's strings are NULL or valid, and it has `naddrs` addresses.
unsafe fn copy_interface(interface: &sys::_virDomainInterface) -> GuestInterface {
    let mut addresses = Vec::new();
    for index in 0..interface.naddrs as usize {
        // SAFETY: by this function's contract.
        let (text, prefix) = unsafe {
            let address = &*interface.addrs.add(index);
            (copy_string(address.addr), address.prefix)
        };
        if let Some(address) = text.and_then(|text| text.parse().ok()) {
            addresses.push(InterfaceAddress { address, prefix });
        }
    }
    // SAFETY: by this function's contract.
    unsafe {
        GuestInterface {
            name: copy_string(interface.name).unwrap_or_default(),
            mac: copy_string(interface.hwaddr).map(|mac| mac.to_ascii_lowercase()),
            addresses,
        }
    }
}

fn guest_info(mut values: BTreeMap<String, TypedValue>) -> GuestInfo {
    let mut take = |name: &std::ffi::CStr| match values.remove(name.to_string_lossy().as_ref()) {
        Some(TypedValue::String(text)) if !text.is_empty() => Some(text),
        _ => None,
    };
    GuestInfo {
        hostname: take(sys::VIR_DOMAIN_GUEST_INFO_HOSTNAME_HOSTNAME),
        os_id: take(sys::VIR_DOMAIN_GUEST_INFO_OS_ID),
        os_name: take(sys::VIR_DOMAIN_GUEST_INFO_OS_NAME),
        os_pretty_name: take(sys::VIR_DOMAIN_GUEST_INFO_OS_PRETTY_NAME),
        os_version: take(sys::VIR_DOMAIN_GUEST_INFO_OS_VERSION),
        os_version_id: take(sys::VIR_DOMAIN_GUEST_INFO_OS_VERSION_ID),
        kernel_release: take(sys::VIR_DOMAIN_GUEST_INFO_OS_KERNEL_RELEASE),
        kernel_version: take(sys::VIR_DOMAIN_GUEST_INFO_OS_KERNEL_VERSION),
        machine: take(sys::VIR_DOMAIN_GUEST_INFO_OS_MACHINE),
    }
}
