//! `start`, `stop`, `restart`.

use kube::api::DynamicObject;
use kubevmm_api::VirtualMachine;

use super::outcome;
use crate::cli::PowerArgs;
use crate::cluster::{Cluster, typed};
use crate::error::Error;
use crate::goal::{Goal, State};
use crate::output;
use crate::power::{Decision, Verb, decide};
use crate::program;
use crate::wait::{Target, wait};

/// Runs one of them.
pub(crate) async fn run(cluster: &Cluster, verb: Verb, args: &PowerArgs, force: bool) -> Result<(), Error> {
    if args.selection.names.is_empty() && args.selection.selector.is_none() {
        return Err(Error::Usage("name the virtual machines, or select them by label with -l".into()));
    }
    let selected = cluster.select(&args.selection).await?;
    let total = selected.len();
    if total == 0 {
        let selector = args.selection.selector.clone().unwrap_or_default();
        return Err(Error::NotFound {
            what: format!("a virtual machine with the labels {selector:?}"),
            hint: format!("`{} list` shows what is there", program()),
        });
    }
    let mut failures = Vec::new();
    let mut written = Vec::new();
    for vm in selected {
        match ask(cluster, verb, vm, force, args.output.is_none()).await {
            Ok(done) => written.push(done),
            Err(error) => failures.push(error),
        }
    }
    if args.wait.wait {
        let targets: Vec<_> = written.iter().map(|(_, target)| target.clone()).collect();
        let results = wait(cluster, &targets, args.wait.timeout).await;
        let mut reached = Vec::new();
        for ((_, target), result) in written.into_iter().zip(results) {
            match result {
                Ok(_) => {
                    let object = cluster.vm(&target.namespace, &target.name).await?;
                    if args.output.is_none() {
                        output::emit(&format!(
                            "{} {}\n",
                            full_name(&target.name),
                            arrived(&typed(&object), &target.goal)
                        ))?;
                    }
                    reached.push((object, target));
                }
                Err(error) => failures.push(error),
            }
        }
        written = reached;
    }
    if let Some(format) = args.output {
        let values = written.iter().map(|(object, _)| output::printable(object)).collect::<Result<Vec<_>, _>>()?;
        if !values.is_empty() {
            output::emit(&output::objects(values, total == 1, format)?)?;
        }
    }
    outcome(failures, total)
}

/// Writes what is asked of one VM.
async fn ask(
    cluster: &Cluster,
    verb: Verb,
    vm: Result<DynamicObject, Error>,
    force: bool,
    say: bool,
) -> Result<(DynamicObject, Target), Error> {
    let object = vm?;
    let vm: VirtualMachine = object
        .clone()
        .try_parse()
        .map_err(|error| Error::Api(format!("an object that this version does not understand: {error}")))?;
    let name = vm.metadata.name.clone().unwrap_or_default();
    let namespace = vm.metadata.namespace.clone().unwrap_or_default();
    let id = uuid::Uuid::new_v4().to_string();
    let (object, request, said) = match decide(verb, &vm, force, &id, program()) {
        Decision::Refuse(why) => return Err(Error::Refused(why)),
        Decision::Nothing { said } => (object, None, said),
        Decision::Write { patch, request, said } => (cluster.patch_vm(&namespace, &name, &patch).await?, request, said),
    };
    if say {
        output::emit(&format!("{} {said}\n", full_name(&name)))?;
    }
    let state = if verb == Verb::Stop { State::Stopped } else { State::Running };
    let generation = object.metadata.generation.unwrap_or(0);
    Ok((object, Target { namespace, name, goal: Goal { state, generation, request } }))
}

fn full_name(name: &str) -> String {
    format!("virtualmachine.kubevmm.io/{name}")
}

fn arrived(vm: &VirtualMachine, goal: &Goal) -> String {
    let status = vm.status.clone().unwrap_or_default();
    if goal.state == State::Stopped {
        return "is stopped".into();
    }
    let address = status.interfaces.iter().find_map(|nic| nic.addresses.first());
    let address = address.map_or(String::new(), |address| format!(", address {address}"));
    format!("is running on {}{address}", status.node_name.unwrap_or_default())
}
