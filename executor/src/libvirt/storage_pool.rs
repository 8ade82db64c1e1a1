//! Storage pools.

use std::fmt;
use std::ptr;
use std::sync::Arc;

use uuid::Uuid;
use virt::sys;

use super::connection::{Connection, Patience};
use super::constants::StoragePoolState;
use super::error::{ErrorCode, Failure, Result};
use super::event::ObjectRef;
use super::ffi::{self, PointerArray, c_string, check, check_bool, copy_string, take_string};
use super::handle::{handle_calls, owned_pointer};
use super::storage_vol::{RawStorageVol, StorageVol};

owned_pointer!(RawStoragePool, _virStoragePool, virStoragePoolFree);

/// A storage pool (`virStoragePoolPtr`).
#[derive(Clone)]
pub struct StoragePool {
    raw: Arc<RawStoragePool>,
    connection: Connection,
    identity: Arc<ObjectRef>,
}

handle_calls!(StoragePool, _virStoragePool);

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

impl fmt::Debug for StoragePool {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_tuple("StoragePool").field(&self.identity).finish()
    }
}

impl Connection {
    /// `virConnectListAllStoragePools`.
    pub async fn list_storage_pools(&self) -> Result<Vec<StoragePool>> {
        let connection = self.clone();
        let call = move |conn| {
            let mut array = ptr::null_mut();
            // SAFETY: libvirt allocates the array, which holds `count` references of ours.
            unsafe {
                let count = check(sys::virConnectListAllStoragePools(conn, &raw mut array, 0))?;
                let pools = PointerArray::new(array, count, |pool| drop(RawStoragePool::adopt(pool)));
                pools.map(|pool| StoragePool::adopt(&connection, pool)).collect()
            }
        };
        self.call("virConnectListAllStoragePools", "all storage pools", Patience::Short, call).await
    }

    /// `virStoragePoolLookupByUUID`; `None` if there is no such pool.
    pub async fn lookup_storage_pool(&self, uuid: Uuid) -> Result<Option<StoragePool>> {
        let connection = self.clone();
        let call = move |conn| {
            // SAFETY: the bytes live during the call; the result is a reference of ours.
            unsafe { StoragePool::adopt(&connection, sys::virStoragePoolLookupByUUID(conn, uuid.as_bytes().as_ptr())) }
        };
        found(self.call("virStoragePoolLookupByUUID", &format!("storage pool {uuid}"), Patience::Short, call).await)
    }

    /// `virStoragePoolLookupByName`; `None` if there is no such pool.
    pub async fn lookup_storage_pool_by_name(&self, name: &str) -> Result<Option<StoragePool>> {
        let (connection, c_name) = (self.clone(), c_string(name));
        let call = move |conn| {
            let name = c_name?;
            // SAFETY: the name lives during the call; the result is a reference of ours.
            unsafe { StoragePool::adopt(&connection, sys::virStoragePoolLookupByName(conn, name.as_ptr())) }
        };
        found(self.call("virStoragePoolLookupByName", &format!("storage pool {name}"), Patience::Short, call).await)
    }

    /// `virStoragePoolDefineXML`: creates or replaces a persistent pool. `name` is for the error's text.
    pub async fn define_storage_pool(&self, name: &str, xml: &str) -> Result<StoragePool> {
        let (connection, xml) = (self.clone(), c_string(xml));
        let call = move |conn| {
            let xml = xml?;
            // SAFETY: the XML lives during the call; the result is a reference of ours.
            unsafe { StoragePool::adopt(&connection, sys::virStoragePoolDefineXML(conn, xml.as_ptr(), 0)) }
        };
        self.call("virStoragePoolDefineXML", &format!("storage pool {name}"), Patience::Short, call).await
    }
}

/// Turns "there is no such pool" into `None`.
fn found(result: Result<StoragePool>) -> Result<Option<StoragePool>> {
    match result {
        Ok(pool) => Ok(Some(pool)),
        Err(error) if error.code == ErrorCode::NoStoragePool => Ok(None),
        Err(error) => Err(error),
    }
}

impl StoragePool {
    /// # Safety
    /// As [`RawStoragePool::adopt`].
    pub(super) unsafe fn adopt(connection: &Connection, pool: sys::virStoragePoolPtr) -> Result<Self, Failure> {
        // SAFETY: by this function's contract; the getters are local.
        unsafe {
            let raw = RawStoragePool::adopt(pool)?;
            let uuid = ffi::uuid(|bytes| sys::virStoragePoolGetUUID(raw.as_ptr(), bytes))?;
            let name = copy_string(sys::virStoragePoolGetName(raw.as_ptr())).ok_or_else(Failure::last)?;
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
        format!("storage pool {}", self.name())
    }

    /// `virStoragePoolBuild`: makes what the pool stands on, a directory for instance. Nothing is overwritten.
    pub async fn build(&self) -> Result<()> {
        // SAFETY: `call` passes a live pool (here and below).
        self.call("virStoragePoolBuild", Patience::Long, |pool| {
            check(unsafe { sys::virStoragePoolBuild(pool, sys::VIR_STORAGE_POOL_BUILD_NEW) }).map(drop)
        })
        .await
    }

    /// `virStoragePoolCreate`: starts a defined pool.
    pub async fn create(&self) -> Result<()> {
        // SAFETY: as above.
        self.call("virStoragePoolCreate", Patience::Long, |pool| {
            check(unsafe { sys::virStoragePoolCreate(pool, sys::VIR_STORAGE_POOL_CREATE_NORMAL) }).map(drop)
        })
        .await
    }

    /// `virStoragePoolDestroy`: stops it; its definition and its data stay.
    pub async fn destroy(&self) -> Result<()> {
        // SAFETY: as above.
        self.call("virStoragePoolDestroy", Patience::Long, |pool| {
            check(unsafe { sys::virStoragePoolDestroy(pool) }).map(drop)
        })
        .await
    }

    /// `virStoragePoolUndefine`; its data stays.
    pub async fn undefine(&self) -> Result<()> {
        // SAFETY: as above.
        self.call("virStoragePoolUndefine", Patience::Short, |pool| {
            check(unsafe { sys::virStoragePoolUndefine(pool) }).map(drop)
        })
        .await
    }

    /// `virStoragePoolRefresh`: libvirt reads the volumes and sizes anew.
    pub async fn refresh(&self) -> Result<()> {
        // SAFETY: as above.
        self.call("virStoragePoolRefresh", Patience::Long, |pool| {
            check(unsafe { sys::virStoragePoolRefresh(pool, 0) }).map(drop)
        })
        .await
    }

    /// `virStoragePoolGetAutostart`: does libvirt start it with the host?
    pub async fn autostart(&self) -> Result<bool> {
        self.call("virStoragePoolGetAutostart", Patience::Short, |pool| {
            let mut autostart = 0;
            // SAFETY: `autostart` is written to.
            check(unsafe { sys::virStoragePoolGetAutostart(pool, &raw mut autostart) })?;
            Ok(autostart != 0)
        })
        .await
    }

    /// `virStoragePoolSetAutostart`.
    pub async fn set_autostart(&self, autostart: bool) -> Result<()> {
        // SAFETY: as above.
        self.call("virStoragePoolSetAutostart", Patience::Short, move |pool| {
            check(unsafe { sys::virStoragePoolSetAutostart(pool, autostart.into()) }).map(drop)
        })
        .await
    }

    /// `virStoragePoolIsActive`.
    pub async fn is_active(&self) -> Result<bool> {
        // SAFETY: as above.
        self.call("virStoragePoolIsActive", Patience::Short, |pool| {
            check_bool(unsafe { sys::virStoragePoolIsActive(pool) })
        })
        .await
    }

    /// `virStoragePoolIsPersistent`: is it defined?
    pub async fn is_persistent(&self) -> Result<bool> {
        // SAFETY: as above.
        self.call("virStoragePoolIsPersistent", Patience::Short, |pool| {
            check_bool(unsafe { sys::virStoragePoolIsPersistent(pool) })
        })
        .await
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
        match volume {
            Ok(volume) => Ok(Some(volume)),
            Err(error) if error.code == ErrorCode::NoStorageVol => Ok(None),
            Err(error) => Err(error),
        }
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
