//! Each filter refuses and accepts, and says why; each part of the score counts.

use serde_json::json;

use super::*;
use crate::Hypervisor;
use crate::requirements::Requirements;

mod claims;
mod score;
mod summary;

/// A host whose Hypervisor has this status beside Ready.
pub(super) fn offer(status: &str) -> Offer {
    full_offer("", status)
}

fn full_offer(spec: &str, status: &str) -> Offer {
    let text = format!(
        "{{apiVersion: kubevmm.io/v1beta1, kind: Hypervisor, metadata: {{name: a}}, spec: {{{spec}}}, status: {{conditions: \
         [{{type: Ready, status: 'True', reason: Connected, message: '', lastTransitionTime: '2026-01-01T00:00:00Z'}}], \
         {status}}}}}"
    );
    let hypervisor: Hypervisor = serde_yaml_ng::from_str(&text).unwrap_or_else(|error| panic!("{error}: {text}"));
    Offer::of(&hypervisor)
}

pub(super) fn needs(yaml: &str) -> Requirements {
    serde_yaml_ng::from_str(&format!("{{{yaml}}}")).unwrap()
}

/// The host a, alive.
pub(super) fn facts<'a>(offer: &'a Offer, claims: &'a Claims) -> HostFacts<'a> {
    HostFacts { name: "a", offer: Some(offer), live: true, claims, apart_from: &["own"] }
}

fn asked(needs_of: &str, status: &str) -> Result<(), Refusal> {
    check(&needs(needs_of), &facts(&offer(status), &Claims::default()))
}

#[track_caller]
fn accepts(needs_of: &str, status: &str) {
    assert_eq!(asked(needs_of, status), Ok(()), "{needs_of} of {status}");
}

#[track_caller]
fn refuses(needs_of: &str, status: &str, reason: &str, message: &str) {
    let refusal = asked(needs_of, status).unwrap_err();
    assert_eq!((refusal.reason(), refusal.message.as_str(), refusal.resolvable), (reason, message, false));
}

const HAS: &str = "capabilities: {cpu: {model: Skylake, models: [Haswell, qemu64], features: [avx, sse]}, \
                   machines: [pc, pc-q35-10.0, q35], firmwares: [bios, uefi], tpmBackends: [emulator]}";

#[test]
fn a_host_must_be_ready_alive_and_not_in_maintenance() {
    let claims = Claims::default();
    let nothing = Requirements::default();
    let ready = offer("");
    let of = |offer| HostFacts { offer, ..facts(&ready, &claims) };
    assert_eq!(check(&nothing, &of(Some(&ready))), Ok(()));
    let unready = |ready: &str, message: &str| {
        let text = format!(
            "{{metadata: {{name: a}}, spec: {{}}, status: {{conditions: [{{type: Ready, status: '{ready}', reason: \
             LibvirtUnavailable, message: '{message}', lastTransitionTime: '2026-01-01T00:00:00Z'}}]}}, apiVersion: \
             kubevmm.io/v1beta1, kind: Hypervisor}}"
        );
        Offer::of(&serde_yaml_ng::from_str(&text).unwrap())
    };
    let silent = HostFacts { live: false, ..of(Some(&ready)) };
    let (down, lost) = (unready("False", "no socket"), unready("Unknown", ""));
    let (new, kept) = (Offer::of(&Hypervisor::default()), full_offer("maintenance: true", ""));
    for (host, why, message) in [
        (of(None), Why::NotReady, "no executor runs there: it has no Hypervisor (kubectl get hv)"),
        (of(Some(&new)), Why::NotReady, "its executor has not reported yet"),
        (of(Some(&down)), Why::NotReady, "no socket"),
        (of(Some(&lost)), Why::NotReady, "LibvirtUnavailable"),
        (silent, Why::Silent, "its executor does not answer: bring the host back"),
        (
            of(Some(&kept)),
            Why::Maintenance,
            "it is in maintenance: an administrator can set spec.maintenance of its Hypervisor to false",
        ),
    ] {
        let refusal = check(&nothing, &host).unwrap_err();
        assert_eq!(refusal, Refusal { why, resolvable: false, message: message.into() });
    }
}

#[test]
fn kvm_is_a_fact_of_the_host() {
    accepts("kvm: true", "accelerator: {type: KVM, evidence: probe}");
    accepts("", "accelerator: {type: TCG, evidence: no /dev/kvm}");
    refuses(
        "kvm: true",
        "accelerator: {type: TCG, evidence: no /dev/kvm}",
        "NoHostWithKVM",
        "the VM's domain is one of KVM, and the host has none (no /dev/kvm): switch virtualisation on in its firmware, or \
         remove type: kvm from spec.domain",
    );
    refuses(
        "kvm: true",
        "",
        "NoHostWithKVM",
        "the VM's domain is one of KVM, and the executor has not told whether the host has it",
    );
}

#[test]
fn the_cpu_is_one_that_the_host_can_be() {
    accepts("cpuModel: Haswell", HAS);
    accepts("cpuModel: Skylake", "capabilities: {cpu: {model: Skylake}}");
    let nearest = "its CPU cannot be a Skylake (it is nearest to a Skylake): choose a model that status.capabilities.cpu.models of a \
                   Hypervisor lists";
    refuses("cpuModel: Skylake", HAS, "NoHostWithCPU", nearest);
    accepts("cpuFeatures: [sse, avx]", HAS);
    accepts("cpuFeatures: [amx]", "capabilities: {cpu: {}}");
    accepts("cpuFeatures: [amx]", "");
    refuses(
        "cpuModel: EPYC",
        HAS,
        "NoHostWithCPU",
        "its CPU cannot be a EPYC (it is nearest to a Skylake): choose a model that status.capabilities.cpu.models of a Hypervisor lists",
    );
    refuses(
        "cpuModel: EPYC",
        "",
        "NoHostWithCPU",
        "its executor does not tell whether it has the CPU model EPYC: upgrade the executor",
    );
    refuses(
        "cpuFeatures: [amx, sse, sgx]",
        HAS,
        "NoHostWithCPU",
        "its CPU does not have amx, sgx: remove what can be missed from the VM's CPU",
    );
}

#[test]
fn machine_firmware_and_tpm_are_what_its_qemu_has() {
    for usual in ["machine: q35", "machine: pc", "firmware: bios"] {
        accepts(usual, "");
        accepts(usual, HAS);
    }
    for told in ["machine: pc-q35-10.0", "firmware: uefi", "tpmBackend: emulator"] {
        accepts(told, HAS);
    }
    let untold = "its executor does not tell whether it has";
    for (need, reason, what) in [
        ("machine: pc-q35-10.0", "NoHostWithMachine", "the machine type pc-q35-10.0"),
        ("firmware: uefi", "NoHostWithFirmware", "the firmware uefi"),
        ("tpmBackend: emulator", "NoHostWithTPM", "a TPM of the kind emulator"),
    ] {
        refuses(need, "", reason, &format!("{untold} {what}: upgrade the executor"));
    }
    refuses(
        "machine: pc-q35-11.0",
        HAS,
        "NoHostWithMachine",
        "its QEMU does not know the machine type pc-q35-11.0: choose one that status.capabilities.machines of a Hypervisor \
         lists, or upgrade its QEMU",
    );
    refuses(
        "firmware: uefi-secure-boot",
        HAS,
        "NoHostWithFirmware",
        "it does not have the firmware uefi-secure-boot (bios, uefi only): install it there (for UEFI the package ovmf or \
         edk2)",
    );
    refuses("tpmBackend: passthrough", HAS, "NoHostWithTPM", "it has no TPM of the kind passthrough");
    refuses(
        "tpmBackend: emulator",
        "capabilities: {cpu: {}}",
        "NoHostWithTPM",
        "it has no TPM of the kind emulator: install swtpm there",
    );
}

#[test]
fn each_pool_is_there_under_its_uid_and_ready() {
    let need = "pools: [{name: fast, uid: p}]";
    let absent =
        "it does not have the pool fast: spec.nodeSelector of the VirtualMachineStoragePool says which hosts have it";
    accepts(need, "pools: [{name: fast, uid: p, ready: true}]");
    refuses(need, "", "NoHostWithPool", absent);
    refuses(need, "pools: [{name: fast, uid: earlier, ready: true}]", "NoHostWithPool", absent);
    for (told, says) in [
        ("reason: PoolNotMounted, message: /x is not mounted", "pool fast: /x is not mounted"),
        ("reason: PoolNotMounted", "pool fast: PoolNotMounted"),
    ] {
        refuses(need, &format!("pools: [{{name: fast, uid: p, ready: false, {told}}}]"), "NoHostWithPool", says);
    }
}

#[test]
fn each_network_is_there_and_ready_or_can_be_made() {
    let need = "networks: [{kind: ClusterVirtualMachineNetwork, name: lan, uid: n}]";
    let has = |rest: &str| format!("networks: [{{kind: ClusterVirtualMachineNetwork, name: lan, {rest}}}]");
    let absent = "it does not have the network lan: make the network or the bridge there, or use another one";
    accepts(need, &has("uid: n, ready: true"));
    refuses(need, &has("uid: earlier, ready: true"), "NoHostWithNetwork", absent);
    refuses(need, "", "NoHostWithNetwork", absent);
    refuses(need, &has("uid: n, ready: false, reason: NameTaken"), "NoHostWithNetwork", "network lan: NameTaken");
    let nat = "networks: [{kind: VirtualMachineNetwork, namespace: shop, name: nat, uid: n, everywhere: true}]";
    accepts(nat, "");
    let down =
        "networks: [{kind: VirtualMachineNetwork, namespace: shop, name: nat, uid: n, ready: false, message: down}]";
    refuses(nat, down, "NoHostWithNetwork", "network nat: down");
    accepts(nat, &down.replace("shop", "other"));
}

#[test]
fn data_and_an_imported_domain_stay_where_they_are() {
    accepts("home: a", "");
    accepts("localDisks: [{name: data, node: a}], stateNode: a", "");
    let state = "the variables of the VM's UEFI, or the state of its TPM, lie on b";
    refuses("stateNode: b", "", "DataElsewhere", state);
    // No host has both: it stays where it is.
    refuses("localDisks: [{name: data, node: a}], stateNode: b", "", "DataElsewhere", state);
    refuses("home: b", "", "DataElsewhere", "the VM is an imported one, which stays on its host b");
    refuses(
        "localDisks: [{name: root, node: a}, {name: data, node: b}]",
        "",
        "DataElsewhere",
        "the volume of the disk data lies on b",
    );
}

#[test]
fn a_pool_has_space_for_the_volumes_that_are_to_be_made() {
    let need = "pools: [{name: fast, uid: p, bytes: 2147483648}]";
    let has = |available: &str| format!("pools: [{{name: fast, uid: p, ready: true, {available}}}]");
    accepts(need, &has("available: 2Gi"));
    accepts(need, &has(""));
    accepts("pools: [{name: fast, uid: p}]", &has("available: 0"));
    refuses(
        need,
        &has("available: 2147483647"),
        "NoHostWithSpace",
        "the VM's disks need 2Gi in the pool fast, and it has 2047Mi left: delete what is not needed there, enlarge the pool, \
         or use another one",
    );
}

const DEVICES: &str = "capabilities: {cpu: {}}, devices: [\
    {name: gpu, bus: PCI, address: '0000:03:00.0', vendorID: 10de, productID: 1eb8, iommuGroup: 7}, \
    {name: sound, bus: PCI, address: '0000:03:00.1', vendorID: 10de, productID: 10f8, iommuGroup: 7}, \
    {name: key1, bus: USB, address: '1:4', vendorID: 1d6b, productID: '0002'}, \
    {name: key2, bus: USB, address: '1:5', vendorID: 1d6b, productID: '0002'}]";

#[test]
fn each_device_is_there() {
    let key = "{bus: USB, vendorID: 1D6B, productID: '0002'}";
    accepts("devices: [{bus: PCI, address: '0000:03:00.0'}, {bus: PCI, address: '0000:03:00.1'}]", DEVICES);
    accepts(&format!("devices: [{key}, {key}]"), DEVICES);
    accepts(&format!("devices: [{key}, {{bus: USB, address: '1:4'}}]"), DEVICES);
    refuses(
        &format!("devices: [{key}, {key}, {key}]"),
        DEVICES,
        "NoHostWithDevice",
        "the VM asks for the USB device 1D6B:0002 more often than it is there: remove one from the VM",
    );
    let foreign = "capabilities: {cpu: {}}, devices: [{name: d, bus: USB, address: '1:9', vendorID: '1111', productID: \
                   '2222', usedBy: win}]";
    let dongle = "devices: [{bus: USB, vendorID: '1111', productID: '2222'}]";
    let message =
        "the domain win of the host has its USB device 1111:2222: shut that domain down, or use another device";
    refuses(dongle, foreign, "NoHostWithDevice", message);
    accepts(&format!("home: a, {dongle}"), foreign);
    let other = "devices: [{bus: PCI, address: '0000:04:00.0'}]";
    let called = "PCI device 0000:04:00.0";
    refuses(
        other,
        DEVICES,
        "NoHostWithDevice",
        &format!("it does not have the {called}: status.devices of its Hypervisor lists those that it has"),
    );
    refuses(
        other,
        &format!("{DEVICES}, unlistedDeviceCount: 3"),
        "NoHostWithDevice",
        &format!("it does not tell of the {called}, and its Hypervisor leaves out 3 devices: see status.devices there"),
    );
    refuses(
        other,
        "",
        "NoHostWithDevice",
        &format!("its executor does not tell whether it has the {called}: upgrade the executor"),
    );
}

#[test]
fn the_administrator_limits_the_vcpus() {
    let has = |vcpus: &str| {
        format!("allocatable: {{{vcpus} cpu: '4', memory: 8Gi}}, unmanaged: {{domains: 1, vcpus: 3, memory: 1Gi}}")
    };
    accepts("vcpus: 5", &has("vcpus: 8,"));
    accepts("vcpus: 500", &has(""));
    let refusal = asked("vcpus: 6", &has("vcpus: 8,")).unwrap_err();
    let message = "the VM has 6 vCPUs, and 3 of the 8 that the host may have are taken: stop a VM there, or raise \
                   spec.overcommit.cpu of its Hypervisor";
    assert_eq!(refusal, Refusal { why: Why::FreeCpu, resolvable: false, message: message.into() });
}

#[test]
fn an_annotation_is_read_back_as_it_was_written() {
    let all = needs(
        "home: a, lastNode: b, vcpus: 2, memory: 1073741824, pools: [{name: fast, uid: p, shared: true, bytes: 5}], \
         localDisks: [{name: d, node: a}], images: [{kind: VirtualMachineImage, namespace: s, name: i, pool: fast}], \
         networks: [{kind: VirtualMachineNetwork, namespace: s, name: n, uid: u, everywhere: true}], cpuModel: m, \
         cpuFeatures: [f], machine: q35, firmware: bios, tpmBackend: emulator, kvm: true, \
         devices: [{bus: USB, vendorID: a, productID: b}]",
    );
    assert_eq!(Requirements::parse(&all.to_annotation()).unwrap(), all);
    assert_eq!(Requirements::parse("{}").unwrap(), Requirements::default());
    assert!(Requirements::parse("").is_err());
    assert_eq!(json!(Requirements::default()), json!({"vcpus": 0, "memory": 0}));
}

#[test]
fn what_many_hosts_have_in_common_is_kept_once() {
    let mut known = Shared::default();
    let shared = |known: &mut Shared, status: &str| {
        let mut offer = offer(status);
        offer.share(known);
        offer
    };
    let status = format!("{HAS}, pools: [{{name: fast, uid: p, ready: true}}]");
    let (one, other) = (shared(&mut known, &status), shared(&mut known, &status));
    assert_eq!(one, offer(&status), "it says the same as before");
    let capabilities = |offer: &Offer| std::sync::Arc::as_ptr(offer.capabilities.as_ref().unwrap());
    assert_eq!(capabilities(&one), capabilities(&other));
    assert!(std::sync::Arc::ptr_eq(&one.pools[0].name, &other.pools[0].name));
    for number in 0..10_000 {
        shared(&mut known, &format!("pools: [{{name: p{number}, uid: u{number}, ready: true}}]"));
    }
    assert!(known.len() < 2_000, "what no host has any more is forgotten: {}", known.len());
    assert_eq!(capabilities(&one), capabilities(&shared(&mut known, &status)), "and what one has is not");
}
