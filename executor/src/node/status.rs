//! The Node of this host, as a function of its Hypervisor object: pure.

use std::collections::BTreeMap;
use std::net::IpAddr;

use k8s_openapi::api::core::v1::{Node, NodeAddress, NodeCondition, NodeSpec, NodeStatus, NodeSystemInfo, Taint};
use k8s_openapi::apimachinery::pkg::api::resource::Quantity;
use k8s_openapi::apimachinery::pkg::apis::meta::v1::Time;
use kube::api::ObjectMeta;
use kubevmm_api::{EXTERNAL, Hypervisor, HypervisorStatus, condition};
use serde_json::{Value as Json, json};

/// What this host says of itself.
#[derive(Clone, Debug)]
pub struct Host {
    /// Name of the Node.
    pub name: String,
    /// How others reach it.
    pub address: IpAddr,
    /// Labels beside those that every Node has.
    pub labels: BTreeMap<String, String>,
    /// How many pods it takes.
    pub max_pods: u32,
    /// The machine.
    pub info: NodeSystemInfo,
}

/// Kinds of pressure that a kubelet tells of. Nothing here evicts pods, which take no memory or disk.
const PRESSURES: [&str; 3] = ["MemoryPressure", "DiskPressure", "PIDPressure"];

/// The Node to be made: it takes VMs once it has told what it has.
pub fn node(host: &Host, now: &Time) -> Node {
    let own = [
        ("kubernetes.io/hostname", host.name.as_str()),
        ("kubernetes.io/os", "linux"),
        ("kubernetes.io/arch", host.info.architecture.as_str()),
        (EXTERNAL, "true"),
    ];
    let mut labels = host.labels.clone();
    labels.extend(own.map(|(key, value)| (key.to_owned(), value.to_owned())));
    let taint = Taint { key: EXTERNAL.into(), effect: "NoSchedule".into(), ..Taint::default() };
    Node {
        metadata: ObjectMeta { name: Some(host.name.clone()), labels: Some(labels), ..ObjectMeta::default() },
        spec: Some(NodeSpec { taints: Some(vec![taint]), ..NodeSpec::default() }),
        status: Some(merged(host, None, &NodeStatus::default(), now)),
    }
}

/// The patch that makes the Node's status what it should be; `None` when it is. The conditions are left alone unless the
/// executor `speaks` for the Node: while it holds its Lease.
pub fn patch(
    host: &Host,
    hypervisor: Option<&Hypervisor>,
    before: &NodeStatus,
    now: &Time,
    speaks: bool,
) -> Option<Json> {
    let mut after = merged(host, hypervisor, before, now);
    if !speaks {
        after.conditions = before.conditions.clone();
    }
    (after != *before).then(|| {
        json!({"status": {
            "addresses": after.addresses,
            "allocatable": after.allocatable,
            "capacity": after.capacity,
            "conditions": after.conditions,
            "nodeInfo": after.node_info,
        }})
    })
}

/// The status that should be: what others wrote is kept.
fn merged(host: &Host, hypervisor: Option<&Hypervisor>, before: &NodeStatus, now: &Time) -> NodeStatus {
    let told = hypervisor.and_then(|hypervisor| hypervisor.status.as_ref());
    let mut after = before.clone();
    after.addresses =
        Some(vec![address("InternalIP", host.address.to_string()), address("Hostname", host.name.clone())]);
    after.node_info = Some(host.info.clone());
    set(after.capacity.get_or_insert_default(), capacity(host, told));
    set(after.allocatable.get_or_insert_default(), allocatable(host, told));
    let conditions = after.conditions.get_or_insert_default();
    let pressures = PRESSURES.map(|kind| Said::no(kind, "NotMeasured", "no kubelet runs on this host"));
    for said in pressures.into_iter().chain([ready(told)]) {
        match conditions.iter_mut().find(|there| there.type_ == said.kind) {
            Some(there) if said.is(there) => {}
            Some(there) => *there = said.after(Some(there), now),
            None => conditions.push(said.after(None, now)),
        }
    }
    after
}

/// What a condition says.
struct Said {
    kind: &'static str,
    status: &'static str,
    reason: String,
    message: String,
}

impl Said {
    fn no(kind: &'static str, reason: &str, message: &str) -> Self {
        Self { kind, status: "False", reason: reason.to_owned(), message: message.to_owned() }
    }

    fn is(&self, there: &NodeCondition) -> bool {
        there.type_ == self.kind
            && there.status == self.status
            && there.reason.as_deref() == Some(self.reason.as_str())
            && there.message.as_deref() == Some(self.message.as_str())
    }

    fn after(&self, before: Option<&NodeCondition>, now: &Time) -> NodeCondition {
        let same = before.filter(|there| there.status == self.status);
        NodeCondition {
            type_: self.kind.to_owned(),
            status: self.status.to_owned(),
            reason: Some(self.reason.clone()),
            message: Some(self.message.clone()),
            last_heartbeat_time: Some(now.clone()),
            last_transition_time: same.and_then(|there| there.last_transition_time.clone()).or(Some(now.clone())),
        }
    }
}

/// Ready is what the Hypervisor says.
fn ready(told: Option<&HypervisorStatus>) -> Said {
    let ready = told.and_then(|status| condition::find(&status.conditions, condition::READY));
    match ready {
        None => Said::no("Ready", "HypervisorNotReported", "the host's Hypervisor object has no status yet"),
        Some(ready) if ready.status == "True" => {
            Said { kind: "Ready", status: "True", reason: "HypervisorReady".into(), message: "libvirt answers".into() }
        }
        Some(ready) => Said::no("Ready", &ready.reason, &ready.message),
    }
}

fn address(kind: &str, address: String) -> NodeAddress {
    NodeAddress { type_: kind.to_owned(), address }
}

type Resources = BTreeMap<String, Quantity>;

/// The API server writes quantities in its own way: what is equal stays as it is.
fn set(resources: &mut Resources, wanted: Resources) {
    let millis = |quantity: &Quantity| kubevmm_api::Quantity(quantity.0.clone()).millis().ok();
    for (name, quantity) in wanted {
        let same = resources.get(&name).is_some_and(|there| millis(there) == millis(&quantity));
        if !same {
            resources.insert(name, quantity);
        }
    }
}

/// All that the host has.
fn capacity(host: &Host, told: Option<&HypervisorStatus>) -> Resources {
    let cpus = told.and_then(|status| status.cpus).unwrap_or_default();
    let memory = told.and_then(|status| status.memory.clone()).map_or_else(|| "0".to_owned(), |memory| memory.0);
    resources(cpus.to_string(), memory, host.max_pods)
}

/// What pods can have: without huge pages and what is kept for the host.
fn allocatable(host: &Host, told: Option<&HypervisorStatus>) -> Resources {
    match told.and_then(|status| status.allocatable.as_ref()) {
        Some(allocatable) => resources(allocatable.cpu.0.clone(), allocatable.memory.0.clone(), host.max_pods),
        None => capacity(host, told),
    }
}

fn resources(cpu: String, memory: String, pods: u32) -> Resources {
    BTreeMap::from([
        ("cpu".to_owned(), Quantity(cpu)),
        ("memory".to_owned(), Quantity(memory)),
        ("pods".to_owned(), Quantity(pods.to_string())),
    ])
}

#[cfg(test)]
mod tests {
    use super::*;
    use k8s_openapi::jiff::Timestamp;

    fn at(second: i64) -> Time {
        Time(Timestamp::from_second(second).unwrap())
    }

    fn host() -> Host {
        let info = NodeSystemInfo { architecture: "amd64".into(), boot_id: "b".into(), ..NodeSystemInfo::default() };
        let labels = BTreeMap::from([("zone".to_owned(), "a".to_owned()), (EXTERNAL.to_owned(), "false".to_owned())]);
        Host { name: "kvm1".into(), address: [10, 0, 0, 1].into(), labels, max_pods: 500, info }
    }

    fn hypervisor(ready: &str) -> Hypervisor {
        serde_yaml_ng::from_str(&format!(
            "{{metadata: {{name: kvm1}}, spec: {{}}, status: {{cpus: 8, memory: 16Gi, \
             allocatable: {{cpu: 7500m, memory: 14Gi}}, conditions: [{{type: Ready, {ready}, \
             lastTransitionTime: \"2026-01-01T00:00:00Z\"}}]}}}}"
        ))
        .unwrap()
    }

    fn up() -> Hypervisor {
        hypervisor("status: 'True', reason: Ready, message: ''")
    }

    fn condition<'a>(status: &'a NodeStatus, kind: &str) -> &'a NodeCondition {
        status.conditions.iter().flatten().find(|condition| condition.type_ == kind).unwrap()
    }

    #[test]
    fn a_new_node_keeps_other_pods_away_and_promises_nothing_yet() {
        let node = node(&host(), &at(1));
        let labels = node.metadata.labels.unwrap();
        assert_eq!((labels["zone"].as_str(), labels[EXTERNAL].as_str()), ("a", "true"));
        assert_eq!(
            (labels["kubernetes.io/hostname"].as_str(), labels["kubernetes.io/arch"].as_str()),
            ("kvm1", "amd64")
        );
        let taints = node.spec.unwrap().taints.unwrap();
        assert_eq!((taints[0].key.as_str(), taints[0].effect.as_str()), (EXTERNAL, "NoSchedule"));
        let status = node.status.unwrap();
        assert_eq!(status.allocatable.as_ref().unwrap()["memory"].0, "0");
        assert_eq!(condition(&status, "Ready").status, "False");
    }

    #[test]
    fn the_node_is_what_the_hypervisor_says() {
        let status = merged(&host(), Some(&up()), &NodeStatus::default(), &at(1));
        let (capacity, allocatable) = (status.capacity.as_ref().unwrap(), status.allocatable.as_ref().unwrap());
        assert_eq!([&capacity["cpu"].0, &capacity["memory"].0, &capacity["pods"].0], ["8", "16Gi", "500"]);
        assert_eq!([&allocatable["cpu"].0, &allocatable["memory"].0], ["7500m", "14Gi"]);
        assert_eq!(condition(&status, "Ready").status, "True");
        assert_eq!(condition(&status, "MemoryPressure").status, "False");
        let down = hypervisor("status: 'False', reason: LibvirtUnavailable, message: no socket");
        let status = merged(&host(), Some(&down), &status, &at(2));
        let ready = condition(&status, "Ready");
        assert_eq!((ready.status.as_str(), ready.message.as_deref()), ("False", Some("no socket")));
        assert_eq!(ready.last_transition_time, Some(at(2)));
        assert_eq!(condition(&status, "DiskPressure").last_heartbeat_time, Some(at(1)), "it says what it said");
    }

    #[test]
    fn what_is_written_already_is_not_written_again() {
        let mut there = merged(&host(), Some(&up()), &NodeStatus::default(), &at(1));
        assert_eq!(patch(&host(), Some(&up()), &there, &at(60), true), None);
        there.allocatable.as_mut().unwrap().insert("cpu".into(), Quantity("7.5".into()));
        there.capacity.as_mut().unwrap().insert("example.com/card".into(), Quantity("1".into()));
        let theirs = NodeCondition { type_: "NetworkUnavailable".into(), status: "False".into(), ..Default::default() };
        there.conditions.as_mut().unwrap().push(theirs);
        assert_eq!(patch(&host(), Some(&up()), &there, &at(60), true), None, "said in another way, and by others");
        let ready = there.conditions.as_mut().unwrap().iter_mut().find(|condition| condition.type_ == "Ready").unwrap();
        (ready.status, ready.reason) = ("Unknown".into(), Some("NodeStatusUnknown".into()));
        let patch = patch(&host(), Some(&up()), &there, &at(60), true).unwrap();
        assert!(patch["status"]["conditions"].to_string().contains("HypervisorReady"), "it was given up, and is back");
        assert_eq!(patch["status"]["capacity"]["example.com/card"], "1");
    }
}
