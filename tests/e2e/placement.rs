//! Where a VM may run.

use anyhow::{Result, ensure};
use kubevmm_tests::{Space, api, within};

kubevmm_tests::stories! { alone: false;
    a_node_that_lacks_the_pool_is_never_chosen,
    a_node_that_lacks_the_network_is_never_chosen,
    a_node_without_libvirt_is_shown_and_never_chosen,
    the_same_names_in_two_namespaces,
    a_quota_of_the_namespace_holds_for_vms,
}

fn a_node_that_lacks_the_pool_is_never_chosen(space: &Space) -> Result<()> {
    let pool = space.pool_name();
    space.apply(&format!(
        "{{apiVersion: kubevmm.io/v1beta1, kind: VirtualMachineStoragePool, metadata: {{name: {pool}}}, \
         spec: {{dir: {{path: /var/lib/kubevmm/{pool}}}, nodeSelector: {{story-pool: here}}}}}}"
    ))?;
    let disk = format!(
        "spec: {{disks: [{{name: root, template: {{size: 8Mi, poolName: {pool}, source: {{blank: {{}}}}}}}}]}}"
    );
    let vms = (0..3).map(|n| space.blank(&format!("vm-{n}")).with(&disk).apply()).collect::<Result<Vec<_>>>()?;
    for vm in &vms {
        let why = vm.condition("Scheduled", "False", "NoHostWithPool")?;
        ensure!(why.contains(pool), "the pool is not named: {why}");
    }
    // The cause goes away.
    space.cluster.kubectl(["label", "node", "h2", "story-pool=here"])?;
    for vm in &vms {
        vm.is_ready()?;
        ensure!(vm.host()?.name.to_string() == "h2", "{} runs on {}", vm.name, vm.host()?.name);
    }
    for vm in &vms {
        vm.vanishes()?;
    }
    space.api().delete(api::POOL, "", pool)?;
    space.api().wait_gone(api::POOL, "", pool, within(60))?;
    space.cluster.kubectl(["label", "node", "h2", "story-pool-"])?;
    ensure!(!space.cluster.host("h2").pools()?.contains(&format!("kubevmm.{pool}")), "the pool is there still");
    Ok(())
}

fn a_node_that_lacks_the_network_is_never_chosen(space: &Space) -> Result<()> {
    let name = "only-here";
    space.apply(&format!(
        "{{apiVersion: kubevmm.io/v1beta1, kind: ClusterVirtualMachineNetwork, metadata: {{name: {name}}}, \
         spec: {{existing: {{libvirtNetwork: {name}}}, allowedNamespaces: ['*']}}}}"
    ))?;
    let nic =
        format!("spec: {{networks: [{{name: lan, network: {{kind: ClusterVirtualMachineNetwork, name: {name}}}}}]}}");
    let vms = (0..3).map(|n| space.blank(&format!("vm-{n}")).with(&nic).apply()).collect::<Result<Vec<_>>>()?;
    for vm in &vms {
        let why = vm.condition("Scheduled", "False", "NoHostWithNetwork")?;
        ensure!(why.contains(name), "the network is not named: {why}");
    }
    let h1 = space.cluster.host("h1");
    h1.virsh_xml("net-define", &format!("<network><name>{name}</name><bridge name='only-here0'/></network>"))?;
    h1.virsh(["net-start", name])?;
    let before = h1.virsh(["net-dumpxml", "--inactive", name])?;
    for vm in &vms {
        vm.is_ready()?;
        ensure!(vm.host()?.name == h1.name, "{} runs on {}", vm.name, vm.host()?.name);
    }
    for vm in &vms {
        vm.vanishes()?;
    }
    space.api().delete(api::CLUSTER_NETWORK, "", name)?;
    space.api().wait_gone(api::CLUSTER_NETWORK, "", name, within(60))?;
    ensure!(h1.virsh(["net-dumpxml", "--inactive", name])? == before, "an existing network was changed");
    ensure!(h1.virsh(["net-info", name])?.contains("yes"), "an existing network was stopped");
    h1.virsh(["net-destroy", name])?;
    h1.virsh(["net-undefine", name]).map(drop)
}

fn a_node_without_libvirt_is_shown_and_never_chosen(space: &Space) -> Result<()> {
    let hypervisor = space.condition(api::HYPERVISOR, "h3", "Ready", "False", "")?;
    let (_, reason, message) = api::condition(&hypervisor, "Ready");
    ensure!(reason.starts_with("Libvirt") && !message.is_empty(), "{reason}: {message}");
    let vm = space.blank("web").on("h3").apply()?;
    let why = vm.condition("Scheduled", "False", "Unschedulable")?;
    ensure!(why.contains(message), "it does not say what is wrong with h3 ({message}): {why}");
    vm.stays_off(3)?;
    vm.vanishes()
}

fn the_same_names_in_two_namespaces(space: &Space) -> Result<()> {
    let other = space.another()?;
    let mut vms = Vec::new();
    for (space, subnet) in [(space, "192.168.162.0/24"), (&other, "192.168.163.0/24")] {
        space.apply(&format!(
            "{{apiVersion: kubevmm.io/v1beta1, kind: VirtualMachineNetwork, metadata: {{name: lan}}, \
             spec: {{nat: {{subnet: {subnet}}}}}}}"
        ))?;
        let nic = "spec: {networks: [{name: lan, network: {name: lan}}]}";
        vms.push(space.blank("web").on("h1").with(nic).apply()?);
    }
    let qemus = vms.iter().map(|vm| vm.is_ready().and_then(|_| vm.qemu())).collect::<Result<Vec<_>>>()?;
    ensure!(qemus[0].pid != qemus[1].pid, "both are one QEMU");
    let mac = |n: usize| -> Result<_> { Ok(vms[n].get()?["status"]["interfaces"][0]["macAddress"].clone()) };
    ensure!(mac(0)? != mac(1)?, "both have the MAC address {}", mac(0)?);
    vms[0].vanishes()?;
    ensure!(vms[1].qemu()? == qemus[1], "the other one was disturbed");
    other.close()
}

fn a_quota_of_the_namespace_holds_for_vms(space: &Space) -> Result<()> {
    space.apply("{apiVersion: v1, kind: ResourceQuota, metadata: {name: small}, spec: {hard: {pods: '0'}}}")?;
    let vm = space.blank("web").apply()?;
    let why = vm.condition("Scheduled", "False", "")?;
    ensure!(why.contains("quota"), "the quota is not named: {why}");
    space.delete(api::QUOTA, "small")?;
    vm.is_ready().map(drop)
}
