//! The rules by which `spec.domain` lies over the lowered domain, and that lifting gives back what was written.
#![allow(missing_docs, clippy::unwrap_used)]

mod attributes;
mod lifting;

use attributes::sorted;
use kubevmm_analyser::lift::{Vocabulary, lift, lift_with};
use kubevmm_analyser::lower::*;
use kubevmm_analyser::mark::Mark;
use kubevmm_analyser::{Element, Tree, Value};
use proptest::prelude::*;
use uuid::Uuid;

fn disk(name: &str) -> DiskInput {
    DiskInput {
        name: name.into(),
        path: format!("/srv/vm/{name}"),
        format: Format::Qcow2,
        device: DiskDevice::Disk,
        bus: DiskBus::Virtio,
        read_only: false,
        boot_order: None,
        serial: None,
    }
}

fn nic(name: &str) -> NicInput {
    NicInput {
        name: name.into(),
        source: NicSource::Network(".lan".into()),
        mac: "52:54:00:12:34:56".into(),
        model: "virtio".into(),
        boot_order: None,
    }
}

fn input() -> DomainInput {
    DomainInput {
        name: "shop.web".into(),
        uuid: Uuid::from_u128(0x0dd4_f2cb_7a0c_4d53_9d5e_2d6a_6c1f_8b11),
        mark: Mark {
            cluster: "c".into(),
            namespace: "shop".into(),
            name: "web".into(),
            uid: "u".into(),
            epoch: 1,
            generation: 4,
        },
        accelerator: Accelerator::Kvm,
        machine: Machine::Q35,
        arch: "x86_64".into(),
        emulator: None,
        cpu: CpuInput { vcpus: 2, max_vcpus: 2, model: CpuModel::HostModel },
        memory_bytes: 2 << 30,
        firmware: Firmware::Bios,
        disks: vec![disk("root"), disk("data")],
        nics: vec![nic("lan")],
    }
}

fn over(yaml: &str) -> kubevmm_analyser::Result<Element> {
    lower_with(&input(), &Value::from_yaml(yaml)?)
}

fn lowered(yaml: &str) -> Element {
    over(yaml).unwrap()
}

fn refused(yaml: &str) -> String {
    over(yaml).unwrap_err().to_string()
}

fn devices<'a>(domain: &'a Element, kind: &'a str) -> Vec<&'a Element> {
    domain.find("devices").unwrap().all(kind).collect()
}

/// Sources or aliases of the disks, in order.
fn disks(domain: &Element) -> Vec<String> {
    let name = |disk: &&Element| disk.find("source").and_then(|s| s.attribute("file")).unwrap_or("?").to_owned();
    devices(domain, "disk").iter().map(name).collect()
}

#[test]
fn nothing_changes_nothing() {
    assert_eq!(lowered("{}"), lower(&input()));
}

#[test]
fn mappings_merge_by_key_and_domain_wins() {
    let domain =
        lowered("{memory: {value: 42}, cpu: {mode: host-passthrough, topology: {cores: 7}}, on_crash: restart}");
    assert_eq!(domain.text_at(&["memory"]).as_deref(), Some("42"));
    assert_eq!(domain.find("memory").unwrap().attribute("unit"), Some("KiB"));
    let cpu = domain.find("cpu").unwrap();
    assert_eq!((cpu.attribute("mode"), cpu.attribute("check")), (Some("host-passthrough"), Some("partial")));
    assert_eq!(cpu.find("topology").unwrap().attribute("cores"), Some("7"));
    assert_eq!(domain.text_at(&["on_crash"]).as_deref(), Some("restart"));
}

#[test]
fn null_removes() {
    let domain =
        lowered("{cpu: null, clock: {timers: null}, features: {acpi: null}, devices: {rngs: null, memballoon: null}}");
    assert!(domain.find("cpu").is_none() && domain.at(&["features", "acpi"]).is_none());
    assert!(domain.at(&["features", "apic"]).is_some());
    assert_eq!(domain.find("clock").unwrap().elements().count(), 0);
    assert!(devices(&domain, "rng").is_empty() && devices(&domain, "memballoon").is_empty());
    assert_eq!(lowered("{nothing: null, sound: {card: null}, devices: {sounds: null}}").find("nothing"), None);
}

#[test]
fn lists_that_are_not_of_devices_are_replaced() {
    let domain = lowered("{clock: {timers: [{name: tsc}]}}");
    let names: Vec<_> = domain.find("clock").unwrap().elements().map(|t| t.attribute("name").unwrap()).collect();
    assert_eq!(names, ["tsc"]);
}

#[test]
fn a_device_with_a_typed_alias_merges_and_others_append() {
    let domain = lowered(
        "{devices: {disks: [{type: file, source: {file: /extra}, target: {dev: vdz}}, \
          {alias: {name: ua-disk-data}, serial: '0042', driver: {cache: none, discard: null}}, \
          {type: file, source: {file: /last}, target: {dev: vdy}}], \
          interfaces: [{alias: {name: ua-nic-lan}, mtu: {size: 9000}}]}}",
    );
    assert_eq!(disks(&domain), ["/srv/vm/root", "/extra", "/srv/vm/data", "/last"]);
    let data = devices(&domain, "disk")[2];
    assert_eq!(data.text_at(&["serial"]).as_deref(), Some("0042"));
    let driver = data.find("driver").unwrap();
    assert_eq!(
        (driver.attribute("type"), driver.attribute("cache"), driver.attribute("discard")),
        (Some("qcow2"), Some("none"), None)
    );
    assert_eq!(devices(&domain, "interface")[0].at(&["mtu"]).unwrap().attribute("size"), Some("9000"));
}

#[test]
fn one_device_can_stand_under_its_own_name() {
    let domain = lowered("{devices: {disk: {alias: {name: ua-disk-root}, serial: x}, watchdog: {model: itco}}}");
    assert_eq!(devices(&domain, "disk")[0].text_at(&["serial"]).as_deref(), Some("x"));
    assert_eq!(devices(&domain, "disk").len(), 2);
    assert_eq!(devices(&domain, "watchdog").len(), 1);
}

#[test]
fn what_lowering_adds_by_itself_is_known_by_what_it_is() {
    let domain = lowered(
        "{devices: {channels: [{type: spicevmc, target: {type: virtio, name: com.redhat.spice.0}}, \
          {target: {name: org.qemu.guest_agent.0}, address: {type: virtio-serial, port: 3}}], \
          videos: [{model: {type: vga}}], serials: [{type: file, source: {path: /log}}]}}",
    );
    let channels = devices(&domain, "channel");
    assert_eq!(channels.len(), 2);
    assert_eq!(channels[1].attribute("type"), Some("unix"));
    assert_eq!(channels[1].find("address").unwrap().attribute("port"), Some("3"));
    let videos = devices(&domain, "video");
    assert_eq!((videos.len(), videos[0].find("model").unwrap().attribute("type")), (1, Some("vga")));
    assert_eq!(devices(&domain, "serial").len(), 2);
}

#[test]
fn null_as_the_first_device_removes_what_lowering_adds() {
    let domain =
        lowered("{devices: {channels: [null, {type: spicevmc, target: {type: virtio, name: s}}], disks: [null]}}");
    let channels = devices(&domain, "channel");
    assert_eq!((channels.len(), channels[0].attribute("type")), (1, Some("spicevmc")));
    assert_eq!(disks(&domain).len(), 2, "disks of the spec are removed there");
}

#[test]
fn other_metadata_stands_before_our_mark() {
    let domain = lowered("{metadata: {'o:x': {'xmlns:o': 'urn:o', id: 7}}}");
    let names: Vec<_> = domain.find("metadata").unwrap().elements().map(Element::name).collect();
    assert_eq!(names, ["o:x", "kubevmm:object"]);
    assert_eq!(Mark::find(&lowered("{metadata: null}")).unwrap(), Some(input().mark));
}

#[test]
fn identity_is_refused_with_its_path() {
    for (yaml, error) in [
        ("{name: other}", "domain.name: cannot be set here: it is made from the object's namespace and name"),
        ("{'<name>': other}", "domain.name: cannot be set here: it is made from the object's namespace and name"),
        ("{uuid: x}", "domain.uuid: cannot be set here: use spec.firmware.uuid"),
        (
            "{metadata: {'k:object': {'xmlns:k': 'https://kubevmm.io/libvirt/1', uid: x}}}",
            "domain.metadata.k:object: is the mark of ownership and cannot be set here",
        ),
        (
            "{'xmlns:k': 'https://kubevmm.io/libvirt/1', metadata: {'k:any': {}}}",
            "domain.metadata.k:any: is the mark of ownership and cannot be set here",
        ),
    ] {
        assert_eq!(refused(yaml), error, "{yaml}");
    }
}

#[test]
fn what_typed_devices_are_and_are_connected_to_is_refused_with_its_path() {
    for (yaml, error) in [
        ("{devices: null}", "domain.devices.disks[ua-disk-root]: must stay there once: remove it from the VM's disks"),
        (
            "{devices: {interfaces: null}}",
            "domain.devices.interfaces[ua-nic-lan]: must stay there once: remove it from the VM's networks",
        ),
        (
            "{devices: {disks: [{alias: {name: ua-disk-root}, source: {file: /etc/shadow}}]}}",
            "domain.devices.disks[ua-disk-root].source.file: cannot be changed here: it is what the VM's disks say",
        ),
        (
            "{devices: {disks: [{alias: {name: ua-disk-root}, source: null}]}}",
            "domain.devices.disks[ua-disk-root].source.file: cannot be changed here: it is what the VM's disks say",
        ),
        (
            "{devices: {interfaces: [{alias: {name: ua-nic-lan}, type: user}]}}",
            "domain.devices.interfaces[ua-nic-lan].type: cannot be changed here: it is what the VM's networks say",
        ),
        (
            "{devices: {disks: [{alias: {name: ua-disk-rot}, serial: x}]}}",
            "domain.devices.disks[0]: there is no such device in the VM's disks: correct the alias",
        ),
        (
            "{devices: {disks: [{alias: {name: ua-disk-root}, serial: x}, {alias: {name: ua-disk-root}, type: file, target: {dev: vdx}}]}}",
            "domain.devices.disks[ua-disk-root]: must stay there once: remove it from the VM's disks",
        ),
    ] {
        assert_eq!(refused(yaml), error, "{yaml}");
    }
}

#[test]
fn what_is_no_part_of_a_domain_is_refused_with_its_path() {
    for (yaml, error) in [
        ("[]", "domain: expected a mapping, found a list"),
        ("{devices: {disk: {serial: x}, disks: []}}", "domain.devices: 'disk' and 'disks' are one list: write it once"),
        ("{devices: {sounds: [7]}}", "domain.devices.sounds[0]: expected a mapping, found a number"),
        ("{memory: {value: {}}}", "domain.memory.value: expected a scalar, found a mapping"),
        ("{os: {type: {'a b': 1}}}", "domain.os.type.a b: 'a b' is not a name of an attribute"),
    ] {
        assert_eq!(refused(yaml), error, "{yaml}");
    }
    assert!(
        refused("{devices: {sounds: [{model: ac97}, null]}}").starts_with("domain.devices.sounds[1]: null removes")
    );
}

#[test]
fn what_another_host_would_choose_is_said() {
    let host = HostFacts {
        accelerator: Accelerator::Tcg { tb_cache_mib: Some(32) },
        arch: "x86_64".into(),
        emulator: Some("/usr/bin/qemu".into()),
    };
    let made = lower(&input());
    let lifted = lift_with(&Tree::new(made.clone()), Vocabulary::Spec, Some(&host)).unwrap();
    assert_eq!(lifted.typed.host, host);
    let said = &lifted.domain;
    assert_eq!(said.get("type"), Some(&Value::String("kvm".into())));
    assert_eq!(said.get("features").and_then(|f| f.get("tcg")), Some(&Value::Null));
    assert_eq!(said.get("devices").and_then(|d| d.get("emulator")), Some(&Value::Null));
    assert_eq!(sorted(&lifted.lower().unwrap()), sorted(&made));
}

#[test]
fn what_a_spec_cannot_say_of_a_typed_device_is_in_domain() {
    let mut odd = input();
    odd.memory_bytes = 1024;
    odd.nics[0].mac = "52:54:00:AA:BB:CC".into();
    odd.nics[0].boot_order = Some(1);
    odd.disks[0].serial = Some("S".into());
    let made = lower(&odd);
    let lifted = lift_with(&Tree::new(made.clone()), Vocabulary::Spec, None).unwrap();
    let want = "{memory: {value: 1}, devices: {disks: [{alias: {name: ua-disk-root}, serial: S}], \
        interfaces: [{alias: {name: ua-nic-lan}, mac: {address: '52:54:00:AA:BB:CC'}, boot: {order: 1}}]}, os: {boots: null}}";
    assert_eq!(lifted.domain.to_json(), Value::from_yaml(want).unwrap().to_json());
    assert_eq!(lifted.typed.nics[0].mac.as_deref(), Some("52:54:00:aa:bb:cc"));
    assert_eq!(sorted(&lifted.lower().unwrap()), sorted(&made));
}

/// What a person writes comes back word for word, and the typed fields with it.
#[test]
fn what_was_written_is_lifted_again() {
    for yaml in [
        "{}",
        "{title: the web}",
        "{cpu: {mode: host-passthrough, check: none, migratable: true, features: [{policy: require, name: vmx}]}}",
        "{currentMemory: {unit: KiB, value: 1024}, on_crash: preserve}",
        "{features: {hyperv: {mode: custom, relaxed: {state: true}}, acpi: null}, pm: null}",
        "{devices: {disks: [{alias: {name: ua-disk-data}, driver: {cache: none}, iotune: {total_iops_sec: 100}}]}}",
        "{devices: {disks: [{type: network, device: disk, source: {protocol: rbd, name: p/v}, target: {dev: vdc, bus: virtio}}, \
          {alias: {name: ua-disk-data}}]}}",
        "{devices: {hostdevs: [{mode: subsystem, type: pci, managed: true, source: {address: {domain: 0, bus: 1, slot: 0, function: 0}}}]}}",
        "{devices: {graphics: [{type: vnc, autoport: true}], videos: [{model: {type: virtio}}], rngs: null}}",
        "{devices: {channels: [null, {type: spicevmc, target: {type: virtio, name: com.redhat.spice.0}}]}}",
        "{devices: {watchdogs: [{model: itco, action: reset}], interfaces: [{alias: {name: ua-nic-lan}, mtu: {size: 9000}}]}}",
        "{'xmlns:qemu': 'http://libvirt.org/schemas/domain/qemu/1.0', 'qemu:commandline': {'qemu:args': [{value: -s}]}}",
        "{metadata: {'o:x': {'xmlns:o': 'urn:o', id: 7}}}",
    ] {
        let domain = Value::from_yaml(yaml).unwrap();
        let made = Tree::new(lower_with(&input(), &domain).unwrap());
        let lifted = lift_with(&made, Vocabulary::Spec, None).unwrap();
        assert_eq!(lifted.domain.to_json(), domain.to_json(), "{yaml}");
        assert_eq!(lifted.typed.to_input(&lifted.identity), Ok(input()), "{yaml}");
    }
}

fn any_text() -> impl Strategy<Value = String> {
    prop_oneof!["[a-z][a-z0-9]{0,12}", "[a-z0-9<&'\" é]{1,20}x", Just("0042".to_owned()), Just("yes".to_owned())]
}

fn any_disk() -> impl Strategy<Value = DiskInput> {
    let bus = prop_oneof![Just(DiskBus::Virtio), Just(DiskBus::Scsi), Just(DiskBus::Sata)];
    let device = prop_oneof![3 => Just(DiskDevice::Disk), 1 => Just(DiskDevice::Cdrom)];
    let format = prop_oneof![Just(Format::Raw), Just(Format::Qcow2)];
    let order = prop::option::weighted(0.3, 1u32..=64);
    (any_text(), format, device, bus, any::<bool>(), order, prop::option::weighted(0.3, any_text())).prop_map(
        |(path, format, device, bus, read_only, boot_order, serial)| DiskInput {
            name: String::new(),
            path: format!("/{path}"),
            format,
            device,
            bus,
            read_only: read_only || device == DiskDevice::Cdrom,
            boot_order,
            serial,
        },
    )
}

fn any_nic() -> impl Strategy<Value = NicInput> {
    let source = prop_oneof![any_text().prop_map(NicSource::Network), any_text().prop_map(NicSource::Bridge)];
    (source, "52:54(:[0-9a-fA-F]{2}){4}", any_text(), prop::option::weighted(0.2, 1u32..=64))
        .prop_map(|(source, mac, model, boot_order)| NicInput { name: String::new(), source, mac, model, boot_order })
}

fn any_input() -> impl Strategy<Value = DomainInput> {
    let accelerator = prop_oneof![
        Just(Accelerator::Kvm),
        prop::option::of(any::<u32>()).prop_map(|tb_cache_mib| Accelerator::Tcg { tb_cache_mib })
    ];
    let machine = prop_oneof![Just(Machine::Q35), Just(Machine::Pc)];
    let model = prop_oneof![
        Just(CpuModel::HostModel),
        Just(CpuModel::HostPassthrough),
        Just(CpuModel::Maximum),
        any_text().prop_map(CpuModel::Named)
    ];
    let hardware = (1u32..600, 0u32..8, 1024u64..1 << 40, model, prop::option::of(any_text()));
    let stem = "[a-z0-9]([a-z0-9-]{0,10})?";
    let devices = (prop::collection::vec(any_disk(), 0..8), prop::collection::vec(any_nic(), 0..4));
    (accelerator, machine, hardware, devices, stem).prop_map(
        |(accelerator, machine, (vcpus, more, kib, model, emulator), (mut disks, mut nics), stem)| {
            disks.iter_mut().enumerate().for_each(|(index, disk)| disk.name = format!("{stem}{index}"));
            nics.iter_mut().enumerate().for_each(|(index, nic)| nic.name = format!("{stem}{index}"));
            DomainInput {
                accelerator,
                machine,
                emulator,
                cpu: CpuInput { vcpus, max_vcpus: vcpus + more, model },
                // libvirt counts KiB.
                memory_bytes: kib * 1024,
                disks,
                nics,
                ..input()
            }
        },
    )
}

/// What an executor makes of the fields of a VirtualMachine.
fn restrict(input: DomainInput) -> DomainInput {
    let vcpus = input.cpu.vcpus.min(512);
    let disk = |disk: DiskInput| DiskInput { device: DiskDevice::Disk, read_only: false, serial: None, ..disk };
    let nic = |(index, nic): (usize, NicInput)| NicInput {
        model: ["virtio", "e1000e"][index % 2].into(),
        mac: nic.mac.to_ascii_lowercase(),
        boot_order: None,
        ..nic
    };
    DomainInput {
        cpu: CpuInput { vcpus, max_vcpus: vcpus, model: CpuModel::default_for(input.accelerator) },
        disks: input.disks.into_iter().take(24).map(disk).collect(),
        nics: input.nics.into_iter().take(8).enumerate().map(nic).collect(),
        ..input
    }
}

/// Parts of a `spec.domain`, each of which says what no field of a VirtualMachine says.
const PARTS: [&str; 10] = [
    "{title: a}",
    "{cpu: {topology: null, features: [{policy: require, name: vmx}]}}",
    "{features: {acpi: null, kvm: {hidden: {state: true}}}}",
    "{clock: {offset: localtime, timers: [{name: tsc, present: false}]}}",
    "{on_crash: preserve, pm: null}",
    "{devices: {graphics: [{type: vnc}], videos: [{model: {type: qxl}}]}}",
    "{devices: {channels: [{type: spicevmc, target: {type: virtio, name: s}}], rngs: null}}",
    "{devices: {controllers: [{type: usb, index: 0, model: qemu-xhci}], memballoon: {model: none}}}",
    "{devices: {inputs: [{type: tablet, bus: usb}], serials: [null, {type: file, sources: [{path: /l}]}]}}",
    "{metadata: {'o:x': {'xmlns:o': 'urn:o'}}, iothreads: 2}",
];

fn any_over() -> impl Strategy<Value = Value<'static>> {
    prop::sample::subsequence(PARTS.to_vec(), 0..6).prop_map(|parts| {
        let mut over = serde_json::json!({});
        for part in parts {
            join(&mut over, Value::from_yaml(part).unwrap().to_json());
        }
        Value::from_yaml(Box::leak(over.to_string().into_boxed_str())).unwrap()
    })
}

fn join(into: &mut serde_json::Value, more: serde_json::Value) {
    match (into, more) {
        (serde_json::Value::Object(into), serde_json::Value::Object(more)) => {
            for (key, value) in more {
                join(into.entry(key).or_insert(serde_json::Value::Null), value);
            }
        }
        (into, more) => *into = more,
    }
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 48, failure_persistence: None, ..ProptestConfig::default() })]

    #[test]
    fn every_input_is_lifted_from_its_domain(input in any_input()) {
        let lifted = lift(&Tree::new(lower(&input))).unwrap();
        prop_assert_eq!(&lifted.domain, &Value::Mapping(Vec::new()), "{}", lifted.domain.to_yaml());
        prop_assert_eq!(lifted.typed.to_input(&lifted.identity), Ok(input));
    }

    #[test]
    fn every_spec_is_lifted_from_its_domain(input in any_input()) {
        let input = restrict(input);
        let lifted = lift_with(&Tree::new(lower(&input)), Vocabulary::Spec, None).unwrap();
        prop_assert_eq!(&lifted.domain, &Value::Mapping(Vec::new()), "{}", lifted.domain.to_yaml());
        prop_assert_eq!(lifted.typed.to_input(&lifted.identity), Ok(input));
    }

    #[test]
    fn spec_and_domain_are_lifted_from_what_both_make(input in any_input(), over in any_over()) {
        let input = restrict(input);
        let made = lower_with(&input, &over).unwrap();
        let lifted = lift_with(&Tree::new(made.clone()), Vocabulary::Spec, None).unwrap();
        prop_assert_eq!(lifted.typed.to_input(&lifted.identity), Ok(input));
        prop_assert_eq!(lifted.domain.to_json(), over.to_json());
        prop_assert_eq!(sorted(&lifted.lower().unwrap()), sorted(&made));
    }

    #[test]
    fn no_leaf_of_a_lifted_domain_is_needless(input in any_input(), over in any_over()) {
        let made = lower_with(&input, &over).unwrap();
        let lifted = lift_with(&Tree::new(made.clone()), Vocabulary::Spec, None).unwrap();
        let want = sorted(&made);
        for path in lifting::leaves(&lifted.domain).iter().step_by(5) {
            let less = lifting::without(&lifted.domain, path);
            let got = lower_typed(&lifted.typed, &lifted.identity, &less);
            prop_assert!(got.map_or(true, |got| sorted(&got) != want), "{path:?} in {}", lifted.domain.to_yaml());
        }
    }
}
