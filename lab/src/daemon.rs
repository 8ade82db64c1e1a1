//! The daemons of a host: how each is started, stopped, and known to be ready.

use std::{
    fmt, fs,
    net::{SocketAddr, TcpStream},
    path::{Path, PathBuf},
    str::FromStr,
    time::Duration,
};

use crate::{
    Error, HostName, Options, ProcessId, Result, Timings,
    command::{self, wait_until},
    error::FileContext as _,
    host::Host,
};

/// A daemon that runs in a host.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Daemon {
    /// Keeps the logs of QEMU.
    Virtlogd,
    /// libvirt's one daemon for all drivers.
    Libvirtd,
    /// The container runtime.
    Containerd,
    /// The node agent.
    Kubelet,
    /// The cluster's store.
    Etcd,
    /// The API server.
    ApiServer,
    /// The stock scheduler.
    Scheduler,
    /// The stock controllers.
    ControllerManager,
}

/// The daemons of a node, in the order in which they start.
const NODE: &[Daemon] = &[Daemon::Virtlogd, Daemon::Libvirtd, Daemon::Containerd, Daemon::Kubelet];
/// The daemons of the control plane, in the order in which they start.
const CONTROL_PLANE: &[Daemon] = &[Daemon::Etcd, Daemon::ApiServer, Daemon::ControllerManager, Daemon::Scheduler];

impl Daemon {
    /// The name of the program.
    pub fn name(self) -> &'static str {
        match self {
            Self::Virtlogd => "virtlogd",
            Self::Libvirtd => "libvirtd",
            Self::Containerd => "containerd",
            Self::Kubelet => "kubelet",
            Self::Etcd => "etcd",
            Self::ApiServer => "kube-apiserver",
            Self::Scheduler => "kube-scheduler",
            Self::ControllerManager => "kube-controller-manager",
        }
    }

    /// The daemons of a host, in the order in which they start.
    pub fn of(options: &Options, host: HostName) -> Vec<Self> {
        if host.is_control_plane() {
            return CONTROL_PLANE.to_vec();
        }
        let has = |daemon: &Self| match daemon {
            Self::Virtlogd | Self::Libvirtd => options.has_libvirt(host),
            _ => options.has_kubelet(host),
        };
        NODE.iter().copied().filter(has).collect()
    }

    /// The program, its environment and its arguments, inside the host.
    fn command_line(self, options: &Options, host: HostName) -> Vec<String> {
        let mut line = vec!["env".to_owned()];
        if self == Self::Kubelet && options.timings == Timings::Short {
            // A connection to an API server that is cut off is given up sooner.
            line.extend(["HTTP2_READ_IDLE_TIMEOUT_SECONDS=5".into(), "HTTP2_PING_TIMEOUT_SECONDS=3".into()]);
        }
        line.push(self.name().to_owned());
        let arguments = match self {
            Self::Virtlogd | Self::Libvirtd => Vec::new(),
            Self::Containerd => vec!["--config=/etc/containerd/config.toml".to_owned()],
            Self::Kubelet => kubelet(options, host),
            Self::Etcd => to_owned(ETCD),
            Self::ApiServer => api_server(options),
            Self::Scheduler => to_owned(&["--kubeconfig=/etc/kubernetes/scheduler.kubeconfig", "--leader-elect=false"]),
            Self::ControllerManager => controller_manager(options),
        };
        line.extend(arguments);
        line
    }
}

impl fmt::Display for Daemon {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(self.name())
    }
}

impl FromStr for Daemon {
    type Err = Error;

    fn from_str(name: &str) -> Result<Self, Error> {
        let mut all = NODE.iter().chain(CONTROL_PLANE).copied();
        all.find(|daemon| daemon.name() == name).ok_or_else(|| Error::UnknownDaemon {
            daemon: name.to_owned(),
            host: "a host".into(),
            known: format!("nodes have {}; cp has {}", names(NODE), names(CONTROL_PLANE)),
        })
    }
}

fn names(daemons: &[Daemon]) -> String {
    daemons.iter().map(|daemon| daemon.name()).collect::<Vec<_>>().join(", ")
}

fn to_owned(arguments: &[&str]) -> Vec<String> {
    arguments.iter().map(|argument| (*argument).to_owned()).collect()
}

const ETCD: &[&str] = &[
    "--data-dir=/var/lib/etcd/data",
    "--unsafe-no-fsync",
    "--listen-client-urls=http://127.0.0.1:2379",
    "--advertise-client-urls=http://127.0.0.1:2379",
    "--listen-peer-urls=http://127.0.0.1:2380",
    "--initial-advertise-peer-urls=http://127.0.0.1:2380",
    "--initial-cluster=default=http://127.0.0.1:2380",
];

fn kubelet(options: &Options, host: HostName) -> Vec<String> {
    let mut arguments =
        to_owned(&["--config=/etc/kubernetes/kubelet.json", "--kubeconfig=/etc/kubernetes/kubelet.kubeconfig"]);
    arguments.push(format!("--hostname-override={host}"));
    arguments.push(format!("--node-ip={}", options.address(host)));
    arguments.extend(options.kubelet_arg.iter().cloned());
    arguments
}

fn api_server(options: &Options) -> Vec<String> {
    let mut arguments = to_owned(&[
        "--etcd-servers=http://127.0.0.1:2379",
        "--secure-port=6443",
        "--bind-address=0.0.0.0",
        "--tls-cert-file=/etc/kubernetes/apiserver.crt",
        "--tls-private-key-file=/etc/kubernetes/apiserver.key",
        "--client-ca-file=/etc/kubernetes/ca.crt",
        "--service-account-key-file=/etc/kubernetes/service-account.pub",
        "--service-account-signing-key-file=/etc/kubernetes/service-account.key",
        "--service-account-issuer=https://kubernetes.default.svc",
        "--authorization-mode=Node,RBAC",
        "--enable-admission-plugins=NodeRestriction",
        "--enable-bootstrap-token-auth=true",
        "--allow-privileged=true",
        "--kubelet-preferred-address-types=InternalIP",
        "--kubelet-certificate-authority=/etc/kubernetes/ca.crt",
        "--kubelet-client-certificate=/etc/kubernetes/apiserver-kubelet-client.crt",
        "--kubelet-client-key=/etc/kubernetes/apiserver-kubelet-client.key",
        "--requestheader-client-ca-file=/etc/kubernetes/front-proxy/ca.crt",
        "--requestheader-allowed-names=front-proxy",
        "--requestheader-username-headers=X-Remote-User",
        "--requestheader-group-headers=X-Remote-Group",
        "--requestheader-extra-headers-prefix=X-Remote-Extra-",
        "--proxy-client-cert-file=/etc/kubernetes/front-proxy/client.crt",
        "--proxy-client-key-file=/etc/kubernetes/front-proxy/client.key",
        // There is no kube-proxy: webhooks and aggregated API servers are reached at their endpoints.
        "--enable-aggregator-routing=true",
    ]);
    arguments.push(format!("--advertise-address={}", options.address(HostName::ControlPlane)));
    arguments.push(format!("--service-cluster-ip-range={}/24", options.services));
    if options.timings == Timings::Short {
        arguments.push("--default-not-ready-toleration-seconds=5".to_owned());
        arguments.push("--default-unreachable-toleration-seconds=5".to_owned());
    }
    if options.audit {
        arguments.push("--audit-policy-file=/etc/kubernetes/audit.json".to_owned());
        arguments.push("--audit-log-path=/var/log/audit.log".to_owned());
    }
    arguments.extend(options.api_arg.iter().cloned());
    arguments
}

fn controller_manager(options: &Options) -> Vec<String> {
    let mut arguments = to_owned(&[
        "--kubeconfig=/etc/kubernetes/controller-manager.kubeconfig",
        "--leader-elect=false",
        "--use-service-account-credentials=true",
        "--service-account-private-key-file=/etc/kubernetes/service-account.key",
        "--root-ca-file=/etc/kubernetes/ca.crt",
        "--cluster-signing-cert-file=/etc/kubernetes/ca.crt",
        "--cluster-signing-key-file=/etc/kubernetes/ca.key",
    ]);
    if options.timings == Timings::Short {
        arguments.push("--node-monitor-period=1s".to_owned());
        arguments.push("--node-monitor-grace-period=8s".to_owned());
    }
    arguments
}

/// Daemons of a host.
impl Host<'_> {
    fn pid_file(&self, daemon: Daemon) -> PathBuf {
        self.run(&format!("lab/{daemon}.pid"))
    }

    pub(crate) fn log(&self, daemon: Daemon) -> PathBuf {
        self.options.log(self.name, daemon.name())
    }

    /// The daemon's process, by its pid inside the host.
    pub(crate) fn daemon(&self, daemon: Daemon) -> Option<ProcessId> {
        let process: ProcessId = fs::read_to_string(self.pid_file(daemon)).ok()?.trim().parse().ok()?;
        process.runs(&self.proc().ok()?).then_some(process)
    }

    /// Refuses a daemon that this host does not have.
    pub(crate) fn check_daemon(&self, daemon: Daemon) -> Result<()> {
        let known = Daemon::of(self.options, self.name);
        if known.contains(&daemon) {
            return Ok(());
        }
        Err(Error::UnknownDaemon {
            daemon: daemon.to_string(),
            host: self.name.to_string(),
            known: format!("it has {}", names(&known)),
        })
    }

    /// Starts a daemon, unless it runs. It is a child of the host's init, as on a machine.
    pub(crate) fn start_daemon(&self, daemon: Daemon) -> Result<()> {
        self.check_daemon(daemon)?;
        if self.daemon(daemon).is_some() {
            return Ok(());
        }
        let script = r#"log=$1; shift; setsid "$@" </dev/null >>"$log" 2>&1 & echo $!"#;
        let mut command = self.enter()?;
        command.args(["sh", "-c", script, "sh"]).arg(format!("/var/log/{daemon}.log"));
        let pid = command::text(command.args(daemon.command_line(self.options, self.name)))?;
        let process = pid.trim().parse().ok().zip(self.proc().ok()).and_then(|(pid, proc)| ProcessId::now(&proc, pid));
        let Some(process) = process else {
            return Err(self.died(daemon));
        };
        let file = self.pid_file(daemon);
        fs::write(&file, process.to_string()).file("write", file)
    }

    fn died(&self, daemon: Daemon) -> Error {
        Error::Unexpected {
            what: format!("{daemon} on {}", self.name),
            reason: format!("it ended at once; look into {}", self.log(daemon).display()),
        }
    }

    /// Waits until a daemon does its work.
    pub(crate) fn wait_daemon(&self, daemon: Daemon) -> Result<()> {
        let mut alive = true;
        let what = format!("{daemon} on {} is ready", self.name);
        wait_until(&what, &self.log(daemon), Duration::from_secs(60), || {
            alive = self.daemon(daemon).is_some();
            !alive || self.daemon_is_ready(daemon)
        })?;
        if alive { Ok(()) } else { Err(self.died(daemon)) }
    }

    fn daemon_is_ready(&self, daemon: Daemon) -> bool {
        let succeeds =
            |words: &[&str]| self.enter().and_then(|mut command| command::output(command.args(words))).is_ok();
        match daemon {
            Daemon::Virtlogd => self.run("libvirt/virtlogd-sock").exists(),
            Daemon::Libvirtd => {
                self.run("libvirt/libvirt-sock").exists() && succeeds(&["virsh", "-q", "-c", "qemu:///system", "list"])
            }
            Daemon::Containerd => self.run("containerd/containerd.sock").exists() && succeeds(&["ctr", "version"]),
            // It ends when containerd is away while it starts; with this port it is past that.
            Daemon::Kubelet => self.listens(10248),
            Daemon::Etcd => self.listens(2379),
            Daemon::ApiServer => {
                let address = SocketAddr::from((self.options.address(self.name), 6443));
                TcpStream::connect_timeout(&address, Duration::from_secs(1)).is_ok()
                    && succeeds(&[
                        "kubectl",
                        "--kubeconfig=/etc/kubernetes/controller-manager.kubeconfig",
                        "get",
                        "--raw",
                        "/readyz",
                    ])
            }
            Daemon::Scheduler => self.listens(10259),
            Daemon::ControllerManager => self.listens(10257),
        }
    }

    /// Whether a process of the host listens on this TCP port.
    fn listens(&self, port: u16) -> bool {
        let Ok(init) = self.require_init() else { return false };
        ["tcp", "tcp6"].iter().any(|table| {
            fs::read_to_string(Path::new("/proc").join(init.pid.to_string()).join("net").join(table))
                .is_ok_and(|text| has_listener(&text, port))
        })
    }

    /// Ends a daemon: politely, then with SIGKILL. What it looks after (guests, pods, containers) goes on in both cases.
    pub(crate) fn stop_daemon(&self, daemon: Daemon) -> Result<()> {
        self.check_daemon(daemon)?;
        let Some(process) = self.daemon(daemon) else { return Ok(()) };
        for signal in ["TERM", "KILL"] {
            // It may end between the look and the signal.
            let _ = self.signal(process.pid, signal);
            let what = format!("{daemon} on {} has ended", self.name);
            let ended = wait_until(&what, &self.log(daemon), Duration::from_secs(4), || self.daemon(daemon).is_none());
            if ended.is_ok() || signal == "KILL" {
                return ended;
            }
        }
        Ok(())
    }

    /// Sends a signal to a process of the host.
    pub(crate) fn signal(&self, pid: i32, signal: &str) -> Result<()> {
        command::output(self.enter()?.args(["kill", "-s", signal, &pid.to_string()])).map(drop)
    }
}

/// Whether the text of `/proc/net/tcp` has a socket in state LISTEN (0A) on this port.
fn has_listener(table: &str, port: u16) -> bool {
    table.lines().any(|line| {
        let fields: Vec<_> = line.split_ascii_whitespace().collect();
        fields.get(3) == Some(&"0A") && fields.get(1).is_some_and(|local| local.ends_with(&format!(":{port:04X}")))
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_daemon_is_found_by_its_name() {
        for daemon in NODE.iter().chain(CONTROL_PLANE) {
            assert_eq!(daemon.name().parse::<Daemon>().unwrap(), *daemon);
        }
        assert!("sshd".parse::<Daemon>().unwrap_err().to_string().contains("cp has etcd, kube-apiserver"));
    }

    #[test]
    fn a_host_without_libvirt_has_no_daemon_of_it() {
        let options = Options { no_libvirt: vec![HostName::Node(2)], ..Options::default() };
        assert_eq!(Daemon::of(&options, HostName::Node(2)), [Daemon::Containerd, Daemon::Kubelet]);
        assert!(Daemon::of(&options, HostName::Node(1)).contains(&Daemon::Libvirtd));
    }

    #[test]
    fn an_external_host_has_only_libvirts_daemons() {
        let options = Options { external: vec![HostName::Node(2)], ..Options::default() };
        assert_eq!(Daemon::of(&options, HostName::Node(2)), [Daemon::Virtlogd, Daemon::Libvirtd]);
    }

    #[test]
    fn short_timings_are_an_option() {
        let has = |options: &Options, flag: &str| {
            api_server(options).iter().chain(&controller_manager(options)).any(|argument| argument.starts_with(flag))
        };
        let short = Options { timings: Timings::Short, ..Options::default() };
        for flag in ["--node-monitor-grace-period", "--default-unreachable-toleration-seconds"] {
            assert!(has(&short, flag) && !has(&Options::default(), flag), "{flag}");
        }
    }

    #[test]
    fn listeners_are_read_from_the_table() {
        let table = "  sl  local_address rem_address   st\n   0: 0100007F:2808 00000000:0000 0A 0\n   1: 0100007F:1F90 0100007F:0050 01 0\n";
        assert!(has_listener(table, 10248));
        assert!(!has_listener(table, 8080));
    }
}
