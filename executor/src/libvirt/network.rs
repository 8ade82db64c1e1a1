//! Networks.

use std::net::IpAddr;
use std::ptr;

use uuid::Uuid;
use virt::sys;

use super::connection::{Connection, Patience};
use super::error::Result;
use super::ffi::{PointerArray, c_string_or_null, check, copy_string, pointer, take_string};
use super::handle::{defined_calls, named_handle, owned_pointer};

owned_pointer!(RawNetwork, _virNetwork, virNetworkFree);

named_handle!(
    /// A virtual network (`virNetworkPtr`).
    Network: "network", RawNetwork, _virNetwork, NoNetwork, virNetworkGetUUID, virNetworkGetName
);

defined_calls!(Network, virNetworkIsActive, virNetworkIsPersistent, virNetworkGetAutostart, virNetworkSetAutostart);

/// A DHCP lease of a virtual network.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct DhcpLease {
    /// The client's MAC address, in lower case.
    pub mac: Option<String>,
    /// Its address.
    pub address: IpAddr,
    /// Bits of the network's prefix.
    pub prefix: u32,
    /// The host name that the client gave.
    pub hostname: Option<String>,
    /// When it ends, in seconds since 1970; 0 for never.
    pub expiry_seconds: i64,
}

// SAFETY of the calls: the connection lives, and so does what the pointers lead to.
impl Connection {
    /// `virConnectListAllNetworks`.
    pub async fn list_networks(&self) -> Result<Vec<Network>> {
        self.list("virConnectListAllNetworks", move |conn, array| unsafe {
            sys::virConnectListAllNetworks(conn, array, 0)
        })
        .await
    }

    /// `virNetworkLookupByUUID`; `None` if there is no such network.
    pub async fn lookup_network(&self, uuid: Uuid) -> Result<Option<Network>> {
        self.by_uuid("virNetworkLookupByUUID", uuid, |conn, uuid| unsafe { sys::virNetworkLookupByUUID(conn, uuid) })
            .await
    }

    /// `virNetworkLookupByName`; `None` if there is no such network.
    pub async fn lookup_network_by_name(&self, name: &str) -> Result<Option<Network>> {
        self.by_name("virNetworkLookupByName", name, |conn, name| unsafe { sys::virNetworkLookupByName(conn, name) })
            .await
    }

    /// `virNetworkDefineXML`: creates or replaces a persistent network. `name` is for the error's text.
    pub async fn define_network(&self, name: &str, xml: &str) -> Result<Network> {
        self.make("virNetworkDefineXML", Patience::Short, name, xml, |conn, xml| unsafe {
            sys::virNetworkDefineXML(conn, xml)
        })
        .await
    }
}

impl Network {
    /// `virNetworkCreate`: starts a defined network.
    pub async fn create(&self) -> Result<()> {
        // SAFETY: `call` passes a live network (here and below).
        self.act("virNetworkCreate", Patience::Long, |network| unsafe { sys::virNetworkCreate(network) }).await
    }

    /// `virNetworkDestroy`: stops it; its definition stays.
    pub async fn destroy(&self) -> Result<()> {
        // SAFETY: as above.
        self.act("virNetworkDestroy", Patience::Long, |network| unsafe { sys::virNetworkDestroy(network) }).await
    }

    /// `virNetworkUndefine`.
    pub async fn undefine(&self) -> Result<()> {
        // SAFETY: as above.
        self.act("virNetworkUndefine", Patience::Short, |network| unsafe { sys::virNetworkUndefine(network) }).await
    }

    /// `virNetworkGetXMLDesc`; `inactive` is what the next start uses.
    pub async fn xml(&self, inactive: bool) -> Result<String> {
        let flags = if inactive { sys::VIR_NETWORK_XML_INACTIVE } else { 0 };
        self.call("virNetworkGetXMLDesc", Patience::Short, move |network| {
            // SAFETY: the result is ours to free.
            unsafe { take_string(sys::virNetworkGetXMLDesc(network, flags)) }
        })
        .await
    }

    /// `virNetworkGetBridgeName`: the host's bridge; fails for a network without one.
    pub async fn bridge_name(&self) -> Result<String> {
        self.call("virNetworkGetBridgeName", Patience::Short, |network| {
            // SAFETY: the result is ours to free.
            unsafe { take_string(sys::virNetworkGetBridgeName(network)) }
        })
        .await
    }

    /// `virNetworkGetDHCPLeases`: all leases, or those of one MAC address.
    pub async fn dhcp_leases(&self, mac: Option<&str>) -> Result<Vec<DhcpLease>> {
        let mac = c_string_or_null(mac);
        let call = move |network| {
            let (mac, mut array) = (mac?, ptr::null_mut());
            // SAFETY: libvirt allocates the array and its elements, which are ours to free.
            unsafe {
                let count = check(sys::virNetworkGetDHCPLeases(network, pointer(&mac), &raw mut array, 0))?;
                let free: unsafe fn(sys::virNetworkDHCPLeasePtr) = |lease| sys::virNetworkDHCPLeaseFree(lease);
                let leases = PointerArray::new(array, count, free);
                Ok(leases
                    .filter_map(|lease| {
                        let copy = copy_lease(&*lease);
                        free(lease);
                        copy
                    })
                    .collect())
            }
        };
        self.call("virNetworkGetDHCPLeases", Patience::Short, call).await
    }
}

/// A lease without a readable address is none.
///
/// # Safety
/// The lease's strings are NULL or valid.
unsafe fn copy_lease(lease: &sys::_virNetworkDHCPLease) -> Option<DhcpLease> {
    // SAFETY: by this function's contract.
    unsafe {
        Some(DhcpLease {
            mac: copy_string(lease.mac).map(|mac| mac.to_ascii_lowercase()),
            address: copy_string(lease.ipaddr)?.parse().ok()?,
            prefix: lease.prefix,
            hostname: copy_string(lease.hostname),
            expiry_seconds: lease.expirytime,
        })
    }
}
