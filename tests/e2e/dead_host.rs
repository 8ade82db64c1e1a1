//! A host that is gone: nothing is given up by a time-out, only by a person's word.

use anyhow::{Context, Result, anyhow, ensure};
use kubevmm_tests::wait::all_the_time;
use kubevmm_tests::{Host, Space, Vm, api, foreign, wait_for, within};

kubevmm_tests::stories! { alone: true;
    a_dead_host_is_given_up_by_a_person_only,
    no_vm_is_bound_to_a_node_whose_executor_is_silent,
}

const POOL: &str = "kubevmm.default";
const OUT_OF_SERVICE: &str = "node.kubernetes.io/out-of-service";

fn a_dead_host_is_given_up_by_a_person_only(space: &Space) -> Result<()> {
    let cluster = space.cluster;
    let lost = space.blank("lost").on("h2").apply()?;
    let other = space.blank("other").on("h1").apply()?;
    lost.is_ready()?;
    other.is_ready()?;
    cluster.foreign_is_untouched()?;
    let h2 = cluster.host("h2");
    h2.crash()?;
    let given_up = a_person_gives_it_up(space, &lost, &other);

    // Also when that failed: the stories after this one need the host.
    h2.boot()?;
    foreign::start_again(&h2)?;
    let untainted = cluster.kubectl(["taint", "node", "h2", &format!("{OUT_OF_SERVICE}-")]);
    cluster.is_whole()?;
    given_up?;
    untainted?;
    what_is_left_is_shown(space, &h2, &lost.domain())?;
    cluster.foreign_has_restarted_on(&h2)
}

fn a_person_gives_it_up(space: &Space, lost: &Vm, other: &Vm) -> Result<()> {
    let qemu = other.qemu()?;
    // The controller may have been there: it comes up elsewhere first.
    let vm = lost.wait("is Unknown: HostLost", within(120), |vm| {
        let (status, reason, _) = api::condition(vm, "Ready");
        (status, reason) == ("Unknown", "HostLost") && vm["status"]["printableStatus"] == "Unknown"
    })?;
    let message = api::condition(&vm, "Ready").2;
    ensure!(message.contains(OUT_OF_SERVICE), "the way out is not named: {message}");

    space.condition(api::HYPERVISOR, "h2", "Ready", "Unknown", "HostLost")?;

    lost.delete()?;
    all_the_time("a time-out gives nothing up", within(15), || {
        lost.get().map(drop).map_err(|_| anyhow!("the VM is gone"))
    })?;
    space.cluster.kubectl(["taint", "node", "h2", &format!("{OUT_OF_SERVICE}=nodeshutdown:NoExecute")])?;
    space.api().wait_gone(api::VM, &space.namespace, &lost.name, within(60))?;
    ensure!(other.qemu()? == qemu, "a VM on another host was disturbed");
    Ok(())
}

/// What is left on the returned host is an orphan, and a person's to remove.
fn what_is_left_is_shown(space: &Space, h2: &Host, domain: &str) -> Result<()> {
    space.condition(api::HYPERVISOR, "h2", "Ready", "True", "Connected")?;
    orphans_are(space, 1)?;
    h2.remove_domain(domain)?;
    let volumes = h2.volumes(POOL)?;
    for volume in volumes.iter().filter(|volume| volume.starts_with(&format!("{}.", space.namespace))) {
        h2.virsh(["vol-delete", "--pool", POOL, volume])?;
    }
    orphans_are(space, 0)
}

fn orphans_are(space: &Space, count: u64) -> Result<()> {
    wait_for(&format!("h2 shows {count} orphans"), within(60), || {
        let hypervisor = space.api().get(api::HYPERVISOR, "", "h2")?.unwrap_or_default();
        if hypervisor["status"]["orphanCount"] == count {
            Ok(Some(()))
        } else {
            Err(anyhow!("{}", hypervisor["status"]))
        }
    })
}

fn no_vm_is_bound_to_a_node_whose_executor_is_silent(space: &Space) -> Result<()> {
    let held = space.cluster.host("h1").executor().context("no executor runs on h1")?.hold()?;
    space.condition(api::HYPERVISOR, "h1", "Ready", "Unknown", "HostLost")?;
    let vm = space.blank("web").on("h1").apply()?;
    let why = vm.condition("Scheduled", "False", "Unschedulable")?;
    ensure!(why.contains("; h1: the executor has not renewed its Lease"), "{why}");
    all_the_time("it is bound to no node", within(15), || {
        ensure!(vm.get()?["status"]["nodeName"].is_null(), "it has a node");
        for pod in space.api().list(api::POD, &space.namespace)? {
            ensure!(pod["spec"]["nodeName"].is_null(), "the scheduler has bound it: {}", pod["spec"]["nodeName"]);
        }
        Ok(())
    })?;
    let node = space.api().get(api::NODE, "", "h1")?.context("no node")?;
    ensure!(api::is_true(&node, "Ready"), "its kubelet was to live: {}", node["status"]);
    drop(held);
    vm.is_ready()?;
    ensure!(vm.host()?.name.to_string() == "h1", "it is on {}", vm.host()?.name);
    space.cluster.is_whole()
}
