//! Fixtures and golden files of the tests: `testdata/`. `UPDATE_GOLDEN=1 cargo test -p virtctl` rewrites the latter.

use std::path::PathBuf;

use k8s_openapi::jiff::Timestamp;
use kubevmm_api::{VirtualMachine, VirtualMachineClass, VirtualMachineDisk};
use serde::de::DeserializeOwned;

use crate::hardware::Catalog;

fn path(name: &str) -> PathBuf {
    PathBuf::from(concat!(env!("CARGO_MANIFEST_DIR"), "/testdata")).join(name)
}

/// The documents of a fixture.
pub(crate) fn documents<T: DeserializeOwned>(name: &str) -> Vec<T> {
    let text = std::fs::read_to_string(path(name)).unwrap();
    serde_yaml_ng::Deserializer::from_str(&text).map(|document| T::deserialize(document).unwrap()).collect()
}

/// The VMs of the fixtures.
pub(crate) fn vms() -> Vec<VirtualMachine> {
    documents("vms.yaml")
}

/// The other objects of the fixtures.
pub(crate) fn catalog() -> Catalog {
    let disks = documents::<VirtualMachineDisk>("disks.yaml").into_iter();
    let classes = documents::<VirtualMachineClass>("classes.yaml").into_iter();
    Catalog {
        classes: classes.map(|class| (class.metadata.name.unwrap(), class.spec)).collect(),
        disks: disks
            .map(|disk| ((disk.metadata.namespace.clone().unwrap(), disk.metadata.name.clone().unwrap()), disk))
            .collect(),
    }
}

/// The time of the fixtures.
pub(crate) fn now() -> Timestamp {
    "2026-05-01T12:00:00Z".parse().unwrap()
}

/// Compares with a golden file.
pub(crate) fn golden(name: &str, actual: &str) {
    let path = path(name);
    if std::env::var_os("UPDATE_GOLDEN").is_some() {
        std::fs::write(&path, actual).unwrap();
    }
    let expected = std::fs::read_to_string(&path).unwrap_or_default();
    assert!(actual == expected, "{} differs; it would be:\n{actual}", path.display());
}
