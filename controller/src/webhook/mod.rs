//! The webhook that the API server asks before a placement pod is evicted, as by `kubectl drain`.
//!
//! ```text
//! kubectl drain ──eviction──▶ API server ──AdmissionReview──▶ review ──▶ answer
//!      ▲                                                                  │ the VM can leave
//!      │ 429, tried again every 5 s                                       ▼
//!      └───────────────────────────────────────── annotation kubevmm.io/evict on the pod
//!                                                                         │ vm::eviction
//!      the pod is gone ◀── the host has given the VM up ◀── placement.release ◀┘
//! ```
//!
//! Nobody proves to a webhook who he is. So it has a path that nobody can guess, which only those know who may read the
//! ValidatingWebhookConfiguration ([`registration`]); with the certificate, it is made anew at each start.

pub mod answer;
pub mod certificate;
pub mod registration;
pub mod review;

use std::convert::Infallible;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use http_body_util::{BodyExt, Full, LengthLimitError, Limited};
use hyper::body::{Body, Bytes};
use hyper::service::service_fn;
use hyper::{Method, Request, Response, StatusCode};
use hyper_util::rt::TokioIo;
use k8s_openapi::api::core::v1::Pod;
use kube::Api;
use kube::runtime::reflector::ObjectRef;
use kubevmm_api::{EVICT, LABEL_VM, SYSTEM_NAMESPACE};
use tokio::net::{TcpListener, TcpStream};
use tokio::task::JoinSet;
use tokio::time::Instant;
use tokio_rustls::TlsAcceptor;

use crate::context::Context;
use crate::error::Error;
use crate::object::{name, uid};
use crate::vm::decide::GRACE_OF_EMPTY_POD;
use crate::vm::eviction::asked;
use crate::webhook::answer::{Deed, OwnPod};
use crate::webhook::registration::Registration;
use crate::webhook::review::{Answer, Eviction};
use crate::write;

/// Name of the Service.
const SERVICE: &str = "kubevmm-webhook";
/// Longest AdmissionReview: an Eviction is small, and names the groups of the one who asks.
const LONGEST_REVIEW: usize = 1 << 20;
/// Connections at the same time.
const CONNECTIONS: usize = 64;
/// How long a connection may last, with its one request. The API server waits for 10 seconds.
const CONNECTION_TIME: Duration = Duration::from_secs(15);
/// kubectl asks again after 5 seconds.
const ASKED_AGAIN_WITHIN: Duration = Duration::from_secs(12);
/// Pause after a connection that could not be taken.
const ACCEPT_AGAIN: Duration = Duration::from_millis(100);

/// What evictions are answered from.
struct Webhook {
    context: Arc<Context>,
    own: Option<OwnPod>,
    /// Path of the URL that evictions are asked at.
    path: String,
    /// When the eviction of a VM's pod was last put off.
    put_off: Mutex<Option<Instant>>,
}

/// Serves evictions on `port`, for ever, from a world that is known. `own` is the controller's own pod.
pub async fn run(context: Arc<Context>, own: Option<OwnPod>, port: u16) -> Error {
    let identity = match certificate::identity(&format!("{SERVICE}.{SYSTEM_NAMESPACE}.svc")) {
        Ok(identity) => identity,
        Err(error) => return error,
    };
    let listener = match TcpListener::bind((std::net::Ipv6Addr::UNSPECIFIED, port)).await {
        Ok(listener) => listener,
        // A node without IPv6.
        Err(_) => match TcpListener::bind((std::net::Ipv4Addr::UNSPECIFIED, port)).await {
            Ok(listener) => listener,
            Err(error) => return Error::webhook("listen as", error),
        },
    };
    let path = format!("/pods/eviction/{}", uuid::Uuid::new_v4());
    let registration = Registration { authority: identity.authority, path: path.clone() };
    let client = context.client.clone();
    let webhook = Webhook { context, own, path, put_off: Mutex::default() };
    tokio::select! {
        error = registration::keep(client, registration) => error,
        never = serve(webhook.into(), listener, TlsAcceptor::from(identity.tls)) => match never {},
    }
}

async fn serve(webhook: Arc<Webhook>, listener: TcpListener, tls: TlsAcceptor) -> Infallible {
    let mut connections = JoinSet::new();
    loop {
        while connections.len() >= CONNECTIONS {
            connections.join_next().await;
        }
        while connections.try_join_next().is_some() {}
        let stream = match listener.accept().await {
            Ok((stream, _)) => stream,
            Err(error) => {
                tracing::warn!(%error, "the webhook cannot take a connection");
                tokio::time::sleep(ACCEPT_AGAIN).await;
                continue;
            }
        };
        let (webhook, tls) = (Arc::clone(&webhook), tls.clone());
        connections.spawn(async move {
            let done = tokio::time::timeout(CONNECTION_TIME, webhook.connection(stream, &tls)).await;
            tracing::trace!(?done, "a connection to the webhook has ended");
        });
    }
}

impl Webhook {
    async fn connection(&self, stream: TcpStream, tls: &TlsAcceptor) -> Result<(), String> {
        let stream = tls.accept(stream).await.map_err(|error| error.to_string())?;
        let service = service_fn(|request| async {
            let ask = async |eviction| self.answer(&eviction).await;
            Ok::<_, Infallible>(respond(request, &self.path, ask).await)
        });
        let mut http = hyper::server::conn::http1::Builder::new();
        let served = http.keep_alive(false).serve_connection(TokioIo::new(stream), service).await;
        served.map_err(|error| error.to_string())
    }

    /// Answers an eviction, and notes on the pod that its VM is to leave.
    async fn answer(&self, eviction: &Eviction) -> Answer {
        let context = &self.context;
        let Eviction { namespace, pod, user, dry_run, .. } = eviction;
        if let Some(own) = self.own.as_ref().filter(|own| own.pod == *pod && namespace == SYSTEM_NAMESPACE) {
            let node = context.world.nodes.get(&ObjectRef::new(&own.node));
            let put_off = *self.put_off.lock().unwrap_or_else(PoisonError::into_inner);
            // Who was put off asks again, and is to find somebody who answers, also when the VM has left meanwhile.
            let is_awaited = put_off.is_some_and(|at| at.elapsed() < ASKED_AGAIN_WITHIN);
            return node
                .map_or(Answer::Allow, |node| answer::decide_own(&node, &context.world.pods.state(), is_awaited));
        }
        let found = context.world.pods.get(&ObjectRef::new(pod).within(namespace));
        let vm = found.as_ref().and_then(|pod| pod.metadata.labels.as_ref()?.get(LABEL_VM));
        let view = vm.and_then(|vm| context.view_of_vm(namespace, vm));
        // What is no placement pod is nobody's to keep.
        let (Some(found), Some(view)) = (&found, view) else { return Answer::Allow };
        let outcome = answer::decide(&view, found, *dry_run);
        tracing::info!(namespace, pod, user, dry_run, answer = ?outcome.answer, "an eviction");
        let pods: Api<Pod> = Api::namespaced(context.client.clone(), namespace);
        let (name, uid) = (name(found.as_ref()), uid(found.as_ref()));
        let done = match outcome.deed {
            Some(Deed::Evict) if asked(found).is_none() => {
                let why = format!("{user} evicts its placement pod");
                write::annotate(&pods, name, uid, EVICT, Some(&why)).await
            }
            Some(Deed::Delete) => write::delete(&pods, name, uid, Some(GRACE_OF_EMPTY_POD)).await,
            _ => Ok(()),
        };
        if let Err(error) = done {
            return Answer::Later(format!("{error}"));
        }
        if matches!(outcome.answer, Answer::Later(_)) {
            *self.put_off.lock().unwrap_or_else(PoisonError::into_inner) = Some(Instant::now());
        }
        outcome.answer
    }
}

/// The response to an HTTP request; `ask` answers evictions.
async fn respond<B: Body>(
    request: Request<B>,
    path: &str,
    ask: impl AsyncFnOnce(Eviction) -> Answer,
) -> Response<Full<Bytes>>
where
    B::Error: Into<Box<dyn std::error::Error + Send + Sync>>,
{
    match (request.method(), request.uri().path()) {
        (&Method::GET, "/readyz") => text(StatusCode::OK, "ok"),
        (&Method::POST, asked) if asked == path => {
            let body = match Limited::new(request.into_body(), LONGEST_REVIEW).collect().await {
                Ok(body) => body.to_bytes(),
                Err(error) if error.is::<LengthLimitError>() => {
                    let message = format!("an AdmissionReview of more than {LONGEST_REVIEW} bytes");
                    return text(StatusCode::PAYLOAD_TOO_LARGE, &message);
                }
                Err(error) => return text(StatusCode::BAD_REQUEST, &error.to_string()),
            };
            match review::read(&body) {
                Ok(eviction) => {
                    let id = eviction.id.clone();
                    let body = review::write(&id, &ask(eviction).await).to_string();
                    response(StatusCode::OK, "application/json", body)
                }
                Err(why) => text(StatusCode::BAD_REQUEST, &why),
            }
        }
        (_, asked) if asked == path => text(StatusCode::METHOD_NOT_ALLOWED, "an AdmissionReview is sent by POST"),
        _ => text(StatusCode::NOT_FOUND, "nothing is here"),
    }
}

fn text(status: StatusCode, message: &str) -> Response<Full<Bytes>> {
    response(status, "text/plain; charset=utf-8", format!("{message}\n"))
}

fn response(status: StatusCode, kind: &'static str, body: String) -> Response<Full<Bytes>> {
    let mut response = Response::new(Full::from(body));
    *response.status_mut() = status;
    let kind = hyper::header::HeaderValue::from_static(kind);
    response.headers_mut().insert(hyper::header::CONTENT_TYPE, kind);
    response
}

#[cfg(test)]
mod tests;
