//! A certificate for this node, by a CertificateSigningRequest: as a kubelet asks for its own.

use std::time::Duration;

use k8s_openapi::ByteString;
use k8s_openapi::api::certificates::v1::{CertificateSigningRequest, CertificateSigningRequestSpec};
use kube::Client;
use kube::api::{Api, ObjectMeta, PostParams};
use kube::runtime::wait::await_condition;
use kubevmm_api::names;
use rcgen::{CertificateParams, DistinguishedName, DnType, KeyPair};

use crate::Error;
use crate::api::{is_conflict, limited};

/// Signs certificates of kubelets; kube-controller-manager approves its requests by itself for who may ask.
const SIGNER: &str = "kubernetes.io/kube-apiserver-client-kubelet";
/// The pause after a request that failed.
const RETRY: Duration = Duration::from_secs(5);
const API_TIMEOUT: Duration = Duration::from_secs(10);
/// How long to wait before the log says what is missing.
const PATIENCE: Duration = Duration::from_secs(60);

/// Whether a request has been answered.
#[derive(Debug, PartialEq, Eq)]
enum Answer {
    /// It is neither approved nor refused.
    Unapproved,
    /// It is approved; the certificate is to come.
    Unsigned,
    Refused(String),
    Certificate(String),
}

fn answer(request: &CertificateSigningRequest) -> Answer {
    let status = request.status.as_ref();
    let conditions = status.into_iter().flat_map(|status| status.conditions.iter().flatten());
    let mut approved = false;
    for condition in conditions {
        match condition.type_.as_str() {
            "Denied" | "Failed" => {
                let words = [&condition.reason, &condition.message].map(|word| word.clone().unwrap_or_default());
                return Answer::Refused(words.join(": "));
            }
            "Approved" => approved = true,
            _ => {}
        }
    }
    match status.and_then(|status| status.certificate.as_ref()) {
        Some(ByteString(pem)) if approved => Answer::Certificate(String::from_utf8_lossy(pem).into_owned()),
        _ if approved => Answer::Unsigned,
        _ => Answer::Unapproved,
    }
}

/// The certificate `system:node:NODE` for `key`, in PEM; waits until it is approved and signed. The same key finds the
/// same request again.
///
/// # Errors
/// [`Error::RequestRefused`], or [`Error::Certificate`] when no request can be made of the key.
pub(super) async fn certificate(client: &Client, node: &str, key: &KeyPair) -> Result<String, Error> {
    let api = Api::<CertificateSigningRequest>::all(client.clone());
    let wanted = request(node, key)?;
    let name = wanted.metadata.name.clone().unwrap_or_default();
    loop {
        match limited(API_TIMEOUT, api.create(&PostParams::default(), &wanted)).await {
            Ok(_) => tracing::info!(request = name, "asking for the node credential"),
            // From before a restart.
            Err(error) if is_conflict(&error) => {}
            Err(error) => {
                tracing::warn!(request = name, %error, "cannot ask for the node credential; trying again");
                tokio::time::sleep(RETRY).await;
                continue;
            }
        }
        let answered = await_condition(api.clone(), &name, |request: Option<&CertificateSigningRequest>| {
            request.is_none_or(|request| matches!(answer(request), Answer::Refused(_) | Answer::Certificate(_)))
        });
        match tokio::time::timeout(PATIENCE, answered).await {
            Ok(Ok(Some(request))) => match answer(&request) {
                Answer::Certificate(pem) => return Ok(pem),
                Answer::Refused(reason) => {
                    return Err(Error::RequestRefused { name, node: node.to_owned(), reason });
                }
                Answer::Unapproved | Answer::Unsigned => {}
            },
            // It was deleted: old requests are, by kube-controller-manager.
            Ok(Ok(None)) => {}
            Ok(Err(error)) => {
                tracing::warn!(request = name, %error, "cannot watch the request; trying again");
                tokio::time::sleep(RETRY).await;
            }
            Err(_) => complain(&api, &name).await,
        }
    }
}

/// Says what the request waits for.
async fn complain(api: &Api<CertificateSigningRequest>, name: &str) {
    let waits_for = match limited(API_TIMEOUT, api.get(name)).await.as_ref().map(answer) {
        Ok(Answer::Unsigned) => {
            format!(
                "it is approved, but nobody signs for {SIGNER}: kube-controller-manager needs --cluster-signing-cert-file and --cluster-signing-key-file"
            )
        }
        Ok(_) => format!("nobody has approved it: kubectl certificate approve {name}"),
        Err(error) => error.to_string(),
    };
    tracing::warn!(request = name, "still without the node credential: {waits_for}");
}

fn request(node: &str, key: &KeyPair) -> Result<CertificateSigningRequest, Error> {
    let failed = |error: rcgen::Error| Error::Certificate {
        what: "the request for the node credential",
        reason: error.to_string(),
    };
    let mut params = CertificateParams::default();
    params.distinguished_name = DistinguishedName::new();
    params.distinguished_name.push(DnType::OrganizationName, "system:nodes");
    params.distinguished_name.push(DnType::CommonName, super::credential::user(node));
    let pem = params.serialize_request(key).and_then(|request| request.pem()).map_err(failed)?;
    let hash = names::short_hash(&key.public_key_pem(), 16);
    Ok(CertificateSigningRequest {
        metadata: ObjectMeta { name: Some(format!("kubevmm-{}-{hash}", names::fit(node))), ..ObjectMeta::default() },
        spec: CertificateSigningRequestSpec {
            request: ByteString(pem.into_bytes()),
            signer_name: SIGNER.into(),
            usages: Some(vec!["digital signature".into(), "client auth".into()]),
            ..CertificateSigningRequestSpec::default()
        },
        status: None,
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_request_is_a_kubelets() {
        let key = KeyPair::generate().unwrap();
        let made = request("kvm1", &key).unwrap();
        assert_eq!(made.spec.signer_name, "kubernetes.io/kube-apiserver-client-kubelet");
        assert_eq!(made.metadata.name, request("kvm1", &key).unwrap().metadata.name, "the same key finds it again");
        assert_ne!(made.metadata.name, request("kvm1", &KeyPair::generate().unwrap()).unwrap().metadata.name);
        let long = request(&"n".repeat(253), &key).unwrap().metadata.name.unwrap();
        assert!(long.len() <= 253, "a Node's name may be as long as the request's: {long}");
        let (_, pem) = x509_parser::pem::parse_x509_pem(&made.spec.request.0).unwrap();
        use x509_parser::prelude::FromDer;
        let (_, request) =
            x509_parser::certification_request::X509CertificationRequest::from_der(&pem.contents).unwrap();
        let subject = request.certification_request_info.subject.to_string();
        assert_eq!(subject, "O=system:nodes, CN=system:node:kvm1");
        assert!(request.requested_extensions().is_none_or(|mut all| all.next().is_none()), "it asks for no names");
    }

    #[test]
    fn an_answer_is_a_certificate_or_a_refusal() {
        let said = |status: &str| {
            let yaml = format!("{{metadata: {{}}, spec: {{request: '', signerName: s}}, status: {status}}}");
            answer(&serde_yaml_ng::from_str(&yaml).unwrap())
        };
        let condition = |kind: &str| {
            format!(
                "{{type: {kind}, status: 'True', reason: R, message: no, lastTransitionTime: null, lastUpdateTime: null}}"
            )
        };
        let approved = condition("Approved");
        assert_eq!(said("{}"), Answer::Unapproved);
        assert_eq!(said(&format!("{{conditions: [{approved}]}}")), Answer::Unsigned);
        assert_eq!(
            said(&format!("{{conditions: [{approved}], certificate: cGVt}}")),
            Answer::Certificate("pem".into())
        );
        assert_eq!(said(&format!("{{conditions: [{}]}}", condition("Denied"))), Answer::Refused("R: no".into()));
        assert_eq!(
            said(&format!("{{conditions: [{approved}, {}]}}", condition("Failed"))),
            Answer::Refused("R: no".into())
        );
    }
}
