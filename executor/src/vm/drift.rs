//! Where the domain on the host is not what was made of the VM's spec: somebody has changed it there.

use kubevmm_analyser::diff::{Difference, Mode, diff};
use kubevmm_analyser::lower::{HostFacts, Identity};
use kubevmm_analyser::read::{DiskInfo, read_domain};
use kubevmm_analyser::spec::{Connections, lower_spec};
use kubevmm_analyser::{Element, Tree};
use kubevmm_api::VirtualMachineStatus;

use super::domains::Details;

/// The paths that differ, each with what it was and what it is.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(super) struct Drift {
    /// Whether the two could be compared.
    pub known: bool,
    /// Of the definition: what the next start would use.
    pub definition: Vec<String>,
    /// Of what runs alone.
    pub running: Vec<String>,
    /// The disks whose bytes lie elsewhere now: what was written since is there, and a start as it was made would leave
    /// it behind.
    pub moved: Vec<String>,
}

impl Drift {
    /// Why the domain must not be defined as `made`: the disks that the definition has in another place than `made`, and
    /// than what it was made from before, if that is known.
    pub(super) fn left_behind(
        made: &str,
        status: &VirtualMachineStatus,
        host: &HostFacts,
        generation: i64,
        details: &Details,
    ) -> Vec<String> {
        let known = Self::of(status, host, generation, details);
        let [Some(made), Some(is)] = [made, &details.definition].map(|xml| read(xml, generation)) else {
            return Vec::new();
        };
        let (elsewhere, drives) = (diff(&made, &is, Mode::Desired), drives(&details.definition));
        let lines = elsewhere.iter().filter(|it| is_move(it, &drives)).map(line);
        if !known.known {
            return lines.collect();
        }
        let path = |line: &str| line.split_once(": ").map(|(path, _)| path.to_owned());
        lines.filter(|line| known.moved.iter().any(|moved| path(moved) == path(line))).collect()
    }

    /// Compares what `status` says that the domain was made from with what libvirt has. `generation` is that of its mark.
    pub(super) fn of(status: &VirtualMachineStatus, host: &HostFacts, generation: i64, details: &Details) -> Self {
        let (Some(spec), Some(connections)) = (&status.effective, Connections::of_status(status)) else {
            return Self::default();
        };
        let Ok(made) = lower_spec(spec, host, &connections, &Identity::default()) else { return Self::default() };
        let made = prepared(made, generation);
        let differences = |xml: Option<&str>, mode| {
            xml.and_then(|xml| read(xml, generation)).map(|is| diff(&made, &is, mode)).unwrap_or_default()
        };
        let definition = differences(Some(&details.definition), Mode::Desired);
        let mut running = differences(details.live.as_deref(), Mode::Live);
        running.retain(|it| !definition.iter().any(|known| known.path == it.path));
        let drives = drives(&details.definition);
        let moves = definition.iter().chain(&running).filter(|it| is_move(it, &drives));
        let moved = moves.map(line).collect();
        let lines = |found: Vec<Difference>| found.iter().map(line).collect();
        Self { known: true, definition: lines(definition), running: lines(running), moved }
    }
}

/// Generation in the mark of a domain whose definition was not made by this project.
pub(super) const TAKEN_OVER: i64 = 0;
/// What a person reads of a value.
const MAX_VALUE: usize = 64;

fn read(xml: &str, generation: i64) -> Option<Tree> {
    Some(prepared(Tree::from_xml(xml).ok()?.root, generation))
}

/// What is compared: without the identity. A domain that is as it was before it was taken over does not have our aliases
/// yet.
fn prepared(mut root: Element, generation: i64) -> Tree {
    for name in ["name", "uuid"] {
        root.remove(name);
    }
    if generation == TAKEN_OVER {
        for devices in root.elements_mut().filter(|element| element.name() == "devices") {
            devices.elements_mut().for_each(|device| drop(device.remove("alias")));
        }
    }
    Tree::new(root)
}

/// The drives of a domain, which are none of its disks.
fn drives(definition: &str) -> Vec<DiskInfo> {
    let mut disks = read_domain(definition).map(|domain| domain.disks).unwrap_or_default();
    disks.retain(|disk| ["cdrom", "floppy"].contains(&disk.device.as_str()));
    disks
}

/// Whether a disk has another place, as after an external snapshot. Other media in a drive are none.
fn is_move(difference: &Difference, drives: &[DiskInfo]) -> bool {
    const PLACES: [&str; 9] = ["", "/@file", "/@dev", "/@dir", "/@pool", "/@volume", "/@protocol", "/@name", "/host"];
    let Some((key, rest)) = difference.path.strip_prefix("devices/disk[").and_then(|path| path.split_once(']')) else {
        return false;
    };
    let is_drive = drives.iter().any(|drive| drive.target == key || drive.alias.as_deref() == Some(key));
    let is_place = rest.strip_prefix("/source").is_some_and(|rest| PLACES.contains(&rest)) || rest == "/driver/@type";
    !is_drive && is_place && difference.to.is_some()
}

fn line(difference: &Difference) -> String {
    let value = |value: &Option<String>| match value.as_deref().map(str::trim) {
        None | Some("") => "nothing".to_owned(),
        Some(value) => {
            let words = value.split_whitespace().collect::<Vec<_>>().join(" ");
            let end = words.char_indices().nth(MAX_VALUE).map(|(end, _)| end);
            end.map_or_else(|| words.clone(), |end| format!("{}…", &words[..end]))
        }
    };
    format!("{}: {} instead of {}", difference.path, value(&difference.to), value(&difference.from))
}

#[cfg(test)]
mod tests {
    use super::*;
    use kubevmm_analyser::lower::{DiskLocation, Format, NicSource};
    use kubevmm_analyser::spec::{DiskOnHost, host_facts};
    use kubevmm_api::common::Accelerator;
    use kubevmm_api::effective::merge;
    use kubevmm_api::vm::InterfaceStatus;

    const UID: &str = "b3a1c7d2-0000-4000-8000-000000000001";

    fn host() -> HostFacts {
        host_facts(Accelerator::TCG, "x86_64")
    }

    fn status() -> VirtualMachineStatus {
        let vm = "{memory: {size: 1Gi}, disks: [{name: root, diskName: d}], networks: [{name: lan}]}";
        let spec = merge("web", UID, &serde_yaml_ng::from_str(vm).unwrap(), None, Some("lan")).unwrap();
        let location = DiskLocation::File("/p/v".into());
        let connections = Connections {
            disks: vec![DiskOnHost { location, format: Format::Qcow2, read_only: false }],
            nics: vec![NicSource::Network("lan".into())],
            seed: None,
        };
        let (disks, links) = connections.to_status(&spec);
        let interface = |(name, link)| InterfaceStatus { name, connected_to: Some(link), ..Default::default() };
        let interfaces = links.into_iter().map(interface).collect();
        VirtualMachineStatus { effective: Some(spec), disks, interfaces, ..Default::default() }
    }

    fn made() -> String {
        let status = status();
        let connections = Connections::of_status(&status).unwrap();
        let identity = Identity { name: Some("shop.web".into()), uuid: Some(UID.into()), mark: None };
        lower_spec(&status.effective.unwrap(), &host(), &connections, &identity).unwrap().to_xml()
    }

    fn drift(definition: &str, live: Option<&str>, generation: i64) -> Drift {
        let details = Details { definition: definition.into(), live: live.map(str::to_owned), ..Default::default() };
        Drift::of(&status(), &host(), generation, &details)
    }

    #[test]
    fn what_was_made_is_no_drift() {
        let none = Drift { known: true, ..Drift::default() };
        assert_eq!(drift(&made(), Some(&made()), 3), none);
        let others = made().replace("<alias name='ua-disk-root'/>", "").replace("<alias name='ua-nic-lan'/>", "");
        assert!(!others.contains("ua-"), "{others}");
        assert_eq!(drift(&others, Some(&others), TAKEN_OVER), none, "before we have made it");
        assert_eq!(drift(&others, None, 3).definition.len(), 2);
    }

    #[test]
    fn a_change_is_named_with_both_values() {
        let larger = made().replace("1048576", "2097152");
        let found = drift(&larger, Some(&made()), 3);
        assert_eq!(found.definition, ["memory: 2097152 instead of 1048576"]);
        assert_eq!(found.running, [] as [&str; 0]);
        let other = made().replace("<source network='lan'/>", "<source network='dmz'/>");
        let found = drift(&made(), Some(&other), 3);
        assert_eq!((found.definition.len(), found.running.len()), (0, 1));
        assert!(found.running[0].ends_with("source/@network: dmz instead of lan"), "{found:?}");
        assert_eq!(drift(&larger, Some(&larger), 3).running, [] as [&str; 0], "told once");
    }

    #[test]
    fn a_disk_that_was_moved_is_told_apart() {
        let snapshot = made().replace("<source file='/p/v'/>", "<source file='/p/v.before'/>");
        let found = drift(&snapshot, Some(&snapshot), 3);
        assert_eq!(found.moved, ["devices/disk[ua-disk-root]/source/@file: /p/v.before instead of /p/v"]);
        assert_eq!(found.moved, found.definition);
        let copied = made()
            .replace("<disk type='file'", "<disk type='block'")
            .replace("<source file='/p/v'/>", "<source dev='/dev/x'/>");
        assert!(!drift(&copied, None, 3).moved.is_empty());
        let other = made().replace("<source network='lan'/>", "<source network='dmz'/>");
        assert_eq!(drift(&other, None, 3).moved, [] as [&str; 0]);
    }

    #[test]
    fn a_start_leaves_no_disk_behind() {
        let at = |path: &str| made().replace("/p/v", path);
        let behind = |made: &str, definition: &str, status: &VirtualMachineStatus| {
            let details = Details { definition: definition.into(), ..Default::default() };
            Drift::left_behind(made, status, &host(), 3, &details).len()
        };
        let (known, unknown) = (status(), VirtualMachineStatus::default());
        for (made, definition, status, disks, why) in [
            (at("/p/v"), at("/p/v"), &known, 0, "as it was"),
            (at("/p/v"), at("/p/v.snapshot"), &known, 1, "a snapshot"),
            (at("/p/v"), made().replace("type='qcow2'", "type='raw'"), &known, 1, "another format"),
            (at("/p/new"), at("/p/v"), &known, 0, "the spec has another disk now"),
            (
                at("/p/new"),
                at("/p/new"),
                &known,
                0,
                "defined, and killed before that was written; or copied, and said so",
            ),
            (at("/p/new"), at("/p/v.snapshot"), &known, 1, "neither"),
            (at("/p/v"), at("/p/v"), &unknown, 0, "of an earlier version"),
            (at("/p/v"), at("/p/v.snapshot"), &unknown, 1, "and moved since"),
        ] {
            assert_eq!(behind(&made, &definition, status), disks, "{why}");
        }
    }

    #[test]
    fn what_is_not_known_is_no_drift() {
        let details = Details { definition: made(), ..Default::default() };
        assert_eq!(Drift::of(&VirtualMachineStatus::default(), &host(), 1, &details), Drift::default());
    }
}
