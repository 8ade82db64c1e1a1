//! When a node is ready.

use std::{fs, time::Duration};

use serde_json::Value;

use crate::{HostName, Lab, Result, command::wait_until, host::Host};

impl Lab {
    /// Waits until these nodes are Ready, since their last boot, and pods can be placed on them; and until pods can be
    /// made at all, for which their namespace needs its service account.
    ///
    /// # Errors
    /// [`crate::Error::Timeout`] after two minutes.
    pub fn wait_ready(&self, nodes: &[HostName]) -> Result<()> {
        let options = self.options();
        let Some(last) = nodes.last() else { return Ok(()) };
        let log = options.log(*last, "kubelet");
        let names: Vec<_> = nodes.iter().map(HostName::to_string).collect();
        let what = format!("nodes {} are Ready; `lab kubectl get nodes` tells which is not", names.join(", "));
        wait_until(&what, &log, Duration::from_secs(120), || {
            let Some(list) = self
                .kubectl(["get", "nodes", "-o", "json"])
                .ok()
                .and_then(|text| serde_json::from_str::<Value>(&text).ok())
            else {
                return false;
            };
            let items = list["items"].as_array().map(Vec::as_slice).unwrap_or_default();
            nodes.iter().all(|host| {
                let node = items.iter().find(|node| node["metadata"]["name"] == host.to_string());
                let boot_id = fs::read_to_string(Host::new(options, *host).run("lab/kernel/kernel.random.boot_id"))
                    .unwrap_or_default();
                node.is_some_and(|node| is_ready(node, boot_id.trim()))
            })
        })?;
        let log = options.log(HostName::ControlPlane, "kube-controller-manager");
        wait_until("namespace default has its service account", &log, Duration::from_secs(60), || {
            self.kubectl(["-n", "default", "get", "serviceaccount", "default"]).is_ok()
        })
    }
}

/// Whether a node is Ready, by a kubelet of this boot (the condition may be from before), and has none of the taints
/// that go a moment after: until then a DaemonSet wants no pod there, and is "rolled out".
fn is_ready(node: &Value, boot_id: &str) -> bool {
    let of_this_boot = node["status"]["nodeInfo"]["bootID"] == boot_id;
    let conditions = node["status"]["conditions"].as_array().map(Vec::as_slice).unwrap_or_default();
    let ready = conditions.iter().any(|condition| condition["type"] == "Ready" && condition["status"] == "True");
    let taints = node["spec"]["taints"].as_array().map(Vec::as_slice).unwrap_or_default();
    let tainted = taints
        .iter()
        .filter_map(|taint| taint["key"].as_str())
        .any(|key| matches!(key, "node.kubernetes.io/not-ready" | "node.kubernetes.io/unreachable"));
    of_this_boot && ready && !tainted
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    fn node(taints: &Value) -> Value {
        json!({
            "spec": {"taints": taints},
            "status": {"nodeInfo": {"bootID": "b1"}, "conditions": [{"type": "Ready", "status": "True"}]},
        })
    }

    #[test]
    fn ready_is_believed_of_this_boot_only_and_without_the_taint() {
        assert!(is_ready(&node(&json!(null)), "b1"));
        assert!(!is_ready(&node(&json!(null)), "b2"));
        assert!(!is_ready(&node(&json!([{"key": "node.kubernetes.io/not-ready"}])), "b1"));
        assert!(is_ready(&node(&json!([{"key": "dedicated"}])), "b1"));
    }
}
