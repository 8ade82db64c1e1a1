//! What guests can be given on a host, out of libvirt's documents. Pure.

use std::collections::BTreeSet;

use kubevmm_analyser::error::Result;
use kubevmm_analyser::tree::{Element, Tree};
use kubevmm_api::Quantity;
use kubevmm_api::common::Accelerator;
use kubevmm_api::hypervisor::{HostCapabilities, HostCpu, HugePages, MigrationCapabilities, NumaCell};

/// Most entries of a list: what more there is comes from no libvirt that is known.
const MOST: usize = 512;
/// Most NUMA cells.
const MOST_CELLS: usize = 128;
/// Longest name that is taken; real ones have some 30 characters.
const LONGEST: usize = 64;

/// libvirt's documents about a host.
#[derive(Clone, Debug)]
pub(super) struct Documents {
    /// `virConnectGetCapabilities`.
    pub host: String,
    /// `virConnectGetDomainCapabilities` for the accelerator in use; `None` where libvirt has none.
    pub domain: Option<String>,
    /// The CPU of `host-model` with all its features; `None` where libvirt does not tell.
    pub cpu: Option<String>,
}

/// What guests can be given.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Offers {
    /// CPUs, machines, firmware and so on.
    pub capabilities: HostCapabilities,
    /// NUMA cells, by number.
    pub numa: Vec<NumaCell>,
}

/// Reads the documents of a host of this architecture.
pub(super) fn read(documents: &Documents, architecture: &str, accelerator: Accelerator) -> Result<Offers> {
    let host = Tree::from_xml(&documents.host)?.root;
    let domain = documents.domain.as_deref().map(Tree::from_xml).transpose()?.map(|tree| tree.root);
    let cpu = documents.cpu.as_deref().map(Tree::from_xml).transpose()?.map(|tree| tree.root);
    let host = host.find("host").zip(Some(&host));
    let Some((facts, root)) = host else { return Ok(Offers::default()) };
    Ok(Offers {
        capabilities: HostCapabilities {
            cpu: self::cpu(facts, domain.as_ref(), cpu.as_ref(), accelerator),
            machines: machines(root, architecture, accelerator),
            firmwares: domain.as_ref().map(|domain| firmwares(domain, architecture)).unwrap_or_default(),
            tpm_backends: domain.as_ref().map(tpm_backends).unwrap_or_default(),
            migration: facts.find("migration_features").map(migration),
        },
        numa: numa(facts),
    })
}

/// The machine type to ask the domain capabilities for: that of VMs that name none. Secure boot depends on it.
pub(super) fn usual_machine(architecture: &str) -> Option<&'static str> {
    is_pc(architecture).then_some("q35")
}

fn is_pc(architecture: &str) -> bool {
    matches!(architecture, "x86_64" | "i686")
}

/// libvirt's word for how guests' CPUs run.
pub(super) fn domain_type(accelerator: Accelerator) -> &'static str {
    match accelerator {
        Accelerator::KVM => "kvm",
        Accelerator::TCG => "qemu",
    }
}

/// The CPU that `host-model` stands for, as a document of its own; `None` where guests cannot have one.
pub(super) fn host_model(domain_capabilities: &str) -> Option<String> {
    let root = Tree::from_xml(domain_capabilities).ok()?.root;
    let mode = mode(&root, "host-model")?;
    mode.find("model")?;
    let parts = mode.elements().filter(|part| matches!(part.name(), "model" | "vendor" | "feature")).cloned();
    Some(Tree::new(Element::new("cpu").children(parts)).to_xml())
}

fn mode<'a>(domain: &'a Element, name: &str) -> Option<&'a Element> {
    let supported = |mode: &&Element| mode.attribute("supported") == Some("yes");
    domain.find("cpu")?.elements().find(|mode| mode.attribute("name") == Some(name)).filter(supported)
}

fn cpu(host: &Element, domain: Option<&Element>, expanded: Option<&Element>, accelerator: Accelerator) -> HostCpu {
    let model = domain.and_then(|domain| mode(domain, "host-model"));
    // With KVM, it is what libvirt finds closest to the host with QEMU's help; without, it is the CPU that QEMU plays.
    let closest = model.filter(|_| accelerator == Accelerator::KVM);
    let of_host = |name: &str| {
        let text = closest.and_then(|cpu| cpu.text_at(&[name])).or_else(|| host.text_at(&["cpu", name]))?;
        named(&text)
    };
    let usable = domain.and_then(|domain| mode(domain, "custom"));
    let usable = usable.iter().flat_map(|custom| custom.all("model"));
    let usable = usable.filter(|model| model.attribute("usable") == Some("yes")).map(Element::own_text);
    // Without the expanded CPU, only the features beside those of its model would be known: too few to refuse anybody.
    let features = expanded.iter().flat_map(|cpu| cpu.all("feature"));
    let features = features.filter(|feature| matches!(feature.attribute("policy"), Some("require" | "force")));
    HostCpu {
        model: of_host("model"),
        vendor: of_host("vendor"),
        models: set(usable),
        features: set(features.filter_map(|feature| feature.attribute("name"))),
    }
}

fn machines(root: &Element, architecture: &str, accelerator: Accelerator) -> Vec<String> {
    let arch = root.all("guest").filter_map(|guest| guest.find("arch"));
    let Some(arch) = arch.into_iter().find(|arch| arch.attribute("name") == Some(architecture)) else {
        return Vec::new();
    };
    // An accelerator that knows other machines than the rest names them itself.
    let kind = domain_type(accelerator);
    let own = arch.all("domain").find(|domain| domain.attribute("type") == Some(kind));
    let from = own.filter(|domain| domain.find("machine").is_some()).unwrap_or(arch);
    let names = from.all("machine").flat_map(|machine| {
        let canonical = machine.attribute("canonical").map(str::to_owned);
        canonical.into_iter().chain([machine.own_text().into_owned()])
    });
    set(names)
}

fn firmwares(domain: &Element, architecture: &str) -> Vec<String> {
    let Some(os) = domain.find("os") else { return Vec::new() };
    let efi = values(os, "firmware").any(|value| value == "efi");
    let secure = os.find("loader").is_some_and(|loader| values(loader, "secure").any(|value| value == "yes"));
    let offered = [("bios", is_pc(architecture)), ("uefi", efi), ("uefi-secure-boot", efi && secure)];
    offered.into_iter().filter(|(_, is)| *is).map(|(name, _)| name.to_owned()).collect()
}

fn tpm_backends(domain: &Element) -> Vec<String> {
    let tpm = domain.at(&["devices", "tpm"]).filter(|tpm| tpm.attribute("supported") == Some("yes"));
    set(tpm.iter().flat_map(|tpm| values(tpm, "backendModel")))
}

fn migration(features: &Element) -> MigrationCapabilities {
    let transports = features.find("uri_transports");
    MigrationCapabilities {
        live: features.find("live").is_some(),
        transports: set(transports.iter().flat_map(|all| all.all("uri_transport")).map(Element::own_text)),
    }
}

fn numa(host: &Element) -> Vec<NumaCell> {
    let cells = host.at(&["topology", "cells"]);
    let mut cells: Vec<_> = cells.iter().flat_map(|cells| cells.all("cell")).filter_map(numa_cell).collect();
    cells.sort_by_key(|cell| cell.id);
    cells.dedup_by_key(|cell| cell.id);
    cells.truncate(MOST_CELLS);
    cells
}

fn numa_cell(cell: &Element) -> Option<NumaCell> {
    let id = cell.attribute("id")?.parse().ok()?;
    let memory = cell.find("memory")?;
    let memory = in_bytes(memory.attribute("unit"), memory.own_text().trim())?;
    let ids = cell.find("cpus");
    let ids = ids.iter().flat_map(|cpus| cpus.all("cpu")).filter_map(|cpu| cpu.attribute("id")?.parse().ok());
    let pages: Vec<(u64, i64)> = cell
        .all("pages")
        .filter_map(|pages| {
            let size = in_bytes(pages.attribute("unit"), pages.attribute("size")?)?;
            Some((size, pages.own_text().trim().parse().ok()?))
        })
        .collect();
    // The smallest pages are what all the rest is given in.
    let smallest = pages.iter().map(|(size, _)| *size).min();
    let mut huge: Vec<_> = pages.into_iter().filter(|(size, total)| Some(*size) != smallest && *total > 0).collect();
    huge.sort_unstable();
    huge.dedup_by_key(|(size, _)| *size);
    let huge_pages =
        huge.into_iter().map(|(size, total)| HugePages { size: Quantity::from_bytes(size), total }).collect();
    Some(NumaCell { id, cpus: ranges(ids.collect()), memory: Quantity::from_bytes(memory), huge_pages })
}

/// Numbers as `0-3,8`.
fn ranges(numbers: BTreeSet<u32>) -> String {
    let mut parts: Vec<(u32, u32)> = Vec::new();
    for number in numbers {
        match parts.last_mut() {
            Some((_, last)) if last.checked_add(1) == Some(number) => *last = number,
            _ => parts.push((number, number)),
        }
    }
    let word = |(first, last): (u32, u32)| if first == last { first.to_string() } else { format!("{first}-{last}") };
    parts.into_iter().map(word).collect::<Vec<_>>().join(",")
}

/// libvirt's sizes in capabilities are in KiB where no unit is told.
fn in_bytes(unit: Option<&str>, number: &str) -> Option<u64> {
    let shift = match unit.unwrap_or("KiB") {
        "B" | "bytes" => 0,
        "KiB" | "k" => 10,
        "MiB" => 20,
        "GiB" => 30,
        _ => return None,
    };
    number.parse::<u64>().ok()?.checked_mul(1 << shift)
}

/// The values of an `<enum name='…'>`.
fn values<'a>(element: &'a Element, name: &'a str) -> impl Iterator<Item = String> + 'a {
    let found = element.all("enum").filter(move |it| it.attribute("name") == Some(name));
    found.flat_map(|it| it.all("value")).map(|value| value.own_text().into_owned())
}

/// Names, sorted, each once.
fn set<T: AsRef<str>>(names: impl Iterator<Item = T>) -> Vec<String> {
    let names: BTreeSet<String> = names.filter_map(|name| named(name.as_ref())).collect();
    names.into_iter().take(MOST).collect()
}

/// A name that can be one; a part of it would be another's.
fn named(text: &str) -> Option<String> {
    let text = text.trim();
    (!text.is_empty() && text.len() <= LONGEST).then(|| text.to_owned())
}

#[cfg(test)]
mod tests {
    use super::*;

    /// What libvirt 11.3 says of a host with QEMU 10.0. (The KVM of that host is one inside a VM.)
    const HOST: &str = include_str!("../../testdata/capabilities.xml");
    const QEMU: &str = include_str!("../../testdata/domain-capabilities-qemu.xml");
    const KVM: &str = include_str!("../../testdata/domain-capabilities-kvm.xml");
    const KVM_CPU: &str = include_str!("../../testdata/cpu-kvm.xml");

    fn documents(domain: &str, cpu: Option<&str>) -> Documents {
        Documents { host: HOST.into(), domain: Some(domain.into()), cpu: cpu.map(Into::into) }
    }

    #[test]
    fn a_host_without_kvm() {
        let offers = read(&documents(QEMU, None), "x86_64", Accelerator::TCG).unwrap();
        let found = offers.capabilities;
        assert_eq!((found.cpu.model.as_deref(), found.cpu.vendor.as_deref()), (Some("kvm64-v1"), Some("AMD")));
        assert_eq!(found.cpu.models.len(), 36);
        assert!(found.cpu.models.contains(&"Nehalem".into()), "{:?}", found.cpu.models);
        assert!(!found.cpu.models.contains(&"Broadwell".into()), "one that lacks features");
        assert_eq!(found.cpu.features, Vec::<String>::new(), "what its model implies is not known");
        for machine in ["q35", "pc-q35-10.0", "pc", "pc-i440fx-10.0", "pc-q35-2.4", "microvm"] {
            assert!(found.machines.contains(&machine.into()), "{machine}");
        }
        assert!(found.machines.is_sorted());
        assert_eq!(found.firmwares, ["bios", "uefi", "uefi-secure-boot"]);
        assert_eq!(found.tpm_backends, ["emulator", "external", "passthrough"]);
        let migration = found.migration.unwrap();
        assert!(migration.live);
        assert_eq!(migration.transports, ["rdma", "tcp"]);
        let memory = Quantity("24684084Ki".into());
        assert_eq!(offers.numa, [NumaCell { id: 0, cpus: "0-1".into(), memory, huge_pages: Vec::new() }]);
    }

    #[test]
    fn with_kvm_the_cpu_is_that_of_host_model_with_all_that_it_has() {
        let offers = read(&documents(KVM, Some(KVM_CPU)), "x86_64", Accelerator::KVM).unwrap();
        let cpu = offers.capabilities.cpu;
        assert_eq!((cpu.model.as_deref(), cpu.vendor.as_deref()), (Some("EPYC-Genoa"), Some("AMD")));
        assert!(cpu.features.contains(&"3dnowprefetch".into()), "what its model implies");
        assert!(!cpu.features.contains(&"avx2".into()), "what its model implies and the host has not");
        assert_eq!(cpu.models.len(), 8);
    }

    #[test]
    fn host_model_is_a_cpu_of_its_own() {
        let xml = host_model(KVM).unwrap();
        assert!(xml.starts_with("<cpu>\n  <model fallback='forbid'>EPYC-Genoa</model>"), "{xml}");
        assert!(!xml.contains("maxphysaddr"), "libvirt takes no such thing here");
        assert_eq!(host_model("<domainCapabilities><cpu/></domainCapabilities>"), None);
        assert_eq!(host_model("no xml"), None);
    }

    #[test]
    fn firmware_of_other_hosts() {
        let os = |inner: &str| {
            let xml = format!("<domainCapabilities><os supported='yes'>{inner}</os></domainCapabilities>");
            Tree::from_xml(&xml).unwrap().root
        };
        let none =
            os("<enum name='firmware'/><loader supported='yes'><enum name='secure'><value>no</value></enum></loader>");
        assert_eq!(firmwares(&none, "x86_64"), ["bios"]);
        let plain = os("<enum name='firmware'><value>efi</value></enum><loader/>");
        assert_eq!(firmwares(&plain, "x86_64"), ["bios", "uefi"]);
        assert_eq!(firmwares(&plain, "aarch64"), ["uefi"], "it has no BIOS");
    }

    #[test]
    fn huge_pages_are_told_where_some_are_set_aside() {
        let cell = "<cell id='1'><memory unit='KiB'>1048576</memory><pages unit='KiB' size='4'>200</pages>\
                    <pages unit='KiB' size='2048'>16</pages><pages unit='KiB' size='1048576'>0</pages>\
                    <cpus num='4'><cpu id='9'/><cpu id='1'/><cpu id='2'/><cpu id='3'/></cpus></cell>";
        let cell = numa_cell(&Tree::from_xml(cell).unwrap().root).unwrap();
        assert_eq!((cell.cpus.as_str(), cell.memory.to_string().as_str()), ("1-3,9", "1Gi"));
        assert_eq!(cell.huge_pages, [HugePages { size: Quantity("2Mi".into()), total: 16 }]);
    }

    #[test]
    fn machines_of_an_accelerator_that_has_its_own() {
        let xml = "<capabilities><host/><guest><os_type>hvm</os_type><arch name='x86_64'><machine>pc</machine>\
                   <domain type='qemu'/><domain type='kvm'><machine canonical='pc-2'>special</machine></domain></arch>\
                   </guest></capabilities>";
        let root = Tree::from_xml(xml).unwrap().root;
        assert_eq!(machines(&root, "x86_64", Accelerator::KVM), ["pc-2", "special"]);
        assert_eq!(machines(&root, "x86_64", Accelerator::TCG), ["pc"]);
        assert_eq!(machines(&root, "aarch64", Accelerator::TCG), Vec::<String>::new());
    }

    #[test]
    fn what_a_host_says_too_much_of_is_bounded() {
        let long = "x".repeat(LONGEST + 1);
        let names = (0..2 * MOST).map(|n| format!("m{n}")).chain([long.clone(), String::new()]);
        let bounded = set(names);
        assert_eq!(bounded.len(), MOST);
        assert!(!bounded.contains(&long));
    }

    #[test]
    fn a_document_that_is_none_is_an_error() {
        let broken = Documents { host: "<capabilities>".into(), domain: None, cpu: None };
        assert!(read(&broken, "x86_64", Accelerator::TCG).is_err());
        let other = Documents { host: "<other/>".into(), domain: None, cpu: None };
        assert_eq!(read(&other, "x86_64", Accelerator::TCG).unwrap(), Offers::default());
    }
}
