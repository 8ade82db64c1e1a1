//! A connection to libvirt, and what is asked of the host as a whole.

use std::fmt;
use std::ptr::{self, NonNull};
use std::sync::Arc;
use std::time::{Duration, Instant};

use tokio::sync::{Semaphore, watch};
use virt::sys;

use super::call::CallPool;
use super::callback::{self, Registrations};
use super::error::{ErrorCode, Failure, Result};
use super::event::{CloseReason, EventSender, Events};
use super::ffi::{c_string, c_string_or_null, check, copy_string, pointer, take_string};
use super::{event, event_loop};

/// A connection that is younger is not given up for an error of a daemon behind it, which a new one would have as well.
const SETTLED: Duration = Duration::from_secs(60);

/// How to talk to libvirt.
#[derive(Clone, Debug)]
pub struct Options {
    /// How many calls run at once. libvirtd stops reading from a client that has `max_client_requests` (5) unanswered
    /// calls, its keepalive answers included, so more than 4 only helps where that setting was raised.
    pub max_calls: usize,
    /// Time limit of a call that only reads or notes something.
    pub call_timeout: Duration,
    /// Time limit of a call that starts or stops something.
    pub long_call_timeout: Duration,
    /// Time limit of a call that may copy a whole volume.
    pub copy_timeout: Duration,
    /// Time limit of a call that waits for a guest's agent. At most half of the calls at a time are of this kind, so
    /// that guests cannot block the host.
    pub guest_timeout: Duration,
    /// How long a volume's upload or download may stand still.
    pub stream_stall_timeout: Duration,
    /// How many events may wait for their reader before [`super::Event::Lost`] replaces them.
    pub event_capacity: usize,
    /// Seconds between keepalive probes on a silent connection.
    pub keepalive_interval_seconds: u32,
    /// Unanswered probes after which the connection counts as dead.
    pub keepalive_count: u32,
    /// The first pause before the manager connects again; it doubles up to the longest.
    pub reconnect_min: Duration,
    /// The longest pause before the manager connects again.
    pub reconnect_max: Duration,
}

impl Default for Options {
    fn default() -> Self {
        Self {
            max_calls: 4,
            call_timeout: Duration::from_secs(30),
            long_call_timeout: Duration::from_secs(120),
            copy_timeout: Duration::from_secs(4 * 3600),
            guest_timeout: Duration::from_secs(10),
            stream_stall_timeout: Duration::from_secs(120),
            event_capacity: 4096,
            keepalive_interval_seconds: 5,
            keepalive_count: 3,
            reconnect_min: Duration::from_secs(1),
            reconnect_max: Duration::from_secs(30),
        }
    }
}

/// Which time limit a call has.
#[derive(Clone, Copy)]
pub(super) enum Patience {
    Short,
    Long,
    Copy,
    Guest,
}

/// A version as libvirt counts it.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct Version {
    /// Major.
    pub major: u64,
    /// Minor.
    pub minor: u64,
    /// Micro (release).
    pub micro: u64,
}

impl Version {
    fn from_raw(number: u64) -> Self {
        Self { major: number / 1_000_000, minor: number / 1000 % 1000, micro: number % 1000 }
    }
}

impl fmt::Display for Version {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}.{}.{}", self.major, self.minor, self.micro)
    }
}

/// The host's hardware (`virNodeInfo`).
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct NodeInfo {
    /// The CPU's architecture, such as `x86_64`.
    pub model: String,
    /// Memory in bytes.
    pub memory_bytes: u64,
    /// Active CPUs.
    pub cpus: u32,
    /// Expected CPU frequency in MHz; 0 if unknown.
    pub mhz: u32,
    /// NUMA cells.
    pub numa_nodes: u32,
    /// CPU sockets per cell.
    pub sockets: u32,
    /// Cores per socket.
    pub cores: u32,
    /// Threads per core.
    pub threads: u32,
}

/// An open connection (`virConnectPtr`). Clones share it; it is closed in the background when the last clone and the
/// last object of it are gone.
#[derive(Clone)]
pub struct Connection {
    inner: Arc<Inner>,
}

struct Inner {
    /// `None` only while it is being dropped.
    open: Option<Open>,
    uri: Arc<str>,
    options: Arc<Options>,
    pool: Arc<CallPool>,
    guest_places: Semaphore,
    closed: Arc<callback::Closed>,
    opened: Instant,
}

/// A `virConnectPtr` with its callbacks.
struct Open {
    conn: NonNull<sys::_virConnect>,
    registrations: Registrations,
}

// SAFETY: libvirt's connections may be used by several threads at once.
unsafe impl Send for Open {}
// SAFETY: as above.
unsafe impl Sync for Open {}

impl Drop for Open {
    fn drop(&mut self) {
        // SAFETY: the connection is open, and this is its last use.
        unsafe {
            std::mem::take(&mut self.registrations).deregister(self.conn.as_ptr());
            callback::unregister_close(self.conn.as_ptr());
            sys::virConnectClose(self.conn.as_ptr());
        }
    }
}

impl Drop for Inner {
    fn drop(&mut self) {
        // Closing talks to libvirtd, so it must not happen on the dropping thread. If no thread can be had, the closure
        // is dropped, and with it the connection, here.
        if let Some(open) = self.open.take() {
            drop(self.pool.spawn(move || drop(open)));
        }
    }
}

impl Connection {
    /// Opens `uri`, such as `qemu:///system`, with a channel of its events (`virConnectOpen`). There is no reconnecting:
    /// that is [`super::Hypervisor`]'s.
    pub async fn open(uri: &str, options: Options) -> Result<(Self, Events)> {
        let (sender, events) = event::channel(options.event_capacity);
        let pool = CallPool::new(options.max_calls);
        let connection = Self::open_with(uri.into(), Arc::new(options), pool, sender).await?;
        Ok((connection, events))
    }

    pub(super) async fn open_with(
        uri: Arc<str>,
        options: Arc<Options>,
        pool: Arc<CallPool>,
        events: EventSender,
    ) -> Result<Self> {
        let closed = Arc::new(watch::Sender::new(None));
        let open = {
            let (uri, options, closed) = (Arc::clone(&uri), Arc::clone(&options), Arc::clone(&closed));
            move || open(&uri, &options, &closed, &events)
        };
        let opened = pool.run(options.call_timeout, open).await;
        // Whatever the reason, there is no connection; the message says more.
        let open = opened.map_err(|failure| {
            Failure { code: ErrorCode::ConnectionLost, ..failure }.on("virConnectOpen", &format!("hypervisor {uri}"))
        })?;
        let guest_places = Semaphore::new((options.max_calls / 2).max(1));
        Ok(Self {
            inner: Arc::new(Inner {
                open: Some(open),
                uri,
                options,
                pool,
                guest_places,
                closed,
                opened: Instant::now(),
            }),
        })
    }

    /// Waits until the connection has ended, and says why.
    pub async fn closed(&self) -> CloseReason {
        let mut closed = self.inner.closed.subscribe();
        // The sender lives in `self`, so waiting cannot fail.
        closed.wait_for(Option::is_some).await.ok().and_then(|reason| *reason).unwrap_or(CloseReason::Client)
    }

    /// Is the connection usable, as far as is known?
    #[must_use]
    pub fn is_alive(&self) -> bool {
        self.inner.closed.borrow().is_none()
    }

    pub(super) fn options(&self) -> &Options {
        &self.inner.options
    }

    /// Runs a C call on the pool, and says in its error what it was about. Fails at once if the connection is gone.
    pub(super) async fn call<T, F>(
        &self,
        operation: &'static str,
        object: &str,
        patience: Patience,
        call: F,
    ) -> Result<T>
    where
        T: Send + 'static,
        F: FnOnce(sys::virConnectPtr) -> Result<T, Failure> + Send + 'static,
    {
        let lost = || Failure::new(ErrorCode::ConnectionLost, "the connection to libvirt is closed");
        let options = self.options();
        let (limit, _guest_place) = match patience {
            Patience::Short => (options.call_timeout, None),
            Patience::Long => (options.long_call_timeout, None),
            Patience::Copy => (options.copy_timeout, None),
            Patience::Guest => {
                let place = self.inner.guest_places.acquire().await.map_err(|_| lost().on(operation, object))?;
                (options.guest_timeout, Some(place))
            }
        };
        if !self.is_alive() {
            return Err(lost().on(operation, object));
        }
        let connection = self.clone();
        let call = move || {
            let conn = connection.raw()?;
            call(conn).map_err(|failure| connection.judge(operation, failure))
        };
        let since = Instant::now();
        let answer = self.inner.pool.run(limit, call).await;
        tracing::trace!(operation, object, seconds = since.elapsed().as_secs_f32(), "a call of libvirt");
        answer.map_err(|failure| failure.on(operation, object))
    }

    /// An RPC error may also come from a daemon behind the one that we talk to (virtqemud keeps one connection to each of
    /// its fellows for a client, and never opens it again): a new connection helps then, but not this call. Devices are not
    /// worth one: a host may do without virtnodedevd.
    fn judge(&self, operation: &str, failure: Failure) -> Failure {
        if failure.code != ErrorCode::ConnectionLost {
            return failure;
        }
        // SAFETY: the connection is open as long as `self` lives; the call is local.
        let dead = self.raw().is_ok_and(|conn| unsafe { sys::virConnectIsAlive(conn) } == 0);
        let settled = self.inner.opened.elapsed() > SETTLED && !operation.contains("NodeDevice");
        if dead || settled {
            // The close callback brings the reason, but later, by the event loop.
            self.inner
                .closed
                .send_if_modified(|reason| reason.is_none() && reason.replace(CloseReason::Error).is_none());
        }
        if dead { failure } else { Failure { code: ErrorCode::SystemError, ..failure } }
    }

    /// Whether somebody on this host answers for its devices.
    pub(super) fn has_node_devices(&self) -> bool {
        self.inner.open.as_ref().is_some_and(|open| !open.registrations.without_node_devices)
    }

    fn raw(&self) -> Result<sys::virConnectPtr, Failure> {
        let open = self.inner.open.as_ref();
        open.map(|open| open.conn.as_ptr())
            .ok_or_else(|| Failure::new(ErrorCode::ConnectionLost, "the connection to libvirt is closed"))
    }

    /// The URI that was asked for.
    #[must_use]
    pub fn requested_uri(&self) -> &str {
        &self.inner.uri
    }

    /// How errors name the host.
    fn object(&self) -> String {
        format!("hypervisor {}", self.inner.uri)
    }

    async fn ask<T, F>(&self, operation: &'static str, call: F) -> Result<T>
    where
        T: Send + 'static,
        F: FnOnce(sys::virConnectPtr) -> Result<T, Failure> + Send + 'static,
    {
        self.call(operation, &self.object(), Patience::Short, call).await
    }

    /// `virConnectGetHostname`: the host's name as libvirt sees it.
    pub async fn hostname(&self) -> Result<String> {
        // SAFETY: `call` passes an open connection (here and below); the result is the caller's to free.
        self.ask("virConnectGetHostname", |conn| unsafe { take_string(sys::virConnectGetHostname(conn)) }).await
    }

    /// `virConnectGetURI`: the URI as libvirt completed it.
    pub async fn uri(&self) -> Result<String> {
        // SAFETY: as above.
        self.ask("virConnectGetURI", |conn| unsafe { take_string(sys::virConnectGetURI(conn)) }).await
    }

    /// `virConnectGetLibVersion`: the version of libvirtd.
    pub async fn lib_version(&self) -> Result<Version> {
        self.ask("virConnectGetLibVersion", |conn| {
            let mut number = 0;
            // SAFETY: `number` is written to.
            check(unsafe { sys::virConnectGetLibVersion(conn, &raw mut number) })?;
            Ok(Version::from_raw(number))
        })
        .await
    }

    /// `virConnectGetType`: the driver, such as `QEMU`.
    pub async fn hypervisor_type(&self) -> Result<String> {
        self.ask("virConnectGetType", |conn| {
            // SAFETY: the result is static.
            unsafe { copy_string(sys::virConnectGetType(conn)) }.ok_or_else(Failure::last)
        })
        .await
    }

    /// `virConnectGetVersion`: the hypervisor's own version, of QEMU for instance; `None` where libvirt cannot tell.
    pub async fn hypervisor_version(&self) -> Result<Option<Version>> {
        self.ask("virConnectGetVersion", |conn| {
            let mut number = 0;
            // SAFETY: `number` is written to.
            check(unsafe { sys::virConnectGetVersion(conn, &raw mut number) })?;
            Ok((number != 0).then(|| Version::from_raw(number)))
        })
        .await
    }

    /// `virConnectGetCapabilities`: the host's capabilities, as XML.
    pub async fn capabilities(&self) -> Result<String> {
        let call = |conn| unsafe {
            // SAFETY: as above.
            take_string(sys::virConnectGetCapabilities(conn))
        };
        self.call("virConnectGetCapabilities", &self.object(), Patience::Long, call).await
    }

    /// `virConnectGetDomainCapabilities`: what a domain of this kind can have, as XML. `None` leaves the choice to
    /// libvirt.
    pub async fn domain_capabilities(
        &self,
        arch: Option<&str>,
        machine: Option<&str>,
        virt_type: Option<&str>,
    ) -> Result<String> {
        let operation = "virConnectGetDomainCapabilities";
        let object = self.object();
        let argument = |text| c_string_or_null(text).map_err(|failure| failure.on(operation, &object));
        let (arch, machine, virt_type) = (argument(arch)?, argument(machine)?, argument(virt_type)?);
        let call = move |conn| {
            let (arch, machine, virt_type) = (pointer(&arch), pointer(&machine), pointer(&virt_type));
            // SAFETY: the strings live during the call; NULL is allowed.
            unsafe { take_string(sys::virConnectGetDomainCapabilities(conn, ptr::null(), arch, machine, virt_type, 0)) }
        };
        // libvirt may start a QEMU to find out.
        self.call(operation, &object, Patience::Long, call).await
    }

    /// `virConnectBaselineHypervisorCPU` with `VIR_CONNECT_BASELINE_CPU_EXPAND_FEATURES` of one CPU: the same CPU with all
    /// its features, as XML; those that its model implies are named too.
    pub async fn expanded_cpu(&self, arch: &str, machine: Option<&str>, virt_type: &str, cpu: &str) -> Result<String> {
        let operation = "virConnectBaselineHypervisorCPU";
        let object = self.object();
        let argument = |text| c_string_or_null(text).map_err(|failure| failure.on(operation, &object));
        let (arch, machine) = (argument(Some(arch))?, argument(machine)?);
        let (virt_type, cpu) = (argument(Some(virt_type))?, argument(Some(cpu))?);
        let call = move |conn| {
            let (arch, machine, virt_type) = (pointer(&arch), pointer(&machine), pointer(&virt_type));
            let mut cpus = [pointer(&cpu)];
            let flags = sys::VIR_CONNECT_BASELINE_CPU_EXPAND_FEATURES;
            // SAFETY: the strings and the array of one live during the call; a NULL machine and emulator are allowed.
            unsafe {
                let emulator = ptr::null();
                let cpus = cpus.as_mut_ptr();
                let expanded =
                    sys::virConnectBaselineHypervisorCPU(conn, emulator, arch, machine, virt_type, cpus, 1, flags);
                take_string(expanded)
            }
        };
        self.call(operation, &object, Patience::Long, call).await
    }

    /// `virNodeGetInfo`: the host's hardware.
    pub async fn node_info(&self) -> Result<NodeInfo> {
        self.ask("virNodeGetInfo", |conn| {
            // SAFETY: the struct is plain data, for which zeros are valid; libvirt fills it, its model NUL-terminated.
            unsafe {
                let mut info: sys::_virNodeInfo = std::mem::zeroed();
                check(sys::virNodeGetInfo(conn, &raw mut info))?;
                Ok(NodeInfo {
                    model: copy_string(info.model.as_ptr()).unwrap_or_default(),
                    memory_bytes: info.memory.saturating_mul(1024),
                    cpus: info.cpus,
                    mhz: info.mhz,
                    numa_nodes: info.nodes,
                    sockets: info.sockets,
                    cores: info.cores,
                    threads: info.threads,
                })
            }
        })
        .await
    }
}

/// `virConnectOpen`, keepalive (`virConnectSetKeepAlive`), the close callback and the events; on a thread of the pool.
fn open(uri: &str, options: &Options, closed: &Arc<callback::Closed>, events: &EventSender) -> Result<Open, Failure> {
    event_loop::ensure_running()?;
    let uri = c_string(uri)?;
    // SAFETY: `uri` lives during the call; the connection is owned by `Open` from the first moment.
    unsafe {
        let conn = NonNull::new(sys::virConnectOpen(uri.as_ptr())).ok_or_else(Failure::last)?;
        let mut open = Open { conn, registrations: Registrations::default() };
        let interval = i32::try_from(options.keepalive_interval_seconds).unwrap_or(i32::MAX);
        match check(sys::virConnectSetKeepAlive(conn.as_ptr(), interval, options.keepalive_count)) {
            Ok(_) => {}
            // A driver inside this process has no socket to keep alive.
            Err(failure) if failure.code == ErrorCode::Unsupported => {}
            Err(failure) => return Err(failure),
        }
        callback::register_close(conn.as_ptr(), closed)?;
        open.registrations = callback::register(conn.as_ptr(), events)?;
        Ok(open)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn versions_are_read_as_libvirt_counts_them() {
        assert_eq!(Version::from_raw(11_003_000).to_string(), "11.3.0");
        assert!(Version::from_raw(9_000_000) < Version::from_raw(11_003_000));
    }

    async fn opened_long_ago() -> Connection {
        let (mut connection, _events) = Connection::open("test:///default", Options::default()).await.unwrap();
        let inner = Arc::get_mut(&mut connection.inner).unwrap();
        inner.opened = Instant::now().checked_sub(SETTLED * 2).unwrap();
        connection
    }

    #[tokio::test]
    async fn a_daemon_that_died_costs_the_connection_but_not_that_of_devices() {
        let connection = opened_long_ago().await;
        let fail = async |operation| {
            let failure = || Failure::new(ErrorCode::ConnectionLost, "Cannot recv data");
            connection.call::<(), _>(operation, "it", Patience::Short, move |_| Err(failure())).await.unwrap_err().code
        };
        for operation in ["virConnectListAllNodeDevices", "virNodeDeviceLookupByName", "virNodeDeviceGetXMLDesc"] {
            assert_eq!((fail(operation).await, connection.is_alive()), (ErrorCode::SystemError, true), "{operation}");
        }
        assert_eq!(fail("virConnectListAllNetworks").await, ErrorCode::SystemError);
        assert!(!connection.is_alive());
    }

    #[tokio::test]
    async fn without_virtnodedevd_nobody_is_asked_for_devices() {
        let mut connection = opened_long_ago().await;
        assert!(connection.lookup_node_device("computer").await.unwrap().is_some());
        let inner = Arc::get_mut(&mut connection.inner).unwrap();
        inner.open.as_mut().unwrap().registrations.without_node_devices = true;
        assert!(connection.lookup_node_device("computer").await.unwrap().is_none());
        assert!(connection.list_guest_devices().await.unwrap().is_empty());
    }
}
