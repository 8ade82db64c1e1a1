//! `lab`: a real Kubernetes cluster whose nodes are libvirt hosts, on one machine.

use std::{
    ffi::OsString,
    io::IsTerminal as _,
    os::unix::process::CommandExt as _,
    path::PathBuf,
    process::{Command, ExitCode, Stdio},
};

use anyhow::Context as _;
use clap::{Parser, Subcommand};
use kubevmm_lab::{Daemon, HostName, Lab, Options};
use tracing_subscriber::fmt::time::uptime;

const EXAMPLES: &str = "\
Examples:
  lab up 2                          a control plane and two nodes, h1 and h2
  lab up 3 --no-libvirt h3          a third node, without libvirt
  lab kubectl get nodes
  lab virsh h1 list --all
  lab exec h1 -- ip address          any program inside a host
  lab restart h1 libvirtd           guests go on
  lab kill h1; lab start h1         a crash, and the boot after it
  lab cut h1; lab heal h1           its network cable
  lab image all images/*.tar        into every node's containerd
  lab down

A second lab beside the first:
  export LAB_DIR=/run/my-lab LAB_TAG=my LAB_NETWORK=10.81.0.0 LAB_PODS=10.82.0.0
  lab up 1";

/// A real Kubernetes cluster whose nodes are libvirt hosts, on one machine
#[derive(Debug, Parser)]
#[command(name = "lab", version, after_help = EXAMPLES)]
struct Cli {
    /// Directory of the lab's state; short, for sockets have their path in it
    #[arg(long, env = "LAB_DIR", default_value = "/run/kubevmm-lab", global = true)]
    dir: PathBuf,
    #[command(subcommand)]
    action: Action,
}

#[derive(Debug, Subcommand)]
enum Action {
    /// Bring the lab up, or add what is missing; returns when all nodes are Ready
    Up(Options),
    /// End everything that the lab started, and take away everything that it made but the cache
    Down,
    /// Hosts and their processes
    Status,
    /// Build what the lab needs into the cache, and nothing else
    Build,
    /// kubectl as the cluster's administrator
    Kubectl {
        #[arg(trailing_var_arg = true, allow_hyphen_values = true)]
        arguments: Vec<OsString>,
    },
    /// virsh inside a host
    Virsh {
        host: HostName,
        #[arg(trailing_var_arg = true, allow_hyphen_values = true)]
        arguments: Vec<OsString>,
    },
    /// A program inside a host
    Exec {
        host: HostName,
        #[arg(trailing_var_arg = true, allow_hyphen_values = true, required = true)]
        words: Vec<OsString>,
    },
    /// Boot a host that is down or new, or start one daemon of a host that is up
    Start { host: HostName, daemon: Option<Daemon> },
    /// Stop one daemon of a host
    Stop { host: HostName, daemon: Daemon },
    /// Stop and start one daemon of a host
    Restart { host: HostName, daemon: Daemon },
    /// Crash a host; its disk stays
    Kill { host: HostName },
    /// Take a host's network cable away
    Cut { host: HostName },
    /// Plug a host's network cable in again
    Heal { host: HostName },
    /// Put image archives into the containerd of a host, or of `all`
    Image {
        /// A node, or `all`
        host: String,
        #[arg(required = true)]
        archives: Vec<PathBuf>,
    },
    /// Wait until nodes are Ready; all that are up, if none is named
    Wait { hosts: Vec<HostName> },
    /// Save, restore or wipe the cluster's store
    #[command(subcommand)]
    Etcd(Etcd),
    /// The URL of a file on the lab's file server
    Url {
        #[arg(default_value = "tiny.qcow2")]
        name: String,
    },
    #[command(hide = true)]
    HostInit { host: HostName },
    #[command(hide = true)]
    Serve,
}

#[derive(Debug, Subcommand)]
enum Etcd {
    /// Save etcd's data under a name
    Save { name: String },
    /// Replace etcd's data by what was saved under a name
    Restore { name: String },
    /// Empty etcd
    Wipe,
}

fn main() -> ExitCode {
    let cli = Cli::parse();
    tracing_subscriber::fmt()
        .with_timer(uptime())
        .with_target(false)
        .with_writer(std::io::stderr)
        .with_ansi(std::io::stderr().is_terminal())
        .init();
    match run(cli) {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("lab: {error:#}");
            ExitCode::FAILURE
        }
    }
}

fn run(Cli { dir, action }: Cli) -> anyhow::Result<()> {
    match action {
        Action::Up(options) => Lab::up(&Options { dir, ..options }).map(drop)?,
        Action::Down => Lab::clean(&dir)?,
        Action::Build => kubevmm_lab::artifacts::Artifacts::prepare().map(drop)?,
        Action::HostInit { host } => kubevmm_lab::host_init(&dir, host)?,
        Action::Serve => kubevmm_lab::serve_switch(&dir)?,
        other => on_lab(&Lab::attach(&dir)?, other)?,
    }
    Ok(())
}

fn on_lab(lab: &Lab, action: Action) -> anyhow::Result<()> {
    match action {
        Action::Status => print_status(lab)?,
        Action::Kubectl { arguments } => become_command(lab.kubectl_command(), &arguments)?,
        Action::Virsh { host, arguments } => become_command(lab.virsh_command(host)?, &arguments)?,
        Action::Exec { host, words } => become_command(lab.command(host)?, &words)?,
        Action::Start { host, daemon: None } => lab.start_host(host)?,
        Action::Start { host, daemon: Some(daemon) } => lab.start_daemon(host, daemon)?,
        Action::Stop { host, daemon } => lab.stop_daemon(host, daemon)?,
        Action::Restart { host, daemon } => lab.restart_daemon(host, daemon)?,
        Action::Kill { host } => lab.kill_host(host)?,
        Action::Cut { host } => lab.set_link(host, false)?,
        Action::Heal { host } => lab.set_link(host, true)?,
        Action::Image { host, archives } => {
            for archive in archives {
                if host == "all" {
                    lab.import_image_everywhere(&archive)?;
                } else {
                    lab.import_image(host.parse()?, &archive)?;
                }
            }
        }
        Action::Wait { hosts } if hosts.is_empty() => lab.wait_ready(&lab.running_nodes())?,
        Action::Wait { hosts } => lab.wait_ready(&hosts)?,
        Action::Etcd(Etcd::Save { name }) => lab.etcd_save(&name)?,
        Action::Etcd(Etcd::Restore { name }) => lab.etcd_restore(&name)?,
        Action::Etcd(Etcd::Wipe) => lab.etcd_wipe()?,
        Action::Url { name } => println!("{}", lab.file_url(&name)),
        Action::Up(_) | Action::Down | Action::Build | Action::HostInit { .. } | Action::Serve => {
            anyhow::bail!("this needs no lab that is up")
        }
    }
    Ok(())
}

/// Becomes a program that has the caller's terminal; comes back only with an error.
fn become_command(mut command: Command, arguments: &[OsString]) -> anyhow::Result<()> {
    let error = command.args(arguments).stdin(Stdio::inherit()).exec();
    Err(error).with_context(|| format!("run {}", command.get_program().to_string_lossy()))
}

fn print_status(lab: &Lab) -> anyhow::Result<()> {
    for host in lab.status()? {
        match host.init {
            Some(init) => println!("{} up, {}, init is process {}", host.name, host.address, init.pid),
            None => println!("{} down", host.name),
        }
        for process in host.processes {
            println!("  {:>8} {:>8} MiB  {}", process.pid, process.memory_kib / 1024, process.name);
        }
    }
    Ok(())
}
