//! The protocol of admission webhooks, as far as evictions need it: an AdmissionReview comes in, and one goes out.

use kubevmm_api::{EVICTION_BLOCKED, EVICTION_POSSIBLE};
use serde::Deserialize;
use serde_json::{Value, json};

const API_VERSION: &str = "admission.k8s.io/v1";
const KIND: &str = "AdmissionReview";

/// Somebody wants to evict a pod.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Eviction {
    /// Id of the request, which the answer repeats.
    pub id: String,
    /// Namespace of the pod.
    pub namespace: String,
    /// Name of the pod.
    pub pod: String,
    /// Who asks.
    pub user: String,
    /// Nothing is to be written.
    pub dry_run: bool,
}

/// The answer to an eviction.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Answer {
    /// It goes on.
    Allow,
    /// Of a dry run: what would be done. The PodDisruptionBudget would refuse what goes on from here, for ever; so the answer
    /// is the one to which a drain takes a pod for done, and a warning tells the rest.
    Would(String),
    /// Not now, and why: `kubectl drain` tries again.
    Later(String),
    /// Not before somebody changes something: why, and what. `kubectl drain` tries again all the same.
    Blocked(String),
}

#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
struct Review {
    #[serde(default)]
    api_version: String,
    #[serde(default)]
    kind: String,
    request: Option<Request>,
}

#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
struct Request {
    #[serde(default)]
    uid: String,
    #[serde(default)]
    namespace: String,
    #[serde(default)]
    name: String,
    resource: Resource,
    #[serde(default)]
    sub_resource: String,
    #[serde(default)]
    user_info: User,
    #[serde(default)]
    dry_run: bool,
    #[serde(default)]
    object: Value,
}

#[derive(Deserialize)]
struct Resource {
    #[serde(default)]
    group: String,
    resource: String,
}

#[derive(Deserialize, Default)]
struct User {
    #[serde(default)]
    username: String,
}

/// Reads an AdmissionReview; what is wrong with it, otherwise.
pub fn read(body: &[u8]) -> Result<Eviction, String> {
    let review: Review = serde_json::from_slice(body).map_err(|error| format!("no {KIND}: {error}"))?;
    if (review.api_version.as_str(), review.kind.as_str()) != (API_VERSION, KIND) {
        let (version, kind) = (review.api_version, review.kind);
        return Err(format!("{KIND} of {API_VERSION} is expected, and {kind:?} of {version:?} came"));
    }
    let request = review.request.ok_or_else(|| format!("the {KIND} has no request"))?;
    let (group, resource) = (request.resource.group.as_str(), request.resource.resource.as_str());
    if (group, resource, request.sub_resource.as_str()) != ("", "pods", "eviction") {
        let sub = request.sub_resource;
        return Err(format!("only pods/eviction is answered here, and {resource:?}/{sub:?} of {group:?} came"));
    }
    if request.uid.is_empty() || request.name.is_empty() || request.namespace.is_empty() {
        return Err("request.uid, request.name and request.namespace are needed".to_owned());
    }
    // kubectl says it in the Eviction only, which the request's own field does not repeat.
    let mut also = request.object["deleteOptions"]["dryRun"].as_array().into_iter().flatten();
    Ok(Eviction {
        id: request.uid,
        namespace: request.namespace,
        pod: request.name,
        user: request.user_info.username,
        dry_run: request.dry_run || also.any(|stage| stage == "All"),
    })
}

/// The AdmissionReview that answers the request `id`.
pub fn write(id: &str, answer: &Answer) -> Value {
    let response = match answer {
        Answer::Allow => json!({ "uid": id, "allowed": true }),
        Answer::Would(what) => {
            let mut response = refusal(id, (404, "NotFound"), what, Some(EVICTION_POSSIBLE));
            response["warnings"] = json!([what]);
            response
        }
        Answer::Later(why) => refusal(id, AGAIN, why, None),
        Answer::Blocked(why) => refusal(id, AGAIN, why, Some(EVICTION_BLOCKED)),
    };
    json!({ "apiVersion": API_VERSION, "kind": KIND, "response": response })
}

/// What clients take for "try again". It has no time to wait, of which they would wait in silence.
const AGAIN: (u16, &str) = (429, "TooManyRequests");

fn refusal(id: &str, (code, reason): (u16, &str), why: &str, cause: Option<&str>) -> Value {
    let details = cause.map_or(json!({}), |cause| json!({ "causes": [{ "reason": cause, "message": why }] }));
    let status = json!({ "code": code, "reason": reason, "message": why, "details": details });
    json!({ "uid": id, "allowed": false, "status": status })
}

#[cfg(test)]
mod tests {
    use super::*;

    /// What the API server of Kubernetes 1.36 sends for `kubectl drain`, shortened.
    fn review(change: impl FnOnce(&mut Value)) -> Result<Eviction, String> {
        let mut review = json!({
            "kind": "AdmissionReview",
            "apiVersion": "admission.k8s.io/v1",
            "request": {
                "uid": "705ab4f5-6393-11e8-b7cc-42010a800002",
                "kind": { "group": "policy", "version": "v1", "kind": "Eviction" },
                "resource": { "group": "", "version": "v1", "resource": "pods" },
                "subResource": "eviction",
                "name": "kubevmm-web-0123abcd",
                "namespace": "shop",
                "operation": "CREATE",
                "userInfo": { "username": "kubernetes-admin", "groups": ["system:authenticated"] },
                "object": {
                    "kind": "Eviction",
                    "apiVersion": "policy/v1",
                    "metadata": { "name": "kubevmm-web-0123abcd", "namespace": "shop" },
                    "deleteOptions": {},
                },
                "oldObject": null,
                "dryRun": false,
                "options": { "kind": "CreateOptions", "apiVersion": "meta.k8s.io/v1" },
            },
        });
        change(&mut review);
        read(review.to_string().as_bytes())
    }

    #[test]
    fn an_eviction_is_read() {
        let eviction = review(|_| ()).unwrap();
        assert_eq!((eviction.namespace.as_str(), eviction.pod.as_str()), ("shop", "kubevmm-web-0123abcd"));
        assert_eq!((eviction.user.as_str(), eviction.dry_run), ("kubernetes-admin", false));
    }

    #[test]
    fn a_dry_run_is_one_wherever_it_is_said() {
        assert!(review(|review| review["request"]["dryRun"] = true.into()).unwrap().dry_run);
        assert!(review(|it| it["request"]["object"]["deleteOptions"]["dryRun"] = json!(["All"])).unwrap().dry_run);
    }

    #[test]
    fn what_is_no_eviction_is_refused_in_words() {
        assert!(read(b"").unwrap_err().starts_with("no AdmissionReview: "));
        assert!(read(b"[1, 2]").is_err());
        assert!(read(b"{\"request\": 1}").is_err());
        assert!(read("[".repeat(100_000).as_bytes()).is_err(), "nested without end");
        assert!(review(|review| review["kind"] = "Pod".into()).unwrap_err().contains("\"Pod\""));
        assert!(review(|review| review["apiVersion"] = "admission.k8s.io/v1beta1".into()).is_err());
        assert!(review(|review| review["request"] = Value::Null).unwrap_err().contains("no request"));
        assert!(review(|review| review["request"]["subResource"] = "binding".into()).unwrap_err().contains("binding"));
        assert!(review(|review| review["request"]["name"] = "".into()).unwrap_err().contains("request.name"));
    }

    #[test]
    fn a_refusal_is_one_to_try_again() {
        let answer = write("id", &Answer::Later("why".into()));
        assert_eq!(answer["response"]["uid"], "id");
        assert_eq!(answer["response"]["allowed"], false);
        let status = &answer["response"]["status"];
        assert_eq!((&status["code"], &status["reason"]), (&json!(429), &json!("TooManyRequests")));
        assert!(status["details"]["causes"].is_null());
        let blocked = write("id", &Answer::Blocked("why".into()));
        assert_eq!(blocked["response"]["status"]["details"]["causes"][0]["reason"], "EvictionBlocked");
        let would = write("id", &Answer::Would("so".into()));
        assert_eq!(would["response"]["status"]["details"]["causes"][0]["reason"], "EvictionPossible");
        assert_eq!(
            (&would["response"]["status"]["code"], &would["response"]["warnings"]),
            (&json!(404), &json!(["so"]))
        );
    }
}
