//! Conditions: their types, their reasons, and how they are set without needless writes.
//!
//! The reasons and their remedies are in `docs/conditions.md`: all of them, and no other.

use k8s_openapi::apimachinery::pkg::apis::meta::v1::{Condition, Time};

/// VirtualMachine: the domain runs. VirtualMachineStoragePool, -Network, -Image, Hypervisor: can be used.
pub const READY: &str = "Ready";
/// VirtualMachine: a host has been chosen. Written by the controller.
pub const SCHEDULED: &str = "Scheduled";
/// VirtualMachine: each disk exists and belongs to this VM. Written by the controller.
pub const DISKS_READY: &str = "DisksReady";
/// VirtualMachine: the guest agent answers.
pub const AGENT_CONNECTED: &str = "AgentConnected";
/// VirtualMachine: at least one address of each NIC is known.
pub const ADDRESSES_KNOWN: &str = "AddressesKnown";
/// VirtualMachine: the running domain differs from the spec; the message lists the field paths.
pub const RESTART_REQUIRED: &str = "RestartRequired";
/// VirtualMachine: the domain on its host is what was made of the spec; the message lists the paths that somebody else
/// has changed.
pub const SYNCED: &str = "Synced";
/// VirtualMachine, VirtualMachineDisk: nothing of the deleted object is left on its host.
pub const HOST_RELEASED: &str = "HostReleased";
/// VirtualMachineDisk: the volume exists; from then on it is never created again.
pub const PROVISIONED: &str = "Provisioned";

/// The condition of type `kind`, if it is there.
pub fn find<'a>(conditions: &'a [Condition], kind: &str) -> Option<&'a Condition> {
    conditions.iter().find(|c| c.type_ == kind)
}

/// Whether the condition of type `kind` is `True`.
pub fn is_true(conditions: &[Condition], kind: &str) -> bool {
    find(conditions, kind).is_some_and(|c| c.status == "True")
}

/// What a condition shall say; the time of transition follows from what it said before.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Wanted {
    /// One of the condition types above.
    pub kind: &'static str,
    /// `Some(true)` is `True`, `Some(false)` is `False`, `None` is `Unknown`.
    pub status: Option<bool>,
    /// A stable CamelCase word for programs.
    pub reason: &'static str,
    /// A sentence for people: the object, the field, the way out.
    pub message: String,
}

impl Wanted {
    /// A condition that holds.
    pub fn yes(kind: &'static str, reason: &'static str, message: impl Into<String>) -> Self {
        Self { kind, status: Some(true), reason, message: message.into() }
    }

    /// A condition that does not hold.
    pub fn no(kind: &'static str, reason: &'static str, message: impl Into<String>) -> Self {
        Self { kind, status: Some(false), reason, message: message.into() }
    }

    /// A condition of which nothing is known.
    pub fn unknown(kind: &'static str, reason: &'static str, message: impl Into<String>) -> Self {
        Self { kind, status: None, reason, message: message.into() }
    }

    /// The condition as it is written: `lastTransitionTime` stays while the status stays (`now` otherwise), as the
    /// API conventions ask.
    pub fn over(&self, before: &[Condition], generation: Option<i64>, now: &Time) -> Condition {
        let status = match self.status {
            Some(true) => "True",
            Some(false) => "False",
            None => "Unknown",
        };
        let kept = find(before, self.kind).filter(|c| c.status == status).map(|c| c.last_transition_time.clone());
        Condition {
            type_: self.kind.into(),
            status: status.into(),
            reason: self.reason.into(),
            message: self.message.clone(),
            observed_generation: generation,
            last_transition_time: kept.unwrap_or_else(|| now.clone()),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::collections::BTreeSet;

    fn at(seconds: i64) -> Time {
        Time(k8s_openapi::jiff::Timestamp::from_second(seconds).unwrap())
    }

    #[test]
    fn the_transition_time_moves_with_the_status_only() {
        let first = Wanted::no(READY, "Starting", "a").over(&[], Some(1), &at(1));
        let same = Wanted::no(READY, "VolumeMissing", "b").over(std::slice::from_ref(&first), Some(2), &at(2));
        assert_eq!(same.last_transition_time, at(1));
        assert_eq!(same.reason, "VolumeMissing");
        let changed = Wanted::yes(READY, "Running", "").over(&[same], Some(2), &at(3));
        assert_eq!(changed.last_transition_time, at(3));
    }

    /// Words of the code that look like a reason and are none: of Kubernetes' pods and nodes, actions of Events, and
    /// words of `printableStatus`.
    const OTHER_WORDS: [&str; 75] = [
        "AdmissionReview",
        "All",
        "Approved",
        "Config",
        "Connect",
        "ContainerCreating",
        "ContainersReady",
        "Default",
        "Delete",
        "DeletionByPodGC",
        "DeletionByTaintManager",
        "Denied",
        "DiskPressure",
        "DisruptionTarget",
        "Download",
        "EvictionByEvictionAPI",
        "Exists",
        "Failed",
        "False",
        "GiB",
        "GiveBack",
        "GivenBack",
        "Hostname",
        "Hypervisor",
        "HypervisorNotReported",
        "HypervisorReady",
        "IfHealthyBudget",
        "IfNotPresent",
        "In",
        "Initialized",
        "InternalIP",
        "KiB",
        "Lease",
        "Linux",
        "MemoryNotReserved",
        "MemoryPressure",
        "MiB",
        "Missing",
        "NoExecute",
        "NoSchedule",
        "Node",
        "NotFound",
        "NotMeasured",
        "Observe",
        "OutOfcpu",
        "OutOfmemory",
        "OutOfpods",
        "PIDPressure",
        "Place",
        "PodInitializing",
        "PodReadyToStartContainers",
        "PodResizePending",
        "PodScheduled",
        "PreemptionByScheduler",
        "Prepare",
        "Provisioning",
        "Release",
        "Reserve",
        "Revert",
        "Reverted",
        "RuntimeDefault",
        "Start",
        "Started",
        "Stop",
        "TakeOver",
        "TakenOver",
        "Terminating",
        "TerminationByKubelet",
        "TooManyRequests",
        "True",
        "Unknown",
        "Update",
        "ValidatingWebhookConfiguration",
        "VirtualMachine",
        "Watch",
    ];

    /// The sources of the crates that write conditions, without their tests.
    fn sources(directory: &std::path::Path, all: &mut Vec<String>) {
        for entry in std::fs::read_dir(directory).unwrap() {
            let path = entry.unwrap().path();
            let name = path.file_stem().unwrap().to_str().unwrap().to_owned();
            if path.is_dir() && !matches!(name.as_str(), "tests" | "libvirt") {
                sources(&path, all);
            } else if path.is_file() && !["tests", "testing", "fakes", "stories"].iter().any(|end| name.ends_with(end))
            {
                let text = std::fs::read_to_string(&path).unwrap();
                all.push(text.split("#[cfg(test)]\nmod tests").next().unwrap().to_owned());
            }
        }
    }

    fn is_camel_case(word: &str) -> bool {
        word.starts_with(|c: char| c.is_ascii_uppercase())
            && word.chars().all(|c| c.is_ascii_alphanumeric())
            && word.chars().any(|c| c.is_ascii_lowercase())
    }

    /// The words that stand alone between quotation marks.
    fn quoted(source: &str) -> BTreeSet<String> {
        let code = source.lines().filter(|line| !line.trim_start().starts_with("//"));
        let words = code.flat_map(|line| {
            let pieces: Vec<&str> = line.split('"').collect();
            pieces.into_iter().skip(1).step_by(2).filter(|piece| is_camel_case(piece)).collect::<Vec<_>>()
        });
        words.map(ToOwned::to_owned).collect()
    }

    /// The first column of each table.
    fn documented(text: &str) -> BTreeSet<String> {
        let cells = text.lines().filter_map(|line| line.strip_prefix("| ")?.split(" |").next());
        let reasons = cells.filter(|cell| !cell.starts_with("reason")).flat_map(|cell| {
            let words = cell.split(" (").next().unwrap_or_default();
            words.split(", ").inspect(|word| assert!(is_camel_case(word), "no reason: {cell}")).collect::<Vec<_>>()
        });
        reasons.map(ToOwned::to_owned).collect()
    }

    #[test]
    fn every_reason_is_documented_and_every_documented_reason_exists() {
        let root = std::path::Path::new(concat!(env!("CARGO_MANIFEST_DIR"), "/.."));
        let mut texts = Vec::new();
        for source in ["api/src/fit", "controller/src", "executor/src"] {
            sources(&root.join(source), &mut texts);
        }
        let words: BTreeSet<String> = texts.iter().flat_map(|text| quoted(text)).collect();
        let documented = documented(&std::fs::read_to_string(root.join("docs/conditions.md")).unwrap());
        let (missing, other): (Vec<_>, Vec<_>) =
            words.difference(&documented).partition(|word| !OTHER_WORDS.contains(&word.as_str()));
        assert_eq!(missing, Vec::<&String>::new(), "add them to docs/conditions.md (or to OTHER_WORDS)");
        assert_eq!(other, OTHER_WORDS, "OTHER_WORDS has what nothing uses, or what is a reason");
        let stale: Vec<_> = documented.difference(&words).collect();
        assert_eq!(stale, Vec::<&String>::new(), "nothing says them: take them out of docs/conditions.md");
    }
}
