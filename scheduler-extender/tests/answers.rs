//! What the extender answers kube-scheduler, and whoever else asks.

#![allow(clippy::unwrap_used)]

use std::sync::Arc;
use std::time::{Duration, Instant};

use http_body_util::{BodyExt as _, Full};
use hyper::body::Bytes;
use hyper::{Request, StatusCode};
use kubevmm_api::fit::Policy;
use kubevmm_api::requirements::REQUIREMENTS;
use kubevmm_scheduler_extender::cache::{Cache, State, Watched};
use kubevmm_scheduler_extender::server::{Extender, MOST_BYTES};
use serde_json::{Value, json};

fn object<T: serde::de::DeserializeOwned>(yaml: &str) -> T {
    serde_yaml_ng::from_str(yaml).unwrap_or_else(|error| panic!("{error}: {yaml}"))
}

/// A Hypervisor with the pool `fast`, and more.
fn hypervisor(name: &str, more: &str) -> kubevmm_api::Hypervisor {
    object(&format!(
        "{{apiVersion: kubevmm.io/v1beta1, kind: Hypervisor, metadata: {{name: {name}}}, spec: {{}}, status: {{conditions: \
         [{{type: Ready, status: 'True', reason: Connected, message: '', lastTransitionTime: '2026-01-01T00:00:00Z'}}], \
         allocatable: {{vcpus: 4, cpu: '4', memory: 8Gi}}, pools: [{{name: fast, uid: p, ready: true, available: 3Gi}}], \
         {more}}}}}"
    ))
}

fn lease(name: &str, version: u64) -> k8s_openapi::api::coordination::v1::Lease {
    object(&format!(
        "{{metadata: {{name: {name}, resourceVersion: '{version}'}}, spec: {{holderIdentity: s, leaseDurationSeconds: 40}}}}"
    ))
}

fn pod(uid: &str, node: &str, needs: &str, phase: &str) -> k8s_openapi::api::core::v1::Pod {
    object(&format!(
        "{{metadata: {{name: p-{uid}, namespace: shop, uid: {uid}, labels: {{kubevmm.io/vm: vm-{uid}}}, annotations: \
         {{{REQUIREMENTS}: '{needs}'}}}}, spec: {{containers: [], nodeName: {node}}}, status: {{phase: {phase}}}}}"
    ))
}

/// The hosts a and b, alive; c has no Hypervisor.
fn filled() -> Cache {
    let cache = Cache::default();
    cache.change(|state| {
        for host in ["a", "b"] {
            state.put_hypervisor(&hypervisor(host, ""));
            state.put_lease(Watched::Leases, &lease(host, 1), Instant::now()).unwrap();
        }
    });
    Watched::ALL.into_iter().for_each(|kind| cache.listed(kind));
    cache
}

fn extender(cache: Cache) -> Extender {
    Extender { cache: Arc::new(cache), policy: Policy::Spread }
}

const NEEDS: &str = r#"{"vcpus":2,"memory":1073741824,"pools":[{"name":"fast","uid":"p","bytes":2147483648}]}"#;

/// A question as kube-scheduler writes it.
fn args(needs: Option<&str>, nodes: &[&str]) -> Value {
    let annotations = needs.map_or(json!({}), |needs| json!({REQUIREMENTS: needs}));
    json!({
        "Pod": {"metadata": {"name": "web", "namespace": "shop", "uid": "own", "annotations": annotations}, "spec": {}},
        "Nodes": null,
        "NodeNames": nodes,
    })
}

async fn post(extender: &Extender, path: &str, body: impl Into<Bytes>) -> (StatusCode, String) {
    let request = Request::post(path).body(Full::new(body.into())).unwrap();
    let answer = extender.answer(request).await;
    let status = answer.status();
    let bytes = answer.into_body().collect().await.unwrap().to_bytes();
    (status, String::from_utf8(bytes.to_vec()).unwrap())
}

async fn ask(extender: &Extender, path: &str, question: Value) -> Value {
    let (status, text) = post(extender, path, question.to_string()).await;
    assert_eq!(status, StatusCode::OK, "{text}");
    serde_json::from_str(&text).unwrap()
}

async fn filter(cache: Cache, needs: &str) -> Value {
    ask(&extender(cache), "/filter", args(Some(needs), &["a", "b", "c"])).await
}

#[tokio::test]
async fn a_vm_may_go_where_it_fits_and_each_other_node_says_why_not() {
    let cache = filled();
    cache.change(|state| state.put_pod(&pod("1", "b", NEEDS, "Running")));
    let answer = filter(cache, NEEDS).await;
    assert_eq!(answer["Nodes"], Value::Null);
    assert_eq!(answer["NodeNames"], json!(["a"]));
    assert_eq!(answer["Error"], "");
    let full = answer["FailedNodes"].as_object().unwrap();
    assert_eq!(full.keys().collect::<Vec<_>>(), ["b"], "evicting the other VM helps");
    assert!(full["b"].as_str().unwrap().contains("of which 2Gi are promised to disks of other VMs"), "{full:?}");
    let lasting = json!({"c": "no executor runs there: it has no Hypervisor (kubectl get hv)"});
    assert_eq!(answer["FailedAndUnresolvableNodes"], lasting);
}

#[tokio::test]
async fn an_ordinary_pod_passes_untouched_even_before_the_caches_are_filled() {
    for cache in [filled(), Cache::default()] {
        let extender = extender(cache);
        let answer = ask(&extender, "/filter", args(None, &["c", "a"])).await;
        let untouched = json!({
            "Nodes": null, "NodeNames": ["c", "a"], "FailedNodes": {}, "FailedAndUnresolvableNodes": {}, "Error": "",
        });
        assert_eq!(answer, untouched);
        let scores = ask(&extender, "/prioritize", args(None, &["c", "a"])).await;
        assert_eq!(scores, json!([{"Host": "c", "Score": 0}, {"Host": "a", "Score": 0}]));
        let without_annotations = json!({"Pod": {"metadata": {"name": "x"}}, "NodeNames": []});
        assert_eq!(ask(&extender, "/filter", without_annotations).await["NodeNames"], json!([]));
    }
}

#[tokio::test]
async fn whole_nodes_are_answered_with_whole_nodes() {
    let node =
        |name: &str| json!({"metadata": {"name": name, "labels": {"x": "y"}}, "status": {"capacity": {"cpu": "1"}}});
    let mut question = args(Some(NEEDS), &[]);
    question["NodeNames"] = Value::Null;
    question["Nodes"] = json!({"metadata": {}, "items": [node("c"), node("a")]});
    let extender = extender(filled());
    let answer = ask(&extender, "/filter", question.clone()).await;
    assert_eq!((&answer["NodeNames"], &answer["Nodes"]["items"]), (&Value::Null, &json!([node("a")])));
    assert!(answer["FailedAndUnresolvableNodes"]["c"].is_string());
    assert_eq!(ask(&extender, "/prioritize", question.clone()).await[1]["Host"], "a");
    question["Pod"]["metadata"]["annotations"] = Value::Null;
    assert_eq!(ask(&extender, "/filter", question.clone()).await["Nodes"], question["Nodes"]);
    question["Nodes"]["items"] = Value::Null;
    assert_eq!(ask(&extender, "/filter", question).await["Nodes"]["items"], json!([]));
}

#[tokio::test]
async fn the_image_and_the_last_host_make_a_node_better() {
    let cache = filled();
    let image = "images: [{kind: ClusterVirtualMachineImage, name: deb, uid: i, poolName: fast, volumeName: v, state: Downloaded}]";
    cache.change(|state| state.put_hypervisor(&hypervisor("b", image)));
    let needs = r#"{"images":[{"kind":"ClusterVirtualMachineImage","name":"deb","pool":"fast"}],"vcpus":0,"memory":0}"#;
    let scores = ask(&extender(cache), "/prioritize", args(Some(needs), &["a", "b", "c"])).await;
    assert_eq!(scores, json!([{"Host": "a", "Score": 4}, {"Host": "b", "Score": 8}, {"Host": "c", "Score": 0}]));
    let scores = ask(&extender(filled()), "/prioritize", args(Some(r#"{"lastNode":"b"}"#), &["a", "b"])).await;
    assert_eq!((&scores[0]["Score"], &scores[1]["Score"]), (&json!(4), &json!(6)));
}

#[tokio::test]
async fn nobody_is_evicted_in_vain() {
    let cache = filled();
    cache.change(|state| {
        state.put_pod(&pod("1", "a", NEEDS, "Running"));
        state.put_pod(&pod("2", "b", NEEDS, "Running"));
        state.put_pod(&pod("3", "b", r#"{"vcpus":2}"#, "Running"));
    });
    let victims = |uid: &str| json!({"Pods": [{"UID": uid}], "NumPDBViolations": 1});
    let question = |needs: Option<&str>| {
        let mut question = args(needs, &[]);
        question["NodeNameToVictims"] = Value::Null;
        question["NodeNameToMetaVictims"] = json!({"a": victims("1"), "b": victims("3"), "c": victims("9")});
        question
    };
    let extender = extender(cache);
    let answer = ask(&extender, "/preempt", question(Some(NEEDS))).await;
    assert_eq!(answer, json!({"NodeNameToMetaVictims": {"a": victims("1")}}), "b stays too full, c is no host");
    let mut ordinary = question(None);
    assert_eq!(
        ask(&extender, "/preempt", ordinary.clone()).await["NodeNameToMetaVictims"],
        ordinary["NodeNameToMetaVictims"]
    );
    ordinary["NodeNameToMetaVictims"] = Value::Null;
    ordinary["NodeNameToVictims"] = json!({"a": {"Pods": [{"metadata": {"uid": "7"}}], "NumPDBViolations": 0}});
    let by_uid = json!({"NodeNameToMetaVictims": {"a": {"Pods": [{"UID": "7"}], "NumPDBViolations": 0}}});
    assert_eq!(ask(&extender, "/preempt", ordinary).await, by_uid);
}

#[tokio::test]
async fn until_the_caches_are_filled_the_answer_says_so() {
    let cache = Cache::default();
    cache.listed(Watched::Hypervisors);
    let extender = extender(cache);
    let (status, text) = post(&extender, "/filter", args(Some(NEEDS), &["a"]).to_string()).await;
    let answer: Value = serde_json::from_str(&text).unwrap();
    let waits = "kubevmm-scheduler-extender has just started and has yet to list the Leases of the executors: it is asked again";
    assert_eq!((status, answer["Error"].as_str()), (StatusCode::OK, Some(waits)));
    assert_eq!(answer["NodeNames"], Value::Null);
    for path in ["/prioritize", "/preempt"] {
        let (status, text) = post(&extender, path, args(Some(NEEDS), &["a"]).to_string()).await;
        assert_eq!((status, text.trim()), (StatusCode::SERVICE_UNAVAILABLE, waits));
    }
}

#[tokio::test]
async fn what_cannot_be_understood_is_refused_in_words() {
    let extender = extender(filled());
    let pod_only = r#"{"Pod": {"metadata": {}}}"#;
    for (body, says) in [
        ("", "the body is not what kube-scheduler sends (EOF"),
        ("{", "the body is not what kube-scheduler sends"),
        ("7", "the body is not what kube-scheduler sends (invalid type: integer"),
        ("[]", "the body has no Pod"),
        (r#"{"Pod": 1}"#, "the body is not what kube-scheduler sends (invalid type: integer"),
        (r#"{"NodeNames": ["a"]}"#, "the body has no Pod"),
        (pod_only, "the body has neither NodeNames nor Nodes"),
    ] {
        for path in ["/filter", "/prioritize", "/preempt"] {
            if path == "/preempt" && body == pod_only {
                continue;
            }
            let (status, text) = post(&extender, path, body).await;
            assert_eq!(status, StatusCode::BAD_REQUEST, "{path} {body}: {text}");
            assert!(path == "/preempt" || text.starts_with(says), "{path} {body}: {text}");
        }
    }
    let (status, text) = post(&extender, "/filter", vec![b' '; MOST_BYTES + 1]).await;
    assert_eq!(status, StatusCode::PAYLOAD_TOO_LARGE);
    assert_eq!(text, "the body is larger than 16777216 bytes: set nodeCacheCapable: true\n");
    let (status, text) = post(&extender, "/bind", "{}").await;
    assert_eq!(status, StatusCode::NOT_FOUND);
    assert_eq!(text, "there is no /bind: /filter, /prioritize and /preempt are answered\n");
    let answer = extender.answer(Request::get("/filter").body(Full::<Bytes>::default()).unwrap()).await;
    assert_eq!(
        (answer.status(), answer.headers()["allow"].to_str().unwrap()),
        (StatusCode::METHOD_NOT_ALLOWED, "POST")
    );
    let answer = ask(&extender, "/filter", args(Some("{vcpus: 2}"), &["a"])).await;
    let says = "the annotation kubevmm.io/requirements of the pod shop/web cannot be read (key must be a string";
    assert!(answer["Error"].as_str().unwrap().starts_with(says), "{answer}");
    let (status, _) = post(&extender, "/prioritize", args(Some("7"), &["a"]).to_string()).await;
    assert_eq!(status, StatusCode::UNPROCESSABLE_ENTITY);
}

#[tokio::test]
async fn a_host_goes_with_its_lease_and_with_its_hypervisor() {
    let able = |cache: &Cache, now: Instant| {
        let state = cache.read().unwrap();
        let answer = kubevmm_scheduler_extender::filter::filter(
            &serde_json::from_str(NEEDS).unwrap(),
            "own",
            kubevmm_scheduler_extender::filter::named(["a", "b"]),
            &state,
            now,
        );
        let names = answer.node_names.unwrap();
        names.into_iter().map(|name| name.0.into_owned()).collect::<Vec<_>>()
    };
    let (cache, now) = (filled(), Instant::now());
    let after = |seconds| now + Duration::from_secs(seconds);
    cache.change(|state| state.put_lease(Watched::Leases, &lease("a", 2), after(30))).unwrap();
    assert_eq!(able(&cache, after(30)), ["a", "b"]);
    assert_eq!(able(&cache, after(45)), ["a"], "nobody has renewed b's");
    cache.change(|state| state.put_lease(Watched::Leases, &lease("b", 3), after(46))).unwrap();
    assert_eq!(able(&cache, after(46)), ["a", "b"]);
    cache.change(|state| state.drop_hypervisor("a"));
    assert_eq!(able(&cache, after(46)), ["b"]);
    cache.change(|state| {
        state.put_hypervisor(&hypervisor("a", ""));
        state.retain_hypervisors(&["a".to_owned()].into());
    });
    assert_eq!(able(&cache, after(46)), ["a"]);
    cache.change(|state| state.drop_lease(Watched::Leases, "a"));
    assert_eq!(able(&cache, after(46)), Vec::<String>::new());
    cache.change(|state| state.put_lease(Watched::NodeLeases, &lease("a", 4), after(46))).unwrap();
    assert_eq!(able(&cache, after(46)), ["a"], "an external host's executor has its Lease elsewhere");
    cache.change(|state| state.retain_leases(Watched::NodeLeases, &Default::default()));
    assert_eq!(able(&cache, after(46)), Vec::<String>::new());
    let rewound = cache.change(|state: &mut State| state.put_lease(Watched::Leases, &lease("b", 1), after(47)));
    assert!(rewound.unwrap_err().to_string().contains("etcd was restored"));
}

#[tokio::test]
async fn a_pod_counts_from_when_it_is_bound_until_it_ends() {
    let fits = |cache: &Cache| {
        let state = cache.read().unwrap();
        let needs = serde_json::from_str(NEEDS).unwrap();
        kubevmm_api::fit::check(&needs, &state.facts("a", Instant::now(), &["own"])).is_ok()
    };
    let cache = filled();
    let mut unbound = pod("1", "a", NEEDS, "Pending");
    unbound.spec.as_mut().unwrap().node_name = None;
    cache.change(|state| state.put_pod(&unbound));
    assert!(fits(&cache));
    for _ in 0..2 {
        cache.change(|state| state.put_pod(&pod("1", "a", NEEDS, "Pending")));
        assert!(!fits(&cache), "bound, and seen again");
    }
    cache.change(|state| state.put_pod(&pod("1", "a", r#"{"vcpus":2}"#, "Running")));
    assert!(fits(&cache), "its volume has been made");
    // Two were bound in a moment: neither had been seen when the other was asked for.
    cache.change(|state| {
        state.put_pod(&pod("1", "a", NEEDS, "Pending"));
        state.put_pod(&pod("2", "a", NEEDS, "Pending"));
    });
    cache.change(|state| state.drop_pod("1"));
    assert!(!fits(&cache), "the other one is still there");
    cache.change(|state| state.put_pod(&pod("2", "a", NEEDS, "Failed")));
    assert!(fits(&cache));
    cache.change(|state| {
        state.put_pod(&pod("3", "a", NEEDS, "Running"));
        state.retain_pods(&Default::default());
    });
    assert!(fits(&cache));
    cache.change(|state| state.put_pod(&pod("own", "a", NEEDS, "Pending")));
    assert!(fits(&cache), "its own claim");
}

#[tokio::test]
async fn a_forged_annotation_restricts_its_own_pod_only() {
    let cache = filled();
    let forged = r#"{"home":"nowhere","vcpus":4000000000,"memory":18446744073709551615}"#;
    let extender = extender(cache);
    let answer = ask(&extender, "/filter", args(Some(forged), &["a", "b"])).await;
    assert_eq!(answer["NodeNames"], json!([]));
    // Nothing of it stays: the pod is not bound, and one that nobody has labelled as a VM's is not counted.
    let mut unlabelled = pod("1", "a", forged, "Running");
    unlabelled.metadata.labels = None;
    extender.cache.change(|state| state.put_pod(&unlabelled));
    let answer = ask(&extender, "/filter", args(Some(NEEDS), &["a", "b"])).await;
    assert_eq!(answer["NodeNames"], json!(["a", "b"]));
    extender.cache.change(|state| state.put_pod(&pod("2", "a", "no JSON", "Running")));
    assert_eq!(extender.cache.read().unwrap().size(), (2, 0));
}
