//! The custom resource definitions: derived from the types, completed by the rules that every kind follows.

use k8s_openapi::apiextensions_apiserver::pkg::apis::apiextensions::v1::{
    CustomResourceDefinition, JSONSchemaProps, JSONSchemaPropsOrArray, ValidationRule,
};
use kube::CustomResourceExt;

use crate::{
    ClusterVirtualMachineImage, ClusterVirtualMachineNetwork, Hypervisor, VirtualMachine, VirtualMachineClass,
    VirtualMachineDisk, VirtualMachineImage, VirtualMachineNetwork, VirtualMachineStoragePool,
};

/// Every definition, in the order of the manifest.
pub fn all() -> Vec<CustomResourceDefinition> {
    let mut crds = vec![
        VirtualMachine::crd(),
        VirtualMachineClass::crd(),
        VirtualMachineDisk::crd(),
        VirtualMachineImage::crd(),
        ClusterVirtualMachineImage::crd(),
        VirtualMachineStoragePool::crd(),
        VirtualMachineNetwork::crd(),
        ClusterVirtualMachineNetwork::crd(),
        Hypervisor::crd(),
    ];
    for crd in &mut crds {
        let node_named = crd.spec.names.kind == "Hypervisor";
        for version in &mut crd.spec.versions {
            if let Some(root) = version.schema.as_mut().and_then(|s| s.open_api_v3_schema.as_mut()) {
                complete(root, node_named);
            }
        }
    }
    crds
}

/// The manifest `yamls/10-crds.yaml`.
pub fn manifest() -> Result<String, serde_yaml_ng::Error> {
    let mut out = String::from("# Generated from the crate kubevmm-api by `make yamls`; do not edit.\n");
    for crd in all() {
        out.push_str("---\n");
        out.push_str(&serde_yaml_ng::to_string(&crd)?);
    }
    Ok(out)
}

fn complete(root: &mut JSONSchemaProps, node_named: bool) {
    if !node_named {
        // Names reach the host in names of domains, volumes and networks: a label, so that `.` separates.
        root.x_kubernetes_validations.get_or_insert_default().push(ValidationRule {
            rule: "size(self.metadata.name) <= 63 && self.metadata.name.matches('^[a-z0-9]([-a-z0-9]*[a-z0-9])?$')"
                .into(),
            message: Some("metadata.name must be a DNS label: at most 63 lower-case letters, digits and '-'".into()),
            ..Default::default()
        });
    }
    plain_integers(root);
    let text = |description: &str, schema: &mut JSONSchemaProps| {
        schema.description.get_or_insert_with(|| description.to_owned());
    };
    if let Some(properties) = root.properties.as_mut() {
        if let Some(spec) = properties.get_mut("spec") {
            text("What is wanted.", spec);
        }
        if let Some(status) = properties.get_mut("status") {
            text("What is known. Written by the project.", status);
        }
    }
}

/// Kubernetes knows int32 and int64 only; Rust's other widths are bounds, which the schema has anyway.
fn plain_integers(schema: &mut JSONSchemaProps) {
    if schema.format.as_deref().is_some_and(|format| format.starts_with("uint")) {
        schema.format = None;
    }
    schema.properties.iter_mut().flatten().for_each(|(_, property)| plain_integers(property));
    if let Some(JSONSchemaPropsOrArray::Schema(items)) = &mut schema.items {
        plain_integers(items);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn undescribed(path: &str, schema: &JSONSchemaProps, out: &mut Vec<String>) {
        for (name, property) in schema.properties.iter().flatten() {
            let path = format!("{path}.{name}");
            if property.description.as_deref().unwrap_or_default().trim().is_empty() {
                out.push(path.clone());
            }
            undescribed(&path, property, out);
        }
        if let Some(JSONSchemaPropsOrArray::Schema(items)) = &schema.items {
            undescribed(&format!("{path}[]"), items, out);
        }
    }

    #[test]
    fn every_field_has_a_description() {
        let mut missing = Vec::new();
        for crd in all() {
            for version in &crd.spec.versions {
                let root = version.schema.as_ref().and_then(|s| s.open_api_v3_schema.as_ref()).unwrap();
                for part in ["spec", "status"] {
                    if let Some(schema) = root.properties.as_ref().and_then(|p| p.get(part)) {
                        undescribed(&format!("{}.{part}", crd.spec.names.kind), schema, &mut missing);
                    }
                }
            }
        }
        assert!(missing.is_empty(), "kubectl explain says nothing about: {missing:#?}");
    }

    /// The schema of what a column shows, such as `.status.conditions[?(@.type=="Ready")].status`.
    fn shown<'a>(root: &'a JSONSchemaProps, json_path: &str) -> Option<&'a JSONSchemaProps> {
        let json_path =
            json_path.replace(r#"[?(@.type=="Ready")]"#, "[]").replace(r#"[?(@.type=="Provisioned")]"#, "[]");
        json_path.replace("[0]", "[]").trim_start_matches('.').split('.').try_fold(root, |schema, part| {
            let property = schema.properties.as_ref()?.get(part.trim_end_matches("[]"))?;
            match (part.ends_with("[]"), &property.items) {
                (false, _) => Some(property),
                (true, Some(JSONSchemaPropsOrArray::Schema(items))) => Some(items.as_ref()),
                (true, _) => None,
            }
        })
    }

    #[test]
    fn each_column_shows_a_field_of_its_type() {
        for crd in all() {
            let version = &crd.spec.versions[0];
            let root = version.schema.as_ref().and_then(|s| s.open_api_v3_schema.as_ref()).unwrap();
            for column in version.additional_printer_columns.iter().flatten() {
                let what = format!("{}: {} {}", crd.spec.names.kind, column.name, column.json_path);
                if column.json_path.starts_with(".metadata.") {
                    continue;
                }
                let field = shown(root, &column.json_path).unwrap_or_else(|| panic!("{what}: there is no such field"));
                match column.type_.as_str() {
                    "date" => assert_eq!(field.format.as_deref(), Some("date-time"), "{what}"),
                    other => assert!([Some(other), None].contains(&field.type_.as_deref()), "{what}"),
                }
            }
        }
    }

    #[test]
    fn a_vm_shows_whether_it_is_up_where_since_when_and_why_not() {
        let version = &VirtualMachine::crd().spec.versions[0];
        let columns = version.additional_printer_columns.iter().flatten();
        let names: Vec<&str> = columns.filter(|c| c.priority.is_none()).map(|c| c.name.as_str()).collect();
        assert_eq!(names, ["Status", "Node", "Address", "Ready", "Reason", "Started", "Age"]);
    }

    #[test]
    fn the_committed_manifest_is_the_generated_one() {
        let path = concat!(env!("CARGO_MANIFEST_DIR"), "/../yamls/10-crds.yaml");
        let committed = std::fs::read_to_string(path).unwrap_or_default();
        assert!(committed == manifest().unwrap(), "yamls/10-crds.yaml is stale: run `make yamls`");
    }
}
