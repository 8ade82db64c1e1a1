//! What a person is told before a domain is managed: what changes now, and what at its next start. Pure.

use std::collections::BTreeSet;
use std::fmt::Write as _;
use std::path::Path;

use kube::ResourceExt as _;
use kubevmm_analyser::Tree;
use kubevmm_analyser::diff::{Mode, diff};
use kubevmm_analyser::lower::{HostFacts, Identity};
use kubevmm_analyser::spec::lower_spec;
use kubevmm_api::effective::{self, merge};
use kubevmm_api::vm::{DiskStatus, Management, RunStrategy};
use kubevmm_api::{VirtualMachine, VirtualMachineStatus};
use serde_json::Value;

use super::adopt::{Adoption, has_autostart};
use super::inventory::{Change, Write};
use super::label_or;
use crate::error::{Error, one_line};
use crate::program;

/// What the text is about.
pub(crate) struct Preflight<'a> {
    /// The domain's node.
    pub(crate) node: &'a str,
    /// libvirt's name of the domain.
    pub(crate) domain: &'a str,
    /// It bears a mark of this project, and no VirtualMachine has it.
    pub(crate) orphan: bool,
    /// What is made for it.
    pub(crate) adoption: &'a Adoption,
    /// What is written beside its VirtualMachine.
    pub(crate) writes: &'a [Write],
    /// What its host decides.
    pub(crate) host: &'a HostFacts,
    /// The executor tells of it; otherwise it is a file that does.
    pub(crate) observed: bool,
}

/// The text.
///
/// # Errors
/// [`Error::Refused`] for a domain that cannot be made from its spec.
pub(crate) fn text(subject: &Preflight<'_>) -> Result<String, Error> {
    let vm = &subject.adoption.vm;
    let status = vm.status.clone().unwrap_or_default();
    let mut out = title(subject.node, subject.domain, vm);
    match vm.spec.management {
        Management::Manage => section(&mut out, "changes now", &[created(subject), taken(subject, &status)].concat()),
        Management::Observe => {
            section(&mut out, "changes now", &created(subject));
            section(&mut out, "changes when spec.management is set to Manage", &taken(subject, &status));
        }
    }
    section(&mut out, "changes at its next start", &at_next_start(subject, &status)?);
    section(&mut out, "stays in spec.domain, as it is", &kept(&subject.adoption.found.domain, &status));
    Ok(out)
}

/// The text for a domain that nothing is done for.
pub(crate) fn refused(node: &str, domain: &str, vm: &VirtualMachine, why: &Error) -> String {
    format!("{}  changes now: nothing, it is refused: {}\n", title(node, domain, vm), one_line(&why.to_string()))
}

fn title(node: &str, domain: &str, vm: &VirtualMachine) -> String {
    let namespace = vm.namespace().unwrap_or_default();
    format!("domain {domain:?} of {node} as virtual machine {namespace}/{}\n", vm.name_any())
}

fn section(out: &mut String, title: &str, lines: &[String]) {
    if lines.is_empty() {
        let _ = writeln!(out, "  {title}: nothing");
        return;
    }
    let _ = writeln!(out, "  {title}:");
    for line in lines {
        let _ = writeln!(out, "  - {line}");
    }
}

/// What becomes of the objects.
fn created(subject: &Preflight<'_>) -> Vec<String> {
    let line = |write: &Write| match &write.change {
        Change::Create => format!("{} is created{}", write.key, stands_for(&write.object)),
        Change::Allow(namespaces) => format!("{} is opened to the namespace {}", write.key, namespaces.join(", ")),
    };
    subject.writes.iter().map(line).collect()
}

/// What an object means on the host.
fn stands_for(object: &Value) -> String {
    let text = |pointer: &str| object.pointer(pointer).and_then(Value::as_str);
    let volume = text("/spec/source/existing/volumeName").zip(text("/spec/source/existing/format"));
    let pool = text("/spec/existing/name").map(|name| format!("the libvirt pool {name}"));
    let network = || text("/spec/existing/libvirtNetwork").map(|name| format!("the libvirt network {name}"));
    let bridge = || text("/spec/existing/bridge").map(|name| format!("the bridge {name}"));
    let volume =
        volume.map(|(name, format)| format!("the volume {name}, {format}; it stays when the object is deleted"));
    volume.or(pool).or_else(network).or_else(bridge).map_or(String::new(), |what| format!(": {what}"))
}

/// What becomes of the domain when it is managed.
fn taken(subject: &Preflight<'_>, status: &VirtualMachineStatus) -> Vec<String> {
    let spec = &subject.adoption.vm.spec;
    let domain = status.domain.as_ref();
    let is_agreed = spec.existing_domain.as_ref().is_some_and(|existing| existing.disable_autostart);
    let mut lines = Vec::new();
    let mark = if subject.orphan { "the mark of the virtual machine that it had is replaced" } else { "it is marked" };
    lines.push(format!("{mark} in libvirt's metadata; what runs goes on"));
    if domain.is_some_and(|domain| domain.transient) {
        lines.push("it is defined, for it is transient: a stop no longer takes it away".into());
    }
    if has_autostart(status) {
        lines.push(if is_agreed {
            "libvirt's autostart is taken from it, and given back when it is only observed again".into()
        } else {
            "it is refused until spec.existingDomain.disableAutostart is true, for libvirt starts it with the host"
                .into()
        });
    } else if !subject.observed && is_agreed {
        lines.push(
            "libvirt's autostart is taken from it, if it has one, and given back when it is only observed again".into(),
        );
    } else if !subject.observed {
        lines.push(
            "its XML does not tell whether libvirt starts it with the host: where `virsh dominfo` does, it is refused until \
             spec.existingDomain.disableAutostart is true (--manage --disable-autostart)"
                .into(),
        );
    }
    lines.push(strategy(spec.run_strategy));
    if has_autostart(status) && spec.run_strategy == RunStrategy::Manual {
        lines
            .push("nobody starts it with the host any more: set spec.runStrategy to Always where it should run".into());
    }
    let found = &subject.adoption.found;
    let millis = effective::cpu_request_millis(spec, None, effective::DEFAULT_MILLIS_PER_CPU).unwrap_or_default();
    lines.push(format!(
        "while it runs, a pod reserves {} of memory, what QEMU needs besides, and {millis}m of CPU on the node {}, and \
         counts in the quota of the namespace",
        found.memory, subject.node
    ));
    lines.push(
        "deleting it stops the guest and undefines the domain, with its managed save image and the metadata of its \
         snapshots and checkpoints; UEFI variables and TPM state stay"
            .into(),
    );
    lines
}

fn strategy(strategy: RunStrategy) -> String {
    let program = program();
    match strategy {
        RunStrategy::Always => {
            "spec.runStrategy is Always: it is started again whenever it stops, not only with the host".into()
        }
        RunStrategy::Halted => format!("spec.runStrategy is Halted: it stays off until `{program} start`"),
        RunStrategy::Manual => {
            format!(
                "spec.runStrategy is Manual: it stays as it is, running or off, until `{program} stop` or `{program} start`"
            )
        }
    }
}

/// Where the domain that is made from the spec differs from the one that is there.
fn at_next_start(subject: &Preflight<'_>, status: &VirtualMachineStatus) -> Result<Vec<String>, Error> {
    let Adoption { vm, found, connections, .. } = subject.adoption;
    let uid = vm.metadata.uid.as_deref().unwrap_or(&found.uuid);
    let merged = merge(&vm.name_any(), uid, &vm.spec, None, None).map_err(|error| Error::Refused(error.to_string()))?;
    let identity =
        Identity { name: Some(subject.domain.to_owned()), uuid: Some(found.uuid.clone()), ..Default::default() };
    let lower = |spec| {
        let domain = lower_spec(spec, subject.host, connections, &identity);
        domain
            .map(Tree::new)
            .map_err(|error| Error::Refused(format!("its domain cannot be made from its spec: {error}")))
    };
    let differences = diff(&lower(found)?, &lower(&merged)?, Mode::Desired);
    let mut lines: Vec<_> = differences.iter().map(|difference| one_line(&difference.to_string())).collect();
    let by_pool = |disk: &&DiskStatus| disk.kind.as_deref() == Some("volume") && disk.volume.is_some();
    lines.extend(status.disks.iter().filter(by_pool).map(|disk| {
        let place = disk.source.as_deref().unwrap_or_default();
        format!("the disk {} is named by the path of its volume {place}, no longer by pool and volume", disk.target)
    }));
    Ok(lines)
}

/// What the fields of a spec do not say.
fn kept(domain: &serde_json::Map<String, Value>, status: &VirtualMachineStatus) -> Vec<String> {
    let mut lines = Vec::new();
    let mut directories = BTreeSet::new();
    for disk in status.disks.iter().filter(|disk| disk.volume.is_none()) {
        let (why, directory) = why_kept(disk, item(domain, &disk.target));
        let source = disk.source.as_deref().map_or(String::new(), |source| format!(" ({source})"));
        lines.push(format!("the disk {}{source}: {why}", disk.target));
        directories.extend(directory);
    }
    lines.extend(directories.into_iter().map(|directory| {
        let pool = label_or(Path::new(&directory).file_name().and_then(|name| name.to_str()).unwrap_or(""), "pool");
        let quoted = quoted(&directory);
        format!(
            "to have the disks of {directory} as objects, make a pool of it first, on the host, and import again: \
             virsh pool-define-as {pool} dir --target {quoted} && virsh pool-start {pool}"
        )
    }));
    let mut rest: Vec<_> = domain.keys().filter(|key| *key != "devices").cloned().collect();
    let devices = domain.get("devices").and_then(Value::as_object);
    rest.extend(devices.iter().flat_map(|devices| devices.keys()).map(|key| format!("devices.{key}")));
    if !rest.is_empty() {
        lines.push(format!("{} (writing it takes the ClusterRole kubevmm-domain)", rest.join(", ")));
    }
    lines
}

/// What spec.domain says of the disk with this target.
fn item<'a>(domain: &'a serde_json::Map<String, Value>, target: &str) -> Option<&'a Value> {
    let disks = domain.get("devices")?.get("disks")?.as_array()?;
    disks.iter().find(|disk| disk.pointer("/target/dev").and_then(Value::as_str) == Some(target))
}

/// Why a disk is no object, and the directory that would have to be a pool for it to be one.
fn why_kept(disk: &DiskStatus, item: Option<&Value>) -> (String, Option<String>) {
    let device = item.and_then(|item| item.get("device")).and_then(Value::as_str).unwrap_or("disk");
    if device != "disk" {
        return (format!("it is a {device}"), None);
    }
    let says = |key: &str| item.is_some_and(|item| item.get(key).is_some());
    if let Some(key) = ["shareable", "readonly", "transient"].into_iter().find(|key| says(key)) {
        return (format!("it is {key}: several domains may have it"), None);
    }
    let (kind, source) = (disk.kind.as_deref().unwrap_or_default(), disk.source.as_deref());
    match (kind, disk.format.as_deref()) {
        ("file" | "block" | "volume", Some(format)) if !matches!(format, "raw" | "qcow2") => {
            (format!("its format is {format}; objects are raw or qcow2"), None)
        }
        ("file", _) => {
            let directory = source.and_then(|path| Path::new(path).parent()).and_then(Path::to_str);
            ("no libvirt pool of the host has it as a volume".into(), directory.map(ToOwned::to_owned))
        }
        ("block" | "volume", _) => ("no libvirt pool of the host has it as a volume".into(), None),
        ("", _) => ("there is nothing in it".into(), None),
        (other, _) => (format!("it is of the type {other}: no volume of the host"), None),
    }
}

/// A word for a shell.
pub(crate) fn quoted(word: &str) -> String {
    let is_plain = |c: char| c.is_ascii_alphanumeric() || "/._-+:@%".contains(c);
    if !word.is_empty() && word.chars().all(is_plain) {
        word.to_owned()
    } else {
        format!("'{}'", word.replace('\'', r"'\''"))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::import::adopt::{Terms, adopt};
    use crate::testing::{documents, golden, inventory};
    use kubevmm_analyser::spec::host_facts;
    use kubevmm_api::common::Accelerator;

    fn preflight(vm: &VirtualMachine, management: Management, orphan: bool, observed: bool) -> Result<String, Error> {
        let mut inventory = inventory("h1");
        let disable_autostart = management == Management::Manage;
        let adoption = adopt(vm, Terms { management, disable_autostart }, &mut inventory)?;
        let writes: Vec<_> = adoption.objects.iter().filter_map(|key| inventory.write(key).unwrap()).collect();
        let host = host_facts(Accelerator::KVM, "x86_64");
        let (adoption, writes, host) = (&adoption, writes.as_slice(), &host);
        text(&Preflight { node: "h1", domain: "DB", orphan, adoption, writes, host, observed })
    }

    fn observed() -> VirtualMachine {
        documents("observed.yaml").remove(1)
    }

    #[test]
    fn the_preflight_of_an_observed_domain() {
        golden("preflight.txt", &preflight(&observed(), Management::Manage, false, true).unwrap());
    }

    #[test]
    fn the_preflight_of_a_file() {
        let mut vm = observed();
        vm.status.as_mut().unwrap().domain = None;
        golden("preflight-file.txt", &preflight(&vm, Management::Observe, false, false).unwrap());
        let text = preflight(&vm, Management::Manage, false, false).unwrap();
        assert!(text.contains("autostart is taken from it, if it has one"), "{text}");
        let text = preflight(&observed(), Management::Observe, false, false).unwrap();
        assert!(
            text.contains("it is refused until spec.existingDomain.disableAutostart is true, for libvirt"),
            "{text}"
        );
    }

    #[test]
    fn what_differs_at_the_next_start_is_told() {
        let mut vm = observed();
        vm.status.as_mut().unwrap().disks[0].kind = Some("volume".into());
        vm.status.as_mut().unwrap().disks[0].source = Some("default/db.qcow2".into());
        let text = preflight(&vm, Management::Manage, true, true).unwrap();
        assert!(text.contains("the disk vda is named by the path of its volume default/db.qcow2"), "{text}");
        assert!(text.contains("the mark of the virtual machine that it had is replaced"), "{text}");
    }

    #[test]
    fn one_that_is_off_is_not_started_with_its_host_any_more() {
        let mut vm = observed();
        vm.status.as_mut().unwrap().domain.as_mut().unwrap().state = kubevmm_api::vm::DomainState::Shutoff;
        let text = preflight(&vm, Management::Manage, false, true).unwrap();
        assert!(text.contains("spec.runStrategy is Manual: it stays as it is"), "{text}");
        assert!(text.contains("nobody starts it with the host any more: set spec.runStrategy to Always"), "{text}");
    }

    #[test]
    fn a_refusal_is_told_as_one() {
        let why = Error::Refused("no".into());
        assert_eq!(
            refused("h1", "DB", &observed(), &why),
            "domain \"DB\" of h1 as virtual machine legacy/db\n  changes now: nothing, it is refused: no\n"
        );
    }

    #[test]
    fn why_a_disk_is_no_object() {
        for (disk, item, why) in [
            ("{type: file, source: /a/b.iso}", "{device: cdrom}", "it is a cdrom"),
            ("{type: block, source: /dev/sdz}", "{device: lun}", "it is a lun"),
            ("{type: file, format: raw, source: /a/b}", "{shareable: {}}", "it is shareable"),
            ("{type: file, format: raw, source: /a/b}", "{readonly: {}}", "it is readonly"),
            ("{type: file, format: vmdk, source: /a/b}", "{}", "its format is vmdk"),
            ("{type: network, format: raw}", "{}", "of the type network"),
            ("{type: block, format: raw, source: /dev/sdz}", "{}", "no libvirt pool"),
            ("{}", "{}", "nothing in it"),
        ] {
            let mut status: Value = serde_yaml_ng::from_str(disk).unwrap();
            status["name"] = "vda".into();
            status["target"] = "vda".into();
            let item: Value = serde_yaml_ng::from_str(item).unwrap();
            let (said, directory) = why_kept(&serde_json::from_value(status).unwrap(), Some(&item));
            assert!(said.contains(why) && directory.is_none(), "{said}: {why}");
        }
        let loose =
            serde_yaml_ng::from_str("{name: a, target: vda, type: file, source: '/srv/my disks/a.img', format: raw}");
        let (_, directory) = why_kept(&loose.unwrap(), None);
        assert_eq!(directory.as_deref(), Some("/srv/my disks"));
    }

    #[test]
    fn paths_are_quoted_for_a_shell() {
        assert_eq!(quoted("/srv/a-b_c.d"), "/srv/a-b_c.d");
        assert_eq!(quoted("/srv/my disks"), "'/srv/my disks'");
        assert_eq!(quoted("/it's"), r"'/it'\''s'");
    }
}
