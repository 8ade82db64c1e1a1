//! VirtualMachineClass: it stays while a VM names it.

use std::time::Duration;

use kube::Api;
use kube::runtime::reflector::ObjectRef;
use kubevmm_api::VirtualMachineClass;

use crate::context::Context;
use crate::error::Error;
use crate::lifecycle::{Lifecycle, stage};
use crate::object::{describe, is_deleting, uid};
use crate::write;

/// One round for the class `name`.
pub async fn reconcile(context: &Context, name: &str) -> Result<Option<Duration>, Error> {
    let Some(class) = context.world.classes.get(&ObjectRef::new(name)) else { return Ok(None) };
    let api: Api<VirtualMachineClass> = Api::all(context.client.clone());
    let mut users = vec![];
    if is_deleting(class.as_ref()) {
        let vms = context.world.vms.state_filter(|vm| vm.spec.class_name.as_deref() == Some(name));
        users.extend(vms.iter().map(|vm| describe(vm.as_ref())));
        users.sort();
    }
    match stage(class.as_ref(), &users, &[]) {
        Lifecycle::Adopt => write::add_finalizer(&api, class.as_ref()).await?,
        Lifecycle::LetGo => {
            write::remove_finalizer(&api, class.as_ref()).await?;
            context.notices.forget(uid(class.as_ref()));
        }
        // A class has no status: an Event tells why it stays, once for each set of users.
        Lifecycle::Held(why) => {
            if context.notices.is_news(uid(class.as_ref()), &why.message) {
                context.events.warning(class.as_ref(), "Delete", why.reason, why.message);
            }
        }
        Lifecycle::Alive | Lifecycle::Ignore => {}
    }
    Ok(None)
}
