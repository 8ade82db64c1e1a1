//! Fixtures and golden files of the tests: `testdata/`. `UPDATE_GOLDEN=1 cargo test -p virtctl` rewrites the latter.

use std::path::PathBuf;
use std::sync::{Arc, Mutex};

use k8s_openapi::jiff::Timestamp;
use kube::client::Body;
use kubevmm_api::{VirtualMachine, VirtualMachineClass, VirtualMachineDisk};
use serde::de::DeserializeOwned;

use crate::cluster::Cluster;
use crate::hardware::Catalog;
use crate::import::inventory::Inventory;

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
        disks_unknown: false,
    }
}

/// What the fixtures have of pools, networks and disks, seen from a host.
pub(crate) fn inventory(node: &str) -> Inventory {
    let selected = ["roles"].into_iter().filter(|_| node == "h1").map(String::from);
    Inventory::new(
        (node, node),
        selected,
        documents("pools.yaml"),
        documents("networks.yaml"),
        documents("own-networks.yaml"),
        documents("legacy-disks.yaml"),
    )
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

/// An API server of canned answers that keeps what it is asked: `METHOD path body`.
pub(crate) struct Server {
    client: kube::Client,
    requests: Arc<Mutex<Vec<String>>>,
}

impl Server {
    /// `answer` gives code and body by method and path.
    pub(crate) fn new(answer: impl Fn(&str, &str) -> (u16, String) + Send + Sync + 'static) -> Self {
        let requests = Arc::new(Mutex::new(Vec::new()));
        let (answer, seen) = (Arc::new(answer), Arc::clone(&requests));
        let service = tower::service_fn(move |request: http::Request<Body>| {
            let (answer, seen) = (Arc::clone(&answer), Arc::clone(&seen));
            async move {
                let (method, path) = (request.method().to_string(), request.uri().to_string());
                let body = request.into_body().collect_bytes().await?;
                seen.lock().unwrap().push(format!("{method} {path} {}", String::from_utf8_lossy(&body)));
                let (code, text) = answer(&method, &path);
                let response = http::Response::builder().status(code).body(Body::from(text.into_bytes()));
                Ok::<_, tower::BoxError>(response.unwrap())
            }
        });
        Self { client: kube::Client::new(service, "default"), requests }
    }

    /// A connection to it.
    pub(crate) fn cluster(&self, namespace: &str) -> Cluster {
        Cluster::new(self.client.clone(), namespace, "https://test")
    }

    /// What it was asked.
    pub(crate) fn requests(&self) -> Vec<String> {
        self.requests.lock().unwrap().clone()
    }
}
