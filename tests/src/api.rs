//! The API server, in a blocking way and without types: a test sees the objects as a user does.

use std::sync::OnceLock;

use anyhow::{Context, Result, anyhow};
use kube::api::{
    Api, ApiResource, DeleteParams, DynamicObject, GroupVersionKind, ListParams, Patch, PatchParams, PostParams,
};
use kube::{Client, config::KubeConfigOptions, config::Kubeconfig};
use serde_json::json;
use tokio::runtime::Runtime;

use crate::wait::wait_for;

/// An object, or a part of one.
pub type Json = serde_json::Value;

/// A kind of object that the stories use.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Kind {
    /// Its name.
    pub name: &'static str,
    group: &'static str,
    version: &'static str,
    plural: &'static str,
    /// Whether its objects are in namespaces.
    pub namespaced: bool,
}

macro_rules! kinds {
    ($($constant:ident = $name:literal $plural:literal $group:literal $version:literal $namespaced:literal;)*) => {
        $(
            #[doc = concat!("`", $name, "`")]
            pub const $constant: Kind = Kind {
                name: $name, group: $group, version: $version, plural: $plural, namespaced: $namespaced,
            };
        )*
        /// Every kind that a story may name in a manifest.
        pub const KINDS: &[Kind] = &[$($constant),*];
    };
}

kinds! {
    VM = "VirtualMachine" "virtualmachines" "kubevmm.io" "v1beta1" true;
    DISK = "VirtualMachineDisk" "virtualmachinedisks" "kubevmm.io" "v1beta1" true;
    IMAGE = "VirtualMachineImage" "virtualmachineimages" "kubevmm.io" "v1beta1" true;
    NETWORK = "VirtualMachineNetwork" "virtualmachinenetworks" "kubevmm.io" "v1beta1" true;
    CLASS = "VirtualMachineClass" "virtualmachineclasses" "kubevmm.io" "v1beta1" false;
    CLUSTER_IMAGE = "ClusterVirtualMachineImage" "clustervirtualmachineimages" "kubevmm.io" "v1beta1" false;
    CLUSTER_NETWORK = "ClusterVirtualMachineNetwork" "clustervirtualmachinenetworks" "kubevmm.io" "v1beta1" false;
    POOL = "VirtualMachineStoragePool" "virtualmachinestoragepools" "kubevmm.io" "v1beta1" false;
    HYPERVISOR = "Hypervisor" "hypervisors" "kubevmm.io" "v1beta1" false;
    NAMESPACE = "Namespace" "namespaces" "" "v1" false;
    NODE = "Node" "nodes" "" "v1" false;
    POD = "Pod" "pods" "" "v1" true;
    SECRET = "Secret" "secrets" "" "v1" true;
    SERVICE_ACCOUNT = "ServiceAccount" "serviceaccounts" "" "v1" true;
    ROLE_BINDING = "RoleBinding" "rolebindings" "rbac.authorization.k8s.io" "v1" true;
    QUOTA = "ResourceQuota" "resourcequotas" "" "v1" true;
    LIMIT_RANGE = "LimitRange" "limitranges" "" "v1" true;
    EVENT = "Event" "events" "events.k8s.io" "v1" true;
    LEASE = "Lease" "leases" "coordination.k8s.io" "v1" true;
    DAEMON_SET = "DaemonSet" "daemonsets" "apps" "v1" true;
    DEPLOYMENT = "Deployment" "deployments" "apps" "v1" true;
}

impl Kind {
    fn resource(self) -> ApiResource {
        ApiResource::from_gvk_with_plural(&GroupVersionKind::gvk(self.group, self.version, self.name), self.plural)
    }

    fn of(manifest: &Json) -> Result<Self> {
        let name = manifest["kind"].as_str().unwrap_or_default();
        KINDS.iter().copied().find(|kind| kind.name == name).ok_or_else(|| anyhow!("no test uses the kind {name:?}"))
    }
}

static RUNTIME: OnceLock<Runtime> = OnceLock::new();

/// Runs a future to its end; the stories are plain functions on threads of their own.
pub(crate) fn block_on<F: Future>(future: F) -> F::Output {
    RUNTIME.get_or_init(|| Runtime::new().expect("threads for the tests' own client")).block_on(future)
}

/// A client of the API server.
#[derive(Clone)]
pub struct ApiServer {
    client: Client,
}

impl ApiServer {
    /// With the credentials of a kubeconfig file.
    ///
    /// # Errors
    /// When the file is not one.
    pub fn open(kubeconfig: &std::path::Path) -> Result<Self> {
        let _ = RUNTIME.get_or_init(|| Runtime::new().expect("threads for the tests' own client"));
        block_on(async {
            let kubeconfig = Kubeconfig::read_from(kubeconfig)?;
            let mut config = kube::Config::from_custom_kubeconfig(kubeconfig, &KubeConfigOptions::default()).await?;
            config.proxy_url = None;
            config.connect_timeout = Some(std::time::Duration::from_secs(2));
            config.read_timeout = Some(std::time::Duration::from_secs(10));
            Ok(Self { client: Client::try_from(config)? })
        })
    }

    /// As somebody else: with the token `token`.
    ///
    /// # Errors
    /// When the kubeconfig file is not one.
    pub fn with_token(kubeconfig: &std::path::Path, token: &str) -> Result<Self> {
        block_on(async {
            let kubeconfig = Kubeconfig::read_from(kubeconfig)?;
            let mut config = kube::Config::from_custom_kubeconfig(kubeconfig, &KubeConfigOptions::default()).await?;
            config.proxy_url = None;
            config.auth_info = kube::config::AuthInfo { token: Some(token.to_owned().into()), ..Default::default() };
            Ok(Self { client: Client::try_from(config)? })
        })
    }

    fn api(&self, kind: Kind, namespace: &str) -> Api<DynamicObject> {
        if kind.namespaced && !namespace.is_empty() {
            Api::namespaced_with(self.client.clone(), namespace, &kind.resource())
        } else {
            Api::all_with(self.client.clone(), &kind.resource())
        }
    }

    /// The object; `None` when there is none.
    ///
    /// # Errors
    /// Those of the API server.
    pub fn get(&self, kind: Kind, namespace: &str, name: &str) -> Result<Option<Json>> {
        let object = block_on(self.api(kind, namespace).get_opt(name))
            .with_context(|| format!("get {} {namespace}/{name}", kind.name))?;
        object.map(|object| Ok(serde_json::to_value(object)?)).transpose()
    }

    /// The objects of a namespace; of all of them, when it is empty.
    ///
    /// # Errors
    /// Those of the API server.
    pub fn list(&self, kind: Kind, namespace: &str) -> Result<Vec<Json>> {
        let list = block_on(self.api(kind, namespace).list(&ListParams::default()))
            .with_context(|| format!("list {} in {namespace:?}", kind.name))?;
        list.items.into_iter().map(|object| Ok(serde_json::to_value(object)?)).collect()
    }

    /// Creates an object.
    ///
    /// # Errors
    /// The API server's refusal, in its words.
    pub fn create(&self, manifest: &Json) -> Result<()> {
        let namespace = manifest["metadata"]["namespace"].as_str().unwrap_or_default();
        let object: DynamicObject = serde_json::from_value(manifest.clone())?;
        block_on(self.api(Kind::of(manifest)?, namespace).create(&PostParams::default(), &object))
            .map(drop)
            .map_err(|error| anyhow!("{error}"))
    }

    /// Server-side apply, as a user's tool does it; strict: an unknown field is refused.
    ///
    /// # Errors
    /// The API server's refusal, in its words.
    pub fn apply(&self, manifest: &Json) -> Result<Json> {
        let kind = Kind::of(manifest)?;
        let text = |path: &str| manifest.pointer(path).and_then(Json::as_str).unwrap_or_default().to_owned();
        let (namespace, name) = (text("/metadata/namespace"), text("/metadata/name"));
        let mut parameters = PatchParams::apply("story").force();
        parameters.field_validation = Some(kube::api::ValidationDirective::Strict);
        let object = block_on(self.api(kind, &namespace).patch(&name, &parameters, &Patch::Apply(manifest)))
            .map_err(|error| anyhow!("{error}"))?;
        Ok(serde_json::to_value(object)?)
    }

    /// Applies every document of a YAML text.
    ///
    /// # Errors
    /// As [`ApiServer::apply`].
    pub fn apply_yaml(&self, yaml: &str) -> Result<()> {
        for document in documents(yaml)? {
            self.apply(&document).with_context(|| format!("apply {}", document["metadata"]))?;
        }
        Ok(())
    }

    /// JSON merge patch.
    ///
    /// # Errors
    /// Those of the API server.
    pub fn patch(&self, kind: Kind, namespace: &str, name: &str, patch: &Json) -> Result<()> {
        block_on(self.api(kind, namespace).patch(name, &PatchParams::default(), &Patch::Merge(patch)))
            .map_err(|error| anyhow!("{error}"))?;
        Ok(())
    }

    /// JSON merge patch of the status.
    ///
    /// # Errors
    /// Those of the API server.
    pub fn patch_status(&self, kind: Kind, namespace: &str, name: &str, patch: &Json) -> Result<()> {
        block_on(self.api(kind, namespace).patch_status(name, &PatchParams::default(), &Patch::Merge(patch)))
            .map_err(|error| anyhow!("{error}"))?;
        Ok(())
    }

    /// Asks for an object's deletion; one that is gone is no error.
    ///
    /// # Errors
    /// Those of the API server.
    pub fn delete(&self, kind: Kind, namespace: &str, name: &str) -> Result<()> {
        self.delete_with(kind, namespace, name, &DeleteParams::default())
    }

    /// Asks for an object's deletion with its dependents first.
    ///
    /// # Errors
    /// Those of the API server.
    pub fn delete_foreground(&self, kind: Kind, namespace: &str, name: &str) -> Result<()> {
        self.delete_with(kind, namespace, name, &DeleteParams::foreground())
    }

    /// Deletes a pod without asking its kubelet.
    ///
    /// # Errors
    /// Those of the API server.
    pub fn delete_now(&self, kind: Kind, namespace: &str, name: &str) -> Result<()> {
        self.delete_with(kind, namespace, name, &DeleteParams::default().grace_period(0))
    }

    fn delete_with(&self, kind: Kind, namespace: &str, name: &str, how: &DeleteParams) -> Result<()> {
        match block_on(self.api(kind, namespace).delete(name, how)) {
            Ok(_) => Ok(()),
            Err(kube::Error::Api(status)) if status.code == 404 => Ok(()),
            Err(error) => Err(anyhow!("delete {} {namespace}/{name}: {error}", kind.name)),
        }
    }

    /// Waits until the object fits.
    ///
    /// # Errors
    /// When that takes too long: with what the object's status said last.
    pub fn wait(
        &self,
        kind: Kind,
        namespace: &str,
        name: &str,
        what: &str,
        limit: std::time::Duration,
        fits: impl Fn(&Json) -> bool,
    ) -> Result<Json> {
        wait_for(&format!("{} {namespace}/{name} {what}", kind.name), limit, || {
            let object = self.get(kind, namespace, name)?.ok_or_else(|| anyhow!("there is none"))?;
            if fits(&object) {
                return Ok(Some(object));
            }
            Err(anyhow!("its status is {}", object["status"]))
        })
    }

    /// Waits until the object is gone.
    ///
    /// # Errors
    /// When that takes too long: with what the object said last.
    pub fn wait_gone(&self, kind: Kind, namespace: &str, name: &str, limit: std::time::Duration) -> Result<()> {
        wait_for(&format!("{} {namespace}/{name} is gone", kind.name), limit, || {
            match self.get(kind, namespace, name)? {
                None => Ok(Some(())),
                Some(object) => {
                    Err(anyhow!("finalizers {}, status {}", object["metadata"]["finalizers"], object["status"]))
                }
            }
        })
    }

    /// A short-lived token of a service account, bound to a pod: as the pod itself has.
    ///
    /// # Errors
    /// Those of the API server.
    pub fn pod_token(&self, namespace: &str, account: &str, pod: &Json) -> Result<String> {
        let body = json!({
            "apiVersion": "authentication.k8s.io/v1", "kind": "TokenRequest",
            "spec": {"boundObjectRef": {
                "apiVersion": "v1", "kind": "Pod", "name": pod["metadata"]["name"], "uid": pod["metadata"]["uid"],
            }},
        });
        let path = format!("/api/v1/namespaces/{namespace}/serviceaccounts/{account}/token");
        let request = http_post(&path, serde_json::to_vec(&body)?)?;
        let answer: Json = block_on(self.client.request(request))?;
        Ok(answer["status"]["token"].as_str().context("the answer has no token")?.to_owned())
    }
}

fn http_post(path: &str, body: Vec<u8>) -> Result<http::Request<Vec<u8>>> {
    Ok(http::Request::post(path).header("content-type", "application/json").body(body)?)
}

/// The documents of a YAML text.
///
/// # Errors
/// When it is not YAML.
pub fn documents(yaml: &str) -> Result<Vec<Json>> {
    use serde_yaml_ng::Deserializer;
    let mut documents = Vec::new();
    for document in Deserializer::from_str(yaml) {
        let value: Json = serde::Deserialize::deserialize(document).with_context(|| format!("YAML:\n{yaml}"))?;
        if !value.is_null() {
            documents.push(value);
        }
    }
    Ok(documents)
}

/// A condition as `(status, reason, message)`; empty texts when it is not there.
pub fn condition<'a>(object: &'a Json, kind: &str) -> (&'a str, &'a str, &'a str) {
    let found = object["status"]["conditions"].as_array().and_then(|all| all.iter().find(|c| c["type"] == kind));
    let text = |key: &str| found.and_then(|c| c[key].as_str()).unwrap_or_default();
    (text("status"), text("reason"), text("message"))
}

/// Whether a condition is `True`.
pub fn is_true(object: &Json, kind: &str) -> bool {
    condition(object, kind).0 == "True"
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_condition_that_is_not_there_is_empty() {
        let object = json!({"status": {"conditions": [{"type": "Ready", "status": "True", "reason": "Running"}]}});
        assert_eq!(condition(&object, "Ready"), ("True", "Running", ""));
        assert_eq!(condition(&object, "Other"), ("", "", ""));
    }

    #[test]
    fn documents_are_split() {
        assert_eq!(documents("a: 1\n---\n# nothing\n---\nb: 2\n").unwrap(), [json!({"a": 1}), json!({"b": 2})]);
    }
}
