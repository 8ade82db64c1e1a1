//! The API server's audit log.

use std::collections::BTreeMap;
use std::fs::File;
use std::io::{BufRead, BufReader, Seek, SeekFrom};
use std::path::PathBuf;

use anyhow::Result;
use k8s_openapi::jiff::Timestamp;
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
        let mut writes = BTreeMap::new();
        for entry in self.entries()?.filter(|entry| entry["user"]["username"] == user) {
            if let Some(write) = write_of(&entry) {
                *writes.entry(write).or_default() += 1;
            }
        }
        Ok(writes)
    }

    /// When each write of this verb and resource that did what it asked for came in.
    pub(super) fn times(&self, write: &str) -> Result<Vec<Timestamp>> {
        let done = |entry: &Json| entry["responseStatus"]["code"].as_u64().is_some_and(|code| code < 300);
        let entries = self.entries()?.filter(|entry| done(entry) && write_of(entry).as_deref() == Some(write));
        Ok(entries.filter_map(|entry| entry["requestReceivedTimestamp"].as_str()?.parse().ok()).collect())
    }

    fn entries(&self) -> Result<impl Iterator<Item = Json>> {
        let mut file = File::open(&self.path)?;
        file.seek(SeekFrom::Start(self.from))?;
        // The last line may be half there.
        Ok(BufReader::new(file).lines().map_while(Result::ok).filter_map(|line| serde_json::from_str(&line).ok()))
    }
}

/// `update leases`, if the entry is a write.
fn write_of(entry: &Json) -> Option<String> {
    let verb = entry["verb"].as_str()?;
    if !matches!(verb, "create" | "update" | "patch" | "delete" | "deletecollection") {
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
        let entry = |verb: &str, object: Json| json!({"verb": verb, "objectRef": object});
        let lease = json!({"resource": "leases"});
        assert_eq!(write_of(&entry("update", lease.clone())).as_deref(), Some("update leases"));
        assert_eq!(write_of(&entry("watch", lease)), None);
        let status = json!({"resource": "hypervisors", "subresource": "status"});
        assert_eq!(write_of(&entry("patch", status)).as_deref(), Some("patch hypervisors/status"));
    }
}
