//! What a real kube-scheduler 1.36 has asked, and was answered: `golden/` has the bodies as they went over the wire, laid
//! out for people.
//!
//! Three nodes: h1 has no pool `fast`, h2 and h3 have 30 GiB of it left. Each VM's disks are to be made there, 20 GiB each.

#![allow(clippy::unwrap_used)]

use std::fs;
use std::path::Path;
use std::sync::Arc;
use std::time::Instant;

use http_body_util::{BodyExt as _, Full};
use hyper::Request;
use hyper::body::Bytes;
use kubevmm_api::fit::Policy;
use kubevmm_scheduler_extender::cache::{Cache, Watched};
use kubevmm_scheduler_extender::server::Extender;
use serde_json::Value;

/// The pods that are bound, by UID, with their nodes: as the preemption names its victims.
const PLACED: [(&str, &str); 2] =
    [("3eac407d-d2f8-40b0-9f53-84784cb15094", "h3"), ("4b380562-3bec-40ab-a8c3-f16e09c87fce", "h2")];

fn cache(placed: &[(&str, &str)]) -> Cache {
    let cache = Cache::default();
    for host in ["h1", "h2", "h3"] {
        let pools = match host {
            "h1" => "",
            _ => "{name: fast, uid: 0a000000-0000-4000-8000-00000000000a, ready: true, available: 30Gi}",
        };
        let hypervisor = format!(
            "{{apiVersion: kubevmm.io/v1beta1, kind: Hypervisor, metadata: {{name: {host}}}, spec: {{}}, status: \
             {{pools: [{pools}], cpus: 4, memory: 8Gi, conditions: [{{type: Ready, status: 'True', reason: Connected, \
             message: '', lastTransitionTime: '2026-01-01T00:00:00Z'}}]}}}}"
        );
        let lease = format!("{{metadata: {{name: {host}, resourceVersion: '1'}}, spec: {{holderIdentity: {host}_1}}}}");
        let (hypervisor, lease) =
            (serde_yaml_ng::from_str(&hypervisor).unwrap(), serde_yaml_ng::from_str(&lease).unwrap());
        cache.change(|state| {
            state.put_hypervisor(&hypervisor);
            state.put_lease(Watched::Leases, &lease, Instant::now()).unwrap();
        });
    }
    for (uid, node) in placed {
        // The needs of the recorded VM, on its node.
        let request = golden("filter", "request");
        let mut pod = request["Pod"].clone();
        pod["metadata"]["uid"] = (*uid).into();
        pod["spec"]["nodeName"] = (*node).into();
        let pod = serde_json::from_value(pod).unwrap();
        cache.change(|state| state.put_pod(&pod));
    }
    Watched::ALL.into_iter().for_each(|kind| cache.listed(kind));
    cache
}

fn golden(name: &str, part: &str) -> Value {
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join(format!("tests/golden/{name}.{part}.json"));
    serde_json::from_slice(&fs::read(path).unwrap()).unwrap()
}

#[tokio::test]
async fn what_kube_scheduler_has_asked_is_answered_as_it_was() {
    for (name, path, placed) in [
        ("filter", "/filter", &PLACED[..0]),
        ("prioritize", "/prioritize", &[]),
        ("filter-full", "/filter", &PLACED),
        ("filter-ordinary", "/filter", &PLACED),
        ("prioritize-ordinary", "/prioritize", &PLACED),
        ("filter-unreadable", "/filter", &PLACED),
        ("preempt", "/preempt", &PLACED),
        ("filter-nodes", "/filter", &[]),
        ("prioritize-nodes", "/prioritize", &[]),
    ] {
        let extender = Extender { cache: Arc::new(cache(placed)), policy: Policy::Spread };
        let body = Bytes::from(golden(name, "request").to_string());
        let answer = extender.answer(Request::post(path).body(Full::new(body)).unwrap()).await;
        let bytes = answer.into_body().collect().await.unwrap().to_bytes();
        let answer: Value = serde_json::from_slice(&bytes).unwrap();
        assert_eq!(answer, golden(name, "response"), "{name}");
    }
}
