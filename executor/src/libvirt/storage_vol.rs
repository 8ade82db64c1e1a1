//! Volumes of storage pools.

use std::fmt;
use std::sync::Arc;

use virt::sys;

use super::connection::{Connection, Patience};
use super::constants::StorageVolType;
use super::error::{ErrorCode, Failure, Result};
use super::ffi::{c_string, check, copy_string, take_string};
use super::handle::{Handle, handle_calls, owned_pointer, unless_missing};
use super::storage_pool::StoragePool;

owned_pointer!(RawStorageVol, _virStorageVol, virStorageVolFree);

/// A volume (`virStorageVolPtr`).
#[derive(Clone)]
pub struct StorageVol {
    raw: Arc<RawStorageVol>,
    connection: Connection,
    name: Arc<str>,
    key: Arc<str>,
}

handle_calls!(StorageVol, _virStorageVol);

/// A volume's kind and sizes (`virStorageVolInfo`).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct StorageVolInfo {
    /// Its kind.
    pub kind: StorageVolType,
    /// The size that a guest sees, in bytes.
    pub capacity_bytes: u64,
    /// The space that it takes, in bytes.
    pub allocation_bytes: u64,
}

/// What to resize to (`virStorageVolResize`).
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct ResizeOptions {
    /// `VIR_STORAGE_VOL_RESIZE_ALLOCATE`: take the space at once.
    pub allocate: bool,
    /// `VIR_STORAGE_VOL_RESIZE_SHRINK`: allow the loss of data at the end.
    pub shrink: bool,
}

impl fmt::Debug for StorageVol {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("StorageVol").field("name", &self.name).field("key", &self.key).finish()
    }
}

impl Connection {
    /// `virStorageVolLookupByPath`; `None` if no active pool has such a volume.
    pub async fn lookup_volume_by_path(&self, path: &str) -> Result<Option<StorageVol>> {
        let (connection, c_path) = (self.clone(), c_string(path));
        let call = move |conn| {
            let path = c_path?;
            // SAFETY: the path lives during the call; the result is a reference of ours.
            unsafe { StorageVol::adopt(&connection, sys::virStorageVolLookupByPath(conn, path.as_ptr())) }
        };
        let volume = self.call("virStorageVolLookupByPath", &format!("volume {path}"), Patience::Short, call).await;
        unless_missing(volume, ErrorCode::NoStorageVol)
    }
}

impl StorageVol {
    /// # Safety
    /// As [`RawStorageVol::adopt`].
    pub(super) unsafe fn adopt(connection: &Connection, volume: sys::virStorageVolPtr) -> Result<Self, Failure> {
        // SAFETY: by this function's contract; the getters are local.
        unsafe {
            let raw = RawStorageVol::adopt(volume)?;
            let name = copy_string(sys::virStorageVolGetName(raw.as_ptr())).ok_or_else(Failure::last)?.into();
            let key = copy_string(sys::virStorageVolGetKey(raw.as_ptr())).ok_or_else(Failure::last)?.into();
            Ok(Self { raw: Arc::new(raw), connection: connection.clone(), name, key })
        }
    }

    pub(super) fn raw(&self) -> &Arc<RawStorageVol> {
        &self.raw
    }

    /// Its name.
    #[must_use]
    pub fn name(&self) -> &str {
        &self.name
    }

    /// Its key, unique on the host; of a file, the path.
    #[must_use]
    pub fn key(&self) -> &str {
        &self.key
    }

    pub(super) fn object(&self) -> String {
        format!("volume {}", self.key)
    }

    /// `virStoragePoolLookupByVolume`: the pool that it lies in.
    pub async fn storage_pool(&self) -> Result<StoragePool> {
        let connection = self.connection.clone();
        self.call("virStoragePoolLookupByVolume", Patience::Short, move |volume| {
            // SAFETY: `call` passes a live volume (here and below); the result is a reference of ours.
            unsafe { StoragePool::adopt(&connection, sys::virStoragePoolLookupByVolume(volume)) }
        })
        .await
    }

    /// `virStorageVolGetPath`: its path on the host.
    pub async fn path(&self) -> Result<String> {
        self.call("virStorageVolGetPath", Patience::Short, |volume| {
            // SAFETY: the result is ours to free.
            unsafe { take_string(sys::virStorageVolGetPath(volume)) }
        })
        .await
    }

    /// `virStorageVolGetXMLDesc`.
    pub async fn xml(&self) -> Result<String> {
        self.call("virStorageVolGetXMLDesc", Patience::Short, |volume| {
            // SAFETY: the result is ours to free.
            unsafe { take_string(sys::virStorageVolGetXMLDesc(volume, 0)) }
        })
        .await
    }

    /// `virStorageVolGetInfo`.
    pub async fn info(&self) -> Result<StorageVolInfo> {
        self.call("virStorageVolGetInfo", Patience::Short, |volume| {
            // SAFETY: the struct is plain data, for which zeros are valid; libvirt fills it.
            unsafe {
                let mut info: sys::_virStorageVolInfo = std::mem::zeroed();
                check(sys::virStorageVolGetInfo(volume, &raw mut info))?;
                Ok(StorageVolInfo {
                    kind: StorageVolType::from_raw(info.type_),
                    capacity_bytes: info.capacity,
                    allocation_bytes: info.allocation,
                })
            }
        })
        .await
    }

    /// `virStorageVolResize`: sets the size that a guest sees, in bytes.
    pub async fn resize(&self, capacity_bytes: u64, options: ResizeOptions) -> Result<()> {
        let mut flags = 0;
        if options.allocate {
            flags |= sys::VIR_STORAGE_VOL_RESIZE_ALLOCATE;
        }
        if options.shrink {
            flags |= sys::VIR_STORAGE_VOL_RESIZE_SHRINK;
        }
        // SAFETY: as above.
        self.act("virStorageVolResize", Patience::Copy, move |volume| unsafe {
            sys::virStorageVolResize(volume, capacity_bytes, flags)
        })
        .await
    }

    /// `virStorageVolDelete`: the data is gone.
    pub async fn delete(&self) -> Result<()> {
        // SAFETY: as above.
        self.act("virStorageVolDelete", Patience::Long, |volume| unsafe {
            sys::virStorageVolDelete(volume, sys::VIR_STORAGE_VOL_DELETE_NORMAL)
        })
        .await
    }
}
