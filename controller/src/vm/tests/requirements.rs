//! What a VM needs of a host.

use kubevmm_api::VirtualMachineNetwork;
use kubevmm_api::common::ImageKind;
use kubevmm_api::overhead;
use kubevmm_api::requirements::{REQUIREMENTS, Requirements};

use super::*;
use crate::vm::pod::merged;
use crate::vm::requirements::{asked, requirements};
use crate::vm::view::Image;

fn needs(view: &View) -> Requirements {
    requirements(view, &merged(view).unwrap()).unwrap()
}

fn json_of(view: &View) -> Value {
    serde_json::to_value(needs(view)).unwrap()
}

#[test]
fn a_small_vm_needs_little() {
    let memory = (256 << 20) + overhead::bytes(256 << 20, 2);
    assert_eq!(json_of(&view("cpu: {cores: 2}", "")), json!({"vcpus": 2, "memory": memory, "machine": "q35"}));
}

#[test]
fn a_disk_needs_its_pool_and_space_until_it_is_made() {
    let unmade = view(DISK, "").disk(disk("", HELD));
    let pool = json!([{"name": "fast", "uid": "p", "bytes": 1 << 30}]);
    assert_eq!(json_of(&unmade)["pools"], pool);
    assert_eq!(json_of(&unmade).get("localDisks"), None, "it can be made anywhere");

    let provisioned = "volumeName: v, nodeName: b, conditions: [{type: Provisioned, status: 'True', reason: R, message: '', \
                       lastTransitionTime: \"2026-01-01T00:00:00Z\"}]";
    let made = view(DISK, "").disk(disk("", &format!("{HELD}, {provisioned}")));
    assert_eq!(json_of(&made)["pools"], json!([{"name": "fast", "uid": "p"}]));
    assert_eq!(json_of(&made)["localDisks"], json!([{"name": "data", "node": "b"}]));
    let shared = json_of(&made.clone().shared());
    assert_eq!((&shared["pools"][0]["shared"], shared.get("localDisks")), (&json!(true), None));
    assert_eq!(asked(&needs(&unmade)), asked(&needs(&made)), "that a disk was made asks for nothing new");

    let existing = json_of(&view(DISK, "").disk(existing("", HELD)));
    assert_eq!(existing["pools"], json!([{"name": "fast", "uid": "p"}]), "it takes no more space");
    assert_eq!(existing["localDisks"], json!([{"name": "data", "node": "b"}]));
}

#[test]
fn a_disk_of_an_image_needs_the_images_size() {
    let mut view = view(DISK, "");
    view = view.disk(yaml(
        "metadata: {name: data, namespace: shop, uid: d}\n\
         spec: {poolName: fast, source: {image: {name: debian}}}\nstatus: {poolName: fast}",
    ));
    let key = (ImageKind::VirtualMachineImage, "debian".to_owned());
    view.images.insert(key, Image { leaving: false, size: Some(3 << 30) });
    let needs = json_of(&view);
    assert_eq!(needs["pools"][0]["bytes"], 3_u64 << 30);
    let image = json!({"kind": "VirtualMachineImage", "namespace": "shop", "name": "debian", "pool": "fast"});
    assert_eq!(needs["images"], json!([image]));
}

#[test]
fn each_network_is_needed_once_and_those_of_ours_are_made_anywhere() {
    let nics = "networks: [{name: a, network: {name: back}}, {name: b, network: {name: back}}, \
                {name: c, network: {kind: ClusterVirtualMachineNetwork, name: lan}}]";
    let mut view = view(nics, "");
    let back: VirtualMachineNetwork =
        yaml("metadata: {name: back, namespace: shop, uid: n1}\nspec: {nat: {subnet: 10.1.0.0/24}}");
    let lan: ClusterVirtualMachineNetwork = yaml("metadata: {name: lan, uid: n2}\nspec: {existing: {bridge: br0}}");
    view.networks.insert("back".into(), Arc::new(back));
    view.cluster_networks.insert("lan".into(), Arc::new(lan));
    assert_eq!(
        json_of(&view)["networks"],
        json!([
            {"kind": "VirtualMachineNetwork", "namespace": "shop", "name": "back", "uid": "n1", "everywhere": true},
            {"kind": "ClusterVirtualMachineNetwork", "name": "lan", "uid": "n2"},
        ])
    );
}

#[test]
fn what_the_domain_says_counts_and_a_new_device_asks_for_another_host() {
    let device = "{mode: subsystem, type: pci, source: {address: {bus: '0x03', slot: '0x00'}}}";
    let plain = view("", "");
    let special = view(
        &format!("domain: {{os: {{type: {{machine: pc-q35-9.2}}, firmware: efi}}, devices: {{hostdevs: [{device}]}}}}"),
        "nodeName: a",
    );
    let needs_of_it = json_of(&special);
    assert_eq!((&needs_of_it["machine"], &needs_of_it["firmware"]), (&json!("pc-q35-9.2"), &json!("uefi")));
    assert_eq!(needs_of_it["devices"], json!([{"bus": "PCI", "address": "0000:03:00.0"}]));
    assert_eq!(needs_of_it["lastNode"], "a");
    assert_ne!(asked(&needs(&plain)), asked(&needs(&special)));
    let placed = view("", "nodeName: a");
    assert_eq!(asked(&needs(&plain)), asked(&needs(&placed)), "where it is asks for nothing new");
}

#[test]
fn what_has_been_made_is_taken_out_of_what_the_pod_says() {
    let provisioned = "volumeName: v, nodeName: a, conditions: [{type: Provisioned, status: 'True', reason: R, message: '', \
                       lastTransitionTime: \"2026-01-01T00:00:00Z\"}]";
    let status = "nodeName: a, placement: {epoch: 1, podName: PLACED, podUID: pod-1, confirmed: a_1}"
        .replace("PLACED", &names::placement_pod("web", "u", 1));
    let unmade = needs(&view(DISK, &status).disk(disk("", HELD)));
    let view = view(DISK, &status).disk(disk("", &format!("{HELD}, {provisioned}")));
    let placed = |said: Option<String>| {
        let mut pod = running(1, "a");
        let all = said.map(|said| [(REQUIREMENTS.to_owned(), said)].into());
        Arc::make_mut(&mut pod).metadata.annotations = all;
        view.clone().pods(&[pod])
    };
    let told = |view: &View| {
        decide(view).into_iter().find_map(|action| match action {
            Action::TellNeeds { needs, .. } => Some(Requirements::parse(&needs).unwrap()),
            _ => None,
        })
    };
    // What else the VM asks for by now is the next start's.
    let before = Requirements { vcpus: 7, ..unmade };
    let after = told(&placed(Some(before.to_annotation()))).unwrap();
    assert_eq!((after.vcpus, after.pools[0].bytes), (7, 0));
    assert_eq!(told(&placed(Some(after.to_annotation()))), None, "once");
    assert_eq!(told(&placed(None)).map(|needs| needs.vcpus), Some(1), "a pod of an earlier version");
}

#[test]
fn a_vm_stays_where_the_state_of_its_firmware_is() {
    let domain = "domain: {uuid: u, name: shop.web, epoch: 1, state: Shutoff}";
    let uefi = view("domain: {os: {firmware: efi}}", &format!("nodeName: a, {domain}"));
    assert_eq!(needs(&uefi).only_host(), Some("a"));
    assert_eq!(needs(&view("domain: {os: {firmware: efi}}", "")).only_host(), None, "it has none yet");
    assert_eq!(needs(&view("domain: {title: x}", &format!("nodeName: a, {domain}"))).only_host(), None);
    let moved = needs(&view("domain: {os: {firmware: efi}}", "nodeName: a"));
    assert_eq!(asked(&needs(&uefi)), asked(&moved), "where it lies asks for nothing new");
}
