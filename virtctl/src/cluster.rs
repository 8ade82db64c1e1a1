//! The cluster that the commands talk to.

use k8s_openapi::NamespaceResourceScope;
use k8s_openapi::api::core::v1::Node;
use kube::api::{Api, DynamicObject, ListParams, Patch, PatchParams, PostParams};
use kube::config::{Config, KubeConfigOptions, Kubeconfig, KubeconfigError};
use kube::core::{ApiResource, Resource};
use kube::{Client, ResourceExt as _};
use kubevmm_api::{
    ClusterVirtualMachineNetwork, Hypervisor, VirtualMachine, VirtualMachineDisk, VirtualMachineStatus,
    VirtualMachineStoragePool,
};
use serde::{Serialize, de::DeserializeOwned};
use serde_json::Value;

use crate::cli::{ClusterArgs, Selection};
use crate::error::Error;
use crate::import::inventory::{Key, Kind, allowing, is_same_network};
use crate::near::near;
use crate::program;

/// Field manager of every write.
pub(crate) const MANAGER: &str = "virtctl";

/// A connection: who, where, and the namespace of the context.
#[derive(Clone)]
pub(crate) struct Cluster {
    /// The client.
    pub(crate) client: Client,
    /// Namespace of `-n`, or else of the context.
    pub(crate) namespace: String,
    url: String,
}

/// Reads the kubeconfig, or the service account of the pod. Nothing is sent.
pub(crate) async fn connect(args: &ClusterArgs) -> Result<Cluster, Error> {
    open(args, true).await
}

/// As [`connect`], for one who wants to hear each "not yet" (429), which is tried again in silence otherwise.
pub(crate) async fn connect_impatiently(args: &ClusterArgs) -> Result<Cluster, Error> {
    open(args, false).await
}

async fn open(args: &ClusterArgs, patient: bool) -> Result<Cluster, Error> {
    let mut config = config(args).await?;
    config.default_retry = patient;
    // Long enough for a far cluster; a script should not hang for a wrong address.
    config.connect_timeout = Some(std::time::Duration::from_secs(10));
    let url = config.cluster_url.to_string().trim_end_matches('/').to_owned();
    let namespace = args.namespace.clone().unwrap_or_else(|| config.default_namespace.clone());
    let client = Client::try_from(config).map_err(|error| Error::of_request(error, &url))?;
    Ok(Cluster::new(client, &namespace, &url))
}

async fn config(args: &ClusterArgs) -> Result<Config, Error> {
    let read = match &args.kubeconfig {
        Some(file) => Kubeconfig::read_from(file),
        None => Kubeconfig::read(),
    };
    let kubeconfig = match read {
        Ok(kubeconfig) => kubeconfig,
        Err(error) => {
            let explicit = args.kubeconfig.is_some() || args.context.is_some();
            return match Config::incluster() {
                Ok(config) if !explicit => Ok(config),
                _ => Err(Error::NoKubeconfig(explain(&error))),
            };
        }
    };
    let known: Vec<_> = kubeconfig.contexts.iter().map(|context| context.name.clone()).collect();
    let options = KubeConfigOptions { context: args.context.clone(), ..Default::default() };
    Config::from_custom_kubeconfig(kubeconfig, &options).await.map_err(|error| match error {
        KubeconfigError::LoadContext(name) => {
            Error::NoContext { name, known: if known.is_empty() { "none".into() } else { known.join(", ") } }
        }
        error => Error::NoKubeconfig(explain(&error)),
    })
}

fn explain(error: &KubeconfigError) -> String {
    match error {
        KubeconfigError::ReadConfig(source, path) => format!("{}: {source}", path.display()),
        KubeconfigError::CurrentContextNotSet => "the kubeconfig names no current context".into(),
        other => crate::error::one_line(&other.to_string()),
    }
}

impl Cluster {
    /// A connection by `client` to the API server at `url`.
    pub(crate) fn new(client: Client, namespace: &str, url: &str) -> Self {
        Self { client, namespace: namespace.into(), url: url.into() }
    }

    /// The API of a namespaced kind.
    pub(crate) fn api<K>(&self, namespace: &str) -> Api<K>
    where
        K: Resource<Scope = NamespaceResourceScope, DynamicType = ()>,
    {
        Api::namespaced(self.client.clone(), namespace)
    }

    /// The API of a kind in all namespaces, or of the cluster.
    pub(crate) fn all<K: Resource<DynamicType = ()>>(&self) -> Api<K> {
        Api::all(self.client.clone())
    }

    /// The failure of a request.
    pub(crate) fn failure(&self, error: kube::Error) -> Error {
        Error::of_request(error, &self.url)
    }

    /// A VM as the API server has it, unknown fields and all; near names when it is not there.
    pub(crate) async fn vm(&self, namespace: &str, name: &str) -> Result<DynamicObject, Error> {
        let api: Api<DynamicObject> = Api::namespaced_with(self.client.clone(), namespace, &vm_resource());
        match api.get_opt(name).await {
            Ok(Some(vm)) => Ok(vm),
            Ok(None) => Err(self.no_vm(namespace, name).await),
            Err(error) => Err(self.failure(error)),
        }
    }

    async fn no_vm(&self, namespace: &str, name: &str) -> Error {
        // `get_opt` makes no difference between an object and a resource that are not there; the list does.
        let vms = match self.all::<VirtualMachine>().list_metadata(&ListParams::default()).await {
            Ok(vms) => vms.items,
            Err(kube::Error::Api(status)) if status.code == 403 => {
                match self.api::<VirtualMachine>(namespace).list_metadata(&ListParams::default()).await {
                    Ok(vms) => vms.items,
                    Err(error) => return self.failure(error),
                }
            }
            Err(error) => return self.failure(error),
        };
        let here = |vm: &&kube::core::PartialObjectMeta<VirtualMachine>| vm.namespace().as_deref() == Some(namespace);
        let known: Vec<_> = vms.iter().filter(here).map(|vm| vm.name_any()).collect();
        let elsewhere = vms.iter().find(|vm| vm.name_any() == name).and_then(|vm| vm.namespace());
        let near = near(name, known.iter().map(String::as_str));
        let hint = if let Some(other) = elsewhere {
            format!("there is one in namespace {other}: add -n {other}")
        } else if near.is_empty() {
            format!("`{} list -A` shows what is there", program())
        } else {
            format!("did you mean {}?", near.join(" or "))
        };
        Error::NotFound { what: format!("virtual machine {name:?} in namespace {namespace:?}"), hint }
    }

    /// The VMs of a selection. Names that are not there are errors of their own.
    pub(crate) async fn select(&self, selection: &Selection) -> Result<Vec<Result<DynamicObject, Error>>, Error> {
        if !selection.names.is_empty() {
            let names = selection.names.iter().map(|name| vm_name(name)).collect::<Result<Vec<_>, _>>()?;
            let mut found = Vec::new();
            for name in names {
                match self.vm(&self.namespace, name).await {
                    Err(error @ (Error::NotFound { .. } | Error::Api(_))) => found.push(Err(error)),
                    Err(error) => return Err(error),
                    Ok(vm) => found.push(Ok(vm)),
                }
            }
            return Ok(found);
        }
        let resource = vm_resource();
        let api: Api<DynamicObject> = if selection.all_namespaces {
            Api::all_with(self.client.clone(), &resource)
        } else {
            Api::namespaced_with(self.client.clone(), &self.namespace, &resource)
        };
        let params = ListParams { label_selector: selection.selector.clone(), ..Default::default() };
        let list = api.list(&params).await.map_err(|error| self.failure(error))?;
        Ok(list.items.into_iter().map(|vm| Ok(typed_list_item(vm))).collect())
    }

    /// The hosts.
    pub(crate) async fn hypervisors(&self) -> Result<Vec<Hypervisor>, Error> {
        let listed = self.all::<Hypervisor>().list(&ListParams::default()).await;
        listed.map(|hosts| hosts.items).map_err(|error| self.failure(error))
    }

    /// The host of a node; near names when there is none.
    pub(crate) async fn hypervisor(&self, node: &str) -> Result<Hypervisor, Error> {
        let mut hosts = self.hypervisors().await?;
        if let Some(index) = hosts.iter().position(|host| host.name_any() == node) {
            return Ok(hosts.swap_remove(index));
        }
        let known: Vec<_> = hosts.iter().map(|host| host.name_any()).collect();
        let near = near(node, known.iter().map(String::as_str));
        let hint = match near.as_slice() {
            [] => format!("`{} domains` shows the hosts that there are", program()),
            near => format!("did you mean {}?", near.join(" or ")),
        };
        Err(Error::NotFound { what: format!("hypervisor {node:?}"), hint })
    }

    /// A label of a Node. Who may not see Nodes is told so.
    pub(crate) async fn node_label(&self, node: &str, label: &str) -> Result<Option<String>, Error> {
        match self.all::<Node>().get_metadata_opt(node).await {
            Ok(found) => Ok(found.and_then(|node| node.metadata.labels?.remove(label))),
            Err(kube::Error::Api(status)) if status.code == 403 => {
                eprintln!("note: you may not read the Node {node}: its label {label} is taken to be {node}");
                Ok(None)
            }
            Err(error) => Err(self.failure(error)),
        }
    }

    /// Every VM that the caller may see: of all namespaces, or else of the one of the context.
    pub(crate) async fn known_vms(&self) -> Result<Vec<VirtualMachine>, Error> {
        let params = ListParams::default();
        let vms = match self.all::<VirtualMachine>().list(&params).await {
            Err(kube::Error::Api(status)) if status.code == 403 => self.api(&self.namespace).list(&params).await,
            listed => listed,
        };
        vms.map(|vms| vms.items).map_err(|error| self.failure(error))
    }

    /// Writes a JSON merge patch.
    pub(crate) async fn patch_vm(
        &self,
        namespace: &str,
        name: &str,
        patch: &serde_json::Value,
    ) -> Result<DynamicObject, Error> {
        let api: Api<DynamicObject> = Api::namespaced_with(self.client.clone(), namespace, &vm_resource());
        let params = PatchParams { field_manager: Some(MANAGER.into()), ..Default::default() };
        api.patch(name, &params, &Patch::Merge(patch)).await.map_err(|error| self.failure(error))
    }

    /// All objects of an API.
    pub(crate) async fn list<K>(&self, api: Api<K>) -> Result<Vec<K>, Error>
    where
        K: Clone + DeserializeOwned + std::fmt::Debug,
    {
        api.list(&ListParams::default()).await.map(|list| list.items).map_err(|error| self.failure(error))
    }

    fn objects(&self, key: &Key) -> Api<DynamicObject> {
        let resource = match key.kind {
            Kind::Pool => ApiResource::erase::<VirtualMachineStoragePool>(&()),
            Kind::Network => ApiResource::erase::<ClusterVirtualMachineNetwork>(&()),
            Kind::Disk => ApiResource::erase::<VirtualMachineDisk>(&()),
        };
        match &key.namespace {
            Some(namespace) => Api::namespaced_with(self.client.clone(), namespace, &resource),
            None => Api::all_with(self.client.clone(), &resource),
        }
    }

    /// Creates an object, or takes one that says the same; answers with what was done.
    pub(crate) async fn create_or_same(&self, key: &Key, object: &Value, dry_run: bool) -> Result<&'static str, Error> {
        let api = self.objects(key);
        let wanted: DynamicObject = serde_json::from_value(object.clone()).map_err(|e| Error::Api(e.to_string()))?;
        let params = PostParams { dry_run, field_manager: Some(MANAGER.into()) };
        match api.create(&params, &wanted).await {
            Ok(_) => return Ok("created"),
            Err(kube::Error::Api(status)) if status.reason == "AlreadyExists" => {}
            Err(error) => return Err(self.failure(error)),
        }
        let there = api.get(&key.name).await.map_err(|error| self.failure(error))?;
        if there.data.get("spec") == wanted.data.get("spec") {
            return Ok("unchanged");
        }
        if key.kind == Kind::Network && is_same_network(&there.data, &wanted.data) {
            self.allow(key, object, dry_run).await?;
            return Ok("changed");
        }
        Err(Error::Refused("it has been created meanwhile, and says something else: run the command again".into()))
    }

    /// Has a network allow the namespaces of `network`, beside those that it allows by then: others may import at the
    /// same time.
    pub(crate) async fn allow(&self, key: &Key, network: &Value, dry_run: bool) -> Result<(), Error> {
        const ATTEMPTS: usize = 10;
        let api = self.objects(key);
        let params = PatchParams { dry_run, field_manager: Some(MANAGER.into()), ..Default::default() };
        for _ in 0..ATTEMPTS {
            let there = api.get(&key.name).await.map_err(|error| self.failure(error))?;
            if !is_same_network(&there.data, network) {
                break;
            }
            match api.patch(&key.name, &params, &Patch::Merge(allowing(&there, network))).await {
                Ok(_) => return Ok(()),
                Err(kube::Error::Api(status)) if status.code == 409 => {}
                Err(error) => return Err(self.failure(error)),
            }
        }
        Err(Error::Refused("it has been changed meanwhile: run the command again".into()))
    }

    /// Writes the whole spec of a VM, unless somebody has changed it since `vm` was read. A patch could not: in one, the
    /// `null`s of spec.domain would mean something else.
    pub(crate) async fn replace_spec(&self, vm: &VirtualMachine, dry_run: bool) -> Result<VirtualMachine, Error> {
        /// The status changes more often than the spec.
        const ATTEMPTS: usize = 10;
        let (namespace, name) = (vm.namespace().unwrap_or_default(), vm.name_any());
        let spec = serde_json::to_value(&vm.spec).map_err(|error| Error::Api(error.to_string()))?;
        let api: Api<DynamicObject> = Api::namespaced_with(self.client.clone(), &namespace, &vm_resource());
        let params = PostParams { dry_run, field_manager: Some(MANAGER.into()) };
        for _ in 0..ATTEMPTS {
            let mut object = self.vm(&namespace, &name).await?;
            if (&object.metadata.uid, object.metadata.generation) != (&vm.metadata.uid, vm.metadata.generation) {
                break;
            }
            if let Some(data) = object.data.as_object_mut() {
                data.insert("spec".into(), spec.clone());
            }
            match api.replace(&name, &params, &object).await {
                Ok(replaced) => return Ok(typed(&replaced)),
                Err(kube::Error::Api(status)) if status.code == 409 => {}
                Err(error) => return Err(self.failure(error)),
            }
        }
        Err(Error::Refused(format!("virtual machine {name:?} has been changed meanwhile: run the command again")))
    }

    /// Creates an object; `Ok(None)` when one of its name is there.
    pub(crate) async fn create<K>(&self, object: &K, dry_run: bool) -> Result<Option<K>, Error>
    where
        K: Resource<Scope = NamespaceResourceScope, DynamicType = ()> + Serialize + DeserializeOwned,
        K: Clone + std::fmt::Debug,
    {
        let params = PostParams { dry_run, field_manager: Some(MANAGER.into()) };
        let namespace = object.namespace().unwrap_or_else(|| self.namespace.clone());
        match self.api::<K>(&namespace).create(&params, object).await {
            Ok(created) => Ok(Some(created)),
            Err(kube::Error::Api(status)) if status.reason == "AlreadyExists" => Ok(None),
            Err(error) => Err(self.failure(error)),
        }
    }
}

/// Items of a list come without the kind that each has.
fn typed_list_item(mut vm: DynamicObject) -> DynamicObject {
    let resource = vm_resource();
    vm.types = Some(kube::core::TypeMeta { api_version: resource.api_version, kind: resource.kind });
    vm
}

fn vm_resource() -> ApiResource {
    ApiResource::erase::<VirtualMachine>(&())
}

/// The VM in an object; one that this version cannot read keeps its name and says so in its state.
pub(crate) fn typed(object: &DynamicObject) -> VirtualMachine {
    object.clone().try_parse().unwrap_or_else(|_| {
        let mut vm = VirtualMachine::new(&object.name_any(), Default::default());
        vm.metadata = object.metadata.clone();
        vm.status = Some(VirtualMachineStatus { printable_status: Some("Unreadable".into()), ..Default::default() });
        vm
    })
}

/// The name in `NAME`, `vm/NAME` or `virtualmachine.kubevmm.io/NAME`, as `-o name` prints it.
pub(crate) fn vm_name(text: &str) -> Result<&str, Error> {
    match text.split_once('/') {
        None => Ok(text),
        Some(("vm" | "virtualmachine" | "virtualmachines", name)) => Ok(name),
        Some(("virtualmachine.kubevmm.io" | "virtualmachines.kubevmm.io", name)) => Ok(name),
        Some((kind, _)) => {
            Err(Error::Usage(format!("{text}: {kind} is no kind of this command: give names of virtual machines")))
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_as_other_commands_print_them() {
        for text in ["web", "vm/web", "virtualmachine.kubevmm.io/web"] {
            assert_eq!(vm_name(text).unwrap(), "web");
        }
        assert_eq!(vm_name("pod/web").unwrap_err().exit_code(), 2);
    }

    #[test]
    fn a_vm_that_cannot_be_read_keeps_its_name() {
        let object: DynamicObject = serde_json::from_str(
            r#"{"apiVersion": "kubevmm.io/v1beta1", "kind": "VirtualMachine", "metadata": {"name": "new", "namespace": "n"},
                "spec": {"runStrategy": "Sometimes"}}"#,
        )
        .unwrap();
        let vm = typed(&object);
        assert_eq!(vm.name_any(), "new");
        assert_eq!(vm.status.unwrap().printable_status.as_deref(), Some("Unreadable"));
    }
}
