//! Domains that a host had before, managed from now on: without a touch, and back.

use std::time::Instant;

use anyhow::{Context, Result, ensure};
use kubevmm_analyser::Tree;
use kubevmm_analyser::diff::{Mode, diff};
use kubevmm_tests::host::{Host, Process};
use kubevmm_tests::wait::{wait_for, within};
use kubevmm_tests::{Json, Space, Vm, api};
use serde_json::json;

use crate::tools::{fails, succeeds};

kubevmm_tests::stories! { alone: false;
    a_running_domain_is_managed_and_given_back_without_a_touch,
    a_managed_domain_is_started_as_it_was,
    what_no_object_stands_for_stays_as_it_is,
    a_deleted_vm_keeps_the_disks_that_it_brought,
    a_transient_domain_a_saved_one_and_one_with_snapshots_are_managed,
    one_name_and_one_uuid_on_two_hosts,
    what_others_change_is_told_and_undone,
    a_disk_that_was_moved_is_not_left_behind,
    an_orphan_is_attached_again,
    an_exported_domain_is_defined_without_this_project,
    a_hundred_domains_are_managed_by_one_command,
    who_may_edit_a_namespace_may_not_take_over,
}

/// Somebody else's domain on a host, with a pool of its own.
pub(crate) struct Legacy<'a> {
    space: &'a Space,
    host: Host,
    node: String,
    name: String,
    /// Name of the pool; it lies in `/srv/<pool>`.
    pool: String,
    /// Its UUID, by which its TPM's state lies on the host.
    uuid: String,
}

impl<'a> Legacy<'a> {
    /// A small one with a disk in a pool and a NIC on a network of the host; `more` of its devices. The pool holds the
    /// volumes `root.qcow2` and `data.img`.
    pub(crate) fn small(space: &'a Space, host: &str, name: &str, more: &str) -> Result<Self> {
        Self::define(space, host, name, |path| {
            format!(
                "<memory unit='MiB'>16</memory><os><type arch='x86_64' machine='pc'>hvm</type></os>\
                 <devices><disk type='file'><driver name='qemu' type='qcow2'/><source file='{path}/root.qcow2'/>\
                 <target dev='vda' bus='virtio'/></disk>\
                 <interface type='network'><source network='foreign'/><model type='virtio'/></interface>{more}</devices>"
            )
        })
    }

    /// One with much of what no field of a VirtualMachine says.
    fn rich(space: &'a Space, host: &str) -> Result<Self> {
        let legacy = Self::define(space, host, "Rich One", |path| {
            format!(
                "<metadata><note xmlns='https://example.org/note'>not of this project</note></metadata>\
                 <memory unit='MiB'>96</memory><vcpu>2</vcpu>\
                 <os firmware='efi'><type arch='x86_64' machine='q35'>hvm</type>\
                 <firmware><feature enabled='no' name='secure-boot'/></firmware></os><features><acpi/></features>\
                 <cpu mode='custom' match='exact'><model>qemu64</model></cpu><clock offset='localtime'/><devices>\
                 <disk type='file'><driver name='qemu' type='qcow2' cache='writeback' discard='unmap'/>\
                 <source file='{path}/root.qcow2'/><target dev='vda' bus='virtio'/><boot order='1'/>\
                 <serial>0042</serial></disk>\
                 <disk type='volume'><driver name='qemu' type='raw'/><source pool='{pool}' volume='data.img'/>\
                 <target dev='sdb' bus='sata'/></disk>\
                 <disk type='file' device='cdrom'><source file='{path}/cd.iso'/><target dev='sdc' bus='sata'/></disk>\
                 <disk type='file'><driver name='qemu' type='raw'/><source file='{path}.loose/loose.img'/>\
                 <target dev='vdb' bus='virtio'/></disk>\
                 <interface type='network'><mac address='52:54:00:aa:00:01'/><source network='foreign'/>\
                 <model type='virtio'/></interface>\
                 <interface type='user'><mac address='52:54:00:aa:00:02'/><model type='e1000'/></interface>\
                 <interface type='network'><mac address='52:54:00:aa:00:03'/><source network='foreign'/>\
                 <model type='rtl8139'/></interface>\
                 <tpm model='tpm-crb'><backend type='emulator' version='2.0'/></tpm><serial type='pty'/>\
                 <graphics type='vnc' port='-1' passwd='secret'/><video><model type='vga'/></video></devices>\
                 <qemu:commandline xmlns:qemu='http://libvirt.org/schemas/domain/qemu/1.0'>\
                 <qemu:env name='A' value='b'/></qemu:commandline>",
                pool = space.pool_name()
            )
        })?;
        legacy.host.virsh(["autostart", &legacy.name])?;
        Ok(legacy)
    }

    fn define(space: &'a Space, host: &str, name: &str, inside: impl FnOnce(&str) -> String) -> Result<Self> {
        let host = space.cluster.host(host);
        let (name, pool) = (format!("{name} of {}", space.namespace), space.pool_name().to_owned());
        let path = format!("/srv/{pool}");
        host.sh(&format!(
            "mkdir -p {path} {path}.loose && truncate -s 8M {path}.loose/loose.img && truncate -s 1M {path}/cd.iso && \
             virsh pool-define-as {pool} dir --target {path} && virsh pool-start {pool} && \
             virsh vol-create-as {pool} root.qcow2 64M --format qcow2 && virsh vol-create-as {pool} data.img 8M --format raw"
        ))?;
        host.virsh_xml("define", &format!("<domain type='qemu'><name>{name}</name>{}</domain>", inside(&path)))?;
        let uuid = host.virsh(["domuuid", &name])?.trim().to_owned();
        Ok(Self { space, host, node: host.name.to_string(), name, pool, uuid })
    }

    pub(crate) fn start(self) -> Result<Self> {
        self.host.virsh(["start", &self.name, "--paused"])?;
        Ok(self)
    }

    pub(crate) fn virsh(&self, verb: &str, more: &str) -> Result<String> {
        self.host.sh(&format!("virsh -q {verb} '{}' {more}", self.name))
    }

    pub(crate) fn qemu(&self) -> Result<Process> {
        self.host.qemus().remove(&self.uuid).with_context(|| format!("{} does not run", self.name))
    }

    /// What is defined, without this project's mark.
    fn definition(&self) -> Result<String> {
        let xml = self.virsh("dumpxml", "--inactive --security-info")?;
        // libvirt makes an element around it.
        let is_ours = |line: &&str| {
            line.contains("kubevmm:object") || ["<metadata>", "</metadata>", "<metadata/>"].contains(&line.trim())
        };
        Ok(xml.lines().filter(|line| !is_ours(line)).collect::<Vec<_>>().join("\n"))
    }

    /// Imports it once it is listed, with these options; the VM's name.
    pub(crate) fn import(&self, options: &[&str]) -> Result<Vm> {
        wait_for("it is listed", within(30), || {
            Ok(succeeds(self.space, &["domains", "--node", self.node()])?.contains(&self.name).then_some(()))
        })?;
        succeeds(self.space, &[&["import", "--node", self.node(), self.name.as_str()], options].concat())?;
        let uuid = self.uuid.as_str();
        let vms = self.space.api().list(api::VM, &self.space.namespace)?;
        let is_it = |vm: &&Json| {
            vm["spec"]["existingDomain"]["uuid"] == uuid && vm["spec"]["existingDomain"]["nodeName"] == self.node()
        };
        let vm = vms.iter().find(is_it).context("no VirtualMachine has it")?;
        Ok(self.space.vm(vm["metadata"]["name"].as_str().unwrap_or_default()))
    }

    fn node(&self) -> &str {
        &self.node
    }

    /// Takes all of it away, whatever became of it.
    pub(crate) fn remove(&self) -> Result<()> {
        let Self { host, name, pool, uuid, .. } = self;
        host.sh(&format!(
            "virsh -q destroy '{name}' 2>/dev/null; \
             virsh -q undefine '{name}' --nvram --tpm --managed-save --snapshots-metadata 2>/dev/null; \
             virsh -q pool-destroy {pool}; virsh -q pool-undefine {pool}; rm -rf /srv/{pool} /srv/{pool}.loose \
             /var/lib/libvirt/qemu/nvram/'{name}'* /var/lib/libvirt/swtpm/{uuid}"
        ))?;
        let api = self.space.api();
        for object in api.list(api::POOL, "")? {
            let name = object["metadata"]["name"].as_str().unwrap_or_default();
            if object["spec"]["existing"]["name"] == pool.as_str() {
                api.delete(api::POOL, "", name)?;
                api.wait_gone(api::POOL, "", name, within(60))?;
            }
        }
        Ok(())
    }
}

/// It is managed: marked, and what was made of it is what is there.
pub(crate) fn is_managed(vm: &Vm) -> Result<Json> {
    vm.wait("it is managed", within(60), |vm| {
        vm["status"]["domain"]["generation"].is_number()
            && vm["status"]["observedGeneration"] == vm["metadata"]["generation"]
    })
}

pub(crate) fn patch(vm: &Vm, space: &Space, spec: Json) -> Result<()> {
    space.api().patch(api::VM, &vm.namespace, &vm.name, &json!({ "spec": spec })).map(drop)
}

/// Deletes a VM whose guest hears no request.
fn delete(space: &Space, vm: &Vm) -> Result<()> {
    patch(vm, space, json!({"terminationGracePeriodSeconds": 0}))?;
    vm.delete()?;
    vm.is_gone()
}

/// Deletes a VM, and the disks that were made with its import.
pub(crate) fn delete_with_disks(space: &Space, vm: &Vm) -> Result<()> {
    delete(space, vm)?;
    let disks = space.api().list(api::DISK, &space.namespace)?;
    for disk in disks.iter().filter(|disk| disk["spec"]["source"]["existing"].is_object()) {
        let name = disk["metadata"]["name"].as_str().unwrap_or_default();
        space.delete(api::DISK, name)?;
        space.api().wait_gone(api::DISK, &space.namespace, name, within(60))?;
    }
    Ok(())
}

/// Where two definitions differ; the aliases that this project gives are no difference.
fn differences(before: &str, after: &str) -> Result<Vec<String>> {
    let tree = |xml: &str| {
        let lines = xml.lines().filter(|line| !line.contains("<alias name='ua-"));
        Tree::from_xml(&lines.collect::<Vec<_>>().join("\n"))
    };
    Ok(diff(&tree(before)?, &tree(after)?, Mode::Exact).iter().map(ToString::to_string).collect())
}

fn a_running_domain_is_managed_and_given_back_without_a_touch(space: &Space) -> Result<()> {
    let legacy = Legacy::rich(space, "h1")?.start()?;
    let (before, qemu) = (legacy.definition()?, legacy.qemu()?);
    let vm = legacy.import(&[])?;
    vm.wait("it is watched", within(20), |vm| vm["status"]["effective"].is_object())?;

    // It may carry the cluster: it is taken over only where somebody agrees.
    let manage = ["import", "--node", "h1", &legacy.name, "--manage"];
    for options in [&["--dry-run"][..], &[]] {
        let refused = fails(space, &[&manage[..], options].concat())?;
        ensure!(refused.contains("--disable-autostart"), "it does not name the way: {refused}");
    }
    let said = succeeds(space, &[&manage[..], &["--disable-autostart", "--dry-run"]].concat())?;
    ensure!(said.contains("autostart") && said.contains("loose.img"), "the pre-flight does not tell: {said}");
    ensure!(legacy.definition()? == before && space.api().list(api::DISK, &space.namespace)?.is_empty(), "it was dry");

    legacy.import(&["--manage", "--disable-autostart"])?;
    let seen = is_managed(&vm)?;
    ensure!(legacy.qemu()?.pid == qemu.pid, "it was restarted");
    ensure!(legacy.definition()? == before, "more than the mark has changed:\n{}", legacy.definition()?);
    ensure!(legacy.virsh("dominfo", "")?.contains("Autostart:      disable"), "libvirt starts it still");
    let disks = space.api().list(api::DISK, &space.namespace)?;
    ensure!(disks.len() == 2, "each disk that lies in a pool is one: {disks:?}");
    vm.condition("Synced", "True", "AsDefined")?;
    vm.condition("DisksReady", "True", "")?;
    ensure!(seen["spec"]["runStrategy"] == "Always", "it ran, and with its host: {}", seen["spec"]);
    vm.wait("its memory is reserved", within(60), |vm| vm["status"]["placement"]["confirmed"].is_string())?;
    vm.condition("RestartRequired", "False", "UpToDate")?;

    patch(&vm, space, json!({"management": "Observe"}))?;
    vm.wait("it is given back", within(60), |vm| vm["status"]["domain"]["generation"].is_null())?;
    vm.wait("nothing is reserved", within(60), |vm| vm["metadata"]["finalizers"].is_null())?;
    wait_for("its pod goes", within(60), || {
        Ok(space.api().list(api::POD, &space.namespace)?.is_empty().then_some(()))
    })?;
    ensure!(legacy.qemu()?.pid == qemu.pid, "it was restarted");
    ensure!(legacy.definition()? == before, "its definition was changed");
    ensure!(!legacy.virsh("dumpxml", "")?.contains("kubevmm"), "something of this project is left in it");
    ensure!(legacy.virsh("dominfo", "")?.contains("Autostart:      enable"), "libvirt started it, and does not now");
    delete_with_disks(space, &vm)?;
    ensure!(legacy.qemu()?.pid == qemu.pid && legacy.definition()? == before, "the deletion has touched it");
    legacy.remove()
}

fn a_managed_domain_is_started_as_it_was(space: &Space) -> Result<()> {
    let legacy = Legacy::rich(space, "h2")?.start()?;
    let (before, qemu) = (legacy.definition()?, legacy.qemu()?);
    let vm = legacy.import(&["--manage", "--disable-autostart"])?;
    is_managed(&vm)?;
    vm.wait("it is placed", within(60), |vm| vm["status"]["placement"]["confirmed"].is_string())?;
    succeeds(space, &["restart", &vm.name, "--force"])?;
    wait_for("it runs anew", within(60), || Ok((legacy.qemu()?.pid != qemu.pid).then_some(())))?;
    vm.is_ready()?;
    let after = legacy.definition()?;
    let changed = differences(&before, &after)?;
    // The volume is used by its path.
    let expected = |line: &String| line.starts_with("devices/disk[sdb]");
    ensure!(changed.iter().all(expected), "the definition is another one: {changed:#?}\n{before}\n{after}");
    ensure!(after.contains("passwd='secret'"), "the display has lost its password");
    vm.condition("Synced", "True", "AsDefined")?;
    delete_with_disks(space, &vm)?;
    ensure!(!legacy.host.domains()?.contains(&legacy.name), "the domain of a deleted VM is there");
    let left =
        legacy.host.sh(&format!("ls /var/lib/libvirt/qemu/nvram /var/lib/libvirt/swtpm; ls /srv/{}", legacy.pool))?;
    for kept in ["Rich One", "root.qcow2", "data.img", "cd.iso"] {
        ensure!(left.contains(kept), "{kept} is gone: {left}");
    }
    legacy.remove()
}

fn what_no_object_stands_for_stays_as_it_is(space: &Space) -> Result<()> {
    // Off, for the lab has none of these devices.
    let legacy = Legacy::small(
        space,
        "h2",
        "Devices",
        "<disk type='block'><driver name='qemu' type='raw' io='native' cache='none'/><source dev='/dev/vg0/data'/>\
         <target dev='vdb' bus='virtio'/></disk>\
         <disk type='network'><driver name='qemu' type='raw'/><source protocol='rbd' name='pool/image'>\
         <host name='ceph.example.org' port='6789'/></source><target dev='vdc' bus='virtio'/></disk>\
         <disk type='file' device='cdrom'><target dev='hda' bus='ide'/></disk>\
         <hostdev mode='subsystem' type='pci' managed='yes'><source>\
         <address domain='0x0000' bus='0x65' slot='0x00' function='0x1'/></source></hostdev>\
         <hostdev mode='subsystem' type='usb'><source><vendor id='0x046d'/><product id='0xc52b'/></source></hostdev>\
         <interface type='direct'><source dev='eth7' mode='bridge'/><model type='virtio'/></interface>",
    )?;
    legacy.host.virsh(["autostart", &legacy.name])?;
    let before = legacy.definition()?;
    let vm = legacy.import(&["--manage", "--disable-autostart"])?;
    let seen = is_managed(&vm)?;
    ensure!(seen["spec"]["runStrategy"] == "Manual", "off: {}", seen["spec"]["runStrategy"]);
    ensure!(legacy.definition()? == before, "more than the mark has changed");
    vm.condition("Synced", "True", "AsDefined")?;
    ensure!(space.api().list(api::DISK, &space.namespace)?.len() == 1, "the one in a pool");
    patch(&vm, space, json!({"management": "Observe"}))?;
    vm.wait("it is given back", within(60), |vm| vm["metadata"]["finalizers"].is_null())?;
    ensure!(legacy.definition()? == before, "its definition was changed");
    ensure!(legacy.virsh("dominfo", "")?.contains("Autostart:      enable"), "libvirt started it, and does not now");
    delete_with_disks(space, &vm)?;
    ensure!(legacy.definition()? == before, "its definition was changed");
    legacy.remove()
}

fn a_deleted_vm_keeps_the_disks_that_it_brought(space: &Space) -> Result<()> {
    let legacy = Legacy::small(space, "h1", "Disks", "")?.start()?;
    let vm = legacy.import(&["--manage"])?;
    is_managed(&vm)?;
    let disk = format!("{}-vda", vm.name);
    vm.wait("it has its disk", within(60), |vm| vm["status"]["placement"]["confirmed"].is_string())?;
    delete(space, &vm)?;
    ensure!(space.get(api::DISK, &disk)?.is_some(), "the disk went with its VM");
    ensure!(legacy.host.volumes(&legacy.pool)?.contains(&"root.qcow2".to_owned()), "its volume is gone");
    space.api().patch(api::DISK, &space.namespace, &disk, &json!({"spec": {"reclaimPolicy": "Delete"}}))?;
    space.delete(api::DISK, &disk)?;
    space.api().wait_gone(api::DISK, &space.namespace, &disk, within(60))?;
    ensure!(!legacy.host.volumes(&legacy.pool)?.contains(&"root.qcow2".to_owned()), "its owner wanted it gone");
    legacy.remove()
}

fn a_transient_domain_a_saved_one_and_one_with_snapshots_are_managed(space: &Space) -> Result<()> {
    // One domain after the other: defined only by this, saved, and with a snapshot.
    let legacy = Legacy::small(space, "h1", "Odd", "")?.start()?;
    legacy.virsh("undefine", "")?;
    let qemu = legacy.qemu()?;
    let said = {
        let vm = legacy.import(&[])?;
        vm.wait("it is watched", within(20), |vm| vm["status"]["domain"]["transient"] == true)?;
        succeeds(space, &["import", "--node", "h1", &legacy.name, "--manage", "--dry-run"])?
    };
    ensure!(said.contains("transient"), "the pre-flight does not tell: {said}");
    let vm = legacy.import(&["--manage"])?;
    is_managed(&vm)?;
    ensure!(legacy.qemu()?.pid == qemu.pid, "it was restarted");
    ensure!(legacy.virsh("dominfo", "")?.contains("Persistent:     yes"), "it is not defined");

    // Saved from before it was managed: it goes on where it was, and is this VM's.
    patch(&vm, space, json!({"management": "Observe"}))?;
    vm.wait("it is given back", within(60), |vm| vm["metadata"]["finalizers"].is_null())?;
    legacy.virsh("managedsave", "")?;
    vm.wait("it is off", within(20), |vm| vm["status"]["printableStatus"] == "Stopped")?;
    legacy.import(&["--manage"])?;
    is_managed(&vm)?;
    succeeds(space, &["start", &vm.name])?;
    vm.wait("it goes on", within(60), |vm| {
        vm["status"]["domain"]["state"] != "Shutoff" && vm["status"]["domain"]["epoch"] != 0
    })?;
    wait_for("what runs is marked", within(20), || {
        Ok(legacy.virsh("dumpxml", "")?.contains("kubevmm:object").then_some(()))
    })?;

    // Snapshots stay, over a new definition too.
    succeeds(space, &["stop", &vm.name, "--force"])?;
    vm.is_off()?;
    legacy.virsh("snapshot-create-as", "before")?;
    succeeds(space, &["start", &vm.name])?;
    vm.is_ready()?;
    ensure!(legacy.virsh("snapshot-list", "--name")?.trim() == "before", "its snapshot is gone");
    delete_with_disks(space, &vm)?;
    legacy.remove()
}

fn one_name_and_one_uuid_on_two_hosts(space: &Space) -> Result<()> {
    let first = Legacy::small(space, "h1", "Twin", "")?.start()?;
    let uuid = &first.uuid;
    let second = Legacy::define(space, "h2", "Twin", |path| {
        format!(
            "<uuid>{uuid}</uuid><memory unit='MiB'>16</memory><os><type arch='x86_64' machine='pc'>hvm</type></os>\
             <devices><disk type='file'><driver name='qemu' type='qcow2'/><source file='{path}/root.qcow2'/>\
             <target dev='vda' bus='virtio'/></disk></devices>"
        )
    })?
    .start()?;
    let vms = [first.import(&["--manage"])?, second.import(&["--manage"])?];
    ensure!(vms[0].name != vms[1].name, "two VirtualMachines of one name");
    for vm in &vms {
        is_managed(vm)?;
        vm.wait("it is placed", within(60), |vm| vm["status"]["placement"]["confirmed"].is_string())?;
    }
    delete(space, &vms[0])?;
    ensure!(second.qemu().is_ok(), "the deletion of one has ended the other");
    delete_with_disks(space, &vms[1])?;
    first.remove()?;
    second.remove()
}

fn what_others_change_is_told_and_undone(space: &Space) -> Result<()> {
    let legacy = Legacy::small(space, "h1", "Drift", "")?.start()?;
    let vm = legacy.import(&["--manage"])?;
    is_managed(&vm)?;
    let changed = |what: &str| -> Result<String> {
        vm.wait(what, within(30), |vm| api::condition(vm, "Synced").2.contains(what))?;
        vm.condition("Synced", "False", "")
    };
    let edit = |from: &str, to: &str| {
        legacy.host.sh(&format!(
            "virsh dumpxml --inactive '{0}' | sed \"s|{from}|{to}|\" >/run/edited.{1} && virsh -q define /run/edited.{1}; \
             rm /run/edited.{1}",
            legacy.name, space.namespace
        ))
    };
    edit("<on_crash>destroy", "<on_crash>preserve")?;
    let message = changed("on_crash")?;
    ensure!(message.contains("preserve instead of destroy"), "{message}");
    let path = format!("/srv/{}/data.img", legacy.pool);
    legacy.virsh("attach-disk", &format!("{path} sdz --targetbus usb --live"))?;
    changed("devices/disk[sdz]")?;

    patch(&vm, space, json!({"driftPolicy": "Revert"}))?;
    wait_for("the definition is as it was", within(30), || {
        Ok(legacy.definition()?.contains("<on_crash>destroy").then_some(()))
    })?;
    changed("devices/disk[sdz]")?;
    legacy.virsh("detach-disk", "sdz --live")?;
    vm.condition("Synced", "True", "AsDefined")?;
    legacy.virsh("undefine", "")?;
    wait_for("it is defined again", within(30), || {
        Ok(legacy.virsh("dominfo", "")?.contains("Persistent:     yes").then_some(()))
    })?;
    vm.condition("Synced", "True", "AsDefined")?;

    // Off, and undefined: reported, and made again when it is started.
    succeeds(space, &["stop", &vm.name, "--force"])?;
    vm.is_off()?;
    legacy.virsh("undefine", "")?;
    vm.condition("Synced", "False", "DomainMissing")?;
    succeeds(space, &["start", &vm.name])?;
    vm.is_ready()?;
    vm.condition("Synced", "True", "AsDefined")?;
    ensure!(legacy.qemu().is_ok(), "it has another UUID or name");
    delete_with_disks(space, &vm)?;
    legacy.remove()
}

fn a_disk_that_was_moved_is_not_left_behind(space: &Space) -> Result<()> {
    let legacy = Legacy::small(space, "h2", "Moved", "")?.start()?;
    let vm = legacy.import(&["--manage"])?;
    is_managed(&vm)?;
    vm.wait("it is placed", within(60), |vm| vm["status"]["placement"]["confirmed"].is_string())?;
    let qemu = legacy.qemu()?;
    let overlay = format!("/srv/{}/overlay.qcow2", legacy.pool);
    legacy.virsh("snapshot-create-as", &format!("--disk-only --no-metadata --diskspec vda,file={overlay}"))?;
    // Started again, it would be without what was written since.
    patch(&vm, space, json!({"driftPolicy": "Revert"}))?;
    vm.wait("it is told", within(30), |vm| api::condition(vm, "Synced").2.contains(&overlay))?;
    fails(space, &["restart", &vm.name, "--force", "--wait", "--timeout", "30s"])?;
    ensure!(legacy.qemu()?.pid == qemu.pid, "it was stopped, and cannot be started");
    succeeds(space, &["stop", &vm.name, "--force", "--wait"])?;
    succeeds(space, &["start", &vm.name])?;
    let message = vm.condition("Ready", "False", "DiskMoved")?;
    ensure!(message.contains(&overlay), "{message}");
    ensure!(legacy.definition()?.contains(&overlay), "its definition was made anew");

    legacy.host.sh(&format!(
        "qemu-img commit -q -d {overlay} && virsh dumpxml --inactive '{0}' | sed 's|/overlay.qcow2|/root.qcow2|' \
         >/run/edited.{1} && virsh -q define /run/edited.{1} && rm /run/edited.{1}",
        legacy.name, space.namespace
    ))?;
    vm.is_ready()?;
    vm.condition("Synced", "True", "AsDefined")?;
    delete_with_disks(space, &vm)?;
    legacy.remove()
}

fn an_orphan_is_attached_again(space: &Space) -> Result<()> {
    let vm = space.blank("lost").on("h1").apply()?;
    vm.is_ready()?;
    let (host, uuid) = (vm.host()?, vm.uuid()?);
    let qemu = host.qemus().remove(&uuid).context("it does not run")?;
    // An administrator's force: the object goes, the domain stays. Its disk is deleted with it, and waits for the domain.
    let volume = space.get(api::DISK, "lost-root")?.context("it has no disk")?["status"]["volumeName"].clone();
    space.delete(api::VM, "lost")?;
    space.api().patch(api::VM, &space.namespace, "lost", &json!({"metadata": {"finalizers": null}}))?;
    space.api().wait_gone(api::VM, &space.namespace, "lost", within(60))?;
    wait_for("it is an orphan", within(60), || {
        let listed = succeeds(space, &["domains", "--node", "h1"])?;
        Ok(listed.lines().any(|line| line.contains(&vm.domain()) && line.contains("Orphan")).then_some(()))
    })?;
    ensure!(host.qemus().contains_key(&uuid), "the orphan was stopped");
    succeeds(space, &["import", "--node", "h1", &vm.domain(), "--manage"])?;
    let again = is_managed(&vm)?;
    ensure!(again["status"]["domain"]["uuid"] == uuid.as_str(), "{}", again["status"]);
    vm.wait("it is placed", within(60), |vm| vm["status"]["placement"]["confirmed"].is_string())?;
    ensure!(host.qemus().remove(&uuid).is_some_and(|now| now.pid == qemu.pid), "it was restarted");
    space.api().wait_gone(api::DISK, &space.namespace, "lost-root", within(60))?;
    let name = volume.as_str().unwrap_or_default().to_owned();
    let disks = space.api().list(api::DISK, &space.namespace)?;
    ensure!(disks.len() == 1 && disks[0]["spec"]["source"]["existing"]["volumeName"] == volume, "{disks:?}");
    ensure!(host.volumes("kubevmm.default")?.contains(&name), "the disk of the first VM has taken its volume with it");
    let disk = disks[0]["metadata"]["name"].as_str().unwrap_or_default();
    space.api().patch(api::DISK, &space.namespace, disk, &json!({"spec": {"reclaimPolicy": "Delete"}}))?;
    delete(space, &vm)?;
    ensure!(!host.qemus().contains_key(&uuid), "it runs without its VM");
    Ok(())
}

fn an_exported_domain_is_defined_without_this_project(space: &Space) -> Result<()> {
    let vm = space.blank("out").on("h1").apply()?;
    vm.is_ready()?;
    let xml = succeeds(space, &["export-xml", "out"])?;
    ensure!(!xml.contains("kubevmm:object"), "it bears the mark: {xml}");
    let other = space.cluster.host("h2");
    other.virsh_xml("define", &xml)?;
    other.virsh(["undefine", &vm.domain()])?;
    vm.delete()?;
    fails(space, &["export-xml", "nothing"]).map(drop)
}

fn a_hundred_domains_are_managed_by_one_command(space: &Space) -> Result<()> {
    let host = space.cluster.host("h2");
    let prefix = format!("{}.many", space.namespace);
    host.sh(&format!(
        "cd /run && for n in $(seq 100); do echo \"<domain type='qemu'><name>{prefix}$n</name><memory>8192</memory>\
         <os><type arch='x86_64' machine='pc'>hvm</type></os></domain>\" >manage-$n.xml; \
         echo \"define /run/manage-$n.xml\"; done >manage.virsh && virsh <manage.virsh >/dev/null && rm manage-*.xml"
    ))?;
    wait_for("all are listed", within(40), || {
        let domains = succeeds(space, &["domains", "--node", "h2", "--no-headers"])?;
        Ok((domains.lines().filter(|line| line.contains(&prefix)).count() == 100).then_some(()))
    })?;
    let start = Instant::now();
    let names: Vec<String> = (1..=100).map(|n| format!("{prefix}{n}")).collect();
    let arguments: Vec<&str> =
        ["import", "--node", "h2", "--manage"].into_iter().chain(names.iter().map(String::as_str)).collect();
    succeeds(space, &arguments)?;
    wait_for("all are managed", within(60), || {
        let vms = space.api().list(api::VM, &space.namespace)?;
        Ok((vms.iter().filter(|vm| vm["status"]["domain"]["generation"].is_number()).count() == 100).then_some(()))
    })?;
    println!("100 domains imported and managed after {:.1} s", start.elapsed().as_secs_f64());
    Ok(())
}

fn who_may_edit_a_namespace_may_not_take_over(space: &Space) -> Result<()> {
    let legacy = Legacy::small(space, "h1", "Theirs", "")?;
    let vm = legacy.import(&[])?;
    let editor = crate::security::with_role(space, "edit")?;
    let manage = json!({"spec": {"management": "Manage", "memory": {"size": "16Mi"}}});
    let refused = wait_for("the editor's rights are known", within(30), || {
        let refused = editor.patch(api::VM, &vm.namespace, &vm.name, &manage).err().map(|error| format!("{error:#}"));
        Ok(refused.filter(|refused| !refused.contains("cannot patch")))
    })?;
    ensure!(refused.contains("kubevmm-import"), "an editor may take over, or is not told how to: {refused}");
    let autostart = json!({"spec": {"existingDomain": {"disableAutostart": true}}});
    let refused = editor.patch(api::VM, &vm.namespace, &vm.name, &autostart).err();
    let refused = refused.map(|error| format!("{error:#}")).unwrap_or_default();
    ensure!(refused.contains("kubevmm-import"), "an editor may take libvirt's autostart from a domain: {refused}");
    vm.delete()?;
    legacy.remove()
}
