//! Deletion at every moment of a VM's life. That nothing stays on a host is looked at after each story.

use std::time::{Duration, Instant};

use anyhow::{Result, anyhow, bail};
use kubevmm_tests::{Space, api, wait_for, within};

kubevmm_tests::stories! { alone: false;
    delete_while_starting,
    delete_while_running,
    delete_while_stopping,
    delete_while_downloading,
    foreground_delete,
    a_namespace_goes_with_all_that_is_in_it,
    a_namespace_waits_for_its_guests_and_not_for_their_pods,
}

fn delete_while_starting(space: &Space) -> Result<()> {
    // From "nobody has seen it" to "QEMU is being started", in steps of 150 ms.
    for step in 0..8 {
        let vm = space.blank(&format!("vm-{step}")).apply()?;
        std::thread::sleep(Duration::from_millis(150 * step));
        vm.delete()?;
    }
    for step in 0..8 {
        space.vm(&format!("vm-{step}")).is_gone()?;
    }
    no_disk_is_left(space)
}

fn delete_while_running(space: &Space) -> Result<()> {
    let vm = space.guest("web").apply()?;
    vm.is_ready()?;
    vm.vanishes()?;
    no_disk_is_left(space)
}

fn delete_while_stopping(space: &Space) -> Result<()> {
    let vm = space.blank("deaf").with("spec: {terminationGracePeriodSeconds: 5}").apply()?;
    vm.is_ready()?;
    vm.patch("{runStrategy: Halted}")?;
    vm.wait("is Stopping", within(5), |vm| vm["status"]["printableStatus"] == "Stopping")?;
    vm.vanishes()
}

fn delete_while_downloading(space: &Space) -> Result<()> {
    // 21 MB at 300 kB/s: more than a minute.
    let url = space.cluster.url(&format!("tiny.qcow2?rate=300000&story={}", space.namespace));
    space.apply(&format!(
        "{{apiVersion: kubevmm.io/v1beta1, kind: VirtualMachineImage, metadata: {{name: slow}}, \
         spec: {{source: {{http: {{url: '{url}'}}}}}}}}"
    ))?;
    let vm =
        space.blank("web").with("spec: {disks: [{name: root, template: {source: {image: {name: slow}}}}]}").apply()?;
    space.api().wait(api::IMAGE, &space.namespace, "slow", "shows its progress", within(60), |image| {
        image["status"]["progress"].as_str().is_some_and(|progress| progress != "0%")
    })?;
    vm.vanishes()?;
    no_disk_is_left(space)?;
    space.delete(api::IMAGE, "slow")?;
    space.api().wait_gone(api::IMAGE, &space.namespace, "slow", within(60))
}

fn foreground_delete(space: &Space) -> Result<()> {
    let vm = space.blank("web").apply()?;
    vm.is_ready()?;
    space.api().delete_foreground(api::VM, &space.namespace, "web")?;
    vm.is_gone()?;
    no_disk_is_left(space)
}

fn a_namespace_goes_with_all_that_is_in_it(space: &Space) -> Result<()> {
    let other = space.another()?;
    other.apply(&format!(
        "{{apiVersion: kubevmm.io/v1beta1, kind: VirtualMachineNetwork, metadata: {{name: lan}}, \
          spec: {{nat: {{subnet: 192.168.161.0/24}}}}}}\n\
         ---\n\
         {{apiVersion: kubevmm.io/v1beta1, kind: VirtualMachineImage, metadata: {{name: own}}, \
          spec: {{source: {{http: {{url: '{}'}}}}}}}}\n\
         ---\n\
         {{apiVersion: kubevmm.io/v1beta1, kind: VirtualMachineDisk, metadata: {{name: data}}, \
          spec: {{size: 8Mi, source: {{blank: {{}}}}}}}}\n\
         ---\n\
         {{apiVersion: v1, kind: Secret, metadata: {{name: init}}, stringData: {{userData: '#cloud-config'}}}}",
        space.cluster.url(&format!("tiny.qcow2?story={}", other.namespace))
    ))?;
    let vm = other
        .blank("web")
        .with(
            "spec: {networks: [{name: lan, network: {name: lan}}], cloudInit: {userDataSecretName: init}, \
             disks: [{name: root, template: {source: {image: {name: own}}}}, {name: data, diskName: data}]}",
        )
        .apply()?;
    let never_placed = other.blank("nowhere").with("spec: {placement: {nodeSelector: {story: none}}}").apply()?;
    let halted = other.blank("halted").with("spec: {runStrategy: Halted}").apply()?;
    vm.is_ready()?;
    halted.is_off()?;
    never_placed.condition("Scheduled", "False", "")?;
    other.vanishes()
}

fn a_namespace_waits_for_its_guests_and_not_for_their_pods(space: &Space) -> Result<()> {
    let other = space.another()?;
    let vm = other.guest("web").with("spec: {terminationGracePeriodSeconds: 60}").apply()?;
    vm.boots()?;
    let started = Instant::now();
    other.vanishes()?;
    // Its pod would sleep for 75 s, and the namespace controller looks again only after half of the pod's 90 s.
    let took = started.elapsed();
    if took < within(75) { Ok(()) } else { bail!("the guest stops in seconds, and the namespace took {took:?}") }
}

fn no_disk_is_left(space: &Space) -> Result<()> {
    wait_for("the VM's disks are gone with it", within(30), || {
        let left = space.api().list(api::DISK, &space.namespace)?;
        if left.is_empty() { Ok(Some(())) } else { Err(anyhow!("{} are there", left.len())) }
    })
}
