//! What each lowering gives, word for word. `UPDATE_GOLDEN=1` writes the files anew; read the difference.
#![allow(missing_docs, clippy::unwrap_used)]

use std::net::Ipv4Addr;
use std::path::Path;

use kubevmm_analyser::lower::*;
use kubevmm_analyser::mark::Mark;
use kubevmm_analyser::read::{DiskSource, read_domain, read_network, read_pool, read_volume};
use kubevmm_analyser::{Element, Tree, Value};
use proptest::prelude::*;
use uuid::Uuid;

fn golden(name: &str, element: &Element) {
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/golden").join(name);
    let got = element.to_xml();
    if std::env::var_os("UPDATE_GOLDEN").is_some() {
        std::fs::write(&path, &got).unwrap();
    }
    let want = std::fs::read_to_string(&path).unwrap();
    assert_eq!(got, want, "{name}");
}

fn uuid() -> Uuid {
    Uuid::from_u128(0x0dd4_f2cb_7a0c_4d53_9d5e_2d6a_6c1f_8b11)
}

fn mark() -> Mark {
    Mark {
        cluster: "5f6e0e9e-6d6a-4b0e-a7c6-0d5f3c1c2a10".into(),
        namespace: "shop".into(),
        name: "web".into(),
        uid: uuid().to_string(),
        epoch: 1,
        generation: 4,
    }
}

fn domain() -> DomainInput {
    DomainInput {
        name: "shop.web".into(),
        uuid: uuid(),
        mark: mark(),
        accelerator: Accelerator::Kvm,
        machine: Machine::Q35,
        arch: "x86_64".into(),
        emulator: None,
        cpu: CpuInput { vcpus: 2, max_vcpus: 2, model: CpuModel::HostModel },
        memory_bytes: 2 << 30,
        firmware: Firmware::Bios,
        disks: vec![DiskInput {
            name: "root".into(),
            path: "/srv/vm/shop.web-root.0dd4f2cb.qcow2".into(),
            format: Format::Qcow2,
            device: DiskDevice::Disk,
            bus: DiskBus::Virtio,
            read_only: false,
            boot_order: Some(1),
            serial: None,
        }],
        nics: vec![NicInput {
            name: "lan".into(),
            source: NicSource::Network(".lan".into()),
            mac: "52:54:00:12:34:56".into(),
            model: "virtio".into(),
            boot_order: None,
        }],
    }
}

fn network() -> NetworkInput {
    NetworkInput {
        name: ".lan".into(),
        uuid: uuid(),
        mark: Mark { namespace: String::new(), name: "lan".into(), epoch: 0, ..mark() },
        forward: Forward::Nat,
        bridge: None,
        address: Ipv4Addr::new(10, 77, 0, 1),
        prefix: 24,
        dhcp: Some(DhcpRange { start: Ipv4Addr::new(10, 77, 0, 2), end: Ipv4Addr::new(10, 77, 0, 254) }),
        domain: None,
    }
}

#[test]
fn kvm_domain() {
    golden("domain-kvm.xml", &lower(&domain()));
}

#[test]
fn tcg_domain_with_everything() {
    let mut input = domain();
    input.accelerator = Accelerator::Tcg { tb_cache_mib: Some(32) };
    input.machine = Machine::Pc;
    input.emulator = Some("/usr/bin/qemu-system-x86_64".into());
    input.cpu = CpuInput { vcpus: 1, max_vcpus: 4, model: CpuModel::default_for(input.accelerator) };
    input.memory_bytes = (256 << 20) + 1;
    let root = input.disks[0].clone();
    input.disks.push(DiskInput {
        name: "data".into(),
        path: "/srv/vm/<odd> & 'name'.raw".into(),
        format: Format::Raw,
        bus: DiskBus::Scsi,
        boot_order: None,
        serial: Some("DATA-1".into()),
        ..root.clone()
    });
    input.disks.push(DiskInput {
        name: "cd".into(),
        device: DiskDevice::Cdrom,
        format: Format::Raw,
        bus: DiskBus::Sata,
        boot_order: Some(2),
        ..root.clone()
    });
    input.disks.push(DiskInput { name: "seed".into(), format: Format::Raw, read_only: true, boot_order: None, ..root });
    input.nics.push(NicInput {
        name: "office".into(),
        source: NicSource::Bridge("br0".into()),
        mac: "52:54:00:12:34:57".into(),
        model: "e1000e".into(),
        boot_order: Some(3),
    });
    golden("domain-tcg.xml", &lower(&input));
}

#[test]
fn domain_without_devices_boots_from_its_first_disk() {
    let mut input = domain();
    input.cpu.model = CpuModel::Named("qemu64".into());
    input.disks[0].boot_order = None;
    input.nics.clear();
    golden("domain-small.xml", &lower(&input));
}

#[test]
fn domain_that_tcg_runs_anywhere() {
    let mut input = domain();
    input.accelerator = Accelerator::Tcg { tb_cache_mib: Some(32) };
    input.cpu = CpuInput { vcpus: 1, max_vcpus: 1, model: CpuModel::Maximum };
    input.memory_bytes = 64 << 20;
    input.nics.clear();
    golden("domain-run.xml", &lower(&input));
}

#[test]
fn domain_with_much_over_it() {
    let over = Value::from_yaml(include_str!("golden/domain-over.yaml")).unwrap();
    golden("domain-over.xml", &lower_with(&domain(), &over).unwrap());
}

#[test]
fn a_disk_and_a_nic_of_one_name_have_two_aliases() {
    let mut input = domain();
    input.nics[0].name = input.disks[0].name.clone();
    let read = read_domain(&lower(&input).to_xml()).unwrap();
    assert_eq!(read.disks[0].alias.as_deref(), Some("ua-disk-root"));
    assert_eq!(read.nics[0].alias.as_deref(), Some("ua-nic-root"));
}

#[test]
fn networks() {
    golden("network-nat.xml", &lower_network(&network()));
    let isolated = NetworkInput {
        forward: Forward::Isolated,
        bridge: Some("kvmm0".into()),
        dhcp: None,
        domain: Some("shop.example".into()),
        ..network()
    };
    golden("network-isolated.xml", &lower_network(&isolated));
}

#[test]
fn storage() {
    let pool =
        PoolInput { name: "kubevmm.fast".into(), uuid: uuid(), target_path: "/srv/vm".into(), permissions: None };
    golden("pool-dir.xml", &lower_pool(&pool));
    let system = PoolInput {
        name: "kubevmm-system".into(),
        permissions: Some(Permissions { mode: 0o711, owner: Some((0, 0)) }),
        ..pool
    };
    golden("pool-system.xml", &lower_pool(&system));
    let blank = VolumeInput {
        name: "shop.data.0dd4f2cb.raw".into(),
        capacity_bytes: 10 << 30,
        format: Format::Raw,
        backing: None,
        permissions: Some(Permissions { mode: 0o600, owner: None }),
    };
    golden("volume-blank.xml", &lower_volume(&blank));
    let overlay = VolumeInput {
        name: "shop.web-root.0dd4f2cb.qcow2".into(),
        format: Format::Qcow2,
        backing: Some(Backing { path: "/srv/vm/image..debian.5a5a5a5a.qcow2".into(), format: Format::Qcow2 }),
        permissions: None,
        ..blank
    };
    golden("volume-overlay.xml", &lower_volume(&overlay));
}

#[test]
fn what_was_lowered_is_read_back() {
    let read = read_domain(&lower(&domain()).to_xml()).unwrap();
    assert_eq!((read.name.as_str(), read.uuid, read.mark), ("shop.web", uuid(), Ok(Some(mark()))));
    assert_eq!(read.disks[0].alias.as_deref(), Some("ua-disk-root"));
    assert_eq!(read.disks[0].source, Some(DiskSource::File(domain().disks[0].path.clone())));
    assert_eq!(read.nics[0].mac.as_deref(), Some("52:54:00:12:34:56"));

    let read = read_network(&lower_network(&network()).to_xml()).unwrap();
    assert_eq!((read.name.as_str(), read.uuid, read.mark), (".lan", uuid(), Ok(Some(network().mark))));

    let pool = PoolInput { name: "p".into(), uuid: uuid(), target_path: "/srv/a b".into(), permissions: None };
    assert_eq!(read_pool(&lower_pool(&pool).to_xml()).unwrap().target_path.as_deref(), Some("/srv/a b"));

    let backing = Backing { path: "/srv/base".into(), format: Format::Raw };
    let volume = VolumeInput {
        name: "v".into(),
        capacity_bytes: 12345,
        format: Format::Qcow2,
        backing: Some(backing),
        permissions: None,
    };
    let read = read_volume(&lower_volume(&volume).to_xml()).unwrap();
    assert_eq!((read.capacity_bytes, read.format.as_deref()), (Some(12345), Some("qcow2")));
    assert_eq!(read.backing.map(|b| b.path).as_deref(), Some("/srv/base"));
}

fn any_disk() -> impl Strategy<Value = DiskInput> {
    let bus = prop_oneof![Just(DiskBus::Virtio), Just(DiskBus::Scsi), Just(DiskBus::Sata)];
    let device = prop_oneof![Just(DiskDevice::Disk), Just(DiskDevice::Cdrom)];
    let format = prop_oneof![Just(Format::Raw), Just(Format::Qcow2)];
    ("[a-z]{1,12}", "/[a-z0-9<&'\" é]{1,30}", format, device, bus, any::<bool>(), any::<Option<u32>>()).prop_map(
        |(name, path, format, device, bus, read_only, boot_order)| DiskInput {
            name,
            path,
            format,
            device,
            bus,
            read_only,
            boot_order,
            serial: None,
        },
    )
}

fn any_domain() -> impl Strategy<Value = DomainInput> {
    (1u32..300, 0u32..8, 1u64.., prop::collection::vec(any_disk(), 0..40), any::<bool>()).prop_map(
        |(vcpus, more, memory_bytes, disks, kvm)| DomainInput {
            accelerator: if kvm { Accelerator::Kvm } else { Accelerator::Tcg { tb_cache_mib: None } },
            cpu: CpuInput { vcpus, max_vcpus: vcpus + more, model: CpuModel::HostModel },
            memory_bytes,
            disks,
            ..domain()
        },
    )
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 64, failure_persistence: None, ..ProptestConfig::default() })]

    #[test]
    fn lowering_is_deterministic_and_well_formed(input in any_domain()) {
        let xml = lower(&input).to_xml();
        prop_assert_eq!(&xml, &lower(&input.clone()).to_xml());
        prop_assert_eq!(&Tree::from_xml(&xml).unwrap().root, &lower(&input));
    }

    #[test]
    fn no_two_disks_share_a_target(input in any_domain()) {
        let read = read_domain(&lower(&input).to_xml()).unwrap();
        let mut targets: Vec<_> = read.disks.iter().map(|d| d.target.clone()).collect();
        targets.sort();
        targets.dedup();
        prop_assert_eq!(targets.len(), input.disks.len());
    }
}
