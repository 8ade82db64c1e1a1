//! etcd is lost, or restored from an old backup: nothing on a host is destroyed, and nothing runs twice.

use anyhow::{Context, Result, anyhow, ensure};
use kubevmm_lab::Daemon;
use kubevmm_tests::inventory::Inventory;
use kubevmm_tests::picture::Picture;
use kubevmm_tests::{Cluster, Json, Space, api, wait_for, within};

use crate::hand_over::{NeverTwice, on_shared_disk, remove_shared_pool, shared_pool};

kubevmm_tests::stories! { alone: true;
    a_backup_from_before_a_move_starts_nothing_twice,
    a_wiped_store_destroys_nothing,
}

/// As after any restore: what holds the cluster's state in memory starts anew. Our own pods stay as they are.
fn restart_kubelets(cluster: &Cluster) -> Result<()> {
    for node in cluster.nodes() {
        node.restart(Daemon::Kubelet)?;
    }
    Ok(())
}

fn a_backup_from_before_a_move_starts_nothing_twice(space: &Space) -> Result<()> {
    let cluster = space.cluster;
    shared_pool(space)?;
    let vm = space.blank("web").on("h1").with(&on_shared_disk(space)).apply()?;
    vm.is_ready()?;
    cluster.lab.etcd_save("before-the-move")?;
    cluster.is_whole()?;

    vm.patch("{runStrategy: Halted}")?;
    vm.is_off()?;
    vm.patch("{runStrategy: Always, placement: {nodeSelector: {kubernetes.io/hostname: h2}}}")?;
    vm.wait("runs on h2", within(90), |vm| vm["status"]["nodeName"] == "h2" && api::is_true(vm, "Ready"))?;
    let (qemu, watch) = (vm.qemu()?, NeverTwice::of(&vm)?);
    let epoch = vm.get()?["status"]["placement"]["epoch"].as_i64();

    cluster.lab.etcd_restore("before-the-move")?;
    ensure!(vm.get()?["status"]["nodeName"] == "h1", "the backup is not from before the move");
    restart_kubelets(cluster)?;
    vm.wait("is known where it runs", within(120), |vm| {
        vm["status"]["nodeName"] == "h2" && vm["status"]["placement"]["epoch"].as_i64() >= epoch
    })?;
    vm.is_ready()?;
    cluster.is_whole()?;
    ensure!(qemu.runs(), "the restore has stopped it");
    watch.holds()?;
    ensure!(!cluster.host("h1").domains()?.contains(&vm.domain()), "h1 has defined it");

    // The restored spec says h1; a person says where it is.
    vm.patch("{placement: null}")?;
    vm.vanishes()?;
    remove_shared_pool(space)
}

fn orphan(cluster: &Cluster, node: &str, domain: &str) -> Result<Json> {
    let hypervisor = cluster.api.get(api::HYPERVISOR, "", node)?.context("no Hypervisor")?;
    let domains = hypervisor["status"]["domains"].as_array().cloned().unwrap_or_default();
    domains.into_iter().find(|entry| entry["name"] == domain).context("the domain is not listed")
}

fn a_wiped_store_destroys_nothing(space: &Space) -> Result<()> {
    let cluster = space.cluster;
    let vm = space.guest("web").on("h1").apply()?;
    let boot = vm.boots()?;
    let (hosts, domain, qemu) = (cluster.libvirt_hosts(), vm.domain(), vm.qemu()?);
    vm.address()?;
    cluster.lab.etcd_save("whole")?;
    cluster.is_whole()?;
    // Also what the VM does not use: a deletion in a store that is gone deletes nothing.
    let written = format!("{}.", space.namespace);
    let look = || -> Result<(Inventory, Picture)> {
        Ok((Inventory::take(&hosts)?.without_pods(), Picture::of_everything(&hosts, &written)?))
    };
    let (before, looked) = look()?;
    for what in ["domain t-", "volume kubevmm.default image.", "network .default", "volume kubevmm-system"] {
        ensure!(!before.that_names(what).is_empty(), "no {what} is there that could be lost");
    }

    let kept = an_orphan_blocks_its_name(space, &domain).and_then(|()| {
        let (now, looks) = look()?;
        before.is_no_more_than(&now).context("before the wipe")?;
        now.is_no_more_than(&before).context("after the wipe")?;
        looks.is_the_same_as(&looked)?;
        ensure!(qemu.runs(), "the orphan was stopped");
        Ok(())
    });

    // The administrator finds the backup: all is as it was.
    cluster.lab.etcd_restore("whole")?;
    restart_kubelets(cluster)?;
    cluster.is_whole()?;
    kept?;
    vm.is_ready()?;
    ensure!(vm.qemu()? == qemu, "QEMU is another one");
    vm.has_not_rebooted(&boot)?;
    vm.vanishes()
}

/// Without the cluster's objects: the domain is shown, and a VM of the same name does not start beside it.
fn an_orphan_blocks_its_name(space: &Space, domain: &str) -> Result<()> {
    let cluster = space.cluster;
    cluster.lab.etcd_wipe()?;
    cluster.install()?;
    cluster.is_whole()?;
    wait_for("the domain is shown as an orphan", within(60), || {
        let entry = orphan(cluster, "h1", domain)?;
        if entry["orphan"] == true { Ok(Some(())) } else { Err(anyhow!("{entry}")) }
    })?;
    let again = Space::open(&space.namespace)?;
    let second = again.blank("web").with("spec: {disks: null}").apply()?;
    let why = second.wait("is blocked by the orphan", within(60), |vm| {
        ["Ready", "Scheduled"].iter().any(|kind| api::condition(vm, kind).1 == "OrphanFound")
    })?;
    ensure!(why["status"].to_string().contains("virsh"), "no way out is named: {}", why["status"]);
    second.stays_off(2)?;
    second.delete()?;
    space.api().wait_gone(api::VM, &space.namespace, "web", within(60))
}
