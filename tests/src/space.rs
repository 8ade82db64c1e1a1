//! The namespace of one story, and what it makes there.

use anyhow::{Result, bail};
use serde_json::json;

use crate::api::{self, ApiServer, Json, Kind};
use crate::cluster::{Cluster, GUEST_IMAGE};
use crate::inventory::Inventory;
use crate::manifest::Manifest;
use crate::vm::Vm;
use crate::wait::{wait_for, within};

/// The namespace of one story.
pub struct Space {
    /// The cluster.
    pub cluster: &'static Cluster,
    /// Name of the namespace.
    pub namespace: String,
}

/// A virtual machine in the making.
pub struct Draft<'a> {
    space: &'a Space,
    manifest: Manifest,
}

impl Space {
    /// Makes the namespace.
    ///
    /// # Errors
    /// Those of the API server.
    pub fn open(name: &str) -> Result<Self> {
        let cluster = Cluster::get();
        wait_for(&format!("the namespace {name} is there"), within(30), || {
            cluster.api.apply(&json!({"apiVersion": "v1", "kind": "Namespace", "metadata": {"name": name}})).map(Some)
        })?;
        Ok(Self { cluster, namespace: name.to_owned() })
    }

    /// Deletes what the story left, and the namespace, and looks that nothing of it stays on a host.
    ///
    /// # Errors
    /// When the namespace does not go, or something lies on a host still.
    pub fn close(&self) -> Result<()> {
        // Kubernetes deletes a namespace's pods first, and they wait for their VMs.
        for vm in self.api().list(api::VM, &self.namespace)? {
            self.delete(api::VM, vm["metadata"]["name"].as_str().unwrap_or_default())?;
        }
        let gone = self.vanishes();
        // No two pools can be in one directory: what a story that failed has left would fail the next ones.
        self.api().delete(api::POOL, "", self.pool_name())?;
        self.api().wait_gone(api::POOL, "", self.pool_name(), within(60))?;
        gone
    }

    /// Deletes the namespace as it is, and looks that nothing of it stays on a host.
    ///
    /// # Errors
    /// When the namespace does not go, or something lies on a host still.
    pub fn vanishes(&self) -> Result<()> {
        self.api().delete(api::NAMESPACE, "", &self.namespace)?;
        self.api().wait_gone(api::NAMESPACE, "", &self.namespace, within(90))?;
        // What is deleted stays on the hosts no longer than its object; but a look takes its time.
        let left = Inventory::take(&self.cluster.libvirt_hosts())?.that_names(&format!("{}.", self.namespace));
        if left.is_empty() { Ok(()) } else { bail!("left behind on the hosts:\n{}", left.join("\n")) }
    }

    /// The API server.
    pub fn api(&self) -> &'static ApiServer {
        &self.cluster.api
    }

    /// A second namespace beside this one.
    ///
    /// # Errors
    /// Those of the API server.
    pub fn another(&self) -> Result<Self> {
        Self::open(&format!("{}-2", self.namespace))
    }

    /// A VM with an operating system that answers: an agent, ssh, DHCP on the default network.
    pub fn guest(&self, name: &str) -> Draft<'_> {
        let key = &self.cluster.ssh_key;
        let user_data = format!("#cloud-config\nhostname: {name}\nssh_authorized_keys:\n- {key}\n");
        let manifest = self.vm_manifest(name).with(&format!(
            "spec: {{memory: {{size: 192Mi}}, terminationGracePeriodSeconds: 30, cloudInit: {{userData: {}}}, \
             networks: [{{name: lan}}], disks: [{{name: root, template: {{source: {{image: \
             {{kind: ClusterVirtualMachineImage, name: {GUEST_IMAGE}}}}}}}}}]}}",
            json!(user_data)
        ));
        Draft { space: self, manifest }
    }

    /// A VM with an empty disk: its firmware finds nothing to boot, and it hears no request to shut down.
    pub fn blank(&self, name: &str) -> Draft<'_> {
        let manifest = self.vm_manifest(name).with(
            "spec: {memory: {size: 32Mi}, terminationGracePeriodSeconds: 1, \
             disks: [{name: root, template: {size: 8Mi, source: {blank: {}}}}]}",
        );
        Draft { space: self, manifest }
    }

    fn vm_manifest(&self, name: &str) -> Manifest {
        Manifest::new(&format!(
            "{{apiVersion: kubevmm.io/v1beta1, kind: VirtualMachine, metadata: {{name: {name}}}, spec: {{}}}}"
        ))
        .in_namespace(&self.namespace)
    }

    /// Applies YAML; objects of kinds that are in namespaces go into this one.
    ///
    /// # Errors
    /// The API server's refusal.
    pub fn apply(&self, yaml: &str) -> Result<()> {
        for document in self.documents(yaml)? {
            self.api().apply(&document)?;
        }
        Ok(())
    }

    fn documents(&self, yaml: &str) -> Result<Vec<Json>> {
        let mut documents = api::documents(yaml)?;
        for document in &mut documents {
            let namespaced = api::KINDS.iter().any(|kind| document["kind"] == kind.name && kind.namespaced);
            if namespaced && document["metadata"]["namespace"].is_null() {
                document["metadata"]["namespace"] = self.namespace.as_str().into();
            }
        }
        Ok(documents)
    }

    /// A VM that is there already, or will be.
    pub fn vm(&self, name: &str) -> Vm {
        Vm::new(self.cluster, &self.namespace, name)
    }

    /// An object of this namespace.
    ///
    /// # Errors
    /// Those of the API server.
    pub fn get(&self, kind: Kind, name: &str) -> Result<Option<Json>> {
        self.api().get(kind, &self.namespace, name)
    }

    /// Asks for the deletion of an object of this namespace.
    ///
    /// # Errors
    /// Those of the API server.
    pub fn delete(&self, kind: Kind, name: &str) -> Result<()> {
        self.api().delete(kind, &self.namespace, name)
    }

    /// Waits for a condition of an object of this namespace: its status and reason; an empty one is any.
    ///
    /// # Errors
    /// When that takes too long.
    pub fn condition(&self, kind: Kind, name: &str, condition: &str, status: &str, reason: &str) -> Result<Json> {
        let what = format!("has {condition}={status} {reason}");
        let namespace = if kind.namespaced { self.namespace.as_str() } else { "" };
        self.api().wait(kind, namespace, name, &what, within(60), |object| {
            let (now, why, _) = api::condition(object, condition);
            now == status && (reason.is_empty() || why == reason)
        })
    }

    /// A storage pool of this story alone, on the nodes with the label `story-<namespace>`.
    pub fn pool_name(&self) -> &str {
        &self.namespace
    }
}

impl Draft<'_> {
    /// Merges YAML over the manifest.
    #[must_use]
    pub fn with(mut self, yaml: &str) -> Self {
        self.manifest = self.manifest.with(yaml);
        self
    }

    /// On one node only.
    #[must_use]
    pub fn on(self, node: &str) -> Self {
        self.with(&format!("spec: {{placement: {{nodeSelector: {{kubernetes.io/hostname: {node}}}}}}}"))
    }

    /// The manifest.
    pub fn manifest(&self) -> &Manifest {
        &self.manifest
    }

    /// Applies it.
    ///
    /// # Errors
    /// The API server's refusal.
    pub fn apply(&self) -> Result<Vm> {
        self.space.api().apply(self.manifest.json())?;
        Ok(self.space.vm(self.manifest.name()))
    }

    /// Applies it, which must be refused; what the API server says.
    ///
    /// # Errors
    /// When it is accepted.
    pub fn is_refused(&self) -> Result<String> {
        match self.apply() {
            Ok(_) => bail!("this was accepted:\n{}", self.manifest.yaml()?),
            Err(error) => Ok(error.to_string()),
        }
    }
}
