//! What `virConnectGetCapabilities` and `virConnectGetDomainCapabilities` return.

use uuid::Uuid;

use super::field;
use crate::error::Result;
use crate::tree::Element;

/// The host and what can run on it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct HostCapabilities {
    /// The host's UUID, libvirt's `host_uuid` or the mainboard's.
    pub uuid: Option<Uuid>,
    /// Architecture.
    pub arch: String,
    /// CPU model, where libvirt recognises it.
    pub cpu_model: Option<String>,
    /// CPU vendor.
    pub cpu_vendor: Option<String>,
    /// One per kind of guest and architecture.
    pub guests: Vec<Guest>,
}

/// What one emulator runs.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Guest {
    /// Architecture.
    pub arch: String,
    /// Path of the emulator.
    pub emulator: Option<String>,
    /// Machine types.
    pub machines: Vec<MachineType>,
    /// Domain types: `qemu`, and `kvm` where libvirt found it usable.
    pub domain_types: Vec<String>,
}

/// A machine type.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct MachineType {
    /// Name, `pc-q35-10.0` or an alias as `q35`.
    pub name: String,
    /// What an alias stands for.
    pub canonical: Option<String>,
    /// Most virtual CPUs.
    pub max_vcpus: Option<u32>,
}

/// What a domain of one type, machine and emulator can be.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct DomainCapabilities {
    /// Path of the emulator.
    pub emulator: Option<String>,
    /// Domain type.
    pub kind: String,
    /// Machine type.
    pub machine: Option<String>,
    /// Architecture.
    pub arch: String,
    /// Most virtual CPUs.
    pub max_vcpus: Option<u32>,
    /// CPU modes that can be used: `host-passthrough`, `maximum`, `host-model`, `custom`.
    pub cpu_modes: Vec<String>,
    /// The model that `host-model` stands for.
    pub host_model: Option<String>,
    /// Named CPU models that can be run here.
    pub usable_models: Vec<String>,
    /// Firmwares that libvirt can choose by itself: `bios`, `efi`.
    pub firmwares: Vec<String>,
}

/// Reads the host's capabilities.
///
/// # Errors
/// When the text is not capabilities' XML or lacks the architecture.
pub fn read_capabilities(xml: &str) -> Result<HostCapabilities> {
    let root = field::document(xml, "capabilities")?;
    let uuid = match root.at(&["host", "uuid"]) {
        Some(_) => Some(field::uuid(&root, &["host", "uuid"])?),
        None => None,
    };
    Ok(HostCapabilities {
        uuid,
        arch: field::text(&root, &["host", "cpu", "arch"])?,
        cpu_model: field::optional_text(&root, &["host", "cpu", "model"]),
        cpu_vendor: field::optional_text(&root, &["host", "cpu", "vendor"]),
        guests: root.all("guest").filter_map(|guest| guest.find("arch")).map(guest).collect(),
    })
}

fn guest(arch: &Element) -> Guest {
    // A machine type stands below <arch>, and below its <domain> where that one has others.
    let machines = arch.all("machine").chain(arch.all("domain").flat_map(|domain| domain.all("machine")));
    let mut seen = Vec::<MachineType>::new();
    for machine in machines {
        let name = machine.own_text().into_owned();
        if seen.iter().all(|m| m.name != name) {
            seen.push(MachineType {
                name,
                canonical: machine.attribute("canonical").map(str::to_owned),
                max_vcpus: machine.attribute("maxCpus").and_then(|n| n.parse().ok()),
            });
        }
    }
    Guest {
        arch: arch.attribute("name").unwrap_or_default().to_owned(),
        emulator: field::optional_text(arch, &["emulator"]),
        machines: seen,
        domain_types: arch.all("domain").filter_map(|d| d.attribute("type")).map(str::to_owned).collect(),
    }
}

/// Reads a domain's capabilities.
///
/// # Errors
/// When the text is not domain capabilities' XML or lacks type or architecture.
pub fn read_domain_capabilities(xml: &str) -> Result<DomainCapabilities> {
    let root = field::document(xml, "domainCapabilities")?;
    let modes = || root.find("cpu").into_iter().flat_map(|cpu| cpu.all("mode"));
    let is_supported = |mode: &&Element| mode.attribute("supported") == Some("yes");
    let mode = |name: &'static str| modes().find(move |mode| mode.attribute("name") == Some(name));
    let usable = mode("custom").into_iter().flat_map(|custom| custom.all("model"));
    let firmware_values = root
        .find("os")
        .and_then(|os| os.all("enum").find(|e| e.attribute("name") == Some("firmware")))
        .into_iter()
        .flat_map(|e| e.all("value"));
    Ok(DomainCapabilities {
        emulator: field::optional_text(&root, &["path"]),
        kind: field::text(&root, &["domain"])?,
        machine: field::optional_text(&root, &["machine"]),
        arch: field::text(&root, &["arch"])?,
        max_vcpus: field::attribute(&root, &["vcpu"], "max").and_then(|n| n.parse().ok()),
        cpu_modes: modes().filter(is_supported).filter_map(|m| m.attribute("name")).map(str::to_owned).collect(),
        host_model: mode("host-model").and_then(|m| field::optional_text(m, &["model"])),
        usable_models: usable
            .filter(|model| model.attribute("usable") == Some("yes"))
            .map(|model| model.own_text().into_owned())
            .collect(),
        firmwares: firmware_values.map(|value| value.own_text().into_owned()).collect(),
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn reads_the_hosts_capabilities() {
        let xml = "<capabilities><host><uuid>0dd4f2cb-7a0c-4d53-9d5e-2d6a6c1f8b11</uuid>
            <cpu><arch>x86_64</arch><model>EPYC</model><vendor>AMD</vendor></cpu></host>
          <guest><os_type>hvm</os_type><arch name='x86_64'><emulator>/usr/bin/qemu-system-x86_64</emulator>
            <machine maxCpus='255'>pc-i440fx-10.0</machine><machine canonical='pc-i440fx-10.0' maxCpus='255'>pc</machine>
            <domain type='qemu'/><domain type='kvm'><machine>pc</machine><machine>q35</machine></domain></arch></guest>
          </capabilities>";
        let host = read_capabilities(xml).unwrap();
        assert_eq!((host.arch.as_str(), host.cpu_model.as_deref()), ("x86_64", Some("EPYC")));
        let guest = &host.guests[0];
        assert_eq!(guest.domain_types, ["qemu", "kvm"]);
        assert_eq!(guest.machines.iter().map(|m| m.name.as_str()).collect::<Vec<_>>(), ["pc-i440fx-10.0", "pc", "q35"]);
        assert_eq!(guest.machines[1].canonical.as_deref(), Some("pc-i440fx-10.0"));
    }

    #[test]
    fn reads_a_domains_capabilities() {
        let xml = "<domainCapabilities><path>/usr/bin/qemu</path><domain>qemu</domain><machine>pc-q35-10.0</machine>
          <arch>x86_64</arch><vcpu max='288'/>
          <os supported='yes'><enum name='firmware'><value>bios</value><value>efi</value></enum></os>
          <cpu><mode name='host-passthrough' supported='no'/><mode name='maximum' supported='yes'/>
            <mode name='host-model' supported='yes'><model fallback='forbid'>EPYC</model></mode>
            <mode name='custom' supported='yes'><model usable='yes'>qemu64</model><model usable='no'>Denverton</model></mode></cpu>
          </domainCapabilities>";
        let capabilities = read_domain_capabilities(xml).unwrap();
        assert_eq!(capabilities.cpu_modes, ["maximum", "host-model", "custom"]);
        assert_eq!(capabilities.usable_models, ["qemu64"]);
        assert_eq!(capabilities.firmwares, ["bios", "efi"]);
        assert_eq!((capabilities.max_vcpus, capabilities.host_model.as_deref()), (Some(288), Some("EPYC")));
    }
}
