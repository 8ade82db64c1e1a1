//! Of several hosts that can take a VM, the one is taken that suits it best. Each story is told in both directions, for of
//! two hosts that suit alike either may be taken.

use std::fs;
use std::path::{Path, PathBuf};

use anyhow::{Context, Result, ensure};
use kubevmm_api::Quantity;
use kubevmm_tests::cluster::{SYSTEM, work_tree};
use kubevmm_tests::space::Draft;
use kubevmm_tests::{Json, Space, Vm, api, wait_for, within};
use serde_json::json;

kubevmm_tests::stories! { alone: true;
    a_vm_goes_where_it_was_and_where_its_image_is,
    vms_are_spread_or_packed_by_policy,
    memory_and_cpu_are_used_evenly,
}

const HOSTS: [&str; 2] = ["h1", "h2"];

/// A VM without a disk, which may run anywhere.
fn free<'a>(space: &'a Space, name: &str) -> Draft<'a> {
    space.blank(name).with("spec: {disks: [], cpu: {request: 1m}, memory: {size: 8Mi}}")
}

fn lands_on(vm: &Vm, node: &str) -> Result<()> {
    vm.is_ready()?;
    ensure!(vm.host()?.name.to_string() == node, "{} runs on {}, not on {node}", vm.name, vm.host()?.name);
    Ok(())
}

/// A file that the lab's server has, until this is dropped.
struct Served(PathBuf);

impl Served {
    fn file(space: &Space, name: &str) -> Result<Self> {
        let path = space.cluster.lab.served_dir().join(name);
        fs::write(&path, vec![b'a'; 2 << 20])?;
        Ok(Self(path))
    }
}

impl Drop for Served {
    fn drop(&mut self) {
        if let Err(error) = fs::remove_file(&self.0) {
            eprintln!("{}: {error}", self.0.display());
        }
    }
}

fn a_vm_goes_where_it_was_and_where_its_image_is(space: &Space) -> Result<()> {
    let file = format!("{}.img", space.namespace);
    let _served = Served::file(space, &file)?;
    let root = |image: &str| {
        format!("spec: {{disks: [{{name: root, template: {{size: 4Mi, source: {{image: {{name: {image}}}}}}}}}]}}")
    };
    let (mut were, mut seeds) = (Vec::new(), Vec::new());
    for node in HOSTS {
        let image = format!("of-{node}");
        space.apply(&format!(
            "{{apiVersion: kubevmm.io/v1beta1, kind: VirtualMachineImage, metadata: {{name: {image}}}, \
             spec: {{source: {{http: {{url: '{}?{image}'}}}}}}}}",
            space.cluster.url(&file)
        ))?;
        seeds.push(space.blank(&format!("seed-{node}")).on(node).with(&root(&image)).apply()?);
        for n in 0..2 {
            were.push((node, free(space, &format!("was-{node}-{n}")).on(node).apply()?));
        }
    }
    for (_, vm) in &were {
        vm.is_ready()?;
        vm.patch("{runStrategy: Halted}")?;
    }
    for (_, vm) in &were {
        vm.is_off()?;
        vm.patch("{runStrategy: Always, placement: null}")?;
    }
    for (node, vm) in &were {
        lands_on(vm, node).context("it was there before")?;
    }

    for (node, seed) in HOSTS.into_iter().zip(&seeds) {
        seed.is_ready()?;
        let image = format!("of-{node}");
        let told = |image: &Json| image["status"]["readyHosts"] == 1;
        space.api().wait(api::IMAGE, &space.namespace, &image, "is cached on one host", within(60), told)?;
    }
    let mut made = Vec::new();
    for node in HOSTS {
        for n in 0..2 {
            let vm = space.blank(&format!("new-{node}-{n}")).with(&root(&format!("of-{node}")));
            made.push((node, vm.apply()?));
        }
    }
    made.iter().try_for_each(|(node, vm)| lands_on(vm, node).context("its image is there"))
}

/// How big the lab's hosts are for VMs, which they take for as big as the machine.
struct Size {
    /// Most virtual CPUs.
    vcpus: f64,
    /// CPUs, in thousandths.
    millis: f64,
    /// Memory in MiB.
    memory: f64,
}

/// Hosts that may have ten virtual CPUs for each of theirs, until this is dropped.
struct Overcommitted<'a>(&'a Space);

impl<'a> Overcommitted<'a> {
    const TIMES: u8 = 10;

    fn hosts(space: &'a Space) -> Result<(Self, Size)> {
        let made = Self(space);
        made.say(json!({"cpu": Self::TIMES}))?;
        let told =
            space.api().wait(api::HYPERVISOR, "", "h1", "counts its virtual CPUs", within(30), |hypervisor| {
                let most = hypervisor["status"]["allocatable"]["vcpus"].as_f64();
                most == hypervisor["status"]["cpus"].as_f64().map(|cpus| cpus * f64::from(Self::TIMES))
            })?;
        let offer = &told["status"]["allocatable"];
        let memory = Quantity(offer["memory"].as_str().unwrap_or_default().to_owned()).bytes()?;
        let vcpus = offer["vcpus"].as_f64().context("no allocatable.vcpus")?;
        let millis = vcpus / f64::from(Self::TIMES) * 1000.0;
        Ok((made, Size { vcpus, millis, memory: (memory >> 20) as f64 }))
    }

    fn say(&self, overcommit: Json) -> Result<()> {
        let spec = json!({"spec": {"overcommit": overcommit}});
        HOSTS.iter().try_for_each(|node| self.0.api().patch(api::HYPERVISOR, "", node, &spec))
    }
}

impl Drop for Overcommitted<'_> {
    fn drop(&mut self) {
        if let Err(error) = self.say(Json::Null) {
            eprintln!("the hosts have an overcommit still: {error:#}");
        }
    }
}

impl Size {
    /// A VM that takes so much of a host: parts of its virtual CPUs, of its CPUs, and of its memory. None of it is used.
    fn filler(&self, space: &Space, name: &str, node: &str, parts: [f64; 3]) -> Result<Vm> {
        let [vcpus, cpu, memory] = parts;
        // Beside it there are the domain that is not ours, and the VM that finds its host.
        let cores = (vcpus * self.vcpus).round().max(3.0) - 2.0;
        let (request, memory) = ((cpu * self.millis).max(1.0), (memory * self.memory).max(8.0));
        let spec = format!("cpu: {{cores: {cores:.0}, request: {request:.0}m}}, memory: {{size: {memory:.0}Mi}}");
        let vm = free(space, name).on(node).with(&format!("spec: {{{spec}}}")).apply()?;
        vm.is_ready()?;
        Ok(vm)
    }
}

fn probe_lands_on(space: &Space, node: &str) -> Result<()> {
    let probe = free(space, "probe").apply()?;
    lands_on(&probe, node)?;
    probe.vanishes()
}

/// The scheduler packs VMs, until this is dropped.
struct Packing<'a> {
    space: &'a Space,
    over: bool,
}

impl<'a> Packing<'a> {
    fn begin(space: &'a Space) -> Result<Self> {
        let packing = Self { space, over: false };
        let spread = fs::read_to_string(Self::spread())?;
        let profile = "    - schedulerName: kubevmm-scheduler\n";
        let most = "      pluginConfig:\n      - name: NodeResourcesFit\n        args:\n          scoringStrategy:\n            \
                    type: MostAllocated\n            resources: [{name: cpu, weight: 1}, {name: memory, weight: 1}]\n";
        let pack = spread.replace("--policy=spread", "--policy=pack").replace(profile, &format!("{profile}{most}"));
        ensure!(
            pack.contains("--policy=pack") && pack.contains("MostAllocated\n"),
            "the manifest has changed:\n{spread}"
        );
        let file = space.cluster.state().join("pack.yaml");
        fs::write(&file, pack)?;
        packing.schedule_by(&file)?;
        Ok(packing)
    }

    fn end(mut self) -> Result<()> {
        self.over = true;
        self.schedule_by(&Self::spread())
    }

    fn spread() -> PathBuf {
        work_tree().join("yamls/60-scheduler.yaml")
    }

    fn schedule_by(&self, manifest: &Path) -> Result<()> {
        let cluster = self.space.cluster;
        cluster.kubectl(["apply", "-f", &manifest.to_string_lossy()])?;
        cluster.kubectl(["-n", SYSTEM, "rollout", "status", "deployment/kubevmm-scheduler", "--timeout=120s"])?;
        wait_for("the scheduler before it is gone", within(60), || {
            let pods = self.space.api().list(api::POD, SYSTEM)?;
            let schedulers =
                pods.iter().filter(|pod| pod["metadata"]["labels"]["app.kubernetes.io/name"] == "kubevmm-scheduler");
            Ok((schedulers.count() == 1).then_some(()))
        })
    }
}

impl Drop for Packing<'_> {
    fn drop(&mut self) {
        if !self.over
            && let Err(error) = self.schedule_by(&Self::spread())
        {
            eprintln!("VMs are packed still: {error:#}");
        }
    }
}

fn vms_are_spread_or_packed_by_policy(space: &Space) -> Result<()> {
    let (overcommit, size) = Overcommitted::hosts(space)?;
    // Virtual CPUs, which the scheduler itself does not know of.
    let busy = |node: &str| size.filler(space, &format!("busy-{node}"), node, [0.6, 0.0, 0.0]);
    // A host that is to be packed has both in use, for it is to be used evenly, too.
    let large = |node: &str| size.filler(space, &format!("large-{node}"), node, [0.0, 0.0, 0.6]);
    let first = busy("h1")?;
    probe_lands_on(space, "h2").context("VMs are spread")?;
    let second = large("h1")?;
    let packing = Packing::begin(space)?;
    probe_lands_on(space, "h1").context("VMs are packed")?;
    first.delete()?;
    second.vanishes()?;
    first.is_gone()?;
    let second = large("h2")?;
    let _first = busy("h2")?;
    probe_lands_on(space, "h2").context("VMs are packed")?;
    second.vanishes()?;
    packing.end()?;
    probe_lands_on(space, "h1").context("VMs are spread")?;
    drop(overcommit);
    space.cluster.is_whole()
}

/// Both hosts are full to the same part, the one as to memory and CPU alike. To the scheduler itself, which counts what is
/// requested, both look the same.
fn memory_and_cpu_are_used_evenly(space: &Space) -> Result<()> {
    let (overcommit, size) = Overcommitted::hosts(space)?;
    for (even, uneven) in [("h1", "h2"), ("h2", "h1")] {
        let fillers = [
            size.filler(space, &format!("even-{even}"), even, [0.4, 0.0, 0.4])?,
            size.filler(space, &format!("uneven-{uneven}"), uneven, [0.8, 0.4, 0.0])?,
        ];
        probe_lands_on(space, even)?;
        fillers.iter().try_for_each(Vm::delete)?;
        fillers.iter().try_for_each(Vm::is_gone)?;
    }
    drop(overcommit);
    Ok(())
}
