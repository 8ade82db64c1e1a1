//! `import`, without `--manage`.

use futures::stream::{self, StreamExt as _};
use kube::ResourceExt as _;
use kubevmm_api::VirtualMachine;

use super::manage::{self, target};
use super::outcome;
use crate::cli::{DryRun, ImportArgs};
use crate::cluster::Cluster;
use crate::error::Error;
use crate::goal::State;
use crate::import::{Plan, choose, orphans_note, plan, unlisted};
use crate::output;
use crate::wait::wait;

/// Requests that are under way at a time.
pub(super) const AT_A_TIME: usize = 8;

/// Runs it.
pub(crate) async fn run(cluster: &Cluster, args: &ImportArgs) -> Result<(), Error> {
    let hypervisor = cluster.hypervisor(&args.node).await?;
    if let Some(file) = &args.from {
        return manage::run_from(cluster, args, &hypervisor, file).await;
    }
    let mut status = hypervisor.status.clone().unwrap_or_default();
    let unlisted_count = status.unlisted_count.unwrap_or(0);
    if args.all && unlisted_count > 0 {
        eprintln!(
            "note: {unlisted_count} more foreign domains on {} are not listed, and not imported: give their UUIDs",
            args.node
        );
    }
    let unlisted = unlisted(&status, &args.domains);
    status.domains.extend(unlisted);
    let there = cluster.known_vms().await?;
    let chosen = choose(&args.node, &status.domains, unlisted_count, &args.domains, &there)?;
    if let Some(note) = orphans_note(&args.node, &status.domains).filter(|_| args.all) {
        eprintln!("note: {note}");
    }
    if chosen.is_empty() {
        eprintln!("no foreign domain on {}", args.node);
    }
    let plans = plan(&args.node, &cluster.namespace, &chosen, &there);
    if args.manage {
        return manage::run(cluster, args, &hypervisor, &chosen, plans).await;
    }
    let total = plans.len();
    let work = chosen.into_iter().zip(plans).map(|(domain, plan)| async move {
        match plan {
            Plan::Observed(vm) => {
                let vm = format!("{}/{}", vm.namespace().unwrap_or_default(), vm.name_any());
                eprintln!("domain {:?} is observed already, by virtual machine {vm}", domain.name);
                Ok(None)
            }
            Plan::Managed(vm) => {
                eprintln!("domain {:?} is managed already, by virtual machine {vm}", domain.name);
                Ok(None)
            }
            Plan::Create(vm) => {
                let made = observe(cluster, args, &vm).await?;
                if args.output.is_none() {
                    say_observed(args, &domain.name, &made)?;
                }
                Ok(Some(made))
            }
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
    if args.wait.wait && args.dry_run == DryRun::None {
        let targets: Vec<_> = objects.iter().map(|vm| target(vm, State::Known)).collect();
        failures.extend(wait(cluster, &targets, args.wait.timeout).await.into_iter().filter_map(Result::err));
    }
    if let Some(format) = args.output
        && !objects.is_empty()
    {
        let values = objects.iter().map(output::printable).collect::<Result<Vec<_>, _>>()?;
        output::emit(&output::objects(values, total == 1, format)?)?;
    }
    outcome(failures, total)
}

/// Creates a VirtualMachine that observes a domain, as far as `--dry-run` lets it.
pub(super) async fn observe(
    cluster: &Cluster,
    args: &ImportArgs,
    vm: &VirtualMachine,
) -> Result<VirtualMachine, Error> {
    if args.dry_run == DryRun::Client {
        return Ok(vm.clone());
    }
    cluster.create(vm, args.dry_run == DryRun::Server).await?.ok_or_else(|| {
        let name = vm.name_any();
        Error::Refused(format!("virtual machine {name:?} has been created meanwhile: run the command again"))
    })
}

/// Says that it is there.
pub(super) fn say_observed(args: &ImportArgs, domain: &str, vm: &VirtualMachine) -> Result<(), Error> {
    let name = output::name(&output::printable(vm)?);
    output::emit(&format!("{name} created{}: observes the domain {domain:?} of {}\n", suffix(args), args.node))
}

/// What is said behind a word that is not meant.
pub(super) fn suffix(args: &ImportArgs) -> &'static str {
    match args.dry_run {
        DryRun::None => "",
        DryRun::Client => " (dry run)",
        DryRun::Server => " (server dry run)",
    }
}
