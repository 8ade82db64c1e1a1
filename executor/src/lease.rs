//! The session of this executor, and the Lease that says that it lives.
//!
//! ```text
//!           open()              PUT or POST accepted
//! closed ──────────▶ taking ─────────────────────────▶ held(id) ──┐ renewed: PUT with resourceVersion
//!                                                         │  ▲    │
//!                            conflict, or the Lease is gone  └────┘
//!                                                         ▼
//!                                                       lost: the process ends, and its successor takes the Lease
//! ```
//!
//! A Lease that is not as this executor wrote it last means that the API server's memory went back in time, or that
//! somebody else acts for this host. Either way everything that was agreed in the session is void, and so is everything
//! that was read: a watch that goes on after a restore has missed what happened in between. So the process ends and
//! begins anew; guests do not notice. The next session reads the host's domains and reports them, and the controller
//! confirms each placement again before a domain is started.

use std::sync::Arc;
use std::time::Duration;

use k8s_openapi::api::coordination::v1::{Lease, LeaseSpec};
use k8s_openapi::apimachinery::pkg::apis::meta::v1::{MicroTime, OwnerReference};
use k8s_openapi::jiff::Timestamp;
use kube::api::{Api, PostParams};
use kubevmm_api::{EXTERNAL, NODE_LEASE_NAMESPACE, SYSTEM_NAMESPACE};
use tokio::sync::{Mutex, watch};
use uuid::Uuid;

use crate::Error;
use crate::api::{is_conflict, is_not_found, limited};

/// The pause after a request that failed.
const RETRY: Duration = Duration::from_secs(2);

/// The session. Clones share it.
#[derive(Clone)]
pub struct Session(Arc<Inner>);

/// Which Lease is an executor's.
#[derive(Clone, Debug)]
pub struct LeaseOf {
    namespace: &'static str,
    node: String,
    /// The Node of an external host, which the Lease goes with.
    owner: Option<OwnerReference>,
}

impl LeaseOf {
    /// That of a pod on the node `node`.
    pub fn pod(node: &str) -> Self {
        Self { namespace: SYSTEM_NAMESPACE, node: node.to_owned(), owner: None }
    }

    /// That of an external host, which is its Node's, too: a node credential may write no other. The Node's heartbeat and
    /// the executor's are one.
    pub fn external(node: &str, owner: OwnerReference) -> Self {
        Self { namespace: NODE_LEASE_NAMESPACE, node: node.to_owned(), owner: Some(owner) }
    }
}

struct Inner {
    api: Api<Lease>,
    of: LeaseOf,
    duration: Duration,
    /// Held during each request, so that they do not cross.
    held: Mutex<Option<Held>>,
    id: watch::Sender<Option<String>>,
    open: watch::Sender<bool>,
}

/// A Lease that this executor holds.
struct Held {
    /// As it was written last.
    lease: Lease,
    /// The times of the renewals since then that failed: each of them may have been written all the same.
    tried: Vec<MicroTime>,
}

impl Held {
    fn new(lease: Lease) -> Self {
        Self { lease, tried: Vec::new() }
    }

    /// Whether `there` is what one of the renewals that failed has written.
    fn has_tried(&self, there: &Lease) -> bool {
        let time = there.spec.as_ref().and_then(|spec| spec.renew_time.as_ref());
        there.metadata.uid == self.lease.metadata.uid
            && holder(there) == holder(&self.lease)
            && time.is_some_and(|time| self.tried.contains(time))
    }
}

impl Session {
    /// A session, closed for now: the Lease is taken after [`Session::open`].
    pub fn start(client: kube::Client, of: LeaseOf, duration: Duration) -> Self {
        let session = Self(Arc::new(Inner {
            api: Api::namespaced(client, of.namespace),
            of,
            duration,
            held: Mutex::new(None),
            id: watch::Sender::new(None),
            open: watch::Sender::new(false),
        }));
        tokio::spawn(session.clone().keep());
        session
    }

    /// Takes the Lease, now that this executor can say what runs on its host. A host whose libvirt was never reached has
    /// no live Lease, and so holds up no decision about other hosts.
    pub fn open(&self) {
        self.0.open.send_replace(true);
    }

    /// The id of the session, the Lease's holder; `None` before the Lease is taken.
    pub fn current(&self) -> Option<String> {
        self.0.id.borrow().clone()
    }

    /// Learns of each new session.
    pub fn subscribe(&self) -> watch::Receiver<Option<String>> {
        self.0.id.subscribe()
    }

    /// Waits until a Lease that was held is lost: see the module.
    pub async fn lost(&self) {
        let mut id = self.0.id.subscribe();
        // The sender lives in `self`.
        drop(id.wait_for(Option::is_some).await.map(drop));
        drop(id.wait_for(Option::is_none).await.map(drop));
    }

    /// Renews the Lease and returns the session that it proves.
    ///
    /// # Errors
    /// [`Error::LeaseLost`] when the session has ended; other errors when the API server does not answer.
    pub async fn renew(&self) -> Result<String, Error> {
        let inner = &*self.0;
        let mut held = inner.held.lock().await;
        let lost = || Error::LeaseLost { name: inner.of.node.clone() };
        let Some(known) = held.as_mut() else { return Err(lost()) };
        match inner.renew(known).await {
            Ok(()) => Ok(holder(&known.lease).to_owned()),
            Err(error) if is_conflict(&error) || is_not_found(&error) => {
                tracing::warn!(lease = inner.of.node, %error, "the Lease is not as it was written last: the session ends");
                *held = None;
                inner.id.send_replace(None);
                Err(lost())
            }
            Err(error) => Err(error),
        }
    }

    async fn keep(self) {
        let mut open = self.0.open.subscribe();
        // The sender lives in `self`.
        drop(open.wait_for(|open| *open).await);
        let mut taken = false;
        loop {
            let done = match (taken, self.current()) {
                (false, _) => self.take().await,
                (true, Some(_)) => self.renew().await.map(drop),
                // Lost by a renewal before a start.
                (true, None) => return,
            };
            let pause = match done {
                Ok(()) => {
                    taken = true;
                    self.0.duration / 4
                }
                Err(Error::LeaseLost { .. }) => return,
                Err(error) => {
                    tracing::warn!(lease = self.0.of.node, %error, "cannot renew the Lease; trying again");
                    RETRY.min(self.0.duration / 4)
                }
            };
            tokio::time::sleep(pause).await;
        }
    }

    /// Begins a new session.
    async fn take(&self) -> Result<(), Error> {
        let inner = &*self.0;
        let mut held = inner.held.lock().await;
        let id = format!("{}_{}", inner.of.node, Uuid::new_v4());
        let there = limited(inner.timeout(), inner.api.get_opt(&inner.of.node)).await?;
        let wanted = taken(there.as_ref(), &inner.of, &id, inner.duration, &now());
        let lease = match there {
            Some(_) => inner.replace(&wanted).await?,
            None => limited(inner.timeout(), inner.api.create(&PostParams::default(), &wanted)).await?,
        };
        *held = Some(Held::new(lease));
        tracing::info!(session = id, "a new session begins");
        inner.id.send_replace(Some(id));
        Ok(())
    }
}

impl Inner {
    /// Renews a Lease. One that is in conflict because of a renewal whose answer was lost is renewed from there.
    async fn renew(&self, held: &mut Held) -> Result<(), Error> {
        match self.try_renew(held).await {
            Err(conflict) if is_conflict(&conflict) && !held.tried.is_empty() => {
                match limited(self.timeout(), self.api.get_opt(&self.of.node)).await? {
                    Some(there) if held.has_tried(&there) => *held = Held::new(there),
                    _ => return Err(conflict),
                }
                self.try_renew(held).await
            }
            done => done,
        }
    }

    async fn try_renew(&self, held: &mut Held) -> Result<(), Error> {
        let now = now();
        // Noted before the request: a renewal that is dropped half-way may be written too.
        held.tried.push(now.clone());
        let renewed = self.replace(&renewed(&held.lease, &now)).await;
        if renewed.as_ref().is_err_and(is_conflict) {
            held.tried.pop();
        }
        *held = Held::new(renewed?);
        Ok(())
    }

    async fn replace(&self, lease: &Lease) -> Result<Lease, Error> {
        limited(self.timeout(), self.api.replace(&self.of.node, &PostParams::default(), lease)).await
    }

    fn timeout(&self) -> Duration {
        self.duration / 4
    }
}

/// The time, in the whole microseconds that Kubernetes keeps.
fn now() -> MicroTime {
    MicroTime(Timestamp::from_microsecond(Timestamp::now().as_microsecond()).unwrap_or_default())
}

fn holder(lease: &Lease) -> &str {
    lease.spec.as_ref().and_then(|spec| spec.holder_identity.as_deref()).unwrap_or_default()
}

/// The Lease in the hands of `id`; what is there gives its resourceVersion and its count of holders.
fn taken(there: Option<&Lease>, of: &LeaseOf, id: &str, duration: Duration, now: &MicroTime) -> Lease {
    let mut lease = there.cloned().unwrap_or_default();
    lease.metadata.name = Some(of.node.clone());
    if let Some(owner) = &of.owner {
        // By the label the controller tells it from a kubelet's.
        lease.metadata.labels.get_or_insert_default().insert(EXTERNAL.to_owned(), "true".to_owned());
        lease.metadata.owner_references = Some(vec![owner.clone()]);
    }
    lease.metadata.managed_fields = None;
    let transitions = lease.spec.as_ref().and_then(|spec| spec.lease_transitions).map_or(0, |count| count + 1);
    lease.spec = Some(LeaseSpec {
        holder_identity: Some(id.to_owned()),
        lease_duration_seconds: i32::try_from(duration.as_secs()).ok(),
        acquire_time: Some(now.clone()),
        renew_time: Some(now.clone()),
        lease_transitions: Some(transitions),
        ..Default::default()
    });
    lease
}

fn renewed(lease: &Lease, now: &MicroTime) -> Lease {
    let mut lease = lease.clone();
    lease.metadata.managed_fields = None;
    lease.spec.get_or_insert_default().renew_time = Some(now.clone());
    lease
}

#[cfg(test)]
mod tests {
    use super::*;
    use tokio::io::{AsyncReadExt, AsyncWriteExt};
    use tokio::net::TcpListener;

    fn of() -> LeaseOf {
        LeaseOf::pod("n1")
    }

    fn at(second: i64) -> MicroTime {
        MicroTime(Timestamp::from_second(second).unwrap())
    }

    #[test]
    fn a_lease_is_taken_over_with_its_resource_version() {
        let mut first = taken(None, &of(), "n1_a", Duration::from_secs(40), &at(1));
        assert_eq!(holder(&first), "n1_a");
        first.metadata.resource_version = Some("7".into());
        let second = taken(Some(&first), &of(), "n1_b", Duration::from_secs(40), &at(2));
        let spec = second.spec.clone().unwrap();
        assert_eq!(second.metadata.resource_version.as_deref(), Some("7"));
        assert_eq!((holder(&second), spec.lease_transitions), ("n1_b", Some(1)));
        assert_eq!((spec.lease_duration_seconds, spec.acquire_time), (Some(40), Some(at(2))));
    }

    #[test]
    fn the_lease_of_an_external_host_is_told_from_a_kubelets_and_goes_with_its_node() {
        let owner = OwnerReference { kind: "Node".into(), uid: "u".into(), ..OwnerReference::default() };
        let of = LeaseOf::external("n1", owner.clone());
        let kubelets = Lease::default();
        let lease = taken(Some(&kubelets), &of, "n1_a", Duration::from_secs(40), &at(1));
        assert_eq!(lease.metadata.labels.unwrap()[EXTERNAL], "true");
        assert_eq!(lease.metadata.owner_references, Some(vec![owner]));
        assert_eq!(of.namespace, "kube-node-lease");
    }

    #[test]
    fn a_renewal_whose_answer_was_lost_is_known_again() {
        let mut held = Held::new(taken(None, &of(), "n1_a", Duration::from_secs(40), &at(1)));
        let tried = now();
        held.tried = vec![at(5), tried.clone()];
        for time in &held.tried {
            let json = serde_json::to_value(renewed(&held.lease, time)).unwrap();
            assert!(held.has_tried(&serde_json::from_value(json).unwrap()), "as it is read back");
        }
        assert!(!held.has_tried(&renewed(&held.lease, &at(6))), "a time of nobody's");
        assert!(!held.has_tried(&held.lease), "a memory that went back in time");
        assert!(!held.has_tried(&taken(None, &of(), "n1_b", Duration::from_secs(40), &tried)), "another holder");
        let mut another = renewed(&held.lease, &tried);
        another.metadata.uid = Some("u".into());
        assert!(!held.has_tried(&another), "another Lease");
    }

    #[test]
    fn a_renewal_changes_the_time_only() {
        let first = taken(None, &of(), "n1_a", Duration::from_secs(40), &at(1));
        let mut expected = first.clone();
        expected.spec.as_mut().unwrap().renew_time = Some(at(9));
        assert_eq!(renewed(&first, &at(9)), expected);
    }

    /// An API server that gives these answers, one per connection; `None`: it closes the connection instead. Returns what
    /// was asked of it.
    async fn serve(listener: TcpListener, answers: Vec<Option<(u16, serde_json::Value)>>) -> Vec<String> {
        let mut asked = Vec::new();
        for answer in answers {
            let (mut stream, _) = listener.accept().await.unwrap();
            let (mut request, mut buffer) = (String::new(), [0; 4096]);
            let complete = |request: &str| {
                let Some((head, body)) = request.split_once("\r\n\r\n") else { return false };
                let length =
                    head.lines().find_map(|line| line.to_lowercase().strip_prefix("content-length: ")?.parse().ok());
                body.len() >= length.unwrap_or(0)
            };
            while !complete(&request) {
                let read = stream.read(&mut buffer).await.unwrap();
                request.push_str(std::str::from_utf8(&buffer[..read]).unwrap());
            }
            asked.push(request);
            if let Some((code, body)) = answer {
                let body = body.to_string();
                let head = format!("HTTP/1.1 {code} x\r\ncontent-type: application/json\r\nconnection: close");
                let response = format!("{head}\r\ncontent-length: {}\r\n\r\n{body}", body.len());
                stream.write_all(response.as_bytes()).await.unwrap();
            }
        }
        asked
    }

    #[tokio::test]
    async fn a_conflict_with_an_own_renewal_is_no_loss() {
        for (own, lost) in [(true, false), (false, true)] {
            let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
            let url = format!("http://{}", listener.local_addr().unwrap());
            let client = kube::Client::try_from(kube::Config::new(url.parse().unwrap())).unwrap();
            let session = Session::start(client, of(), Duration::from_secs(40));
            let mut held = Held::new(taken(None, &of(), "n1_a", Duration::from_secs(40), &at(1)));
            held.tried.push(at(5));
            let there = renewed(&held.lease, &at(if own { 5 } else { 6 }));
            *session.0.held.lock().await = Some(held);
            session.0.id.send_replace(Some("n1_a".into()));
            let conflict = serde_json::json!({"kind": "Status", "apiVersion": "v1", "metadata": {}, "status": "Failure",
                "message": "changed", "reason": "Conflict", "code": 409});
            let there = serde_json::to_value(&there).unwrap();
            let mut answers = vec![None, Some((409, conflict)), Some((200, there.clone()))];
            answers.extend(own.then_some(Some((200, there))));
            let server = tokio::spawn(serve(listener, answers));
            assert!(matches!(session.renew().await, Err(Error::Api(_))), "its answer is lost");
            let renewed = session.renew().await;
            assert_eq!(matches!(renewed, Err(Error::LeaseLost { .. })), lost, "{renewed:?}");
            assert_eq!(session.current().is_none(), lost);
            let methods: Vec<_> = server.await.unwrap().iter().map(|request| request[..3].to_owned()).collect();
            assert_eq!(methods, if own { &["PUT", "PUT", "GET", "PUT"][..] } else { &["PUT", "PUT", "GET"] });
        }
    }
}
