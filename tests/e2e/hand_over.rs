//! A VM moves to another host, killed at each step: at no time do two instances of it run.

use std::collections::BTreeSet;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread;
use std::time::Duration;

use anyhow::{Context, Result, bail, ensure};
use kubevmm_tests::{Cluster, Json, Space, Vm, api, within};

kubevmm_tests::stories! { alone: true;
    a_stopped_vm_moves,
    a_running_vm_moves_when_its_node_is_drained,
    a_move_with_a_kill_at_each_step,
    a_vm_with_local_data_does_not_move,
}

/// Looks all the time, until it is dropped, that no two QEMUs of one VM run.
pub(crate) struct NeverTwice {
    stop: std::sync::Arc<AtomicBool>,
    watch: Option<thread::JoinHandle<usize>>,
}

impl NeverTwice {
    pub(crate) fn of(vm: &Vm) -> Result<Self> {
        let uuid = vm.uuid()?;
        let stop = std::sync::Arc::new(AtomicBool::new(false));
        let watch = thread::spawn({
            let stop = stop.clone();
            move || {
                let mut most = 0;
                while !stop.load(Ordering::Relaxed) {
                    most = most.max(Cluster::get().instances(&uuid));
                    thread::sleep(Duration::from_millis(50));
                }
                most
            }
        });
        Ok(Self { stop, watch: Some(watch) })
    }

    pub(crate) fn holds(mut self) -> Result<()> {
        self.stop.store(true, Ordering::Relaxed);
        let most = self.watch.take().context("it was asked already")?.join();
        match most {
            Ok(0 | 1) => Ok(()),
            Ok(most) => bail!("{most} instances of one VM ran at a time"),
            Err(_) => bail!("the watch itself failed"),
        }
    }
}

impl Drop for NeverTwice {
    fn drop(&mut self) {
        self.stop.store(true, Ordering::Relaxed);
    }
}

/// A pool on the directory that the lab's hosts share.
pub(crate) fn shared_pool(space: &Space) -> Result<()> {
    let pool = space.pool_name();
    space.apply(&format!(
        "{{apiVersion: kubevmm.io/v1beta1, kind: VirtualMachineStoragePool, metadata: {{name: {pool}}}, \
         spec: {{shared: true, dir: {{path: /srv/shared}}}}}}"
    ))
}

pub(crate) fn remove_shared_pool(space: &Space) -> Result<()> {
    let pool = space.pool_name();
    space.api().delete(api::POOL, "", pool)?;
    space.api().wait_gone(api::POOL, "", pool, within(60))
}

pub(crate) fn on_shared_disk(space: &Space) -> String {
    let pool = space.pool_name();
    format!("spec: {{disks: [{{name: root, template: {{size: 8Mi, poolName: {pool}, source: {{blank: {{}}}}}}}}]}}")
}

fn runs_on(vm: &Vm, node: &str) -> Result<Json> {
    vm.wait(&format!("runs on {node}"), within(120), |vm| vm["status"]["nodeName"] == node && api::is_true(vm, "Ready"))
}

/// On its new host only, with a higher epoch, and with the same disk.
fn has_moved(vm: &Vm, from: &str, to: &str, epoch: i64) -> Result<()> {
    let status = runs_on(vm, to)?["status"].clone();
    let cluster = Cluster::get();
    ensure!(status["placement"]["epoch"].as_i64() > Some(epoch), "epoch {epoch}, then {}", status["placement"]);
    ensure!(status["domain"]["epoch"] == status["placement"]["epoch"], "{status}");
    ensure!(!cluster.host(from).domains()?.contains(&vm.domain()), "{from} has the domain still");
    ensure!(cluster.host(to).domain_state(&vm.domain())? == "running", "it does not run on {to}");
    Ok(())
}

fn epoch(vm: &Vm) -> Result<i64> {
    vm.get()?["status"]["placement"]["epoch"].as_i64().context("no epoch")
}

fn a_stopped_vm_moves(space: &Space) -> Result<()> {
    shared_pool(space)?;
    let vm = space.blank("web").on("h1").with(&on_shared_disk(space)).apply()?;
    runs_on(&vm, "h1")?;
    let before = epoch(&vm)?;
    let watch = NeverTwice::of(&vm)?;
    vm.patch("{runStrategy: Halted}")?;
    vm.is_off()?;
    vm.patch("{runStrategy: Always, placement: {nodeSelector: {kubernetes.io/hostname: h2}}}")?;
    has_moved(&vm, "h1", "h2", before)?;
    watch.holds()?;
    vm.vanishes()?;
    remove_shared_pool(space)
}

/// Puts a VM on one of two hosts by cordoning the other, and drains the first.
fn move_by_drain(space: &Space, vm: &Vm, from: &str, to: &str) -> Result<()> {
    space.cluster.kubectl(["cordon", from])?;
    space.cluster.kubectl(["uncordon", to])?;
    let pod = vm.get()?["status"]["placement"]["podName"].as_str().context("no placement pod")?.to_owned();
    space.delete(api::POD, &pod)
}

fn a_running_vm_moves_when_its_node_is_drained(space: &Space) -> Result<()> {
    shared_pool(space)?;
    space.cluster.kubectl(["cordon", "h2"])?;
    let vm = space.blank("web").with(&on_shared_disk(space)).apply()?;
    runs_on(&vm, "h1")?;
    let before = epoch(&vm)?;
    let watch = NeverTwice::of(&vm)?;
    move_by_drain(space, &vm, "h1", "h2")?;
    has_moved(&vm, "h1", "h2", before)?;
    watch.holds()?;
    space.cluster.kubectl(["uncordon", "h1"])?;
    let stop = vm.get()?["status"]["lastStop"]["reason"].clone();
    ensure!(stop == "Requested", "{stop}");
    vm.vanishes()?;
    remove_shared_pool(space)
}

/// A step of the hand-over, by what the status shows then, and whose turn it is then.
type Step = (&'static str, &'static str, fn(&Json, from: &str, to: &str) -> bool);

const STEPS: &[Step] = &[
    ("the release is asked for", "old executor", |status, _, _| status["placement"]["release"] == "Stop"),
    ("the old host has released it", "old executor", |status, from, _| {
        status["nodeName"] == from && status["releasedEpoch"] == status["placement"]["epoch"]
    }),
    ("the new host is written", "new executor", |status, _, to| status["nodeName"] == to),
    ("the new host has defined it", "new executor", |status, _, to| {
        status["nodeName"] == to && status["domain"].is_object()
    }),
];

fn a_move_with_a_kill_at_each_step(space: &Space) -> Result<()> {
    shared_pool(space)?;
    space.cluster.kubectl(["cordon", "h2"])?;
    let vm = space.blank("web").with(&on_shared_disk(space)).apply()?;
    runs_on(&vm, "h1")?;
    let watch = NeverTwice::of(&vm)?;
    let (mut from, mut to) = ("h1", "h2");
    for (what, actor, reached) in STEPS {
        for victim in ["controller", actor] {
            let before = epoch(&vm)?;
            move_by_drain(space, &vm, from, to)?;
            // A step may be over before it is seen: the kill comes a little later then, which is another moment.
            vm.wait(what, within(60), |vm| {
                let status = &vm["status"];
                reached(status, from, to) || status["placement"]["epoch"].as_i64() > Some(before)
            })?;
            let killed = match victim {
                "controller" => space.cluster.kill_and_replace_controller(),
                "old executor" => space.cluster.kill_and_replace_executor(&space.cluster.host(from)),
                _ => space.cluster.kill_and_replace_executor(&space.cluster.host(to)),
            };
            killed.with_context(|| format!("{what}: kill the {victim}"))?;
            has_moved(&vm, from, to, before).with_context(|| format!("{what}; the {victim} was killed"))?;
            space.cluster.is_whole()?;
            std::mem::swap(&mut from, &mut to);
        }
    }
    watch.holds()?;
    for node in [from, to] {
        space.cluster.kubectl(["uncordon", node])?;
    }
    vm.vanishes()?;
    remove_shared_pool(space)
}

fn a_vm_with_local_data_does_not_move(space: &Space) -> Result<()> {
    let vm = space.blank("web").on("h1").apply()?;
    runs_on(&vm, "h1")?;
    vm.patch("{runStrategy: Halted}")?;
    vm.is_off()?;
    vm.patch("{runStrategy: Always, placement: {nodeSelector: {kubernetes.io/hostname: h2}}}")?;
    vm.condition("Scheduled", "False", "")?;
    vm.stays_off(2)?;
    vm.patch("{placement: null}")?;
    runs_on(&vm, "h1")?;
    let nodes: BTreeSet<_> = Cluster::get().libvirt_hosts().iter().map(|host| host.name.to_string()).collect();
    ensure!(nodes.len() == 2, "{nodes:?}");
    Ok(())
}
