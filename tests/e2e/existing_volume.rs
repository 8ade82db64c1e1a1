//! Volumes that a host had before this project came.

use anyhow::{Result, ensure};
use kubevmm_tests::host::Host;
use kubevmm_tests::{Json, Space, Vm, api, wait_for, within};
use serde_json::json;

use crate::security::with_role;

kubevmm_tests::stories! { alone: false;
    a_volume_of_a_host_is_used_and_left_as_it_was,
    a_volume_of_a_host_goes_when_its_owner_says_so,
    a_volume_that_something_of_its_host_uses_stays,
    a_disk_that_a_stopped_vm_has_given_back_goes,
    a_missing_volume_of_a_host_is_waited_for,
    who_may_edit_a_namespace_may_not_use_volumes_of_hosts,
}

const MIB: usize = 1 << 20;

/// A pool of somebody else, of one name and path on h1 and h2.
struct Pool {
    hosts: [Host; 2],
    name: String,
    path: String,
}

impl Pool {
    fn make(space: &Space) -> Result<Self> {
        let hosts = [space.cluster.host("h1"), space.cluster.host("h2")];
        let (name, path) = (space.pool_name().to_owned(), format!("/srv/{}", space.namespace));
        for host in &hosts {
            host.sh(&format!("mkdir -p {path}"))?;
            let xml = format!("<pool type='dir'><name>{name}</name><target><path>{path}</path></target></pool>");
            host.virsh_xml("pool-define", &xml)?;
            host.virsh(["pool-start", &name])?;
        }
        space.apply(&format!(
            "{{apiVersion: kubevmm.io/v1beta1, kind: VirtualMachineStoragePool, metadata: {{name: {name}}}, \
             spec: {{existing: {{name: {name}}}}}}}"
        ))?;
        Ok(Self { hosts, name, path })
    }

    /// Writes a volume on h1, without libvirt's knowledge.
    fn write(&self, volume: &str) -> Result<()> {
        self.hosts[0].sh(&format!("head -c {} /dev/urandom >'{}/{volume}'", 8 * MIB, self.path)).map(drop)
    }

    fn volumes(&self) -> Result<Vec<String>> {
        self.hosts[0].volumes(&self.name)
    }

    /// What somebody could see a change in, while no VM has the volume.
    fn picture(&self, volume: &str) -> Result<String> {
        self.hosts[0].sh(&format!("cd {} && sha256sum '{volume}' && stat -c '%a %u %g %s' '{volume}'", self.path))
    }

    fn remove(self, space: &Space) -> Result<()> {
        space.api().delete(api::POOL, "", &self.name)?;
        space.api().wait_gone(api::POOL, "", &self.name, within(60))?;
        for host in &self.hosts {
            host.virsh(["pool-destroy", &self.name])?;
            host.virsh(["pool-undefine", &self.name])?;
            host.sh(&format!("rm -r {}", self.path))?;
        }
        Ok(())
    }
}

/// A disk of this volume of h1; `more` of its spec.
fn disk(space: &Space, name: &str, volume: &str, more: &str) -> Result<()> {
    space.apply(&manifest(space, name, volume, more))
}

fn manifest(space: &Space, name: &str, volume: &str, more: &str) -> String {
    format!(
        "{{apiVersion: kubevmm.io/v1beta1, kind: VirtualMachineDisk, metadata: {{name: {name}, namespace: {}}}, \
         spec: {{poolName: {}, source: {{existing: {{nodeName: h1, volumeName: '{volume}', format: raw}}}}{more}}}}}",
        space.namespace,
        space.pool_name()
    )
}

/// A VM of which this disk is the only one.
fn vm_with(space: &Space, name: &str, disk: &str) -> Result<Vm> {
    space.blank(name).with(&format!("spec: {{disks: [{{name: root, diskName: {disk}}}]}}")).apply()
}

fn delete_disk(space: &Space, name: &str) -> Result<()> {
    space.delete(api::DISK, name)?;
    space.api().wait_gone(api::DISK, &space.namespace, name, within(30))
}

fn a_volume_of_a_host_is_used_and_left_as_it_was(space: &Space) -> Result<()> {
    let pool = Pool::make(space)?;
    let volume = "Web of old.img";
    pool.write(volume)?;
    let before = pool.picture(volume)?;
    disk(space, "web", volume, "")?;
    let vm = vm_with(space, "web", "web")?;
    vm.is_ready()?;
    ensure!(vm.host()?.name == pool.hosts[0].name, "the volume lies on h1, the VM runs on {}", vm.host()?.name);
    let seen = space.condition(api::DISK, "web", "Provisioned", "True", "Existing")?;
    ensure!(seen["status"]["capacity"] == "8Mi" && seen["status"]["volumeName"] == volume, "{}", seen["status"]);
    let xml = vm.host()?.virsh(["dumpxml", &vm.domain()])?;
    ensure!(xml.contains(&format!("{}/{volume}", pool.path)) && xml.contains("type='raw'"), "{xml}");

    // It has one user, whoever else names it.
    disk(space, "again", volume, "")?;
    let second = vm_with(space, "second", "again")?;
    let why = second.condition("DisksReady", "False", "VolumeInUse")?;
    ensure!(why.contains(&format!("VirtualMachineDisk {}/web", space.namespace)), "its user is not named: {why}");
    second.stays_off(2)?;
    vm.vanishes()?;
    second.stays_off(2)?;
    delete_disk(space, "web")?;
    second.is_ready()?;
    second.vanishes()?;
    delete_disk(space, "again")?;
    ensure!(pool.picture(volume)? == before, "the volume has changed");
    pool.remove(space)
}

fn a_volume_of_a_host_goes_when_its_owner_says_so(space: &Space) -> Result<()> {
    let pool = Pool::make(space)?;
    for volume in ["used.img", "unused.img", "named-twice.img", "bystander.img"] {
        pool.write(volume)?;
    }
    let delete = ", reclaimPolicy: Delete";
    disk(space, "used", "used.img", delete)?;
    disk(space, "unused", "unused.img", delete)?;
    disk(space, "first", "named-twice.img", delete)?;
    disk(space, "second", "named-twice.img", "")?;
    let vm = vm_with(space, "web", "used")?;
    vm.is_ready()?;
    vm.vanishes()?;
    ensure!(pool.volumes()?.len() == 4, "a volume went with its VM: {:?}", pool.volumes()?);
    for name in ["used", "unused", "first", "second"] {
        delete_disk(space, name)?;
    }
    let left = pool.volumes()?;
    ensure!(left == ["bystander.img", "named-twice.img"], "left: {left:?}");
    pool.remove(space)
}

fn a_volume_that_something_of_its_host_uses_stays(space: &Space) -> Result<()> {
    let pool = Pool::make(space)?;
    let (host, path) = (&pool.hosts[0], &pool.path);
    for volume in ["used.img", "base.img"] {
        pool.write(volume)?;
    }
    let (domain, over) = (format!("{}.mail", pool.name), format!("{}.over", pool.name));
    host.sh(&format!(
        "mkdir -p {path}.over && virsh -q pool-define-as {over} dir --target {path}.over && virsh -q pool-start {over} && \
         virsh -q pool-refresh {} && virsh -q vol-create-as {over} over.qcow2 8M --format qcow2 \
         --backing-vol {path}/base.img --backing-vol-format raw",
        pool.name
    ))?;
    host.virsh_xml(
        "define",
        &format!(
            "<domain type='qemu'><name>{domain}</name><memory>8192</memory><os><type arch='x86_64' machine='pc'>hvm</type>\
             </os><devices><disk type='volume' device='disk'><driver name='qemu' type='raw'/>\
             <source pool='{}' volume='used.img'/><target dev='vda' bus='virtio'/></disk></devices></domain>",
            pool.name
        ),
    )?;
    for (name, user) in [("used", &domain), ("base", &over)] {
        disk(space, name, &format!("{name}.img"), ", reclaimPolicy: Delete")?;
        let is_kept = |disk: &Json| disk["metadata"]["finalizers"].is_array();
        space.api().wait(api::DISK, &space.namespace, name, "has its finalizer", within(30), is_kept)?;
        space.delete(api::DISK, name)?;
        let seen = space.condition(api::DISK, name, "HostReleased", "False", "InUse")?;
        let (_, _, why) = api::condition(&seen, "HostReleased");
        ensure!(
            why.contains(user.as_str()) && why.contains("Retain"),
            "who uses it, or the way out, is not named: {why}"
        );
    }
    ensure!(pool.volumes()? == ["base.img", "used.img"], "left: {:?}", pool.volumes()?);

    host.virsh(["undefine", &domain])?;
    host.virsh(["vol-delete", "over.qcow2", "--pool", &over])?;
    for name in ["used", "base"] {
        space.api().wait_gone(api::DISK, &space.namespace, name, within(90))?;
    }
    ensure!(pool.volumes()?.is_empty(), "left: {:?}", pool.volumes()?);
    host.virsh(["pool-destroy", &over])?;
    host.virsh(["pool-undefine", &over])?;
    host.sh(&format!("rm -r {path}.over"))?;
    pool.remove(space)
}

fn a_disk_that_a_stopped_vm_has_given_back_goes(space: &Space) -> Result<()> {
    let pool = Pool::make(space)?;
    pool.write("web.img")?;
    disk(space, "web", "web.img", ", reclaimPolicy: Delete")?;
    let vm = vm_with(space, "web", "web")?;
    vm.is_ready()?;
    vm.patch("{runStrategy: Halted, terminationGracePeriodSeconds: 0}")?;
    vm.is_off()?;
    vm.patch("{disks: []}")?;
    // Its domain still has it, and is made without it before it starts.
    delete_disk(space, "web")?;
    ensure!(pool.volumes()?.is_empty(), "left: {:?}", pool.volumes()?);
    vm.patch("{runStrategy: Always}")?;
    vm.is_ready()?;
    vm.vanishes()?;
    pool.remove(space)
}

fn a_missing_volume_of_a_host_is_waited_for(space: &Space) -> Result<()> {
    let pool = Pool::make(space)?;
    disk(space, "late", "late.img", "")?;
    let vm = vm_with(space, "web", "late")?;
    let why = vm.condition("Ready", "False", "VolumeMissing")?;
    ensure!(why.contains("late.img"), "the volume is not named: {why}");
    space.condition(api::DISK, "late", "Provisioned", "False", "VolumeMissing")?;
    ensure!(pool.volumes()?.is_empty(), "a volume was made");
    pool.write("late.img")?;
    vm.is_ready()?;
    space.condition(api::DISK, "late", "Provisioned", "True", "Existing")?;
    vm.vanishes()?;
    delete_disk(space, "late")?;
    pool.remove(space)
}

fn who_may_edit_a_namespace_may_not_use_volumes_of_hosts(space: &Space) -> Result<()> {
    let namespace = &space.namespace;
    let editor = with_role(space, "edit")?;
    let theirs = manifest(space, "theirs", "secret.img", "");
    let refused = wait_for("the editor's rights are known", within(30), || {
        let refused = editor.apply_yaml(&theirs).err().map(|error| format!("{error:#}")).unwrap_or_default();
        Ok((!refused.contains("cannot patch")).then_some(refused))
    })?;
    ensure!(refused.contains("kubevmm-import"), "an editor may use a volume, or is not told how to: {refused}");
    // The controller makes disks from templates: nobody asks it for a right.
    let template = format!(
        "spec: {{runStrategy: Halted, disks: [{{name: root, template: {{poolName: {}, source: {{blank: null, existing: \
         {{nodeName: h1, volumeName: secret.img, format: raw}}}}}}}}]}}",
        space.pool_name()
    );
    let refused = space.blank("web").with(&template).is_refused()?;
    ensure!(refused.contains("template.source.existing") && refused.contains("diskName"), "{refused}");

    // What an administrator has given to the namespace is its editors' to use and to keep.
    disk(space, "given", "given.img", "")?;
    let policy = |policy: Json| json!({"spec": {"reclaimPolicy": policy}});
    editor.patch(api::DISK, namespace, "given", &policy("Retain".into()))?;
    editor.patch(api::DISK, namespace, "given", &policy(Json::Null))?;
    let refused = editor.patch(api::DISK, namespace, "given", &policy("Delete".into())).err();
    let refused = refused.map(|error| format!("{error:#}")).unwrap_or_default();
    let told = refused.contains("spec.reclaimPolicy") && refused.contains("kubevmm-import");
    ensure!(told, "an editor may have volumes of hosts deleted, or is not told how to: {refused}");
    space.api().patch(api::DISK, namespace, "given", &policy("Delete".into()))?;
    editor.patch(api::DISK, namespace, "given", &json!({"metadata": {"labels": {"by": "an-editor"}}}))?;
    editor.patch(api::DISK, namespace, "given", &policy("Retain".into()))?;

    let account = format!("--user=system:serviceaccount:{namespace}:edit");
    let bind = ["create", "clusterrolebinding", namespace, "--clusterrole=kubevmm-import", &account];
    space.cluster.kubectl(bind)?;
    wait_for("the binding counts", within(30), || Ok(editor.apply_yaml(&theirs).ok()))?;
    space.cluster.kubectl(["delete", "clusterrolebinding", namespace])?;
    for name in ["given", "theirs"] {
        delete_disk(space, name)?;
    }
    Ok(())
}
