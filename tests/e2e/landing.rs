//! Hosts that differ in what libvirt can do: a VM waits while none has what it asks for, is told why, and lands on the one
//! that has it.

use anyhow::{Context, Result, anyhow, ensure};
use kubevmm_lab::Daemon;
use kubevmm_tests::cluster::SPARE_HOST;
use kubevmm_tests::{Host, Json, Space, Vm, api, wait_for, within};
use serde_json::json;

kubevmm_tests::stories! { alone: true;
    what_one_host_alone_offers_brings_vms_there,
    a_host_without_space_is_never_chosen,
    data_keeps_a_vm_on_its_host,
}

const MODEL: &str = "Nehalem";
const FEATURE: &str = "popcnt";

/// What is taken from a host.
#[derive(Clone)]
struct Lack {
    /// A machine type of QEMU's that no other story uses.
    machine: String,
    /// Address of a PCI device.
    device: String,
}

impl Lack {
    /// What a host has that it can do without for a while.
    fn of(space: &Space, host: &Host) -> Result<Self> {
        let offers = offers(space, host)?;
        let machines = offers["capabilities"]["machines"].as_array().context("no machine types")?;
        let mut versions: Vec<(u32, u32)> = machines
            .iter()
            .filter_map(|machine| machine.as_str()?.strip_prefix("pc-q35-")?.split_once('.'))
            .filter_map(|(major, minor)| Some((major.parse().ok()?, minor.parse().ok()?)))
            .collect();
        versions.sort_unstable();
        // The newest is the one that every VM has.
        let (major, minor) = versions.iter().rev().nth(1).context("QEMU has one machine type only")?;
        // Rather one that is neither the disk nor the NIC of the machine that the lab is on.
        let device = host.sh("cd /sys/bus/pci/devices; for device in *; do \
             case $(cat $device/class) in 0x06*) continue;; esac; \
             found=$(find $device/ -maxdepth 3 -name block -o -maxdepth 3 -name net); echo \"${found:+used} $device\"; \
             done | sort | head -n1 | awk '{ print $NF }'")?;
        let device = device.trim().to_owned();
        ensure!(has(&offers["devices"], "address", &device), "{device:?} is not told: {}", offers["devices"]);
        Ok(Self { machine: format!("pc-q35-{major}.{minor}"), device })
    }

    /// What libvirt asked QEMU about its machines and CPUs it keeps in files; a device that Linux does not show is not
    /// there; and an empty firmware descriptor of the administrator's hides the one of the same name.
    fn take(&self) -> String {
        let Self { machine, device } = self;
        format!(
            "set -e; cp -a /var/cache/libvirt/qemu/capabilities /run/lack; \
             sed -i \"/<machine type='[a-z]*' name='{machine}'/d; \
             /<cpu type='[a-z]*' name='{MODEL}' /s/usable='yes'/usable='no'/; \
             /<property name='{FEATURE}'/s/value='true'/value='false'/\" /var/cache/libvirt/qemu/capabilities/*.xml; \
             mkdir -p /etc/qemu/firmware; \
             for file in /usr/share/qemu/firmware/*.json; do : >/etc/qemu/firmware/$(basename $file); done; \
             mv /usr/bin/swtpm /usr/bin/swtpm.away; \
             mount -t tmpfs -o size=4k,ro none $(readlink -f /sys/bus/pci/devices/{device})"
        )
    }

    /// Undoes as much of it as has been done.
    fn give_back(&self) -> String {
        let Self { device, .. } = self;
        format!(
            "if [ -d /run/lack ]; then cp -a /run/lack/. /var/cache/libvirt/qemu/capabilities/; rm -r /run/lack; fi; \
             rm -rf /etc/qemu/firmware; \
             if [ -e /usr/bin/swtpm.away ]; then mv /usr/bin/swtpm.away /usr/bin/swtpm; fi; \
             device=$(readlink -f /sys/bus/pci/devices/{device}); \
             if mountpoint -q $device; then umount $device; fi"
        )
    }
}

/// A host that lacks something, until this is dropped.
struct Poor {
    host: Host,
    lack: Lack,
    mended: bool,
}

impl Poor {
    fn make(host: Host, lack: &Lack) -> Result<Self> {
        let poor = Self { host, lack: lack.clone(), mended: false };
        poor.change(&lack.take())?;
        Ok(poor)
    }

    fn mend(&mut self) -> Result<()> {
        self.mended = true;
        self.change(&self.lack.give_back())
    }

    /// libvirt asks anew when it starts.
    fn change(&self, script: &str) -> Result<()> {
        self.host.stop(Daemon::Libvirtd)?;
        let changed = self.host.sh(script);
        self.host.start(Daemon::Libvirtd)?;
        self.host.libvirt_answers()?;
        changed.map(drop)
    }
}

impl Drop for Poor {
    fn drop(&mut self) {
        if !self.mended
            && let Err(error) = self.mend()
        {
            eprintln!("{} lacks something still: {error:#}", self.host.name);
        }
    }
}

/// No VM is placed on the host, and it says so, until this is dropped.
struct Maintenance<'a>(&'a Space, &'static str);

impl<'a> Maintenance<'a> {
    fn begin(space: &'a Space, node: &'static str) -> Result<Self> {
        space.api().patch(api::HYPERVISOR, "", node, &json!({"spec": {"maintenance": true}}))?;
        Ok(Self(space, node))
    }
}

impl Drop for Maintenance<'_> {
    fn drop(&mut self) {
        let Self(space, node) = self;
        let over = json!({"spec": {"maintenance": null}});
        if let Err(error) = space.api().patch(api::HYPERVISOR, "", node, &over) {
            eprintln!("{node} is in maintenance still: {error:#}");
        }
    }
}

fn offers(space: &Space, host: &Host) -> Result<Json> {
    let hypervisor = space.api().get(api::HYPERVISOR, "", &host.name.to_string())?;
    Ok(hypervisor.with_context(|| format!("there is no Hypervisor {}", host.name))?["status"].clone())
}

/// Whether an item of the list has the value for the key.
fn has(list: &Json, key: &str, value: &str) -> bool {
    list.as_array().into_iter().flatten().any(|item| item[key] == value)
}

fn contains(list: &Json, word: &str) -> bool {
    list.as_array().into_iter().flatten().any(|item| item == word)
}

/// How many of the six things the host offers.
fn offered(status: &Json, lack: &Lack) -> usize {
    let found = &status["capabilities"];
    let cpu = &found["cpu"];
    [
        contains(&cpu["models"], MODEL),
        contains(&cpu["features"], FEATURE),
        contains(&found["machines"], &lack.machine),
        contains(&found["firmwares"], "uefi"),
        contains(&found["tpmBackends"], "emulator"),
        has(&status["devices"], "address", &lack.device),
    ]
    .into_iter()
    .filter(|offered| *offered)
    .count()
}

fn offers_become(space: &Space, host: &Host, lack: &Lack, count: usize) -> Result<()> {
    wait_for(&format!("{} tells of {count} of the six things", host.name), within(60), || {
        let status = offers(space, host)?;
        let told = offered(&status, lack);
        if told == count { Ok(Some(())) } else { Err(anyhow!("{told}: {}", status["capabilities"])) }
    })
}

/// A device of the host, which libvirt is not to take from the host's driver.
fn with_device(address: &str) -> Result<String> {
    let parts: Vec<u32> =
        address.split([':', '.']).map(|part| u32::from_str_radix(part, 16)).collect::<Result<_, _>>()?;
    let [domain, bus, slot, function] = parts.as_slice() else { return Err(anyhow!("{address} is no PCI address")) };
    Ok(format!(
        "{{devices: {{hostdevs: [{{mode: subsystem, type: pci, managed: false, source: {{address: \
         {{domain: {domain}, bus: {bus}, slot: {slot}, function: {function}}}}}}}]}}}}"
    ))
}

fn what_one_host_alone_offers_brings_vms_there(space: &Space) -> Result<()> {
    let (h1, h2) = (space.cluster.host("h1"), space.cluster.host("h2"));
    let lack = Lack::of(space, &h2)?;
    for host in [&h1, &h2] {
        offers_become(space, host, &lack, 6)?;
    }
    let spare = Maintenance::begin(space, SPARE_HOST)?;
    let (mut poor, mut mended) = (Poor::make(h1, &lack)?, Poor::make(h2, &lack)?);
    for host in [&h1, &h2] {
        offers_become(space, host, &lack, 0)?;
    }
    let machine = &lack.machine;
    let tpm = "{model: tpm-crb, backend: {type: emulator, version: '2.0'}}";
    let conroe = format!("{{mode: custom, model: Conroe, features: [{{policy: require, name: {FEATURE}}}]}}");
    let device = with_device(&lack.device)?;
    let asked = [
        (
            "model",
            format!("{{cpu: {{mode: custom, model: {MODEL}}}}}"),
            "NoHostWithCPU",
            format!("its CPU cannot be a {MODEL}"),
        ),
        ("feature", format!("{{cpu: {conroe}}}"), "NoHostWithCPU", format!("its CPU does not have {FEATURE}")),
        (
            "machine",
            format!("{{os: {{type: {{machine: {machine}}}}}}}"),
            "NoHostWithMachine",
            format!("its QEMU does not know the machine type {machine}"),
        ),
        (
            "firmware",
            "{os: {firmware: efi}}".to_owned(),
            "NoHostWithFirmware",
            "it does not have the firmware uefi (bios only): install it there".to_owned(),
        ),
        (
            "tpm",
            format!("{{devices: {{tpms: [{tpm}]}}}}"),
            "NoHostWithTPM",
            "it has no TPM of the kind emulator: install swtpm there".to_owned(),
        ),
        ("device", device.clone(), "NoHostWithDevice", format!("it does not have the PCI device {}", lack.device)),
    ];
    let vms: Vec<Vm> = asked
        .iter()
        .map(|(name, domain, ..)| space.blank(name).with(&format!("spec: {{disks: [], domain: {domain}}}")).apply())
        .collect::<Result<_>>()?;
    for (vm, (name, _, reason, says)) in vms.iter().zip(&asked) {
        let why = vm.condition("Scheduled", "False", reason)?;
        ensure!(why.contains(&format!("h1, h2: {says}")), "{name}: {why}");
        ensure!(why.contains(&format!("{SPARE_HOST}: it is in maintenance")), "{name}: {why}");
        vm.stays_off(0)?;
    }

    mended.mend()?;
    offers_become(space, &h2, &lack, 6)?;
    for vm in vms.iter().filter(|vm| vm.name != "device") {
        vm.is_ready().with_context(|| format!("what {} asks for is on h2", vm.name))?;
        ensure!(vm.host()?.name == h2.name, "{} runs on {}", vm.name, vm.host()?.name);
    }
    // The lab's hosts have no IOMMU, without which libvirt gives no device away: the VM gets no further than its host.
    let holder = space.vm("device");
    holder
        .wait("is placed on h2", within(60), |vm| vm["status"]["nodeName"] == "h2" && api::is_true(vm, "Scheduled"))?;
    let second = space.blank("second").with(&format!("spec: {{disks: [], domain: {device}}}")).apply()?;
    let why = second.condition("Scheduled", "False", "NoHostWithDevice")?;
    let taken = format!("h2: the VM {}/device has its PCI device {}: stop that VM", space.namespace, lack.device);
    ensure!(why.contains(&taken), "{why}");
    holder.patch("{runStrategy: Halted}")?;
    second.wait("gets the device that is free", within(60), |vm| {
        vm["status"]["nodeName"] == "h2" && api::is_true(vm, "Scheduled")
    })?;
    for vm in vms.iter().chain([&second]) {
        vm.delete()?;
    }
    for vm in vms.iter().chain([&second]) {
        vm.is_gone()?;
    }

    poor.mend()?;
    offers_become(space, &h1, &lack, 6)?;
    drop(spare);
    space.cluster.is_whole()
}

/// A small file system where a host keeps a pool, until this is dropped.
struct SmallDisk {
    host: Host,
    path: String,
}

impl SmallDisk {
    fn mount(host: Host, path: &str) -> Result<Self> {
        host.sh(&format!("mkdir -p {path} && mount -t tmpfs -o size=16m none {path}"))?;
        Ok(Self { host, path: path.to_owned() })
    }
}

impl Drop for SmallDisk {
    fn drop(&mut self) {
        let Self { host, path } = self;
        if let Err(error) = host.sh(&format!("umount {path} && rmdir {path}")) {
            eprintln!("{} has a small disk still: {error:#}", host.name);
        }
    }
}

fn a_host_without_space_is_never_chosen(space: &Space) -> Result<()> {
    let pool = space.pool_name();
    let path = format!("/var/lib/kubevmm/{pool}");
    let small = SmallDisk::mount(space.cluster.host("h1"), &path)?;
    space.apply(&format!(
        "{{apiVersion: kubevmm.io/v1beta1, kind: VirtualMachineStoragePool, metadata: {{name: {pool}}}, \
         spec: {{dir: {{path: {path}}}}}}}"
    ))?;
    let disk = |size: &str| {
        format!(
            "spec: {{disks: [{{name: root, template: {{size: {size}, poolName: {pool}, source: {{blank: {{}}}}}}}}]}}"
        )
    };
    let fits = space.blank("fits").with(&disk("8Mi")).on("h1").apply()?;
    fits.is_ready()?;
    let big = space.blank("big").with(&disk("32Mi")).on("h1").apply()?;
    let why = big.condition("Scheduled", "False", "Unschedulable")?;
    ensure!(why.contains(&format!("the VM's disks need 32Mi in the pool {pool}, and it has ")), "{why}");
    // Elsewhere there is room.
    big.patch("{placement: null}")?;
    let more =
        (0..2).map(|n| space.blank(&format!("more-{n}")).with(&disk("32Mi")).apply()).collect::<Result<Vec<_>>>()?;
    for vm in more.iter().chain([&big]) {
        vm.is_ready()?;
        ensure!(vm.host()?.name.to_string() == "h2", "{} runs on {}", vm.name, vm.host()?.name);
    }
    for vm in more.iter().chain([&big, &fits]) {
        vm.vanishes()?;
    }
    space.api().delete(api::POOL, "", pool)?;
    space.api().wait_gone(api::POOL, "", pool, within(60))?;
    drop(small);
    Ok(())
}

fn data_keeps_a_vm_on_its_host(space: &Space) -> Result<()> {
    let vm = space.blank("web").on("h1").apply()?;
    vm.is_ready()?;
    vm.patch("{runStrategy: Halted}")?;
    vm.is_off()?;
    let maintenance = Maintenance::begin(space, "h1")?;
    vm.patch("{runStrategy: Always, placement: null}")?;
    let why = vm.condition("Scheduled", "False", "HostOfDataNotReady")?;
    let says = ["h1: it is in maintenance", "the volume of the disk web-root lies on h1"];
    ensure!(why.contains(says[0]) && why.contains(says[1]), "{why}");
    vm.stays_off(1)?;
    drop(maintenance);
    vm.is_ready()?;
    ensure!(vm.host()?.name.to_string() == "h1", "it runs on {}", vm.host()?.name);
    vm.vanishes()
}
