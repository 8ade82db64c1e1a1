//! A host and an API server in memory, for tests: enough of libvirt's and Kubernetes' behaviour to tell stories, and a
//! record of what was done.

use std::collections::HashMap;
use std::sync::{Arc, Mutex};

use futures::FutureExt;
use futures::future::{BoxFuture, pending, ready};
use kubevmm_analyser::lower::{DiskLocation, Format, HostFacts, NicSource};
use kubevmm_analyser::mark::Mark;
use kubevmm_analyser::read::read_domain;
use kubevmm_analyser::spec::host_facts;
use kubevmm_api::common::{Accelerator, NetworkKind};
use kubevmm_api::vm::DomainState;
use kubevmm_api::{VirtualMachine, VirtualMachineClassSpec, VirtualMachineStatus};
use uuid::Uuid;

use super::cluster::Cluster;
use super::decide::{Existing, Found, Seen};
use super::domains::{Details, Domains, Identity, Observed, Reading};
use super::prepare::Makers;
use super::task::{Hands, Released};
use super::user_data::Secrets;
use crate::Error;
use crate::host::{DiskOnHost, Networks, NotYet, SeedInput, Seeds, Storage};
use crate::libvirt::{AddressSource, ErrorCode, GuestInterface, GuestRequest, Result};

/// The host and the API server.
#[derive(Default)]
pub(super) struct World {
    pub vm: Option<VirtualMachine>,
    pub domain: Option<Found>,
    /// A domain of somebody else.
    pub observed: Option<Observed>,
    pub session: String,
    pub api_is_down: bool,
    /// The host's capabilities have not been read yet.
    pub machine_is_unknown: bool,
    /// Refuses to start the domain this many times.
    pub failing_starts: u32,
    /// What was done, in order.
    pub done: Vec<&'static str>,
    /// Calls from this number on never return: the process was killed there, before or (`true`) after the effect of
    /// the first of them.
    pub killed_at: Option<(usize, bool)>,
    calls: usize,
    pub starts: usize,
}

impl World {
    /// Whether the call with this number has been made.
    pub(super) fn reached(&self, call: usize) -> bool {
        self.calls >= call
    }
}

/// The shared [`World`].
#[derive(Clone, Default)]
pub(super) struct Fake(pub Arc<Mutex<World>>);

impl Fake {
    pub(super) fn hands(&self) -> Hands {
        let shared = Arc::new(self.clone());
        Hands {
            node: "n1".into(),
            cluster_id: "c".into(),
            domains: shared.clone(),
            cluster: shared.clone(),
            makers: Makers {
                storage: shared.clone(),
                networks: shared.clone(),
                seeds: shared,
                secrets: Secrets::PodsDir("/".into()),
            },
            released: Released::default(),
        }
    }

    /// Does something with the world.
    pub(super) fn with<T>(&self, f: impl FnOnce(&mut World) -> T) -> T {
        f(&mut self.0.lock().unwrap())
    }

    pub(super) fn status(&self) -> VirtualMachineStatus {
        self.with(|world| world.vm.as_ref().unwrap().status.clone().unwrap_or_default())
    }

    pub(super) fn state(&self) -> Option<DomainState> {
        self.with(|world| world.domain.as_ref().map(|domain| domain.state))
    }

    pub(super) fn done(&self) -> Vec<&'static str> {
        self.with(|world| std::mem::take(&mut world.done))
    }

    /// A call with an effect: recorded, and never returning once the process was killed.
    fn act<'a, T: Send + 'a>(
        &'a self,
        what: &'static str,
        f: impl FnOnce(&mut World) -> T + Send + 'a,
    ) -> BoxFuture<'a, T> {
        let mut world = self.0.lock().unwrap();
        world.calls += 1;
        let calls = world.calls;
        let (killed, after) = world.killed_at.unwrap_or((usize::MAX, false));
        if calls > killed || (calls == killed && !after) {
            return pending().boxed();
        }
        world.done.push(what);
        let answer = f(&mut world);
        if calls == killed { pending().boxed() } else { ready(answer).boxed() }
    }

    fn ask<'a, T: Send + 'a>(&'a self, f: impl FnOnce(&mut World) -> T) -> BoxFuture<'a, T> {
        let mut world = self.0.lock().unwrap();
        if world.killed_at.is_some_and(|(killed, _)| world.calls >= killed) {
            return pending().boxed();
        }
        ready(f(&mut world)).boxed()
    }
}

pub(super) fn libvirt_error(code: ErrorCode) -> crate::libvirt::Error {
    crate::libvirt::Error { code, domain: 0, message: "refused".into(), operation: "call", object: "domain".into() }
}

fn set(world: &mut World, state: DomainState) -> Result<()> {
    world.domain.as_mut().map(|domain| domain.state = state).ok_or_else(|| libvirt_error(ErrorCode::NoDomain))
}

impl Domains for Fake {
    fn look<'a>(&'a self, _: &'a Identity) -> BoxFuture<'a, Result<Seen>> {
        self.ask(|world| {
            let existing = world.observed.clone().map(|observed| Existing {
                state: observed.state,
                name: observed.info.name,
                autostart: observed.autostart,
                defined: observed.defined,
                mark: None,
            });
            let other = || existing.map_or(Seen::Absent, Seen::Existing);
            Ok(world.domain.clone().map_or_else(other, Seen::Ours))
        })
    }

    fn define<'a>(&'a self, _: &'a Identity, xml: &'a str) -> BoxFuture<'a, Result<()>> {
        self.act("define", move |world| {
            let mark = read_domain(xml).unwrap().mark.unwrap().unwrap();
            let state = world.domain.as_ref().map_or(DomainState::Shutoff, |domain| domain.state);
            world.domain = Some(Found::of(mark.epoch, mark.generation, state));
            Ok(())
        })
    }

    fn create<'a>(&'a self, _: &'a Identity) -> BoxFuture<'a, Result<()>> {
        self.act("create", |world| {
            if world.failing_starts > 0 {
                world.failing_starts -= 1;
                return Err(libvirt_error(ErrorCode::Internal));
            }
            world.starts += 1;
            set(world, DomainState::Running)
        })
    }

    fn shutdown<'a>(&'a self, _: &'a Identity, how: GuestRequest) -> BoxFuture<'a, Result<()>> {
        self.act(if how == GuestRequest::Agent { "shutdown by agent" } else { "shutdown by ACPI" }, |_| Ok(()))
    }

    fn destroy<'a>(&'a self, _: &'a Identity) -> BoxFuture<'a, Result<()>> {
        self.act("destroy", |world| set(world, DomainState::Shutoff))
    }

    fn undefine<'a>(&'a self, _: &'a Identity) -> BoxFuture<'a, Result<()>> {
        self.act("undefine", |world| {
            world.domain = None;
            Ok(())
        })
    }

    fn mark<'a>(&'a self, _: &'a Identity, mark: &'a Mark, takes_autostart: bool) -> BoxFuture<'a, Result<()>> {
        self.act(if takes_autostart { "mark without autostart" } else { "mark" }, |world| {
            let (epoch, generation) = (mark.epoch, mark.generation);
            let known = world.domain.as_ref().map(|domain| domain.state);
            let state = world.observed.take().map(|observed| observed.state).or(known).unwrap_or(DomainState::Shutoff);
            world.domain = Some(Found { name: "old".into(), ..Found::of(epoch, generation, state) });
            Ok(())
        })
    }

    fn give_back<'a>(&'a self, _: &'a Identity, autostart: bool) -> BoxFuture<'a, Result<()>> {
        self.act(if autostart { "give back with autostart" } else { "give back" }, |world| {
            world.domain = None;
            Ok(())
        })
    }

    fn details<'a>(&'a self, _: &'a Identity) -> BoxFuture<'a, Result<Details>> {
        self.ask(|_| Ok(Details::default()))
    }
}

impl Reading for Fake {
    fn observe(&self, _: Uuid) -> BoxFuture<'_, Result<Option<Observed>>> {
        self.ask(|world| Ok(world.observed.clone()))
    }

    fn addresses<'a>(&'a self, _: &'a Identity, _: AddressSource) -> BoxFuture<'a, Result<Vec<GuestInterface>>> {
        self.ask(|_| Ok(Vec::new()))
    }
}

fn api_down() -> Error {
    Error::ApiTimeout(std::time::Duration::from_secs(5))
}

impl Cluster for Fake {
    fn vm<'a>(&'a self, _: &'a str, _: &'a str) -> BoxFuture<'a, std::result::Result<Option<VirtualMachine>, Error>> {
        self.act("get", |world| if world.api_is_down { Err(api_down()) } else { Ok(world.vm.clone()) })
    }

    fn write_status<'a>(
        &'a self,
        _: &'a VirtualMachine,
        status: &'a VirtualMachineStatus,
    ) -> BoxFuture<'a, std::result::Result<VirtualMachine, Error>> {
        self.act("status", |world| {
            if world.api_is_down {
                return Err(api_down());
            }
            let vm = world.vm.as_mut().unwrap();
            let there = vm.status.take().unwrap_or_default();
            vm.status =
                Some(VirtualMachineStatus { node_name: there.node_name, placement: there.placement, ..status.clone() });
            Ok(vm.clone())
        })
    }

    fn renew(&self) -> BoxFuture<'_, std::result::Result<String, Error>> {
        self.act("renew", |world| if world.api_is_down { Err(api_down()) } else { Ok(world.session.clone()) })
    }

    fn session(&self) -> Option<String> {
        self.with(|world| Some(world.session.clone()))
    }

    fn class(&self, _: &str) -> Option<VirtualMachineClassSpec> {
        None
    }

    fn default_network(&self) -> Option<String> {
        None
    }

    fn machine(&self) -> Option<HostFacts> {
        self.with(|world| (!world.machine_is_unknown).then(|| host_facts(Accelerator::TCG, "x86_64")))
    }

    fn event(&self, _: &VirtualMachine, _: bool, _: &str, _: &str, _: String) {}
}

impl Storage for Fake {
    fn ensure_disk<'a>(
        &'a self,
        _: &'a str,
        _: &'a str,
        _: &'a str,
    ) -> BoxFuture<'a, std::result::Result<DiskOnHost, NotYet>> {
        self.ask(|_| {
            Ok(DiskOnHost { location: DiskLocation::File("/p/v".into()), format: Format::Qcow2, read_only: false })
        })
    }

    fn find_disk<'a>(&'a self, _: &'a str, _: &'a str) -> BoxFuture<'a, std::result::Result<DiskOnHost, NotYet>> {
        self.ensure_disk("", "", "")
    }
}

impl Networks for Fake {
    fn ensure<'a>(
        &'a self,
        _: NetworkKind,
        _: &'a str,
        name: &'a str,
    ) -> BoxFuture<'a, std::result::Result<NicSource, NotYet>> {
        self.ask(|_| Ok(NicSource::Network(name.to_owned())))
    }
}

impl Seeds for Fake {
    fn put<'a>(&'a self, _: &'a SeedInput) -> BoxFuture<'a, std::result::Result<String, NotYet>> {
        self.act("put seed", |_| Ok("/s".into()))
    }

    fn remove<'a>(&'a self, _: &'a str) -> BoxFuture<'a, std::result::Result<(), NotYet>> {
        self.act("remove seed", |_| Ok(()))
    }
}

/// The VM of the stories, placed and confirmed on this node at `epoch`.
pub(super) fn vm(spec: &str, epoch: i64) -> VirtualMachine {
    let yaml = format!(
        "{{metadata: {{name: web, namespace: shop, uid: b3a1c7d2-0000-4000-8000-000000000001, generation: 1}}, \
         spec: {spec}, status: {{nodeName: n1, placement: {{epoch: {epoch}, podName: p, confirmed: s}}}}}}"
    );
    serde_yaml_ng::from_str(&yaml).unwrap()
}

/// The conditions as `type=status/reason`.
pub(super) fn conditions(status: &VirtualMachineStatus) -> HashMap<String, String> {
    let text = |c: &k8s_openapi::apimachinery::pkg::apis::meta::v1::Condition| {
        (c.type_.clone(), format!("{}/{}", c.status, c.reason))
    };
    status.conditions.iter().map(text).collect()
}
