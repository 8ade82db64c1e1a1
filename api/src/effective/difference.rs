//! What differs between the spec that a domain was started with and the spec of now, by the fields of
//! VirtualMachine.spec.

use serde_json::{Map, Value};

use super::{EffectiveDisk, EffectiveNetwork, EffectivePlacement, EffectiveSeed, EffectiveSpec};
use crate::quantity::Quantity;

/// Of `spec.domain`, which can be of any size, no more fields are named than a person reads.
const MAX_DOMAIN_FIELDS: usize = 8;
/// Length of the path of one of them.
const MAX_DOMAIN_PATH: usize = 128;

/// The fields of a VirtualMachine in which a running domain differs from the spec, sorted: those of the domain, and those
/// of its placement pod. What a class or a default gives is named by the field that overrides it.
pub fn differences(running: &EffectiveSpec, wanted: &EffectiveSpec) -> Vec<String> {
    // Taken apart in full: a field that is added is not forgotten here.
    let EffectiveSpec { cores, memory, machine, firmware, uuid, disks, networks, seed, domain, placement } = running;
    let mut fields = Vec::new();
    let mut note = |same: bool, path: &str| {
        if !same {
            fields.push(path.to_owned());
        }
    };
    note(*cores == wanted.cores, "spec.cpu.cores");
    note(same_quantity(memory, &wanted.memory), "spec.memory.size");
    note(*machine == wanted.machine, "spec.machine.type");
    note(*firmware == wanted.firmware, "spec.firmware.type");
    note(*uuid == wanted.uuid, "spec.firmware.uuid");
    compare_lists("spec.disks", disks, &wanted.disks, |disk| &disk.name, disk_fields, &mut fields);
    compare_lists("spec.networks", networks, &wanted.networks, |nic| &nic.name, nic_fields, &mut fields);
    fields.extend(seed_fields(seed.as_ref(), wanted.seed.as_ref()));
    fields.extend(domain_fields(domain, &wanted.domain));
    fields.extend(placement_fields(placement, &wanted.placement));
    fields.sort();
    fields
}

/// `2Gi` is `2048Mi`.
fn same_quantity(a: &Quantity, b: &Quantity) -> bool {
    a == b || matches!((a.millis(), b.millis()), (Ok(a), Ok(b)) if a == b)
}

/// The names of the fields of which it is said that they are not the same.
fn changed(fields: &[(&str, bool)]) -> Vec<String> {
    fields.iter().filter(|(_, same)| !same).map(|(name, _)| (*name).to_owned()).collect()
}

/// Compares what has the same name; what is on one side only is named, and so is the list when its order differs: it is
/// what the guest sees.
fn compare_lists<T>(
    path: &str,
    running: &[T],
    wanted: &[T],
    name: fn(&T) -> &String,
    fields: fn(&T, &T) -> Vec<String>,
    out: &mut Vec<String>,
) {
    let within = |list: &[T], item: &T| list.iter().any(|other| name(other) == name(item));
    let common = |list: &[T], other: &[T]| -> Vec<String> {
        list.iter().filter(|item| within(other, item)).map(|item| name(item).clone()).collect()
    };
    if common(running, wanted) != common(wanted, running) {
        out.push(path.to_owned());
    }
    for item in running {
        match wanted.iter().find(|other| name(other) == name(item)) {
            None => out.push(format!("{path}[{}]", name(item))),
            Some(other) => {
                out.extend(fields(item, other).iter().map(|field| format!("{path}[{}].{field}", name(item))));
            }
        }
    }
    out.extend(wanted.iter().filter(|item| !within(running, item)).map(|item| format!("{path}[{}]", name(item))));
}

fn disk_fields(running: &EffectiveDisk, wanted: &EffectiveDisk) -> Vec<String> {
    let EffectiveDisk { name: _, disk_name, bus, boot_order } = running;
    changed(&[
        ("diskName", *disk_name == wanted.disk_name),
        ("bus", *bus == wanted.bus),
        ("bootOrder", *boot_order == wanted.boot_order),
    ])
}

fn nic_fields(running: &EffectiveNetwork, wanted: &EffectiveNetwork) -> Vec<String> {
    let EffectiveNetwork { name: _, kind, network_name, model, mac_address } = running;
    changed(&[
        ("network.kind", *kind == wanted.kind),
        ("network.name", *network_name == wanted.network_name),
        ("model", *model == wanted.model),
        ("macAddress", *mac_address == wanted.mac_address),
    ])
}

fn seed_fields(running: Option<&EffectiveSeed>, wanted: Option<&EffectiveSeed>) -> Vec<String> {
    let (Some(running), Some(wanted)) = (running, wanted) else {
        return changed(&[("spec.cloudInit", running == wanted)]);
    };
    let EffectiveSeed { user_data_digest, network_data_digest } = running;
    changed(&[
        ("spec.cloudInit.networkData", *network_data_digest == wanted.network_data_digest),
        ("spec.cloudInit.userData", *user_data_digest == wanted.user_data_digest),
    ])
}

/// The keys below which `spec.domain` differs; itself when they are too many to read.
fn domain_fields(running: &Map<String, Value>, wanted: &Map<String, Value>) -> Vec<String> {
    const PATH: &str = "spec.domain";
    let mut fields = Vec::new();
    compare_mappings(PATH, running, wanted, &mut fields);
    let is_readable = fields.len() <= MAX_DOMAIN_FIELDS && fields.iter().all(|path| path.len() <= MAX_DOMAIN_PATH);
    if is_readable { fields } else { vec![PATH.to_owned()] }
}

fn compare_mappings(path: &str, running: &Map<String, Value>, wanted: &Map<String, Value>, out: &mut Vec<String>) {
    let added = wanted.keys().filter(|key| !running.contains_key(*key));
    for key in running.keys().chain(added) {
        let path = format!("{path}.{key}");
        match (running.get(key), wanted.get(key)) {
            (before, after) if before == after => {}
            (Some(Value::Object(before)), Some(Value::Object(after))) => compare_mappings(&path, before, after, out),
            _ => out.push(path),
        }
    }
}

fn placement_fields(running: &EffectivePlacement, wanted: &EffectivePlacement) -> Vec<String> {
    let EffectivePlacement {
        cpu_request,
        node_selector,
        tolerations,
        affinity,
        topology_spread_constraints,
        priority_class_name,
        user_data_secret_name,
    } = running;
    let same_request = match (cpu_request, &wanted.cpu_request) {
        (Some(a), Some(b)) => same_quantity(a, b),
        (a, b) => a == b,
    };
    changed(&[
        ("spec.cloudInit.userDataSecretName", *user_data_secret_name == wanted.user_data_secret_name),
        ("spec.cpu.request", same_request),
        ("spec.placement.affinity", *affinity == wanted.affinity),
        ("spec.placement.nodeSelector", *node_selector == wanted.node_selector),
        ("spec.placement.priorityClassName", *priority_class_name == wanted.priority_class_name),
        ("spec.placement.tolerations", *tolerations == wanted.tolerations),
        (
            "spec.placement.topologySpreadConstraints",
            *topology_spread_constraints == wanted.topology_spread_constraints,
        ),
    ])
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::collections::BTreeSet;

    use k8s_openapi::apiextensions_apiserver::pkg::apis::apiextensions::v1::{JSONSchemaProps, JSONSchemaPropsOrArray};
    use kube::CustomResourceExt;
    use serde_json::json;

    use crate::class::VirtualMachineClassSpec;
    use crate::effective::merge;
    use crate::vm::VirtualMachine;

    const BASE: &str = "
runStrategy: Manual
className: small
cpu: {cores: 1, request: 100m}
memory: {size: 1Gi}
machine: {type: q35}
firmware: {uuid: b3a1c7d2-0000-4000-8000-000000000001}
disks:
- {name: root, bus: virtio, bootOrder: 1, diskName: a}
networks:
- {name: lan, network: {name: blue}, macAddress: '02:00:00:00:00:01'}
cloudInit: {userData: a}
domain: {title: Web}
placement: {nodeSelector: {disk: ssd}}
powerRequest: {id: a, action: Start}
";

    /// What becomes of a change of a field.
    enum Change {
        /// The next start takes it; these paths are named.
        Start(&'static [&'static str]),
        /// The next placement takes it; the path of the field is named.
        Placement,
        /// It needs no restart: it acts at once.
        AtOnce,
        /// It needs no restart: nobody reads it any more. The disk has been made from it, and it is immutable.
        Made,
    }

    /// Each field of the spec, another value, and what becomes of the change.
    fn changes() -> Vec<(&'static str, Value, Change)> {
        use Change::{AtOnce, Made, Placement, Start};
        vec![
            ("className", json!("large"), Start(&["spec.machine.type"])),
            ("cloudInit.networkData", json!("n"), Start(&["spec.cloudInit.networkData"])),
            ("cloudInit.userData", json!("b"), Start(&["spec.cloudInit.userData"])),
            ("cloudInit.userDataSecretName", json!("s"), Placement),
            ("cpu.cores", json!(2), Start(&["spec.cpu.cores"])),
            ("cpu.request", json!("300m"), Placement),
            ("disks[].bootOrder", json!(2), Start(&["spec.disks[root].bootOrder"])),
            ("disks[].bus", json!("sata"), Start(&["spec.disks[root].bus"])),
            ("disks[].diskName", json!("b"), Start(&["spec.disks[root].diskName"])),
            ("disks[].name", json!("boot"), Start(&["spec.disks[boot]", "spec.disks[root]"])),
            ("disks[].template", json!({"size": "1Gi", "source": {"blank": {}}}), Made),
            (
                "domain",
                json!({"devices": {"watchdogs": [{"model": "itco"}]}}),
                Start(&["spec.domain.devices", "spec.domain.title"]),
            ),
            // It has one value so far.
            ("driftPolicy", json!("Revert"), AtOnce),
            ("evictionStrategy", json!("Block"), AtOnce),
            ("firmware.type", json!("bios"), AtOnce),
            ("firmware.uuid", json!("b3a1c7d2-0000-4000-8000-000000000002"), Start(&["spec.firmware.uuid"])),
            ("machine.type", json!("pc"), Start(&["spec.machine.type"])),
            ("memory.size", json!("2Gi"), Start(&["spec.memory.size"])),
            ("networks[].macAddress", json!("02:00:00:00:00:02"), Start(&["spec.networks[lan].macAddress"])),
            ("networks[].model", json!("e1000e"), Start(&["spec.networks[lan].model"])),
            ("networks[].name", json!("wan"), Start(&["spec.networks[lan]", "spec.networks[wan]"])),
            (
                "networks[].network.kind",
                json!("ClusterVirtualMachineNetwork"),
                Start(&["spec.networks[lan].network.kind"]),
            ),
            ("networks[].network.name", json!("red"), Start(&["spec.networks[lan].network.name"])),
            ("placement.affinity", json!({"podAntiAffinity": {}}), Placement),
            ("placement.nodeSelector", json!({"disk": "hdd"}), Placement),
            ("placement.priorityClassName", json!("high"), Placement),
            ("placement.tolerations", json!([{"key": "a", "operator": "Exists"}]), Placement),
            (
                "placement.topologySpreadConstraints",
                json!([{"maxSkew": 1, "topologyKey": "zone", "whenUnsatisfiable": "DoNotSchedule"}]),
                Placement,
            ),
            ("powerRequest.action", json!("Stop"), AtOnce),
            ("powerRequest.force", json!(true), AtOnce),
            ("powerRequest.id", json!("b"), AtOnce),
            ("runStrategy", json!("Always"), AtOnce),
            ("terminationGracePeriodSeconds", json!(5), AtOnce),
        ]
    }

    fn base() -> Value {
        serde_yaml_ng::from_str(BASE).unwrap()
    }

    fn merged(spec: &Value) -> EffectiveSpec {
        let class = match spec["className"].as_str() {
            Some("large") => "machine: {type: pc}",
            _ => "machine: {type: q35}",
        };
        let class: VirtualMachineClassSpec = serde_yaml_ng::from_str(class).unwrap();
        merge("web", "uid", &serde_json::from_value(spec.clone()).unwrap(), Some(&class), None).unwrap()
    }

    fn set(spec: &mut Value, field: &str, value: Value) {
        let (parent, key) = field.rsplit_once('.').unwrap_or(("", field));
        let pointer: String = parent
            .split('.')
            .filter(|part| !part.is_empty())
            .map(|part| format!("/{}", part.replace("[]", "/0")))
            .collect();
        spec.pointer_mut(&pointer).unwrap().as_object_mut().unwrap().insert(key.to_owned(), value);
    }

    /// The fields that a user gives a value.
    fn leaves(path: &str, schema: &JSONSchemaProps, out: &mut BTreeSet<String>) {
        let list_of_maps = schema.x_kubernetes_list_type.as_deref() == Some("map");
        if let (true, Some(JSONSchemaPropsOrArray::Schema(items))) = (list_of_maps, &schema.items) {
            return leaves(&format!("{path}[]"), items, out);
        }
        let properties = schema.properties.iter().flatten().collect::<Vec<_>>();
        // A disk's own fields are the disk's, and an affinity's are Kubernetes' own.
        let is_leaf = properties.is_empty() || matches!(path, "disks[].template" | "placement.affinity");
        if is_leaf {
            out.insert(path.to_owned());
        }
        for (name, property) in properties.into_iter().filter(|_| !is_leaf) {
            let path = if path.is_empty() { name.clone() } else { format!("{path}.{name}") };
            leaves(&path, property, out);
        }
    }

    #[test]
    fn a_change_of_each_field_is_named_by_its_path() {
        let crd = VirtualMachine::crd();
        let root = crd.spec.versions[0].schema.as_ref().unwrap().open_api_v3_schema.as_ref().unwrap();
        let mut fields = BTreeSet::new();
        leaves("", &root.properties.as_ref().unwrap()["spec"], &mut fields);
        // Whose a domain is, and nothing of what it is.
        fields.retain(|field| field != "management" && !field.starts_with("existingDomain."));
        let known: BTreeSet<String> = changes().into_iter().map(|(field, ..)| field.to_owned()).collect();
        assert_eq!(fields, known, "say here what becomes of a change of each field");

        for (field, value, change) in changes() {
            let (before, mut after) = (base(), base());
            if field == "className" {
                after.as_object_mut().unwrap().remove("machine");
            }
            set(&mut after, field, value);
            let found = differences(&merged(&before), &merged(&after));
            let expected: Vec<String> = match change {
                Change::Start(paths) => paths.iter().map(|path| (*path).to_owned()).collect(),
                Change::Placement => vec![format!("spec.{field}")],
                Change::AtOnce | Change::Made => vec![],
            };
            assert_eq!(found, expected, "{field}");
        }
    }

    #[test]
    fn the_same_written_otherwise_is_no_difference() {
        let mut after = base();
        set(&mut after, "memory.size", json!("1024Mi"));
        set(&mut after, "cpu.request", json!("0.1"));
        assert!(differences(&merged(&base()), &merged(&after)).is_empty());
    }

    #[test]
    fn the_order_of_devices_is_what_the_guest_sees() {
        let with = |disks: Value| {
            let mut spec = base();
            set(&mut spec, "disks", disks);
            merged(&spec)
        };
        let (a, b) = (json!({"name": "a", "diskName": "a"}), json!({"name": "b", "diskName": "b"}));
        let found = differences(&with(json!([a, b])), &with(json!([b, a])));
        assert_eq!(found, ["spec.disks"]);
        let found = differences(&with(json!([a])), &with(json!([b, a])));
        assert_eq!(found, ["spec.disks[b]"]);
    }

    #[test]
    fn what_lies_over_the_domain_is_named_as_deep_as_it_differs() {
        let with = |domain: Value| {
            let mut spec = base();
            set(&mut spec, "domain", domain);
            merged(&spec)
        };
        let before = with(json!({"title": "Web", "devices": {"watchdogs": [{"model": "itco"}], "rngs": []}}));
        let cases = [
            (json!({"devices": {"rngs": [], "watchdogs": [{"model": "itco"}]}, "title": "Web"}), vec![]),
            (json!({"title": "Web", "devices": {"watchdogs": [], "rngs": []}}), vec!["spec.domain.devices.watchdogs"]),
            (json!({"title": "Web"}), vec!["spec.domain.devices"]),
            (
                json!({"title": null, "devices": {"rngs": []}}),
                vec!["spec.domain.devices.watchdogs", "spec.domain.title"],
            ),
        ];
        for (after, paths) in cases {
            assert_eq!(differences(&before, &with(after.clone())), paths, "{after}");
        }
        let many: Map<String, Value> = (0..100).map(|n| (format!("key{n}"), json!(n))).collect();
        assert_eq!(differences(&before, &with(Value::Object(many))), ["spec.domain"], "no more than can be read");
        let long = Map::from_iter([("k".repeat(1000), json!(1))]);
        assert_eq!(differences(&before, &with(Value::Object(long))), ["spec.domain"]);
    }

    #[test]
    fn nothing_over_the_domain_is_the_same_as_an_empty_mapping() {
        let mut without = base();
        without.as_object_mut().unwrap().remove("domain");
        let mut empty = base();
        set(&mut empty, "domain", json!({}));
        assert!(differences(&merged(&without), &merged(&empty)).is_empty());
    }

    #[test]
    fn a_seed_that_comes_or_goes_is_a_difference() {
        let mut without = base();
        without.as_object_mut().unwrap().remove("cloudInit");
        let found = differences(&merged(&base()), &merged(&without));
        assert_eq!(found, ["spec.cloudInit"]);
    }

    #[test]
    fn the_data_itself_is_not_kept() {
        let mut spec = base();
        set(&mut spec, "cloudInit.userData", json!("password: hunter2"));
        let kept = serde_json::to_string(&merged(&spec)).unwrap();
        assert!(!kept.contains("hunter2") && kept.contains("userDataDigest"), "{kept}");
    }
}
