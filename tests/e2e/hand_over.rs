//! A VM moves to another host, killed at each step: at no time do two instances of it run.

use std::sync::atomic::{AtomicBool, Ordering};
use std::thread;
use std::time::Duration;

use anyhow::{Context, Result, anyhow, bail, ensure};
use kubevmm_tests::host::Held;
use kubevmm_tests::{Cluster, Host, Json, Space, Vm, api, wait_for, within};

kubevmm_tests::stories! { alone: true;
    a_stopped_vm_moves,
    a_running_vm_moves_when_its_pod_is_deleted,
    moves_with_a_kill_at_each_step,
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

/// The directory that the lab's hosts share.
const SHARED: &str = "/srv/shared";

/// A pool on it.
pub(crate) fn shared_pool(space: &Space) -> Result<()> {
    let pool = space.pool_name();
    space.apply(&format!(
        "{{apiVersion: kubevmm.io/v1beta1, kind: VirtualMachineStoragePool, metadata: {{name: {pool}}}, \
         spec: {{shared: true, dir: {{path: {SHARED}}}}}}}"
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

/// What a move must keep, and what it must count up.
struct Before {
    epoch: i64,
    disk: String,
}

impl Before {
    fn of(vm: &Vm) -> Result<Self> {
        let epoch = vm.get()?["status"]["placement"]["epoch"].as_i64().context("no epoch")?;
        Ok(Self { epoch, disk: disk(vm)? })
    }
}

/// The disk as its object and the shared directory know it: name, file and content of its volume. The firmware of a VM
/// without an operating system writes nothing to it.
fn disk(vm: &Vm) -> Result<String> {
    let cluster = Cluster::get();
    let found = cluster.api.get(api::DISK, &vm.namespace, &format!("{}-root", vm.name))?.context("no disk")?;
    let volume = found["status"]["volumeName"].as_str().context("no volume")?;
    ensure!(api::is_true(&found, "Provisioned"), "{}", found["status"]);
    let host = cluster.host("h1");
    // A file that was made again may get the number of the old one, but not its birth.
    let file = host.sh(&format!("cd {SHARED} && stat -c '%n inode %i born %w' {volume} && sha256sum {volume}"))?;
    Ok(format!("{} {file}", found["metadata"]["uid"]))
}

/// On its new host only, with a higher epoch, and with the same disk.
fn has_moved(vm: &Vm, from: &str, to: &str, before: &Before) -> Result<()> {
    let status = runs_on(vm, to)?["status"].clone();
    let cluster = Cluster::get();
    let epoch = before.epoch;
    ensure!(status["placement"]["epoch"].as_i64() > Some(epoch), "epoch {epoch}, then {}", status["placement"]);
    ensure!(status["domain"]["epoch"] == status["placement"]["epoch"], "{status}");
    ensure!(!cluster.host(from).domains()?.contains(&vm.domain()), "{from} has the domain still");
    ensure!(cluster.host(to).domain_state(&vm.domain())? == "running", "it does not run on {to}");
    let disk = disk(vm)?;
    ensure!(disk == before.disk, "the disk was {}, and is {disk}", before.disk);
    let volume = disk.split_whitespace().nth(1).unwrap_or_default();
    let used = cluster.host(to).virsh(["domblklist", &vm.domain()])?;
    ensure!(used.contains(&format!("{SHARED}/{volume}")), "{volume} is not its disk on {to}:\n{used}");
    Ok(())
}

fn a_stopped_vm_moves(space: &Space) -> Result<()> {
    shared_pool(space)?;
    let vm = space.blank("web").on("h1").with(&on_shared_disk(space)).apply()?;
    runs_on(&vm, "h1")?;
    let before = Before::of(&vm)?;
    let watch = NeverTwice::of(&vm)?;
    vm.patch("{runStrategy: Halted}")?;
    vm.is_off()?;
    vm.patch("{runStrategy: Always, placement: {nodeSelector: {kubernetes.io/hostname: h2}}}")?;
    has_moved(&vm, "h1", "h2", &before)?;
    watch.holds()?;
    vm.vanishes()?;
    remove_shared_pool(space)
}

/// Puts VMs on one of two hosts by cordoning the other.
fn cordon(space: &Space, from: &str, to: &str) -> Result<()> {
    space.cluster.kubectl(["cordon", from])?;
    space.cluster.kubectl(["uncordon", to]).map(drop)
}

fn uncordon(space: &Space) -> Result<()> {
    space.cluster.kubectl(["uncordon", "h1", "h2"]).map(drop)
}

/// Deletes the placement pod, which is an eviction that nobody was asked about.
fn evict(space: &Space, vm: &Vm) -> Result<()> {
    let pod = vm.get()?["status"]["placement"]["podName"].as_str().context("no placement pod")?.to_owned();
    space.delete(api::POD, &pod)
}

fn a_running_vm_moves_when_its_pod_is_deleted(space: &Space) -> Result<()> {
    shared_pool(space)?;
    space.cluster.kubectl(["cordon", "h2"])?;
    let vm = space.blank("web").with(&on_shared_disk(space)).apply()?;
    runs_on(&vm, "h1")?;
    let before = Before::of(&vm)?;
    let watch = NeverTwice::of(&vm)?;
    cordon(space, "h1", "h2")?;
    evict(space, &vm)?;
    has_moved(&vm, "h1", "h2", &before)?;
    watch.holds()?;
    uncordon(space)?;
    let stop = vm.get()?["status"]["lastStop"]["reason"].clone();
    ensure!(stop == "Evicted", "{stop}");
    vm.vanishes()?;
    remove_shared_pool(space)
}

/// A moment of a move.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Moment {
    /// The old host has been asked to give the VM up, and has not.
    Asked,
    /// The old host has given it up, and the controller has not seen it.
    Released,
    /// The controller has named the new host, which has not seen it.
    Written,
    /// The new host has defined the domain, and libvirt is about to start it.
    Defined,
    /// QEMU runs on the new host, whose executor has not seen it.
    Started,
}

/// Who is killed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Victim {
    Controller,
    OldExecutor,
    NewExecutor,
}

/// The moments in their order, each with the one whose turn it is then and the one who has nothing to do with it.
const KILLS: &[(Moment, [Victim; 2])] = &[
    (Moment::Asked, [Victim::OldExecutor, Victim::Controller]),
    (Moment::Released, [Victim::Controller, Victim::OldExecutor]),
    (Moment::Written, [Victim::NewExecutor, Victim::Controller]),
    (Moment::Defined, [Victim::NewExecutor, Victim::Controller]),
    (Moment::Started, [Victim::NewExecutor, Victim::Controller]),
];

/// Two VMs that move at the same time: one runs and is evicted, one is off and is started elsewhere.
struct Movers {
    running: Vm,
    stopped: Vm,
    from: &'static str,
    to: &'static str,
}

impl Movers {
    fn both(&self) -> [&Vm; 2] {
        [&self.running, &self.stopped]
    }

    /// Both are on the one host, one of them off.
    fn settle(&self) -> Result<()> {
        runs_on(&self.running, self.from)?;
        runs_on(&self.stopped, self.from)?;
        self.stopped.patch("{runStrategy: Halted}")?;
        let off = self.stopped.is_off()?;
        ensure!(off["status"]["nodeName"] == self.from, "{}", off["status"]);
        Ok(())
    }

    fn start_to_move(&self, space: &Space) -> Result<()> {
        cordon(space, self.from, self.to)?;
        evict(space, &self.running)?;
        self.stopped.patch("{runStrategy: Always}")
    }

    /// Brings both to a moment of their move, and holds them there: whoever acts next is stopped before the one before
    /// goes on. What is given back lets them go.
    fn bring_to(&self, moment: Moment, space: &Space) -> Result<Held> {
        let (old, new) = (space.cluster.host(self.from), space.cluster.host(self.to));
        let executor = |host: &Host| host.executor().with_context(|| format!("no executor runs on {}", host.name));
        let mut held = executor(&old)?.hold()?;
        self.start_to_move(space)?;
        for (now, _) in KILLS {
            self.are_at(*now)?;
            if *now == moment {
                break;
            }
            held = match now {
                Moment::Asked => space.cluster.controller()?.hold()?,
                Moment::Released => executor(&new)?.hold()?,
                Moment::Written => new.virtlogd().context("no virtlogd runs")?.hold()?,
                Moment::Defined | Moment::Started => executor(&new)?.hold()?,
            };
        }
        Ok(held)
    }

    /// The status says "defined" before the executor asks libvirt to start the domain: libvirt makes a directory for each
    /// start, before it asks virtlogd for QEMU's log.
    fn are_being_started(&self) -> Result<()> {
        // It is named by the domain's id and the first 20 characters of its name.
        let name: String = self.running.domain().chars().take(20).collect();
        let find = format!("find /var/lib/libvirt/qemu -maxdepth 1 -name 'domain-*-{name}' | wc -l");
        wait_for("libvirt has begun to start both", within(10), || {
            let count = Cluster::get().host(self.to).sh(&find)?;
            if count.trim() == "2" { Ok(Some(())) } else { Err(anyhow!("{} are", count.trim())) }
        })
    }

    fn are_at(&self, moment: Moment) -> Result<()> {
        let cluster = Cluster::get();
        if moment == Moment::Defined {
            self.are_being_started()?;
        }
        for vm in self.both() {
            let uuid = vm.uuid()?;
            let on_host = |name: &str| cluster.host(name).qemus().contains_key(&uuid);
            let seen = vm.wait(&format!("is held at {moment:?}"), within(30), |vm| {
                let (status, placement) = (&vm["status"], &vm["status"]["placement"]);
                let on = |node: &str| status["nodeName"] == node;
                let released = status["releasedEpoch"] == placement["epoch"];
                let defined = status["domain"]["epoch"] == placement["epoch"];
                let known_to_run = status["domain"]["state"] == "Running";
                match moment {
                    Moment::Asked => on(self.from) && placement["release"] == "Stop" && !released && defined,
                    Moment::Released => {
                        on(self.from) && placement["release"] == "Stop" && released && !on_host(self.from)
                    }
                    Moment::Written => on(self.to) && status["domain"].is_null(),
                    Moment::Defined => on(self.to) && defined && !known_to_run && !on_host(self.to),
                    Moment::Started => on(self.to) && defined && !known_to_run && on_host(self.to),
                }
            });
            seen.with_context(|| format!("the {} VM", vm.name))?;
        }
        Ok(())
    }
}

fn moves_with_a_kill_at_each_step(space: &Space) -> Result<()> {
    shared_pool(space)?;
    space.cluster.kubectl(["cordon", "h2"])?;
    let disk = on_shared_disk(space);
    // Without a grace period, for what is held must go on before its Lease ends.
    let draft = |name: &str| space.blank(name).with(&disk).with("spec: {terminationGracePeriodSeconds: 0}").apply();
    let mut movers = Movers { running: draft("running")?, stopped: draft("stopped")?, from: "h1", to: "h2" };
    let moved = move_with_kills(space, &mut movers);
    // Also when that failed: the stories after this one need both hosts.
    uncordon(space)?;
    moved?;
    for vm in movers.both() {
        vm.vanishes()?;
    }
    remove_shared_pool(space)
}

fn move_with_kills(space: &Space, movers: &mut Movers) -> Result<()> {
    let watches = movers.both().map(NeverTwice::of);
    for (moment, victims) in KILLS {
        for victim in victims {
            movers.settle()?;
            let before = movers.both().map(Before::of);
            let held = movers.bring_to(*moment, space)?;
            let killed = match victim {
                Victim::Controller => space.cluster.kill_and_replace_controller(),
                Victim::OldExecutor => space.cluster.kill_and_replace_executor(&space.cluster.host(movers.from)),
                Victim::NewExecutor => space.cluster.kill_and_replace_executor(&space.cluster.host(movers.to)),
            };
            drop(held);
            killed.with_context(|| format!("{moment:?}: kill the {victim:?}"))?;
            for (vm, before) in movers.both().into_iter().zip(before) {
                has_moved(vm, movers.from, movers.to, &before?)
                    .with_context(|| format!("the {} VM, {moment:?}, {victim:?} was killed", vm.name))?;
            }
            space.cluster.is_whole()?;
            std::mem::swap(&mut movers.from, &mut movers.to);
        }
    }
    for watch in watches {
        watch?.holds()?;
    }
    Ok(())
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
    runs_on(&vm, "h1").map(drop)
}
