//! The command line.

use std::path::PathBuf;
use std::time::Duration;

use clap::{Args, Parser, Subcommand, ValueEnum, ValueHint};
use kubevmm_analyser::cli::{Convert, EXIT_CODES as CONVERT_EXIT_CODES};

use crate::duration;

const EXIT_CODES: &str = "\
Exit codes:
  0    done
  1    failed, or several objects failed in different ways
  2    wrong usage: arguments, a file or a context that does not exist
  3    not found
  4    timed out while waiting; the request stays
  5    refused: the object is invalid, exists already, or its state does not allow this
  6    the cluster cannot be used: no kubeconfig, API server not reached, KubeVMM not installed
  7    forbidden, or the credentials are not accepted
  130  interrupted while waiting (Ctrl-C); the request stays";

/// The virtual machines of KubeVMM.
///
/// Installed as kubectl-virt in the PATH, it is `kubectl virt`.
#[derive(Debug, Parser)]
#[command(name = "virtctl", version, after_help = EXIT_CODES, disable_help_subcommand = true, max_term_width = 110)]
pub(crate) struct Cli {
    #[command(flatten)]
    pub(crate) target: ClusterArgs,
    #[command(subcommand)]
    pub(crate) command: Command,
}

/// Which cluster, and where in it.
#[derive(Clone, Debug, Default, Args)]
#[command(next_help_heading = "Cluster")]
pub(crate) struct ClusterArgs {
    /// Kubeconfig file [default: $KUBECONFIG, then ~/.kube/config, then the service account of a pod]
    #[arg(long, global = true, value_name = "FILE", value_hint = ValueHint::FilePath)]
    pub(crate) kubeconfig: Option<PathBuf>,
    /// Context of the kubeconfig
    #[arg(long, global = true, value_name = "NAME")]
    pub(crate) context: Option<String>,
    /// Namespace [default: the context's]
    #[arg(short, long, global = true, value_name = "NAME")]
    pub(crate) namespace: Option<String>,
}

#[derive(Debug, Subcommand)]
pub(crate) enum Command {
    /// Start virtual machines
    ///
    /// Halted: sets spec.runStrategy to Always. Manual: requests a start. Always: is started already.
    #[command(after_help = EXIT_CODES)]
    Start(PowerArgs),
    /// Stop virtual machines
    ///
    /// Always: sets spec.runStrategy to Halted. Manual: requests a stop. The guest is shut down; after
    /// spec.terminationGracePeriodSeconds it is powered off.
    #[command(after_help = EXIT_CODES)]
    Stop(ForceArgs),
    /// Restart virtual machines, with what changed in their specs
    #[command(after_help = EXIT_CODES)]
    Restart(ForceArgs),
    /// List virtual machines
    #[command(visible_aliases = ["ls", "get"])]
    List(ListArgs),
    /// Show all that is known of virtual machines, and why they are not ready
    Describe(DescribeArgs),
    /// List the libvirt domains of the hosts: ours, observed ones, orphans and foreign ones
    #[command(after_help = DOMAINS_HELP)]
    Domains(DomainsArgs),
    /// The hosts: how full and how healthy they are, and what each offers to virtual machines
    #[command(subcommand, after_help = NODE_HELP, disable_help_subcommand = true)]
    Node(NodeCommand),
    /// Make virtual machines of domains that a host has already: watched only, or taken over as they run
    #[command(after_help = IMPORT_HELP)]
    Import(ImportArgs),
    /// Print the libvirt XML of a virtual machine, for `virsh define` on a host without this project
    #[command(after_help = EXPORT_HELP)]
    ExportXml(ExportArgs),
    /// Convert libvirt's XML to YAML and back, and compare domains; no cluster is asked
    #[command(subcommand, after_help = CONVERT_EXIT_CODES, disable_help_subcommand = true)]
    Convert(Convert),
    /// Create a virtual machine from an image, wait until it runs, and say how to reach it
    #[command(after_help = RUN_EXAMPLES)]
    Run(Box<RunArgs>),
    /// Show the version of this command and of what is installed in the cluster
    Version(VersionArgs),
    /// Print the completion script of a shell, for example: source <(virtctl completion bash)
    Completion {
        /// The shell
        shell: clap_complete::Shell,
    },
}

const DOMAINS_HELP: &str = "\
What a domain is:
  Managed   it has this project's mark and is the domain of the VirtualMachine that is shown
  Observed  it has no mark, and the VirtualMachine that is shown watches it: it is never touched
  Orphan    it has the mark, but no VirtualMachine is placed there: it is never touched; `import` attaches it again
  Foreign   it has no mark: it is never touched

Examples:
  virtctl domains
  virtctl domains --node host-1 -o json";

const NODE_HELP: &str = "\
Examples:
  virtctl node list
  virtctl node list -o wide
  virtctl node describe host-1
  virtctl node drain host-1
  virtctl node uncordon host-1";

const NODE_LIST_HELP: &str = "\
STATUS is that of the host's libvirt and its executor; Maintenance: no virtual machine is placed or started there \
(spec.maintenance of the Hypervisor); Cordoned: the scheduler gives the Node nothing new. VCPUS and MEMORY are what running \
domains have, whoever made them, beside what the host has for them.

Examples:
  virtctl node list
  virtctl node list -o wide
  virtctl node list -o json";

const NODE_DRAIN_HELP: &str = "\
The node is cordoned, so that nothing new comes to it. Then each virtual machine there is evicted: it is shut down, and \
started on another host where its storage allows. One that has data on this host alone, or was imported from it, stays \
and is named, unless its spec.evictionStrategy is Shutdown: that one is started again when the node is uncordoned. Block \
keeps a virtual machine in any case. The command ends when all have left, or only such are there that stay. The node \
stays cordoned. Other pods are left alone: `kubectl drain` evicts them and virtual machines.

Exit codes, beside those of every command:
  4    timed out: what has been asked to leave goes on leaving
  5    some virtual machines stay; each is named with the way out

Examples:
  virtctl node drain host-1 --dry-run
  virtctl node drain host-1 --timeout 10m
  kubectl drain host-1 --ignore-daemonsets --delete-emptydir-data";

const NODE_UNCORDON_HELP: &str = "\
Virtual machines that were shut down because they cannot run elsewhere are started again.

Examples:
  virtctl node uncordon host-1";

const NODE_DESCRIBE_HELP: &str = "\
Examples:
  virtctl node describe host-1
  virtctl node describe host-1 -o yaml";

const IMPORT_HELP: &str = "\
Each domain becomes a VirtualMachine with spec.management Observe: its state, addresses and disks are shown, and \
nothing on the host is changed, neither now nor when the VirtualMachine is deleted. With --wait, the command ends \
when that is known.

With --manage, the domain is then taken over without a restart: its volumes, pools and networks become objects, and \
the spec says what the domain is already. What changes now and at its next start is told before; with --dry-run that \
is all; with --wait, the command ends when it is taken over. A domain that libvirt starts with its host is refused \
unless --disable-autostart agrees that it waits for the cluster from then on. Deleting a managed VirtualMachine stops \
the guest and undefines the domain; volumes stay when the objects are deleted. To give the domain back first:
  kubectl patch vm NAME --type merge -p '{\"spec\":{\"management\":\"Observe\"}}'

What is done already is left as it is, so that the command can be run again. An orphan that is named is attached to a \
VirtualMachine again; --all leaves orphans.

It takes the right to `import` of the Hypervisor (ClusterRole kubevmm-import); with --manage also to create pools and \
cluster networks that are missing, and to set spec.domain where the fields do not say all (ClusterRole kubevmm-domain).

Examples:
  virtctl import --node host-1 win10 \"Mail Server\" -n shop
  virtctl import --node host-1 --all -n legacy
  virtctl import --node host-1 win10 -n legacy --manage --dry-run
  virtctl import --node host-1 win10 -n legacy --manage
  virtctl import --node host-1 --all -n legacy --manage --dry-run -o yaml > legacy.yaml
  virsh dumpxml --inactive win10 | virtctl import --node host-1 --from - --dry-run -o yaml";

const EXPORT_HELP: &str = "\
It is the domain that the virtual machine was started with last; of one that is only observed, what its host has \
defined. The mark of this project is not in it. What must be copied, and what must be on the other host, is told on \
standard error.

Examples:
  virtctl export-xml web -n shop -o web.xml
  virtctl export-xml web -n shop | ssh other-host virsh define /dev/stdin";

const RUN_EXAMPLES: &str = "\
Examples:
  virtctl run web --image debian-12 --ssh-key ~/.ssh/id_ed25519.pub
  virtctl run web --image https://cloud.example.org/debian-12.qcow2 --memory 2Gi --disk 20Gi
  virtctl run web --image cvmimg/debian-12 --class small --dry-run=client -o yaml";

/// Which virtual machines.
#[derive(Debug, Args)]
pub(crate) struct Selection {
    /// Names of virtual machines
    #[arg(value_name = "NAME")]
    pub(crate) names: Vec<String>,
    /// Those with these labels, for example app=web,tier!=back
    #[arg(short = 'l', long, value_name = "LABELS", conflicts_with = "names")]
    pub(crate) selector: Option<String>,
    /// In all namespaces
    #[arg(short = 'A', long, conflicts_with_all = ["names", "namespace"])]
    pub(crate) all_namespaces: bool,
}

/// Whether and how long to wait.
#[derive(Debug, Args)]
pub(crate) struct WaitArgs {
    /// Wait until it is done, and show what is waited for
    #[arg(long, value_name = "BOOL", num_args = 0..=1, require_equals = true, default_value_t = false, default_missing_value = "true", action = clap::ArgAction::Set)]
    pub(crate) wait: bool,
    /// How long to wait, for example 90s or 10m
    #[arg(long, value_name = "DURATION", default_value = "5m", value_parser = duration::parse)]
    pub(crate) timeout: Duration,
}

#[derive(Debug, Args)]
pub(crate) struct PowerArgs {
    #[command(flatten)]
    pub(crate) selection: Selection,
    #[command(flatten)]
    pub(crate) wait: WaitArgs,
    /// Print the objects instead of what happened
    #[arg(short, long, value_name = "FORMAT")]
    pub(crate) output: Option<ObjectFormat>,
}

#[derive(Debug, Args)]
pub(crate) struct ForceArgs {
    #[command(flatten)]
    pub(crate) power: PowerArgs,
    /// Do not wait for the guest: power it off. What the guest has not written is lost
    #[arg(long)]
    pub(crate) force: bool,
}

#[derive(Debug, Args)]
pub(crate) struct ListArgs {
    #[command(flatten)]
    pub(crate) selection: Selection,
    /// Output format
    #[arg(short, long, value_name = "FORMAT")]
    pub(crate) output: Option<ListFormat>,
    /// Leave out the line of headers
    #[arg(long)]
    pub(crate) no_headers: bool,
}

#[derive(Debug, Args)]
pub(crate) struct DomainsArgs {
    /// Of this node only
    #[arg(long, value_name = "NODE")]
    pub(crate) node: Option<String>,
    /// Output format
    #[arg(short, long, value_name = "FORMAT")]
    pub(crate) output: Option<DataFormat>,
    /// Leave out the line of headers
    #[arg(long)]
    pub(crate) no_headers: bool,
}

#[derive(Debug, Subcommand)]
pub(crate) enum NodeCommand {
    /// List the hosts: whether they can be used, and how full they are
    #[command(visible_aliases = ["ls", "get"], after_help = NODE_LIST_HELP)]
    List(NodeListArgs),
    /// Show all that is known of hosts: what they have, what is used, what guests can be given, and what is wrong
    #[command(after_help = NODE_DESCRIBE_HELP)]
    Describe(NodeDescribeArgs),
    /// Empty a host of virtual machines, as for maintenance: each leaves by its spec.evictionStrategy
    #[command(after_help = NODE_DRAIN_HELP)]
    Drain(NodeDrainArgs),
    /// Let a host take virtual machines and pods again
    #[command(after_help = NODE_UNCORDON_HELP)]
    Uncordon(NodeUncordonArgs),
}

#[derive(Debug, Args)]
pub(crate) struct NodeDrainArgs {
    /// Name of the node
    #[arg(value_name = "NODE")]
    pub(crate) node: String,
    /// How long to wait until all have left, for example 90s, 5m or 1h
    #[arg(long, value_name = "DURATION", default_value = "30m", value_parser = duration::parse)]
    pub(crate) timeout: Duration,
    /// Only tell what would become of each virtual machine: the API server is asked, and nothing is changed
    #[arg(long)]
    pub(crate) dry_run: bool,
}

#[derive(Debug, Args)]
pub(crate) struct NodeUncordonArgs {
    /// Name of the node
    #[arg(value_name = "NODE")]
    pub(crate) node: String,
}

#[derive(Debug, Args)]
pub(crate) struct NodeListArgs {
    /// Output format
    #[arg(short, long, value_name = "FORMAT")]
    pub(crate) output: Option<ListFormat>,
    /// Leave out the line of headers
    #[arg(long)]
    pub(crate) no_headers: bool,
}

#[derive(Debug, Args)]
pub(crate) struct NodeDescribeArgs {
    /// Names of nodes
    #[arg(value_name = "NODE", required = true)]
    pub(crate) nodes: Vec<String>,
    /// Print the Hypervisor objects instead
    #[arg(short, long, value_name = "FORMAT")]
    pub(crate) output: Option<ObjectFormat>,
}

#[derive(Debug, Args)]
pub(crate) struct ImportArgs {
    /// Node on whose host the domains are
    #[arg(long, value_name = "NODE")]
    pub(crate) node: String,
    /// Names or UUIDs of domains
    #[arg(value_name = "DOMAIN", required_unless_present_any = ["all", "from"], conflicts_with_all = ["all", "from"])]
    pub(crate) domains: Vec<String>,
    /// Every foreign domain of the host
    #[arg(long, conflicts_with = "from")]
    pub(crate) all: bool,
    /// Take the domains over: objects are made for their disks and networks, and their VirtualMachines drive them
    #[arg(long)]
    pub(crate) manage: bool,
    /// Take libvirt's autostart from domains that have it; without this, they are not taken over. Not for a domain that
    /// carries the cluster itself, which must not wait for it
    #[arg(long, requires = "manage")]
    pub(crate) disable_autostart: bool,
    /// The domain whose XML is in this file (- is standard input), as `virsh dumpxml` prints it; of a running domain,
    /// `--inactive` is exact
    #[arg(long, value_name = "FILE", value_hint = ValueHint::FilePath)]
    pub(crate) from: Option<PathBuf>,
    #[command(flatten)]
    pub(crate) wait: WaitArgs,
    /// Create nothing: client prints what would be created; server has the API server check it as well
    #[arg(long, value_name = "WHERE", num_args = 0..=1, require_equals = true, default_value = "none", default_missing_value = "client")]
    pub(crate) dry_run: DryRun,
    /// Print the objects instead of what happened
    #[arg(short, long, value_name = "FORMAT")]
    pub(crate) output: Option<ObjectFormat>,
}

#[derive(Debug, Args)]
pub(crate) struct ExportArgs {
    /// Name of the virtual machine
    #[arg(value_name = "NAME")]
    pub(crate) name: String,
    /// Write to this file instead of standard output
    #[arg(short, long, value_name = "FILE", value_hint = ValueHint::FilePath)]
    pub(crate) output: Option<PathBuf>,
}

#[derive(Debug, Args)]
pub(crate) struct DescribeArgs {
    #[command(flatten)]
    pub(crate) selection: Selection,
    /// Print the objects instead
    #[arg(short, long, value_name = "FORMAT")]
    pub(crate) output: Option<ObjectFormat>,
}

#[derive(Debug, Args)]
pub(crate) struct RunArgs {
    /// Name of the new virtual machine
    pub(crate) name: String,
    /// Image of its disk: a URL (a VirtualMachineImage is made of it), or the name of an image of the namespace or
    /// else of the cluster; vmimg/NAME and cvmimg/NAME say which
    #[arg(long, value_name = "NAME|URL")]
    pub(crate) image: String,
    /// SHA-256 of what the URL serves
    #[arg(long, value_name = "SHA256")]
    pub(crate) checksum: Option<String>,
    /// Number of virtual CPUs [default: the class's, or 1]
    #[arg(long, value_name = "N", value_parser = clap::value_parser!(u32).range(1..=512))]
    pub(crate) cpus: Option<u32>,
    /// Memory, for example 2Gi [default: the class's, or 1Gi]
    #[arg(long, value_name = "SIZE", value_parser = size)]
    pub(crate) memory: Option<kubevmm_api::Quantity>,
    /// Size of its disk, for example 20Gi [default: the image's]
    #[arg(long, value_name = "SIZE", value_parser = size)]
    pub(crate) disk: Option<kubevmm_api::Quantity>,
    /// Storage pool of its disk [default: the default pool]
    #[arg(long, value_name = "NAME")]
    pub(crate) pool: Option<String>,
    /// Network, one NIC for each: the name of a network of the namespace or else of the cluster; vmnet/NAME and
    /// cvmnet/NAME say which; `none` for no NIC [default: the default network]
    #[arg(long, value_name = "NAME")]
    pub(crate) network: Vec<String>,
    /// Class that gives what is left out here
    #[arg(long, value_name = "NAME")]
    pub(crate) class: Option<String>,
    /// Public key that may log in by ssh (cloud-init gives it to the image's own user)
    #[arg(long, value_name = "FILE", value_hint = ValueHint::FilePath)]
    pub(crate) ssh_key: Vec<PathBuf>,
    /// Login name for the ssh command that is printed [default: the distribution's own, by the image's name]
    #[arg(long, value_name = "NAME")]
    pub(crate) ssh_user: Option<String>,
    /// cloud-init user data; everyone who may read the object can read it
    #[arg(long, value_name = "FILE", value_hint = ValueHint::FilePath)]
    pub(crate) user_data: Option<PathBuf>,
    /// Secret whose key userData holds the cloud-init user data
    #[arg(long, value_name = "NAME", conflicts_with_all = ["user_data", "ssh_key"])]
    pub(crate) user_data_secret: Option<String>,
    /// Create nothing: client prints what would be created; server has the API server check it as well
    #[arg(long, value_name = "WHERE", num_args = 0..=1, require_equals = true, default_value = "none", default_missing_value = "client")]
    pub(crate) dry_run: DryRun,
    /// Wait until the VM runs and has an address; --wait=false returns at once
    #[arg(long, value_name = "BOOL", num_args = 0..=1, require_equals = true, default_value_t = true, default_missing_value = "true", action = clap::ArgAction::Set)]
    pub(crate) wait: bool,
    /// How long to wait, for example 90s or 10m
    #[arg(long, value_name = "DURATION", default_value = "5m", value_parser = duration::parse)]
    pub(crate) timeout: Duration,
    /// Print the objects instead of what happened
    #[arg(short, long, value_name = "FORMAT")]
    pub(crate) output: Option<ObjectFormat>,
}

#[derive(Debug, Args)]
pub(crate) struct VersionArgs {
    /// Do not ask the cluster
    #[arg(long)]
    pub(crate) client: bool,
    /// Output format
    #[arg(short, long, value_name = "FORMAT")]
    pub(crate) output: Option<DataFormat>,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub(crate) enum DryRun {
    None,
    Client,
    Server,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub(crate) enum DataFormat {
    Json,
    Yaml,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub(crate) enum ObjectFormat {
    Json,
    Yaml,
    Name,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub(crate) enum ListFormat {
    Wide,
    Json,
    Yaml,
    Name,
}

impl ListFormat {
    /// The format of objects that it is, if it is one.
    pub(crate) fn objects(self) -> Option<ObjectFormat> {
        match self {
            Self::Wide => None,
            Self::Json => Some(ObjectFormat::Json),
            Self::Yaml => Some(ObjectFormat::Yaml),
            Self::Name => Some(ObjectFormat::Name),
        }
    }
}

fn size(text: &str) -> Result<kubevmm_api::Quantity, String> {
    let quantity = kubevmm_api::Quantity(text.into());
    match quantity.bytes() {
        Ok(bytes) if bytes >= 1 << 20 => Ok(quantity),
        Ok(_) => Err("must be at least 1Mi: write a size such as 512Mi or 20Gi".into()),
        Err(error) => Err(error.to_string()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use clap::CommandFactory as _;

    fn parse(line: &str) -> Result<Cli, clap::Error> {
        Cli::try_parse_from(std::iter::once("virtctl").chain(line.split_whitespace()))
    }

    #[test]
    fn the_definition_is_consistent() {
        Cli::command().debug_assert();
    }

    #[test]
    fn what_contradicts_itself_is_wrong_usage() {
        for line in [
            "start web -l app=web",
            "start web -A",
            "list -A -n shop",
            "run web",
            "run web --image x --memory 0",
            "run web --image x --cpus 0",
            "run web --image x --user-data f --user-data-secret s",
            "stop web --timeout soon",
            "start web --force",
            "list -o xml",
            "import --node h1",
            "import --all",
            "import --node h1 --all win10",
            "import --node h1 --from f --all",
            "import --node h1 --from f win10",
            "import --node h1 win10 --disable-autostart",
            "node",
            "node describe",
            "export-xml",
            "export-xml a b",
            "convert web.xml",
            "convert diff web.xml",
        ] {
            assert_eq!(parse(line).map(|_| ()).map_err(|error| error.exit_code()), Err(2), "{line}");
        }
    }

    #[test]
    fn options_as_kubectl_has_them() {
        for line in [
            "start a b c --wait --timeout 90s -n shop",
            "-n shop stop -l app=web --force --wait=false",
            "restart -A -l app=web -o name",
            "list --kubeconfig /tmp/k --context c -o wide",
            "run web --image x --dry-run -o yaml",
            "run web --image x --dry-run=server --wait=false",
            "completion bash",
            "domains --node h1 -o json",
            "node list -o wide",
            "node describe h1 h2 -o yaml",
            "import --node h1 win10 -n shop --dry-run -o yaml",
            "import --node h1 --all --manage --timeout 30s --dry-run=server",
            "import --node h1 --from - --manage --disable-autostart -o json",
            "export-xml web -n shop -o web.xml",
            "convert lift -o json - -d lifted",
            "convert diff --mode live web.xml -",
        ] {
            assert!(parse(line).is_ok(), "{line}");
        }
        let Command::Run(run) = parse("run web --image x").unwrap().command else { panic!("run") };
        assert!(run.wait && run.dry_run == DryRun::None);
        let Command::Start(start) = parse("start web").unwrap().command else { panic!("start") };
        assert!(!start.wait.wait && start.wait.timeout == Duration::from_secs(300));
    }
}
