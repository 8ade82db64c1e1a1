//! `import --manage` and `import --from`: the objects of what domains use, and the specs of their VirtualMachines.

mod write;

use std::collections::BTreeSet;
use std::io::Read as _;
use std::path::Path;
use std::sync::Arc;

use futures::stream::{self, StreamExt as _};
use kube::ResourceExt as _;
use kubevmm_analyser::lower::HostFacts;
use kubevmm_api::hypervisor::HostDomain;
use kubevmm_api::vm::{DomainState, DomainStatus, Management};
use kubevmm_api::{Hypervisor, VirtualMachine};

use self::write::{Written, write_all, writes};
use super::import::{AT_A_TIME, observe, say_observed};
use super::outcome;
use crate::cli::{DryRun, ImportArgs};
use crate::cluster::Cluster;
use crate::error::Error;
use crate::goal::{Goal, State};
use crate::import::adopt::{Adoption, Terms, adopt};
use crate::import::dump::{self, Dump};
use crate::import::inventory::{HOSTNAME, Inventory};
use crate::import::preflight::{self, Preflight, quoted};
use crate::import::{Plan, choose, plan};
use crate::wait::{Target, wait};
use crate::{host, output, program};

/// A domain, and the VirtualMachine that stands for it.
struct Subject {
    domain: HostDomain,
    vm: VirtualMachine,
    /// The API server does not have it yet.
    is_new: bool,
}

/// What is to be written for a domain.
struct Work {
    subject: Subject,
    adoption: Adoption,
}

fn of_domain(domain: &HostDomain, cause: impl Into<Arc<Error>>) -> Error {
    Error::For { what: format!("domain {:?}", domain.name), cause: cause.into() }
}

/// Takes domains over: those that nobody observes yet are observed first.
pub(super) async fn run(
    cluster: &Cluster,
    args: &ImportArgs,
    hypervisor: &Hypervisor,
    chosen: &[&HostDomain],
    plans: Vec<Plan>,
) -> Result<(), Error> {
    let total = plans.len();
    let host = host::facts(hypervisor)?;
    let observing = chosen.iter().zip(plans).map(|(domain, plan)| async move {
        match plan {
            Plan::Managed(vm) => {
                eprintln!("domain {:?} is managed already, by virtual machine {vm}", domain.name);
                Ok(None)
            }
            Plan::Observed(vm) => Ok(Some(Subject { domain: (*domain).clone(), vm: *vm, is_new: false })),
            Plan::Create(vm) => {
                begin(cluster, args, domain, *vm).await.map(Some).map_err(|error| of_domain(domain, error))
            }
        }
    });
    let begun: Vec<_> = stream::iter(observing).buffered(AT_A_TIME).collect().await;
    let (mut subjects, mut failures) = (Vec::new(), Vec::new());
    for result in begun {
        match result {
            Ok(subject) => subjects.extend(subject),
            Err(error) => failures.push(error),
        }
    }
    let targets: Vec<_> = subjects.iter().map(|subject| target(&subject.vm, State::Known)).collect();
    let seen = wait(cluster, &targets, args.wait.timeout).await;
    let mut known = Vec::new();
    for (subject, seen) in subjects.into_iter().zip(seen) {
        match seen {
            Ok(vm) => {
                // One that is not listed was asked for by its UUID.
                let told = vm.status.as_ref().and_then(|status| status.domain.as_ref());
                let name = told.map_or(subject.domain.name, |told| told.name.clone());
                known.push(Subject { domain: HostDomain { name, ..subject.domain }, vm, ..subject });
            }
            Err(error) => failures.push(of_domain(&subject.domain, error)),
        }
    }
    finish(cluster, args, hypervisor, &host, known, failures, total).await
}

/// Creates the VirtualMachine that observes a domain.
async fn begin(
    cluster: &Cluster,
    args: &ImportArgs,
    domain: &HostDomain,
    vm: VirtualMachine,
) -> Result<Subject, Error> {
    if args.dry_run != DryRun::None {
        let import = format!("{} import --node {} {}", program(), args.node, quoted(&domain.name));
        let (namespace, agreed) =
            (&cluster.namespace, if args.disable_autostart { " --disable-autostart" } else { "" });
        return Err(Error::Refused(format!(
            "it is not observed yet, so that what it is made of is not known, and a dry run creates nothing: have it observed, \
             which changes nothing on the host, and then look: `{import} -n {namespace}` and \
             `{import} -n {namespace} --manage{agreed} --dry-run`"
        )));
    }
    let vm = observe(cluster, args, &vm).await?;
    if args.output.is_none() {
        say_observed(args, &domain.name, &vm)?;
    }
    Ok(Subject { domain: domain.clone(), vm, is_new: false })
}

/// A state of a VM that has just been written or read.
pub(super) fn target(vm: &VirtualMachine, state: State) -> Target {
    let goal = Goal { state, generation: vm.metadata.generation.unwrap_or(1), request: None };
    Target { namespace: vm.namespace().unwrap_or_default(), name: vm.name_any(), goal }
}

/// Imports the domain of a file.
pub(super) async fn run_from(
    cluster: &Cluster,
    args: &ImportArgs,
    hypervisor: &Hypervisor,
    file: &Path,
) -> Result<(), Error> {
    let dump = dump::read(&file.display().to_string(), &content(file)?)?;
    dump.notes.iter().for_each(|note| eprintln!("note: {note}"));
    let host = host::facts(hypervisor)?;
    let (domain, state) = domain_of(&dump, hypervisor);
    let there = cluster.known_vms().await?;
    let domains = [domain];
    let chosen = choose(&args.node, &domains, 0, &[dump.uuid()], &there)?;
    let Some((domain, plan)) = chosen.iter().zip(plan(&args.node, &cluster.namespace, &chosen, &there)).next() else {
        return Ok(());
    };
    let (mut vm, is_new) = match plan {
        Plan::Managed(vm) => {
            eprintln!("domain {:?} is managed already, by virtual machine {vm}", domain.name);
            return Ok(());
        }
        Plan::Observed(vm) => (*vm, false),
        Plan::Create(vm) => (*vm, true),
    };
    let inventory = inventory(cluster, hypervisor, std::iter::once(&vm)).await?;
    let mut status = dump.status(&vm.name_any(), &host, &inventory).map_err(|error| of_domain(domain, error))?;
    // Who observes it already knows more of it.
    status.domain = vm.status.and_then(|status| status.domain).or(state);
    vm.status = Some(status);
    let subject = Subject { domain: (*domain).clone(), vm, is_new };
    finish(cluster, args, hypervisor, &host, vec![subject], Vec::new(), 1).await
}

fn content(file: &Path) -> Result<Vec<u8>, Error> {
    let mut content = Vec::new();
    let read = if file == Path::new("-") {
        std::io::stdin().lock().read_to_end(&mut content).map(|_| ())
    } else {
        std::fs::read(file).map(|read| content = read)
    };
    read.map_err(|source| Error::File { option: "--from", path: file.into(), source })?;
    Ok(content)
}

/// The domain of a file as its host tells of it, if it does.
fn domain_of(dump: &Dump, hypervisor: &Hypervisor) -> (HostDomain, Option<DomainStatus>) {
    let (name, uuid) = (dump.name().to_owned(), dump.uuid());
    let domains = hypervisor.status.iter().flat_map(|status| &status.domains);
    match domains.into_iter().find(|domain| domain.uuid == uuid) {
        Some(domain) => {
            let status = DomainStatus {
                name,
                uuid,
                epoch: 0,
                state: domain.state,
                generation: None,
                start_time: None,
                autostart: false,
                transient: false,
            };
            (domain.clone(), Some(status))
        }
        None => {
            (HostDomain { uuid, name, state: DomainState::Shutoff, mark: None, orphan: false, observed: false }, None)
        }
    }
}

/// What the cluster has of pools, networks and disks, in the namespaces of these VirtualMachines.
async fn inventory(
    cluster: &Cluster,
    hypervisor: &Hypervisor,
    vms: impl Iterator<Item = &VirtualMachine>,
) -> Result<Inventory, Error> {
    let namespaces: BTreeSet<String> = vms.filter_map(|vm| vm.namespace()).collect();
    let (mut own_networks, mut disks) = (Vec::new(), Vec::new());
    for namespace in &namespaces {
        own_networks.extend(cluster.list(cluster.api(namespace)).await?);
        disks.extend(cluster.list(cluster.api(namespace)).await?);
    }
    let selected = hypervisor.status.iter().flat_map(|status| &status.pools).map(|pool| pool.name.clone());
    let (pools, networks) = (cluster.list(cluster.all()).await?, cluster.list(cluster.all()).await?);
    let node = hypervisor.name_any();
    let hostname = cluster.node_label(&node, HOSTNAME).await?.unwrap_or_else(|| node.clone());
    Ok(Inventory::new((&node, &hostname), selected, pools, networks, own_networks, disks))
}

/// Plans for all, tells what changes, and writes it.
async fn finish(
    cluster: &Cluster,
    args: &ImportArgs,
    hypervisor: &Hypervisor,
    host: &HostFacts,
    subjects: Vec<Subject>,
    mut failures: Vec<Error>,
    total: usize,
) -> Result<(), Error> {
    if subjects.is_empty() {
        return outcome(failures, total);
    }
    let mut inventory = inventory(cluster, hypervisor, subjects.iter().map(|subject| &subject.vm)).await?;
    let management = if args.manage { Management::Manage } else { Management::Observe };
    let terms = Terms { management, disable_autostart: args.disable_autostart };
    let mut works = Vec::new();
    for subject in subjects {
        let mut attempt = inventory.clone();
        match adopt(&subject.vm, terms, &mut attempt) {
            Ok(adoption) => {
                inventory = attempt;
                works.push(Work { subject, adoption });
            }
            Err(error) => {
                if args.dry_run != DryRun::None {
                    tell(args, &preflight::refused(&args.node, &subject.domain.name, &subject.vm, &error))?;
                }
                failures.push(of_domain(&subject.domain, error));
            }
        }
    }
    let (works, refused) = told(args, host, &inventory, works)?;
    failures.extend(refused);
    let Written { objects, managed, failures: failed } = write_all(cluster, args, &inventory, &works).await?;
    failures.extend(failed);
    if args.wait.wait {
        failures.extend(taken_over(cluster, args, managed).await?);
    }
    if let Some(format) = args.output
        && !objects.is_empty()
    {
        output::emit(&output::objects(objects, false, format)?)?;
    }
    outcome(failures, total)
}

/// Waits until the executor has taken the domains over; what it says of those that it has not.
async fn taken_over(
    cluster: &Cluster,
    args: &ImportArgs,
    managed: Vec<(&HostDomain, Target)>,
) -> Result<Vec<Error>, Error> {
    let (domains, targets): (Vec<_>, Vec<_>) = managed.into_iter().unzip();
    let mut failures = Vec::new();
    for (domain, seen) in domains.into_iter().zip(wait(cluster, &targets, args.wait.timeout).await) {
        match seen {
            Ok(vm) if args.output.is_none() => {
                let name = output::name(&output::printable(&vm)?);
                output::emit(&format!("{name} manages the domain {:?} of {}\n", domain.name, args.node))?;
            }
            Ok(_) => {}
            Err(error) => failures.push(of_domain(domain, error)),
        }
    }
    Ok(failures)
}

/// Prints what a person is told: on standard output, unless objects are printed there.
fn tell(args: &ImportArgs, text: &str) -> Result<(), Error> {
    if args.output.is_some() {
        eprint!("{text}");
        return Ok(());
    }
    output::emit(text)
}

/// Tells what changes.
fn told(
    args: &ImportArgs,
    host: &HostFacts,
    inventory: &Inventory,
    works: Vec<Work>,
) -> Result<(Vec<Work>, Vec<Error>), Error> {
    let (mut possible, mut refused) = (Vec::new(), Vec::new());
    for work in works {
        let (writes, adoption) = (writes(inventory, &work.adoption.objects)?, &work.adoption);
        let (domain, orphan) = (work.subject.domain.name.as_str(), work.subject.domain.orphan);
        let (node, observed, writes) = (args.node.as_str(), args.from.is_none(), writes.as_slice());
        match preflight::text(&Preflight { node, domain, orphan, adoption, writes, host, observed }) {
            Ok(text) => tell(args, &text)?,
            Err(error) => {
                if args.dry_run != DryRun::None {
                    tell(args, &preflight::refused(node, domain, &adoption.vm, &error))?;
                }
                refused.push(of_domain(&work.subject.domain, error));
                continue;
            }
        }
        possible.push(work);
    }
    Ok((possible, refused))
}

#[cfg(test)]
mod tests;
