//! What counts as a difference of two domains. The documents in `golden/libvirt` are `virsh dumpxml --inactive` of
//! libvirt 11.3 with QEMU 10.0 after `virsh define` of those in `golden`.
#![allow(missing_docs, clippy::unwrap_used)]

mod apt;
mod attributes;
mod corpus;

use std::collections::BTreeMap;
use std::path::Path;

use attributes::sorted;
use kubevmm_analyser::Tree;
use kubevmm_analyser::diff::{Mode, diff};

/// Domains of libvirt's tests whose definition shows no difference, of those that come with what libvirt makes of them.
/// The rest are mostly descriptions of running domains, or say what this libvirt changes. It only grows.
const WITHOUT_DIFFERENCE: usize = 711;
const DEFINED: usize = 790;

fn golden(name: &str) -> String {
    std::fs::read_to_string(Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/golden").join(name)).unwrap()
}

fn tree(xml: &str) -> Tree {
    Tree::from_xml(xml).unwrap()
}

fn differences(from: &str, to: &str, mode: Mode) -> Vec<String> {
    diff(&tree(from), &tree(to), mode).iter().map(ToString::to_string).collect()
}

const NONE: [String; 0] = [];

#[test]
fn what_libvirt_makes_of_a_lowered_domain_is_no_difference() {
    for name in ["domain-kvm.xml", "domain-small.xml", "domain-tcg.xml", "domain-run.xml", "domain-over.xml"] {
        let (from, to) = (golden(name), golden(&format!("libvirt/{name}")));
        assert_eq!(differences(&from, &to, Mode::Desired), NONE, "{name}");
        assert_eq!(differences(&from, &to, Mode::Live), NONE, "{name}");
        assert!(!differences(&from, &to, Mode::Exact).is_empty(), "{name}");
    }
}

/// Replaces parts of what libvirt has, each of which must be there.
fn changed(changes: &[(&str, &str)]) -> String {
    changes.iter().fold(golden("libvirt/domain-kvm.xml"), |xml, (old, new)| {
        assert!(xml.contains(old), "{old}");
        xml.replacen(old, new, 1)
    })
}

#[test]
fn a_start_is_no_difference_in_a_live_domain_only() {
    let live = changed(&[
        ("<domain type='kvm'>", "<domain type='kvm' id='7'>"),
        (
            "<cpu mode='host-model' check='partial'>",
            "<cpu mode='custom' match='exact' check='full'><model fallback='forbid'>Skylake-Client-IBRS</model><vendor>Intel</vendor><feature policy='require' name='ss'/>",
        ),
        ("<os>", "<resource><partition>/machine</partition></resource><os>"),
        (
            "<source file='/srv/vm/shop.web-root.0dd4f2cb.qcow2'/>",
            "<source file='/srv/vm/shop.web-root.0dd4f2cb.qcow2' index='2'/><backingStore type='file' index='3'><format type='qcow2'/><source file='/srv/vm/base'/><backingStore/></backingStore>",
        ),
        ("<source network='.lan'/>", "<source network='.lan' portid='9c3e' bridge='virbr3'/><target dev='vnet3'/>"),
        ("<serial type='pty'>", "<serial type='pty'><source path='/dev/pts/3'/><alias name='serial0'/>"),
        (
            "<console type='pty'>",
            "<console type='pty' tty='/dev/pts/3'><source path='/dev/pts/3'/><alias name='serial0'/>",
        ),
        (
            "<target type='virtio' name='org.qemu.guest_agent.0'/>",
            "<source mode='bind' path='/run/agent'/><target type='virtio' name='org.qemu.guest_agent.0' state='connected'/><alias name='channel0'/>",
        ),
        (
            "</devices>",
            "</devices><seclabel type='dynamic' model='dac' relabel='yes'><label>+64055:+64055</label></seclabel>",
        ),
    ]);
    assert_eq!(differences(&golden("domain-kvm.xml"), &live, Mode::Live), NONE);
    let desired = differences(&golden("domain-kvm.xml"), &live, Mode::Desired);
    assert!(desired.iter().any(|d| d.starts_with("cpu/@mode: 'host-model' became 'custom'")), "{desired:?}");
}

#[test]
fn each_change_by_hand_is_found_at_its_path() {
    let disk = "devices/disk[ua-disk-root]";
    let nic = "devices/interface[ua-nic-lan]";
    let cases: Vec<(&str, &str, String)> = vec![
        ("<domain type='kvm'>", "<domain type='qemu'>", "@type: 'kvm' became 'qemu'".into()),
        ("<name>shop.web<", "<name>shop.old<", "name: 'shop.web' became 'shop.old'".into()),
        ("<memory unit='KiB'>2097152<", "<memory unit='GiB'>3<", "memory: '2097152' became '3'".into()),
        (
            "<currentMemory unit='KiB'>2097152<",
            "<currentMemory unit='KiB'>1048576<",
            "currentMemory: nothing became".into(),
        ),
        (">2</vcpu>", ">4</vcpu>", "vcpu: '2' became '4'".into()),
        ("placement='static'>2", "placement='static' current='1'>2", "vcpu/@current: nothing became '1'".into()),
        ("pc-q35-10.0", "pc-i440fx-10.0", "os/type/@machine: 'q35' became 'pc-i440fx-10.0'".into()),
        ("</type>", "</type><boot dev='network'/>", "os/boot: nothing became '<boot dev='network'/>'".into()),
        ("</type>", "</type><loader type='pflash'>/x</loader>", "os/loader: nothing became".into()),
        ("<apic/>", "", "features/apic: '<apic/>' became nothing".into()),
        ("<acpi/>", "<acpi/><hyperv mode='custom'/>", "features/hyperv: nothing became".into()),
        ("mode='host-model'", "mode='host-passthrough'", "cpu/@mode: 'host-model' became 'host-passthrough'".into()),
        ("cores='2'", "cores='1'", "cpu/topology/@cores: '2' became '1'".into()),
        ("<topology", "<feature policy='disable' name='vmx'/><topology", "cpu/feature[vmx]: nothing became".into()),
        ("offset='utc'", "offset='localtime'", "clock/@offset: 'utc' became 'localtime'".into()),
        ("<on_crash>destroy", "<on_crash>restart", "on_crash: 'destroy' became 'restart'".into()),
        ("enabled='no'", "enabled='yes'", "pm/suspend-to-mem/@enabled: 'no' became 'yes'".into()),
        ("discard='unmap'", "discard='unmap' cache='none'", format!("{disk}/driver/@cache: nothing became 'none'")),
        ("type='qcow2'", "type='raw'", format!("{disk}/driver/@type: 'qcow2' became 'raw'")),
        (
            "shop.web-root.0dd4f2cb.qcow2",
            "other",
            format!("{disk}/source/@file: '/srv/vm/shop.web-root.0dd4f2cb.qcow2' became '/srv/vm/other'"),
        ),
        ("dev='vda' bus='virtio'", "dev='sda' bus='sata'", format!("{disk}/target/@dev: 'vda' became 'sda'")),
        ("order='1'", "order='2'", format!("{disk}/boot/@order: '1' became '2'")),
        ("<boot order='1'/>", "<boot order='1'/><readonly/>", format!("{disk}/readonly: nothing became '<readonly/>'")),
        ("<alias name='ua-disk-root'/>", "", format!("{disk}/alias: '<alias name='ua-disk-root'/>' became nothing")),
        (
            "<controller type='usb'",
            "<disk type='file'><source file='/x'/><target dev='vdb'/></disk><controller type='usb'",
            "devices/disk[vdb]: nothing became".into(),
        ),
        (
            "<controller type='usb' index='0'",
            "<controller type='scsi' index='0'/><controller type='usb' index='0'",
            "devices/controller[scsi0]: nothing became".into(),
        ),
        (
            "52:54:00:12:34:56",
            "52:54:00:12:34:57",
            format!("{nic}/mac/@address: '52:54:00:12:34:56' became '52:54:00:12:34:57'"),
        ),
        ("network='.lan'", "network='other'", format!("{nic}/source/@network: '.lan' became 'other'")),
        ("<model type='virtio'/>", "<model type='e1000e'/>", format!("{nic}/model/@type: 'virtio' became 'e1000e'")),
        ("<model type='virtio'/>", "<model type='virtio'/><link state='down'/>", format!("{nic}/link: nothing became")),
        ("<video>", "<graphics type='vnc'/><video>", "devices/graphics[vnc]: nothing became".into()),
        ("<model type='none'/>", "<model type='vga'/>", "devices/video/model/@type: 'none' became 'vga'".into()),
        (
            "<input type='mouse' bus='ps2'/>",
            "<input type='tablet' bus='usb'/>",
            "devices/input[tablet-usb]: nothing became".into(),
        ),
        ("/dev/urandom", "/dev/random", "devices/rng[virtio]/backend: '/dev/urandom' became '/dev/random'".into()),
        (
            "<memballoon model='virtio'>",
            "<memballoon model='none'>",
            "devices/memballoon/@model: 'virtio' became 'none'".into(),
        ),
        (
            "</devices>",
            "<hostdev mode='subsystem' type='pci'><source><address domain='0' bus='1' slot='0' function='0'/></source></hostdev></devices>",
            "devices/hostdev[0:1:0:0]: nothing became".into(),
        ),
        ("</metadata>", "<o:x xmlns:o='urn:o'/></metadata>", "metadata: nothing became".into()),
        ("</devices>", "</devices><seclabel type='static' model='dac'/>", "seclabel: nothing became".into()),
    ];
    for (old, new, want) in cases {
        let found = differences(&golden("domain-kvm.xml"), &changed(&[(old, new)]), Mode::Desired);
        assert!(found.iter().any(|d| d.starts_with(&want)), "{want}: {found:?}");
    }
    let gone = golden("libvirt/domain-kvm.xml");
    for (kind, step) in [
        ("disk", disk),
        ("interface", nic),
        ("serial", "devices/serial[0]"),
        ("channel", "devices/channel[org.qemu.guest_agent.0]"),
    ] {
        let (start, end) = (gone.find(&format!("<{kind} ")).unwrap(), gone.find(&format!("</{kind}>")).unwrap());
        let without = format!("{}{}", &gone[..start], &gone[end + kind.len() + 3..]);
        let found = diff(&tree(&golden("domain-kvm.xml")), &tree(&without), Mode::Desired);
        assert_eq!((found.len(), found[0].path.as_str(), &found[0].to), (1, step, &None), "{found:?}");
    }
}

#[test]
fn order_of_devices_and_units_count_in_exact_mode_only() {
    let a = "<domain><memory unit='GiB'>1</memory><uuid>0DD4F2CB7A0C4D539D5E2D6A6C1F8B11</uuid><devices>\
        <disk type='file'><target dev='vda'/></disk><disk type='file'><target dev='vdb'/></disk></devices></domain>";
    let b = "<domain><memory>1048576</memory><uuid>0dd4f2cb-7a0c-4d53-9d5e-2d6a6c1f8b11</uuid><devices>\
        <disk type='file'><target dev='vdb'/></disk><disk type='file'><target dev='vda'/></disk></devices></domain>";
    assert_eq!(differences(b, a, Mode::Desired), NONE);
    assert_eq!(differences(a, b, Mode::Exact).len(), 5);
}

#[test]
fn features_and_timers_are_known_by_their_names() {
    let a = "<domain><cpu mode='host-model'><feature policy='disable' name='hle'/><feature policy='require' name='vmx'/></cpu></domain>";
    let b = "<domain><cpu mode='host-model'><feature policy='require' name='vmx'/><feature policy='force' name='hle'/></cpu></domain>";
    assert_eq!(differences(a, b, Mode::Desired), ["cpu/feature[hle]/@policy: 'disable' became 'force'"]);
}

#[test]
fn over_the_corpus() {
    let documents: BTreeMap<_, _> =
        corpus::documents().into_iter().map(|d| (d.name, Tree::from_bytes(&d.bytes))).collect();
    let (mut same, mut defined) = (0, 0);
    for (name, tree) in &documents {
        let Ok(tree) = tree else { continue };
        if tree.root.name() != "domain" {
            continue;
        }
        for mode in [Mode::Exact, Mode::Desired, Mode::Live] {
            assert_eq!(diff(tree, tree, mode), [], "{name} {mode:?}");
        }
        let made = name.strip_suffix(".xml").and_then(|stem| documents.get(&format!("{stem}.x86_64-latest.xml")));
        if let Some(Ok(made)) = made {
            let is_exact = diff(tree, made, Mode::Exact).is_empty();
            let canonical = [tree, made].map(|t| sorted(&t.canonical().root));
            assert_eq!(is_exact, canonical[0] == canonical[1], "{name}");
            defined += 1;
            same += usize::from(diff(tree, made, Mode::Desired).is_empty());
        }
    }
    println!("{same} of {defined} definitions without a difference");
    assert_eq!(defined, DEFINED);
    assert!(same >= WITHOUT_DIFFERENCE, "{same}");
}
