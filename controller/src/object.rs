//! Small questions to any object, and how it is named in messages.

use k8s_openapi::apimachinery::pkg::apis::meta::v1::OwnerReference;
use kube::{Resource, ResourceExt};
use kubevmm_api::{FINALIZER, MANAGER_EXECUTOR};

/// The object is being deleted.
pub fn is_deleting<K: Resource>(object: &K) -> bool {
    object.meta().deletion_timestamp.is_some()
}

/// The object bears our finalizer.
pub fn has_finalizer<K: Resource>(object: &K) -> bool {
    object.finalizers().iter().any(|finalizer| finalizer == FINALIZER)
}

/// UID of the object; empty for one that was never stored.
pub fn uid<K: Resource>(object: &K) -> &str {
    object.meta().uid.as_deref().unwrap_or_default()
}

/// Name of the object; empty for one that was never stored.
pub fn name<K: Resource>(object: &K) -> &str {
    object.meta().name.as_deref().unwrap_or_default()
}

/// `Kind namespace/name`.
pub fn describe<K: Resource<DynamicType = ()>>(object: &K) -> String {
    match object.meta().namespace.as_deref() {
        Some(namespace) => format!("{} {namespace}/{}", K::kind(&()), name(object)),
        None => format!("{} {}", K::kind(&()), name(object)),
    }
}

/// Whether the controlling owner of `object` has the UID `uid`.
pub fn is_controlled_by<K: Resource>(object: &K, uid: &str) -> bool {
    object.owner_references().iter().any(|owner| owner.controller == Some(true) && owner.uid == uid)
}

/// A reference that makes `owner` the controlling owner. A foreground deletion of the owner waits for the object when
/// `blocking`.
pub fn controlled_by<K: Resource<DynamicType = ()>>(owner: &K, blocking: bool) -> OwnerReference {
    OwnerReference {
        api_version: K::api_version(&()).into_owned(),
        kind: K::kind(&()).into_owned(),
        name: name(owner).to_owned(),
        uid: uid(owner).to_owned(),
        controller: Some(true),
        block_owner_deletion: Some(blocking),
    }
}

/// Whether the executor's last apply holds the field of the status at `path` (steps as in `managedFields`).
pub fn executor_owns<K: Resource>(object: &K, path: &[&str]) -> bool {
    object.managed_fields().iter().any(|entry| {
        if entry.manager.as_deref() != Some(MANAGER_EXECUTOR) || entry.subresource.as_deref() != Some("status") {
            return false;
        }
        let mut at = entry.fields_v1.as_ref().and_then(|fields| fields.0.get("f:status"));
        for step in path {
            at = at.and_then(|value| value.get(step));
        }
        at.is_some()
    })
}

/// As [`executor_owns`], of everything that the condition of type `kind` says. (After another manager has forced its
/// values on it, a condition's key and type stay the executor's: that is not enough to leave it to the executor.)
pub fn executor_owns_condition<K: Resource>(object: &K, kind: &str) -> bool {
    let key = format!("k:{{\"type\":\"{kind}\"}}");
    let leaves = ["f:status", "f:reason", "f:message", "f:lastTransitionTime"];
    leaves.iter().all(|leaf| executor_owns(object, &["f:conditions", &key, leaf]))
}

/// A list of names for people: the first ten and the number of the others.
pub fn enumerate<S: AsRef<str>>(names: &[S]) -> String {
    const SHOWN: usize = 10;
    let shown: Vec<&str> = names.iter().take(SHOWN).map(AsRef::as_ref).collect();
    match names.len().saturating_sub(SHOWN) {
        0 => shown.join(", "),
        more => format!("{} and {more} more", shown.join(", ")),
    }
}
