//! Writes to the API server: each one idempotent, each one against the version that the decision was made on.

use std::fmt::Debug;

use kube::Resource;
use kube::api::{Api, DeleteParams, ObjectMeta, Patch, PatchParams, PostParams, Preconditions};
use kubevmm_api::{FINALIZER, MANAGER_CONTROLLER};
use serde::Serialize;
use serde::de::DeserializeOwned;
use serde_json::{Value, json};

use crate::error::{Error, api_status, is_namespace_terminating};
use crate::object::{describe, has_finalizer, name};

/// What every kind of object here can do.
pub trait Object: Resource<DynamicType = ()> + Clone + Debug + Serialize + DeserializeOwned + Send + Sync {}
impl<K: Resource<DynamicType = ()> + Clone + Debug + Serialize + DeserializeOwned + Send + Sync> Object for K {}

/// What became of a creation.
#[derive(Debug)]
pub enum Created<K> {
    /// It exists now.
    Yes(Box<K>),
    /// An object of this name is there.
    Exists,
    /// Its namespace is being deleted, or gone: so is, or will be, what it was for.
    NoNamespace,
    /// The API server refuses it: quota, admission, an invalid field.
    Refused(String),
}

/// Applies `status` to the status of `object`, provided that nobody has changed the object since it was read.
pub async fn apply_status<K: Object>(api: &Api<K>, object: &K, status: Value) -> Result<K, Error> {
    let meta = object.meta();
    let body = json!({
        "apiVersion": K::api_version(&()),
        "kind": K::kind(&()),
        "metadata": {
            "name": meta.name,
            "namespace": meta.namespace,
            "uid": meta.uid,
            "resourceVersion": meta.resource_version,
        },
        "status": status,
    });
    let params = PatchParams::apply(MANAGER_CONTROLLER).force();
    api.patch_status(name(object), &params, &Patch::Apply(body))
        .await
        .map_err(|e| Error::api("write the status of", describe(object), e))
}

/// A status as it is applied. (A status is plain data: it can always be said.)
pub fn to_value<S: Serialize>(status: &S) -> Value {
    serde_json::to_value(status).unwrap_or_default()
}

/// Puts our finalizer on.
pub async fn add_finalizer<K: Object>(api: &Api<K>, object: &K) -> Result<(), Error> {
    let mut finalizers = object.meta().finalizers.clone().unwrap_or_default();
    finalizers.push(FINALIZER.into());
    set_finalizers(api, object, finalizers).await
}

/// Takes our finalizer off.
pub async fn remove_finalizer<K: Object>(api: &Api<K>, object: &K) -> Result<(), Error> {
    if !has_finalizer(object) {
        return Ok(());
    }
    let mut finalizers = object.meta().finalizers.clone().unwrap_or_default();
    finalizers.retain(|finalizer| finalizer != FINALIZER);
    set_finalizers(api, object, finalizers).await
}

async fn set_finalizers<K: Object>(api: &Api<K>, object: &K, finalizers: Vec<String>) -> Result<(), Error> {
    // The list is replaced whole: the version makes sure that nobody else's finalizer gets lost.
    let body = json!({
        "metadata": {
            "uid": object.meta().uid,
            "resourceVersion": object.meta().resource_version,
            "finalizers": finalizers,
        }
    });
    let params = PatchParams { field_manager: Some(MANAGER_CONTROLLER.into()), ..PatchParams::default() };
    api.patch(name(object), &params, &Patch::Merge(body))
        .await
        .map(|_| ())
        .map_err(|e| Error::api("change the finalizers of", describe(object), e))
}

/// Creates `object`.
pub async fn create<K: Object>(api: &Api<K>, object: &K) -> Result<Created<K>, Error> {
    let params = PostParams { dry_run: false, field_manager: Some(MANAGER_CONTROLLER.into()) };
    match api.create(&params, object).await {
        Ok(created) => Ok(Created::Yes(Box::new(created))),
        Err(error) => match api_status(&error) {
            Some(status) if status.code == 404 || is_namespace_terminating(status) => Ok(Created::NoNamespace),
            Some(status) if status.code == 409 => Ok(Created::Exists),
            Some(status) if matches!(status.code, 400 | 403 | 422) => Ok(Created::Refused(status.message.clone())),
            _ => Err(Error::api("create", describe(object), error)),
        },
    }
}

/// Whether the namespace of `object`, which exists in it, is being deleted: whether the API server would refuse the
/// object there for that reason. (To read the namespaces takes a right on all of them.)
pub async fn is_namespace_ending<K: Object>(api: &Api<K>, object: &K) -> Result<bool, Error> {
    let mut same = object.clone();
    *same.meta_mut() = ObjectMeta {
        name: object.meta().name.clone(),
        namespace: object.meta().namespace.clone(),
        ..ObjectMeta::default()
    };
    let params = PostParams { dry_run: true, field_manager: Some(MANAGER_CONTROLLER.into()) };
    match api.create(&params, &same).await {
        Ok(_) => Ok(false),
        Err(error) => match api_status(&error) {
            // Any other refusal is somebody's word about the object, not about the namespace.
            Some(status) if status.code < 500 => Ok(is_namespace_terminating(status)),
            _ => Err(Error::api("ask for the namespace of", describe(object), error)),
        },
    }
}

/// Sets an annotation of the object `name`, or takes it off, provided that it is still the one with this UID.
pub async fn annotate<K: Object>(
    api: &Api<K>,
    name: &str,
    uid: &str,
    key: &str,
    value: Option<&str>,
) -> Result<(), Error> {
    let body = json!({ "metadata": { "uid": uid, "annotations": { key: value } } });
    let params = PatchParams { field_manager: Some(MANAGER_CONTROLLER.into()), ..PatchParams::default() };
    let done = api.patch(name, &params, &Patch::Merge(body)).await;
    done.map(|_| ()).map_err(|error| Error::api("annotate", format!("{} {name}", K::kind(&())), error))
}

/// Deletes the object `name`, provided that it is still the one with this UID.
pub async fn delete<K: Object>(api: &Api<K>, name: &str, uid: &str, grace: Option<u32>) -> Result<(), Error> {
    let params = DeleteParams {
        grace_period_seconds: grace,
        preconditions: Some(Preconditions { uid: Some(uid.into()), resource_version: None }),
        ..DeleteParams::default()
    };
    match api.delete(name, &params).await {
        Ok(_) => Ok(()),
        Err(error) if api_status(&error).is_some_and(|status| matches!(status.code, 404 | 409)) => Ok(()),
        Err(error) => Err(Error::api("delete", format!("{} {name}", K::kind(&())), error)),
    }
}
