//! A host that is gone: nothing is given up by a time-out, only by a person's word.

use anyhow::{Result, anyhow, ensure};
use kubevmm_tests::cluster::EXECUTOR_LEASE_SECONDS;
use kubevmm_tests::{Space, api, foreign, wait_for, within};

kubevmm_tests::stories! { alone: true; a_dead_host_is_given_up_by_a_person_only }

const OUT_OF_SERVICE: &str = "node.kubernetes.io/out-of-service";

fn a_dead_host_is_given_up_by_a_person_only(space: &Space) -> Result<()> {
    let cluster = space.cluster;
    let lost = space.blank("lost").on("h2").apply()?;
    let other = space.blank("other").on("h1").apply()?;
    lost.is_ready()?;
    other.is_ready()?;
    let qemu = other.qemu()?;
    cluster.foreign_is_untouched()?;
    let h2 = cluster.host("h2");
    h2.crash()?;

    let vm = lost.wait("is Unknown: HostLost", within(3 * EXECUTOR_LEASE_SECONDS), |vm| {
        let (status, reason, _) = api::condition(vm, "Ready");
        (status, reason) == ("Unknown", "HostLost") && vm["status"]["printableStatus"] == "Unknown"
    })?;
    let message = api::condition(&vm, "Ready").2;
    ensure!(message.contains(OUT_OF_SERVICE), "the way out is not named: {message}");

    lost.delete()?;
    kubevmm_tests::wait::all_the_time("a time-out gives nothing up", within(15), || {
        lost.get().map(drop).map_err(|_| anyhow!("the VM is gone"))
    })?;
    cluster.kubectl(["taint", "node", "h2", &format!("{OUT_OF_SERVICE}=nodeshutdown:NoExecute")])?;
    space.api().wait_gone(api::VM, &space.namespace, "lost", within(60))?;
    ensure!(other.qemu()? == qemu, "a VM on another host was disturbed");

    h2.boot()?;
    cluster.kubectl(["taint", "node", "h2", &format!("{OUT_OF_SERVICE}-")])?;
    cluster.is_whole()?;
    // What is left there is shown, and is a person's to remove.
    let domain = lost.domain();
    wait_for("the returned host shows the orphan", within(60), || {
        let hypervisor = space.api().get(api::HYPERVISOR, "", "h2")?.unwrap_or_default();
        if hypervisor["status"]["orphanCount"] == 1 {
            Ok(Some(()))
        } else {
            Err(anyhow!("{}", hypervisor["status"]["domains"]))
        }
    })?;
    h2.remove_domain(&domain)?;
    let volumes = h2.volumes("kubevmm.default")?;
    for volume in volumes.iter().filter(|volume| volume.starts_with(&format!("{}.", space.namespace))) {
        h2.virsh(["vol-delete", "--pool", "kubevmm.default", volume])?;
    }
    wait_for("the orphan is shown no longer", within(30), || {
        let hypervisor = space.api().get(api::HYPERVISOR, "", "h2")?.unwrap_or_default();
        if hypervisor["status"]["orphanCount"] == 0 { Ok(Some(())) } else { Err(anyhow!("{}", hypervisor["status"])) }
    })?;
    foreign::start_again(&h2)?;
    cluster.foreign_has_restarted_on(&h2)
}
