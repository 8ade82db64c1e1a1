//! Three hosts that come and go, and the scheduler with its extender between them.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread;
use std::time::Duration;

use anyhow::{Context, Result, bail, ensure};
use kubevmm_tests::cluster::SPARE_HOST;
use kubevmm_tests::wait::all_the_time;
use kubevmm_tests::{Cluster, Host, Space, Vm, api, foreign, wait_for, within};
use nix::sys::signal::Signal;

use crate::hand_over::{NeverTwice, on_shared_disk, remove_shared_pool, shared_pool};

kubevmm_tests::stories! { alone: true;
    a_host_that_is_cut_off_keeps_its_vms,
    without_the_extender_vms_wait_and_pods_do_not,
    the_extender_restarts_under_load,
    a_hundred_vms_while_hosts_join_and_leave,
    more_vms_on_a_host_than_a_kubelet_takes_by_default,
}

/// As many as one host could not take by its CPU requests.
const CROWD: usize = 100;
/// More pods than the 110 that a kubelet takes when nobody says otherwise.
const DENSE: usize = 112;

fn a_host_that_is_cut_off_keeps_its_vms(space: &Space) -> Result<()> {
    let cluster = space.cluster;
    let spare = cluster.spare_host()?;
    shared_pool(space)?;
    cluster.kubectl(["cordon", "h1", "h2"])?;
    let vm = space.blank("web").with(&on_shared_disk(space)).apply()?;
    let placed = vm.wait("runs on the spare host", within(120), |vm| {
        vm["status"]["nodeName"] == SPARE_HOST && api::is_true(vm, "Ready")
    });
    cluster.kubectl(["uncordon", "h1", "h2"])?;
    placed?;
    let (watch, qemu, host) = (NeverTwice::of(&vm)?, vm.qemu()?, cluster.host(SPARE_HOST));
    host.set_link(false)?;
    let cut_off = stays_where_it_was(&vm);
    host.set_link(true)?;
    cluster.is_whole()?;
    cut_off?;
    vm.is_ready()?;
    ensure!(vm.qemu()? == qemu, "the guest was restarted");
    watch.holds()?;
    vm.vanishes()?;
    remove_shared_pool(space)?;
    drop(spare);
    Ok(())
}

/// Its data could go to any host, and yet nobody starts it elsewhere: nobody knows whether it runs.
fn stays_where_it_was(vm: &Vm) -> Result<()> {
    vm.wait("is Unknown: HostLost", within(120), |vm| {
        let (status, reason, _) = api::condition(vm, "Ready");
        (status, reason) == ("Unknown", "HostLost") && vm["status"]["printableStatus"] == "Unknown"
    })?;
    all_the_time("it stays on the host that is cut off", within(20), || {
        let status = &vm.get()?["status"];
        ensure!(status["nodeName"] == SPARE_HOST, "{status}");
        Ok(())
    })
}

fn without_the_extender_vms_wait_and_pods_do_not(space: &Space) -> Result<()> {
    let held = space.cluster.extender()?.hold()?;
    let vm = space.blank("web").apply()?;
    let told = vm.condition("Scheduled", "False", "ExtenderUnavailable");
    space.apply(
        "{apiVersion: v1, kind: Pod, metadata: {name: ordinary}, spec: {terminationGracePeriodSeconds: 0, containers: \
         [{name: sleep, image: 'localhost/busybox:1', imagePullPolicy: Never, command: [sleep, '3600']}]}}",
    )?;
    let runs = space
        .api()
        .wait(api::POD, &space.namespace, "ordinary", "runs", within(60), |pod| pod["status"]["phase"] == "Running");
    drop(held);
    let told = told?;
    ensure!(told.contains("kubevmm-scheduler"), "what is to be looked at is not named: {told}");
    runs?;
    vm.is_ready()?;
    space.cluster.is_whole()
}

fn the_extender_restarts_under_load(space: &Space) -> Result<()> {
    let vms: Vec<Vm> = (0..20).map(|n| small(space, n)).collect::<Result<_>>()?;
    for _ in 0..2 {
        wait_for("the extender runs", within(60), || Ok(space.cluster.extender().ok()))?.signal(Signal::SIGKILL)?;
        wait_for("another VM runs", within(60), || Ok(vms.iter().find(|vm| is_ready(vm))))?;
    }
    for vm in &vms {
        vm.is_ready()?;
    }
    space.cluster.is_whole()
}

fn small(space: &Space, n: usize) -> Result<Vm> {
    let light = "spec: {cpu: {request: 5m}, memory: {size: 8Mi}, terminationGracePeriodSeconds: 0}";
    space.blank(&format!("vm-{n}")).with(light).apply()
}

fn is_ready(vm: &Vm) -> bool {
    vm.get().is_ok_and(|vm| api::is_true(&vm, "Ready"))
}

fn a_hundred_vms_while_hosts_join_and_leave(space: &Space) -> Result<()> {
    let cluster = space.cluster;
    cluster.foreign_is_untouched()?;
    let watch = NoneTwice::start();
    let mut vms: Vec<Vm> = (0..CROWD / 2).map(|n| small(space, n)).collect::<Result<_>>()?;
    // A host joins, is lost and comes back; another one leaves and joins again.
    let spare = cluster.spare_host()?;
    for n in CROWD / 2..CROWD {
        vms.push(small(space, n)?);
    }
    let host = cluster.host(SPARE_HOST);
    let ours = format!("{}.", space.namespace);
    wait_for("the host that joins gets VMs", within(180), || {
        // It may get no more of them once it is lost.
        Ok((host.domains()?.iter().filter(|domain| domain.starts_with(&ours)).count() >= 10).then_some(()))
    })?;
    cluster.kubectl(["cordon", "h1"])?;
    host.crash()?;
    let went_on =
        wait_for("the others go on", within(180), || Ok((cluster.host("h2").qemus().len() > 20).then_some(())));
    host.boot()?;
    foreign::start_again(&host)?;
    cluster.kubectl(["uncordon", "h1"])?;
    went_on?;
    cluster.is_whole()?;
    wait_for("all of them run", within(400), || {
        let waiting: Vec<_> = vms.iter().filter(|vm| !is_ready(vm)).map(|vm| vm.name.as_str()).collect();
        if waiting.is_empty() { Ok(Some(())) } else { bail!("{} of {CROWD} do not: {waiting:?}", waiting.len()) }
    })?;
    let mut on: BTreeMap<String, usize> = BTreeMap::new();
    for vm in &vms {
        *on.entry(vm.host()?.name.to_string()).or_default() += 1;
    }
    ensure!(on.len() == 3 && on.values().all(|vms| *vms >= 10), "they are not spread over the hosts: {on:?}");
    watch.holds()?;
    all_go(space, &vms)?;
    drop(spare);
    cluster.foreign_has_restarted_on(&host)
}

/// Deletes all VMs of the story. So many at a time take longer than one.
fn all_go(space: &Space, vms: &[Vm]) -> Result<()> {
    vms.iter().try_for_each(Vm::delete)?;
    for vm in vms {
        space.api().wait_gone(api::VM, &space.namespace, &vm.name, within(400))?;
    }
    let ours = format!("{}.", space.namespace);
    for host in space.cluster.libvirt_hosts() {
        let left: Vec<_> = host.domains()?.into_iter().filter(|domain| domain.starts_with(&ours)).collect();
        ensure!(left.is_empty(), "{} has {left:?} still", host.name);
    }
    Ok(())
}

fn more_vms_on_a_host_than_a_kubelet_takes_by_default(space: &Space) -> Result<()> {
    let host = space.cluster.host("h2");
    // A firmware that halts the CPU (cli; hlt): so many guests that look for a system would take a processor of their own.
    let firmware = "/run/halt.rom";
    host.sh(&format!(
        "{{ head -c 65520 /dev/zero; printf '\\372\\364\\353\\375'; head -c 12 /dev/zero; }} >{firmware}"
    ))?;
    let told = densely(space, &host, firmware);
    host.sh(&format!("rm {firmware}"))?;
    told
}

fn densely(space: &Space, host: &Host, firmware: &str) -> Result<()> {
    let pods = space.cluster.kubectl(["get", "node", "h2", "-o", "jsonpath={.status.allocatable.pods}"])?;
    ensure!(pods.trim().parse::<usize>()? > DENSE, "the kubelet takes {pods} pods: see maxPods in its configuration");
    let count = || -> Result<u64> {
        let hypervisor = space.api().get(api::HYPERVISOR, "", "h2")?.context("no Hypervisor h2")?;
        hypervisor["status"]["domainCount"].as_u64().context("no domainCount")
    };
    let (domains, qemus) = (count()?, host.qemus().len());
    let light = format!(
        "spec: {{disks: [], cpu: {{request: 1m}}, memory: {{size: 8Mi}}, terminationGracePeriodSeconds: 0, \
         domain: {{os: {{loader: {{readonly: true, type: rom, value: {firmware}}}}}}}}}"
    );
    let vm = |n| space.blank(&format!("vm-{n}")).on("h2").with(&light).apply();
    let vms: Vec<Vm> = (0..DENSE).map(vm).collect::<Result<_>>()?;
    for vm in &vms {
        vm.is_ready()?;
    }
    let told = space.api().list(api::VM, &space.namespace)?;
    let running = told.iter().filter(|vm| api::is_true(vm, "Ready") && vm["status"]["nodeName"] == "h2").count();
    ensure!(running == DENSE, "{running} of {DENSE} run on h2");
    ensure!(host.qemus().len() == qemus + DENSE, "{} QEMUs run on h2, after {qemus}", host.qemus().len());
    let counts = |what: &str, expected: u64| {
        wait_for(what, within(30), || match count()? {
            now if now == expected => Ok(Some(())),
            now => bail!("it counts {now}, not {expected}"),
        })
    };
    counts("the host counts them", domains + DENSE as u64)?;
    all_go(space, &vms)?;
    counts("the host counts none of them", domains)?;
    wait_for("no placement pod is left", within(60), || match space.api().list(api::POD, &space.namespace)?.len() {
        0 => Ok(Some(())),
        left => bail!("{left} are"),
    })?;
    ensure!(host.qemus().len() == qemus, "{} QEMUs run on h2, after {qemus}", host.qemus().len());
    Ok(())
}

/// Looks all the time that no two QEMUs have one UUID.
struct NoneTwice {
    stop: Arc<AtomicBool>,
    watch: thread::JoinHandle<Vec<String>>,
}

impl NoneTwice {
    fn start() -> Self {
        let stop = Arc::new(AtomicBool::new(false));
        let watch = thread::spawn({
            let stop = stop.clone();
            move || {
                let mut twice = Vec::new();
                while !stop.load(Ordering::Relaxed) {
                    let mut seen: BTreeMap<String, usize> = BTreeMap::new();
                    for host in Cluster::get().libvirt_hosts() {
                        host.qemus().into_keys().for_each(|uuid| *seen.entry(uuid).or_default() += 1);
                    }
                    twice.extend(seen.into_iter().filter(|(_, count)| *count > 1).map(|(uuid, _)| uuid));
                    thread::sleep(Duration::from_millis(300));
                }
                twice
            }
        });
        Self { stop, watch }
    }

    fn holds(self) -> Result<()> {
        self.stop.store(true, Ordering::Relaxed);
        let twice = self.watch.join().ok().context("the watch itself failed")?;
        ensure!(twice.is_empty(), "two instances of one VM ran at a time: {twice:?}");
        Ok(())
    }
}
