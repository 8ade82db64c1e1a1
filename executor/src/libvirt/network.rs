//! Networks.

use std::fmt;
use std::net::IpAddr;
use std::ptr;
use std::sync::Arc;

use uuid::Uuid;
use virt::sys;

use super::connection::{Connection, Patience};
use super::error::{ErrorCode, Failure, Result};
use super::event::ObjectRef;
use super::ffi::{
    self, PointerArray, c_string, c_string_or_null, check, check_bool, copy_string, pointer, take_string,
};
use super::handle::{handle_calls, owned_pointer};

owned_pointer!(RawNetwork, _virNetwork, virNetworkFree);

/// A virtual network (`virNetworkPtr`).
#[derive(Clone)]
pub struct Network {
    raw: Arc<RawNetwork>,
    connection: Connection,
    identity: Arc<ObjectRef>,
}

handle_calls!(Network, _virNetwork);

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

impl fmt::Debug for Network {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_tuple("Network").field(&self.identity).finish()
    }
}

impl Connection {
    /// `virConnectListAllNetworks`.
    pub async fn list_networks(&self) -> Result<Vec<Network>> {
        let connection = self.clone();
        let call = move |conn| {
            let mut array = ptr::null_mut();
            // SAFETY: libvirt allocates the array, which holds `count` references of ours.
            unsafe {
                let count = check(sys::virConnectListAllNetworks(conn, &raw mut array, 0))?;
                let networks = PointerArray::new(array, count, |network| drop(RawNetwork::adopt(network)));
                networks.map(|network| Network::adopt(&connection, network)).collect()
            }
        };
        self.call("virConnectListAllNetworks", "all networks", Patience::Short, call).await
    }

    /// `virNetworkLookupByUUID`; `None` if there is no such network.
    pub async fn lookup_network(&self, uuid: Uuid) -> Result<Option<Network>> {
        let connection = self.clone();
        let call = move |conn| {
            // SAFETY: the bytes live during the call; the result is a reference of ours.
            unsafe { Network::adopt(&connection, sys::virNetworkLookupByUUID(conn, uuid.as_bytes().as_ptr())) }
        };
        found(self.call("virNetworkLookupByUUID", &format!("network {uuid}"), Patience::Short, call).await)
    }

    /// `virNetworkLookupByName`; `None` if there is no such network.
    pub async fn lookup_network_by_name(&self, name: &str) -> Result<Option<Network>> {
        let (connection, c_name) = (self.clone(), c_string(name));
        let call = move |conn| {
            let name = c_name?;
            // SAFETY: the name lives during the call; the result is a reference of ours.
            unsafe { Network::adopt(&connection, sys::virNetworkLookupByName(conn, name.as_ptr())) }
        };
        found(self.call("virNetworkLookupByName", &format!("network {name}"), Patience::Short, call).await)
    }

    /// `virNetworkDefineXML`: creates or replaces a persistent network. `name` is for the error's text.
    pub async fn define_network(&self, name: &str, xml: &str) -> Result<Network> {
        let (connection, xml) = (self.clone(), c_string(xml));
        let call = move |conn| {
            let xml = xml?;
            // SAFETY: the XML lives during the call; the result is a reference of ours.
            unsafe { Network::adopt(&connection, sys::virNetworkDefineXML(conn, xml.as_ptr())) }
        };
        self.call("virNetworkDefineXML", &format!("network {name}"), Patience::Short, call).await
    }
}

/// Turns "there is no such network" into `None`.
fn found(result: Result<Network>) -> Result<Option<Network>> {
    match result {
        Ok(network) => Ok(Some(network)),
        Err(error) if error.code == ErrorCode::NoNetwork => Ok(None),
        Err(error) => Err(error),
    }
}

impl Network {
    /// # Safety
    /// As [`RawNetwork::adopt`].
    unsafe fn adopt(connection: &Connection, network: sys::virNetworkPtr) -> Result<Self, Failure> {
        // SAFETY: by this function's contract; the getters are local.
        unsafe {
            let raw = RawNetwork::adopt(network)?;
            let uuid = ffi::uuid(|bytes| sys::virNetworkGetUUID(raw.as_ptr(), bytes))?;
            let name = copy_string(sys::virNetworkGetName(raw.as_ptr())).ok_or_else(Failure::last)?;
            let identity = Arc::new(ObjectRef { uuid, name });
            Ok(Self { raw: Arc::new(raw), connection: connection.clone(), identity })
        }
    }

    /// Its UUID.
    #[must_use]
    pub fn uuid(&self) -> Uuid {
        self.identity.uuid
    }

    /// Its name.
    #[must_use]
    pub fn name(&self) -> &str {
        &self.identity.name
    }

    fn object(&self) -> String {
        format!("network {}", self.name())
    }

    /// `virNetworkCreate`: starts a defined network.
    pub async fn create(&self) -> Result<()> {
        // SAFETY: `call` passes a live network (here and below).
        self.call("virNetworkCreate", Patience::Long, |network| {
            check(unsafe { sys::virNetworkCreate(network) }).map(drop)
        })
        .await
    }

    /// `virNetworkDestroy`: stops it; its definition stays.
    pub async fn destroy(&self) -> Result<()> {
        // SAFETY: as above.
        self.call("virNetworkDestroy", Patience::Long, |network| {
            check(unsafe { sys::virNetworkDestroy(network) }).map(drop)
        })
        .await
    }

    /// `virNetworkUndefine`.
    pub async fn undefine(&self) -> Result<()> {
        // SAFETY: as above.
        self.call("virNetworkUndefine", Patience::Short, |network| {
            check(unsafe { sys::virNetworkUndefine(network) }).map(drop)
        })
        .await
    }

    /// `virNetworkGetAutostart`: does libvirt start it with the host?
    pub async fn autostart(&self) -> Result<bool> {
        self.call("virNetworkGetAutostart", Patience::Short, |network| {
            let mut autostart = 0;
            // SAFETY: `autostart` is written to.
            check(unsafe { sys::virNetworkGetAutostart(network, &raw mut autostart) })?;
            Ok(autostart != 0)
        })
        .await
    }

    /// `virNetworkSetAutostart`.
    pub async fn set_autostart(&self, autostart: bool) -> Result<()> {
        // SAFETY: as above.
        self.call("virNetworkSetAutostart", Patience::Short, move |network| {
            check(unsafe { sys::virNetworkSetAutostart(network, autostart.into()) }).map(drop)
        })
        .await
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

    /// `virNetworkIsActive`.
    pub async fn is_active(&self) -> Result<bool> {
        // SAFETY: as above.
        self.call("virNetworkIsActive", Patience::Short, |network| {
            check_bool(unsafe { sys::virNetworkIsActive(network) })
        })
        .await
    }

    /// `virNetworkIsPersistent`: is it defined?
    pub async fn is_persistent(&self) -> Result<bool> {
        // SAFETY: as above.
        self.call("virNetworkIsPersistent", Patience::Short, |network| {
            check_bool(unsafe { sys::virNetworkIsPersistent(network) })
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
