//! Tells the API server where the webhook is and whom to trust: written into the ValidatingWebhookConfiguration, and again
//! whenever somebody overwrites it.

use futures::StreamExt;
use k8s_openapi::api::admissionregistration::v1::ValidatingWebhookConfiguration;
use kube::api::{Patch, PatchParams};
use kube::runtime::{WatchStreamExt, watcher};
use kube::{Api, Client, ResourceExt};
use kubevmm_api::MANAGER_CONTROLLER;
use serde_json::{Value, json};

use crate::error::Error;
use crate::queue::pause_after;

/// The object.
pub const CONFIGURATION: &str = "kubevmm-eviction";

/// Where the webhook is, and whom to trust.
#[derive(Debug, Clone)]
pub struct Registration {
    /// Certificate of the authority, in PEM.
    pub authority: String,
    /// Path of the URL.
    pub path: String,
}

impl Registration {
    /// What is to be applied to `found`; `None` when it says so already.
    fn over(&self, found: &ValidatingWebhookConfiguration) -> Option<Value> {
        let webhooks = found.webhooks.as_deref().unwrap_or_default();
        let is_told = webhooks.iter().all(|webhook| {
            let config = &webhook.client_config;
            let authority = config.ca_bundle.as_ref().map(|bundle| bundle.0.as_slice());
            let path = config.service.as_ref().and_then(|service| service.path.as_deref());
            authority == Some(self.authority.as_bytes()) && path == Some(self.path.as_str())
        });
        if is_told {
            return None;
        }
        let bundle = k8s_openapi::ByteString(self.authority.clone().into_bytes());
        let webhooks: Vec<Value> = webhooks
            .iter()
            .map(|webhook| {
                let service = webhook.client_config.service.as_ref();
                let service = json!({
                    "name": service.map(|service| &service.name),
                    "namespace": service.map(|service| &service.namespace),
                    "path": self.path,
                });
                json!({ "name": webhook.name, "clientConfig": { "caBundle": bundle, "service": service } })
            })
            .collect();
        Some(json!({
            "apiVersion": "admissionregistration.k8s.io/v1",
            "kind": "ValidatingWebhookConfiguration",
            "metadata": { "name": CONFIGURATION, "uid": found.uid() },
            "webhooks": webhooks,
        }))
    }
}

/// Keeps the object as it shall be, for ever.
pub async fn keep(client: Client, wanted: Registration) -> Error {
    let api: Api<ValidatingWebhookConfiguration> = Api::all(client);
    let only = watcher::Config::default().fields(&format!("metadata.name={CONFIGURATION}"));
    let mut events = std::pin::pin!(watcher(api.clone(), only).default_backoff());
    let (mut found, mut failures) = (None, 0);
    loop {
        let again = async {
            match &found {
                Some(_) => tokio::time::sleep(pause_after(failures)).await,
                None => std::future::pending().await,
            }
        };
        tokio::select! {
            event = events.next() => match event {
                Some(Ok(watcher::Event::Apply(object) | watcher::Event::InitApply(object))) => found = Some(object),
                Some(Ok(watcher::Event::Delete(_))) => {
                    tracing::warn!("the ValidatingWebhookConfiguration {CONFIGURATION} is gone: evictions ask nobody");
                    found = None;
                }
                Some(Ok(watcher::Event::Init | watcher::Event::InitDone)) => {}
                Some(Err(error)) => tracing::warn!(%error, "the watch of {CONFIGURATION} failed; it starts again by itself"),
                None => return Error::WatchEnded(CONFIGURATION),
            },
            () = again => {}
        }
        let Some(body) = found.as_ref().and_then(|object| wanted.over(object)) else {
            found = None;
            continue;
        };
        let params = PatchParams::apply(MANAGER_CONTROLLER).force();
        match api.patch(CONFIGURATION, &params, &Patch::Apply(body)).await {
            Ok(_) => {
                tracing::info!("the API server knows the webhook of evictions");
                (found, failures) = (None, 0);
            }
            Err(error) => {
                tracing::warn!(%error, "cannot tell the API server of the webhook of evictions; tried again");
                failures += 1;
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::testing::yaml;

    #[test]
    fn only_what_differs_is_written() {
        let wanted = Registration { authority: "ca".into(), path: "/pods/eviction/1".into() };
        let found = |more: &str| -> ValidatingWebhookConfiguration {
            yaml(&format!(
                "metadata: {{name: kubevmm-eviction, uid: u}}\nwebhooks:\n- name: eviction.kubevmm.io\n  \
                 sideEffects: None\n  admissionReviewVersions: [v1]\n  \
                 clientConfig: {{service: {{name: kubevmm-webhook, namespace: kubevmm-system}}, {more}}}"
            ))
        };
        let written = wanted.over(&found("")).unwrap();
        let config = &written["webhooks"][0]["clientConfig"];
        assert_eq!(config["caBundle"], "Y2E=");
        assert_eq!(config["service"]["path"], "/pods/eviction/1");
        assert_eq!(written["webhooks"][0]["name"], "eviction.kubevmm.io");
        let mut told = found("caBundle: Y2E=");
        assert!(wanted.over(&told).is_some(), "the path of an earlier start");
        let service = told.webhooks.as_mut().unwrap()[0].client_config.service.as_mut().unwrap();
        service.path = Some("/pods/eviction/1".into());
        assert_eq!(wanted.over(&told), None);
    }
}
