//! Lifting over generated documents that are hardly ever domains that libvirt would take: whatever can be lifted comes
//! back, and what cannot is refused.
#![allow(missing_docs, clippy::unwrap_used)]

mod attributes;

use attributes::sorted;
use kubevmm_analyser::lift::{Vocabulary, lift_with};
use kubevmm_analyser::{Element, Tree};
use proptest::prelude::*;

const NAMES: [&str; 30] = [
    "name",
    "uuid",
    "memory",
    "vcpu",
    "os",
    "type",
    "boot",
    "cpu",
    "model",
    "topology",
    "features",
    "acpi",
    "clock",
    "timer",
    "devices",
    "disk",
    "interface",
    "source",
    "target",
    "driver",
    "alias",
    "mac",
    "serial",
    "video",
    "channel",
    "rng",
    "controller",
    "readonly",
    "metadata",
    "x:y",
];
const ATTRIBUTES: [(&str, &[&str]); 14] = [
    ("type", &["file", "block", "volume", "network", "bridge", "kvm", "pty", "scsi"]),
    ("name", &["ua-disk-root", "ua-disk-vda", "ua-nic-net0", "ua-x", "virtio-disk0", "org.qemu.guest_agent.0"]),
    ("device", &["disk", "cdrom", "lun"]),
    ("file", &["/a", "/b", ""]),
    ("dev", &["vda", "vdb", "/dev/x", "hd"]),
    ("bus", &["virtio", "sata", "ide"]),
    ("network", &["lan", ""]),
    ("bridge", &["br0"]),
    ("port", &["0", "1", "00"]),
    ("index", &["0", "1"]),
    ("model", &["virtio", "virtio-scsi"]),
    ("unit", &["KiB", "GiB", "odd"]),
    ("xmlns:x", &["urn:x", "https://kubevmm.io/libvirt/1"]),
    ("value", &["1", "yes", "null"]),
];
const TEXTS: [&str; 10] = ["1", "2", "02", "1048576", "hvm", "x y", "/dev/urandom", "0dd4f2cb", "yes", " "];

fn head(names: &'static [&'static str]) -> impl Strategy<Value = Element> {
    let attribute = prop::sample::select(ATTRIBUTES.to_vec())
        .prop_flat_map(|(name, values)| (Just(name), prop::sample::select(values.to_vec())));
    (prop::sample::select(names.to_vec()), prop::collection::vec(attribute, 0..4))
        .prop_map(|(name, attributes)| attributes.into_iter().fold(Element::new(name), |e, (n, v)| e.attr(n, v)))
}

fn with_children((element, children): (Element, Vec<Element>)) -> Element {
    element.children(children)
}

fn any_part() -> impl Strategy<Value = Element> {
    let text = prop::option::of(prop::sample::select(TEXTS.to_vec()));
    let leaf = (head(&NAMES), text).prop_map(|(element, text)| element.text(text.unwrap_or_default()));
    leaf.prop_recursive(2, 12, 6, |inner| (head(&NAMES), prop::collection::vec(inner, 0..6)).prop_map(with_children))
}

fn any_device() -> impl Strategy<Value = Element> {
    const KINDS: [&str; 8] = ["disk", "interface", "serial", "console", "video", "channel", "rng", "controller"];
    const PARTS: [&str; 10] =
        ["source", "target", "driver", "alias", "mac", "model", "serial", "boot", "backend", "readonly"];
    (head(&KINDS), prop::collection::vec(head(&PARTS), 0..6)).prop_map(with_children)
}

fn any_domain() -> impl Strategy<Value = Element> {
    let devices = (head(&["devices"]), prop::collection::vec(any_device(), 0..8)).prop_map(with_children);
    let devices = prop::collection::vec(devices, 0..3);
    (head(&["domain"]), prop::collection::vec(any_part(), 0..6), devices)
        .prop_map(|(root, parts, devices)| root.children(parts).children(devices))
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 1000, failure_persistence: None, ..ProptestConfig::default() })]

    #[test]
    fn what_can_be_lifted_comes_back(root in any_domain()) {
        // What a parser gives.
        let tree = Tree::from_xml(&Tree::new(root).to_xml()).unwrap();
        let want = sorted(&tree.canonical().root);
        for vocabulary in [Vocabulary::Input, Vocabulary::Spec] {
            let Ok(lifted) = lift_with(&tree, vocabulary, None) else { continue };
            let got = lifted.lower();
            prop_assert_eq!(got.as_ref().map(sorted), Ok(want.clone()), "{}", lifted.domain.to_yaml());
        }
    }
}
