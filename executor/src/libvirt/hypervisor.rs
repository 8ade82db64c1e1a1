//! The connection that is always made again.

use std::sync::{Arc, PoisonError, RwLock};
use std::time::{Duration, Instant};

use tokio::sync::watch;
use tokio_util::sync::{CancellationToken, DropGuard};

use super::address::Address;
use super::call::CallPool;
use super::connection::{Connection, Options};
use super::error::{Error, ErrorCode, Failure, Result};
use super::event::{self, Event, EventSender, Events};

/// A connection that lived this long was a good one: the next pause is the shortest again.
const GOOD_CONNECTION: Duration = Duration::from_secs(10);

/// How the connection stands.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum LinkState {
    /// The first attempt is under way.
    Connecting,
    /// Connected; generations count from 1.
    Connected {
        /// The number of the connection.
        generation: u64,
    },
    /// Not connected, and why; attempts go on.
    Disconnected {
        /// The latest failure.
        error: Error,
    },
}

/// Keeps a connection to one libvirt, with backoff between attempts. Clones share it; it ends with the last one.
///
/// After each [`Event::Connected`] the owner reads everything anew: what happened in between has no events.
#[derive(Clone)]
pub struct Hypervisor {
    shared: Arc<Shared>,
    _stop: Arc<DropGuard>,
}

struct Shared {
    address: Address,
    options: Arc<Options>,
    pool: Arc<CallPool>,
    current: RwLock<Option<Connection>>,
    state: watch::Sender<LinkState>,
    events: EventSender,
}

impl Hypervisor {
    /// Starts to connect to the libvirt at `address` in the background; must be called inside a tokio runtime.
    /// [`Event::Connected`] tells when it is done.
    #[must_use]
    pub fn start(address: Address, options: Options) -> (Self, Events) {
        let (sender, events) = event::channel(options.event_capacity);
        let shared = Arc::new(Shared {
            address,
            pool: CallPool::new(options.max_calls),
            options: Arc::new(options),
            current: RwLock::new(None),
            state: watch::Sender::new(LinkState::Connecting),
            events: sender,
        });
        let stop = CancellationToken::new();
        tokio::spawn(stop.clone().run_until_cancelled_owned(keep_connected(Arc::clone(&shared))));
        (Self { shared, _stop: Arc::new(stop.drop_guard()) }, events)
    }

    /// The connection of now; [`ErrorCode::ConnectionLost`] at once if there is none.
    pub fn connection(&self) -> Result<Connection> {
        let current = self.shared.current.read().unwrap_or_else(PoisonError::into_inner).clone();
        current.filter(Connection::is_alive).ok_or_else(|| match &*self.shared.state.borrow() {
            LinkState::Disconnected { error } => error.clone(),
            LinkState::Connecting | LinkState::Connected { .. } => self.shared.lost("not connected (yet)"),
        })
    }

    /// How the connection stands, now and later.
    #[must_use]
    pub fn state(&self) -> watch::Receiver<LinkState> {
        self.shared.state.subscribe()
    }
}

impl Shared {
    fn lost(&self, message: &str) -> Error {
        Failure::new(ErrorCode::ConnectionLost, message).on("virConnectOpen", &self.object())
    }

    /// How errors name the host.
    fn object(&self) -> String {
        format!("hypervisor {}", self.address)
    }

    async fn open(&self) -> Result<Connection> {
        let uri = self.address.uri().map_err(|failure| failure.on("virConnectOpen", &self.object()))?;
        let options = Arc::clone(&self.options);
        Connection::open_with(uri.into(), options, Arc::clone(&self.pool), self.events.clone()).await
    }

    fn set(&self, connection: Option<Connection>) {
        *self.current.write().unwrap_or_else(PoisonError::into_inner) = connection;
    }
}

async fn keep_connected(shared: Arc<Shared>) {
    let mut generation = 0;
    let mut pause = shared.options.reconnect_min;
    loop {
        match shared.open().await {
            Ok(connection) => {
                generation += 1;
                let since = Instant::now();
                shared.set(Some(connection.clone()));
                shared.state.send_replace(LinkState::Connected { generation });
                shared.events.send_always(Event::Connected { generation });
                tracing::info!(uri = connection.requested_uri(), generation, "connected to libvirt");
                let reason = connection.closed().await;
                shared.set(None);
                let error = shared.lost(&format!("the connection was closed ({reason:?})"));
                shared.state.send_replace(LinkState::Disconnected { error });
                shared.events.send_always(Event::Disconnected { generation, reason });
                tracing::warn!(uri = connection.requested_uri(), generation, ?reason, "lost the connection to libvirt");
                if since.elapsed() >= GOOD_CONNECTION {
                    pause = shared.options.reconnect_min;
                }
            }
            Err(error) => {
                tracing::warn!(%error, pause_seconds = pause.as_secs_f32(), "cannot connect to libvirt");
                shared.state.send_replace(LinkState::Disconnected { error });
            }
        }
        tokio::time::sleep(pause).await;
        pause = (pause * 2).min(shared.options.reconnect_max);
    }
}
