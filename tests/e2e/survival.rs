//! A guest outlives the death and restart of everything but its QEMU.

use anyhow::{Context, Result, anyhow, ensure};
use kubevmm_lab::Daemon;
use kubevmm_tests::cluster::SYSTEM;
use kubevmm_tests::vm::shape;
use kubevmm_tests::{Space, Vm, api, wait_for, within};
use serde_json::json;

use crate::manage::{Legacy, delete_with_disks, is_managed, patch};

kubevmm_tests::stories! { alone: true; a_guest_outlives_everything_but_qemu }

fn a_guest_outlives_everything_but_qemu(space: &Space) -> Result<()> {
    let cluster = space.cluster;
    let vm = space.guest("web").apply()?;
    let boot = vm.boots()?;
    vm.address()?;
    let host = vm.host()?;
    let control_plane = cluster.host("cp");
    let before = shape(&vm.get()?);
    let qemu = vm.qemu()?;
    // And so does one that was there before.
    let legacy = Legacy::small(space, &host.name.to_string(), "Old", "")?.start()?;
    let old = legacy.import(&["--manage"])?;
    is_managed(&old)?;
    let its_qemu = legacy.qemu()?;
    let lives = |what: &str| -> Result<()> {
        cluster.is_whole().with_context(|| format!("after: {what}"))?;
        let recovered = vm.wait(&format!("is as before, after: {what}"), within(90), |now| shape(now) == before);
        recovered.with_context(|| format!("it was {before}"))?;
        ensure!(vm.qemu()? == qemu, "QEMU is another one after: {what}");
        ensure!(legacy.qemu()? == its_qemu, "that of the imported domain is another one after: {what}");
        old.condition("Synced", "True", "AsDefined").with_context(|| format!("after: {what}"))?;
        vm.has_not_rebooted(&boot).with_context(|| format!("after: {what}"))
    };

    host.kill_executor()?;
    lives("the executor was killed")?;

    cluster.kill_controller()?;
    lives("the controller was killed")?;

    host.restart(Daemon::Libvirtd)?;
    host.libvirt_answers()?;
    lives("libvirtd was restarted")?;

    host.restart(Daemon::Virtlogd)?;
    lives("virtlogd was restarted")?;

    host.restart(Daemon::Containerd)?;
    lives("containerd was restarted")?;

    kubelet_away(space, &vm)?;
    lives("the kubelet was away for longer than the eviction time-outs")?;

    for daemon in [Daemon::ApiServer, Daemon::Etcd] {
        control_plane.stop(daemon)?;
    }
    // Not a wait for something: the time is what is tested.
    std::thread::sleep(within(60));
    ensure!(qemu.runs(), "QEMU ended while the API server was away");
    for daemon in [Daemon::Etcd, Daemon::ApiServer] {
        control_plane.start(daemon)?;
    }
    lives("the API server and etcd were away for a minute")?;

    for daemon in [Daemon::Scheduler, Daemon::ControllerManager] {
        control_plane.restart(daemon)?;
    }
    lives("kube-scheduler and kube-controller-manager were restarted")?;

    for workload in ["daemonset/kubevmm-executor", "deployment/kubevmm-controller"] {
        cluster.kubectl(["-n", SYSTEM, "rollout", "restart", workload])?;
        cluster.kubectl(["-n", SYSTEM, "rollout", "status", workload, "--timeout=120s"])?;
        lives(&format!("{workload} was rolled"))?;
    }

    delete_placement_pod(space, &vm)?;
    lives("its placement pod was deleted")?;

    // Given back while libvirt is away: nothing is let go before the mark is off.
    host.stop(Daemon::Libvirtd)?;
    patch(&old, space, json!({"management": "Observe"}))?;
    old.wait("it is to be given back", within(60), |vm| api::condition(vm, "Scheduled").1 == "Releasing")?;
    host.start(Daemon::Libvirtd)?;
    host.libvirt_answers()?;
    old.wait("it is given back", within(90), |vm| vm["metadata"]["finalizers"].is_null())?;
    ensure!(legacy.qemu()? == its_qemu && !legacy.virsh("dumpxml", "")?.contains("kubevmm:object"), "it is as it was");
    delete_with_disks(space, &old)?;
    legacy.remove()?;
    vm.vanishes()
}

/// Stops the kubelet until the node's pods are evicted, and starts it again.
fn kubelet_away(space: &Space, vm: &Vm) -> Result<()> {
    let host = vm.host()?;
    let name = host.name.to_string();
    // A pod that is evicted shows that the time-outs have passed.
    space.apply(&format!(
        "{{apiVersion: v1, kind: Pod, metadata: {{name: ordinary}}, spec: {{nodeName: {name}, \
         terminationGracePeriodSeconds: 0, containers: [{{name: c, image: '{}'}}]}}}}",
        pause_image(space)?
    ))?;
    host.stop(Daemon::Kubelet)?;
    wait_for("an ordinary pod there is evicted", within(120), || match space.get(api::POD, "ordinary")? {
        Some(pod) if pod["metadata"]["deletionTimestamp"].is_null() => Err(anyhow!("{}", pod["status"]["phase"])),
        _ => Ok(Some(())),
    })?;
    host.start(Daemon::Kubelet)?;
    space.api().wait(api::NODE, "", &name, "is Ready again", within(60), |node| api::is_true(node, "Ready"))?;
    space.api().delete_now(api::POD, &space.namespace, "ordinary")
}

fn pause_image(space: &Space) -> Result<String> {
    let pods = space.api().list(api::POD, &space.namespace)?;
    let image = pods.first().and_then(|pod| pod["spec"]["containers"][0]["image"].as_str().map(str::to_owned));
    image.context("no placement pod")
}

/// The disk lies on its host only, so the VM has nowhere to go: the pod is made again.
fn delete_placement_pod(space: &Space, vm: &Vm) -> Result<()> {
    let pod = vm.get()?["status"]["placement"]["podName"].as_str().context("no placement pod")?.to_owned();
    let uid = space.get(api::POD, &pod)?.context("no such pod")?["metadata"]["uid"].clone();
    space.delete(api::POD, &pod)?;
    wait_for("the placement pod is made again", within(120), || {
        let now = space.get(api::POD, &pod)?.context("it is gone")?;
        if now["metadata"]["uid"] != uid && now["status"]["phase"] == "Running" {
            Ok(Some(()))
        } else {
            Err(anyhow!("it is the old one"))
        }
    })
}
