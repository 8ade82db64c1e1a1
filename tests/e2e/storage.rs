//! Images, volumes and pools.

use std::fs;
use std::io::{Read as _, Write as _};
use std::net::TcpStream;

use anyhow::{Context, Result, anyhow, ensure};
use kubevmm_tests::{Space, api, wait_for, within};

kubevmm_tests::stories! { alone: false;
    one_download_per_host,
    a_changed_download_is_refused,
    an_image_in_use_stays,
    a_vanished_volume_is_never_made_again,
    a_retained_volume_stays,
    a_disk_outlives_its_vm,
    a_shared_pool_that_is_not_mounted,
    an_existing_pool_is_used_and_left_as_it_was,
}

fn image(space: &Space, name: &str, url: &str) -> Result<()> {
    space.apply(&format!(
        "{{apiVersion: kubevmm.io/v1beta1, kind: VirtualMachineImage, metadata: {{name: {name}}}, \
         spec: {{source: {{http: {{url: '{url}'}}}}}}}}"
    ))
}

fn root_from(image: &str) -> String {
    format!("spec: {{disks: [{{name: root, template: {{source: {{image: {{name: {image}}}}}}}}}]}}")
}

/// How many downloads of this path the lab's file server has answered.
fn downloads(space: &Space, path: &str) -> Result<u64> {
    let url = space.cluster.url(&format!("count/{path}"));
    let (host, path) = url.trim_start_matches("http://").split_once('/').context("a URL")?;
    let mut server = TcpStream::connect(host)?;
    write!(server, "GET /{path} HTTP/1.0\r\nHost: {host}\r\n\r\n")?;
    let mut answer = String::new();
    server.read_to_string(&mut answer)?;
    let body = answer.split("\r\n\r\n").nth(1).unwrap_or_default();
    body.trim().parse().with_context(|| format!("a number in {answer:?}"))
}

fn one_download_per_host(space: &Space) -> Result<()> {
    let path = format!("tiny.qcow2?rate=8000000&story={}", space.namespace);
    image(space, "once", &space.cluster.url(&path))?;
    let vms = (0..3)
        .map(|n| space.blank(&format!("vm-{n}")).on("h1").with(&root_from("once")).apply())
        .collect::<Result<Vec<_>>>()?;
    for vm in &vms {
        vm.is_ready()?;
    }
    let count = downloads(space, &path)?;
    ensure!(count == 1, "3 VMs on one host, {count} downloads");
    let image = space.condition(api::IMAGE, "once", "Ready", "True", "")?;
    ensure!(image["status"]["digest"].as_str().is_some_and(|digest| digest.starts_with("sha256:")), "no digest");
    ensure!(image["status"]["readyHosts"] == 1, "{}", image["status"]);
    let other = space.blank("elsewhere").on("h2").with(&root_from("once")).apply()?;
    other.is_ready()?;
    let count = downloads(space, &path)?;
    ensure!(count == 2, "2 hosts, {count} downloads");
    Ok(())
}

fn a_changed_download_is_refused(space: &Space) -> Result<()> {
    let file = format!("{}.img", space.namespace);
    let served = space.cluster.lab.served_dir().join(&file);
    fs::write(&served, vec![b'a'; 2 << 20])?;
    image(space, "changing", &space.cluster.url(&file))?;
    let first = space.blank("first").on("h1").with(&root_from("changing")).apply()?;
    first.is_ready()?;
    fs::write(&served, vec![b'b'; 2 << 20])?;
    let second = space.blank("second").on("h2").with(&root_from("changing")).apply()?;
    wait_for("the second host refuses the other bytes", within(60), || {
        let hypervisor = space.api().get(api::HYPERVISOR, "", "h2")?.context("no Hypervisor h2")?;
        let images = hypervisor["status"]["images"].as_array().cloned().unwrap_or_default();
        let refused = images
            .iter()
            .any(|image| image["namespace"] == space.namespace.as_str() && image["reason"] == "DigestChanged");
        if refused { Ok(Some(())) } else { Err(anyhow!("{images:?}")) }
    })?;
    second.stays_off(2)?;
    // The cause goes away.
    fs::write(&served, vec![b'a'; 2 << 20])?;
    second.is_ready()?;
    fs::remove_file(served)?;
    Ok(())
}

fn an_image_in_use_stays(space: &Space) -> Result<()> {
    image(space, "used", &space.cluster.url(&format!("tiny.qcow2?story={}", space.namespace)))?;
    let vm = space.blank("web").with(&root_from("used")).apply()?;
    vm.is_ready()?;
    space.delete(api::IMAGE, "used")?;
    let held = space.condition(api::IMAGE, "used", "Ready", "False", "InUse")?;
    ensure!(api::condition(&held, "Ready").2.contains("web-root"), "its user is not named: {}", held["status"]);
    vm.vanishes()?;
    space.api().wait_gone(api::IMAGE, &space.namespace, "used", within(60))
}

fn a_vanished_volume_is_never_made_again(space: &Space) -> Result<()> {
    let vm = space.blank("web").apply()?;
    vm.is_ready()?;
    vm.patch("{runStrategy: Halted}")?;
    vm.is_off()?;
    let host = vm.host()?;
    let disk = space.get(api::DISK, "web-root")?.context("no disk web-root")?;
    let text = |key: &str| disk["status"][key].as_str().unwrap_or_default().to_owned();
    let (pool, volume) = (format!("kubevmm.{}", text("poolName")), text("volumeName"));
    let copy = format!("{volume}.copy");
    host.virsh(["vol-clone", "--pool", &pool, &volume, &copy])?;
    host.virsh(["vol-delete", "--pool", &pool, &volume])?;
    vm.patch("{runStrategy: Always}")?;
    let why = vm.condition("Ready", "False", "VolumeMissing")?;
    ensure!(why.contains(&volume), "the volume is not named: {why}");
    vm.stays_off(3)?;
    ensure!(!host.volumes(&pool)?.contains(&volume), "the volume was made again");
    // Its owner finds a copy.
    host.virsh(["vol-clone", "--pool", &pool, &copy, &volume])?;
    host.virsh(["vol-delete", "--pool", &pool, &copy])?;
    host.virsh(["pool-refresh", &pool])?;
    vm.is_ready().map(drop)
}

fn a_retained_volume_stays(space: &Space) -> Result<()> {
    let vm = space
        .blank("web")
        .with("spec: {disks: [{name: root, template: {size: 8Mi, reclaimPolicy: Retain, source: {blank: {}}}}]}")
        .apply()?;
    vm.is_ready()?;
    let host = vm.host()?;
    let disk = space.get(api::DISK, "web-root")?.context("no disk web-root")?;
    let volume = disk["status"]["volumeName"].as_str().unwrap_or_default().to_owned();
    let pool = format!("kubevmm.{}", disk["status"]["poolName"].as_str().unwrap_or_default());
    vm.vanishes()?;
    space.api().wait_gone(api::DISK, &space.namespace, "web-root", within(30))?;
    ensure!(host.volumes(&pool)?.contains(&volume), "the volume {volume} is gone");
    host.virsh(["vol-delete", "--pool", &pool, &volume]).map(drop)
}

fn a_disk_outlives_its_vm(space: &Space) -> Result<()> {
    space.apply(
        "{apiVersion: kubevmm.io/v1beta1, kind: VirtualMachineDisk, metadata: {name: data}, \
         spec: {size: 8Mi, source: {blank: {}}}}",
    )?;
    let with_disk = "spec: {disks: [{name: data, diskName: data}]}";
    let first = space.blank("first").with(with_disk).apply()?;
    first.is_ready()?;
    let host = first.host()?.name;
    // Not while it is used.
    space.delete(api::DISK, "data")?;
    first.stays_ready(2)?;
    space.get(api::DISK, "data")?.context("a disk in use was deleted")?;
    first.vanishes()?;
    space.api().wait_gone(api::DISK, &space.namespace, "data", within(30))?;

    space.apply(
        "{apiVersion: kubevmm.io/v1beta1, kind: VirtualMachineDisk, metadata: {name: more}, \
         spec: {size: 8Mi, source: {blank: {}}}}",
    )?;
    let with_disk = "spec: {disks: [{name: data, diskName: more}]}";
    let second = space.blank("second").on(&host.to_string()).with(with_disk).apply()?;
    second.is_ready()?;
    second.vanishes()?;
    let disk = space.get(api::DISK, "more")?.context("the disk went with its VM")?;
    ensure!(disk["status"]["usedBy"].is_null(), "{}", disk["status"]);
    // The data lies on one host: the next user goes there.
    let third = space.blank("third").with(with_disk).apply()?;
    third.is_ready()?;
    ensure!(third.host()?.name == host, "the volume lies on {host}, the VM runs on {}", third.host()?.name);
    Ok(())
}

fn a_shared_pool_that_is_not_mounted(space: &Space) -> Result<()> {
    let pool = space.pool_name();
    let path = "/srv/elsewhere";
    let h1 = space.cluster.host("h1");
    h1.sh(&format!("mkdir -p {path}"))?;
    space.apply(&format!(
        "{{apiVersion: kubevmm.io/v1beta1, kind: VirtualMachineStoragePool, metadata: {{name: {pool}}}, \
         spec: {{shared: true, dir: {{path: {path}}}, nodeSelector: {{kubernetes.io/hostname: h1}}}}}}"
    ))?;
    let reason = || -> Result<_> {
        let hypervisor = space.api().get(api::HYPERVISOR, "", "h1")?.context("no Hypervisor h1")?;
        let pools = hypervisor["status"]["pools"].as_array().cloned().unwrap_or_default();
        pools.into_iter().find(|entry| entry["name"] == pool).context("the pool is not reported")
    };
    wait_for("the pool is not mounted", within(60), || {
        let entry = reason()?;
        if entry["reason"] == "PoolNotMounted" { Ok(Some(())) } else { Err(anyhow!("{entry}")) }
    })?;
    let disk = format!(
        "spec: {{disks: [{{name: root, template: {{size: 8Mi, poolName: {pool}, source: {{blank: {{}}}}}}}}]}}"
    );
    let vm = space.blank("web").with(&disk).apply()?;
    vm.condition("Scheduled", "False", "NoHostWithPool")?;
    h1.sh(&format!("mount -t tmpfs -o mode=755 tmpfs {path}"))?;
    wait_for("the pool is ready once it is mounted", within(90), || {
        let entry = reason()?;
        if entry["ready"] == true { Ok(Some(())) } else { Err(anyhow!("{entry}")) }
    })?;
    vm.is_ready()?;
    vm.vanishes()?;
    space.api().delete(api::POOL, "", pool)?;
    space.api().wait_gone(api::POOL, "", pool, within(60))?;
    h1.sh(&format!("umount {path} && rmdir {path}")).map(drop)
}

fn an_existing_pool_is_used_and_left_as_it_was(space: &Space) -> Result<()> {
    let h1 = space.cluster.host("h1");
    let path = "/srv/existing";
    h1.sh(&format!("mkdir -p {path}"))?;
    let xml = format!("<pool type='dir'><name>existing</name><target><path>{path}</path></target></pool>");
    h1.virsh_xml("pool-define", &xml)?;
    h1.virsh(["pool-start", "existing"])?;
    let pool = space.pool_name();
    space.apply(&format!(
        "{{apiVersion: kubevmm.io/v1beta1, kind: VirtualMachineStoragePool, metadata: {{name: {pool}}}, \
         spec: {{existing: {{name: existing}}, nodeSelector: {{kubernetes.io/hostname: h1}}}}}}"
    ))?;
    let disk = format!(
        "spec: {{disks: [{{name: root, template: {{size: 8Mi, poolName: {pool}, source: {{blank: {{}}}}}}}}]}}"
    );
    let vm = space.blank("web").with(&disk).apply()?;
    vm.is_ready()?;
    ensure!(h1.volumes("existing")?.len() == 1, "the volume is elsewhere");
    vm.vanishes()?;
    space.api().delete(api::POOL, "", pool)?;
    space.api().wait_gone(api::POOL, "", pool, within(60))?;
    ensure!(h1.pools()?.contains(&"existing".to_owned()), "an existing pool was undefined");
    ensure!(h1.volumes("existing")?.is_empty(), "a volume is left");
    h1.virsh(["pool-destroy", "existing"])?;
    h1.virsh(["pool-undefine", "existing"])?;
    h1.sh(&format!("rmdir {path}")).map(drop)
}
