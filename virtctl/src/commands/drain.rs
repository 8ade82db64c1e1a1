//! `node drain` and `node uncordon`.

use std::collections::BTreeMap;
use std::time::Duration;

use k8s_openapi::api::core::v1::{Node, Pod};
use kube::ResourceExt as _;
use kube::api::{EvictParams, ListParams, Patch, PatchParams, PostParams};
use kubevmm_api::LABEL_VM;
use serde_json::json;
use tokio::time::{Instant, sleep};

use super::outcome;
use crate::cli::NodeDrainArgs;
use crate::cluster::{Cluster, MANAGER};
use crate::error::Error;
use crate::node::drain::{Step, step};
use crate::{duration, output, program};

/// Pause between two rounds.
const PAUSE: Duration = Duration::from_secs(2);

/// Cordons the node, and asks its VMs to leave until they have.
pub(crate) async fn drain(cluster: &Cluster, args: &NodeDrainArgs) -> Result<(), Error> {
    let node = args.node.as_str();
    cordon(cluster, node, true, args.dry_run).await?;
    let deadline = Instant::now() + args.timeout;
    let mut drain = Drain { cluster, node, dry_run: args.dry_run, told: BTreeMap::new() };
    loop {
        let round = match drain.round().await {
            // A drain lasts: the API server may restart meanwhile.
            Err(error @ Error::Unreachable { .. }) if !drain.told.is_empty() => Round::Leaving(error.to_string()),
            round => round?,
        };
        match round {
            Round::Empty if drain.told.is_empty() => {
                return output::emit(&format!("no virtual machine is on node {node}\n"));
            }
            Round::Empty => {
                return output::emit(&format!("node {node} has no virtual machine any more; it stays cordoned\n"));
            }
            Round::Stay(failures) => {
                if !args.dry_run {
                    let advice = format!("`{} node uncordon {node}` lets it take virtual machines again", program());
                    eprintln!("node {node} stays cordoned: {advice}");
                }
                return outcome(failures, drain.told.len());
            }
            Round::Leaving(waiting_for) if Instant::now() >= deadline => {
                return Err(Error::DrainTimedOut {
                    after: duration::human(i64::try_from(args.timeout.as_secs()).unwrap_or(i64::MAX)),
                    waiting_for,
                    node: node.to_owned(),
                });
            }
            Round::Leaving(_) => sleep(PAUSE).await,
        }
    }
}

struct Drain<'a> {
    cluster: &'a Cluster,
    node: &'a str,
    dry_run: bool,
    /// What was last told of each VM.
    told: BTreeMap<String, String>,
}

/// What is left after each VM was asked once.
enum Round {
    /// No VM.
    Empty,
    /// Some are on their way, such as this one.
    Leaving(String),
    /// Only such as stay, and why.
    Stay(Vec<Error>),
}

impl Drain<'_> {
    async fn round(&mut self) -> Result<Round, Error> {
        let pods = placement_pods(self.cluster, self.node).await?;
        let gone: Vec<String> =
            self.told.keys().filter(|vm| !pods.iter().any(|pod| vm_of(pod) == **vm)).cloned().collect();
        for vm in gone {
            self.tell(vm, "has left".into())?;
        }
        if pods.is_empty() {
            return Ok(Round::Empty);
        }
        let (mut stay, mut leaving) = (Vec::new(), None);
        for pod in &pods {
            let vm = vm_of(pod);
            let words = match evict(self.cluster, pod, self.dry_run).await {
                Step::Left => "nothing of it runs here: its pod goes".to_owned(),
                Step::Leaving(words) | Step::Would(words) => words,
                Step::Stays(why) => {
                    stay.push(Error::Refused(why.clone()));
                    self.tell(vm, why)?;
                    continue;
                }
                Step::Failed(error) => return Err(error),
            };
            leaving.get_or_insert_with(|| format!("{vm}: {words}"));
            self.tell(vm, words)?;
        }
        Ok(match leaving {
            Some(words) if !self.dry_run => Round::Leaving(words),
            _ => Round::Stay(stay),
        })
    }

    fn tell(&mut self, vm: String, words: String) -> Result<(), Error> {
        if self.told.get(&vm) == Some(&words) {
            return Ok(());
        }
        let own = words.strip_prefix(&format!("VirtualMachine {vm} ")).unwrap_or(&words);
        output::emit(&format!("{vm}: {own}\n"))?;
        self.told.insert(vm, words);
        Ok(())
    }
}

/// Lets the node take VMs and pods again.
pub(crate) async fn uncordon(cluster: &Cluster, node: &str) -> Result<(), Error> {
    cordon(cluster, node, false, false).await
}

async fn cordon(cluster: &Cluster, name: &str, cordoned: bool, dry_run: bool) -> Result<(), Error> {
    let nodes = cluster.all::<Node>();
    let found = nodes.get_opt(name).await.map_err(|error| cluster.failure(error))?;
    let node = found.ok_or_else(|| Error::NotFound {
        what: format!("node {name:?}"),
        hint: format!("`{} node list` shows the hosts that there are", program()),
    })?;
    let is = node.spec.as_ref().and_then(|spec| spec.unschedulable).unwrap_or(false);
    let word = if cordoned { "cordoned" } else { "uncordoned" };
    if is == cordoned {
        return output::emit(&format!("node/{name} already {word}\n"));
    }
    let body = json!({ "spec": { "unschedulable": if cordoned { Some(true) } else { None } } });
    let params = PatchParams { dry_run, field_manager: Some(MANAGER.into()), ..PatchParams::default() };
    nodes.patch(name, &params, &Patch::Merge(body)).await.map_err(|error| cluster.failure(error))?;
    output::emit(&format!("node/{name} {word}{}\n", if dry_run { " (dry run)" } else { "" }))
}

async fn placement_pods(cluster: &Cluster, node: &str) -> Result<Vec<Pod>, Error> {
    let params = ListParams::default().labels(LABEL_VM).fields(&format!("spec.nodeName={node}"));
    let listed = cluster.all::<Pod>().list(&params).await;
    listed.map(|pods| pods.items).map_err(|error| cluster.failure(error))
}

/// Namespace and name of the VM that a placement pod is there for.
fn vm_of(pod: &Pod) -> String {
    let name = pod.labels().get(LABEL_VM).cloned().unwrap_or_else(|| pod.name_any());
    format!("{}/{name}", pod.namespace().unwrap_or_default())
}

async fn evict(cluster: &Cluster, pod: &Pod, dry_run: bool) -> Step {
    let params =
        EvictParams { post_options: PostParams { dry_run, ..PostParams::default() }, ..EvictParams::default() };
    let pods = cluster.api::<Pod>(&pod.namespace().unwrap_or_default());
    step(pods.evict(&pod.name_any(), &params).await, |error| cluster.failure(error))
}
