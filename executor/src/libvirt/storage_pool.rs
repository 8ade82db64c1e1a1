//! Storage pools.

use std::ptr;
use std::sync::Arc;

use uuid::Uuid;
use virt::sys;

use super::connection::{Connection, Patience};
use super::constants::StoragePoolState;
use super::error::{ErrorCode, Result};
use super::ffi::{PointerArray, c_string, check, take_string};
use super::handle::{defined_calls, named_handle, owned_pointer, unless_missing};
use super::storage_vol::{RawStorageVol, StorageVol};

owned_pointer!(RawStoragePool, _virStoragePool, virStoragePoolFree);

named_handle!(
    /// A storage pool (`virStoragePoolPtr`).
    StoragePool: "storage pool", RawStoragePool, _virStoragePool, NoStoragePool, virStoragePoolGetUUID, virStoragePoolGetName
);

defined_calls!(
    StoragePool,
    virStoragePoolIsActive,
    virStoragePoolIsPersistent,
    virStoragePoolGetAutostart,
    virStoragePoolSetAutostart
);

/// A pool's state and sizes (`virStoragePoolInfo`), as of its last refresh.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct StoragePoolInfo {
    /// Its state.
    pub state: StoragePoolState,
    /// Its size in bytes.
    pub capacity_bytes: u64,
    /// Bytes in use.
    pub allocation_bytes: u64,
    /// Bytes free.
    pub available_bytes: u64,
}

// SAFETY of the calls: the connection lives, and so does what the pointers lead to.
impl Connection {
    /// `virConnectListAllStoragePools`.
    pub async fn list_storage_pools(&self) -> Result<Vec<StoragePool>> {
        self.list("virConnectListAllStoragePools", move |conn, array| unsafe {
            sys::virConnectListAllStoragePools(conn, array, 0)
        })
        .await
    }

    /// `virStoragePoolLookupByUUID`; `None` if there is no such pool.
    pub async fn lookup_storage_pool(&self, uuid: Uuid) -> Result<Option<StoragePool>> {
        self.by_uuid("virStoragePoolLookupByUUID", uuid, |conn, uuid| unsafe {
            sys::virStoragePoolLookupByUUID(conn, uuid)
        })
        .await
    }

    /// `virStoragePoolLookupByName`; `None` if there is no such pool.
    pub async fn lookup_storage_pool_by_name(&self, name: &str) -> Result<Option<StoragePool>> {
        self.by_name("virStoragePoolLookupByName", name, |conn, name| unsafe {
            sys::virStoragePoolLookupByName(conn, name)
        })
        .await
    }

    /// `virStoragePoolDefineXML`: creates or replaces a persistent pool. `name` is for the error's text.
    pub async fn define_storage_pool(&self, name: &str, xml: &str) -> Result<StoragePool> {
        self.make("virStoragePoolDefineXML", Patience::Short, name, xml, |conn, xml| unsafe {
            sys::virStoragePoolDefineXML(conn, xml, 0)
        })
        .await
    }
}

impl StoragePool {
    /// `virStoragePoolBuild`: makes what the pool stands on, a directory for instance. Nothing is overwritten.
    pub async fn build(&self) -> Result<()> {
        // SAFETY: `call` passes a live pool (here and below).
        self.act("virStoragePoolBuild", Patience::Long, |pool| unsafe {
            sys::virStoragePoolBuild(pool, sys::VIR_STORAGE_POOL_BUILD_NEW)
        })
        .await
    }

    /// `virStoragePoolCreate`: starts a defined pool.
    pub async fn create(&self) -> Result<()> {
        // SAFETY: as above.
        self.act("virStoragePoolCreate", Patience::Long, |pool| unsafe {
            sys::virStoragePoolCreate(pool, sys::VIR_STORAGE_POOL_CREATE_NORMAL)
        })
        .await
    }

    /// `virStoragePoolDestroy`: stops it; its definition and its data stay.
    pub async fn destroy(&self) -> Result<()> {
        // SAFETY: as above.
        self.act("virStoragePoolDestroy", Patience::Long, |pool| unsafe { sys::virStoragePoolDestroy(pool) }).await
    }

    /// `virStoragePoolUndefine`; its data stays.
    pub async fn undefine(&self) -> Result<()> {
        // SAFETY: as above.
        self.act("virStoragePoolUndefine", Patience::Short, |pool| unsafe { sys::virStoragePoolUndefine(pool) }).await
    }

    /// `virStoragePoolRefresh`: libvirt reads the volumes and sizes anew.
    pub async fn refresh(&self) -> Result<()> {
        // SAFETY: as above.
        self.act("virStoragePoolRefresh", Patience::Long, |pool| unsafe { sys::virStoragePoolRefresh(pool, 0) }).await
    }

    /// `virStoragePoolGetInfo`.
    pub async fn info(&self) -> Result<StoragePoolInfo> {
        self.call("virStoragePoolGetInfo", Patience::Short, |pool| {
            // SAFETY: the struct is plain data, for which zeros are valid; libvirt fills it.
            unsafe {
                let mut info: sys::_virStoragePoolInfo = std::mem::zeroed();
                check(sys::virStoragePoolGetInfo(pool, &raw mut info))?;
                Ok(StoragePoolInfo {
                    state: StoragePoolState::from_raw(info.state),
                    capacity_bytes: info.capacity,
                    allocation_bytes: info.allocation,
                    available_bytes: info.available,
                })
            }
        })
        .await
    }

    /// `virStoragePoolGetXMLDesc`; `inactive` is what the next start uses.
    pub async fn xml(&self, inactive: bool) -> Result<String> {
        let flags = if inactive { sys::VIR_STORAGE_XML_INACTIVE } else { 0 };
        self.call("virStoragePoolGetXMLDesc", Patience::Short, move |pool| {
            // SAFETY: the result is ours to free.
            unsafe { take_string(sys::virStoragePoolGetXMLDesc(pool, flags)) }
        })
        .await
    }

    /// `virStoragePoolListAllVolumes`, as of the last refresh.
    pub async fn list_volumes(&self) -> Result<Vec<StorageVol>> {
        let connection = self.connection.clone();
        self.call("virStoragePoolListAllVolumes", Patience::Short, move |pool| {
            let mut array = ptr::null_mut();
            // SAFETY: libvirt allocates the array, which holds `count` references of ours.
            unsafe {
                let count = check(sys::virStoragePoolListAllVolumes(pool, &raw mut array, 0))?;
                let volumes = PointerArray::new(array, count, |volume| drop(RawStorageVol::adopt(volume)));
                volumes.map(|volume| StorageVol::adopt(&connection, volume)).collect()
            }
        })
        .await
    }

    /// `virStorageVolLookupByName`; `None` if there is no such volume, as of the last refresh.
    pub async fn lookup_volume(&self, name: &str) -> Result<Option<StorageVol>> {
        let (connection, c_name) = (self.connection.clone(), c_string(name));
        let volume = self
            .call("virStorageVolLookupByName", Patience::Short, move |pool| {
                let name = c_name?;
                // SAFETY: the name lives during the call; the result is a reference of ours.
                unsafe { StorageVol::adopt(&connection, sys::virStorageVolLookupByName(pool, name.as_ptr())) }
            })
            .await;
        unless_missing(volume, ErrorCode::NoStorageVol)
    }

    /// `virStorageVolCreateXML`: creates a volume. `name` is for the error's text.
    pub async fn create_volume(&self, name: &str, xml: &str) -> Result<StorageVol> {
        let (connection, xml, pool) = (self.connection.clone(), c_string(xml), Arc::clone(&self.raw));
        let call = move |_| {
            let xml = xml?;
            // SAFETY: the XML lives during the call; the result is a reference of ours.
            unsafe { StorageVol::adopt(&connection, sys::virStorageVolCreateXML(pool.as_ptr(), xml.as_ptr(), 0)) }
        };
        self.connection.call("virStorageVolCreateXML", &self.volume_object(name), Patience::Copy, call).await
    }

    /// `virStorageVolCreateXMLFrom`: creates a volume as a full copy of `source`, which may lie in another pool.
    pub async fn create_volume_from(&self, name: &str, xml: &str, source: &StorageVol) -> Result<StorageVol> {
        let (connection, xml, pool) = (self.connection.clone(), c_string(xml), Arc::clone(&self.raw));
        let source = source.clone();
        let call = move |_| {
            let (xml, source) = (xml?, source.raw());
            // SAFETY: the XML and both handles live during the call; the result is a reference of ours.
            unsafe {
                let volume = sys::virStorageVolCreateXMLFrom(pool.as_ptr(), xml.as_ptr(), source.as_ptr(), 0);
                StorageVol::adopt(&connection, volume)
            }
        };
        self.connection.call("virStorageVolCreateXMLFrom", &self.volume_object(name), Patience::Copy, call).await
    }

    fn volume_object(&self, name: &str) -> String {
        format!("volume {name} in storage pool {}", self.name())
    }
}
