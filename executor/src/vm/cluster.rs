//! What a VM's task asks of the API server.

use std::time::Duration;

use futures::future::BoxFuture;
use kube::Resource;
use kube::api::{Api, Patch, PatchParams};
use kubevmm_analyser::lower::HostFacts;
use kubevmm_analyser::spec::host_facts;
use kubevmm_api::{MANAGER_EXECUTOR, VirtualMachine, VirtualMachineClassSpec, VirtualMachineStatus};
use serde_json::Value;

use crate::Error;
use crate::api::limited;
use crate::host::Context;
use crate::lease::Session;

/// A VM's task waits no longer for an answer: what libvirt reports must not wait for the API server.
const TIMEOUT: Duration = Duration::from_secs(5);

/// The API server, and what the watches know of it.
pub(super) trait Cluster: Send + Sync + 'static {
    /// The VM as it is now; `None` when there is none of this name.
    fn vm<'a>(&'a self, namespace: &'a str, name: &'a str) -> BoxFuture<'a, Result<Option<VirtualMachine>, Error>>;
    /// Writes the executor's part of the status, and returns the VM as it is then. Refused when the VM of this name is
    /// another one.
    fn write_status<'a>(
        &'a self,
        vm: &'a VirtualMachine,
        status: &'a VirtualMachineStatus,
    ) -> BoxFuture<'a, Result<VirtualMachine, Error>>;
    /// Renews the Lease: the session that it proves.
    fn renew(&self) -> BoxFuture<'_, Result<String, Error>>;
    /// The session of now.
    fn session(&self) -> Option<String>;
    /// A class.
    fn class(&self, name: &str) -> Option<VirtualMachineClassSpec>;
    /// The default cluster network, if there is exactly one.
    fn default_network(&self) -> Option<String>;
    /// How guests' CPUs run on this host, and libvirt's name of its architecture; `None` while that is being found out.
    fn machine(&self) -> Option<HostFacts>;
    /// An Event about the VM.
    fn event(&self, vm: &VirtualMachine, warning: bool, action: &str, reason: &str, note: String);
}

/// The real one.
pub(super) struct KubeCluster {
    pub context: Context,
    pub session: Session,
}

impl KubeCluster {
    fn vms(&self, namespace: &str) -> Api<VirtualMachine> {
        Api::namespaced(self.context.client.clone(), namespace)
    }
}

impl Cluster for KubeCluster {
    fn vm<'a>(&'a self, namespace: &'a str, name: &'a str) -> BoxFuture<'a, Result<Option<VirtualMachine>, Error>> {
        Box::pin(async move { limited(TIMEOUT, self.vms(namespace).get_opt(name)).await })
    }

    fn write_status<'a>(
        &'a self,
        vm: &'a VirtualMachine,
        status: &'a VirtualMachineStatus,
    ) -> BoxFuture<'a, Result<VirtualMachine, Error>> {
        Box::pin(async move {
            let (namespace, name) = name_of(vm);
            let params = PatchParams::apply(MANAGER_EXECUTOR).force();
            let patch = Patch::Apply(status_patch(vm, status));
            limited(TIMEOUT, self.vms(namespace).patch_status(name, &params, &patch)).await
        })
    }

    fn renew(&self) -> BoxFuture<'_, Result<String, Error>> {
        Box::pin(self.session.renew())
    }

    fn session(&self) -> Option<String> {
        self.session.current()
    }

    fn class(&self, name: &str) -> Option<VirtualMachineClassSpec> {
        self.context.store.classes.get_cluster(name).map(|class| class.spec.clone())
    }

    fn default_network(&self) -> Option<String> {
        self.context.store.default_network()
    }

    fn machine(&self) -> Option<HostFacts> {
        self.context.report.machine().map(|(accelerator, arch)| host_facts(accelerator, &arch))
    }

    fn event(&self, vm: &VirtualMachine, warning: bool, action: &str, reason: &str, note: String) {
        let about = vm.object_ref(&());
        if warning {
            self.context.events.warning(&about, action, reason, note);
        } else {
            self.context.events.normal(&about, action, reason, note);
        }
    }
}

/// Namespace and name.
pub(super) fn name_of(vm: &VirtualMachine) -> (&str, &str) {
    let metadata = &vm.metadata;
    (metadata.namespace.as_deref().unwrap_or_default(), metadata.name.as_deref().unwrap_or_default())
}

/// The uid makes a VM that was deleted and created again a conflict.
fn status_patch(vm: &VirtualMachine, status: &VirtualMachineStatus) -> Value {
    let (namespace, name) = name_of(vm);
    serde_json::json!({
        "apiVersion": VirtualMachine::api_version(&()),
        "kind": VirtualMachine::kind(&()),
        "metadata": { "namespace": namespace, "name": name, "uid": vm.metadata.uid },
        "status": status,
    })
}
