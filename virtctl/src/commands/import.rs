//! `import`.

use futures::stream::{self, StreamExt as _};
use kube::ResourceExt as _;
use kubevmm_api::VirtualMachine;

use super::outcome;
use crate::cli::{DryRun, ImportArgs};
use crate::cluster::Cluster;
use crate::error::Error;
use crate::import::{Plan, choose, plan};
use crate::output;

/// Requests that are under way at a time.
const AT_A_TIME: usize = 8;

/// Runs it.
pub(crate) async fn run(cluster: &Cluster, args: &ImportArgs) -> Result<(), Error> {
    let status = cluster.hypervisor(&args.node).await?.status.unwrap_or_default();
    if let Some(unlisted) = status.unlisted_count.filter(|count| *count > 0) {
        eprintln!("note: {unlisted} more foreign domains on {} are not listed, and not imported", args.node);
    }
    let chosen = choose(&args.node, &status.domains, &args.domains)?;
    if chosen.is_empty() {
        eprintln!("no foreign domain on {}", args.node);
    }
    let there = cluster.known_vms().await?;
    let plans = plan(&args.node, &cluster.namespace, &chosen, &there);
    let total = plans.len();
    let work = chosen.into_iter().zip(plans).map(|(domain, plan)| async move {
        match plan {
            Plan::Done(vm) => {
                eprintln!("domain {:?} is observed already, by virtual machine {vm}", domain.name);
                Ok(None)
            }
            Plan::Create(vm) => create(cluster, args, &domain.name, *vm).await.map(Some),
        }
    });
    let done: Vec<_> = stream::iter(work).buffered(AT_A_TIME).collect().await;
    let (mut objects, mut failures) = (Vec::new(), Vec::new());
    for result in done {
        match result {
            Ok(object) => objects.extend(object),
            Err(error) => failures.push(error),
        }
    }
    if let Some(format) = args.output
        && !objects.is_empty()
    {
        let values = objects.iter().map(output::printable).collect::<Result<Vec<_>, _>>()?;
        output::emit(&output::objects(values, total == 1, format)?)?;
    }
    outcome(failures, total)
}

async fn create(
    cluster: &Cluster,
    args: &ImportArgs,
    domain: &str,
    vm: VirtualMachine,
) -> Result<VirtualMachine, Error> {
    let (made, suffix) = match args.dry_run {
        DryRun::Client => (vm, " (dry run)"),
        dry_run => {
            let checked_only = dry_run == DryRun::Server;
            let made = cluster.create(&vm, checked_only).await?.ok_or_else(|| {
                let name = vm.name_any();
                Error::Refused(format!("virtual machine {name:?} has been created meanwhile: run the command again"))
            })?;
            (made, if checked_only { " (server dry run)" } else { "" })
        }
    };
    if args.output.is_none() {
        let name = output::name(&output::printable(&made)?);
        output::emit(&format!("{name} created{suffix}: observes the domain {domain:?} of {}\n", args.node))?;
    }
    Ok(made)
}
