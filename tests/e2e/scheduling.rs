//! What Kubernetes says of where a pod may run holds for VMs: affinity, spread, quota, priority. And what libvirt says of
//! its host is told.

use anyhow::{Context, Result, ensure};
use kubevmm_api::{Quantity, SYSTEM_NAMESPACE};
use kubevmm_tests::cluster::SPARE_HOST;
use kubevmm_tests::{Host, Json, Space, Vm, api, wait_for, within};

kubevmm_tests::stories! { alone: false;
    vms_keep_apart_and_together,
    vms_spread_over_hosts,
    a_quota_is_told_in_words,
    a_limit_range_holds_for_vms,
    what_no_host_has_is_told,
    memory_of_foreign_domains_is_reserved,
}

/// VMs that take most of a host.
pub(crate) mod alone {
    use super::*;

    kubevmm_tests::stories! { alone: true;
        a_vm_of_higher_priority_takes_the_place_of_another,
        what_an_administrator_says_of_the_hosts_holds,
    }
}

const HOSTNAME: &str = "kubernetes.io/hostname";

/// A VM with the label `app`, placed like this.
fn labelled(space: &Space, name: &str, app: &str, placement: &str) -> Result<Vm> {
    let label = format!("{{metadata: {{labels: {{app: {app}}}}}, spec: {{placement: {{{placement}}}}}}}");
    space.blank(name).with(&label).apply()
}

fn near_pods(app: &str) -> String {
    format!(
        "requiredDuringSchedulingIgnoredDuringExecution: [{{topologyKey: {HOSTNAME}, \
         labelSelector: {{matchLabels: {{app: {app}}}}}}}]"
    )
}

fn vms_keep_apart_and_together(space: &Space) -> Result<()> {
    let apart = format!("affinity: {{podAntiAffinity: {{{}}}}}", near_pods("web"));
    let webs = (0..3).map(|n| labelled(space, &format!("web-{n}"), "web", &apart)).collect::<Result<Vec<_>>>()?;
    // The lab has two hosts for three of them.
    let waiting = wait_for("two of them run, and the third is told why it waits", within(120), || {
        let all = webs.iter().map(Vm::get).collect::<Result<Vec<_>>>()?;
        let ready = all.iter().filter(|vm| api::is_true(vm, "Ready")).count();
        let waits = all.iter().position(|vm| {
            let (_, reason, message) = api::condition(vm, "Scheduled");
            reason == "Unschedulable" && message.contains("keeps it away from other VMs")
        });
        Ok(waits.filter(|_| ready == 2))
    })?;
    let placed: Vec<&Vm> = webs.iter().enumerate().filter(|(n, _)| *n != waiting).map(|(_, vm)| vm).collect();
    let (one, other) = (placed[0].host()?.name, placed[1].host()?.name);
    ensure!(one != other, "both are on {one}");
    webs[waiting].vanishes()?;

    let near = |app: &str| format!("affinity: {{podAffinity: {{{}}}}}", near_pods(app));
    let on_h2 = format!("nodeSelector: {{{HOSTNAME}: h2}}");
    labelled(space, "store", "store", &on_h2)?.is_ready()?;
    for n in 0..2 {
        let vm = labelled(space, &format!("cache-{n}"), "cache", &near("store"))?;
        vm.is_ready()?;
        ensure!(vm.host()?.name.to_string() == "h2", "{} is not near the store", vm.name);
    }
    let nowhere = labelled(space, "lonely", "lonely", &near("nobody"))?;
    let why = nowhere.condition("Scheduled", "False", "Unschedulable")?;
    ensure!(why.contains("wants it near other VMs"), "{why}");
    Ok(())
}

fn vms_spread_over_hosts(space: &Space) -> Result<()> {
    let label = format!("story-{}", space.namespace);
    space.cluster.kubectl(["label", "node", "h1", "h2", &format!("{label}=here")])?;
    let spread = format!(
        "nodeSelector: {{{label}: here}}, topologySpreadConstraints: [{{maxSkew: 1, topologyKey: {HOSTNAME}, \
         whenUnsatisfiable: DoNotSchedule, labelSelector: {{matchLabels: {{app: crowd}}}}}}]"
    );
    let vms = (0..4).map(|n| labelled(space, &format!("vm-{n}"), "crowd", &spread)).collect::<Result<Vec<_>>>()?;
    let mut on_h1 = 0;
    for vm in &vms {
        vm.is_ready()?;
        on_h1 += usize::from(vm.host()?.name.to_string() == "h1");
    }
    space.cluster.kubectl(["label", "node", "h1", "h2", &format!("{label}-")])?;
    ensure!(on_h1 == 2, "{on_h1} of 4 are on h1");
    Ok(())
}

fn a_quota_is_told_in_words(space: &Space) -> Result<()> {
    let quota = |memory: &str| {
        space.apply(&format!(
            "{{apiVersion: v1, kind: ResourceQuota, metadata: {{name: small}}, spec: {{hard: {{requests.memory: {memory}}}}}}}"
        ))
    };
    quota("400Mi")?;
    // The API server refuses pods until the quota has been counted once.
    let counted = |quota: &Json| quota["status"]["hard"]["requests.memory"] == "400Mi";
    space.api().wait(api::QUOTA, &space.namespace, "small", "is counted", within(30), counted)?;
    let [first, second] = ["first", "second"].map(|name| space.blank(name));
    let first = first.apply()?;
    first.is_ready()?;
    let used = requests(&first, "memory")?;
    let second = second.with("spec: {memory: {size: 256Mi}}").apply()?;
    let why = second.condition("Scheduled", "False", "QuotaExceeded")?;
    let says = format!(
        "the ResourceQuota small of the namespace has no room for the VM, which asks for 393Mi of \
                        requests.memory, of which {used} are used of 400Mi"
    );
    ensure!(why.contains(&says), "{why}");
    first.patch("{runStrategy: Halted}")?;
    second.is_ready()?;
    first.patch("{runStrategy: Always}")?;
    first.condition("Scheduled", "False", "QuotaExceeded")?;
    quota("2Gi")?;
    first.is_ready().map(drop)
}

/// What the placement pod of a VM asks for.
fn requests(vm: &Vm, resource: &str) -> Result<String> {
    let placed = vm.get()?;
    let pod = placed["status"]["placement"]["podName"].as_str().context("no placement pod")?;
    let namespace = placed["metadata"]["namespace"].as_str().unwrap_or_default();
    let pod = kubevmm_tests::Cluster::get().api.get(api::POD, namespace, pod)?.context("the pod is gone")?;
    Ok(pod["spec"]["containers"][0]["resources"]["requests"][resource].as_str().unwrap_or_default().to_owned())
}

fn a_limit_range_holds_for_vms(space: &Space) -> Result<()> {
    let limits = |limits: &str| {
        space.apply(&format!(
            "{{apiVersion: v1, kind: LimitRange, metadata: {{name: limits}}, spec: {{limits: [{{type: Container, {limits}}}]}}}}"
        ))
    };
    // Less than what a VM asks for: pods that say nothing get it.
    limits("default: {memory: 16Mi, cpu: 10m}, defaultRequest: {memory: 8Mi, cpu: 5m}")?;
    let vm = space.blank("web").apply()?;
    vm.is_ready()?;
    let memory = Quantity::from_bytes((32 << 20) + kubevmm_api::overhead::bytes(32 << 20, 1)).0;
    ensure!(requests(&vm, "memory")? == memory, "it asks for {} instead of {memory}", requests(&vm, "memory")?);
    limits("max: {memory: 100Mi}")?;
    vm.stays_ready(3)?;
    let big = space.blank("big").apply()?;
    let why = big.condition("Scheduled", "False", "LimitRangeExceeded")?;
    ensure!(why.contains(&format!("maximum memory usage per Container is 100Mi, but limit is {memory}")), "{why}");
    limits("max: {memory: 1Gi}")?;
    big.is_ready().map(drop)
}

fn what_no_host_has_is_told(space: &Space) -> Result<()> {
    let device = "{mode: subsystem, type: pci, source: {address: {domain: 0, bus: '0xfe', slot: '0x1f', function: 7}}}";
    for (name, spec, reason, says) in [
        ("cpu", "domain: {cpu: {mode: custom, model: NoSuchCPU}}".to_owned(), "NoHostWithCPU", "cannot be a NoSuchCPU"),
        ("machine", "domain: {os: {type: {machine: pc-q35-99.9}}}".to_owned(), "NoHostWithMachine", "pc-q35-99.9"),
        ("device", format!("domain: {{devices: {{hostdevs: [{device}]}}}}"), "NoHostWithDevice", "0000:fe:1f.7"),
        ("kvm", "domain: {type: kvm}".to_owned(), "NoHostWithKVM", "the host has none"),
        (
            "feature",
            "domain: {cpu: {mode: host-model, features: [{policy: require, name: telepathy}]}}".to_owned(),
            "NoHostWithCPU",
            "telepathy",
        ),
        (
            "space",
            "disks: [{name: root, template: {size: 40Ti, source: {blank: {}}}}]".to_owned(),
            "NoHostWithSpace",
            "the VM's disks need 40Ti in the pool",
        ),
    ] {
        let vm = space.blank(name).with(&format!("spec: {{{spec}}}")).apply()?;
        let why = vm.condition("Scheduled", "False", reason)?;
        ensure!(why.contains(says) && why.contains("h1") && why.contains("h2"), "{name}: {why}");
        vm.stays_off(1)?;
        if name != "space" {
            // Without the wish, it finds a host by itself.
            vm.patch("{domain: null}")?;
            vm.is_ready()?;
        }
        vm.vanishes()?;
    }
    Ok(())
}

fn memory_of_foreign_domains_is_reserved(space: &Space) -> Result<()> {
    let h2 = space.cluster.host("h2");
    let before = reserved(space, &h2)?.context("nothing is reserved for the foreign domain of the lab")?;
    let domain = space.namespace.as_str();
    h2.virsh_xml(
        "create",
        &format!(
            "<domain type='qemu'><name>{domain}</name><memory unit='MiB'>64</memory>\
             <os><type arch='x86_64' machine='pc'>hvm</type></os></domain>"
        ),
    )?;
    let grown = before.1 + (64 << 20) + kubevmm_api::overhead::bytes(64 << 20, 1);
    let wait = |what: &str, bytes: u64| {
        wait_for(what, within(60), || Ok(reserved(space, &h2)?.filter(|(_, reserved)| *reserved == bytes)))
    };
    let pod = wait("the memory of the new domain is reserved, too", grown)?;
    ensure!(pod.0 == before.0, "the pod was made anew");
    h2.virsh(["destroy", domain])?;
    wait("it is given back", before.1).map(drop)
}

/// UID of the host's reservation pod, and the bytes that it has been given by its kubelet.
fn reserved(space: &Space, host: &Host) -> Result<Option<(String, u64)>> {
    let name = kubevmm_api::names::reservation_pod(&host.name.to_string());
    let Some(pod) = space.api().get(api::POD, SYSTEM_NAMESPACE, &name)? else { return Ok(None) };
    let given = &pod["status"]["containerStatuses"][0]["allocatedResources"]["memory"];
    let Some(given) = given.as_str() else { return Ok(None) };
    let bytes = Quantity(given.to_owned()).bytes()?;
    Ok(Some((pod["metadata"]["uid"].as_str().unwrap_or_default().to_owned(), bytes)))
}

fn a_vm_of_higher_priority_takes_the_place_of_another(space: &Space) -> Result<()> {
    let classes = [("low", 10), ("high", 1000)].map(|(name, value)| {
        let class = format!("{}-{name}", space.namespace);
        let made = space.cluster.kubectl(["create", "priorityclass", &class, &format!("--value={value}")]);
        made.map(|_| class)
    });
    let [low, high] = classes;
    let (low, high) = (low?, high?);
    let node = space.cluster.kubectl(["get", "node", "h1", "-o", "jsonpath={.status.allocatable.memory}"])?;
    // More than half of the host, which QEMU does not touch.
    let size = Quantity(node.trim().to_owned()).bytes()? / (1 << 20) * 6 / 10;
    let vm = |name: &str, class: &str| {
        let spec = format!("spec: {{memory: {{size: {size}Mi}}, placement: {{priorityClassName: {class}}}}}");
        space.blank(name).on("h1").with(&spec).apply()
    };
    let poor = vm("poor", &low)?;
    poor.is_ready()?;
    let h1 = space.cluster.host("h1");
    let (old, rich) = (poor.qemu()?, vm("rich", &high)?);
    let (rich_uuid, mut both) = (rich.uuid()?, false);
    wait_for("the VM of higher priority runs", within(120), || {
        both |= old.runs() && h1.qemus().contains_key(&rich_uuid);
        Ok(api::is_true(&rich.get()?, "Ready").then_some(()))
    })?;
    ensure!(!both && !old.runs(), "it was started before the memory of the other one was free");
    poor.last_stop_is("Evicted")?;
    let why = poor.condition("Scheduled", "False", "Unschedulable")?;
    ensure!(why.contains("of memory, its own and QEMU's: stop another VM"), "{why}");
    rich.patch("{runStrategy: Halted}")?;
    poor.is_ready()?;
    poor.vanishes()?;
    rich.vanishes()?;
    space.cluster.kubectl(["delete", "priorityclass", &low, &high]).map(drop)
}

fn what_an_administrator_says_of_the_hosts_holds(space: &Space) -> Result<()> {
    let say = |hosts: &[&str], spec: &str| -> Result<()> {
        for host in hosts {
            let patch = format!("{{\"spec\": {spec}}}");
            space.cluster.kubectl(["patch", "hv", host, "--type=merge", "-p", &patch])?;
        }
        Ok(())
    };
    let class = space.namespace.as_str();
    space.apply(&format!(
        "{{apiVersion: kubevmm.io/v1beta1, kind: VirtualMachineClass, metadata: {{name: {class}}}, spec: {{cpu: {{cores: 5}}}}}}"
    ))?;
    let all = ["h1", "h2", SPARE_HOST];
    let result = (|| {
        say(&all, "{\"maintenance\": true}")?;
        let small = space.blank("small").apply()?;
        let why = small.condition("Scheduled", "False", "HostInMaintenance")?;
        ensure!(why.contains("set spec.maintenance of its Hypervisor to false"), "{why}");
        say(&["h1"], "{\"maintenance\": false}")?;
        small.is_ready()?;
        ensure!(small.host()?.name.to_string() == "h1", "it is on {}", small.host()?.name);
        small.vanishes()?;
        // The lab's hosts have two CPUs.
        say(&all, "{\"maintenance\": false, \"overcommit\": {\"cpu\": 2}}")?;
        let vm = space.blank("web").with(&format!("spec: {{className: {class}}}")).apply()?;
        let why = vm.condition("Scheduled", "False", "NoHostWithFreeCPU")?;
        ensure!(why.contains("the VM has 5 vCPUs"), "{why}");
        say(&["h2"], "{\"overcommit\": {\"cpu\": 10}}")?;
        vm.is_ready()?;
        ensure!(vm.host()?.name.to_string() == "h2", "it is on {}", vm.host()?.name);
        // What runs goes on.
        say(&["h2"], "{\"maintenance\": true}")?;
        vm.stays_ready(3)?;
        vm.vanishes()
    })();
    say(&all, "{\"maintenance\": null, \"overcommit\": null}")?;
    space.api().delete(api::CLASS, "", class)?;
    result
}
