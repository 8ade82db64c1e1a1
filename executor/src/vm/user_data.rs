//! The user data of cloud-init: from the spec, or from the Secret that the placement pod brings to its node.

use std::path::{Path, PathBuf};
use std::time::Duration;

use k8s_openapi::api::core::v1::Secret;
use kube::api::Api;
use kubevmm_api::VirtualMachine;
use kubevmm_api::vm::CloudInit;
use uuid::Uuid;

use super::cluster::name_of;
use crate::Error;
use crate::api::limited;
use crate::host::NotYet;

/// Volume of the placement pod that holds the user data.
const VOLUME: &str = "volumes/kubernetes.io~secret/cloud-init-user-data";
/// How long the API server may take for a Secret.
const TIMEOUT: Duration = Duration::from_secs(5);

/// Where the Secrets of placement pods are.
#[derive(Clone)]
pub enum Secrets {
    /// In the kubelet's directory of pods.
    PodsDir(PathBuf),
    /// At the API server: there is no kubelet. Its Node authoriser gives a node the Secrets of the pods that are bound to
    /// it, and no others. What is read stays in memory.
    Api(kube::Client),
}

type Data = Option<Vec<u8>>;

/// User data and network data.
pub(super) async fn user_data(
    secrets: &Secrets,
    vm: &VirtualMachine,
    cloud_init: &CloudInit,
) -> Result<(Data, Data), NotYet> {
    let inline = |text: &Option<String>| text.as_ref().map(|text| text.clone().into_bytes());
    let network_data = inline(&cloud_init.network_data);
    let Some(secret) = &cloud_init.user_data_secret_name else {
        return Ok((inline(&cloud_init.user_data), network_data));
    };
    let (namespace, _) = name_of(vm);
    let missing = |what: &str| {
        NotYet::backoff(
            "SecretNotFound",
            format!("{what}: create the Secret {namespace}/{secret} with the key userData, or correct spec.cloudInit"),
        )
    };
    let placement = vm.status.as_ref().and_then(|status| status.placement.as_ref());
    let pod =
        placement.and_then(|p| p.pod_uid.as_deref()).ok_or_else(|| missing("the placement pod is not known yet"))?;
    let (user_data, its_network_data) = match secrets {
        Secrets::PodsDir(pods) => {
            // The uid is a path segment.
            let pod = Uuid::parse_str(pod).map_err(|_| missing("the placement pod has no uid"))?;
            let directory = pods.join(pod.to_string()).join(VOLUME);
            let user_data = read(&directory.join("userData")).await?.ok_or_else(|| {
                missing(
                    "the Secret is not in the placement pod (the kubelet brings it within about a minute of its creation)",
                )
            })?;
            (user_data, read(&directory.join("networkData")).await?)
        }
        Secrets::Api(client) => {
            let found = fetch(client, namespace, secret).await?;
            let mut data = found.and_then(|secret| secret.data).ok_or_else(|| missing("there is no such Secret"))?;
            let mut take = |key: &str| data.remove(key).map(|bytes| bytes.0);
            (take("userData").ok_or_else(|| missing("the Secret has no such key"))?, take("networkData"))
        }
    };
    Ok((Some(user_data), network_data.or(its_network_data)))
}

async fn read(path: &Path) -> Result<Data, NotYet> {
    match tokio::fs::read(path).await {
        Ok(bytes) => Ok(Some(bytes)),
        Err(error) if error.kind() == std::io::ErrorKind::NotFound => Ok(None),
        Err(error) => Err(NotYet::backoff("SecretNotReadable", format!("cannot read {}: {error}", path.display()))),
    }
}

async fn fetch(client: &kube::Client, namespace: &str, name: &str) -> Result<Option<Secret>, NotYet> {
    let api = Api::<Secret>::namespaced(client.clone(), namespace);
    let refused = |error: Error| {
        NotYet::backoff("SecretNotReadable", format!("cannot read the Secret {namespace}/{name}: {error}"))
    };
    limited(TIMEOUT, api.get_opt(name)).await.map_err(refused)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::host::Retry;

    const POD: &str = "b3a1c7d2-0000-4000-8000-000000000001";

    fn vm(yaml: &str) -> VirtualMachine {
        serde_yaml_ng::from_str(yaml).unwrap()
    }

    fn with_secret() -> VirtualMachine {
        vm(&format!(
            "{{metadata: {{name: web, namespace: shop}}, spec: {{cloudInit: {{userDataSecretName: seed}}}}, status: {{placement: {{epoch: 1, podUID: {POD}}}}}}}"
        ))
    }

    async fn read_of(secrets: &Secrets, vm: &VirtualMachine) -> Result<(Data, Data), NotYet> {
        user_data(secrets, vm, vm.spec.cloud_init.as_ref().unwrap()).await
    }

    #[tokio::test]
    async fn user_data_comes_from_the_spec_or_from_the_pods_secret() {
        let pods = tempfile::tempdir().unwrap();
        let secrets = Secrets::PodsDir(pods.path().to_owned());
        let inline = vm("{metadata: {name: web}, spec: {cloudInit: {userData: '#cloud-config', networkData: n}}}");
        assert_eq!(read_of(&secrets, &inline).await, Ok((Some(b"#cloud-config".to_vec()), Some(b"n".to_vec()))));

        let vm = with_secret();
        let missing = read_of(&secrets, &vm).await.unwrap_err();
        assert_eq!((missing.reason, missing.retry), ("SecretNotFound", Retry::Backoff));
        assert!(missing.message.contains("shop/seed"), "{}", missing.message);

        let directory = pods.path().join(POD).join(VOLUME);
        std::fs::create_dir_all(&directory).unwrap();
        std::fs::write(directory.join("userData"), "secret").unwrap();
        assert_eq!(read_of(&secrets, &vm).await, Ok((Some(b"secret".to_vec()), None)));
    }

    #[tokio::test]
    async fn a_pod_uid_that_is_no_uid_opens_no_file() {
        let mut vm = with_secret();
        vm.status.as_mut().unwrap().placement.as_mut().unwrap().pod_uid = Some("../..".into());
        let refused = read_of(&Secrets::PodsDir("/".into()), &vm).await;
        assert_eq!(refused.unwrap_err().reason, "SecretNotFound");
    }

    /// What is made of an API server that answers thus.
    async fn from_api(code: u16, body: serde_json::Value) -> Result<(Data, Data), NotYet> {
        let service = tower::service_fn(move |request: http::Request<kube::client::Body>| {
            assert_eq!(request.uri().path(), "/api/v1/namespaces/shop/secrets/seed");
            let body = kube::client::Body::from(body.to_string().into_bytes());
            let response = http::Response::builder().status(code).body(body);
            async move { response }
        });
        read_of(&Secrets::Api(kube::Client::new(service, "default")), &with_secret()).await
    }

    #[tokio::test]
    async fn without_a_kubelet_the_api_server_is_asked() {
        let status = |code: u16, reason: &str| {
            serde_json::json!({"kind": "Status", "apiVersion": "v1", "metadata": {}, "status": "Failure",
                               "message": "no relationship found", "reason": reason, "code": code})
        };
        let secret = serde_json::json!({"metadata": {}, "data": {"userData": "c2VjcmV0", "networkData": "bg=="}});
        assert_eq!(from_api(200, secret).await, Ok((Some(b"secret".to_vec()), Some(b"n".to_vec()))));
        let empty = serde_json::json!({"metadata": {}, "data": {"other": ""}});
        assert_eq!(from_api(200, empty).await.unwrap_err().reason, "SecretNotFound");
        assert_eq!(from_api(404, status(404, "NotFound")).await.unwrap_err().reason, "SecretNotFound");
        let refused = from_api(403, status(403, "Forbidden")).await.unwrap_err();
        assert_eq!((refused.reason, refused.retry), ("SecretNotReadable", Retry::Backoff));
    }
}
