//! What `virStoragePoolGetXMLDesc` and `virStorageVolGetXMLDesc` return.

use uuid::Uuid;

use super::field;
use crate::error::Result;

/// A storage pool. Sizes are of the last refresh.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct PoolInfo {
    /// Name.
    pub name: String,
    /// UUID.
    pub uuid: Uuid,
    /// Pool type: `dir`, `logical`, ….
    pub kind: String,
    /// Path of the target; a pool of network storage has none.
    pub target_path: Option<String>,
    /// Size in bytes.
    pub capacity_bytes: Option<u64>,
    /// Bytes in use.
    pub allocation_bytes: Option<u64>,
    /// Free bytes.
    pub available_bytes: Option<u64>,
}

/// A volume.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct VolumeInfo {
    /// Name.
    pub name: String,
    /// Key, unique on the host.
    pub key: Option<String>,
    /// Path.
    pub path: Option<String>,
    /// Format; `None` for volumes that have none (block devices).
    pub format: Option<String>,
    /// Size that a guest sees, in bytes.
    pub capacity_bytes: Option<u64>,
    /// Bytes in use on the host.
    pub allocation_bytes: Option<u64>,
    /// What it is based on. libvirt reads it from the volume's own header.
    pub backing: Option<BackingInfo>,
    /// The separate data file that a qcow2 header names.
    pub data_file: Option<String>,
}

/// What a copy-on-write volume is based on.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct BackingInfo {
    /// Path as in the header.
    pub path: String,
    /// Format, if libvirt knows it.
    pub format: Option<String>,
}

/// Reads a pool.
///
/// # Errors
/// When the text is not a pool's XML or lacks a name or UUID.
pub fn read_pool(xml: &str) -> Result<PoolInfo> {
    let pool = field::document(xml, "pool")?;
    Ok(PoolInfo {
        name: field::text(&pool, &["name"])?,
        uuid: field::uuid(&pool, &["uuid"])?,
        kind: pool.attribute("type").unwrap_or_default().to_owned(),
        target_path: field::optional_text(&pool, &["target", "path"]),
        capacity_bytes: field::bytes(&pool, &["capacity"])?,
        allocation_bytes: field::bytes(&pool, &["allocation"])?,
        available_bytes: field::bytes(&pool, &["available"])?,
    })
}

/// Reads a volume.
///
/// # Errors
/// When the text is not a volume's XML or lacks a name.
pub fn read_volume(xml: &str) -> Result<VolumeInfo> {
    let volume = field::document(xml, "volume")?;
    let backing = field::optional_text(&volume, &["backingStore", "path"])
        .map(|path| BackingInfo { path, format: field::attribute(&volume, &["backingStore", "format"], "type") });
    Ok(VolumeInfo {
        name: field::text(&volume, &["name"])?,
        key: field::optional_text(&volume, &["key"]),
        path: field::optional_text(&volume, &["target", "path"]),
        format: field::attribute(&volume, &["target", "format"], "type"),
        capacity_bytes: field::bytes(&volume, &["capacity"])?,
        allocation_bytes: field::bytes(&volume, &["allocation"])?,
        backing,
        data_file: field::optional_text(&volume, &["dataStore", "path"]),
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn reads_a_pool() {
        let xml = "<pool type='dir'><name>kubevmm.fast</name><uuid>0dd4f2cb-7a0c-4d53-9d5e-2d6a6c1f8b11</uuid>
          <capacity unit='bytes'>100</capacity><allocation unit='bytes'>40</allocation><available unit='KiB'>2</available>
          <source/><target><path>/srv/vm</path></target></pool>";
        let pool = read_pool(xml).unwrap();
        assert_eq!((pool.kind.as_str(), pool.target_path.as_deref()), ("dir", Some("/srv/vm")));
        assert_eq!(
            (pool.capacity_bytes, pool.allocation_bytes, pool.available_bytes),
            (Some(100), Some(40), Some(2048))
        );
    }

    #[test]
    fn reads_a_volume_with_its_backing_file() {
        let xml = "<volume type='file'><name>a.qcow2</name><key>/srv/a.qcow2</key><capacity unit='bytes'>1073741824</capacity>
          <allocation unit='bytes'>200704</allocation><physical unit='bytes'>1</physical>
          <target><path>/srv/a.qcow2</path><format type='qcow2'/></target>
          <backingStore><path>/srv/base.qcow2</path><format type='qcow2'/></backingStore></volume>";
        let volume = read_volume(xml).unwrap();
        assert_eq!(volume.capacity_bytes, Some(1 << 30));
        assert_eq!(volume.format.as_deref(), Some("qcow2"));
        let backing = BackingInfo { path: "/srv/base.qcow2".into(), format: Some("qcow2".into()) };
        assert_eq!(volume.backing, Some(backing));
        assert_eq!(volume.data_file, None);
    }

    #[test]
    fn a_size_that_is_no_number_names_its_path() {
        let error = read_volume("<volume><name>a</name><capacity>lots</capacity></volume>").unwrap_err();
        assert_eq!(error.to_string(), "volume/capacity: 'lots' is not a whole number");
    }
}
