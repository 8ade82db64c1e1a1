//! The main job: a VM from a manifest.

use std::collections::BTreeMap;

use anyhow::{Context, Result, bail, ensure};
use kubevmm_api::{Quantity, overhead};
use kubevmm_tests::{Json, Space, api, wait_for, within};

kubevmm_tests::stories! { alone: false;
    a_guest_boots_and_answers_by_ssh,
    user_data_from_a_secret,
    network_data_reaches_the_guest,
    a_change_of_a_running_vm_waits_for_its_restart,
    a_class_gives_what_the_vm_leaves_out,
    a_pc_with_a_scsi_disk_and_an_e1000e,
    a_lan_bridge_of_the_host,
}

fn a_guest_boots_and_answers_by_ssh(space: &Space) -> Result<()> {
    let vm = space.guest("web").apply()?;
    let boot = vm.boots()?;
    let name = vm.ssh("hostname")?;
    ensure!(name.trim() == "web", "the guest calls itself {name:?}");
    ensure!(vm.ssh("cat /proc/sys/kernel/random/boot_id")?.trim() == boot.id, "ssh leads to another guest");
    vm.is_as_its_status_says()?;
    let table = space.cluster.kubectl(["-n", &space.namespace, "get", "vm", "web", "-o", "wide"])?;
    let (address, node) = (vm.address()?, vm.host()?.name.to_string());
    for word in ["Running", "True", "Always", &address, &node] {
        ensure!(table.contains(word), "`kubectl get vm` does not show {word}:\n{table}");
    }
    let events = space.cluster.kubectl(["-n", &space.namespace, "get", "events"])?;
    ensure!(events.contains("virtualmachine/web"), "no event tells of the VM:\n{events}");
    vm.vanishes()
}

fn user_data_from_a_secret(space: &Space) -> Result<()> {
    let vm = space.guest("web").with("spec: {cloudInit: {userData: null, userDataSecretName: init}}").apply()?;
    let why = vm.condition("Ready", "False", "SecretNotFound")?;
    ensure!(why.contains("init"), "the Secret is not named: {why}");
    let user_data = format!("#cloud-config\nhostname: told\nssh_authorized_keys:\n- {}\n", space.cluster.ssh_key);
    let secret = serde_json::json!({
        "apiVersion": "v1", "kind": "Secret", "metadata": {"name": "init", "namespace": space.namespace},
        "stringData": {"userData": user_data},
    });
    space.api().apply(&secret)?;
    vm.boots()?;
    ensure!(vm.ssh("hostname")?.trim() == "told", "the Secret's user data did not reach the guest");
    Ok(())
}

fn network_data_reaches_the_guest(space: &Space) -> Result<()> {
    let network_data = "version: 2\nethernets:\n  story:\n    match: {name: 'e*'}\n    dhcp4: true\n";
    // The guest's boot mounts the seed only for as long as the user data's script runs.
    let user_data = "#!/bin/sh\ncp /run/seed/network-config /root/seen\n";
    let cloud_init = serde_json::json!({"userData": user_data, "networkData": network_data});
    let inline = space.guest("inline").with(&format!("spec: {{cloudInit: {cloud_init}}}")).apply()?;
    space.api().apply(&serde_json::json!({
        "apiVersion": "v1", "kind": "Secret", "metadata": {"name": "init", "namespace": space.namespace},
        "stringData": cloud_init,
    }))?;
    let by_secret = "spec: {cloudInit: {userData: null, userDataSecretName: init}}";
    let by_secret = space.guest("by-secret").with(by_secret).apply()?;
    for vm in [inline, by_secret] {
        vm.boots()?;
        let seen = wait_for(&format!("{} has read its seed", vm.name), within(60), || vm.file("/root/seen").map(Some))?;
        ensure!(seen == network_data, "{} was given:\n{seen}", vm.name);
    }
    Ok(())
}

fn a_change_of_a_running_vm_waits_for_its_restart(space: &Space) -> Result<()> {
    let vm = space.blank("web").apply()?;
    vm.is_ready()?;
    let qemu = vm.qemu()?;
    vm.patch("{memory: {size: 40Mi}, cpu: {cores: 2}}")?;
    let paths = vm.condition("RestartRequired", "True", "")?;
    ensure!(paths.ends_with(": spec.cpu.cores, spec.memory.size"), "the fields are not named: {paths}");
    wait_for("an Event tells of it", within(15), || {
        let events = space.api().list(api::EVENT, &space.namespace)?;
        Ok(events.iter().any(|event| event["reason"] == "RestartRequired").then_some(()))
    })?;
    ensure!(vm.qemu()? == qemu, "the running VM was disturbed");
    vm.request("restart", "Restart")?;
    vm.wait("needs no restart", within(60), |vm| !api::is_true(vm, "RestartRequired") && api::is_true(vm, "Ready"))?;
    let xml = vm.host()?.virsh(["dumpxml", &vm.domain()])?;
    ensure!(xml.contains(">40960</memory>"), "the restart did not bring the memory:\n{xml}");
    let pods = space.api().list(api::POD, &space.namespace)?;
    let staying = pods.iter().filter(|pod| pod["metadata"]["deletionTimestamp"].is_null());
    let reserved: Vec<_> = staying.map(|pod| &pod["spec"]["containers"][0]["resources"]["requests"]).collect();
    let memory = Quantity::from_bytes((40 << 20) + overhead::bytes(40 << 20, 2)).0;
    ensure!(
        matches!(reserved.as_slice(), [one] if one["cpu"] == "200m" && one["memory"] == memory.as_str()),
        "the node reserves something else: {reserved:?}"
    );
    Ok(())
}

fn a_class_gives_what_the_vm_leaves_out(space: &Space) -> Result<()> {
    let class = &space.namespace;
    space.apply(&format!(
        "{{apiVersion: kubevmm.io/v1beta1, kind: VirtualMachineClass, metadata: {{name: {class}}}, \
         spec: {{cpu: {{cores: 2, request: 50m}}, memory: {{size: 48Mi}}}}}}"
    ))?;
    let vm =
        space.blank("web").with(&format!("spec: {{className: {class}, memory: null, cpu: {{cores: 1}}}}")).apply()?;
    let effective = vm.is_ready()?["status"]["effective"].clone();
    ensure!(effective["cores"] == 1 && effective["memory"] == "48Mi", "{effective}");
    // Not while it is used.
    space.api().delete(api::CLASS, "", class)?;
    vm.stays_ready(2)?;
    space.api().get(api::CLASS, "", class)?.context("a class in use was deleted")?;
    vm.vanishes()?;
    space.api().wait_gone(api::CLASS, "", class, within(30))
}

fn a_pc_with_a_scsi_disk_and_an_e1000e(space: &Space) -> Result<()> {
    let vm = space
        .blank("old")
        .with(
            "spec: {machine: {type: pc}, networks: [{name: lan, model: e1000e, macAddress: '52:54:00:12:34:56'}], \
             disks: [{name: a, bus: scsi, template: {size: 8Mi, source: {blank: {}}}}, \
                     {name: b, bus: sata, bootOrder: 1, template: {size: 8Mi, source: {blank: {}}}}]}",
        )
        .apply()?;
    let status = vm.is_ready()?["status"].clone();
    ensure!(status["interfaces"][0]["macAddress"] == "52:54:00:12:34:56", "{}", status["interfaces"]);
    let xml = vm.host()?.virsh(["dumpxml", &vm.domain()])?;
    for word in ["pc-i440fx", "bus='scsi'", "bus='sata'", "type='e1000e'"] {
        ensure!(xml.contains(word), "{word} is not in the domain:\n{xml}");
    }
    Ok(())
}

fn a_lan_bridge_of_the_host(space: &Space) -> Result<()> {
    let h1 = space.cluster.host("h1");
    h1.sh("ip link add br-story type bridge && ip link set br-story up")?;
    let name = &space.namespace;
    space.apply(&format!(
        "{{apiVersion: kubevmm.io/v1beta1, kind: ClusterVirtualMachineNetwork, metadata: {{name: {name}}}, \
         spec: {{existing: {{bridge: br-story}}, allowedNamespaces: [{name}]}}}}"
    ))?;
    let nic =
        format!("spec: {{networks: [{{name: lan, network: {{kind: ClusterVirtualMachineNetwork, name: {name}}}}}]}}");
    let vm = space.blank("web").on("h1").with(&nic).apply()?;
    vm.is_ready()?;
    let ports = h1.sh("ls /sys/class/net/br-story/brif")?;
    ensure!(ports.contains("vnet"), "the VM is not on the bridge: {ports:?}");
    vm.vanishes()?;
    space.api().delete(api::CLUSTER_NETWORK, "", name)?;
    space.api().wait_gone(api::CLUSTER_NETWORK, "", name, within(30))?;
    h1.sh("ip link del br-story").map(drop)
}

/// Stories that would see others' work as noise.
pub(crate) mod alone {
    use super::*;

    kubevmm_tests::stories! { alone: true;
        once_converged_there_is_silence,
        the_default_pool_must_be_exactly_one,
        the_default_network_must_be_exactly_one,
        the_administrators_word_on_the_accelerator,
    }

    /// Resource versions of everything of ours and of the pods; but Leases.
    fn versions(space: &Space) -> Result<BTreeMap<String, Json>> {
        let mut versions = BTreeMap::new();
        for kind in api::KINDS.iter().filter(|kind| **kind != api::LEASE && **kind != api::NODE) {
            for object in space.api().list(*kind, "")? {
                // What the kubelet or the scheduler say is theirs.
                let reporter =
                    object["reportingController"].as_str().or(object["deprecatedSource"]["component"].as_str());
                if *kind == api::EVENT && !reporter.is_some_and(|name| name.contains("kubevmm")) {
                    continue;
                }
                let name = format!("{} {}/{}", kind.name, object["metadata"]["namespace"], object["metadata"]["name"]);
                versions.insert(name, object["metadata"]["resourceVersion"].clone());
            }
        }
        Ok(versions)
    }

    fn once_converged_there_is_silence(space: &Space) -> Result<()> {
        let guest = space.guest("guest").apply()?;
        let halted = space.blank("halted").with("spec: {runStrategy: Halted}").apply()?;
        let refused = space.blank("nowhere").with("spec: {placement: {nodeSelector: {story: none}}}").apply()?;
        guest.boots()?;
        guest.address()?;
        halted.is_off()?;
        refused.condition("Scheduled", "False", "")?;
        wait_for("nothing is written for 15 s but Leases", within(60), || {
            let before = versions(space)?;
            std::thread::sleep(within(15));
            let after = versions(space)?;
            let changed: Vec<_> = after.iter().filter(|(name, version)| before.get(*name) != Some(version)).collect();
            if changed.is_empty() { Ok(Some(())) } else { bail!("{changed:?}") }
        })
    }

    /// Makes an object the default one of its kind, or no longer.
    fn mark(value: Json) -> Json {
        serde_json::json!({"metadata": {"annotations": {"kubevmm.io/is-default": value}}})
    }

    fn the_default_network_must_be_exactly_one(space: &Space) -> Result<()> {
        let network = "default";
        let nic = "spec: {networks: [{name: lan}]}";
        space.api().patch(api::CLUSTER_NETWORK, "", network, &mark(Json::Null))?;
        let vm = space.blank("web").with(nic).apply()?;
        let why = vm.condition("Scheduled", "False", "NoDefaultNetwork")?;
        ensure!(why.contains("spec.networks[lan].network"), "the field is not named: {why}");

        space.api().patch(api::CLUSTER_NETWORK, "", network, &mark("true".into()))?;
        vm.is_ready()?;
        let second = &space.namespace;
        space.apply(&format!(
            "{{apiVersion: kubevmm.io/v1beta1, kind: ClusterVirtualMachineNetwork, metadata: {{name: {second}, \
             annotations: {{kubevmm.io/is-default: 'true'}}}}, \
             spec: {{nat: {{subnet: 192.168.167.0/24}}, allowedNamespaces: ['*']}}}}"
        ))?;
        let other = space.blank("other").with(nic).apply()?;
        let why = other.condition("Scheduled", "False", "SeveralDefaultNetworks")?;
        ensure!(why.contains(second) && why.contains(network), "the networks are not named: {why}");
        vm.stays_ready(2)?;

        space.api().patch(api::CLUSTER_NETWORK, "", second, &mark(Json::Null))?;
        other.is_ready()?;
        space.api().delete(api::CLUSTER_NETWORK, "", second)?;
        space.api().wait_gone(api::CLUSTER_NETWORK, "", second, within(60))
    }

    fn the_default_pool_must_be_exactly_one(space: &Space) -> Result<()> {
        let pool = "default";
        space.api().patch(api::POOL, "", pool, &mark(Json::Null))?;
        let vm = space.blank("web").apply()?;
        vm.condition("DisksReady", "False", "NoDefaultPool")?;

        space.api().patch(api::POOL, "", pool, &mark("true".into()))?;
        vm.is_ready()?;
        let second = space.pool_name();
        space.apply(&format!(
            "{{apiVersion: kubevmm.io/v1beta1, kind: VirtualMachineStoragePool, metadata: {{name: {second}, \
             annotations: {{kubevmm.io/is-default: 'true'}}}}, spec: {{dir: {{path: /var/lib/kubevmm/{second}}}}}}}"
        ))?;
        let other = space.blank("other").apply()?;
        let why = other.condition("DisksReady", "False", "SeveralDefaultPools")?;
        ensure!(why.contains(second) && why.contains(pool), "the pools are not named: {why}");

        space.api().patch(api::POOL, "", second, &mark(Json::Null))?;
        other.is_ready()?;
        space.api().delete(api::POOL, "", second)?;
        space.api().wait_gone(api::POOL, "", second, within(60))
    }

    fn the_administrators_word_on_the_accelerator(space: &Space) -> Result<()> {
        let word = |word: &str| {
            space.api().patch(api::HYPERVISOR, "", "h1", &serde_json::json!({"spec": {"accelerator": word}}))
        };
        word("TCG")?;
        space.api().wait(api::HYPERVISOR, "", "h1", "uses TCG", within(30), |hypervisor| {
            hypervisor["status"]["accelerator"]["type"] == "TCG"
        })?;
        let vm = space.blank("web").on("h1").apply()?;
        vm.is_ready()?;
        let xml = vm.host()?.virsh(["dumpxml", &vm.domain()])?;
        ensure!(xml.contains("<domain type='qemu'"), "{xml}");
        word("Auto")?;
        space.api().wait(api::HYPERVISOR, "", "h1", "says by which evidence", within(30), |hypervisor| {
            hypervisor["status"]["accelerator"]["evidence"].as_str().is_some_and(|evidence| !evidence.is_empty())
        })?;
        vm.stays_ready(2)
    }
}
