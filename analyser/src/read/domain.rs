//! What `virDomainGetXMLDesc` returns.

use uuid::Uuid;

use super::field;
use crate::error::Result;
use crate::mark::Mark;
use crate::tree::Element;

/// A domain.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct DomainInfo {
    /// Name.
    pub name: String,
    /// UUID.
    pub uuid: Uuid,
    /// libvirt's number of a running domain.
    pub id: Option<u32>,
    /// Domain type: `kvm`, `qemu`, ….
    pub kind: String,
    /// Machine type; resolved to a version in what libvirt returns.
    pub machine: Option<String>,
    /// Mark of ownership. `Err` when there is one that cannot be read: such a domain is not foreign.
    pub mark: Result<Option<Mark>>,
    /// Disks.
    pub disks: Vec<DiskInfo>,
    /// NICs.
    pub nics: Vec<NicInfo>,
}

/// A disk of a domain.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct DiskInfo {
    /// libvirt's alias; absent in the XML of a domain that is off, unless a user chose it.
    pub alias: Option<String>,
    /// `disk`, `cdrom`, `floppy`, `lun`.
    pub device: String,
    /// Target name, `vda`.
    pub target: String,
    /// Format of the source.
    pub format: Option<String>,
    /// Source; `None` for an empty drive.
    pub source: Option<DiskSource>,
    /// Whether the guest can only read.
    pub read_only: bool,
}

/// Where a disk's bytes are.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum DiskSource {
    /// A file.
    File(String),
    /// A block device.
    Block(String),
    /// A volume of a pool.
    Volume {
        /// Pool name.
        pool: String,
        /// Volume name.
        volume: String,
    },
    /// Anything else, by libvirt's name of the disk type (`network`, `nvme`, …).
    Other(String),
}

/// A NIC of a domain.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct NicInfo {
    /// libvirt's alias.
    pub alias: Option<String>,
    /// Interface type: `network`, `bridge`, ….
    pub kind: String,
    /// The network or bridge.
    pub source: Option<String>,
    /// MAC address.
    pub mac: Option<String>,
    /// Model.
    pub model: Option<String>,
    /// Name of the host's end, `vnet3`, of a running domain.
    pub target: Option<String>,
}

/// Reads a domain.
///
/// # Errors
/// When the text is not a domain's XML or lacks a name or UUID.
pub fn read_domain(xml: &str) -> Result<DomainInfo> {
    let domain = field::document(xml, "domain")?;
    let id = domain.attribute("id").map(|id| field::parse(&domain, &["@id"], id, "a whole number")).transpose()?;
    let devices = domain.find("devices");
    Ok(DomainInfo {
        name: field::text(&domain, &["name"])?,
        uuid: field::uuid(&domain, &["uuid"])?,
        id,
        kind: domain.attribute("type").unwrap_or_default().to_owned(),
        machine: field::attribute(&domain, &["os", "type"], "machine"),
        mark: Mark::find(&domain),
        disks: devices.iter().flat_map(|d| d.all("disk")).map(disk).collect(),
        nics: devices.iter().flat_map(|d| d.all("interface")).map(nic).collect(),
    })
}

fn disk(disk: &Element) -> DiskInfo {
    let source = |name| field::attribute(disk, &["source"], name);
    DiskInfo {
        alias: field::attribute(disk, &["alias"], "name"),
        device: disk.attribute("device").unwrap_or("disk").to_owned(),
        target: field::attribute(disk, &["target"], "dev").unwrap_or_default(),
        format: field::attribute(disk, &["driver"], "type"),
        source: match disk.attribute("type").unwrap_or("file") {
            "file" => source("file").map(DiskSource::File),
            "block" => source("dev").map(DiskSource::Block),
            "volume" => source("pool").zip(source("volume")).map(|(pool, volume)| DiskSource::Volume { pool, volume }),
            other => Some(DiskSource::Other(other.to_owned())),
        },
        read_only: disk.find("readonly").is_some(),
    }
}

fn nic(nic: &Element) -> NicInfo {
    let kind = nic.attribute("type").unwrap_or_default();
    let source = match kind {
        "network" => field::attribute(nic, &["source"], "network"),
        "bridge" => field::attribute(nic, &["source"], "bridge"),
        _ => field::attribute(nic, &["source"], "dev"),
    };
    NicInfo {
        alias: field::attribute(nic, &["alias"], "name"),
        kind: kind.to_owned(),
        source,
        mac: field::attribute(nic, &["mac"], "address"),
        model: field::attribute(nic, &["model"], "type"),
        target: field::attribute(nic, &["target"], "dev"),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const RUNNING: &str =
        "<domain type='kvm' id='7'><name>shop.web</name><uuid>0dd4f2cb-7a0c-4d53-9d5e-2d6a6c1f8b11</uuid>
      <os><type arch='x86_64' machine='pc-q35-10.0'>hvm</type></os>
      <devices>
        <disk type='file' device='disk'><driver name='qemu' type='qcow2'/><source file='/p/a.qcow2' index='2'/>
          <backingStore type='file' index='3'><format type='raw'/><source file='/p/base'/><backingStore/></backingStore>
          <target dev='vda' bus='virtio'/><alias name='ua-disk-root'/></disk>
        <disk type='file' device='cdrom'><target dev='sda' bus='sata'/><readonly/><alias name='sata0-0-0'/></disk>
        <disk type='volume'><source pool='p' volume='v'/><target dev='vdb'/></disk>
        <disk type='network'><source protocol='rbd' name='x'/><target dev='vdc'/></disk>
        <interface type='network'><mac address='52:54:00:00:00:01'/><source network='lan' portid='x' bridge='virbr0'/>
          <target dev='vnet3'/><model type='virtio'/><alias name='ua-nic-lan'/></interface>
      </devices></domain>";

    #[test]
    fn reads_a_running_domain() {
        let domain = read_domain(RUNNING).unwrap();
        assert_eq!((domain.name.as_str(), domain.id, domain.kind.as_str()), ("shop.web", Some(7), "kvm"));
        assert_eq!(domain.machine.as_deref(), Some("pc-q35-10.0"));
        assert_eq!(domain.mark, Ok(None));
        assert_eq!(
            domain.disks[0],
            DiskInfo {
                alias: Some("ua-disk-root".into()),
                device: "disk".into(),
                target: "vda".into(),
                format: Some("qcow2".into()),
                source: Some(DiskSource::File("/p/a.qcow2".into())),
                read_only: false,
            }
        );
        assert_eq!((domain.disks[1].source.clone(), domain.disks[1].read_only), (None, true));
        assert_eq!(domain.disks[2].source, Some(DiskSource::Volume { pool: "p".into(), volume: "v".into() }));
        assert_eq!(domain.disks[3].source, Some(DiskSource::Other("network".into())));
        assert_eq!(
            domain.nics,
            [NicInfo {
                alias: Some("ua-nic-lan".into()),
                kind: "network".into(),
                source: Some("lan".into()),
                mac: Some("52:54:00:00:00:01".into()),
                model: Some("virtio".into()),
                target: Some("vnet3".into()),
            }]
        );
    }

    #[test]
    fn says_what_is_missing() {
        let error = read_domain("<domain type='kvm'><name>a</name></domain>").unwrap_err();
        assert_eq!(error.to_string(), "domain/uuid: missing in libvirt's document");
        let error = read_domain("<network/>").unwrap_err();
        assert_eq!(error.to_string(), "/: 'network' is not domain");
    }
}
