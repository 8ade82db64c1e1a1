//! Domains that a host had before this project came.

use std::time::Instant;

use anyhow::{Result, ensure};
use kubevmm_tests::host::Host;
use kubevmm_tests::wait::{wait_for, within};
use kubevmm_tests::{Space, api};
use serde_json::json;

use crate::security::with_role;
use crate::tools::{fails, succeeds};

kubevmm_tests::stories! { alone: false;
    a_foreign_domain_is_watched_and_never_changed,
    a_hundred_domains_are_imported_by_one_command,
    who_may_edit_a_namespace_may_not_import_into_it,
}

/// A domain of somebody else: with a disk, a NIC, metadata of its owner's, and a name that is none of Kubernetes'.
struct Foreign {
    host: Host,
    name: String,
    directory: String,
}

impl Foreign {
    fn define(space: &Space, host: Host) -> Result<Self> {
        let foreign =
            Self { host, name: format!("Mail of {}", space.namespace), directory: format!("/srv/{}", space.namespace) };
        let Self { host, name, directory } = &foreign;
        host.sh(&format!("mkdir -p {directory} && head -c 1048576 /dev/urandom >{directory}/mail.img"))?;
        host.virsh_xml(
            "define",
            &format!(
                "<domain type='qemu'><name>{name}</name><memory unit='MiB'>16</memory>\
                 <os><type arch='x86_64' machine='pc'>hvm</type></os>\
                 <metadata><note xmlns='https://example.org/note'>not of this project</note></metadata>\
                 <devices><disk type='file'><driver name='qemu' type='raw'/><source file='{directory}/mail.img'/>\
                 <target dev='vda' bus='virtio'/></disk>\
                 <interface type='network'><source network='foreign'/></interface></devices></domain>"
            ),
        )?;
        host.virsh(["start", name, "--paused"])?;
        Ok(foreign)
    }

    /// Everything of it that somebody could see a change in.
    fn picture(&self) -> Result<Vec<String>> {
        let Self { host, name, directory } = self;
        Ok(vec![
            host.virsh(["dumpxml", "--inactive", name])?,
            host.virsh(["dumpxml", name])?,
            host.virsh(["dominfo", name])?.lines().filter(|line| !line.starts_with("CPU time")).collect(),
            host.virsh(["snapshot-list", name])?,
            host.sh(&format!("cd {directory} && sha256sum * && stat -c '%n %a %u %g %s %Y' *"))?,
        ])
    }

    fn remove(&self) -> Result<()> {
        self.host.virsh(["undefine", &self.name])?;
        self.host.sh(&format!("rm -r {}", self.directory)).map(drop)
    }
}

fn a_foreign_domain_is_watched_and_never_changed(space: &Space) -> Result<()> {
    let foreign = Foreign::define(space, space.cluster.host("h1"))?;
    let before = foreign.picture()?;
    let uuid = foreign.host.virsh(["domuuid", &foreign.name])?.trim().to_owned();
    // What is foreign is told every ten seconds.
    wait_for("it is shown as foreign", within(30), || Ok((kind_of(space, &uuid)? == "Foreign").then_some(())))?;

    let said = succeeds(space, &["import", "--node", "h1", &foreign.name])?;
    let name = said.split(['/', ' ']).nth(1).unwrap_or_default().to_owned();
    ensure!(name.starts_with("mail-of-"), "another name: {said}");
    let vm = space.vm(&name);
    let seen = vm.wait("it is watched", within(20), |vm| vm["status"]["printableStatus"] == "Paused")?;
    let status = &seen["status"];
    ensure!(status["nodeName"] == "h1" && status["domain"]["name"] == foreign.name.as_str(), "{status}");
    ensure!(status["disks"][0]["source"] == format!("{}/mail.img", foreign.directory), "{status}");
    ensure!(status["interfaces"][0]["macAddress"].is_string(), "{status}");
    ensure!(seen["metadata"]["finalizers"].is_null(), "nothing waits for its deletion");
    ensure!(space.api().list(api::POD, &space.namespace)?.is_empty(), "a pod was made for it");
    ensure!(kind_of(space, &uuid)? == "Observed", "it is not shown as observed");
    space.api().wait(api::HYPERVISOR, "", "h1", "tells that it is observed", within(30), |hypervisor| {
        let domains = hypervisor["status"]["domains"].as_array();
        domains.is_some_and(|all| all.iter().any(|one| one["uuid"] == uuid.as_str() && one["observed"] == true))
    })?;
    ensure!(succeeds(space, &["import", "--node", "h1", &uuid])?.is_empty(), "it was imported twice");
    ensure!(succeeds(space, &["describe", &name])?.contains(&foreign.name), "describe does not name the domain");
    let refused = fails(space, &["stop", &name])?;
    ensure!(refused.contains("spec.management is Observe"), "{refused}");
    ensure!(foreign.picture()? == before, "importing has changed the domain");

    vm.delete()?;
    vm.is_gone()?;
    ensure!(foreign.picture()? == before, "deleting the VirtualMachine has changed the domain");

    // What its owner does is followed.
    succeeds(space, &["import", "--node", "h1", &foreign.name])?;
    vm.wait("it is watched again", within(20), |vm| vm["status"]["printableStatus"] == "Paused")?;
    foreign.host.virsh(["destroy", &foreign.name])?;
    vm.wait("its stop is seen", within(10), |vm| vm["status"]["printableStatus"] == "Stopped")?;
    foreign.remove()?;
    vm.condition("Ready", "False", "DomainMissing")?;
    vm.delete()
}

/// What `virtctl domains` says of a domain.
fn kind_of(space: &Space, uuid: &str) -> Result<String> {
    let domains: Vec<api::Json> = serde_json::from_str(&succeeds(space, &["domains", "--node", "h1", "-o", "json"])?)?;
    let found = domains.iter().find(|domain| domain["uuid"] == uuid);
    Ok(found.and_then(|domain| domain["kind"].as_str()).unwrap_or("not listed").to_owned())
}

fn a_hundred_domains_are_imported_by_one_command(space: &Space) -> Result<()> {
    let host = space.cluster.host("h2");
    let prefix = format!("{}.many", space.namespace);
    // One shell, for a hundred would take longer than the import.
    host.sh(&format!(
        "cd /run && for n in $(seq 100); do echo \"<domain type='qemu'><name>{prefix}$n</name><memory>8192</memory>\
         <os><type arch='x86_64' machine='pc'>hvm</type></os></domain>\" >import-$n.xml; \
         echo \"define /run/import-$n.xml\"; done >import.virsh && virsh <import.virsh >/dev/null && rm import-*.xml"
    ))?;
    let listed = || -> Result<usize> {
        let domains = succeeds(space, &["domains", "--node", "h2", "--no-headers"])?;
        Ok(domains.lines().filter(|line| line.contains(&prefix)).count())
    };
    wait_for("all are listed", within(40), || Ok((listed()? == 100).then_some(())))?;

    let start = Instant::now();
    // The domains of other stories are left alone.
    let names: Vec<String> = (1..=100).map(|n| format!("{prefix}{n}")).collect();
    let (first, rest) = names.split_at(40);
    let import = |names: &[String]| {
        let arguments = ["import", "--node", "h2"].into_iter().chain(names.iter().map(String::as_str));
        succeeds(space, &arguments.collect::<Vec<_>>())
    };
    import(first)?;
    let said = import(&names)?;
    ensure!(said.lines().count() == rest.len(), "the second run goes on where the first one ended:\n{said}");
    wait_for("all are watched", within(60), || {
        let vms = space.api().list(api::VM, &space.namespace)?;
        let watched = vms.iter().filter(|vm| vm["status"]["domain"]["state"] == "Shutoff").count();
        Ok((watched == 100).then_some(()))
    })?;
    println!("100 domains imported and watched after {:.1} s", start.elapsed().as_secs_f64());

    host.sh(&format!(
        "for n in $(seq 100); do echo undefine {prefix}$n; done >/run/import.virsh && \
         virsh </run/import.virsh >/dev/null && rm /run/import.virsh"
    ))
    .map(drop)
}

fn who_may_edit_a_namespace_may_not_import_into_it(space: &Space) -> Result<()> {
    let namespace = &space.namespace;
    let theirs = json!({
        "apiVersion": "kubevmm.io/v1beta1", "kind": "VirtualMachine",
        "metadata": {"name": "theirs", "namespace": namespace},
        "spec": {
            "runStrategy": "Manual", "management": "Observe",
            "existingDomain": {"nodeName": "h1", "uuid": "0a000000-0000-4000-8000-000000000001"},
        },
    });
    let editor = with_role(space, "edit")?;
    let refused = wait_for("the editor's rights are known", within(30), || {
        let refused = editor.apply(&theirs).err().map(|error| format!("{error:#}")).unwrap_or_default();
        Ok((!refused.contains("cannot patch")).then_some(refused))
    })?;
    ensure!(refused.contains("kubevmm-import"), "an editor may import, or is not told how to: {refused}");

    let account = format!("system:serviceaccount:{namespace}:edit");
    space.cluster.kubectl([
        "create",
        "clusterrolebinding",
        namespace,
        "--clusterrole=kubevmm-import",
        &format!("--user={account}"),
    ])?;
    wait_for("the binding counts", within(30), || Ok(editor.apply(&theirs).ok()))?;
    space.cluster.kubectl(["delete", "clusterrolebinding", namespace])?;
    space.vm("theirs").condition("Ready", "False", "DomainMissing")?;
    space.vm("theirs").delete()
}
