//! What an import does with a domain, over libvirt's own test domains: to a VirtualMachine and back, as the API stores it.
#![cfg(feature = "spec")]
#![allow(missing_docs, clippy::unwrap_used)]

mod apt;
mod attributes;
mod corpus;

use attributes::sorted;
use kubevmm_analyser::diff::{Difference, Mode, diff};
use kubevmm_analyser::lower::DiskLocation;
use kubevmm_analyser::spec::{Connections, LiftedSpec, host_facts, lift_to_spec, lower_spec};
use kubevmm_analyser::{Element, Tree};
use kubevmm_api::VirtualMachineStatus;
use kubevmm_api::common::Accelerator;
use kubevmm_api::effective::EffectiveSpec;
use kubevmm_api::vm::InterfaceStatus;

const VM: (&str, &str) = ("web", "b3a1c7d2-0000-4000-8000-000000000001");

/// A typed device gets this project's alias in the place of its own, if it had one.
fn without_aliases(mut root: Element) -> Element {
    for devices in root.elements_mut().filter(|element| element.name() == "devices") {
        for device in devices.elements_mut().filter(|it| ["disk", "interface"].contains(&it.name())) {
            device.remove("alias");
        }
    }
    root
}

/// What the API server gives back of a spec, and a status of what it is connected to.
fn stored(lifted: &LiftedSpec) -> (EffectiveSpec, Connections) {
    let spec: EffectiveSpec = serde_json::from_str(&serde_json::to_string(&lifted.spec).unwrap()).unwrap();
    let (disks, links) = lifted.connections.to_status(&spec);
    let interface = |(name, link)| InterfaceStatus { name, connected_to: Some(link), ..Default::default() };
    let interfaces = links.into_iter().map(interface).collect();
    let status = VirtualMachineStatus { effective: Some(spec.clone()), disks, interfaces, ..Default::default() };
    (spec, Connections::of_status(&status).unwrap())
}

#[test]
fn every_domain_of_the_corpus_comes_back_from_a_virtual_machine() {
    let host = host_facts(Accelerator::TCG, "x86_64");
    let is_file = |location: &DiskLocation| matches!(location, DiskLocation::File(_));
    let volumes: [&dyn Fn(&DiskLocation) -> bool; 2] = [&|_| true, &is_file];
    let (mut domains, mut failed) = (0, Vec::new());
    for document in corpus::documents() {
        let Some(tree) = Tree::from_bytes(&document.bytes).ok().filter(|tree| tree.root.name() == "domain") else {
            continue;
        };
        domains += 1;
        let want = sorted(&without_aliases(tree.canonical().root));
        for is_volume in volumes {
            let lifted = lift_to_spec(&tree, &host, VM, is_volume).unwrap_or_else(|e| panic!("{}: {e}", document.name));
            let (spec, connections) = stored(&lifted);
            match lower_spec(&spec, &host, &connections, &lifted.identity) {
                Ok(got) if sorted(&without_aliases(got.clone())) == want => {}
                Ok(got) => {
                    let differences = diff(&tree, &Tree::new(without_aliases(got)), Mode::Exact);
                    // A VM's NIC has an address, as has each that libvirt has defined.
                    let is_address = |it: &Difference| it.path == "devices/interface/mac" && it.from.is_none();
                    let lines: Vec<_> =
                        differences.iter().filter(|it| !is_address(it)).map(ToString::to_string).collect();
                    if !lines.is_empty() {
                        failed.push(format!("{}:\n{}", document.name, lines.join("\n")));
                    }
                }
                Err(error) => failed.push(format!("{}: {error}", document.name)),
            }
        }
    }
    assert!(domains > 2900, "{domains}");
    assert!(failed.is_empty(), "{} fail:\n{}", failed.len(), failed[..failed.len().min(6)].join("\n"));
}
