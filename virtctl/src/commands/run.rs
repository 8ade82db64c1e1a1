//! `run`.

use std::path::Path;

use kube::ResourceExt as _;
use kubevmm_api::common::{ImageKind, ImageRef, NetworkKind};
use kubevmm_api::{ClusterVirtualMachineNetwork, VirtualMachine, VirtualMachineImage};
use serde_json::Value;

use crate::cli::{ClusterArgs, DryRun, ObjectFormat, RunArgs};
use crate::cluster::{Cluster, connect};
use crate::error::Error;
use crate::goal::{Goal, State};
use crate::manifest::{self, Wanted};
use crate::reach::{self, Hints};
use crate::wait::{Target, wait};
use crate::{output, program, resolve};

/// Runs it.
pub(crate) async fn run(target: &ClusterArgs, args: &RunArgs) -> Result<(), Error> {
    let cluster = match connect(target).await {
        Err(Error::NoKubeconfig(_)) if args.dry_run == DryRun::Client => None,
        connected => Some(connected?),
    };
    create(cluster, target, args).await
}

async fn create(cluster: Option<Cluster>, target: &ClusterArgs, args: &RunArgs) -> Result<(), Error> {
    let (image, vm) = plan(cluster.as_ref(), target, args).await?;
    let dry_run = match args.dry_run {
        DryRun::None => false,
        DryRun::Server => true,
        DryRun::Client => {
            let image = image.as_ref().map(output::printable).transpose()?;
            let values = image.into_iter().chain([output::printable(&vm)?]).collect();
            return print(values, args.output, " (dry run)", &["created"; 2]);
        }
    };
    let Some(cluster) = cluster else { return Err(Error::NoKubeconfig("none is given".into())) };
    let suffix = if dry_run { " (server dry run)" } else { "" };
    let mut created = Vec::new();
    // A VM that is refused leaves no image behind.
    if image.is_some() && cluster.create(&vm, true).await?.is_none() {
        return Err(exists(&vm));
    }
    if let Some(image) = image {
        let (image, word) = create_image(&cluster, &image, dry_run).await?;
        say(args, &image, suffix, word)?;
        created.push(image);
    }
    let made = cluster.create(&vm, dry_run).await?.ok_or_else(|| exists(&vm))?;
    let value = output::printable(&made)?;
    say(args, &value, suffix, "created")?;
    created.push(value);
    if args.wait && !dry_run {
        let reached = reached(&cluster, &made, args).await?;
        if args.output.is_none() {
            output::emit(&reach_text(&cluster, &reached, args).await)?;
        }
        created.pop();
        created.push(output::printable(&reached)?);
    }
    match args.output {
        Some(_) => print(created, args.output, suffix, &[]),
        None => Ok(()),
    }
}

fn exists(vm: &VirtualMachine) -> Error {
    let name = vm.name_any();
    let start = format!("{} start {name}", program());
    Error::Refused(format!("virtual machine {name:?} exists already: choose another name, or `{start}`"))
}

/// The objects to create.
async fn plan(
    cluster: Option<&Cluster>,
    target: &ClusterArgs,
    args: &RunArgs,
) -> Result<(Option<VirtualMachineImage>, VirtualMachine), Error> {
    let fallback = || target.namespace.clone().unwrap_or_else(|| "default".into());
    let namespace = cluster.map_or_else(fallback, |cluster| cluster.namespace.clone());
    let checksum = args.checksum.as_deref().map(manifest::checksum).transpose();
    let checksum = checksum.map_err(|why| Error::Usage(format!("--checksum {why}")))?;
    let (image, reference) = if args.image.starts_with("http://") || args.image.starts_with("https://") {
        let image = manifest::image(&namespace, &args.image, checksum.as_deref());
        let reference = ImageRef { kind: ImageKind::VirtualMachineImage, name: image.name_any() };
        (Some(image), reference)
    } else if args.image.contains("://") {
        return Err(Error::Usage(format!("--image {}: the hosts download by http and https only", args.image)));
    } else if checksum.is_some() {
        return Err(Error::Usage("--checksum goes with the URL of an image: an image object has its own".into()));
    } else {
        (None, resolve::image(cluster, &args.image).await?)
    };
    let mut networks = Vec::new();
    for name in args.network.iter().filter(|name| *name != "none") {
        networks.push(Some(resolve::network(cluster, name).await?));
    }
    if args.network.is_empty() {
        networks.push(None);
    }
    let wanted = Wanted {
        name: args.name.clone(),
        namespace,
        image: Some(reference),
        cpus: args.cpus,
        memory: args.memory.clone(),
        disk: args.disk.clone(),
        pool: args.pool.clone(),
        networks,
        class: args.class.clone(),
        user_data: user_data(args)?,
        user_data_secret: args.user_data_secret.clone(),
    };
    Ok((image, manifest::vm(&wanted)))
}

fn user_data(args: &RunArgs) -> Result<Option<String>, Error> {
    let mut keys = Vec::new();
    for path in &args.ssh_key {
        let text = read("--ssh-key", path)?;
        let found = manifest::public_keys(&text);
        keys.extend(found.map_err(|why| Error::Usage(format!("--ssh-key {} {why}", path.display())))?);
    }
    let given = args.user_data.as_deref().map(|path| read("--user-data", path)).transpose()?;
    manifest::user_data(given.as_deref(), &keys).map_err(|why| {
        let path = args.user_data.as_deref().unwrap_or(Path::new(""));
        Error::Usage(format!("--user-data {} {why}", path.display()))
    })
}

fn read(option: &'static str, path: &Path) -> Result<String, Error> {
    std::fs::read_to_string(path).map_err(|source| Error::File { option, path: path.into(), source })
}

/// Creates the image, or takes the one of the same content that is there.
async fn create_image(
    cluster: &Cluster,
    image: &VirtualMachineImage,
    dry_run: bool,
) -> Result<(Value, &'static str), Error> {
    if let Some(created) = cluster.create(image, dry_run).await? {
        return Ok((output::printable(&created)?, "created"));
    }
    let (namespace, name) = (image.namespace().unwrap_or_default(), image.name_any());
    let there = cluster.api::<VirtualMachineImage>(&namespace).get(&name).await.map_err(|e| cluster.failure(e))?;
    if there.spec.source != image.spec.source || there.spec.checksum != image.spec.checksum {
        return Err(Error::Refused(format!(
            "the image {name:?} exists already with another source: delete it, or name it with --image vmimg/{name}"
        )));
    }
    if there.metadata.deletion_timestamp.is_some() {
        return Err(Error::Refused(format!("the image {name:?} is being deleted: try again when it is gone")));
    }
    Ok((output::printable(&there)?, "unchanged"))
}

async fn reached(cluster: &Cluster, vm: &VirtualMachine, args: &RunArgs) -> Result<VirtualMachine, Error> {
    let goal = Goal { state: State::Reachable, generation: vm.metadata.generation.unwrap_or(1), request: None };
    let namespace = vm.namespace().unwrap_or_default();
    let target = Target { namespace, name: vm.name_any(), goal };
    let mut results = wait(cluster, &[target], args.timeout).await;
    results.pop().unwrap_or_else(|| Err(Error::Failed("the wait ended without an answer".into())))
}

async fn reach_text(cluster: &Cluster, vm: &VirtualMachine, args: &RunArgs) -> String {
    let key = args.ssh_key.first().and_then(|path| path.to_str());
    // The private key beside the public one; an agent or the default key needs no -i.
    let identity = key.and_then(|key| key.strip_suffix(".pub")).filter(|private| Path::new(private).exists());
    let user = args.ssh_user.as_deref().or_else(|| reach::usual_user(&args.image));
    reach::text(vm, &Hints { user, identity, nat: is_nat(cluster, vm).await }, program())
}

/// Whether the first network is nat. It is a hint: a network that may not be read gives none.
async fn is_nat(cluster: &Cluster, vm: &VirtualMachine) -> bool {
    let networks = vm.status.as_ref().and_then(|status| status.effective.as_ref()).map(|merged| &merged.networks);
    let Some(network) = networks.and_then(|networks| networks.first()) else { return false };
    match network.kind {
        NetworkKind::VirtualMachineNetwork => true,
        NetworkKind::ClusterVirtualMachineNetwork => {
            let api = cluster.all::<ClusterVirtualMachineNetwork>();
            api.get(&network.network_name).await.is_ok_and(|network| network.spec.nat.is_some())
        }
    }
}

fn say(args: &RunArgs, object: &Value, suffix: &str, word: &str) -> Result<(), Error> {
    if args.output.is_some() {
        return Ok(());
    }
    output::emit(&format!("{} {word}{suffix}\n", output::name(object)))
}

fn print(values: Vec<Value>, format: Option<ObjectFormat>, suffix: &str, words: &[&str]) -> Result<(), Error> {
    let text = match format {
        // Documents one after the other: what `kubectl apply -f -` reads, and a person too.
        Some(ObjectFormat::Yaml) => manifest::yaml(&values).map_err(|error| Error::Api(error.to_string()))?,
        Some(format) => output::objects(values, true, format)?,
        None => {
            values.iter().zip(words).map(|(value, word)| format!("{} {word}{suffix}\n", output::name(value))).collect()
        }
    };
    output::emit(&text)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::cli::{Cli, Command};
    use crate::testing::Server;
    use clap::Parser as _;

    async fn run(server: &Server, line: &str) -> Result<(), Error> {
        let cli = Cli::parse_from(["virtctl", "run"].into_iter().chain(line.split_whitespace()));
        let Command::Run(args) = &cli.command else { panic!("run") };
        create(Some(server.cluster("shop")), &cli.target, args).await
    }

    #[tokio::test]
    async fn a_vm_that_is_refused_leaves_no_image_behind() {
        let refusal = r#"{"kind": "Status", "code": 422, "reason": "Invalid", "message": "web is invalid"}"#;
        let server = Server::new(|_, _| (422, refusal.into()));
        let error = run(&server, "web --image https://example.org/a.qcow2").await.unwrap_err();
        assert_eq!((error.to_string().as_str(), error.exit_code()), ("web is invalid", 5));
        let requests = server.requests();
        let [only] = requests.as_slice() else { panic!("{requests:?}") };
        assert!(
            only.starts_with(
                "POST /apis/kubevmm.io/v1beta1/namespaces/shop/virtualmachines?&dryRun=All&fieldManager=virtctl"
            ),
            "{only}"
        );
    }

    #[tokio::test]
    async fn a_vm_that_exists_is_not_overwritten() {
        let refusal = r#"{"kind": "Status", "code": 409, "reason": "AlreadyExists", "message": "exists"}"#;
        let server = Server::new(|_, _| (409, refusal.into()));
        let error = run(&server, "web --image vmimg/a").await.unwrap_err();
        assert_eq!(error.exit_code(), 5);
        assert!(error.to_string().contains("`virtctl start web`"), "{error}");
        assert_eq!(server.requests().len(), 1);
    }

    #[tokio::test]
    async fn a_client_dry_run_with_full_names_asks_nothing() {
        let server = Server::new(|_, _| (500, String::new()));
        run(&server, "web --image cvmimg/a --network cvmnet/lan --dry-run=client -o name").await.unwrap();
        assert!(server.requests().is_empty());
    }

    #[tokio::test]
    async fn an_image_of_the_cluster_is_found_by_its_name() {
        let list = |names: &str| {
            let meta = |name: &str| {
                format!(
                    r#"{{"apiVersion": "meta.k8s.io/v1", "kind": "PartialObjectMetadata", "metadata": {{"name": "{name}"}}}}"#
                )
            };
            let items: Vec<_> = names.split_whitespace().map(meta).collect();
            let head = r#""apiVersion": "meta.k8s.io/v1", "kind": "PartialObjectMetadataList", "metadata": {}"#;
            (200, format!(r#"{{{head}, "items": [{}]}}"#, items.join(",")))
        };
        let server =
            Server::new(move |_, path| if path.contains("/clustervirtual") { list("debian") } else { list("mine") });
        let cluster = server.cluster("shop");
        let found = resolve::image(Some(&cluster), "debian").await.unwrap();
        assert_eq!(found.kind, ImageKind::ClusterVirtualMachineImage);
        assert_eq!(resolve::image(Some(&cluster), "mine").await.unwrap().kind, ImageKind::VirtualMachineImage);
        let error = resolve::image(Some(&cluster), "debain").await.unwrap_err();
        assert!(error.to_string().ends_with("did you mean debian?"), "{error}");
    }
}
