use serde_json::{Value, json};

use super::*;

const PATH: &str = "/pods/eviction/secret";

/// Status and body of the response; the one who answers says what came.
async fn ask(method: &str, path: &str, body: impl Into<Bytes>) -> (u16, String) {
    let request = Request::builder().method(method).uri(path).body(Full::new(body.into())).unwrap();
    let answers = async |eviction: Eviction| Answer::Later(format!("{}/{}", eviction.namespace, eviction.pod));
    let response = respond(request, PATH, answers).await;
    let status = response.status().as_u16();
    let body = response.into_body().collect().await.unwrap().to_bytes();
    (status, String::from_utf8(body.to_vec()).unwrap())
}

fn review() -> String {
    json!({
        "apiVersion": "admission.k8s.io/v1",
        "kind": "AdmissionReview",
        "request": {
            "uid": "id",
            "resource": { "group": "", "version": "v1", "resource": "pods" },
            "subResource": "eviction",
            "namespace": "shop",
            "name": "kubevmm-web-0123abcd",
        },
    })
    .to_string()
}

#[tokio::test]
async fn a_review_is_answered() {
    let (status, body) = ask("POST", &format!("{PATH}?timeout=10s"), review()).await;
    let body: Value = serde_json::from_str(&body).unwrap();
    assert_eq!((status, &body["response"]["uid"]), (200, &json!("id")));
    assert_eq!(body["response"]["status"]["message"], "shop/kubevmm-web-0123abcd");
}

#[tokio::test]
async fn what_is_no_review_is_refused_in_words() {
    assert_eq!(ask("POST", PATH, "{}").await.0, 400);
    let (status, body) = ask("POST", PATH, "no JSON").await;
    assert!(status == 400 && body.starts_with("no AdmissionReview"), "{status} {body}");
    let (status, body) = ask("POST", PATH, vec![b' '; LONGEST_REVIEW + 1]).await;
    assert!(status == 413 && body.contains("1048576 bytes"), "{status} {body}");
    assert_eq!(ask("GET", PATH, "").await.0, 405);
}

#[tokio::test]
async fn only_the_one_who_knows_the_path_is_answered() {
    assert_eq!(ask("POST", "/pods/eviction", review()).await.0, 404);
    assert_eq!(ask("POST", "/pods/eviction/other", review()).await.0, 404);
    assert_eq!(ask("GET", "/readyz", "").await, (200, "ok\n".to_owned()));
}
