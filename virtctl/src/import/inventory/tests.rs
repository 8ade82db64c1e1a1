use super::*;
use crate::testing::{documents, inventory};

fn volume(pool: &str, name: &str) -> HostVolume {
    HostVolume { libvirt_pool: pool.into(), name: name.into() }
}

fn network_link(name: &str) -> HostLink {
    HostLink { libvirt_network: Some(name.into()), ..Default::default() }
}

/// The name of the object, and what is to be done to it: `+` created, `~` changed.
fn told(inventory: &Inventory, key: &Key) -> String {
    let mark = match inventory.write(key).unwrap().map(|write| write.change) {
        None => String::new(),
        Some(Change::Create) => "+".into(),
        Some(Change::Allow(namespaces)) => format!("~{} ", namespaces.join(",")),
    };
    format!("{mark}{}", key.name)
}

#[test]
fn a_pool_is_found_by_what_it_stands_for_on_this_host() {
    for (node, libvirt, wanted, why) in [
        ("h1", "kubevmm.fast", "fast", "a directory of ours"),
        ("h1", "nfs", "shared", "an existing one, whatever the object is called"),
        ("h2", "images", "of-h2", "of this host by its label"),
        ("h3", "images", "+images", "those there are for other hosts"),
        ("h1", "by-role", "roles", "its executor tells that it is selected"),
        ("h2", "by-role", "+by-role", "another selector"),
        ("h1", "default", "+default", "none yet"),
        ("h1", "shared", "+shared-h1", "the name means something else"),
        ("h1", "fast", "+fast-h1", "ours is called kubevmm.fast"),
        ("h1", "VG data", "+vg-data", "a name that is none"),
        ("h1", "日本", "+pool", "nothing is left of the name"),
    ] {
        let mut inventory = inventory(node);
        let key = inventory.pool(libvirt);
        assert_eq!(told(&inventory, &key), wanted, "{libvirt} of {node}: {why}");
        assert_eq!(inventory.pool(libvirt), key, "once");
    }
    let mut inventory = inventory("h1");
    let key = inventory.pool("default");
    let object = inventory.write(&key).unwrap().unwrap().object;
    assert_eq!(
        object["spec"],
        json!({"existing": {"name": "default"}, "nodeSelector": {"kubernetes.io/hostname": "h1"}})
    );
}

#[test]
fn a_network_is_found_by_what_it_stands_for() {
    let bridge = HostLink { bridge: Some("br0".into()), ..Default::default() };
    for (namespace, link, wanted, why) in [
        ("legacy", network_link("default"), "~legacy default", "it does not allow the namespace yet"),
        ("shop", network_link("default"), "default", "it does"),
        ("legacy", bridge.clone(), "lan", "by its bridge; it allows all"),
        ("legacy", network_link(".pods"), "~legacy pods", "a nat network of ours"),
        ("legacy", network_link("lan"), "+lan-h1", "the name means a bridge"),
        ("legacy", network_link("Guest Net"), "+guest-net", "a new one"),
        ("shop", network_link("legacy.own"), "+legacy-own", "another namespace's own"),
    ] {
        let mut inventory = inventory("h1");
        let (reference, key) = inventory.network(&link, namespace);
        assert_eq!(reference.kind, NetworkKind::ClusterVirtualMachineNetwork);
        let key = key.unwrap();
        assert_eq!((told(&inventory, &key).as_str(), &key.name), (wanted, &reference.name), "{why}");
    }
    let (reference, key) = inventory("h1").network(&network_link("legacy.own"), "legacy");
    assert_eq!((reference.kind, reference.name.as_str()), (NetworkKind::VirtualMachineNetwork, "own"));
    assert_eq!(key, None);
}

#[test]
fn several_domains_make_one_network() {
    let mut inventory = inventory("h1");
    let (_, first) = inventory.network(&network_link("new"), "a");
    let (_, second) = inventory.network(&network_link("new"), "b");
    assert_eq!(first, second);
    let write = inventory.write(&first.unwrap()).unwrap().unwrap();
    assert_eq!(write.change, Change::Create);
    assert_eq!(write.object["spec"], json!({"existing": {"libvirtNetwork": "new"}, "allowedNamespaces": ["a", "b"]}));

    inventory.network(&network_link("default"), "a");
    let (_, key) = inventory.network(&network_link("default"), "b");
    let write = inventory.write(&key.unwrap()).unwrap().unwrap();
    assert_eq!(write.change, Change::Allow(vec!["a".into(), "b".into()]));
    let there: DynamicObject = serde_json::from_value(json!({
        "apiVersion": "kubevmm.io/v1beta1", "kind": "ClusterVirtualMachineNetwork",
        "metadata": {"name": "default", "resourceVersion": "9"},
        "spec": {"existing": {"libvirtNetwork": "default"}, "allowedNamespaces": ["shop", "meanwhile"]},
    }))
    .unwrap();
    assert_eq!(
        allowing(&there, &write.object),
        json!({"metadata": {"resourceVersion": "9"}, "spec": {"allowedNamespaces": ["shop", "meanwhile", "a", "b"]}})
    );
}

fn disk<'a>(vm: &'a str, name: &'a str, volume: &'a HostVolume) -> WantedDisk<'a> {
    WantedDisk { namespace: "legacy", vm, vm_uid: "new", name, volume, format: ImageFormat::Qcow2 }
}

#[test]
fn a_disk_is_found_by_its_volume() {
    for (libvirt_pool, name, wanted, why) in [
        ("nfs", "old.qcow2", "old", "it names the volume, under another name"),
        ("kubevmm.fast", "legacy.web-root.01234567.qcow2", "web-root", "it was made for the object"),
        ("kubevmm.fast", "old.qcow2", "+mine", "another pool"),
        ("default", "new.qcow2", "+mine", "none yet"),
    ] {
        let mut inventory = inventory("h1");
        let volume = volume(libvirt_pool, name);
        let [key, _] = inventory.disk(&disk("vm", "mine", &volume)).unwrap();
        assert_eq!(told(&inventory, &key), wanted, "{why}");
    }
    let mut on_h2 = inventory("h2");
    let local = volume("kubevmm.fast", "legacy.web-root.01234567.qcow2");
    let [key, _] = on_h2.disk(&disk("vm", "web-root", &local)).unwrap();
    assert_eq!(told(&on_h2, &key), "+web-root-h2", "the volume of that name on another host");
    let object = on_h2.write(&key).unwrap().unwrap().object;
    assert_eq!(
        object["spec"],
        json!({"poolName": "fast", "source": {"existing":
            {"nodeName": "h2", "volumeName": "legacy.web-root.01234567.qcow2", "format": "qcow2"}}})
    );
    let [shared, _] = on_h2.disk(&disk("vm", "mine", &volume("nfs", "old.qcow2"))).unwrap();
    assert_eq!(told(&on_h2, &shared), "old", "every host sees it");
}

#[test]
fn a_deleted_disk_that_waits_for_an_orphan_leaves_the_volume_to_another_one() {
    let volume = volume("nfs", "held.qcow2");
    let with = |change: fn(&mut VirtualMachineDisk)| {
        let mut inventory = inventory("h1");
        let held = inventory.disks.iter_mut().find(|entry| entry.object.name_any() == "held").unwrap();
        held.object.metadata.deletion_timestamp = Some(serde_json::from_value(json!("2026-01-01T00:00:00Z")).unwrap());
        change(&mut held.object);
        let key = inventory.disk(&disk("vm", "held", &volume)).map(|[key, _]| key);
        key.map(|key| told(&inventory, &key)).map_err(|error| error.to_string())
    };
    assert_eq!(with(|_| {}), Ok("+held-h1".into()));
    let earlier = with(|disk| {
        let owner = json!({"apiVersion": "kubevmm.io/v1beta1", "kind": "VirtualMachine", "name": "vm", "uid": "u", "controller": true});
        disk.metadata.deletion_timestamp = None;
        disk.metadata.owner_references = Some(vec![serde_json::from_value(owner).unwrap()]);
        disk.status.as_mut().unwrap().used_by.as_mut().unwrap().name = "vm".into();
    });
    assert_eq!(earlier, Ok("+held-h1".into()), "it goes with its VM of the same name");
    let free = with(|disk| disk.status.as_mut().unwrap().used_by = None);
    assert!(free.unwrap_err().contains("is being deleted"), "its volume may go any moment");
}

#[test]
fn a_disk_of_somebody_else_is_refused() {
    let refused = |vm: &str, volume: HostVolume, format: ImageFormat| {
        let wanted = WantedDisk { format, ..disk(vm, "mine", &volume) };
        inventory("h1").disk(&wanted).unwrap_err().to_string()
    };
    let held = || volume("nfs", "held.qcow2");
    assert!(refused("vm", held(), ImageFormat::Qcow2).contains("in use by the virtual machine other"));
    assert!(inventory("h1").disk(&disk("other", "mine", &held())).is_ok(), "its own VM, imported again");
    assert!(refused("vm", volume("nfs", "old.qcow2"), ImageFormat::Raw).contains("reads it as raw"));
    let (mut inventory, new) = (inventory("h1"), volume("default", "new.qcow2"));
    assert!(inventory.disk(&disk("a", "a-vda", &new)).is_ok());
    let both = inventory.disk(&disk("b", "b-vda", &new)).unwrap_err().to_string();
    assert!(both.contains("a disk of the virtual machine a too"), "{both}");
}

#[test]
fn a_name_that_is_taken_is_avoided_twice() {
    let taken = ["lan".to_owned(), "lan-h1".to_owned()];
    let name = free_name("lan", "h1", "lan", |name| taken.iter().any(|it| it == name));
    assert!(name.starts_with("lan-h1-") && name.len() == "lan-h1-".len() + 8, "{name}");
    assert_eq!(free_name("lan", "h1.example.org", "lan", |name| name == "lan"), "lan-h1-example-org");
    let long = free_name(&"n".repeat(63), "h1", "n", |name| name.len() == 63 && !name.contains('-'));
    assert_eq!(long.len(), 63);
}

#[test]
fn only_directories_of_this_host_are_known_by_their_path() {
    let inventory = inventory("h1");
    assert_eq!(inventory.directories().collect::<Vec<_>>(), [("/srv/fast", "kubevmm.fast".to_owned())]);
    assert!(documents::<VirtualMachineStoragePool>("pools.yaml").iter().any(|pool| pool.name_any() == "dir-of-h2"));
}
