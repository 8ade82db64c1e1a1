//! The HTTPS server that kube-scheduler asks, and the plain one for the kubelet's probes.

use std::convert::Infallible;
use std::future::Future;
use std::net::SocketAddr;
use std::sync::Arc;
use std::time::{Duration, Instant};

use http_body_util::{BodyExt as _, Full, LengthLimitError, Limited};
use hyper::body::{Body, Bytes, Incoming};
use hyper::server::conn::http1;
use hyper::service::service_fn;
use hyper::{Method, Request, Response, StatusCode, header};
use hyper_util::rt::{TokioIo, TokioTimer};
use kubevmm_api::fit::Policy;
use rustls::ServerConfig;
use serde::Serialize;
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::Semaphore;
use tokio_rustls::TlsAcceptor;

use crate::Error;
use crate::cache::Cache;
use crate::error::Refused;
use crate::filter;
use crate::preempt;
use crate::prioritize;
use crate::protocol::{ExtenderArgs, ExtenderPreemptionArgs};

/// The largest body: names of tens of thousands of nodes, or a thousand whole ones.
pub const MOST_BYTES: usize = 16 << 20;
/// How long a request may take to come in, and its answer to go out; the scheduler itself waits 5 seconds.
const DEADLINE: Duration = Duration::from_secs(4);
/// How long a client may take to greet.
const HANDSHAKE: Duration = Duration::from_secs(5);
/// Connections at once. The scheduler needs a few.
const CONNECTIONS: usize = 64;
/// Pause after the system could not give a connection.
const ACCEPT_AGAIN: Duration = Duration::from_millis(100);

type Answer = Response<Full<Bytes>>;

/// What answers.
#[derive(Debug)]
pub struct Extender {
    /// What is known of the hosts.
    pub cache: Arc<Cache>,
    /// Whether VMs are spread or packed.
    pub policy: Policy,
}

/// Listens on `address`.
///
/// # Errors
/// When it is taken, or not this machine's.
pub async fn listen(address: SocketAddr) -> Result<TcpListener, Error> {
    TcpListener::bind(address).await.map_err(|source| Error::Listen { address, source })
}

/// Answers kube-scheduler, for ever.
pub async fn serve(listener: TcpListener, tls: Arc<ServerConfig>, extender: Arc<Extender>) {
    let acceptor = TlsAcceptor::from(tls);
    accept(listener, |stream| {
        let (acceptor, extender) = (acceptor.clone(), Arc::clone(&extender));
        async move {
            let stream = match tokio::time::timeout(HANDSHAKE, acceptor.accept(stream)).await {
                Ok(Ok(stream)) => stream,
                Ok(Err(error)) => return tracing::debug!(%error, "a client has not greeted"),
                Err(_) => return tracing::debug!("a client has not greeted in time"),
            };
            let answer = service_fn(move |request| {
                let extender = Arc::clone(&extender);
                async move { Ok::<_, Infallible>(extender.answer(request).await) }
            });
            // The deadline of the headers is the connection's; that of the body is the request's.
            let served = http1::Builder::new()
                .timer(TokioTimer::new())
                .header_read_timeout(None)
                .serve_connection(TokioIo::new(stream), answer)
                .await;
            if let Err(error) = served {
                tracing::debug!(%error, "a connection has broken");
            }
        }
    })
    .await;
}

/// Answers the kubelet's probes, for ever: `/livez` and `/readyz`.
pub async fn serve_health(listener: TcpListener, cache: Arc<Cache>) {
    accept(listener, |stream| {
        let cache = Arc::clone(&cache);
        async move {
            let answer = service_fn(move |request: Request<Incoming>| {
                let answer = health(request.uri().path(), &cache);
                async move { Ok::<_, Infallible>(answer) }
            });
            let served = http1::Builder::new()
                .timer(TokioTimer::new())
                .header_read_timeout(HANDSHAKE)
                .serve_connection(TokioIo::new(stream), answer)
                .await;
            if let Err(error) = served {
                tracing::debug!(%error, "a probe has broken");
            }
        }
    })
    .await;
}

async fn accept<F: Future<Output = ()> + Send + 'static>(listener: TcpListener, serve: impl Fn(TcpStream) -> F) {
    let places = Arc::new(Semaphore::new(CONNECTIONS));
    loop {
        // It is never closed.
        let Ok(place) = Arc::clone(&places).acquire_owned().await else { return };
        match listener.accept().await {
            Ok((stream, _)) => {
                // An answer goes out at once; without it, only more slowly.
                drop(stream.set_nodelay(true));
                let served = serve(stream);
                tokio::spawn(async move {
                    served.await;
                    drop(place);
                });
            }
            Err(error) => {
                tracing::warn!(%error, "a connection cannot be accepted");
                tokio::time::sleep(ACCEPT_AGAIN).await;
            }
        }
    }
}

fn health(path: &str, cache: &Cache) -> Answer {
    match (path, cache.ready()) {
        ("/livez", _) | ("/readyz", Ok(())) => text(StatusCode::OK, "ok\n".into()),
        ("/readyz", Err(why)) => text(StatusCode::SERVICE_UNAVAILABLE, format!("{why}\n")),
        (other, _) => text(StatusCode::NOT_FOUND, format!("there is no {other}: /livez, /readyz\n")),
    }
}

impl Extender {
    /// Answers a request.
    pub async fn answer<B>(&self, request: Request<B>) -> Answer
    where
        B: Body,
        B::Error: Into<Box<dyn std::error::Error + Send + Sync>>,
    {
        let path = request.uri().path().to_owned();
        let verb = match path.as_str() {
            "/filter" => Self::filter,
            "/prioritize" => Self::prioritize,
            "/preempt" => Self::preempt,
            _ => {
                let message = format!("there is no {path}: /filter, /prioritize and /preempt are answered\n");
                return text(StatusCode::NOT_FOUND, message);
            }
        };
        if request.method() != Method::POST {
            let mut answer = text(StatusCode::METHOD_NOT_ALLOWED, format!("{path} is asked with POST\n"));
            answer.headers_mut().insert(header::ALLOW, header::HeaderValue::from_static("POST"));
            return answer;
        }
        let body = match tokio::time::timeout(DEADLINE, Limited::new(request.into_body(), MOST_BYTES).collect()).await {
            Ok(Ok(body)) => body.to_bytes(),
            Ok(Err(error)) if error.is::<LengthLimitError>() => {
                let message = format!("the body is larger than {MOST_BYTES} bytes: set nodeCacheCapable: true\n");
                return text(StatusCode::PAYLOAD_TOO_LARGE, message);
            }
            Ok(Err(error)) => return text(StatusCode::BAD_REQUEST, format!("the body cannot be read: {error}\n")),
            Err(_) => {
                let message = format!("the body has not come within {} seconds\n", DEADLINE.as_secs());
                return text(StatusCode::REQUEST_TIMEOUT, message);
            }
        };
        verb(self, &body)
    }

    fn filter(&self, body: &[u8]) -> Answer {
        let answer = ExtenderArgs::read(body).and_then(|(pod, candidates)| match pod.needs()? {
            None => Ok(json(&filter::all(candidates))),
            Some(needs) => {
                let state = self.cache.read()?;
                Ok(json(&filter::filter(&needs, &pod.metadata.uid, candidates, &state, Instant::now())))
            }
        });
        // What the answer can say, the scheduler shows; of another status it shows the number.
        answer.unwrap_or_else(|refused| match status(&refused) {
            StatusCode::BAD_REQUEST => refuse(&refused),
            _ => json(&filter::error(refused.to_string())),
        })
    }

    fn prioritize(&self, body: &[u8]) -> Answer {
        let answer = ExtenderArgs::read(body).and_then(|(pod, candidates)| match pod.needs()? {
            None => Ok(json(&prioritize::alike(&candidates))),
            Some(needs) => {
                let state = self.cache.read()?;
                let (uid, now) = (&pod.metadata.uid, Instant::now());
                Ok(json(&prioritize::prioritize(&needs, uid, &candidates, &state, now, self.policy)))
            }
        });
        answer.unwrap_or_else(|refused| refuse(&refused))
    }

    fn preempt(&self, body: &[u8]) -> Answer {
        let read = serde_json::from_slice::<ExtenderPreemptionArgs>(body);
        let answer = read.map_err(|error| Refused::Malformed(error.to_string())).and_then(|mut args| {
            let pod = args.pod.take().ok_or(Refused::NoPod)?;
            let proposed = preempt::proposed(args);
            match pod.needs()? {
                None => Ok(json(&preempt::everywhere(proposed))),
                Some(needs) => {
                    let state = self.cache.read()?;
                    Ok(json(&preempt::helpful(&needs, &pod.metadata.uid, proposed, &state, Instant::now())))
                }
            }
        });
        answer.unwrap_or_else(|refused| refuse(&refused))
    }
}

fn status(refused: &Refused) -> StatusCode {
    match refused {
        Refused::Malformed(_) | Refused::NoNodes | Refused::NoPod => StatusCode::BAD_REQUEST,
        Refused::Annotation { .. } => StatusCode::UNPROCESSABLE_ENTITY,
        Refused::NotReady(_) => StatusCode::SERVICE_UNAVAILABLE,
    }
}

fn refuse(refused: &Refused) -> Answer {
    tracing::warn!("a request is refused: {refused}");
    text(status(refused), format!("{refused}\n"))
}

fn json(answer: &impl Serialize) -> Answer {
    match serde_json::to_vec(answer) {
        Ok(bytes) => with_type(StatusCode::OK, bytes, "application/json"),
        Err(error) => text(StatusCode::INTERNAL_SERVER_ERROR, format!("the answer cannot be written: {error}\n")),
    }
}

fn text(status: StatusCode, text: String) -> Answer {
    with_type(status, text.into_bytes(), "text/plain; charset=utf-8")
}

fn with_type(status: StatusCode, body: Vec<u8>, kind: &'static str) -> Answer {
    let mut answer = Response::new(Full::new(Bytes::from(body)));
    *answer.status_mut() = status;
    answer.headers_mut().insert(header::CONTENT_TYPE, header::HeaderValue::from_static(kind));
    answer
}
