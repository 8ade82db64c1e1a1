//! Disks: made, taken, refused, given back.

use super::*;

#[test]
fn a_template_becomes_a_disk_that_the_vm_owns_and_holds() {
    let view = view("disks: [{name: root, template: {source: {blank: {}}, size: 1Gi, poolName: fast}}]", "");
    let actions = decide(&view);
    let [Action::CreateDisk { disk, owned }] = actions.as_slice() else { panic!("{actions:?}") };
    assert_eq!(disk.name_any(), "web-root");
    let owner = &disk.owner_references()[0];
    assert_eq!((owner.uid.as_str(), owner.controller, owner.block_owner_deletion), ("u", Some(true), Some(true)));
    assert_eq!(owned.used_by.as_ref().map(|holder| holder.uid.as_str()), Some("u"));
    assert_eq!(owned.pool_name.as_deref(), Some("fast"));
}

#[test]
fn a_disk_that_cannot_be_had_is_named_with_the_way_out() {
    let template = "disks: [{name: root, template: {source: {blank: {}}, size: 1Gi}}]";
    let twice = "disks: [{name: x, diskName: data}, {name: y, diskName: data}]";
    let image = "disks: [{name: r, template: {poolName: fast, source: {image: {name: debian}}}}]";
    let nowhere = "disks: [{name: r, template: {poolName: slow, size: 1Gi, source: {blank: {}}}}]";
    let mut taken = disk("", "");
    taken.metadata.name = Some("web-root".into());
    for (view, reason, says) in [
        (view(DISK, ""), "DiskNotFound", "spec.disks[data].diskName"),
        (view(DISK, "").disk(disk("", "usedBy: {name: db, uid: other}")), "DiskInUse", "VirtualMachine db"),
        (view(DISK, "").disk(disk(GONE, "")), "DiskDeleting", "being deleted"),
        (view(template, ""), "NoDefaultPool", "kubevmm.io/is-default"),
        (view(template, "").disk(taken), "NameTaken", "diskName"),
        (view(twice, "").disk(disk("", HELD)), "DuplicateDisk", "spec.disks[y]"),
        (view(image, ""), "ImageNotFound", "VirtualMachineImage debian"),
        (view(nowhere, ""), "PoolNotFound", "VirtualMachineStoragePool slow"),
    ] {
        let (steps, status) = outcome(&view);
        assert_eq!(steps, Vec::<String>::new(), "{reason}");
        let status = status.unwrap();
        let wanted = status.conditions.iter().find(|wanted| wanted.kind == DISKS_READY).unwrap();
        assert_eq!((wanted.status, wanted.reason), (Some(false), reason));
        assert!(wanted.message.contains(says), "{}", wanted.message);
        assert_eq!(status.shown.map(|shown| shown.printable), Some("Pending"));
    }
}

#[test]
fn a_free_disk_is_taken_once_it_has_its_finalizer() {
    let view_of = |disk: VirtualMachineDisk| view(DISK, "").disk(disk);
    assert_eq!(outcome(&view_of(disk("", ""))).0, ["disk data: used by web, node none"]);
    let mut fresh = disk("", "");
    fresh.metadata.finalizers = None;
    assert_eq!(outcome(&view_of(fresh)).0, Vec::<String>::new());
}

#[test]
fn a_disk_that_a_placed_vm_gets_follows_it_unless_its_data_lie_elsewhere() {
    let with =
        |status: &str| view(DISK, &placed("")).disk(disk("", &format!("{HELD}, {status}"))).pods(&[running(1, "a")]);
    assert_eq!(outcome(&with("")).0, ["disk data: used by web, node a"]);
    let (steps, status) = outcome(&with("volumeName: v, nodeName: b"));
    assert_eq!((steps, scheduled(&status).1), (vec![], "DataElsewhere"));
    assert_eq!(placement(&status).confirmed, None, "the word to start is taken back");
}

#[test]
fn the_owned_part_of_a_disk_keeps_its_node_when_the_holder_goes() {
    let disk = disk("", &format!("{HELD}, volumeName: v, nodeName: a"));
    let view = view(DISK, "").disk(disk.clone()).deleting();
    let Action::WriteDisk { owned, .. } = &decide(&view)[0] else { panic!() };
    assert_eq!(owned, &Owned { used_by: None, ..Owned::of(&disk) });
}

#[test]
fn a_volume_that_a_host_has_already_keeps_the_vm_there() {
    let free = view(DISK, "").disk(existing("", ""));
    assert_eq!(outcome(&free).0, ["disk data: used by web, node none"]);
    assert_eq!(outcome(&view(DISK, "").disk(existing("", HELD))).0, ["create pod 1 for b"]);
    assert_eq!(outcome(&view(DISK, "").shared().disk(existing("", HELD))).0, ["create pod 1 for a b"]);
    let (steps, status) = outcome(&view(DISK, "").disk(existing("", HELD)).on(hosts(&[("a", POOL)])));
    assert_eq!((steps, scheduled(&status).1), (vec!["create pod 1 for b".into()], "HostNotFound"));
}

#[test]
fn a_volume_that_another_disk_has_is_not_taken() {
    let older = "creationTimestamp: \"2026-01-01T00:00:00Z\"";
    let younger = "creationTimestamp: \"2026-01-01T00:00:01Z\"";
    let named = |mut disk: VirtualMachineDisk| {
        disk.metadata.name = Some("first".into());
        disk.metadata.namespace = Some("other".into());
        disk.metadata.uid = Some("f".into());
        disk
    };
    let mine = || view(DISK, "").disk(existing(younger, ""));
    let (steps, status) = outcome(&mine().rival(named(existing(older, ""))));
    assert_eq!(steps, Vec::<String>::new());
    let wanted = status.unwrap().conditions.into_iter().find(|wanted| wanted.kind == DISKS_READY).unwrap();
    assert_eq!((wanted.status, wanted.reason), (Some(false), "VolumeInUse"));
    assert!(wanted.message.contains("VirtualMachineDisk other/first"), "{}", wanted.message);

    let taken = ["disk data: used by web, node none"];
    let later = "creationTimestamp: \"2026-01-01T00:00:02Z\"";
    assert_eq!(outcome(&mine().rival(named(existing(later, "")))).0, taken, "the older has it");
    let made = |node: &str| disk(later, &format!("volumeName: v, nodeName: {node}"));
    assert_eq!(outcome(&mine().rival(named(made("b")))).0, Vec::<String>::new(), "it was made for that disk");
    assert_eq!(outcome(&mine().rival(named(made("a")))).0, taken, "another host's");
}
