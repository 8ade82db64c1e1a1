//! Brings the project and its defaults to a lab that is up.

use std::collections::BTreeMap;
use std::fs;
use std::path::PathBuf;

use anyhow::{Context, Result, anyhow, bail};
use k8s_openapi::jiff::{SignedDuration, Timestamp};
use kubevmm_api::names;
use kubevmm_lab::Lab;
use serde_json::json;

use crate::api::{self, ApiServer, Json};
use crate::cluster::{EXECUTOR_LEASE_SECONDS, GUEST_IMAGE, SYSTEM, is_daemon, libvirt_hosts, work_tree};
use crate::host::{Host, lines};
use crate::wait::{wait_for, within};

/// Shorter than by default, and long enough for two processors that start a hundred guests.
const CONTROLLER_LEASE_SECONDS: u64 = 10;
/// The controller places nothing on a host whose Lease it has not seen renewed; it looks at all of them when it starts.
const HEARD_AFTER: SignedDuration = SignedDuration::from_secs(1);

/// The cluster before it is whole.
pub(crate) struct Draft<'a> {
    pub lab: &'static Lab,
    pub api: &'a ApiServer,
}

impl Draft<'_> {
    pub(crate) fn libvirt_hosts(&self) -> Vec<Host> {
        libvirt_hosts(self.lab)
    }

    pub(crate) fn import_images(&self) -> Result<()> {
        let given = std::env::var_os("KUBEVMM_IMAGES").map(PathBuf::from);
        let directory = given.unwrap_or_else(|| work_tree().join("out/images"));
        let mut archives: Vec<_> = fs::read_dir(&directory)
            .with_context(|| format!("{}: run `make images`", directory.display()))?
            .filter_map(|entry| Some(entry.ok()?.path()))
            .filter(|path| path.extension().is_some_and(|extension| extension == "tar"))
            .collect();
        archives.sort();
        if archives.is_empty() {
            bail!("{} holds no image: run `make images`", directory.display());
        }
        for host in self.lab.options().kubelet_names() {
            for archive in &archives {
                self.lab.import_image(host, archive)?;
            }
        }
        Ok(())
    }

    /// `kubectl apply -f yamls/`; what it says.
    pub(crate) fn apply(&self) -> Result<String> {
        Ok(self.lab.kubectl(["apply", "-f", &yamls()])?)
    }

    pub(crate) fn applies_again_without_a_change(&self) -> Result<()> {
        // Until then the API server itself writes to the definitions.
        self.lab.kubectl(["wait", "--for=condition=Established", "--timeout=60s", "crd", "--all"])?;
        let before = self.installed()?;
        let said = self.apply()?;
        let lines = lines(&said);
        // "configured" is what kubectl says of a patch, also of one that the API server finds to change nothing.
        let known = |line: &&String| line.ends_with(" unchanged") || line.ends_with(" configured");
        if lines.is_empty() || !lines.iter().all(|line| known(&line)) {
            bail!("a second apply did more than nothing:\n{said}");
        }
        let after = self.installed()?;
        let changed: Vec<_> = after.iter().filter(|(name, version)| before.get(*name) != Some(version)).collect();
        if changed.is_empty() { Ok(()) } else { bail!("a second apply has changed {changed:?}") }
    }

    /// The version of each installed object; of those with a status that others write, of the rest of it.
    fn installed(&self) -> Result<BTreeMap<String, String>> {
        let list: Json = serde_json::from_str(&self.lab.kubectl(["get", "-f", &yamls(), "-o", "json"])?)?;
        let objects = list["items"].as_array().context("no list of objects")?;
        let version = |object: &Json| {
            let (kind, metadata) = (&object["kind"], &object["metadata"]);
            if *kind == "ValidatingWebhookConfiguration" {
                // The controller, which has just started, writes where it is and whom to trust.
                let mut webhooks = object["webhooks"].clone();
                for webhook in webhooks.as_array_mut().into_iter().flatten() {
                    webhook["clientConfig"] = Json::Null;
                }
                return (format!("{kind} {}", metadata["name"]), webhooks.to_string());
            }
            let own = *kind == "CustomResourceDefinition" || metadata["generation"].is_null();
            let version = &metadata[if own { "resourceVersion" } else { "generation" }];
            (format!("{kind} {}", metadata["name"]), version.to_string())
        };
        Ok(objects.iter().map(version).collect())
    }

    pub(crate) fn shorten_time_outs(&self) -> Result<()> {
        self.add_argument(api::DEPLOYMENT, "kubevmm-controller", CONTROLLER_LEASE_SECONDS)?;
        self.add_argument(api::DAEMON_SET, "kubevmm-executor", EXECUTOR_LEASE_SECONDS)
    }

    /// New images under the old names reach only new pods.
    pub(crate) fn restart_pods(&self) -> Result<()> {
        for workload in ["deployment/kubevmm-controller", "deployment/kubevmm-scheduler", "daemonset/kubevmm-executor"]
        {
            self.lab.kubectl(["-n", SYSTEM, "rollout", "restart", workload])?;
            self.lab.kubectl(["-n", SYSTEM, "rollout", "status", workload, "--timeout=120s"])?;
        }
        Ok(())
    }

    fn add_argument(&self, kind: api::Kind, name: &str, seconds: u64) -> Result<()> {
        let found = self.api.get(kind, SYSTEM, name)?.with_context(|| format!("yamls/ has no {name}"))?;
        let container = &found["spec"]["template"]["spec"]["containers"][0];
        let mut arguments = container["args"].as_array().cloned().unwrap_or_default();
        let argument = format!("--lease-duration-seconds={seconds}");
        if arguments.iter().any(|present| *present == argument.as_str()) {
            return Ok(());
        }
        arguments.retain(|present| !present.as_str().unwrap_or_default().starts_with("--lease-duration-seconds"));
        arguments.push(argument.into());
        let patch = json!({"spec": {"template": {"spec": {"containers": [{
            "name": container["name"], "args": arguments,
        }]}}}});
        // A strategic merge patch: lists of containers are merged by name.
        self.lab.kubectl(["-n", SYSTEM, "patch", &format!("{}/{name}", kind.name), "-p", &patch.to_string()])?;
        Ok(())
    }

    /// The memory of what is not ours is reserved on each node where it runs.
    pub(crate) fn is_reserved(&self) -> Result<()> {
        let options = self.lab.options();
        for host in options.kubelet_names().into_iter().filter(|host| options.has_libvirt(*host)) {
            let name = names::reservation_pod(&host.to_string());
            self.api.wait(api::POD, SYSTEM, &name, "runs", within(60), |pod| pod["status"]["phase"] == "Running")?;
        }
        Ok(())
    }

    pub(crate) fn hosts_are_ready(&self) -> Result<()> {
        let arguments = format!("--lease-duration-seconds={EXECUTOR_LEASE_SECONDS}");
        wait_for("an executor runs on every node", within(120), || {
            let pods = self.api.list(api::POD, SYSTEM)?;
            let current = |pod: &&Json| {
                pod["metadata"]["deletionTimestamp"].is_null()
                    && is_daemon(pod)
                    && pod["status"]["containerStatuses"][0]["state"].get("running").is_some()
                    && pod["spec"]["containers"][0]["args"].to_string().contains(&arguments)
            };
            let running = pods.iter().filter(current).count();
            let wanted = self.lab.options().kubelet_names().len();
            if running == wanted { Ok(Some(())) } else { Err(anyhow!("{running} of {wanted} run")) }
        })?;
        wait_for("the controller runs", within(60), || {
            let deployment = self.api.get(api::DEPLOYMENT, SYSTEM, "kubevmm-controller")?.context("there is none")?;
            let status = &deployment["status"];
            let current = status["observedGeneration"] == deployment["metadata"]["generation"];
            if current && status["updatedReplicas"] == 1 && status["availableReplicas"] == 1 {
                return Ok(Some(()));
            }
            Err(anyhow!("{status}"))
        })?;
        self.lab.kubectl(["-n", SYSTEM, "rollout", "status", "deployment/kubevmm-scheduler", "--timeout=120s"])?;
        let acts_since = wait_for("the controller acts", within(60), || self.controller_acts_since())?;
        for host in self.libvirt_hosts() {
            let name = host.name.to_string();
            wait_for(&format!("the controller has heard of {name}"), within(60), || {
                let renewed = time(&self.lease(&name)?, "renewTime")?;
                Ok((renewed.duration_since(acts_since) > HEARD_AFTER).then_some(()))
            })?;
            self.api.wait(
                api::HYPERVISOR,
                "",
                &name,
                "is ready, in the session of its Lease",
                within(60),
                |hypervisor| {
                    let lease = self.lease(&name).unwrap_or_default();
                    api::is_true(hypervisor, "Ready")
                        && hypervisor["status"]["session"].is_string()
                        && hypervisor["status"]["session"] == lease["spec"]["holderIdentity"]
                },
            )?;
        }
        Ok(())
    }

    fn lease(&self, name: &str) -> Result<Json> {
        self.api.get(api::LEASE, SYSTEM, name)?.with_context(|| format!("there is no Lease {name}"))
    }

    /// When the controller that runs now took its Lease; `None` while its predecessor holds it.
    fn controller_acts_since(&self) -> Result<Option<Timestamp>> {
        let (pods, lease) = (self.api.list(api::POD, SYSTEM)?, self.lease("kubevmm-controller")?);
        let holder = lease["spec"]["holderIdentity"].as_str().unwrap_or_default();
        let name = |pod: &Json| pod["metadata"]["name"].as_str().unwrap_or_default().to_owned();
        let holds = |pod: &&Json| !is_daemon(pod) && holder.starts_with(&name(pod));
        pods.iter().find(holds).map(|_| time(&lease, "acquireTime")).transpose()
    }

    pub(crate) fn defaults(&self) -> Result<()> {
        let examples = work_tree().join("yamls/examples/00-defaults.yaml");
        self.lab.kubectl(["apply", "-f", &examples.to_string_lossy()])?;
        self.api.apply_yaml(&format!(
            "{{apiVersion: kubevmm.io/v1beta1, kind: ClusterVirtualMachineImage, metadata: {{name: {GUEST_IMAGE}}}, \
             spec: {{source: {{http: {{url: {}}}}}}}}}",
            json!(self.lab.file_url("tiny.qcow2"))
        ))
    }
}

fn yamls() -> String {
    work_tree().join("yamls").to_string_lossy().into_owned()
}

fn time(lease: &Json, field: &str) -> Result<Timestamp> {
    let text = lease["spec"][field].as_str().unwrap_or_default();
    text.parse().with_context(|| format!("{field} {text:?} of a Lease"))
}
