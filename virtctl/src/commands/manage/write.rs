//! Writes what has been planned.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use futures::stream::{self, StreamExt as _};
use kubevmm_api::VirtualMachine;
use kubevmm_api::hypervisor::HostDomain;
use serde_json::Value;

use super::{Work, of_domain, target};
use crate::cli::{DryRun, ImportArgs};
use crate::cluster::Cluster;
use crate::commands::import::{AT_A_TIME, observe, suffix};
use crate::error::Error;
use crate::goal::State;
use crate::import::inventory::{Change, Inventory, Key, Kind, Write};
use crate::output;
use crate::wait::Target;

/// What has been written.
#[derive(Default)]
pub(super) struct Written<'a> {
    /// The objects, as they can be applied again.
    pub(super) objects: Vec<Value>,
    /// The domains that are to be taken over now.
    pub(super) managed: Vec<(&'a HostDomain, Target)>,
    /// What failed, for each domain that it failed for.
    pub(super) failures: Vec<Error>,
}

/// What is to be done to those of these objects that are not as they should be.
pub(super) fn writes<'a>(inventory: &Inventory, keys: impl IntoIterator<Item = &'a Key>) -> Result<Vec<Write>, Error> {
    let writes = keys.into_iter().map(|key| inventory.write(key));
    writes.collect::<Result<Vec<_>, _>>().map(|writes| writes.into_iter().flatten().collect())
}

/// Writes what several domains share, then each one's disks and VirtualMachine.
pub(super) async fn write_all<'a>(
    cluster: &Cluster,
    args: &ImportArgs,
    inventory: &Inventory,
    works: &'a [Work],
) -> Result<Written<'a>, Error> {
    let mut written = Written::default();
    let keys: BTreeSet<&Key> = works.iter().flat_map(|work| &work.adoption.objects).collect();
    let shared = writes(inventory, keys.into_iter().filter(|key| key.kind != Kind::Disk))?;
    let done = shared.iter().map(|write| async move { (&write.key, write_one(cluster, args, write).await) });
    let done: Vec<_> = stream::iter(done).buffered(AT_A_TIME).collect().await;
    let mut failed: BTreeMap<&Key, Arc<Error>> = BTreeMap::new();
    for (key, result) in done {
        match result {
            Ok(object) => written.objects.push(object),
            Err(error) => drop(failed.insert(key, Arc::new(error))),
        }
    }
    let failed = &failed;
    let each = works.iter().map(|work| async move {
        let mut objects = Vec::new();
        let done = match work.adoption.objects.iter().find_map(|key| failed.get(key)) {
            Some(cause) => Err(Arc::clone(cause)),
            None => write_domain(cluster, args, inventory, work, &mut objects).await.map_err(Arc::new),
        };
        (&work.subject.domain, objects, done)
    });
    let each: Vec<_> = stream::iter(each).buffered(AT_A_TIME).collect().await;
    for (domain, objects, done) in each {
        written.objects.extend(objects);
        match done {
            Ok(vm) => written.managed.extend(vm.map(|vm| (domain, target(&vm, State::Managed)))),
            Err(cause) => written.failures.push(of_domain(domain, cause)),
        }
    }
    Ok(written)
}

/// Writes what is a domain's own. Answers with the VirtualMachine whose executor is to take it over now.
async fn write_domain(
    cluster: &Cluster,
    args: &ImportArgs,
    inventory: &Inventory,
    work: &Work,
    objects: &mut Vec<Value>,
) -> Result<Option<VirtualMachine>, Error> {
    for write in writes(inventory, work.adoption.objects.iter().filter(|key| key.kind == Kind::Disk))? {
        objects.push(write_one(cluster, args, &write).await?);
    }
    let (object, vm) = write_vm(cluster, args, work).await?;
    objects.push(object);
    Ok(vm.filter(|_| args.manage && args.dry_run == DryRun::None))
}

/// Writes an object that stands for something of the host.
async fn write_one(cluster: &Cluster, args: &ImportArgs, write: &Write) -> Result<Value, Error> {
    let Write { key, change, object } = write;
    let named = |error: Error| Error::For { what: key.to_string(), cause: error.into() };
    let (is_written, is_checked_only) = (args.dry_run != DryRun::Client, args.dry_run == DryRun::Server);
    let said = match change {
        Change::Create if is_written => {
            cluster.create_or_same(key, object, is_checked_only).await.map_err(named)?.to_owned()
        }
        Change::Create => "created".to_owned(),
        Change::Allow(namespaces) => {
            if is_written {
                cluster.allow(key, object, is_checked_only).await.map_err(named)?;
            }
            format!("opened to the namespace {}", namespaces.join(", "))
        }
    };
    say(args, &format!("{key} {said}"))?;
    Ok(output::applicable(object))
}

/// Writes the spec. Answers with the object as it can be applied again, and as the API server has it.
pub(super) async fn write_vm(
    cluster: &Cluster,
    args: &ImportArgs,
    work: &Work,
) -> Result<(Value, Option<VirtualMachine>), Error> {
    let vm = &work.adoption.vm;
    let object = output::printable(vm)?;
    let written = match args.dry_run {
        DryRun::Client => None,
        _ if work.subject.is_new => {
            let bare = VirtualMachine { status: None, ..vm.clone() };
            Some(observe(cluster, args, &bare).await?)
        }
        dry_run => Some(cluster.replace_spec(vm, dry_run == DryRun::Server).await?),
    };
    let (word, does) = match (work.subject.is_new, args.manage) {
        (true, true) => ("created", "is to manage"),
        (true, false) => ("created", "observes"),
        (false, true) => ("configured", "is to manage"),
        (false, false) => ("configured", "observes"),
    };
    let domain = &work.subject.domain.name;
    say(args, &format!("{} {word}: {does} the domain {domain:?} of {}", output::name(&object), args.node))?;
    let mut object = output::applicable(&object);
    if args.manage {
        // The default must be said where it is applied to an object that says Observe.
        object["spec"]["management"] = "Manage".into();
    }
    Ok((object, written))
}

fn say(args: &ImportArgs, text: &str) -> Result<(), Error> {
    if args.output.is_some() {
        return Ok(());
    }
    output::emit(&format!("{text}{}\n", suffix(args)))
}
