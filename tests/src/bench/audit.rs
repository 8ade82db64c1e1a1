//! The API server's audit log.

use std::collections::BTreeMap;
use std::fs::File;
use std::io::{BufRead, BufReader, Seek, SeekFrom};
use std::path::PathBuf;

use anyhow::Result;
use kubevmm_lab::{HostName, Lab};

use crate::api::Json;

/// The log from some moment on.
pub(super) struct Audit {
    path: PathBuf,
    from: u64,
}

impl Audit {
    /// From now on.
    pub(super) fn from_now(lab: &Lab) -> Result<Self> {
        let path = lab.options().dir.join(HostName::ControlPlane.to_string()).join("log/audit.log");
        let from = File::open(&path)?.metadata()?.len();
        Ok(Self { path, from })
    }

    /// The writes of `user` since then: how many of which verb and resource.
    pub(super) fn writes(&self, user: &str) -> Result<BTreeMap<String, usize>> {
        let mut file = File::open(&self.path)?;
        file.seek(SeekFrom::Start(self.from))?;
        let mut writes = BTreeMap::new();
        for line in BufReader::new(file).lines() {
            // The last line may be half there.
            let Ok(entry) = serde_json::from_str::<Json>(&line?) else { continue };
            if let Some(write) = write_of(&entry, user) {
                *writes.entry(write).or_default() += 1;
            }
        }
        Ok(writes)
    }
}

/// `update leases`, if the entry is a write of `user`.
fn write_of(entry: &Json, user: &str) -> Option<String> {
    let verb = entry["verb"].as_str()?;
    if entry["user"]["username"] != user
        || !matches!(verb, "create" | "update" | "patch" | "delete" | "deletecollection")
    {
        return None;
    }
    let object = &entry["objectRef"];
    let subresource = object["subresource"].as_str().map(|name| format!("/{name}")).unwrap_or_default();
    Some(format!("{verb} {}{subresource}", object["resource"].as_str()?))
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    #[test]
    fn a_write_is_named_by_verb_and_resource() {
        let entry =
            |verb: &str, object: Json| json!({"verb": verb, "user": {"username": "admin"}, "objectRef": object});
        let lease = json!({"resource": "leases"});
        assert_eq!(write_of(&entry("update", lease.clone()), "admin").as_deref(), Some("update leases"));
        assert_eq!(write_of(&entry("update", lease.clone()), "other"), None);
        assert_eq!(write_of(&entry("watch", lease), "admin"), None);
        let status = json!({"resource": "hypervisors", "subresource": "status"});
        assert_eq!(write_of(&entry("patch", status), "admin").as_deref(), Some("patch hypervisors/status"));
    }
}
